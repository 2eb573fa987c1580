"""Backups: made by themselves, restored row by row, unreadable for others, missed when missing."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from roles.database import PSQL
from tests.claim import claim

CONF = "/etc/pgbackrest/pgbackrest.conf"
PGBACKREST = "runuser -u postgres -- pgbackrest --stanza=main"
DIFF = "practice-backup@diff.service"
# Who gives way to everybody, and who, waited for by a person or with minutes to keep, has a tenth of what others have.
WEIGHTS = {
    "idle": ("practice-backup@full.service", "practice-verify.service", "practice-drill.service", "practice-offsite-drill.service"),
    "10": ("practice-offsite@send.service", "practice-media@x.service"),
}


def sql(host: Host, statement: str) -> str:
    """What the live cluster answers."""
    return host.check_output(f"{PSQL} -d postgres -c {shlex.quote(statement)}")


def backups(host: Host) -> list[dict]:
    """What can be gone back to, oldest first."""
    return json.loads(host.check_output("practice backup --list --json"))


def drill(host: Host, arguments: str) -> list[str]:
    """The rows that a scratch cluster, restored beside the live one, answers."""
    done = host.run(f"practice drill --json {arguments}")
    assert done.rc == 0, f"nothing could be restored: {done.stdout}"
    return json.loads(done.stdout)["rows"]


def eventually(host: Host, question: str, seconds: int = 90) -> bool:
    """Whether the shell command `question` comes to end with 0. Asked more often, it would take the processor from what it waits for."""
    return host.run(f"end=$(($(date +%s) + {seconds})); until {question}; do [ $(date +%s) -lt $end ] || exit 1; sleep 1; done").rc == 0


def alarms(host: Host) -> dict[str, dict]:
    """What stands."""
    return json.loads(host.check_output("practice alarm list"))


def daily_timer_off(host: Host) -> None:
    host.check_output("systemctl stop practice-backup-diff.timer")


@claim("BAK-01", broken_by=daily_timer_off, symptom="practice-backup-diff.timer")
def test_backups_run_by_themselves(host: Host, clinic: Clinic) -> None:
    """Both timers wait for the clinic's times, and a daily backup that was slept through is made as soon as its timer is there again."""
    day, full = clinic.backup.full.split()
    wanted = {"practice-backup-full.timer": f"{day} *-*-* {full}:", "practice-backup-diff.timer": f"*-*-* {clinic.backup.differential}:"}
    off = []
    for timer, calendar in wanted.items():
        said = host.check_output(f"systemctl show -p ActiveState,UnitFileState,TimersCalendar,Persistent {timer}")
        if not all(word in said for word in ("ActiveState=active", "UnitFileState=enabled", f"OnCalendar={calendar}", "Persistent=yes")):
            off.append(f"{timer}: {said}")
    assert off == []
    before = backups(host)
    host.check_output(
        "touch -d '2 days ago' /var/lib/systemd/timers/stamp-practice-backup-diff.timer && systemctl restart practice-backup-diff.timer"
    )
    assert eventually(host, f"[ $(practice backup --list --json | grep -c '\"label\"') -gt {len(before)} ]"), "no backup was made"
    host.check_output(f"[ $(systemctl show -P Result {DIFF}) = success ]")


def data_left_out(host: Host) -> None:
    host.check_output(f"echo 'exclude=base/' >> {CONF}")


@claim("BAK-02", broken_by=data_left_out, symptom="nothing could be restored")
def test_a_backup_restores_row_by_row(host: Host) -> None:
    """Write, back up, change, destroy; the scratch cluster holds each row as it was, and the live one ran on meanwhile."""
    rows = "SELECT id, note, at AT TIME ZONE 'UTC', image FROM probe.visits ORDER BY id"
    sql(
        host,
        "DROP SCHEMA IF EXISTS probe CASCADE; CREATE SCHEMA probe; CREATE TABLE probe.visits AS SELECT id, md5(id::text) AS note, "
        "clock_timestamp() AS at, decode(md5((id + 7)::text), 'hex') AS image FROM generate_series(1, 2000) AS id",
    )
    try:
        written = sql(host, rows).splitlines()
        assert len(written) == 2000, "control: nothing was written"
        label = json.loads(host.check_output("practice backup --json"))[0]["label"]
        sql(host, "UPDATE probe.visits SET note = 'overwritten' WHERE id % 2 = 0; DELETE FROM probe.visits WHERE id > 1000")
        started = sql(host, "SELECT pg_postmaster_start_time()")
        assert drill(host, f"--set {label} --query {shlex.quote(rows)}") == written
        assert (
            sql(host, "SELECT count(*), count(*) FILTER (WHERE note = 'overwritten'), pg_is_in_recovery() FROM probe.visits")
            == "1000|500|f"
        )
        assert sql(host, "SELECT pg_postmaster_start_time()") == started, "the live cluster was restarted"
    finally:
        sql(host, "DROP SCHEMA IF EXISTS probe CASCADE")


def archived_nowhere(host: Host) -> None:
    host.check_output(
        "echo \"archive_command = '/bin/true'\" >> /etc/postgresql/17/main/conf.d/backup.conf; systemctl reload postgresql@17-main; sleep 1"
    )


@claim("BAK-03", broken_by=archived_nowhere, symptom="nothing could be restored")
def test_any_moment_can_be_gone_back_to(host: Host) -> None:
    """Two changes, one mistake: back to the moment between them, the first is there and the second is not."""
    sql(
        host,
        "CREATE TABLE IF NOT EXISTS public.probe_moments (what text); TRUNCATE public.probe_moments; "
        "INSERT INTO public.probe_moments VALUES ('right')",
    )
    try:
        between = sql(host, "SELECT pg_sleep(0.01), clock_timestamp()").split("|")[1]
        sql(host, "INSERT INTO public.probe_moments VALUES ('wrong')")
        archive_now(host)
        assert sql(host, "SELECT * FROM public.probe_moments ORDER BY 1").split() == ["right", "wrong"], "control: both happened"
        assert drill(host, f"--to {shlex.quote(between)} --query 'SELECT * FROM public.probe_moments'") == ["right"]
    finally:
        sql(host, "DROP TABLE public.probe_moments")


def archive_now(host: Host) -> str:
    """Finish the present WAL segment, and wait until PostgreSQL has handed it over; its name."""
    sql(host, "SELECT pg_logical_emit_message(true, 'probe', 'a change')")  # without one there may be nothing to hand over
    segment = sql(host, "SELECT pg_walfile_name(pg_switch_wal())")
    handed = f"SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"
    assert eventually(host, f'[ "$({PSQL} -d postgres -c "{handed}")" = t ]'), f"{segment} was not archived"
    return segment


READABLE = """find /backup -xdev -type f ! -path '/backup/lost+found/*' -size +0 -exec sh -c 'for file; do
    mark=$(head -c 8 "$file" | od -An -tx1 | tr -d " ")
    case $mark in 53616c7465645f5f) ;; 28b52ffd*) echo "$file" ;; *) case $file in */bundle/[0-9]*) ;; *) echo "$file" ;; esac ;; esac
done' - {} +"""


def dump_beside_the_repository(host: Host) -> None:
    host.check_output("runuser -u postgres -- pg_dumpall > /backup/copy.sql")


@claim(
    "BAK-04", broken_by=dump_beside_the_repository, symptom="/backup/copy.sql", undo=lambda host: host.check_output("rm /backup/copy.sql")
)
def test_the_repository_is_unreadable_without_its_key(host: Host) -> None:
    """Nothing on the backup disk is readable, the key does not lie on it, another key opens nothing; control: ours does."""
    # A cipher text of OpenSSL begins with its mark. Bundles leave the mark out; unencrypted, they would begin with that of zstd.
    assert [path for path in host.check_output(READABLE).splitlines() if path != "/backup/machine-id"] == []
    assert host.check_output("findmnt -no TARGET -T /var/lib/cabinet/pgbackrest/key.conf") != "/backup"
    read = f"{PGBACKREST} repo-get backup/main/backup.info"
    wrong = host.run(f"PGBACKREST_REPO1_CIPHER_PASS=wrong {read} --config-include-path=/nonexistent")
    assert wrong.rc != 0 and "[backup:current]" not in wrong.stdout, "another key opens it"
    assert "[backup:current]" in host.check_output(read), "control: our own key does not open it"


def opened_to_all(host: Host) -> None:
    host.check_output("chmod 755 /backup /backup/pgbackrest")


@claim("BAK-05", broken_by=opened_to_all, symptom="others may enter")
def test_only_root_and_postgres_enter_the_backup_disk(host: Host) -> None:
    """Nobody else gets in or reads the key; control: PostgreSQL's own account does."""
    look = "runuser -u {} -- sh -c 'ls /backup /backup/pgbackrest; cat /var/lib/cabinet/pgbackrest/key.conf' 2>/dev/null"
    assert "repo1-cipher-pass=" in host.check_output(look.format("postgres"))
    assert host.run(look.format("nobody")).stdout == "", "others may enter"
    loose = host.check_output(
        "find /backup -xdev ! -type l \\( -perm /o+rwx -o ! -user root ! -user postgres \\) ! -path /backup/machine-id | head"
    )
    assert loose.split() == []


STAYS = "practice-archiving.target"


def changes_wait_for_a_full_segment(host: Host) -> None:
    host.check_output(
        "echo 'archive_timeout = 0' >> /etc/postgresql/17/main/conf.d/backup.conf; systemctl reload postgresql@17-main; sleep 1"
    )


@claim("BAK-06", broken_by=changes_wait_for_a_full_segment, symptom="may wait for ever")
def test_changes_leave_the_data_disk_at_once(host: Host) -> None:
    """A WAL segment is closed at least every five minutes, or when the database ends, and a closed one is in the repository."""
    count = "SELECT archived_count FROM pg_stat_archiver"
    assert sql(host, "SELECT setting::int BETWEEN 1 AND 300 FROM pg_settings WHERE name = 'archive_timeout'") == "t", (
        "changes may wait for ever on the data disk"
    )
    before = int(sql(host, count))
    segment = archive_now(host)
    assert int(sql(host, count)) > before
    there = host.run(f"ls /backup/pgbackrest/archive/main/*/{segment[:16]}/{segment}-*.zst")
    assert there.rc == 0, f"{segment} is not in the repository"
    # At a shutdown the disk stays until the database has handed over its last segment (stories/test_5_tpm.py).
    order = f"systemctl is-active {STAYS}; systemctl show -P After {STAYS}; systemctl show -P After postgresql@17-main"
    active, disk, database = host.run(order).stdout.splitlines()
    assert (active, "backup.mount" in disk.split(), STAYS in database.split()) == ("active", True, True)


def nobody_told(host: Host) -> None:
    host.check_output("rm /etc/systemd/system/practice-alarm@.service && systemctl daemon-reload")


@pytest.mark.usefixtures("nobody_looks")
@claim("BAK-07", broken_by=nobody_told, symptom="no alarm")
def test_a_failed_backup_raises_an_alarm(host: Host) -> None:
    """A backup that cannot run shows at once in journal, banner and everybody's status; one that runs takes it away."""
    key = f"unit:{DIFF}"
    listed = f"practice alarm list | grep -q '\"{key}\"'"
    host.check_output(f"{PGBACKREST} stop")
    try:
        assert host.run("practice backup").rc == 1, "control: the backup did not fail"
        assert eventually(host, listed, 8), "no alarm was raised"
        shown = host.run("runuser -u nobody -- practice status")
        assert (shown.rc, DIFF in shown.stdout) == (1, True), shown.stdout
        assert DIFF in host.check_output("cat /run/motd.d/cabinet")
        assert key in host.check_output("journalctl --no-pager -q -t practice-alarm -p 1 -n 5 -o cat")
    finally:
        host.check_output(f"{PGBACKREST} start")
    host.check_output("practice backup")
    assert eventually(host, f"! {listed}"), "the alarm stays although a backup was made"


def watch_off(host: Host) -> None:
    host.check_output("systemctl stop practice-watch.timer")


@claim("BAK-08", broken_by=watch_off, symptom="nobody looks")
def test_a_missed_backup_raises_an_alarm(host: Host) -> None:
    """The watch looks every 15 minutes; a newest backup older than allowed is an alarm, and none once it is young enough."""
    waits = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersCalendar practice-watch.timer")
    assert all(word in waits for word in ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=*-*-* *:00/15:")), (
        f"nobody looks: {waits}"
    )
    host.check_output("systemctl restart practice-watch.service")
    assert "backup" not in alarms(host), "control: it complains about a young backup"
    settings = "/etc/cabinet/practice.json"
    host.check_output(
        f'cp -p {settings} {settings}.kept && sed -i \'s/"max_age_hours": [0-9]*/"max_age_hours": 0/\' {settings} '
        "&& systemctl restart practice-watch.service"
    )
    try:
        assert "The newest backup is" in alarms(host).get("backup", {}).get("text", ""), "an overdue backup goes unnoticed"
    finally:
        host.check_output(f"mv -f {settings}.kept {settings} && systemctl restart practice-watch.service")
    assert "backup" not in alarms(host)


def kept_for_a_week(host: Host) -> None:
    host.check_output(f"sed -i 's/^repo1-retention-full=.*/repo1-retention-full=7/' {CONF}")


@claim("BAK-09", broken_by=kept_for_a_week, symptom="would be lost")
def test_thirty_days_are_kept(host: Host, clinic: Clinic) -> None:
    """pgBackRest itself, shown a weekly backup for 20 weeks, keeps all that the clinic's days need; control: it drops older ones."""
    days = range(0, 140, 7)
    forge = Path(__file__).with_name("forged_catalogue.py").read_text()
    said = json.loads(host.check_output(f"python3 -I -c {shlex.quote(forge)} {' '.join(map(str, days))}"))
    # The newest backup that is old enough is needed as well: days before the next one are rolled forward from it.
    oldest_needed = min(day for day in days if day >= clinic.backup.keep_days)
    lost = [day for day in said["dropped"] if day <= oldest_needed]
    assert lost == [], f"would be lost: backups of {lost} days ago"
    assert clinic.backup.keep_days >= 30
    assert 133 in said["dropped"], "control: nothing is ever dropped"
    first_kept = len(said["dropped"]) + 1  # the forged backup number N holds WAL segment N
    assert [line for line in said["wal"] if f"{first_kept:024X}"[8:] in line] == []


def disk_gone(host: Host) -> None:
    host.check_output("umount --lazy /backup")


@claim("BAK-10", broken_by=disk_gone, symptom="not on the backup disk")
def test_backups_lie_on_a_disk_of_their_own(host: Host, clinic: Clinic) -> None:
    """The disk under the repository is the clinic's, not the one under the database; if it comes late, it is mounted then."""
    serials = "lsblk -nsro TYPE,SERIAL $(findmnt -nvo SOURCE -T {}) | sed -n 's/^disk //p'"
    assert host.check_output(serials.format("/backup/pgbackrest")) == clinic.backup.disk, "the repository is not on the backup disk"
    assert sorted(host.check_output(serials.format("/var/lib/postgresql/17/main")).split()) == sorted(clinic.storage.disks)
    device = host.check_output("findmnt -nvo SOURCE /backup")
    come = f"for action in remove add; do udevadm trigger --settle --action=$action {device}; done"
    mounted = "for i in $(seq 50); do mountpoint -q /backup && exit; sleep 0.1; done; exit 1"
    assert host.run(f"systemctl stop backup.mount && {come}; {mounted}").rc == 0, "a disk that comes late is not mounted"


def never_read_again(host: Host) -> None:
    host.check_output("systemctl stop practice-verify.timer")


@claim("BAK-11", broken_by=never_read_again, symptom="practice-verify.timer")
def test_damage_in_a_backup_is_found(host: Host) -> None:
    """All backups are read each week; one flipped byte in a copy of the repository is found, and the repository itself is sound."""
    waits = host.check_output("systemctl show -p Id,ActiveState,UnitFileState practice-verify.timer")
    assert "ActiveState=active" in waits and "UnitFileState=enabled" in waits, waits
    host.check_output("systemctl start practice-verify.service")
    assert host.check_output("systemctl show -P Result practice-verify.service") == "success"
    label = backups(host)[-1]["label"]
    assert "option-checksum-page=true" in host.check_output(f"{PGBACKREST} repo-get backup/main/{label}/backup.manifest"), (
        "pages are not checked"
    )
    # Hard links make the copy; the damaged file alone is a copy in earnest.
    copy = f"/backup/damaged/backup/main/{label}/bundle/1"
    damaged = host.run(
        f"cp -al /backup/pgbackrest /backup/damaged && cp -p {copy} /backup/damaged/x && mv -f /backup/damaged/x {copy} && "
        f"printf '\\377\\0\\377' | dd of={copy} bs=1 seek=$(($(stat -c %s {copy}) / 2)) conv=notrunc status=none && "
        f"runuser -u postgres -- /usr/local/lib/cabinet/pgbackrest-verify --repo1-path=/backup/damaged --set={label}"
    )
    host.check_output("rm -rf /backup/damaged")
    assert (damaged.rc, label in damaged.stdout) == (1, True), f"damage goes unnoticed: {damaged.stdout}{damaged.stderr}"


def another_machine(host: Host) -> None:
    host.check_output(
        "printf '#!/bin/sh\\nexec pgbackrest --stanza=main archive-push \"$1\"\\n' > /usr/local/lib/cabinet/pgbackrest-archive-push"
    )


@claim("BAK-12", broken_by=another_machine, symptom="a copy of this server")
def test_a_copied_server_cannot_write_into_the_history(host: Host) -> None:
    """With another machine's id nothing is archived; control: with its own, the same segment is taken."""
    segment = archive_now(host)
    push = f"cd /var/lib/postgresql/17/main && runuser -u postgres -- /usr/local/lib/cabinet/pgbackrest-archive-push pg_wal/{segment}"
    other = "echo 0123456789abcdef0123456789abcdef > /run/other-id && mount --bind /run/other-id /etc/machine-id"
    host.check_output(push)
    assert host.run(f"unshare --mount sh -c {shlex.quote(f'{other} && {push}')}").rc != 0, (
        "a copy of this server may write into its history"
    )


def nights_without_a_drill(host: Host) -> None:
    host.check_output("systemctl stop practice-drill.timer")


@claim("BAK-13", broken_by=nights_without_a_drill, symptom="practice-drill.timer")
def test_the_newest_backup_is_restored_on_trial_every_night(host: Host) -> None:
    """The timer waits for the night; what it starts restores, compares, checks, keeps what came of it, and leaves nothing behind."""
    said = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersCalendar,Persistent practice-drill.timer")
    assert all(word in said for word in ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=*-*-* 0", "Persistent=yes")), (
        f"practice-drill.timer: {said}"
    )
    before = json.loads(host.check_output("practice drill --history --json"))
    done = host.run("practice drill --json")
    assert done.rc == 0, f"the newest backup was not proved: {done.stdout}"
    drills = json.loads(host.check_output("practice drill --history --json"))
    assert drills[-1] == json.loads(done.stdout) and drills[-1] not in before
    assert drills[-1]["label"] == backups(host)[-1]["label"] and drills[-1]["tables"] > 0 < drills[-1]["restore_seconds"]
    assert host.run("test -e /var/lib/postgresql/scratch").rc == 1, "something was left behind"


def years_without_a_drill(host: Host) -> None:
    host.check_output("sed -i 's/\"drill_days\": [0-9]*/\"drill_days\": 999/' /etc/cabinet/practice.json")


@claim("BAK-14", broken_by=years_without_a_drill, symptom="goes unnoticed")
def test_a_drill_that_fails_or_is_missed_raises_an_alarm(host: Host) -> None:
    """One that cannot write its mark fails, and shows at once; a history that ends four days ago is an alarm, and none once it is right."""
    unit, history = "practice-drill.service", "/var/lib/cabinet/drills.json"
    old = {"ok": True, "label": "x", "restore_seconds": 1, "check_seconds": 1, "seconds": 2, "bytes": 0, "tables": 0, "rows": 0}
    old["at"] = float(host.check_output("date +%s")) - 4 * 86400
    host.check_output(f"touch {history} && cp -p {history} {history}.kept")
    host.check_output(f"echo {shlex.quote(json.dumps([old]))} > {history} && systemctl restart practice-watch.service")
    try:
        assert "No backup was restored on trial" in alarms(host).get("drill", {}).get("text", ""), "a missed drill goes unnoticed"
        sql(host, "CREATE SCHEMA IF NOT EXISTS cabinet; DROP TABLE IF EXISTS cabinet.canary; CREATE TABLE cabinet.canary ()")
        assert host.run("practice drill").rc == 1, "control: the drill did not fail"
        assert eventually(host, f"practice alarm list | grep -q '\"unit:{unit}\"'", 8), "no alarm was raised"
    finally:
        sql(host, "DROP TABLE IF EXISTS cabinet.canary")
        host.check_output(f"mv -f {history}.kept {history}; test -s {history} || rm {history}; systemctl reset-failed {unit}")
        host.check_output("systemctl restart practice-watch.service")
    assert {"drill", f"unit:{unit}"} & set(alarms(host)) == set(), "the alarm stays although all is right"


def restored(host: Host, arguments: str) -> None:
    """Go back; nobody is asked."""
    done = host.run(f"practice restore --yes {arguments}")
    assert done.rc == 0, f"it did not come back: {done.stdout}"


def kept(host: Host) -> list[str]:
    """What earlier restores have left to return to."""
    done = host.run("practice restore --json")
    assert done.rc == 0, f"nothing can be gone back to: {done.stdout}"
    return json.loads(done.stdout)["kept"]


def key_mislaid(host: Host) -> None:
    host.check_output("rm /etc/pgbackrest/conf.d")


@claim("BAK-15", broken_by=key_mislaid, symptom="nothing can be gone back to")
def test_one_database_goes_back_and_can_return(host: Host) -> None:
    """Asked, and refused unless told so; then the database is what it was, another one is not, and back again."""
    assert kept(host) == [], "control: something is kept already"
    look = f"{PSQL} -d probe_back -c 'SELECT note FROM visits'"
    sql(host, "DROP TABLE IF EXISTS probe_other; CREATE TABLE probe_other AS SELECT 'before' AS note")
    try:
        sql(host, "CREATE DATABASE probe_back TEMPLATE template0")
        host.check_output(f"{PSQL} -d probe_back -c \"CREATE TABLE visits AS SELECT 'before' AS note\"")
        moment = sql(host, "SELECT clock_timestamp()")
        host.check_output(f"{PSQL} -d probe_back -c \"UPDATE visits SET note = 'after'\"")
        sql(host, "UPDATE probe_other SET note = 'after'")
        archive_now(host)
        goal = f"--to {shlex.quote(moment)} --database probe_back"
        asked = host.run(f"echo no | practice restore {goal}")
        assert (asked.rc, "will be replaced" in asked.stderr) == (1, True), "it does not ask"
        assert host.check_output(look) == "after", "it was replaced although nobody agreed"
        restored(host, goal)
        assert host.check_output(look) == "before"
        assert sql(host, "SELECT note FROM probe_other") == "after", "another database was touched"
        (name,) = kept(host)
        restored(host, f"--back {name}")
        assert host.check_output(look) == "after"
    finally:
        for name in kept(host):
            host.run(f"practice restore --yes --discard {name}")
        sql(host, "DROP TABLE probe_other")
        sql(host, "DROP DATABASE IF EXISTS probe_back WITH (FORCE)")


def repository_elsewhere(host: Host) -> None:
    host.check_output(f"sed -i 's|^repo1-path=.*|repo1-path=/srv/nowhere|' {CONF}")


@claim("BAK-16", broken_by=repository_elsewhere, symptom="nothing can be gone back to")
def test_one_table_comes_back_beside_the_live_one(host: Host) -> None:
    """In a schema of its own, with the rows of then; the live one keeps those of now."""
    assert backups(host) != [], "nothing can be gone back to"
    sql(host, "DROP TABLE IF EXISTS public.probe_table; CREATE TABLE public.probe_table AS SELECT 'before' AS note")
    try:
        moment = sql(host, "SELECT clock_timestamp()")
        sql(host, "UPDATE public.probe_table SET note = 'after'")
        archive_now(host)
        restored(host, f"--to {shlex.quote(moment)} --table postgres.public.probe_table")
        side = sql(host, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored_%'")
        assert sql(host, f"SELECT note FROM {side}.probe_table") == "before"
        assert sql(host, "SELECT note FROM public.probe_table") == "after", "the live table was touched"
        sql(host, f"DROP SCHEMA {side} CASCADE")
    finally:
        sql(host, "DROP TABLE public.probe_table")


def never_checked(host: Host) -> None:
    host.check_output("sed -i '/systemd-fsck@/d' /etc/systemd/system/backup.mount && systemctl daemon-reload")


@claim("BAK-17", broken_by=never_checked, symptom="not put right")
def test_the_backup_disk_is_checked_before_it_is_used(host: Host) -> None:
    """A file system that says of itself that it has errors, as after a power cut, has been gone through before anything is written."""
    device = host.check_output("findmnt -nvo SOURCE /backup")
    state = f"dumpe2fs -h {device} 2>/dev/null | sed -n 's/^Filesystem state: *//p'"
    checker = f"systemd-fsck@$(systemd-escape --path /dev/disk/by-uuid/$(lsblk -no UUID {device})).service"
    try:
        host.check_output(f"systemctl stop backup.mount {checker} && debugfs -w -R 'set_super_value state 3' {device}")
        assert host.check_output(state) == "clean with errors", "control: it has none"
    finally:
        host.check_output("systemctl start backup.mount")
    assert host.check_output(state) == "clean", "what a power cut left behind is not put right"


def as_important_as_people(host: Host) -> None:
    host.check_output("sed -i '/^CPUWeight=/d' /etc/systemd/system/practice-backup@.service && systemctl daemon-reload")


# Both want all of the processor: a backup's service with its own settings, and one like the practice's own; what each got in some seconds.
SPIN = "for n in $(seq $(nproc)); do timeout 60 sh -c 'while :; do :; done' & done; wait"
PROBE = "practice-backup@probe.service"
BOTH = f"""mkdir -p /run/systemd/system/{PROBE}.d && cd /run/systemd/system/{PROBE}.d
printf '%s\\n' {shlex.quote(SPIN)} >spin && printf '[Service]\\nExecStart=\\nExecStart=/bin/sh %s/spin\\n' "$PWD" >spin.conf
systemctl daemon-reload && systemctl start --no-block {PROBE} && systemd-run --quiet --collect --unit=probe-work sh "$PWD/spin"
got() {{ cat $(find /sys/fs/cgroup -path "*/$1/cpu.stat") | sed -n 's/^usage_usec //p'; }}
sleep 2; backup=$(got {PROBE}) work=$(got probe-work.service)
sleep 4; echo $(($(got {PROBE}) - backup)) $(($(got probe-work.service) - work))"""
NO_MORE = f"systemctl stop probe-work.service {PROBE}; rm -r /run/systemd/system/{PROBE}.d; systemctl daemon-reload"


@claim("BAK-18", broken_by=as_important_as_people, symptom="takes the processor")
def test_a_backup_gives_way_to_who_works(host: Host) -> None:
    """Of a processor that both want a backup gets less than a twentieth of what the practice gets; nothing that copies is left out."""
    try:
        backup, work = map(int, host.check_output(BOTH).split())
    finally:
        host.run(NO_MORE)
    assert backup * 20 < work, f"a backup takes the processor from who works: {backup / 1e6:.1f} s, and {work / 1e6:.1f} s left for them"
    assert work > 1e6, "control: nobody worked"
    for weight, units in WEIGHTS.items():
        said = host.check_output(f"systemctl show -p CPUWeight,Slice {' '.join(units)}").splitlines()
        # In a slice of their own, as instances are, the weight would count among themselves.
        assert {*said} - {""} == {f"CPUWeight={weight}", "Slice=system.slice"}, f"{units}: {said}"
