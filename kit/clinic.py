"""The clinic file: everything in which two practices differ, typed and checked before any server is touched."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator, model_validator

from kit import keys, yamlmarks
from kit.paths import ROOT
from kit.yamlmarks import FileError, Loc, Mistakes, Strict

T = TypeVar("T")

VM = "vagrant"
PROFILES = ("doctor", "secretary", "nurse", "billing", "administrator", "technician")
ADMINISTRATORS = ("administrator", "technician")
LATER_UNLOCKS = ("tpm2+pin", "tang", "usb")
# Accounts of Debian and of the packages that the roles install. A person with such a name would become that service.
SYSTEM_ACCOUNTS = frozenset(
    "root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody _apt messagebus sshd "
    "postgres pgbackrest nginx squid clamav tss polkitd vagrant practice cabinet admin sudo adm systemd-network "
    "systemd-resolve systemd-timesync systemd-journal systemd-coredump _chrony unbound".split()
)


class ClinicError(FileError):
    """What is wrong with a clinic file, one line per mistake: `file:line: key: what is wrong; what would be right`."""


# ---- words ----------------------------------------------------------------------------------------------------------


def _matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A check that the whole text matches `pattern`; `expected` says in words what it looks like."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f'"{text}" is not {expected}')
        return text

    return check


def _parsed(parse: Callable[[str], T], expected: str) -> PlainValidator:
    """A validator that refuses by naming what was written and what would be right."""

    def read(text: Any) -> T:
        try:
            return parse(text if isinstance(text, str) else str(text))
        except ValueError as bad:
            if "has host bits set" in str(bad):
                raise ValueError(f"{text} is an address within a network; the network is {ip_interface(text).network}") from None
            raise ValueError(f'"{text}" is not {expected}') from None

    return PlainValidator(read, json_schema_input_type=str)


def _timezone(name: str) -> str:
    known = zoneinfo.available_timezones()
    if name not in known:
        raise ValueError(f'"{name}" is not a time zone; {yamlmarks.did_you_mean(name, sorted(known)) if _close(name, known) else "one is Africa/Algiers"}')
    return name


def _close(word: str, known: Iterable[str]) -> bool:
    return yamlmarks.did_you_mean(word, known).startswith("did you mean")


def _everyone_refused(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if network.prefixlen == 0:
        raise ValueError(f"{network} is everyone; name the networks from which the server is managed")
    return network


def _word(words: tuple[str, ...], later: dict[str, str]) -> Callable[[str], str]:
    """One of `words`; a word of `later` is refused with its own reason."""

    def check(word: str) -> str:
        if word in later:
            raise ValueError(later[word])
        if word not in words:
            raise ValueError(f'"{word}" is not known; {yamlmarks.did_you_mean(word, words)}')
        return word

    return check


def _outside_tree(text: object) -> Path:
    if not isinstance(text, str):
        raise ValueError(f"{text} is not a path")
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise ValueError(f"{text} is relative; write the whole path on the technician's machine")
    if path.resolve().is_relative_to(ROOT.resolve()):
        raise ValueError(f"{text} lies in this tree; keys and certificates stay outside of it")
    return path


def _person_key(line: str, info: ValidationInfo) -> str:
    person = line.removeprefix("state:")
    if person == line:
        return keys.check_public_key(line)
    if not (info.context or {}).get("vm"):
        raise ValueError(f"{line} works in clinics/{VM}.yaml alone; write the line of the person's .pub file")
    return keys.vm_public_key(_login(person))


def _login(name: str) -> str:
    if name in SYSTEM_ACCOUNTS:
        raise ValueError(f'"{name}" is an account of the system; choose another name')
    return _LOGIN(name)


LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LOGIN = _matching(r"[a-z][a-z0-9_-]{0,30}", "a log-in name: at most 31 small letters, digits, - and _, with a letter first")

Line = Annotated[str, AfterValidator(_matching(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,98}[^\s\x00-\x1f\x7f])?", "a line of 1 to 100 characters"))]
Phone = Annotated[str, AfterValidator(_matching(r"\+?[0-9][0-9 ()./-]{4,28}[0-9]", "a phone number, such as \"+213 21 00 00 00\""))]
Fqdn = Annotated[str, AfterValidator(_matching(rf"(?=.{{1,253}}\Z)({LABEL}\.)+(?!\d+\Z){LABEL}", "a full name in small letters, such as practice.example.org"))]
HostName = Annotated[str, AfterValidator(_matching(rf"(?=.{{1,253}}\Z)({LABEL}\.)*{LABEL}|[0-9a-f:]+:[0-9a-f:.]+", "a host name or an IP address"))]
Timezone = Annotated[str, AfterValidator(_timezone)]
Locale = Annotated[str, AfterValidator(_matching(r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8", "a UTF-8 locale, such as fr_DZ.UTF-8"))]
Interface = Annotated[str, AfterValidator(_matching(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", "the name of a network interface, such as enp1s0"))]
Serial = Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{2,63}", "the serial number of a disk, as `lsblk -o NAME,SERIAL` shows it"))]
Port = Annotated[int, Field(ge=1, le=65535)]
Login = Annotated[str, AfterValidator(_login)]
BootstrapUser = Annotated[str, AfterValidator(_LOGIN)]
Clock = Annotated[str, AfterValidator(_matching(r"([01]\d|2[0-3]):[0-5]\d", "a time of day, such as \"22:30\""))]
WeeklyClock = Annotated[
    str,
    AfterValidator(_matching(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([01]\d|2[0-3]):[0-5]\d", "a day and a time, such as \"Sun 01:30\" (Mon Tue Wed Thu Fri Sat Sun)")),
]
DatabaseName = Annotated[str, AfterValidator(_matching(r"(?!pg_|(postgres|template0|template1|public|none)\Z)[a-z_][a-z0-9_]{0,62}", "a name that PostgreSQL takes and does not use itself: small letters, digits and _"))]
Upstream = Annotated[str, AfterValidator(_matching(r"http://127\.0\.0\.1:([1-9]\d{3,4})", "an application on this server, such as http://127.0.0.1:8080"))]
OutsidePath = Annotated[Path, PlainValidator(_outside_tree, json_schema_input_type=str)]
PublicKey = Annotated[str, AfterValidator(_person_key)]

_text = PlainSerializer(str)
Address = Annotated[IPv4Address | IPv6Address, _parsed(ip_address, "an IP address, such as 10.70.0.1"), _text]
Network = Annotated[
    IPv4Network | IPv6Network,
    _parsed(ip_network, "a network, such as 10.70.0.0/24"),
    AfterValidator(_everyone_refused),
    _text,
]
Interface4 = Annotated[IPv4Interface, _parsed(IPv4Interface, "an IPv4 address with its network, such as 10.70.0.10/24"), _text]
Interface6 = Annotated[IPv6Interface, _parsed(IPv6Interface, "an IPv6 address with its network, such as fd70::10/64"), _text]
Profile = Annotated[str, AfterValidator(_word(PROFILES, {}))]
Zone = Annotated[
    Literal["lan", "management"],
    BeforeValidator(_word(("lan", "management"), {"internet": "nothing is published to the Internet; the VPN comes with a later release"})),
]
Unlock = Annotated[
    Literal["tpm2", "passphrase"],
    BeforeValidator(_word(("tpm2", "passphrase"), {word: f"{word} comes with a later release; today tpm2 or passphrase" for word in LATER_UNLOCKS})),
]


# ---- the file -------------------------------------------------------------------------------------------------------


class Contact(Strict):
    """Whom to call; printed on the report."""

    responsible: Line = Field(examples=["Dr Amina Haddad"])
    practice_phone: Phone = Field(examples=['"+213 21 00 00 00"'])
    vendor: Line = Field(examples=["Example Informatique"])
    vendor_phone: Phone = Field(examples=['"+213 21 00 00 01"'])


class Connect(Strict):
    """How the technician's machine reaches the server."""

    host: HostName = Field(examples=["10.70.0.10"])
    port: Port = 22
    bootstrap_user: BootstrapUser = Field(examples=["installer"])
    bootstrap_key: OutsidePath | None = None


class Internet(Strict):
    """The side of the default route."""

    interface: Interface = Field(examples=["enp1s0"])


class Lan(Strict):
    """The practice's own network, and the server's address in it."""

    interface: Interface = Field(examples=["enp2s0"])
    address: Interface4 = Field(examples=["10.70.0.10/24"])
    address6: Interface6 | None = None

    @field_validator("address")
    @classmethod
    def is_a_host(cls, address: IPv4Interface) -> IPv4Interface:
        """The network's own number and the broadcast address belong to no machine."""
        network = address.network
        if network.prefixlen > 30:
            raise ValueError(f"{address} names no network; write the address with the network's length, such as {address.ip}/24")
        if address.ip in (network.network_address, network.broadcast_address):
            raise ValueError(f"{address} is the network itself or its broadcast address; the first usable address is {network[1]}/{network.prefixlen}")
        return address

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The LAN's networks, IPv4 first."""
        return (self.address.network, *([self.address6.network] if self.address6 else []))


class Published(Strict):
    """Who reaches what."""

    ssh: tuple[Zone, ...] = ("management",)
    https: tuple[Zone, ...] = ("lan",)
    http: tuple[Zone, ...] = ("lan",)


class NetworkSettings(Strict):
    """Where the server stands, and who may reach it."""

    internet: Internet
    lan: Lan
    management: Annotated[tuple[Network, ...], Field(min_length=1)] = Field(examples=["[10.70.0.0/24]"])
    resolvers: Annotated[tuple[Address, ...], Field(min_length=1)] = Field(examples=["[10.70.0.1]"])
    ntp: tuple[Fqdn, ...] = ("time.cloudflare.com", "ptbtime1.ptb.de", "nts.netnod.se")
    published: Published = Published()

    @field_validator("published")
    @classmethod
    def the_technician_gets_in(cls, published: Published) -> Published:
        """Without SSH from the management networks the next deploy could not get in."""
        if "management" not in published.ssh:
            raise Mistakes([(("ssh",), "management is missing; without it nobody could look after the server")])
        return published

    def sources(self, service: Literal["ssh", "https", "http"]) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks from which `service` may be reached, without repetition."""
        zones = {"lan": self.lan.networks, "management": self.management}
        return tuple(dict.fromkeys(network for zone in getattr(self.published, service) for network in zones[zone]))


class Egress(Strict):
    """What the server may fetch, beyond Debian's archive."""

    hosts: tuple[Fqdn, ...] = ()


class Person(Strict):
    """One person, one account."""

    name: Login = Field(examples=["amina"])
    full_name: Line = Field(examples=["Dr Amina Haddad"])
    profile: Profile = Field(examples=["doctor"])
    keys: tuple[PublicKey, ...] = ()
    login: bool = True

    @model_validator(mode="after")
    def has_a_key(self) -> Self:
        """SSH asks for a key first, so without one the person could not log in."""
        if self.login and not self.keys:
            raise Mistakes([(("keys",), f"{self.name} may log in but has no key; add one, or write login: false")])
        return self

    @property
    def administers(self) -> bool:
        """Whether this person may become root."""
        return self.login and self.profile in ADMINISTRATORS


class Storage(Strict):
    """The encrypted data volume."""

    disk: Serial = Field(examples=["S5GXNX0R123456"])
    wipe: Serial | None = None
    unlock: Unlock = "tpm2"

    @model_validator(mode="after")
    def wipes_its_own_disk(self) -> Self:
        """A wipe that names another disk is a mistake about which disk is which."""
        return _wipe_matches(self)


class Backup(Strict):
    """The first tier: a second disk in the server."""

    disk: Serial = Field(examples=["WD-WX12A3456789"])
    wipe: Serial | None = None
    full: WeeklyClock = "Sun 01:30"
    differential: Clock = "22:30"
    keep_days: Annotated[int, Field(ge=30, le=3650)] = 35
    max_age_hours: Annotated[int, Field(ge=25, le=72)] = 26

    @model_validator(mode="after")
    def wipes_its_own_disk(self) -> Self:
        """A wipe that names another disk is a mistake about which disk is which."""
        return _wipe_matches(self)


class Certificate(Strict):
    """A certificate that the practice brings, instead of one from its own CA."""

    chain: OutsidePath = Field(examples=["~/certificates/practice.pem"])
    key: OutsidePath = Field(examples=["~/certificates/practice.key"])

    @field_validator("chain", "key")
    @classmethod
    def is_there(cls, path: Path) -> Path:
        """Found out now, not in the middle of a deploy."""
        if not path.is_file():
            raise ValueError(f"{path} is not a file on this machine; write where the certificate lies")
        return path


class Proxy(Strict):
    """The web server in front of the application."""

    names: Annotated[tuple[Fqdn, ...], Field(min_length=1)] = Field(examples=["[practice.example.org]"])
    upstream: Upstream | None = None
    certificate: Certificate | None = None


class Database(Strict):
    """The application's database."""

    name: DatabaseName = "practice"
    owner: DatabaseName = "practice"


class Clinic(Strict):
    """Everything in which two practices differ."""

    practice: Line = Field(examples=["Cabinet Haddad"])
    contact: Contact
    hostname: Fqdn = Field(examples=["practice.example.org"])
    timezone: Timezone = Field(examples=["Africa/Algiers"])
    locale: Locale = "C.UTF-8"
    connect: Connect | None = None
    network: NetworkSettings
    egress: Egress = Egress()
    people: Annotated[tuple[Person, ...], Field(min_length=1)] = Field(examples=['[{name: salim, full_name: Salim Benali, profile: technician, keys: ["ssh-ed25519 …"]}]'])
    storage: Storage
    backup: Backup
    proxy: Proxy
    database: Database = Database()

    @field_validator("people")
    @classmethod
    def are_different_people(cls, people: tuple[Person, ...]) -> tuple[Person, ...]:
        """One account per person and one person per key; somebody must be able to administer."""
        found: list[tuple[Loc, str]] = []
        names: dict[str, int] = {}
        owners: dict[str, str] = {}
        for index, person in enumerate(people):
            if names.setdefault(person.name, index) != index:
                found.append(((index, "name"), f"two people are called {person.name}; each needs a name of their own"))
            for at, key in enumerate(person.keys):
                material = keys.material(key)
                if material in owners:
                    found.append(((index, "keys", at), f"this key is listed for {owners[material]} already; each person has keys of their own"))
                owners.setdefault(material, person.name)
        if not any(person.administers for person in people):
            found.append(((), f"nobody may administer the server; one person needs the profile {' or '.join(ADMINISTRATORS)}, with login and a key"))
        if found:
            raise Mistakes(found)
        return people

    @field_validator("backup")
    @classmethod
    def is_a_second_disk(cls, backup: Backup, info: ValidationInfo) -> Backup:
        """A backup on the disk that it protects is lost with it."""
        storage = info.data.get("storage")
        if storage is not None and backup.disk == storage.disk:
            raise Mistakes([(("disk",), f"{backup.disk} is the data disk (storage.disk) already; backups need a disk of their own")])
        return backup

    @field_validator("database")
    @classmethod
    def owner_is_nobody(cls, database: Database, info: ValidationInfo) -> Database:
        """People get database roles of their own name."""
        if database.owner in {person.name for person in info.data.get("people", ())}:
            raise Mistakes([(("owner",), f"{database.owner} is a person; the application's owner needs a name of its own")])
        return database

    @property
    def administrators(self) -> tuple[Person, ...]:
        """The people who may become root."""
        return tuple(person for person in self.people if person.administers)

    @property
    def technician(self) -> str:
        """The account by which deploys come in: the first technician's, else the first administrator's."""
        return sorted(self.administrators, key=lambda person: person.profile != "technician")[0].name


def _wipe_matches(part: T) -> T:
    disk, wipe = part.disk, part.wipe  # type: ignore[attr-defined]
    if wipe is not None and wipe != disk:
        raise Mistakes([(("wipe",), f"{wipe} is not the disk of this section, {disk}; write {disk} to have it wiped, or remove the line")])
    return part


# ---- loading --------------------------------------------------------------------------------------------------------


def load(path: Path) -> Clinic:
    """The clinic in `path`; otherwise a ClinicError with one line per mistake."""
    vm = path.stem == VM
    try:
        clinic = yamlmarks.load(Clinic, path, expected="a clinic as in clinics/example.yaml", context={"vm": vm})
    except FileError as bad:
        raise ClinicError(*bad.args) from None
    if clinic.connect is None and not vm:
        raise ClinicError(f"{yamlmarks.shown(path)}:1: connect: is missing; for example: {{host: 10.70.0.10, bootstrap_user: installer}}")
    return clinic


def clinic_files() -> tuple[Path, ...]:
    """The files of the practices that this tree looks after: neither the example nor the VM."""
    return tuple(sorted(path for path in (ROOT / "clinics").glob("*.yaml") if path.stem not in ("example", VM)))


def inventory(*names: str) -> list[tuple[str, dict[str, str]]]:
    """The named clinics, or all of them, as pyinfra hosts. With a mistake in any file pyinfra ends here, before it connects.

    SystemExit, because pyinfra shows it as it is: it would put the place in this file in front of an InventoryError, and
    a traceback under anything else. The path stays a path: objects in host data break pyinfra's debug-inventory.
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
    """The clinic of the host that pyinfra is working on; the only place that reads host.data."""
    from pyinfra import host  # here, because pyinfra takes a second to import and most of the kit does without

    return _loaded(host.data.clinic_file)


@functools.cache
def _loaded(path: str) -> Clinic:
    return load(ROOT / path)
