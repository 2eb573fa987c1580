"""The cable between the practice machine and its neighbour: copies frames between a tap card and QEMU's datagram socket.

Runs as root inside the neighbour's namespace: `python -m kit.relay STATE-DIRECTORY OWNER ADDRESS ADDRESS6`. It only needs the
standard library and imports nothing of the kit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

CARD = "lan0"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def tap() -> int:
    """Open the tap card; it lives as long as this process."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", CARD.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def configure(address: str, address6: str) -> None:
    """Give the card its addresses. `nodad`: the tests start before a duplicate could be found."""
    for words in (
        "link set lo up",
        f"link set {CARD} up",
        f"addr replace {address}/24 dev {CARD}",
        f"addr replace {address6}/64 dev {CARD} nodad",
    ):
        subprocess.run(["ip", *words.split()], check=True)


def carry(card: int, cable: socket.socket, far_end: str) -> None:
    """Copy frames both ways for ever. A frame that cannot be delivered is lost, as on a real cable."""
    while True:
        for ready in select.select([card, cable], [], [])[0]:
            with contextlib.suppress(OSError):
                if ready is card:
                    cable.sendto(os.read(card, 65536), far_end)
                else:
                    os.write(card, cable.recv(65536))


def main(state: str, owner: str, address: str, address6: str) -> None:
    """Plug in, say `ready`, carry."""
    near_end = Path(state) / "run/lan-neighbour"
    card = tap()
    configure(address, address6)
    near_end.unlink(missing_ok=True)
    cable = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    cable.bind(str(near_end))
    cable.setblocking(False)
    os.chown(near_end, int(owner), -1)
    if os.fork():
        os._exit(0)  # and sudo with us: the child stays, in a session of its own, which no Ctrl-C and no closed terminal reaches
    os.setsid()
    Path(state, "relay.pid").write_text(str(os.getpid()))
    print("ready", flush=True)
    os.close(1)  # whoever started us waits for no more
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    carry(card, cable, str(Path(state) / "run/lan-vm"))


if __name__ == "__main__":
    main(*sys.argv[1:])
