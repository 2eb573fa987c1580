"""What ssh_config(5) knows, through @openssh/HOST and a real sshd: ways through, keys of every kind, and what is asked of people."""

from __future__ import annotations

import filecmp
import os
import re
import resource
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyinfra.api import Config, Inventory, State, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra_openssh import askpass

from kit.place import Place
from kit.sshd import CONFIG, DIRECTORY, Sshd
from kit.totp import STEP, code
from tests.fidokey import TOUCHED, VERIFIED, FidoKey
from tests.helpers import free_port

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
# What asks, beside the key: PAM, by the module that the kit's own door uses.
PAM = """auth required pam_google_authenticator.so secret=/etc/totp user=root
account required pam_permit.so
session required pam_permit.so
"""
ASKS = f"""UsePAM yes
PermitRootLogin yes
AuthenticationMethods publickey,keyboard-interactive
KbdInteractiveAuthentication yes
{CONFIG}"""
# In the place no card is up, not even the loopback.
LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"
INNER = f'python3 -c "{LOOPBACK}" && {{ /usr/sbin/sshd -D -f {DIRECTORY}/config -p %d & cat; kill $!; }}'
DEPLOY = "from pyinfra.operations import server\nfor n in range(3):\n    server.shell(name=f'{n}', commands=['id -un'])\n"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server, which asks the root of this test for a code where its settings say so."""
    with Place() as place, Sshd(place.inside, tmp_path_factory.mktemp("door")) as sshd:
        for path, text in (("/etc/pam.d/sshd", PAM), ("/etc/totp", f'{SEED}\n" TOTP_AUTH\n')):
            subprocess.run(place.inside(f"umask 077; cat > {path}"), input=text, text=True, check=True)
        yield sshd


@pytest.fixture
def sshd(door: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """It lets the one key in, until a test says otherwise; nobody is logged in, and no agent runs."""
    cache = door.scratch / secrets.token_hex(4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYINFRA_PROGRESS", "off")
    door.write("config", CONFIG)
    yield door
    door.line.cut()  # what is logged in ends


def who(config: Path, name: str = "server") -> str:
    """As whom one gets in, and from where. Raises ConnectError."""
    state = State(Inventory(([f"@openssh/{name}"], {"openssh_config_file": str(config)})), Config())
    host = state.inventory.get_host(f"@openssh/{name}")
    host.connect(show_errors=False, raise_exceptions=True)
    fine, output = host.run_shell_command(StringCommand("id -un; echo ${SSH_CONNECTION%% *}"))
    assert fine, output.stderr
    host.disconnect()
    host.connector.master.close()  # type: ignore[union-attr]
    return output.stdout.replace("\n", " from ")


def configured(sshd: Sshd, old: str, new: str) -> Path:
    """Another ssh_config, in which `old` is `new`."""
    text = sshd.ssh_config.read_text()
    assert old in text
    path = sshd.scratch / "changed"
    path.write_text(text.replace(old, new))
    return path


def key(path: Path, *words: str) -> Path:
    """A new key."""
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), *words], check=True)
    return path


def test_through_another_server(sshd: Sshd) -> None:
    """ProxyJump to where only the server gets to; control: from here nothing answers there."""
    config = sshd.scratch / "jump"
    port = free_port()
    inner = f"Host inner\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  HostKeyAlias inner\n  IdentityFile {sshd.key}\n"
    known = f"  UserKnownHostsFile {sshd.scratch}/known_inner\n  StrictHostKeyChecking yes\n"
    (sshd.scratch / "known_inner").write_text(f"inner {(sshd.scratch / 'host_key.pub').read_text()}")
    with subprocess.Popen(sshd.inside(INNER % port), stdin=subprocess.PIPE):
        config.write_text(f"{sshd.ssh_config.read_text()}{inner}{known}")
        with pytest.raises(ConnectError, match="inner: .*refused"):
            who(config, "inner")
        config.write_text(f"{config.read_text()}  ProxyJump server\n")
        answers = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done"
        subprocess.run(sshd.inside(f"timeout 10 bash -c '{answers}'"), check=True)
        assert who(config, "inner") == "root from 127.0.0.1"


def test_a_host_key_that_has_changed(sshd: Sshd) -> None:
    """The error names the host, and the file that somebody has to look into."""
    known, other = sshd.scratch / "known_changed", key(sshd.scratch / "other").with_suffix(".pub").read_text()
    known.write_text(re.sub("ssh-ed25519 .*", lambda _: other.strip(), (sshd.scratch / "known_hosts").read_text()))
    config = configured(sshd, f"{sshd.scratch}/known_hosts", str(known))
    with pytest.raises(ConnectError, match=rf"^server: .*{known}.* has changed .*Host key verification failed"):
        who(config)


def test_a_key_in_an_agent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of it is left here; control: nobody gets in without the agent."""
    socket, config = sshd.scratch / "agent", configured(sshd, f"  IdentityFile {sshd.key}\n  IdentitiesOnly yes\n", "")
    with pytest.raises(ConnectError, match="server: .*Permission denied"):
        who(config)
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        while not socket.exists():
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", str(sshd.key)], check=True)
        assert who(config).startswith("root ")
        agent.terminate()


def test_a_certificate(sshd: Sshd) -> None:
    """The server knows the authority alone; control: the key without its certificate stays outside."""
    authority, mine = key(sshd.scratch / "authority"), key(sshd.scratch / "mine")
    sshd.write("authority.pub", authority.with_suffix(".pub").read_text())
    sshd.write("config", f"TrustedUserCAKeys {DIRECTORY}/authority.pub\nAuthorizedKeysFile none\n{CONFIG}")
    config = configured(sshd, f"IdentityFile {sshd.key}", f"IdentityFile {mine}")
    with pytest.raises(ConnectError, match="server: .*Permission denied"):
        who(config)
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "root", f"{mine}.pub"], check=True)
    assert who(config).startswith("root ")


def test_a_fido2_key(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its PIN; touched alone, or not at all, it is refused where the server wants verify-required."""
    token, config = FidoKey(), configured(sshd, f"  IdentityFile {sshd.key}\n  IdentitiesOnly yes\n", "")
    sshd.write("token.pub", f"verify-required {token.public}\n")
    sshd.write("config", f"AuthorizedKeysFile {DIRECTORY}/token.pub\n{CONFIG}")
    for flags in (TOUCHED, 0):
        with token.agent(flags) as socket:
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            with pytest.raises(ConnectError, match="server: .*Permission denied"):
                who(config)
    with token.agent(VERIFIED) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert who(config).startswith("root ")


def pyinfra(sshd: Sshd, config: Path, hosts: str = "@openssh/server", deploy: str = DEPLOY) -> list[str]:
    """The words that carry out a few operations; in a process of its own, since a terminal belongs to a process."""
    (sshd.scratch / "deploy.py").write_text(deploy)
    words = ["--data", f"openssh_config_file={config}", hosts, str(sshd.scratch / "deploy.py"), "--yes"]
    return [sys.executable, "-m", "pyinfra", *words]


def now() -> str:
    """The code of this half minute."""
    return code(SEED, int(time.time() // STEP))


def test_a_code_is_asked_for_once_by_a_program(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH_ASKPASS is asked once, for all operations of this run and of the next."""
    sshd.write("config", ASKS)
    program, log = sshd.scratch / "askpass", sshd.scratch / "asked"
    program.write_text(f'#!/bin/sh\necho "$1" >>{log}\necho {now()}\n')
    program.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(program))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    for _ in range(2):
        done = subprocess.run(pyinfra(sshd, sshd.ssh_config), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert [line.strip() for line in log.read_text().splitlines()] == ["(root@127.0.0.1) Verification code:"]


@contextmanager
def terminal(argv: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`argv` at a terminal of its own, and the end at which somebody sits."""
    person, screen = os.openpty()
    process = subprocess.Popen(["setsid", "--ctty", "--wait", *argv], stdin=screen, stdout=screen, stderr=screen)
    os.close(screen)
    try:
        yield process, person
    finally:
        os.close(person)  # hangs up on whoever is there still
        process.wait(30)


def read(person: int, until: str, seconds: float = 20) -> str:
    """What appears on the screen, up to `until` or the end."""
    said, end = "", time.monotonic() + seconds
    while until not in said and select.select([person], [], [], max(0.0, end - time.monotonic()))[0]:
        try:
            said += os.read(person, 4096).decode(errors="replace")
        except OSError:  # nobody is at the other end any more
            break
    return said


def test_a_code_is_asked_for_once_on_the_terminal(sshd: Sshd) -> None:
    """The one prompt appears, and what is typed lets in; it is not shown."""
    sshd.write("config", ASKS)
    with terminal(pyinfra(sshd, sshd.ssh_config)) as (process, person):
        before = read(person, "Verification code: ")
        typed = now()
        os.write(person, f"{typed}\n".encode())
        screen = before + read(person, "\0")
        process.wait(30)
    assert (process.returncode, screen.count("Verification code"), typed in screen) == (0, 1, False), screen


def test_two_servers_ask_one_after_the_other(sshd: Sshd) -> None:
    """They log in at the same time, and there is one terminal."""
    config = sshd.scratch / "two"
    config.write_text(sshd.ssh_config.read_text().replace("Host server", "Host server other"))
    sshd.write("config", ASKS)
    with terminal(pyinfra(sshd, config, "@openssh/server,@openssh/other")) as (process, person):
        screen = ""
        for _ in range(2):
            screen += read(person, "Verification code: ")
            assert "code" not in read(person, "code", seconds=0.5), "both ask at once"
            os.write(person, f"{now()}\n".encode())
        screen += read(person, "\0")
        process.wait(30)
    assert (process.returncode, screen.count("Verification code")) == (0, 2), screen


def test_a_touch_is_asked_for_on_the_terminal(tmp_path: Path) -> None:
    """What ssh says of a FIDO2 key in a file (SSH_ASKPASS_PROMPT=none in ssh(1)) is shown until ssh, or the terminal, ends it."""
    asks = [sys.executable, "-I", askpass.__file__, str(tmp_path / "lock"), "Confirm user presence for key"]
    with terminal(["env", "SSH_ASKPASS_PROMPT=none", *asks]) as (process, person):
        assert "Confirm user presence for key" in read(person, "\n")
        assert process.poll() is None


LONG = """from pyinfra.operations import server
server.shell(name="a short one", commands=["sleep 9"], _timeout=1, _ignore_errors=True)
server.shell(name="the next one", commands=["echo from $PPID"])
server.shell(name="a long one", commands=["touch /run/began; sleep 99"], _ignore_errors=True)
server.shell(name="the last one", commands=["true"])
"""


@pytest.mark.parametrize("how", ["is cut", "falls silent"])
def test_a_line_that(sshd: Sshd, how: str) -> None:
    """A time-out ends one command; the connection's end ends the run, by the names of host and operation."""
    inventory = sshd.scratch / "inventory.py"
    alive = ["ServerAliveInterval=1", "ServerAliveCountMax=1"]
    inventory.write_text(f"servers = [('@openssh/server', {{'openssh_options': {alive}}})]\n")
    argv = pyinfra(sshd, sshd.ssh_config, str(inventory), LONG)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        subprocess.run(sshd.inside("timeout 20 sh -c 'until rm /run/began; do sleep 0.1; done' 2>/dev/null"), check=True)
        if how == "is cut":
            sshd.line.cut()
        else:
            sshd.line.round_trip = 4  # an answer that takes this long comes too late
        _, said = run.communicate(timeout=30)
    sshd.line.round_trip = 0
    assert "Command timed out after 1s" in said
    assert "server: the connection ended during: a long one: touch /run/began; sleep 99" in said
    assert "server: the connection has ended; the next run logs in anew" in said
    assert run.returncode == 1


def test_a_large_file_there_and_back(sshd: Sshd, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """As large as a disk image where there is time for it; whole, 0600, and neither end ever holds it in memory."""
    size = 200_000_000 if pytestconfig.getoption("--long") else 20_000_000
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
    state = State(Inventory((["@openssh/server"], {"openssh_config_file": str(sshd.ssh_config)})), Config())
    host = state.inventory.get_host("@openssh/server")
    host.connect(show_errors=False, raise_exceptions=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert host.put_file(str(source), "/srv/it's large") and host.get_file("/srv/it's large", str(target))
    _, output = host.run_shell_command(StringCommand("stat -c %a /srv/*large; awk '/VmHWM/ {print $2}' /proc/$$/status; rm /srv/*large"))
    mode, held = output.stdout_lines
    host.disconnect()
    host.connector.master.close()  # type: ignore[union-attr]
    assert filecmp.cmp(source, target, shallow=False)
    assert (mode, int(held) < 10_000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 15_000) == ("600", True, True)
