"""What can be gone back to, and whether going back was rehearsed, without a server."""

from __future__ import annotations

import argparse
import datetime
import errno
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from practice import beside, clusters, drilled, journal, restore, timeline, whole
from practice.server import Trouble, spare
from tests.offline.test_practice import DRILL, NOW


def backup(label: str, stop: float, history: int, lsn: str) -> dict[str, Any]:
    """What pgBackRest says of one."""
    return {
        "label": label, "timestamp": {"stop": stop}, "archive": {"stop": f"{history:08X}0000000000000005"}, "lsn": {"stop": lsn},
        "info": {"size": 1},
    }  # fmt: skip


def test_a_restore_refuses_a_moment_it_cannot_read() -> None:
    """Neither nonsense nor a moment before the first backup; the newest backup before the moment is taken."""
    found = {"backup": [backup("a", 100, 1, "0/100"), backup("b", 200, 1, "0/200")]}
    with pytest.raises(Trouble, match="is not a moment"):
        timeline.parsed("yesterday")
    with pytest.raises(Trouble, match="no backup is older"):
        timeline.newest(found, 100, 1, {})
    assert [timeline.newest(found, moment, 1, {})["label"] for moment in (150, 999)] == ["a", "b"]


def test_the_newest_is_a_moment_that_nobody_has_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no target that could lie behind the end; a moment has."""
    monkeypatch.setattr(timeline, "repository", lambda: {"backup": [backup("a", 100, 1, "0/100")]})
    assert timeline.origin("newest").options == ("--type=default", "--target-timeline=1")
    assert timeline.origin("2026-11-22 14:05:00").options[0] == "--type=time"


def test_a_restore_starts_in_the_history_that_was_the_practices() -> None:
    """What was backed up in a history after it was left leads nowhere: the newest of all is the wrong one."""
    said = "1\t0/150\tbefore 2026-11-22 14:05:00\n\n2\t0/300\tno recovery target specified\n"
    assert timeline.parents(said) == {1: 0x150, 2: 0x300}
    rows = [backup("a", 100, 1, "0/100"), backup("left", 200, 1, "0/200"), backup("b", 250, 2, "0/250"), backup("after", 300, 2, "0/310")]
    assert timeline.newest({"backup": rows}, 999, 3, timeline.parents(said))["label"] == "b"
    assert timeline.newest({"backup": rows}, 999, 2, {1: 0x150})["label"] == "after"
    assert timeline.newest({"backup": rows}, 240, 2, {1: 0x150})["label"] == "a"


def test_a_restore_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live cluster may have grown since the backup; what is missing is said, and nothing is written."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(beside, "sql", lambda statement: free)
    with pytest.raises(Trouble, match=r"needs \d+ MiB on the data volume, and \d+ MiB are free. Nothing was begun"):
        beside.Beside(tmp_path / "scratch").restore(timeline.Origin("a", 1, ()))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that runs, and one beside it that does not, whole and marked; what was restored is to be replaced by that."""

    def run(*words: str, **_: float) -> None:
        if words[0] == "mv":  # --exchange
            (tmp_path / "main").rename(tmp_path / "other")
            Path(words[-2]).rename(tmp_path / "main")
            (tmp_path / "other").rename(words[-2])
        elif words[:2] == ("systemctl", "start") and not (tmp_path / "main/runs").exists():
            raise Trouble("it does not run")

    for name in ("main", "main.restoring", "backups"):
        (tmp_path / name).mkdir()
    (tmp_path / "main/runs").touch()
    (tmp_path / "main.restoring" / whole.MARK).touch()
    for name, value in (("LIVE", tmp_path / "main"), ("GROWING", tmp_path / "main.restoring"), ("BACKUPS", tmp_path / "backups")):
        monkeypatch.setattr(whole, name, value)
    monkeypatch.setattr(whole, "run", run)
    monkeypatch.setattr(whole, "sql", lambda _: None)
    monkeypatch.setattr(whole, "repository", dict)
    monkeypatch.setattr(whole, "handed_over", lambda: None)
    monkeypatch.setattr(journal, "JOURNAL", tmp_path / "restore.json")
    return tmp_path / "main"


def test_what_goes_on_by_itself_answers_all_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In another session, which no terminal's end reaches; its word, its trouble and its end arrive; whoever waits is told now and then."""

    def patient() -> str:
        time.sleep(0.3)
        return str(os.getsid(0))

    monkeypatch.setattr(journal, "SILENT_SECONDS", 0.1)
    assert int(journal.apart(patient)) not in (os.getsid(0), os.getpid())
    assert journal.GOES_ON in capsys.readouterr().err
    with pytest.raises(Trouble, match="are free"):
        journal.apart(functools.partial(spare, Path("/"), 1 << 60))
    with pytest.raises(SystemExit, match="9"):
        journal.apart(lambda: os.kill(os.getpid(), 9))


@pytest.mark.parametrize("noted", [True, False])
def test_what_was_there_comes_back_where_there_is_no_room(noted: bool, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for its settings, nor for a note of it: it is the live one again, with nothing in it that keeps it from starting."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    work = {"id": "1", "to": "2026-11-22 14:05:00", "name": None, "step": "switch"}
    journal.write(work)
    (live / "recovery.signal").touch()
    monkeypatch.setattr(beside.Beside, "configure", full)
    if not noted:
        monkeypatch.setattr(journal.notes, "write", full)
    with pytest.raises(Trouble, match="so what was there before is there again"):
        whole.carried_out(work)
    assert [path.name for path in live.iterdir()] == ["runs"] and whole.kept() == ["main.before-1_failed"]
    assert journal.begun() is None and not whole.GROWING.exists()


def test_half_of_what_was_discarded_is_never_returned_to(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes while it is removed: nothing is kept any more, and whoever restores next removes the rest."""

    def cut(_: Path) -> None:
        raise KeyboardInterrupt

    left = live.with_name("main.before-1")
    (left / "base").mkdir(parents=True)
    with monkeypatch.context() as power:
        power.setattr(whole.shutil, "rmtree", cut)
        with pytest.raises(KeyboardInterrupt):
            whole.discarded(left.name)
    assert whole.kept() == [] and [path.name for path in live.parent.glob("*before*")] == ["discarded.main.before-1"]
    with pytest.raises(Trouble, match="no restore was interrupted"):
        restore.done(argparse.Namespace(resume=True, cancel=False, yes=True))
    assert list(live.parent.glob("*before*")) == []


@pytest.mark.parametrize(("kept", "kind"), [((1, "full"), "incr"), ((2, "incr"), "full"), (None, "full")])
def test_a_fallback_chain_that_lost_its_beginning_is_followed_by_another(
    kept: tuple[int, str] | None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes follow a copy that can be gone on with; otherwise a whole copy is made, and no error."""
    made: list[str] = []
    monkeypatch.setattr(clusters.BaseBackup, "_made", lambda _, number, kind, *how: made.append(kind) or f"{number:06}")
    if kept:
        (tmp_path / f"{kept[0]:06}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{kept[1]}").mkdir()
    clusters.BaseBackup(tmp_path).back_up([clusters.DATA])
    assert made == [kind]


def test_a_drill_that_does_not_take_place_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days count from the last that succeeded; before the first, from the deploy. The history is cut at its length."""
    settings = tmp_path / "practice.json"
    monkeypatch.setattr(drilled, "KEPT", 4)
    monkeypatch.setattr(drilled, "HISTORY", tmp_path / "drills.json")
    monkeypatch.setattr(drilled, "SETTINGS", settings)
    monkeypatch.setattr(drilled, "settings", lambda: json.loads(settings.read_text()))
    settings.write_text("{}")
    assert drilled.look(NOW) == ([], {})
    settings.write_text('{"drill_days": 3}')
    os.utime(settings, (NOW - 2 * 86400, NOW - 2 * 86400))
    assert drilled.look(NOW)[1] == {} and set(drilled.look(NOW + 2 * 86400)[1]) == {"drill"}
    drilled.note(DRILL)
    drilled.note(DRILL | {"at": NOW, "ok": False, "why": "no room"})
    assert drilled.look(NOW + 2 * 86400)[1] == {}
    assert drilled.look(NOW + 3 * 86400)[1]["drill"].endswith(": no room.")
    for _ in range(drilled.KEPT):
        drilled.note(DRILL)
    assert len(drilled.kept()) == drilled.KEPT and all(drill["ok"] for drill in drilled.kept())


def test_a_quarter_without_a_drill_of_the_copy_outside_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed stands until one succeeds; each night's history does not push it out; where nothing is sent, nothing is missed."""
    config = tmp_path / "offsite.json"
    for name, value in (("HISTORY", tmp_path / "drills.json"), ("CONFIG", config), ("KEPT", 4)):
        monkeypatch.setattr(drilled, name, value)
    monkeypatch.setattr(drilled, "settings", dict)
    assert drilled.look(NOW) == ([], {})
    config.touch()
    os.utime(config, (NOW - 86400, NOW - 86400))
    assert drilled.look(NOW + 98 * 86400)[1] == {}
    assert set(drilled.look(NOW + 100 * 86400)[1]) == {"drill-offsite"}
    outside = DRILL | {"from": "offsite", "at": NOW}
    drilled.note(outside)
    for _ in range(drilled.KEPT + 1):
        drilled.note(DRILL)
    assert len(drilled.kept()) == drilled.KEPT + 1 and drilled.outside(drilled.kept()).startswith("restored on trial 20")
    assert drilled.newest(drilled.kept()) == drilled.describe(DRILL)
    assert drilled.look(NOW + 99 * 86400)[1] == {} and "since" in drilled.look(NOW + 101 * 86400)[1]["drill-offsite"]
    drilled.note(outside | {"at": NOW + 1, "ok": False, "why": "no room"})
    drilled.note(DRILL | {"at": NOW + 2})
    assert drilled.look(NOW + 3)[1]["drill-offsite"].endswith(": no room.")
    drilled.note(outside | {"at": NOW + 3})
    assert drilled.look(NOW + 4)[1] == {}


def test_a_drill_of_a_clock_that_was_ahead_counts_as_none(tmp_path: Path) -> None:
    """Neither when it is the only one, nor when it hides how long ago the last one was."""
    asked = tmp_path / "practice.json"
    asked.touch()
    os.utime(asked, (NOW - 10 * 86400, NOW - 10 * 86400))
    ahead = DRILL | {"at": NOW + 400 * 86400}
    assert drilled.overdue([DRILL | {"at": NOW + 3000}], asked, 3, NOW) == ""
    assert drilled.overdue([ahead], asked, 3, NOW) == f"since {drilled.moment(NOW - 10 * 86400)}"
    assert drilled.overdue([DRILL | {"at": NOW - 5 * 86400}, ahead], asked, 3, NOW) == f"since {drilled.moment(NOW - 5 * 86400)}"
