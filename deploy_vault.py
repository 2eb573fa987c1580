"""An off-site host's file becomes a place where copies can only be added: `pyinfra inventory/vaults.py deploy_vault.py`."""

from roles.vault import vault

vault()
