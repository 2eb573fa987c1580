"""Somebody has seen the page: the volume gets a new key, the old page opens it until the new one is confirmed, and the TPM as before."""

from __future__ import annotations

from testinfra.host import Host

from kit import deployment
from kit.vm import Machine
from roles.storage import KEY
from tests.claims.test_recovery import OPENS, READ, TYPED
from tests.helpers import power_cycled

OLD = "/root/old-page"  # on the volume, which a power cut leaves as it was
OPENED = "findmnt -no SOURCE /data; systemctl is-active practice-data.target"
SLOTS = "systemd-cryptenroll $(cryptsetup status data | awk '$1 == \"device:\" { print $2 }') | awk 'NR > 1 { print $2 }' | sort"


def test_new_keys_take_the_place_of_those_on_a_page_that_was_seen(host: Host, vm: Machine) -> None:
    """Controls: the old page opened everything before, and the new one is another."""
    host.check_output(f"umask 077; practice recovery-kit --text >{OLD} && practice recovery-kit --confirm <{OLD}; cp {KEY} {OLD}.A")
    try:
        host.check_output(TYPED)
        assert host.run(OPENS["A"]).rc == 0, "control: the page opens the volume"
        slots = host.check_output(SLOTS)
        assert slots.split() == ["recovery", "tpm2"]
        said = host.run("practice recovery-kit --anew")
        assert said.rc == 0 and "New: A" in said.stdout, said
        assert host.run(f"cmp -s {KEY} {OLD}.A").rc == 1, "control: the key is the old one"
        assert host.run(f"practice recovery-kit --confirm <{OLD}").rc == 1, "the old page is still believed"
        assert deployment.planned_changes("vagrant") == [], "a deploy would take out a key"
        assert host.run(OPENS["A"]).rc == 0, "nobody holds the new page, and the old one does not open the volume any more"
        host.check_output("practice recovery-kit --text | practice recovery-kit --confirm")
        assert host.run(OPENS["A"]).rc == 2, "the key on the old page opens the volume"
        host.check_output(TYPED)
        assert host.run(OPENS["A"]).rc == 0, "the key on the new page does not open the volume"
        assert host.check_output(SLOTS) == slots
        assert deployment.planned_changes("vagrant") == []
        power_cycled(host, vm)
        assert host.check_output(OPENED).split() == ["/dev/mapper/data", "active"], "the TPM does not open the volume any more"
    finally:
        host.run(f"rm -rf {OLD} {OLD}.A {READ}")
