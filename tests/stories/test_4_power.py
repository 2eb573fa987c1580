"""Power cut: QEMU is killed under load; whatever the database had acknowledged is there after the boot, and nobody typed anything."""

from __future__ import annotations

import random
import subprocess
import threading
import time

import pytest
from testinfra.host import Host

from kit.connection import Connection
from kit.vm import Machine
from roles.database import POSTGRES
from tests.helpers import logged_in_again

WRITERS = 3
PSQL = f"{POSTGRES} /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1"
# One transaction per row; psql says the number only once COMMIT was acknowledged, and stdbuf lets no word wait in a buffer.
WRITER = (
    "cd / && seq 1 1000000 | sed 's/.*/INSERT INTO power.acknowledged VALUES ({round}, {writer}, &);\\n\\\\echo &/' "
    f"| {POSTGRES} stdbuf -oL /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1 -d postgres"
)
PGBENCH = "/usr/lib/postgresql/17/bin/pgbench"
LOAD = f"systemd-run --quiet --collect --unit=power-load --uid=postgres {PGBENCH} --no-vacuum --client=2 --time=600 power"


class Writer:
    """A session that writes ever on, and this machine's own record of what was acknowledged to it."""

    def __init__(self, connection: Connection, round: int, writer: int) -> None:
        command = WRITER.format(round=round, writer=writer)
        self.acknowledged: list[int] = []
        self.process = subprocess.Popen(
            connection.master.riding("-T", connection.name, f"exec sudo -n sh -c {quoted(command)}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.thread = threading.Thread(target=self._note, daemon=True)
        self.thread.start()

    def _note(self) -> None:
        for line in self.process.stdout or ():
            if line.endswith("\n"):  # a line that the cut has torn says nothing
                self.acknowledged.append(int(line))

    def ended(self) -> None:
        """The connection is gone; nothing more will be noted."""
        self.process.kill()
        self.process.wait()
        self.thread.join()


def quoted(command: str) -> str:
    """`command` as one word of a shell on the server."""
    return "'" + command.replace("'", "'\\''") + "'"


def test_no_acknowledged_commit_is_lost_in_a_power_cut(
    host: Host, vm: Machine, connection: Connection, pytestconfig: pytest.Config
) -> None:
    """Three times in a row; control: each time commits were acknowledged up to the cut, and the cluster had to recover."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"\nrandom seed {seed}")
    chance = random.Random(seed)
    prepare(host)
    for round in range(20 if pytestconfig.getoption("--long") else 3):
        began = time.monotonic()
        delay = chance.uniform(3, 9)
        acknowledged = cut_under_load(host, vm, connection, round, delay)
        logged_in_again(host)
        recovered(host)
        rows = host.check_output(f"cd / && {PSQL} -d postgres -c 'SELECT writer, number FROM power.acknowledged WHERE round = {round}'")
        there = {tuple(map(int, row.split("|"))) for row in rows.splitlines()}
        missing = sorted(acknowledged - there)
        print(
            f"round {round + 1}: power cut after {delay:.1f} s, {len(acknowledged)} commits acknowledged, {len(missing)} missing, "
            f"{time.monotonic() - began:.0f} s"
        )
        assert len(acknowledged) > 0, "control: nothing was acknowledged before the cut"
        assert missing == []
        assert host.check_output(f"cd / && {PSQL} -d postgres -c 'SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database'") == "0"
    host.check_output(f"cd / && {PSQL} -d postgres -c 'DROP SCHEMA power CASCADE' -c 'DROP DATABASE power'")


def prepare(host: Host) -> None:
    """A table for what is acknowledged, and a database for pgbench."""
    answers(host)
    host.check_output(
        f"cd / && {PSQL} -d postgres -c 'DROP SCHEMA IF EXISTS power CASCADE' -c 'DROP DATABASE IF EXISTS power' -c 'CREATE SCHEMA power' "
        "-c 'CREATE TABLE power.acknowledged (round int, writer int, number int, PRIMARY KEY (round, writer, number))' "
        "-c 'CREATE DATABASE power' "
        f"&& runuser -u postgres -- {PGBENCH} --initialize --quiet --scale=2 power 2>&1"
    )


def cut_under_load(host: Host, vm: Machine, connection: Connection, round: int, delay: float) -> set[tuple[int, int]]:
    """Write, with pgbench beside it; take the power away `delay` seconds after the first acknowledgement; what was acknowledged."""
    host.check_output(LOAD)
    writers = [Writer(connection, round, number) for number in range(WRITERS)]
    end = time.monotonic() + 60
    while not any(writer.acknowledged for writer in writers) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(delay)
    before = sum(len(writer.acknowledged) for writer in writers)
    assert host.run("systemctl is-active power-load").rc == 0, "control: pgbench does not run"
    vm.power_cut()
    connection.logout()
    for writer in writers:
        writer.ended()
    assert before > 0, "control: nothing was acknowledged"
    vm.start()
    return {(number, row) for number, writer in enumerate(writers) for row in writer.acknowledged}


def answers(host: Host) -> None:
    """The volume has opened and the database answers, by themselves, at most two minutes after SSH does."""
    host.check_output(
        "cd /; end=$(($(date +%s) + 120)); "
        f"until systemctl -q is-active practice-data.target && {PSQL} -d postgres -c 'SELECT 1' >/dev/null 2>&1; do "
        "[ $(date +%s) -lt $end ] || exit 1; sleep 0.5; done"
    )


def recovered(host: Host) -> None:
    """The database answers, and says that it had to recover."""
    answers(host)
    said = host.check_output(
        "journalctl -b --no-pager -q -o cat -g 'not properly shut down' | tail -1; "
        "grep -arhs 'not properly shut down' /var/log/postgresql | tail -1"
    )
    assert "not properly shut down" in said, "control: the database was shut down in good order"
