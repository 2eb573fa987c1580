"""A practice updates the tree and keeps its clinic file: files of earlier releases are still read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kit.clinic import load

EARLIER = sorted((Path(__file__).parent / "earlier").glob("*.yaml"))


def holds(today: object, then: object) -> bool:
    """Whether all that was written `then` is there today; keys that came later may stand beside it."""
    if isinstance(then, dict):
        return isinstance(today, dict) and all(key in today and holds(today[key], value) for key, value in then.items())
    if isinstance(then, list):
        return isinstance(today, list) and len(today) == len(then) and all(map(holds, today, then))
    return str(today).endswith(str(then).removeprefix("~"))


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_a_clinic_file_of_an_earlier_release_means_what_it_meant(path: Path) -> None:
    """No key was renamed, removed or read otherwise since. Whoever must do that refuses the old one with what to write instead."""
    assert holds(load(path).model_dump(mode="json"), yaml.safe_load(path.read_text())), "a key is read otherwise than it was written"


def test_there_are_such_files() -> None:
    """Control: the first release's is among them."""
    assert "first-light" in [path.stem for path in EARLIER]
