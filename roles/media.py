"""media: one external medium per working day is written when it is plugged in, read back, and missed when it is not.

Claims: MED-01 to MED-04.  Changes from Debian defaults: restic; a rule of udev and a service that look at what is plugged in.

`practice media enrol` makes a medium ours; practice/medium.py is what happens to it.
"""

from __future__ import annotations

import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic

PACKAGES = ["cryptsetup-bin", "e2fsprogs", "restic"]

CONFIG = "/etc/cabinet/media.json"
REGISTRY = "/var/lib/cabinet/media.json"
SECRETS = "/var/lib/cabinet/secrets"
# It opens every medium, its encryption and the repository in it: one line in the recovery kit.
PASSWORD = f"{SECRETS}/media-password"
SYSTEMD = "/etc/systemd/system"
SERVICE = "practice-media@.service"
RULE = "/etc/udev/rules.d/90-cabinet-media.rules"


@deploy("media")
def media() -> None:
    """The password, the days, and what looks at what is plugged in; without the section nothing is, and `practice status` says so."""
    clinic = this_clinic()
    if clinic.media is None:
        # The password stays: what was written by it lies in somebody's safe.
        for path in (RULE, CONFIG):
            kit.absent(name="MED-01 write no media", path=path)
        return
    password()
    days(clinic)
    watched()


def password() -> None:
    """Born here, once; the vendor never sees it."""
    kit.directory(name="MED-01 a place for secrets", path=SECRETS, mode="700")
    kit.script(
        name="MED-01 make the password of the media, once",
        unless=f"test -s {PASSWORD}",
        run=(
            f"if test -e {REGISTRY}; then echo 'Media were written, but their password {PASSWORD} is gone: "
            "put it back from the recovery kit, then deploy again.' >&2; exit 1; fi\n"
            f"umask 077; head -c 48 /dev/urandom | base64 -w 0 > {PASSWORD}.new; sync {PASSWORD}.new; mv {PASSWORD}.new {PASSWORD}"
        ),
    )
    kit.script(
        name="MED-01 close it to everybody else",
        unless=f"test \"$(stat -c '%a %U %G' {PASSWORD})\" = '600 root root'",
        run=f"chmod 600 {PASSWORD}; chown root:root {PASSWORD}",
    )


def days(clinic: Clinic) -> None:
    """Which days have a medium, and which disks are never one."""
    assert clinic.media is not None
    wanted = {"days": clinic.media.days, "never": [clinic.storage.disk, clinic.backup.disk]}
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
