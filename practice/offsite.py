"""The copy outside the practice: send it now, or say how far back it reaches.

What leaves is encrypted here, by a key that only this server and the practice hold. Where it is kept, nothing can be deleted or
overwritten from here, and once a month a new repository is begun: then whole old ones can go, by the clock of whoever keeps them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from practice import notes
from practice.server import Trouble, is_root, run

# Written by roles/offsite.py; without it nothing is sent.
CONFIG = Path("/etc/cabinet/offsite.json")
HOME = Path("/var/lib/cabinet/offsite")
SERVICE = "practice-offsite@{}.service"
# How far practice/rebuild.py is. While it lies there nothing is sent: half a server would be the newest copy.
REBUILD = Path("/var/lib/cabinet/rebuild.json")
# The service's own: nobody came, or what is there is not whole. It is tried again, and the watch looks at the age of what arrived.
TRY_AGAIN = 75
TIMED = ("send", "renew", "verify")
RUNS = (*TIMED, "anew", "accept")
KINDS = ("database", "changes", "documents", "configuration")
# A quarter is read each week; one week may be missed. A new month has time to be sent over a slow line.
VERIFIED_DAYS, RENEWED_DAYS = 15, 45
LOST_DAYS = 7
ACCEPT = "sudo practice offsite accept"
NONE = "there is NONE: the clinic file has no section offsite"
TIMERS = tuple(f"practice-offsite-{what}.timer" for what in (*TIMED, "drill"))

State = dict[str, Any]


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice offsite [send | anew | accept | run WHAT]`."""
    parser = commands.add_parser("offsite", help="the copy outside the practice: how old it is; send it now", description=__doc__)
    what = (
        "anew: leave the repository as it is, and begin another; accept: you have looked, and what is foreign, or less, is right; "
        "run is for the services"
    )
    parser.add_argument("action", nargs="?", choices=["show", "send", "anew", "accept", "run"], default="show", help=what)
    parser.add_argument("what", nargs="?", choices=RUNS, default="send")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: sent, or the newest copy is young enough; 1: not."""
    if not CONFIG.exists():
        print("There is no copy outside the practice: the clinic file has no section offsite.")
        return 1
    if arguments.action == "run":
        return serve(arguments.what)
    if not is_root():
        print("practice offsite: only root may do this; use sudo")
        return 2
    from practice import counting  # noqa: PLC0415 -- who sends may look at no key

    if arguments.action != "show":
        with contextlib.suppress(Trouble):  # its reason is shown below
            run("systemctl", "start", SERVICE.format(arguments.action), timeout=86400)
    seen, wrong = look(time.time())
    counts, why_not = counting.asked("offsite", seen)
    if arguments.json:
        print(json.dumps(seen | {"troubles": wrong, "counts": counts}, indent=2))
    else:
        print("\n".join([describe(seen), *([f"It {why_not}"] if why_not else []), *wrong.values()]))
    return 1 if wrong or {"send", arguments.action} & set(seen["errors"]) else 0


def serve(what: str) -> int:
    """One run of a service, as the account that may do nothing else."""
    from practice import courier  # noqa: PLC0415 -- the watch, which asks how old the copy is, does without

    try:
        with only_one(what):
            courier.RUNS[what](time.time())
        note(lambda state: state.setdefault("errors", {}).pop(what, None))
    except Trouble as trouble:
        reason = str(trouble)
        note(lambda state: state.setdefault("errors", {}).update({what: reason}))
        print(f"practice offsite: {reason}", file=sys.stderr)
        return TRY_AGAIN
    return 0


def kept() -> State:
    """What is known of what was sent."""
    return notes.read(HOME / "state.json")


def remember(kind: str, copy: dict[str, Any], generation: str) -> None:
    """One kind has arrived in this repository. What one that does not count any more has got says nothing of what its successor lacks."""

    def change(state: State) -> None:
        if state.get("generation") == generation:
            state.setdefault("sent", {})[kind] = copy

    note(change)


def note(change: Callable[[State], None]) -> None:
    """Change what is known, in one step; two services may do so at the same time."""
    notes.change(HOME / "state.json", change)


def only_one(what: str) -> contextlib.AbstractContextManager[None]:
    """A run that finds another of its kind going on waits for it, as after a start by hand."""
    return notes.only_one(HOME / f"{what}.lock")


def look(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """How old the copy outside is, and what is wrong with that; nothing where the clinic file wants none."""
    if not CONFIG.exists():
        return {}, {}
    settings, state, asked = json.loads(CONFIG.read_text()), kept(), CONFIG.stat().st_mtime
    sent, errors = state.get("sent", {}), state.get("errors", {})
    # All are needed to begin anew elsewhere; so the oldest counts. Before the first, time runs since it was asked for.
    newest = min(notes.believed(sent.get(kind, {}).get("at"), now) for kind in KINDS)
    verified, generation = state.get("verified"), state.get("generation")
    seen = {
        "newest": newest or None,
        "kinds": {kind: copy["at"] for kind, copy in sent.items()},
        "generation": generation,
        "verified": verified,
        "max_age_minutes": settings["max_age_minutes"],
        "errors": errors,
        "foreign": len(state.get("foreign", {})),
        "shrunk": sorted(state.get("shrunk", {})),
    }
    wrong = {}
    minutes = (now - (newest or asked)) / 60
    if minutes > settings["max_age_minutes"]:
        how_old = f"is {minutes:.0f} minutes old" if newest else f"does not exist, {minutes:.0f} minutes after it was asked for"
        wrong["offsite"] = because(f"The copy outside the practice {how_old}", errors.get("send"))
    if now - max(notes.believed(verified, now), asked) > VERIFIED_DAYS * 86400:
        wrong["offsite-verify"] = because(f"The copy outside the practice was not read for {VERIFIED_DAYS} days", errors.get("verify"))
    elif "verify" in errors:
        wrong["offsite-verify"] = because("The copy outside the practice could not be read to its end", errors["verify"])
    if now - state.get("lost", 0) < LOST_DAYS * 86400:
        wrong["offsite-lost"] = "The copy outside the practice was gone, and a new one was begun: whoever keeps it must say why."
    if state.get("removable"):
        wrong["offsite-removable"] = (
            "The place outside lets this server remove what lies there; so can whoever breaks in. It must be append-only: docs/offsite.md."
        )
    wrong |= doubted(state)
    if generation and now - max(asked, time.mktime(time.strptime(generation[:7], "%Y-%m"))) > RENEWED_DAYS * 86400:
        wrong["offsite-renew"] = because(f"For {RENEWED_DAYS} days no new repository could be begun outside", errors.get("renew"))
    return seen, wrong


def doubted(state: State) -> dict[str, str]:
    """What stands until a person has looked, and accepts it: practice/ledger.py has noted it."""
    wrong = {}
    if foreign := state.get("foreign"):
        wrong["offsite-foreign"] = (
            f"Copies lie outside that this server has not made ({len(foreign)}, the newest says {clock(max(foreign.values()))}): somebody "
            f"else has part C of the recovery kit. If it is none of you: sudo practice recovery-kit --anew. Then, or if it is: {ACCEPT}"
        )
    if shrunk := state.get("shrunk"):
        less = ", ".join(f"{kind} {size(holds)} instead of {size(state['held'][kind])}" for kind, holds in sorted(shrunk.items()))
        back = "What is missing comes back by sudo practice restore; older copies are still there."
        wrong["offsite-shrunk"] = f"The copy outside suddenly holds far less: {less}. {back} If it is right: {ACCEPT}"
    return wrong


def because(what: str, reason: str | None) -> str:
    """A sentence with its reason, if there is one."""
    return f"{what}: {reason}." if reason else f"{what}."


def size(holds: tuple[int, int]) -> str:
    """How much a copy holds, in bytes and in files."""
    return f"{holds[0] / (1 << 20):.1f} MiB in {holds[1]} files"


def clock(seconds: float) -> str:
    """A moment as people write it, in the practice's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def describe(seen: dict[str, Any]) -> str:
    """One line about it."""
    if not seen:
        return NONE
    if not seen["newest"]:
        return "nothing has been sent yet"
    return f"sent up to {clock(seen['newest'])}; repository {seen['generation']}"
