"""Make a backup now, in the same way as the timers do, and wait for it; or list what can be gone back to."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from practice import counting
from practice.clusters import PgBackRest
from practice.health import backups, clock, database, disk_troubles, used_percent
from practice.server import DATA, Trouble, is_root, repository


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice backup [--full | --list | --check] [--json]`."""
    parser = commands.add_parser("backup", help="make a backup now, or list the backups", description=__doc__)
    parser.add_argument("--full", action="store_true", help="everything, not only what has changed since the last full backup")
    parser.add_argument("--list", action="store_true", help="make none; list those that exist")
    parser.add_argument(
        "--check", action="store_true", help="make none; exit code 0 when there is one and the changes since it have no hole"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: made (or listed); 1: it failed, and an alarm stands."""
    if not is_root():
        print("practice backup: only root may do this; use sudo")
        return 2
    if arguments.check:
        return check()
    kind = "full" if arguments.full else "diff"
    try:
        if not arguments.list:
            PgBackRest().back_up([DATA], kind)
        taken = repository().get("backup", [])
    except Trouble as trouble:
        # pgBackRest 2.55 says of a full disk that there is no such file, and of a clock that it wonders.
        why = disk_troubles({"/backup": used_percent("/backup")}) | backups({}, time.time())[1]
        print("\n".join([f"practice backup: {trouble}", *why.values()]) + f"\nWhy: journalctl -u 'practice-backup@{kind}.service'")
        return 1
    shown = taken if arguments.list else taken[-1:]
    counts, why_not = counting.asked("backup", {"newest": bool(taken)})
    if arguments.json:
        print(json.dumps([backup | {"counts": counts} for backup in shown], indent=2))
    else:
        print("\n".join([*(describe(backup) for backup in shown), *([f"Of them {why_not}"] if why_not else [])]) or "There is no backup.")
    return 0


def check() -> int:
    """Whether the newest backup and the changes since reach up to now."""
    now = time.time()
    cluster, wrong = database(now)
    backup, more = backups(cluster, now)
    broken = [text for key, text in (wrong | more).items() if key in ("database", "wal-lost")] or ([] if backup else list(more.values()))
    print("\n".join(broken) or f"any moment since {clock(backup['oldest'])} can be gone back to")
    return 1 if broken else 0


def describe(backup: dict[str, Any]) -> str:
    """One line for one backup."""
    size = backup["info"]
    return (
        f"{backup['label']:<34} {backup['type']:<5} {clock(backup['timestamp']['stop'])}  "
        f"{size['size'] >> 20} MiB, {size['repository']['delta'] >> 10} KiB on the backup disk"
    )
