"""Every off-site host that this tree looks after: `pyinfra inventory/vaults.py deploy_vault.py`."""

from kit.vault import inventory

vaults = inventory()
