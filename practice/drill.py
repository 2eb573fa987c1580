"""Restore into a scratch cluster beside the live one, look at it, throw it away. The live cluster is neither stopped nor written to."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from practice.alarm import VOLATILE
from practice.health import clock
from practice.server import PSQL, STANZA, Trouble, as_postgres, is_root, repository

BIN = "/usr/lib/postgresql/17/bin"
# On the encrypted volume: it holds what the live cluster holds.
SCRATCH = Path("/var/lib/postgresql/scratch")
READY = "database system is ready to accept connections"
# As the system's, and so as the live cluster's: the same moment is then written in the same way.
ZONE = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2] or "UTC"
# hot_standby off: recovery then asks for none of the live cluster's sizes. archive_mode off: the scratch cluster must never
# write into the history it came from.
CONFIGURATION = f"""
listen_addresses = ''
lc_messages = C
timezone = '{ZONE}'
log_min_messages = log
unix_socket_directories = '{SCRATCH}'
unix_socket_permissions = 0700
archive_mode = off
hot_standby = off
shared_buffers = 16MB
max_connections = 10
autovacuum = off
fsync = off
logging_collector = off
"""


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice drill [--to TIME | --set LABEL] [--query SQL] [--json]`."""
    parser = commands.add_parser("drill", help="prove that a backup restores, beside the running database", description=__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to", metavar="TIME", help='a moment, such as "2026-11-22 14:05:00+01"; without it, everything there is')
    target.add_argument("--set", metavar="LABEL", help="exactly what a backup holds; `practice backup --list` shows the labels")
    parser.add_argument("--query", default="SELECT datname FROM pg_database ORDER BY 1", help="what to ask the restored cluster")
    parser.add_argument("--database", default="postgres", help="in which of its databases")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: restored, and it answered."""
    if not is_root():
        print("practice drill: only root may do this; use sudo")
        return 2
    began = time.monotonic()
    try:
        with restored(arguments.to, arguments.set) as took:
            answer = query(arguments.database, arguments.query)
    except Trouble as trouble:
        print(f"practice drill: {trouble}")
        return 1
    report = {"rows": answer.splitlines(), "restore_seconds": round(took, 1), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(report) if arguments.json else f"{answer}restored in {took:.1f} s")
    return 0


@contextmanager
def restored(to: str | None, label: str | None) -> Iterator[float]:
    """A running scratch cluster, and how long it took to get there; gone afterwards. Raises Trouble."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with (VOLATILE / "drill.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Restoring must not take the disks from the people who work.
        os.nice(10)
        began = time.monotonic()
        remove()
        try:
            SCRATCH.mkdir(mode=0o700)
            shutil.chown(SCRATCH, "postgres", "postgres")
            restore(to, label)
            start()
            yield time.monotonic() - began
        finally:
            remove()


def restore(to: str | None, label: str | None) -> None:
    """Let pgBackRest write the data directory."""
    how = ["--type=default"]
    if to is not None:
        moment = parsed(to)
        # The newest backup from before the moment; left to choose, pgBackRest has taken the wrong one (its issues 817, 1023, 593).
        how = [
            "--type=time",
            f"--target={moment.isoformat(sep=' ')}",
            f"--set={newest_before(moment.timestamp())}",
            "--target-action=promote",
        ]
    elif label is not None:
        how = ["--type=immediate", f"--set={label}", "--target-action=promote"]
    as_postgres("pgbackrest", f"--stanza={STANZA}", f"--pg1-path={SCRATCH}", "--archive-mode=off", *how, "restore", timeout=86400)
    for name, text in (("postgresql.conf", CONFIGURATION), ("pg_hba.conf", "local all postgres peer\n"), ("pg_ident.conf", "")):
        (SCRATCH / name).write_text(text)
        shutil.chown(SCRATCH / name, "postgres", "postgres")


def parsed(to: str) -> datetime.datetime:
    """The moment meant; without an offset, in the practice's time zone. Raises Trouble."""
    try:
        return datetime.datetime.fromisoformat(to).astimezone()
    except ValueError:
        raise Trouble(f'"{to}" is not a moment; one is "2026-11-22 14:05:00"') from None


def newest_before(moment: float) -> str:
    """The label of the backup to start from. Raises Trouble when the moment lies before all of them."""
    older = [backup["label"] for backup in repository().get("backup", []) if backup["timestamp"]["stop"] < moment]
    if not older:
        raise Trouble(f"no backup is older than {clock(moment)}; `practice backup --list` shows what there is")
    return older[-1]


def start() -> None:
    """Start the scratch cluster and wait until it has recovered to its target and takes queries. Raises Trouble."""
    with suppress(Trouble):  # its log says more than pg_ctl
        as_postgres(f"{BIN}/pg_ctl", "-D", str(SCRATCH), "-l", f"{SCRATCH}/log", "-w", "-t", "600", "start", timeout=660)
    # Its own word: a query could be refused for ever where the restored data are not whole.
    while READY not in log():
        if not alive():
            said = [line for line in log().splitlines() if "FATAL" in line or "PANIC" in line]
            raise Trouble(f"the restored cluster does not start: {said[-1] if said else 'its log says nothing'}")
        time.sleep(0.2)


def log() -> str:
    """The scratch cluster's own log."""
    with suppress(FileNotFoundError):
        return (SCRATCH / "log").read_text(errors="replace")
    return ""


def alive() -> bool:
    """Whether its postmaster runs."""
    with suppress(OSError, ValueError):
        os.kill(int((SCRATCH / "postmaster.pid").read_text().splitlines()[0]), 0)
        return True
    return False


def query(database: str, statement: str) -> str:
    """What the scratch cluster answers."""
    return as_postgres(PSQL, "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(SCRATCH), "-d", database, "-f", "-", stdin=statement)


def remove() -> None:
    """Stop the scratch cluster, if it runs, and remove it."""
    if (SCRATCH / "postmaster.pid").exists():
        with suppress(Trouble):
            as_postgres(f"{BIN}/pg_ctl", "-D", str(SCRATCH), "-m", "immediate", "-w", "stop")
    shutil.rmtree(SCRATCH, ignore_errors=True)
