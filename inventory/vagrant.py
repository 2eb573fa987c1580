"""The practice in the VM: `pyinfra inventory/vagrant.py deploy.py`."""

from kit.clinic import VM, inventory

vm = inventory(VM)
