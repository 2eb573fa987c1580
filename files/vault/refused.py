"""What the server of an account was asked for and refused, as its journal tells it.

rest-server 0.13 writes a line in Apache's combined format for each request, which does not name who asked, and one of its own for each
wrong password of an account that exists. Whoever is not let in gets 401, and 301 says nothing of who asked: neither counts here. All
else was asked by somebody who has the account's password.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# What stands in quotes has its own quotes escaped, so nobody can write the end of a line into its beginning.
REQUEST = re.compile(r'\S+ - \S+ \[[^]]*\] "([^ "]+) (\S+) [^ "]+" (\d{3}) ')
FILE = re.compile("/([^/]+)/([^/]+)/(?:config|(data|index|keys|snapshots|locks)/([0-9a-f]{64}))")
READS = {"GET", "HEAD"}
REFUSALS = {403, 404, 405}
# What restic could not finish sending, it sends again, and asks first to have the rest of it removed: for half an hour at most.
AGAIN = 3600


@dataclass
class Heard:
    """What was new in the journal: up to where it was read, how many lines, wrong passwords, and when something was asked and refused."""

    cursor: str = ""
    lines: int = 0
    guesses: int = 0
    refused: tuple[float, ...] = ()


def hear(entries: Iterable[str], account: str, since: float, arrived: Callable[[str], float | None]) -> Heard:
    """What the `entries` of journalctl (JSON, one a line) say; wrong passwords from `since` on.

    `arrived` says when the file came that a path names, None when there is none. Raises ValueError for what is no entry.
    """
    heard, wrong = Heard(), f"Invalid htpasswd entry for {account}."
    refused, begun = [], ""
    for line in entries:
        entry = json.loads(line)
        at, said = int(entry["__REALTIME_TIMESTAMP"]) / 1e6, begun + str(entry.get("MESSAGE") or "")
        # What is longer than LineMax= of journald.conf(5) comes in pieces, and whoever asks chooses how long it is.
        begun = said if entry.get("_LINE_BREAK") == "line-max" else ""
        if begun:
            continue
        heard.cursor, heard.lines = entry["__CURSOR"], heard.lines + 1
        if said == wrong and at > since:
            heard.guesses += 1
        elif (request := REQUEST.match(said)) and is_attack(request[1], request[2], int(request[3]), at, arrived):
            refused.append(at)
    heard.refused = tuple(refused)
    return heard


def is_attack(method: str, path: str, status: int, at: float, arrived: Callable[[str], float | None]) -> bool:
    """Whether something was to be removed or overwritten that had lain there, or in a way that restic does not know.

    Not when locks go, which may; nor what is not there, which a practice asks for each week; nor what has only just arrived.
    """
    if method in READS or status not in REFUSALS:
        return False
    named = FILE.fullmatch(path)
    if method not in {"POST", "DELETE"} or named is None:
        return True
    there = None if named[3] == "locks" else arrived(path)
    return there is not None and at - there > AGAIN
