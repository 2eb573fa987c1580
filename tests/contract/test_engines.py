"""What every engine that keeps copies must do: restic at a real rest-server with TLS, restic on a medium. Others join by one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from practice.engine import Engine, Restic
from practice.server import Trouble
from tests.restserver import ACCOUNT, keeper, programs, rest_server

DAY = 86400


@dataclass(frozen=True)
class Kept:
    """An engine, where what it keeps can be damaged, and what makes `days` go by and removes what is then too old."""

    engine: Engine
    store: Path
    expire: Callable[[int], Engine]


@contextmanager
def restic_offsite(home: Path) -> Iterator[Kept]:
    """Through TLS and an account; what is old is removed by the keeper of the host, which holds no key."""
    with rest_server(home) as server:
        host = keeper(home)
        account = host.Account(ACCOUNT, keep_days=35, quota=1 << 30, silence_hours=10**6)

        def expire(days: int) -> Engine:
            """The repository is as old as that, and its successor has been there for nearly as long."""
            later = server.engine("2027-01", "secret")
            later.prepare()
            later.back_up([home / "data"])
            for file in server.store.rglob("*"):
                moment = time.time() - (days if file.is_relative_to(server.store / "2026-11") else days - 1) * DAY
                os.utime(file, (moment, moment))
            assert host.look(account, time.time()) == {}
            return later

        yield Kept(server.engine("2026-11", "secret"), server.store / "2026-11/data", expire)


@contextmanager
def restic_medium(home: Path) -> Iterator[Kept]:
    """In a directory, as on an external medium; what is old is removed by whoever writes."""
    engine = Restic(str(home / "restic"), {"RESTIC_PASSWORD": "secret"}, home / "cache", str(programs(home) / "restic"))

    def expire(days: int) -> Engine:
        """What is kept was made so many days ago, by restic's own word; a lock of a run that was cut off stands in the way."""
        earlier = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - days * DAY))
        engine._ask("rewrite", "--forget", f"--new-time={earlier}")
        engine.back_up([home / "data"])
        assert len(engine.snapshots()) == 3, "control: they are there"
        (key, *_) = (home / "restic/keys").iterdir()
        (home / "restic/locks" / key.name).write_bytes(b"half a lock")
        engine.forget(30)
        return engine

    yield Kept(engine, home / "restic/data", expire)


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Kept]]] = {
    "restic off-site": restic_offsite,
    "restic on a medium": restic_medium,
}


def tree(top: Path) -> dict[str, tuple[int, str]]:
    """Each file with its rights and its digest."""
    return {
        str(file.relative_to(top)): (file.stat().st_mode, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(top.rglob("*"))
        if file.is_file()
    }


def write(top: Path, seed: int) -> dict[str, tuple[int, str]]:
    """Files that look like nothing, and some odd ones."""
    for number in range(20):
        path = top / f"{number % 4}" / f"{number} é\n'\".bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha512(f"{seed} {number}".encode()).digest() * 500)
    (top / "empty").touch()
    (top / "private").write_text(f"{seed}")
    (top / "private").chmod(0o600)
    return tree(top)


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_keeps_what_it_was_given(kind: str, tmp_path: Path) -> None:
    """Write, back up, change, back up, destroy; restore the second, then the first; list, verify, find damage, expire."""
    data = tmp_path / "data"
    with ENGINES[kind](tmp_path) as kept:
        engine = kept.engine
        with pytest.raises(Trouble):
            engine.snapshots()
        engine.prepare()
        engine.prepare()  # again changes nothing
        assert engine.snapshots() == []
        first = write(data, 1)
        ids = [engine.back_up([data], "documents")]
        (data / "0").rename(data / "moved")
        second = write(data, 2)
        assert second != first, "control: something changed"
        ids.append(engine.back_up([data], "documents", f"with:{ids[0][:8]}"))
        shutil.rmtree(data)
        for snapshot, wanted in ((ids[1], second), (ids[0], first)):
            engine.restore(snapshot, tmp_path / snapshot)
            assert tree(tmp_path / snapshot / data.relative_to("/")) == wanted
        listed = engine.snapshots()
        assert [snapshot.id for snapshot in listed] == ids and listed[1].tags == ("documents", f"with:{ids[0][:8]}")
        assert all(abs(snapshot.at - time.time()) < 120 for snapshot in listed)
        engine.verify()
        (victim, *_) = sorted((file for file in kept.store.rglob("*") if file.is_file()), key=lambda file: -file.stat().st_size)
        whole = victim.read_bytes()
        victim.chmod(0o600)
        victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(Trouble):
            engine.verify()
        victim.write_bytes(whole)
        with pytest.raises(Trouble):
            engine.back_up([tmp_path / "nowhere"])
        write(data, 3)
        later = kept.expire(40)
        assert len(later.snapshots()) == 1, "what is young enough is there"
        with pytest.raises(Trouble):
            engine.restore(ids[0], tmp_path / "gone")
