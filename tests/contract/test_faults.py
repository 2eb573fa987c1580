"""What goes wrong with what is kept, against Debian's own pgBackRest and restic: it is said, nothing is lost, and the next run is well.

docs/faults.md says which other tests show what.
"""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.render import rendered
from practice.engine import Restic
from practice.server import Trouble
from roles.backup import CLUSTER, HOME, REPOSITORY, STANZA
from roles.database import CONFIG as SETTINGS
from roles.database import PSQL
from tests.contract.test_engines import AGED_REPOSITORY, FORGE
from tests.practiceserver import BIN, Server, practice_server
from tests.restserver import programs
from tests.sticks import DEVICES, STICKS

SEED = 4
PLACES = 10
POSTGRES = "setpriv --reuid=postgres --regid=postgres --init-groups"
PGBACKREST = f"cd /; {POSTGRES} pgbackrest --stanza=main"
# pgBackRest tries again after 15 s what a process of its own could not do; nothing here is better by then.
AT_ONCE = "export PGBACKREST_JOB_RETRY=0; "
VISITS = "SELECT count(*) FROM visits"
# One byte of each: file, and the place in it as a part of its length.
FLIP = """
import sys
for line in sys.stdin:
    part, path = line.rstrip("\\n").split(" ", 1)
    with open(path, "r+b") as file:
        place = int(float(part) * file.seek(0, 2))
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A practice with visits and two whole backups."""
    with practice_server() as server:
        server.sql("CREATE TABLE visits AS SELECT id, sha512(id::text::bytea) AS image FROM generate_series(1, 20000) AS id")
        server.moment()
        server.out("systemctl start practice-backup@full.service")
        yield server


def labels(server: Server) -> list[str]:
    """What can be gone back to, oldest first."""
    return [backup["label"] for backup in server.said("backup", "--list")]


def restores(server: Server, label: str) -> bool:
    """Whether the newer visits come back from it."""
    return server.said("drill", "--set", label, "--query", VISITS)["rows"] == ["20000"]


def whole(server: Server) -> bool:
    """Whether pgBackRest, and the lists that are there twice, say that all is well."""
    return server.run(f"{AT_ONCE} cd /; {POSTGRES} /usr/local/lib/cabinet/pgbackrest-verify").returncode == 0


def watched(server: Server) -> dict[str, str]:
    """What the watch finds wrong with the backups."""
    seen = "from practice import health; import time, json; print(json.dumps(health.backups({}, time.time())[1]))"
    return json.loads(server.out(f"cd /usr/local/lib/cabinet && python3 -c {shlex.quote(seen)}"))


def test_ten_flipped_bytes_in_the_repository(server: Server) -> None:
    """Found, each file named, and the backup that was not hit restores; so does everything once they are as before."""
    old, new = labels(server)
    # What the newer backup needs is spared: the changes since it began.
    since = f"{REPOSITORY}/backup/main/{old}/backup.manifest"
    needed = server.out(f"find {REPOSITORY}/archive/main -newer {since} -name '*.zst' -printf '%f\\n'").split()
    places = f"backup/main/{old} archive/main/*/0*"
    found = server.out(f"cd {REPOSITORY}; find {places} -type f ! -name '*.backup' -printf '%s %p\\n'").splitlines()
    sizes = {path: int(size) for size, path in (line.split() for line in sorted(found)) if Path(path).name not in needed}
    dice = random.Random(SEED)
    # And of each list that is there twice, one: that alone harms nothing, and would be noticed when the other is gone as well.
    hit = [*dice.choices(list(sizes), list(sizes.values()), k=PLACES - 3), "archive/main/archive.info"]
    hit += [f"backup/main/{old}/backup.manifest", "backup/main/backup.info.copy"]
    assert whole(server), "control: nothing is wrong yet"
    server.out(f"cp -a {REPOSITORY} /root/before")
    server.out(f"python3 -I -c {shlex.quote(FLIP)}", "".join(f"{dice.random()} {REPOSITORY}/{path}\n" for path in hit))
    done = server.run(f"{AT_ONCE} cd /; {POSTGRES} /usr/local/lib/cabinet/pgbackrest-verify")
    named = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and [path for path in hit if path.removesuffix(".copy").split("main/", 1)[1] not in named] == [], done
    assert restores(server, new)
    server.out(f"rm -r {REPOSITORY}; mv /root/before {REPOSITORY}")
    assert whole(server)


def restic(home: Path, name: str, cache: str = "cache") -> Restic:
    """The repository of that name; another `cache` is another computer's."""
    return Restic(str(home / name), {"RESTIC_PASSWORD": "secret"}, home / cache, str(programs(home) / "restic"))


def flipped(path: Path, dice: random.Random) -> None:
    """One bit of it is another."""
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.chmod(0o600)
    path.write_bytes(content)


def test_ten_flipped_bytes_in_a_copy_by_restic(tmp_path: Path) -> None:
    """Found, each file named, and the snapshot that was not hit restores. An index is for all of them: see below."""
    engine = restic(tmp_path, "copy")
    engine.prepare()
    dice, kept = random.Random(SEED), {}
    for number in range(2):
        data = tmp_path / f"data{number}"
        data.mkdir()
        before = set((tmp_path / "copy").rglob("*"))
        for name in range(3):
            (data / f"{name}").write_bytes(dice.randbytes(6 << 20))
        kept[number] = engine.back_up([data])
        files = sorted(path for path in set((tmp_path / "copy").rglob("*")) - before if path.is_file() and path.parent.name != "index")
        if number == 0:
            first = files
    engine.verify()
    hit = [dice.choice(first) for _ in range(PLACES)]
    for path in hit:
        flipped(path, dice)
    with pytest.raises(Trouble) as said:
        engine.verify()
    assert [path.name for path in hit if path.name[:8] not in str(said.value)] == [], said.value
    engine.restore(kept[1], tmp_path / "back")
    back = tmp_path / "back" / data.relative_to("/")
    assert [file.name for file in data.iterdir() if (back / file.name).read_bytes() != file.read_bytes()] == []


def test_a_flipped_byte_in_an_index_by_restic(tmp_path: Path) -> None:
    """Found and named, although whoever wrote it has an unhurt one in the cache; nobody else restores anything, until it is made anew."""
    engine, dice, data, kept = restic(tmp_path, "copy"), random.Random(SEED), tmp_path / "data", []
    engine.prepare()
    data.mkdir()
    for number in range(2):
        (data / f"{number}").write_bytes(dice.randbytes(1 << 20))
        kept.append((engine.back_up([data]), {file.name: file.read_bytes() for file in data.iterdir()}))
    hit = dice.choice(sorted((tmp_path / "copy/index").iterdir()))
    flipped(hit, dice)
    with pytest.raises(Trouble, match=hit.name):
        engine.verify()
    with pytest.raises(Trouble, match=f"index/{hit.name[:10]}"):
        restic(tmp_path, "copy", "elsewhere").restore(kept[1][0], tmp_path / "nothing")
    shutil.copytree(tmp_path / "copy", tmp_path / "mended")
    mended = restic(tmp_path, "mended", "elsewhere")
    mended._ask("repair", "index")
    mended.verify()
    for snapshot, wanted in kept:
        mended.restore(snapshot, tmp_path / snapshot)
        back = tmp_path / snapshot / data.relative_to("/")
        assert {file.name: file.read_bytes() for file in back.iterdir()} == wanted


def test_two_backups_at_once(server: Server) -> None:
    """One is made, and the other says that one is going on; as the services have it, it waits, because both hold the same lock."""
    before = labels(server)
    one = f"({PGBACKREST} --type=full backup 2>&1; echo $?)"
    said = server.out(f"{one} & {one}; wait")
    assert said.count("another pgBackRest process running") == 1 and {"0", "50"} <= set(said.splitlines()), said
    assert len(labels(server)) == len(before) + 1
    server.out(f"chgrp postgres {HOME}; chmod 750 {HOME}")
    unit = rendered("backup/practice-backup@.service.j2", home=HOME, stanza=STANZA)
    (line,) = (line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart="))
    full, diff = (f"(cd /; {POSTGRES} {line.replace('%i', kind)} >/dev/null; echo $?)" for kind in ("full", "diff"))
    assert server.out(f"{full} & {diff}; wait").split() == ["0", "0"]
    assert len(labels(server)) == len(before) + 3


def test_the_wrong_key(server: Server) -> None:
    """Nothing is written by it, nothing is read, and the watch says so; with the right one all goes on."""
    before, key = labels(server), "/etc/pgbackrest/conf.d/key.conf"
    server.out(f"cp -p {key} /root/key; sed -i 's/a-key/another-key/' {key}")
    done = server.practice("backup")
    assert done.returncode == 1 and "journalctl" in done.stdout, done
    assert "cannot be read" in watched(server)["backup"]
    assert server.practice("drill", "--query", VISITS).returncode == 1
    server.out(f"mv /root/key {key}")
    assert labels(server) == before and restores(server, before[-1])


def test_the_clock_was_ahead(server: Server) -> None:
    """A backup from the future does not pass for a young one, and whoever goes back gets everything by way of an older one."""
    server.out(f"cp -a {REPOSITORY}/backup/main /root/catalogue")
    server.out("python3 -I -", (FORGE + AGED_REPOSITORY).replace("{days}", "-400").replace("{first}", "-1"))
    assert "has not come yet" in watched(server)["backup"]
    assert server.said("drill", "--query", VISITS)["rows"] == ["20000"]
    server.out(f"rm -r {REPOSITORY}/backup/main; mv /root/catalogue {REPOSITORY}/backup/main")
    assert "backup" not in watched(server), "control: it complains about a right one"


def test_the_power_goes_during_a_backup(server: Server) -> None:
    """Half of one is no backup, what was there is there, and the next one is whole."""
    before = labels(server)
    begun = f"{REPOSITORY}/backup/main/*/bundle"
    server.out(
        f"ls -d {begun} >/root/begun; {PGBACKREST} --type=full backup >/dev/null 2>&1 &\n"
        f"until ls -d {begun} | cmp -s - /root/begun; [ $? = 1 ]; do sleep 0.02; done; pkill -9 pgbackrest; wait"
    )
    assert labels(server) == before and len(server.out(f"ls -d {begun}").split()) > len(before), "control: it was cut in the middle"
    server.out("systemctl start practice-backup@full.service")
    after = labels(server)
    assert after[:-1] == before and whole(server)


def test_the_backup_disk_is_full(server: Server) -> None:
    """The backup fails, and it is said why; the practice goes on; once there is room, the changes follow and the next one is whole."""
    before = labels(server)
    server.out("mount -o remount,size=$(($(du -sk /backup | cut -f 1) + 1024))k /backup")
    done = server.run(f"{AT_ONCE} /usr/local/bin/practice backup --full")
    assert done.returncode == 1 and "The disk of /backup is" in done.stdout, done.stdout + done.stderr
    server.sql("CREATE TABLE meanwhile AS SELECT sha512(id::text::bytea) FROM generate_series(1, 50000) AS id")
    server.out("mount -o remount,size=4g /backup")
    server.moment()
    assert labels(server) == before
    server.out("systemctl start practice-backup@full.service")
    after = labels(server)
    assert after[:-1] == before and whole(server)
    assert server.practice("backup", "--check").returncode == 0, "of what was entered meanwhile something is missing"


# The cluster's clock is a day ahead: pgBackRest goes by what PostgreSQL says. What its processes share, libfaketime names by a process's
# number, which one in another place has as well: they then wait for each other for ever. A fixed offset needs nothing shared.
AHEAD = f"""set -eu
systemctl stop postgresql@17-main.service; cd /
setsid {POSTGRES} env LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME=+1d FAKETIME_DISABLE_SHM=1 \\
{BIN}/postgres -D {CLUSTER} -c config_file={SETTINGS}/postgresql.conf </dev/null >/tmp/ahead 2>&1 &
until {PSQL} -d postgres -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; kill -0 $!; done"""


def test_a_backup_while_the_clock_is_behind(server: Server) -> None:
    """A full backup was made a day ahead: the changes since are backed up and restore, no full one is made, and both are said; until a
    person removes it."""
    server.out(AHEAD)
    server.out("systemctl start practice-backup@full.service; systemctl stop postgresql@17-main.service")
    server.out("systemctl start postgresql@17-main.service")
    *before, ahead = labels(server)
    assert "has not come yet" in watched(server)["backup"], "control: the clock was not ahead"
    assert server.practice("backup").returncode == 0 and restores(server, labels(server)[-1])
    assert "has not come yet" in watched(server)["backup"], "the next one hides it"
    refused = server.practice("backup", "--full")
    assert refused.returncode == 1 and "no full backup can be made" in refused.stdout, refused
    server.out(f"{PGBACKREST} expire --set={ahead}; rm {REPOSITORY}/backup/main/backup.history/*/{ahead}*")
    assert labels(server) == before and server.practice("backup", "--full").returncode == 0
    assert "backup" not in watched(server) and whole(server) and restores(server, labels(server)[-1])


# The database has a volume of its own, with little room; `/data` is where the watch looks.
SCARCE = f"""set -eu
systemctl stop postgresql@17-main.service; mkdir -p /data
mount -t tmpfs -o size=$(($(du -sk {CLUSTER} | cut -f 1) + 49152))k data /data
cp -a /var/lib/postgresql/. /data/; mount --bind /data /var/lib/postgresql; systemctl start postgresql@17-main.service"""
# Each line that is printed was committed; until one is refused.
ROWS = "INSERT INTO filling SELECT sha512(id::text::bytea) FROM generate_series(1, 10000) AS id"
FILLS = f"while {PSQL} -d postgres -c '{ROWS}'; do df --output=pcent /data | tail -n 1; done"


def test_the_database_fills_its_volume(server: Server) -> None:
    """The watch says so before; nothing that was committed is lost; with room again it starts, archives, and is backed up."""
    server.out(f"{SCARCE}; {PSQL} -d postgres -c 'CREATE TABLE filling (hash bytea)'")
    filled = server.run(f"cd /; {FILLS}")
    percents = [int(line.strip(" %")) for line in filled.stdout.splitlines() if "%" in line]
    assert "No space left on device" in filled.stderr or "connection" in filled.stderr, filled
    assert [percent for percent in percents if 85 <= percent < 100] != [], percents
    seen = "from practice import health; print(health.disk_troubles({'/data': health.used_percent('/data')}))"
    said = server.out(f"cd /usr/local/lib/cabinet && python3 -c {shlex.quote(seen)}")
    assert "The disk of /data is" in said
    refused = server.practice("drill", "--query", VISITS)
    assert refused.returncode == 1 and "MiB are free. Nothing was begun" in refused.stdout, refused
    server.out("mount -o remount,size=2g /data; systemctl stop postgresql@17-main.service; systemctl start postgresql@17-main.service")
    assert server.sql("SELECT count(*) FROM filling") == str(10000 * len(percents)) and server.sql(VISITS) == "20000"
    server.moment()
    server.out("systemctl start practice-backup@full.service")
    assert whole(server) and restores(server, labels(server)[-1])


# So much is free that a copy of all databases has room, and little more.
BARELY = f"""set -eu
wanted=$(($({PSQL} -d postgres -c 'SELECT sum(pg_database_size(oid)) FROM pg_database') * 11 / 10 / 1024 + (384 + 64) * 1024))
mount -o remount,size=$(($(df --output=used /data | tail -n 1) + wanted))k /data"""


def test_rows_that_have_no_room_are_not_carried_over(server: Server) -> None:
    """A database, or a table, for which there is no room in the live cluster is not begun; with room it comes back."""
    server.out(f"mountpoint -q /data || {{ {SCARCE}; }}; mount -o remount,size=2g /data")
    server.sql("CREATE DATABASE images TEMPLATE template0")
    server.sql("CREATE TABLE scans AS SELECT sha512(id::text::bytea) FROM generate_series(1, 500000) AS id; CHECKPOINT", "images")
    moment = server.moment()
    ways = [("--database", "images"), ("--table", "images.public.scans")]
    server.out(BARELY)
    assert server.said("drill", "--to", moment, "--query", VISITS)["rows"] == ["20000"], "control: not even the copy had room"
    refused = [server.practice("restore", "--to", moment, "--yes", *way) for way in ways]
    assert [done for done in refused if done.returncode != 1 or "MiB are free. Nothing was begun" not in done.stdout] == []
    assert server.sql("SELECT datname FROM pg_database WHERE datname ~ 'images_'") == ""
    assert server.sql("SELECT nspname FROM pg_namespace WHERE nspname ~ 'restored'", "images") == ""
    server.out("mount -o remount,size=2g /data")
    done = [server.practice("restore", "--to", moment, "--yes", *way) for way in ways]
    assert [one for one in done if one.returncode] == []
    server.sql("SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname ~ 'images' \\gexec")


# What the disk had not written when the power went is lost, with the file system's own journal (EXT4_IOC_SHUTDOWN, 2: NOLOGFLUSH).
GONE = "import fcntl, os; fcntl.ioctl(os.open('/backup', os.O_RDONLY), 0x8004587D, (2).to_bytes(4, 'little'))"
# The repository lies on an ext4 of its own, written through by nobody.
ON_A_DISK = f"""systemctl stop postgresql@17-main.service  # its shared memory is in the place's former /dev
{DEVICES}
mkdir {STICKS}; truncate -s 1G {STICKS}/backup; disk=$(losetup --find --show {STICKS}/backup); mkfs.ext4 -q $disk
mount $disk /mnt; cp -a /backup/. /mnt/; umount /mnt; mount $disk /backup; systemctl start postgresql@17-main.service; echo $disk"""


def test_the_power_goes_and_the_disk_forgets(server: Server) -> None:
    """What its cache held is lost in the middle of a backup: what counted before is there, the changes go on, the next one is whole."""
    disk = server.out(ON_A_DISK)
    try:
        before = labels(server)
        begun = f"{REPOSITORY}/backup/main/*/bundle"
        server.out(
            f"ls -d {begun} >/root/begun; {PGBACKREST} --type=full backup >/dev/null 2>&1 & made=$!\n"
            f"until ls -d {begun} | cmp -s - /root/begun; [ $? = 1 ]; do sleep 0.02; kill -0 $made || exit; done\n"
            f"python3 -c {shlex.quote(GONE)}; wait"
        )
        server.out(f"systemctl stop postgresql@17-main.service; umount /backup; e2fsck -fp {disk} || [ $? = 1 ]; mount {disk} /backup")
        server.out("systemctl start postgresql@17-main.service")
        assert labels(server) == before
        server.moment()
        server.out("systemctl start practice-backup@full.service")
        assert labels(server)[:-1] == before and whole(server) and restores(server, labels(server)[-1])
    finally:
        server.run(f"systemctl stop postgresql@17-main.service; umount --lazy /backup; losetup --detach {disk}; rm -r {STICKS}")


# Of all that was written since a moment, and that the disk had said was safe, half never got there.
LIES = """
import random, sys
dice = random.Random(int(sys.argv[3]))
with open(sys.argv[1], "rb") as before, open(sys.argv[2], "r+b") as now:
    place = kept = lost = 0
    while block := now.read(4096):
        older = before.read(4096)
        if block != older:
            kept += 1
            if dice.random() < 0.5:
                now.seek(place)
                now.write(older)
                lost += 1
        place += 4096
        now.seek(place)
print(kept - lost, lost)
"""
# As systemd-fsck(8) does at each boot, and, where that asks for a person, as the person does.
CHECKED = "e2fsck -p {0} >/dev/null || [ $? -lt 4 ] || e2fsck -y {0} >/dev/null || [ $? -lt 4 ]"
# As on a disk that is named in the clinic file, `wipe` below `backup`.
ANEW = f"""set -e; systemctl stop postgresql@17-main.service; umount /backup; mkfs.ext4 -q -F {{0}}; mount {{0}} /backup
cp /etc/machine-id /backup/; install -d -o postgres -g postgres -m 750 {REPOSITORY}; systemctl start postgresql@17-main.service
{PGBACKREST} stanza-create; systemctl start practice-backup@full.service"""


@pytest.mark.longer("seed", range(2), range(2, 20))
def test_the_disk_lies_about_its_cache(server: Server, seed: int) -> None:
    """The power goes after a backup that counts, and half of the blocks were never written: what is still listed restores rightly, or it
    is told that it does not; and the next backup is whole, on a disk made anew where the old repository takes none."""
    disk = server.out(ON_A_DISK)
    before, now = f"{STICKS}/before", f"{STICKS}/now"
    try:
        server.out(f"sync -f /backup; cp --sparse=always {STICKS}/backup {before}")
        server.out(f"systemctl start practice-backup@full.service; sync -f /backup; cp --sparse=always {STICKS}/backup {now}")
        server.out("systemctl stop postgresql@17-main.service; umount /backup")
        there, lost = map(int, server.out(f"python3 -I -c {shlex.quote(LIES)} {before} {now} {seed}").split())
        assert there > 100 and lost > 100, "control: nothing was lost"
        server.out(f"losetup --detach {disk}; rm {before} {STICKS}/backup")
        disk = server.out(f"losetup --find --show {now}")
        server.out(f"{CHECKED.format(disk)}; mount {disk} /backup; systemctl start postgresql@17-main.service")
        assert server.sql(VISITS) == "20000"
        told = not whole(server) or watched(server) != {}
        readable = "cannot be read" not in watched(server).get("backup", "")
        wrong = [label for label in labels(server)[1:] if not restored(server, label)] if readable else []  # the first has no visits
        assert wrong == [] or told, f"{wrong} do not restore, and nothing says so"
        if server.practice("backup", "--full").returncode:
            server.out(ANEW.format(disk))
        assert restores(server, labels(server)[-1])
    finally:
        server.run(f"systemctl stop postgresql@17-main.service; umount --lazy /backup; losetup --detach {disk}; rm -r {STICKS}")


def restored(server: Server, label: str) -> bool:
    """Whether it restores. Where it does, all is there."""
    done = server.practice("drill", "--set", label, "--query", VISITS, "--json")
    assert done.returncode == 1 or json.loads(done.stdout)["rows"] == ["20000"], done
    return done.returncode == 0
