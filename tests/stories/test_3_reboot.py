"""Rebooted: everything is back by itself, and every claim still holds."""

from __future__ import annotations

import subprocess
import sys

from testinfra.host import Host

from kit import paths
from kit.vm import Machine
from tests.helpers import power_cycled


def test_every_claim_holds_after_a_reboot(host: Host, vm: Machine) -> None:
    """Nobody types anything: the volume opens, the services are there, the plan is empty, and all claims are proved again."""
    before = host.check_output("cat /proc/sys/kernel/random/boot_id")
    power_cycled(host, vm)
    assert host.check_output("cat /proc/sys/kernel/random/boot_id") != before, "control: it never went down"
    assert host.check_output("systemctl --failed --plain --no-legend") == ""
    proof = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/claims", "-q", "--no-header"], cwd=paths.ROOT, capture_output=True, text=True, check=False
    )
    assert proof.returncode == 0, proof.stdout[-6000:]
