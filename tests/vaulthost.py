"""An off-site host in memory, deployed from a plain Debian 13 as a technician does it, and the Internet beyond its card."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit import post
from kit.host import as_admin
from kit.place import Place
from kit.sshd import Sshd
from kit.totp import fresh_code
from roles import alarm
from roles.vault import WANTED
from tests.contract.test_ssh_config import key, read, terminal
from tests.offline.test_vault import FILE, KEY

PASSWORD = "twenty-characters-and-more"
# A plain Debian: root comes in with a key. The number that the kernel keeps once for all systems is another's here.
PLAIN = """set -eu
install -d -m 700 /root/.ssh
cat >/root/.ssh/authorized_keys
printf '4\\t4\\t1\\t7\\n' >/run/printk
mount --bind /run/printk /proc/sys/kernel/printk
mv /usr/bin/systemctl /usr/bin/systemctl-of-the-place"""
# What systemd does besides: to start a firewall's unit is to carry out its line; what is to run later runs later.
SYSTEMCTL = """#!/bin/sh
case "$*" in *"restart cabinet-firewall"*)
	for unit; do
		case $unit in *.service) sh -euc "$(sed -n s/^ExecStart=//p "/etc/systemd/system/$unit")" || exit 1 ;; esac
	done
esac
exec systemctl-of-the-place "$@"
"""
SYSTEMD_RUN = """#!/bin/sh
while :; do
	case $1 in --on-active=*) seconds=${1#*=} ;; --*) ;; *) break ;; esac
	shift
done
setsid sh -c 'sleep "$1"; shift; exec "$@"' sh "$seconds" "$@" </dev/null >/dev/null 2>&1 &
"""
# The Internet: another network namespace at the other end of the host's one card, in which everybody is.
INTERNET = """set -eu
exec unshare --net sh -euc 'echo $$
read -r ready
ip link set lo up; ip link set internet up
for address in 198.51.100.9/24 203.0.113.7/24 203.0.113.9/24; do ip address add $address dev internet; done
exec python3 -c "$1"' sh "$1"
"""
CARD = """set -eu
ip link add eth0 type veth peer name internet netns "$1"
ip link set eth0 up
for address in 198.51.100.10/24 203.0.113.1/24; do ip address add $address dev eth0; done"""
LISTEN = """import socket, sys, time
doors = [socket.create_server(("", port)) for port in (22, 443, 4711, 8443, 8444)]
print("ready", flush=True)
sys.stdin.read()"""
# Lines of: source, address, port. Says those that were reached.
TRY = """import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(words):
    try:
        socket.create_connection((words[1], int(words[2])), timeout=1, source_address=(words[0], 0)).close()
        return " ".join(words)
    except OSError:
        return ""
print(chr(10).join(filter(None, ThreadPoolExecutor(32).map(reaches, [word.split(",") for word in sys.argv[1:]]))))"""
TECHNICIAN, BENALI, ANYBODY = "198.51.100.9", "203.0.113.7", "203.0.113.9"


@dataclass
class Host:
    """The off-site host, as it stands after its first deploy; `home` is the technician's, `said` what the terminal showed."""

    place: Place
    sshd: Sshd
    home: Path
    said: str = ""

    def runs(self, command: str, **how: object) -> subprocess.CompletedProcess[str]:
        """A line of shell there, as root."""
        return subprocess.run(self.place.inside(command), capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload]

    def deploy(self) -> tuple[int, str]:
        """As the technician does. Exit code, and all that was said."""
        return deploy(self.home)

    def comes_in(self, user: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Whoever tries by these options of ssh, and has an answer to the question for a code."""
        askpass = self.home / "askpass"
        askpass.write_text(f"#!/bin/sh\nexec cat {self.home}/code\n")
        askpass.chmod(0o700)
        known = ["-o", f"UserKnownHostsFile={self.home}/known", "-o", "StrictHostKeyChecking=accept-new"]
        argv = ["ssh", "-F", "none", *known, "-p", str(self.sshd.line.port), *options, f"{user}@127.0.0.1", "sudo -n id -un"]
        environment = os.environ | {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)


def deploy(home: Path, seconds: float = 240) -> tuple[int, str]:
    """At a terminal: whoever sits there types the code when it is asked for. Exit code, and all that was said."""
    words = [sys.executable, "-m", "pyinfra", "--data", f"vault_file={home}/vault.yaml", "@cabinet/x", "deploy_vault.py", "--yes"]
    with terminal(words) as (process, person):
        said = read(person, "Verification code: ", seconds)
        if seed := re.search(r"Without a camera: (\w+)", said):
            (home / "seed").write_text(seed[1])
        if process.poll() is None and said.endswith("Verification code: "):
            os.write(person, f"{fresh_code(home / 'seed')}\n".encode())
        said += read(person, "\0", seconds)
        process.wait(30)
    return process.returncode, said


@contextmanager
def agent(private: Path) -> Iterator[str]:
    """An SSH agent that holds this key; where it answers."""
    with (
        tempfile.TemporaryDirectory() as directory,  # a socket's path is short
        subprocess.Popen(["ssh-agent", "-D", "-a", f"{directory}/agent"], stdout=subprocess.DEVNULL) as process,
    ):
        try:
            while not Path(directory, "agent").exists():
                time.sleep(0.02)
            environment = os.environ | {"SSH_AUTH_SOCK": f"{directory}/agent"}
            subprocess.run(["ssh-add", "-q", str(private)], env=environment, check=True)
            yield f"{directory}/agent"
        finally:
            process.terminate()


@dataclass
class Internet:
    """What lies beyond the host's card."""

    host: Host
    beyond: list[str]

    def reaches(self) -> set[tuple[str, int]]:
        """Who reaches which port of the host, where something listens at each."""
        own = {TECHNICIAN: "198.51.100.10", BENALI: "203.0.113.1", ANYBODY: "203.0.113.1"}
        words = [f"{who},{own[who]},{port}" for who in own for port in (22, 443, 4711, 8443, 8444)]
        done = subprocess.run([*self.beyond, "python3", "-c", TRY, *words], capture_output=True, text=True, check=True)
        return {(who, int(port)) for who, _, port in (line.split() for line in done.stdout.splitlines())}

    def is_reached(self, user: str, port: int = 443) -> bool:
        """Whether `user` of the host gets out to that port."""
        done = self.host.runs(f"setpriv --reuid {user} --clear-groups python3 -c {shlex.quote(TRY)} 203.0.113.1,203.0.113.9,{port}")
        assert done.returncode == 0, done.stderr
        return bool(done.stdout.strip())


@contextmanager
def connected(host: Host) -> Iterator[Internet]:
    """The host's card leads to a network in which everybody is; there and here something listens."""
    enter = host.place.inside("true")
    network = [*enter[: enter.index("--target") + 2], "--net"]
    talks = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(as_admin(["sh", "-c", INTERNET, "sh", LISTEN]), **talks) as beyond:
        assert beyond.stdin is not None and beyond.stdout is not None
        process = beyond.stdout.readline().strip()
        subprocess.run([*network, "sh", "-c", CARD, "sh", process], check=True)
        beyond.stdin.write("ready\n")
        beyond.stdin.flush()
        assert beyond.stdout.readline() == "ready\n"
        here = host.place.inside(f"exec python3 -c {shlex.quote(LISTEN)}")
        with subprocess.Popen(here, **talks) as listening:
            assert listening.stdout is not None and listening.stdout.readline() == "ready\n"
            yield Internet(host, as_admin(["nsenter", "--target", process, "--net"]))
            listening.communicate()
        # A namespace's own end is no end of its card yet: the kernel takes it away some time later.
        subprocess.run([*network, "ip", "link", "delete", "eth0"], check=True)
        beyond.communicate()


@contextmanager
def deployed(home: Path, scratch: Path) -> Iterator[Host]:
    """A host's file, what it names, and a plain Debian 13 that was deployed with it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as state,  # a socket's path is short
        Place(*WANTED, *alarm.PACKAGES) as place,
        Sshd(place.inside, scratch) as sshd,
    ):
        try:
            patch.setenv("CABINET_STATE", state)
            sshd.line.command = place.inside("exec /usr/sbin/sshd -i")  # the system's own door
            plain(place, sshd)
            described(home, sshd)
            with agent(home / "karim") as socket:
                patch.setenv("SSH_AUTH_SOCK", socket)
                patch.setenv("PYINFRA_PROGRESS", "off")
                host = Host(place, sshd, home)
                code, host.said = host.deploy()
                assert code == 0, host.said
                yield host
        finally:
            sshd.line.cut()


def plain(place: Place, sshd: Sshd) -> None:
    """Nothing of ours is there yet; root comes in with a key."""
    subprocess.run(place.inside(PLAIN), input=sshd.key.with_suffix(".pub").read_text(), text=True, check=True)
    for name, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
        subprocess.run(place.inside(f"cat >/usr/bin/{name}; chmod 755 /usr/bin/{name}"), input=text, text=True, check=True)


def described(home: Path, sshd: Sshd) -> None:
    """Its file, with a technician whose key is `home`/karim."""
    private, begin, rest = post.server_certificate("127.0.0.1").partition("-----BEGIN CERTIFICATE")
    for name, text in (("chain.pem", begin + rest), ("key.pem", private), ("password", f"{PASSWORD}\n")):
        (home / name).write_text(text)
    text = FILE.format(home=home).replace(KEY, key(home / "karim").with_suffix(".pub").read_text().strip())
    text = text.replace("port: 22,", f"port: {sshd.line.port},").replace(f"{home}/key}}", f"{sshd.key}}}")
    (home / "vault.yaml").write_text(f"{text}alarm: {{webhook: {{url: https://alarms.atlas.example/vault}}}}\n")
