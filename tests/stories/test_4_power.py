"""Power cut: QEMU is killed under load; whatever the database had acknowledged is there after the boot, and nobody typed anything.

And in the middle of a backup, and of a restore.
"""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit.connection import Connection
from kit.vm import Machine
from practice.journal import JOURNAL
from practice.whole import GROWING, LIVE
from roles.backup import REPOSITORY, STANZA
from roles.database import POSTGRES
from tests.claims.test_backup import alarms, archive_now, backups, eventually, kept, restored, sql
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
# Fifty megabytes that can hardly be compressed, and a fifth of a processor to copy them: that takes long enough to be cut off.
MUCH = (
    "CREATE SCHEMA power; CREATE TABLE power.much AS SELECT sha512(number::text::bytea) FROM generate_series(1, 500000) AS number; "
    "CREATE TABLE power.notes AS SELECT 'before' AS note"
)
SLOWLY = "CPUQuota=20%"
NOTES = "SELECT string_agg(note, ' ' ORDER BY note) FROM power.notes"
FULL = "practice-backup@full.service"
CATALOGUE = f"{REPOSITORY}/backup/{STANZA}"
# The list of what is to be copied is written before anything is.
COPIED = f"find {CATALOGUE}/[0-9]* -newer /run/begun -type f ! -name 'backup.manifest*' | grep -q ."
RESTORED = f"test -e {JOURNAL} && find {GROWING} -type f -size +0 | grep -q ."


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


@pytest.fixture
def much(host: Host, vm: Machine) -> Iterator[None]:
    """There is much to copy. Afterwards the server runs, and nothing of it is left, nor of what a restore has begun or kept."""
    answers(host)
    assert kept(host) == [], "control: something is kept already"
    sql(host, f"DROP SCHEMA IF EXISTS power CASCADE; {MUCH}")
    yield
    vm.start()
    logged_in_again(host)
    answers(host)
    host.run("practice restore --cancel")  # where a test has failed in the middle
    for name in kept(host):
        restored(host, f"--discard {name}")
    sql(host, "DROP SCHEMA power CASCADE")


@pytest.mark.usefixtures("much")
def test_a_backup_in_which_the_power_is_cut_is_none(host: Host, vm: Machine) -> None:
    """What was there is there, the next one is whole and restores, and then nothing of the half one is left."""
    before, there = labels(host), directories(host)
    host.check_output(f"touch /run/begun; systemctl set-property --runtime {FULL} {SLOWLY}; systemctl start --no-block {FULL}")
    assert eventually(host, COPIED, 300), "control: it does not begin"
    host.check_output(f"sync --file-system {CATALOGUE}")
    assert host.run(f"systemctl is-active {FULL}").stdout.strip() == "activating", "control: it does not run any more"
    cut(host, vm)
    assert labels(host) == before
    assert len(directories(host) - there) == 1, "control: there is no half one"
    host.check_output("practice backup --full")
    after = labels(host)
    assert after[:-1] == before and after[-1].endswith("F")
    assert directories(host) == set(after), "the half one is left"
    drill = host.run("practice drill")
    assert drill.rc == 0, f"it cannot be restored: {drill.stdout}"


@pytest.mark.usefixtures("much")
@pytest.mark.parametrize("way", ["--resume", "--cancel"])
def test_a_restore_in_which_the_power_is_cut_is_ended_or_taken_back(host: Host, vm: Machine, way: str) -> None:
    """After the boot the practice works as before, and is told; then it has what it had at that moment, or all goes on."""
    host.check_output("practice backup")
    moment = sql(host, "SELECT clock_timestamp()")
    sql(host, "INSERT INTO power.notes VALUES ('mistake')")
    run = f"systemd-run --quiet --collect --unit=power-restore --property={SLOWLY} /usr/local/bin/practice restore --yes"
    host.check_output(f"{run} --to {shlex.quote(moment)}")
    assert eventually(host, RESTORED, 300), "control: it does not begin"
    host.check_output(f"sync --file-system {GROWING}")
    assert host.run("systemctl is-active power-restore").stdout.strip() == "active", "control: it does not run any more"
    cut(host, vm)
    assert host.run(f"ls -A {GROWING} | grep -q .").rc == 0, "control: nothing was restored before the cut"
    assert unfinished(host)["step"] == "beside", "control: it was not in the middle"
    host.check_output("systemctl start practice-watch.service")
    assert "A restore was interrupted" in alarms(host)["restore"]["text"]
    assert sql(host, NOTES) == "before mistake"
    restored(host, way)
    assert sql(host, NOTES) == ("before" if way == "--resume" else "before mistake")
    assert unfinished(host) is None and len(kept(host)) == (1 if way == "--resume" else 0)
    assert host.check_output(f"ls {LIVE.parent}").split() == [LIVE.name, *kept(host)]
    host.check_output("systemctl start practice-watch.service")
    assert "restore" not in alarms(host), "the alarm stays although nothing is unfinished"
    archive_now(host)
    assert eventually(host, "practice backup --check", 300), "what is entered now is not backed up"
    drill = host.run("practice drill")
    assert drill.rc == 0, f"it cannot be restored: {drill.stdout}"


def cut(host: Host, vm: Machine) -> None:
    """The power is cut, and comes back; the database works again, and had to recover."""
    vm.power_cut()
    vm.start()
    logged_in_again(host)
    recovered(host)


def labels(host: Host) -> list[str]:
    """The backups that can be gone back to, oldest first."""
    return [backup["label"] for backup in backups(host)]


def directories(host: Host) -> set[str]:
    """What lies in the repository as a backup, whether it is one or not."""
    return set(host.check_output(f"cd {CATALOGUE} && ls -d [0-9]*").split())


def unfinished(host: Host) -> dict | None:
    """The restore that was begun and has not come to its end."""
    return json.loads(host.check_output("practice restore --json"))["unfinished"]
