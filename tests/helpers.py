"""Plumbing that several slices' tests share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyinfra_openssh.shell import ShellGone
from testinfra.host import Host

from kit.paths import ROOT
from kit.sshd import Sshd
from kit.vm import Machine

LISTENER = """
import socket, sys
port, family = int(sys.argv[1]), socket.AF_INET6 if sys.argv[2] == "6" else socket.AF_INET
with socket.socket(family) as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", port))
    server.listen()
    while True:
        client, _ = server.accept()
        client.sendall(b"here I am\\n")
        client.close()
"""


@contextmanager
def listening(host: Host, port: int, ipv6: bool = False) -> Iterator[None]:
    """Something listens on the server at TCP `port`, on all addresses, and greets whoever comes; ended by its own name."""
    unit = f"listener-{port}"
    host.run(f"systemctl stop {unit} 2>/dev/null")
    host.check_output(f"systemd-run --quiet --collect --unit={unit} python3 -c %s {port} {6 if ipv6 else 4}", LISTENER)
    try:
        host.check_output(f"for i in $(seq 50); do ss -ltnH 'sport = {port}' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        yield
    finally:
        host.run(f"systemctl stop {unit}")


def written(host: Host, pattern: str, seconds: float = 10) -> list[str]:
    """What the kernel has written into the journal, once something matches."""
    end = time.monotonic() + seconds
    while True:
        lines = host.run("journalctl -k -q -o short-iso --since=-3min -g %s", pattern).stdout.splitlines()
        if lines or time.monotonic() > end:
            return lines
        time.sleep(0.3)


@contextmanager
def without_the_full_ruleset(host: Host, how: str) -> Iterator[None]:
    """The full ruleset is gone, by `how`; afterwards it is back."""
    try:
        host.run(how)
        assert host.run("nft list table inet cabinet").rc == 1, "control: the full ruleset is still there"
        yield
    finally:
        host.check_output("systemctl restart cabinet-firewall")


def one_processor(host: Host) -> None:
    """Of two machines on two processors each has one; the next boot brings the other back.

    Emulated, it costs more than it gives then: /bin/true 150 times takes 2.4 s with it and 1.0 without, `systemctl daemon-reload`
    5.9 and 4.8.
    """
    host.check_output("echo 0 >/sys/devices/system/cpu/cpu1/online")


def switched_off(host: Host, vm: Machine) -> None:
    """Shut down in good order; the connection may end before the command that asked for it has answered."""
    with suppress(ShellGone):
        host.run("sync; systemctl poweroff")
    vm.halt()


def power_cycled(host: Host, vm: Machine) -> None:
    """The server was shut down in good order and switched on again; `host` is logged in anew."""
    switched_off(host, vm)
    vm.start()
    logged_in_again(host)


def logged_in_again(host: Host) -> None:
    """The old connection is gone with the machine that held it; `host` rides on a new one."""
    host.backend.connection.logout()
    host.backend.reconnect()


def free_port() -> int:
    """A port that nobody listens on, of the kernel's own range: never one that is set aside for a VM that starts meanwhile (kit/box.py)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pyinfra_run(sshd: Sshd, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """pyinfra with these words, against a real sshd; its output is JSON. Raises AssertionError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "--json", *words],
        cwd=cwd,
        env=os.environ | {"XDG_CACHE_HOME": str(sshd.scratch), "PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
