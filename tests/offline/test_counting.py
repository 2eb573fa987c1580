"""No copy counts before somebody has shown a kit that opens it: on the screen, for programs, and in each list; nothing is refused."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from practice import alarm, backup, counting, health, media, offsite, recovery_kit, status
from roles.recovery import OPENED_BY
from tests.offline.test_practice import seen as healthy
from tests.offline.test_recovery import HOUR, NOW, SECRETS, confirmed, made, server

__all__ = ["server"]  # the fixture
KINDS = ("backup", "offsite", "media")
WRITTEN = {"written": NOW, "weekday": "monday", "serial": "1", "device": "", "error": None, "note": None}


@pytest.fixture(autouse=True)
def asked_for(server: Path) -> None:
    """The role says what opens by which part."""
    config = json.loads(recovery_kit.CONFIG.read_text())
    recovery_kit.CONFIG.write_text(json.dumps(config | {"opened_by": OPENED_BY}))


def looked(at: float = NOW + HOUR, **other: Any) -> dict[str, Any]:
    """What a look sees of a server on which there is something of each kind, sent and written just now."""
    kinds = {"offsite": healthy()["offsite"] | {"newest": at - 60}, "media": healthy()["media"] | {"media": {"x": WRITTEN}}}
    seen = healthy() | kinds | {"at": at, "recovery": recovery_kit.look(at)[0]} | other
    return seen | {"counts": counting.counts(seen)}


def rows(seen: dict[str, Any]) -> dict[str, str]:
    """The screen's rows, by their name, each with its word."""
    words = (line.split(None, 3) for line in status.screen(seen, {}, seen["at"]) if line.startswith("  ") and len(line.split()) > 3)
    return {row[2]: f"{row[1]} {row[3]}" for row in words}


def another(server: Path, part: str, at: float) -> None:
    """A part of the kit is another key, since then."""
    (server / part).write_text(recovery_kit.unpacked(part, SECRETS[part][::-1]))
    os.utime(server / part, (at, at))


def test_nothing_counts_before_a_kit_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with none nor with one that nobody has confirmed; each row says so and what to do, none says that it is fine."""
    seen = looked()
    assert seen["counts"] == dict.fromkeys(KINDS, False)
    screen, shown = rows(seen), "nobody has shown a recovery kit that opens {}: sudo practice recovery-kit; "
    assert screen["backup"].startswith(f"note none counts yet: {shown.format('them')}9 backups, newest")
    assert screen["off-site"].startswith(f"note does not count yet: {shown.format('it')}sent up to")
    assert screen["media"].startswith(f"note none counts yet: {shown.format('them')}last written")
    text = made()
    assert looked()["counts"] == dict.fromkeys(KINDS, False), "a page that was printed only"
    assert "nobody has shown that kit 1 opens them: sudo practice recovery-kit --confirm" in rows(looked())["backup"]
    assert "\n".join(status.screen(looked(), {}, NOW)).endswith("No alarm, but not all that is kept counts yet.")
    confirmed(text, monkeypatch)
    assert looked()["counts"] == dict.fromkeys(KINDS, True)
    assert {rows(looked())[row].split()[0] for row in ("backup", "off-site", "media")} == {"fine"}
    assert "All is well" in status.screen(looked(), {}, NOW)[-1]


def test_what_is_wrong_besides_stays_wrong() -> None:
    """A row with an alarm is no mere note, and says both."""
    alarms = {"backup": {"text": "The newest backup is old.", "since": NOW, "by": "watch"}}
    (row,) = [line for line in status.screen(looked(), alarms, NOW) if "WRONG" in line]
    assert row.split()[2] == "backup" and "none counts yet" in row
    assert status.screen(looked(), alarms, NOW)[-1].endswith("The newest backup is old.")


@pytest.mark.parametrize(("part", "lost"), [("A", ()), ("B", KINDS), ("C", ("offsite",)), ("D", ("offsite",))])
def test_another_key_makes_what_it_opens_count_no_more(
    part: str, lost: tuple[str, ...], server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly that; the next kit has to be shown for all, since the old one is void."""
    confirmed(made(), monkeypatch)
    another(server, part, NOW)
    assert {kind for kind, counts in looked()["counts"].items() if not counts} == set(lost)
    if lost:
        assert "kit 1 is void, and nobody has shown another that opens it" in rows(looked())["off-site"]
    text = made()
    assert looked()["counts"] == dict.fromkeys(KINDS, False)
    confirmed(text, monkeypatch)
    assert looked()["counts"] == dict.fromkeys(KINDS, True)


def test_what_was_sent_with_the_old_key_does_not_count_by_the_new_kit(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new page does not open it, and the old one may be burnt by then. A key of a clock that was ahead is as one of always."""
    another(server, "C", NOW)
    confirmed(made(), monkeypatch)
    before = healthy()["offsite"] | {"newest": NOW - 60}
    assert looked(offsite=before)["counts"] == {"backup": True, "offsite": False, "media": True}
    assert "sent with that: sudo practice offsite send" in rows(looked(offsite=before))["off-site"]
    assert looked(offsite=before | {"newest": NOW + 60})["counts"]["offsite"]
    another(server, "C", NOW + 9999 * HOUR)
    assert looked(offsite=before)["counts"]["offsite"]


def test_where_there_is_nothing_nothing_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a kit and has no backup has nothing; what the clinic file does not want is not named."""
    confirmed(made(), monkeypatch)
    none = {"backup": {}, "offsite": healthy()["offsite"] | {"newest": None}, "media": healthy()["media"]}
    assert looked(**none)["counts"] == dict.fromkeys(KINDS, False)
    assert [row for row, says in rows(looked(**none)).items() if "count" in says] == []
    assert looked(offsite={}, media={})["counts"] == {"backup": True}


BROKEN = {
    "gone": None,
    "torn": b'{"number": 1, "confir',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "without marks": b'{"number": 1, "confirmed": 1800000000, "marks": null, "salt": ""}',
    "marks of others": b'{"number": 1, "confirmed": 1800000000, "marks": {"A": "0", "B": "0", "C": "0", "D": "0"}, "salt": ""}',
}


@pytest.mark.parametrize("notes", BROKEN.values(), ids=BROKEN)
def test_broken_notes_make_nothing_count(notes: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there, the watch goes on, nothing counts, and the alarm comes; control: as they were, everything does."""
    confirmed(made(), monkeypatch)
    assert looked()["counts"] == dict.fromkeys(KINDS, True)
    recovery_kit.KEPT.unlink() if notes is None else recovery_kit.KEPT.write_bytes(notes)
    assert looked()["counts"] == dict.fromkeys(KINDS, False)
    assert "recovery-kit" in recovery_kit.look(NOW + 49 * HOUR)[1]
    confirmed(made(), monkeypatch)
    assert looked()["counts"] == dict.fromkeys(KINDS, True)


def test_what_nobody_has_said_opens_nothing(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration of before, a key that is not there, and a deploy that has not come that far: nothing counts on trust."""
    confirmed(made(), monkeypatch)
    config = json.loads(recovery_kit.CONFIG.read_text())
    recovery_kit.CONFIG.write_text(json.dumps({key: value for key, value in config.items() if key != "opened_by"}))
    assert looked()["counts"] == dict.fromkeys(KINDS, False)
    recovery_kit.CONFIG.write_text(json.dumps(config))
    (server / "A").unlink()
    assert looked()["counts"] == dict.fromkeys(KINDS, False)
    recovery_kit.CONFIG.unlink()
    assert looked()["counts"] == dict.fromkeys(KINDS, False)


def test_each_list_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the backups, of the copy outside, of the media: as text, and for programs. Nothing is refused: the exit code is what it was."""
    label = {"label": "x", "type": "full", "timestamp": {"stop": NOW}, "info": {"size": 1, "repository": {"delta": 1}}}
    monkeypatch.setattr(backup, "repository", lambda: {"backup": [label]})
    monkeypatch.setattr(offsite, "CONFIG", recovery_kit.CONFIG)
    monkeypatch.setattr(media, "CONFIG", recovery_kit.CONFIG)
    monkeypatch.setattr(offsite, "look", lambda now: (healthy()["offsite"] | {"newest": now}, {}))
    monkeypatch.setattr(media, "look", lambda now: (healthy()["media"] | {"media": {"x": WRITTEN}}, {}))
    for module in (backup, offsite, media, counting):
        monkeypatch.setattr(module, "is_root", lambda: True)
    words: dict[Any, dict[str, Any]] = {
        backup: {"check": False, "full": False, "list": True}, offsite: {"action": "show"}, media: {"action": None},
    }  # fmt: skip

    def said(module: Any, as_json: bool) -> str:
        assert module.main(argparse.Namespace(json=as_json, **words[module])) == 0
        return capsys.readouterr().out

    def program(module: Any) -> bool:
        found = json.loads(said(module, True))
        return (found[0] if isinstance(found, list) else found)["counts"]

    assert [("yet: nobody has shown" in said(module, False), program(module)) for module in words] == [(True, False)] * 3
    confirmed(made(), monkeypatch)
    assert "what it opens counts now" in capsys.readouterr().out
    assert [("count" in said(module, False), program(module)) for module in words] == [(False, True)] * 3
    # Who may not read the keys is told what the watch saw.
    monkeypatch.setattr(counting, "is_root", lambda: False)
    monkeypatch.setattr(alarm, "SEEN", tmp_path / "seen.json")
    older = {"number": 1, "confirmed": NOW, "changed": []}
    for recovery in ({}, older):  # after a start, with a closed volume, or what an older watch saw
        assert not program(media) and "known a few minutes after a start: sudo practice status" in said(media, False)
        alarm.SEEN.write_text(json.dumps({"recovery": recovery}))
    assert not program(media) and "nobody" not in said(media, False)
    alarm.SEEN.write_text(json.dumps(looked()))
    assert program(media)


def test_what_an_older_watch_saw_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know what counts; in a few minutes it does."""
    monkeypatch.setattr(alarm, "SEEN", tmp_path / "seen.json")
    alarm.SEEN.write_text(json.dumps({key: value for key, value in looked().items() if key != "counts"}))
    assert status.last_look() == {}
    alarm.SEEN.write_text(json.dumps(looked()))
    assert status.last_look()["counts"] == dict.fromkeys(KINDS, False)


def test_each_look_says_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the server as it is now; behind a closed volume nobody knows."""
    kept = {name: SimpleNamespace(look=lambda now, name=name: (healthy()[name], {})) for name in health.WHAT_IS_KEPT}
    monkeypatch.setattr(health, "WHAT_IS_KEPT", kept | {"recovery": recovery_kit})
    monkeypatch.setattr(health, "database", lambda now: (healthy()["database"], {}))
    monkeypatch.setattr(health, "backups", lambda cluster, now: (healthy()["backup"], {}))
    monkeypatch.setattr(health, "failed", lambda: [])
    monkeypatch.setattr(health.journal, "look", lambda: {})
    for state, counts in (("active", {"backup": False, "offsite": False, "media": False}), ("inactive", {})):
        monkeypatch.setattr(health, "units", lambda *names, state=state: {name: {"ActiveState": state} for name in names})
        assert health.look(NOW + HOUR)["counts"] == counts


def test_what_does_not_count_is_no_alarm_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """So a deploy ends well on a server whose doctor has no page yet; after two days the alarm decides. Programs read it either way."""
    monkeypatch.setattr(status, "is_root", lambda: False)
    monkeypatch.setattr(status, "last_look", looked)
    for alarms in ({}, {"recovery-kit": {"text": "NOBODY.", "since": NOW, "by": "watch"}}):
        monkeypatch.setattr(alarm, "standing", lambda alarms=alarms: alarms)
        assert status.main(argparse.Namespace(json=True)) == len(alarms)
        assert json.loads(capsys.readouterr().out)["counts"] == dict.fromkeys(KINDS, False)
