"""Rebooted: everything is back by itself. `./cabinet test` runs this before the claims, which then hold of a server that nobody touched."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from kit import deployment
from kit.vm import Machine
from tests.helpers import one_processor, power_cycled


def test_nothing_is_left_of_what_was_tried() -> None:
    """What the claims have broken, aged, unplugged and renewed is again as described: another deploy finds nothing to do."""
    assert deployment.planned_changes("vagrant") == []


def test_everything_is_back_by_itself(host: Host, vm: Machine, pytestconfig: pytest.Config) -> None:
    """Nobody types anything: the boot comes to its end, nothing has failed, and the plan is empty."""
    before = host.check_output("cat /proc/sys/kernel/random/boot_id")
    power_cycled(host, vm)
    assert host.check_output("cat /proc/sys/kernel/random/boot_id") != before, "control: it never went down"
    assert host.run("timeout 300 systemctl is-system-running --wait").stdout.strip() == "running", host.run("systemctl --failed").stdout
    if pytestconfig.getoption("--share"):
        one_processor(host)
    assert deployment.planned_changes("vagrant") == []
