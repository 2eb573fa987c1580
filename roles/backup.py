"""backup: what the practice enters is on a second disk, encrypted, within about a minute, and can be gone back to for weeks.

Claims: BAK-01 to BAK-18.  Changes from Debian defaults: pgBackRest archives and backs up the cluster; timers for backups, their
verification, a restore on trial each night, and a watch that raises alarms.
"""

from __future__ import annotations

import uuid

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from roles.database import POSTGRES, PSQL
from roles.timers import services, timers

PACKAGES = ["eatmydata", "pgbackrest"]

STANZA = "main"
CLUSTER = "/var/lib/postgresql/17/main"
MOUNT = "/backup"
REPOSITORY = "/backup/pgbackrest"
# On the encrypted volume: the key must not lie beside what it opens.
HOME = "/var/lib/cabinet/pgbackrest"
PASSPHRASE = "/var/lib/cabinet/secrets/backup-passphrase"
KEY = f"{HOME}/key.conf"
SYSTEMD = "/etc/systemd/system"
SCRIPTS = "/usr/local/lib/cabinet"
# pgBackRest looks for its own name in archive_command.
ARCHIVE_COMMAND = f"{SCRIPTS}/pgbackrest-archive-push %p"
ARCHIVE_TIMEOUT = 60
PGBACKREST = f"cd / && {POSTGRES} pgbackrest --stanza={STANZA}"
# There is a backup, and the changes since it have no hole.
BACKED_UP = "practice backup --check"


@deploy("backup")
def backup(wait: bool = True) -> None:
    """The disk, its key, the repository, archiving, the timers, the watch, and a first backup, which may go on while others work."""
    clinic = this_clinic()
    disk(clinic)
    key()
    described(clinic)
    repository()
    archiving()
    services(HOME, STANZA)
    timers(clinic)
    kit.script(
        name="BAK-03 begin a backup where there is none, or where the changes since the newest have a hole",
        unless=BACKED_UP,
        run="systemctl start --no-block practice-backup@diff.service",
    )
    if wait:
        backed_up()


@deploy("backup")
def ready() -> None:
    """All that pgBackRest needs to give back what is put on the backup disk; nothing is made there (kit/restore.py)."""
    clinic = this_clinic()
    disk(clinic)
    key()
    described(clinic)


@deploy("backup")
def backed_up() -> None:
    """The backup that was begun has come to its end."""
    kit.script(name="BAK-03 wait until there is a backup", unless=BACKED_UP, run="practice backup")


def disk(clinic: Clinic) -> None:
    """The second disk at /backup; only root and PostgreSQL's account get in."""
    serial = clinic.backup.disk
    # The file system's name follows from the serial number, so that the mount unit needs no look at the server.
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"cabinet-backup {serial}")
    mount = f"{SYSTEMD}/backup.mount"
    kit.config_file(name="BAK-10 format-disk", dest=f"{SCRIPTS}/format-disk", src="backup/format-disk", check=kit.PARSES, mode="755")
    kit.script(
        name=f"BAK-10 format the disk {serial}, if it is provably blank",
        unless=f"{SCRIPTS}/format-disk --finished {serial} {name}",
        run=f"{SCRIPTS}/format-disk {serial} {name} {clinic.backup.wipe or ''}",
    )
    device = f"/dev/disk/by-uuid/{name}"
    kit.config_file(name="BAK-10 BAK-17 describe the mount", dest=mount, template="backup/backup.mount.j2", device=device)
    kit.config_file(
        name="BAK-10 mount it also when the disk comes late",
        dest="/etc/udev/rules.d/90-cabinet-backup.rules",
        content=f'SUBSYSTEM=="block", ENV{{ID_FS_UUID}}=="{name}", ENV{{SYSTEMD_WANTS}}+="backup.mount"\n',
    )
    kit.unit(name="BAK-10 mount the backup disk", unit="backup.mount")
    for path, owner, who in ((MOUNT, "root", "backup disk"), (REPOSITORY, "postgres", "repository")):
        kit.directory(name=f"BAK-05 close the {who} to everybody else", path=path, mode="750", owner=owner, group="postgres")


def key() -> None:
    """Born here, once; pgBackRest reads it through /etc/pgbackrest/conf.d, which leads to the encrypted volume."""
    kit.directory(name="BAK-04 a place for secrets", path="/var/lib/cabinet/secrets", mode="700")
    kit.directory(name="BAK-04 a place for the key", path=HOME, mode="750", group="postgres")
    kit.script(
        name="BAK-04 make the key of the repository, once",
        unless=f"test -s {PASSPHRASE}",
        run=(
            f"if test -e {REPOSITORY}/archive; then echo 'The repository has a history, but its key {PASSPHRASE} is gone: "
            "put it back from the recovery kit, then deploy again.' >&2; exit 1; fi\n"
            f"umask 077; head -c 48 /dev/urandom | base64 -w 0 > {PASSPHRASE}.new; sync {PASSPHRASE}.new; mv {PASSPHRASE}.new {PASSPHRASE}"
        ),
    )
    wanted = f'printf "[global]\\nrepo1-cipher-pass=%s\\n" "$(cat {PASSPHRASE})"'
    kit.script(
        name="BAK-04 BAK-15 let pgBackRest read the key",
        unless=(
            f"test \"$(stat -c '%a %U %G' {PASSPHRASE} {KEY} | paste -sd ' ')\" = '600 root root 640 root postgres'\n"
            f'test "$(cat {KEY})" = "$({wanted})"\n'
            f'test "$(readlink /etc/pgbackrest/conf.d)" = {HOME}'
        ),
        run=(
            f"umask 077; chmod 600 {PASSPHRASE}; chown root:root {PASSPHRASE}\n"
            f"{wanted} > {HOME}/.key.staged\n"
            f"chown root:postgres {HOME}/.key.staged; chmod 640 {HOME}/.key.staged; mv -fT {HOME}/.key.staged {KEY}\n"
            "install -d -m 755 /etc/pgbackrest; test -L /etc/pgbackrest/conf.d || set_aside /etc/pgbackrest/conf.d\n"
            f"rm -rf /etc/pgbackrest/conf.d; ln -s {HOME} /etc/pgbackrest/conf.d"
        ),
    )


def described(clinic: Clinic) -> None:
    """pgBackRest's configuration."""
    kit.config_file(
        name="BAK-09 BAK-16 describe the repository and how long it keeps",
        dest="/etc/pgbackrest/pgbackrest.conf",
        template="backup/pgbackrest.conf.j2",
        repository=REPOSITORY,
        keep_days=clinic.backup.keep_days,
        stanza=STANZA,
        cluster=CLUSTER,
    )
    kit.directory(name="BASE log directory of pgBackRest", path="/var/log/pgbackrest", mode="750", owner="postgres", group="adm")


def repository() -> None:
    """The stanza, and whose it is."""
    kit.script(
        name="BAK-02 create the stanza",
        unless=f"test -s {REPOSITORY}/archive/{STANZA}/archive.info",
        run=f"mountpoint -q {MOUNT}; {PGBACKREST} stanza-create",
    )
    kit.script(
        name="BAK-12 say whose history this is",
        unless=f"test -s {MOUNT}/machine-id",
        run=f"install -m 644 /etc/machine-id {MOUNT}/.machine-id; sync; mv {MOUNT}/.machine-id {MOUNT}/machine-id",
    )


def archiving() -> None:
    """Every finished WAL segment goes to the repository; PostgreSQL itself is asked whether it does so."""
    for script in ("pgbackrest-archive-push", "pgbackrest-verify"):
        kit.config_file(name=f"BAK-06 {script}", dest=f"{SCRIPTS}/{script}", src=f"backup/{script}", check=kit.PARSES, mode="755")
    unit = "practice-archiving.target"
    kit.config_file(name="BAK-06 keep the disk until the database has ended", dest=f"{SYSTEMD}/{unit}", src=f"backup/{unit}")
    kit.config_file(
        name="BAK-06 describe archiving",
        dest="/etc/postgresql/17/main/conf.d/backup.conf",
        template="backup/postgresql.conf.j2",
        mode="640",
        group="postgres",
        archive_command=ARCHIVE_COMMAND,
        archive_timeout=ARCHIVE_TIMEOUT,
    )
    # In the unit that PostgreSQL counts in, seconds, and as it runs now, wherever it was set.
    lives = (
        f"SELECT string_agg(setting, '|' ORDER BY name) = '{ARCHIVE_COMMAND}|on|{ARCHIVE_TIMEOUT}' "
        "FROM pg_settings WHERE name IN ('archive_command', 'archive_mode', 'archive_timeout')"
    )
    kit.script(
        name="BAK-06 archive continuously",
        unless=f'systemctl --quiet is-active {unit}\ntest "$({PSQL} -d postgres -c "{lives}")" = t',
        run=(
            # A database that has not started anew since the target is there has not started it.
            f"{kit.reread(unit)}\nsystemctl --job-mode=ignore-dependencies start {unit}\n"
            f'{PSQL} -d postgres -c "SELECT pg_reload_conf()" >/dev/null\n'
            f'for try in 1 2 3 4 5 6 7 8 9 10; do test "$({PSQL} -d postgres -c "{lives}")" != t || exit 0; sleep 0.3; done\n'
            "echo 'PostgreSQL does not archive as described: something else sets it, or archive_mode waits for a restart. "
            "Run the role database.' >&2; exit 1"
        ),
    )
