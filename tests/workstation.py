"""A workstation of the practice and the application that it uses: what the proxy stands between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testinfra.host import Host

from kit.clinic import Clinic
from kit.neighbour import Neighbour

STRANGER = "another.example"

# It tells what it was told, and boasts.
APPLICATION = """
import http.server, socket
http.server.ThreadingHTTPServer.address_family = socket.AF_INET6
class Echo(http.server.BaseHTTPRequestHandler):
    server_version, sys_version = "Boastful/9.8", "Python"
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Powered-By", "Boastful 9.8")
        self.end_headers()
        self.wfile.write(("the application was told: " + str(self.headers)).encode())
http.server.ThreadingHTTPServer(("", %d), Echo).serve_forever()
"""


class Workstation:
    """A computer in the LAN that trusts the practice's authority, and knows the server's name."""

    def __init__(self, inside: Neighbour, clinic: Clinic, authority: Path) -> None:
        self.inside, self.authority = inside, authority
        self.name, self.address = clinic.proxy.names[0], str(clinic.network.lan.address.ip)

    def curl(self, *urls: str) -> str:
        """What curl prints; each of `urls` may carry options of its own, and they are asked one after the other, in one call."""
        common = f"-s --max-time 10 --cacert {self.authority} " + " ".join(
            f"--resolve {name}:{port}:{self.address}" for name in (self.name, STRANGER) for port in (80, 443)
        )
        return self.inside.run("; ".join(f"curl {common} {url}" for url in urls)).stdout

    def handshake(self, *options: str) -> list[str]:
        """The protocol and cipher that each set of s_client's options leads to; `refused` when there is no handshake."""
        one = f"openssl s_client -connect {self.address}:443 -servername {self.name} %s </dev/null 2>/dev/null"
        one += " | sed -n 's/^New, \\([^,]*\\), Cipher is /\\1 /p'"
        return [
            line.replace("(NONE) (NONE)", "refused")
            for line in self.inside.run("\n".join(one % option for option in options)).stdout.splitlines()
        ]


@contextmanager
def application(host: Host, clinic: Clinic) -> Iterator[None]:
    """The clinic's application; where none runs, one of ours takes its place, on all addresses."""
    port = int((clinic.proxy.upstream or ":8000").rpartition(":")[2])
    host.check_output(
        f"ss -Hltn 'sport = {port}' | grep -q . || systemd-run --quiet --collect --unit=test-application python3 -c %s\n"
        f"for i in $(seq 100); do ss -Hltn 'sport = {port}' | grep -q . && exit 0; sleep 0.1; done; exit 1", APPLICATION % port,
    )  # fmt: skip
    try:
        yield
    finally:
        host.run("systemctl stop test-application 2>/dev/null")
