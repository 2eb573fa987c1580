"""Rebooted: everything is back by itself. `./cabinet test` runs this before the claims, which then hold of a server that nobody touched."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from kit import deployment
from kit.vm import Machine
from tests.helpers import one_processor, power_cycled

# What the timers of the night start. None of these may lean on something that another one makes in /run.
NIGHT = {
    "practice-backup-full": "practice-backup@full",
    "practice-backup-diff": "practice-backup@diff",
    "practice-verify": "practice-verify",
    "practice-drill": "practice-drill",
}


def test_nothing_is_left_of_what_was_tried() -> None:
    """What the claims have broken, aged, unplugged and renewed is again as described: another deploy finds nothing to do."""
    assert deployment.planned_changes("vagrant") == []


def test_everything_is_back_by_itself(host: Host, vm: Machine, pytestconfig: pytest.Config) -> None:
    """Nobody types anything: the boot comes to its end, with all that was slept through; nothing has failed, and the plan is empty."""
    host.check_output("cd /var/lib/systemd/timers && touch -d '60 days ago' " + " ".join(f"stamp-{timer}.timer" for timer in NIGHT))
    before = host.check_output("cat /proc/sys/kernel/random/boot_id")
    power_cycled(host, vm)
    assert host.check_output("cat /proc/sys/kernel/random/boot_id") != before, "control: it never went down"
    assert host.run("timeout 300 systemctl is-system-running --wait").stdout.strip() == "running", host.run("systemctl --failed").stdout
    shown = "systemctl show -p Result,ExecMainExitTimestampMonotonic"
    ended = {unit: host.check_output(f"{shown} {unit}.service").splitlines() for unit in NIGHT.values()}
    missed = [unit for unit, said in ended.items() if "Result=success" not in said or "ExecMainExitTimestampMonotonic=0" in said]
    assert missed == [], f"what was slept through is not made up for: {ended}"
    if pytestconfig.getoption("--share"):
        one_processor(host)
    assert deployment.planned_changes("vagrant") == []
