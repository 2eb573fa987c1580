"""A practice's database with its backups, in a place: Debian's own PostgreSQL and pgBackRest at their true paths, and the practice command.

What stands in for systemd starts and stops what the tests need, without the sandbox of its units.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kit.host import as_admin
from kit.paths import ROOT, cache_dir
from kit.place import SERVER, Place
from kit.render import rendered
from roles.backup import ARCHIVE_COMMAND, ARCHIVE_TIMEOUT, CLUSTER, REPOSITORY, STANZA
from roles.database import CONFIG, POSTGRES, PSQL

BIN = "/usr/lib/postgresql/17/bin"
SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>/var/lib/systemctl
as() {{ {POSTGRES} "$@"; }}
database() {{
  as {BIN}/pg_ctl -D {CLUSTER} -w -t 60 -l /var/log/postgresql/log -o '-c config_file={CONFIG}/postgresql.conf' "$@" >/dev/null ||
    {{ tail -n 5 /var/log/postgresql/log >&2; exit 1; }}
}}
cd /
case "$*" in
*postgresql@17-main*) case "$*" in
  start*) [ ! -e /run/no-start ] || {{ sh /run/no-start; rm /run/no-start; exit 1; }}
    as {BIN}/pg_ctl -D {CLUSTER} status >/dev/null || database start ;;
  stop*) [ ! -e {CLUSTER}/postmaster.pid ] || database -m fast stop ;;
  *is-active*) database status ;;
  esac ;;
start*practice-drill.service) /usr/local/bin/practice drill --here ;;
start*practice-offsite-drill.service) /usr/local/bin/practice drill --from offsite --here ;;
start*practice-offsite@*) kind=${{2#*@}}; /root/send ${{kind%.service}} ;;
# Outside any control group the kernel shares the processor between sessions first: this one's is to count for little.
start*practice-backup@*) kind=${{2#*@}}; as setsid --wait sh -c 'echo 19 >/proc/self/autogroup; exec "$@"' - \
  chrt --idle 0 ionice -c 3 pgbackrest --stanza={STANZA} --type=${{kind%.service}} backup ;;
esac
"""
# The backup disk.
IN_MEMORY = "mkdir -p /backup && mount -t tmpfs -o mode=755 backup /backup"
ON_DISK = """set -eu
mkfs.ext4 -q {0} && mkdir -p /backup /disk && mount -o noatime {0} /disk && mkdir /disk/backup /disk/postgresql
mount --bind /disk/backup /backup
rm -r /var/lib/postgresql/17  # Debian's own cluster, empty
chown postgres: /disk/postgresql && mount --bind /disk/postgresql /var/lib/postgresql"""
# What roles/database.py and roles/backup.py do, without what only a machine has.
READY = f"""set -eu
cp /proc/sys/kernel/random/uuid /etc/machine-id
install -d -o postgres -g postgres -m 750 {REPOSITORY} /var/log/pgbackrest /run/postgresql
install -d /etc/cabinet /var/lib/cabinet/secrets /var/lib/cabinet/pgbackrest /run/cabinet
chmod 755 /usr/bin/systemctl /usr/local/bin/practice /usr/local/lib/cabinet/*
rm -rf {CLUSTER}  # Debian's own, empty
"""
MAKE_CLUSTER = "/usr/local/lib/cabinet/make-cluster >/dev/null; systemctl start postgresql@17-main.service"
MAKE = f"""cp /etc/machine-id /backup/
{MAKE_CLUSTER}
cd / && {POSTGRES} pgbackrest --stanza={STANZA} stanza-create
systemctl start practice-backup@full.service"""


class Server:
    """The practice's server, as root there."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def run(self, command: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
        """What a line of shell comes to."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(self.place.inside(command), input=given, capture_output=True, check=False)
        said, complained = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, said, complained)

    def out(self, command: str, stdin: str | bytes = "") -> str:
        """What it prints; it must end well."""
        done = self.run(command, stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What the live cluster answers."""
        return self.out(f"{PSQL} -d {database} -f -", statement)

    def practice(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The practice command."""
        return self.run(shlex.join(["/usr/local/bin/practice", *words]))

    def said(self, *words: str) -> Any:
        """What it says as JSON; it must end well."""
        return json.loads(self.out(shlex.join(["/usr/local/bin/practice", *words, "--json"])))

    def moment(self) -> str:
        """Now, between what was written before and what will be; and what was written is on the backup disk."""
        at = self.sql("SELECT clock_timestamp()")
        self.sql("SELECT pg_logical_emit_message(true, 'test', 'a change')")
        segment = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        handed = f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"
        self.out(f'until [ "$({PSQL} -c "{handed}")" = t ]; do sleep 0.1; done')
        return at


@contextmanager
def new_server(disk: str = IN_MEMORY, *packages: str) -> Iterator[Server]:
    """One on which nothing was entered yet: no cluster, no stanza."""
    with Place(*SERVER, *packages) as place:
        server = Server(place)
        server.out("tar -xf - -C / --no-same-owner", files())
        server.out(disk)
        server.out(READY)
        yield server
        server.run("systemctl stop postgresql@17-main.service")


@contextmanager
def practice_server() -> Iterator[Server]:
    """One with a first full backup."""
    with new_server() as server:
        server.out(f"set -eu\n{MAKE}")
        yield server


@contextmanager
def large_server(mb: int, *packages: str) -> Iterator[Server]:
    """The same with room for so much data, on a file system of its own on this machine's disk, past this machine's memory."""
    with tempfile.NamedTemporaryFile(dir=cache_dir(), prefix="disk.") as image:
        image.truncate((6 * mb + 2000) << 20)
        attach = ["losetup", "--find", "--show", "--direct-io=on", image.name]
        device = subprocess.run(as_admin(attach), check=True, capture_output=True, text=True).stdout.strip()
    # The file has no name any more. Once the device is let go while it is mounted, both go with the mount, however this run ends.
    let_go = as_admin(["losetup", "--detach", device])
    try:
        with new_server(ON_DISK.format(device), *packages) as server:
            subprocess.run(let_go, check=True)
            server.out(f"set -eu\n{MAKE}")
            yield server
    finally:
        subprocess.run(let_go, check=False, capture_output=True)


def files() -> bytes:
    """All that the roles would bring, as a tar."""
    archiving = rendered("backup/postgresql.conf.j2", archive_command=ARCHIVE_COMMAND, archive_timeout=ARCHIVE_TIMEOUT)
    options = {"repository": REPOSITORY, "keep_days": 35, "stanza": STANZA, "cluster": CLUSTER}
    there = {
        "usr/bin/systemctl": SYSTEMCTL,
        "usr/local/bin/practice": (ROOT / "files/base/practice").read_text(),
        "usr/local/lib/cabinet/make-cluster": (ROOT / "files/database/make-cluster").read_text(),
        "etc/pgbackrest/pgbackrest.conf": rendered("backup/pgbackrest.conf.j2", **options),
        "etc/pgbackrest/conf.d/key.conf": "[global]\nrepo1-cipher-pass=a-key-for-the-test\n",
        "etc/cabinet/practice.json": json.dumps({"practice": "Cabinet d'essai", "max_age_hours": 26, "keep_days": 35, "drill_days": 3}),
        f"{CONFIG}/postgresql.conf".lstrip("/"): rendered("database/postgresql.conf.j2", timezone="Africa/Algiers"),
        f"{CONFIG}/pg_hba.conf".lstrip("/"): rendered("database/pg_hba.conf.j2", database="practice", role="practice"),
        f"{CONFIG}/pg_ident.conf".lstrip("/"): "",
        f"{CONFIG}/conf.d/backup.conf".lstrip("/"): archiving,
    }
    for script in ("pgbackrest-archive-push", "pgbackrest-verify"):
        there[f"usr/local/lib/cabinet/{script}"] = (ROOT / "files/backup" / script).read_text()
    for topic in ("durable", "log", "sessions"):
        there[f"{CONFIG}/conf.d/{topic}.conf".lstrip("/")] = (ROOT / f"files/database/conf.d/{topic}.conf").read_text()
    there |= {f"usr/local/lib/cabinet/practice/{path.name}": path.read_text() for path in (ROOT / "practice").glob("*.py")}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, text in there.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return tar.getvalue()
