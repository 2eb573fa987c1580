"""The external media, one per working day: which is due, what was written to each; make one ours, or write what is plugged in."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from practice import notes
from practice.server import Trouble, is_root, run

# Written by roles/media.py; without it no day has a medium.
CONFIG = Path("/etc/cabinet/media.json")
# The media that are ours, by the UUID of their encryption.
REGISTRY = Path("/var/lib/cabinet/media.json")
# Held for as long as something is done to a medium.
LOCK = Path("/run/cabinet/media.lock")
BY_UUID = Path("/dev/disk/by-uuid")
SERVICE = "practice-media@{}.service"
# The service's own: what went wrong is noted, and the watch raises the alarm.
NOTED = 75
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = 86400
# Another day's medium stands in for one that is forgotten; not for one that is never seen again.
STANDS_IN_DAYS = 14
REMEMBERED = 60
# What the kernel says where a medium is full, and restic after it.
NO_ROOM = "no space left"
NONE = "there are NONE: the clinic file has no section media"


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice media [enrol WEEKDAY [DEVICE] | write | run NAME]`."""
    parser = commands.add_parser("media", help="the external media: which is due, make one ours, write them", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs")
    actions = parser.add_subparsers(dest="action")
    enrol = actions.add_parser("enrol", help="make a medium that of a weekday; without DEVICE, list what is plugged in")
    enrol.add_argument("weekday", choices=DAYS)
    enrol.add_argument("device", nargs="?", help="such as /dev/sdb, or its serial number")
    enrol.add_argument("--wipe", metavar="SERIAL", default="", help="its serial number, when what it carries may be destroyed")
    actions.add_parser("write", help="write the media that are plugged in, now")
    actions.add_parser("run", help="for the service").add_argument("name", help="what the kernel calls the device")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: done, and nothing is wrong with the media; 1: something is; 2: not allowed."""
    if arguments.action and not is_root():
        print("practice media: only root may do this; use sudo", file=sys.stderr)
        return 2
    try:
        if arguments.action == "run":
            return serve(arguments.name)
        if not CONFIG.exists():
            print("No day has a medium: the clinic file has no section media.")
            return 1
        if arguments.action == "enrol":
            return enrol(arguments)
        if arguments.action == "write":
            write()
    except Trouble as trouble:
        print(f"practice media: {trouble}", file=sys.stderr)
        return 1
    from practice import counting  # noqa: PLC0415 -- what was plugged in is written without

    seen, wrong = look(time.time())
    counts, why_not = counting.asked("media", seen)
    if arguments.json:
        print(json.dumps(seen | {"troubles": wrong, "counts": counts}, indent=2))
    else:
        print("\n".join([*table(seen), *([f"Of them {why_not}"] if why_not else []), *wrong.values()]))
    return 1 if wrong else 0


def enrol(arguments: argparse.Namespace) -> int:
    """Make a medium ours, and have it written at once. Raises Trouble."""
    from practice import medium  # noqa: PLC0415 -- the watch, which asks which is due, does without

    if not arguments.device:
        found = medium.candidates()
        print("\n".join(["Plugged in, and not part of the server:", *found]) if found else "Nothing is plugged in.")
        print(f"Then: sudo practice media enrol {arguments.weekday} DEVICE")
        return 1
    uuid, name = medium.enrol(arguments.weekday, arguments.device, arguments.wipe)
    print(f"This is the medium of {arguments.weekday} now; write that on it. Its id: {uuid}. Leave it plugged in: it is being written.")
    run("systemctl", "start", "--no-block", SERVICE.format(name))
    return 0


def write() -> None:
    """Write each medium of ours that is plugged in, one after the other, and wait for it. Raises Trouble when there is none."""
    names = [name for uuid in notes.read(REGISTRY).get("media", {}) if (name := plugged(uuid))]
    if not names:
        raise Trouble("no medium of this practice is plugged in; `practice media enrol WEEKDAY` makes one")
    for name in names:
        run("systemctl", "start", SERVICE.format(name), timeout=DAY)


def serve(name: str) -> int:
    """What the service does when something was plugged in: write a medium of ours, and leave everything else alone."""
    from practice import medium  # noqa: PLC0415

    try:
        medium.plugged_in(name)
    except (Trouble, medium.Ended) as why:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # may still come: the unit takes an end by it for a good one
        print(f"practice media: {why}", file=sys.stderr)
        return NOTED
    return 0


def plugged(uuid: str) -> str:
    """What the kernel calls the medium with this UUID; nothing when it is not plugged in."""
    link = BY_UUID / uuid
    return os.path.basename(os.path.realpath(link)) if link.exists() else ""


def busy() -> bool:
    """Whether something is being done to a medium."""
    return notes.held(LOCK)


def look(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Which medium is due and what is on each, and what is wrong with that; nothing where the clinic file wants none."""
    if not CONFIG.exists():
        return {}, {}
    days, asked = json.loads(CONFIG.read_text())["days"], CONFIG.stat().st_mtime
    state, writing = notes.read(REGISTRY), busy()
    media = state.get("media", {})
    today = DAYS[datetime.date.fromtimestamp(now).weekday()]
    seen = {
        "days": days,
        "due": today if today in days else None,
        "writing": writing,
        "unknown": state.get("unknown"),
        "media": {uuid: shown(uuid, medium) for uuid, medium in media.items()},
    }
    media = {uuid: medium | {"copies": [at for at in medium["copies"] if notes.believed(at, now)]} for uuid, medium in media.items()}
    wrong = {f"media:{day}": reason for day in days if (reason := overdue(day, media, asked, now))}
    newest = max((at for medium in media.values() for at in medium["copies"]), default=0.0)
    for medium in media.values():
        error = medium.get("error")
        if error and error["at"] > newest and not writing:
            failed = f"The medium of {medium['weekday']} could not be written: {error['why']}."
            larger = f"It is full: take a larger one in its place: sudo practice media enrol {medium['weekday']}"
            wrong["media-failed"] = f"{failed} {larger if NO_ROOM in error['why'] else 'Plug it in again, or another one.'}"
    return seen, wrong


def shown(uuid: str, medium: dict[str, Any]) -> dict[str, Any]:
    """What is told of a medium."""
    copies = medium["copies"]
    kept = {name: medium.get(name) for name in ("weekday", "serial", "error", "note")}
    return kept | {"written": copies[-1] if copies else None, "count": len(copies), "device": plugged(uuid)}


def overdue(day: str, media: dict[str, Any], asked: float, now: float) -> str:
    """Why the medium of `day` is missed, or nothing: the last such day that is over has to have seen it, or another one in its place."""
    back = (datetime.date.fromtimestamp(now).weekday() - DAYS.index(day) - 1) % 7 + 1
    date = datetime.date.fromtimestamp(now) - datetime.timedelta(days=back)
    start, end = (datetime.datetime.combine(date + datetime.timedelta(days=more), datetime.time()).timestamp() for more in (0, 1))
    mine = [at for medium in media.values() if medium["weekday"] == day for at in medium["copies"]]
    newest = max(mine, default=0.0)
    another = any(start <= at < end for medium in media.values() for at in medium["copies"])
    if asked > start or newest >= start or (another and newest >= start - STANDS_IN_DAYS * DAY):
        return ""
    if not any(medium["weekday"] == day for medium in media.values()):
        return f"{day} has no medium: sudo practice media enrol {day}"
    last = f"it was last written on {time.strftime('%Y-%m-%d', time.localtime(newest))}" if mine else "it was never written"
    return f"The medium of {day} was not plugged in on {date}; {last}."


def note(uuid: str, **changes: Any) -> None:
    """Note something of a medium; None takes a note away."""

    def change(state: notes.Notes) -> None:
        medium = state.setdefault("media", {}).setdefault(uuid, {"copies": []})
        medium.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del medium[name]

    notes.change(REGISTRY, change)


def describe(seen: dict[str, Any]) -> str:
    """One line about them."""
    if not seen:
        return NONE
    if seen["writing"]:
        return "one is being written: leave it plugged in"
    ready = [medium["weekday"] for medium in seen["media"].values() if takes_out(medium)]
    if ready:
        return f"you can take out the medium of {', '.join(ready)}: it is written, read back and closed"
    written = [medium["written"] for medium in seen["media"].values() if medium["written"]]
    last = f"last written {clock(max(written))}" if written else "nothing was written yet"
    return f"{last}; due today: {seen['due'] or 'none'}"


def takes_out(medium: dict[str, Any]) -> bool:
    """Whether a medium is still plugged in, and need not be."""
    return bool(medium["device"] and medium["written"] and not medium["error"])


def table(seen: dict[str, Any]) -> list[str]:
    """What `practice media` shows."""
    lines = [f"Media: {describe(seen)}", ""]
    for medium in sorted(seen["media"].values(), key=lambda medium: DAYS.index(medium["weekday"])):
        written = f"written {clock(medium['written'])}" if medium["written"] else "never written"
        words = [f"{medium['weekday']:<10} {written}", f"serial {medium['serial']}"]
        with contextlib.suppress(TypeError):
            words.append(f"FAILED {clock(medium['error']['at'])}: {medium['error']['why']}")
        words += [medium["note"]] if medium["note"] else []
        words += [f"plugged in as {medium['device']}"] if medium["device"] else []
        lines.append(f"  {'; '.join(words)}")
    missing = [day for day in seen["days"] if day not in {medium["weekday"] for medium in seen["media"].values()}]
    lines += [f"  {day:<10} has no medium yet: sudo practice media enrol {day}" for day in missing]
    if stranger := seen["unknown"]:
        lines.append(f"  An unknown device was left alone on {clock(stranger['at'])}: {stranger['what']}")
    return lines


def clock(seconds: float) -> str:
    """A moment as people write it, in the practice's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
