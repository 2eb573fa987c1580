"""media: one external medium per working day is written when it is plugged in, read back, and missed when it is not.

Claims: MED-01 to MED-04.  Changes from Debian defaults: restic; a rule of udev and a service that look at what is plugged in.

`practice media enrol` makes a medium ours; practice/medium.py is what happens to it.
"""

from __future__ import annotations

import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from roles.backup import PASSPHRASE

PACKAGES = ["cryptsetup-bin", "dmsetup", "e2fsprogs", "restic"]

CONFIG = "/etc/cabinet/media.json"
REGISTRY = "/var/lib/cabinet/media.json"
# It opens every medium, its encryption and the repository in it: the recovery kit has it already, and what is on the media are backups.
PASSWORD = PASSPHRASE
SYSTEMD = "/etc/systemd/system"
SERVICE = "practice-media@.service"
RULE = "/etc/udev/rules.d/90-cabinet-media.rules"


@deploy("media")
def media() -> None:
    """The days, and what looks at what is plugged in; without the section nothing is, and `practice status` says so."""
    clinic = this_clinic()
    if clinic.media is None:
        for path in (RULE, CONFIG):
            kit.absent(name="MED-01 write no media", path=path)
        return
    days(clinic)
    watched()


def days(clinic: Clinic) -> None:
    """Which days have a medium, and which disks are never one."""
    assert clinic.media is not None
    wanted = {"days": clinic.media.days, "never": [*clinic.storage.disks, clinic.backup.disk]}
    kit.config_file(name="MED-03 say which days have a medium", dest=CONFIG, content=json.dumps(wanted) + "\n")


def watched() -> None:
    """What looks at a device that appears. udev reads a rule that has changed by itself."""
    kit.config_file(name="MED-01 MED-04 what writes a medium", dest=f"{SYSTEMD}/{SERVICE}", src=f"media/{SERVICE}")
    instance = SERVICE.replace("@", "@x")
    kit.script(
        name="MED-04 let systemd know it",
        unless=f"! systemctl show -p LoadState,NeedDaemonReload {instance} | grep -qvx -e '' -e LoadState=loaded -e NeedDaemonReload=no",
        run=kit.reread(instance),
    )
    kit.config_file(
        name="MED-01 MED-02 look at what is plugged in, and start nothing else",
        dest=RULE,
        src="media/90-cabinet-media.rules",
    )
