"""What a restore has begun and not ended: one small file on the encrypted volume, so that a power cut in the middle is no riddle.

It runs in a session of its own, so that a connection that ends does not end it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import syslog
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from practice import notes
from practice.alarm import VOLATILE
from practice.offsite import REBUILD
from practice.server import Trouble

JOURNAL = Path("/var/lib/cabinet/restore.json")
LOCK = VOLATILE / "restore.lock"
# sshd ends a shell in which nothing was said for ten minutes.
SILENT_SECONDS = 240
GOES_ON = "It goes on, also when this connection ends. What comes of it: sudo journalctl -t practice"

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
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble("another restore is going on") from None
        yield


def apart(what: Callable[[], str]) -> str:
    """Do it in a session of its own, which goes on when the terminal is lost; what came of it, also in the system's log. Raises Trouble."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        by_itself(what, writing)
    os.close(writing)
    with open(reading) as answer:
        try:
            while not select.select([answer], [], [], SILENT_SECONDS)[0]:
                print(GOES_ON, file=sys.stderr, flush=True)
            said = answer.read()
        except KeyboardInterrupt:
            said = ""
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGINT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not said:
        sys.exit(abs(code))
    well, text = json.loads(said)
    if not well:
        raise Trouble(text)
    return text


def by_itself(what: Callable[[], str], writing: int) -> NoReturn:
    """The child's part: it holds the lock that its parent has taken, also when that is gone."""
    said, text = b"", "it ended in an error of its own"
    try:
        os.setsid()
        try:
            well, text = True, what()
        except Trouble as trouble:
            well, text = False, str(trouble)
        said = json.dumps([well, text]).encode()
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        syslog.openlog("practice")
        syslog.syslog(f"restore: {text}")
        with contextlib.suppress(OSError):
            os.write(writing, said)
        os._exit(0 if said else 1)


def look() -> dict[str, str]:
    """A sentence when a restore was interrupted; one that is going on is none."""
    work = begun()
    if work is None:
        return {"restore": UNFINISHED.format(notes.read(REBUILD).get("source", "offsite"))} if REBUILD.exists() else {}
    if notes.held(LOCK):
        return {}
    return {"restore": f"A restore was interrupted ({describe(work)}). Go on or go back: sudo practice restore"}


def describe(work: Work) -> str:
    """What it is about, in a few words; the name of a database is the clinic's, no patient's."""
    goal = work.get("to") or work.get("label") or work.get("copy") or work.get("kept")
    return f"{'the database ' + work['name'] if work.get('name') else 'everything'} to {goal}, begun {work['id']}"
