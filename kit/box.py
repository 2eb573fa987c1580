"""The box of the practice machine, and what it needs on the technician's machine: packages, ports, KVM or not."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path

from kit import mirror
from kit.host import HostError, as_runner, echo, runner_env, stream
from kit.paths import ROOT, cache_dir, instance_id, state_dir

# What apt must have installed on the technician's machine.
VM_PACKAGES = [
    "vagrant",
    "vagrant-libvirt",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    "mmdebstrap",
    "fakeroot",
    "uidmap",
    "fdisk",
    "e2fsprogs",
    "mtools",
    "iproute2",
    "openssh-client",
    "debian-archive-keyring",
]

BIOS_CHECK = [
    "qemu-system-x86_64",
    "-accel",
    "kvm",
    "-cpu",
    "host",
    "-m",
    "64",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
    "-chardev",
    "stdio,id=words",
    "-device",
    "isa-debugcon,iobase=0x402,chardev=words",
]


def find_box() -> Path:
    """The box: CABINET_BOX, or the one in the cache, which is built when this week's is missing."""
    if given := os.environ.get("CABINET_BOX"):
        return Path(given).resolve(strict=True)
    box = cache_dir() / f"debian-13-{_fingerprint()}.box"
    with open(cache_dir() / "box.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not box.exists():
            stream([str(ROOT / "box/build"), str(box)])
            _forget_old(box)
    return box


def _fingerprint() -> str:
    """What the box depends on: how it is built, from which mirror, and in which week (security updates)."""
    digest = hashlib.sha256(repr((mirror.mirrors(), datetime.date.today().isocalendar()[:2])).encode())
    for path in sorted(path for path in (ROOT / "box").rglob("*") if path.is_file()):
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _forget_old(newest: Path) -> None:
    """Boxes of more than four weeks ago leave the cache; a machine that was made from one has its own copy."""
    for box in newest.parent.glob("debian-13-*.box"):
        if box != newest and time.time() - box.stat().st_mtime > 28 * 86400:
            box.unlink()


def accelerator() -> str:
    """`kvm` where KVM can really boot something, else `tcg`. That /dev/kvm exists proves nothing."""
    if chosen := os.environ.get("CABINET_ACCEL"):
        return chosen
    known = state_dir() / "accel"
    if not known.exists():
        known.write_text("kvm" if _kvm_boots() else "tcg")
    return known.read_text()


def _kvm_boots() -> bool:
    """Boot a BIOS under KVM and wait for its last words."""
    echo(BIOS_CHECK)
    said, end = b"", time.monotonic() + 5
    with subprocess.Popen(
        as_runner(BIOS_CHECK),
        env=runner_env(),
        cwd=state_dir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while process.poll() is None and b"No bootable device" not in said and time.monotonic() < end:
            said += process.stdout.read() or b""
            time.sleep(0.05)
        process.terminate()  # not kill: runuser hands this on to QEMU, and would die alone of the other
    return b"No bootable device" in said


def free_ports(size: int) -> int:
    """The first of `size` neighbouring ports that are free; where to look first follows from the checkout, so that two seldom meet."""
    start = int(instance_id(), 16) % 900
    for step in range(900):
        first = 20000 + (start + step) % 900 * 10
        if all(_is_free(first + i) for i in range(size)):
            return first
    raise HostError("no free ports between 20000 and 29000 on this machine")


def _is_free(port: int) -> bool:
    """For TCP and UDP, on every address of this machine; nothing listens while we look."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
        tcp.bind(("", port))
        udp.bind(("", port))
        return True
    return False
