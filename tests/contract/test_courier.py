"""What the service on the practice's server does, against a real rest-server: what is sent when, and from what changes meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from kit import post
from kit.delay import Line
from practice import courier, ledger, offsite
from practice.engine import Incomplete, Restic, Snapshot, WrongPassword
from practice.server import Trouble
from tests.restserver import ACCOUNT, ADDRESS, Server, rest_server

NOW = time.time()
# From a line to the server's port, and back.
CARRY = """
import os, socket, sys, threading
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))

def back():
    while piece := far.recv(65536):
        os.write(1, piece)
    os._exit(0)

threading.Thread(target=back, daemon=True).start()
while piece := os.read(0, 65536):
    far.sendall(piece)
"""
DAY = 86400
# Its first page is not there, whoever reads it.
UNREADABLE = Path("/proc/self/mem")
FOR_GOOD = "the server, for good"
GIVEN_UP = 60 * 60


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A practice, with its keys, that is to send to this server; which has a quota."""
    with rest_server(tmp_path, getattr(request, "param", 1 << 30)) as server:
        home, credentials = tmp_path / "home", tmp_path / "credentials"
        repository, documents, configuration = tmp_path / "pgbackrest", tmp_path / "srv", tmp_path / "etc"
        for directory in (home, credentials, documents, configuration, repository / "backup/main/A", repository / "archive/main"):
            directory.mkdir(parents=True)
        (credentials / "password").write_text("the practice's own\n")
        (credentials / "login").write_text(f"{server.login}\n")
        (repository / "backup/main/backup.info").write_text("A")
        (repository / "archive/main/1").write_text("1")
        (documents / "letter").write_text("Nadia")
        (configuration / "practice.json").write_text("{}")
        config = tmp_path / "offsite.json"
        settings = {"url": server.url, "account": ACCOUNT, "authority": str(server.authority), "max_age_minutes": 60}
        config.write_text(json.dumps(settings))
        for module in (courier, offsite):
            monkeypatch.setattr(module, "CONFIG", config)
            monkeypatch.setattr(module, "HOME", home)
        for name, value in (("REPOSITORY", repository), ("DOCUMENTS", documents), ("CONFIGURATION", (configuration,))):
            monkeypatch.setattr(courier, name, value)
        monkeypatch.setattr(courier, "SYSTEM", (("uname", "-a"),))
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
        monkeypatch.setenv("PATH", f"{server.programs}:{os.environ['PATH']}")
        yield server


@pytest.fixture
def changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """restic takes half a second each time to make a key of a password; one kind is enough to see where it goes."""

    def few(engine: Restic, sent: dict, now: float) -> Iterator[tuple[str, dict]]:
        yield "changes", {"id": courier.retried(engine, [courier.REPOSITORY / "archive"], "changes"), "at": now}

    monkeypatch.setattr(courier, "copies", few)


def copies(kind: str) -> list[str]:
    """The snapshots of one kind in the repository that counts, oldest first."""
    return [one.id for one in courier.opened(offsite.kept()["generation"]).snapshots() if kind in one.tags]


def test_what_is_sent_when(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At first all; then the changes each time, and the rest when it has changed. The watch sees how old it is."""
    asked = offsite.CONFIG.stat().st_mtime
    assert offsite.look(asked + 59 * 60)[1] == {}
    assert set(offsite.look(asked + 61 * 60)[1]) == {"offsite"}, "nothing was ever sent"
    assert offsite.serve("send") == 0
    first = offsite.kept()["sent"]
    assert set(first) == {"database", "changes", "documents", "configuration", "system"}
    courier.send(NOW + 900)
    second = offsite.kept()["sent"]
    assert [kind for kind in first if first[kind]["id"] != second[kind]["id"]] == ["changes"]
    (courier.DOCUMENTS / "letter").write_text("Nadia, again")
    (courier.REPOSITORY / "backup/main/backup.info").write_text("A B")
    courier.send(NOW + 1800)
    third = offsite.kept()["sent"]
    assert [kind for kind in first if second[kind]["id"] != third[kind]["id"]] == ["database", "changes", "documents"]
    assert len(copies("changes")) == 3 and len(copies("configuration")) == 1
    newest = courier.opened(offsite.kept()["generation"]).snapshots()
    assert [one.tags for one in newest if one.id == third["changes"]["id"]] == [("changes", f"with:{third['database']['id'][:8]}")]
    assert offsite.look(NOW + 1800 + 59 * 60)[1] == {}
    assert set(offsite.look(NOW + 1800 + 61 * 60)[1]) == {"offsite"}
    # What a new machine needs to become this one, each week, changed or not.
    courier.send(first["system"]["at"] + 7 * DAY - 1)
    assert offsite.kept()["sent"]["system"] == first["system"] == third["system"] and len(copies("system")) == 1
    courier.send(first["system"]["at"] + 7 * DAY)
    assert offsite.kept()["sent"]["system"]["id"] == copies("system")[1]
    offsite.note(lambda state: state.update(sent=third))
    # A quarter of an hour in which nobody is there is no failure of the service, and its reason is kept.
    monkeypatch.setattr(courier, "opened", lambda *_: (_ for _ in ()).throw(Trouble("nobody answers")))
    assert offsite.serve("send") == offsite.TRY_AGAIN
    assert "nobody answers" in offsite.look(NOW + 1800 + 61 * 60)[1]["offsite"]


def test_the_list_of_backups_belongs_to_the_backups(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A backup ends while it is read: that snapshot is not the one that counts. A list that never rests is a failure, not a copy."""
    real, ends = Restic.back_up, iter(["A B"])

    def backed_up(engine: Restic, paths: list[Path], *tags: str) -> str:
        """pgBackRest ends a backup while the first is being read."""
        snapshot = real(engine, paths, *tags)
        if "database" in tags and (now := next(ends, None)):
            (courier.REPOSITORY / "backup/main/B").mkdir()
            (courier.REPOSITORY / "backup/main/B/data").write_text("B")
            (courier.REPOSITORY / "backup/main/backup.info").write_text(now)
        return snapshot

    monkeypatch.setattr(Restic, "back_up", backed_up)
    engine = courier.begun("2026-11")[1]
    whole = courier.database(engine)
    assert [one.id for one in engine.snapshots()].index(whole) == 1, "the one that was raced does not count"
    engine.restore(whole, tmp_path / "restored")
    restored = tmp_path / "restored" / courier.REPOSITORY.relative_to("/") / "backup/main"
    assert ((restored / "backup.info").read_text(), (restored / "B/data").read_text()) == ("A B", "B")
    ends = (f"list {number}" for number in range(99))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(Trouble, match="no copy of it is whole"):
        courier.database(engine)


def test_a_new_month_begins_anew(server: Server, changes_alone: None) -> None:
    """The old one stays as it was. A name that somebody else has taken is passed over."""
    courier.send(NOW)
    old = offsite.kept()["generation"]
    today = time.localtime(NOW)
    later = time.mktime((today.tm_year, today.tm_mon + 1, 2, 12, 0, 0, 0, 0, -1))  # far from that month's end, whatever today is
    month = time.strftime("%Y-%m", time.gmtime(later))
    server.engine(month, "an intruder's").prepare()
    courier.renew(later)
    state = offsite.kept()
    assert state["generation"] == f"{month}-2"
    assert len(courier.opened(old).snapshots()) == 1, "the old one is as it was"
    courier.renew(later + DAY)
    assert offsite.kept()["generation"] == f"{month}-2", "once a month"
    courier.send(later + DAY)
    assert len(copies("changes")) == 2
    courier.verify(later + DAY)
    assert offsite.kept()["verified"] == later + DAY
    # A file of a few bytes that nobody can remove spoils it: then another is begun, and this one stays for those who look into it.
    junk = b"junk"
    assert server.asked("POST", f"/{ACCOUNT}/{month}-2/index/{hashlib.sha256(junk).hexdigest()}", junk) == 200, "control"
    with pytest.raises(Trouble):
        courier.send(later + 2 * DAY)
    courier.anew(later + 2 * DAY)
    assert (offsite.kept()["generation"], len(copies("changes"))) == (f"{month}-3", 1)


def test_a_renewal_ends_while_something_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still goes into the old repository is missing in the new one, and goes there next; its changes name its own backups."""
    courier.send(NOW)
    old, later = offsite.kept()["generation"], NOW + 32 * DAY
    real = courier.database

    def meanwhile(engine: Restic) -> str:
        """The backups are being sent; everything else changes once the new repository has got it."""
        monkeypatch.setattr(courier, "database", real)
        courier.renew(later)
        (courier.DOCUMENTS / "letter").write_text("Nadia, again")
        return real(engine)

    monkeypatch.setattr(courier, "database", meanwhile)
    (courier.REPOSITORY / "backup/main/backup.info").write_text("A B")
    courier.send(later)
    assert offsite.kept()["generation"] != old and len(courier.opened(old).snapshots()) == 9, "control: it went on in the old one"
    courier.send(later + 900)
    there = courier.opened(offsite.kept()["generation"]).snapshots()
    assert {copy["id"] for copy in offsite.kept()["sent"].values()} <= {one.id for one in there}
    (backups,) = copies("database")
    assert {one.tags[1] for one in there if "changes" in one.tags} == {f"with:{backups[:8]}"} and len(copies("documents")) == 2


def test_a_host_that_lost_everything(server: Server, changes_alone: None) -> None:
    """It is begun anew at once, and that is an alarm for a week."""
    courier.send(NOW)
    server.store.rename(server.home / "gone")
    courier.send(NOW + 900)
    assert len(copies("changes")) == 1
    assert "offsite-lost" in offsite.look(NOW + 1000)[1] and "offsite-lost" not in offsite.look(NOW + 8 * DAY)[1]


def test_a_host_that_lets_things_be_removed(server: Server, changes_alone: None) -> None:
    """It is asked when a repository is begun, each week, and while that is an alarm, which ends when it lets nothing be removed."""
    for append_only, run, alarm in ((False, courier.send, True), (True, courier.send, False), (False, courier.verify, True)):
        server._stop()
        server.append_only = append_only
        server._start()
        run(NOW)
        assert ("append-only" in offsite.look(NOW + 1)[1].get("offsite-removable", "")) is alarm, (append_only, run)


def elsewhere(server: Server, *words: str) -> str:
    """A copy that somebody else has made, who has the password and marks it as this server does; its id."""
    engine = server.engine(offsite.kept()["generation"], "the practice's own")
    said = engine._ask("backup", "--json", "--host=practice", "--tag=documents", *words, str(courier.DOCUMENTS))
    return json.loads(said.splitlines()[-1])["snapshot_id"]


def cut_off() -> str:
    """The power goes here."""
    raise KeyboardInterrupt


def seen(now: float) -> str:
    """What a look at all that lies there says of somebody else's; the look ends well."""
    courier.verify(now)
    return offsite.look(now)[1].get("offsite-foreign", "")


@pytest.mark.parametrize("moment", ["2099-01-01 00:00:00", "2001-01-01 00:00:00", "0000-01-01 00:00:00", ""])
def test_what_somebody_else_has_sent_is_noticed(server: Server, moment: str) -> None:
    """Whatever time it bears. It stands, also in another repository, until a person accepts it; and what comes then is an alarm again."""
    for number in range(3):
        (courier.DOCUMENTS / "letter").write_text(f"Nadia, {number}")
        assert offsite.serve("send") == 0
    assert seen(NOW) == "", "control: all of it is ours"
    theirs = elsewhere(server, *([f"--time={moment}"] if moment else []))
    assert offsite.serve("send") == 0
    assert "not made (1, the newest says" in seen(NOW) and list(offsite.kept()["foreign"]) == [theirs]
    courier.anew(NOW)
    assert "(1," in seen(NOW) and offsite.serve("accept") == 0 and seen(NOW) == ""
    theirs = elsewhere(server)
    assert "(1," in seen(NOW) and offsite.serve("accept") == 0 and seen(NOW) == "", "accepted, where it lies"
    assert theirs in {one.id for one in courier.opened(offsite.kept()["generation"]).snapshots()}, "control: it is still there"


def test_what_was_written_but_never_told_is_ours(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What restic keeps although a file could not be read; what was sent when the power went; what arrives while the list is made."""
    assert offsite.serve("send") == 0
    with pytest.raises(Incomplete):
        courier.opened(offsite.kept()["generation"]).back_up([courier.DOCUMENTS, UNREADABLE], "documents")
    assert len(copies("documents")) == 2 and seen(NOW) == ""
    real = ledger.add
    with monkeypatch.context() as cut:
        cut.setattr(ledger, "add", lambda file, words: real(file, words if words.startswith("\n") else cut_off()))
        with pytest.raises(KeyboardInterrupt):
            courier.send(NOW)
    assert len(copies("changes")) == 2 and seen(NOW) == ""
    with monkeypatch.context() as arrives:
        there = Restic.snapshots

        def meanwhile(engine: Restic) -> list[Snapshot]:
            """A run of the other service ends while the list is made."""
            arrives.setattr(Restic, "snapshots", there)
            courier.send(NOW)
            return there(engine)

        arrives.setattr(Restic, "snapshots", meanwhile)
        assert seen(NOW) == "" and len(copies("changes")) == 3


def test_a_server_that_was_rebuilt_takes_what_is_there_for_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one that kept no ledger yet. Not what bears a time that has not come, nor what lies in another new one before it does."""
    assert offsite.serve("send") == 0
    month = offsite.kept()["generation"]
    (ours,) = ledger.ledgers()
    ours.unlink()
    assert seen(NOW) == ""
    elsewhere(server)
    ahead = elsewhere(server, "--time=2099-01-01 00:00:00")
    for path in offsite.HOME.iterdir():
        if path.is_file():
            path.unlink()
    assert offsite.serve("send") == 0 and offsite.kept()["generation"] == month
    assert "(1," in seen(NOW) and list(offsite.kept()["foreign"]) == [ahead]
    assert offsite.serve("accept") == 0
    following = server.engine(f"{month}-2", "the practice's own")
    following.prepare()
    following.back_up([courier.DOCUMENTS], "documents")
    courier.anew(NOW)
    assert offsite.kept()["generation"] == f"{month}-2" and "(1," in seen(NOW)
    assert [path.name for path in ledger.ledgers()] == [f"written-{month}-2"]


def test_documents_that_are_suddenly_gone_are_noticed(server: Server) -> None:
    """At once, while the older copy stays; until they are back, or a person accepts it. Another repository changes nothing of that."""
    letters = [courier.DOCUMENTS / f"letter {number}" for number in range(60)]

    def alarm(*there: Path) -> str:
        """What is said when these are there, and were sent."""
        for path in letters:
            path.unlink(missing_ok=True)
        for path in there:
            path.write_text("Nadia")
        assert offsite.serve("send") == 0
        return offsite.look(NOW)[1].get("offsite-shrunk", "")

    assert alarm(*letters) == ""
    whole = offsite.kept()["sent"]["documents"]["id"]
    assert "in 11 files instead of" in alarm(*letters[:10])
    assert whole in copies("documents")
    assert "in 21 files instead of" in alarm(*letters[:20])
    courier.anew(NOW)
    assert "in 21 files" in offsite.look(NOW)[1]["offsite-shrunk"]
    assert alarm(*letters) == ""
    assert alarm(*letters[:10]) != "" and offsite.serve("accept") == 0 and "offsite-shrunk" not in offsite.look(NOW)[1]
    assert alarm(*letters[:9]) == ""


@pytest.mark.parametrize("what", ["config", "keys/*"])
def test_a_repository_that_broke_is_told_from_a_strangers(server: Server, what: str) -> None:
    """By one byte, of either file that opens it: a new server goes on without a stranger's, but not without the practice's own."""
    server.engine("2026-11", "the practice's own").prepare()
    with pytest.raises(WrongPassword):
        server.engine("2026-11", "a stranger's").snapshots()
    (file,) = (server.store / "2026-11").glob(what)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(Trouble) as why:
        server.engine("2026-11", "the practice's own").snapshots()
    assert not isinstance(why.value, WrongPassword), why


def test_a_stranger_is_told_nothing(server: Server, tmp_path: Path) -> None:
    """Another authority than the one to believe: nobody is asked for anything, and the reason is said at once."""
    (tmp_path / "nobody.pem").write_text(post.server_certificate("127.0.0.1", trusted=False))
    offsite.CONFIG.write_text(json.dumps(json.loads(offsite.CONFIG.read_text()) | {"authority": str(tmp_path / "nobody.pem")}))
    began = time.monotonic()
    with pytest.raises(Trouble, match="has not proved who it is"):
        courier.send(NOW)
    assert time.monotonic() - began < 5 and not server.store.exists()


def letter(tmp_path: Path) -> str:
    """What the newest copy outside says of the document, restored through the server."""
    engine = courier.opened(offsite.kept()["generation"])
    engine.restore(offsite.kept()["sent"]["documents"]["id"], tmp_path / "back")
    return (tmp_path / "back" / courier.DOCUMENTS.relative_to("/") / "letter").read_text()


@pytest.mark.parametrize("server", [4 << 20], indirect=True)
def test_the_quota_is_used_up(server: Server, tmp_path: Path) -> None:
    """The service ends at once and says so, also when it is too old; what is there restores; with more room all goes on."""
    assert offsite.serve("send") == 0
    (courier.DOCUMENTS / "scan").write_bytes(os.urandom(8 << 20))
    began = time.monotonic()
    assert offsite.serve("send") == offsite.TRY_AGAIN and time.monotonic() - began < 60
    assert "its quota is used up" in offsite.kept()["errors"]["send"]
    assert "its quota is used up" in offsite.look(time.time() + 61 * 60)[1]["offsite"]
    assert letter(tmp_path) == "Nadia"
    with server.away():
        server.quota = 1 << 30
    assert offsite.serve("send") == 0
    assert offsite.look(time.time() + 59 * 60)[1] == {}
    courier.opened(offsite.kept()["generation"]).verify()


def test_the_network_is_gone_for_an_hour(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each run ends at once, after an hour it is an alarm that says why, and the first run that gets through sends all of it."""
    assert offsite.serve("send") == 0
    began = offsite.kept()["sent"]["changes"]["at"]
    with server.away():
        for quarter in range(1, 5):
            (courier.DOCUMENTS / "letter").write_text(f"Nadia, {quarter}")
            monkeypatch.setattr(offsite.time, "time", lambda quarter=quarter: began + quarter * 900)
            assert offsite.serve("send") == offsite.TRY_AGAIN
            assert ("offsite" in offsite.look(began + quarter * 900 + 60)[1]) == (quarter == 4)
        assert "does not answer" in offsite.look(began + 3700)[1]["offsite"]
    assert offsite.serve("send") == 0 and offsite.look(began + 3700)[1] == {}
    assert letter(tmp_path) == "Nadia, 4"


@pytest.mark.longer("what", ["the line", "the server"], [FOR_GOOD])  # which restic takes half an hour to believe
def test_what_dies_in_the_middle_of_a_transfer(server: Server, what: str, tmp_path: Path) -> None:
    """It is gone on with when the line, or the server, is back, by the next run where this one has given up; and what arrived is whole."""
    for_good = what == FOR_GOOD
    assert offsite.serve("send") == 0
    (courier.DOCUMENTS / "scan").write_bytes(os.urandom(40 << 20))
    (courier.DOCUMENTS / "letter").write_text("Nadia, again")
    with Line([sys.executable, "-Ic", CARRY, ADDRESS, str(server.port)]) as line, ThreadPoolExecutor() as beside:
        settings, before = json.loads(offsite.CONFIG.read_text()), len(files(server))
        offsite.CONFIG.write_text(json.dumps(settings | {"url": f"https://{ADDRESS}:{line.port}"}))
        sends = beside.submit(offsite.serve, "send")
        while len(files(server)) == before:
            assert not sends.done(), "control: it was not in the middle"
            time.sleep(0.01)
        with contextlib.nullcontext() if what == "the line" else server.away():
            line.cut()
            if for_good:
                wait([sends], GIVEN_UP)
        assert sends.result(timeout=300) == (offsite.TRY_AGAIN if for_good else 0)
        offsite.CONFIG.write_text(json.dumps(settings))
    if for_good:
        assert offsite.kept()["errors"]["send"] != "" and offsite.serve("send") == 0
    assert letter(tmp_path) == "Nadia, again"
    courier.opened(offsite.kept()["generation"]).verify()


def files(server: Server) -> list[Path]:
    """What holds the documents' contents."""
    return [path for path in (server.store / offsite.kept()["generation"] / "data").rglob("*") if path.is_file()]
