"""How the recovery kit looks on paper: for a doctor who opens the envelope years later, and for whoever helps then."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from practice import offsite
from practice.letters import lines, spelled, written
from practice.paper import Page
from practice.server import settings

LEFT, RIGHT, WIDE = 40, 352, 515
KEEP = (
    ("Print it twice,", "and delete the file it was printed from. No photograph, no e-mail, no cloud."),
    ("Confirm it.", "On the server: sudo practice recovery-kit --confirm   It asks for a few groups of letters."),
    ("Seal each copy", "in an envelope, and sign and date it across the flap."),
    ("Two places,", "each locked, in two buildings: a bank's safe, a home. None in the server's room."),
    ("Give it to nobody,", "not to your IT company either. When help is needed, stay with it, and take it back."),
    ("When the server says", "that a kit of this number opens something no more: make a new one, burn this one."),
)
USES = {
    "A": ("The data volume", "The server runs, its data stay locked.", "On it: sudo practice unlock, with the eight long groups."),
    "B": ("The backups", "They lie encrypted on the backup disk, and on the media.", ""),
    "C": ("The copy outside", "Fire, theft: all is on a host outside, encrypted.", ""),
    "D": ("The account outside", "By which that host lets a new server in.", ""),
}
SMALL = (
    "Without Cabinet: each two letters are a byte, C B D E F G H I J K L N R T U V being 0 to 9 and a to f. A, written in small letters",
    "as groups of eight with dashes between them, is the passphrase of a LUKS2 volume. B, as base64, is repo1-cipher-pass of pgBackRest.",
    "C, as base64, is the password of a restic repository; D, as text, that of its account at a restic rest-server. All are free software.",
)


def page(state: dict[str, Any], found: dict[str, bytes]) -> bytes:
    """The kit as PDF. Raises Trouble."""
    number, host = state["number"], socket.getfqdn()
    paper = Page(f"Recovery kit {number} of {host}")
    paper.area(0, 0, 595, 74, grey=0)
    paper.words(LEFT, 34, f"Recovery kit {number}", 24, "bold", white=True)
    made = time.strftime("%Y-%m-%d", time.localtime(state["made"]))
    paper.words(LEFT, 56, f"{settings().get('practice', '')}   ·   server {host}   ·   keys of {made}", 11, white=True)
    paper.words(LEFT, 96, "Whoever holds this page can read every patient's file.", 13, "bold")
    paper.words(LEFT, 112, "If the server is lost and both copies of this page are too, nobody can read them ever again.", 11)
    for row, (what, how) in enumerate(KEEP):
        y = 136 + row * 15
        paper.words(LEFT, y, f"{row + 1}", 9.5, "bold")
        paper.words(LEFT + 14, y, what, 9.5, "bold")
        paper.words(LEFT + 122, y, how)
    y = keys(paper, 236, number, found)
    codes(paper, number, found, y)
    small(paper)
    return paper.pdf()


def keys(paper: Page, y: float, number: int, found: dict[str, bytes]) -> float:
    """The letters, part by part; where they end."""
    for part, key in found.items():
        title, when, how = USES[part]
        rows = lines(number, part, key)
        paper.area(LEFT, y, WIDE, 20 + 14.5 * len(rows))
        paper.words(LEFT + 8, y + 13, f"{part}  {title}", 10.5, "bold")
        paper.words(LEFT + 132, y + 13, f"{when} {how}", 9)
        for row, (label, *groups, mark) in enumerate(rows):
            base = y + 28 + 14.5 * row
            paper.words(LEFT + 8, base, label.upper(), 10.5, "letters")
            for place, group in enumerate(groups):
                paper.words(LEFT + 52 + 96 * place, base, group.upper(), 13, "letters")
            paper.words(LEFT + 462, base, mark.upper(), 10.5, "letters")
        y += 26 + 14.5 * len(rows)
    return y


def codes(paper: Page, number: int, found: dict[str, bytes], y: float) -> None:
    """The same as codes for a camera, and what to do with them."""
    paper.code(LEFT, y + 22, 168, written(number, found))
    paper.words(LEFT, y + 14, "All of it", 10.5, "bold")
    paper.words(LEFT + 190, y + 14, "A alone", 10.5, "bold")
    paper.code(LEFT + 190, y + 22, 84, spelled(found["A"]).upper())
    x = LEFT + 296
    help_ = [
        ("bold", "A new server"),
        ("plain", "A technician puts the keys back before all else:"),
        ("letters", "sudo practice recovery-kit --put-back"),
        ("plain", "It asks for the lines above. Stay, and watch."),
        ("bold", "The letters"),
        ("plain", "are only C B D E F G H I J K L N R T U V: no digits,"),
        ("plain", "no A, no O. Small or capital makes no difference."),
        ("plain", "The short group at the end of each line checks it."),
    ]
    if offsite.CONFIG.exists():
        place = json.loads(offsite.CONFIG.read_text())
        help_ += [("bold", "The copy outside"), ("plain", place["url"][:60]), ("plain", f"account {place['account']}")]
    for row, (font, text) in enumerate(help_):
        paper.words(
            x, y + 14 + 13 * row + 5 * sum(one == "bold" for one, _ in help_[1 : row + 1]), text, 9 if font != "letters" else 8.5, font
        )


def small(paper: Page) -> None:
    """What somebody needs who has never heard of Cabinet."""
    paper.rule(LEFT, 786, WIDE)
    for row, text in enumerate(SMALL):
        paper.words(LEFT, 798 + 10 * row, text, 7.6)
