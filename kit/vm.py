"""A machine of the Vagrantfile: built, started, cut from its power, put back to a snapshot.

It is `practice` unless CABINET_MACHINE says another; each machine has a state directory of its own. CABINET_DISK, as 16G, makes its data
disks and its backup disk larger than the tests need.

`python -m kit.vm up|down|halt|ssh|snapshot NAME|restore NAME|status`
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from kit.box import accelerator, find_box, free_ports
from kit.host import HostError, capture, runner_directory, stream
from kit.mirror import MirrorError
from kit.neighbour import Neighbour
from kit.paths import ROOT, PathError, state_dir

# What can be reached of each machine from 127.0.0.1; whether anything answers there is for the tests to say.
GUEST_PORTS = {
    "practice": {"ssh": 22, "https": 443, "http": 80, "pg": 5432, "odd": 4711, "odd2": 8080},
    "offsite": {"ssh": 22, "copies": 8443, "odd": 4711},
}
# How libvirt describes the machine, and a snapshot of it: the files in which a copy brings that along.
DESCRIPTIONS = ("domain.xml", "snapshot.xml")
BOOT_SECONDS = 1800  # six machines on two cores: ten minutes were not enough
VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"


class Machine:
    """The one machine of this state directory. Every method asks what is so now; nothing is remembered between calls."""

    def __init__(self) -> None:
        self.state = state_dir()
        self.name = os.environ.get("CABINET_MACHINE", "practice")
        self.guest_ports = GUEST_PORTS[self.name]
        self.neighbour = Neighbour()

    # ---- life

    def up(self) -> None:
        """Build, create and start whatever is missing. Quick when the machine already runs.

        The state directory goes by the checkout's path, so it can hold the machine of an earlier checkout that lay here, or
        half a machine: neither is ever taken over.
        """
        if self.created():
            self.start()
            return
        self.destroy()
        self.neighbour.up()
        self._prepare()
        self._vagrant_up()
        self.wait_for_ssh()
        self._replace_key()
        self.sign()

    def _vagrant_up(self, attempts: int = 3) -> None:
        """Vagrant looks at the machine's state the moment it starts; now and then libvirt has none yet, and Vagrant removes it again.

        libvirtd is there before Vagrant starts it: Ruby forbids itself and all its children transparent huge pages
        (PR_SET_THP_DISABLE), QEMU's whole memory among them.
        """
        self._virsh("uri", show=False)
        for left in reversed(range(attempts)):
            try:
                stream(["vagrant", "up", self.name, "--provider", "libvirt"], runner=True)
                return
            except HostError:
                if not left or self.running():
                    raise

    def start(self) -> None:
        """Switch on, and wait until SSH answers."""
        self.neighbour.up()
        if not self.running():
            # QEMU has ended before libvirt says so, and until then "start" is refused.
            self._wait(lambda: self._virsh("domstate", self.name, show=False, check=False).strip() == "shut off", 30)
            self._virsh("start", self.name)
            self.wait_for_ssh()

    def halt(self) -> None:
        """Shut down in good order, as by the power button; after two minutes without an end, cut the power."""
        if self.running():
            self._virsh("shutdown", self.name, check=False)  # it may have gone off by itself in this moment
        if not self._wait(lambda: not self.running(), 120):
            self.power_cut()

    def power_cut(self) -> None:
        """Take the power away: QEMU ends at once, nothing in the server is asked."""
        if self.running():
            self._virsh("destroy", self.name, check=False)  # it may have gone off by itself in this moment
            if not self._wait(lambda: not self.running(), 30):
                raise HostError(f"the VM {self.name} does not end; see {self.state}/run/libvirt/qemu/run")

    def destroy(self) -> None:
        """Remove the machine with its disks, TPM, variables, neighbour and what it let people in by. The box in the cache stays.

        By libvirt alone: Vagrant would need the very files that half a machine lacks.
        """
        for master in (self.state / "ssh").glob("vagrant.sock"):
            subprocess.run(["ssh", "-S", str(master), "-O", "exit", "vagrant"], capture_output=True, check=False)
        if (self.state / "vagrant").exists():
            self._virsh("destroy", self.name, show=False, check=False)
            self._virsh("undefine", self.name, "--snapshots-metadata", "--tpm", show=False, check=False)
            self._virsh("pool-destroy", "default", show=False, check=False)
            self._virsh("pool-undefine", "default", show=False, check=False)
            if self.running():
                raise HostError(f"the VM's QEMU still runs (see {self.state}/run/libvirt/qemu/run); end it, then repeat")
        self.neighbour.down()
        ours = ["vagrant", "vagrant.d", "disks", "key", "key.pub", "machine.json", "efivars.qcow2", "tpm-aside", "serial.log", "totp"]
        for path in [self._made, *(self.state / name for name in ours), *(self.state / "ssh").glob("vagrant.*")]:
            _remove(path)

    def running(self) -> bool:
        """Whether QEMU runs, asked without libvirt: libvirtd may have gone to sleep, QEMU goes on without it."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.state / "run/libvirt/qemu/run" / f"{self.name}.pid").read_text())
            return f"{self.state}/efivars.qcow2".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def created(self) -> bool:
        """Whether `up` of this very checkout has once come to its end, and nobody has destroyed the machine since."""
        with contextlib.suppress(OSError):
            return self._made.read_text() == self._signature.read_text()
        return False

    def suspend(self) -> None:
        """Let time stand still in the machine."""
        self._virsh("suspend", self.name, show=False)

    def resume(self) -> None:
        """Let it go on; its clock is behind by then (`set_clock`)."""
        self._virsh("resume", self.name, show=False)

    # ---- copies (kit/twin.py)

    def described(self, snapshot: str) -> dict[str, str]:
        """How libvirt describes the machine and one of its snapshots, by the names of DESCRIPTIONS."""
        asked = [("dumpxml", self.name, "--inactive"), ("snapshot-dumpxml", self.name, snapshot)]
        return {name: self._virsh(*words, "--security-info", show=False) for name, words in zip(DESCRIPTIONS, asked, strict=True)}

    def define(self, domain: Path, snapshot: Path) -> None:
        """Make such a machine known, with a snapshot that its disks hold already. Files alone would not tell a libvirtd that runs."""
        known = self.state / "c/libvirt/qemu"
        for path in (known / f"{self.name}.xml", known / "snapshot"):
            _remove(path)
        self._virsh("define", str(domain), show=False)
        self._virsh("snapshot-create", self.name, str(snapshot), "--redefine", "--current", show=False)

    # ---- snapshots

    def snapshot(self, name: str) -> None:
        """Keep the running machine: memory, disks, TPM and firmware variables. An older one of that name goes."""
        if self.has_snapshot(name):
            self._virsh("snapshot-delete", self.name, name)
        self._virsh("snapshot-create-as", self.name, name)

    def has_snapshot(self, name: str) -> bool:
        """Whether a snapshot of that name exists."""
        return self.created() and name in self._virsh("snapshot-list", self.name, "--name", show=False).split()

    def restore(self, name: str, run: Callable[[str], object] | None = None) -> None:
        """Put the machine back to a snapshot, running. SSH connections from before are dead; the clock is stepped (`set_clock`)."""
        self._virsh("snapshot-revert", self.name, name, "--running")
        self.set_clock(run)

    def set_clock(self, run: Callable[[str], object] | None = None) -> None:
        """Step the server's clock after a restore, from its hardware clock, which QEMU never puts back; at least to our own time.

        `run` runs a command as root; without it, Vagrant's account does. On a busy host the log-in takes so long that our
        time alone would arrive stale.
        """
        command = f"now=$(cat /sys/class/rtc/rtc0/since_epoch); [ $now -ge {int(time.time())} ] || now={int(time.time())}; date --set=@$now"
        (run or (lambda line: self.ssh(f"sudo sh -c '{line}'")))(command)

    # ---- the way in

    @cached_property
    def ports(self) -> dict[str, int]:
        """The ports on 127.0.0.1 that lead to the server's ports, by name. Chosen once for this checkout."""
        path = self.state / "ports.json"
        if not path.exists():
            first = free_ports(len(self.guest_ports))
            path.write_text(json.dumps({name: first + i for i, name in enumerate(self.guest_ports)}))
        return json.loads(path.read_text())

    @property
    def ssh_port(self) -> int:
        """The port on 127.0.0.1 that leads to the server's SSH."""
        return self.ports["ssh"]

    @property
    def key(self) -> Path:
        """The private key of the account `vagrant`, made for this machine alone."""
        return self.state / "key"

    def ssh_command(self, *command: str, key: Path | None = None) -> list[str]:
        """The ssh command line that logs in as Vagrant's account."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes", "BatchMode=yes"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", *flags, "-p", str(self.ssh_port), "-i", str(key or self.key), "vagrant@127.0.0.1", *command]

    def ssh(self, command: str, timeout: float = 300, key: Path | None = None) -> str:
        """What a command prints that Vagrant's account runs on the server."""
        done = subprocess.run(
            self.ssh_command(command, key=key), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise HostError(f"ssh {command}: exit code {done.returncode}\n{done.stderr.strip()}")
        return done.stdout

    def greets(self) -> bool:
        """Whether the server's own SSH introduces itself now; slirp accepts every connection by itself, so only the greeting counts."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ssh_port), timeout=5) as link:
            return link.recv(4) == b"SSH-"
        return False

    def wait_for_ssh(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the server's own SSH greets. Raises HostError when it does not."""
        started = time.monotonic()
        if not self._wait(self.greets, seconds):
            raise HostError(f"no SSH greeting on 127.0.0.1:{self.ssh_port} after {seconds:.0f} s; see {self.state}/serial.log")
        print(f"{time.monotonic() - started:6.0f} s  SSH answers on 127.0.0.1:{self.ssh_port}", flush=True)

    # ---- hardware

    def serial_log(self) -> str:
        """What the server has written to its serial console since it was last switched on."""
        return (self.state / "serial.log").read_text(errors="replace")

    def detach_tpm(self) -> None:
        """Put the TPM aside; the next start finds a new, empty one, as on another mainboard. Only while switched off."""
        self._need_off("the TPM")
        self._tpm.rename(self.state / "tpm-aside")

    def attach_tpm(self) -> None:
        """Put the TPM back that `detach_tpm` took out. Only while switched off."""
        self._need_off("the TPM")
        _remove(self._tpm)
        (self.state / "tpm-aside").rename(self._tpm)

    def monitor(self, command: str) -> str:
        """The answer of QEMU's monitor to a command for humans, such as `info usernet`."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self.state / "run/monitor"))
            with link.makefile("rw") as lines:
                lines.readline()
                question = {"execute": "human-monitor-command", "arguments": {"command-line": command}}
                for request in ({"execute": "qmp_capabilities"}, question):
                    lines.write(json.dumps(request) + "\n")
                    lines.flush()
                    answer = next(reply for reply in map(json.loads, lines) if "event" not in reply)
        if "error" in answer:
            raise HostError(f"QEMU: {command}: {answer['error'].get('desc')}")
        return answer["return"]

    @contextlib.contextmanager
    def add_forward(self, guest_port: int, proto: str = "tcp", address: str = "127.0.0.1") -> Iterator[int]:
        """A further port on an address of this machine that leads to a port of the server's Internet side, while the block lasts."""
        host_port = free_ports(1)
        if said := self.monitor(f"hostfwd_add internet {proto}:{address}:{host_port}-:{guest_port}").strip():
            raise HostError(f"QEMU: {said}")
        try:
            yield host_port
        finally:
            self.monitor(f"hostfwd_remove internet {proto}:{address}:{host_port}")

    # ---- within

    @property
    def _made(self) -> Path:
        return self.state / "made"

    @property
    def _signature(self) -> Path:
        """What `made` must say: a checkout that is removed takes it along."""
        return ROOT / ".vagrant" / self.state.name

    def sign(self) -> None:
        """The machine is whole, and this checkout's."""
        self._signature.parent.mkdir(exist_ok=True)
        self._signature.write_text(secrets.token_hex(16))
        shutil.copyfile(self._signature, self._made)

    @property
    def _tpm(self) -> Path:
        uuid = self._virsh("domuuid", self.name, show=False).strip()
        return self.state / "c/libvirt/qemu/swtpm" / uuid

    def _need_off(self, what: str) -> None:
        if self.running():
            raise HostError(f"{what} can only be changed while the machine is off: power_cut() first")

    def _virsh(self, *words: str, show: bool = True, check: bool = True) -> str:
        return capture(["virsh", "--connect", "qemu:///session", *words], runner=True, show=show, check=check)

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(0.3)
        return True

    def _replace_key(self) -> None:
        """Let nobody in by Vagrant's well-known key any more. Early log-ins are refused while the server still boots."""
        public = capture(["ssh-keygen", "-y", "-f", str(self.key)], runner=True, show=False).strip()
        end = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                self.ssh(f"echo '{public}' > .ssh/authorized_keys", key=self.state / "vagrant.d/insecure_private_key")
                return
            except HostError:
                if time.monotonic() > end:
                    raise
                time.sleep(3)

    def _prepare(self) -> None:
        """Write all that the Vagrantfile reads."""
        for name in ("run", "c", "cache", "data", "disks", "vagrant"):
            runner_directory(name)
        box = find_box()
        machine = {
            "box": f"cabinet/{box.stem}",
            "box_file": str(box),
            "accel": accelerator(),
            # What is not written costs nothing here; but a deploy reads them whole, and so does a comparison of the mirror.
            "disk": disk_size(),
            "ports": self.ports,
            "forwards": [[port, self.guest_ports[name]] for name, port in self.ports.items()],
        }
        (self.state / "machine.json").write_text(json.dumps(machine, indent=2))
        shutil.copy(ROOT / "Vagrantfile", self.state / "vagrant/Vagrantfile")
        if not self.key.exists():
            capture(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cabinet", "-f", str(self.key)], runner=True)
        variables = self.state / "efivars.qcow2"
        if not variables.exists():
            capture(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", VARIABLES, str(variables)], runner=True)


# ---- small things


def disk_size() -> str:
    """How large the data disks and the backup disk are: CABINET_DISK, or what the tests need. Raises HostError where it is no such size."""
    size = os.environ.get("CABINET_DISK", "2G")
    if not re.fullmatch(r"[2-9]G|[1-9][0-9]+G", size):
        raise HostError(f"CABINET_DISK: {size!r} is no size of a disk; write whole gigabytes, 2G or more, as 16G")
    return size


def _remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """The same functions for a hurried technician."""
    machine = Machine()
    match arguments:
        case ["up"]:
            machine.up()
        case ["down"]:
            machine.destroy()
        case ["halt"]:
            machine.halt()
        case ["ssh", *command]:
            os.execvp("ssh", machine.ssh_command(*command))
        case ["snapshot", name]:
            machine.snapshot(name)
        case ["restore", name]:
            machine.restore(name)
        case ["status"]:
            print(json.dumps({"running": machine.running(), "state": str(machine.state), "ports": machine.ports}, indent=2))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (HostError, MirrorError, PathError) as error:
        sys.exit(f"{error}")
