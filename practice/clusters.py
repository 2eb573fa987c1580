"""Engines that keep the database cluster: pgBackRest each day, and PostgreSQL's own tools for the day when pgBackRest cannot be used.

Both do what practice/engine.py asks for, and tests/contract/test_engines.py tries both by it. They keep one cluster, the practice's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from practice.engine import Missing, Snapshot
from practice.server import BIN, DATA, STANZA, Trouble, as_postgres, repository, run, spare, sql

VERIFY = "/usr/local/lib/cabinet/pgbackrest-verify"
# Status codes of `pgbackrest info`: no stanza, or not all of it.
NO_STANZA = (1, 3)
# How far a restore rolls forward: pgBackRest adds that it stays in the backup's own history, and takes no word for it.
EXACTLY = ("--type=immediate", "--target-action=promote")
# With the documents, so it leaves the practice with them: encrypted, to the place outside and to each day's medium (practice/courier.py).
STORE = Path("/srv/database-copies")
WHOLE, CHANGES = "full", "incr"
# A copy of the changes needs each one before it, back to a whole copy.
CHAIN_DAYS = 7


def only_the_cluster(paths: Sequence[Path]) -> None:
    """Raises Trouble when anything else is to be kept."""
    if list(paths) != [DATA]:
        raise Trouble(f"this engine keeps {DATA} and nothing else")


def emptied(into: Path) -> Path:
    """A new directory for a restored cluster. Raises Trouble when something lies there: nothing is written over."""
    try:
        into.mkdir(mode=0o700)
    except FileExistsError:
        raise Trouble(f"{into} is there already; nothing was begun") from None
    except FileNotFoundError:
        raise Trouble(f"there is no {into.parent}; nothing was begun") from None
    shutil.chown(into, "postgres", "postgres")
    return into


class PgBackRest:
    """The repository on the backup disk, encrypted; what is too old goes whenever a backup has been made."""

    def prepare(self) -> None:
        """Make the stanza where there is none."""
        as_postgres("pgbackrest", f"--stanza={STANZA}", "stanza-create", timeout=600)

    def back_up(self, paths: Sequence[Path], *tags: str) -> str:
        """Keep what is there now, as the timers do; the new backup's label. The first tag is the kind, `diff` where there is none."""
        only_the_cluster(paths)
        run("systemctl", "start", f"practice-backup@{(*tags, 'diff')[0]}.service", timeout=86400)
        return self.snapshots()[-1].id

    def snapshots(self) -> list[Snapshot]:
        """What can be gone back to, oldest first."""
        found = repository()
        if not found or found["status"]["code"] in NO_STANZA:
            raise Missing(f"there is no whole stanza: {found.get('status', {}).get('message', 'pgBackRest says nothing')}")
        return [Snapshot(backup["label"], backup["timestamp"]["stop"], ()) for backup in found["backup"]]

    def restore(self, snapshot: str, into: Path, archive: str = "off", options: Sequence[str] = EXACTLY) -> None:
        """Write the data directory `into`, which must not be there yet; rolled forward as `options` say, archiving as `archive` says.

        pgBackRest syncs each of a thousand files by itself, which takes longer than all else. Nothing is believed of a restore that a
        power cut ended, so whoever keeps what was restored syncs the file system once (practice/whole.py).
        """
        words = [f"--pg1-path={emptied(into)}", f"--archive-mode={archive}", f"--set={snapshot}", *options]
        try:
            as_postgres("eatmydata", "pgbackrest", f"--stanza={STANZA}", *words, "restore", timeout=86400)
        except Trouble:
            with contextlib.suppress(OSError):  # where it has begun to write, that stays to be looked at
                into.rmdir()
            raise

    def verify(self, part: str = "") -> None:
        """Read everything and compare checksums; a `part` is one backup's label."""
        as_postgres(VERIFY, *([f"--set={part}"] if part else []), timeout=86400)


class BaseBackup:
    """Copies by pg_basebackup: a whole one, then the changes since the last. They are not encrypted: they lie on the encrypted volume."""

    def __init__(self, store: Path = STORE) -> None:
        self._store = store

    def prepare(self) -> None:
        """Make the directory where there is none."""
        if not self._store.is_dir():
            emptied(self._store)

    def back_up(self, paths: Sequence[Path], *tags: str) -> str:
        """Keep what is there now; the new copy's name. A chain that is too old, or cannot be gone on with, is followed by another."""
        only_the_cluster(paths)
        if tags:
            raise Trouble("these copies carry no tags")
        with self._alone():
            kept = self.snapshots()
            number = int(kept[-1].id[:6]) + 1 if kept else 1
            with contextlib.suppress(Trouble):  # whatever is missing for the changes alone, a whole copy does not need it
                if kept and abs(time.time() - made_at(self.chain(kept[-1].id)[0].name)) < CHAIN_DAYS * 86400:
                    return self._made(number, CHANGES, f"--incremental={self._store / kept[-1].id}/backup_manifest")
            return self._made(number, WHOLE)

    def snapshots(self) -> list[Snapshot]:
        """What can be gone back to, oldest first. By number: the clock may have been wrong."""
        if not self._store.is_dir():
            raise Missing(f"there is no {self._store}")
        return [Snapshot(name, made_at(name), ()) for name in sorted(path.name for path in self._store.glob("[0-9]*[lr]"))]

    def restore(self, snapshot: str, into: Path) -> None:
        """Put the data directory `into` together, which must not be there yet, as it was when the copy ended; no further."""
        chain = self.chain(snapshot)
        for link in chain:
            sound(link)
        spare(into.parent, sum(size(link) for link in chain))
        words = ("--manifest-checksums=SHA256", f"--output={emptied(into)}")
        as_postgres(f"{BIN}/pg_combinebackup", *words, *(str(link) for link in chain), timeout=86400)
        sound(into)

    def verify(self, part: str = "") -> None:
        """Read all copies, or the one that is named, and compare checksums; each that is damaged, or lacks what it builds on, is named."""
        wrong = []
        for snapshot in self.snapshots():
            try:
                if part in ("", snapshot.id):
                    sound(self.chain(snapshot.id)[-1])
            except Trouble as trouble:
                wrong.append(f"{snapshot.id}: {trouble}")
        if wrong:
            raise Trouble("; ".join(wrong))

    def forget(self, days: int) -> None:
        """Remove each chain of copies that a later whole one, more than so many days old, makes needless; the newest chain stays."""
        with self._alone():
            names = [snapshot.id for snapshot in self.snapshots()]
            old = [name for name in names if name.endswith(WHOLE) and time.time() - made_at(name) > days * 86400]
            # Backwards: cut off in the middle, no changes are left without what they build on.
            for name in reversed(names[: names.index(old[-1])] if old else []):
                shutil.rmtree((self._store / name).rename(self._store / f"{name}.part"))

    def _made(self, number: int, kind: str, *how: str) -> str:
        """A new copy; it has its name once it is whole and on the disk."""
        spare(self._store, sql("SELECT to_json(sum(pg_database_size(oid))) FROM pg_database"))
        name = f"{number:06}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}"
        part = self._store / f"{name}.part"
        try:
            words = (f"--pgdata={part}", "--checkpoint=fast", "--manifest-checksums=SHA256", "--no-password", *how)
            as_postgres(f"{BIN}/pg_basebackup", *words, timeout=86400)
            sound(part)
        except Trouble:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(self._store / name)
        os.sync()
        return name

    def chain(self, snapshot: str) -> list[Path]:
        """The whole copy that this one builds on, and each change up to it. Raises Trouble when one is not there."""
        names = [one.id for one in self.snapshots()]
        if snapshot not in names:
            raise Trouble(f"there is no copy {snapshot}")
        upto = names[: names.index(snapshot) + 1]
        begins = max((place for place, name in enumerate(upto) if name.endswith(WHOLE)), default=None)
        chain = upto[begins:] if begins is not None else []
        numbers = [int(name[:6]) for name in chain]
        if not chain or numbers != list(range(numbers[0], numbers[0] + len(chain))):
            raise Trouble(f"{snapshot} builds on a copy that is not there any more")
        return [self._store / name for name in chain]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; what a power cut has left half written goes. Raises Trouble."""
        with contextlib.ExitStack() as held:
            if not self._store.is_dir():
                raise Missing(f"there is no {self._store}")
            directory = os.open(self._store, os.O_RDONLY)
            held.callback(os.close, directory)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Trouble("another copy is being made at this moment") from None
            for left in self._store.glob("*.part"):
                shutil.rmtree(left)
            yield


def sound(copy: Path) -> None:
    """Each file is as the copy's own list says, and its changes can be read. Raises Trouble."""
    as_postgres(f"{BIN}/pg_verifybackup", "--quiet", str(copy), timeout=86400)


def made_at(name: str) -> float:
    """When the copy of this name was begun, by the server's clock, in seconds."""
    return datetime.strptime(name.split("-")[1], "%Y%m%dT%H%M%S%z").timestamp()


def size(copy: Path) -> int:
    """How many bytes its files hold."""
    return sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
