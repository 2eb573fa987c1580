"""timers: when the server backs up, verifies and looks at itself, and what raises an alarm; roles/backup.py calls it.

Changes from Debian defaults: five timers and the services that they start.
"""

from __future__ import annotations

import hashlib
import json

from kit import operations as kit
from kit.clinic import Clinic

SYSTEMD = "/etc/systemd/system"
# So long may no backup have been restored on trial before that is an alarm.
DRILL_DAYS = 3
# The drill begins in these hours, and this many minutes before or after a backup does not.
NIGHT_HOURS = range(1, 5)
APART_MINUTES = 60


def services(home: str, stanza: str) -> None:
    """What the timers start, and what raises an alarm."""
    for unit in ("practice-backup@.service", "practice-verify.service"):
        kit.config_file(name=f"BAK-01 BAK-18 {unit}", dest=f"{SYSTEMD}/{unit}", template=f"backup/{unit}.j2", home=home, stanza=stanza)
    unit = "practice-drill.service"
    kit.config_file(name=f"BAK-13 {unit}", dest=f"{SYSTEMD}/{unit}", template=f"backup/{unit}.j2")
    for unit in ("practice-alarm@.service", "practice-watch.service"):
        kit.config_file(name=f"BAK-07 {unit}", dest=f"{SYSTEMD}/{unit}", src=f"backup/{unit}")


def timers(clinic: Clinic) -> None:
    """When what runs."""
    kit.config_file(
        name="BAK-08 BAK-14 what the watch compares with",
        dest="/etc/cabinet/practice.json",
        content=json.dumps(
            {
                "practice": clinic.practice,
                "max_age_hours": clinic.backup.max_age_hours,
                "keep_days": clinic.backup.keep_days,
                "drill_days": DRILL_DAYS,
            },
            ensure_ascii=False,
        )
        + "\n",
    )
    # The second follows from the server's name, so that neighbours do not start all at once.
    second = f"{int(hashlib.sha256(clinic.hostname.encode()).hexdigest(), 16) % 60:02}"
    day, full = clinic.backup.full.split()
    schedule = {
        "practice-backup-full": ("BAK-01", f"{day} *-*-* {full}", "practice-backup@full.service", "A full backup every week"),
        "practice-backup-diff": (
            "BAK-01",
            f"*-*-* {clinic.backup.differential}",
            "practice-backup@diff.service",
            "A differential backup every day",
        ),
        "practice-verify": ("BAK-11", "Wed *-*-* 03:10", "practice-verify.service", "All backups read and compared every week"),
        "practice-drill": ("BAK-13", f"*-*-* {quiet(clinic)}", "practice-drill.service", "The newest backup restored on trial every night"),
        "practice-watch": ("BAK-08", "*-*-* *:00/15", "practice-watch.service", "A look every 15 minutes whether anything needs a person"),
    }
    for name, (claim, calendar, unit, description) in schedule.items():
        kit.config_file(
            name=f"{claim} {description[0].lower()}{description[1:]}",
            dest=f"{SYSTEMD}/{name}.timer",
            template="backup/timer.j2",
            calendar=f"{calendar}:{second}",
            unit=unit,
            description=description,
            # It looks also while the volume is closed.
            volume=name != "practice-watch",
        )
    run = [f"{name}.timer" for name in schedule]
    known = [*run, *(unit for _, _, unit, _ in schedule.values()), "practice-alarm@x.service"]
    kit.timers_run("BAK-01 BAK-07 BAK-08 BAK-11 BAK-13 let them run", run, known)


def quiet(clinic: Clinic) -> str:
    """When at night the drill begins: it follows from the server's name, and keeps away from the backups."""
    times = [when[-5:].split(":") for when in (clinic.backup.full, clinic.backup.differential)]
    backups = [int(hour) * 60 + int(minute) for hour, minute in times]
    free = [
        minute
        for minute in (60 * hour + minute for hour in NIGHT_HOURS for minute in range(60))
        if all(abs(minute - backup) >= APART_MINUTES for backup in backups)
    ]
    chosen = free[int(hashlib.sha256(f"drill {clinic.hostname}".encode()).hexdigest(), 16) % len(free)]
    return f"{chosen // 60:02}:{chosen % 60:02}"
