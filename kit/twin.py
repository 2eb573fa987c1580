"""The VM's twin: a running copy of it, so that each of two processors tries one half of the claims.

One emulated machine keeps little more than one processor busy. The copy has disks, TPM, memory and people's keys of the original, and
ports, LAN and neighbour of its own: whoever has its state directory in CABINET_STATE means the twin, everywhere in kit/ and tests/.
`python -m kit.twin` is what wakes it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit import paths
from kit.clinic import VM, load
from kit.connection import Connection
from kit.host import capture, runner_directory
from kit.machines import elsewhere, removed
from kit.vm import DESCRIPTIONS, Machine

NAME = "twin"
# What belongs to the running original alone.
NOT_COPIED = ("run", "ports.json", "relay.pid", "relay.log", "results", "report")
NEEDED_MB = 4096  # QEMU with 2.5 GB of guest memory, its translated code, and room for the tests


def environment() -> dict[str, str]:
    """Whoever runs with it means the twin."""
    return elsewhere("2")


def room() -> bool:
    """Whether this machine has a second processor and the memory for a second VM, and the second state directory a path that is short."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    memory = int(meminfo["MemAvailable"].split()[0]) >= NEEDED_MB * 1024
    return (os.cpu_count() or 1) > 1 and memory and len(environment()["CABINET_STATE"]) <= paths.LONGEST_STATE


@contextmanager
def twin() -> Iterator[dict[str, str]]:
    """A copy of the running VM, awake; yields the environment in which everything is about it. It is gone afterwards.

    Results go to the original's: who reads them sees one server's. Raises HostError, PathError.
    """
    env, machine = environment(), Machine()
    there = Path(env["CABINET_STATE"])
    removed(env)
    # Paused: what is copied belongs together. What QEMU has not written out yet, the snapshot makes it write.
    machine.suspend()
    try:
        machine.snapshot(NAME)
        there.mkdir(mode=0o700)
        shutil.copystat(machine.state, there)
        ours = [str(path) for path in machine.state.iterdir() if path.name not in NOT_COPIED]
        capture(["cp", "-a", *ours, str(there)], show=False)
        for name, text in machine.described(NAME).items():
            (there / name).write_text(text)
    finally:
        machine.resume()
    (there / "results").symlink_to(machine.state / "results")
    try:
        subprocess.run([sys.executable, "-m", "kit.twin"], cwd=paths.ROOT, env=env, check=True)
        machine.set_clock(as_root)
        yield env
        as_root("echo 1 >/sys/devices/system/cpu/cpu1/online")  # tests/helpers.py took it
    finally:
        removed(env)


def wake() -> None:
    """Give the copy its own paths and ports, and let it go on where the original was when it was copied."""
    machine, original = Machine(), str(paths.state_dir()).removesuffix("-2")
    described = json.loads((machine.state / "machine.json").read_text())
    moved = {f"{original}/": f"{machine.state}/"}
    moved |= {f"tcp:127.0.0.1:{port}-": f"tcp:127.0.0.1:{machine.ports[name]}-" for name, port in described["ports"].items()}
    forwards = [[machine.ports[name], port] for name, port in machine.guest_ports.items()]
    (machine.state / "machine.json").write_text(json.dumps(described | {"ports": machine.ports, "forwards": forwards}, indent=2))
    for path in [*machine.state.glob("*.xml"), *machine.state.glob("c/swtpm*")]:
        path.write_text(its_own(path.read_text(), moved))
    (box,) = (machine.state / "disks").glob("*_box.img")
    capture(["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", str(box), str(machine.state / "disks" / f"{machine.name}.img")], show=False)
    runner_directory("run")
    machine.neighbour.up()
    machine.define(*(machine.state / name for name in DESCRIPTIONS))
    machine.sign()
    machine.restore(NAME, as_root)


def its_own(text: str, moved: dict[str, str]) -> str:
    """A description of the original, as one of the copy: each of `moved` by what stands in its place there.

    Of the snapshots before that one nothing is said: the copy's disks hold them, but nobody describes them there.
    """
    text = re.sub(r"\s*<parent>.*?</parent>", "", text, flags=re.DOTALL)
    return re.sub("|".join(map(re.escape, moved)), lambda found: moved[found[0]], text)


def as_root(line: str) -> None:
    """Run a line of shell as root on the VM of this state directory."""
    connection = Connection(VM, load(paths.ROOT / "clinics" / f"{VM}.yaml"))
    connection.login()
    shell = connection.shell()
    shell.run(line)
    shell.close()


if __name__ == "__main__":
    wake()
