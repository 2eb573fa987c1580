"""A new server gets the keys of the old one from the recovery kit, before its roles make their own; any other computer gets one of them."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from practice.enrol import record
from practice.letters import LINE_BYTES, read, read_line
from practice.recovery_kit import PARTS, asked, keep, kept, places, unpacked, write
from practice.server import Trouble

# Its volume has a key of its own, and the account's password comes with the clinic file.
BACK = ("B", "C")


def put_back() -> None:
    """Lay the keys where the roles find them, and make none. All of them or, where another key lies already, none. Raises Trouble."""
    lie = {part: Path(path) for part, path in places().items() if part in BACK}
    number, typed = type_in(list(lie)) if sys.stdin.isatty() else read(sys.stdin.read())
    if missing := sorted(set(lie) - set(typed)):
        raise Trouble(f"part {missing[0]}, which opens {PARTS[missing[0]]}, is missing; nothing was changed")
    back = {path: unpacked(part, typed[part]) for part, path in lie.items()}
    for path, secret in back.items():
        if path.exists() and path.read_text().strip() != secret:
            raise Trouble(f"{path} holds another key already, which may have written something; nothing was changed. See docs/recovery.md")
    for path, secret in back.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(path, secret)
    if not kept():  # the next kit, with this volume's key, is another one
        keep({"number": number, "made": time.time(), "salt": "", "marks": {}, "confirmed": None})
    record(f"keys of recovery kit {number} put back")
    print(f"The keys of kit {number} are in place. Go on with the deploy; then make a new kit: the volume's key is another one.")


def said(part: str) -> None:
    """Print what this part is, without an end of line, as what it opens wants it; what is asked goes elsewhere. Raises Trouble."""
    with contextlib.redirect_stdout(sys.stderr):
        _, typed = type_in([part]) if sys.stdin.isatty() else read(sys.stdin.read())
    if part not in typed:
        raise Trouble(f"part {part}, which opens {PARTS[part]}, is missing")
    sys.stdout.write(unpacked(part, typed[part]))


def type_in(parts: list[str]) -> tuple[int, dict[str, bytes]]:
    """The number of the kit, and the lines of these parts, asked for one by one; a slip is said at once, and the line asked for again."""
    while not (number := asked("Number of the kit: ")).isdigit():
        print("It stands at the top of the page.")
    found: dict[str, bytes] = {}
    for part in parts:
        found[part], ended = b"", False
        while not ended:
            label = f"{part}{len(found[part]) // LINE_BYTES + 1}"
            typed = asked(f"Line {label}: ")
            try:
                _, piece, ended = read_line(int(number), f"{label} {typed}")
                found[part] += piece
            except Trouble as slip:
                print(slip)
    return int(number), found
