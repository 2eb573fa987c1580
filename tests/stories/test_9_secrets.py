"""No secret that is born on the server leaves it: not in any output of any command, at any verbosity, when all is well or when it fails.

The server's real secrets are the canaries: looked for in all that is said, and in every file that the kit has on this machine.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from kit import deployment, paths
from kit.connection import Connection
from roles.backup import HOME
from roles.certificates import TLS
from roles.database import PSQL
from roles.storage import SECRETS
from roles.vpn import KEY as VPN_KEY

# Whatever holds a secret: keys, passwords, seeds. Not everybody may read it, by which it is known.
SECRET_FILES = (
    f"find {SECRETS} {HOME} {TLS} /etc/cabinet/totp {VPN_KEY} /etc/cabinet/breakglass /etc/ssh/ssh_host_* "
    "-type f ! -perm /o+r -size +0 2>/dev/null || true"  # nobody may have made a password for the console
)
PASSWORDS = ("recovery-key", "backup-passphrase", "database-practice", "authority.key", "offsite-password")
MUST = {f"{SECRETS}/{name}" for name in PASSWORDS} | {
    f"{HOME}/key.conf", VPN_KEY, "/etc/cabinet/totp/salim", "/etc/ssh/ssh_host_ed25519_key",
}  # fmt: skip
VERIFIERS = f"cut -d : -f 2 /etc/shadow; {PSQL} -d postgres -c 'SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL'"
SHORTEST = 16  # a shorter word may be met by chance
SAME_IN_ALL = ("-----", '"', "[", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU")  # marks of PEM, rules of PAM, how each OpenSSH key begins

PYINFRA = [str(deployment.PYINFRA), *deployment.inventory("vagrant")]
QUIET = [
    *(["./cabinet", word, "vagrant"] for word in ("login", "plan", "report", "authority")),
    *([*PYINFRA, "deploy.py", "--dry", look] for look in ("--json", "--debug-facts", "--debug-operations")),
]
LOUD = (["-v"], ["-vv"], ["-vvv"], ["--debug"], ["-vvv", "--debug", "--debug-all"], ["-vvv", "--diff"])
# The claims about secrets, with all that pytest can say of one that is refuted.
CLAIMS = [sys.executable, "-m", "pytest", "-vv", "--showlocals", "tests/claims", "-k", "key or password or secret or seed"]
ROLES = ("storage", "offsite", "database", "backup", "ssh")  # those that handle secrets

HANDLED = f"{SECRETS}/* {HOME}/key.conf /etc/cabinet/totp/amina"
# Each operation that handles a secret gets something to do.
LAY_OPEN = f"""set -eu
chmod 644 {HANDLED}
echo by-hand >> {HOME}/key.conf
{PSQL} -d postgres -c "ALTER ROLE practice PASSWORD NULL"
"""

Secrets = dict[str, set[bytes]]


def words(text: str) -> set[str]:
    """The long words of a file, without those that are the same in every such file, and without certificates: they are for everybody."""
    text = re.sub("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", "", text, flags=re.DOTALL)
    lines = [re.sub(r"^[a-z0-9-]+=", "", line) for line in text.splitlines() if not line.startswith(SAME_IN_ALL)]
    return {word for line in lines for word in re.split("[=:$ ]", line) if len(word) >= SHORTEST}


def learn(host: Host, known: Secrets) -> None:
    """Add what is secret now, by the file that holds it: as it stands there, in base64, and in hexadecimal."""
    texts = {path: host.check_output("cat %s", path) for path in host.check_output(SECRET_FILES).splitlines()}
    for path, text in {**texts, "verifiers": host.check_output(VERIFIERS)}.items():
        for word in (word.encode() for word in words(text)):
            known.setdefault(path, set()).update((word, base64.b64encode(word), word.hex().encode()))


@pytest.fixture(scope="module")
def known(host: Host) -> Secrets:
    """The secrets of this server; they are the same in all tests, but for what is made anew."""
    found: Secrets = {}
    learn(host, found)
    return found


def said(argv: list[str]) -> tuple[int, bytes]:
    """Exit code and all output of a command of the technician's."""
    done = subprocess.run(argv, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout


def met(known: Secrets, text: bytes) -> list[str]:
    """The places whose secrets are in `text`."""
    return [path for path, forms in known.items() if any(form in text for form in forms)]


def leaks(known: Secrets, outputs: dict[str, tuple[int, bytes]]) -> dict[str, list[str]]:
    """The commands that said a secret, and whose."""
    return {command: places for command, (_, text) in outputs.items() if (places := met(known, text))}


def test_the_search_would_find_them(known: Secrets) -> None:
    """Control: each kind of secret is known, and met where a command prints it."""
    assert sorted(MUST - set(known)) == []
    printed = said([*PYINFRA, "-vv", "exec", "--", "cat", *MUST])[1]
    assert sorted(MUST - set(met(known, printed))) == []


def test_what_is_in_order_says_none(known: Secrets) -> None:
    """Every command, and every look that pyinfra offers, at a server where nothing is to do."""
    outputs = {" ".join(argv[-3:]): said(argv) for argv in QUIET}
    assert {command: code for command, (code, _) in outputs.items() if code} == {}
    assert leaks(known, outputs) == {}


@pytest.fixture
def laid_open(host: Host) -> Iterator[None]:
    """Secrets lie open, and nobody can mend them; afterwards somebody can, and has."""
    host.check_output(f"{LAY_OPEN}chattr +i {HANDLED}")
    yield
    host.check_output(f"chattr -i {HANDLED}")
    for role in ROLES:
        deployment.run_role("vagrant", role)


@pytest.mark.usefixtures("laid_open")
def test_what_fails_says_none(known: Secrets) -> None:
    """The plan of what is to be mended, the claims that are refuted, each role that fails at mending, loudly, and the report of it all."""
    refused = {"plan": said(["./cabinet", "plan", "vagrant"]), "claims": said(CLAIMS)}
    refused |= {role: said([*PYINFRA, f"roles.{role}.{role}", "--yes", "-vvv", "--debug"]) for role in ROLES}
    refused["deploy"] = said(["./cabinet", "deploy", "vagrant", "--yes"])
    codes = {command: code for command, (code, _) in refused.items()}
    assert codes == {"plan": 2, "claims": 1, **dict.fromkeys([*ROLES, "deploy"], 1)}, "control: something did not fail"
    assert leaks(known, {**refused, "report": said(["./cabinet", "report", "vagrant"])}) == {}


@pytest.mark.parametrize("loud", LOUD, ids=" ".join)
def test_what_is_mended_says_none(host: Host, known: Secrets, loud: list[str]) -> None:
    """At every verbosity, while every operation that handles a secret has something to do."""
    host.check_output(LAY_OPEN)
    code, text = said([*PYINFRA, "deploy.py", "--yes", *loud])
    learn(host, known)
    assert code == 0, text.decode()[-3000:]
    assert text.count(b"Success") >= len(ROLES), "control: nothing was to do"
    assert met(known, text) == []


def files_here() -> Iterator[Path]:
    """Every file of the kit on this machine: its state and its tree. Not the VM's disks, which are the server itself."""
    state, tree = paths.state_dir(), paths.ROOT
    skipped = {state / "disks", state / "data", state / "vagrant.d", state / "run", tree / ".venv", tree / ".git"}
    for top in (state, tree):
        for directory, below, names in os.walk(top):
            below[:] = [name for name in below if Path(directory, name) not in skipped]
            yield from (path for name in names if (path := Path(directory, name)).is_file() and path.suffix != ".qcow2")


def test_no_file_here_holds_one(known: Secrets, connection: Connection) -> None:
    """After all this. Exactly the seeds of the VM's people are here, who have no phones: so the search finds what there is."""
    people = [person.name for person in connection.site.people if person.login]
    assert sorted(str(path) for path in files_here() if met(known, path.read_bytes())) == [
        str(paths.state_dir() / "totp" / name) for name in sorted(people)
    ]
