"""roles/offsite.py, carried out on a Debian 13 in memory; then its service, as the account that it made: it reads all, writes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kit import post
from kit.paths import ROOT
from kit.place import Place
from kit.sshd import Sshd
from roles.offsite import ACCOUNT, HOME, PASSWORD, SERVICE
from tests.contract.test_vault import LOOPBACK
from tests.helpers import pyinfra_run

# What other roles leave there: a repository and documents that only their owners may read.
STANDS = """set -eu
install -d -m 700 /backup/pgbackrest/backup/main /backup/pgbackrest/archive/main /srv/letters
echo A >/backup/pgbackrest/backup/main/backup.info; echo 1 >/backup/pgbackrest/archive/main/1; echo Nadia >/srv/letters/one
chmod 600 /backup/pgbackrest/backup/main/* /srv/letters/one
printf '#!/bin/sh\\n' >/usr/bin/lsblk; printf '#!/bin/sh\\n' >/usr/bin/findmnt; chmod 755 /usr/bin/lsblk /usr/bin/findmnt
tar -xf - -C /usr/local/lib/cabinet"""
# systemd's part: the credentials, the account and what it may do. rest-server runs beside it.
RUN = """set -eu
python3 -c "$1"
restic-rest-server --append-only --private-repos --path /root/store --htpasswd-file /root/htpasswd --tls --tls-cert /root/server \
--tls-key /root/server --listen 127.0.0.1:8443 >/dev/null 2>&1 &
server=$!
export CREDENTIALS_DIRECTORY=/run/credentials
install -d -m 700 -o cabinet-offsite $CREDENTIALS_DIRECTORY
sed -n 's/^LoadCredential=//p' $2 |
  while IFS=: read -r name path; do install -m 400 -o cabinet-offsite $path $CREDENTIALS_DIRECTORY/$name; done
sleep 1
may=$(sed -n 's/^AmbientCapabilities=CAP_//p' $2 | tr A-Z a-z)
setpriv --reuid cabinet-offsite --regid cabinet-offsite --clear-groups --no-new-privs \
--inh-caps=-all,+$may --bounding-set=-all,+$may --ambient-caps=+$may sh -c 'if (echo x >/srv/written) 2>/dev/null; then echo it writes; fi
cd /usr/local/lib/cabinet && python3 -m practice offsite run send'
kill $server
cat $3/state.json"""


def pyinfra(sshd: Sshd, clinic: Path, *words: str, role: str = "roles.offsite.offsite") -> tuple[Any, str]:
    """What pyinfra says of the role as JSON, and all that it says."""
    data = ["--data", f"openssh_config_file={sshd.ssh_config}", "--data", f"clinic_file={clinic}"]
    done = pyinfra_run(sshd, *data, "@openssh/server", role, *words)
    return json.loads(done.stdout), done.stdout + done.stderr


def test_the_account_sends_all_and_writes_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What only root may read leaves; the second deploy changes nothing; no secret was said; without the section all ends."""
    text = (ROOT / "clinics/vagrant.yaml").read_text()
    assert text.count("offsite:\n  host: 10.70.0.20\n") == 1
    clinic = tmp_path / "vagrant.yaml"
    clinic.write_text(text.replace("offsite:\n  host: 10.70.0.20\n", "offsite:\n  host: 127.0.0.1\n"))
    login = post.given(post.PASSWORD).read_text().strip()
    with Place() as place, Sshd(place.inside, tmp_path_factory.mktemp("o")) as sshd:
        pyinfra(sshd, clinic, "--yes", role="roles.offsite.reachable")
        began = subprocess.run(place.inside("cat /var/lib/systemctl"), capture_output=True, text=True, check=False).stdout
        assert "practice-offsite" not in began, "a server that is not whole yet would send"
        _, said = pyinfra(sshd, clinic, "--yes")
        password = subprocess.run(place.inside(f"cat {PASSWORD}"), capture_output=True, text=True, check=True).stdout
        assert len(password) > 40 and [secret for secret in (password, login) if secret in said] == []
        again, _ = pyinfra(sshd, clinic, "--dry")
        # No systemd runs there, which could say that the timers do.
        left = [step["name"] for step in again["plan"] if step["hosts_with_change"]]
        assert left == ["offsite | OFF-01 OFF-07 OFF-08 OFF-09 let them run"]
        verifier = base64.b64encode(hashlib.sha1(login.encode()).digest()).decode()
        for path, content in (("htpasswd", f"essai:{{SHA}}{verifier}\n"), ("server", post.server_certificate("127.0.0.1"))):
            subprocess.run(place.inside(f"umask 077; cat >/root/{path}"), input=content, text=True, check=True)
        practice = subprocess.run(["tar", "-C", str(ROOT), "-cf", "-", "practice"], check=True, capture_output=True).stdout
        subprocess.run(place.inside(STANDS), input=practice, check=True)
        unit = f"/etc/systemd/system/{SERVICE}"
        script = f"sh -c {shlex.quote(RUN)} sh {shlex.quote(LOOPBACK)} {unit} {HOME}"
        done = subprocess.run(place.inside(script), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        state = json.loads(done.stdout)
        assert (set(state["sent"]), state["errors"]) == ({"database", "changes", "documents", "configuration", "system"}, {})
        owner = subprocess.run(place.inside(f"stat -c '%U %a' {HOME}"), capture_output=True, text=True, check=True).stdout
        assert owner == f"{ACCOUNT} 700\n"
        nobody = clinic.read_text()
        clinic.write_text(nobody[: nobody.index("offsite:")] + nobody[nobody.index("# The neighbour in the tests' LAN") :])
        pyinfra(sshd, clinic, "--yes")
        left = subprocess.run(place.inside(f"ls {PASSWORD} /etc/cabinet"), capture_output=True, text=True, check=True).stdout
        assert "offsite.json" not in left and PASSWORD in left, "what was sent must stay readable"
