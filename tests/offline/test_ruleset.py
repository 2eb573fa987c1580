"""The firewall's rules as text: whom they let in, that each says why it is there, and that odd clinics give rules that nft can read."""

from __future__ import annotations

import re
from ipaddress import ip_network

from kit.clinic import Clinic, load
from kit.facts import AptArchives
from kit.paths import ROOT
from kit.register import load_claims
from kit.render import rendered
from kit.ruleset import Opening, Way, by_family, openings, rulesets, web_ways


def vm() -> Clinic:
    """The VM's clinic."""
    return load(ROOT / "clinics/vagrant.yaml")


def test_each_service_is_open_to_its_zone_alone() -> None:
    """The LAN and the VPN by their own cards; the management networks by whatever card they are routed."""
    assert openings(vm()) == [
        Opening("ssh", "management", 22, None, "ip", ("10.0.2.0/24", "10.70.0.0/24")),
        Opening("ssh", "management", 22, None, "ip6", ("fd70::/64",)),
        Opening("ssh", "vpn", 22, "vpn", "ip", ("10.71.0.0/24",)),
        Opening("https", "lan", 443, "lan", "ip", ("10.70.0.0/24",)),
        Opening("https", "lan", 443, "lan", "ip6", ("fd70::/64",)),
        Opening("https", "vpn", 443, "vpn", "ip", ("10.71.0.0/24",)),
        Opening("http", "lan", 80, "lan", "ip", ("10.70.0.0/24",)),
        Opening("http", "lan", 80, "lan", "ip6", ("fd70::/64",)),
        Opening("http", "vpn", 80, "vpn", "ip", ("10.71.0.0/24",)),
    ]


def test_without_a_vpn_nothing_is_open_to_it() -> None:
    """Neither its port nor its card is named, whatever is published to it; with one, SSH is open to it by each table alone."""
    clinic = vm()
    assert [("51820" in text, "tcp dport 22" in text and '"vpn"' in text) for text in rulesets(clinic, [])] == [(True, True)] * 2
    for text in rulesets(clinic.model_copy(update={"vpn": None}), []):
        assert '"vpn"' not in text and "51820" not in text


def test_alarms_get_out_where_there_is_somebody_to_tell() -> None:
    """By the account that sends them, to what its sets hold; a clinic without the section has no such rule."""
    clinic = vm()
    for wanted, text in ((2, rulesets(clinic, [])[1]), (0, rulesets(clinic.model_copy(update={"alarm": None}), [])[1])):
        assert len([line for line in text.splitlines() if "cabinet-alarm" in line]) == wanted
    assert clinic.alarm is not None and clinic.alarm.ways == (("10.70.0.20", 587), ("10.70.0.20", 443))


def test_the_copy_gets_out_where_there_is_one() -> None:
    """By the account that sends it, to what its sets hold; a clinic without the section has no such rule."""
    clinic = vm()
    for wanted, text in ((2, rulesets(clinic, [])[1]), (0, rulesets(clinic.model_copy(update={"offsite": None}), [])[1])):
        assert len([line for line in text.splitlines() if '"cabinet-offsite"' in line]) == wanted
    assert clinic.offsite is not None and clinic.offsite.url == "https://10.70.0.20:8443"


def test_networks_within_networks_become_one() -> None:
    """nft refuses a set whose members overlap."""
    networks = [ip_network(text) for text in ("10.1.0.0/24", "fd00::/64", "10.1.0.0/16", "10.1.0.7/32", "10.9.9.9/32")]
    assert by_family(networks) == [("ip", ("10.1.0.0/16", "10.9.9.9")), ("ip6", ("fd00::/64",))]


def test_each_rule_names_its_claim() -> None:
    """Whoever reads `nft list ruleset` on a server finds the promise behind each line."""
    clinic = load(ROOT / "clinics/example.yaml")
    lines = [line.strip() for text in rulesets(clinic, []) for line in text.splitlines()]
    rules = [line for line in lines if line and not re.match(r"#|\}|table |chain |set |destroy |type ", line)]
    assert len(rules) > 30, "control: there are rules"
    assert [rule for rule in rules if not re.search(rf'comment "({"|".join(load_claims())}) ', rule)] == []


def test_the_web_proxy_lets_through_what_apt_uses_and_the_clinic_names() -> None:
    """As it is used: a name that apt fetches from by http is not thereby open to https."""
    clinic = load(ROOT / "clinics/example.yaml")
    archives = [
        "http://deb.example/debian/",
        "http://deb.example/debian-security/",
        "https://other.example:8443/x",
        "file:/srv/archive",
        "cdrom://x/",
    ]
    assert web_ways(clinic, archives) == [
        Way("http", 80, ("deb.example",)),
        Way("https", 443, clinic.egress.hosts),
        Way("https", 8443, ("other.example",)),
    ]


def test_apts_sources_are_read_as_apt_reads_them() -> None:
    """Both formats; what is commented out or disabled is not an archive."""
    text = """\
== sources.list
# deb http://old.example/debian trixie main
deb [arch=amd64] http://one.example:3142/debian trixie main contrib
deb-src http://one.example:3142/debian trixie main

== sources.list.d/debian.sources
Types: deb
URIs: http://two.example/debian https://three.example/debian
Suites: trixie trixie-updates
Components: main

Enabled: no
Types: deb
URIs: http://four.example/debian
Suites: sid
Components: main
"""
    assert AptArchives().process(text.splitlines()) == [
        "http://one.example:3142/debian",
        "http://two.example/debian",
        "https://three.example/debian",
    ]


def test_a_clock_without_a_battery_is_set_again() -> None:
    """Every server is authenticated, so the first time has to be had with a clock by which no certificate is valid; that once alone."""
    lines = rendered("firewall/chrony.conf.j2", ntp=["ptbtime1.ptb.de", "ptbtime2.ptb.de", "nts.netnod.se"]).splitlines()
    servers = [line for line in lines if line.startswith("server ")]
    assert (len(servers), [line for line in servers if not line.endswith(" nts")]) == (3, [])
    assert sorted({"nocerttimecheck 1", "makestep 1 3", "minsources 2"} - set(lines)) == []
