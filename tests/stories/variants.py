"""Deploys of other clinic files and other roles than the VM's: most are what a tired technician could have written, and shut the door.

Run as pyinfra runs a role: `pyinfra inventory/vagrant.py tests.stories.variants.nobody_is_in_the_group`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import ip_network
from unittest.mock import patch

from pyinfra.api import deploy

from kit.clinic import Clinic, this_clinic
from kit.deadman import Guarded
from kit.keys import vm_public_key
from kit.sections import Disk, Person
from roles import backup, firewall, offsite, ssh, storage, vpn

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
    with patch.object(firewall, "this_site", lambda: clinic):
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
    people_are(*others, technician.model_copy(update={"keys": (STRANGER,)}))


@deploy("Amina leaves, Karim comes")
def amina_leaves_and_karim_comes() -> None:
    """No mistake at all. With her goes her phone: a clinic file in which a device is nobody's is refused."""
    clinic = this_clinic()
    amina, *others = clinic.people
    people_are(*others, amina.model_copy(update={"name": "karim", "full_name": "Karim Meziane", "keys": (vm_public_key("karim"),)}))
    assert clinic.vpn is not None
    devices = tuple(peer for peer in clinic.vpn.peers if peer.person != amina.name)
    without = clinic.model_copy(update={"vpn": clinic.vpn.model_copy(update={"peers": devices})})
    with patch.object(vpn, "this_clinic", lambda: without):
        vpn.vpn()


# Another disk than the clinic's second one; what it is called in tests/stories/test_13_mirror.py.
SPARE = "spare0"


@deploy("a disk is replaced")
def the_mirror_is_another_disk() -> None:
    """The role storage, for a clinic file with the serial number of the new disk."""
    clinic = this_clinic()
    named = clinic.storage.model_copy(update={"mirror": Disk(disk=SPARE)})
    with patch.object(storage, "this_clinic", lambda: clinic.model_copy(update={"storage": named})):
        storage.storage()


@deploy("a backup disk as any machine has it")
def the_backups_begin() -> None:
    """The role backup up to its repository, in a place where no systemd mounts the disk."""
    mounts = "mountpoint -q /backup"
    run = "mkdir -p /backup; mount $(sed -n 's/^What=//p' /etc/systemd/system/backup.mount) /backup"
    with patch.object(backup.kit, "unit", lambda name, **_: backup.kit.script(name=name, unless=mounts, run=run)):
        backup.ready()
    backup.repository()


def people_are(*people: Person) -> None:
    """The role ssh, for a clinic file with these people."""
    clinic = this_clinic().model_copy(update={"people": people})
    with patch.object(ssh, "this_site", lambda: clinic):
        ssh.ssh()


@deploy("the copies go to another host")
def copies_go_elsewhere() -> None:
    """To the one that CABINET_VAULT names, as ADDRESS:PORT."""
    address, _, port = os.environ["CABINET_VAULT"].partition(":")
    clinic = this_clinic()
    assert clinic.offsite is not None
    other = clinic.model_copy(update={"offsite": clinic.offsite.model_copy(update={"host": address, "port": int(port)})})
    with patch.object(offsite, "this_clinic", lambda: other):
        offsite.offsite()
