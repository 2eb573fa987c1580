"""The copy outside the practice: send it now, or say how far back it reaches.

What leaves is encrypted here, by a key that only this server and the practice hold. Where it is kept, nothing can be deleted or
overwritten from here, and once a month a new repository is begun: then whole old ones can go, by the clock of whoever keeps them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from practice.engine import Engine, Incomplete, Restic
from practice.server import Trouble, is_root, run

# Written by roles/offsite.py; without it nothing is sent.
CONFIG = Path("/etc/cabinet/offsite.json")
HOME = Path("/var/lib/cabinet/offsite")
SENDING = "practice-offsite@send.service"
# The service's own: nobody came, or what is there is not whole. It is tried again, and the watch looks at the age of what arrived.
TRY_AGAIN = 75

REPOSITORY = Path("/backup/pgbackrest")
DOCUMENTS = Path("/srv")
CONFIGURATION = (Path("/etc/cabinet"), Path("/var/lib/cabinet/secrets"))
WEEK = 7 * 86400
# pgBackRest removes old backups once a day; a second race within a few minutes has another reason.
TRIES = 3
SYSTEM = (
    ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}=${Version} ${Architecture}\n"),
    ("uname", "-a"),
    ("lsblk", "-o", "NAME,SIZE,TYPE,FSTYPE,UUID,SERIAL,MOUNTPOINTS"),
    ("findmnt", "--real"),
    ("systemctl", "list-unit-files", "--state=enabled", "--no-pager", "--plain"),
)

State = dict[str, Any]


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice offsite [send | run send|renew|verify]`."""
    parser = commands.add_parser("offsite", help="the copy outside the practice: how old it is; send it now", description=__doc__)
    parser.add_argument("action", nargs="?", choices=["show", "send", "run"], default="show", help="run is for the services")
    parser.add_argument("what", nargs="?", choices=sorted(RUNS), default="send")
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
    if arguments.action == "send":
        with contextlib.suppress(Trouble):  # its reason is shown below
            run("systemctl", "start", SENDING, timeout=86400)
    seen, wrong = look(time.time())
    print(json.dumps(seen | {"troubles": wrong}, indent=2) if arguments.json else "\n".join([describe(seen), *wrong.values()]))
    return 1 if wrong or seen["error"] else 0


def serve(what: str) -> int:
    """One run of a service, as the account that may do nothing else."""
    try:
        with only_one(what):
            RUNS[what](time.time())
        note(lambda state: state.update(error=""))
    except Trouble as trouble:
        reason = str(trouble)
        note(lambda state: state.update(error=reason))
        print(f"practice offsite: {reason}", file=sys.stderr)
        return TRY_AGAIN
    return 0


# ---- what the services do -------------------------------------------------------------------------------------------


def send(now: float) -> None:
    """What has changed, into the repository that counts. Raises Trouble."""
    state = kept()
    if not state.get("generation"):
        renew(now)
        return
    engine = opened(state["generation"], state.get("hint", ""))
    sent = copies(engine, state["sent"], now)
    for kind, copy in sent:
        remember(kind, copy)


def renew(now: float) -> None:
    """Once a month everything goes into a new repository; when all of it has arrived, that one counts. Raises Trouble."""
    month = time.strftime("%Y-%m", time.gmtime(now))
    if kept().get("generation", "") >= month:
        return
    name, engine = begun(month)
    sent = dict(copies(engine, {}, now))
    hint = engine.key()
    note(lambda state: state.update(generation=name, hint=hint, sent=sent))


def begun(month: str) -> tuple[str, Restic]:
    """A repository of our own under the first name that is free, or was begun by us. Raises Trouble.

    Whoever had the account's password could have taken a name before us; then the next one is as good.
    """
    reason = ""
    for name in (month, *(f"{month}-{number}" for number in range(2, 10))):
        engine = opened(name)
        try:
            engine.prepare()
        except Trouble as trouble:
            reason = str(trouble)
            continue
        return name, engine
    raise Trouble(f"no repository can be begun for {month}: {reason}")


def verify(now: float) -> None:
    """All that lies there is read and compared, once a week. Raises Trouble."""
    state = kept()
    if state.get("generation"):
        opened(state["generation"], state.get("hint", "")).verify()
        note(lambda state: state.update(verified=now))


RUNS: dict[str, Callable[[float], None]] = {"send": send, "renew": renew, "verify": verify}


def copies(engine: Restic, sent: dict[str, Any], now: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make each copy that is due, and say so at once. Raises Trouble.

    The backups go before the changes: what a backup needs of the changes was archived before pgBackRest named the backup, so it is among
    those that are read afterwards. `with` ties the changes to the backups that they belong to.
    """
    backups = sent.get("database") or {}
    if (mark := digest([REPOSITORY / "backup"], "backup.info")) != backups.get("digest"):
        backups = {"id": database(engine), "digest": mark}
    yield "database", backups | {"at": now}
    yield "changes", {"id": retried(engine, [REPOSITORY / "archive"], "changes", f"with:{backups['id'][:8]}"), "at": now}
    for kind, paths in (("documents", [DOCUMENTS]), ("configuration", list(CONFIGURATION))):
        mark = digest(paths)
        known = sent.get(kind) or {}
        if mark != known.get("digest"):
            known = {"id": retried(engine, paths, kind), "digest": mark}
        yield kind, known | {"at": now}
    if now - sent.get("system", {}).get("at", 0) >= WEEK:
        yield "system", {"id": engine.back_up_text(system(), "system.txt", "system"), "at": now}


def database(engine: Engine) -> str:
    """pgBackRest's backups, as they were while its list of them did not change: then the list names nothing that is not there."""
    for _ in range(TRIES):
        before = digest([REPOSITORY / "backup"], "backup.info")
        with contextlib.suppress(Incomplete):
            snapshot = engine.back_up([REPOSITORY / "backup"], "database")
            if digest([REPOSITORY / "backup"], "backup.info") == before:
                return snapshot
    raise Trouble("the list of backups changes all the time; no copy of it is whole")


def retried(engine: Engine, paths: list[Path], *tags: str) -> str:
    """A file that was removed while it was read is not missing in the next try."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Incomplete):
            return engine.back_up(paths, *tags)
    return engine.back_up(paths, *tags)


def digest(paths: Iterable[Path], name: str = "*") -> str:
    """Which files called `name` lie there, how long they are, and when they were last changed; not what is in them."""
    said = hashlib.sha256()
    for file in sorted(found for path in paths for found in path.rglob(name)):
        with contextlib.suppress(FileNotFoundError):
            status = file.lstat()
            said.update(f"{file}\0{status.st_mode}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode())
    return said.hexdigest()


def system() -> str:
    """What a new machine needs to become this one: packages, disks, mounts, services."""
    return "\n".join(f"$ {' '.join(words)}\n{run(*words)}" for words in SYSTEM)


# ---- the repository, and what is known of it ------------------------------------------------------------------------


def opened(generation: str, hint: str = "") -> Restic:
    """The repository of this name. Raises Trouble at once when the right one is not there: restic would go on trying."""
    settings, credentials = json.loads(CONFIG.read_text()), Path(os.environ["CREDENTIALS_DIRECTORY"])
    parts = urlsplit(settings["url"])
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=10) as link:
            ssl.create_default_context(cafile=settings["authority"]).wrap_socket(link, server_hostname=parts.hostname).close()
    except ssl.SSLCertVerificationError as bad:
        raise Trouble(f"{parts.hostname} has not proved who it is: {bad.verify_message}") from None
    except OSError as bad:
        raise Trouble(f"{parts.hostname} does not answer: {bad}") from None
    secrets = {
        "RESTIC_PASSWORD": (credentials / "password").read_text().strip(),
        "RESTIC_REST_USERNAME": settings["account"],
        "RESTIC_REST_PASSWORD": (credentials / "login").read_text().strip(),
        "RESTIC_CACERT": settings["authority"],
    } | ({"RESTIC_KEY_HINT": hint} if hint else {})
    return Restic(f"rest:{settings['url']}/{settings['account']}/{generation}/", secrets, HOME / "cache")


def kept() -> State:
    """What is known of what was sent."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads((HOME / "state.json").read_text())
    return {}


def remember(kind: str, copy: dict[str, Any]) -> None:
    """One kind has arrived."""
    note(lambda state: state.setdefault("sent", {}).update({kind: copy}))


def note(change: Callable[[State], None]) -> None:
    """Change what is known, in one step; two services may do so at the same time."""
    with (HOME / "state.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = kept()
        change(state)
        staged = HOME / ".state.json"
        with staged.open("w") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        staged.rename(HOME / "state.json")


@contextlib.contextmanager
def only_one(what: str) -> Iterator[None]:
    """A run that finds another of its kind going on waits for it, as after a start by hand."""
    with (HOME / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- for the watch and the screen -----------------------------------------------------------------------------------


def look(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """How old the copy outside is, and what is wrong with that; nothing where the clinic file wants none."""
    if not CONFIG.exists():
        return {}, {}
    settings, state = json.loads(CONFIG.read_text()), kept()
    sent = state.get("sent", {})
    # Both are needed to restore; so the older one counts. Before the first, time runs since it was asked for.
    newest = min((sent.get(kind, {}).get("at", 0.0) for kind in ("database", "changes")), default=0.0)
    seen = {
        "newest": newest or None,
        "documents": sent.get("documents", {}).get("at"),
        "configuration": sent.get("configuration", {}).get("at"),
        "generation": state.get("generation"),
        "verified": state.get("verified"),
        "max_age_minutes": settings["max_age_minutes"],
        "error": state.get("error", ""),
    }
    minutes = (now - (newest or CONFIG.stat().st_mtime)) / 60
    if minutes <= settings["max_age_minutes"]:
        return seen, {}
    how_old = f"is {minutes:.0f} minutes old" if newest else f"does not exist, {minutes:.0f} minutes after it was asked for"
    why = f": {seen['error']}" if seen["error"] else ""
    return seen, {"offsite": f"The copy outside the practice {how_old}{why}."}


def describe(seen: dict[str, Any]) -> str:
    """One line about it."""
    if not seen:
        return "there is NONE: the clinic file has no section offsite"
    if not seen["newest"]:
        return "nothing has been sent yet"
    return f"up to {time.strftime('%Y-%m-%d %H:%M', time.localtime(seen['newest']))}; in repository {seen['generation']}"
