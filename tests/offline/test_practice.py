"""The practice command without a server: what is judged wrong, what is shown, what stands and what goes."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import practice
from practice import alarm, drilled, health, offsite, status, telling
from practice.__main__ import main
from practice.server import Trouble
from roles.recovery import OPENED_BY

NOW, DAY = 1_800_000_000.0, 86400
CLUSTER: dict[str, Any] = {
    "up": True, "version": "17.5 (Debian)", "archive_command": health.ARCHIVE_COMMAND, "archived": "00000001000000000000000A",
    "archived_at": NOW - 30, "failed": None, "failed_at": None, "waiting_since": None,
    "wal_bytes": 64 << 20, "bytes": 30 << 20, "broken_pages": 0,
}  # fmt: skip

DRILL: dict[str, Any] = {
    "at": NOW - 3600, "ok": True, "label": "x", "restore_seconds": 2.0, "check_seconds": 1.0, "seconds": 3.5, "bytes": 30 << 20,
    "tables": 2, "rows": 1001, "rows_live": 1000,
}  # fmt: skip


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The alarm files in a directory of the test's own, and a journal that only remembers."""
    (tmp_path / "volume/secrets").mkdir(parents=True)
    monkeypatch.setattr(alarm, "VOLATILE", tmp_path / "run")
    monkeypatch.setattr(alarm, "LASTING", tmp_path / "volume")
    monkeypatch.setattr(alarm, "SECRETS", tmp_path / "volume/secrets")
    monkeypatch.setattr(alarm, "BANNER", tmp_path / "motd.d/cabinet")
    monkeypatch.setattr(alarm, "SEEN", tmp_path / "run/status.json")
    monkeypatch.setattr(alarm.syslog, "syslog", lambda level, text: (tmp_path / "journal").open("a").write(f"{level} {text}\n"))
    return tmp_path


def seen(**troubles: str) -> dict[str, Any]:
    """What the watch sees on a server in order, but for `troubles`."""
    return {
        "at": NOW, "server": "practice.example.org", "practice": "Cabinet Haddad", "revision": "0123456789ab", "volume": "open",
        "disks": {"/": 30, "/data": 12, "/backup": 7}, "database": CLUSTER, "troubles": troubles, "people": {"amina": NOW},
        "backup": {"newest": NOW - 7200, "newest_type": "diff", "newest_label": "x", "oldest": NOW - 30 * 86400,
                   "count": 9, "keep_days": 35, "bytes": 1},
        "alarms": {"receivers": 2, "waiting": 0, "reasons": []}, "console": True, "drills": [DRILL],
        "offsite": {"newest": NOW - 600, "generation": "2026-11", "kinds": {}, "verified": NOW, "max_age_minutes": 60, "errors": {}},
        "recovery": {"number": 3, "made": NOW, "confirmed": NOW, "changed": [], "opened_by": OPENED_BY,
                     "opens": dict.fromkeys("ABCD", NOW - DAY)},
        "counts": {"backup": True, "offsite": True, "media": False},
        "media": {"days": ["monday"], "due": None, "writing": False, "unknown": None, "media": {}},
        "mirror": {"disks": {"one": "works", "two": "works"}, "filled": None, "compared": NOW},
    }  # fmt: skip


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Each module with `register` has a `main`, and --help works."""
    commands = [module.name for module in pkgutil.iter_modules(practice.__path__)]
    registered = [name for name in commands if hasattr(importlib.import_module(f"practice.{name}"), "register")]
    assert {"status", "alarm", "backup", "drill"} <= set(registered)
    for name in registered:
        with pytest.raises(SystemExit) as end:
            main([name.replace("_", "-"), "--help"])
        assert end.value.code == 0
        assert len(capsys.readouterr().out) > 80


def test_a_server_in_order_has_no_alarm_on_its_screen() -> None:
    """Good is a word and a symbol, also without colour; nothing says WRONG."""
    screen = "\n".join(status.screen(seen(), {}, NOW))
    assert "All is well" in screen and "WRONG" not in screen and "2 hours ago" in screen
    assert "\033[" not in screen and "\033[32m" in "\n".join(status.screen(seen(), {}, NOW, colour=True))
    assert "\n".join(status.screen(seen(), {}, NOW, utf8=False)).isascii()


def test_no_copy_outside_is_worth_a_note() -> None:
    """It is no alarm: the clinic file wants none. One that is asked for and not there yet says so."""
    screen = "\n".join(status.screen(seen() | {"offsite": {}}, {}, NOW))
    assert "there is NONE" in screen and "All is well" in screen
    assert "nothing has been sent yet" in "\n".join(status.screen(seen() | {"offsite": seen()["offsite"] | {"newest": None}}, {}, NOW))


def test_who_is_told_is_shown() -> None:
    """Nobody is worth a note, which is no alarm; what could not be delivered stands there with its reason."""
    nobody = {"receivers": 0, "waiting": 0, "reasons": []}
    screen = "\n".join(status.screen(seen() | {"alarms": nobody}, {}, NOW))
    assert "reach NOBODY outside this server" in screen and "All is well" in screen
    unsealed = "\n".join(status.screen(seen() | {"console": False}, {}, NOW))
    assert "sudo practice breakglass" in unsealed and "All is well" in unsealed
    waiting = {"receivers": 2, "waiting": 3, "reasons": ["no answer"]}
    assert "reach 2 outside this server; 3 wait to be delivered (no answer)" in "\n".join(
        status.screen(seen() | {"alarms": waiting}, {}, NOW)
    )


@pytest.mark.parametrize(
    ("key", "row"),
    [("locked", "volume"), ("database", "database"), ("backup", "backup"), ("unit:practice-backup@full.service", "backup"),
     ("wal-failing", "changes"), ("wal-lost", "changes"), ("disk:/data", "disks"), ("timers", "backup"),
     ("unit:nginx.service", "services"), ("unsent", "alarms"), ("breakglass", "console"), ("offsite", "off-site"),
     ("recovery-kit", "recovery"), ("drill", "drill"), ("unit:practice-drill.service", "drill"),
     ("offsite-lost", "off-site"), ("media:monday", "media"), ("media-failed", "media"), ("unit:practice-media@sdb.service", "media"),
     ("unit:practice-offsite@send.service", "off-site"), ("drill-offsite", "off-site"), ("offsite-removable", "off-site"),
     ("offsite-foreign", "off-site"), ("offsite-shrunk", "off-site"),
     ("unit:practice-offsite-drill.service", "off-site"), ("mirror", "mirror"), ("mirror-differs", "mirror"),
     ("unit:practice-mirror.service", "mirror")],
)  # fmt: skip
def test_an_alarm_marks_its_row(key: str, row: str) -> None:
    """Exactly the row that the alarm is about turns bad, and its sentence stands below."""
    alarms = {key: {"text": "Something is wrong.", "since": NOW - 60, "by": "watch"}}
    screen = status.screen(seen(), alarms, NOW)
    assert [line.split()[2] for line in screen if "WRONG" in line] == [row]
    assert any("Something is wrong." in line for line in screen)


def test_a_locked_server_still_has_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing behind the volume is asked while it is closed; the one alarm says what is missing."""
    monkeypatch.setattr(health, "units", lambda *names: {name: {"ActiveState": "inactive"} for name in names})
    monkeypatch.setattr(health, "failed", lambda: ["squid.service"])
    monkeypatch.setattr(health, "sql", lambda statement: pytest.fail("asked the database although the volume is closed"))
    looked = health.look(NOW)
    assert {"locked", "unit:squid.service"} <= set(looked["troubles"]) and "timers" not in looked["troubles"]
    alarms = {"locked": {"text": looked["troubles"]["locked"], "since": NOW, "by": "watch"}}
    assert any("recovery key" in line for line in status.screen(looked, alarms, NOW))


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({}, set()),
        ({"archive_command": "/bin/true"}, {"wal-off"}),
        ({"failed": "00000001000000000000000B", "failed_at": NOW - 10}, {"wal-failing"}),
        ({"failed": "000000010000000000000009", "failed_at": NOW - 90}, set()),
        ({"waiting_since": NOW - 700}, {"wal-failing"}),
        ({"waiting_since": NOW - 100}, set()),
        ({"wal_bytes": 5 << 30}, {"wal-full"}),
        ({"broken_pages": 1}, {"pages"}),
    ],
)
def test_what_the_database_says_is_judged(change: dict[str, Any], keys: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trouble has its own key, and a failure that was made up for is none."""
    monkeypatch.setattr(health, "sql", lambda statement: {key: value for key, value in (CLUSTER | change).items() if key != "up"})
    wrong = health.database(NOW)[1]
    assert set(wrong) == keys
    assert [text for key, text in wrong.items() if key != "pages" and not text.endswith(telling.words(key)[1])] == [], "and what to do?"


def test_a_database_that_is_silent_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason reaches the person."""

    def silent(statement: str) -> None:
        raise Trouble("connection refused")

    monkeypatch.setattr(health, "sql", silent)
    said = health.database(NOW)[1]["database"]
    assert "connection refused" in said and "sudo systemctl restart postgresql@17-main" in said


@pytest.mark.parametrize(
    ("hours", "error", "keys"), [(1, False, set()), (25, False, set()), (27, False, {"backup"}), (1, True, {"backup-pages"})]
)
def test_a_backup_that_is_missed_is_an_alarm(hours: int, error: bool, keys: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Older than the clinic allows, or with damaged pages."""
    taken = {
        "timestamp": {"stop": NOW - hours * 3600}, "type": "diff", "label": "20270115-010101F", "error": error,
        "archive": {"stop": "00000001000000000000000A"}, "info": {"repository": {"delta": 1}},
    }  # fmt: skip
    monkeypatch.setattr(health, "repository", lambda: {"backup": [taken]})
    monkeypatch.setattr(health.os.path, "ismount", lambda path: True)
    monkeypatch.setattr(health, "settings", lambda: {"max_age_hours": 26})
    monkeypatch.setattr(health, "missing_segments", lambda first, last: [])
    wrong = health.backups(CLUSTER, NOW)[1]
    assert set(wrong) == keys
    assert [text for key, text in wrong.items() if not text.endswith(telling.words(key)[1])] == [], "and what to do?"


@pytest.mark.parametrize(("mounted", "found"), [(False, {}), (True, None), (True, {})])
def test_where_there_is_no_backup_it_is_said_what_to_do(mounted: bool, found: dict | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not there, cannot be read, or is empty."""

    def repository() -> dict[str, Any]:
        if found is None:
            raise Trouble("wrong key")
        return found

    monkeypatch.setattr(health, "repository", repository)
    monkeypatch.setattr(health.os.path, "ismount", lambda path: mounted)
    assert health.backups(CLUSTER, NOW)[1]["backup"].endswith("sudo practice backup")


def test_a_disk_that_fills_is_said_with_what_to_do() -> None:
    """Each by itself."""
    said = health.disk_troubles({"/": 84, "/data": 85, "/backup": 99})
    assert set(said) == {"disk:/data", "disk:/backup"}
    assert [text for text in said.values() if "Make room before the database stops" not in text] == []


def test_a_hole_in_the_changes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across a directory's end too; nothing is missing when all are there, nor when the last name is no segment."""
    monkeypatch.setattr(health, "WAL", tmp_path)
    names = [health.segment_name("00000001", number) for number in range(254, 259)]
    assert names[1:3] == ["0000000100000000000000FF", "000000010000000100000000"]
    for name in names:
        (tmp_path / "17-1" / name[:16]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "17-1" / name[:16] / f"{name}-abc.zst").touch()
    assert health.missing_segments(names[0], names[-1]) == []
    next((tmp_path / "17-1" / names[2][:16]).glob(f"{names[2]}*")).unlink()
    assert health.missing_segments(names[0], names[-1]) == [names[2]]
    assert health.missing_segments(names[0], "00000002.history") == []


def test_alarms_stand_until_it_is_right_again(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised once in the journal, kept with its first time, cleared by a look that finds nothing; what others raised stays."""
    monkeypatch.setattr(alarm, "units", lambda *names: {name: {"ActiveState": "failed", "Result": "exit-code"} for name in names})
    with alarm.changing() as alarms:
        alarm.put(alarms, "unit:a.service", "a failed", by="hand")
        alarm.put(alarms, "virus", "found by somebody else", by="hand")
        alarm.judge(alarms, seen(backup="too old"))
        first = alarms["backup"]["since"]
    with alarm.changing() as alarms:
        alarm.judge(alarms, seen(backup="still too old"))
        assert alarms["backup"] == {"text": "still too old", "since": first, "by": "watch"}
    assert (at_home / "journal").read_text().count("ALARM backup") == 1
    assert "3 alarms" in (at_home / "motd.d/cabinet").read_text()
    monkeypatch.setattr(alarm, "units", lambda *names: {name: {"ActiveState": "inactive", "Result": "success"} for name in names})
    with alarm.changing() as alarms:
        alarm.judge(alarms, seen())
    assert set(alarm.standing()) == {"virus"}


@pytest.mark.parametrize(
    ("locked", "state", "stands"), [(True, "inactive", False), (True, "failed", True), (False, "inactive", True), (True, None, True)]
)
def test_what_waits_for_the_volume_has_not_failed(
    locked: bool, state: str | None, stands: bool, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alarm says that it is locked. What has failed by itself, or cannot be asked about, is one too, and so is whatever is no unit."""

    def units(*names: str) -> dict[str, dict[str, str]]:
        if state is None:
            raise Trouble("no answer")
        return {name: {"ActiveState": state} for name in names}

    monkeypatch.setattr(alarm, "units", units)
    monkeypatch.setattr(alarm, "is_root", lambda: True)
    monkeypatch.setattr(alarm, "LOCKED", at_home / "locked")
    if locked:
        alarm.LOCKED.touch()
    for key in ("unit:nginx.service", "volume-locked"):
        assert main(["alarm", "raise", key, "text"]) == 0
    assert set(alarm.standing()) == {"volume-locked"} | ({"unit:nginx.service"} if stands else set())


def test_it_is_over_when_the_volume_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What practice-locked.service raised stands while a timer's service tries in vain, and goes at the first look at an open volume."""
    monkeypatch.setattr(alarm, "units", lambda *names: {name: {} for name in names})
    alarms: dict[str, dict] = {}
    alarm.put(alarms, "volume-locked", "The data volume is locked.", by="hand")
    alarm.judge(alarms, {"troubles": {}, "volume": "closed"})
    assert set(alarms) == {"volume-locked"}
    alarm.judge(alarms, {"troubles": {}, "volume": "open"})
    assert alarms == {}


def test_a_look_that_came_to_its_end_clears_that_the_look_has_failed(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own service is still activating then; one that breaks off clears nothing, and one by hand nothing that still has failed."""
    monkeypatch.setattr(alarm, "units", lambda *names: {name: {"ActiveState": "activating", "Result": "success"} for name in names})
    with alarm.changing() as alarms:
        alarm.put(alarms, "unit:practice-watch.service", "failed", by="hand")
        alarm.put(alarms, "unit:a.service", "failed", by="hand")
    for troubles, living in (({"unit:practice-watch.service": "failed"}, lambda *_: None), ({}, lambda *_: 1 / 0)):
        monkeypatch.setattr(health, "look", lambda troubles=troubles: seen(**troubles))
        monkeypatch.setattr(alarm, "alive", living)
        with contextlib.suppress(ZeroDivisionError):
            alarm.check()
        with alarm.changing() as alarms:
            assert "unit:practice-watch.service" in alarms
            alarm.put(alarms, "unit:practice-watch.service", "failed", by="hand")
    monkeypatch.setattr(alarm, "alive", lambda *_: None)
    alarm.check()
    assert set(alarm.standing()) == {"unit:a.service"}


def test_alarms_survive_the_lock(at_home: Path) -> None:
    """Raised in memory while the volume is closed, kept on it once it is open, read from both meanwhile."""
    (at_home / "volume/secrets").rmdir()
    with alarm.changing() as alarms:
        alarm.put(alarms, "locked", "closed", by="watch")
    assert (at_home / "run/alarms.json").exists() and not (at_home / "volume/alarms.json").exists()
    (at_home / "volume/secrets").mkdir()
    (at_home / "volume/alarms.json").write_text(json.dumps({"virus": {"text": "t", "since": 1, "by": "hand"}}))
    with alarm.changing() as alarms:
        assert set(alarms) == {"locked", "virus"}
    assert set(json.loads((at_home / "volume/alarms.json").read_text())) == {"locked", "virus"}
    assert not (at_home / "run/alarms.json").exists()


def test_what_was_raised_while_locked_is_newer_than_the_volume(at_home: Path) -> None:
    """An alarm that was reworded meanwhile keeps its new words once the volume is open."""
    for text in ("on the volume", "while it was closed"):
        with alarm.changing() as alarms:
            alarm.put(alarms, "backup", text, by="hand")
        if (at_home / "volume/secrets").exists():
            (at_home / "volume").rename(at_home / "closed")
            (at_home / "volume").mkdir()
    (at_home / "volume").rmdir()
    (at_home / "closed").rename(at_home / "volume")
    with alarm.changing() as alarms:
        assert alarms["backup"]["text"] == "while it was closed"
    assert alarm.standing()["backup"]["text"] == "while it was closed" and not (at_home / "run/alarms.json").exists()


def test_a_torn_alarm_file_is_no_reason_to_be_silent(at_home: Path) -> None:
    """Half a file is as none: the next look writes it anew."""
    (at_home / "volume/alarms.json").write_text('{"backup": {"te')
    with alarm.changing() as alarms:
        alarm.judge(alarms, seen(backup="too old"))
    assert set(alarm.standing()) == {"backup"}


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 seconds"), (130, "2 minutes"), (7200, "2 hours"), (172800, "2 days"), (-3, "0 seconds")]
)
def test_ages_are_said_in_one_unit(seconds: int, words: str) -> None:
    """As people say it."""
    assert health.age(seconds) == words


def test_programs_read_what_the_drills_took(at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`practice status --json` has each drill with its moment and how long it took, oldest first, as the look that is kept has it."""
    monkeypatch.setattr(drilled, "HISTORY", at_home / "drills.json")
    monkeypatch.setattr(drilled, "settings", dict)
    monkeypatch.setattr(health, "units", lambda *names: {name: {"ActiveState": "active", "Result": "success"} for name in names})
    monkeypatch.setattr(alarm, "units", health.units)
    for name, value in (("failed", list), ("database", lambda now: (CLUSTER, {})), ("backups", lambda cluster, now: ({}, {}))):
        monkeypatch.setattr(health, name, value)
    monkeypatch.setattr(alarm, "alive", lambda *_: None)
    monkeypatch.setattr(status, "is_root", lambda: True)
    for at, took in ((NOW - 86400, 2.0), (NOW, 3.0)):
        drilled.note(DRILL | {"at": at, "restore_seconds": took})
    main(["status", "--json"])
    said = json.loads(capsys.readouterr().out)["drills"]
    assert [(one["at"], one["restore_seconds"], one["check_seconds"]) for one in said] == [(NOW - 86400, 2.0, 1.0), (NOW, 3.0, 1.0)]
    assert json.loads(alarm.SEEN.read_text())["drills"] == said


@pytest.mark.parametrize(("ahead", "wrong"), [(-60, set()), (3000, set()), (400 * 86400, {"offsite", "offsite-verify"})])
def test_what_was_sent_by_a_clock_that_was_ahead_counts_as_nothing(
    ahead: float, wrong: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kind is enough. Less than an hour ahead is no reason for an alarm: it is over before a copy is too old."""
    for name, value in (("HOME", tmp_path), ("CONFIG", tmp_path / "offsite.json")):
        monkeypatch.setattr(offsite, name, value)
    offsite.CONFIG.write_text('{"max_age_minutes": 60}')
    os.utime(offsite.CONFIG, (NOW - 30 * 86400, NOW - 30 * 86400))
    offsite.note(lambda state: state.update(generation="2026-11"))
    for kind in offsite.KINDS:
        offsite.remember(kind, {"at": NOW - 60}, "2026-11")
    offsite.remember("changes", {"at": NOW + ahead}, "2026-11")
    offsite.note(lambda state: state.update(verified=NOW + ahead))
    assert set(offsite.look(NOW)[1]) == wrong
