"""Whoever has all that the practice server has, against the off-site history at a real rest-server: every genuine snapshot restores.

One server and one history for all of it: the tests below are a story, in their order.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from kit import post
from practice.engine import Restic
from practice.server import Trouble
from tests.restserver import ACCOUNT, Server, keeper, rest_server

GENERATION = "2026-11"
PASSWORD = "the practice's own"
DAY = 86400
# What arrived before the intruder came, and has to be there afterwards.
GENUINE = 2
# 0: it hung up.
REFUSED = {0, 301, 400, 401, 403, 404, 405, 413, 500, 501, 507}


@dataclass
class Scene:
    """The host, the practice's engine, what was genuinely sent, and when the intruder came."""

    server: Server
    engine: Restic
    host: ModuleType
    sent: dict[str, bytes]
    data: Path
    came: float
    hint: str

    def restored(self, engine: Restic, where: str) -> list[str]:
        """Of the genuine snapshots, those that do not come back byte by byte."""
        bad = []
        for number, (snapshot, wanted) in enumerate(self.sent.items()):
            target = self.data.parent / f"{where}-{number}"
            try:
                engine.restore(snapshot, target)
                found = (target / self.data.relative_to("/") / "record").read_bytes()
            except (Trouble, FileNotFoundError) as trouble:
                found = str(trouble).encode()
            bad += [] if found == wanted else [f"{snapshot[:8]}: {found[:200]!r}"]
        return bad

    def rescued(self) -> list[str]:
        """The same, from the repository as it was when the intruder came."""
        into = self.server.home / f"as-of-{time.time_ns()}"
        assert self.host.as_of(self.server.store / GENERATION, self.came, into) > GENUINE
        return self.restored(self.server.local(into, PASSWORD), into.name)

    def judged(self, confirmed: bool = False, **changed: float) -> dict[str, str]:
        """What the host says about it, which has the server's own log; whatever it says, people are told."""
        account = self.host.Account(**({"name": ACCOUNT, "keep_days": 35, "quota": 1 << 30, "silence_hours": 2} | changed))
        wrong = self.host.look(account, time.time(), confirmed)
        told = (self.server.home / "told").read_text().split("\n") if wrong else []
        assert [what for what in wrong if f"alarm raise vault:{ACCOUNT}-{what}" not in told] == []
        return wrong

    def confirmed(self) -> dict[str, str]:
        """A person has looked, and goes on; what is asked from here on is told anew. The log has whole seconds."""
        wrong = self.judged(confirmed=True)
        time.sleep(1)
        return wrong


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Genuine snapshots, and nothing wrong yet."""
    home = tmp_path_factory.mktemp("offsite")
    with rest_server(home, quota=60 << 20) as server:
        host, engine, data = keeper(home), server.engine(GENERATION, PASSWORD), home / "data"
        data.mkdir()
        engine.prepare()
        sent = {}
        for number in range(GENUINE):
            content = hashlib.sha512(str(number).encode()).digest() * 2000
            (data / "record").write_bytes(content)
            sent[engine.back_up([data])] = content
        for file, _ in host.files(server.store):  # longer ago than restic tries anything again
            os.utime(file, (time.time() - 1.5 * 3600,) * 2)
        scene = Scene(server, engine, host, sent, data, time.time(), engine.key())
        time.sleep(0.05)
        assert scene.judged() == {}, "control: all is well"
        yield scene


def listed(server: Server, kind: str) -> list[str]:
    """The files of one kind that the repository holds."""
    return sorted(path.name for path in (server.store / GENERATION / kind).rglob("*") if path.is_file())


def deletes(scene: Scene) -> None:
    """Each file, the directories, the repository, by restic and by hand."""
    for words in (["forget", "--prune", "--keep-last=1"], ["key", "remove", *listed(scene.server, "keys")]):
        with contextlib.suppress(Trouble):
            scene.engine._ask(*words)
    base = f"/{ACCOUNT}/{GENERATION}"
    paths = [f"{base}/{kind}/{name}" for kind in ("snapshots", "index", "keys", "data") for name in listed(scene.server, kind)]
    answers = {path: scene.server.asked("DELETE", path) for path in [*paths, f"{base}/config", f"{base}/", f"{base}/data/", f"/{ACCOUNT}/"]}
    assert {path: code for path, code in answers.items() if code not in REFUSED} == {}


def overwrites(scene: Scene) -> None:
    """POST over what is there; PUT, PATCH, MOVE; beginning the repository anew."""
    base = f"/{ACCOUNT}/{GENERATION}"
    kept = [f"{base}/{kind}/{name}" for kind in ("snapshots", "index", "keys", "data") for name in listed(scene.server, kind)]
    answers = {
        (method, path): scene.server.asked(method, path, b"gone")
        for method in ("POST", "PUT", "PATCH", "MOVE")
        for path in (*kept, f"{base}/config")
    }
    assert {which: code for which, code in answers.items() if code not in REFUSED} == {}
    scene.server.asked("POST", f"{base}/?create=true")  # makes directories that are there
    with pytest.raises(Trouble):
        scene.engine._ask("init")


def tricks_with_paths(scene: Scene) -> None:
    """Out of the account's directory, into the host's own files, or to a file under a second name."""
    name = listed(scene.server, "snapshots")[0]
    base = f"/{ACCOUNT}/{GENERATION}"
    paths = [
        "/../htpasswd", "/..%2fhtpasswd", f"/{ACCOUNT}/../htpasswd", f"/{ACCOUNT}/..%2f..%2fhtpasswd", f"/{ACCOUNT}/%2e%2e/%2e%2e/htpasswd",
        f"{base}/data/../config", f"{base}/data/..%2fconfig", f"{base}/snapshots/%2e%2e/config", f"{base}/snapshots/../../../htpasswd",
        f"/other/{GENERATION}/config", f"//{ACCOUNT}/{GENERATION}/config", f"{base}/snapshots/{name}/../../config", "/etc/passwd",
        f"{base}/snapshots/{name}%00", f"{base}/data/{'0' * 63}", f"{base}/data/{'g' * 64}", f"{base}/locks/../config",
        f"{base}/locks/..%2fsnapshots%2f{name}", f"{base}/locks/%2e%2e/snapshots/{name}",
    ]  # fmt: skip
    answers = {(method, path): scene.server.asked(method, path, b"x") for method in ("POST", "DELETE") for path in paths}
    assert {which: code for which, code in answers.items() if code not in REFUSED} == {}


def forges(scene: Scene) -> None:
    """Snapshots from the future and from the past, as another machine."""
    for moment in ("2030-01-01 00:00:00", "2031-05-05 23:59:59", "2001-01-01 00:00:00"):
        scene.engine._ask("backup", f"--time={moment}", "--host=practice", str(scene.data))


def sends_junk(scene: Scene) -> None:
    """An index, snapshots, keys and data that are nothing."""
    for kind in ("index", "snapshots", "keys", "data"):
        junk = f"junk {kind}".encode()
        assert scene.server.asked("POST", f"/{ACCOUNT}/{GENERATION}/{kind}/{hashlib.sha256(junk).hexdigest()}", junk) == 200, "control"
        wrong_name = f"/{ACCOUNT}/{GENERATION}/{kind}/{'0' * 64}"
        assert scene.server.asked("POST", wrong_name, junk) in REFUSED, "a name that is no digest of what it holds"


def starves_of_keys(scene: Scene) -> None:
    """restic gives up after twenty keys, in whatever order it finds them; thirty that open nothing are put beside the one that does."""
    good = scene.hint
    template = json.loads((scene.server.store / GENERATION / "keys" / good).read_text())
    for number in range(30):
        nothing = base64.b64encode(os.urandom(len(base64.b64decode(template["data"])))).decode()
        false = json.dumps(template | {"N": 16, "username": f"x{number}", "data": nothing}).encode()
        assert scene.server.asked("POST", f"/{ACCOUNT}/{GENERATION}/keys/{hashlib.sha256(false).hexdigest()}", false) == 200, "control"


def locks_out(scene: Scene) -> None:
    """A lock that is none makes restic crash: whoever restores asks for no lock, and who sends removes them all and goes on."""
    junk = b"no lock at all"
    assert scene.server.asked("POST", f"/{ACCOUNT}/{GENERATION}/locks/{hashlib.sha256(junk).hexdigest()}", junk) == 200, "control"
    with pytest.raises(Trouble):
        scene.engine._ask("backup", str(scene.data))
    scene.engine.back_up([scene.data])


def fills_the_quota(scene: Scene) -> None:
    """Random blobs until nothing more is taken."""
    codes = []
    while 200 in codes[-1:] or not codes:
        blob = os.urandom(8 << 20)
        codes.append(scene.server.asked("POST", f"/{ACCOUNT}/{GENERATION}/data/{hashlib.sha256(blob).hexdigest()}", blob))
        assert len(codes) < 20, "there is no quota"


def test_a_wrong_password_gets_nothing(scene: Scene) -> None:
    """Neither the account's nor the repository's; and a server with somebody else's certificate is told nothing."""
    assert {scene.server.asked(method, f"/{ACCOUNT}/{GENERATION}/config", login="guessed") for method in ("GET", "POST", "DELETE")} == {401}
    with pytest.raises(Trouble, match="wrong password"):
        scene.server.engine(GENERATION, "guessed").snapshots()
    nobody = scene.server.home / "nobody.pem"
    nobody.write_text(post.server_certificate("127.0.0.1", trusted=False))
    with pytest.raises(Trouble, match="no answer"):  # it would go on trying for a quarter of an hour
        scene.server.engine(GENERATION, PASSWORD, authority=nobody)._ask("cat", "config", timeout=3)
    assert "tls: bad certificate" in (scene.server.home / "said").read_text(), "it did not refuse the certificate"


def test_what_a_practice_does_is_no_attack(scene: Scene) -> None:
    """It sends, unlocks, reads, and asks each week whether something that is not there could be removed; 403 is what it wants to hear."""
    (scene.data / "record").write_text("later")
    scene.engine.back_up([scene.data])
    scene.engine._ask("unlock", "--remove-all")
    scene.engine._ask("check", "--no-lock")
    assert scene.server.asked("DELETE", f"/{ACCOUNT}/{GENERATION}/data/{'0' * 64}") == 403
    assert scene.judged() == {}


# Locks may go, and what is damaged of them the practice heals by itself: nobody need look.
ATTACKS = {deletes: {"refused"}, overwrites: {"refused"}, tricks_with_paths: {"refused"}, locks_out: set()}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_that_arrived_can_be_changed(scene: Scene, attack: Callable[[Scene], None]) -> None:
    """Every file is there, with every byte; and the host has raised an alarm."""
    before = {path: path.read_bytes() for path, _ in scene.host.files(scene.server.home / "vault")}
    assert len(before) >= 5 * GENUINE, "control: there are files"
    attack(scene)
    assert [str(path) for path, content in before.items() if not path.exists() or path.read_bytes() != content] == []
    assert set(scene.judged()) == ATTACKS[attack]
    assert scene.confirmed() == {}


def test_after_all_that_every_genuine_snapshot_restores(scene: Scene) -> None:
    """Through the server, as ever."""
    assert scene.restored(scene.engine, "through") == []


def test_forged_times_change_nothing(scene: Scene) -> None:
    """The host goes by when something arrived, and cannot read what time is written in it."""
    forges(scene)
    assert scene.judged() == {}
    assert scene.rescued() == []


def test_junk_is_told(scene: Scene) -> None:
    """And left out of the repository as it was when the intruder came."""
    sends_junk(scene)
    assert set(scene.judged()) == {"junk", "keys"}
    assert scene.confirmed() == {}
    assert scene.rescued() == []
    into = scene.server.home / "listed"
    scene.host.as_of(scene.server.store / GENERATION, scene.came, into)
    assert [one.id for one in scene.server.local(into, PASSWORD).snapshots()] == list(scene.sent)


def test_the_right_key_among_false_ones(scene: Scene) -> None:
    """Whether restic alone finds it is luck; who remembers which one it was does, and in the repository as it was there is no other."""
    starves_of_keys(scene)
    scene.server.engine(GENERATION, PASSWORD, RESTIC_KEY_HINT=scene.hint)._ask("cat", "config", "--no-lock")
    assert scene.rescued() == []
    assert "has 32 keys" in scene.judged()["keys"]
    assert scene.confirmed() == {}


def test_thousands_of_tiny_snapshots(scene: Scene) -> None:
    """All are taken: they look like any other. It is an alarm, and nothing is removed, nor anything genuine lost among them."""
    tiny = [os.urandom(100) for _ in range(2000)]
    base = f"/{ACCOUNT}/{GENERATION}/snapshots"
    answers = [scene.server.asked("POST", f"{base}/{hashlib.sha256(blob).hexdigest()}", blob) for blob in tiny]
    assert collections.Counter(answers) == {200: 2000}
    assert set(scene.judged()) == {"flood"}
    assert len(listed(scene.server, "snapshots")) > 2000, "something was removed"
    assert scene.rescued() == []


def test_the_quota_runs_out(scene: Scene) -> None:
    """Then nothing new is taken, the host says so, and what is there is there."""
    fills_the_quota(scene)
    assert set(scene.judged(quota=60 << 20)) == {"flood", "quota"}
    assert scene.rescued() == []


def test_guessed_passwords_are_told(scene: Scene) -> None:
    """The account's; what only knocks, without one or at nobody's door, is not counted."""
    assert scene.judged(confirmed=True).keys() == {"flood"}, "control: there were three, which is nothing"
    for path in ("/", f"/{ACCOUNT}/{GENERATION}/config", "/wp-login.php"):
        assert [scene.server.asked("GET", path, who="nobody") for _ in range(10)] == [401] * 10
    assert set(scene.judged()) == {"flood"}
    assert [scene.server.asked("GET", f"/{ACCOUNT}/{GENERATION}/config", login=f"guess {number}") for number in range(20)] == [401] * 20
    assert set(scene.judged()) == {"flood", "guessed"}


def test_what_the_keeper_removes_can_be_sent_again(tmp_path: Path) -> None:
    """The server counts once, when it starts: until it is restarted, as the keeper asks, it refuses what the disk has room for."""
    # It counts directories too: 256 of 4 KiB for each repository.
    with rest_server(tmp_path, quota=32 << 20) as server:
        host = keeper(tmp_path)
        account = host.Account(ACCOUNT, keep_days=35, quota=32 << 20, silence_hours=2)

        def sends(generation: str, kind: str, size: int) -> int:
            blob = os.urandom(size)
            return server.asked("POST", f"/{ACCOUNT}/{generation}/{kind}/{hashlib.sha256(blob).hexdigest()}", blob)

        for generation, size, days in (("2026-09", 16 << 20, 60), (GENERATION, 8 << 20, 50)):
            assert server.asked("POST", f"/{ACCOUNT}/{generation}/?create=true") == 200
            assert [sends(generation, kind, size) for kind, size in (("data", size), ("snapshots", 100))] == [200, 200]
            for file, _ in host.files(server.store / generation):
                os.utime(file, (time.time() - days * DAY,) * 2)
        assert sends(GENERATION, "snapshots", 100) == 200, "control: one of today"
        assert sends(GENERATION, "data", 12 << 20) == 507, "control: that is more than was agreed"
        assert host.look(account, time.time()) == {}
        assert [path.name for path in server.store.iterdir()] == [GENERATION], "control: the old one is gone"
        assert sends(GENERATION, "data", 12 << 20) == 507, "control: it counts by itself, and needs no restart"
        assert (tmp_path / "restarts").read_text() == f"try-restart cabinet-vault-{ACCOUNT}.service\n"
        with server.away():
            pass
        assert sends(GENERATION, "data", 12 << 20) == 200
