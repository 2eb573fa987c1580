"""A cluster that a backup is restored into, beside the live one, which is neither stopped nor written to."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from practice.clusters import PgBackRest
from practice.server import BIN, PSQL, Trouble, as_postgres, spare, sql
from practice.timeline import NEWEST, Origin

READY = "database system is ready to accept connections"
TOO_FAR = "recovery ended before configured recovery target was reached"
LAST_COMMIT = "last completed transaction was at log time"
# As the system's, and so as the live cluster's: the same moment is then written in the same way.
ZONE = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2] or "UTC"
# hot_standby off: recovery then asks for none of the live cluster's sizes. event_triggers off: pgaudit's want what is not loaded here.
CONFIGURATION = """
listen_addresses = ''
lc_messages = C
timezone = '{zone}'
log_min_messages = log
unix_socket_directories = '{path}'
unix_socket_permissions = 0700
hot_standby = off
event_triggers = off
shared_buffers = 16MB
max_connections = 10
max_wal_size = 128MB
autovacuum = off
logging_collector = off
"""
# The scratch cluster must never write into the history that it came from, and nobody needs it after a power cut.
PASSING = "archive_mode = off\nfsync = off\n"
# What becomes the live cluster keeps its own history for the archive, and hands it over once it runs as the live one.
LASTING = "archive_mode = on\narchive_command = ''\n"
# Recovery empties them, and no backup has their rows.
UNLOGGED = """
SELECT coalesce(json_agg(format('%s.%s.%s', current_database(), relnamespace::regnamespace, relname) ORDER BY oid), '[]')
  FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'
"""
FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")


class Beside:
    """One such cluster, in a directory of its own on the encrypted volume; only PostgreSQL's account reaches it."""

    def __init__(self, path: Path, lasting: bool = False) -> None:
        self.path, self._lasting = path, lasting

    def restore(self, origin: Origin) -> None:
        """Let pgBackRest write the data directory. Raises Trouble, before anything is begun where there is no room."""
        self.room(origin)
        PgBackRest().restore(origin.label, self.path, "preserve" if self._lasting else "off", origin.options)
        self.configure()

    def configure(self, more: str = "") -> None:
        """Settings of its own, so that it runs here."""
        settings = CONFIGURATION.format(zone=ZONE, path=self.path) + (LASTING if self._lasting else PASSING) + more
        for name, text in zip(FILES, (settings, "local all postgres peer\n", ""), strict=True):
            (self.path / name).write_text(text)
            shutil.chown(self.path / name, "postgres", "postgres")

    def room(self, origin: Origin) -> None:
        """Raises Trouble when it might not fit."""
        wanted = origin.bytes
        with suppress(Trouble):  # the live one may be what is broken
            wanted = max(wanted, sql("SELECT to_json(sum(pg_database_size(oid))) FROM pg_database"))
        spare(self.path.parent, wanted)

    def start(self) -> None:
        """Start it and wait until it has recovered to its target and takes queries. Raises Trouble."""
        with suppress(Trouble):  # its log says more than pg_ctl
            as_postgres(f"{BIN}/pg_ctl", "-D", str(self.path), "-l", f"{self.path}/log", "-w", "-t", "600", "start", timeout=660)
        # Its own word: a query could be refused for ever where the restored data are not whole.
        while READY not in self.log():
            if not self.alive():
                if TOO_FAR in self.log():
                    end = self.reached() or "the backup"
                    raise Trouble(f"what is archived ends before that moment, with {end}; `--to {NEWEST}` goes there")
                said = [line for line in self.log().splitlines() if "FATAL" in line or "PANIC" in line]
                raise Trouble(f"the restored cluster does not start: {said[-1] if said else 'its log says nothing'}")
            time.sleep(0.2)

    def log(self) -> str:
        """Its own log."""
        with suppress(FileNotFoundError):
            return (self.path / "log").read_text(errors="replace")
        return ""

    def reached(self) -> str | None:
        """When the last change was committed that it has taken from the archive; None when it took none after the backup."""
        said = [line for line in self.log().splitlines() if LAST_COMMIT in line]
        return said[-1].rpartition(LAST_COMMIT)[2].strip() if said else None

    def alive(self) -> bool:
        """Whether its postmaster runs: after a power cut the number that it left may be another's, such as the live one's."""
        with suppress(OSError, IndexError):
            number = (self.path / "postmaster.pid").read_text().splitlines()[0]
            return str(self.path) in Path(f"/proc/{number}/cmdline").read_text().split("\0")
        return False

    def query(self, database: str, statement: str, timeout: float = 3600) -> str:
        """What it answers. Raises Trouble."""
        words = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.path), "-d", database, "-f", "-")
        return as_postgres(PSQL, *words, stdin=statement, timeout=timeout)

    def databases(self) -> list[str]:
        """Those that can be connected to, by name."""
        return json.loads(self.query("postgres", "SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn"))

    def unlogged(self, *databases: str) -> list[str]:
        """The tables in them that are empty now, whatever they held. Raises Trouble."""
        return [table for name in databases for table in json.loads(self.query(name, UNLOGGED))]

    def stop(self) -> None:
        """In good order: all is on the disk afterwards. Raises Trouble."""
        as_postgres(f"{BIN}/pg_ctl", "-D", str(self.path), "-m", "fast", "-w", "-t", "600", "stop", timeout=660)

    def halt(self) -> None:
        """Stop it, if it runs, as a power cut would."""
        if self.alive():
            with suppress(Trouble):
                as_postgres(f"{BIN}/pg_ctl", "-D", str(self.path), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Stop it, if it runs, and remove it."""
        self.halt()
        shutil.rmtree(self.path, ignore_errors=True)
