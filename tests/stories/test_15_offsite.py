"""The host outside, as a machine of its own: it takes the practice's copies, lets nobody destroy them, and is shut otherwise."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyinfra_openssh.shell import Shell
from testinfra.host import Host

from kit import deployment, paths, post
from kit import vault as vaults
from kit.clinic import Clinic
from kit.connection import Connection
from kit.machines import offsite, removed
from kit.neighbour import Outside
from kit.vm import GUEST_PORTS, Machine
from practice.offsite import KINDS
from tests.contract.test_ssh_config import key
from tests.helpers import free_port
from tests.intruder import Intruder
from tests.vaulthost import agent, deploy

# As the practice's server sees this machine, and with it what is forwarded from here.
HERE = "10.0.2.2"
COPIES = GUEST_PORTS["offsite"]["copies"]
FILE = """\
host: vault.cabinet.test
connect: {{host: 127.0.0.1, port: {ssh}, bootstrap_user: vagrant, bootstrap_key: {bootstrap}}}
network: {{interface: internet, management: [10.0.2.0/24], resolvers: [10.0.2.3], ntp: []}}
people: [{{name: karim, full_name: Karim Meziane, profile: technician, keys: ["{key}"]}}]
certificate: {{chain: {home}/chain.pem, key: {home}/key.pem}}
accounts:
  - {{name: {account}, password_file: {password}, quota_gib: 1, port: {copies}}}
"""
ASKPASS = "#!/bin/sh\ncd {tree} && exec {python} -m kit.totp {home}/seed\n"
# Whoever is nobody there, to a port of this machine.
OUT = "setpriv --reuid nobody --clear-groups python3 -c 'import socket; socket.create_connection((\"{here}\", {port}), 3)'"
SEND = "systemctl start practice-offsite@send.service && ! grep '\"send\":' /var/lib/cabinet/offsite/state.json"
# What was sent to another host is not on this one.
FORGET = "systemctl stop 'practice-offsite@*'; rm -rf /var/lib/cabinet/offsite/state.json /var/lib/cabinet/offsite/cache"
# A run of the timer's would be a copy more, in the middle of it.
BY_HAND = "systemctl stop practice-offsite-send.timer 'practice-offsite@*'"
KEEPER = "python3 -I /usr/local/lib/cabinet/keeper.py"
SCAN = "/srv/offsite-story"
# No further ahead than a clock may be: what lies ahead of that is passed over.
SOON = "$(date -d '30 minutes' '+%F %T')"
FORGED = f'restic --no-cache backup --json --no-scan --host=practice --tag=documents --time="{SOON}" /etc/hostname'
# What a new server would take out of a repository.
CHOSEN = (
    "import json, sys; sys.path.insert(0, '/usr/local/lib/cabinet'); from practice import fetch; "
    "print(json.dumps(fetch.newest_in(sys.argv[1])['snapshots']))"
)


@dataclass
class OffsiteHost:
    """The machine, the technician's directory, and root's shell there."""

    machine: Machine
    home: Path
    connection: Connection
    shell: Shell

    def run(self, command: str) -> str:
        """What a command of root's prints there; it must succeed."""
        done = self.shell.run(command)
        assert done.rc == 0, done.stdout + done.stderr
        return done.stdout.decode()

    def rebooted(self) -> None:
        """Shut down in good order and switched on; the technician comes in anew, with key and code."""
        self.shell.close()
        self.connection.logout()
        power("halt")
        power("up")
        self.connection.login()
        self.shell = self.connection.shell()


def power(what: str) -> None:
    """What kit/vm.py does with that machine."""
    subprocess.run([sys.executable, "-m", "kit.vm", what], cwd=paths.ROOT, env=offsite(), check=True)


@pytest.fixture
def outside_host(clinic: Clinic, tmp_path: Path) -> Iterator[OffsiteHost]:
    """Raised plain, and deployed as a technician does it at a terminal."""
    env, askpass = offsite(), tmp_path / "askpass"
    askpass.write_text(ASKPASS.format(tree=paths.ROOT, python=sys.executable, home=tmp_path))
    askpass.chmod(0o700)
    removed(env)
    try:
        power("up")
        with pytest.MonkeyPatch.context() as patch, agent(key(tmp_path / "karim")) as socket:
            patch.setenv("SSH_AUTH_SOCK", socket)
            patch.setenv("PYINFRA_PROGRESS", "off")
            certificate = post.server_certificate(HERE)
            with pytest.MonkeyPatch.context() as there:
                for name in ("CABINET_STATE", "CABINET_MACHINE"):
                    there.setenv(name, env[name])
                machine = Machine()
                described(tmp_path, machine, clinic, certificate)
                code, said = deploy(tmp_path, seconds=1200)
                connection = Connection("vault.vault", vaults.load(tmp_path / "vault.yaml"))
            assert code == 0, said
            patch.setenv("SSH_ASKPASS", str(askpass))
            patch.setenv("SSH_ASKPASS_REQUIRE", "force")
            connection.login()
            yield OffsiteHost(machine, tmp_path, connection, connection.shell())
    finally:
        removed(env)


def described(home: Path, machine: Machine, clinic: Clinic, certificate: str) -> None:
    """Its file, and what it names."""
    private, begin, rest = certificate.partition("-----BEGIN CERTIFICATE")
    for name, text in (("chain.pem", begin + rest), ("key.pem", private)):
        (home / name).write_text(text)
    file = FILE.format(
        ssh=machine.ssh_port,
        bootstrap=machine.key,
        key=(home / "karim.pub").read_text().strip(),
        home=home,
        account=clinic.offsite.account,
        password=clinic.offsite.password_file,
        copies=COPIES,
    )
    (home / "vault.yaml").write_text(file)


def test_the_host_outside_keeps_what_the_practice_sends(host: Host, clinic: Clinic, outside_host: OffsiteHost) -> None:
    """After a boot of its own; its doors are shut in both directions, and whoever holds the practice's password destroys nothing."""
    there, port = outside_host, outside_host.machine.ports["copies"]
    assert changes(there.home) == [], "the second deploy is not empty"
    there.rebooted()
    there.run("timeout 300 systemctl is-system-running --wait")
    doors(there)
    host.check_output(FORGET)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CABINET_VAULT", f"{HERE}:{port}")
            done = deployment.pyinfra("vagrant", "tests.stories.variants.copies_go_elsewhere", "--yes", echo=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        host.check_output(BY_HAND)
        host.check_output(f"head -c 100000 /dev/urandom >{SCAN}")
        host.check_output(SEND)
        store = f"/srv/vault/{clinic.offsite.account}/{clinic.offsite.account}"
        kept = there.run(f"find {store} -type f -printf '%U %m %P %s %T@\\n' | sort")
        snapshots = [line.split()[2] for line in kept.splitlines() if "/snapshots/" in line]
        assert snapshots, "control: nothing arrived"
        owner = there.run(f"id -u vault-{clinic.offsite.account}").strip()
        assert {tuple(line.split()[:2]) for line in kept.splitlines()} == {(owner, "600")}
        assert [destroyed(clinic, port, path) for path in snapshots] == [403] * len(snapshots)
        assert there.run(f"find {store} -type f -printf '%U %m %P %s %T@\\n' | sort") == kept, "something was changed"
        assert there.run(KEEPER).strip() == f"{clinic.offsite.account}: as it should be"
        counted_anew(there, clinic.offsite.account)
        root_attacks(Intruder(host, HERE, port, clinic.offsite.account), there, store)
        noticed(there, clinic, port)
    finally:
        host.check_output(f"{FORGET}; rm -f {SCAN}")
        deployment.run_role("vagrant", "offsite")


def doors(there: OffsiteHost) -> None:
    """In come SSH and copies, and nothing else, although it listens; nobody gets out, although somebody waits."""
    outside = Outside(there.machine)
    there.run("systemd-run --quiet --collect --unit=odd python3 -m http.server 4711; sleep 2; ss -ltnH 'sport = 4711' | grep -q .")
    assert {name: outside.reaches(number) for name, number in there.machine.guest_ports.items()} == {
        "ssh": True,
        "copies": True,
        "odd": False,
    }
    with outside.listening(port := free_port()) as visits:
        assert there.shell.run(OUT.format(here=HERE, port=port)).rc != 0 and visits.callers == [], "it gets out"
        there.run("nft destroy table inet cabinet; nft destroy table inet cabinet_base")
        there.run(OUT.format(here=HERE, port=port))  # control: without the rules it does
        assert outside.reaches(4711), "control: without the rules it is reached"
        there.run("systemctl restart cabinet-firewall-base cabinet-firewall; systemctl stop odd")


def counted_anew(there: OffsiteHost, account: str) -> None:
    """The keeper's service, in its sandbox, restarts the server of an account from which it has removed something."""
    ledger, which = f"/var/lib/cabinet-vault/{account}.json", f"systemctl show -P MainPID cabinet-vault-{account}.service"
    began = there.run(which)
    due = 's/^{/{"recount": true,/; s/"recount": false/"recount": true/'
    there.run(f"sed -i '{due}' {ledger}; systemctl start cabinet-keeper.service")
    assert there.run(which) not in (began, "0\n"), "it still counts what was removed"


def root_attacks(intruder: Intruder, there: OffsiteHost, store: str) -> None:
    """On the practice's server, with all that lies on it: no file is changed, it is told, and the host shows what there was before."""
    host, account = intruder.host, intruder.account
    host.check_output(SEND)  # of what is sent each time there are two by now: restic has something to forget
    state = json.loads(host.check_output("cat /var/lib/cabinet/offsite/state.json"))
    month, genuine = state["generation"], {kind: state["sent"][kind]["id"] for kind in KINDS}
    there.run(f"find {store} -type f -exec touch -d '70 minutes ago' {{}} +")  # longer ago than restic tries anything again
    kept = stored(there, store)
    there.run("systemctl start cabinet-keeper.service")
    assert json.loads(there.run("practice alarm list")) == {}, "control: nothing is wrong before"
    moment = there.run("date -u +%FT%TZ; sleep 2").strip()

    paths = [line.split()[2] for line in kept]
    answers = intruder.destroys(month, paths)
    assert (len(answers), [status for status in answers if status < 400]) == (2 * len(paths), []), answers
    forged = json.loads(intruder.runs(month, "sh", "-c", FORGED).stdout.splitlines()[-1])["snapshot_id"]
    assert chosen(host, month)["documents"] == forged, "control: whose is the newest"
    assert set(kept) - set(stored(there, store)) == set(), "something was removed or changed"
    there.run("systemctl start cabinet-keeper.service")
    assert set(json.loads(there.run("practice alarm list"))) == {f"vault:{account}-refused"}

    view = there.run(f"{KEEPER} --as-of {account} {month} {moment}").split()[-1]
    listed = json.loads(intruder.runs(view, "restic", "--no-cache", "snapshots", "--json", "--no-lock").stdout)
    assert {one["id"] for one in listed} == {path.rpartition("/")[2] for path in paths if "/snapshots/" in path}
    assert chosen(host, view) == genuine
    came_back = f"restic --no-cache --no-lock dump {genuine['documents']} {SCAN} | sha256sum"
    assert intruder.runs(view, "sh", "-c", came_back).stdout == host.check_output(f"sha256sum <{SCAN}") + "\n"
    more = "more" * 32
    name = hashlib.sha256(more.encode()).hexdigest()
    answers = intruder.asks(*(f"POST /{account}/{one}/data/{name}" for one in (month, view)), body=more)
    assert answers == [200, 500], "something can be added to what is shown, or (control) to nothing"

    there.run(f"{KEEPER} --confirm {account}")
    there.run(f"systemctl restart cabinet-vault-{account}.service")
    assert there.run(KEEPER).strip() == f"{account}: as it should be"
    assert json.loads(there.run("practice alarm list")) == {}
    assert chosen(host, view) == genuine, "it is served no more"


def stored(there: OffsiteHost, store: str) -> list[str]:
    """All that lasts of what lies there: owner, mode, path, bytes and when it came."""
    return there.run(f"find {store} -type f ! -path '*/locks/*' -printf '%U %m %P %s %T@\\n' | sort").splitlines()


def chosen(host: Host, repository: str) -> dict[str, str]:
    """What a new server would take out of it: a snapshot of each kind."""
    return json.loads(host.check_output(f"python3 -c {shlex.quote(CHOSEN)} {repository}"))


def noticed(there: OffsiteHost, clinic: Clinic, port: int) -> None:
    """The keeper's service, in its sandbox, reads in the journal what was refused; what failed and is well again is over."""
    account = clinic.offsite.account
    there.run(f"practice alarm raise unit:cabinet-vault-{account}.service 'it failed once'")
    there.run("systemctl start cabinet-keeper.service")
    assert json.loads(there.run("practice alarm list")) == {}, "control: nothing old was to be removed, and its server runs"
    assert destroyed(clinic, port, "any/config", "PUT") == 405
    there.run("systemctl start cabinet-keeper.service")
    assert set(json.loads(there.run("practice alarm list"))) == {f"vault:{account}-refused"}
    there.run(f"{KEEPER} --confirm {account}")
    assert json.loads(there.run("practice alarm list")) == {}
    assert there.run("systemctl is-enabled cabinet-silence.timer").strip() == "enabled"
    there.run("systemctl start cabinet-silence.service")
    there.run("touch -d '4 hours ago' /var/lib/cabinet-vault/looked")
    assert there.shell.run("systemctl start cabinet-silence.service").rc != 0, "nobody notices that the keeper is silent"


def destroyed(clinic: Clinic, port: int, path: str, method: str = "DELETE") -> int:
    """What the host answers to who wants a file gone, or another one in its place, and has the password."""
    context = ssl.create_default_context(cafile=str(clinic.offsite.authority))
    context.check_hostname = False  # it is called what the practice calls it
    word = base64.b64encode(f"{clinic.offsite.account}:{clinic.offsite.password_file.read_text().strip()}".encode()).decode()
    link = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    try:
        link.request(method, f"/{clinic.offsite.account}/{path}", headers={"Authorization": f"Basic {word}"})
        return link.getresponse().status
    finally:
        link.close()


def changes(home: Path) -> list[str]:
    """What a further deploy would change."""
    words = [sys.executable, "-m", "pyinfra", "--json", "--data", f"vault_file={home}/vault.yaml", "@cabinet/x", "deploy_vault.py", "--dry"]
    done = subprocess.run(words, cwd=paths.ROOT, env=offsite(), capture_output=True, text=True, check=True)
    return [step["name"] for step in json.loads(done.stdout)["plan"] if step["hosts_with_change"]]
