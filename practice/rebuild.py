"""A new server from nothing: what the copy outside holds, or a medium, comes back, and nothing that lies here already is written over.

Where the lost server's backup disk is in this machine, --backup-disk takes the database out of that; all else comes from the copy.
After an intruder, --repository says from which repository outside, such as one as it was (docs/offsite.md); else the newest copy counts.
One that cannot be read and may be newer is named; where it may be the practice's own, nothing is begun without --repository.
`./cabinet restore NAME --from offsite|media` calls it, before the deploy and after it. Interrupted anywhere, it goes on when called again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from practice import courier, fetch, fetch_media, journal, kit_anew, notes, owners, recovery_kit, whole
from practice.health import clock
from practice.offsite import CONFIG, REBUILD
from practice.server import CLUSTER, VOLUME, Trouble, is_root, repository, run, sql

# Exit code: all that comes before the deploy is done.
DEPLOY_NOW = 3
# Written by the last operation of a deploy.
REVISION = Path("/etc/cabinet/revision")
# Beside their places, so that each goes there in one rename: backups on their disk, all else on the encrypted volume.
DISK, SCRATCH = Path("/backup"), Path("/data/rebuild")
BACKUPS = DISK / "rebuild"
# In a repository that was brought whole, until the end.
FETCHED = "cabinet-fetched"
# /srv as the volume itself shows it: from the scratch directory a rename leads here, and not to the other mount.
DOCUMENTS = Path("/data/srv")
# What was born on the lost server and cannot be made again. All else in /etc/cabinet a deploy writes; the console's sealed password was
# the old console's, and the volume's key the old volume's.
BORN = ("etc/cabinet/totp", "etc/cabinet/vpn/private.key", "var/lib/cabinet/secrets", "var/lib/cabinet/tls", "var/lib/cabinet/media.json")
OWN = Path("/var/lib/cabinet/secrets/recovery-key")
Work = dict[str, Any]
SOURCES: dict[str, Any] = {"offsite": fetch, "media": fetch_media}


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice rebuild --from offsite|media [--backup-disk] [--repository NAME]`."""
    parser = commands.add_parser("rebuild", help="make this new server the lost one, from a copy", description=__doc__)
    parser.add_argument("--from", choices=list(SOURCES), required=True, dest="source", help="where the copy is kept")
    parser.add_argument("--backup-disk", action="store_true", help="the backup disk is the lost server's own: the database out of that")
    parser.add_argument("--repository", metavar="NAME", help="out of this repository outside alone; without it, the newest copy of all")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: this is the practice's server again; 3: now deploy it, then call this again; 1: not, and the text says why."""
    if not is_root():
        print("practice rebuild: only root may do this; use sudo")
        return 2
    try:
        with journal.alone():
            return rebuilt(notes.read(REBUILD), arguments.source, arguments.repository, arguments.backup_disk)
    except Trouble as trouble:
        print(f"practice rebuild: {trouble}", file=sys.stderr)
        return 1


def rebuilt(work: Work, source: str, chosen: str | None = None, disk: bool = False) -> int:
    """All that can be done now, from where it stopped. Raises Trouble."""
    if chosen and (source != "offsite" or not fetch.NAME.fullmatch(chosen)):
        raise Trouble(f"{chosen} is no repository outside, such as 2026-11.as-of-20261120T080000Z")
    if disk and chosen and fetch.AS_IT_WAS in chosen:
        raise Trouble(f"{chosen} is from before an intruder, who had the backup disk as well: without --backup-disk")
    if work and work.get("source", "offsite") != source:
        raise Trouble(f"this server is being rebuilt already, not from {source}: practice rebuild --from {work.get('source', 'offsite')}")
    ready(source)
    if work and (work.get("disk", False) != disk or work["generation"] != (chosen or work["generation"])):
        work = begun_again(work)
    if not work:
        vacant(disk)
        copies = fetch.newest_in(chosen) if chosen else SOURCES[source].newest()
        work = copies | {"source": source, "disk": disk, "step": "backups", "id": time.strftime("%Y%m%d_%H%M%S")}
        at(work, "backups")
    whence = "the database from the backup disk, all else from" if disk else "from"
    say(f"{whence} the repository {work['generation']}, as it was written up to {clock(work['at'])}.{passed_over(work)}")
    while (step := work["step"]) in STEPS:
        carry_out, following = STEPS[step]
        carry_out(work)
        at(work, following)
    if not deployed():
        say(f"{moment(work)} Now deploy this server; then call this again, it ends then.")
        return DEPLOY_NOW
    documents(work)
    if work.get("chosen"):
        another_key()
    ended()
    say(moment(work))
    return 0


def begun_again(work: Work) -> Work:
    """As long as nothing has come to its place, it can come from elsewhere: no work. Raises Trouble."""
    if work["step"] != "backups" or (courier.REPOSITORY / FETCHED).exists():
        raise Trouble(
            f"this server is being rebuilt already, {'with --backup-disk, and ' if work.get('disk') else ''}from the repository "
            f"{work['generation']}, and some of that is in its place. "
            "From another one only with blank disks, as on a machine that is new"
        )
    shutil.rmtree(BACKUPS, ignore_errors=True)
    return {}


def at(work: Work, step: str) -> None:
    """Say how far it is; it is on the disk when this returns."""
    work["step"] = step
    notes.write(REBUILD, work)
    journal.synced(REBUILD.parent)


def say(what: str) -> None:
    """Tell who waits."""
    print(what, flush=True)


# ---- whether there is room for another server -----------------------------------------------------------------------


def ready(source: str) -> None:
    """Raises Trouble where the place for all that, or the way to it, is not there yet."""
    if source == "offsite" and not CONFIG.exists():
        raise Trouble("nothing says where the copy outside is: the clinic file has no section offsite, or the roles were not run")
    if not os.path.ismount(DISK):
        raise Trouble(f"the backup disk is not mounted at {DISK}")
    run("systemctl", "--quiet", "is-active", VOLUME)


def vacant(disk: bool) -> None:
    """Raises Trouble where anything lies that another server's would take the place of; that names it."""
    if not disk:
        empty(courier.REPOSITORY, "If these are the lost server's own backups, they need not be fetched: --backup-disk. Else look")
    for place in (DOCUMENTS, BACKUPS, SCRATCH):
        empty(place)
    if whole.GROWING.exists():
        raise Trouble(f"{whole.GROWING} is there: another restore has left it, see `practice restore`; nothing was changed")
    alone()


def empty(place: Path, remedy: str = "Look") -> None:
    """Raises Trouble where something lies in it."""
    if place.exists() and any(place.iterdir()):
        raise Trouble(f"something lies in {place} already. {remedy} what it is, move it away, call this again; nothing was changed")


def alone() -> None:
    """Raises Trouble where a cluster lies already, even an empty one."""
    if whole.LIVE.exists():
        raise Trouble(
            f"a database lies in {whole.LIVE} already, so this is not a new server. If nothing in it is needed: "
            f"systemctl stop {CLUSTER}, move that directory away, and call this again"
        )


def deployed() -> bool:
    """Whether a deploy has come to its end, so that all accounts are there, and the practice's cluster runs."""
    with suppress(Trouble):
        return REVISION.exists() and not sql("SELECT to_json(pg_is_in_recovery())")
    return False


# ---- the steps, each of which can be done again -----------------------------------------------------------------------


def fetching(work: Work) -> Any:
    """What fetches."""
    return SOURCES[work.get("source", "offsite")]


def backups(work: Work) -> None:
    """pgBackRest's repository comes to its disk, and is one when all of it is there; or it is the one that survived. Raises Trouble."""
    if work.get("disk"):
        survived()
    elif not (courier.REPOSITORY / FETCHED).exists():
        say("the backups and the changes are fetched")
        for kind in ("database", "changes"):
            fetching(work).fetched(work, kind, BACKUPS)
        there = BACKUPS / courier.REPOSITORY.relative_to("/")
        run("chown", "-R", "postgres:postgres", str(there), timeout=3600)
        (there / FETCHED).touch()
        run("sync", "--file-system", str(there), timeout=3600)
        empty(courier.REPOSITORY)
        there.rename(courier.REPOSITORY)
        journal.synced(DISK)
    shutil.rmtree(BACKUPS, ignore_errors=True)


def survived() -> None:
    """What lies on the backup disk is the practice's, and opens by the kit's part B. Raises Trouble."""
    run("chown", "-R", "postgres:postgres", str(courier.REPOSITORY), timeout=3600)  # whose number is another one on this machine
    try:
        found = repository()
    except Trouble as trouble:
        raise Trouble(f"{trouble}. {fetch_media.ANOTHER_KIT}") from None
    if not found.get("backup"):
        raise Trouble(f"no backup is in {courier.REPOSITORY}: call this again without --backup-disk, and with a blank one in its place")


def files(work: Work) -> None:
    """Configuration and documents come to the encrypted volume; where they belong, nobody sees them yet. Raises Trouble."""
    say("configuration and documents are fetched")
    for kind in ("configuration", "documents"):
        fetching(work).fetched(work, kind, SCRATCH)
    owners.marked(SCRATCH)
    run("sync", "--file-system", str(SCRATCH), timeout=3600)


def configuration(_work: Work) -> None:
    """What was born on the lost server comes to its place. Raises Trouble where something else lies there."""
    found = [path for name in BORN for path in below(SCRATCH / name)]
    pairs = [(path, Path("/") / path.relative_to(SCRATCH)) for path in found]
    pairs = [(path, target) for path, target in pairs if target != OWN]
    for path, target in pairs:
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise Trouble(f"{target} is another one than in the copy: move it away, and call this again")
    names = owners.Names(SCRATCH)
    for path, target in pairs:
        if not target.exists():
            put(path, target, names)


def below(path: Path) -> list[Path]:
    """The files there, or the file; none where the lost server had none."""
    return sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path] if path.exists() else []


def put(path: Path, target: Path, names: owners.Names) -> None:
    """A file comes to its place in one rename, with the owner and the mode that it had."""
    if not target.parent.exists():
        target.parent.mkdir(mode=0o700, parents=True)
        status = path.parent.stat()
        target.parent.chmod(status.st_mode & 0o7777)
    staged = target.with_name(f".{target.name}.staged")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(path.read_bytes())
        os.fchown(file.fileno(), *names.here(path.lstat()))
        os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(target)
    journal.synced(target.parent)


def cluster(work: Work) -> None:
    """The newest state that the archive leads to, in a history of its own, where the next start finds it. Raises Trouble."""
    if not work.get("grown"):
        say("the database is restored, and rolled forward to the end of the changes")
        run("install", "-d", "-o", "postgres", "-g", "postgres", "-m", "700", str(whole.LIVE.parent))
        whole.grown(work)
        at(work | {"grown": True}, "cluster")
    if whole.GROWING.exists():
        alone()
        whole.GROWING.rename(whole.LIVE)
        journal.synced(whole.LIVE.parent)
    (whole.LIVE / whole.MARK).unlink(missing_ok=True)
    (DISK / "machine-id").unlink(missing_ok=True)  # the lost machine's; the deploy says whose history it is now


def documents(_work: Work) -> None:
    """Once the accounts are there, documents get the owners that they had, and come to their place. Raises Trouble."""
    there = SCRATCH / courier.DOCUMENTS.relative_to("/")
    if not there.exists():
        return
    names = owners.Names(SCRATCH)
    owners.given(there, names)
    if names.missing:
        say(f"this server does not have {', '.join(sorted(names.missing))}; what was theirs in {courier.DOCUMENTS} is root's now")
    for entry in sorted(there.iterdir()):
        if os.path.lexists(DOCUMENTS / entry.name):
            raise Trouble(
                f"{courier.DOCUMENTS / entry.name} is there already, and another one is to come: move it away, and call this again"
            )
        entry.rename(DOCUMENTS / entry.name)
    status = there.stat()
    DOCUMENTS.chmod(status.st_mode & 0o7777)
    os.chown(DOCUMENTS, status.st_uid, status.st_gid)
    journal.synced(DOCUMENTS)


def another_key() -> None:
    """Whoever made it necessary to go back has had the old one; and where they have sent to, which it opens, nothing is sent any more."""
    recovery_kit.write(fetch.PASSWORD, kit_anew.BORN["C"]())
    journal.synced(fetch.PASSWORD.parent)
    say("The copy outside has another key, part C of the kit, and begins anew with it: the old one does not open what is sent from now on.")


def ended() -> None:
    """This is the practice's server again: it sends from now on, and the first backup of its own begins."""
    with suppress(FileNotFoundError):
        shutil.rmtree(SCRATCH)
    (courier.REPOSITORY / FETCHED).unlink(missing_ok=True)
    REBUILD.unlink()
    journal.synced(REBUILD.parent)
    with suppress(Trouble):  # the watch sees when none is made
        run("systemctl", "start", "--no-block", whole.BACKUP)


def moment(work: Work) -> str:
    """Which moment was reached, and how much may be missing."""
    reached = f"the last change in it was committed at {work['reached']}" if work.get("reached") else "nothing was entered after its backup"
    if work.get("disk"):
        return (
            f"The database is as it was on the backup disk: {reached}. What was entered up to 60 seconds before the disk was lost may be "
            f"missing, and of documents what was changed after {clock(work['at'])}.{passed_over(work)}"
        )
    return (
        f"The database is as it was copied at {clock(work['at'])}: {reached}. "
        f"What was entered after that, or up to 60 seconds before it, is missing.{passed_over(work)}"
    )


def passed_over(work: Work) -> str:
    """What may be newer, and was not taken."""
    ahead = [f"what says that it was made at {clock(work['ahead'])}: that time has not come"] if work.get("ahead") else []
    return "".join(f" NOT TAKEN, and it may be newer: {one}." for one in [*work.get("unread", []), *ahead])


STEPS: dict[str, tuple[Callable[[Work], None], str]] = {
    "backups": (backups, "files"),
    "files": (files, "configuration"),
    "configuration": (configuration, "cluster"),
    "cluster": (cluster, "deploy"),
}
