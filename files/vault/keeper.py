"""The off-site host keeps what practices send: it removes what is old enough, and nothing at all while something looks wrong.

keeper.py                              looks at every account; the timer does this each hour. Exit code 3: something looks wrong
keeper.py --confirm ACCOUNT            a person has looked: the clock is right, and so is what the last look found of two repositories
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/cabinet/vault.json")
STORE = Path("/srv/vault")
LEDGERS = Path("/var/lib/cabinet-vault")
PRACTICE = "/usr/local/bin/practice"
SYSTEMCTL = "/usr/bin/systemctl"

HOUR, DAY = 3600, 86400
# This host looks each hour. What it finds three days later is another clock, or another disk: a person looks before anything is removed.
SILENT_SELF = 3 * DAY
# The clocks of one machine agree within this.
SLACK = 120
# A practice sends each quarter of an hour: the changes, now and then the backups, documents, configuration.
FLOOD_PER_DAY = 600
# A new repository begins with less than the old one has come to, because the old one holds a month more; but not with so little.
SHRUNK = 0.25
# What arrives in a week: full backups come each week, so weeks are alike.
SHRUNK_WEEK = 0.1
FULL = 0.85
# While a new repository is begun, which takes its time on a slow line, the old one is still sent to.
OVERLAP = 7 * DAY
# Whatever else lies in a repository is an upload that broke off, or that rest-server refused: it leaves an empty file of each.
WHOLE = re.compile("[0-9a-f]{64}|config")


@dataclass(frozen=True)
class Generation:
    """One repository of an account: when each snapshot arrived, and when how many bytes did; both in order."""

    name: str
    snapshots: tuple[float, ...]
    files: tuple[tuple[float, int], ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(size for _, size in self.files)

    @property
    def last(self) -> float:
        """When anything last arrived."""
        return self.files[-1][0] if self.files else 0.0

    def since(self, moment: float, until: float) -> int:
        """How many bytes arrived in that time."""
        return sum(size for at, size in self.files if moment <= at < until)


@dataclass(frozen=True)
class Account:
    """What was agreed with a practice."""

    name: str
    keep_days: int
    quota: int
    silence_hours: float


@dataclass(frozen=True)
class Doubt:
    """What looks wrong about two repositories, and the newest snapshot that makes it look so."""

    what: str
    pair: str
    until: float
    text: str

    @property
    def key(self) -> str:
        """What a person confirms."""
        return f"{self.what} {self.pair}"


# ---- judging: no file is touched here -------------------------------------------------------------------------------


def whole(generations: Iterable[Generation]) -> list[Generation]:
    """Those that hold a snapshot, oldest first."""
    return sorted((one for one in generations if one.snapshots), key=lambda one: one.snapshots[0])


def judge(account: Account, generations: list[Generation], now: float, ledger: dict[str, Any]) -> dict[str, str]:
    """What looks wrong, in sentences. While anything does, nothing is removed."""
    wrong: dict[str, str] = {}
    begun = whole(generations)
    if ledger.get("recount"):
        wrong["recount"] = f"{server(account.name)} cannot be restarted, and until then refuses what there is room for again."
    looked = ledger.get("looked")
    arrivals = [at for one in generations for at, _ in one.files]
    if looked is not None and not -SLACK <= now - looked <= SILENT_SELF:
        wrong["clock"] = f"This host last looked {moment(looked)}, and its clock says {moment(now)}: it was off, or its clock is wrong."
        wrong["clock"] += remedy(account)
    if arrivals and max(arrivals) > now + SLACK:
        wrong["future"] = f"Something arrived {moment(max(arrivals))}, which is in the future: this host's clock was, or is, wrong."
    if not begun:
        since = ledger.get("since", now)
        if now - since > account.silence_hours * HOUR:
            wrong["silence"] = "No snapshot has ever arrived."
        return wrong
    newest = max(one.snapshots[-1] for one in begun)
    if now - newest > account.silence_hours * HOUR:
        wrong["silence"] = f"The newest snapshot arrived {moment(newest)}."
    today = sum(1 for one in begun for at in one.snapshots if now - DAY < at)
    if today > FLOOD_PER_DAY:
        wrong["flood"] = f"{today} snapshots arrived within a day; a practice sends far fewer."
    doubted = unconfirmed(begun, now, ledger)
    for what in sorted({one.what for one in doubted}):
        wrong[what] = " ".join(one.text for one in doubted if one.what == what) + remedy(account)
    if dwindled := weeks(begun, now):
        wrong["dwindled"] = dwindled
    used = sum(one.size for one in generations)
    if used > FULL * account.quota:
        wrong["quota"] = f"{mib(used)} of {mib(account.quota)} are used: soon nothing more will be taken."
    return wrong


def doubts(begun: list[Generation], now: float) -> list[Doubt]:
    """What looks wrong about a repository and the next one. It does not pass: only a person can know that it is right."""
    found = []
    for old, new in zip(begun, begun[1:], strict=False):
        # With when they began: a name that is used again is another repository.
        pair = " ".join(f"{one.name}@{one.snapshots[0]:.0f}" for one in (old, new))
        if now - new.snapshots[0] > OVERLAP and new.size < SHRUNK * old.size:
            text = f"Repository {new.name} holds {mib(new.size)}, {old.name} before it held {mib(old.size)}."
            found.append(Doubt("shrunk", pair, new.snapshots[0], text))
        if old.snapshots[-1] > new.snapshots[0] + OVERLAP:
            text = f"Repository {old.name} is still written to, although {new.name} took its place {moment(new.snapshots[0])}."
            found.append(Doubt("past", pair, old.snapshots[-1], text))
    return found


def unconfirmed(begun: list[Generation], now: float, ledger: dict[str, Any]) -> list[Doubt]:
    """Those that no person has looked at, or that something newer was added to since."""
    confirmed = ledger.get("confirmed", {})
    return [one for one in doubts(begun, now) if one.until > confirmed.get(one.key, 0)]


def confirm(ledger: dict[str, Any], now: float) -> dict[str, Any]:
    """The ledger of an account at which a person has looked: what the last look told is right, and nothing that came after it."""
    return ledger | {"looked": now, "confirmed": ledger.get("confirmed", {}) | ledger.get("doubted", {})}


def remedy(account: Account) -> str:
    """How a person goes on who has looked, on the host; nobody else can."""
    return f" If that is right: sudo python3 /usr/local/lib/cabinet/keeper.py --confirm {account.name}"


def weeks(begun: list[Generation], now: float) -> str:
    """Whether far less arrives than used to; the month in which a new repository takes everything once does not count as usual."""
    newest = begun[-1]
    age = now - newest.snapshots[0]
    if age < 3 * 7 * DAY:  # the first week holds everything, and one week more is needed to compare with
        return ""
    last = newest.since(now - 7 * DAY, now + SLACK)
    before = newest.since(now - 14 * DAY, now - 7 * DAY)
    return f"In the last week {mib(last)} arrived, in the week before {mib(before)}." if last < SHRUNK_WEEK * before else ""


def expired(account: Account, generations: list[Generation], now: float) -> list[str]:
    """The repositories that may go: nothing arrived there within the days to keep, and its successor alone reaches back that far.

    So each snapshot that arrived within those days stays, and one more repository before it than would be needed.
    """
    old = now - account.keep_days * DAY
    begun = whole(generations)
    gone = [one.name for one, successor in zip(begun, begun[1:], strict=False) if one.last < old and successor.snapshots[0] < old]
    # What never came to a snapshot holds nothing that could be gone back to.
    return gone + [one.name for one in generations if not one.snapshots and one.last < old and begun]


def moment(seconds: float) -> str:
    """A time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def mib(size: int) -> str:
    """A size as people write it."""
    return f"{size >> 20} MiB"


# ---- on the disk ----------------------------------------------------------------------------------------------------


def repositories(account: str) -> Path:
    """rest-server --private-repos puts an account's repositories below a directory of its name."""
    return STORE / account / account


def read(directory: Path) -> list[Generation]:
    """The repositories that lie there; locks, which come and go, do not count."""
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            status = [(file, file.lstat()) for file in files(path)]
            arrived = tuple(sorted((one.st_mtime, one.st_size) for _, one in status))
            named = [one.st_mtime for file, one in status if file.parent == path / "snapshots" and WHOLE.fullmatch(file.name)]
            found.append(Generation(path.name, tuple(sorted(named)), arrived))
    return found


def files(repository: Path) -> list[Path]:
    """All that lasts in a repository."""
    return [
        Path(directory, name)
        for directory, _, names in os.walk(repository)
        if Path(directory) != repository / "locks"
        for name in names
        if not name.startswith(".")
    ]


def as_of(repository: Path, until: float, into: Path) -> int:
    """Build `into` of what had arrived by then, by hard links; how many files that is.

    What came later, forged snapshots, false keys and damaged indexes included, is not in it. What it holds was written once, by a client
    that had no way to change it since.
    """
    into.mkdir(mode=0o700)
    for kind in ("data", "index", "keys", "snapshots", "locks"):
        (into / kind).mkdir()
    count = 0
    for file in files(repository):
        if file.lstat().st_mtime <= until and WHOLE.fullmatch(file.name):
            target = into / file.relative_to(repository)
            target.parent.mkdir(exist_ok=True)
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
    ledger: dict[str, Any] = {"since": now}
    with contextlib.suppress(FileNotFoundError):
        ledger = json.loads(ledger_path.read_text())
    if ledger.get("recount"):
        ledger["recount"] = not counts_anew(account.name)
    if confirmed:
        syslog.syslog(syslog.LOG_NOTICE, f"{account.name}: a person confirms {', '.join(['the clock', *ledger.get('doubted', {})])}")
        ledger = confirm(ledger, now)
    generations = read(repositories(account.name))
    wrong = judge(account, generations, now, ledger)
    ledger["doubted"] = {one.key: one.until for one in unconfirmed(whole(generations), now, ledger)}
    removed = [] if wrong else expired(account, generations, now)
    if removed:
        # Before anything goes: whatever breaks off from here on, the next look has the server count anew.
        write(ledger_path, json.dumps(ledger | {"recount": True}, indent=1))
        for name in removed:
            remove(repositories(account.name) / name)
        ledger["recount"] = not counts_anew(account.name)
    for view in [] if wrong else outlived(account, now):
        with contextlib.suppress(OSError):  # what has come in the link's place is not ours
            (repositories(account.name) / view.name).unlink()
        remove(view)
        syslog.syslog(syslog.LOG_NOTICE, f"{account.name}: {view.name} was served long enough and is removed")
    tell(account.name, wrong, ledger.get("wrong", {}))
    for text in wrong.values():
        syslog.syslog(syslog.LOG_ALERT, f"{account.name}: {text} Nothing is removed until that is right.")
    for name in removed:
        syslog.syslog(syslog.LOG_NOTICE, f"{account.name}: repository {name} was old enough and is removed")
    # A clock that was not believed must not become the one that is compared with.
    if "clock" not in wrong:
        ledger["looked"] = now
    write(ledger_path, json.dumps(ledger | {"wrong": wrong, "removed": removed or ledger.get("removed", [])}, indent=1))
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


def server(account: str) -> str:
    """What takes an account's copies, as roles/vault.py names it."""
    return f"cabinet-vault-{account}.service"


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
    """Replace a file in one step."""
    staged = path.with_suffix(".new")
    staged.write_text(text)
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
            parser.error(f"{name} has no repository {generation}; there are: {', '.join(there) or 'none'}")
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
        wrong = {name: look(account, time.time(), confirmed=name == arguments.confirm) for name, account in known.items()}
    for name, troubles in wrong.items():
        print(f"{name}: {' '.join(troubles.values()) or 'as it should be'}")
    # What an earlier run of the service failed of did not stop this one.
    ask("alarm", "clear", "unit:cabinet-keeper.service")
    return 3 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
