"""firewall: nothing reaches the server that its file does not publish, and nothing leaves it but by a few narrow ways.

Claims: FW-01 to FW-16.  Changes from Debian defaults: nftables drops by default, in both directions and before the network is up;
Debian's own nftables.service, which opens everything when it stops, is masked; names by systemd-resolved, the web by a filtering
squid, time by chrony with NTS where servers are named; the kernel forwards nothing and believes no redirects.
An off-site host has the same ones (deploy_vault.py).
"""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import deploy

from kit import deadman
from kit import operations as kit
from kit.facts import AptArchives
from kit.render import source
from kit.ruleset import Way, rulesets, web_ways
from kit.site import Site
from kit.vault import this_site

PACKAGES = ["nftables", "squid", "systemd-resolved", "chrony"]

FIREWALL = "/etc/cabinet/nftables"
SYSTEMD = "/etc/systemd/system"
MASKED = 'test "$(systemctl is-enabled chrony)" = masked'
# The kernel follows connections from here on, so that ours counts as one that goes on when the door shuts behind it.
WARM = """
nft 'destroy table inet cabinet_warm; table inet cabinet_warm {
	chain input { type filter hook input priority raw; ct state new; }
	chain output { type filter hook output priority raw; ct state new; }
}'"""


@deploy("firewall")
def firewall() -> None:
    """Shut both doors, then set up the few ways out."""
    site = this_site()
    ways = web_ways(site, host.get_fact(AptArchives))
    deadman.install()
    # It flushes every table when it is stopped. Masked first: to stop it after that does nothing.
    kit.script(
        name="FW-08 put Debian's own unit out of action",
        unless='test "$(systemctl show -P LoadState nftables)" = masked\n! systemctl --quiet is-active nftables',
        run=f"set_aside {SYSTEMD}/nftables.service\nrm -f {SYSTEMD}/nftables.service\n{masking('nftables.service')}",
    )
    deadman.change(
        name="FW-01 FW-02 FW-03 FW-04 FW-05 FW-06 FW-07 FW-09 FW-10 shut both doors but for what is named",
        switch="firewall",
        files=door(site, ways),
        live=source("firewall/live.sh"),
        load=source("firewall/load.sh"),
        restore=source("firewall/restore.sh"),
        prepare=WARM,
    )
    kernel()
    resolver(site)
    web_proxy(site, ways)
    clock(site)


def door(site: Site, ways: list[Way]) -> list[deadman.Guarded]:
    """The files that decide who comes in, all under the dead-man switch."""
    base, full = rulesets(site, ways)
    return [
        deadman.Guarded(f"{FIREWALL}/base.nft", base.encode(), check="nft --check --file {}"),
        deadman.Guarded(f"{FIREWALL}/cabinet.nft", full.encode(), check="nft --check --file {}"),
        _unit_file("cabinet-firewall-base.service", "cabinet-firewall-base.service"),
        _unit_file("cabinet-firewall.service", "cabinet-firewall.service"),
        _unit_file("sysinit.target.d/cabinet-firewall.conf", "boot.conf"),
        _unit_file("systemd-networkd.service.d/cabinet-firewall.conf", "network.conf"),
        _unit_file("networking.service.d/cabinet-firewall.conf", "network.conf"),
        _unit_file("NetworkManager.service.d/cabinet-firewall.conf", "network.conf"),
    ]


def _unit_file(path: str, src: str) -> deadman.Guarded:
    return deadman.Guarded(f"{SYSTEMD}/{path}", source(f"firewall/{src}").encode())


def masking(unit: str) -> str:
    """Lines of shell: nothing starts `unit` any more, and it is stopped. systemd reads its files anew only if it knew of the unit."""
    known = f'test "$(systemctl show -P LoadState {unit})" = masked'
    return f"systemctl --quiet --root=/ mask {unit}\n{known} || systemctl daemon-reload\nsystemctl stop {unit}"


def kernel() -> None:
    """What the kernel itself decides about packets."""
    conf = "/etc/sysctl.d/90-cabinet-network.conf"
    holds = source("firewall/sysctl.sh")
    kit.config_file(name="FW-13 describe the kernel's network settings", dest=conf, src="firewall/sysctl.conf")
    kit.script(name="FW-13 set them on every card", unless=holds, run=f"/usr/lib/systemd/systemd-sysctl {conf}\n{holds}")


def resolver(site: Site) -> None:
    """Names: one service asks, and nobody but the resolvers that are named."""
    conf = "/etc/systemd/resolved.conf.d/cabinet.conf"
    kit.config_file(name="FW-14 name the resolvers", dest=conf, template="firewall/resolved.conf.j2", resolvers=site.network.resolvers)
    kit.unit(name="FW-14 resolve names", unit="systemd-resolved.service", config=[conf])
    # A file, not the usual symbolic link: what somebody writes into the link's target would not be noticed.
    kit.config_file(name="FW-14 let every program ask that service", dest="/etc/resolv.conf", src="firewall/resolv.conf")


def web_proxy(site: Site, ways: list[Way]) -> None:
    """The web: one service asks, for these names only; apt asks that service."""
    conf, drop_in = "/etc/squid/squid.conf", f"{SYSTEMD}/squid.service.d/cabinet.conf"
    kit.config_file(
        name="FW-12 list what may be fetched",
        dest=conf,
        template="firewall/squid.conf.j2",
        check="squid -k parse -f {}",
        hostname=site.hostname,
        ways=ways,
    )
    tied = "tie the web proxy to the encrypted volume" if site.storage else "say how the web proxy runs"
    kit.config_file(name=f"FW-11 {tied}", dest=drop_in, template="firewall/squid-unit.conf.j2", on_volume=site.storage is not None)
    kit.script(
        name="FW-11 a place for its log",
        unless='test "$(stat -c "%a %U:%G" /var/log/squid)" = "750 proxy:proxy"',
        run="install -d -m 750 -o proxy -g proxy /var/log/squid",
    )
    kit.unit(name="FW-11 run the web proxy", unit="squid.service", config=[conf, drop_in])
    kit.config_file(name="FW-11 let apt ask the web proxy", dest="/etc/apt/apt.conf.d/61cabinet-proxy", src="firewall/apt.conf")


def clock(site: Site) -> None:
    """Time: from the servers that are named, authenticated. None named, none asked."""
    conf = "/etc/chrony/chrony.conf"
    kit.config_file(name="FW-15 name the time servers", dest=conf, template="firewall/chrony.conf.j2", ntp=site.network.ntp)
    if site.network.ntp:
        kit.script(name="FW-15 let the clock be set", unless=f"! {MASKED}", run="systemctl --quiet unmask chrony.service")
        kit.unit(name="FW-15 ask for the time", unit="chrony.service", config=[conf])
    else:
        # Not disabled: with its SysV script that takes ten seconds in the VM.
        kit.script(
            name="FW-15 ask nobody for the time",
            unless=f"{MASKED}\n! systemctl --quiet is-active chrony",
            run=masking("chrony.service"),
        )
