"""The sections of a clinic file, each with what can be wrong in it alone; what must fit together is kit/clinic.py's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from kit import keys, words
from kit.yamlmarks import Loc, Mistakes, Strict

# The clinic file of the VM that comes with the kit.
VM = "vagrant"
PROFILES = ("doctor", "secretary", "nurse", "billing", "administrator", "technician")
ADMINISTRATORS = ("administrator", "technician")

Profile = Annotated[str, words.one_of(PROFILES)]
Zone = Annotated[
    str, words.one_of(("lan", "management", "vpn"), {"internet": "nothing is published to the Internet; from there the way in is the vpn"})
]
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Weekday = Annotated[str, words.one_of(WEEKDAYS)]
Unlock = Annotated[
    str,
    words.one_of(
        ("tpm2", "passphrase"),
        {word: f"{word} comes with a later release; today it is tpm2 or passphrase" for word in ("tpm2+pin", "tang", "usb")},
    ),
]

Management = Annotated[tuple[words.Network, ...], Field(min_length=1, examples=["[192.168.10.0/24]"])]
Resolvers = Annotated[tuple[words.Address, ...], Field(min_length=1, examples=["[192.168.10.1]"])]
TIME_SERVERS = ("time.cloudflare.com", "ptbtime1.ptb.de", "nts.netnod.se")


class Contact(Strict):
    """Whom to call; printed on the report."""

    responsible: words.Line = Field(examples=["Dr Amina Haddad"])
    practice_phone: words.Phone = Field(examples=['"+213 21 12 34 56"'])
    vendor: words.Line = Field(examples=["Atlas Informatique"])
    vendor_phone: words.Phone = Field(examples=['"+213 21 65 43 21"'])


class Connect(Strict):
    """How the technician's machine reaches the server."""

    host: words.Host = Field(examples=["192.168.10.5"])
    port: words.Port = 22
    bootstrap_user: words.Account = Field(examples=["installer"])
    bootstrap_key: words.OutsidePath | None = None


class Internet(Strict):
    """The side of the default route."""

    interface: words.InterfaceName = Field(examples=["enp1s0"])


class Lan(Strict):
    """The practice's own network, and the server's address in it."""

    interface: words.InterfaceName = Field(examples=["enp2s0"])
    address: words.Interface4 = Field(examples=["192.168.10.5/24"])
    address6: words.Interface6 | None = None

    @field_validator("address")
    @classmethod
    def is_a_host(cls, address: IPv4Interface) -> IPv4Interface:
        """The network's own number and its broadcast address belong to no machine."""
        network = address.network
        if network.prefixlen > 30:
            raise ValueError(f"{address} says nothing about the network; write the address with its length, such as {address.ip}/24")
        if address.ip in (network.network_address, network.broadcast_address):
            raise ValueError(f"{address.ip} belongs to the network {network} as a whole; the first address in it is {network[1]}")
        return address

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The LAN's networks, IPv4 first."""
        return (self.address.network, *([self.address6.network] if self.address6 else []))


class Published(Strict):
    """Who reaches what."""

    ssh: tuple[Zone, ...] = ("management", "vpn")
    https: tuple[Zone, ...] = ("lan", "vpn")
    http: tuple[Zone, ...] = ("lan", "vpn")

    @field_validator("ssh")
    @classmethod
    def lets_the_technician_in(cls, zones: tuple[str, ...]) -> tuple[str, ...]:
        """Without SSH from the management networks the next deploy would stand before a closed door."""
        if "management" not in zones:
            raise ValueError("management is missing; without it nobody could look after the server")
        return zones


class Net(Strict):
    """Where the server stands, and who may reach it."""

    internet: Internet
    lan: Lan
    management: Management
    resolvers: Resolvers
    ntp: tuple[words.Fqdn, ...] = TIME_SERVERS
    published: Published = Published()

    def sources(self, service: Literal["ssh", "https", "http"]) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks from which `service` may be reached without the VPN, each once."""
        zones = {"lan": self.lan.networks, "management": self.management, "vpn": ()}
        return tuple(dict.fromkeys(network for zone in getattr(self.published, service) for network in zones[zone]))


class Egress(Strict):
    """What the server may fetch, beyond Debian's archive."""

    hosts: tuple[words.Fqdn, ...] = ()


def _key(check: Callable[[str], str], of_the_vm: Callable[[str], str], instead: str) -> AfterValidator:
    """A public key. In the VM's file `state:NAME` stands for the one that this checkout made for NAME."""

    def read(text: str, info: ValidationInfo) -> str:
        if not text.startswith("state:"):
            return check(text)
        if not (info.context or {}).get("vm"):
            raise ValueError(f"{text} works in clinics/{VM}.yaml alone; write {instead}")
        return of_the_vm(text.removeprefix("state:"))

    return AfterValidator(read)


SshKey = Annotated[str, _key(keys.check_public_key, keys.vm_public_key, "the line of the person's .pub file")]
VpnKey = Annotated[str, _key(keys.check_vpn_key, keys.vm_vpn_key, "the public key that the device shows")]


class Person(Strict):
    """One person, one account."""

    name: words.Login = Field(examples=["amina"])
    full_name: words.Line = Field(examples=["Dr Amina Haddad"])
    profile: Profile = Field(examples=["doctor"])
    keys: tuple[SshKey, ...] = ()
    login: bool = True

    @model_validator(mode="after")
    def has_a_key(self) -> Self:
        """SSH asks for a key first: without one the person could not log in."""
        if self.login and not self.keys:
            raise Mistakes([(("keys",), f"{self.name} may log in but has no key; add one, or write login: false")])
        return self

    @property
    def administers(self) -> bool:
        """Whether this person may become root."""
        return self.login and self.profile in ADMINISTRATORS


class Peer(Strict):
    """A device that comes in through the VPN."""

    person: words.Login = Field(examples=["amina"])
    device: words.DeviceName = Field(examples=["phone"])
    address: words.Address4 = Field(examples=["10.71.0.2"])
    public_key: VpnKey = Field(examples=['"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="'])

    @property
    def name(self) -> str:
        """Whose, and which."""
        return f"{self.person}-{self.device}"


class Vpn(Strict):
    """The way in for who is not in the practice."""

    endpoint: words.Host = Field(examples=["vpn.haddad.example"])
    port: words.Port = 51820
    network: words.Range4 = Field(examples=["10.71.0.0/24"])
    peers: tuple[Peer, ...] = ()

    @field_validator("peers")
    @classmethod
    def are_different_devices(cls, peers: tuple[Peer, ...], info: ValidationInfo) -> tuple[Peer, ...]:
        """By its key the server knows a device, and by its address everything behind the VPN does."""
        found: list[tuple[Loc, str]] = []
        first: dict[tuple[str, object], Peer] = {}
        network: IPv4Network | None = info.data.get("network")
        for index, peer in enumerate(peers):
            if network is not None and (peer.address not in network or peer.address in (network[0], network[-1])):
                found.append(((index, "address"), f"{peer.address} is no device's address in {network} (vpn.network)"))
            for key, value in (("device", peer.name), ("address", peer.address), ("public_key", peer.public_key)):
                if (owner := first.setdefault((key, value), peer)) is not peer:
                    found.append(((index, key), f"this one is {owner.name}'s already; each device needs one of its own"))
        if found:
            raise Mistakes(found)
        return peers

    @property
    def free_addresses(self) -> Iterator[IPv4Address]:
        """The addresses that no device has, lowest first."""
        taken = {peer.address for peer in self.peers}
        return (address for address in self.network.hosts() if address not in taken)


class Disk(Strict):
    """A disk of the server; `wipe` names it a second time when what it carries may be destroyed."""

    disk: words.Serial = Field(examples=["S5GXNX0R123456"])
    wipe: words.Serial | None = None

    @model_validator(mode="after")
    def wipes_itself(self) -> Self:
        """A `wipe` that names another disk is a mix-up of disks."""
        if self.wipe not in (None, self.disk):
            raise Mistakes([(("wipe",), f"{self.wipe} is not the disk above; write {self.disk} to have it wiped, or take the line out")])
        return self


class Storage(Disk):
    """The encrypted disk under everything that can hold patient data; with `mirror`, two that hold the same."""

    unlock: Unlock = "tpm2"
    mirror: Disk | None = None

    @field_validator("mirror")
    @classmethod
    def is_another_disk(cls, mirror: Disk | None, info: ValidationInfo) -> Disk | None:
        """A disk cannot stand in for itself."""
        if mirror is not None and mirror.disk == info.data.get("disk"):
            raise Mistakes([(("disk",), f"{mirror.disk} is the data disk itself (storage.disk); a mirror is a second disk")])
        return mirror

    @property
    def disks(self) -> tuple[str, ...]:
        """The serial numbers of all disks below the volume."""
        return (self.disk, *([self.mirror.disk] if self.mirror else []))


class Backup(Disk):
    """The first kind of copy: a second disk in the server."""

    full: words.DayAndTime = "Sun 01:30"
    differential: words.TimeOfDay = "22:30"
    keep_days: Annotated[int, Field(ge=30, le=3650)] = 35
    max_age_hours: Annotated[int, Field(ge=25, le=72)] = 26


class Media(Strict):
    """The third kind of copy: external media, one per working day, that somebody takes home."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = Field(examples=["[monday, tuesday, wednesday, thursday, friday]"])

    @field_validator("days")
    @classmethod
    def are_different_days(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        """A day that stands here twice was meant to be another."""
        twice = [(index, day) for index, day in enumerate(days) if day in days[:index]]
        if twice:
            raise Mistakes([((index,), f"{day} stands here twice; each day has one medium") for index, day in twice])
        return days


class Certificate(Strict):
    """A certificate that the practice brings, instead of one from its own CA."""

    chain: words.OutsidePath = Field(examples=["~/certificates/practice.pem"])
    key: words.OutsidePath = Field(examples=["~/certificates/practice.key"])

    @field_validator("chain", "key")
    @classmethod
    def is_there(cls, path: Path) -> Path:
        """Found out now, not in the middle of a deploy."""
        if not path.is_file():
            raise ValueError(f"{path} is not a file on this machine; write where it lies")
        return path


class Proxy(Strict):
    """The web server in front of the application."""

    names: Annotated[tuple[words.Fqdn, ...], Field(min_length=1)] = Field(examples=["[practice.haddad.example]"])
    upstream: words.LocalUrl | None = None
    certificate: Certificate | None = None


class Database(Strict):
    """The application's database."""

    name: words.DatabaseName = "practice"
    owner: words.DatabaseName = "practice"
