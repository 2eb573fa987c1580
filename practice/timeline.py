"""Which history was the practice's at a moment, and from which backup it is reached.

Whoever goes back leaves a history and begins a new one. PostgreSQL numbers them (timelines), and the one that became the practice's
last has the highest number: practice/restore.py sees to that, also on the way back. What followed in a history that was left is no part
of the next one.
"""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import dataclass
from typing import Any

from practice.clusters import EXACTLY
from practice.health import clock
from practice.server import STANZA, Trouble, as_postgres, repository

# Instead of a moment: the end of what is archived.
NEWEST = "newest"


@dataclass(frozen=True)
class Origin:
    """Where a restore starts from and how far it goes: a backup's label, and pgBackRest's options."""

    label: str
    bytes: int  # the cluster's size, as the backup found it
    options: tuple[str, ...]


def origin(to: str | None = None, label: str | None = None) -> Origin:
    """How to get to the moment `to`, or to exactly what the backup `label` holds, or to all there is (NEWEST). Raises Trouble."""
    found = repository()
    if label is not None:
        held = next((backup for backup in found.get("backup", []) if backup["label"] == label), None)
        if held is None:
            raise Trouble(f"there is no backup {label}; `practice backup --list` shows what there is")
        return Origin(label, held["info"]["size"], EXACTLY)
    moment = parsed(to) if to not in (None, NEWEST) else None
    number, left = followed(found, moment.timestamp() if moment else time.time())
    held = newest(found, moment.timestamp() if moment else time.time(), number, left)
    how = ["--type=default"] if moment is None else ["--type=time", f"--target={moment.isoformat(sep=' ')}", "--target-action=promote"]
    return Origin(held["label"], held["info"]["size"], (*how, f"--target-timeline={number}"))


def parsed(to: str) -> datetime.datetime:
    """The moment meant; without an offset, in the practice's time zone. Raises Trouble."""
    try:
        return datetime.datetime.fromisoformat(to).astimezone()
    except ValueError:
        raise Trouble(f'"{to}" is not a moment; one is "2026-11-22 14:05:00"') from None


def newest(found: dict[str, Any], moment: float, number: int, left: dict[int, int]) -> dict[str, Any]:
    """The newest backup from before the moment that belongs to the history `number`. Raises Trouble when there is none.

    Left to choose, pgBackRest takes the newest of all, which may belong to a history that was left (its issues 817, 1023, 593).
    """
    older = [backup for backup in found.get("backup", []) if backup["timestamp"]["stop"] < moment]
    ours = [backup for backup in older if belongs(backup, number, left)]
    if not ours:
        raise Trouble(f"no backup is older than {clock(moment)}; `practice backup --list` shows what there is")
    return ours[-1]


def belongs(backup: dict[str, Any], number: int, left: dict[int, int]) -> bool:
    """Whether a backup was made in the history `number`, or in one before it, before that was left."""
    its = int(backup["archive"]["stop"][:8], 16)
    return its == number or (its in left and position(backup["lsn"]["stop"]) <= left[its])


def followed(found: dict[str, Any], moment: float) -> tuple[int, dict[int, int]]:
    """The history that was the practice's at a moment; and for each one before it, where it was left. Raises Trouble."""
    archives = found.get("archive", [])
    if not archives:
        return 1, {}
    where = f"archive/{STANZA}/{archives[-1]['id']}"
    listed = json.loads(as_postgres("pgbackrest", f"--stanza={STANZA}", "--output=json", r"--filter=\.history$", "repo-ls", where))
    # It became the practice's when its first file came into the repository.
    names = [name for name, entry in listed.items() if name.endswith(".history") and entry["time"] <= moment]
    if not names:
        return 1, {}
    name = max(names)
    return int(name[:8], 16), parents(as_postgres("pgbackrest", f"--stanza={STANZA}", "repo-get", f"{where}/{name}"))


def parents(text: str) -> dict[int, int]:
    """What a history file says: each earlier history, and the position at which it was left."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {int(row[0]): position(row[1]) for row in rows}


def position(lsn: str) -> int:
    """PostgreSQL's position in a history, such as 0/5000028, as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)
