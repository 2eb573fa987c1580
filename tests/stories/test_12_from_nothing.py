"""The server is gone, with its disks, while people write; the copy outside and the kit make it again. What is missing is counted."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testinfra.host import Host

from kit import deployment, paths
from kit.cli import raise_vm
from kit.clinic import Clinic
from kit.connection import Connection
from kit.neighbour import ADDRESS, Neighbour
from kit.vm import Machine
from roles.backup import ARCHIVE_TIMEOUT
from roles.database import POSTGRES
from tests.restserver import in_the_network

PSQL = f"{POSTGRES} /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1"
# psql says the number only once COMMIT was acknowledged; `at` is the server's clock, as all other times here.
WRITER = (
    "cd / && seq 1 1000000 | sed \"s/.*/INSERT INTO gone.acknowledged VALUES (&, clock_timestamp()) RETURNING number || ' ' "
    '|| extract(epoch FROM at);/" '
    f"| {POSTGRES} stdbuf -oL /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1 -d postgres"
)
PGBENCH = "/usr/lib/postgresql/17/bin/pgbench"
LOAD = f"systemd-run --quiet --collect --unit=gone-load --uid=postgres {PGBENCH} --no-vacuum --client=2 --time=3600 gone"
SEND = "systemctl start practice-offsite@send.service && ! grep '\"send\":' /var/lib/cabinet/offsite/state.json"
# What archiving a segment takes on a slow machine.
TRANSFER = 15


def test_a_new_server_comes_back_from_the_copy_outside(
    host: Host,
    vm: Machine,
    connection: Connection,
    clinic: Clinic,
    inside: Neighbour,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """Commits go on while it is sent twice, and after; then nothing is left of the machine. None older than the last send, less
    archive_timeout, is missing; control: what was written after it is missing."""
    assert clinic.offsite is not None
    login = clinic.offsite.password_file.read_text().strip()
    where = (ADDRESS, clinic.offsite.port, clinic.offsite.account, login)
    with in_the_network(inside, tmp_path, *where):
        kit, acknowledged, sent = lived(host, connection, tmp_path / "acknowledged")
    gone, seeds = max(acknowledged.values()), people(connection)
    if pytestconfig.getoption("--long"):
        connection.logout()
        vm.destroy()
        raise_vm()
    else:  # its disks, its TPM and its memory are as blank, some minutes sooner
        vm.power_cut()
        deployment.back_to("packages", connection)
    with in_the_network(Neighbour(), tmp_path, *where):
        began = time.monotonic()
        argv = [sys.executable, "-m", "kit.cli", "restore", "vagrant", "--from", "offsite", "--yes"]
        done = subprocess.run(argv, cwd=paths.ROOT, input=kit, text=True, check=False)
        took = time.monotonic() - began
        assert done.returncode == 0
        assert people(connection) == seeds, "people's phones say other codes"
        host.backend.reconnect()
        rows = host.check_output(f"cd / && {PSQL} -d postgres -c 'SELECT number FROM gone.acknowledged'")
        there = set(map(int, rows.split()))
        missing = {number: at for number, at in acknowledged.items() if number not in there}
        newest = max(acknowledged[number] for number in there & set(acknowledged))
        print(
            f"\n{len(acknowledged)} commits acknowledged, {len(missing)} missing; sent {gone - sent:.0f} s before the end; "
            f"RPO: the newest that is there is {gone - newest:.0f} s older than the end; RTO: {took:.0f} s from a plain machine"
        )
        assert missing, "control: nothing was written after it was sent"
        assert {number: at for number, at in missing.items() if at < sent - ARCHIVE_TIMEOUT - TRANSFER} == {}
        assert host.check_output("cat /srv/gone") == "a document"
        host.check_output(SEND)
    host.check_output(f"cd / && rm /srv/gone; {PSQL} -d postgres -c 'DROP SCHEMA gone CASCADE' -c 'DROP DATABASE gone'")


def lived(host: Host, connection: Connection, heard: Path) -> tuple[str, dict[int, float], float]:
    """The practice works and sends; its kit, what was acknowledged when, and when the last send began, by the server's clock."""
    host.check_output(
        f"systemctl stop gone-load; cd / && echo -n 'a document' >/srv/gone && {PSQL} -d postgres -c 'DROP SCHEMA IF EXISTS gone CASCADE' "
        "-c 'DROP DATABASE IF EXISTS gone WITH (FORCE)' -c 'CREATE SCHEMA gone' -c 'CREATE DATABASE gone' "
        "-c 'CREATE TABLE gone.acknowledged (number int PRIMARY KEY, at timestamptz)' "
        f"&& runuser -u postgres -- {PGBENCH} --initialize --quiet --scale=2 gone 2>&1"
    )
    # What was sent to another vault, by another test, is not in this one.
    host.check_output("systemctl stop 'practice-offsite@*'; rm -rf /var/lib/cabinet/offsite/state.json /var/lib/cabinet/offsite/cache")
    kit = host.check_output("practice recovery-kit --text")
    words = connection.master.riding("-T", connection.name, f"exec sudo -n sh -c {shlex.quote(WRITER)}")
    with heard.open("w") as file, subprocess.Popen(words, stdout=file, stderr=subprocess.DEVNULL) as writer:
        host.check_output(LOAD)
        host.check_output(SEND)
        time.sleep(ARCHIVE_TIMEOUT + TRANSFER)
        sent = float(host.check_output("date +%s"))
        host.check_output(SEND)
        time.sleep(ARCHIVE_TIMEOUT // 2)  # what is written now comes too late
        writer.kill()
    lines = [line.split() for line in heard.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return kit, {int(number): float(at) for number, at in lines}, sent


def people(connection: Connection) -> dict[str, str]:
    """The second factors of the VM's people, as the server has them."""
    names = [person.name for person in connection.site.people if person.login]
    return {name: (connection.file(f"/etc/cabinet/totp/{name}") or b"").decode().splitlines()[0] for name in names}
