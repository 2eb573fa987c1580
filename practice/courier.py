"""What takes the copy outside the practice: into a repository that counts, into a new one each month, and a look at all that lies there.

The services run it (`practice offsite run`), as an account that may read everything, write nothing, and reach one address.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from practice import ledger, notes
from practice.engine import Engine, Incomplete, Missing, Restic
from practice.ledger import Written
from practice.offsite import CONFIG, HOME, REBUILD, kept, note, only_one, remember
from practice.server import Trouble, run

REPOSITORY = Path("/backup/pgbackrest")
DOCUMENTS = Path("/srv")
STATE = Path("/var/lib/cabinet")
# Workstations trust the authority's certificate, not its key alone. Whose a number is on this server, passwd and group say. The last two
# are what the clinic file names by path: the authorities that are believed, and the password at the mail server.
CONFIGURATION = (
    *(Path("/etc/cabinet"), STATE / "secrets", STATE / "tls", STATE / "media.json", Path("/etc/passwd"), Path("/etc/group")),
    *(Path("/usr/local/share/ca-certificates"), Path("/etc/msmtprc")),
)
WEEK = 7 * 86400
# Whoever removes says one of these; 404 after it has looked for what it was to remove. An append-only rest-server refuses before (403).
REMOVES = {200, 202, 204, 404, 410}
# pgBackRest removes old backups once a day; a second race within a few minutes has another reason.
TRIES = 3
SYSTEM = (
    ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}=${Version} ${Architecture}\n"),
    ("uname", "-a"),
    ("lsblk", "-o", "NAME,SIZE,TYPE,FSTYPE,UUID,SERIAL,MOUNTPOINTS"),
    ("findmnt", "--real"),
    ("find", "/etc/systemd/system", "-type", "l", "-printf", "%P -> %l\\n"),  # what is enabled; systemctl would read all units for it
)


def send(now: float) -> None:
    """What has changed, into the repository that counts. Raises Trouble."""
    state = kept()
    if not state.get("generation"):
        renew(now)
        return
    engine = opened(state["generation"], state.get("hint", ""))
    try:
        for kind, copy in copies(engine, state["sent"], now):
            remember(kind, copy, state["generation"])  # a renewal may have ended meanwhile
        if state.get("removable"):  # whoever keeps it may have mended that
            ask_whether_removable(state["generation"])
    except Missing:
        # Whoever keeps it has lost it. That is an alarm, and no reason to be without a copy.
        note(lambda state: state.update(generation="", lost=now))
        renew(now)


def renew(now: float) -> None:
    """Once a month everything goes into a new repository; when all of it has arrived, that one counts. Raises Trouble."""
    month = time.strftime("%Y-%m", time.gmtime(now))
    with only_one("renewing"):  # the first one is begun by whoever comes first
        if kept().get("generation", "").startswith(month):
            return
        name, engine = begun(month)
        sent = dict(copies(engine, {}, now))
        hint = engine.key()
        note(lambda state: state.update(generation=name, hint=hint, sent=sent))
        ledger.forget(name)
        ask_whether_removable(name)


def begun(month: str) -> tuple[str, Written]:
    """A repository of our own under the first name that is free, or was begun by us. Raises Trouble.

    Whoever had the account's password could have taken a name before us; then the next one is as good.
    """
    whole()
    reason, spoilt = "", kept().get("spoilt", [])
    for name in (name for name in names(month) if name not in spoilt):
        engine = opened(name)
        try:
            engine.prepare()
        except Trouble as trouble:
            reason = str(trouble)
            continue
        return name, engine
    raise Trouble(f"no repository can be begun for {month}: {reason}")


def names(month: str) -> list[str]:
    """What the repositories that are begun in a month are called, in their order."""
    return [month, *(f"{month}-{number}" for number in range(2, 10))]


def whole() -> None:
    """Raises Trouble on a server that is not yet what the copy outside makes of it."""
    if REBUILD.exists():
        raise Trouble("this server is being rebuilt from a copy; nothing is sent before that has ended: practice rebuild")


def anew(now: float) -> None:
    """What lies there cannot be added to any more, whatever somebody put beside it: leave it, and begin another. Raises Trouble."""
    note(lambda state: state.setdefault("spoilt", []).append(state.get("generation")))
    note(lambda state: state.update(generation=""))
    renew(now)


def verify(now: float) -> None:
    """A quarter of what lies there is read and compared, another one each week. Could it be removed from here? Is all of it ours?

    Raises Trouble.
    """
    state = kept()
    if state.get("generation"):
        engine = opened(state["generation"], state.get("hint", ""))
        ask_whether_removable(state["generation"])
        ledger.look(engine, now)
        engine.verify(quarter(now))
        note(lambda state: state.update(verified=now))


def ask_whether_removable(generation: str) -> None:
    """Note it, for the watch. Raises Trouble."""
    loose = removable(generation)
    note(lambda state: state.update(removable=loose))


def removable(generation: str) -> bool:
    """Whether whoever has this server could remove what lies there: asked for what cannot be there, no hash being zero. Raises Trouble."""
    settings, login = json.loads(CONFIG.read_text()), secret("login").strip()
    parts = urlsplit(settings["url"])
    trusted = ssl.create_default_context(cafile=settings["authority"])
    link = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=60, context=trusted)
    word = base64.b64encode(f"{settings['account']}:{login}".encode()).decode()
    path = f"{parts.path}/{settings['account']}/{generation}/data/{'0' * 64}"
    try:
        with contextlib.closing(link):
            link.request("DELETE", path, headers={"Authorization": f"Basic {word}"})
            return link.getresponse().status in REMOVES
    except (OSError, http.client.HTTPException) as bad:
        raise Trouble(f"{parts.hostname} does not answer: {bad}") from None


def quarter(now: float) -> str:
    """Which part is read this week: after four weeks, all were."""
    return f"{int(now // WEEK) % 4 + 1}/4"


def copies(engine: Restic, sent: dict[str, Any], now: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make each copy that is due, and say so at once. Raises Trouble.

    The backups go before the changes: what a backup needs of the changes was archived before pgBackRest named the backup, so it is among
    those that are read afterwards. `with` ties the changes to the backups that they belong to. What was sent by a clock that was ahead is
    due again: a new server passes over what bears a time that has not come.
    """
    whole()
    sent = {kind: copy for kind, copy in sent.items() if notes.believed(copy["at"], now)}
    backups = sent.get("database") or {}
    if (mark := digest([REPOSITORY / "backup"], "backup.info")) != backups.get("digest"):
        backups = {"id": database(engine), "digest": mark}
    yield "database", backups | {"at": now}
    yield "changes", {"id": retried(engine, [REPOSITORY / "archive"], "changes", f"with:{backups['id'][:8]}"), "at": now}
    for kind, paths in (("documents", [DOCUMENTS]), ("configuration", [path for path in CONFIGURATION if os.path.exists(path)])):
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
    """Which files called `name` lie there, how long they are, and when they were last changed; not what is in them.

    What may not be looked at has no part in it: whoever copies it will say so.
    """
    mark = hashlib.sha256()
    for file in sorted(found for path in paths for found in (path.rglob(name) if os.path.isdir(path) else [path])):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            status = file.lstat()
            mark.update(f"{file}\0{status.st_mode}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode())
    return mark.hexdigest()


def system() -> str:
    """What a new machine needs to become this one: packages, disks, mounts, services."""
    return "\n".join(f"$ {' '.join(words)}\n{said(*words)}" for words in SYSTEM)


def said(*words: str) -> str:
    """What a command prints; or why it did not, which is no reason to send nothing."""
    try:
        return run(*words)
    except Trouble as trouble:
        return f"{trouble}\n"


def opened(generation: str, hint: str = "") -> Written:
    """The repository of this name. Raises Trouble at once when the right one is not there: restic would go on trying."""
    reached()
    return repository(generation, secret("password"), secret("login"), hint)


def secret(name: str) -> str:
    """What systemd hands to the service alone."""
    return (Path(os.environ["CREDENTIALS_DIRECTORY"]) / name).read_text()


def reached() -> None:
    """Raises Trouble when the host is not there, or another one."""
    settings = json.loads(CONFIG.read_text())
    parts = urlsplit(settings["url"])
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=10) as link:
            link.settimeout(60)  # somebody is there; a server that is overloaded must not go without a copy for that
            ssl.create_default_context(cafile=settings["authority"]).wrap_socket(link, server_hostname=parts.hostname).close()
    except ssl.SSLCertVerificationError as bad:
        raise Trouble(f"{parts.hostname} has not proved who it is: {bad.verify_message}") from None
    except OSError as bad:
        raise Trouble(f"{parts.hostname} does not answer: {bad}") from None


def repository(generation: str, password: str, login: str, hint: str = "", *program: str) -> Written:
    """The repository of this name at the clinic's host, and restic, called as `program`."""
    settings = json.loads(CONFIG.read_text())
    secrets = {
        "RESTIC_PASSWORD": password.strip(),
        "RESTIC_REST_USERNAME": settings["account"],
        "RESTIC_REST_PASSWORD": login.strip(),
        "RESTIC_CACERT": settings["authority"],
    } | ({"RESTIC_KEY_HINT": hint} if hint else {})
    where = f"rest:{settings['url']}/{settings['account']}/{generation}/"
    return Written(generation, where, secrets, HOME / "cache", *program)


RUNS: dict[str, Callable[[float], None]] = {"send": send, "renew": renew, "verify": verify, "anew": anew, "accept": ledger.accept}
