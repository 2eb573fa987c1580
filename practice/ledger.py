"""What this server has written outside: by that, a copy that it has not made is noticed, and one that suddenly holds far less.

Each copy has two words in the repository's ledger, when restic was called and the id that it got; the first is there before restic begins.
So a copy of ours whose id was never told, since the power went, is none of somebody else's. Whoever has root here can write into it, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from practice import notes, offsite
from practice.engine import Restic, Snapshot

# So long after it was called restic may look at the clock.
BEGINS = 3600
ID = 64
# Less than such a part of the bytes, and of the files, of the copy before is too little, if more than a trifle is gone. Of pgBackRest's
# backups whole sets expire at once, and it bundles files. Changes expire with them, to a rest that says nothing: they are not weighed.
LEAST = {"documents": (0.5, 0.5), "database": (0.25, 0.0)}
TRIFLE = (10 << 20, 20)
# Stands in the ledger after each look: a run from before it that never told its id has left by then what it may have left.
LOOKED = "looked"
# It is as much again with some of it deleted since, by people who went on working.
AGAIN = 0.9


class Written(Restic):
    """A repository outside, of which this server knows what it has written there."""

    def __init__(self, generation: str, *engine: Any) -> None:
        super().__init__(*engine)
        self.generation = generation

    def _ask(self, *words: str, stdin: str = "", timeout: float = 600) -> str:
        # Each time: the answer to a copy that has arrived may get lost, and then restic is called again, and makes another.
        if words[0] == "backup":
            add(opened(self, time.time()), f"\n{int(time.time())}")
        return super()._ask(*words, stdin=stdin, timeout=timeout)

    def _backup(self, words: Sequence[str], tags: Sequence[str], stdin: str = "") -> dict[str, Any]:
        made = super()._backup(words, tags, stdin)
        add(opened(self, time.time()), f" {made['snapshot_id']}")
        weigh(tags[0], (made["total_bytes_processed"], made["total_files_processed"]))
        return made


def ledgers() -> list[Path]:
    """Those that there are, one for each repository."""
    return list(offsite.HOME.glob("written-*"))


def opened(engine: Written, now: float) -> Path:
    """The ledger of a repository. Raises Trouble.

    Where none was kept before, as on a server that was rebuilt, what lies there is taken for ours, but for what bears a time that has
    not come. In another new one nothing is ours: whoever has the passwords could have begun it before us.
    """
    file = offsite.HOME / f"written-{engine.generation}"
    with offsite.only_one("ledger"):  # those that send and read begin in the same second
        if not file.exists():
            ours = not ledgers() or offsite.kept().get("generation") == engine.generation
            there = [one.id for one in engine.snapshots() if one.at <= now + notes.AHEAD] if ours else []
            staged = file.with_name(f".{file.name}")
            staged.unlink(missing_ok=True)
            add(staged, "\n".join(there))
            staged.rename(file)
    return file


def add(file: Path, words: str) -> None:
    """They are on the disk when this returns."""
    with file.open("a") as ledger:
        ledger.write(words)
        ledger.flush()
        os.fsync(ledger.fileno())


def forget(generation: str) -> None:
    """This repository counts from now on, and no other is looked at."""
    for file in ledgers():
        if file.name != f"written-{generation}":
            file.unlink(missing_ok=True)


def look(engine: Written, now: float) -> None:
    """Note which snapshots there are not ours; they stay noted until a person accepts them. Raises Trouble."""
    file = opened(engine, now)
    there = engine.snapshots()  # before the ledger is read: one that arrives meanwhile is in it
    words = file.read_text().split()
    foreign = {one.id: one.at for one in strangers(there, words)}
    if foreign:
        offsite.note(lambda state: state.setdefault("foreign", {}).update(foreign))
    untold = [one.id for one in there if one.id not in {*words, *foreign}]
    add(file, "".join(f"\n0 {id}" for id in untold) + f"\n{LOOKED}")


def strangers(there: Iterable[Snapshot], words: list[str]) -> list[Snapshot]:
    """Those that are not in the ledger; each run since the last look that never told its id may have made one, when it began."""
    known = set(words)
    left = [one for one in there if one.id not in known]
    since = len(words) - words[::-1].index(LOOKED) if LOOKED in words else 0
    for began, id in pairwise([*words[since:], ""]):
        if began.isdigit() and len(began) < ID != len(id):
            untold = next((one for one in left if 0 <= one.at - int(began) <= BEGINS), None)
            left = [one for one in left if one is not untold]
    return left


def weigh(kind: str, holds: tuple[int, int]) -> None:
    """Note it when a copy holds far less, in bytes or files, than the one before; and when it holds as much again."""

    def change(state: offsite.State) -> None:
        held, shrunk = state.setdefault("held", {}), state.setdefault("shrunk", {})
        before = held.get(kind, holds)
        parts = [(least, *pair) for least, *pair in zip(LEAST[kind], TRIFLE, before, holds, strict=True) if least]
        less = any(has < least * had and had - has > trifle for least, trifle, had, has in parts)
        if less or (kind in shrunk and any(has < AGAIN * had for _, _, had, has in parts)):
            shrunk[kind] = holds
        else:
            held[kind] = holds
            shrunk.pop(kind, None)

    if kind in LEAST:
        offsite.note(change)


def accept(_now: float) -> None:
    """A person has looked: what was noted is right, and nothing that comes after it."""

    def change(state: offsite.State) -> None:
        foreign, shrunk = state.pop("foreign", {}), state.pop("shrunk", {})
        for file in ledgers():
            add(file, "".join(f"\n0 {id}" for id in foreign))
        state.setdefault("held", {}).update(shrunk)
        print(f"a person accepts {len(foreign)} copies that were not made here, and less of: {', '.join(shrunk) or 'nothing'}", flush=True)

    offsite.note(change)
