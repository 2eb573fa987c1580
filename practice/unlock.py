"""`practice unlock`: open the data volume with the recovery key, when it did not open by itself."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import subprocess
import sys
from pathlib import Path

CRYPTTAB = Path("/etc/crypttab")
MAPPING = Path("/dev/mapper/data")
SETTLE = "/usr/local/lib/cabinet/settle-volume"
# Each by its name: of a target that is reached already, systemd starts nothing but what it wants itself. The database before the
# timers, which make up at once for what was slept through.
TARGETS = ("default.target", "multi-user.target", "timers.target")
# What was plugged in before: --all is those that a device wants (systemctl(1)).
MEDIA = "practice-media@*.service"
MODHEX = "cbdefghijklnrtuv"
TRIES = 3


def register(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command."""
    return commands.add_parser("unlock", help="open the data volume with the recovery key", description=__doc__)


def main(arguments: argparse.Namespace) -> int:
    """Ask for the key, open the volume, start what lives on it, say what runs."""
    if os.geteuid() != 0:
        print("practice unlock: only root can open the volume; type: sudo practice unlock", file=sys.stderr)
        return 2
    if not MAPPING.exists() and not opened(disk()):
        return 1
    # What was written beneath the mounts while it was locked goes onto it; then everything that waits for it starts.
    for step in ([SETTLE], ["systemctl", "start", *TARGETS], ["systemctl", "start", "--all", "--no-block", MEDIA]):
        if subprocess.run(step, check=False).returncode:
            print(f"The volume is open, but `{' '.join(step)}` failed; see: journalctl -b -p err", file=sys.stderr)
            return 1
    # The watch may have looked while it was locked, and would let that alarm stand until it looks again.
    subprocess.run(["systemctl", "start", "practice-watch.service"], check=False, stderr=subprocess.DEVNULL)
    waiting = subprocess.run(
        ["systemctl", "list-dependencies", "--reverse", "--plain", "--no-pager", "practice-data.target"],
        capture_output=True,
        text=True,
        check=False,
    )
    units = sorted(
        {line.strip() for line in waiting.stdout.splitlines()[1:] if line.strip().endswith(".service")} - {"practice-locked.service"}
    )
    print("The data volume is open.")
    down = [unit for unit in units if subprocess.run(["systemctl", "--quiet", "is-failed", unit], check=False).returncode == 0]
    if units:
        print(f"On it: {', '.join(units)}")
    if down:
        print(f"Failed: {', '.join(down)}", file=sys.stderr)
    return 1 if down else 0


def disk() -> str:
    """The device below the volume, as /etc/crypttab names it."""
    for line in CRYPTTAB.read_text().splitlines():
        words = line.split()
        if words[:1] == ["data"]:
            return words[1]
    raise SystemExit(f"{CRYPTTAB} has no line for the volume `data`; deploy this server again")


def opened(device: str) -> bool:
    """Ask for the key until it opens `device`: three times at a terminal, once from a pipe."""
    for _ in range(TRIES if sys.stdin.isatty() else 1):
        key = getpass.getpass("Recovery key: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        # On standard input: the arguments of a program are for everybody to see.
        done = subprocess.run(
            ["cryptsetup", "open", "--type", "luks2", "--key-file", "-", device, "data"],
            input=spelled(key).encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return True
        reason = "this key does not open the volume" if done.returncode == 2 else done.stderr.decode(errors="replace").strip()
        print(f"practice unlock: {reason}", file=sys.stderr)
    return False


def spelled(key: str) -> str:
    """A recovery key as it was written down, whatever dashes, spaces and capitals were typed; anything else as it is.

    >>> spelled(" CBDEFGHI jklnrtuv" + 6 * "cccccccc")
    'cbdefghi-jklnrtuv-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc'
    """
    letters = re.sub(r"[\s-]", "", key).lower()
    if len(letters) == 64 and set(letters) <= set(MODHEX):
        return "-".join(letters[start : start + 8] for start in range(0, 64, 8))
    return key
