"""What the claims of several files share."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from kit.neighbour import Neighbour
from tests.door import Door


@pytest.fixture(scope="session")
def door(host: Host, inside: Neighbour) -> Door:
    """SSH as the practice's LAN sees it."""
    return Door(host, inside)
