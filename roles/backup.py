"""backup: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("backup")
def backup() -> None:
    """Being written."""
