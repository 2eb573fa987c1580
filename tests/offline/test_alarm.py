"""Alarms on their way out, without a server: when something is told, in which words, what waits, and in what order it goes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.paths import ROOT
from practice import alarm, outbox, send, telling
from practice.__main__ import main
from practice.server import Trouble

NOW = 1_800_000_000.0
DAY = telling.DAY
STANDS = {"backup": {"since": NOW, "text": "too old", "by": "watch"}}


def over_time(*moments: tuple[float, bool]) -> list[str]:
    """What is told of one alarm that stands, or does not, at these moments (in days)."""
    told: dict[str, Any] = {}
    said = [telling.due(STANDS if stands else {}, told, NOW + days * DAY) for days, stands in moments]
    return [each[0][0] if each else "" for each in said]


def test_an_alarm_is_told_once_and_when_it_is_over() -> None:
    """Not at each look; and once a day while it stands."""
    moments = [(0, False), (0, True), (0.01, True), (0.99, True), (1, True), (1.5, True), (1.6, False), (1.7, False)]
    assert over_time(*moments) == ["", "raised", "", "", "still", "", "over", ""]


def test_what_comes_and_goes_is_no_flood() -> None:
    """A second time within a day it is told again, and from then on it counts as standing until it has not been raised for a day."""
    flaps = [(hour / 24, hour % 2 == 0) for hour in range(12)]
    assert [word for word in over_time(*flaps) if word] == ["raised", "over", "raised"]
    assert over_time(*flaps, (1.01, False))[-1] == "over"
    assert [word for word in over_time(*flaps, *((1 + hour / 24, True) for hour in range(24))) if word][3:] == ["still"]


def test_what_a_clock_that_was_ahead_has_told_silences_nothing() -> None:
    """Told twice while it was ahead: it is told as standing, and as over, by the clock that is right."""
    flaps = [(7, True), (7.01, False), (7.02, True)]
    assert over_time(*flaps, (0, True), (0.5, True), (1, True))[3:] == ["still", "", "still"]
    assert over_time(*flaps, (0, False))[3:] == ["over"]


def test_what_was_told_is_forgotten_in_the_end() -> None:
    """The list does not grow with each alarm that ever was."""
    told: dict[str, Any] = {}
    telling.due(STANDS, told, NOW)
    telling.due({}, told, NOW + 60)
    assert set(told) == {"backup"}, "control: within a day it is remembered"
    telling.due({}, told, NOW + 2 * DAY)
    assert told == {}


@pytest.mark.parametrize(
    "key", ["virus:/srv/Nadia Bouzid.pdf", "Nadia", "unit:nadia@Bouzid.service", "disk:/srv/nadia", "unused:nadia", "backup:nadia"]
)
def test_no_word_of_an_alarm_leaves_the_server(key: str) -> None:
    """But for the parts of the system that no person has named."""
    told = telling.message(("raised", key, NOW))
    assert re.findall("bouzid|nadia", json.dumps(told).replace("(nadia@)", ""), re.IGNORECASE) == []


def test_the_part_of_the_system_is_named() -> None:
    """What helps whoever gets up at night."""
    assert telling.words("disk:/data")[0] == "A disk is nearly full. (/data)"
    assert telling.words("unit:practice-backup@diff.service")[0] == "A service has failed. (practice-backup@)"
    assert "no longer looks at itself" in telling.words("unit:practice-silence.service")[0]
    assert "no longer looks at the copies" in telling.words("unit:cabinet-silence.service")[0]


def test_every_alarm_of_the_kit_has_words_of_its_own() -> None:
    """Whatever raises one: the watch, or a service by name."""
    watched = ("health.py", "outbox.py", "offsite.py", "media.py", "recovery_kit.py", "drilled.py", "journal.py")
    code = "".join((ROOT / "practice" / name).read_text() for name in watched)
    scripts = "".join(path.read_text() for path in ROOT.glob("files/*/*") if path.is_file())
    keys = set(re.findall(r'wrong\["([a-z-]+)', code)) | set(re.findall(r'\{f?"([a-z-]+)[":]', code))
    keys |= set(re.findall(r'alarm raise "?([a-z-]+)', scripts)) | set(re.findall(r'troubles\["([a-z-]+)', code)) | {"timers", "unused"}
    some = {"backup", "wal-off", "disk", "unsent", "unit", "volume-locked", "breakglass", "locked", "offsite-lost"}
    assert some <= keys, "control: keys were found"
    others = {"up", "at", "newest", "receivers", "path", "send", "troubles", "number", "confirmed", "days", "copies", "written", "drills"}
    unknown = keys - set(telling.SENTENCES) - others
    assert sorted(unknown) == []


def test_every_service_of_the_kit_raises_an_alarm_when_it_fails() -> None:
    """But for the one that raises it, what runs before anything could, and what is there only to say that the volume is locked."""
    files = [path for path in [*ROOT.glob("files/*/*.service"), *ROOT.glob("templates/*/*.service.j2")] if "ExecStart=" in path.read_text()]
    silent = [path.name for path in files if "\nOnFailure=practice-alarm@%n.service\n" not in path.read_text()]
    before, after = ["cabinet-deadman.service", "cabinet-firewall-base.service"], ["practice-alarm@.service", "practice-locked.service"]
    assert sorted(silent) == before + after


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outbox of the test's own, and two people and a program to tell."""
    monkeypatch.setattr(outbox, "PLACES", (tmp_path / "volume/outbox", tmp_path / "run/outbox"))
    monkeypatch.setattr(outbox, "CONFIG", tmp_path / "alarm.json")
    monkeypatch.setattr(outbox.grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=os.getegid()))
    for name in ("volume/secrets", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "alarm.json").write_text(
        json.dumps({"mail": ["a@x.example", "b@x.example"], "sender": "s@x.example", "webhook": {"url": "https://x.example/"}})
    )
    return tmp_path


def refuse(*whom: str) -> tuple[list[tuple[str, str]], Callable[[str, outbox.Message], None]]:
    """A way of delivery that some do not answer; and what was tried, in order."""
    tried: list[tuple[str, str]] = []

    def deliver(receiver: str, message: outbox.Message) -> None:
        tried.append((receiver, message["subject"]))
        if receiver in whom or message["subject"] in whom:
            raise Trouble("no answer")

    return tried, deliver


def test_what_is_not_taken_waits_for_that_one_alone(places: Path) -> None:
    """Who has got it does not get it again; it is tried after five minutes, then ten, up to an hour; then it is gone."""
    outbox.put(places / "volume", {"subject": "1"}, outbox.receivers(), NOW)
    tried, deliver = refuse("mail:b@x.example")
    outbox.hand_on(outbox.waiting(), deliver, NOW)
    assert [receiver for receiver, _ in tried] == ["mail:a@x.example", "mail:b@x.example", "webhook"]
    assert [(each["to"], each["refused"]) for each in outbox.waiting()] == [(["mail:b@x.example"], {"mail:b@x.example": "no answer"})]
    outbox.hand_on(outbox.waiting(), deliver, NOW + 299)
    assert len(tried) == 3, "it is tried again too soon"
    outbox.hand_on(outbox.waiting(), deliver, NOW + 300)
    assert (len(tried), outbox.waiting()[0]["due"]) == (4, NOW + 900)
    assert [outbox.pause(tries) for tries in (1, 2, 3, 4, 5, 60)] == [300, 600, 1200, 2400, 3600, 3600]
    outbox.hand_on(outbox.waiting(), refuse()[1], NOW + 900)
    assert outbox.waiting() == [] and list(places.glob("*/outbox/*")) == []


@pytest.mark.parametrize("ahead", [0, 600, 400 * DAY])
def test_a_message_of_a_clock_that_was_ahead_goes_now(places: Path, ahead: float) -> None:
    """Tried at once, and its patience runs from then; also when it was refused while the clock was ahead."""
    outbox.put(places / "volume", {"subject": "1"}, ["webhook"], NOW + ahead)
    assert set(outbox.look(NOW)[1]) == ({"unsent"} if ahead > outbox.PATIENCE else set()), "nothing may ever have tried"
    tried, deliver = refuse("webhook")
    outbox.hand_on(outbox.waiting(), deliver, NOW)
    assert [(each["at"], each["due"], each["tries"]) for each in outbox.waiting()] == [(NOW, NOW + 300, 1)]
    outbox.keep(outbox.waiting()[0] | {"due": NOW + DAY})
    outbox.hand_on(outbox.waiting(), deliver, NOW + 1)
    assert len(tried) == 2 and set(outbox.look(NOW + 3601)[1]) == {"unsent"}


def test_what_is_refused_for_ever_stands_in_nobodys_way(places: Path) -> None:
    """What has failed least goes first; a receiver who does not answer is asked once; what waited goes with what is new."""
    for subject in ("poison", "old"):
        outbox.put(places / "volume", {"subject": subject}, ["webhook"], NOW)
    tried, deliver = refuse("poison")
    outbox.hand_on(outbox.waiting(), deliver, NOW)
    assert tried == [("webhook", "poison")], "a receiver who did not answer was asked again"
    assert [message["refused"] for message in outbox.waiting()] == [{"webhook": "no answer"}] * 2, "why the other waits is not known"
    outbox.put(places / "run", {"subject": "new"}, ["webhook"], NOW + 1)
    outbox.hand_on(outbox.waiting(), deliver, NOW + 1)
    assert [subject for _, subject in tried[1:]] == ["old", "new", "poison"]


def test_a_torn_message_stops_nothing(places: Path) -> None:
    """Power went while it was written."""
    outbox.put(places / "volume", {"subject": "1"}, ["webhook"], NOW)
    (places / "volume/outbox/2.json").write_text('{"subject"')
    assert [message["subject"] for message in outbox.waiting()] == ["1"]


def test_what_waits_too_long_is_an_alarm(places: Path) -> None:
    """With the reason; the row in `practice status` tells before that."""
    outbox.put(places / "volume", {"subject": "1"}, ["webhook"], NOW)
    outbox.hand_on(outbox.waiting(), refuse("webhook")[1], NOW)
    seen, wrong = outbox.look(NOW + 60)
    assert (seen, wrong) == ({"receivers": 3, "waiting": 1, "reasons": ["no answer"]}, {})
    assert outbox.look(NOW + 3601)[1] == {"unsent": "Alarms do not reach webhook: no answer."}


@pytest.fixture
def at_home(places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The alarm files there too; and nothing is started."""
    places_of = {"VOLATILE": "run", "LASTING": "volume", "SECRETS": "volume/secrets", "BANNER": "motd.d/cabinet", "UNSENT": "run/unsent"}
    for name, path in (places_of | {"VAULT": "vault.json"}).items():
        monkeypatch.setattr(alarm, name, places / path)
    monkeypatch.setattr(alarm, "run", lambda *argv, timeout=0: (places / "started").open("a").write(f"{' '.join(argv)}\n"))
    monkeypatch.setattr(alarm.syslog, "syslog", lambda level, text: None)
    return places


def test_a_change_is_told_at_once_and_a_standing_alarm_is_not(at_home: Path) -> None:
    """Whoever is named gets it; what starts the sender is there, and nobody waits for it. What was raised while locked is told once."""
    for _ in range(2):
        with alarm.changing() as alarms:
            alarm.put(alarms, "backup", "too old", by="watch")
    assert [(message["state"], message["to"]) for message in outbox.waiting()] == [("raised", outbox.receivers())]
    assert (at_home / "run/unsent").exists() and not (at_home / "started").exists()
    (at_home / "volume/secrets").rmdir()
    with alarm.changing() as alarms:
        alarm.put(alarms, "locked", "closed", by="hand")
    assert len(list(at_home.glob("run/outbox/*.json"))) == 1
    (at_home / "volume/secrets").mkdir()
    with alarm.changing():
        pass
    assert len(outbox.waiting()) == 2 and not (at_home / "run/told.json").exists()


def test_whoever_raises_it_the_sender_reads_it(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-in at the console raised one with a umask that shut the sender out, and from then on no alarm left the server."""
    monkeypatch.setattr(alarm, "is_root", lambda: True)
    before = os.umask(0o077)
    try:
        main(["alarm", "raise", "console", "used"])
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode)[-3:] for path in at_home.glob("volume/outbox/*.json")] == ["640"]


def test_without_the_section_nothing_waits(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And whoever tries is told so."""
    (at_home / "alarm.json").write_text('{"mail": [], "sender": ""}')
    with alarm.changing() as alarms:
        alarm.put(alarms, "backup", "too old", by="watch")
    alarm.alive(0, NOW)
    assert (outbox.waiting(), alarm.test()) == ([], 1)
    assert "reach nobody" in capsys.readouterr().out


def test_a_sign_of_life_each_day_and_each_week(at_home: Path) -> None:
    """The webhook each day, people by the first of a week; and not another one while one waits."""
    monday = 1_800_226_800.0  # 2027-01-18, somewhere at noon
    alarm.alive(0, monday)
    assert [message["to"] for message in outbox.waiting()] == [outbox.receivers()]
    alarm.alive(0, monday)
    os.utime(at_home / "volume/alive", (monday, monday))
    alarm.alive(0, monday + DAY - 1)
    alarm.alive(0, monday + DAY)
    assert len(outbox.waiting()) == 1
    for message in outbox.waiting():
        outbox.keep(message | {"to": []})
    alarm.alive(2, monday + 2 * DAY)
    assert [message["to"] for message in outbox.waiting()] == [["webhook"]]
    assert "2 alarms" in outbox.waiting()[0]["text"]


def test_a_sign_of_life_of_a_clock_that_was_ahead_is_none(at_home: Path) -> None:
    """Else the server is silent for as long as it was ahead."""
    (at_home / "volume/alive").touch()
    os.utime(at_home / "volume/alive", (NOW + 600, NOW + 600))
    alarm.alive(0, NOW)
    assert [message["to"] for message in outbox.waiting()] == [outbox.receivers()]
    assert (at_home / "volume/alive").stat().st_mtime == NOW


RESULTS = {"cabinet-vault-haddad.service": "success", "cabinet-silence.service": "exit-code"}


def test_a_host_without_a_volume_gives_a_sign_of_life(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper asks for it; what failed there and is well again is over, and all of it outlasts a boot. Control: a closed volume."""
    monkeypatch.setattr(alarm, "is_root", lambda: True)
    monkeypatch.setattr(alarm, "units", lambda *names: {name: {"ActiveState": "inactive", "Result": RESULTS[name]} for name in names})
    (at_home / "volume/secrets").rmdir()
    for unit in RESULTS:
        main(["alarm", "raise", f"unit:{unit}", "failed"])
    assert (main(["alarm", "alive"]), [path.name for path in at_home.glob("volume/*")]) == (0, []), "control"
    (at_home / "vault.json").touch()
    for unit in RESULTS:
        main(["alarm", "raise", f"unit:{unit}", "failed"])
    assert main(["alarm", "alive"]) == 0
    assert set(alarm.standing()) == {"unit:cabinet-silence.service"}
    assert {path.name for path in at_home.glob("volume/*")} == {"alarms.json", "told.json", "alive", "outbox"}
    (said,) = [message for message in outbox.waiting() if message["state"] == "alive"]
    assert said["to"] == outbox.receivers() and "1 alarm" in said["text"]


def test_a_test_says_who_took_it(at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And it does not arrive hours later."""
    monkeypatch.setattr(alarm, "run", lambda *argv, timeout=0: outbox.hand_on(outbox.waiting(), refuse("webhook")[1], 2 * NOW))
    assert alarm.test() == 1
    assert capsys.readouterr().out.splitlines() == ["mail:a@x.example: taken", "mail:b@x.example: taken", "webhook: NOT taken: no answer"]
    assert outbox.waiting() == []


def test_a_mail_is_one_that_programs_read(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASCII on the way, whatever the practice is called; long lines are folded; the same id each time it is sent."""
    monkeypatch.setattr(telling, "settings", lambda: {"practice": "Cabinet de l'été, عيادة"})
    message = telling.message(("raised", "wal-full", NOW)) | {"path": "/x/outbox/17.json", "at": NOW}
    raw = send.as_mail("a@x.example", message)
    assert raw.isascii() and raw == send.as_mail("a@x.example", message)
    read = message_from_bytes(raw, policy=policy.default)
    assert "عيادة" in read.get_content() and read.get_content() == message["text"]
    assert (read["To"], read["From"], read["Message-ID"]) == ("a@x.example", "s@x.example", f"<17.alarm@{message['server']}>")
    assert read["Date"].datetime.timestamp() == NOW


def test_a_mail_server_without_end_keeps_nobody_else_waiting(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not taken the message, which waits; the sender itself goes on to the next."""

    def never(argv: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(argv, timeout)

    monkeypatch.setattr(send.subprocess, "run", never)
    message = telling.message(("raised", "wal-full", NOW)) | {"path": "/x/outbox/17.json", "at": NOW}
    with pytest.raises(Trouble, match="no end in 300 s"):
        send.deliver("mail:a@x.example", message)


def test_half_a_message_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown ended its write; one that is being written stays."""
    monkeypatch.setattr(outbox, "PLACES", (tmp_path,))
    old, young = tmp_path / "1.new", tmp_path / "2.new"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    outbox.tidied()
    assert not old.exists() and young.exists()
