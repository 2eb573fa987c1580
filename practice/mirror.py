"""`practice mirror`: how the two disks are that hold the same, where the practice has two; `--compare` reads both and compares them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from practice import notes
from practice.drilled import moment
from practice.server import Trouble, is_root, run

CONFIG = Path("/etc/cabinet/mirror.json")
TIMERS = ("practice-mirror.timer",)
# When they were compared, and how much differed.
COMPARED = Path("/var/lib/cabinet/mirror.json")
ARRAY = Path("/dev/disk/by-id/md-name-any:cabinet-data")
SYS = Path("/sys/class/block")
WORKS, FILLED, FAILED, MISSING = "works", "is being filled", "has failed", "is missing"
# A month, and another Sunday.
DAYS = 45
NONE = "This practice has its data on one disk: the clinic file names no second one (storage.mirror)."
REMEDY = "Plug it in again, or another one whose serial number then stands in the clinic file, and deploy."


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice mirror [--compare]`."""
    parser = commands.add_parser("mirror", help="how the two disks are that hold the same", description=__doc__)
    parser.add_argument("--compare", action="store_true", help="read both whole, and compare them; the timer does this every month")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: both work and hold the same, as far as was looked; 1: not, or it could not be found out; 2: not root."""
    if arguments.compare and not is_root():
        print("practice mirror: only root can have the disks compared; use sudo", file=sys.stderr)
        return 2
    if not CONFIG.exists():
        print(NONE)
        return 0
    try:
        if arguments.compare:
            compare()
    except Trouble as trouble:
        print(f"practice mirror: {trouble}", file=sys.stderr)
        return 1
    seen, wrong = look(time.time())
    print(describe(seen))
    for text in wrong.values():
        print(text)
    # The timer's run has done its work when it has compared; what it found is the watch's to say.
    return 1 if wrong and not arguments.compare else 0


def compare() -> None:
    """Have the kernel read both and compare them, and note what it found. One that is alone is an alarm already, and no more."""
    array = running()
    if array is None:
        raise Trouble("the mirror does not run")
    settled(array)
    if value(array, "degraded") == "0":
        (array / "sync_action").write_text("check\n")
        settled(array)
    if value(array, "degraded") == "0":
        notes.write(COMPARED, {"at": time.time(), "differ": int(value(array, "mismatch_cnt"))})


def settled(array: Path) -> None:
    """Wait until the kernel is at nothing."""
    while value(array, "sync_action") != "idle":
        time.sleep(0.5)


def look(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Each disk's state, and a sentence for each thing that is wrong; nothing where one disk is all that was asked for."""
    wanted = notes.read(CONFIG).get("disks")
    if wanted is None:
        return {}, {}
    states, filled = members()
    found = notes.read(COMPARED)
    seen = {"disks": {serial: states.get(serial, MISSING) for serial in wanted}, "filled": filled, "compared": found.get("at")}
    wrong = {}
    lacking = {serial: state for serial, state in seen["disks"].items() if state != WORKS}
    if lacking:
        what = " and ".join(f"the disk {serial} {state}" for serial, state in lacking.items())
        rest = "" if set(lacking.values()) == {FILLED} else f" {REMEDY}"
        wrong["mirror"] = f"The practice's data are on one disk alone: {what}.{rest}"
    if found.get("differ"):
        wrong["mirror-differs"] = (
            f"The two disks of the mirror differ in {found['differ']} sectors ({moment(found['at'])}): one of them returns what was not "
            "written. Which one, the kernel's log may tell: journalctl -k -g 'I/O error'. Try the backups: sudo practice drill"
        )
    elif now - (notes.believed(found.get("at"), now) or CONFIG.stat().st_mtime) > DAYS * 86400:
        wrong["mirror-differs"] = f"The two disks of the mirror were not compared for {DAYS} days: sudo practice mirror --compare"
    return seen, wrong


def describe(seen: dict[str, Any]) -> str:
    """One line about the disks."""
    disks = ", ".join(f"{serial} {state}" for serial, state in seen["disks"].items())
    filled = f" ({seen['filled']} %)" if seen["filled"] is not None else ""
    return f"{disks}{filled}; " + (f"compared {moment(seen['compared'])}" if seen["compared"] else "not compared yet")


def members() -> tuple[dict[str, str], int | None]:
    """How the kernel sees each disk that is in the mirror now, by serial number; and how much of a new one is filled, in percent."""
    array = running()
    if array is None:
        return {}, None
    disks = json.loads(run("lsblk", "--json", "--nodeps", "--output", "NAME,SERIAL"))["blockdevices"]
    serials = {disk["name"]: disk["serial"] for disk in disks}
    states = {}
    for member in array.glob("dev-*"):
        state, name = value(member, "state"), (member / "block").resolve().name
        if name in serials:
            states[serials[name]] = FAILED if "faulty" in state else WORKS if "in_sync" in state else FILLED
    done, _, total = value(array, "sync_completed").partition(" / ")
    return states, 100 * int(done) // int(total) if FILLED in states.values() and total else None


def running() -> Path | None:
    """Where the kernel says how the mirror is; None while it does not run."""
    array = SYS / ARRAY.resolve().name / "md"
    return array if array.is_dir() else None


def value(directory: Path, name: str) -> str:
    """One of the kernel's words; empty when the disk has gone in this moment."""
    try:
        return (directory / name).read_text().strip()
    except OSError:
        return ""
