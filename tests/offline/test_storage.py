"""storage, without a machine: how keys are typed, and the table of directories."""

from __future__ import annotations

import pytest

from practice.unlock import spelled
from roles.storage import DIRECTORIES, escaped

KEY = "-".join(["cbdefghi", "jklnrtuv"] * 4)


@pytest.mark.parametrize("typed", [KEY, KEY.upper(), KEY.replace("-", ""), f"  {KEY.replace('-', ' ')} ", KEY.replace("-", "- ")])
def test_a_recovery_key_may_be_typed_in_any_way(typed: str) -> None:
    """Dashes, spaces and capitals of a key that is read from paper do not matter."""
    assert spelled(typed) == KEY


@pytest.mark.parametrize("passphrase", ["correct horse-battery", KEY[:-1], KEY + "c", KEY[:-1] + "a", "", " x "])
def test_what_is_no_recovery_key_is_taken_as_it_is(passphrase: str) -> None:
    """Any other secret may mean its spaces."""
    assert spelled(passphrase) == passphrase


def test_no_directory_lies_in_another() -> None:
    """A mount within a mount would be hidden, or mounted in the wrong order."""
    assert [(outer, inner) for outer in DIRECTORIES for inner in DIRECTORIES if inner.startswith(f"{outer}/")] == []


def test_mount_units_are_named_as_systemd_wants() -> None:
    """A unit whose name is not its path is refused."""
    assert escaped("/var/lib/postgresql") == "var-lib-postgresql"
    assert escaped("/srv/x-y") == r"srv-x\x2dy"
