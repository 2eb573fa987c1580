"""TPM gone or changed: the volume stays shut, the server says so, the recovery key opens it, and a deploy binds it to the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit import deployment
from kit.vm import Machine
from roles.storage import KEY
from tests.helpers import logged_in_again, power_cycled, switched_off

TOLD = "practice alarm list; cat /run/motd.d/* 2>/dev/null || true"
OPEN = "findmnt -no SOURCE /data; systemctl is-active practice-data.target; pgrep -xc postgres"


@pytest.fixture
def recovery_key(host: Host, vm: Machine) -> Iterator[str]:
    """The key as it stands in the recovery kit; afterwards the TPM is the server's own again, and the volume bound to it."""
    key = host.check_output(f"cat {KEY}")
    yield key
    if not (vm.state / "tpm-aside").exists():
        return
    switched_off(host, vm)
    vm.attach_tpm()
    switched_on(host, vm)
    host.run(f"printf %s '{key}' | practice unlock")
    deployment.run_role("vagrant", "storage")


def switched_on(host: Host, vm: Machine) -> None:
    """Started, and logged in anew."""
    vm.start()
    logged_in_again(host)


def test_another_tpm_opens_nothing_and_the_recovery_key_does(host: Host, vm: Machine, recovery_key: str) -> None:
    """As after a new mainboard, or for somebody who carried the disks away."""
    host.check_output("echo before >/srv/tpm-story; sync")
    told = host.check_output(f"systemctl start practice-watch; {TOLD}")
    switched_off(host, vm)
    vm.detach_tpm()
    switched_on(host, vm)

    # Shut, and up: we are logged in.
    assert host.run(OPEN).stdout.split() == ["inactive", "0"]
    assert host.run("ls /dev/mapper/data /srv/tpm-story").rc != 0
    assert host.run("timeout 300 systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"), "the boot never ends"
    # It says so, to whoever logs in and in the journal; and that journal is in memory.
    assert "LOCKED" in host.check_output("cat /run/motd.d/cabinet-locked")
    assert "practice unlock" in host.check_output("journalctl -b -p alert -t cabinet -o cat")
    assert host.run("ls -d /var/log/journal").rc != 0
    # What waits for the volume does not start, asked nicely or not.
    host.run("systemctl start postgresql@17-main")
    assert host.run(OPEN).stdout.split() == ["inactive", "0"]
    # That it tried is no reason to tell people that all is well.
    waiting = host.check_output("cat /run/cabinet/outbox/*.json")
    assert '"raised"' in waiting and '"over"' not in waiting, waiting
    # The way in from here.
    wrong = host.run(f"printf %s '{recovery_key[::-1]}' | practice unlock")
    assert (wrong.rc, host.run("test -b /dev/mapper/data").rc) == (1, 1), f"a wrong key opened it: {wrong}"
    typed = recovery_key.upper().replace("-", " ")
    right = host.run(f"printf %s '{typed}' | practice unlock")
    assert right.rc == 0, f"the recovery key did not open it: {right}"
    assert host.run(OPEN).stdout.split()[:2] == ["/dev/mapper/data", "active"]
    assert int(host.check_output("pgrep -xc postgres")) > 1
    assert host.check_output("cat /srv/tpm-story") == "before"
    assert host.check_output(TOLD) == told, "an alarm stands, or the banner speaks of one, although the volume is open"
    assert recovery_key[:17] not in host.check_output(
        "journalctl -b --no-pager | grep -F 'COMMAND=' || true; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    )

    # A deploy binds it to the TPM that is there now: the next boot needs nobody.
    deployment.run_role("vagrant", "storage")
    power_cycled(host, vm)
    assert host.run(OPEN).stdout.split()[:2] == ["/dev/mapper/data", "active"]
