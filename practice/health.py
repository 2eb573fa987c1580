"""How the server is: facts, and what is wrong with them. Nothing here says anything about a patient."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from practice import counting, drilled, journal, media, mirror, offsite, outbox, recovery_kit
from practice.server import CLUSTER, STANZA, VOLUME, Trouble, failed, repository, settings, sql, units
from practice.telling import advised

ARCHIVE_COMMAND = "/usr/local/lib/cabinet/pgbackrest-archive-push %p"
TIMERS = (
    "practice-backup-full.timer", "practice-backup-diff.timer", "practice-verify.timer", "practice-drill.timer",
    "practice-watch.timer", "practice-send.path", "practice-send.timer", "practice-silence.timer",
)  # fmt: skip
# Each says how it is, and what is wrong with that.
WHAT_IS_KEPT = {"mirror": mirror, "drills": drilled, "offsite": offsite, "media": media, "recovery": recovery_kit}
WAL = Path(f"/backup/pgbackrest/archive/{STANZA}")
DISKS = ("/", "/data", "/backup")
FULL_PERCENT = 85
WAL_LIMIT_BYTES = 4 << 30
PEOPLE = Path("/etc/cabinet/people.json")
CONSOLE_PASSWORD = Path("/etc/cabinet/breakglass")
LAST_LOG_INS = Path("/var/lib/lastlog/lastlog2.db")
UNUSED_DAYS = 90
# A segment is due after archive_timeout (60 s); two retries later somebody should look.
WAITING_SECONDS = 600

ASK = """
SELECT json_build_object(
    'version', current_setting('server_version'),
    'archive_command', current_setting('archive_command'),
    'archived', last_archived_wal, 'archived_at', extract(epoch FROM last_archived_time),
    'failed', last_failed_wal, 'failed_at', extract(epoch FROM last_failed_time),
    'waiting_since', (SELECT extract(epoch FROM min(modification)) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
    'wal_bytes', (SELECT sum(size) FROM pg_ls_waldir()),
    'bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database),
    'broken_pages', (SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database))
FROM pg_stat_archiver;
"""


def look(now: float | None = None) -> dict[str, Any]:
    """Everything `practice status` shows, asked now; `troubles` maps a key to a sentence for each thing that is wrong."""
    now = time.time() if now is None else now
    seen: dict[str, Any] = {"at": now, "server": socket.getfqdn(), "practice": settings().get("practice", ""), "revision": revision()}
    timers = (*TIMERS, *(timer for asked in (offsite, mirror) if asked.CONFIG.exists() for timer in asked.TIMERS))
    states = units(VOLUME, CLUSTER, *timers)
    seen["volume"] = "open" if states[VOLUME]["ActiveState"] == "active" else "closed"
    seen["disks"] = {path: used_percent(path) for path in DISKS if path == "/" or os.path.ismount(path)}
    troubles = disk_troubles(seen["disks"])
    if seen["volume"] == "closed":
        troubles["locked"] = advised("locked", "The data volume is closed, so the practice cannot work.")
        seen |= {"database": {"up": False}, "backup": {}, "counts": {}} | {name: {} for name in WHAT_IS_KEPT}
    else:
        idle = sorted(timer for timer in timers if states[timer]["ActiveState"] != "active")
        if idle:
            troubles["timers"] = advised("timers", f"Switched off, so nothing happens by itself any more: {', '.join(idle)}.")
        seen["database"], wrong = database(now)
        troubles |= wrong
        seen["backup"], wrong = backups(seen["database"], now)
        troubles |= wrong
        for name, kept in WHAT_IS_KEPT.items():
            seen[name], wrong = kept.look(now)
            troubles |= wrong
        seen["counts"] = counting.counts(seen)
        troubles |= journal.look()
    seen["console"] = CONSOLE_PASSWORD.exists()
    seen["people"], wrong = people(now)
    troubles |= wrong
    seen["alarms"], wrong = outbox.look(now)
    seen["troubles"] = troubles | wrong | {f"unit:{unit}": f"{unit} failed; why: journalctl -u {unit}" for unit in failed()}
    return seen


def people(now: float) -> tuple[dict[str, float], dict[str, str]]:
    """When each person who may log in last did; who never did counts from the day on which the account was made."""
    if not PEOPLE.exists():  # a deploy that has not come that far
        return {}, {}
    accounts = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
    made = {row[0]: int(row[2] or 0) * 86400.0 for row in accounts}
    may = {person["name"]: made.get(person["name"], now) for person in json.loads(PEOPLE.read_text()) if person["login"]}
    log_ins = last_log_ins()
    came = {name: log_ins.get(name, since) for name, since in may.items()}
    wrong = {
        f"unused:{name}": f"{name} has not logged in since {clock(last)[:10]}; take them out of the clinic file if they need no account."
        for name, last in came.items()
        if now - last > UNUSED_DAYS * 86400
    }
    return came, wrong


def last_log_ins() -> dict[str, float]:
    """What pam_lastlog2(8) has written down; empty before the first log-in."""
    try:
        with closing(sqlite3.connect(f"{LAST_LOG_INS.as_uri()}?mode=ro", uri=True)) as table:
            return dict(table.execute("SELECT Name, Time FROM Lastlog2"))
    except sqlite3.OperationalError:
        return {}


def database(now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """The cluster, and whether its WAL leaves it."""
    try:
        said = sql(ASK) | {"up": True}
    except Trouble as trouble:
        return {"up": False}, {"database": advised("database", f"The database does not answer: {trouble}.")}
    wrong = {}
    if said["archive_command"] != ARCHIVE_COMMAND:
        wrong["wal-off"] = advised("wal-off", "The database no longer hands its changes to the backup (archive_command was changed).")
    if (said["failed_at"] or 0) > (said["archived_at"] or 0):
        since = f"Changes do not reach the backup disk since {clock(said['failed_at'])} (WAL {said['failed']})."
        wrong["wal-failing"] = advised("wal-failing", since)
    elif said["waiting_since"] and now - said["waiting_since"] > WAITING_SECONDS:
        wrong["wal-failing"] = advised("wal-failing", f"Changes wait for the backup disk since {clock(said['waiting_since'])}.")
    if said["wal_bytes"] > WAL_LIMIT_BYTES:
        wrong["wal-full"] = advised("wal-full", f"{said['wal_bytes'] >> 20} MiB of changes pile up in pg_wal.")
    if said["broken_pages"]:
        wrong["pages"] = f"The database has read {said['broken_pages']} damaged pages. Restore before they spread into old backups."
    return said, wrong


def backups(cluster: dict[str, Any], now: float) -> tuple[dict[str, Any], dict[str, str]]:
    """The repository: its newest backup, how far back it reaches, and whether it is young enough."""
    if not os.path.ismount("/backup"):
        return {}, {"backup": advised("backup", "The backup disk is not mounted at /backup.")}
    try:
        found = repository()
    except Trouble as trouble:
        return {}, {"backup": advised("backup", f"The backup repository cannot be read: {trouble}.")}
    taken = found.get("backup", [])
    if not taken:
        return {}, {"backup": advised("backup", "There is no backup at all.")}
    newest = taken[-1]
    seen = {
        "newest": newest["timestamp"]["stop"], "newest_type": newest["type"], "newest_label": newest["label"],
        "oldest": taken[0]["timestamp"]["stop"], "count": len(taken),
        "keep_days": settings().get("keep_days"), "bytes": sum(part["info"]["repository"]["delta"] for part in taken),
    }  # fmt: skip
    wrong = {}
    hours = (now - seen["newest"]) / 3600
    if hours > settings().get("max_age_hours", 26):
        wrong["backup"] = advised("backup", f"The newest backup is {age(now - seen['newest'])} old ({clock(seen['newest'])}).")
    elif ahead := [backup for backup in taken if backup["timestamp"]["stop"] > now + 3600]:
        wrong["backup"] = (
            f"Backup {ahead[-1]['label']} bears a time that has not come yet ({clock(ahead[-1]['timestamp']['stop'])}): the clock was "
            "wrong, or is. How old it is, nobody knows, and until then no full backup can be made. See docs/faults.md."
        )
    if newest.get("error"):
        wrong["backup-pages"] = advised("backup-pages", f"Backup {newest['label']} found damaged pages in the database.")
    if lost := missing_segments(newest["archive"]["stop"], cluster.get("archived") or ""):
        wrong["wal-lost"] = (
            f"{len(lost)} pieces of the changes since the newest backup are not on the backup disk (first: WAL {lost[0]}), although the "
            "database handed them over. What came after them cannot be gone back to before there is a new backup: practice backup."
        )
    return seen, wrong


def missing_segments(first: str, last: str) -> list[str]:
    """The WAL segments from `first` to `last`, on one timeline, that are not in the repository.

    `last` must have been asked for before this looks: the repository may be ahead of it, never behind.
    """
    if len(last) < 24 or last[:8] != first[:8]:  # a history file, or a new timeline, which starts with a backup of its own
        return []
    wanted = [segment_name(first[:8], number) for number in range(segment_number(first), segment_number(last[:24]) + 1)]
    there = {path.name[:24] for directory in {name[:16] for name in wanted} for path in WAL.glob(f"*/{directory}/*")}
    return [name for name in wanted if name not in there]


def segment_number(name: str) -> int:
    """The position of a 16 MiB segment in its timeline."""
    return int(name[8:16], 16) * 256 + int(name[16:24], 16)


def segment_name(timeline: str, number: int) -> str:
    """The inverse of `segment_number`."""
    return f"{timeline}{number // 256:08X}{number % 256:08X}"


def disk_troubles(disks: dict[str, int]) -> dict[str, str]:
    """One sentence per disk that fills."""
    full = {f"disk:{path}": f"The disk of {path} is {used} % full." for path, used in disks.items() if used >= FULL_PERCENT}
    return {key: advised(key, what) for key, what in full.items()}


def used_percent(path: str) -> int:
    """How full the file system is, as those who are not root see it; the scarcer of bytes and inodes counts."""
    said = os.statvfs(path)
    blocks = 1 - said.f_bavail / (said.f_blocks - said.f_bfree + said.f_bavail)
    inodes = 1 - said.f_favail / said.f_files if said.f_files else 0
    return round(100 * max(blocks, inodes))


def revision() -> str:
    """Which revision of Cabinet was carried out here to its end."""
    try:
        return Path("/etc/cabinet/revision").read_text().strip()
    except FileNotFoundError:
        return "none"


def clock(seconds: float) -> str:
    """A moment as people write it, in the practice's time zone."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def age(seconds: float) -> str:
    """A length of time in one unit."""
    for name, length in (("days", 172800), ("hours", 7200), ("minutes", 120)):
        if seconds >= length:
            return f"{int(seconds // (length / 2))} {name}"
    return f"{max(0, int(seconds))} seconds"
