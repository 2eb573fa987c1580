"""The clinic file: everything in which two practices differ, typed and checked before any server is touched."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from kit import words, yamlmarks
from kit.alarms import Alarm
from kit.offsite import Offsite
from kit.paths import ROOT
from kit.sections import VM, Backup, Connect, Contact, Database, Egress, Media, Net, Proxy, Storage, Vpn
from kit.site import Network, People, Reach, Site
from kit.yamlmarks import FileError, Loc, Mistakes, did_you_mean

# The tunnel's card.
VPN = "vpn"
PORTS = {"ssh": 22, "https": 443, "http": 80}


class ClinicError(FileError):
    """What is wrong with a clinic file, one line per mistake: `file:line: key: what is wrong; what would be right`."""


class Clinic(Site):
    """Everything in which two practices differ."""

    practice: words.Line = Field(examples=["Cabinet Haddad"])
    contact: Contact
    hostname: words.Fqdn = Field(examples=["practice.haddad.example"])
    timezone: words.Timezone = Field(examples=["Africa/Algiers"])
    locale: words.Locale = "C.UTF-8"
    connect: Annotated[Connect | None, Field(validate_default=True)] = None
    network: Net
    egress: Egress = Egress()
    people: People
    vpn: Vpn | None = None
    storage: Storage
    backup: Backup
    offsite: Offsite | None = None
    media: Media | None = None
    alarm: Alarm | None = None
    proxy: Proxy
    database: Database = Database()

    @field_validator("connect")
    @classmethod
    def is_known_for_the_vm(cls, connect: Connect | None, info: ValidationInfo) -> Connect | None:
        """The kit starts the VM itself and knows where it listens; it cannot know that of a practice's server."""
        vm = (info.context or {}).get("vm")
        if connect is None and not vm:
            raise ValueError("is missing; for example: {host: 192.168.10.5, bootstrap_user: installer}")
        if connect is not None and vm:
            raise ValueError("the kit knows where its VM listens; remove this section")
        return connect

    @field_validator("vpn")
    @classmethod
    def fits_the_practice(cls, vpn: Vpn | None, info: ValidationInfo) -> Vpn | None:
        """Devices are people's, a range is nobody else's, and a tunnel leads somewhere."""
        if vpn is None:
            return None
        found: list[tuple[Loc, str]] = []
        names = [person.name for person in info.data.get("people", ())]
        for index, peer in enumerate(vpn.peers if names else ()):
            if peer.person not in names:
                remedy = did_you_mean(peer.person, names, else_list=False) or "take this device out"
                found.append((("peers", index, "person"), f'"{peer.person}" is not in people; {remedy}'))
        network: Net | None = info.data.get("network")
        if network is not None:
            near = [str(other) for other in (*network.lan.networks, *network.management) if other.overlaps(vpn.network)]
            if near:
                found.append((("network",), f"{vpn.network} overlaps {near[0]} (network); take a range that nothing else uses"))
            if not any("vpn" in zones for zones in dict(network.published).values()):
                found.append(((), "nothing is published to it; add vpn to network.published.https, or take this section out"))
        if found:
            raise Mistakes(found)
        return vpn

    @field_validator("backup")
    @classmethod
    def is_a_second_disk(cls, backup: Backup, info: ValidationInfo) -> Backup:
        """A backup on the disk that it protects is lost with it."""
        storage = info.data.get("storage")
        if storage is not None and backup.disk in storage.disks:
            key = "storage.disk" if backup.disk == storage.disk else "storage.mirror.disk"
            raise Mistakes([(("disk",), f"{backup.disk} is the data disk already ({key}); backups need a disk of their own")])
        return backup

    @field_validator("database")
    @classmethod
    def is_nobodys_own(cls, database: Database, info: ValidationInfo) -> Database:
        """People get database roles of their own names."""
        if database.owner in {person.name for person in info.data.get("people", ())}:
            raise Mistakes([(("owner",), f"{database.owner} is a person; the application's role needs a name of its own")])
        return database

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The network cards that the server uses, the tunnel's among them."""
        return (self.network.internet.interface, self.network.lan.interface, *([VPN] if self.vpn else []))

    @property
    def neighbours(self) -> tuple[Network, ...]:
        """The networks that may ping it."""
        return (*self.network.lan.networks, *self.network.management, *([self.vpn.network] if self.vpn else []))

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """What is published: to the LAN and to the VPN on their own cards alone; to the management networks wherever they are routed."""
        zones: dict[str, tuple[str | None, Sequence[Network]]] = {
            "lan": (self.network.lan.interface, self.network.lan.networks),
            "management": (None, self.network.management),
            "vpn": (VPN, [self.vpn.network] if self.vpn else []),
        }
        return tuple(
            Reach(service, zone, port, *zones[zone]) for service, port in PORTS.items() for zone in getattr(self.network.published, service)
        )


# ---- loading --------------------------------------------------------------------------------------------------------


def load(path: Path) -> Clinic:
    """The clinic in `path`. Raises ClinicError with one line per mistake."""
    try:
        return yamlmarks.load(Clinic, path, expected="a clinic as in clinics/example.yaml", context={"vm": path.stem == VM})
    except FileError as bad:
        raise ClinicError(*bad.args) from None


def clinic_files() -> tuple[Path, ...]:
    """The files of the practices that this tree looks after: neither the example nor the VM."""
    return tuple(sorted(path for path in (ROOT / "clinics").glob("*.yaml") if path.stem not in ("example", VM)))


def inventory(*names: str) -> list[tuple[str, dict[str, str]]]:
    """The named clinics, or all of them, as pyinfra hosts. A mistake in any of the files ends pyinfra before it connects.

    SystemExit, because pyinfra shows it as it is: it puts a place in the kit in front of its own errors, and a traceback
    under any other. The file stays a path, because objects in host data break pyinfra's debug-inventory.
    """
    paths = [ROOT / "clinics" / f"{name}.yaml" for name in names] or list(clinic_files())
    mistakes = []
    for path in paths:
        try:
            load(path)
        except ClinicError as bad:
            mistakes.append(str(bad))
    if mistakes:
        raise SystemExit("\n".join(mistakes))
    return [(f"@cabinet/{path.stem}", {"clinic_file": f"clinics/{path.name}"}) for path in paths]


def this_clinic() -> Clinic:
    """The clinic of the host that pyinfra is working on."""
    return _loaded(_this_path())


def this_text() -> bytes:
    """Its file as somebody has written it; a later tree understands it, or says what it does not."""
    return (ROOT / _this_path()).read_bytes()


def _this_path() -> str:
    """The only place that reads host.data."""
    from pyinfra import host  # noqa: PLC0415 -- pyinfra takes a second to import, and most of the kit does without

    return host.data.clinic_file


@functools.cache
def _loaded(path: str) -> Clinic:
    return load(ROOT / path)
