"""Locked out and back: whatever shuts the door, it is open again as it was, in the time set, and the run says so and fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from testinfra.host import Host

from kit import deployment, paths
from kit.connection import Connection
from kit.deadman import KEPT, SECONDS
from kit.vm import Machine
from tests.helpers import logged_in_again

# What decides who gets in: files, and the rules that the kernel follows, table by table: their order says which was loaded last.
DOOR = (
    "find /etc/ssh /etc/pam.d /etc/sudoers /etc/default/ssh /etc/cabinet/nftables /etc/systemd/system -type f -exec sha256sum {} + | sort;"
    " nft list tables | sort; for table in cabinet cabinet_base; do nft -st list table inet $table; done"
)
# Each mistake, and what the run says of the one that nobody could come in by.
MISTAKES = {
    "ssh_is_on_another_port": "timed out",
    "management_is_elsewhere": "timed out",
    "nobody_is_in_the_group": "Permission denied",
    "pam_denies": "Permission denied",
    "key_of_a_stranger": "Permission denied",
}


def role(mistake: str) -> str:
    """What pyinfra is told to do."""
    return f"tests.stories.variants.{mistake}"


@pytest.mark.usefixtures("vm")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_that_shuts_the_door_is_put_back(host: Host, connection: Connection, mistake: str) -> None:
    """By the very run that made it, which still has its connection; then somebody comes in as before."""
    before = host.check_output(DOOR)
    began = time.monotonic()
    done = deployment.pyinfra("vagrant", role(mistake), "--yes", echo=False)
    took = time.monotonic() - began
    said = done.stdout + done.stderr
    assert done.returncode != 0, f"the run ends as if all were well: {said[-2000:]}"
    assert "the server puts it back by itself at" in said, f"it does not say what it waits for: {said[-2000:]}"
    assert MISTAKES[mistake] in said and "it was put back" in said, f"it does not say what happened: {said[-2000:]}"
    assert took < SECONDS, "control: the server itself may have put it back"
    assert comes_in(connection), "nobody comes in any more"
    assert host.check_output(DOOR) == before
    assert host.run(f"test -e {KEPT}/*/").rc != 0, "the switch is still armed"


def test_a_connection_that_drops_disarms_nothing(host: Host, vm: Machine, connection: Connection) -> None:
    """Deploy and connection die while the door is shut: the server opens it by itself."""
    before = host.check_output(DOOR)
    with shut(vm) as since:
        connection.logout()
        assert not vm.greets(), "control: the door was not shut"
        while not vm.greets():
            assert time.monotonic() < since + SECONDS + 60, "the door stays shut"
            time.sleep(1)
    print(f"\nopen again after {time.monotonic() - since:.0f} s")
    logged_in_again(host)
    assert host.check_output(DOOR) == before


def test_a_power_cut_before_anybody_came_in_puts_it_back(host: Host, vm: Machine, connection: Connection) -> None:
    """The next boot has the files of before."""
    before = host.check_output(DOOR)
    with shut(vm):
        vm.power_cut()
        connection.logout()
    vm.start()
    deadline = time.monotonic() + 300
    while not comes_in(connection):  # the first boot puts it back, the second is planned with it
        assert time.monotonic() < deadline, "nobody comes in any more"
        time.sleep(2)
    logged_in_again(host)
    assert host.check_output(DOOR) == before
    assert host.check_output("journalctl -b -1 --no-pager -g 'nobody came in anew' | tail -1") != ""


@contextmanager
def shut(vm: Machine) -> Iterator[float]:
    """A deploy has shut the door and nobody has confirmed it; since when. The deploy is ended by us, afterwards at the latest."""
    argv = [str(deployment.PYINFRA), *deployment.inventory("vagrant"), role("ssh_is_on_another_port"), "--yes"]
    with subprocess.Popen(argv, cwd=paths.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while vm.greets():
            assert run.poll() is None, "control: the deploy ended, and the door was never shut"
            time.sleep(0.2)
        run.kill()
        yield time.monotonic()


def comes_in(connection: Connection) -> bool:
    """Whether the technician gets in anew, with both factors; asked again while earlier refusals still count against us."""
    deadline = time.monotonic() + 120
    while (refused := connection.entry_refused()) is not None:
        if time.monotonic() > deadline:
            print(f"\nrefused: {refused}")
            return False
        time.sleep(5)
    return True
