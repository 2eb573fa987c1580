"""proxy: being written."""

from pyinfra.api import deploy

PACKAGES: list[str] = []


@deploy("proxy")
def proxy() -> None:
    """Being written."""
