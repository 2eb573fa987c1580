"""External media against Debian 13's own cryptsetup, ext4 and restic: made ours, written, read back, pulled out in the middle, finished.

How a medium comes there without one: tests/sticks.py.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest

from kit.paths import ROOT
from kit.place import Place
from practice.engine import moment
from tests.sticks import KEY, MIB, STICKS, Sticks

PREPARE = r"""set -eu
mkdir -p /run/cabinet /etc/cabinet /var/lib/cabinet/secrets /srv /backup/pgbackrest/backup/main /backup/pgbackrest/archive/main
head -c 48 /dev/urandom | base64 -w 0 >/var/lib/cabinet/secrets/backup-passphrase
echo '{"days": ["monday"], "never": ["data0", "backup0"]}' >/etc/cabinet/media.json
echo A >/backup/pgbackrest/backup/main/backup.info
echo 1 >/backup/pgbackrest/archive/main/1
mkdir -p /data/srv; mount --bind /data/srv /srv
echo Nadia >/srv/letter
"""
DAY = 86400
# What a device that is gone does to its file system: nothing is written any more, not even the journal (EXT4_IOC_SHUTDOWN, 2: NOLOGFLUSH).
GONE = "import fcntl, os; fcntl.ioctl(os.open('/run/cabinet/media', os.O_RDONLY), 0x8004587D, (2).to_bytes(4, 'little'))"
PRACTICE = "/usr/local/bin/practice"


class Server(Sticks):
    """A practice's server, as far as media go."""

    def closed(self) -> bool:
        """Whether no medium is open or mounted."""
        return self.run("[ ! -e /dev/mapper/cabinet-media ] && ! mountpoint -q /run/cabinet/media").returncode == 0

    def noted(self) -> dict:
        """What the server knows of its media."""
        return json.loads(self.done("cat /var/lib/cabinet/media.json"))

    def restic(self, name: str, command: str, how: str = "ro") -> str:
        """What restic says of a medium, opened by nothing but its password."""
        opens = f"cryptsetup open --key-file {KEY} /dev/{name} other && mount -o {how} /dev/mapper/other /mnt"
        closes = "umount /mnt; cryptsetup close other"
        restic = f"restic --no-lock --no-cache -r /mnt/restic --password-file {KEY} {command}"
        return self.done(f"{opens}\nsaid=$({restic}); rc=$?\n{closes}\necho \"$said\"; exit $rc")

    def letters(self, name: str) -> dict[str, str]:
        """The id of each snapshot of the documents on a medium, by the letter that it holds."""
        found = json.loads(self.restic(name, "snapshots --json --tag documents"))
        return {self.restic(name, f"dump {one['id']} /srv/letter").strip(): one["id"] for one in found}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Debian 13 with our own programs on it."""
    with Place() as place:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(ROOT / "practice", "usr/local/lib/cabinet/practice", filter=lambda each: None if "__pycache__" in each.name else each)
            tar.add(ROOT / "files/base/practice", "usr/local/bin/practice")
        subprocess.run(place.inside("tar -x -C / -f -; chmod 755 /usr/local/bin/practice"), input=archive.getvalue(), check=True)
        with Server(place) as server:
            server.done(PREPARE)
            yield server


def test_a_medium_is_made_written_and_read_back(server: Server) -> None:
    """What carries something is refused untouched; named, it becomes a medium; what is on it restores; old copies stay."""
    name = server.medium("stick1", carries="mkfs.ext4 -q {disk} && echo holiday | dd of={disk} seek=9999 conv=notrunc status=none")
    before = server.done(f"sha256sum {STICKS}/stick1")
    refused = server.run(f"{PRACTICE} media enrol monday /dev/{name}")
    assert refused.returncode == 1 and "is not blank, it carries: " in refused.stderr, refused
    assert "--wipe stick1" in refused.stderr and "Nothing was written" in refused.stderr
    assert server.run(f"{PRACTICE} media enrol monday /dev/{name} --wipe stick2").returncode == 1, "another one was named"
    assert server.done(f"sha256sum {STICKS}/stick1") == before
    said = server.done(f"{PRACTICE} media enrol monday stick1 --wipe stick1")
    assert "the medium of monday" in said
    (uuid,) = server.noted()["media"]
    assert server.done(f"blkid -p -o value -s LABEL -s UUID /dev/{name}").split() == [uuid, "cabinet-media-monday"]
    server.pull(name)
    for letter in ("Nadia", "Nadia, again"):
        server.done(f"echo {shlex.quote(letter)} >/srv/letter")
        name = server.plug("stick1")
        said = server.run(f"{PRACTICE} media run {name}")
        assert (said.returncode, "you can take it out" in said.stdout) == (0, True), said
        assert server.closed()
    medium = server.noted()["media"][uuid]
    today = server.done("date +%A").lower()
    note = None if today == "monday" else f"it was written on a {today}"
    assert (len(medium["copies"]), medium.get("error"), medium.get("note")) == (2, None, note)
    shown = server.done(f"{PRACTICE} media")
    assert "you can take out the medium of monday" in shown and f"plugged in as {name}" in shown
    snapshots = json.loads(server.restic(name, "snapshots --json"))
    kinds = [snapshot["tags"][0] for snapshot in snapshots]
    # What is noted of a medium is part of the configuration.
    assert sorted(kinds) == sorted(["database", "system", *(2 * ["changes", "documents", "configuration"])])
    documents = [snapshot["id"] for snapshot in snapshots if snapshot["tags"] == ["documents"]]
    assert [server.restic(name, f"dump {one} /srv/letter").strip() for one in documents] == ["Nadia", "Nadia, again"]
    listed = server.done(f"{PRACTICE} restore --document letter --list")
    assert listed.count("the medium of monday:  practice restore --document /srv/letter --snapshot") == 2, listed
    server.done(f"rm /srv/letter; {PRACTICE} restore --document letter; {PRACTICE} restore --document letter --snapshot {documents[0]}")
    assert server.done("cd /srv; cat letter.from-* && rm letter.from-*; ls /srv; ls /data") == "Nadia\nNadia, again\nsrv"
    assert server.closed()
    server.pull(name)
    without = server.run(f"rm /dev/disk/by-uuid/{uuid}; {PRACTICE} restore --document letter")
    assert without.returncode == 1 and "no medium is plugged in" in without.stdout, without


def test_what_must_not_become_a_medium_does_not(server: Server) -> None:
    """The server's own disks, what is mounted, what has no serial number; and one stray byte is somebody's data."""
    wrong = {}
    for serial, carries, words in (
        ("data0", "true", "is the server's own disk"),
        ("stray", "printf x | dd of={disk} bs=1 seek=99999999 conv=notrunc status=none", "byte 99999999 is not zero"),
    ):
        name = server.medium(serial, carries=carries)
        refused = server.run(f"{PRACTICE} media enrol monday /dev/{name} {'--wipe data0' if serial == 'data0' else ''}")
        if refused.returncode != 1 or words not in refused.stderr:
            wrong[serial] = refused
        server.pull(name)
    name = server.medium("used", carries="mkfs.ext4 -q {disk}")
    server.done(f"mount /dev/{name} /mnt")
    refused = server.run(f"{PRACTICE} media enrol monday /dev/{name} --wipe used")
    server.done("umount /mnt")
    server.pull(name)
    assert wrong == {}
    assert refused.returncode == 1 and "is in use" in refused.stderr, refused


def test_an_enrolment_that_was_cut_off_is_done_again(server: Server) -> None:
    """What was begun held nothing yet, so nobody has to name it; what was finished did."""
    begun = f"cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {KEY} --label cabinet-media-friday"
    name = server.medium("stick2", carries=f"{begun} --subsystem cabinet-forming {{disk}}")
    server.done(f"{PRACTICE} media enrol friday stick2")
    again = server.run(f"{PRACTICE} media enrol friday stick2")
    assert again.returncode == 1 and "is not blank" in again.stderr, again
    server.pull(name)


def test_an_unknown_device_is_left_alone(server: Server) -> None:
    """Another practice's medium, and somebody's holiday: nothing is written to either, and it is noted."""
    for serial, carries in (
        ("holiday", "mkfs.ext4 -q {disk}"),
        ("other", "echo x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label cabinet-media-monday {disk} -"),
    ):
        name = server.medium(serial, carries=carries)
        before = server.done(f"sha256sum {STICKS}/{serial}")
        said = server.run(f"{PRACTICE} media run {name}")
        assert (said.returncode, "is left alone" in said.stdout) == (0, True), said
        assert server.done(f"sha256sum {STICKS}/{serial}") == before
        assert serial in server.noted()["unknown"]["what"]
        server.pull(name)


def test_a_medium_that_is_pulled_out_in_the_middle_loses_nothing(server: Server) -> None:
    """What it held stays; what is left open is closed; plugged in again it is finished, and the error is gone."""
    name = server.medium("stick3", size=512 * MIB)
    server.done(f"{PRACTICE} media enrol tuesday stick3")
    server.done(f"{PRACTICE} media run {name}")
    first = json.loads(server.restic(name, "snapshots --json"))
    server.done("head -c 150000000 /dev/urandom >/srv/scan")
    words = server.place.inside(f"export PATH=/opt/instead:$PATH; echo $$ >/run/running; exec {PRACTICE} media run {name}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while server.run("[ $(du -sm /run/cabinet/media/restic/data | cut -f 1) -ge 30 ]").returncode and time.monotonic() < end:
            assert process.poll() is None, process.communicate()
        server.done(f"python3 -c {shlex.quote(GONE)}")
        server.done("kill -TERM $(cat /run/running)")  # as systemd does, when the device is gone
        said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    (medium,) = [medium for medium in server.noted()["media"].values() if medium["serial"] == "stick3"]
    assert "pulled out" in medium["error"]["why"] and len(medium["copies"]) == 1
    assert server.closed()
    server.pull(name)
    name = server.plug("stick3")
    server.done(f"{PRACTICE} media run {name}")
    (medium,) = [medium for medium in server.noted()["media"].values() if medium["serial"] == "stick3"]
    assert "error" not in medium and len(medium["copies"]) == 2
    ids = [snapshot["id"] for snapshot in json.loads(server.restic(name, "snapshots --json"))]
    assert [snapshot["id"] for snapshot in first if snapshot["id"] not in ids] == [], "what it held is gone"
    server.restic(name, "check --read-data")
    server.pull(name)


def test_a_medium_that_is_full(server: Server) -> None:
    """It is said at once, what it held is there and restores, and with less to write it is written again."""
    name = server.medium("stick4", size=80 * MIB)
    server.done(f"rm -f /srv/scan; echo Nadia >/srv/letter; {PRACTICE} media enrol thursday stick4; {PRACTICE} media run {name}")
    first = json.loads(server.restic(name, "snapshots --json"))
    server.done("head -c 100000000 /dev/urandom >/srv/scan")
    began = time.monotonic()
    said = server.run(f"{PRACTICE} media run {name}")
    assert said.returncode == 75 and "no space left" in said.stderr and time.monotonic() - began < 60, said
    (medium,) = [medium for medium in server.noted()["media"].values() if medium["serial"] == "stick4"]
    assert "no space left" in medium["error"]["why"] and len(medium["copies"]) == 1
    told = server.run(f"{PRACTICE} media").stdout
    assert "The medium of thursday could not be written" in told and "take a larger one" in told and "Plug it in again" not in told, told
    assert server.closed()
    ids = [snapshot["id"] for snapshot in json.loads(server.restic(name, "snapshots --json"))]
    assert [snapshot["id"] for snapshot in first if snapshot["id"] not in ids] == [], "what it held is gone"
    (documents,) = [snapshot["id"] for snapshot in first if snapshot["tags"] == ["documents"]]
    assert server.restic(name, f"dump {documents} /srv/letter") != ""
    server.done(f"rm /srv/scan; echo again >/srv/letter; {PRACTICE} media run {name}")
    (medium,) = [medium for medium in server.noted()["media"].values() if medium["serial"] == "stick4"]
    assert "error" not in medium and len(medium["copies"]) == 2
    server.restic(name, "check --read-data")
    server.pull(name)


def test_weeks_can_be_gone_back_to_on_a_medium(server: Server) -> None:
    """With room it keeps all that was ever written to it. With less than a quarter free, what is older than 30 days goes."""
    name = server.medium("stick5", size=192 * MIB)
    server.done(f"{PRACTICE} media enrol wednesday stick5")
    for days in (40, 20):
        server.done(f"echo {days} days ago >/srv/letter; head -c 5000000 /dev/urandom >/srv/scan; {PRACTICE} media run {name}")
        today = [one["id"] for one in json.loads(server.restic(name, "snapshots --json")) if moment(one["time"]) > time.time() - DAY]
        then = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - days * DAY))
        server.restic(name, f"rewrite --forget --new-time='{then}' {' '.join(today)}", how="rw")
    server.done(f"echo today >/srv/letter; head -c 130000000 /dev/urandom >/srv/scan; {PRACTICE} media run {name}")
    there = server.letters(name)
    assert set(there) == {"40 days ago", "20 days ago", "today"}, "there was room"
    server.done(f"echo later >/srv/letter; rm /srv/scan; {PRACTICE} media run {name}")
    after = server.letters(name)
    assert set(after) == {"20 days ago", "today", "later"}
    assert [letter for letter in ("20 days ago", "today") if after[letter] != there[letter]] == []
    server.restic(name, f"restore {after['20 days ago']} --target /tmp/restored --verify")
    assert server.done("cat /tmp/restored/srv/letter; stat -c %s /tmp/restored/srv/scan; rm -r /tmp/restored") == "20 days ago\n5000000"
    server.restic(name, "check --read-data")
    server.pull(name)
