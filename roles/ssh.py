"""ssh: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("ssh")
def ssh() -> None:
    """Being written."""
