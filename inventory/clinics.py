"""Every practice that this tree looks after: `pyinfra inventory/clinics.py deploy.py --limit NAME`."""

from kit.clinic import inventory

clinics = inventory()
