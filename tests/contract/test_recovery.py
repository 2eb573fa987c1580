"""The recovery kit on a Debian 13 in memory: printed as PDF, looked at as a camera does, typed in again, and everything really opens."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator

import pytest

from kit.paths import ROOT
from kit.place import SERVER, Place
from kit.sshd import Sshd
from practice import letters
from practice.recovery_kit import unpacked
from roles.backup import PASSPHRASE, REPOSITORY
from roles.offsite import LOGIN, PASSWORD
from roles.storage import KEY
from tests.contract.test_offsite import pyinfra

# A volume, a repository of backups and one of copies, each with a key as the roles make it, the volume's by the script's own line.
STANDS = f"""set -eu
tar -xf - -C /usr/local/lib/cabinet
umask 077; mkdir -p /var/lib/cabinet/secrets /etc/cabinet
key={KEY}
eval "$(grep '^head -c 32' /usr/local/lib/cabinet/files/storage/format-volume)"
for path in {PASSPHRASE} {PASSWORD}; do head -c 48 /dev/urandom | base64 -w 0 >$path; done
head -c 30 /dev/urandom | base64 >{LOGIN}
truncate -s 32M /volume; cryptsetup luksFormat --batch-mode --pbkdf-memory 65536 --pbkdf-force-iterations 4 --key-file $key /volume
export RESTIC_CACHE_DIR=/root/cache; RESTIC_PASSWORD=$(cat {PASSWORD}) restic -q -r /copy init
install -d -o postgres {REPOSITORY} /cluster
export PGBACKREST_REPO1_CIPHER_PASS=$(cat {PASSPHRASE}); cd /
setpriv --reuid postgres --regid postgres --clear-groups sh -c '/usr/lib/postgresql/17/bin/initdb -D /cluster/main >/dev/null
pgbackrest --no-config --stanza=main --repo1-path={REPOSITORY} --repo1-cipher-type=aes-256-cbc --pg1-path=/cluster/main --no-online \
--log-level-console=error --lock-path=/tmp stanza-create'
"""
# On another machine, by what was read alone.
OPENS = {
    "A": "cryptsetup open --test-passphrase --key-file - /volume",
    "B": "export PGBACKREST_REPO1_CIPHER_PASS=$(cat); pgbackrest --no-config --stanza=main "
    f"--repo1-path={REPOSITORY} --repo1-cipher-type=aes-256-cbc info | grep -q 'status: error (no valid backups)'",
    "C": "export RESTIC_CACHE_DIR=/root/cache2 RESTIC_PASSWORD=$(cat); restic -q -r /copy cat config >/dev/null",
    "D": f'test "$(cat)" = "$(cat {LOGIN})"',
}
CAMERA = "cd /dev/shm && cat >kit.pdf && pdftoppm -r 100 -png kit.pdf kit && zbarimg -q --raw kit-1.png; rm -f /dev/shm/kit*"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with its keys, and the role carried out on it, twice."""
    with Place(*SERVER) as place, Sshd(place.inside, tmp_path_factory.mktemp("o")) as sshd:
        tree = subprocess.run(["tar", "-C", str(ROOT), "-cf", "-", "practice", "files"], check=True, capture_output=True).stdout
        subprocess.run(place.inside(f"mkdir -p /usr/local/lib/cabinet; sh -c {shlex.quote(STANDS)}"), input=tree, check=True)
        for again in (False, True):
            said, _ = pyinfra(sshd, ROOT / "clinics/vagrant.yaml", "--dry" if again else "--yes", role="roles.recovery.recovery")
            assert not again or [step["name"] for step in said["plan"] if step["hosts_with_change"]] == []
        yield place


def practice(place: Place, words: str, typed: str = "") -> subprocess.CompletedProcess[bytes]:
    """`practice WORDS`, there."""
    command = place.inside(f"cd /usr/local/lib/cabinet && python3 -m practice recovery-kit {words}")
    return subprocess.run(command, input=typed.encode(), capture_output=True, check=False)


def opened(place: Place, key: str, command: str) -> bool:
    """Whether what needs a key opens by this one."""
    return subprocess.run(place.inside(command), input=key.encode(), capture_output=True, check=False).returncode == 0


def test_what_the_page_says_opens_everything(place: Place) -> None:
    """Printed and scanned, each key opens what it is for; by any other key nothing opens."""
    pdf = practice(place, "")
    assert pdf.returncode == 0 and pdf.stdout.startswith(b"%PDF"), pdf.stderr
    scanned = subprocess.run(place.inside(CAMERA), input=pdf.stdout, capture_output=True, check=True).stdout.decode()
    text, alone = scanned.rstrip().rsplit("\n", 1)
    number, keys = letters.read(text)
    assert (number, set(keys)) == (1, {"A", "B", "C", "D"})
    assert [part for part, command in OPENS.items() if not opened(place, unpacked(part, keys[part]), command)] == []
    assert [part for part, command in OPENS.items() if opened(place, unpacked("C", bytes(48)), command)] == [], "control"
    assert alone.strip().lower() == letters.spelled(keys["A"])
    words = subprocess.run(place.inside("pdftotext -layout - -"), input=pdf.stdout, capture_output=True, check=True).stdout.decode()
    typed = [line.split() for line in words.splitlines() if line.strip()[:2] in {f"{part}{row}" for part in keys for row in range(1, 4)}]
    assert letters.read("\n".join(["cabinet recovery kit 1", *(" ".join(line) for line in typed)])) == (1, keys)


def test_the_kit_is_confirmed_by_its_code(place: Place) -> None:
    """What the code says is believed; one letter otherwise, it is not, and the line is named. No secret stays in a file of ours."""
    text = practice(place, "--text").stdout.decode()
    wrong = text.replace("\nB2 ", "\nB2 C" if text.split("\nB2 ")[1][0] != "C" else "\nB2 B", 1)
    refused = practice(place, "--confirm", wrong)
    assert refused.returncode == 1 and b"line B2 is not as on page 1" in refused.stderr
    believed = practice(place, "--confirm", text)
    assert believed.returncode == 0 and b"Kit 1 opens everything" in believed.stdout, believed.stderr
    look = "import time; from practice import recovery_kit as kit; print(kit.look(time.time() + 1e6)[1], end='')"
    there = "cd /usr/local/lib/cabinet && "
    said = subprocess.run(place.inside(f"{there}python3 -c {shlex.quote(look)}"), capture_output=True, text=True, check=True).stdout
    assert said == "{}"
    subprocess.run(place.inside(f"head -c 48 /dev/urandom | base64 -w 0 >{PASSPHRASE}"), check=True)
    said = subprocess.run(place.inside(f"{there}python3 -c {shlex.quote(look)}"), capture_output=True, text=True, check=True).stdout
    assert "kit 1 does NOT open the backups any more" in said
    assert practice(place, "--text").stdout.startswith(b"CABINET RECOVERY KIT 2\n")
    subprocess.run(place.inside(f"rm {PASSPHRASE} {PASSWORD} /var/lib/cabinet/recovery-kit.json"), check=True)
    assert practice(place, "--put-back", wrong).returncode == 1
    back = practice(place, "--put-back", text)
    assert back.returncode == 0, back.stderr
    assert [part for part, path in (("B", PASSPHRASE), ("C", PASSWORD)) if not opened(place, "", f"cat {path} | ( {OPENS[part]} )")] == []
    assert practice(place, "--put-back", wrong.replace("KIT 1", "KIT 2")).returncode == 1
    assert practice(place, "--text").stdout.startswith(b"CABINET RECOVERY KIT 2\n"), "its volume's key could be another one"
    groups = "|".join(group for group in text.split()[4:] if len(group) == 8)
    found = place.inside(f"grep -rlEi '{groups}' /var/lib/cabinet /etc/cabinet /tmp /var/tmp /dev/shm /run /root")
    lying = subprocess.run(found, capture_output=True, text=True, check=False).stdout.split()
    assert [path for path in lying if path != KEY] == []
