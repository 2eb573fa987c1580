"""timers: when the server backs up, verifies and looks at itself, and what raises an alarm; roles/backup.py calls it.

Changes from Debian defaults: four timers and the services that they start.
"""

from __future__ import annotations

import hashlib
import json

from kit import operations as kit
from kit.clinic import Clinic

SYSTEMD = "/etc/systemd/system"


def services(home: str, stanza: str) -> None:
    """What the timers start, and what raises an alarm."""
    for unit in ("practice-backup@.service", "practice-verify.service"):
        kit.config_file(name=f"BAK-01 {unit}", dest=f"{SYSTEMD}/{unit}", template=f"backup/{unit}.j2", home=home, stanza=stanza)
    for unit in ("practice-alarm@.service", "practice-watch.service"):
        kit.config_file(name=f"BAK-07 {unit}", dest=f"{SYSTEMD}/{unit}", src=f"backup/{unit}")


def timers(clinic: Clinic) -> None:
    """When what runs."""
    kit.config_file(
        name="BAK-08 what the watch compares with",
        dest="/etc/cabinet/practice.json",
        content=json.dumps(
            {"practice": clinic.practice, "max_age_hours": clinic.backup.max_age_hours, "keep_days": clinic.backup.keep_days},
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
        )
    run = [f"{name}.timer" for name in schedule]
    known = [*run, *(unit for _, _, unit, _ in schedule.values()), "practice-alarm@x.service"]
    kit.timers_run("BAK-01 BAK-07 BAK-08 BAK-11 let them run", run, known)
