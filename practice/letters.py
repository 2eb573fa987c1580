"""Secrets on paper: in letters that lie in the same place on every keyboard, in lines that each tell when they are mistyped.

A line is a label, up to four groups of eight letters, and a group of four that follows from all else: the kit's number, the label, the
letters, and whether the secret ends here. So a line of another kit, in another place, or of a secret that goes on, is noticed.
"""

from __future__ import annotations

import hashlib
import re

from practice.server import Trouble
from practice.unlock import MODHEX

TITLE = "cabinet recovery kit"
LINE_BYTES, GROUP, CHECK = 16, 8, 4
HEX = "0123456789abcdef"


def spelled(data: bytes) -> str:
    """Two letters for each byte."""
    return data.hex().translate(str.maketrans(HEX, MODHEX))


def spoken(letters: str) -> bytes:
    """The inverse. Raises ValueError."""
    return bytes.fromhex(letters.translate(str.maketrans(MODHEX, HEX)))


def check(number: int, label: str, letters: str, ends: bool) -> str:
    """The last group of a line: 16 bits."""
    return spelled(hashlib.sha256(f"{number} {label} {letters} {ends:d}".encode()).digest()[: CHECK // 2])


def lines(number: int, part: str, secret: bytes) -> list[list[str]]:
    """The lines of one part of the kit: label, groups, check."""
    pieces = [secret[at : at + LINE_BYTES] for at in range(0, len(secret), LINE_BYTES)]
    found = []
    for count, piece in enumerate(pieces, 1):
        letters, label = spelled(piece), f"{part}{count}"
        groups = [letters[at : at + GROUP] for at in range(0, len(letters), GROUP)]
        found.append([label, *groups, check(number, label, letters, count == len(pieces))])
    return found


def written(number: int, secrets: dict[str, bytes]) -> str:
    """The kit as text, as the large code on the page holds it."""
    shown = [" ".join(line) for part in sorted(secrets) for line in lines(number, part, secrets[part])]
    return "\n".join([f"{TITLE} {number}", *shown]).upper() + "\n"


def read(text: str) -> tuple[int, dict[str, bytes]]:
    """The number of a kit and its secrets, from what somebody typed or scanned. Raises Trouble that names the line."""
    first, *rest = [line.strip().lower() for line in text.splitlines() if line.strip()] or [""]
    title = re.fullmatch(rf"{TITLE} (\d+)", first)
    if not title:
        raise Trouble(f'the first line must be "{TITLE} " and its number, as on the page')
    number, secrets, ended = int(title[1]), dict[str, bytes](), set[str]()
    for line in rest:
        label, piece, ends = read_line(number, line)
        part, count = label[0], int(label[1:])
        if part in ended or count != len(secrets.get(part, b"")) // LINE_BYTES + 1:
            raise Trouble(f"line {label.upper()} does not come after the one before it: one is missing, or stands here twice")
        secrets[part] = secrets.get(part, b"") + piece
        ended |= {part} if ends else set()
    if unfinished := sorted(set(secrets) - ended):
        raise Trouble(f"part {unfinished[0].upper()} goes on: its last lines are missing")
    return number, {part.upper(): secret for part, secret in secrets.items()}


def read_line(number: int, line: str) -> tuple[str, bytes, bool]:
    """Label, bytes, and whether the part ends with this line. Raises Trouble."""
    label, _, typed = line.lower().partition(" ")
    letters = re.sub(r"[\s-]", "", typed)
    if not re.fullmatch(r"[a-z][1-9]", label):
        raise Trouble(f'"{label}" is not the name of a line; one is A1')
    if strange := sorted(set(letters) - set(MODHEX)):
        raise Trouble(f'line {label.upper()}: "{strange[0]}" is none of the letters {MODHEX}')
    body, mark = letters[:-CHECK], letters[-CHECK:]
    for ends in (False, True):
        if len(body) % 2 == 0 and 0 < len(body) <= 2 * LINE_BYTES and mark == check(number, label.upper(), body, ends):
            return label, spoken(body), ends
    raise Trouble(f"line {label.upper()} is not as on page {number}: look at each of its letters, and at the number of the kit")
