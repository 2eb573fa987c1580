"""Each quarter's drill: what lies outside is fetched as a new server would, and the database in it restored beside the live one.

It begins with a row that the ordinary service carries outside: how old the newest change is that has arrived there is what would be lost
if this server were gone at that moment. What is fetched lies on the encrypted volume, and goes when the drill ends.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import random
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from practice import courier, drilled, fetch, offsite, owners, rehearsal
from practice.alarm import VOLATILE
from practice.drill import restored
from practice.engine import Restic
from practice.server import Trouble, run, spare, sql

PLACE = Path("/var/lib/postgresql/outside")
LOCK = VOLATILE / "outside.lock"
# Of the documents so many, and no more than so many bytes: all of them could be more than the volume has room for twice.
SAMPLE_FILES, SAMPLE_BYTES = 20, 256 << 20
# Read anew so often until what was entered has left.
LOOK_SECONDS = 2
Work = dict[str, Any]


def proved() -> drilled.Drill:
    """Let what is entered now leave by itself, fetch the newest set, and check all that can be checked of it. Raises Trouble."""
    believed, token = rehearsal.believes(), secrets.token_hex(16)
    with rehearsal.the_canary():
        moment = rehearsal.planted(token, token)
        has_left(moment, time.time())
        work, chosen = fetch.newest(), time.time()
    with fetched(work) as files, restored() as scratch:
        reached = scratch.beside.reached()
        drill = rehearsal.examined(scratch, believed, moment, token)
    newest = datetime.datetime.fromisoformat(reached or moment).timestamp()
    drill |= {"copied": work["at"], "newest": newest, "age_seconds": round(chosen - newest, 1)}
    return drill | files


def has_left(moment: str, since: float) -> None:
    """The service that sends has read the changes after `since`, by itself. Raises Trouble when it does not for as long as is an alarm."""
    minutes = json.loads(offsite.CONFIG.read_text())["max_age_minutes"]
    while offsite.kept().get("sent", {}).get("changes", {}).get("at", 0) < since:
        if time.time() > since + minutes * 60:
            reason = offsite.kept().get("errors", {}).get("send")
            raise Trouble(offsite.because(f"What was entered at {moment} had not left the practice after {minutes} minutes", reason))
        time.sleep(LOOK_SECONDS)


@contextmanager
def fetched(work: Work) -> Iterator[Work]:
    """What was fetched is compared with what is here, and pgBackRest reads the repository in it; gone afterwards. Raises Trouble."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        removed()
        try:
            files = brought(work, fetch.opened(work["generation"]))
            files["fetch_seconds"] = round(time.monotonic() - began, 1)
            run("chown", "-R", "postgres:postgres", str(PLACE), timeout=3600)
            with its_repository():
                yield files
        finally:
            removed()


def brought(work: Work, engine: Restic) -> Work:
    """The backups, the changes and the configuration lie at PLACE, and some documents, compared; how much it was. Raises Trouble."""
    ids = {one.id: one for one in engine.snapshots()}
    copies = {kind: ids[id] for kind, id in work["snapshots"].items()}
    kinds = ("database", "changes", "configuration")
    size = sum(copies[kind].bytes for kind in kinds)
    spare(PLACE.parent, size + SAMPLE_BYTES + sql("SELECT to_json(sum(pg_database_size(oid))) FROM pg_database"))
    for kind in kinds:
        fetch.fetched(work, kind, PLACE)
    documents = sample(settled([courier.DOCUMENTS], copies["documents"].at))
    if documents:
        engine.restore(copies["documents"].id, PLACE, documents)
    compared("documents", documents, copies["documents"].at)
    configuration = list(settled(courier.CONFIGURATION, copies["configuration"].at))
    compared("files of the configuration", configuration, copies["configuration"].at)
    return {"fetched_bytes": size, "files": len(documents) + len(configuration)}


@contextmanager
def its_repository() -> Iterator[None]:
    """PgBackRest, and PostgreSQL that calls it, reads what was fetched: its environment goes before its configuration."""
    os.environ["PGBACKREST_REPO1_PATH"] = str(PLACE / courier.REPOSITORY.relative_to("/"))
    try:
        yield
    finally:
        del os.environ["PGBACKREST_REPO1_PATH"]


def tidied() -> None:
    """What a power cut has left of such a drill is gone; one that is going on is none of it."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        removed()


def removed() -> None:
    """Nothing that was fetched is left."""
    shutil.rmtree(PLACE, ignore_errors=True)


def settled(paths: Iterable[Path], before: float) -> Iterator[Path]:
    """The files there that nobody has touched since: they must be in the copy, as they are."""
    for path in paths:
        inner = owners.entries(path) if path.is_dir() else [(str(path), path.lstat())] if path.exists() else []
        yield from (Path(name) for name, status in inner if stat.S_ISREG(status.st_mode) and status.st_ctime < before)


def sample(files: Iterable[Path]) -> list[Path]:
    """Some of them, others each time, with room for all."""
    found = list(files)
    random.SystemRandom().shuffle(found)
    chosen, size = [], 0
    for path in found:
        more = path.stat().st_size
        if len(chosen) < SAMPLE_FILES and size + more <= SAMPLE_BYTES:
            chosen, size = [*chosen, path], size + more
    return chosen


def compared(what: str, paths: list[Path], before: float) -> None:
    """Raises Trouble unless each of them is in the copy as it is here; of what was changed meanwhile nothing is known."""
    wrong = [path for path in paths if not same(path, PLACE / path.relative_to("/")) and path.exists() and path.lstat().st_ctime < before]
    if wrong:
        raise Trouble(f"{len(wrong)} of {len(paths)} {what} are not in the copy outside, or not as they are here")


def same(here: Path, there: Path) -> bool:
    """Whether two files hold the same, and are for the same people."""
    kept = ("st_mode", "st_uid", "st_gid", "st_size")
    try:
        if [getattr(here.lstat(), key) for key in kept] != [getattr(there.lstat(), key) for key in kept]:
            return False
        return run("cmp", "--silent", str(here), str(there), timeout=3600) == ""
    except (OSError, Trouble):
        return False
