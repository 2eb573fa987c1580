"""From a machine's file to its firewall: what is published, which names the web proxy lets through, and the two tables that nft reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, collapse_addresses
from urllib.parse import urlsplit

from kit.render import rendered
from kit.site import Network, Site

WEB_PORTS = {"https": 443, "http": 80}
# One bit of a packet's mark: the full ruleset's word to the base table.
MARK = "0x10000000"

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Opening:
    """One rule of what is published."""

    service: str
    zone: str
    port: int
    interface: str | None
    family: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """Names that may be reached in one manner through the web proxy."""

    scheme: str
    port: int
    names: tuple[str, ...]


def rulesets(site: Site, ways: Iterable[Way]) -> tuple[str, str]:
    """The base table and the full one."""
    network = site.network
    vpn_port = site.vpn.port if site.vpn else None
    # Without the full ruleset the technician comes in by these; so the tunnel is there, and in it SSH.
    ways_in = [opening for opening in openings(site) if opening.service == "ssh" and opening.zone != "lan"]
    base = rendered("firewall/base.nft.j2", mark=MARK, openings=ways_in, vpn_port=vpn_port)
    full = rendered(
        "firewall/cabinet.nft.j2",
        mark=MARK,
        interfaces=sorted(set(site.interfaces)),
        neighbours=by_family(site.neighbours),
        openings=openings(site),
        vpn_port=vpn_port,
        resolvers=by_family(network.resolvers),
        web_ports=sorted({way.port for way in ways} | {80, 443}),
        ntp=network.ntp,
        alarms=site.alarm is not None,
        offsite=site.offsite is not None,
    )
    return base, full


def openings(site: Site) -> list[Opening]:
    """What is published, a rule for each family of addresses."""
    return [
        Opening(reach.service, reach.zone, reach.port, reach.interface, family, networks)
        for reach in site.reaches
        for family, networks in by_family(reach.networks)
    ]


def by_family(addresses: Iterable[Network | Address]) -> list[tuple[str, tuple[str, ...]]]:
    """Networks or addresses as nft wants them: one set per family, and in it nothing twice (to nft an overlap is an error)."""
    families: list[tuple[str, tuple[str, ...]]] = []
    everything = list(addresses)
    for family, version in (("ip", 4), ("ip6", 6)):
        if of_it := [address for address in everything if address.version == version]:
            families.append((family, tuple(str(one).removesuffix("/32").removesuffix("/128") for one in collapse_addresses(of_it))))
    return families


def web_ways(site: Site, archives: Iterable[str]) -> list[Way]:
    """What the web proxy lets through: the archives that apt uses, in the way it uses them, and the file's hosts by https."""
    names: dict[tuple[str, int], set[str]] = {}
    for url in [*archives, *(f"https://{name}" for name in site.egress.hosts)]:
        parts = urlsplit(url)
        if parts.hostname and parts.scheme in ("http", "https"):
            names.setdefault((parts.scheme, parts.port or WEB_PORTS[parts.scheme]), set()).add(parts.hostname)
    return [Way(scheme, port, tuple(sorted(names[scheme, port]))) for scheme, port in sorted(names)]
