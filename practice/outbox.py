"""The outbox: one file per message that somebody has not got yet. What cannot be delivered waits here and is tried again."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from practice.server import Trouble

# Written by roles/alarm.py: who is told. Its group reads it, and takes from the outbox.
CONFIG = Path("/etc/cabinet/alarm.json")
ACCOUNT = "cabinet-alarm"
HALF_SECONDS = 60  # to write a message takes a moment
# While the volume is closed there is nothing but memory to write to.
PLACES = (Path("/var/lib/cabinet/outbox"), Path("/run/cabinet/outbox"))
SOONEST, LATEST = 300, 3600
# Something that waits longer is an alarm itself.
PATIENCE = 3600

Message = dict[str, Any]


def config() -> dict[str, Any]:
    """Who is told: `mail` addresses, their `sender`, a `webhook`; empty before the first deploy."""
    try:
        return json.loads(CONFIG.read_text())
    except FileNotFoundError:
        return {}


def receivers() -> list[str]:
    """Each by itself, because one that refuses must not keep the others from hearing: `mail:ADDRESS`, `webhook`."""
    found = config()
    return [*(f"mail:{address}" for address in found.get("mail", [])), *(["webhook"] if found.get("webhook") else [])]


def put(directory: Path, message: Message, to: Iterable[str], now: float) -> Path:
    """Let a message wait for `to` in the outbox of `directory`."""
    place = directory / "outbox"
    if not place.is_dir():
        place.mkdir()
        os.chown(place, -1, grp.getgrnam(ACCOUNT).gr_gid)
        place.chmod(0o2770)  # what root puts there is the group's
    path = place / f"{time.time_ns()}.json"
    keep(message | {"path": str(path), "to": list(to), "refused": {}, "at": now, "due": now, "tries": 0})
    return path


def keep(message: Message) -> None:
    """Write down what has become of a message, in one step; gone when nobody waits for it any more."""
    path = Path(message["path"])
    if not message["to"]:
        path.unlink(missing_ok=True)
        return
    staged = path.with_suffix(".new")
    with open(staged, "w", opener=lambda name, flags: os.open(name, flags, 0o640)) as file:
        json.dump(message, file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def withdrawn(path: Path) -> dict[str, str]:
    """Who has not taken the message at `path`, and why; it waits no longer."""
    try:
        message = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    path.unlink(missing_ok=True)
    return {receiver: message["refused"].get(receiver, "it was not tried: journalctl -u practice-send") for receiver in message["to"]}


def tidied() -> None:
    """No half message is left of a write that a shutdown ended: what is so old is nobody's any more."""
    for left in (path for place in PLACES for path in place.glob("*.new")):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if time.time() - left.stat().st_mtime > HALF_SECONDS:
                left.unlink()


def waiting() -> list[Message]:
    """What waits, oldest first; half a message is none."""
    found = []
    for path in sorted((path for place in PLACES for path in place.glob("*.json")), key=lambda path: path.name):
        # One that the sender may not read keeps no other from leaving; root reads it, and the watch says that it waits.
        with contextlib.suppress(FileNotFoundError, PermissionError, json.JSONDecodeError):
            found.append(json.loads(path.read_text()))
    return found


def hand_on(messages: list[Message], deliver: Callable[[str, Message], None], now: float) -> None:
    """Try what is due, at each receiver until the first that fails. Where one thing is due, all that waits for that receiver goes.

    What has failed least goes first: a message that is refused for ever does not stand in the way of the others.
    """
    for message in messages:
        if message["at"] > now or message["due"] > now + LATEST:  # the clock was ahead
            message.update(at=min(message["at"], now), due=now)
    for receiver in sorted({receiver for message in messages if message["due"] <= now for receiver in message["to"]}):
        for message in sorted((each for each in messages if receiver in each["to"]), key=lambda each: (each["tries"], each["at"])):
            try:
                deliver(receiver, message)
            except Trouble as trouble:
                if message["due"] <= now:  # else another receiver has failed just now
                    message["tries"] += 1
                    message["due"] = now + pause(message["tries"])
                for each in messages:
                    if receiver in each["to"]:  # also what was not tried any more: this is why it waits
                        each["refused"][receiver] = str(trouble)
                        keep(each)
                break
            message["to"].remove(receiver)
            message["refused"].pop(receiver, None)
            keep(message)  # at once: if this breaks off, it is not sent twice


def pause(tries: int) -> float:
    """How long to wait after so many failures: five minutes, doubled up to an hour."""
    return min(SOONEST * 2 ** min(tries - 1, 10), LATEST)


def look(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """How many are told and what waits, for `practice status`; a trouble when something waits too long."""
    everybody, messages = receivers(), waiting()
    reasons = {reason for message in messages for reason in message["refused"].values()}
    seen = {"receivers": len(everybody), "waiting": len(messages), "reasons": sorted(reasons)}
    if any(abs(now - message["at"]) > PATIENCE for message in messages):  # far ahead: the clock was, and nothing has tried since
        who = sorted({receiver for message in messages for receiver in message["to"]})
        return seen, {"unsent": f"Alarms do not reach {', '.join(who)}: {'; '.join(sorted(reasons)) or 'nothing tries to send them'}."}
    return seen, {}
