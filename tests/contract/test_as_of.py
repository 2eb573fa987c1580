"""A month of copies at a real rest-server, and an intruder after it: each comes back out of the repository as the host shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from practice.engine import Restic
from practice.server import Trouble
from tests.restserver import ACCOUNT, Server, keeper, rest_server

PASSWORD = "the practice's own"
HOUR, DAY = 3600, 86400
# When something was sent, in days ago, by the repository that counted then.
SENT = {"2026-10": (30, 27, 24, 21, 18), "2026-11": (15, 12, 9, 6, 3, 1)}


@dataclass
class Month:
    """What the practice sent, as it arrived over thirty days: by repository, in order: days ago, snapshot, content."""

    server: Server
    host: ModuleType
    data: Path
    sent: dict[str, list[tuple[int, str, bytes]]] = field(default_factory=dict)

    def engine(self, name: str) -> Restic:
        """As a new server reaches it, which has no cache."""
        return self.server.engine(name, PASSWORD, RESTIC_CACHE_DIR=str(self.server.home / f"cache-{time.time_ns()}"))

    def passes(self) -> None:
        """Whatever was sent arrived then."""
        for generation, days in SENT.items():
            engine = self.server.engine(generation, PASSWORD)
            engine.prepare()
            for ago in days:
                content = hashlib.sha512(f"{generation} {ago}".encode()).digest() * 2000
                (self.data / "record").write_bytes(content)
                self.sent.setdefault(generation, []).append((ago, engine.back_up([self.data], "documents"), content))
                for file, _ in self.host.files(self.server.store / generation):
                    if file.stat().st_mtime > time.time() - HOUR:
                        os.utime(file, (time.time() - ago * DAY,) * 2)

    def came_back(self, name: str, until: tuple[int, str, bytes], generation: str) -> str:
        """What is wrong with the repository as it was just after this one arrived, as it is served; nothing is the rule."""
        ago, snapshot, wanted = until
        there, target = self.engine(name), self.data.parent / name
        before = [one for days, one, _ in self.sent[generation] if days >= ago]
        try:
            listed = [one.id for one in there.snapshots()]
            there.restore(snapshot, target)
        except Trouble as trouble:
            return f"{name}: {trouble}"
        found = (target / self.data.relative_to("/") / "record").read_bytes()
        return "" if (listed, found) == (before, wanted) else f"{name}: {listed}, {found[:20]!r}"


def forged(month: Month, generation: str) -> list[str]:
    """Snapshots like the practice's own, of the future and of days on which it has sent."""
    engine = month.server.engine(generation, PASSWORD)
    (month.data / "record").write_bytes(b"pay us")
    moments = [time.time() - ago * DAY for ago in (-1000, *SENT[generation][:2])]
    times = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) for moment in moments]
    words = ["backup", "--json", "--host=practice", "--tag=documents"]
    said = [engine._ask(*words, f"--time={moment}", str(month.data)) for moment in times]
    return [json.loads(text.splitlines()[-1])["snapshot_id"] for text in said]


def spoilt(month: Month, generation: str) -> None:
    """An index, snapshots and data that are nothing, and more false keys than restic tries."""
    false = {"created": "2026-01-01T00:00:00Z", "username": "x", "hostname": "x", "kdf": "scrypt", "N": 16, "r": 8, "p": 1}
    keys = [json.dumps(false | {word: base64.b64encode(os.urandom(64)).decode() for word in ("salt", "data")}) for _ in range(30)]
    for kind, texts in {"index": ["no index"], "snapshots": ["no snapshot"], "data": ["nothing"], "keys": keys}.items():
        for text in texts:
            body = text.encode()
            path = f"/{ACCOUNT}/{generation}/{kind}/{hashlib.sha256(body).hexdigest()}"
            assert month.server.asked("POST", path, body) == 200, "control: the host takes it"


def test_every_copy_of_the_last_thirty_days_comes_back(tmp_path: Path) -> None:
    """Byte by byte, and nothing of the intruder's with it; without that, the newest is the intruder's, and then nothing opens at all."""
    with rest_server(tmp_path) as server:
        month = Month(server, keeper(tmp_path), tmp_path / "data")
        month.data.mkdir()
        month.passes()
        account = month.host.Account(ACCOUNT, keep_days=35, quota=1 << 30, silence_hours=25)
        assert month.host.look(account, time.time()) == {}, "control: the practice sends as it should"
        newest = {generation: forged(month, generation)[0] for generation in SENT}
        assert {generation: month.engine(generation).snapshots()[-1].id for generation in SENT} == newest, "control: whose is the newest"
        for generation in SENT:
            spoilt(month, generation)
            with pytest.raises(Trouble):
                month.engine(generation).restore(month.sent[generation][0][1], tmp_path / "control")
        wrong = month.host.look(account, time.time())
        assert set(wrong) == {"past", "junk", "keys"}, "what was put there, and that a repository that was done with is written to again"
        moments = [(generation, one) for generation, sent in month.sent.items() for one in sent]
        views = [month.host.shown(ACCOUNT, generation, int(time.time() - one[0] * DAY + HOUR)).name for generation, one in moments]
        bad = [month.came_back(name, one, generation) for name, (generation, one) in zip(views, moments, strict=True)]
        assert [one for one in bad if one] == []
        assert len(bad) == 11 and month.host.look(account, time.time()) == wrong, "the keeper takes what it shows for the practice's"


def test_what_is_shown_counts_once_and_can_be_read_alone(tmp_path: Path) -> None:
    """The server adds up what is used when it starts, and a second name of the same is not added; nothing goes by that name."""
    with rest_server(tmp_path, quota=32 << 20) as server:
        host = keeper(tmp_path)

        def sends(size: int, kind: str = "data") -> int:
            blob = os.urandom(size)
            return server.asked("POST", f"/{ACCOUNT}/2026-11/{kind}/{hashlib.sha256(blob).hexdigest()}", blob)

        assert server.asked("POST", f"/{ACCOUNT}/2026-11/?create=true") == 200
        assert [sends(16 << 20), sends(100, "snapshots")] == [200, 200]
        time.sleep(1)
        base = f"/{ACCOUNT}/{host.shown(ACCOUNT, '2026-11', int(time.time())).name}"
        blob = next((server.store / "2026-11/data").rglob("[0-9a-f]" * 64))
        with server.away():
            pass
        assert [server.asked(method, f"{base}/data/{blob.name}") for method in ("GET", "DELETE")] == [200, 403]
        assert blob.exists() and (sends(8 << 20), sends(16 << 20)) == (200, 507), "control: there is a quota"
        blob.unlink()  # as the keeper does when that repository's time has come
        assert server.asked("GET", f"{base}/data/{blob.name}") == 200
