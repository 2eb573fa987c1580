"""practice enrol NAME: the second factor of one person, born on this server, shown once."""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlencode

from practice import totp

SEEDS = Path("/etc/cabinet/totp")
PEOPLE = Path("/etc/cabinet/people.json")
# The door that somebody came in through last, by its fingerprint, and who that was.
PROVEN = Path("/etc/cabinet/door-proven")
# Each code once; one step of 30 s either side of now; five tries a minute, which only the holder of the key ever reaches.
OPTIONS = ('" RATE_LIMIT 5 60', '" WINDOW_SIZE 3', '" DISALLOW_REUSE', '" TOTP_AUTH')
TRIES = 3  # of who types from a phone that is right there
SEED_BYTES = 20  # as long as the SHA-1 that RFC 6238 makes codes with


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command `enrol`."""
    parser = commands.add_parser("enrol", help="give a person the second factor, and show it once")
    parser.add_argument("name", help="the person's account")
    parser.add_argument("--new", action="store_true", help="make a new one: the phone is lost; the old one stops at once")
    parser.add_argument("--show", action="store_true", help="show once more what was shown already; recorded")
    parser.add_argument("--quiet", action="store_true", help="make it if it is missing, and show nothing")
    parser.add_argument("--json", action="store_true", help="for programs: the address of the seed, without a picture")
    parser.add_argument("--yes", action="store_true", help="with --new: do not ask")
    parser.add_argument("--png", metavar="FILE", help="the picture into a file as well, for root alone, to be printed and deleted")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Make the seed unless there is one; show it unless it was shown."""
    name = arguments.name
    if os.geteuid() != 0:
        return refused("only an administrator can do this: sudo practice enrol …")
    if name not in may_log_in():
        return refused(f"{name} may not log in according to the clinic file; people who may: {', '.join(sorted(may_log_in()))}")
    if arguments.new and (SEEDS / name).exists() and not arguments.yes and not agreed(name):
        return refused("nothing was changed")
    if arguments.new or not (SEEDS / name).exists():
        make(name)
    return 0 if arguments.quiet else hand_over(arguments)


def hand_over(arguments: argparse.Namespace) -> int:
    """Show it, once; at a terminal it counts as shown when the phone has said a code."""
    name = arguments.name
    shown = SEEDS / f".{name}.shown"
    if shown.exists() and not arguments.show:
        return refused(f"{name}'s second factor was shown already; --new makes another, --show shows this one again")
    if arguments.png:
        subprocess.run(["qrencode", "-t", "PNG", "-s", "8", "-o", arguments.png], input=address(name), text=True, check=True, umask=0o077)
    show(name, arguments.json)
    record(f"second factor of {name} shown")
    # In a deploy nobody types here: there the log-in itself is the proof (kit/enrol.py).
    if not arguments.json and sys.stdin.isatty() and not proved(name):
        return refused(f"none of these is a code of {name}'s. Is the phone's clock right? Asked again, this shows the same one once more")
    shown.touch(mode=0o600)
    return 0


def may_log_in() -> set[str]:
    """The people of the clinic file who log in."""
    return {person["name"] for person in json.loads(PEOPLE.read_text()) if person["login"]}


def make(name: str) -> None:
    """A new seed, readable by root alone from its first byte; what was there stops at the rename.

    Whoever proved the door has to come in with the new one before the next deploy believes in it.
    """
    SEEDS.mkdir(mode=0o700, parents=True, exist_ok=True)
    (SEEDS / f".{name}.shown").unlink(missing_ok=True)
    write(name, [base64.b32encode(os.urandom(SEED_BYTES)).decode(), *OPTIONS])
    if PROVEN.exists() and PROVEN.read_text().split()[1:] == [name]:
        PROVEN.unlink()
    record(f"second factor of {name} made")


def wrong_with(name: str) -> str | None:
    """What is wrong with a person's seed: it is missing, others read it, or the rules for its codes are not ours."""
    path = SEEDS / name
    if not path.is_file() or path.is_symlink():
        return "no seed for codes"
    # The PAM module takes the right to write from itself each time it writes.
    if path.stat().st_uid != 0 or path.stat().st_mode & 0o077:
        return "others can read the seed"
    rules = path.read_text().splitlines()[1:]
    # The PAM module writes what it has to remember behind the rule that asks for it.
    foreign = [rule for rule in rules if not rule.startswith(OPTIONS)]
    return "codes are under other rules" if foreign or len(rules) != len(OPTIONS) else None


def mend(name: str) -> None:
    """Put right what is wrong with a seed; the seed itself is made once only."""
    path = SEEDS / name
    seed = path.read_text().split("\n", 1)[0] if path.is_file() and not path.is_symlink() else ""
    if seed:
        write(name, [seed, *OPTIONS])
    else:
        make(name)


def write(name: str, lines: list[str]) -> None:
    """Replace a seed's file in one rename. A tilde is in no account's name, and sorts these files under the PAM module's own."""
    staged = SEEDS / f"{name}~new"
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join([*lines, ""]))
        file.flush()
        os.fsync(file.fileno())
    staged.replace(SEEDS / name)


def address(name: str) -> str:
    """The otpauth address that an authenticator app reads."""
    seed = (SEEDS / name).read_text().split("\n", 1)[0]
    host = os.uname().nodename
    return f"otpauth://totp/{quote(f'{host}:{name}')}?{urlencode({'secret': seed, 'issuer': host})}"


def show(name: str, as_json: bool) -> None:
    """Print it: as JSON, or as a picture for the phone and a text for who has no camera."""
    if as_json:
        print(json.dumps({"name": name, "address": address(name)}))
        return
    print(f"The second factor of {name}. Photograph it with the authenticator app now: it is not shown again.\n", flush=True)
    # By standard input: other people's `ps` shows arguments.
    subprocess.run(["qrencode", "-t", "UTF8", "-m", "2"], input=address(name), text=True, check=True)
    print(f"\nWithout a camera: {(SEEDS / name).read_text().split(chr(10), 1)[0]} (time-based, 6 digits, 30 seconds)")


def proved(name: str) -> bool:
    """Whether the phone says a right code; or nobody can say one now, because the phone is elsewhere, which is recorded."""
    seed = (SEEDS / name).read_text().split("\n", 1)[0]
    for _ in range(TRIES):
        print(f"The code that {name}'s phone shows now (nothing: the phone is not here): ", end="", file=sys.stderr, flush=True)
        typed = sys.stdin.readline().replace(" ", "").strip()
        if not typed:
            record(f"second factor of {name} not tried")
            return True
        if totp.accepts(seed, typed, time.time()):
            record(f"second factor of {name} tried: the phone has it")
            return True
    return False


def agreed(name: str) -> bool:
    """Whether the person at the keyboard wants the old seed gone."""
    print(f"{name}'s present codes stop at once. Type {name} to go on: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == name


def record(what: str) -> None:
    """To the journal, among the log-ins."""
    by = os.environ.get("SUDO_USER", "root")
    subprocess.run(["logger", "-t", "cabinet", "-p", "auth.notice", f"enrol: {what}, by {by}"], check=False)


def refused(why: str) -> int:
    """Say why not."""
    print(f"practice enrol: {why}", file=sys.stderr)
    return 1
