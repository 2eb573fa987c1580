"""The recovery kit on a Debian 13 in memory: printed as PDF, looked at as a camera does, typed in again, and everything really opens."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.clinic import load
from kit.paths import ROOT
from kit.place import SERVER, Place
from kit.sshd import Sshd
from practice import letters
from practice.recovery_kit import ANEW as JOURNAL
from practice.recovery_kit import BEFORE, unpacked
from roles.backup import PASSPHRASE, REPOSITORY
from roles.offsite import LOGIN, PASSWORD
from roles.recovery import CLINIC
from roles.recovery import CONFIG as PARTS
from roles.storage import KEY
from tests.contract.test_offsite import pyinfra
from tests.contract.test_rebuild import shown
from tests.practiceserver import MAKE_CLUSTER, Server, new_server
from tests.sticks import DEVICES, MIB, Sticks

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
# What the watch says, a while later.
LOOKS = "import time; from practice import recovery_kit as kit; print(kit.look(time.time() + 1e6)[1], end='')"
LOOK = f"cd /usr/local/lib/cabinet && python3 -c {shlex.quote(LOOKS)}"
# Which of these would count, all made just now.
COUNTING = """import json, time; from practice import counting, recovery_kit as kit; at = time.time()
kinds = {"backup": {"newest": at}, "offsite": {"newest": at}, "media": {"media": {"x": {"written": at}}}}
print(json.dumps([kind for kind, does in counting.counts({"at": at, "recovery": kit.look(at)[0]} | kinds).items() if does]))"""
# It dies right before it asks or writes something, for the so manieth time.
DIES = """
import os, sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import kit_anew
from practice.__main__ import main
left = int(sys.argv[1])

def dying(real):
    def called(*words, **more):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*words, **more)
    return called

for name in ("run", "write", "synced"):
    setattr(kit_anew, name, dying(getattr(kit_anew, name)))
sys.exit(main(["recovery-kit", *sys.argv[2:]]))
"""
# The volume is a disk, as the roles find it, and nothing but the recovery key opens it.
DISK = f"""{DEVICES}
disk=$(losetup --find --show /volume); printf 'I:1\\nE:ID_SERIAL_SHORT=volume\\n' >/run/udev/data/b7:${{disk#/dev/loop}}
echo "data $disk - luks" >/etc/crypttab
cd /usr/local/lib/cabinet; install -m 755 files/storage/enrol-volume .; ./enrol-volume volume passphrase
echo $disk"""
ENROL = "/usr/local/lib/cabinet/enrol-volume"
SLOTS = "systemd-cryptenroll $(losetup -nO NAME -j /volume) | awk 'NR > 1 { print $2 }' | sort | paste -sd ' '"
# What udev would do where a file system was made: its name is a link.
WITHOUT_UDEV = r"""cat >/usr/bin/udevadm <<'END'
#!/bin/sh
for disk; do :; done
ln -sf $disk /dev/disk/by-uuid/$(blkid -p -o value -s UUID $disk)
END
chmod 755 /usr/bin/udevadm"""
CAMERA = "cd /dev/shm && cat >kit.pdf && pdftoppm -r 100 -png kit.pdf kit && zbarimg -q --raw kit-1.png; rm -f /dev/shm/kit*"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with its keys, and the role carried out on it, twice."""
    with Place(*SERVER) as place, Sshd(place.inside, tmp_path_factory.mktemp("o")) as sshd:
        tree = subprocess.run(["tar", "-C", str(ROOT), "-cf", "-", "practice", "files"], check=True, capture_output=True).stdout
        subprocess.run(place.inside(f"mkdir -p /usr/local/lib/cabinet; sh -c {shlex.quote(STANDS)}"), input=tree, check=True)
        clinic = ROOT / "clinics/vagrant.yaml"
        for again in (False, True):
            said, _ = pyinfra(sshd, clinic, "--dry" if again else "--yes", role="roles.recovery.recovery")
            assert not again or [step["name"] for step in said["plan"] if step["hosts_with_change"]] == []
        kept = subprocess.run(place.inside(f"stat -c '%U %a' {CLINIC} && cat {CLINIC}"), check=True, capture_output=True).stdout
        assert kept == b"root 600\n" + clinic.read_bytes(), "without that file nobody makes a new server"
        yield place


def practice(place: Place, words: str, typed: str = "") -> subprocess.CompletedProcess[bytes]:
    """`practice WORDS`, there."""
    command = place.inside(f"cd /usr/local/lib/cabinet && python3 -m practice recovery-kit {words}")
    return subprocess.run(command, input=typed.encode(), capture_output=True, check=False)


def counting(place: Place) -> list[str]:
    """What counts, of all that there could be."""
    command = f"cd /usr/local/lib/cabinet && python3 -c {shlex.quote(COUNTING)}"
    return json.loads(subprocess.run(place.inside(command), capture_output=True, text=True, check=True).stdout)


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
    assert counting(place) == [], "nobody has shown that page"
    believed = practice(place, "--confirm", text)
    assert believed.returncode == 0 and b"Kit 1 opens everything" in believed.stdout, believed.stderr
    said = subprocess.run(place.inside(LOOK), capture_output=True, text=True, check=True).stdout
    assert said == "{}" and counting(place) == ["backup", "offsite", "media"]
    subprocess.run(place.inside(f"head -c 48 /dev/urandom | base64 -w 0 >{PASSPHRASE}"), check=True)
    said = subprocess.run(place.inside(LOOK), capture_output=True, text=True, check=True).stdout
    assert "kit 1 does NOT open the backups any more" in said and counting(place) == []
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


def test_a_page_that_was_seen_is_replaced(place: Place) -> None:
    """Cut off anywhere, the volume opens by the key that the server has, and by the old page until the new one is confirmed; then not.

    The new key lies on the volume alone, so whoever switches the server off before that needs the old page.
    """

    def out(command: str) -> str:
        return subprocess.run(place.inside(command), capture_output=True, text=True, check=True).stdout.strip()

    disk = out(DISK)
    try:
        page = practice(place, "--text").stdout.decode()
        number, old = letters.read(page)
        assert practice(place, "--confirm", page).returncode == 0 and opened(place, unpacked("A", old["A"]), OPENS["A"]), "control"
        for calls in itertools.count():
            done = subprocess.run(place.inside(f"python3 -I -c {shlex.quote(DIES)} {calls} --anew"), capture_output=True, check=False)
            assert opened(place, out(f"cat {KEY}"), OPENS["A"]), f"it opens no more, cut off before step {calls}"
            assert opened(place, unpacked("A", old["A"]), OPENS["A"]), f"the only page opens it no more, cut off before step {calls}"
            out(f"{ENROL} --check volume passphrase || {ENROL} volume passphrase")
            if calls and out(f"test -e {JOURNAL} || echo ended"):
                break
            assert done.returncode == 9, done
            assert calls != 3 or b"interrupted" in subprocess.run(place.inside(LOOK), capture_output=True, check=True).stdout
        assert calls > 4, "control: it was not cut off in between"
        out(f"printf 1234 | cryptsetup luksAddKey -q --key-file {KEY} {disk} -; {ENROL} volume passphrase")
        assert out(SLOTS) == "password recovery", "a deploy takes out what it does not know, and that alone"
        assert opened(place, unpacked("A", old["A"]), OPENS["A"]) and opened(place, out(f"cat {KEY}"), OPENS["A"])
        assert "an older one still opens the data volume" in out(LOOK)
        assert counting(place) == ["backup", "media"], "the old page does not open what is sent from now on"
        refused = practice(place, "--confirm", page)
        assert refused.returncode == 1 and b"keep all pages until another is confirmed" in refused.stderr
        page = practice(place, "--text").stdout.decode()
        again, new = letters.read(page)
        assert (again, [part for part in new if new[part] != old[part]]) == (number + 1, ["A", "C"])
        assert counting(place) == [], "nobody has shown the new page, and the old one is void"
        for calls in itertools.count():
            confirms = place.inside(f"python3 -I -c {shlex.quote(DIES)} {calls} --confirm")
            done = subprocess.run(confirms, input=page.encode(), capture_output=True, check=False)
            assert opened(place, out(f"cat {KEY}"), OPENS["A"]), f"it opens no more, cut off before step {calls}"
            if done.returncode == 0:
                break
            assert done.returncode == 9, done
            assert not opened(place, unpacked("A", old["A"]), OPENS["A"]) or "an older page still opens the data volume" in out(LOOK)
        assert calls > 2, "control: it was not cut off in between"
        assert not opened(place, unpacked("A", old["A"]), OPENS["A"]), "the old key opens it still"
        assert out(f"test ! -e {BEFORE} && {ENROL} --check volume passphrase && {SLOTS}") == "recovery"
        assert out(LOOK) == "{}" and counting(place) == ["backup", "offsite", "media"]
        assert out("cat /var/lib/systemctl").splitlines()[-1] == "start practice-offsite@anew.service"
        assert out("ls /run/cabinet/anew.key 2>/dev/null || true") == ""
    finally:
        out(f"losetup --detach {disk}")


# Up to the repository, where no systemd runs.
BACKUPS = "tests.stories.variants.the_backups_begin"
VAGRANT = ROOT / "clinics/vagrant.yaml"


def begun(server: Server, media: Sticks, sshd: Sshd) -> str:
    """A backup on a disk of its own, and a medium, by the one key; what the medium is called."""
    server.out(WITHOUT_UDEV)
    server.out(f"cat >{PARTS}", json.dumps({"parts": {"B": PASSPHRASE}, "opened_by": {"backup": "B", "media": "B"}, "grace_hours": 48}))
    server.out('echo \'{"days": ["monday"], "never": []}\' >/etc/cabinet/media.json')
    server.out(f"mkdir -p /data/srv; mount --bind /data/srv /srv; {MAKE_CLUSTER}")
    media.medium(load(VAGRANT).backup.disk, 512 * MIB)
    pyinfra(sshd, VAGRANT, "--yes", role=BACKUPS)
    server.sql("CREATE TABLE visits (id serial PRIMARY KEY, note text); INSERT INTO visits (note) VALUES ('before')")
    server.out("systemctl start practice-backup@full.service")
    name = media.medium("stick1")
    media.done(f"practice media enrol monday stick1; practice media run {name}")
    return name


def wiping_is_refused(server: Server, sshd: Sshd, home: Path) -> None:
    """`backup.wipe` takes no repository of ours away, also while nothing can be read of its file system; beside it no other key is made."""
    disk, clinic = load(VAGRANT).backup.disk, home / "vagrant.yaml"
    clinic.write_text(VAGRANT.read_text().replace(f"backup: {{disk: {disk},", f"backup: {{disk: {disk}, wipe: {disk},"))
    assert load(clinic).backup.wipe == disk
    server.out(f"mv {PASSPHRASE} /root/aside")
    with pytest.raises(AssertionError, match="The repository has a history, but its key"):
        pyinfra(sshd, clinic, "--yes", role=BACKUPS)
    server.out(f"mv /root/aside {PASSPHRASE}")
    device = server.out("findmnt -no SOURCE /backup")
    server.out(f"umount /backup; dd if=/dev/zero of={device} bs=1k count=4 conv=notrunc,fsync status=none")
    with pytest.raises(AssertionError, match="may find all of it"):
        pyinfra(sshd, clinic, "--yes", role=BACKUPS)
    server.run(f"e2fsck -fy -b 32768 -B 4096 {device}")
    server.out(f"mount {device} /backup; test -s {REPOSITORY}/archive/main/archive.info")


def test_a_new_part_b_is_made_as_the_page_says(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the very lines of docs/recovery.md: neither the old key nor the old page opens anything; nothing that was entered is missing."""
    emptied, enrolled = shown("A new part B")
    here = {"systemctl stop backup.mount": "umount /backup", "systemd-run --wait --collect ": ""}  # there is no systemd
    assert [words for words in here if words not in emptied] == []
    for words, instead in here.items():
        emptied = emptied.replace(words, instead)
    with new_server("true") as server, Sticks(server.place) as media, Sshd(server.place.inside, tmp_path_factory.mktemp("o")) as sshd:
        name = begun(server, media, sshd)
        kit = "/usr/local/bin/practice recovery-kit"
        opens = {
            "the backups": OPENS["B"].replace("error (no valid backups)", "ok"),
            "a medium": f"/usr/sbin/cryptsetup open --test-passphrase --key-file - /dev/{name}",
        }

        def by(page: str) -> list[str]:
            key = unpacked("B", letters.read(page)[1]["B"])
            return [what for what, command in opens.items() if opened(server.place, key, command)]

        page = server.out(f"{kit} --text")
        server.out(f"{kit} --confirm", page)
        assert by(page) == list(opens), "control"
        wiping_is_refused(server, sshd, tmp_path)

        server.out(f"set -eu\n{emptied}")
        server.sql("INSERT INTO visits (note) VALUES ('meanwhile')")
        pyinfra(sshd, VAGRANT, "--yes", role=BACKUPS)
        server.out("systemctl start practice-backup@diff.service; /usr/local/bin/practice backup --check")
        assert [backup["type"] for backup in server.said("backup", "--list")] == ["full"]
        assert media.run(f"practice media run {name}").returncode == 75, "control: it is written with the old key"
        media.done(f"{enrolled.replace('/dev/sdb', f'/dev/{name}').replace('SERIAL', 'stick1')}; practice media run {name}")
        assert by(page) == [], "the old page opens them still"
        stale = server.run(f"{kit} --confirm", page)
        assert stale.returncode == 1 and "kit 1 does not open the backups any more" in stale.stderr, stale
        page = server.out(f"{kit} --text")
        assert page.startswith("CABINET RECOVERY KIT 2\n") and by(page) == list(opens)
        server.sql("INSERT INTO visits (note) VALUES ('after')")
        server.moment()
        asked = ("--query", "SELECT string_agg(note, ' ' ORDER BY id) FROM visits", "--database", "postgres")
        assert server.said("drill", *asked)["rows"] == ["before meanwhile after"]
        server.run("umount /backup")
        media.pull(name)
