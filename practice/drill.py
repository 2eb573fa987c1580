"""Restore into a scratch cluster beside the live one, look at it, throw it away. The live cluster goes on meanwhile.

Without options: the nightly drill, now; or each quarter's, from the copy outside. With others: exactly what was asked for, and what the
restored cluster answers.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from practice import drilled
from practice.alarm import VOLATILE
from practice.beside import Beside
from practice.offsite import CONFIG
from practice.server import Trouble, is_root, run
from practice.timeline import origin

# On the encrypted volume: it holds what the live cluster holds.
SCRATCH = Path("/var/lib/postgresql/scratch")
SERVICES = {drilled.DISK: "practice-drill.service", drilled.OUTSIDE: "practice-offsite-drill.service"}
DATABASES = "SELECT datname FROM pg_database ORDER BY 1"


@dataclass(frozen=True)
class Restored:
    """A running scratch cluster, the backup that it came from, and how long it took to get there."""

    beside: Beside
    label: str
    seconds: float


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice drill [--from disk|offsite] [--history | --here | [--to TIME | --set LABEL] [--query SQL]] [--json]`."""
    parser = commands.add_parser("drill", help="prove that a backup restores, beside the running database", description=__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to", metavar="TIME", help='a moment, such as "2026-11-22 14:05:00+01"; without it, everything there is')
    target.add_argument("--set", metavar="LABEL", help="exactly what a backup holds; `practice backup --list` shows the labels")
    target.add_argument("--history", action="store_true", help="restore nothing; show what the last drills have found, and their times")
    target.add_argument("--here", action="store_true", help="the drill in this process; for its service")
    where = "offsite: from the copy outside, as each quarter; it waits until what is entered now has left, about a quarter of an hour"
    parser.add_argument("--from", choices=list(SERVICES), default=drilled.DISK, dest="source", help=where)
    parser.add_argument("--query", metavar="SQL", help="what to ask the restored cluster; without it, which databases it has")
    parser.add_argument("--database", default="postgres", help="in which of its databases")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: restored, and it answered what it should."""
    if arguments.history:
        shown = drilled.kept()
        print(json.dumps(shown, indent=1) if arguments.json else "\n".join(map(drilled.describe, shown)) or drilled.NONE)
        return 0
    if not is_root():
        print("practice drill: only root may do this; use sudo")
        return 2
    try:
        if arguments.here:
            from practice.rehearsal import rehearse  # noqa: PLC0415 -- it needs what is here

            print(drilled.describe(rehearse(arguments.source)))
        elif arguments.to or arguments.set or arguments.query:
            print(asked(arguments))
        else:
            return started(arguments.source, arguments.json)
    except Trouble as trouble:
        print(f"practice drill: {trouble}")
        return 1
    return 0


def started(source: str, as_json: bool) -> int:
    """What the timer starts each night, or each quarter, now; its failure raises the same alarm. Raises Trouble."""
    if source == drilled.OUTSIDE and not CONFIG.exists():
        raise Trouble("there is no copy outside the practice: the clinic file has no section offsite")
    before = drilled.from_there(drilled.kept(), source)
    with suppress(Trouble):  # its reason is in the history
        run("systemctl", "start", SERVICES[source], timeout=7 * 86400)
    made = drilled.from_there(drilled.kept(), source)[-1:]
    if not made or made == before[-1:]:
        print(f"practice drill: nothing was restored. Why: journalctl -u {SERVICES[source]}")
        return 1
    print(json.dumps(made[0]) if as_json else drilled.describe(made[0]))
    return 0 if made[0]["ok"] else 1


def asked(arguments: argparse.Namespace) -> str:
    """Restore what was asked for, and ask it. Raises Trouble."""
    if arguments.source != drilled.DISK:
        raise Trouble("from the copy outside there is the drill alone; a moment of it comes back by ./cabinet restore, on another machine")
    began = time.monotonic()
    with restored(arguments.to, arguments.set) as scratch:
        answer = scratch.beside.query(arguments.database, arguments.query or DATABASES)
    if not arguments.json:
        return f"{answer}restored in {scratch.seconds:.1f} s"
    report = {"rows": answer.splitlines(), "restore_seconds": round(scratch.seconds, 1), "seconds": round(time.monotonic() - began, 1)}
    return json.dumps(report)


@contextmanager
def restored(to: str | None = None, label: str | None = None) -> Iterator[Restored]:
    """A running scratch cluster; gone afterwards. Raises Trouble."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with (VOLATILE / "drill.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Restoring must not take the disks from the people who work.
        os.nice(10)
        began = time.monotonic()
        beside = Beside(SCRATCH)
        beside.remove()
        start = origin(to, label)
        try:
            beside.restore(start)
            beside.start()
            yield Restored(beside, start.label, time.monotonic() - began)
        finally:
            beside.remove()
