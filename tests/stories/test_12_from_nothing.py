"""The server is gone, with its disks, while people write; a copy and the kit make it again. What is missing is counted.

Or with all but the backup disk: then that and a copy make it again.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from testinfra.host import Host

from kit import deployment, paths
from kit.cli import raise_vm
from kit.clinic import Clinic
from kit.connection import Connection
from kit.host import capture
from kit.neighbour import ADDRESS, Neighbour
from kit.vm import Machine
from roles.backup import ARCHIVE_TIMEOUT
from roles.database import POSTGRES, PSQL
from tests.claims.test_backup import archive_now
from tests.claims.test_media import Stick
from tests.disks import plugged
from tests.restserver import in_the_network

# psql says the number only once COMMIT was acknowledged; `at` is the server's clock, as all other times here.
WRITER = (
    "cd / && seq 1 1000000 | sed \"s/.*/INSERT INTO gone.acknowledged VALUES (&, clock_timestamp()) RETURNING number || ' ' "
    '|| extract(epoch FROM at);/" '
    f"| {POSTGRES} stdbuf -oL /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1 -d postgres"
)
PGBENCH = "/usr/lib/postgresql/17/bin/pgbench"
# As many transactions as a busy practice has in the worst of its minutes; as many as possible would be a test of the emulator.
LOAD = f"systemd-run --quiet --collect --unit=gone-load --uid=postgres {PGBENCH} --no-vacuum --client=2 --rate=20 --time=3600 gone"
SEND = "systemctl start practice-offsite@send.service && ! grep '\"send\":' /var/lib/cabinet/offsite/state.json"
# What archiving a segment takes on a slow machine.
TRANSFER = 15
# How often it is sent (roles/offsite.py).
INTERVAL = 15 * 60
LETTER = "/srv/gone.txt"
# Where what is timed begins.
FROM = "from a machine with its packages"
# Whatever other stories have left in the archive has room on it, too.
MEDIUM_MB = 640


@dataclass(frozen=True)
class Life:
    """What the practice leaves behind: its kit, when each commit was acknowledged, when the last run that sends began, how long it took."""

    kit: str
    acknowledged: dict[int, float]
    sent: float
    run: float


def test_a_new_server_comes_back_from_the_copy_outside(
    host: Host, vm: Machine, connection: Connection, clinic: Clinic, inside: Neighbour, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Commits go on while it is sent twice, and after; then nothing is left of the machine. None older than the last send, less
    archive_timeout, is missing; control: what was written after it is missing."""
    assert clinic.offsite is not None
    login = clinic.offsite.password_file.read_text().strip()
    where = (ADDRESS, clinic.offsite.port, clinic.offsite.account, login)
    with in_the_network(inside, tmp_path, *where):
        life = lived(host, connection, tmp_path / "acknowledged")
    seeds = people(connection)
    lost(host, vm, connection, raised_anew=pytestconfig.getoption("--long"))
    with in_the_network(Neighbour(), tmp_path, *where):
        took = restored("offsite", life.kit)
        assert people(connection) == seeds, "people's phones say other codes"
        host.backend.reconnect()
        late = told(life, rows(host))
        print(f"RPO at worst, lost just before the next run ends: {ARCHIVE_TIMEOUT + INTERVAL + life.run:.0f} s. RTO: {took:.0f} s {FROM}")
        assert late, "control: nothing was written after it was sent"
        assert {number: at for number, at in late.items() if at < life.sent - ARCHIVE_TIMEOUT - TRANSFER} == {}
        assert host.check_output(f"cat {LETTER}") == "a document"
        host.check_output(SEND)
        one_document_comes_back(host, "outside")
    tidied(host)


def test_where_the_backup_disk_survives_a_minute_is_missing(
    host: Host, vm: Machine, connection: Connection, clinic: Clinic, inside: Neighbour, tmp_path: Path
) -> None:
    """No commit is missing that was older than archive_timeout and a transfer, though some of those were never sent; control: what was
    written in the end is missing."""
    assert clinic.offsite is not None
    login = clinic.offsite.password_file.read_text().strip()
    where = (ADDRESS, clinic.offsite.port, clinic.offsite.account, login)
    with in_the_network(inside, tmp_path, *where):
        life = lived(host, connection, tmp_path / "acknowledged", unsent=2 * ARCHIVE_TIMEOUT)
    end = lost(host, vm, connection, survivor=clinic.backup.disk)
    safe = end - ARCHIVE_TIMEOUT - TRANSFER
    assert max(life.acknowledged.values()) > safe > life.sent + life.run, "control: nothing tells the backup disk from the copy outside"
    with in_the_network(Neighbour(), tmp_path, *where):
        took = restored("offsite", life.kit, "--backup-disk")
        host.backend.reconnect()
        late = told(life, rows(host))
        print(f"RPO: {end - min(late.values()):.0f} s. RTO with the backup disk: {took:.0f} s {FROM}")
        assert late, "control: nothing was written after it was archived"
        assert {number: at for number, at in late.items() if at < safe} == {}
        assert host.check_output(f"cat {LETTER}") == "a document"
        archive_now(host)
        host.check_output(f"practice backup --check && {SEND}")
    tidied(host)


def test_a_new_server_comes_back_from_a_medium(
    host: Host, vm: Machine, connection: Connection, clinic: Clinic, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Nobody answers outside. What was entered before the medium was written is there, what came after it is missing; and the server
    knows the medium, and writes it, when it is plugged in again."""
    assert clinic.media is not None
    began(host)
    host.check_output(LOAD)
    entered(host, 1)
    stick, image = Stick(host), tmp_path / "medium"
    stick.make(MEDIUM_MB)
    try:
        stick.plug()
        host.check_output(f"practice media enrol {clinic.media.days[0]} /dev/{stick.name}")
        stick.looked_at()
        assert len(stick.noted()["copies"]) == 1, f"control: it was not written: {stick.noted()}"
        one_document_comes_back(host, "medium")
        entered(host, 2)
        kit, seeds = host.check_output("practice recovery-kit --text"), people(connection)
        carried(connection, f"dd if=/dev/{stick.name}", image)
        lost(host, vm, connection, raised_anew=pytestconfig.getoption("--long"))
        host.backend.reconnect()
        stick.make(MEDIUM_MB)
        stick.plug()
        carried(connection, f"dd of=/dev/{stick.name} conv=fsync", image, back=True)
        stick.pull()
        stick.plug()
        took = restored("media", kit)
        assert people(connection) == seeds, "people's phones say other codes"
        host.backend.reconnect()
        print(f"\nRTO from a medium: {took:.0f} s {FROM}")
        assert rows(host) == {1}, "not as the medium was written"
        assert host.check_output(f"cat {LETTER}") == "a document"
        before = stick.noted()["copies"]  # what lies on a medium was noted before that copy itself was
        stick.pull()
        stick.plug()
        stick.looked_at()
        assert len(stick.noted()["copies"]) == len(before) + 1, f"the new server does not write the medium: {stick.noted()}"
    finally:
        host.backend.reconnect()
        stick.forget()
    tidied(host)


# ---- the practice, as it was ----------------------------------------------------------------------------------------


def began(host: Host) -> None:
    """A document, a table of what is entered, and one for the load. An earlier run that was cut off may have left its load."""
    host.check_output(
        f"systemctl stop gone-load; echo -n 'a document' >{LETTER}; {PSQL} -d postgres -c 'DROP SCHEMA IF EXISTS gone CASCADE' "
        "-c 'DROP DATABASE IF EXISTS gone WITH (FORCE)' -c 'CREATE SCHEMA gone' -c 'CREATE DATABASE gone' "
        "-c 'CREATE TABLE gone.acknowledged (number int PRIMARY KEY, at timestamptz)'"
    )
    host.check_output(f"cd / && {POSTGRES} {PGBENCH} --initialize --quiet --scale=2 gone 2>&1")


def lived(host: Host, connection: Connection, heard: Path, unsent: float = ARCHIVE_TIMEOUT / 2) -> Life:
    """The practice works and sends; what is entered in the last `unsent` seconds comes too late for that."""
    began(host)
    # What was sent to another vault, by another test, is not in this one. And the timer is put off: were its run going on, a start of
    # the same service would wait for the end of that one, which began earlier than we say.
    host.check_output("systemctl stop practice-offsite-send.timer 'practice-offsite@*'")
    host.check_output("rm -rf /var/lib/cabinet/offsite/state.json /var/lib/cabinet/offsite/cache")
    try:
        kit = host.check_output("practice recovery-kit --text")
        with writing(connection, heard):
            host.check_output(LOAD)
            host.check_output(SEND)
            time.sleep(ARCHIVE_TIMEOUT + TRANSFER)
            sent = float(host.check_output("date +%s.%N"))
            host.check_output(SEND)
            run = float(host.check_output("date +%s.%N")) - sent
            time.sleep(unsent)
    finally:
        host.run("systemctl start --no-block practice-offsite-send.timer")
    lines = [line.split() for line in heard.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert lines, f"control: nothing was acknowledged: {heard.with_suffix('.errors').read_text()}"
    return Life(kit, {int(number): float(at) for number, at in lines}, sent, run)


@contextlib.contextmanager
def writing(connection: Connection, heard: Path) -> Iterator[None]:
    """Somebody enters one row after the other; `heard` holds what was acknowledged."""
    words = connection.master.riding("-T", connection.name, f"exec sudo -n sh -c {shlex.quote(WRITER)}")
    with (
        heard.open("w") as file,
        heard.with_suffix(".errors").open("w") as errors,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=errors) as writer,
    ):
        try:
            yield
        finally:
            writer.kill()


def entered(host: Host, number: int) -> None:
    """One row, and it is on the backup disk."""
    host.check_output(f"{PSQL} -d postgres -c 'INSERT INTO gone.acknowledged VALUES ({number}, now())'")
    archive_now(host)


def carried(connection: Connection, command: str, image: Path, back: bool = False) -> None:
    """What lies on a medium leaves the machine, in a person's pocket; or comes to another one. scsi_debug's disks end with the kernel."""
    words = connection.master.riding("-T", connection.name, f"exec sudo -n {command} bs=1M status=none")
    with image.open("rb" if back else "wb") as file:
        given = {"stdin": file} if back else {"stdin": subprocess.DEVNULL, "stdout": file}
        subprocess.run(words, check=True, **given)


# ---- the end of it, and what is there afterwards --------------------------------------------------------------------


def lost(host: Host, vm: Machine, connection: Connection, raised_anew: bool = False, survivor: str = "") -> float:
    """Nothing is left of the machine: power, disks, TPM and memory; or of its disks the one with this serial number alone. Another one
    takes its place. Control: people work up to then; when that was, by the server's clock."""
    assert host.run("systemctl is-active gone-load").stdout.strip() == "active", "control: pgbench does not run"
    end = float(host.check_output("date +%s.%N"))
    vm.power_cut()
    aside = carried_over(vm, survivor, f"{vm.state}/disks/story-survivor.qcow2") if survivor else ""
    if raised_anew:
        connection.logout()
        vm.destroy()
        raise_vm()
    # As blank as a new one, some minutes sooner: Debian, and the packages of the roles.
    deployment.back_to("packages", connection)
    if survivor:
        vm.halt()
        carried_over(vm, survivor, aside, back=True)
        vm.start()
    return end


def carried_over(vm: Machine, serial: str, aside: str, back: bool = False) -> str:
    """What lies on a disk of the VM, which is off, goes to a file, and from there `back` into it: the same disk in a new machine."""
    (source,) = ET.fromstring(plugged(serial)).iter("source")
    pair = [aside, source.attrib["file"]] if back else [source.attrib["file"], aside]
    # Into one that is there: the snapshots that its file holds stay.
    capture(["qemu-img", "convert", *(["-n"] if back else []), "-O", "qcow2", *pair], runner=True, show=False)
    return aside


def restored(source: str, kit: str, *which: str) -> float:
    """The technician's one command; how many seconds it took."""
    began_at = time.monotonic()
    argv = [sys.executable, "-m", "kit.cli", "restore", "vagrant", "--from", source, *which, "--yes"]
    done = subprocess.run(argv, cwd=paths.ROOT, input=kit, text=True, check=False)
    assert done.returncode == 0, f"./cabinet restore vagrant --from {source} ended with {done.returncode}"
    return time.monotonic() - began_at


def rows(host: Host) -> set[int]:
    """What is there of what was entered."""
    return set(map(int, host.check_output(f"{PSQL} -d postgres -c 'SELECT number FROM gone.acknowledged'").split()))


def told(life: Life, there: set[int]) -> dict[int, float]:
    """What was acknowledged and is missing; and what that means, in print."""
    missing = {number: at for number, at in life.acknowledged.items() if number not in there}
    newest, end = max(life.acknowledged[number] for number in there & set(life.acknowledged)), max(life.acknowledged.values())
    print(
        f"\n{len(life.acknowledged)} commits acknowledged, {len(missing)} missing. The newest that is there is {end - newest:.0f} s "
        f"older than the end; the last run that sent anything began {end - life.sent:.0f} s before that, and took {life.run:.0f} s."
    )
    return missing


def one_document_comes_back(host: Host, source: str) -> None:
    """What was spoilt lies beside as it was, out of this copy; nothing else is touched."""
    host.check_output(f"echo -n spoilt >{LETTER}")
    oldest = json.loads(host.check_output(f"practice restore --document {LETTER} --list --json"))["versions"][-1]
    assert oldest["bytes"] == len("a document") and source in oldest["where"], oldest
    host.check_output(f"practice restore --document {LETTER} --snapshot {oldest['id']}")
    assert host.check_output(f"cat /srv/gone.from-*.txt {LETTER}; rm /srv/gone.from-*.txt") == "a documentspoilt"
    host.check_output(f"echo -n 'a document' >{LETTER}; ! ls -d /data/document")


def tidied(host: Host) -> None:
    """Nothing of it is left on the server that goes on."""
    host.check_output(f"rm {LETTER}; {PSQL} -d postgres -c 'DROP SCHEMA gone CASCADE' -c 'DROP DATABASE IF EXISTS gone'")


def people(connection: Connection) -> dict[str, str]:
    """The second factors of the VM's people, as the server has them."""
    names = [person.name for person in connection.site.people if person.login]
    return {name: (connection.file(f"/etc/cabinet/totp/{name}") or b"").decode().splitlines()[0] for name in names}
