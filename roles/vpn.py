"""vpn: from outside the practice the devices of the clinic's file get in, through an encrypted tunnel, and nothing else does.

Claims: VPN-01 to VPN-06.  Changes from Debian defaults: a WireGuard interface `vpn` without an address, set up by a unit of ours.
What may come in through it is the firewall's to say (kit/ruleset.py).
"""

from __future__ import annotations

from pyinfra.api import deploy

from kit import deadman
from kit import operations as kit
from kit.clinic import this_clinic
from kit.deadman import Guarded
from kit.render import rendered, source
from kit.sections import Vpn

PACKAGES = ["wireguard-tools"]

HOME = "/etc/cabinet/vpn"
KEY, PUBLIC_KEY, DEVICES = f"{HOME}/private.key", f"{HOME}/public.key", f"{HOME}/vpn.conf"
PROGRAM = "/usr/local/lib/cabinet/vpn"
SERVICE = "/etc/systemd/system/cabinet-vpn.service"
AT_BOOT = "/etc/systemd/system/multi-user.target.d/cabinet-vpn.conf"


@deploy("vpn")
def vpn() -> None:
    """The server's key, then the tunnel; or neither."""
    wanted = this_clinic().vpn
    if wanted is not None:
        server_key()
    deadman.change(
        name="VPN-01 VPN-02 VPN-03 VPN-04 VPN-06 let in exactly the clinic's devices",
        switch="vpn",
        files=tunnel(wanted) if wanted else [Guarded(path, None) for path in (DEVICES, PROGRAM, SERVICE, AT_BOOT)],
        live=f"network={wanted.network}\n{source('vpn/live.sh')}" if wanted else source("vpn/gone.sh"),
        load=source("vpn/load.sh"),
        restore=source("vpn/load.sh"),
    )
    if wanted is None:
        kit.absent(name="VPN-05 no key without a tunnel", path=KEY)
        kit.absent(name="VPN-05 nor its public half", path=PUBLIC_KEY)


def server_key() -> None:
    """Made here, once, and root's alone from its first byte; whoever asks gets the public half."""
    kit.directory(name="VPN-05 a place for the server's key", path=HOME)
    kit.script(
        name="VPN-05 the server's key, made once",
        unless=f'test "$(stat -c "%a %U:%G" {KEY})" = "600 root:root"\nwg pubkey <{KEY} | cmp -s - {PUBLIC_KEY}',
        run=f"umask 077\ntest -s {KEY} || {{ wg genkey >{KEY}.new; mv {KEY}.new {KEY}; }}\n"
        f"chown root:root {KEY}; chmod 600 {KEY}\nwg pubkey <{KEY} >{PUBLIC_KEY}; chmod 644 {PUBLIC_KEY}",
    )


def tunnel(wanted: Vpn) -> list[Guarded]:
    """The files that decide who comes in from outside; a wrong one could shut out a technician who is there."""
    devices = rendered("vpn/vpn.conf.j2", port=wanted.port, peers=wanted.peers).encode()
    service = rendered("vpn/cabinet-vpn.service.j2", network=wanted.network).encode()
    return [
        Guarded(DEVICES, devices, "unshare --net sh -euc 'ip link add vpn type wireguard; wg setconf vpn {}'"),
        Guarded(PROGRAM, source("vpn/vpn").encode(), mode="755"),
        Guarded(SERVICE, service),
        Guarded(AT_BOOT, source("vpn/boot.conf").encode()),
    ]
