"""database: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("database")
def database() -> None:
    """Being written."""
