"""firewall: closed in both directions, before the network is up, when it is broken and when it is stopped."""

from __future__ import annotations

import difflib
import shlex
import socket

from testinfra.host import Host

from kit.clinic import Clinic
from kit.facts import AptArchives
from kit.neighbour import Neighbour, Outside
from kit.render import rendered, source
from kit.ruleset import Way, rulesets, web_ways
from tests.ask import answers
from tests.claim import claim
from tests.helpers import listening, without_the_full_ruleset, written

SERVER, SERVER6 = "10.70.0.10", "fd70::10"
NEIGHBOUR, NEIGHBOUR6 = "10.70.0.20", "fd70::20"
# This machine, as the server sees it from the Internet side.
FAR = "10.0.2.2"
SSH = f"@tcp@{SERVER}@22"


def from_lan(inside: Neighbour, *targets: str) -> list[str]:
    """Who answers the neighbour; SSH is the control."""
    heard = answers(lambda words: inside.run(words).stdout, SSH, *targets)
    assert SSH in heard, "control: not even SSH answered"
    return sorted(set(heard) - {SSH})


def from_server(host: Host, control: str, *targets: str) -> list[str]:
    """Who answers the server's users; the control must."""
    heard = answers(lambda words: host.check_output(shlex.join(words)), control, *targets)
    assert control in heard, f"control: {control} did not answer"
    return sorted(set(heard) - {control})


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nothing_but_ssh(host: Host, inside: Neighbour) -> None:
    """Something listens, nothing but SSH answers: neither what nobody published nor what the clinic did."""
    with listening(host, 4711, ipv6=True):
        heard = from_lan(inside, f"@tcp@{SERVER}@4711", f"@tcp@{SERVER6}@4711", f"@open@{SERVER}@443")
        assert heard == [], f"{' '.join(heard)} answered"


def port_let_in(host: Host) -> None:
    host.check_output("nft insert rule inet cabinet input tcp dport 4711 goto pass")


@claim("FW-01", broken_by=port_let_in, symptom="@4711 answered")
def test_an_unpublished_port_is_silent(host: Host, inside: Neighbour, outside: Outside) -> None:
    """Something listens, and nothing answers, seen from the LAN and from the Internet side; SSH does answer on both."""
    with listening(host, 4711, ipv6=True):
        heard = from_lan(inside, f"@tcp@{SERVER}@4711")
        assert heard == [], f"{' '.join(heard)} answered in the LAN"
        assert outside.reaches(22, wait=20), "control: not even SSH answered on the Internet side"
        assert not outside.reaches(4711, wait=1), "4711 answered on the Internet side"


def root_let_out(host: Host) -> None:
    host.check_output("nft insert rule inet cabinet output meta skuid root goto pass")


@claim("FW-02", broken_by=root_let_out, symptom="got out")
def test_nobody_gets_out_unasked(host: Host, inside: Neighbour, outside: Outside) -> None:
    """Something listens in the LAN and on the Internet side; only the web proxy's own account gets there, and only to web ports."""
    far_port = free_port()
    with (
        inside.listening(80) as web,
        inside.listening(4711) as odd,
        inside.listening(4711, proto="udp") as udp,
        outside.listening(far_port) as far,
    ):
        control = f"proxy@tcp@{NEIGHBOUR}@80"  # not 443: alarms that wait for the practice's webhook go there
        places = [f"@tcp@{NEIGHBOUR}@80", f"@tcp@{NEIGHBOUR}@4711", f"@udp@{NEIGHBOUR}@4711", f"@tcp@{FAR}@{far_port}"]
        tried = [user + place for user in ("root", "nobody", "_apt") for place in places] + [f"proxy@tcp@{NEIGHBOUR}@4711"]
        heard = from_server(host, control, *tried)
    assert heard == [], f"{heard} got out"
    assert (web.callers, odd.callers + udp.callers + far.callers) == ([SERVER], []), "somebody got out, unanswered"


def ipv6_let_in(host: Host) -> None:
    host.check_output("nft insert rule inet cabinet input meta nfproto ipv6 goto pass")


@claim("FW-03", broken_by=ipv6_let_in, symptom="@4711 answered")
def test_ipv6_is_closed_as_well(host: Host, inside: Neighbour) -> None:
    """The same over IPv6, in both directions; SSH answers over it, and the web proxy's account gets out."""
    with listening(host, 4711, ipv6=True):
        control, silent = f"@tcp@{SERVER6}@22", f"@tcp@{SERVER6}@4711"
        heard = from_lan(inside, control, silent)
        assert control in heard, "control: not even SSH answered"
        assert silent not in heard, f"{silent} answered"
    with inside.listening(443, ipv6=True) as web, inside.listening(4711, ipv6=True) as odd:
        heard = from_server(host, f"proxy@tcp@{NEIGHBOUR6}@443", f"root@tcp@{NEIGHBOUR6}@443", f"root@tcp@{NEIGHBOUR6}@4711")
    assert heard == [], f"{heard} got out"
    assert (len(web.callers), odd.callers) == (1, []), "somebody got out, unanswered"


def ruleset_flushed(host: Host) -> None:
    host.check_output("nft flush ruleset")


@claim("FW-04", broken_by=ruleset_flushed, symptom="passed through the server")
def test_nothing_is_passed_on(host: Host, inside: Neighbour, outside: Outside) -> None:
    """Even when the kernel is told to forward, a neighbour that takes the server for a router gets nowhere."""
    port = free_port()
    asked = f"timeout 2 python3 -Ic 'import socket; socket.create_connection((\"{FAR}\", {port}), 2)'"
    with outside.listening(port) as far:
        host.check_output("sysctl -q -w net.ipv4.conf.lan.forwarding=1")
        try:
            inside.run(f"ip route replace {FAR} via {SERVER}; {asked}; ip route delete {FAR}")
        finally:
            host.check_output("sysctl -q -w net.ipv4.conf.lan.forwarding=0")
    assert far.callers == [], "a packet of the neighbour passed through the server"
    assert written(host, f"cabinet-fwd: .*DPT={port} "), "control: the packet did not come as far as the firewall"


def base_deleted(host: Host) -> None:
    host.check_output("nft delete table inet cabinet_base")


@claim("FW-05", broken_by=base_deleted, symptom="@4711 ")
def test_it_is_closed_before_the_network_is_up(host: Host, inside: Neighbour) -> None:
    """systemd starts the network only after, and never without, a table that by itself lets in SSH alone."""
    systemd = "systemctl show -P %s %s"
    unit = "cabinet-firewall-base.service"
    assert unit in host.check_output(systemd, "Requires", "systemd-networkd").split()
    assert {"network-pre.target", "systemd-networkd.service"} <= set(host.check_output(systemd, "Before", unit).split())
    assert unit in host.check_output(systemd, "Wants", "sysinit.target").split()
    assert host.check_output(systemd, "DefaultDependencies", unit) == "no"
    with without_the_full_ruleset(host, "nft delete table inet cabinet"):
        nothing_but_ssh(host, inside)


def base_softened(host: Host) -> None:
    host.check_output("sed -i 's/policy drop/policy accept/' /etc/cabinet/nftables/base.nft && nft -f /etc/cabinet/nftables/base.nft")


@claim("FW-06", broken_by=base_softened, symptom="answered")
def test_it_is_closed_when_its_rules_are_broken(host: Host, inside: Neighbour) -> None:
    """A ruleset that does not load leaves what is closed closed, and SSH open."""
    path = "/etc/cabinet/nftables/cabinet.nft"
    host.check_output(f"cp -p {path} /run/cabinet.nft")
    try:
        with without_the_full_ruleset(host, f"echo 'allow everything' >> {path}; systemctl restart cabinet-firewall"):
            try:
                assert host.run("systemctl is-active cabinet-firewall").stdout.strip() == "failed"
                nothing_but_ssh(host, inside)
            finally:
                host.check_output(f"mv /run/cabinet.nft {path}")
    finally:
        host.run("systemctl reset-failed cabinet-firewall")


def stop_made_to_open(host: Host) -> None:
    host.check_output("printf '[Service]\\nExecStop=nft flush ruleset\\n' | systemctl edit --stdin cabinet-firewall")


@claim("FW-07", broken_by=stop_made_to_open, symptom="answered")
def test_stopping_it_closes_it(host: Host, inside: Neighbour) -> None:
    """`systemctl stop` leaves SSH and nothing else."""
    with without_the_full_ruleset(host, "systemctl stop cabinet-firewall"):
        nothing_but_ssh(host, inside)


def debians_unit_unmasked(host: Host) -> None:
    host.check_output("systemctl unmask nftables")


@claim("FW-08", broken_by=debians_unit_unmasked, symptom="loaded")
def test_debians_unit_cannot_run(host: Host) -> None:
    """nftables.service would flush everything when it stops; it is masked."""
    assert host.check_output("systemctl show -P LoadState cabinet-firewall") == "loaded", "control: systemd does not know our unit"
    assert host.check_output("systemctl show -P LoadState nftables") == "masked"


def log_rules_removed(host: Host) -> None:
    host.check_output("nft flush chain inet cabinet refuse_in")


@claim("FW-09", broken_by=log_rules_removed, symptom="nothing was written")
def test_what_is_refused_is_written_down(host: Host, inside: Neighbour) -> None:
    """A refused packet, in each direction, is in the journal with its time, its sender and its port."""
    port = free_port()
    assert from_lan(inside, f"@tcp@{SERVER}@{port}") == []
    host.run(f"timeout 2 runuser -u nobody -- bash -c '</dev/tcp/{NEIGHBOUR}/{port}'")
    nobody = host.check_output("id -u nobody")
    for pattern in (f"cabinet-in: .*SRC={NEIGHBOUR} .*DPT={port} ", f"cabinet-out: .*DST={NEIGHBOUR} .*DPT={port} .*UID={nobody} "):
        lines = written(host, pattern)
        assert lines, f"nothing was written that matches {pattern}"


@claim("FW-10", broken_by=port_let_in, symptom="tcp dport 4711 goto pass")
def test_the_kernel_follows_exactly_these_rules(host: Host, clinic: Clinic) -> None:
    """The whole live ruleset equals what this tree describes; the kernel prints both, so spelling does not matter."""
    base, full = rulesets(clinic, ways(host, clinic))
    wanted = host.check_output("unshare --net sh -euc %s", f"nft -f - <<'RULES'\n{base}{full}\nRULES\n{VIEW}")
    live = host.check_output(VIEW)
    assert "policy drop" in wanted, "control: the ruleset to compare with is empty"
    difference = list(difflib.unified_diff(wanted.splitlines(), live.splitlines(), "wanted", "live", lineterm="", n=0))
    assert difference == [], "\n".join(difference)


# Without the elements of named sets (-t): whom alarms go to at this moment is ALM-05's.
VIEW = "nft list tables | sort; nft -s list table inet cabinet_base; nft -st list table inet cabinet"


def ways(host: Host, clinic: Clinic) -> list[Way]:
    """What the web proxy should let through."""
    return web_ways(clinic, archives(host))


def archives(host: Host) -> list[str]:
    """The archives in the server's own apt sources."""
    fact = AptArchives()
    return fact.process(host.check_output(fact.command().get_raw_value()).splitlines())


def proxy_stopped(host: Host) -> None:
    host.check_output("systemctl stop squid")


@claim("FW-11", broken_by=proxy_stopped, symptom="apt gets nothing")
def test_updates_arrive_through_the_proxy_alone(host: Host) -> None:
    """apt fetches the list of security updates; told to go directly, it gets nothing."""
    security = next(archive for archive in archives(host) if "security" in archive)
    # That list alone: all of them take an emulated server half a minute to sort.
    host.check_output(f"echo 'deb {security} trixie-security main' >/run/security.list")
    alone = "-o Dir::Etc::sourcelist=/run/security.list -o Dir::Etc::sourceparts=/dev/null -o APT::Get::List-Cleanup=0"
    fetch = f"apt-get -q update --error-on=any -o Acquire::Retries=0 {alone}"
    done = host.run(fetch)
    assert done.rc == 0, f"apt gets nothing: {done.stdout[-500:]}{done.stderr[-500:]}"
    assert host.run(f"{fetch} -o Acquire::http::Proxy=DIRECT -o Acquire::https::Proxy=DIRECT").rc != 0, "apt got out without the proxy"


def proxy_opened(host: Host) -> None:
    host.check_output("sed -i '1i http_access allow all' /etc/squid/squid.conf && systemctl reload squid && sleep 1")


FETCH = """
import socket, sys
for line in sys.argv[1:]:
    with socket.create_connection(("127.0.0.1", 3128), 10) as link:
        link.settimeout(20)
        link.sendall(f"{line} HTTP/1.0\\r\\n\\r\\n".encode())
        print(link.makefile("rb").readline().split()[1].decode(), line)
"""


@claim("FW-12", broken_by=proxy_opened, symptom="was fetched")
def test_the_proxy_lets_through_exactly_these_names(host: Host, clinic: Clinic, inside: Neighbour) -> None:
    """A host of the list is fetched from; another, the same by number, and the same at another port are refused."""
    allowed = ways(host, clinic)
    archive = archives(host)[0]
    name = allowed[0].names[0]
    refused = [
        f"CONNECT {NEIGHBOUR}:443",
        f"GET http://{NEIGHBOUR}/",
        f"CONNECT {name}:22",
        f"GET http://{name}:8080/",
        "GET http://nobody.invalid/",
    ]
    with inside.listening(443), inside.listening(80):
        asked = [f"GET {archive}/dists/trixie/InRelease" if archive.startswith("http:") else f"CONNECT {name}:443", *refused]
        first, *others = host.check_output(f"python3 -Ic {shlex.quote(FETCH)} {shlex.join(asked)}").splitlines()
    # Some archives answer by naming a nearer one; the proxy's own refusal is 403.
    assert first.startswith(("200 ", "301 ", "302 ")), f"control: {first}"
    assert [line for line in others if not line.startswith("403 ")] == [], "what is not on the list was fetched"
    assert host.file("/etc/squid/squid.conf").content_string == rendered("firewall/squid.conf.j2", hostname=clinic.hostname, ways=allowed)


def forwarding_switched_on(host: Host) -> None:
    host.check_output("sysctl -q -w net.ipv4.ip_forward=1")


@claim("FW-13", broken_by=forwarding_switched_on, symptom="ip_forward")
def test_the_kernel_forwards_and_believes_nothing(host: Host) -> None:
    """Every setting of the list has its value, on every card there is."""
    lines = [line.split(" = ") for line in source("firewall/sysctl.conf").splitlines() if line and not line.startswith("#")]
    found = host.check_output(f"cd /proc/sys && grep -H . {' '.join(key for key, _ in lines)}").splitlines()
    live = {path: " ".join(value.split()) for path, _, value in (line.partition(":") for line in found)}
    assert len([path for path in live if path.startswith("net/ipv4/conf/lan/")]) > 5, "control: the LAN card is not among them"
    wrong = {path: live[path] for key, value in lines for path in live if matches(path, key) and live[path] != " ".join(value.split())}
    assert wrong == {}, f"not as wanted: {wrong}"


def matches(path: str, key: str) -> bool:
    """Whether a path of /proc/sys is meant by a key in which * is one card."""
    before, star, after = key.partition("*")
    return path == key if not star else path.startswith(before) and path.endswith(after) and "/" not in path[len(before) : -len(after)]


def resolver_bypassed(host: Host) -> None:
    host.check_output("rm -f /etc/resolv.conf && echo nameserver 9.9.9.9 > /etc/resolv.conf")


@claim("FW-14", broken_by=resolver_bypassed, symptom="9.9.9.9")
def test_names_are_asked_of_the_clinics_resolvers_alone(host: Host, clinic: Clinic) -> None:
    """Every program asks the resolver service, which asks the clinic's servers; nobody shouts into the LAN or answers there."""
    asked = host.check_output("grep '^nameserver' /etc/resolv.conf").splitlines()
    assert asked == ["nameserver 127.0.0.53"], f"programs ask {asked}"
    servers = host.check_output("resolvectl dns").splitlines()[0].partition(":")[2].split()
    assert servers == [str(address) for address in clinic.network.resolvers]
    assert host.check_output("ss -Hulnp 'sport = 5355 or sport = 5353'") == ""
    assert host.check_output("getent ahosts %s", ways(host, clinic)[0].names[0]), "control: no name is found"


def stranger_asked_for_the_time(host: Host) -> None:
    host.check_output("echo 'server 10.0.2.2 iburst' >> /etc/chrony/chrony.conf")
    host.check_output("systemctl --quiet unmask chrony && systemctl restart chrony")


@claim("FW-15", broken_by=stranger_asked_for_the_time, symptom="10.0.2.2")
def test_the_time_comes_from_these_servers_alone(host: Host, clinic: Clinic) -> None:
    """chrony knows exactly the clinic's servers, and no other time service runs; without servers in the clinic's file none runs at all."""
    running = host.run("systemctl is-active chrony").rc == 0
    names = [line.split(",")[2] for line in host.check_output("chronyc -c -N sources -a").splitlines()] if running else []
    assert sorted(names) == sorted(clinic.network.ntp), f"asked are {names}"
    assert running == bool(clinic.network.ntp)
    others = host.run("systemctl is-active systemd-timesyncd ntpsec openntpd").stdout.split()
    assert "active" not in others


def switch_removed(host: Host) -> None:
    host.check_output("rm /usr/local/lib/cabinet/deadman")


@claim("FW-16", broken_by=switch_removed, symptom="deadman")
def test_a_shut_door_opens_by_itself(host: Host, inside: Neighbour) -> None:
    """A change that shuts SSH out is put back when its time is over, or at the next boot."""
    path, deadman = "/etc/cabinet/nftables/cabinet.nft", "/usr/local/lib/cabinet/deadman"
    before = host.check_output("sha256sum %s", path)
    host.check_output(f"{deadman} arm test 600 'systemctl reload cabinet-firewall' {path} /etc/cabinet/new")
    try:
        shut = f"sed -i '/ct state established/i tcp dport 22 ct state new drop' {path}"
        host.check_output(f"touch /etc/cabinet/new; {shut}; systemctl reload cabinet-firewall")
        assert not inside.reaches(22, wait=1), "control: the door is not shut"
        assert host.check_output("systemctl show -P ActiveState cabinet-deadman-test.timer") == "active"
        # What the timer will do, without waiting for it.
        host.check_output("systemctl start cabinet-deadman-test.service")
        assert inside.reaches(22, wait=10), "the door stays shut"
        assert host.check_output("sha256sum %s", path) == before
        assert host.run("ls /etc/cabinet/new /etc/cabinet/deadman/test").stdout == "", "not everything was put back"
    finally:
        host.check_output(f"{deadman} rollback test")
    assert "cabinet-deadman.service" in host.check_output("systemctl show -P Wants sysinit.target").split()
    assert "cabinet-firewall-base.service" in host.check_output("systemctl show -P Before cabinet-deadman.service").split()
