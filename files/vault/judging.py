"""What looks wrong about the copies of a practice, and what of them may go. No file is touched here, and no program asked."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HOUR, DAY = 3600, 86400
# This host looks each hour. What it finds three days later is another clock, or another disk: a person looks before anything is removed.
SILENT_SELF = 3 * DAY
# The clocks of one machine agree within this.
SLACK = 120
# A practice sends each quarter of an hour: the changes, now and then the backups, documents, configuration.
FLOOD_PER_DAY = 600
# A new repository begins with less than the old one has come to, because the old one holds a month more; but not with so little.
SHRUNK = 0.25
# What arrives in a week: full backups come each week, so weeks are alike; one may be late.
SHRUNK_WEEK = 0.1
WEEK, LATE = 7 * DAY, DAY // 2
FULL = 0.85
# Whoever mistypes a password does it a few times; a practice that has the wrong one asks more often, and should be told so.
GUESSES_PER_DAY = 20
# Lines of an account's journal from one look to the next: a terabyte that is sent in packs of 16 MiB makes a tenth of them. More may have
# pushed something out of the journal that somebody did not want to be seen.
CROWD = 500_000
# Whoever knows no password can bring these about, and with them nobody must be able to fill the disk.
HARMLESS = {"guessed", "crowded"}
# All that can be wrong.
KINDS = ("clock", "crowded", "deaf", "dwindled", "flood", "future", "guessed", "junk", "keys", "past", "quota", "recount", "refused")
KINDS += ("shrunk", "silence")
# While a new repository is begun, which takes its time on a slow line, the old one is still sent to.
OVERLAP = 7 * DAY


@dataclass(frozen=True)
class Generation:
    """One repository of an account: when each snapshot arrived, when how many bytes did, each key, and what nothing can be in; in order."""

    name: str
    snapshots: tuple[float, ...]
    files: tuple[tuple[float, int], ...]
    keys: tuple[float, ...] = ()
    junk: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(size for _, size in self.files)

    @property
    def last(self) -> float:
        """When anything last arrived."""
        return self.files[-1][0] if self.files else 0.0

    @property
    def called(self) -> str:
        """Its name for people: a client has chosen it, and must not speak to whoever reads an alarm."""
        return called(self.name)

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
    """What looks wrong and does not pass by itself: of which repositories, if any, and the newest moment that makes it look so."""

    what: str
    of: str
    until: float
    text: str

    @property
    def key(self) -> str:
        """What a person confirms."""
        return f"{self.what} {self.of}"


def whole(generations: Iterable[Generation]) -> list[Generation]:
    """Those that hold a snapshot, oldest first."""
    return sorted((one for one in generations if one.snapshots), key=lambda one: one.snapshots[0])


def judge(account: Account, generations: list[Generation], now: float, ledger: dict[str, Any]) -> dict[str, str]:
    """What looks wrong, in sentences. While anything does that is not HARMLESS, nothing is removed."""
    return (
        of_this_host(account, generations, now, ledger)
        | of_whoever_asks(account, now, ledger)
        | of_what_came(account, generations, now, ledger)
    )


def of_this_host(account: Account, generations: list[Generation], now: float, ledger: dict[str, Any]) -> dict[str, str]:
    """Its clock, its server, its journal."""
    wrong: dict[str, str] = {}
    if ledger.get("recount"):
        wrong["recount"] = f"{server(account.name)} cannot be restarted, and until then refuses what there is room for again."
    looked = ledger.get("looked")
    arrivals = [at for one in generations for at, _ in one.files]
    if looked is not None and not -SLACK <= now - looked <= SILENT_SELF:
        wrong["clock"] = f"This host last looked {moment(looked)}, and its clock says {moment(now)}: it was off, or its clock is wrong."
        wrong["clock"] += remedy(account)
    if arrivals and max(arrivals) > now + SLACK:
        wrong["future"] = f"Something arrived {moment(max(arrivals))}, which is in the future: this host's clock was, or is, wrong."
    if ledger.get("deaf"):
        wrong["deaf"] = f"What was refused cannot be known: {ledger['deaf']}."
    return wrong


def of_whoever_asks(account: Account, now: float, ledger: dict[str, Any]) -> dict[str, str]:
    """And knows no password."""
    wrong: dict[str, str] = {}
    guesses, crowd = heard_within_a_day(ledger, now)
    if guesses > GUESSES_PER_DAY:
        wrong["guessed"] = f"{guesses} wrong passwords were tried within a day. From where: journalctl -u {server(account.name)}"
    if crowd > CROWD:
        wrong["crowded"] = f"{crowd} requests came from one look to the next: what was refused meanwhile may have left the journal by now."
    return wrong


def of_what_came(account: Account, generations: list[Generation], now: float, ledger: dict[str, Any]) -> dict[str, str]:
    """What arrived, and what did not."""
    wrong: dict[str, str] = {}
    begun = whole(generations)
    doubted = unconfirmed(generations, now, ledger)
    for what in sorted({one.what for one in doubted}):
        wrong[what] = " ".join(one.text for one in doubted if one.what == what) + remedy(account)
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
    if dwindled := weeks(begun, now):
        wrong["dwindled"] = dwindled
    used = sum(one.size for one in generations)
    if used > FULL * account.quota:
        wrong["quota"] = f"{mib(used)} of {mib(account.quota)} are used: soon nothing more will be taken."
    return wrong


def doubts(generations: list[Generation], now: float, ledger: dict[str, Any] | None = None) -> list[Doubt]:
    """What looks wrong and does not pass: only a person can know that it is right."""
    return [*between(whole(generations), now), *strange(generations), *attacks(ledger or {})]


def between(begun: list[Generation], now: float) -> list[Doubt]:
    """What looks wrong about a repository and the next one."""
    found = []
    for old, new in zip(begun, begun[1:], strict=False):
        # With when they began: a name that is used again is another repository.
        pair = " ".join(f"{one.name}@{one.snapshots[0]:.0f}" for one in (old, new))
        if now - new.snapshots[0] > OVERLAP and new.size < SHRUNK * old.size:
            text = f"Repository {new.called} holds {mib(new.size)}, {old.called} before it held {mib(old.size)}."
            found.append(Doubt("shrunk", pair, new.snapshots[0], text))
        if old.snapshots[-1] > new.snapshots[0] + OVERLAP:
            text = f"Repository {old.called} is still written to, although {new.called} took its place {moment(new.snapshots[0])}."
            found.append(Doubt("past", pair, old.snapshots[-1], text))
    return found


def strange(generations: list[Generation]) -> list[Doubt]:
    """What a practice never sends: it makes one key for each repository, and nothing that is too small to hold anything."""
    found = []
    for one in generations:
        name = f"{one.name}@{one.files[0][0]:.0f}" if one.files else one.name
        if len(one.keys) > 1:
            text = f"Repository {one.called} has {len(one.keys)} keys; a practice makes one. The others may keep restic from finding it."
            found.append(Doubt("keys", name, one.keys[-1], text))
        if one.junk:
            text = f"Repository {one.called} holds {len(one.junk)} files that are too small to be restic's, since {moment(one.junk[0])}."
            found.append(Doubt("junk", name, one.junk[-1], text))
    return found


def attacks(ledger: dict[str, Any]) -> list[Doubt]:
    """What was asked by somebody who has the account's password, and refused."""
    if not (refused := ledger.get("refused")):
        return []
    often = "Once" if refused["count"] == 1 else f"{refused['count']} times since {moment(refused['first'])}"
    text = f"{often}, last {moment(refused['last'])}, somebody who has the account's password asked to remove or overwrite what is there."
    text += " It was refused. Look at the practice's server."
    return [Doubt("refused", "", refused["last"], text)]


def heard_within_a_day(ledger: dict[str, Any], now: float) -> tuple[int, int]:
    """How many wrong passwords there were, and the most lines from one look to the next."""
    looks = [(guesses, lines) for at, guesses, lines in ledger.get("heard", []) if now - DAY < at <= now + SLACK]
    return sum(guesses for guesses, _ in looks), max((lines for _, lines in looks), default=0)


def unconfirmed(generations: list[Generation], now: float, ledger: dict[str, Any]) -> list[Doubt]:
    """Those that no person has looked at, or that something newer was added to since."""
    confirmed = ledger.get("confirmed", {})
    return [one for one in doubts(generations, now, ledger) if one.until > confirmed.get(one.key, 0)]


def confirm(ledger: dict[str, Any], now: float) -> dict[str, Any]:
    """The ledger of an account at which a person has looked: what the last look told is right, and nothing that came after it."""
    return ledger | {"looked": now, "confirmed": ledger.get("confirmed", {}) | ledger.get("doubted", {})}


def remedy(account: Account) -> str:
    """How a person goes on who has looked, on the host; nobody else can."""
    return f" If that is right: sudo python3 /usr/local/lib/cabinet/keeper.py --confirm {account.name}"


def weeks(begun: list[Generation], now: float) -> str:
    """Whether far less arrives than used to, whatever the repository is called into which it comes.

    What used to: the median of the weeks before, one beginning each day, so that a single large import is none. A repository's first
    week, in which everything arrives once, is none either; of those weeks, the last repository has some whenever this one has not.
    """
    recent = now - WEEK - LATE
    usual = []
    for number, one in enumerate(begun):
        settled, until = one.snapshots[0] + OVERLAP, begun[number + 1].snapshots[0] if number + 1 < len(begun) else recent
        ends = (recent - step * DAY for step in range(5 * 7))
        usual += [one.since(end - WEEK, end) for end in ends if settled <= end - WEEK and end <= until]
    if not usual:  # of the first one, for its first three weeks
        return ""
    last, before = sum(one.since(recent, now + SLACK) for one in begun), sorted(usual)[(len(usual) - 1) // 2]
    return f"In the last week {mib(last)} arrived, in a week before that {mib(before)}." if last < SHRUNK_WEEK * before else ""


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


def called(name: str) -> str:
    """The name of a repository for people; one that no practice gives is cut, and in quotes."""
    return name if re.fullmatch(r"[\w.-]{1,40}", name, re.ASCII) else ascii(name[:40])


def mib(size: int) -> str:
    """A size as people write it."""
    return f"{size >> 20} MiB"


def server(account: str) -> str:
    """What takes an account's copies, as roles/vault.py names it."""
    return f"cabinet-vault-{account}.service"
