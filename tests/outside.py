"""The host outside, for a practice's server in a place of its own: what the roles bring so that it sends there, and the way to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kit import post
from kit.host import as_admin
from roles.backup import PASSPHRASE as B
from roles.offsite import ACCOUNT, AUTHORITY, CONFIG, LOGIN, PASSWORD
from roles.recovery import CONFIG as PARTS
from roles.recovery import OPENED_BY
from roles.storage import KEY
from tests.helpers import free_port
from tests.practiceserver import Server
from tests.restserver import ADDRESS, programs
from tests.restserver import Server as Vault

# As the service sends: everything is read, nothing else may be done.
SENDS = (
    f"setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "
    "env CREDENTIALS_DIRECTORY=/run/credentials /usr/local/bin/practice offsite run "
)
SEND = f"{SENDS}send"
# What the roles do on any machine of this practice; /srv lies on the volume.
ROLES = f"""set -eu
useradd --system --no-create-home {ACCOUNT}
install -d -m 700 /var/lib/cabinet/secrets; install -d -m 755 /var/lib/cabinet/tls /data/srv
install -d -m 700 -o {ACCOUNT} -g {ACCOUNT} /var/lib/cabinet/offsite
mount --bind /data/srv /srv
"""
# systemd's part.
CREDENTIALS = f"""install -d -m 700 -o {ACCOUNT} /run/credentials
cat {PASSWORD} >/run/credentials/password; cat {LOGIN} >/run/credentials/login; chown -R {ACCOUNT} /run/credentials
"""


def a_vault(home: Path) -> Vault:
    """What keeps copies below `home`, for a practice that was given an account there."""
    vault = Vault(home, free_port(), "the-account-of-the-practice", programs(home))
    vault.words(post.server_certificate(ADDRESS), 1 << 30)
    return vault


@contextlib.contextmanager
def beside(server: Server, vault: Vault) -> Iterator[None]:
    """The host outside is reached from this server; it keeps what it has when it goes."""
    words = vault.words(post.server_certificate(ADDRESS), 1 << 30)
    network = ["nsenter", "--target", server.place.number, "--net"]
    subprocess.run(as_admin([*network, "ip", "link", "set", "lo", "up"]), check=True)
    process = subprocess.Popen(
        as_admin([*network, "setpriv", "--pdeathsig", "TERM", *words]),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 10
        while server.run(f"bash -c 'exec 3<>/dev/tcp/{ADDRESS}/{vault.port}'").returncode and time.monotonic() < end:
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def prepared(server: Server, vault: Vault) -> None:
    """What the roles bring before the keys are there, and the way to the host."""
    server.out(ROLES)
    settings = {"url": vault.url, "account": vault.account, "authority": AUTHORITY, "max_age_minutes": 60}
    parts = {"parts": {"A": KEY, "B": B, "C": PASSWORD, "D": LOGIN}, "opened_by": OPENED_BY, "grace_hours": 48}
    for path, text in (
        (AUTHORITY, vault.authority.read_text()), (CONFIG, json.dumps(settings)), (PARTS, json.dumps(parts)), (LOGIN, vault.login),
        ("/root/send", f"#!/bin/sh\n{CREDENTIALS}{SENDS}$1\n"),
    ):  # fmt: skip
        server.out(f"mkdir -p {Path(path).parent}; cat >{path}", text)
    server.out("chmod 755 /root/send")
