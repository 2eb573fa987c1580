"""What every engine that keeps copies must do: restic at a real rest-server with TLS, restic on a medium, pgBackRest, pg_basebackup."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.paths import ROOT
from practice.clusters import CHANGES, STORE
from practice.engine import Engine, Restic, Snapshot
from practice.server import DATA, Trouble
from roles.backup import REPOSITORY
from tests.practiceserver import MAKE_CLUSTER, Server, new_server
from tests.restserver import ACCOUNT, keeper, programs, rest_server

DAY = 86400
Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Kept:
    """An engine; what it keeps, and how that is written, lost, restored and read; and what makes `days` go by and removes what is too old.

    `damaged` spoils a byte of what is kept and gives back what puts it right; `missing` is something that cannot be kept. `changes` ends
    the name of a backup that holds the changes alone, where a name says so: an engine that cannot make one may make a whole one instead.
    """

    engine: Engine
    data: Path
    tags: tuple[str, ...]
    write: Callable[[int], Any]
    destroy: Callable[[], None]
    restored: Callable[[str], Any]
    damaged: Callable[[], Callable[[], None]]
    missing: Callable[[], Path]
    expire: Callable[[int], Engine]
    changes: str = ""


def of_files(engine: Engine, home: Path, store: Path, expire: Callable[[int], Engine]) -> Kept:
    """An engine that keeps any files."""
    data = home / "data"

    def restored(snapshot: str) -> Files:
        engine.restore(snapshot, home / snapshot)
        return tree(home / snapshot / data.relative_to("/"))

    def damaged() -> Callable[[], None]:
        (victim, *_) = sorted((file for file in store.rglob("*") if file.is_file()), key=lambda file: -file.stat().st_size)
        whole = victim.read_bytes()
        victim.chmod(0o600)
        victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        return lambda: None if victim.write_bytes(whole) else None

    return Kept(
        engine, data, ("documents",), partial(write, data), lambda: shutil.rmtree(data), restored, damaged, lambda: home / "nowhere", expire
    )


@contextmanager
def restic_offsite(home: Path, _: pytest.FixtureRequest) -> Iterator[Kept]:
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

        yield of_files(server.engine("2026-11", "secret"), home, server.store / "2026-11/data", expire)


@contextmanager
def restic_medium(home: Path, _: pytest.FixtureRequest) -> Iterator[Kept]:
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

    yield of_files(engine, home, home / "restic/data", expire)


class There:
    """An engine for the cluster, in the place where the cluster is: each method runs there, by Debian's Python."""

    def __init__(self, server: Server, kind: str) -> None:
        self._server, self._kind = server, kind

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            done = self._server.run("python3 -I -", CALL.format(kind=self._kind, method=method, words=words))
            if done.returncode == REFUSED:
                raise Trouble(done.stdout)
            assert done.returncode == 0, done.stdout + done.stderr
            return json.loads(done.stdout, object_hook=lambda made: Snapshot(made["id"], made["at"], tuple(made["tags"])))

        return call


REFUSED = 99
CALL = f"""
import dataclasses, json, sys
from pathlib import PosixPath
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import clusters
from practice.server import Trouble
try:
    print(json.dumps(clusters.{{kind}}().{{method}}(*{{words}}), default=dataclasses.asdict))
except Trouble as trouble:
    print(trouble)
    sys.exit({REFUSED})
"""
# Each on a socket of its own, and archiving nothing, as a drill has it.
READ = """
import sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice.beside import Beside
beside = Beside(Path("{into}"))
beside.configure()
beside.start()
print(beside.query("postgres", "{query}"), end="")
beside.remove()
"""
VISITS = """DROP TABLE IF EXISTS visits;
CREATE TABLE visits AS
SELECT id, sha512(('{seed} ' || id)::bytea) AS image, E'{seed} \u00e9\n''"' AS note FROM generate_series(1, 20000) AS id"""
# The catalogue of the repository says when each backup was made.
FORGE = (ROOT / "tests/claims/forged_catalogue.py").read_text().removesuffix("main()\n")
AGED_REPOSITORY = """
PGBACKREST = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "pgbackrest", "--stanza=main"]
for name in ("backup/main/backup.info", "backup/main/backup.info.copy"):
    catalogue = read(subprocess.run([*PGBACKREST, "repo-get", name], capture_output=True, text=True, check=True).stdout)
    for label, value in sorted(catalogue["backup:current"].items())[{first}:]:
        made = json.loads(value)
        older = {key: made[key] - {days} * 86400 for key in ("backup-timestamp-start", "backup-timestamp-stop")}
        catalogue["backup:current"][label] = json.dumps(made | older, separators=(",", ":"), sort_keys=True)
    subprocess.run([*PGBACKREST, "repo-put", name], input=written(catalogue), text=True, check=True)
"""
# Those of pg_basebackup bear it in their names.
AGED_COPIES = """
import datetime, sys
from pathlib import Path
for path in list(Path("/srv/database-copies").iterdir()):
    number, made, kind = path.name.split("-")
    then = datetime.datetime.strptime(made, "%Y%m%dT%H%M%SZ") - datetime.timedelta(days={days})
    path.rename(path.with_name(f"{number}-{then:%Y%m%dT%H%M%SZ}-{kind}"))
"""
NOTES = "SELECT string_agg(note, ' ' ORDER BY ctid) FROM notes"
ALL = "SELECT count(*), max(note), md5(string_agg(image::text, ' ' ORDER BY id)) FROM visits"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A practice whose cluster nobody has backed up yet."""
    with new_server() as server:
        server.out(f"cp /etc/machine-id /backup/; {MAKE_CLUSTER}")
        yield server


@contextmanager
def of_a_cluster(
    kind: str, store: str, victim: str, aged: str, whole: tuple[str, ...], changes: str, _: Path, request: pytest.FixtureRequest
) -> Iterator[Kept]:
    """An engine that keeps the practice's cluster; `aged` makes all that it has kept so many days older, `whole` asks for a full one, and
    `changes` ends the name of one that is none."""
    server: Server = request.getfixturevalue("server")
    engine: Any = There(server, kind)

    def write(seed: int) -> str:
        server.sql(VISITS.format(seed=seed))
        return server.sql(ALL)

    def destroy() -> None:
        """The engine gets nothing of it; for what comes after, the server is put back as it was."""
        server.out(f"systemctl stop postgresql@17-main.service; cp -a {DATA} /root/kept; rm -rf {DATA}")

    def restored(snapshot: str) -> str:
        into = DATA.with_name("restored")
        engine.restore(snapshot, into)
        with pytest.raises(Trouble):
            engine.restore(snapshot, into)  # nothing is written over
        return server.out("python3 -I -", READ.format(into=into, query=ALL))

    def damaged() -> Callable[[], None]:
        path = server.out(f"find {store} -path '{victim}' -type f -size +0 -printf '%s %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-")
        server.out(f"cp -p {path} /root/whole; printf '\\377\\0\\377' | dd of={path} bs=1 seek=$(($(stat -c %s {path}) / 2)) conv=notrunc")
        return lambda: print(server.out(f"cp -p /root/whole {path}"))

    def missing() -> Path:
        """Nothing answers any more, or never did."""
        with pytest.raises(Trouble):
            engine.back_up([DATA])
        server.out(f"mv /root/kept {DATA}; systemctl start postgresql@17-main.service")
        return Path("/srv")

    def expire(days: int) -> Any:
        """Twice: what is old enough is needed until something that is old enough as well can be gone back to instead."""
        for _ in range(2):
            server.out("python3 -I -", aged.replace("{days}", str(days)).replace("{first}", "0"))
            engine.back_up([DATA], *whole)
        if kind == "BaseBackup":
            engine.forget(30)
        return engine

    yield Kept(engine, DATA, (), write, destroy, restored, damaged, missing, expire, changes)


ENGINES: dict[str, Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Kept]]] = {
    "restic off-site": restic_offsite,
    "restic on a medium": restic_medium,
    "pgBackRest": partial(of_a_cluster, "PgBackRest", REPOSITORY, "*/bundle/*", FORGE + AGED_REPOSITORY, ("full",), "D"),
    "pg_basebackup": partial(of_a_cluster, "BaseBackup", str(STORE), "*full/base/*", AGED_COPIES, (), f"-{CHANGES}"),
}


def tree(top: Path) -> Files:
    """Each file with its rights and its digest."""
    return {
        str(file.relative_to(top)): (file.stat().st_mode, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(top.rglob("*"))
        if file.is_file()
    }


def write(top: Path, seed: int) -> Files:
    """Files that look like nothing, and some odd ones; the second time one directory has another name."""
    if (top / "0").exists():
        (top / "0").rename(top / f"moved {seed}")
    for number in range(20):
        path = top / f"{number % 4}" / f"{number} é\n'\".bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha512(f"{seed} {number}".encode()).digest() * 500)
    (top / "empty").touch()
    (top / "private").write_text(f"{seed}")
    (top / "private").chmod(0o600)
    return tree(top)


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_keeps_what_it_was_given(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Write, back up, change, back up, destroy; restore the second, then the first; list, verify, find damage, expire."""
    with ENGINES[kind](tmp_path, request) as kept:
        engine, data = kept.engine, kept.data
        with pytest.raises(Trouble):
            engine.snapshots()
        engine.prepare()
        engine.prepare()  # again changes nothing
        assert engine.snapshots() == []
        first = kept.write(1)
        ids = [engine.back_up([data], *kept.tags)]
        second = kept.write(2)
        assert second != first, "control: something changed"
        tags = (*kept.tags, f"with:{ids[0][:8]}") if kept.tags else ()
        ids.append(engine.back_up([data], *tags))
        assert ids[1].endswith(kept.changes), "it is not the changes alone"
        kept.destroy()
        for snapshot, wanted in ((ids[1], second), (ids[0], first)):
            assert kept.restored(snapshot) == wanted
        listed = engine.snapshots()
        assert [snapshot.id for snapshot in listed] == ids and listed[1].tags == tags
        assert all(abs(snapshot.at - time.time()) < 120 for snapshot in listed)
        engine.verify()
        put_right = kept.damaged()
        with pytest.raises(Trouble):
            engine.verify()
        put_right()
        engine.verify()
        with pytest.raises(Trouble):
            engine.back_up([kept.missing()])
        kept.write(3)
        left = [snapshot.id for snapshot in kept.expire(40).snapshots()]
        assert left and not set(left) & set(ids), "what is young enough is there, and nothing else"
        with pytest.raises(Trouble):
            kept.restored(ids[0])


def test_the_fallback_is_at_hand(server: Server) -> None:
    """By the command that a person would type, on a server that runs as usual."""
    made = server.practice("fallback")
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.strip() in server.practice("fallback", "--list").stdout
    assert server.practice("fallback", "--verify").returncode == 0
    refused = server.practice("fallback", "--restore", made.stdout.strip(), "--into", str(DATA))
    assert refused.returncode == 1 and "is there already" in refused.stdout, refused
    assert server.out(f"stat -c '%U %a' {STORE}") == "postgres 700"


def test_without_pgbackrest_the_practice_goes_back_to_such_a_copy(server: Server) -> None:
    """And returns; with pgBackRest again what followed is in the archive, in a history of its own: a drill rolls forward to it."""
    There(server, "PgBackRest").prepare()
    server.sql("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('before')")
    copy = server.practice("fallback").stdout.strip()
    server.sql("INSERT INTO notes VALUES ('mistake')")
    refused = server.practice("restore", "--copy", "000099-20260101T000000Z-full", "--yes")
    assert refused.returncode == 1 and "there is no copy" in refused.stdout, refused
    server.out("mv /usr/bin/pgbackrest /root/; rm -f /run/postgresql/pgbackrest/*")
    try:
        assert f"--copy {copy}" in server.practice("restore").stdout
        server.out(f"/usr/local/bin/practice restore --copy {copy}", "restore\n")
        assert server.sql(NOTES) == "before"
        server.sql("INSERT INTO notes VALUES ('after')")
    finally:
        server.out("mv /root/pgbackrest /usr/bin/")
    server.out("systemctl start practice-backup@full.service")
    server.sql("INSERT INTO notes VALUES ('later')")
    server.moment()
    drilled = server.said("drill", "--query", NOTES, "--database", "postgres")
    assert drilled["rows"] == ["before after later"]
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
    assert server.sql(NOTES) == "before mistake"
