"""Deploys of what a tired technician could have written: each is accepted by its checker, and each shuts the door.

Run as pyinfra runs a role: `pyinfra inventory/vagrant.py tests.stories.mistakes.nobody_is_in_the_group`.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from unittest.mock import patch

from pyinfra.api import deploy

from kit.clinic import Clinic, this_clinic
from kit.deadman import Guarded
from roles import firewall, ssh

STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGNhYmluZXQgc3Rvcnk6IGEgc3RyYW5nZXJzIGtleSEh stranger"


def door_with(path: str, old: str, new: str) -> None:
    """The role ssh, with `old` in the file at `path` replaced by `new`."""
    genuine = ssh.door_files

    def mistaken(clinic: Clinic) -> list[Guarded]:
        files = genuine(clinic)
        wrong = [replace(file, content=file.content.replace(old.encode(), new.encode())) for file in files if file.dest == path]
        assert wrong and wrong[0] not in files, f"{old!r} is not in {path}"
        return [*(file for file in files if file.dest != path), *wrong]

    with patch.object(ssh, "door_files", mistaken):
        ssh.ssh()


def firewall_of(clinic: Clinic) -> None:
    """The role firewall, for another clinic file."""
    with patch.object(firewall, "this_clinic", lambda: clinic):
        firewall.firewall()


@deploy("a rule that shuts SSH")
def ssh_is_on_another_port() -> None:
    """SSH is let in at a port where nobody listens."""
    genuine = firewall.rulesets
    with patch.object(firewall, "rulesets", lambda *of: tuple(rules.replace("tcp dport 22 ", "tcp dport 2222 ") for rules in genuine(*of))):
        firewall.firewall()


@deploy("the practice's addresses change")
def management_is_elsewhere() -> None:
    """The clinic file names management networks in which we are not."""
    clinic = this_clinic()
    network = clinic.network.model_copy(update={"management": (ip_network("192.0.2.0/24"),)})
    firewall_of(clinic.model_copy(update={"network": network}))


@deploy("sshd admits nobody")
def nobody_is_in_the_group() -> None:
    """A valid configuration, for members of a group that has none."""
    door_with("/etc/ssh/sshd_config", "AllowGroups cabinet-login", "AllowGroups nogroup")


@deploy("PAM refuses everybody")
def pam_denies() -> None:
    """A stack in order, that ends in no."""
    door_with("/etc/pam.d/sshd", "auth     required   pam_google", "auth     requisite  pam_deny.so\nauth     required   pam_google")


@deploy("the technician has another key")
def key_of_a_stranger() -> None:
    """The clinic file lists a key that nobody here holds."""
    clinic = this_clinic()
    others = [person for person in clinic.people if person.name != clinic.technician]
    technician = next(person for person in clinic.people if person.name == clinic.technician)
    people = (*others, technician.model_copy(update={"keys": (STRANGER,)}))
    with patch.object(ssh, "this_clinic", lambda: clinic.model_copy(update={"people": people})):
        ssh.ssh()
