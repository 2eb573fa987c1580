"""practice breakglass: a new password for root at the console, shown once, for the practice to seal in an envelope.

It opens nothing but the server's own keyboard or serial line: sshd takes no passwords. Using it raises an alarm.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

from practice.enrol import record
from practice.server import is_root, run
from practice.unlock import MODHEX

# The hash of the password that was sealed last: another one in /etc/shadow is somebody else's, and the next deploy locks it.
SEALED = Path("/etc/cabinet/breakglass")
GROUPS, LETTERS = 6, 4  # 96 bits, of letters that lie in the same place on every keyboard


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command."""
    parser = commands.add_parser("breakglass", help="make a new password for the console, to be sealed", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="do not ask although one was made before, which stops at once")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Make it, show it, and take back the alarm that the last one was used."""
    if not is_root():
        print("practice breakglass: only an administrator can do this: sudo practice breakglass", file=sys.stderr)
        return 2
    if SEALED.exists() and not arguments.yes and not agreed():
        print("practice breakglass: nothing was changed", file=sys.stderr)
        return 1
    password = "-".join("".join(secrets.choice(MODHEX) for _ in range(LETTERS)) for _ in range(GROUPS))
    run("chpasswd", stdin=f"root:{password}\n")
    seal(hash_of_root())
    record("console password made")
    run("practice", "alarm", "clear", "breakglass")
    print(json.dumps({"password": password}) if arguments.json else f"{password}\n\nFor root at the console. It is not shown again.")
    return 0


def agreed() -> bool:
    """Whether the person at the keyboard wants the sealed one to be void."""
    print("The password that was sealed before stops at once. Type yes to go on: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == "yes"


def hash_of_root() -> str:
    """What /etc/shadow holds for root."""
    return next(line.split(":")[1] for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("root:"))


def seal(hashed: str) -> None:
    """Write down which password is ours, for root alone from the first byte."""
    staged = SEALED.with_name(f".{SEALED.name}.staged")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(hashed + "\n")
    staged.replace(SEALED)


def is_somebody_elses() -> bool:
    """Whether root has a password that nobody sealed here."""
    hashed = hash_of_root()
    return not hashed.startswith(("!", "*")) and (not SEALED.exists() or SEALED.read_text().strip() != hashed)
