"""A device that is not in the practice: on the Internet side, with WireGuard in user space and a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from kit.host import PATH, HostError, as_admin, capture
from kit.neighbour import PROBE
from kit.paths import instance_id

# wireguard-go stays where it was started, and so do its encrypted packets; its card goes into the namespace.
JOIN = """
ip netns add "$2"
ip link set "$1" netns "$2"
wg setconf "$1" /dev/stdin
ip -n "$2" link set lo up
ip -n "$2" address add "$3" dev "$1"
ip -n "$2" link set "$1" up
ip -n "$2" route add default dev "$1"
"""
LEAVE = 'kill "$1"; ip netns delete "$2"'


class Device:
    """Someone's device, from `with` to the end of the block; `configuration` is what ./cabinet peer hands out for it."""

    def __init__(self, name: str, configuration: str) -> None:
        # A card's name may have fifteen characters.
        self.card, self.namespace = f"{instance_id()}-{name[:6]}", f"away-{instance_id()}-{name}"
        lines = [line.partition(" = ") for line in configuration.splitlines()]
        # As wg-quick does: one line is the system's, the others are WireGuard's.
        self.address = next(value for key, _, value in lines if key == "Address")
        self.tunnel = "\n".join(f"{key}{equals}{value}" for key, equals, value in lines if key != "Address")

    def __enter__(self) -> Self:
        # What a run that was killed has left: without its card the old wireguard-go ends.
        capture(as_admin(["ip", "netns", "delete", self.namespace]), show=False, check=False)
        self.process = subprocess.Popen(
            as_admin(["wireguard-go", "-f", self.card]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_for(Path(f"/var/run/wireguard/{self.card}.sock"))
            words = as_admin(["sh", "-euc", JOIN, "sh", self.card, self.namespace, self.address])
            done = subprocess.run(words, input=self.tunnel, text=True, capture_output=True, check=False)
            if done.returncode:
                raise HostError(f"the device {self.namespace} did not start: {done.stderr.strip()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        capture(as_admin(["sh", "-c", LEAVE, "sh", str(self.process.pid), self.namespace]), show=False, check=False)
        self.process.wait()

    def reaches(self, host: str, port: int, wait: float = 3) -> bool:
        """Whether a TCP connection to this port is let in; the tunnel is the device's only way."""
        probe = [sys.executable, "-I", "-c", PROBE, host, str(port), "tcp", str(wait)]
        words = as_admin(["ip", "netns", "exec", self.namespace, "env", f"PATH={PATH}", *probe])
        return subprocess.run(words, timeout=wait + 20, stdin=subprocess.DEVNULL, check=False).returncode == 0

    def shook_hands(self, wait: float = 0) -> int:
        """When the server last answered as one who knows this device (Unix time); 0 when it has not, nor does within `wait` seconds."""
        end = time.monotonic() + wait
        while True:
            at = int(capture(as_admin(["wg", "show", self.card, "latest-handshakes"]), show=False).split()[1])
            if at or time.monotonic() > end:
                return at
            time.sleep(0.2)

    def heard(self) -> int:
        """How many bytes have come from the server."""
        return int(capture(as_admin(["wg", "show", self.card, "transfer"]), show=False).split()[1])

    def _wait_for(self, socket: Path, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not socket.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                raise HostError(f"wireguard-go did not make the card {self.card}")
            time.sleep(0.05)
