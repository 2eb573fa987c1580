"""deploy_vault.py, carried out on a Debian 13 in memory: it takes copies there, and its doors open to whom its file names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from kit import post
from kit.totp import fresh_code
from tests.helpers import pyinfra_run
from tests.offline.test_vault import KEY
from tests.vaulthost import ANYBODY, BENALI, PASSWORD, TECHNICIAN, Host, Internet, connected, deployed

# In the place no card is up, not even the loopback.
LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"
# systemd's part: the credentials, the user and the command of the unit.
RUN = """set -eu
python3 -c "$1"
export CREDENTIALS_DIRECTORY=/run/credentials
install -d -m 700 -o vault-haddad $CREDENTIALS_DIRECTORY
sed -n 's/^LoadCredential=//p' $2 |
  while IFS=: read -r name path; do install -m 400 -o vault-haddad $path $CREDENTIALS_DIRECTORY/$name; done
eval "words=\\"$(sed -n 's/^ExecStart=//p' $2)\\""
setpriv --reuid vault-haddad --regid vault-haddad --clear-groups $words >/root/asked 2>&1 &
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
sleep 1
name=$(python3 -I /usr/local/lib/cabinet/keeper.py --as-of haddad 2026-11 "$(date '+%F %T')" | sed -n 's/.*--repository //p')
restic -q -r "${RESTIC_REPOSITORY%2026-11/}$name/" --no-lock restore latest --target then >/dev/null && cat then/letter || echo unreadable
python3 -c "$4" 2026-11 $name || echo no answer
kill $server
python3 -I /usr/local/lib/cabinet/keeper.py
find /srv/vault/haddad/haddad/2026-11 -type f -exec touch -d '3 hours ago' {} +
! python3 -I /usr/local/lib/cabinet/keeper.py || echo nothing noticed
/usr/local/bin/practice alarm list"""
# What the unit that notices the keeper's silence says: just now, and four hours later.
SILENCE = """eval "words=$(sed -n 's/^ExecStart=[^ ]* -c //p' /etc/systemd/system/cabinet-silence.service | sed 's/[$][$]/$/g')"
for ago in now '4 hours ago'; do touch -d "$ago" /var/lib/cabinet-vault/looked; sh -c "$words" && echo well || echo silent; done"""
# What it says to whoever adds to these repositories.
ADDS = """import hashlib, http.client, ssl, sys
from base64 import b64encode
from os import environ
login = b64encode(f"haddad:{environ['RESTIC_REST_PASSWORD']}".encode()).decode()
trusted, body = ssl.create_default_context(cafile=environ["RESTIC_CACERT"]), b"x" * 100
for name in sys.argv[1:]:
    for kind in ("data", "snapshots"):
        link = http.client.HTTPSConnection("127.0.0.1", 8443, context=trusted)
        link.request("POST", f"/haddad/{name}/{kind}/{hashlib.sha256(body).hexdigest()}", body, {"Authorization": f"Basic {login}"})
        print(link.getresponse().status, end=" ")
print()"""
# No systemd runs there, which could say how these stand: Debian's own firewall, the two doors, the timers.
ASK_SYSTEMD = ["firewall | FW-08", "firewall | FW-01", "ssh | SSH-01", "vault | ALM-04"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """It was deployed once, from a plain Debian 13."""
    with deployed(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("o")) as host:
        yield host


@pytest.fixture
def internet(host: Host) -> Iterator[Internet]:
    """What lies beyond its card."""
    with connected(host) as internet:
        yield internet


def test_what_the_role_leaves_takes_copies(host: Host) -> None:
    """It takes a snapshot and does not let it go; the files are the practice's own account's, and the keeper finds nothing wrong.

    A repository as it was can be read by the account, and nothing can be added to it.
    """
    assert PASSWORD not in host.said
    host.runs("cat >/root/authority", input=post.given(post.AUTHORITY).read_text())
    unit = "/etc/systemd/system/cabinet-vault-haddad.service"
    done = host.runs(f"sh -c {shlex.quote(RUN)} sh {shlex.quote(LOOPBACK)} {unit} {PASSWORD} {shlex.quote(ADDS)}")
    assert "benali: as it should be" in done.stdout, done.stdout + done.stderr
    snapshots, owner, *rest = done.stdout.splitlines()
    letter, added, *rest = rest
    assert (letter, added) == ("Nadia", "200 200 500 500 "), done.stdout + done.stderr
    assert [snapshot["paths"] for snapshot in json.loads(snapshots)] == [["/root/letter"]], "it is gone, or never came"
    assert owner == "vault-haddad 600"
    assert rest[:2] == ["haddad: as it should be", "benali: as it should be"]
    assert len(rest) > 4, done.stdout + done.stderr
    assert re.match("haddad: The newest snapshot arrived 20", rest[2]), "silence is not noticed"
    assert set(json.loads("\n".join(rest[4:]))) == {"vault:haddad-silence"}, done.stdout + done.stderr
    asked = host.runs("cat /root/asked").stdout
    assert '"POST /haddad/2026-11/?create=true HTTP/2.0" 200' in asked, "what it is asked is not said where the journal hears it"


def test_the_keeper_is_alive_and_its_silence_is_noticed(host: Host) -> None:
    """It has looked above: its sign of life waits to be sent, and outlasts a boot."""
    waiting = map(json.loads, host.runs("cd /var/lib/cabinet/outbox && for one in *; do cat $one; echo; done").stdout.splitlines())
    assert [(one["state"], one["to"]) for one in waiting if one["state"] == "alive"] == [("alive", ["webhook"])]
    assert host.runs(SILENCE).stdout.split() == ["well", "silent"]


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


def test_packets_get_in_from_whom_the_file_names(host: Host, internet: Internet) -> None:
    """SSH from the management network, a port from its practice; without the full ruleset SSH alone; control: without any, all."""
    base, full = ("/etc/cabinet/nftables/base.nft", "/etc/cabinet/nftables/cabinet.nft")
    haddad = {(who, 8443) for who in (TECHNICIAN, BENALI, ANYBODY)}  # who names no sources
    assert internet.reaches() == {*haddad, (TECHNICIAN, 22), (BENALI, 8444)}
    host.runs("nft destroy table inet cabinet")
    assert internet.reaches() == {(TECHNICIAN, 22)}
    host.runs("nft destroy table inet cabinet_base")
    assert len(internet.reaches()) == 15, "control: something listens at each port"
    assert host.runs(f"nft -f {base} && nft -f {full}").returncode == 0


def test_packets_get_out_by_whom_the_file_names(host: Host, internet: Internet) -> None:
    """The web by the filtering proxy alone; alarms by their account, to whom they go; root by no way."""
    users = ("proxy", "root", "_apt", "vault-haddad", "cabinet-alarm")
    assert [user for user in users if internet.is_reached(user)] == ["proxy"]
    host.runs("nft 'add element inet cabinet alarm4 { 203.0.113.9 . 443 }'")
    assert [user for user in users if internet.is_reached(user)] == ["proxy", "cabinet-alarm"]
    assert [user for user in users if internet.is_reached(user, 4711)] == []
    host.runs("nft 'flush set inet cabinet alarm4'")


def test_the_second_time_it_changes_nothing(host: Host) -> None:
    """But for what only systemd could say."""
    data = ["--data", f"vault_file={host.home}/vault.yaml"]
    again = json.loads(pyinfra_run(host.sshd, *data, "@cabinet/x", "deploy_vault.py", "--dry").stdout)
    assert [" ".join(step["name"].split()[:3]) for step in again["plan"] if step["hosts_with_change"]] == ASK_SYSTEMD
