"""pyinfra's settings, read by `pyinfra … deploy.py` from the directory it is called in."""

from pyinfra import config

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
