"""bench/backup: what a backup and a restore cost, beside tar and zstd on the same data and the same disks; how much may be lost."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click
from testinfra.host import Host

from kit import paths
from kit.clinic import load
from kit.connection import Connection
from kit.target import target
from roles.backup import CLUSTER, MOUNT, PGBACKREST
from roles.database import POSTGRES, PSQL

# Issue "Backups", "What it may cost".
FULL_LIMIT = RESTORE_LIMIT = 1.3
CHANGED_LIMIT = 0.10
UNDER_BACKUP = 0.80
# What sha512 makes of a number can hardly be compressed, as pictures and scanned letters can't; so many rows are a megabyte.
ROWS_PER_MB = 6000
FILL = "CREATE TABLE filling AS SELECT id, encode(sha512(id::text::bytea), 'hex') AS text FROM generate_series(1, {rows}) AS id"
# What was entered last lies together.
CHANGE = "UPDATE filling SET text = encode(sha512(text::bytea), 'hex') WHERE id > {rows} * 0.99; CHECKPOINT"
PGBENCH = f"{POSTGRES} /usr/lib/postgresql/17/bin/pgbench"
LOAD_SECONDS = 30
ASIDE = "/var/lib/postgresql/bench"
ARCHIVE = f"{MOUNT}/bench.tar.zst"
COLD = "sync; echo 3 > /proc/sys/vm/drop_caches"
# Whether what was committed by then is in the repository.
ARCHIVED = "SELECT last_archived_wal >= '{wal}' FROM pg_stat_archiver"
COMMITS = 3


@dataclass(frozen=True)
class Row:
    """One size: seconds, megabytes, and transactions per second. `lost_s`: how old a commit became before it was in the repository."""

    mb: int
    tar_s: float
    full_s: float
    full_mb: float
    changed_s: float
    changed_mb: float
    untar_s: float
    restore_s: float
    drill_s: float
    tps: float
    tps_in_backup: float
    lost_s: float

    def ratios(self) -> dict[str, tuple[float, float]]:
        """What is limited, and by how much; the last one must be at least that."""
        return {
            "full backup / tar | zstd": (self.full_s / self.tar_s, FULL_LIMIT),
            "restore / unpacking": (self.restore_s / self.untar_s, RESTORE_LIMIT),
            "1 % changed / full": (self.changed_mb / self.full_mb, CHANGED_LIMIT),
            "pgbench during a backup": (self.tps_in_backup / self.tps, UNDER_BACKUP),
        }

    def kept(self) -> bool:
        """Whether all limits are."""
        *most, (least, limit) = self.ratios().values()
        return all(value <= bound for value, bound in most) and least >= limit


@click.command()
@click.option("--mb", default="100,250", help="sizes in MB; each needs three times as much on the volume", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def backup(mb: str, as_json: bool) -> None:
    """Backup, restore and drill beside tar | zstd, on the deployed VM; ends with 1 when a limit is broken."""
    host = target(Connection("vagrant", load(paths.ROOT / "clinics" / "vagrant.yaml")))
    host.check_output("command -v zstd || { apt-get -q update && apt-get -q -y install zstd; }")
    rows = [measured(host, size) for size in map(int, mb.split(","))]
    click.echo(json.dumps([asdict(row) for row in rows]) if as_json else "\n".join(table(rows)))
    sys.exit(not all(row.kept() for row in rows))


def measured(host: Host, mb: int) -> Row:
    """Everything about one size. Raises AssertionError, with what the server said, where a step fails."""
    rows = mb * ROWS_PER_MB
    with bench_database(host):
        step(f"{mb} MB: fill")
        sql(host, FILL.format(rows=rows))
        sql(host, "CHECKPOINT")
        tar = took(host, f"tar -C {CLUSTER} -cf - . | zstd -q -3 -T2 >{ARCHIVE} && sync -f {ARCHIVE}", "tar | zstd")
        full = took(host, "practice backup --full", "full backup")
        full_mb, label = newest(host)
        sql(host, CHANGE.format(rows=rows))
        changed = took(host, "practice backup", "1 % changed")
        changed_mb, _ = newest(host)
        fresh = f"rm -rf {ASIDE} && install -d -o postgres -g postgres -m 700 {ASIDE}"
        host.check_output(fresh)
        untar = took(host, f"zstd -qdc {ARCHIVE} | tar -C {ASIDE} -xf - && sync -f {ASIDE}", "unpack")
        host.check_output(fresh)
        restore = took(host, f"{PGBACKREST} --pg1-path={ASIDE} --set={label} --type=immediate restore && sync -f {ASIDE}", "restore")
        host.check_output(f"rm -rf {ASIDE} {ARCHIVE}")
        drill = took(host, "practice drill", "drill")
        host.check_output(f"cd / && {PGBENCH} -q -i -s 2 bench")
        step("pgbench, alone and during a full backup")
        tps = transactions(host)
        # Twice as long as needed would count time without a backup; so it is begun again as long as pgbench runs.
        again = "while :; do systemctl start practice-backup@full.service; done"
        host.check_output(f"systemd-run --quiet --collect --unit=bench-backup sh -c {shlex.quote(again)}")
        try:
            tps_in_backup = transactions(host)
        finally:
            host.check_output("systemctl stop bench-backup.service")
        host.check_output("practice backup")  # waits for the one that still runs
        step("how soon a commit is in the repository")
        lost = max(archived_after(host) for _ in range(COMMITS))
    return Row(mb, tar, full, full_mb, changed, changed_mb, untar, restore, drill, tps, tps_in_backup, lost)


@contextlib.contextmanager
def bench_database(host: Host) -> Iterator[None]:
    """A database that is gone afterwards; the backups of it go with the days."""
    clean = f"rm -rf {ASIDE} {ARCHIVE}; {PSQL} -d postgres -c 'DROP DATABASE IF EXISTS bench'"
    host.check_output(clean)
    host.check_output(f"{PSQL} -d postgres -c 'CREATE DATABASE bench'")
    try:
        yield
    finally:
        host.check_output(clean)


def took(host: Host, command: str, what: str) -> float:
    """Seconds that a command takes whose data is not in memory."""
    host.check_output(COLD)
    began = time.monotonic()
    host.check_output("bash -o pipefail -c %s", command)
    seconds = round(time.monotonic() - began, 1)
    step(f"{what}: {seconds} s")
    return seconds


def step(text: str) -> None:
    """Where we are."""
    click.echo(f"    {text}", err=True)


def sql(host: Host, statement: str) -> str:
    """What the bench's database answers."""
    return host.check_output(f"{PSQL} -d bench -c %s", statement).strip()


def newest(host: Host) -> tuple[float, str]:
    """The size in the repository, in MB, and the label of the newest backup."""
    taken = json.loads(host.check_output("practice backup --list --json"))[-1]
    return round(taken["info"]["repository"]["delta"] / 2**20, 1), taken["label"]


def transactions(host: Host) -> float:
    """Of pgbench, for each second."""
    said = host.check_output(f"cd / && {PGBENCH} --no-vacuum --client=2 --time={LOAD_SECONDS} bench")
    return float(said.rpartition("tps = ")[2].split()[0])


def archived_after(host: Host) -> float:
    """Seconds from a commit until the segment that holds it is in the repository."""
    began = time.monotonic()
    sql(host, "CREATE TABLE IF NOT EXISTS late (at text); INSERT INTO late VALUES (now())")
    wal = sql(host, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    while sql(host, ARCHIVED.format(wal=wal)) != "t":
        time.sleep(0.5)
    return round(time.monotonic() - began, 1)


def table(rows: list[Row]) -> Iterator[str]:
    """All of it, for people."""
    names = {
        "tar_s": "tar | zstd, s", "full_s": "full backup, s", "full_mb": "its size, MB", "changed_s": "1 % changed, s",
        "changed_mb": "its size, MB", "untar_s": "unpacking, s", "restore_s": "restore, s", "drill_s": "drill (restored, asked), s",
        "tps": "pgbench, transactions/s", "tps_in_backup": "the same during a full backup", "lost_s": "a commit is safe after, s",
    }  # fmt: skip
    yield f"{'MB of data':40}" + "".join(f"{row.mb:10d}" for row in rows)
    yield from (f"{name:40}" + "".join(f"{getattr(row, key):10.1f}" for row in rows) for key, name in names.items())
    for name, (_, limit) in rows[0].ratios().items():
        yield f"{name:40}" + "".join(f"{row.ratios()[name][0]:10.2f}" for row in rows) + f"   limit {limit}"
