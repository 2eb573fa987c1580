"""roles/vault.py, carried out on a Debian 13 in memory: what it leaves takes copies there, and the second time it changes nothing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kit import post
from kit.place import Place
from kit.sshd import Sshd
from tests.helpers import pyinfra_run
from tests.offline.test_vault import FILE

PASSWORD = "twenty-characters-and-more"
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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A host's file, and what it names."""
    certificate = post.server_certificate("127.0.0.1")
    key, begin, rest = certificate.partition("-----BEGIN CERTIFICATE")
    (tmp_path / "chain.pem").write_text(begin + rest)
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "vault.yaml").write_text(FILE.format(home=tmp_path))
    return tmp_path


def pyinfra(sshd: Sshd, home: Path, *words: str) -> tuple[Any, str]:
    """What pyinfra says of the whole host as JSON, and all that it says."""
    data = ["--data", f"openssh_config_file={sshd.ssh_config}", "--data", f"vault_file={home}/vault.yaml"]
    done = pyinfra_run(sshd, *data, "@openssh/server", "deploy_vault.py", *words)
    return json.loads(done.stdout), done.stdout + done.stderr


def test_what_the_role_leaves_takes_copies(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It takes a snapshot and does not let it go; the files are the practice's own account's, and the keeper finds nothing wrong."""
    with Place() as place, Sshd(place.inside, tmp_path_factory.mktemp("o")) as sshd:
        _, said = pyinfra(sshd, home, "--yes")
        assert PASSWORD not in said
        again, _ = pyinfra(sshd, home, "--dry")
        # No systemd runs there, which could say that the timers do.
        assert [step["name"] for step in again["plan"] if step["hosts_with_change"]] == ["vault | ALM-04 ALM-07 let them run"]
        subprocess.run(place.inside("cat >/root/authority"), input=post.given(post.AUTHORITY).read_bytes(), check=True)
        unit = "/etc/systemd/system/cabinet-vault-haddad.service"
        script = f"sh -c {shlex.quote(RUN)} sh {shlex.quote(LOOPBACK)} {unit} {PASSWORD}"
        done = subprocess.run(place.inside(script), capture_output=True, text=True, check=False)
        assert "benali: as it should be" in done.stdout, done.stdout + done.stderr
        snapshots, owner, *rest = done.stdout.splitlines()
        assert [snapshot["paths"] for snapshot in json.loads(snapshots)] == [["/root/letter"]], "it is gone, or never came"
        assert owner == "vault-haddad 600"
        assert rest[:2] == ["haddad: as it should be", "benali: as it should be"]
        assert len(rest) > 4, done.stdout + done.stderr
        assert re.match("haddad: The newest snapshot arrived 20", rest[2]), "silence is not noticed"
        assert set(json.loads("\n".join(rest[4:]))) == {"vault:haddad-silence"}, done.stdout + done.stderr
