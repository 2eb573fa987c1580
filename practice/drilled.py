"""What the nightly drills have shown: numbers and times alone, nothing about a patient; kept here, looked at by the watch."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from practice import notes
from practice.server import SETTINGS, settings

HISTORY = Path("/var/lib/cabinet/drills.json")
KEPT = 100
NONE = "no backup was restored on trial yet"

Drill = dict[str, Any]


def kept() -> list[Drill]:
    """The last drills, oldest first."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(HISTORY.read_text())
    return []


def note(drill: Drill) -> None:
    """Add one, in one step."""
    notes.write(HISTORY, [*kept(), drill][-KEPT:])


def look(now: float) -> tuple[list[Drill], dict[str, str]]:
    """The history, and a sentence when for too long no drill has succeeded. Before the first, time runs since the deploy that asked."""
    drills, days = kept(), settings().get("drill_days")
    if days is None:  # a deploy that has not come that far
        return drills, {}
    well = [drill["at"] for drill in drills if drill["ok"]]
    since = well[-1] if well else SETTINGS.stat().st_mtime
    if now - since <= days * 86400:
        return drills, {}
    why = f": {drills[-1]['why']}" if drills and not drills[-1]["ok"] else ""
    return drills, {"drill": f"No backup was restored on trial since {moment(since)}{why}."}


def describe(drill: Drill) -> str:
    """One line about one drill."""
    if not drill["ok"]:
        return f"{moment(drill['at'])}  failed after {drill['seconds']:.0f} s: {drill['why']}"
    return (
        f"{moment(drill['at'])}  backup {drill['label']} restored in {drill['restore_seconds']:.0f} s, "
        f"checked in {drill['check_seconds']:.0f} s: {drill['bytes'] >> 20} MiB, {drill['tables']} tables, {drill['rows']} rows"
    )


def newest(drills: list[Drill]) -> str:
    """One line about the newest."""
    return describe(drills[-1]) if drills else NONE


def moment(seconds: float) -> str:
    """As people write it, in the practice's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
