"""The words that files of this tree are made of: types that refuse by saying what was written and what would be right."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from kit.paths import ROOT
from kit.yamlmarks import did_you_mean

# Accounts of Debian and of the packages that the roles install. A person with such a name would become that service.
SYSTEM_ACCOUNTS = """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody sshd messagebus polkitd tss
    systemd-network systemd-resolve systemd-timesync systemd-journal systemd-coredump sudo adm admin
    postgres pgbackrest nginx squid clamav unbound msmtp vagrant cabinet cabinet-alarm cabinet-offsite practice
""".split()  # noqa: SIM905 -- a paragraph is easier to read than 40 quoted words

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LOGIN = r"[a-z][a-z0-9_-]{0,30}"
LOGIN_LOOKS = "a log-in name: at most 31 small letters, digits, - and _, a letter first"
SEEN = r"[^\s\x00-\x1f\x7f]"  # a character that can be seen
LONGEST_RANGE = 29  # six devices
TIME = r"([01]\d|2[0-3]):[0-5]\d"


def matching(pattern: str, looks: str) -> AfterValidator:
    """The whole text matches `pattern`; `looks` says in words what that is."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f'"{text}" is not {looks}')
        return text

    return AfterValidator(check)


def one_of(words: Sequence[str], later: Mapping[str, str] | None = None) -> AfterValidator:
    """One of `words`. A word in `later` is refused with its own reason."""

    def check(word: str) -> str:
        if word in (later or {}):
            raise ValueError((later or {})[word])
        if word not in words:
            raise ValueError(f'"{word}" is not known; {did_you_mean(word, words)}')
        return word

    return AfterValidator(check)


def parsed(parse: Callable[[str], Any], looks: str) -> PlainValidator:
    """What `parse` makes of the text."""

    def read(text: object) -> Any:
        try:
            return parse(str(text))
        except ValueError as bad:
            if "has host bits set" in str(bad):
                raise ValueError(f"{text} is an address within a network; the network is {ip_interface(str(text)).network}") from None
            raise ValueError(f'"{text}" is not {looks}') from None

    return PlainValidator(read, json_schema_input_type=str)


def _not_everyone(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if network.prefixlen == 0:
        raise ValueError(f"{network} is everyone; name the networks that are meant")
    return network


def _own_range(network: IPv4Network) -> IPv4Network:
    if not network.is_private or network.prefixlen > LONGEST_RANGE:
        raise ValueError(f"{network} is no range of one's own with room for devices; one is 10.71.0.0/24")
    return network


def _host(text: str) -> str:
    if re.fullmatch(r"[0-9.]+|.*:.*", text):
        try:
            ip_address(text)
        except ValueError:
            raise ValueError(f'"{text}" is not an IP address, such as 192.168.10.5') from None
    elif not re.fullmatch(rf"({LABEL}\.)*{LABEL}", text):
        raise ValueError(f'"{text}" is not a host name or an IP address')
    return text


def _timezone(name: str) -> str:
    known = zoneinfo.available_timezones()
    if name not in known:
        guess = did_you_mean(name, sorted(known), else_list=False)
        raise ValueError(f'"{name}" is not a time zone; {guess or "one is Africa/Algiers"}')
    return name


def _not_of_the_system(name: str) -> str:
    if name in SYSTEM_ACCOUNTS:
        raise ValueError(f'"{name}" is an account of the system; choose another name')
    return name


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https":
        raise ValueError(f'"{text}" does not begin with https://; alarms go out encrypted or not at all')
    try:
        _host(parts.hostname or "")
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.username is not None or parts.fragment or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f'"{text}" is not a web address, such as https://alarms.example/practice')
    return text


def _outside_tree(text: object) -> Path:
    path = Path(str(text)).expanduser()
    if not path.is_absolute():
        raise ValueError(f"{text} is relative; write the whole path on the technician's machine")
    return outside_tree(path)


def outside_tree(path: Path) -> Path:
    """`path`, unless it lies in this tree."""
    if path.resolve().is_relative_to(ROOT.resolve()):
        raise ValueError(f"{path} lies in this tree; secrets, keys and certificates stay outside of it")
    return path


Line = Annotated[str, matching(rf"{SEEN}([^\x00-\x1f\x7f]{{0,98}}{SEEN})?", "a line of 1 to 100 characters")]
Phone = Annotated[str, matching(r"\+?[0-9][0-9 ()./-]{4,28}[0-9]", 'a phone number, such as "+213 21 12 34 56"')]
Fqdn = Annotated[
    str, matching(rf"(?=.{{1,253}}\Z)({LABEL}\.)+(?!\d+\Z){LABEL}", "a full name in small letters, such as practice.haddad.example")
]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Timezone = Annotated[str, AfterValidator(_timezone)]
Locale = Annotated[str, matching(r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8", "a UTF-8 locale, such as fr_FR.UTF-8")]
InterfaceName = Annotated[str, matching(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", "the name of a network interface, such as enp1s0")]
DeviceName = Annotated[str, matching(LABEL, "the name of a device: small letters, digits and -, such as phone")]
Serial = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{2,63}", "the serial number of a disk, as `lsblk -d -o NAME,SIZE,SERIAL` shows it")
]
# The first log-in may be root's, or an account's that the deploy closes.
Account = Annotated[str, matching(LOGIN, LOGIN_LOOKS)]
Login = Annotated[str, matching(LOGIN, LOGIN_LOOKS), AfterValidator(_not_of_the_system)]
TimeOfDay = Annotated[str, matching(TIME, 'a time of day, such as "22:30"')]
DayAndTime = Annotated[
    str, matching(rf"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) {TIME}", 'a day and a time, such as "Sun 01:30" (Mon Tue Wed Thu Fri Sat Sun)')
]
DatabaseName = Annotated[
    str,
    matching(
        r"(?!pg_|(postgres|template[01]|public|none|user)\Z)[a-z_][a-z0-9_]{0,62}",
        "a name for PostgreSQL: small letters, digits and _, and none that it uses itself",
    ),
]
LocalUrl = Annotated[str, matching(r"http://127\.0\.0\.1:[1-9]\d{3,4}", "an application on this server, such as http://127.0.0.1:8080")]
OutsidePath = Annotated[Path, PlainValidator(_outside_tree, json_schema_input_type=str)]
MailAddress = Annotated[
    str,
    matching(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,63}}@({LABEL}\.)+(?!\d+\Z){LABEL}", "a mail address, such as garde@haddad.example"),
]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Address = Annotated[IPv4Address | IPv6Address, parsed(ip_address, "an IP address, such as 192.168.10.1"), PlainSerializer(str)]
Address4 = Annotated[IPv4Address, parsed(IPv4Address, "an IPv4 address, such as 10.71.0.2"), PlainSerializer(str)]
Range4 = Annotated[
    IPv4Network, parsed(IPv4Network, "an IPv4 network, such as 10.71.0.0/24"), AfterValidator(_own_range), PlainSerializer(str)
]
Network = Annotated[
    IPv4Network | IPv6Network,
    parsed(ip_network, "a network, such as 192.168.10.0/24"),
    AfterValidator(_not_everyone),
    PlainSerializer(str),
]
Interface4 = Annotated[
    IPv4Interface, parsed(IPv4Interface, "an IPv4 address with its network, such as 192.168.10.5/24"), PlainSerializer(str)
]
Interface6 = Annotated[
    IPv6Interface, parsed(IPv6Interface, "an IPv6 address with its network, such as fd12:3456:789a::5/64"), PlainSerializer(str)
]
