"""Two places to look at the practice machine from: its LAN (`Neighbour`) and the Internet side (`Outside`).

The neighbour is a network namespace with one card, joined to the machine's LAN card by a relay that copies frames.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kit.host import PATH, HostError, as_admin, capture, runner_directory
from kit.paths import ROOT, instance_id, state_dir

if TYPE_CHECKING:
    from kit.vm import Machine

SERVER, SERVER6 = "10.70.0.10", "fd70::10"
ADDRESS, ADDRESS6 = "10.70.0.20", "fd70::20"
# RFC 5737 leaves these addresses to examples; each checkout has its own.
STRANGER = f"198.51.100.{int(instance_id(), 16) % 254 + 1}"

# Run inside the namespace: exit code 0 when something answers at the port.
PROBE = """
import socket, sys
host, port, proto, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as link:
    link.settimeout(wait)
    try:
        link.connect((host, port))
        if proto == "udp":
            link.send(b"hello from the neighbour\\n")
            link.recv(1)
    except OSError:
        sys.exit(1)
"""

# Run inside the namespace: answers everyone, and prints one line for each who came.
LISTENER = """
import socket, sys
address, port, proto = sys.argv[1], int(sys.argv[2]), sys.argv[3]
link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
link.bind((address, port))
if proto == "tcp":
    link.listen()
print("listening", flush=True)
while True:
    if proto == "tcp":
        caller, who = link.accept()
        with caller:
            caller.sendall(b"neighbour\\n")
    else:
        _, who = link.recvfrom(2048)
        link.sendto(b"neighbour\\n", who)
    print(who[0], flush=True)
"""


@dataclass(frozen=True)
class Result:
    """How a command in the neighbour ended."""

    rc: int
    stdout: str
    stderr: str


@dataclass
class Visits:
    """Who came to a listener: one entry for each connection or datagram, in order."""

    callers: list[str] = field(default_factory=list)

    def arrived(self, seconds: float = 2) -> bool:
        """Whether anyone has come, or comes within that time."""
        end = time.monotonic() + seconds
        while not self.callers and time.monotonic() < end:
            time.sleep(0.05)
        return bool(self.callers)


class Neighbour:
    """A computer in the practice's LAN: 10.70.0.20 and fd70::20, beside the server."""

    def __init__(self) -> None:
        self.namespace = f"cab-{instance_id()}"
        self.pid_file = state_dir() / "relay.pid"

    def up(self) -> None:
        """Make the namespace and start the relay, whatever of them is missing."""
        if self._relay_pid():
            return
        if not Path("/run/netns", self.namespace).exists():
            capture(as_admin(["ip", "netns", "add", self.namespace]), show=False)
        runner_directory("run")
        with open(state_dir() / "relay.log", "w") as log:
            relay = subprocess.Popen(
                self._inside([sys.executable, "-m", "kit.relay", str(state_dir()), str(os.stat(state_dir()).st_uid), ADDRESS, ADDRESS6]),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert relay.stdout is not None
        said = relay.stdout.readline().strip()
        relay.wait()
        if said != "ready":
            raise HostError(f"the neighbour's relay did not start: {(state_dir() / 'relay.log').read_text().strip()}")

    def down(self) -> None:
        """End the relay and remove the namespace, and the stranger's address on the other side."""
        if pid := self._relay_pid():
            capture(as_admin(["sh", "-c", f"kill {pid}"]), show=False)
        if Path("/run/netns", self.namespace).exists():
            capture(as_admin(["ip", "netns", "delete", self.namespace]), show=False)
            capture(as_admin(["ip", "address", "delete", f"{STRANGER}/32", "dev", "lo"]), show=False, check=False)
        self.pid_file.unlink(missing_ok=True)

    def run(self, command: str | Sequence[str], timeout: float = 30, input: str | None = None) -> Result:
        """Run a command of this machine in the LAN, as root. A string goes to sh."""
        self.up()
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        done = subprocess.run(
            self._inside(words),
            timeout=timeout,
            text=True,
            errors="replace",
            capture_output=True,
            check=False,
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def reaches(self, port: int, proto: str = "tcp", ipv6: bool = False, host: str | None = None, wait: float = 2) -> bool:
        """Whether the server's port lets a TCP connection in, or answers a datagram."""
        target = host or (SERVER6 if ipv6 else SERVER)
        return self.run([sys.executable, "-I", "-c", PROBE, target, str(port), proto, str(wait)], timeout=wait + 20).rc == 0

    @contextlib.contextmanager
    def listening(self, port: int, proto: str = "tcp", ipv6: bool = False) -> Iterator[Visits]:
        """Something in the LAN that answers at a port, and notes who came."""
        visits = Visits()
        words = [sys.executable, "-I", "-u", "-c", LISTENER, ADDRESS6 if ipv6 else ADDRESS, str(port), proto]
        with self.serving(words, visits.callers):
            yield visits

    @contextlib.contextmanager
    def serving(self, words: Sequence[str], heard: list[str]) -> Iterator[None]:
        """A program of this machine serves in the LAN. It prints `listening` when it does; each line after that is added to `heard`."""
        self.up()
        with subprocess.Popen(self._inside(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                if server.stdout.readline().strip() != "listening":
                    raise HostError(f"the neighbour cannot serve: {shlex.join(words)[-200:]}")
                reader = threading.Thread(target=_note, args=(server.stdout, heard), daemon=True)
                reader.start()
                yield
            finally:
                capture(as_admin(["sh", "-c", f"kill {server.pid}"]), show=False, check=False)

    def _inside(self, words: Sequence[str]) -> list[str]:
        return as_admin(["ip", "netns", "exec", self.namespace, "env", f"PATH={PATH}", *words])

    def _relay_pid(self) -> int | None:
        """The relay's process, if it lives and is still ours: a number in a file may have gone to another process."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            if f"kit.relay\0{state_dir()}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None


class Outside:
    """The Internet side: what gets to the server from there, and what the server gets out to."""

    def __init__(self, machine: Machine | None = None) -> None:
        from kit.vm import Machine  # noqa: PLC0415 - the machine has a neighbour, so neither module can come first

        self.machine = machine or Machine()

    def stranger(self) -> str:
        """An address of this machine, for it alone: who comes from there is nobody's neighbour, and the server sees it as it is."""
        capture(as_admin(["ip", "address", "replace", f"{STRANGER}/32", "dev", "lo"]), show=False)
        return STRANGER

    def reaches(self, port: int, wait: float = 3, address: str = "127.0.0.1") -> bool:
        """Whether the server lets a TCP connection to this port in. It comes from `address`; slirp calls our loopback 10.0.2.2.

        slirp accepts on this machine before it has asked the server, so a connection proves nothing. Its own table of
        connections does: ESTABLISHED comes only after the server's answer, a refusal closes, silence stays SYN_SENT.
        """
        with self.machine.add_forward(port, address=address) as local, socket.create_connection((address, local), timeout=wait) as link:
            return self._established(link, local, wait)

    def _established(self, link: socket.socket, local: int, wait: float) -> bool:
        end = time.monotonic() + wait
        while time.monotonic() < end:
            readable, _, _ = select.select([link], [], [], 0.1)
            if readable:
                with contextlib.suppress(OSError):
                    return bool(link.recv(1))
                return False
            for line in self.machine.monitor("info usernet").splitlines():
                words = line.split()
                if words[:1] == ["TCP[ESTABLISHED]"] and words[3:4] == [str(local)]:
                    return True
        return False

    @contextlib.contextmanager
    def listening(self, port: int, proto: str = "tcp") -> Iterator[Visits]:
        """Something out there: the server finds it at 10.0.2.2, and it notes who came."""
        visits = Visits()
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind(("127.0.0.1", port))
            if proto == "tcp":
                link.listen()
            link.settimeout(0.2)
            stop = threading.Event()
            thread = threading.Thread(target=_answer, args=(link, proto, visits, stop))
            thread.start()
            try:
                yield visits
            finally:
                stop.set()
                thread.join()


def _note(lines: Iterator[str], heard: list[str]) -> None:
    """Note each line as it comes."""
    for line in lines:
        heard.append(line.strip())


def _answer(link: socket.socket, proto: str, visits: Visits, stop: threading.Event) -> None:
    """Answer everyone who comes to a listener on this machine."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            if proto == "udp":
                _, who = link.recvfrom(2048)
                link.sendto(b"outside\n", who)
            else:
                caller, who = link.accept()
                with caller:
                    caller.sendall(b"outside\n")
            visits.callers.append(who[0])
