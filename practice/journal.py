"""What a restore has begun and not ended: one small file on the encrypted volume, so that a power cut in the middle is no riddle."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from practice import notes
from practice.alarm import VOLATILE
from practice.offsite import REBUILD
from practice.server import Trouble

JOURNAL = Path("/var/lib/cabinet/restore.json")

UNFINISHED = "This server is not rebuilt to its end, and nothing is sent outside. Go on: sudo practice rebuild --from {}"
REPLACED = "what was restored has taken its place already; `practice restore --resume` ends it, and `--back` returns"

Work = dict[str, Any]


def begun() -> Work | None:
    """The restore that was begun and has not come to its end."""
    try:
        return json.loads(JOURNAL.read_text())
    except FileNotFoundError:
        return None


def write(work: Work) -> None:
    """Say how far it is; it is on the disk when this returns."""
    notes.write(JOURNAL, work)
    synced(JOURNAL.parent)


def ended() -> None:
    """It has come to its end, whichever."""
    JOURNAL.unlink(missing_ok=True)
    synced(JOURNAL.parent)


def synced(directory: Path) -> None:
    """What was renamed in it is so after a power cut."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nobody else restores meanwhile. Raises Trouble when somebody does."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with (VOLATILE / "restore.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble("another restore is going on") from None
        yield


def look() -> dict[str, str]:
    """A sentence when a restore was interrupted; one that is going on is none."""
    work = begun()
    if work is None:
        return {"restore": UNFINISHED.format(notes.read(REBUILD).get("source", "offsite"))} if REBUILD.exists() else {}
    try:
        with alone():
            return {"restore": f"A restore was interrupted ({describe(work)}). Go on or go back: sudo practice restore"}
    except Trouble:
        return {}


def describe(work: Work) -> str:
    """What it is about, in a few words; the name of a database is the clinic's, no patient's."""
    goal = work.get("to") or work.get("label") or work.get("copy") or work.get("kept")
    return f"{'the database ' + work['name'] if work.get('name') else 'everything'} to {goal}, begun {work['id']}"
