"""What a new server fetches from the copy outside: the newest whole set there is, by the one account that the firewall lets out."""

from __future__ import annotations

import datetime
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import practice
from practice import courier, notes
from practice.engine import Missing, Restic, Snapshot, WrongPassword
from practice.offsite import KINDS, kept
from practice.server import Trouble, run

ACCOUNT = "cabinet-offsite"
PASSWORD = Path("/var/lib/cabinet/secrets/offsite-password")
LOGIN = Path("/var/lib/cabinet/offsite-login")
WAY = "/usr/local/lib/cabinet/offsite-way"
# What was root's, or the database's, is to be theirs again; nothing else of root's rights is given to what talks to the host.
RIGHTS = "+chown,+fowner,+fsetid,+dac_override"
# It ends with whoever waits for it, so that the next run is alone.
RESTIC = (
    "setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}",
    f"--bounding-set=-all,{RIGHTS}", "--no-new-privs", "--pdeathsig=KILL", "restic",
)  # fmt: skip
ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from practice import courier, server
try:
    courier.reached()
except server.Trouble as trouble:
    sys.exit(str(trouble))
"""
# So long ago could the last one have been begun.
MONTHS = 24
# As courier.names has it, or as files/vault/keeper.py calls one of them as it was.
NAME = re.compile(r"\d{4}-\d{2}(-[2-9])?(\.as-of-\d{8}T\d{6}Z)?")
AS_IT_WAS = ".as-of-"
STRANGE = (
    "the password does not open what lies there ({}): part C is of another kit, or of another practice. "
    f"Remove {PASSWORD}, and put the right one back: practice recovery-kit --put-back"
)
CLOSED = (
    "{0}: the password does not open it. It is a stranger's; or part C is of an older page: "
    f"then remove {PASSWORD}, put the newest one back (practice recovery-kit --put-back), and call this again with --repository {{0}}"
)


def newest() -> dict[str, Any]:
    """The set of copies to take: which repository, which snapshots, and when it was sent (by the lost server's clock). Raises Trouble.

    Names are tried from this month backwards, because the host lists none. A new month's repository may be whole while the one before
    was still written to; so that one is asked as well.
    """
    reached()
    found: list[dict[str, Any]] = []
    unread: dict[str, Trouble] = {}
    for month in months(time.time()):
        done = bool(found)
        for name in courier.names(month):
            try:
                found += [{"generation": name} | copies for copies in whole(opened(name).snapshots())]
            except Missing:
                continue
            except Trouble as trouble:
                unread[name] = trouble
        if done:
            break
    if found:
        taken = latest(found)
        return taken | {"unread": passed_over(taken["generation"], unread)}
    if closed := [name for name, why in unread.items() if isinstance(why, WrongPassword)]:
        raise Trouble(STRANGE.format(", ".join(closed)))
    broken = [f"{name}: {why}" for name, why in unread.items()]
    raise Trouble(f"no whole copy is there: {broken[0] if broken else f'no repository of the last {MONTHS} months'}")


def passed_over(taken: str, unread: dict[str, Trouble]) -> list[str]:
    """What may be newer than the repository that is taken. Raises Trouble where that may be the practice's own, which has broken.

    Anybody with the account's password can begin one that this password does not open: that keeps nobody from going on.
    """
    said = []
    for name, why in unread.items():
        newer = name > taken
        if newer and not isinstance(why, WrongPassword):
            raise Trouble(f"{name}, which is newer than {taken}: {why}. Call this again; to do without it: --repository {taken}")
        if newer:
            said.append(CLOSED.format(name))
        elif not isinstance(why, WrongPassword):  # still written to, while its successor was begun
            said.append(f"{name}: {why}")
    return said


def newest_in(name: str) -> dict[str, Any]:
    """The same out of this repository alone, whatever others hold: a person has said which, and why is theirs. Raises Trouble."""
    reached()
    try:
        found = whole(opened(name).snapshots())
    except Missing:
        raise Trouble(f"the place outside has no repository {name}") from None
    except WrongPassword:
        raise Trouble(STRANGE.format(name)) from None
    if not found:
        raise Trouble(f"no whole copy is in the repository {name}")
    return {"generation": name, "chosen": True} | found[0]


def reached() -> None:
    """Raises Trouble at once when the right host is not there; asked as who may get out."""
    with suppress(Trouble):  # before the firewall is there, nothing needs to be opened
        run(WAY)
    where = str(Path(practice.__file__).parents[1])
    run(sys.executable, "-I", "-c", ASK, where, user=ACCOUNT)


def months(now: float) -> list[str]:
    """This month (UTC) and the ones before, as courier.begun names them."""
    today = datetime.datetime.fromtimestamp(now, datetime.UTC)
    numbers = (today.year * 12 + today.month - 1 - back for back in range(MONTHS))
    return [f"{number // 12}-{number % 12 + 1:02}" for number in numbers]


def latest(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest of these sets; one that lies ahead only where all do."""
    return max(found, key=lambda one: (notes.believed(one["at"], time.time()), one["at"]))


def whole(snapshots: list[Snapshot]) -> list[dict[str, Any]]:
    """The newest set in a repository, if there is one. What lies ahead was made by a clock that was wrong: only where there is no other."""
    limit = time.time() + notes.AHEAD
    ahead = [one.at for one in snapshots if one.at > limit]
    past = complete([one for one in snapshots if one.at <= limit])
    return [one | ({"ahead": max(ahead)} if ahead else {}) for one in past] or complete(snapshots)


def complete(snapshots: list[Snapshot]) -> list[dict[str, Any]]:
    """The newest set of these, if there is one: the newest changes whose backups are there, and the newest of all else."""
    latest = {kind: one for one in snapshots for kind in KINDS if kind in one.tags}
    if set(latest) != set(KINDS):
        return []
    for changes in reversed([one for one in snapshots if "changes" in one.tags]):
        label = next((tag.removeprefix("with:") for tag in changes.tags if tag.startswith("with:")), "none")
        backups = next((one for one in snapshots if "database" in one.tags and one.id.startswith(label)), None)
        if backups is not None:
            chosen = latest | {"changes": changes, "database": backups}
            return [{"at": changes.at, "snapshots": {kind: one.id for kind, one in chosen.items()}}]
    return []


def fetched(work: dict[str, Any], kind: str, into: Path) -> None:
    """What a snapshot holds lies below `into`; what an interrupted run has brought is compared, and not brought again. Raises Trouble."""
    reached()
    into.mkdir(mode=0o700, exist_ok=True)
    opened(work["generation"]).restore(work["snapshots"][kind], into)


def opened(name: str) -> Restic:
    """The repository of this name. Raises Trouble."""
    state = kept()
    hint = state.get("hint", "") if state.get("generation") == name else ""
    try:
        return courier.repository(name, PASSWORD.read_text(), LOGIN.read_text(), hint, *RESTIC)
    except FileNotFoundError as missing:
        raise Trouble(
            f"{missing.filename} is not there: put the keys back from the recovery kit: practice recovery-kit --put-back"
        ) from None
