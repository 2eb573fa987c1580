"""deploy_vault.py, carried out on a Debian 13 in memory: it takes copies there, and its doors open to whom its file names."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit import post
from kit.place import Place
from kit.sshd import Sshd
from kit.totp import fresh_code
from roles import alarm
from roles.vault import WANTED
from tests.contract.test_ssh_config import key, read, terminal
from tests.helpers import pyinfra_run
from tests.offline.test_vault import FILE, KEY

PASSWORD = "twenty-characters-and-more"
# In the place no card is up, not even the loopback.
LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"
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
# systemd's part: the credentials, the user and the command of the unit.
RUN = """set -eu
python3 -c "$1"
export CREDENTIALS_DIRECTORY=/run/credentials
install -d -m 700 -o vault-haddad $CREDENTIALS_DIRECTORY
sed -n 's/^LoadCredential=//p' $2 |
  while IFS=: read -r name path; do install -m 400 -o vault-haddad $path $CREDENTIALS_DIRECTORY/$name; done
eval "words=\\"$(sed -n 's/^ExecStart=//p' $2)\\""
setpriv --reuid vault-haddad --regid vault-haddad --clear-groups $words &
server=$!
cd /root
export RESTIC_REST_USERNAME=haddad RESTIC_REST_PASSWORD=$3 RESTIC_CACERT=/root/authority RESTIC_PASSWORD=x
export RESTIC_REPOSITORY=rest:https://127.0.0.1:8443/haddad/2026-11/
for try in 1 2 3 4 5 6 7 8 9 10; do restic init >/dev/null 2>said && break || sleep 0.3; done
echo Nadia >letter
restic -q backup letter
restic -q forget --keep-last 0 --unsafe-allow-remove-all 2>/dev/null || true
restic snapshots --json
find /srv/vault -type f -path '*snapshots*' -printf '%u %m\\n'
kill $server
python3 -I /usr/local/lib/cabinet/keeper.py
find /srv/vault/haddad/haddad/2026-11 -type f -exec touch -d '3 hours ago' {} +
! python3 -I /usr/local/lib/cabinet/keeper.py || echo nothing noticed
/usr/local/bin/practice alarm list"""
# No systemd runs there, which could say how these stand: Debian's own firewall, the two doors, the timers.
ASK_SYSTEMD = ["firewall | FW-08", "firewall | FW-01", "ssh | SSH-01", "vault | ALM-04"]


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
        """As the technician does: at a terminal, who types the code when it is asked for. Exit code, and all that was said."""
        words = [sys.executable, "-m", "pyinfra", "--data", f"vault_file={self.home}/vault.yaml", "@cabinet/x", "deploy_vault.py", "--yes"]
        with terminal(words) as (process, person):
            said = read(person, "Verification code: ", 240)
            if seed := re.search(r"Without a camera: (\w+)", said):
                (self.home / "seed").write_text(seed[1])
            if process.poll() is None and said.endswith("Verification code: "):
                os.write(person, f"{fresh_code(self.home / 'seed')}\n".encode())
            said += read(person, "\0", 240)
            process.wait(30)
        return process.returncode, said

    def comes_in(self, user: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Whoever tries by these options of ssh, and has an answer to the question for a code."""
        askpass = self.home / "askpass"
        askpass.write_text(f"#!/bin/sh\nexec cat {self.home}/code\n")
        askpass.chmod(0o700)
        known = ["-o", f"UserKnownHostsFile={self.home}/known", "-o", "StrictHostKeyChecking=accept-new"]
        argv = ["ssh", "-F", "none", *known, "-p", str(self.sshd.line.port), *options, f"{user}@127.0.0.1", "sudo -n id -un"]
        environment = os.environ | {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host's file, what it names, and a plain Debian 13 that was deployed with it."""
    home, patch = tmp_path_factory.mktemp("home"), pytest.MonkeyPatch()
    state = tempfile.TemporaryDirectory()  # a socket's path is short
    for name, value in (("CABINET_STATE", state.name), ("SSH_AUTH_SOCK", f"{state.name}/agent"), ("PYINFRA_PROGRESS", "off")):
        patch.setenv(name, value)
    certificate = post.server_certificate("127.0.0.1")
    private, begin, rest = certificate.partition("-----BEGIN CERTIFICATE")
    (home / "chain.pem").write_text(begin + rest)
    (home / "key.pem").write_text(private)
    (home / "password").write_text(f"{PASSWORD}\n")
    technician = key(home / "karim")
    with (
        state,
        Place(*WANTED, *alarm.PACKAGES) as place,
        Sshd(place.inside, tmp_path_factory.mktemp("o")) as sshd,
        subprocess.Popen(["ssh-agent", "-D", "-a", f"{state.name}/agent"], stdout=subprocess.DEVNULL) as agent,
    ):
        sshd.line.command = place.inside("exec /usr/sbin/sshd -i")  # the system's own door
        subprocess.run(place.inside(PLAIN), input=sshd.key.with_suffix(".pub").read_text(), text=True, check=True)
        for path, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
            subprocess.run(place.inside(f"cat >/usr/bin/{path}; chmod 755 /usr/bin/{path}"), input=text, text=True, check=True)
        text = FILE.format(home=home).replace(KEY, technician.with_suffix(".pub").read_text().strip())
        text = text.replace("port: 22,", f"port: {sshd.line.port},").replace(f"{home}/key}}", f"{sshd.key}}}")
        (home / "vault.yaml").write_text(f"{text}alarm: {{webhook: {{url: https://alarms.atlas.example/vault}}}}\n")
        while not Path(state.name, "agent").exists():
            time.sleep(0.02)
        subprocess.run(["ssh-add", "-q", str(technician)], check=True)
        deployed = Host(place, sshd, home)
        code, deployed.said = deployed.deploy()
        assert code == 0, deployed.said
        yield deployed
        agent.terminate()
        sshd.line.cut()
    patch.undo()


def test_what_the_role_leaves_takes_copies(host: Host) -> None:
    """It takes a snapshot and does not let it go; the files are the practice's own account's, and the keeper finds nothing wrong."""
    assert PASSWORD not in host.said
    host.runs("cat >/root/authority", input=post.given(post.AUTHORITY).read_text())
    unit = "/etc/systemd/system/cabinet-vault-haddad.service"
    done = host.runs(f"sh -c {shlex.quote(RUN)} sh {shlex.quote(LOOPBACK)} {unit} {PASSWORD}")
    assert "benali: as it should be" in done.stdout, done.stdout + done.stderr
    snapshots, owner, *rest = done.stdout.splitlines()
    assert [snapshot["paths"] for snapshot in json.loads(snapshots)] == [["/root/letter"]], "it is gone, or never came"
    assert owner == "vault-haddad 600"
    assert rest[:2] == ["haddad: as it should be", "benali: as it should be"]
    assert len(rest) > 4, done.stdout + done.stderr
    assert re.match("haddad: The newest snapshot arrived 20", rest[2]), "silence is not noticed"
    assert set(json.loads("\n".join(rest[4:]))) == {"vault:haddad-silence"}, done.stdout + done.stderr


def test_a_key_alone_is_refused_and_a_key_with_a_code_lets_in(host: Host) -> None:
    """By the real sshd and PAM; nor does a code alone, a password, or root, by the key that was there before the deploy."""
    mine = ("-o", "IdentityAgent=none", "-i", str(host.home / "karim"))
    (host.home / "code").write_text(fresh_code(host.home / "seed"))
    refused = [
        host.comes_in("karim", *mine, "-o", "PreferredAuthentications=publickey"),
        host.comes_in("karim", "-o", "IdentityAgent=none", "-o", "PreferredAuthentications=keyboard-interactive"),
        host.comes_in("karim", *mine, "-o", "PreferredAuthentications=password"),
        host.comes_in("root", "-o", "IdentityAgent=none", "-i", str(host.sshd.key)),
    ]
    assert [(done.returncode, done.stdout) for done in refused] == [(255, "")] * 4, refused
    assert "Permission denied (keyboard-interactive)" in refused[0].stderr, "control: the key is the right one"
    done = host.comes_in("karim", *mine)
    assert (done.returncode, done.stdout) == (0, "root\n"), done.stderr
    again = host.comes_in("karim", *mine)
    assert again.returncode == 255, "a code is good once"


def test_sshd_is_as_hard_as_a_practices(host: Host) -> None:
    """As the real sshd reads what lies there."""
    said = dict(line.split(" ", 1) for line in host.runs("/usr/sbin/sshd -T").stdout.splitlines())
    wanted = {
        "authenticationmethods": "publickey,keyboard-interactive:pam",
        "permitrootlogin": "no",
        "passwordauthentication": "no",
        "allowgroups": "cabinet-login",
        "disableforwarding": "yes",
        "authorizedkeysfile": "/etc/ssh/authorized_keys/%u",
    }
    assert {key: said.get(key) for key in wanted} == wanted
    assert host.runs("getent group cabinet-login cabinet-admin | cut -d : -f 4").stdout.split() == ["karim", "karim"]


def test_a_door_that_shuts_the_technician_out_goes_back(host: Host) -> None:
    """The file names a key that nobody here holds: the deploy fails, and the way in is the one of before."""
    good = (host.home / "vault.yaml").read_text()
    (host.home / "vault.yaml").write_text(good.replace((host.home / "karim.pub").read_text().strip(), KEY))
    before = host.runs("cat /etc/ssh/authorized_keys/karim").stdout
    code, said = host.deploy()
    (host.home / "vault.yaml").write_text(good)
    assert code != 0 and "nobody could come in anew" in said and "it was put back" in said, said
    assert host.runs("cat /etc/ssh/authorized_keys/karim").stdout == before


def test_the_second_time_it_changes_nothing(host: Host) -> None:
    """But for what only systemd could say."""
    data = ["--data", f"vault_file={host.home}/vault.yaml"]
    again = json.loads(pyinfra_run(host.sshd, *data, "@cabinet/x", "deploy_vault.py", "--dry").stdout)
    assert [" ".join(step["name"].split()[:3]) for step in again["plan"] if step["hosts_with_change"]] == ASK_SYSTEMD
