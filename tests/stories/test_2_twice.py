"""Deployed twice: the second plan is empty, and a second run changes nothing on the server."""

from __future__ import annotations

import re

from testinfra.host import Host

from kit import deployment
from kit.paths import LONGEST_STATE, state_dir

# Everything of ours, and when each unit of ours was last started: what a run that changes nothing must leave alone.
STATE = """
find /etc /usr/local /var/lib/cabinet /data -xdev -type f -newermt '2000-01-01' \
    -not -path '/data/var/log/*' -not -path '/data/var/lib/postgresql/*' -not -path '/data/var/lib/nginx/*' \
    -not -path '/data/var/tmp/*' -not -path '/data/var/spool/*' -not -path '/etc/cabinet/totp/*' \
    -not -path '*/var/lib/cabinet/outbox/*' -not -path '*/var/lib/cabinet/offsite/*' -printf '%p %C@\\n' | sort
for unit in ssh nginx postgresql@17-main squid systemd-resolved systemd-networkd cabinet-firewall cabinet-vpn; do
    echo "$unit $(systemctl show -P ActiveEnterTimestamp $unit)"
done
nft -st list ruleset | sha256sum
"""


def test_a_second_deploy_changes_nothing(host: Host) -> None:
    """Neither a file's change time, nor a unit's start, nor the ruleset; nor has anything failed. Control: the first look sees much."""
    assert host.check_output("systemctl --failed --plain --no-legend") == "", "the first deploy has left this"
    assert deployment.planned_changes("vagrant") == []
    before = host.check_output(STATE).splitlines()
    assert any(line.startswith("/etc/ssh/") for line in before), "control: the look at the server saw nothing"
    done = deployment.pyinfra("vagrant", "deploy.py", "--yes", echo=False)
    assert done.returncode == 0, done.stderr[-3000:]
    after = host.check_output(STATE).splitlines()
    assert sorted(set(before) ^ set(after)) == []


def test_libvirt_keeps_within_the_path_of_a_socket() -> None:
    """Below the longest state directory that is allowed, no socket's path gets longer than 107 bytes (unix(7), its end counted).

    libvirt numbers the machines that it starts; nobody starts a thousand.
    """
    paths = [re.sub(r"/domain-\d+-", "/domain-999-", str(path)) for path in state_dir().rglob("*") if path.is_socket()]
    assert any("/domain-999-" in path for path in paths), "control: libvirt's own was not seen"
    assert max(len(path) for path in paths) - len(str(state_dir())) <= 107 - LONGEST_STATE
