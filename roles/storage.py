"""storage: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("storage")
def storage() -> None:
    """Being written."""
