"""An off-site host's file becomes a place where copies can only be added: `pyinfra inventory/vaults.py deploy_vault.py`."""

from roles.firewall import firewall
from roles.ssh import ssh
from roles.vault import prepared, vault

prepared()
firewall()  # after the packages are here: from now on the way to them leads through the filtering proxy
ssh()
vault()
