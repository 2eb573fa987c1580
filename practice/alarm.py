"""Alarms: one short list of what a person must look at: in a file, in the journal, on the log-in banner, and told outside."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import syslog
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from practice import outbox, telling
from practice.server import Trouble, is_root, run, units

# While the volume is closed there is nothing but memory to write to.
VOLATILE = Path("/run/cabinet")
LASTING = Path("/var/lib/cabinet")
SECRETS = LASTING / "secrets"  # only on the volume, so it tells whether LASTING is what it should be
# Only on the host outside, which has no volume that could be closed (roles/vault.py).
VAULT = Path("/etc/cabinet/vault.json")
BANNER = Path("/run/motd.d/cabinet")
SEEN = VOLATILE / "status.json"
# practice-locked.service says it here.
LOCKED = BANNER.with_name("cabinet-locked")
SENDER = "practice-send.service"
# A look that came to its end clears it.
WATCH = "unit:practice-watch.service"
# practice-send.path waits for it.
UNSENT = VOLATILE / "unsent"

Alarms = dict[str, dict[str, Any]]


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice alarm raise KEY TEXT | clear KEY | check | alive | list | test`."""
    parser = commands.add_parser("alarm", help="raise, clear, check, list or test alarms", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    raised = actions.add_parser("raise", help="say that something is wrong")
    raised.add_argument("key")
    raised.add_argument("text")
    actions.add_parser("clear", help="say that it is right again").add_argument("key")
    actions.add_parser("check", help="look at everything, raise and clear; the timer does this every 15 minutes")
    actions.add_parser(
        "alive", help="clear what failed and is well again, give a sign of life; for a host without a watch, whose keeper asks"
    )
    actions.add_parser("list", help="print what stands, as JSON")
    actions.add_parser("test", help="send a test to everybody whom alarms are to reach, and say whether it was taken")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0, also when an alarm stands: `practice status` is for asking."""
    if arguments.action == "list":
        print(json.dumps(standing(), indent=2, sort_keys=True))
        return 0
    if not is_root():
        print("practice alarm: only root may change alarms; use sudo")
        return 2
    if arguments.action == "test":
        return test()
    if arguments.action == "raise":
        if waits(arguments.key):
            print(f"{arguments.key}: not failed; it waits for the data volume")
            return 0
        with changing() as alarms:
            put(alarms, arguments.key, arguments.text, by="hand")
    elif arguments.action == "clear":
        with changing() as alarms:
            drop(alarms, arguments.key)
    elif arguments.action == "alive":
        with changing() as alarms:
            recovered(alarms)
        alive(len(alarms), time.time())
    else:
        check()
    return 0


def waits(key: str) -> bool:
    """Whether that is a unit which did not start because the volume is locked: an alarm of its own, and nothing has failed."""
    unit = key.removeprefix("unit:")
    if unit == key or not LOCKED.exists():
        return False
    try:
        return units(unit)[unit].get("ActiveState") != "failed"
    except Trouble:
        return False


def check() -> dict[str, Any]:
    """Look at everything; raise what is wrong, clear what the last look raised and is right again."""
    from practice import health  # noqa: PLC0415 -- who raises an alarm does not wait for it

    seen = health.look()
    with changing() as alarms:
        judge(alarms, seen)
    write(SEEN, json.dumps(seen))
    alive(len(alarms), time.time())
    # While its service looks, it is neither active nor failed; where it has failed and a person looks, it is among the troubles.
    if WATCH in standing() and WATCH not in seen["troubles"]:
        with changing() as alarms:
            drop(alarms, WATCH)
    return seen


def test() -> int:
    """Send a test to each receiver, now. Exit code 0: all took it; 1: somebody did not, or there is nobody."""
    receivers, now = outbox.receivers(), time.time()
    if not receivers:
        print("Alarms reach nobody outside this server: the clinic file has no section alarm.")
        return 1
    path = outbox.put(LASTING if lasts() else VOLATILE, telling.message(("test", "", now)), receivers, now)
    with contextlib.suppress(Trouble):
        run("systemctl", "start", SENDER, timeout=300)
    left = outbox.withdrawn(path)
    for receiver in receivers:
        print(f"{receiver}: {f'NOT taken: {left[receiver]}' if receiver in left else 'taken'}")
    return 1 if left else 0


def alive(standing: int, now: float) -> None:
    """A sign of life, every day by the webhook and every week by mail: who misses it knows that the server is silent.

    The watch sends it, on the host outside the keeper, so that a server that no longer looks at itself is silent as well.
    """
    stamp = LASTING / "alive"
    last = stamp.stat().st_mtime if stamp.exists() else 0.0
    last = last if last <= now else 0.0  # the clock was ahead: as none
    if not lasts() or now - last < telling.DAY:
        return
    new_week = len({time.strftime("%G %V", time.localtime(at)) for at in (last, now)}) == 2
    send([telling.message(("alive", "", now), standing)], [to for to in outbox.receivers() if new_week or to == "webhook"], now)
    stamp.touch()
    os.utime(stamp, (now, now))


def send(messages: list[dict[str, str]], receivers: list[str], now: float) -> None:
    """Let messages wait in the outbox, and have them handed on. What waits there already is not reminded of once more."""
    waiting = {message["subject"] for message in outbox.waiting() if message["state"] in ("alive", "still")}
    new = [message for message in messages if receivers and message["subject"] not in waiting]
    for message in new:
        outbox.put(LASTING if lasts() else VOLATILE, message, receivers, now)
    if new:
        UNSENT.touch()


def judge(alarms: Alarms, seen: dict[str, Any]) -> None:
    """Bring `alarms` in line with what was seen. Alarms that others raised by hand stay."""
    for key, text in seen["troubles"].items():
        put(alarms, key, text, by="watch")
    for key in [key for key, alarm in alarms.items() if alarm["by"] == "watch" and key not in seen["troubles"]]:
        drop(alarms, key)
    # Whoever raises it (practice-locked.service) cannot know when it is over.
    if seen.get("volume") == "open":
        drop(alarms, "volume-locked")
    recovered(alarms)


def recovered(alarms: Alarms) -> None:
    """A unit's alarm goes when the unit runs, or has run again and ended well. Raises Trouble when systemd does not say."""
    failed = {key: key.removeprefix("unit:") for key in alarms if key.startswith("unit:")}
    states = units(*failed.values())
    for key, unit in failed.items():
        if states[unit].get("ActiveState") in ("active", "inactive") and states[unit].get("Result") == "success":
            drop(alarms, key)


def put(alarms: Alarms, key: str, text: str, by: str) -> None:
    """Add or reword an alarm; the journal hears of it when it is new or is raised by hand."""
    if key not in alarms or by == "hand":
        syslog.openlog("practice-alarm")
        syslog.syslog(syslog.LOG_ALERT, f"ALARM {key}: {text}")
    alarms[key] = {"text": text, "since": alarms.get(key, {}).get("since", time.time()), "by": by}


def drop(alarms: Alarms, key: str) -> None:
    """Take an alarm away, and say so in the journal."""
    if alarms.pop(key, None) is not None:
        syslog.openlog("practice-alarm")
        syslog.syslog(syslog.LOG_NOTICE, f"right again: {key}")


def lasts() -> bool:
    """Whether what is written to LASTING is there after a boot: the volume is open, or there is none."""
    return SECRETS.is_dir() or VAULT.exists()


def standing() -> Alarms:
    """The alarms that stand."""
    return kept("alarms.json")


def kept(name: str) -> dict[str, dict[str, Any]]:
    """What was written down, on the volume and in the time while it was closed: that is newer, and gone with the first change after."""
    found: dict[str, dict[str, Any]] = {}
    for directory in (LASTING, VOLATILE):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found |= json.loads((directory / name).read_text())
    return found


@contextlib.contextmanager
def changing() -> Iterator[Alarms]:
    """The standing alarms, to be changed; nobody else changes them meanwhile. Written whole, by one rename."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with (VOLATILE / "alarms.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        alarms = standing()
        yield alarms
        keep("alarms.json", alarms)
        BANNER.parent.mkdir(mode=0o755, exist_ok=True)
        write(BANNER, banner(alarms))
        tell(alarms)


def tell(alarms: Alarms) -> None:
    """Send what must be told now, and remember that afterwards: what breaks off in between is told twice, and nothing never."""
    receivers, now = outbox.receivers(), time.time()
    if receivers:
        told = kept("told.json")
        send([telling.message(said) for said in telling.due(alarms, told, now)], receivers, now)
        keep("told.json", told)


def keep(name: str, what: dict[str, dict[str, Any]]) -> None:
    """Write it down on the volume, or in memory while that is closed."""
    lasting = lasts()
    write((LASTING if lasting else VOLATILE) / name, json.dumps(what, indent=2, sort_keys=True) + "\n")
    if lasting:
        (VOLATILE / name).unlink(missing_ok=True)


def banner(alarms: Alarms) -> str:
    """What everybody reads who logs in."""
    if not alarms:
        return ""
    lines = [f"  {alarm['text']}" for _, alarm in sorted(alarms.items())]
    return "\n".join(["", f"*** {len(alarms)} alarm{'s' if len(alarms) > 1 else ''} on this server (practice status) ***", *lines, "", ""])


def write(path: Path, text: str) -> None:
    """Replace a file in one step; everybody may read it."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.chmod(0o644)
    staged.rename(path)
