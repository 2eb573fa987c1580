"""The practice command without a server: what is judged wrong, what is shown, what stands and what goes."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import practice
from practice import alarm, drill, health, status
from practice.__main__ import main
from practice.server import Trouble

NOW = 1_800_000_000.0
CLUSTER: dict[str, Any] = {
    "up": True, "version": "17.5 (Debian)", "archive_command": health.ARCHIVE_COMMAND, "archived": "00000001000000000000000A",
    "archived_at": NOW - 30, "failed": None, "failed_at": None, "waiting_since": None,
    "wal_bytes": 64 << 20, "bytes": 30 << 20, "broken_pages": 0,
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
        "alarms": {"receivers": 2, "waiting": 0, "reasons": []}, "console": True,
        "offsite": {"newest": NOW - 600, "generation": "2026-11", "kinds": {}, "verified": NOW, "max_age_minutes": 60, "errors": {}},
        "media": {"days": ["monday"], "due": None, "writing": False, "unknown": None, "media": {}},
    }  # fmt: skip


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Each module with `register` has a `main`, and --help works."""
    commands = [module.name for module in pkgutil.iter_modules(practice.__path__)]
    registered = [name for name in commands if hasattr(importlib.import_module(f"practice.{name}"), "register")]
    assert {"status", "alarm", "backup", "drill"} <= set(registered)
    for name in registered:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
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
     ("offsite-lost", "off-site"), ("media:monday", "media"), ("media-failed", "media"), ("unit:practice-media@sdb.service", "media"),
     ("unit:practice-offsite@send.service", "off-site")],
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
    assert set(health.database(NOW)[1]) == keys


def test_a_database_that_is_silent_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason reaches the person."""

    def silent(statement: str) -> None:
        raise Trouble("connection refused")

    monkeypatch.setattr(health, "sql", silent)
    assert "connection refused" in health.database(NOW)[1]["database"]


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
    assert set(health.backups(CLUSTER, NOW)[1]) == keys


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


def test_a_drill_refuses_a_moment_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither nonsense nor a moment before the first backup; the newest backup before the moment is taken."""
    monkeypatch.setattr(
        drill, "repository", lambda: {"backup": [{"label": name, "timestamp": {"stop": stop}} for name, stop in (("a", 100), ("b", 200))]}
    )
    with pytest.raises(Trouble, match="is not a moment"):
        drill.parsed("yesterday")
    with pytest.raises(Trouble, match="no backup is older"):
        drill.newest_before(100)
    assert (drill.newest_before(150), drill.newest_before(999)) == ("a", "b")
