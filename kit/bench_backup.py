"""bench/backup: what a backup and a restore cost, beside tar and zstd on the same data and the same disks; how much may be lost, and how
long it takes until all is back; and what of that grows with the data.

On a VM of its own, whose disks are large enough; with --here in a Debian of its own on this machine's disk.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click

from kit import cli, machines, paths
from kit.bench_growth import growth
from kit.clinic import load
from kit.connection import Connection
from kit.target import target
from roles.backup import ARCHIVE_TIMEOUT, CLUSTER, MOUNT, PGBACKREST, REPOSITORY, STANZA
from roles.database import POSTGRES, PSQL

# Issue "Backups", "What it may cost".
FULL_LIMIT = RESTORE_LIMIT = 1.3
CHANGED_LIMIT = 0.10
UNDER_BACKUP = 0.80
# What sha512 makes of a number can hardly be compressed, as pictures and scanned letters can't; so many rows are a megabyte. In so many
# tables: a practice's database is no single file.
ROWS_PER_MB, TABLES = 6000, 8
FILL = "CREATE TABLE filling_{n} AS SELECT id, encode(sha512(id::text::bytea), 'hex') AS text FROM generate_series({first}, {last}) AS id"
# What was entered last lies together.
CHANGE = f"UPDATE filling_{TABLES - 1} SET text = encode(sha512(text::bytea), 'hex') WHERE id > {{rows}} * 0.99"
PGBENCH = f"cd / && {POSTGRES} /usr/lib/postgresql/17/bin/pgbench"
LOAD_SECONDS = 30
ASIDE = "/var/lib/postgresql/bench"
ARCHIVE, OUTSIDE = f"{MOUNT}/bench.tar.zst", f"{MOUNT}/bench-outside"
RESTIC = f"cd / && RESTIC_PASSWORD=bench restic -q -r {OUTSIDE} --no-cache"
# File by file: what others have in memory on this machine stays there.
COLD = """python3 -c 'import contextlib, os, sys
for path in (os.path.join(at, name) for top in sys.argv[1:] for at, _, names in os.walk(top) for name in names):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)' """
PRACTICE = "/usr/local/bin/practice"
# A restore as the practice has it, not pgBackRest's own.
RESTORE = (
    "cd /usr/local/lib/cabinet && python3 -c 'import pathlib, sys; from practice.clusters import PgBackRest; "
    f"PgBackRest().restore(sys.argv[1], pathlib.Path(sys.argv[2]))' {{label}} {ASIDE} && sync -f {ASIDE}"
)
# Who works goes first (templates/backup/practice-backup@.service.j2); on a busy machine whatever does not give way looks quicker.
AS_THE_SERVICE = "chrt --idle 0 ionice -c 3"
# Whether what was committed by then is in the repository.
ARCHIVED = "SELECT last_archived_wal >= '{wal}' FROM pg_stat_archiver"
# The second begins when the first was archived: no commit waits longer.
COMMITS = 2
# So large are the VM's disks for each gigabyte (the nightly drill, beside which nothing else is kept, needs less); what is not written
# takes no room on this machine.
DISK_GB = 16
# For as long as one backup takes, as the timer makes it; but where pgbench leaves no processor idle, the backup waits for pgbench's end.
# Beside a backup that fails nothing is measured. Nothing asks meanwhile whether it is over: to start `sleep` again and again is work too,
# for an emulated processor.
DURING = (
    "(began=$(date +%s%N); systemctl start practice-backup@full.service; made=$?; pidof pgbench | xargs -r kill -INT; "
    "echo $((($(date +%s%N) - began) / 1000000)) >/run/bench-took; exit $made) & "
    f"{PGBENCH} --no-vacuum --client=2 --time={2 * LOAD_SECONDS} --progress=1 bench 2>&1; wait $! && cat /run/bench-took"
)
# How often the copy outside is written (roles/offsite.py).
INTERVAL = 15 * 60
# Issue "Backups": the nightly drill of so large a database is measured, in the VM's run.
NIGHTLY_MB = 2000

# A line of shell as root; what it prints. Raises AssertionError where it fails.
Ask = Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """One size: seconds, megabytes, and transactions per second.

    `sent_s`, `again_s`, `fetched_s`: restic takes the backup to a repository, then what has changed, and brings both back; over no line.
    `beside_s`: the backup that went on beside pgbench, which goes first. `ready_s`: until a restored cluster answers, rolled forward.
    `lost_s`: how old a commit became before it was on the backup disk.
    """

    mb: int
    tar_s: float
    full_s: float
    full_mb: float
    changed_s: float
    changed_mb: float
    untar_s: float
    restore_s: float
    sent_s: float
    again_s: float
    fetched_s: float
    drill_s: float
    ready_s: float
    tps: float
    tps_in_backup: float
    beside_s: float
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

    def promises(self) -> dict[str, float]:
        """What a practice asks: how much is missing after a disaster, and when it can work again, in seconds."""
        return {
            "RPO, the data disk lost": self.lost_s,
            "RPO, all lost": ARCHIVE_TIMEOUT + INTERVAL + self.again_s,
            "RTO, the data disk lost": self.ready_s,
            "RTO, all lost, and a deploy": self.fetched_s + self.ready_s,
        }


def megabytes(_context: click.Context, _option: click.Parameter, value: str) -> list[int]:
    """What --mb says. Raises BadParameter."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value):
        raise click.BadParameter(f"{value!r}: write whole megabytes, as 500,1000")
    return [int(size) for size in value.split(",")]


@click.command()
@click.option("--mb", "sizes", callback=megabytes, default="1000", show_default=True, help="as 500,1000; each needs ten times as much disk")
@click.option("--here", is_flag=True, help="not on a VM: in a Debian of its own on this machine's disk")
@click.option("--json", "as_json", is_flag=True)
def backup(sizes: list[int], here: bool, as_json: bool) -> None:
    """Backup, restore and drill beside tar | zstd; ends with 1 when a limit is broken."""
    rows: list[Row] = []
    nightly: float | None = None
    with contextlib.nullcontext() if here else large_vm(max(sizes)):
        try:
            for size in sizes:
                rows.append(on_this_machine(size) if here else measured(of_the_vm(), size))
            nightly = None if here else drilled(of_the_vm(), NIGHTLY_MB)
        finally:  # where one fails, those before are told
            if rows:
                show(rows, nightly, as_json)
    sys.exit(not all(row.kept() for row in rows))


def show(rows: list[Row], nightly: float | None, as_json: bool) -> None:
    """All sizes, what grows with them, and the nightly drill where that was measured."""
    grows = growth({row.mb: asdict(row) | row.promises() for row in rows})
    if as_json:
        shown = [asdict(row) | {"promises": row.promises(), "ratios": row.ratios()} for row in rows]
        drill = {"mb": NIGHTLY_MB, "seconds": nightly}
        click.echo(json.dumps({"rows": shown, "growth": {name: asdict(line) for name, line in grows.items()}, "nightly_drill": drill}))
    else:
        click.echo("\n".join([*table(rows), *(f"{name:40}{line}" for name, line in grows.items() if name in rows[0].promises())]))
        if nightly is not None:
            click.echo(f"{f'the nightly drill of {NIGHTLY_MB} MB, s':40}{nightly:10.1f}")


@contextlib.contextmanager
def large_vm(mb: int) -> Iterator[None]:
    """A practice server with room for so much, deployed; from here on whatever is about the VM is about this one. It is gone afterwards."""
    env = machines.bench() | {"CABINET_DISK": f"{DISK_GB * math.ceil(mb / 1000)}G"}
    with cli.alone():
        machines.removed(env)
        try:
            for words in (["vm", "up"], ["deploy", "vagrant", "--yes"]):
                subprocess.run([paths.ROOT / "cabinet", *words], env=env, stdout=sys.stderr, check=True)
            os.environ.update(env)
            yield
        finally:
            machines.removed(env)


def of_the_vm() -> Ask:
    """The VM, as it was deployed, and with zstd."""
    ask = target(Connection("vagrant", load(paths.ROOT / "clinics" / "vagrant.yaml"))).check_output
    ask("command -v zstd || { apt-get -q update && apt-get -q -y install zstd; }")
    return ask


def on_this_machine(mb: int) -> Row:
    """One size in a server that is there for this alone: PostgreSQL, pgBackRest and the practice command, without systemd's sandbox."""
    from tests.practiceserver import large_server  # noqa: PLC0415 - the tests' modules are not needed on the VM

    with large_server(mb, "zstd") as server:
        return measured(server.out, mb)


def measured(ask: Ask, mb: int) -> Row:
    """Everything about one size. Raises AssertionError, with what the server said, where a step fails."""
    with bench_database(ask):
        step(f"{mb} MB: fill")
        filled(ask, mb * ROWS_PER_MB)
        # pgBackRest leaves the changes to their archive.
        # 1: a file has gone or changed meanwhile, as the database's do.
        pack = f"{{ tar -C {CLUSTER} --exclude=./pg_wal/* -cf - . || [ $? = 1 ]; }} | zstd -q -3 -T2 >{ARCHIVE} && sync {ARCHIVE}"
        tar = took(ask, pack, "tar | zstd", AS_THE_SERVICE)
        full = took(ask, f"{PRACTICE} backup --full", "full backup")
        full_mb, label = newest(ask)
        sql(ask, CHANGE.format(rows=mb * ROWS_PER_MB))
        at_rest(ask)
        changed = took(ask, f"{PRACTICE} backup", "1 % changed")
        changed_mb, then = newest(ask)
        ask(f"install -d -o postgres -g postgres -m 700 {ASIDE}")
        untar = took(ask, f"zstd -qdc {ARCHIVE} | tar -C {ASIDE} -xf - && sync -f {ASIDE}", "unpack")
        ask(f"rm -rf {ASIDE} {ARCHIVE}")
        restore = took(ask, RESTORE.format(label=label), "restore")
        ask(f"rm -rf {ASIDE}")
        outside = sent(ask, label, then)
        drill = took(ask, f"{PRACTICE} drill", "drill")
        ready = json.loads(ask(f"{PRACTICE} drill --history --json"))[-1]["restore_seconds"]
        load = disturbed(ask)
        step("how soon a commit is in the repository")
        lost = max(archived_after(ask) for _ in range(COMMITS))
    figures = (tar, full, full_mb, changed, changed_mb, untar, restore, *outside, drill, ready, *load, lost)
    return Row(mb, *figures)


def drilled(ask: Ask, mb: int) -> float:
    """Seconds that the drill takes as the timer makes it, of a database of so many megabytes."""
    with bench_database(ask):
        step(f"{mb} MB: fill, for the nightly drill alone")
        filled(ask, mb * ROWS_PER_MB)
        ask(f"{PRACTICE} backup --full")
        return took(ask, "systemctl start practice-drill.service", "nightly drill")


def filled(ask: Ask, rows: int) -> None:
    """So many rows, in all tables together."""
    for n in range(TABLES):
        sql(ask, FILL.format(n=n, first=rows * n // TABLES + 1, last=rows * (n + 1) // TABLES))
    at_rest(ask)


def at_rest(ask: Ask) -> None:
    """Nothing is written by itself any more, and all changes are in the archive: that is not the work of who copies."""
    sql(ask, "VACUUM (ANALYZE)")
    sql(ask, "CHECKPOINT")
    archived(ask, sql(ask, "SELECT pg_walfile_name(pg_switch_wal())"))


def archived(ask: Ask, wal: str) -> None:
    """Wait until a file of changes is on the backup disk."""
    while sql(ask, ARCHIVED.format(wal=wal)) != "t":
        time.sleep(0.5)


def sent(ask: Ask, label: str, then: str) -> tuple[float, float, float]:
    """What restic takes for a backup, for that and the next one, and to bring both back; between two directories of one disk."""
    full, changed = (f"{REPOSITORY}/backup/{STANZA}/{name}" for name in (label, then))
    ask(f"rm -rf {OUTSIDE}; {RESTIC} init")
    first = took(ask, f"{RESTIC} backup --no-scan {full} && sync -f {OUTSIDE}", "restic, everything")
    again = took(ask, f"{RESTIC} backup --no-scan {full} {changed} && sync -f {OUTSIDE}", "restic, what has changed")
    fetched = took(ask, f"{RESTIC} restore latest --verify --target={ASIDE} && sync -f {ASIDE}", "restic, back again")
    ask(f"rm -rf {OUTSIDE} {ASIDE}")
    return first, again, fetched


def disturbed(ask: Ask) -> tuple[float, float, float]:
    """Transactions of pgbench for each second, alone and during a full backup, and what that took. A machine's pace drifts: alone twice."""
    ask(f"{PGBENCH} -q -i -s 2 bench 2>&1")
    step("pgbench, alone and during a full backup")
    before = alone(ask)
    at_rest(ask)  # a backup begins with a checkpoint, after which each page goes to the archive once
    *said, took = ask(DURING).splitlines()
    seconds = [float(line.split(" s, ")[1].split()[0]) for line in said if line.startswith("progress: ")]
    return round((before + alone(ask)) / 2, 1), round(sum(seconds) / len(seconds), 1), round(int(took) / 1000, 1)


def alone(ask: Ask) -> float:
    """Transactions of pgbench for each second while nothing else is done."""
    at_rest(ask)
    said = ask(f"{PGBENCH} --no-vacuum --client=2 --time={LOAD_SECONDS} bench 2>&1")
    return float(said.rpartition("tps = ")[2].split()[0])


@contextlib.contextmanager
def bench_database(ask: Ask) -> Iterator[None]:
    """A database that is gone afterwards, and so are the backups of it: the backup disk has no room for several."""
    clean = f"rm -rf {ASIDE} {ARCHIVE} {OUTSIDE}; {PSQL} -d postgres -c 'DROP DATABASE IF EXISTS bench'"
    ask(clean)
    before = {backup["label"] for backup in listed(ask)}
    ask(f"{PSQL} -d postgres -c 'CREATE DATABASE bench'")
    try:
        yield
    finally:
        ask(clean)
        ours = [backup["label"] for backup in listed(ask) if backup["label"] not in before and backup["type"] == "full"]
        ask(f"{PRACTICE} backup --full")  # the newest one is never removed
        for label in ours:
            ask(f"{PGBACKREST} --set={label} expire")


def took(ask: Ask, command: str, what: str, how: str = "") -> float:
    """Seconds that a command takes whose data is not in memory."""
    ask(f"{COLD} {CLUSTER} {MOUNT} {ASIDE}")
    began = time.monotonic()
    ask(f"{how} bash -o pipefail -c {shlex.quote(command)}")
    seconds = round(time.monotonic() - began, 1)
    step(f"{what}: {seconds} s")
    return seconds


def step(text: str) -> None:
    """Where we are."""
    click.echo(f"    {text}", err=True)


def sql(ask: Ask, statement: str) -> str:
    """What the bench's database answers."""
    return ask(f"{PSQL} -d bench -c {shlex.quote(statement)}").strip()


def listed(ask: Ask) -> list[dict]:
    """The backups, oldest first."""
    return json.loads(ask(f"{PRACTICE} backup --list --json"))


def newest(ask: Ask) -> tuple[float, str]:
    """The size in the repository, in MB, and the label of the newest backup."""
    taken = listed(ask)[-1]
    return round(taken["info"]["repository"]["delta"] / 2**20, 1), taken["label"]


def archived_after(ask: Ask) -> float:
    """Seconds from a commit until the segment that holds it is in the repository."""
    began = time.monotonic()
    sql(ask, "CREATE TABLE IF NOT EXISTS late (at text); INSERT INTO late VALUES (now())")
    archived(ask, sql(ask, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
    return round(time.monotonic() - began, 1)


def table(rows: list[Row]) -> Iterator[str]:
    """All of it, for people."""
    names = {
        "tar_s": "tar | zstd, s", "full_s": "full backup, s", "full_mb": "its size, MB", "changed_s": "1 % changed, s",
        "changed_mb": "its size, MB", "untar_s": "unpacking, s", "restore_s": "restore, s", "sent_s": "restic: the full backup, s",
        "again_s": "restic: what has changed, s", "fetched_s": "restic: both back again, s", "drill_s": "drill (restored, checked), s",
        "ready_s": "of that, until it answers, s", "tps": "pgbench, transactions/s", "tps_in_backup": "the same during a full backup",
        "beside_s": "which took, s",
    }  # fmt: skip
    yield f"{'MB of data':40}" + "".join(f"{row.mb:10d}" for row in rows)
    yield from (f"{name:40}" + "".join(f"{getattr(row, key):10.1f}" for row in rows) for key, name in names.items())
    for name, (_, limit) in rows[0].ratios().items():
        yield f"{name:40}" + "".join(f"{row.ratios()[name][0]:10.2f}" for row in rows) + f"   limit {limit}"
    for name in rows[0].promises():
        yield f"{name + ', s':40}" + "".join(f"{row.promises()[name]:10.1f}" for row in rows)
