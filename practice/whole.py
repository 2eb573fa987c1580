"""The whole cluster goes back: what was restored has run beside the live one before it takes its place, and that is one rename.

The practice goes on until then. What was there is kept beside it, and whichever becomes the live one begins a new history, so that the
newest history in the archive is always the practice's (practice/timeline.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from practice import journal
from practice.beside import FILES, Beside
from practice.clusters import BaseBackup
from practice.journal import Work
from practice.server import CLUSTER, DATA, STANZA, Trouble, archived, repository, run, sql
from practice.timeline import followed, origin

LIVE = DATA
GROWING = LIVE.with_name("main.restoring")
# In the data directory that is to be the live one, until it is.
MARK = "cabinet-restored"
# The services that back up hold it: none may begin while the data directory changes.
BACKUPS = Path("/var/lib/cabinet/pgbackrest")
BACKUP = "practice-backup@diff.service"
SWITCH = """
SELECT pg_logical_emit_message(true, 'cabinet', 'restore') AS said \\gset
SELECT to_json(pg_walfile_name(pg_switch_wal()));
"""
PASSWORDS = """
SELECT coalesce(json_object_agg(rolname, format('ALTER ROLE %I PASSWORD %L;', rolname, rolpassword)), '{}')
  FROM pg_authid WHERE rolpassword IS NOT NULL
"""
# The state that was kept goes on from where it was stopped, in a history of its own.
GO_ON = f"restore_command = 'pgbackrest --stanza={STANZA} --pg1-path={GROWING} archive-get %f \"%p\"'\nrecovery_target_timeline = current\n"
# A copy that was made without pgBackRest holds all that it needs.
BY_ITSELF = "restore_command = 'false'\nrecovery_target_timeline = current\n"


def kept() -> list[str]:
    """The states that earlier restores have left beside the live one, oldest first."""
    return sorted(path.name for path in LIVE.parent.glob("main.before-*"))


def carried_out(work: Work) -> None:
    """All of it, or what is left of it. Raises Trouble; until the last step the practice goes on as it was."""
    if work["step"] == "beside":
        try:
            grown(work)
            work["step"] = "switch"
            journal.write(work)
        except (Trouble, OSError):
            if not work.get("failed"):
                cancelled(work)
                raise
            as_it_was(work)
    switched(work)
    journal.ended()
    with contextlib.suppress(Trouble):  # the watch sees when none is made
        run("systemctl", "start", "--no-block", BACKUP)


def cancelled(work: Work) -> None:
    """What was begun is gone, and the live cluster is what it was. Raises Trouble when it has been replaced already."""
    if work.get("failed") or (work["step"] == "switch" and not (GROWING / MARK).exists()):
        raise Trouble(journal.REPLACED)
    Beside(GROWING).halt()
    if work.get("kept"):
        (GROWING / MARK).unlink(missing_ok=True)
        if GROWING.exists():
            GROWING.rename(LIVE.with_name(work["kept"]))
            journal.synced(LIVE.parent)
    else:
        Beside(GROWING).remove()
    journal.ended()
    if work["step"] == "switch":  # it may have been stopped for that
        run("systemctl", "start", CLUSTER, timeout=600)


def grown(work: Work) -> None:
    """Restore (or take what was kept), roll forward, and stop it again: from then on it is whole. Raises Trouble."""
    beside = Beside(GROWING, lasting=True)
    if work.get("kept"):
        beside.halt()
        if not GROWING.exists():
            LIVE.with_name(work["kept"]).rename(GROWING)
        (GROWING / "log").unlink(missing_ok=True)
        beside.configure(GO_ON)
        (GROWING / "recovery.signal").touch()
    elif work.get("copy"):
        beside.remove()
        BaseBackup().restore(work["copy"], GROWING)
        for history in LIVE.glob("pg_wal/*.history"):  # so that its own gets a number which none of them has
            shutil.copy(history, GROWING / "pg_wal")
            shutil.chown(GROWING / "pg_wal" / history.name, "postgres", "postgres")
        beside.configure(BY_ITSELF)
        (GROWING / "recovery.signal").touch()
    else:
        beside.remove()
        handed_over()
        beside.restore(origin(work.get("to"), work.get("label")))
    beside.start()
    work["reached"] = beside.reached()
    work["unlogged"] = beside.unlogged(*beside.databases())
    new_history(beside, histories_here() if work.get("copy") else followed(repository(), time.time())[0])
    same_passwords(beside)
    beside.stop()
    for name in (*FILES, "log"):
        (GROWING / name).unlink(missing_ok=True)
    # How it was restored stands there, and would count as somebody's setting.
    os.truncate(GROWING / "postgresql.auto.conf", 0)
    (GROWING / MARK).touch()
    run("sync", "--file-system", str(GROWING), timeout=3600)


def histories_here() -> int:
    """The newest history that the live cluster knows, without asking pgBackRest."""
    return max([1, *(int(path.stem, 16) for path in LIVE.glob("pg_wal/*.history"))])


def new_history(beside: Beside, newest: int) -> None:
    """It goes on under a number that the archive does not have; under another one nothing of it could be kept. Raises Trouble."""
    number = int(beside.query("postgres", "CHECKPOINT; SELECT timeline_id FROM pg_control_checkpoint()"))
    if number <= newest:
        raise Trouble(f"what was restored has begun history {number}, and the archive has {newest} already. Nothing was replaced")


def switched(work: Work) -> None:
    """Stop the live cluster, let the other take its place, start that. Each step is skipped that was done before. Raises Trouble."""
    before = LIVE.with_name(f"main.before-{work['id']}")
    with no_backup():
        if (GROWING / MARK).exists():
            if work.get("copy") or work.get("failed"):
                with contextlib.suppress(Trouble, OSError):  # pgBackRest may be what is broken
                    repository()
                    handed_over()
            else:
                handed_over()
            exchanged()
        if GROWING.exists():
            GROWING.rename(before)
            journal.synced(LIVE.parent)
        (LIVE / MARK).unlink(missing_ok=True)
    try:
        run("systemctl", "start", CLUSTER, timeout=600)
        sql("SELECT to_json(pg_is_in_recovery())")
    except Trouble as trouble:
        if work.get("failed") or not before.exists():
            raise
        returned(work, before, trouble)


def exchanged() -> None:
    """The live cluster is stopped, and what was restored is in its place; or the live one goes on. Raises Trouble."""
    try:
        run("systemctl", "stop", CLUSTER, timeout=600)
        if (LIVE / "postmaster.pid").exists() and Beside(LIVE).alive():
            raise Trouble(f"the database does not stop: systemctl status {CLUSTER}. Nothing was replaced")
        # One step: at no moment is there no cluster in its place, where the next deploy would make an empty one.
        run("mv", "--exchange", "--no-target-directory", str(GROWING), str(LIVE))
    except Trouble:
        with contextlib.suppress(Trouble):
            run("systemctl", "start", CLUSTER, timeout=600)
        raise
    journal.synced(LIVE.parent)


def returned(work: Work, before: Path, why: Trouble) -> None:
    """What was restored does not start where it belongs: what was there before is put back. Raises Trouble."""
    with contextlib.suppress(Trouble):
        run("systemctl", "stop", CLUSTER, timeout=600)
    # It may have begun its history in the archive: what was there before goes on in one of its own, as on every way back.
    again = {"id": f"{work['id']}_failed", "kept": before.name, "name": None, "step": "beside", "failed": True}
    with contextlib.suppress(OSError):  # no room: then it goes back as it was, and what is noted leads to the same end
        journal.write(again)
    carried_out(again)
    raise Trouble(f"what was restored did not start ({why}), so what was there before is there again; `practice restore` lists both")


def as_it_was(work: Work) -> None:
    """It cannot get a history of its own, such as without the backup disk: rather a practice that works than an archive in order."""
    beside = Beside(GROWING)
    beside.halt()
    if not GROWING.exists():
        LIVE.with_name(work["kept"]).rename(GROWING)
    for name in (*FILES, "log", "recovery.signal"):
        (GROWING / name).unlink(missing_ok=True)
    (GROWING / MARK).touch()
    work["step"] = "switch"
    with contextlib.suppress(OSError):
        journal.write(work)


def handed_over() -> None:
    """All that the live cluster was told is on the backup disk. One that does not answer has nothing to hand over. Raises Trouble."""
    try:
        segment = sql(SWITCH)
    except Trouble:
        return
    archived(segment)


def same_passwords(beside: Beside) -> None:
    """Who gets in now gets in afterwards: passwords are not part of what is gone back to. Raises Trouble."""
    try:
        statements = sql(PASSWORDS)
    except Trouble:  # the live one does not answer; the next deploy sets them
        return
    there = json.loads(beside.query("postgres", "SELECT json_agg(rolname) FROM pg_roles"))
    beside.query("postgres", "\n".join(statement for name, statement in statements.items() if name in there))


@contextlib.contextmanager
def no_backup() -> Iterator[None]:
    """A backup that is being made comes to its end first, and none begins meanwhile."""
    number = os.open(BACKUPS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def discarded(name: str) -> None:
    """A state that was kept is gone for ever. Raises Trouble when there is none of that name."""
    if name not in kept():
        raise Trouble(f"nothing is kept as {name}; `practice restore` lists what is")
    # Half of one must not be there to return to.
    LIVE.with_name(name).rename(LIVE.with_name(f"discarded.{name}"))
    journal.synced(LIVE.parent)
    swept()


def swept() -> None:
    """What was discarded takes no room any more, also where that was cut off."""
    for path in LIVE.parent.glob("discarded.*"):
        shutil.rmtree(path)
