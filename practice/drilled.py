"""What the drills have shown, each night's and each quarter's: numbers and times alone, nothing about a patient; the watch looks at it."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from practice import notes
from practice.offsite import CONFIG
from practice.server import SETTINGS, settings

HISTORY = Path("/var/lib/cabinet/drills.json")
KEPT = 100
# Where what was restored came from: the backup disk each night, the copy outside each quarter. Two Sundays of neighbouring quarters
# are at most 98 days apart.
DISK, OUTSIDE = "disk", "offsite"
OUTSIDE_DAYS = 100
NONE = "no backup was restored on trial yet"

Drill = dict[str, Any]


def kept() -> list[Drill]:
    """The last drills, oldest first."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(HISTORY.read_text())
    return []


def source(drill: Drill) -> str:
    """Where it came from; what was noted before there were two does not say."""
    return drill.get("from", DISK)


def from_there(drills: list[Drill], where: str) -> list[Drill]:
    """Those of one source."""
    return [drill for drill in drills if source(drill) == where]


def note(drill: Drill) -> None:
    """Add one, in one step; each night's do not push out each quarter's."""
    with notes.only_one(HISTORY.with_suffix(".lock")):
        seen, left = Counter[str](), []
        for one in reversed([*kept(), drill]):
            seen[source(one)] += 1
            left += [one] if seen[source(one)] <= KEPT else []
        notes.write(HISTORY, left[::-1])


def look(now: float) -> tuple[list[Drill], dict[str, str]]:
    """The history, and a sentence when for too long no drill has succeeded. Before the first, time runs since the deploy that asked."""
    drills, days, wrong = kept(), settings().get("drill_days"), {}
    if days is not None and (said := overdue(from_there(drills, DISK), SETTINGS, days, now)):  # else a deploy has not come that far
        wrong["drill"] = f"No backup was restored on trial {said}."
    if CONFIG.exists():
        outside = from_there(drills, OUTSIDE)
        # The unit that failed is forgotten at the next boot, and the next quarter is far away.
        failed = f"when that was last tried, {moment(outside[-1]['at'])}: {outside[-1]['why']}" if outside and not outside[-1]["ok"] else ""
        if said := failed or overdue(outside, CONFIG, OUTSIDE_DAYS, now):
            wrong["drill-offsite"] = f"The copy outside was not restored on trial {said}."
    return drills, wrong


def overdue(drills: list[Drill], asked: Path, days: int, now: float) -> str:
    """Since when none has succeeded, and why the newest has not; nothing while that is not long ago."""
    well = [drill["at"] for drill in drills if drill["ok"] and notes.believed(drill["at"], now)]
    since = well[-1] if well else asked.stat().st_mtime
    if now - since <= days * 86400:
        return ""
    return f"since {moment(since)}" + (f": {drills[-1]['why']}" if drills and not drills[-1]["ok"] else "")


def describe(drill: Drill) -> str:
    """One line about one drill."""
    where = "the copy outside" if source(drill) == OUTSIDE else ""
    if not drill["ok"]:
        return f"{moment(drill['at'])}  {where}{where and ' '}failed after {drill['seconds']:.0f} s: {drill['why']}"
    exact = f" ({drill['tables_exact']} to the row)" if "tables_exact" in drill else ""
    fetched = f"{where} of {moment(drill['copied'])} fetched in {drill['fetch_seconds']:.0f} s, " if where else ""
    lost = f", {drill['files']} files; its newest change was {drill['age_seconds']:.0f} s old" if where else ""
    return (
        f"{moment(drill['at'])}  {fetched}backup {drill['label']} restored in {drill['restore_seconds']:.0f} s, "
        f"checked in {drill['check_seconds']:.0f} s: {drill['bytes'] >> 20} MiB, "
        f"{drill['tables']} tables{exact}, {drill['rows']} rows{lost}"
    )


def newest(drills: list[Drill]) -> str:
    """One line about the newest night's."""
    nights = from_there(drills, DISK)
    return describe(nights[-1]) if nights else NONE


def outside(drills: list[Drill]) -> str:
    """When the copy outside was last restored on trial, in a few words."""
    well = [drill for drill in from_there(drills, OUTSIDE) if drill["ok"]]
    return f"restored on trial {moment(well[-1]['at'])[:10]}" if well else "never restored on trial"


def moment(seconds: float) -> str:
    """As people write it, in the practice's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
