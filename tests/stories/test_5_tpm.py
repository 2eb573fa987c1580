"""TPM gone or changed: the volume stays shut, the server says so, the recovery key opens it, and a deploy binds it to the new one.

What was due meanwhile is made up for after the unlock, and what was entered last before the shutdown is on the backup disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit import deployment
from kit.vm import Machine
from roles.backup import REPOSITORY, STANZA
from roles.database import PSQL
from roles.storage import KEY
from tests.helpers import logged_in_again, power_cycled, switched_off
from tests.stories.test_3_reboot import NIGHT

TOLD = "practice alarm list; cat /run/motd.d/* 2>/dev/null || true"
# What is entered next stands in a segment of its own: it is handed over in a minute, or when the database ends.
ENTERED = (
    f"{PSQL} -d postgres -c 'SELECT pg_switch_wal()' -c \"SELECT pg_logical_emit_message(true, 'story', 'entered')\" "
    "-c 'SELECT pg_walfile_name(pg_current_wal_lsn())' | tail -1"
)
STAMPS = " ".join(f"/var/lib/systemd/timers/stamp-{timer}.timer" for timer in NIGHT)
ENDED = f"systemctl show -p Id,Result,ActiveState,ExecMainExitTimestampMonotonic {' '.join(NIGHT.values())}"
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
    told = host.check_output(f"systemctl restart practice-watch; {TOLD}")
    host.check_output(f"touch -d '60 days ago' {STAMPS}")
    segment = host.check_output(ENTERED)
    archived = f"ls {REPOSITORY}/archive/{STANZA}/*/*/{segment}-*"
    assert host.run(archived).rc != 0, "control: it is on the backup disk before the shutdown"
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
    # What was entered last is on the backup disk, although the database cannot have handed it over since.
    assert host.run(f"mountpoint -q /backup && {archived}").rc == 0, f"{segment} was not handed over at the shutdown"
    # One alarm, and no unit that is said to have failed because it waits; what is due has not been tried in vain.
    raised = {key for key, alarm in json.loads(host.check_output("practice alarm list")).items() if alarm["by"] == "hand"}
    assert raised == {"volume-locked"}
    assert host.check_output(f"find {STAMPS} -mtime -59") == "", "a timer has counted a run that was none"
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

    # What was due meanwhile is made up for, and nothing of it has failed.
    goes_on = f"{ENDED} | grep -qx -e ExecMainExitTimestampMonotonic=0 -e ActiveState=activating"
    host.run(f"for i in $(seq 150); do {goes_on} || break; sleep 2; done")
    ended = [unit.splitlines() for unit in host.check_output(ENDED).split("\n\n")]
    assert len(ended) == len(NIGHT), ended
    missed = [unit for unit in ended if "Result=success" not in unit or "ExecMainExitTimestampMonotonic=0" in unit]
    assert missed == [], f"what was due is not made up for: {missed}"
    assert host.check_output(f"systemctl restart practice-watch; {TOLD}") == told, "what was made up for has left an alarm"

    # A deploy binds it to the TPM that is there now: the next boot needs nobody.
    deployment.run_role("vagrant", "storage")
    power_cycled(host, vm)
    assert host.run(OPEN).stdout.split()[:2] == ["/dev/mapper/data", "active"]
