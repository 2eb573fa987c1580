"""A practice gives up its VPN: with the section in its file the tunnel goes, all that belonged to it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from testinfra.host import Host

from kit import deployment, paths
from kit.clinic import Clinic
from kit.connection import Connection
from kit.neighbour import SERVER, Outside
from roles.vpn import AT_BOOT, DEVICES, KEY, PROGRAM, PUBLIC_KEY, SERVICE
from tests.claims.test_vpn import device, peer_of

LEFT = (
    f"ls {KEY} {PUBLIC_KEY} {DEVICES} {PROGRAM} {SERVICE} {AT_BOOT} /sys/class/net/vpn 2>/dev/null; "
    "wg show interfaces; nft list ruleset | grep -e 51820 -e '\"vpn\"'; ip route show table all dev vpn 2>/dev/null; true"
)


def deployed(*how: str) -> str:
    """What pyinfra says of a whole deploy; it must succeed."""
    done = deployment.pyinfra("vagrant", "deploy.py", *how, echo=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_without_its_section_nothing_of_the_vpn_is_left(
    host: Host, connection: Connection, clinic: Clinic, outside: Outside, tmp_path: Path
) -> None:
    """A device is cut off while it is connected, and the technician comes in as before; then the VPN is there again, with another key."""
    assert len(host.check_output(LEFT).splitlines()) > 6, "control: what is looked for is there"
    key = host.check_output("cat %s", PUBLIC_KEY)
    without = tmp_path / "vagrant.yaml"
    told = yaml.safe_load((paths.ROOT / "clinics/vagrant.yaml").read_text())
    without.write_text(yaml.safe_dump({section: what for section, what in told.items() if section != "vpn"}))
    other_file = ("--data", f"clinic_file={without}")
    try:
        with device(host, clinic, outside, peer_of(clinic, "amina")) as phone:
            assert phone.shook_hands(wait=20) and phone.reaches(SERVER, 443, wait=10), "control: amina's phone gets in"
            deployed("--yes", *other_file)
            assert not phone.reaches(SERVER, 443, wait=3), "the phone still gets in"
        assert host.check_output(LEFT) == ""
        assert connection.entry_refused() is None, "the technician does not come in any more"
        assert host.check_output("systemctl is-system-running") == "running", host.run("systemctl --failed").stdout
        planned = json.loads(deployed("--dry", "--json", *other_file))["plan"]
        assert [step["name"] for step in planned if step["hosts_with_change"]] == []
    finally:
        deployed("--yes")
    assert deployment.planned_changes("vagrant") == []
    assert host.check_output("cat %s", PUBLIC_KEY) != key
    with device(host, clinic, outside, peer_of(clinic, "amina")) as phone:
        assert phone.shook_hands(wait=20) and phone.reaches(SERVER, 443, wait=10), "amina's phone does not get in again"
