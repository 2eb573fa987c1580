"""The recovery kit: one page with all that opens the volume, the backups and the copy outside, for the practice to print and lock away.

To a terminal it is shown as text and a QR code, into a pipe it goes as PDF: `ssh SERVER sudo practice recovery-kit > kit.pdf`, typed on
the practice's own workstation. It exists in memory alone. Until `--confirm` has seen that somebody can read the page, nobody holds a kit.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from practice import notes
from practice.enrol import record
from practice.letters import lines, read, spelled, spoken, written
from practice.server import Trouble, is_root, run
from practice.unlock import MODHEX
from practice.unlock import spelled as recovery_key

# Written by roles/recovery.py: where each part lies, and how long a key may be without a page.
CONFIG = Path("/etc/cabinet/recovery.json")
KEPT = Path("/var/lib/cabinet/recovery-kit.json")
# A change of keys that was begun and has not come to its end, and who holds it (practice/kit_anew.py).
ANEW, ANEW_LOCK = Path("/var/lib/cabinet/kit-anew.json"), Path("/run/cabinet/kit-anew.lock")
# The volume's key on the page before, which opens it until another page is confirmed.
BEFORE = Path("/var/lib/cabinet/kit-before.key")
PARTS = {"A": "the data volume", "B": "the backups", "C": "the copy outside", "D": "the account outside"}
ASKED, TRIES = 2, 3
LONGEST = 96  # bytes; six lines
NOBODY = "NOBODY holds a recovery kit: without this server nothing can be read any more: sudo practice recovery-kit"
OLDER = "an older page still opens the data volume"
VOID = "is void, but keep all pages until another is confirmed, since an older one still opens the data volume: sudo practice recovery-kit"

State = dict[str, Any]


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice recovery-kit [--text | --confirm | --put-back | --anew | --key PART]`."""
    parser = commands.add_parser(
        "recovery-kit", help="make the page that opens everything, or confirm that it is held", description=__doc__
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--confirm", action="store_true", help="prove that the page can be read; from a pipe: all that its large code says")
    what.add_argument("--text", action="store_true", help="for programs: what the large code says")
    what.add_argument("--anew", action="store_true", help="somebody else has seen the page: change the keys that can be, then make another")
    what.add_argument(
        "--put-back", action="store_true", help="give a new server the old one's keys, typed or from a pipe, before it makes its own"
    )
    what.add_argument("--key", choices=sorted(PARTS), help="on any computer: print one key, from the page's lines, typed or from a pipe")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: shown, or confirmed; 1: not."""
    if not is_root() and not arguments.key:
        print("practice recovery-kit: only an administrator can do this: sudo practice recovery-kit", file=sys.stderr)
        return 2
    try:
        if arguments.key:
            from practice.kit_back import said  # noqa: PLC0415 -- it asks here what belongs where

            said(arguments.key)
        elif arguments.put_back:
            from practice.kit_back import put_back  # noqa: PLC0415

            put_back()
        elif arguments.anew:
            from practice.kit_anew import anew  # noqa: PLC0415

            anew()
        elif arguments.confirm:
            confirm(keys())
        else:
            show(keys(), arguments.text)
    except Trouble as trouble:
        print(f"practice recovery-kit: {trouble}", file=sys.stderr)
        return 1
    return 0


# ---- what belongs into it -------------------------------------------------------------------------------------------


def keys() -> dict[str, bytes]:
    """The secrets as they lie on the server, by the part of the kit. Raises Trouble."""
    found = {}
    for part, path in places().items():
        try:
            found[part] = packed(part, Path(path).read_text().strip())
        except (OSError, ValueError) as bad:
            raise Trouble(f"{path}, which opens {PARTS[part]}, cannot go into the kit: {bad}") from None
    return found


def places() -> dict[str, str]:
    """Where each part lies. Raises Trouble."""
    try:
        return json.loads(CONFIG.read_text())["parts"]
    except FileNotFoundError:
        raise Trouble("nobody has said yet what belongs into the kit; deploy this server first") from None


def packed(part: str, secret: str) -> bytes:
    """A secret as bytes, as few as can be. Raises ValueError for one that would not come back as it was."""
    pack = {"A": lambda text: spoken(text.replace("-", "")), "D": str.encode}.get(part, base64.b64decode)
    data = pack(secret)
    if not data or unpacked(part, data) != secret:
        raise ValueError("it is not as Cabinet made it")
    if len(data) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} characters, which fill the page; have whoever keeps the copy give a shorter one")
    return data


def unpacked(part: str, data: bytes) -> str:
    """The inverse."""
    if part == "A":
        return recovery_key(spelled(data))
    return data.decode() if part == "D" else base64.b64encode(data).decode()


# ---- showing it -----------------------------------------------------------------------------------------------------


def show(found: dict[str, bytes], as_text: bool) -> None:
    """Give it its number, and print it. Raises Trouble."""
    state = numbered(found, kept(), time.time())
    text = written(state["number"], found)
    if as_text:
        shown = text.encode()
    elif sys.stdout.isatty():
        # By standard input: other people's `ps` shows arguments.
        code = run("qrencode", "-t", "UTF8", "-m", "2", stdin=text)
        shown = f"{code}\n{text}\nPut it on paper, twice, and then: sudo practice recovery-kit --confirm\n".encode()
    else:
        from practice.kit_page import page  # noqa: PLC0415 -- the watch does without

        shown = page(state, found)
    keep(state)
    record(f"recovery kit {state['number']} shown")
    try:
        sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()
    except OSError as bad:
        raise Trouble(f"the page could not be handed over: {bad.strerror}") from None


def numbered(found: dict[str, bytes], state: State, now: float) -> State:
    """The kit of these keys: the one that there is, or, when a key is another one than then, the next one."""
    if state and not changed(found, state):
        return state
    salt = os.urandom(16).hex()
    marks = {part: mark(salt, key) for part, key in found.items()}
    return {"number": state.get("number", 0) + 1, "made": now, "salt": salt, "marks": marks, "confirmed": None}


def changed(found: dict[str, bytes], state: State) -> list[str]:
    """The parts that this kit does not open."""
    known = state.get("marks", {})
    return [part for part, key in found.items() if not hmac.compare_digest(known.get(part, ""), mark(state.get("salt", ""), key))]


def mark(salt: str, key: bytes) -> str:
    """By which a key is known again. It says nothing about the key: those have 256 bits and more, the account's at least 20 characters."""
    return hmac.new(salt.encode(), key, hashlib.sha256).hexdigest()


# ---- proving that somebody has it -----------------------------------------------------------------------------------


def confirm(found: dict[str, bytes]) -> None:
    """Ask for what stands on the page alone, and believe that it is held. Raises Trouble."""
    state = kept()
    if not state:
        raise Trouble("no kit was made yet: sudo practice recovery-kit")
    if stale := changed(found, state):
        if older_opens(found):
            raise Trouble(f"kit {state['number']} {VOID}")
        raise Trouble(
            f"kit {state['number']} does not open {PARTS[stale[0]]} any more. Destroy it, and make another: sudo practice recovery-kit"
        )
    if sys.stdin.isatty():
        ask(state["number"], found)
    else:
        number, typed = read(sys.stdin.read())
        missing = [part for part in found if typed.get(part) != found[part]]
        if number != state["number"] or missing:
            said = f"this is kit {number}" if number != state["number"] else f"it does not open {PARTS[missing[0]]}"
            raise Trouble(f"{said}; the one that counts is kit {state['number']}")
    keep(state | {"confirmed": time.time()})
    record(f"recovery kit {state['number']} confirmed")
    print(f"Kit {state['number']} opens everything, and what it opens counts now.")
    print("Seal it: one copy for each of two places, none in the server's room.")
    if BEFORE.exists():
        from practice.kit_anew import retired  # noqa: PLC0415

        retired()


def ask(number: int, found: dict[str, bytes]) -> None:
    """Some groups of each part, drawn anew each time. Raises Trouble."""
    print(f"Take page {number} of the recovery kit. For each line that is named, type one group of its letters.")
    draw = random.SystemRandom()
    for part, key in found.items():
        groups = [(line[0], place, group) for line in lines(number, part, key) for place, group in enumerate(line[1:-1], 1)]
        for label, place, group in sorted(draw.sample(groups, ASKED)):
            for left in reversed(range(TRIES)):
                if asked(f"Line {label}, group {place}: ").lower() == group:
                    break
                if not left:
                    raise Trouble(f"line {label} was not read as it stands on the page of kit {number}; print it again")
                print(f"That is not what stands there. The letters are {' '.join(MODHEX)}; look at each.")


def asked(question: str) -> str:
    """What somebody types. Raises Trouble when nobody is there any more."""
    print(question, end="", flush=True)
    if not (typed := sys.stdin.readline()):
        raise Trouble("broken off; nothing was changed")
    return typed.strip()


# ---- what the watch asks --------------------------------------------------------------------------------------------


def look(now: float) -> tuple[State, dict[str, str]]:
    """Who can open what is kept when this server is gone, and what is wrong with that; nothing before a deploy came so far."""
    if not CONFIG.exists():
        return {}, {}
    state, config = kept(), json.loads(CONFIG.read_text())
    seen = {name: state.get(name) for name in ("made", "confirmed")} | {"number": state.get("number", 0), "changed": []}
    # What somebody has shown to hold, with when each key came; and what that opens (practice/counting.py).
    seen["opens"], seen["opened_by"], seen["older"] = {}, config.get("opened_by", {}), False
    try:
        found = keys()
    except Trouble as trouble:
        # A deploy that asks for one more key makes it a moment later.
        asked_now = now - CONFIG.stat().st_mtime < 3600
        return seen | {"confirmed": None}, {} if asked_now else {"recovery-kit": f"No recovery kit can be made: {trouble}."}
    seen["changed"], seen["older"] = changed(found, state) if state else [], older_opens(found)
    if seen["confirmed"]:
        seen["opens"] = {part: Path(config["parts"][part]).stat().st_mtime for part in found if part not in seen["changed"]}
    if ANEW.exists() and not notes.held(ANEW_LOCK):
        return seen, {"recovery-kit": "A change of the keys was interrupted. Go on: sudo practice recovery-kit --anew"}
    # A key and the page with it are not there in the same hour.
    without = [Path(config["parts"][part]).stat().st_mtime for part in seen["changed"] or config["parts"]]
    late = now - max(without) >= config["grace_hours"] * 3600
    return seen, {"recovery-kit": f"{describe(seen)}."} if seen["older"] or (late and not is_held(seen)) else {}


def older_opens(found: dict[str, bytes]) -> bool:
    """Whether the volume opens by another page than the one of these keys."""
    return "A" in found and BEFORE.exists() and BEFORE.read_text().strip() != unpacked("A", found["A"])


def is_held(seen: State) -> bool:
    """Whether somebody can open everything."""
    return bool(seen.get("confirmed")) and not seen["changed"]


def describe(seen: State) -> str:
    """One line about it."""
    if not seen:
        return "nothing to show"
    if not seen["number"]:
        return NOBODY
    kit, older = f"kit {seen['number']}", seen.get("older")
    if seen["changed"]:
        opens = " and ".join(PARTS[part] for part in seen["changed"])
        return f"{kit} {VOID if older else f'does NOT open {opens} any more; destroy it, and make another: sudo practice recovery-kit'}"
    if not seen["confirmed"] or older:
        said = f"{kit} is confirmed" if seen["confirmed"] else f"NOBODY has confirmed {kit}, so nobody may hold it"
        return f"{said}{f', and {OLDER}' if older else ''}: sudo practice recovery-kit --confirm"
    return f"{kit}, confirmed {time.strftime('%Y-%m-%d', time.localtime(seen['confirmed']))}, opens everything"


# ---- what is remembered of it ---------------------------------------------------------------------------------------


def kept() -> State:
    """What is known of the kit that was made last; nothing where that cannot be read, so that nobody holds one."""
    with suppress(FileNotFoundError, ValueError):
        state = json.loads(KEPT.read_text())
        if isinstance(state, dict) and isinstance(state.get("marks"), dict) and isinstance(state.get("number"), int):
            return state
    return {}


def keep(state: State) -> None:
    """Remember it."""
    write(KEPT, json.dumps(state))


def write(path: Path, text: str) -> None:
    """Write it down in one rename, for root alone from the first byte."""
    staged = path.with_name(f".{path.name}.staged")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
