"""External media, without a machine: which is due, which is missed, and what is seen when it is read back."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.paths import ROOT
from practice import media, medium, notes, telling
from practice.server import Trouble

# Wednesday, noon.
NOW = datetime.datetime(2026, 11, 25, 12).timestamp()
HOUR, DAY = 3600, 86400


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A practice that works on Monday and Tuesday, and has asked for media a month ago."""
    for name, file in (("CONFIG", "asked"), ("REGISTRY", "media.json"), ("LOCK", "lock"), ("BY_UUID", "by-uuid")):
        monkeypatch.setattr(media, name, tmp_path / file)
    media.CONFIG.write_text(json.dumps({"days": ["monday", "tuesday"], "never": []}))
    os.utime(media.CONFIG, (NOW - 30 * DAY, NOW - 30 * DAY))
    return tmp_path


def written(day: str, *days_ago: float) -> None:
    """The medium of `day` was written as many days before now."""
    media.note(f"uuid-{day}", weekday=day, serial=day, copies=sorted(NOW - ago * DAY for ago in days_ago))


def missed(now: float = NOW) -> set[str]:
    """The keys of what is wrong."""
    return set(media.look(now)[1])


def test_a_day_without_its_medium_is_missed_when_it_is_over() -> None:
    """Not before: somebody may still plug it in. And not for a day on which nobody had asked for one."""
    assert missed() == {"media:monday", "media:tuesday"}, "none was ever made"
    written("monday", 2)
    written("tuesday", 8, 1)
    assert missed() == set()
    written("tuesday", 8)
    assert missed() == {"media:tuesday"} and missed(NOW - DAY) == set()
    written("tuesday", 8, 0.1)
    assert missed() == set(), "late, but there"
    written("tuesday", 8)
    os.utime(media.CONFIG, (NOW - DAY, NOW - DAY))
    assert missed() == set(), "asked for in the middle of that day"


def test_another_days_medium_stands_in_but_not_for_ever() -> None:
    """What was written on the day is a copy, whatever its label; a medium that nobody has seen for weeks is missed all the same."""
    written("monday", 2, 1)
    written("tuesday", 8)
    assert missed() == set()
    written("tuesday", 22)
    assert missed() == {"media:tuesday"}


def test_a_copy_that_failed_is_wrong_until_one_succeeds() -> None:
    """On any medium. While one is being written, nothing has failed yet."""
    written("monday", 2)
    written("tuesday", 1)
    media.note("uuid-monday", error={"at": NOW - HOUR, "why": "it was pulled out"})
    assert "it was pulled out" in media.look(NOW)[1]["media-failed"]
    with media.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert missed() == set() and "leave it plugged in" in media.describe(media.look(NOW)[0])
    assert missed() == {"media-failed"}
    written("tuesday", 1, 0)
    assert missed() == set()


def test_what_was_written_by_a_clock_that_was_ahead_counts_as_nothing() -> None:
    """Years ahead it would be newer than any day that is missed, and than any failure; a little ahead it is over before that."""
    written("monday", 9, -4000)
    written("tuesday", 8, 1)
    media.note("uuid-tuesday", error={"at": NOW - HOUR, "why": "it was pulled out"})
    assert missed() == {"media:monday", "media-failed"}
    assert f"last written on {datetime.date.fromtimestamp(NOW - 9 * DAY)}" in media.look(NOW)[1]["media:monday"]
    written("monday", 9, -0.02)
    assert missed() == set(), "control: half an hour"


@pytest.mark.parametrize(
    ("why", "remedy"),
    [("restic backup: write: no space left on device", "sudo practice media enrol monday"), ("it was pulled out", "Plug it in again")],
)
def test_a_medium_that_is_full_is_not_to_be_plugged_in_again(why: str, remedy: str) -> None:
    """It would be as full again; anything else may be over."""
    written("monday", 2)
    media.note("uuid-monday", error={"at": NOW - HOUR, "why": why})
    said = media.look(NOW)[1]["media-failed"]
    assert remedy in said and ("Plug it in again" in said) != ("take a larger one" in said), said


def test_it_says_what_can_be_taken_out(server: Path) -> None:
    """What is plugged in and finished; what is not finished stays."""
    written("monday", 0)
    assert "take out" not in media.describe(media.look(NOW)[0])
    (server / "by-uuid").mkdir()
    (server / "by-uuid/uuid-monday").touch()
    assert "you can take out the medium of monday" in media.describe(media.look(NOW)[0])
    media.note("uuid-monday", error={"at": NOW, "why": "x"})
    assert "take out" not in media.describe(media.look(NOW)[0])


def test_the_message_says_what_to_do() -> None:
    """It is no alarm."""
    message = telling.message(("written", "monday", NOW))
    assert "] done: The medium of monday" in message["subject"] and "lock it away" in message["text"]


def test_what_does_not_come_back_as_it_was_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit in what was written; and what restic had not finished is gone before it is counted."""
    monkeypatch.setattr(medium, "MOUNT", tmp_path)
    monkeypatch.setattr(medium, "REPOSITORY", tmp_path / "restic")
    pack = tmp_path / "restic/data/ab" / hashlib.sha256(b"whole").hexdigest()
    pack.parent.mkdir(parents=True)
    pack.write_bytes(b"whole")
    half = pack.with_name(f"{pack.name}-tmp-1")
    half.touch()
    assert medium.files() == [pack] and not half.exists()
    medium.read_back({pack})
    pack.write_bytes(b"whOle")
    with pytest.raises(Trouble, match="do not use this medium any more"):
        medium.read_back({pack})


@pytest.fixture
def sigterm() -> Iterator[None]:
    """What the service does with signals stays in its test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("moment", ["only_one", "note", "write"])
def test_pulled_out_at_any_moment_no_service_has_failed(moment: str, sigterm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits for another medium, and while it notes something; before it can tell, the unit does."""
    written("monday", 2)

    def pulled_out(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(medium, "run", lambda *argv: "uuid-monday\n")
    monkeypatch.setattr(media if moment == "note" else medium, moment, pulled_out)
    assert media.serve("sdb") == media.NOTED
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert ("error" in notes.read(media.REGISTRY)["media"]["uuid-monday"]) == (moment == "write")
    unit = (ROOT / "files/media/practice-media@.service").read_text()
    assert f"\nSuccessExitStatus={media.NOTED} SIGTERM\n" in unit
