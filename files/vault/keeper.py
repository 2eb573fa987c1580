"""The off-site host keeps what practices send: it removes what is old enough, and nothing at all while something looks wrong.

keeper.py                              looks at every account; the timer does this each hour. Exit code 3: something looks wrong
keeper.py --confirm ACCOUNT            a person has looked: the clock is right, and so is what the last look found that does not pass
keeper.py --as-of ACCOUNT GENERATION TIME
                                       serve that repository as it was at that moment, under a name of its own

It holds no key, so it can read no snapshot, and asks none for its time: it goes by when each file arrived here, by this host's own
clock. In append-only mode a file arrives once and never changes, and no client can choose when. So a snapshot with a forged time is one
that arrived today, and what had arrived by a moment is the repository as it was then, whatever came later. Debian's python3 alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import syslog
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).parent))  # -I leaves it out
from judging import (  # noqa: E402, F401 -- whoever tests this asks it for all of them
    DAY,
    FLOOD_PER_DAY,
    HARMLESS,
    KINDS,
    Account,
    Generation,
    called,
    confirm,
    doubts,
    expired,
    judge,
    moment,
    remedy,
    server,
    unconfirmed,
)
from refused import FILE, hear  # noqa: E402

CONFIG = Path("/etc/cabinet/vault.json")
STORE = Path("/srv/vault")
LEDGERS = Path("/var/lib/cabinet-vault")
PRACTICE = "/usr/local/bin/practice"
SYSTEMCTL = "/usr/bin/systemctl"
JOURNALCTL = "/usr/bin/journalctl"

# Whatever restic encrypts begins with 16 bytes and ends with 16; a snapshot, an index and a pack name something by its SHA-256 besides.
SEALED, SMALLEST = {"snapshots", "index", "data"}, 64
# Whatever else lies in a repository is an upload that broke off, or that rest-server refused: it leaves an empty file of each.
WHOLE = re.compile("[0-9a-f]{64}|config")
# What a ledger is made of.
NUMBER = (int, float)
LEDGER = {"since": NUMBER, "looked": NUMBER, "heard": list, "cursor": str}
LEDGER |= dict.fromkeys(("confirmed", "doubted", "wrong", "refused"), dict)


def repositories(account: str) -> Path:
    """rest-server --private-repos puts an account's repositories below a directory of its name."""
    return STORE / account / account


def read(directory: Path) -> list[Generation]:
    """The repositories that lie there; locks, which come and go, do not count."""
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            status = list(files(path))
            arrived = tuple(sorted((one.st_mtime, one.st_size) for _, one in status))
            named = [(file, one) for file, one in status if WHOLE.fullmatch(file.name)]
            snapshots, keys = (sorted(one.st_mtime for file, one in named if file.parent == path / kind) for kind in ("snapshots", "keys"))
            junk = sorted(one.st_mtime for file, one in named if file.relative_to(path).parts[0] in SEALED and one.st_size < SMALLEST)
            found.append(Generation(path.name, tuple(snapshots), arrived, tuple(keys), tuple(junk)))
    return found


def files(repository: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that lasts in a repository, and how it is; an upload that ends meanwhile takes another name."""
    for directory, _, names in os.walk(repository):
        for name in names if Path(directory) != repository / "locks" else []:
            with contextlib.suppress(FileNotFoundError):
                if not name.startswith("."):
                    yield (file := Path(directory, name)), file.lstat()


def as_of(repository: Path, until: float, into: Path) -> int:
    """Build `into` of what had arrived by then, by hard links; how many files that is.

    What came later, forged snapshots, false keys and damaged indexes included, is not in it. What it holds was written once, by a client
    that had no way to change it since.
    """
    into.mkdir(mode=0o700)
    for kind in ("data", "index", "keys", "snapshots", "locks"):
        (into / kind).mkdir()
    count = 0
    for file, status in files(repository):
        if status.st_mtime <= until and WHOLE.fullmatch(file.name):
            target = into / file.relative_to(repository)
            target.parent.mkdir(parents=True, exist_ok=True)  # a client can put a repository into another
            os.link(file, target, follow_symlinks=False)
            count += 1
    return count


def views(account: str) -> Path:
    """Where repositories as they were lie; a link beside the account's own leads there.

    They are this host's, so whoever serves them can add nothing. Neither this program nor rest-server, which adds up what is used, follows
    a link: to both they are nothing that the practice has sent, which no name that a client chooses could bring about.
    """
    return STORE / ".as-of" / account


def shown(account: str, generation: str, until: float) -> Generation:
    """Have a repository served as it was then. Raises ValueError where there is nothing to go back to, or the name is taken."""
    if until > time.time():
        raise ValueError(f"{moment(until)} has not come yet")
    repository, place = repositories(account) / generation, views(account)
    name = f"{generation}.as-of-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(until))}"
    link, staged = repositories(account) / name, place / ".new"
    if os.path.lexists(link) and not link.is_symlink():
        raise ValueError(f"a client has taken the name {name}: choose another second")
    group = repository.lstat().st_gid
    for path, mode, whose in ((place.parent, 0o711, -1), (place, 0o750, group)):
        path.mkdir(exist_ok=True)
        os.chown(path, -1, whose)
        path.chmod(mode)
    if not (place / name).exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(staged)
        as_of(repository, until, staged)
        for directory, _, _ in os.walk(staged):
            os.chown(directory, -1, group)
            os.chmod(directory, 0o750)
        if not any((staged / "snapshots").iterdir()):
            raise ValueError(f"no snapshot had arrived in {generation} by {moment(until)}")
        staged.rename(place / name)
    if not link.is_symlink():
        link.symlink_to(place / name)
    return next(one for one in read(place) if one.name == name)


def outlived(account: Account, now: float) -> list[Path]:
    """The repositories as they were that were made longer ago than the days to keep: what they hold may go now as well."""
    there = views(account.name)
    return sorted(path for path in there.iterdir() if path.stat().st_mtime < now - account.keep_days * DAY) if there.is_dir() else []


def look(account: Account, now: float, confirmed: bool = False) -> dict[str, str]:
    """One look at one account: what is wrong; what is old goes if nothing is."""
    ledger_path = LEDGERS / f"{account.name}.json"
    try:
        ledger = remembered(ledger_path, now)
    except ValueError as bad:
        if not confirmed:
            wrong = {"ledger": f"What this host remembers of {account.name} cannot be read: {bad}.{remedy(account)}"}
            report(account.name, wrong, [], {})
            return wrong
        # Whatever it had told may be over by now.
        ledger = {"since": now, "recount": True, "wrong": dict.fromkeys(KINDS, "")}
    if ledger.get("recount"):
        ledger["recount"] = not counts_anew(account.name)
    if confirmed:
        doubted = ["the clock", *map(ascii, ledger.get("doubted", {}))]
        syslog.syslog(syslog.LOG_NOTICE, f"{account.name}: a person confirms {', '.join(doubted)}")
        ledger = confirm(ledger, now)
    ledger |= listen(account.name, ledger, now)
    generations = read(repositories(account.name))
    wrong = judge(account, generations, now, ledger)
    ledger["doubted"] = {one.key: one.until for one in unconfirmed(generations, now, ledger)}
    stopped = {*wrong} - HARMLESS
    removed = [] if stopped else expired(account, generations, now)
    if removed:
        # Before anything goes: whatever breaks off from here on, the next look has the server count anew.
        write(ledger_path, json.dumps(ledger | {"recount": True}, indent=1))
        for name in removed:
            remove(repositories(account.name) / name)
        ledger["recount"] = not counts_anew(account.name)
    for view in [] if stopped else outlived(account, now):
        with contextlib.suppress(OSError):  # what has come in the link's place is not ours
            (repositories(account.name) / view.name).unlink()
        remove(view)
        syslog.syslog(syslog.LOG_NOTICE, f"{account.name}: {view.name} was served long enough and is removed")
    report(account.name, wrong, removed, ledger.get("wrong", {}))
    # A clock that was not believed must not become the one that is compared with.
    if "clock" not in wrong:
        ledger["looked"] = now
    write(ledger_path, json.dumps(ledger | {"wrong": wrong, "removed": removed or ledger.get("removed", [])}, indent=1))
    return wrong


def remembered(path: Path, now: float) -> dict[str, Any]:
    """What the last look wrote down of an account. Raises ValueError for what none has written."""
    try:
        ledger = json.loads(path.read_text())
    except FileNotFoundError:
        return {"since": now}
    if not isinstance(ledger, dict) or any(not isinstance(ledger[key], kind) for key, kind in LEDGER.items() if key in ledger):
        raise ValueError(f"{path} is no ledger")
    return ledger


def listen(name: str, ledger: dict[str, Any], now: float) -> dict[str, Any]:
    """What the journal of an account's server has told since the last look, for its ledger."""
    words = [JOURNALCTL, "--quiet", "--all", "--no-pager", "--output=json", "--output-fields=MESSAGE,_LINE_BREAK"]
    words.append(f"_SYSTEMD_UNIT={server(name)}")
    if ledger.get("cursor"):
        words.append(f"--after-cursor={ledger['cursor']}")
    try:
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as journal:
            assert journal.stdout is not None
            found = hear(journal.stdout, name, now - DAY, arrived)
        if journal.returncode:
            raise OSError(f"{JOURNALCTL} ended with {journal.returncode}")
    except (OSError, ValueError, KeyError) as bad:
        return {"deaf": str(bad), "cursor": ""}  # the next look reads all that is there
    earlier = ledger.get("heard", []) if ledger.get("cursor") else []
    looks = [*(look for look in earlier if now - DAY < look[0] <= now), [now, found.guesses, found.lines]]
    told = {"deaf": "", "cursor": found.cursor or ledger.get("cursor", ""), "heard": looks}
    confirmed, refused = ledger.get("confirmed", {}).get("refused ", 0), ledger.get("refused") or {}
    before = refused if ledger.get("cursor") and refused.get("last", 0) > confirmed else {}  # without one, all was read again
    if new := [at for at in found.refused if at > confirmed]:
        told["refused"] = {"count": before.get("count", 0) + len(new), "first": before.get("first", new[0]), "last": max(new)}
    return told


def arrived(path: str) -> float | None:
    """When the file came here that the path of a request names; None when there is none."""
    if not (named := FILE.fullmatch(path)):
        return None
    account, generation, kind, name = named.groups()
    file = repositories(account) / generation / (f"{kind}/{name[:2] + '/' if kind == 'data' else ''}{name}" if kind else "config")
    with contextlib.suppress(OSError, ValueError):
        return file.lstat().st_mtime
    return None


def report(name: str, wrong: dict[str, str], removed: list[str], before: dict[str, str]) -> None:
    """To people, and into the journal."""
    tell(name, wrong, before)
    for what, text in wrong.items():
        held = "" if what in HARMLESS else " Nothing is removed until that is right."
        syslog.syslog(syslog.LOG_ALERT, f"{name}: {text}{held}")
    for repository in removed:
        syslog.syslog(syslog.LOG_NOTICE, f"{name}: repository {called(repository)} was old enough and is removed")


def looked_at(account: Account, confirmed: bool) -> dict[str, str]:
    """A look at one account; whatever is broken there keeps nobody from looking at the others."""
    try:
        wrong = look(account, time.time(), confirmed)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as bad:
        wrong = {"unseen": f"{account.name} could not be looked at: {bad!r}."}
        report(account.name, wrong, [], {})
    else:
        if "ledger" not in wrong:
            tell(account.name, {}, {"ledger": "", "unseen": ""})
    return wrong


def tell(name: str, wrong: dict[str, str], before: dict[str, str]) -> None:
    """Have a person told as by a practice's server (roles/alarm.py): at once, each day while it stands, and when it is over."""
    for what in sorted({*wrong, *before}):
        words = ["raise", f"vault:{name}-{what}", wrong[what]] if what in wrong else ["clear", f"vault:{name}-{what}"]
        ask("alarm", *words)


def ask(*words: str) -> None:
    """The practice command, if it is there: what it cannot do keeps nothing else from being done."""
    with contextlib.suppress(FileNotFoundError, subprocess.SubprocessError):
        subprocess.run([PRACTICE, *words], check=True, timeout=60, stdin=subprocess.DEVNULL)


def counts_anew(account: str) -> bool:
    """Restart the account's rest-server: against its quota it counts once, when it starts, and sees nothing go but by its own hand.

    An upload is cut off by that; restic tries again. A server that does not run counts when it is started.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([SYSTEMCTL, "try-restart", server(account)], check=True, timeout=300, stdin=subprocess.DEVNULL)
        return True
    return False


def remove(repository: Path) -> None:
    """Out of sight by one rename, then gone; what breaks off in between is finished by the next look."""
    trash = STORE / ".removed"
    trash.mkdir(mode=0o700, exist_ok=True)
    repository.rename(trash / f"{repository.parent.name}-{repository.name}-{time.time_ns()}")
    empty_trash()


def empty_trash() -> None:
    """What was put out of sight goes."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(STORE / ".removed")


def write(path: Path, text: str) -> None:
    """Replace a file in one step, and not by half of it when the power goes."""
    staged = path.with_suffix(".new")
    with staged.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One run at a time: a look of the timer's would write its ledger over what a person confirms meanwhile."""
    directory = os.open(LEDGERS, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def accounts() -> dict[str, Account]:
    """What the last deploy wrote down."""
    return {one["name"]: Account(**one) for one in json.loads(CONFIG.read_text())}


def main() -> int:
    """Exit code 0: all is as it should be; 2: called wrongly, and nothing was done; 3: something looks wrong, and was told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--confirm", metavar="ACCOUNT")
    parser.add_argument("--as-of", nargs=3, metavar=("ACCOUNT", "GENERATION", "TIME"))
    arguments = parser.parse_args()
    known = accounts()
    for name in filter(None, (arguments.confirm, (arguments.as_of or [None])[0])):
        if name not in known:
            parser.error(f"no account is called {name}; there are: {', '.join(known) or 'none'}")
    if arguments.as_of:
        name, generation, when = arguments.as_of
        there = [one.name for one in read(repositories(name))]
        if generation not in there:
            parser.error(f"{name} has no repository {generation}; there are: {', '.join(map(called, there)) or 'none'}")
        try:
            with alone():
                view = shown(name, generation, int(datetime.fromisoformat(when).astimezone().timestamp()))
        except ValueError as wrong:
            parser.error(str(wrong))
        print(f"{len(view.files)} files, the newest snapshot arrived {moment(view.snapshots[-1])}. For {known[name].keep_days} days:")
        print(f"./cabinet restore NAME --from offsite --repository {view.name}")
        return 0
    syslog.openlog("cabinet-vault")
    with alone():
        empty_trash()
        wrong = {name: looked_at(account, name == arguments.confirm) for name, account in known.items()}
        # cabinet-silence.service waits for it.
        write(LEDGERS / "looked", f"{time.time():.0f}\n")
    for name, troubles in wrong.items():
        print(f"{name}: {' '.join(troubles.values()) or 'as it should be'}")
    # What an earlier run of the service failed of did not stop this one.
    ask("alarm", "clear", "unit:cabinet-keeper.service")
    ask("alarm", "alive")
    return 3 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
