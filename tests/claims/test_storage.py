"""storage: what can hold patient data is unreadable without the key, and nothing that holds data is ever formatted."""

from __future__ import annotations

import json
import secrets

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from roles.database import PSQL
from roles.raid import ARRAY, SERVICE, TIMER
from roles.storage import DIRECTORIES, KEY, SCRIPTS
from tests.claim import claim
from tests.claims.carriers import CARRIERS
from tests.claims.test_backup import alarms, eventually
from tests.disks import MD, NODE, alike, healthy, member, whole


@pytest.fixture(scope="session")
def disk(host: Host, clinic: Clinic) -> str:
    """The device below the volume: the mirror, or the disk with the serial number in the clinic file."""
    if clinic.storage.mirror:
        return host.check_output(f"readlink -f {ARRAY}")
    return host.check_output(f"lsblk -dnrpo NAME,SERIAL | awk '$2 == \"{clinic.storage.disk}\" {{ print $1 }}'")


def header(host: Host, disk: str) -> dict:
    return json.loads(host.check_output(f"cryptsetup luksDump --dump-json-metadata {disk}"))


def plain_disk_over_it(host: Host) -> None:
    host.check_output("mount -t tmpfs fast /data")


def plain_disk_removed(host: Host) -> None:
    """A role does not unmount what it does not know: somebody may have written there."""
    host.check_output("umount /data")


@claim("STO-01", broken_by=plain_disk_over_it, symptom="fast", undo=plain_disk_removed)
def test_the_volume_is_encrypted_as_decided(host: Host, disk: str) -> None:
    """/data is the mapping, and the kernel encrypts it with aes-xts and a 512 bit key, all of it, onto the clinic's disk."""
    source = host.check_output("findmnt -no SOURCE --target /data | tail -1")
    status = host.check_output("cryptsetup status data; dmsetup table data")
    wanted = ["type:    LUKS2", "cipher:  aes-xts-plain64", "keysize: 512 bits", f"device:  {disk}", " crypt aes-xts-plain64 "]
    assert (source, [line for line in wanted if line not in status]) == ("/dev/mapper/data", []), status
    assert header(host, disk)["segments"]["0"]["encryption"] == "aes-xts-plain64"


def weak_slot_added(host: Host) -> None:
    host.check_output(
        f"printf 1234 | cryptsetup luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {KEY}"
        " $(cryptsetup status data | awk '/device:/ { print $2 }') -"
    )


@claim("STO-02", broken_by=weak_slot_added, symptom="pbkdf2")
def test_exactly_these_open_it(host: Host, clinic: Clinic, disk: str) -> None:
    """Exactly the recovery key, behind argon2id, and what the clinic chose; no further key slot."""
    said = header(host, disk)
    owner = {slot: token["type"] for token in said["tokens"].values() for slot in token["keyslots"]}
    found = sorted(
        (owner.get(slot, "nobody"), key["kdf"]["type"], key["area"]["encryption"], key["key_size"])
        for slot, key in said["keyslots"].items()
    )
    wanted = [("systemd-recovery", "argon2id", "aes-xts-plain64", 64)]
    if clinic.storage.unlock == "tpm2":  # the key that the TPM holds is random, so systemd stretches it little
        wanted.append(("systemd-tpm2", "pbkdf2", "aes-xts-plain64", 64))
    assert found == wanted
    weak = [
        key["kdf"]
        for key in said["keyslots"].values()
        if key["kdf"]["type"] == "argon2id" and (key["kdf"]["memory"] < 65536 or key["kdf"]["time"] < 3)
    ]
    assert weak == []


def documents_unmounted(host: Host) -> None:
    host.check_output("umount -l /srv")


@claim("STO-03", broken_by=documents_unmounted, symptom="/srv")
def test_exactly_these_directories_lie_on_it(host: Host) -> None:
    """Each directory that can hold patient data is a mount of the volume, and nothing else of it is mounted."""
    mounts = json.loads(host.check_output("findmnt --json --list -o TARGET,SOURCE,OPTIONS"))["filesystems"]
    top = {mount["target"]: mount["source"] for mount in mounts}  # the last mount at a path is the one that is seen
    found = {target: source for target, source in top.items() if source.startswith("/dev/mapper/data") and not target.startswith("/run/")}
    wanted = {"/data": "/dev/mapper/data"} | {path: f"/dev/mapper/data[{path}]" for path in DIRECTORIES}
    assert sorted(wanted.items() ^ found.items()) == []
    loose = [
        mount["target"] for mount in mounts if mount["target"] in wanted and not {"nosuid", "nodev"} <= set(mount["options"].split(","))
    ]
    assert loose == []


# What somebody other than root may write on the unencrypted disk, and why it holds no patient data.
WRITABLE = {
    "/backup/pgbackrest": "the repository: encrypted by pgBackRest, with a key that is on the volume",
    "/var/cache/apt/archives/partial": "packages on their way in",
    "/var/cache/man": "the index of manual pages",
    "/var/lib/apt/lists/auxfiles": "lists of packages",
    "/var/lib/apt/lists/partial": "lists of packages on their way in",
    "/var/lib/chrony": "drift of the clock, and its keys",
    "/var/lib/systemd/network": "addresses that DHCP gave",
    "/var/lib/systemd/timesync": "the time, last seen",
}


def scans_beside_the_volume(host: Host) -> None:
    host.check_output("install -d -o www-data /var/lib/scans")


def scans_removed(host: Host) -> None:
    """A role cannot know whether this is somebody's data."""
    host.check_output("rmdir /var/lib/scans")


@claim("STO-04", broken_by=scans_beside_the_volume, symptom="/var/lib/scans", undo=scans_removed)
def test_only_root_writes_beside_it(host: Host) -> None:
    """No service and no person but root can write anything on the unencrypted disk; so no list of directories can have a gap."""
    others = r"\( ! -user root -o -perm -o+w -o -perm -g+w ! -group root \)"
    found = host.check_output(
        "for mount in $(findmnt -nro TARGET -t ext4,ext3,xfs,btrfs,vfat,f2fs -O rw); do "
        "case $(findmnt -no SOURCE $mount | tail -1) in /dev/mapper/data*) ;; "
        f"*) find $mount -xdev \\( -type d -o -type f \\) {others} -prune"
        " ! -exec mountpoint -q {} \\; -print;; esac; done"
    )
    assert "/var/lib/chrony" in found, "control: nothing was found, not even what is there"
    assert sorted(set(found.split("\n")) - set(WRITABLE) - {""}) == []
    assert (
        host.run(
            f"touch /data/.writable && chmod 666 /data/.writable && find /data/.writable {others} | grep -q . && rm /data/.writable"
        ).rc
        == 0
    ), "control: not found"


def table_beside_the_volume(host: Host) -> None:
    host.check_output(
        f"install -d -o postgres /opt/fast && {PSQL} -c \"CREATE TABLESPACE fast LOCATION '/opt/fast'\""
        " -c 'ALTER ROLE postgres SET default_tablespace = fast'"
    )


def table_brought_back(host: Host) -> None:
    """Moving tables is the database administrator's work, not the role's. No drill rolls older backups through this: the place is gone."""
    host.check_output(f"{PSQL} -c 'ALTER ROLE postgres RESET default_tablespace' -c 'DROP TABLESPACE fast' && rm -r /opt/fast")
    host.check_output("practice backup")


# The file's own disk, found from below: its first block through the file system's device, then where that lies on the bare disk.
WHERE = r"""
set -eu
cd /
sql() { PSQL -c "$1"; }
sql "DROP TABLE IF EXISTS cabinet_marker"
sql "CREATE TABLE cabinet_marker AS SELECT '$marker' AS marker"
sql CHECKPOINT
file=$(readlink -f "$(sql 'SHOW data_directory')/$(sql "SELECT pg_relation_filepath('cabinet_marker')")")
device=$(findmnt -nvo SOURCE --target "$file" | tail -1)
block=$(filefrag -b4096 -v "$file" | awk '$1 == "0:" { print $4 + 0 }')
name=$(basename "$(readlink -f "$device")")
bare=$name skip=$block
if [ -e "/sys/class/block/$name/dm" ]; then
    bare=$(ls "/sys/class/block/$name/slaves")
    skip=$((block + $(dmsetup table "$device" | awk '{ print $8 }') / 8))
fi
seen() { dd if="$1" bs=4096 skip="$2" count=2 iflag=direct status=none | grep -aqF "$marker" && echo found || echo absent; }
if [ -e "/sys/class/block/$bare/md" ]; then # each disk of a mirror, behind what is the mirror's own
    cd "/sys/class/block/$bare/md"
    on=$(for disk in dev-*; do seen "/dev/${disk#dev-}" $((skip + $(cat $disk/offset) / 8)); done | sort -u)
    cd /
else
    on=$(seen "/dev/$bare" "$skip")
fi
echo "$(seen "$device" "$block") $on $file $bare"
sql "DROP TABLE cabinet_marker"
""".replace("PSQL", PSQL)


@claim("STO-05", broken_by=table_beside_the_volume, symptom="can be read on the bare disk", undo=table_brought_back)
def test_a_record_cannot_be_read_on_the_bare_disk(host: Host) -> None:
    """What the database wrote is at its place through the mapping, and is not at that place on the disk itself."""
    through, bare, file, device = host.check_output(f"marker=patient-{secrets.token_hex(16)}\n{WHERE}").split()
    assert through == "found", f"control: {file} is not where its blocks should be"
    assert bare == "absent", f"{file} can be read on the bare disk {device}"


def target_demands_nothing(host: Host) -> None:
    host.check_output("sed -i '/^Requires=/d' /etc/systemd/system/practice-data.target && systemctl daemon-reload")


LOCKED = """
waiting=$(systemctl list-units --plain --no-legend --state=active $(systemctl show -P RequiredBy practice-data.target) | awk '{ print $1 }')
database() { pgrep -xc postgres >/dev/null && echo running || echo down; }
mounts() {
    test -d /data/srv || { rm /data/srv && mv /data/srv.aside /data/srv; }
    systemctl start practice-data.target $waiting && database || echo down
}
trap mounts EXIT
systemctl stop practice-data.target
database
# A file where a directory belongs cannot be mounted over one; a mask at run time would not outweigh our unit in /etc.
systemctl stop srv.mount && mv /data/srv /data/srv.aside && touch /data/srv
systemctl start postgresql@17-main 2>/dev/null
database
"""


@claim("STO-06", broken_by=target_demands_nothing, symptom="without the volume: running")
def test_no_database_without_the_volume(host: Host) -> None:
    """The database ends when the volume is given up, does not start while a part of it is missing, and starts again with it."""
    stopped, without, again = host.run(LOCKED).stdout.split()
    assert again == "running", "control: the database did not come back with the volume"
    assert stopped == "down", "the database runs on after practice-data.target was stopped"
    assert without == "down", f"without the volume: {without}"


def recovery_slot_removed(host: Host) -> None:
    host.check_output(f"cryptsetup luksRemoveKey $(cryptsetup status data | awk '/device:/ {{ print $2 }}') {KEY}")


@claim("STO-07", broken_by=recovery_slot_removed, symptom="does not open the volume")
def test_the_recovery_key_opens_it(host: Host, disk: str) -> None:
    """The recovery key has 256 bits and opens the volume; with one letter changed it does not."""
    shape = host.check_output(f"tr cbdefghijklnrtuv x <{KEY}")
    assert shape == "-".join(["x" * 8] * 8), "the recovery key is not 256 bits in eight groups of eight"
    # Without --disable-external-tokens the TPM would open it, whatever the key.
    attempt = "cryptsetup open --test-passphrase --disable-external-tokens --key-file"
    wrong = host.run(f"tr cb bc <{KEY} | {attempt} - {disk}")
    assert wrong.rc == 2, f"control: a wrong key was not refused: {wrong}"
    right = host.run(f"{attempt} {KEY} {disk}")
    assert right.rc == 0, f"the recovery key does not open the volume: {right.stderr}"


def key_laid_open(host: Host) -> None:
    host.check_output(f"chmod 644 {KEY}; chmod 755 $(dirname {KEY})")


@claim("STO-08", broken_by=key_laid_open, symptom="644")
def test_the_recovery_key_lies_on_the_volume_for_root_alone(host: Host) -> None:
    """It is root's, on the encrypted volume, and no log, no setting and nothing in memory's file systems repeats it."""
    assert host.check_output(f"stat -c '%a %U %n' {KEY} $(dirname {KEY})").split("\n") == [
        f"600 root {KEY}",
        "700 root /var/lib/cabinet/secrets",
    ]
    assert host.check_output(f"findmnt -nvo SOURCE --target {KEY} | tail -1") == "/dev/mapper/data"
    # The first group is enough to find it, and too little to be it.
    copies = host.run(
        f"head -c 17 {KEY} >/run/pattern; "
        "grep -rslaFf /run/pattern -D skip /etc /run /tmp /usr/local /var/log /root /proc/[0-9]*/cmdline; rm /run/pattern"
    ).stdout.split()
    assert copies == ["/run/pattern"], f"found in {copies}; the pattern itself is the control"


def guard_removed(host: Host) -> None:
    host.check_output(f"sed -i 's/; exit 1; }}$/; }}/' {SCRIPTS}/format-volume")


@claim("STO-09", broken_by=guard_removed, symptom="was not refused")
def test_a_disk_that_carries_anything_is_refused_untouched(host: Host) -> None:
    """The very script that formats refuses whatever carries something, and writes nothing; blank, or named to be wiped, it accepts."""
    ask = f"{SCRIPTS}/format-volume --check scratch0 tpm2"
    disk = host.check_output("lsblk -dnrpo NAME,SERIAL | awk '$2 == \"scratch0\" { print $1 }'")
    blank = f"wipefs -aqf {disk}; blkdiscard -zf {disk}; udevadm settle"
    wrong = []
    for what, (plant, expected) in CARRIERS.items():
        host.check_output(f"set -eu\n{blank}\ndisk={disk}\n{plant}\nudevadm settle; sync; blockdev --flushbufs $disk")
        written = f"awk '{{ print $7 }}' /sys/class/block/{disk.rsplit('/')[-1]}/stat"
        before = host.check_output(written)
        said = host.run(f"{SCRIPTS}/format-volume scratch0 tpm2")
        after = host.check_output(f"sync; blockdev --flushbufs {disk}; {written}")
        if said.rc == 0 or before != after:
            wrong.append(f"{what} was not refused untouched: {before} sectors written before, {after} after")
        if not all(word in said.stderr for word in (disk, "scratch0", expected, "wipe: scratch0")):
            wrong.append(f"{what}: the refusal does not say {expected!r}: {said.stderr}")
        if host.run(f"{ask} scratch0").stdout.strip() != "named" or host.run(f"{ask} data0").rc == 0:
            wrong.append(f"{what}: the serial number to be wiped was not obeyed exactly")
        if wrong:
            break  # a guard that is gone formats, which takes its time
    host.check_output(f"{blank}; sed -i '/^scratch0$/d' /etc/cabinet/formed")  # where the guard was gone it was formatted, and noted
    assert host.check_output(ask) == "blank", "control: a blank disk was refused"
    assert wrong == []


def wipe_named_for_ever(host: Host) -> None:
    host.check_output(f"sed -i '/^finished()/s/{{.*}}/{{ false; }}/' {SCRIPTS}/format-volume")


@claim("STO-10", broken_by=wipe_named_for_ever, symptom="would be formatted again")
def test_a_finished_volume_is_never_formatted_again(host: Host, clinic: Clinic) -> None:
    """Not even when its serial number is still named as the one to wipe, in the clinic file, years later."""
    serial = ARRAY if clinic.storage.mirror else clinic.storage.disk
    said = host.run(f"{SCRIPTS}/format-volume --check {serial} {clinic.storage.unlock} {serial}")
    assert said.stdout.strip() == "ours", f"{serial} would be formatted again: {said.stdout}{said.stderr}"


def tpm_forgotten(host: Host) -> None:
    host.check_output("systemd-cryptenroll --wipe-slot=tpm2 $(cryptsetup status data | awk '/device:/ { print $2 }')")


@claim("STO-11", broken_by=tpm_forgotten, symptom="the TPM does not open it")
def test_the_tpm_opens_it_at_the_next_boot(host: Host, clinic: Clinic, disk: str) -> None:
    """The TPM gives the key now, for this state of Secure Boot (PCR 7), and systemd will ask it at boot and ask nobody else."""
    line = host.check_output("awk '$1 == \"data\"' /etc/crypttab").split()
    assert host.check_output(f"readlink -f {line[1]}") == disk
    options = set(line[3].split(","))
    assert {"headless=true", "nofail"} - options == set()
    assert ("tpm2-device=auto" in options) == (clinic.storage.unlock == "tpm2")
    tokens = [token for token in header(host, disk)["tokens"].values() if token["type"] == "systemd-tpm2"]
    assert [token["tpm2-pcrs"] for token in tokens] == ([[7]] if clinic.storage.unlock == "tpm2" else []), (
        "the TPM does not open it: no token"
    )
    opens = host.run(f"cryptsetup open --test-passphrase --token-only --token-type systemd-tpm2 {disk}")
    assert (opens.rc == 0) == (clinic.storage.unlock == "tpm2"), f"the TPM does not open it: {opens.stderr}"


def swap_file_added(host: Host) -> None:
    host.check_output(
        "dd if=/dev/zero of=/swapfile bs=1M count=16 status=none && chmod 600 /swapfile && mkswap -q /swapfile && swapon /swapfile"
    )


@claim("STO-12", broken_by=swap_file_added, symptom="/swapfile")
def test_swap_reaches_no_disk(host: Host) -> None:
    """There is swap, and all of it is compressed memory."""
    areas = host.check_output("swapon --noheadings --raw --show=NAME").split()
    assert areas == ["/dev/zram0"]
    assert host.check_output("cat /sys/block/zram0/backing_dev") == "none"


def tmp_on_disk(host: Host) -> None:
    host.check_output("umount -l /tmp && systemctl disable --no-reload --quiet tmp.mount")


@claim("STO-13", broken_by=tmp_on_disk, symptom="ext4")
def test_tmp_is_memory(host: Host) -> None:
    """Temporary files are in memory, now and after the next boot."""
    assert host.check_output("findmnt -no FSTYPE --target /tmp | tail -1; systemctl is-enabled tmp.mount").split() == ["tmpfs", "enabled"]
    assert host.check_output("stat -c %a /tmp") == "1777"


def core_dumps_on(host: Host) -> None:
    host.check_output("sysctl -qw kernel.core_pattern=core")


@claim("STO-14", broken_by=core_dumps_on, symptom="core.")
def test_a_crash_leaves_no_memory_behind(host: Host) -> None:
    """A process that crashes, and may write as large a core file as it likes, leaves none."""
    crash = (
        "d=$(mktemp -d /opt/crash.XXXX); cd $d; ulimit -c unlimited; sh -c 'kill -SEGV $$' 2>/dev/null; echo $?; "
        "ls | sed 's/^core$/core./'; cd /; rm -r $d"
    )
    assert host.run(crash).stdout.split() == ["139"], "control 139: it crashed; more is what it left"


def record_beneath(host: Host) -> None:
    host.check_output("unshare -m sh -c 'mount --bind / /mnt && echo patient > /mnt/srv/leftover'")


@claim("STO-15", broken_by=record_beneath, symptom="/mnt/srv/leftover")
def test_nothing_lies_beneath_the_mounts(host: Host) -> None:
    """On the unencrypted disk these directories are empty, but for the keys of who may log in; a locked boot's journal is in memory."""
    where = " ".join(f"/mnt{path}" for path in DIRECTORIES)
    found = host.check_output(
        f"unshare -m sh -c 'mount --bind / /mnt; find {where} ! -type d; find /mnt/var/log/ -name journal; echo; ls /mnt/etc/crypttab'"
    ).split()
    boot = host.check_output("tr -d - </proc/sys/kernel/random/boot_id")
    assert found.pop() == "/mnt/etc/crypttab", "control: the root file system was not seen"
    assert [path for path in found if "/.ssh/" not in path and f"/systemd-private-{boot}-" not in path] == []


@pytest.fixture
def twins(pytestconfig: pytest.Config, clinic: Clinic) -> tuple[str, ...]:
    """The two disks that hold the same."""
    if clinic.storage.mirror is None:
        pytest.fail("the data lie on one disk: this practice's clinic file has no storage.mirror", pytrace=False)
    return clinic.storage.disks


@pytest.fixture
def one_may_fail(pytestconfig: pytest.Config, twins: tuple[str, ...]) -> tuple[str, ...]:
    """The same, where nobody works."""
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test lets a disk fail, or alters one: it runs on the VM alone. On this server: practice mirror", pytrace=False)
    return twins


def one_disk_left_out(host: Host) -> None:
    one = member(host, "data1")
    host.check_output(f"mdadm --quiet {NODE} --fail {one} && mdadm --quiet {NODE} --remove {one}")


@claim("STO-16", broken_by=one_disk_left_out, symptom="not in the mirror")
def test_both_disks_hold_all_of_it(host: Host, disk: str, twins: tuple[str, ...]) -> None:
    """Exactly the clinic's two are in the mirror and neither lags; what was just written lies on both, encrypted, in the same place."""
    there = host.check_output(f"lsblk -nsro TYPE,SERIAL {disk} | sed -n 's/^disk //p'").split()
    assert sorted(there) == sorted(twins), f"not in the mirror: {set(twins) - set(there)}"
    assert whole(host), "control: the one that was away is filled within two minutes"
    assert host.check_output(f"cat {MD}/level {MD}/metadata_version").split() == ["raid1", "1.2"]
    first, second, through = alike(host, f"written-{secrets.token_hex(16)}")
    assert first == second != "", f"the two hold different things: {first} and {second}"
    assert first != through, "control: it is not encrypted"


def nobody_listens(host: Host) -> None:
    host.check_output("systemctl stop mdmonitor")


@pytest.mark.usefixtures("nobody_looks")
@claim("STO-17", broken_by=nobody_listens, symptom="no alarm")
def test_a_disk_that_fails_is_an_alarm_at_once(host: Host, one_may_fail: tuple[str, ...]) -> None:
    """The kernel gives up on a disk: the alarm comes within 40 seconds, the database goes on, and with the disk back in it is over."""
    assert healthy(host), "control: both are well"
    began = host.check_output(f"{PSQL} -d postgres -c 'SELECT pg_postmaster_start_time()'")
    one = member(host, one_may_fail[1])
    host.check_output(f"mdadm --quiet {NODE} --fail {one}")
    try:
        assert eventually(host, "practice alarm list | grep -q '\"mirror\"'", 40), "no alarm although a disk has failed"
        assert f"{one_may_fail[1]} has failed" in alarms(host)["mirror"]["text"]
        assert f"{one_may_fail[1]} has failed" in host.run("practice mirror").stdout
        assert host.check_output(f"{PSQL} -d postgres -c 'SELECT pg_postmaster_start_time()'") == began, "the database was disturbed"
    finally:
        host.check_output(f"mdadm --quiet {NODE} --remove {one}; mdadm --quiet {NODE} --add {one}")
    assert whole(host), "the disk is not filled again"
    assert healthy(host), "the alarm stays although both are well"


def nothing_compares(host: Host) -> None:
    host.check_output(f"systemctl disable --now --quiet {TIMER}")


@claim("STO-18", broken_by=nothing_compares, symptom="never compared")
def test_what_differs_is_found(host: Host, one_may_fail: tuple[str, ...]) -> None:
    """Every month; and one block that differs on one of the disks, where nothing lies, is an alarm until it is right again."""
    timer = host.check_output(f"systemctl show -p ActiveState,UnitFileState,TimersCalendar,Persistent {TIMER}")
    wanted = ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=Sun *-*-01..07 ", "Persistent=yes")
    assert [word for word in wanted if word not in timer] == [], f"never compared by itself: {timer}"
    assert whole(host), "control: both are well"
    one = member(host, one_may_fail[1])
    # Between the slots for keys, of which LUKS2 has room for some fifty, and the data.
    offset = f"$(($(cat {MD}/dev-{one.removeprefix('/dev/')}/offset) / 8 + 3072))"
    block = f"{one} bs=4096 count=1 status=none"
    host.check_output(f"dd if={block} skip={offset} iflag=direct of=/run/block; head -c 4096 /dev/urandom >/run/other")
    try:
        host.check_output(f"dd if=/run/other of={block} seek={offset} oflag=direct && systemctl start {SERVICE}")
        assert eventually(host, "practice alarm list | grep -q mirror-differs", 30), "no alarm although the disks differ"
    finally:
        host.check_output(f"dd if=/run/block of={block} seek={offset} oflag=direct && systemctl start {SERVICE}; rm /run/block /run/other")
    assert eventually(host, "! practice alarm list | grep -q mirror-differs", 30), "the alarm stays although they are alike"
