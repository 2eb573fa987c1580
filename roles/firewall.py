"""firewall: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("firewall")
def firewall() -> None:
    """Being written."""
