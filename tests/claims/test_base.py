"""base: what runs is what was deployed, and nothing that nobody asked for listens or is setuid."""

from __future__ import annotations

from testinfra.host import Host

from kit.clinic import Clinic
from kit.revision import revision

# Every setuid or setgid file of the packages we install, with the reason it may stay; roles/base.py holds the same list.
from roles.base import SETUID
from tests.claim import claim


def revision_forged(host: Host) -> None:
    host.check_output("echo 000000000000 > /etc/cabinet/revision")


def stamp_undone(host: Host) -> None:
    """The stamp is written by the last role of a whole deploy, not by base alone."""
    host.check_output(f"echo {revision()} > /etc/cabinet/revision")


@claim("SYS-01", broken_by=revision_forged, symptom="undeployed changes", undo=stamp_undone)
def test_what_is_deployed_is_what_is_checked_out(host: Host) -> None:
    """The server carries the stamp of the revision that is checked out here."""
    deployed = host.check_output("cat /etc/cabinet/revision")
    assert deployed == revision(), f"the server carries {deployed}, checked out is {revision()}: you have undeployed changes"


def shell_made_setuid(host: Host) -> None:
    host.check_output("chmod u+s /usr/bin/find")


@claim("SYS-02", broken_by=shell_made_setuid, symptom="/usr/bin/find")
def test_exactly_these_files_are_setuid(host: Host) -> None:
    """No file gives its caller somebody else's rights, except those that must."""
    found = host.check_output("find / -xdev -type f -perm /6000 -print | sort").split()
    assert "/usr/bin/sudo" in found, "control: not even sudo was found"
    assert sorted(set(found) - set(SETUID)) == []


def stranger_listens(host: Host) -> None:
    host.check_output("systemd-run --quiet --unit=stranger python3 -m http.server 4711")
    host.check_output("for i in 1 2 3 4 5 6 7 8 9; do ss -ltnH 'sport = 4711' | grep -q . && exit; sleep 1; done; exit 1")


def stranger_ended(host: Host) -> None:
    host.check_output("systemctl stop stranger")


# A resolver's client keeps one UDP socket per address family, at a port that the kernel picked (ip_local_port_range).
EPHEMERAL = range(32768, 61000)
LISTENING = {
    ("tcp", "22", "sshd"),
    ("tcp", "80", "nginx"),
    ("tcp", "443", "nginx"),
    ("tcp", "3128", "squid"),
    ("tcp", "5432", "postgres"),
    ("tcp", "53", "systemd-resolve"),
    ("udp", "53", "systemd-resolve"),
    ("udp", "68", "systemd-network"),
    ("udp", "ephemeral", "squid"),
}


def socket_of(line: str) -> tuple[str, str, str]:
    """Protocol, port and process of one line of `ss -H -ltunp`; what belongs to no process is the kernel's own."""
    protocol, port, process = line.split(maxsplit=1)[0], line.split(maxsplit=5)[4].rpartition(":")[2], [*line.split('"', 2), "kernel"][1]
    return protocol, "ephemeral" if protocol == "udp" and process != "kernel" and int(port) in EPHEMERAL else port, process


@claim("SYS-03", broken_by=stranger_listens, symptom="4711", undo=stranger_ended)
def test_exactly_these_listen(host: Host, clinic: Clinic) -> None:
    """Every socket that waits for somebody belongs to a service that was asked for."""
    found = {socket_of(line) for line in host.check_output("ss -H -ltunp").splitlines()}
    assert ("tcp", "22", "sshd") in found, "control: not even sshd was found"
    assert sorted(found - LISTENING - ({("udp", str(clinic.vpn.port), "kernel")} if clinic.vpn else set())) == []


def hosts_altered(host: Host) -> None:
    host.check_output("echo 203.0.113.9 updates.example >> /etc/hosts")


@claim("SYS-04", broken_by=hosts_altered, symptom="/etc/hosts")
def test_every_file_is_as_the_last_deploy_left_it(host: Host) -> None:
    """What it left stands in a list on the server; each file has the checksum that stands there."""
    listed = host.check_output("cut -c 67- /etc/cabinet/manifest").splitlines()
    assert {"/etc/hosts", "/etc/ssh/sshd_config", "/usr/local/lib/cabinet/practice/__main__.py"} <= set(listed), "control: a list of files"
    assert host.run("sha256sum --check --quiet /etc/cabinet/manifest 2>/dev/null").stdout.splitlines() == []
