"""What a command remembers between its runs: a JSON file that is changed in one step, and a lock that only one holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Notes = dict[str, Any]
# What is noted further ahead of now was noted by a clock that was.
AHEAD = 3600


def read(path: Path) -> Notes:
    """What is noted there; nothing before the first note."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text())
    return {}


def believed(at: float | None, now: float) -> float:
    """When something was done that is noted; 0 when it was not, or lies ahead: its age would be negative, and never too much."""
    return at if at and at <= now + AHEAD else 0.0


def change(path: Path, how: Callable[[Notes], None]) -> None:
    """Change what is noted, in one step; two services may do so at the same time."""
    with only_one(path.with_suffix(".lock")):
        notes = read(path)
        how(notes)
        write(path, notes)


def write(path: Path, what: Any) -> None:
    """Put `what` there as JSON, in one step: after a power cut it is the old or the new, and whole."""
    staged = path.with_name(f".{path.name}")
    with staged.open("w") as file:
        json.dump(what, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)


def held(lock: Path) -> bool:
    """Whether somebody is at it."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Whoever finds another at it waits for it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
