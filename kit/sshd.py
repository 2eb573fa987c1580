"""An sshd for tests and benches that listens nowhere: each connection to a port of ours starts one (`sshd -i`), and one key gets in.

So it opens nobody's door: who reaches it runs commands as root there already. It needs no second factor and speaks what paramiko
speaks, which the kit's own door does not.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from kit.delay import Line

DIRECTORY = "/run/other-door"  # on the server
LOG = f"{DIRECTORY}/log"
CONFIG = f"""\
HostKey {DIRECTORY}/host_key
AuthorizedKeysFile {DIRECTORY}/key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
PidFile none
Subsystem sftp internal-sftp
LogLevel VERBOSE
"""
# Without PAM, sshd refuses root on a server of ours, whose password is locked. runuser's rules ask nobody for anything.
LOCKED_ROOT = CONFIG.replace("UsePAM no\n", "UsePAM yes\nPAMServiceName runuser\n")
INSTALL = f"umask 022; rm -rf {DIRECTORY}; mkdir -p /run/sshd {DIRECTORY} && tar -xf - -C {DIRECTORY} --no-same-owner && : >{LOG}"

COUNT = f"grep -c 'Starting session' {LOG}; sed -n 's/^processes //p' /proc/stat"


class Sshd:
    """`with Sshd(…) as sshd:` what goes to a host of `sshd.ssh_config` gets to the server, over `sshd.line`."""

    def __init__(self, inside: Callable[[str], list[str]], scratch: Path, hosts: Sequence[str] = ("server",), user: str = "root") -> None:
        """`inside` turns a line of shell into the words that run it there as root. All `hosts` are the one server; `scratch` is private."""
        self.inside, self.scratch, self.hosts, self.user = inside, scratch, list(hosts), user
        self.key, self.ssh_config = scratch / "key", scratch / "ssh_config"
        addresses = [f"127.0.0.{number}" for number in range(1, len(self.hosts) + 1)]
        self.line = Line(inside(f"exec /usr/sbin/sshd -i -f {DIRECTORY}/config -E {LOG}"), addresses)

    def __enter__(self) -> Self:
        (self.scratch / "config").write_text(CONFIG)
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.scratch / name)], check=True)
        sent = ["tar", "-C", str(self.scratch), "-cf", "-", "config", "host_key", "key.pub"]
        subprocess.run(self.inside(INSTALL), input=subprocess.run(sent, check=True, capture_output=True).stdout, check=True)
        self.line.__enter__()
        host_key = " ".join((self.scratch / "host_key.pub").read_text().split()[:2])
        pairs = list(zip(self.hosts, self.line.addresses, strict=True))
        (self.scratch / "known_hosts").write_text("".join(f"[{address}]:{self.line.port} {host_key}\n" for _, address in pairs))
        common = f"  Port {self.line.port}\n  User {self.user}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
        common += f"  UserKnownHostsFile {self.scratch}/known_hosts\n  StrictHostKeyChecking yes\n"
        self.ssh_config.write_text("".join(f"Host {host}\n  HostName {address}\n{common}" for host, address in pairs))
        return self

    def __exit__(self, *_: object) -> None:
        self.line.__exit__()
        subprocess.run(self.inside(f"rm -rf {DIRECTORY}"), check=True)

    def write(self, name: str, text: str) -> None:
        """Put a file beside sshd's own. Its `config` counts from the next connection on."""
        subprocess.run(self.inside(f"cat >{DIRECTORY}/{name}"), input=text, text=True, check=True)

    def count(self) -> tuple[int, int]:
        """How many commands, shells and subsystems it has started, and how many processes the server has, ever."""
        said = subprocess.run(self.inside(COUNT), check=True, capture_output=True, text=True).stdout
        sessions, processes = said.split()
        return int(sessions), int(processes)


def by_master(riding: Callable[..., list[str]], host: str) -> Callable[[str], list[str]]:
    """`inside` for a server that an open connection leads to, as somebody who may become root."""
    return lambda command: riding("-T", host, f"exec sudo -n sh -c {shlex.quote(command)}")
