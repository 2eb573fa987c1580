"""What the commands ask the server: is the volume open, what does PostgreSQL say, what lies in the backup repository."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/cabinet/practice.json")
BIN = "/usr/lib/postgresql/17/bin"
# Not Debian's wrapper of that name: Perl starts it five times as slowly.
PSQL = f"{BIN}/psql"
DATA = Path("/var/lib/postgresql/17/main")
STANZA = "main"
CLUSTER = "postgresql@17-main.service"
VOLUME = "practice-data.target"
# Status code of `pgbackrest info` for whatever it has no code for.
UNREADABLE = 99
# What the changes that are rolled forward take beside the restored files, and what the practice goes on writing meanwhile.
SPARE_BYTES = 384 << 20
# Longer than a transfer to a backup disk ever takes: then something is wrong with it.
ARCHIVED_SECONDS = 180


class Trouble(RuntimeError):
    """Something the server was asked for and could not say; the text is for people."""


def run(*argv: str, stdin: str = "", timeout: float = 60, user: str | None = None) -> str:
    """What a command prints. Raises Trouble with the last line of its complaint."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",  # pgBackRest quotes what it read; by another key that is no text
            timeout=timeout,
            check=False,
            cwd="/",
            user=user,
            group=user,
            extra_groups=user and [],
        )
    except subprocess.TimeoutExpired:
        raise Trouble(f"{argv[0]} gave no answer in {timeout:.0f} s") from None
    except FileNotFoundError:
        raise Trouble(f"{argv[0]} is not installed") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Trouble(said[-1].strip() if said else f"{argv[0]} ended with {done.returncode}")
    return done.stdout


def as_postgres(*argv: str, stdin: str = "", timeout: float = 60) -> str:
    """What a command prints that the database's own account runs. Without PAM: a look every 15 minutes is no log-in. Raises Trouble."""
    return run(*argv, stdin=stdin, timeout=timeout, user="postgres")


def sql(statement: str) -> Any:
    """The one JSON value that `statement` selects from the live cluster. Raises Trouble."""
    return json.loads(
        as_postgres(PSQL, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-", stdin=statement, timeout=15) or "null"
    )


def archived(segment: str) -> None:
    """Wait until the file `segment` of the live cluster's changes is on the backup disk. Raises Trouble."""
    end = time.monotonic() + ARCHIVED_SECONDS
    while not sql(f"SELECT to_json(coalesce(last_archived_wal, '') >= '{segment}') FROM pg_stat_archiver"):
        if time.monotonic() > end:
            raise Trouble(f"what was written {ARCHIVED_SECONDS} s ago has not reached the backup disk; see `practice status`")
        time.sleep(0.3)


def spare(directory: Path, wanted: int) -> None:
    """Raises Trouble unless so many bytes, a tenth more, and what the practice goes on writing have room on the volume of `directory`."""
    disk = os.statvfs(directory)
    free, wanted = disk.f_bavail * disk.f_frsize, wanted * 11 // 10 + SPARE_BYTES
    if free < wanted:
        raise Trouble(
            f"this needs {wanted >> 20} MiB on the data volume, and {free >> 20} MiB are free. Nothing was begun. "
            "`practice restore` lists what earlier restores keep there"
        )


def repository() -> dict[str, Any]:
    """What pgBackRest says about the practice's stanza. Raises Trouble."""
    # Not strict: what it could not read, it quotes as it is.
    found = json.loads(as_postgres("pgbackrest", f"--stanza={STANZA}", "--output=json", "info"), strict=False)
    if found and found[0]["status"]["code"] == UNREADABLE:
        raise Trouble("pgBackRest cannot read its own list of backups: it is damaged, or its key is not the right one")
    return found[0] if found else {}


def settings() -> dict[str, Any]:
    """What the last deploy wrote down about this practice; empty before the first."""
    try:
        return json.loads(SETTINGS.read_text())
    except FileNotFoundError:
        return {}


def units(*names: str) -> dict[str, dict[str, str]]:
    """How systemd sees these units, in one question."""
    if not names:
        return {}
    said = run("systemctl", "show", "-p", "Id,ActiveState,UnitFileState,Result,NextElapseUSecRealtime", "--", *names)
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in said.split("\n\n"))
    return dict(zip(names, blocks, strict=True))


def failed() -> list[str]:
    """The units that have failed, whatever they belong to."""
    lines = run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full", "--no-pager").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def is_root() -> bool:
    """Whether this process may ask everything."""
    return os.geteuid() == 0
