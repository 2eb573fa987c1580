"""vpn: who is not in the practice comes in with a known key, through the tunnel, and by no other way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from testinfra.host import Host

from kit import keys, paths
from kit.away import Device
from kit.clinic import Clinic
from kit.neighbour import ADDRESS, SERVER, Neighbour, Outside
from kit.peer import configuration
from kit.render import rendered
from kit.sections import Peer
from roles.vpn import DEVICES, KEY, PROGRAM, PUBLIC_KEY
from tests.claim import claim
from tests.helpers import without_the_full_ruleset, written

# SSH, the application, and its redirect.
PORTS = (22, 80, 443)


@contextmanager
def device(host: Host, clinic: Clinic, outside: Outside, peer: Peer) -> Iterator[Device]:
    """One of the VM's devices, somewhere on the Internet, with what ./cabinet peer hands out for it."""
    private = (paths.state_dir() / "keys" / f"{peer.name}.wg").read_text()
    text = configuration(clinic, peer, host.check_output("cat %s", PUBLIC_KEY), private)
    with outside.machine.add_forward(clinic.vpn.port, "udp", outside.stranger()) as port:
        # The practice's router hands the port on.
        text = text.replace(f"Endpoint = {clinic.vpn.endpoint}:{clinic.vpn.port}", f"Endpoint = {outside.stranger()}:{port}")
        with Device(peer.name, text) as running:
            yield running


def peer_of(clinic: Clinic, person: str) -> Peer:
    """The first device of one of the VM's people."""
    return next(peer for peer in clinic.vpn.peers if peer.person == person)


def stranger(clinic: Clinic) -> Peer:
    """A device that the clinic's file does not know."""
    return Peer.model_construct(
        person="a", device="stranger", address=max(clinic.vpn.free_addresses), public_key=keys.vm_vpn_key("a-stranger")
    )


def let_in_from_anywhere(host: Host) -> None:
    host.check_output("nft insert rule inet cabinet input tcp dport 443 goto pass")


def firewall_reloaded(host: Host) -> None:
    """The rules are the firewall's, not this role's."""
    host.check_output("systemctl reload cabinet-firewall")


@claim("VPN-01", broken_by=let_in_from_anywhere, symptom="[443] answered a stranger", undo=firewall_reloaded)
def test_from_outside_only_the_vpn_leads_in(host: Host, clinic: Clinic, outside: Outside, vm_people: None) -> None:
    """A stranger on the Internet hears nothing from SSH and HTTPS, although both got asked; the same place with a tunnel hears both."""
    public = [str(network) for network in clinic.network.sources("ssh") if network.is_global]
    assert public == [], f"SSH answers on the Internet without the VPN: {public} (network.management)"
    address = outside.stranger()
    heard = [port for port in PORTS if outside.reaches(port, wait=1, address=address)]
    assert heard == [], f"{heard} answered a stranger"
    for port in (22, 443):
        lines = written(host, f"cabinet-in: IN={clinic.network.internet.interface} .*SRC={address} .*DPT={port} ")
        assert lines, f"control: port {port} of the server was not even asked"
    with device(host, clinic, outside, peer_of(clinic, "amina")) as phone:
        assert phone.shook_hands(wait=20), "control: the VPN does not answer amina's phone"
        assert [port for port in PORTS if phone.reaches(SERVER, port, wait=10)] == list(PORTS), "something does not answer through the VPN"
        assert not phone.reaches(ADDRESS, 22, wait=1), "the VPN leads on into the practice"


def leavers_kept(host: Host) -> None:
    host.check_output(f"sed -i 's/wg syncconf/wg addconf/' {PROGRAM}")


@claim("VPN-02", broken_by=leavers_kept, symptom="still answers")
def test_who_is_taken_out_is_cut_off_at_once(host: Host, clinic: Clinic, outside: Outside, vm_people: None) -> None:
    """Amina's phone leaves the list while it is connected; Salim's laptop goes on by the same handshake."""
    stays, leaves = peer_of(clinic, "salim"), peer_of(clinic, "amina")
    without = rendered("vpn/vpn.conf.j2", port=clinic.vpn.port, peers=[peer for peer in clinic.vpn.peers if peer != leaves])
    with device(host, clinic, outside, stays) as laptop, device(host, clinic, outside, leaves) as phone:
        hands = laptop.shook_hands(wait=20)
        assert hands and laptop.reaches(SERVER, 443, wait=10), "control: salim's laptop does not get in"
        assert phone.reaches(SERVER, 443, wait=10), "control: amina's phone does not get in"
        host.check_output(f"cp -p {DEVICES} /run/vpn.conf && cat >{DEVICES} <<'CONF'\n{without}CONF\nsystemctl reload cabinet-vpn")
        try:
            assert not phone.reaches(SERVER, 443, wait=3), "the server still answers a device that was taken out"
            assert laptop.reaches(SERVER, 443, wait=10) and laptop.shook_hands() == hands, "who stays was cut off as well"
        finally:
            host.check_output(f"mv /run/vpn.conf {DEVICES} && systemctl reload cabinet-vpn")


def stranger_let_in(host: Host) -> None:
    host.check_output(f"wg set vpn peer '{keys.vm_vpn_key('a-stranger')}' allowed-ips 10.71.0.200/32")


# From the LAN, where a refusal would be seen: what each port says to each datagram. The sizes are those of WireGuard's own messages,
# and of what scanners send. The last line asks this machine itself, at a port where nobody listens: so a refusal looks.
SCAN = """
import socket, sys
def ask(host, port, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(float(sys.argv[3]))
        link.connect((host, port))
        link.send(data)
        try:
            return f"answered with {len(link.recv(2048))} bytes"
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
server, port = sys.argv[1], int(sys.argv[2])
for data in (b"", b"?" * 40, b"\\1\\0\\0\\0" + b"?" * 144, b"\\4\\0\\0\\0" + b"?" * 28):
    print(len(data), ask(server, port, data))
print("control", ask("127.0.0.1", 9, b"?"))
"""


@claim("VPN-03", broken_by=stranger_let_in, symptom="answered a key that it should not know")
def test_nobody_hears_it_without_a_known_key(host: Host, clinic: Clinic, inside: Neighbour, outside: Outside, vm_people: None) -> None:
    """A right handshake by a strange key is left unanswered, and whatever else is sent there as well; a known key is answered."""
    with device(host, clinic, outside, stranger(clinic)) as nobody, device(host, clinic, outside, peer_of(clinic, "amina")) as phone:
        # The stranger asked first, so that the server has looked at it when it answers the phone.
        assert phone.shook_hands(wait=20), "control: a known key is not answered"
        assert not nobody.shook_hands(wait=2) and nobody.heard() == 0, "the server answered a key that it should not know"
    said = inside.run(["python3", "-Ic", SCAN, SERVER, str(clinic.vpn.port), "1"]).stdout.splitlines()
    assert said.pop() == "control refused", "control: a refusal would not be seen"
    assert said == ["0 silent", "40 silent", "148 silent", "32 silent"], f"the port can be seen: {said}"


def address_widened(host: Host) -> None:
    host.check_output("wg set vpn peer $(wg show vpn peers | head -1) allowed-ips 0.0.0.0/0")


@claim("VPN-04", broken_by=address_widened, symptom="0.0.0.0/0")
def test_exactly_the_clinics_devices_have_a_key(host: Host, clinic: Clinic) -> None:
    """What the kernel lets in, and as which address, is what the clinic's file says; there is no second tunnel, and without a VPN none."""
    wanted = [f"vpn\t{peer.public_key}\t{peer.address}/32" for peer in clinic.vpn.peers] if clinic.vpn else []
    found = host.check_output("wg show all allowed-ips").splitlines()
    assert sorted(set(found) ^ set(wanted)) == [], f"the kernel lets in {found}"
    ports = [f"vpn\t{clinic.vpn.port}"] if clinic.vpn else []
    assert host.check_output("wg show all listen-port").splitlines() == ports


def key_laid_open(host: Host) -> None:
    host.check_output(f"chmod 644 {KEY}")


@claim("VPN-05", broken_by=key_laid_open, symptom="644")
def test_the_servers_key_lies_there_for_root_alone(host: Host, clinic: Clinic) -> None:
    """It is the one that the tunnel goes by, root's alone, and no other file, log or setting repeats it. Without a VPN there is none."""
    there = [KEY] if clinic.vpn else []
    assert host.run(f"stat -c '%a %U:%G %n' {KEY}").stdout.splitlines() == [f"600 root:root {path}" for path in there]
    live = host.check_output("wg show all public-key").split()[1:]
    assert live == [host.check_output(f"wg pubkey <{path}") for path in there], "the tunnel goes by another key"
    # The first half is enough to find it, and too little to be it.
    copies = host.check_output(
        f"cd /run; cat {KEY} 2>/dev/null | head -c 20 >pattern; "
        "grep -rslaFf pattern -D skip /etc /run /tmp /usr/local /var/log /root /home /proc/[0-9]*/cmdline; rm pattern"
    ).split()
    assert copies == [path for path in (*there, "/run/pattern") if there], f"found in {copies}; the pattern itself is the control"


def base_closed_to_it(host: Host) -> None:
    rule = "$(nft -a list chain inet cabinet_base input | sed -n '/udp dport/s/.*handle //p')"
    host.check_output(f"nft delete rule inet cabinet_base input handle {rule}")


def base_reloaded(host: Host) -> None:
    """The rules are the firewall's, not this role's."""
    host.check_output("systemctl reload cabinet-firewall-base")


@claim("VPN-06", broken_by=base_closed_to_it, symptom="the VPN is silent", undo=base_reloaded)
def test_it_leads_in_when_the_rules_are_broken(host: Host, clinic: Clinic, outside: Outside, vm_people: None) -> None:
    """A device that comes when the full ruleset is gone is answered, and reaches SSH alone."""
    with without_the_full_ruleset(host, "nft delete table inet cabinet"), device(host, clinic, outside, peer_of(clinic, "salim")) as laptop:
        assert laptop.shook_hands(wait=20), "the VPN is silent without the full ruleset"
        assert [port for port in PORTS if laptop.reaches(SERVER, port, wait=5)] == [22]
