"""A disk of the two is pulled out under load, and replaced; then the other one is gone at a boot. Nobody in the practice notices."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit import deployment
from kit.clinic import Clinic
from kit.connection import Connection
from kit.vm import Machine
from roles.storage import SCRIPTS
from tests.claims.test_backup import alarms, eventually
from tests.disks import blank_like, healthy, member, plug, plugged, pull, whole
from tests.helpers import logged_in_again, switched_off
from tests.stories.test_4_power import LOAD, PSQL, WRITERS, Writer, answers, prepare
from tests.stories.variants import SPARE

ALARM = "practice alarm list | grep -q '\"mirror\"'"
REPLACED = "tests.stories.variants.the_mirror_is_another_disk"


@pytest.fixture
def drawer(host: Host, vm: Machine, clinic: Clinic) -> Iterator[dict[str, str]]:
    """The server's two disks by serial number, as they can be plugged in; afterwards they are in it again, and no other."""
    assert clinic.storage.mirror is not None
    disks = {serial: plugged(serial) for serial in clinic.storage.disks}
    assert SPARE not in disks and not plugged(SPARE), "control: the spare one is not there yet"
    yield disks
    if plugged(SPARE):
        pull(vm, SPARE)
        vanished(host, SPARE)
    for serial, described in disks.items():
        if not plugged(serial):
            plug(vm, serial, described)
    vm.start()
    logged_in_again(host)
    deployment.run_role("vagrant", "storage")
    assert whole(host, 300), "the mirror is not what it was before this story"
    host.check_output(
        f"cd / && {PSQL} -d postgres -c 'DROP SCHEMA IF EXISTS power CASCADE' -c 'DROP DATABASE IF EXISTS power WITH (FORCE)'"
    )


def vanished(host: Host, serial: str) -> None:
    """The server has noticed that the disk is gone."""
    assert eventually(host, f"! lsblk -dnro SERIAL | grep -qx {serial}", 60), f"{serial} is still there"


def replaced() -> tuple[bool, str]:
    """Deploy a clinic file that names the spare disk: whether that went well, and what was said."""
    done = deployment.pyinfra("vagrant", REPLACED, "--yes", echo=False)
    return done.returncode == 0, done.stdout + done.stderr


def test_a_disk_is_replaced_under_load_and_another_is_missing_at_a_boot(
    host: Host, vm: Machine, connection: Connection, clinic: Clinic, drawer: dict[str, str]
) -> None:
    """Commits go on throughout; a disk that is not blank is not taken in; in the end all that was acknowledged is on the new disk alone."""
    first, second = clinic.storage.disks
    prepare(host)
    assert healthy(host), "control: both are well"
    third = host.run(f"{SCRIPTS}/mirror-volume {first} - scratch0 scratch0")
    assert third.rc == 1 and f"these are, and work: {first} {second}" in third.stderr, f"a third disk was not refused: {third}"
    host.check_output(LOAD)
    writers = [Writer(connection, 0, number) for number in range(WRITERS)]
    began = time.monotonic()
    pull(vm, second)
    vanished(host, second)
    assert eventually(host, ALARM), "no alarm although a disk was pulled out"
    print(f"\nthe alarm stood {time.monotonic() - began:.0f} s after the disk was pulled")
    assert f"{second} is missing" in alarms(host)["mirror"]["text"]
    goes_on(host, writers)

    plug(vm, SPARE, blank_like(vm, drawer[second], SPARE))
    assert eventually(host, f"lsblk -dnro SERIAL | grep -qx {SPARE}", 60), "control: the new disk is there"
    host.check_output(f"printf x | dd of={member(host, SPARE)} bs=1 seek=134217729 conv=notrunc,fsync status=none")
    well, said = replaced()
    assert not well and "byte 134217729 is not zero" in said, f"a disk that carries something was not refused: {said}"
    host.check_output(f"blkdiscard -zf {member(host, SPARE)}")
    began = time.monotonic()
    well, said = replaced()
    assert well, said
    assert whole(host, 600), "the new disk is not filled"
    print(f"taken in and filled {time.monotonic() - began:.0f} s after the deploy began, under load")
    assert eventually(host, f"! {ALARM}"), "the alarm stays although both are well"
    goes_on(host, writers)

    vm.power_cut()
    connection.logout()
    for writer in writers:
        writer.ended()
    pull(vm, first)
    vm.start()
    began = time.monotonic()
    logged_in_again(host)
    answers(host)
    print(f"the database answered {time.monotonic() - began:.0f} s after SSH did")
    there = host.check_output(f"cd / && {PSQL} -d postgres -c 'SELECT writer, number FROM power.acknowledged'").splitlines()
    acknowledged = {f"{number}|{row}" for number, writer in enumerate(writers) for row in writer.acknowledged}
    assert sorted(acknowledged - set(there)) == []
    assert eventually(host, ALARM), "no alarm although a disk is missing"
    assert f"{first} is missing" in alarms(host)["mirror"]["text"]

    # It turns up again, older than the other: it is filled, without a word in the clinic file.
    switched_off(host, vm)
    plug(vm, first, drawer[first])
    vm.start()
    logged_in_again(host)
    answers(host)
    well, said = replaced()
    assert well and whole(host, 300), f"the disk that was away is not taken in: {said}"


def goes_on(host: Host, writers: list[Writer]) -> None:
    """Commits are acknowledged now, to each of the writers, and pgbench has not ended."""
    before = [len(writer.acknowledged) for writer in writers]
    end = time.monotonic() + 60
    while (after := [len(writer.acknowledged) for writer in writers]) and any(a <= b for a, b in zip(after, before, strict=True)):
        assert time.monotonic() < end, f"no commit in a minute: {before}, {after}"
        time.sleep(0.5)
    assert host.run("systemctl is-active power-load").rc == 0, "control: pgbench does not run"
