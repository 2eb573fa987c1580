"""raid: two disks that hold the same, beneath the encrypted volume, where the clinic file names two; roles/storage.py calls it.

Changes from Debian defaults: no array but ours is put together, and none before the root file system is there; Debian's own monthly
check, whose result nobody reads, gives way to one that raises an alarm.
"""

from __future__ import annotations

import json

from kit import operations as kit
from kit.sections import Storage

# Not among the packages of all servers: it changes how a server boots.
WANTED = ["mdadm"]

# By the name in the array itself, whatever the kernel calls it and whichever disk is there.
ARRAY = "/dev/disk/by-id/md-name-any:cabinet-data"
MDADM = "/etc/mdadm/mdadm.conf"
CONFIG = "/etc/cabinet/mirror.json"
SCRIPTS = "/usr/local/lib/cabinet"
SYSTEMD = "/etc/systemd/system"
TIMER, SERVICE = "practice-mirror.timer", "practice-mirror.service"
DEBIANS = ("mdcheck_start.timer", "mdcheck_continue.timer")
OTHERS = (
    f"! grep -qs '^ARRAY [^<]' {MDADM} || {{ echo 'storage: this server has an array of its own ({MDADM}), perhaps the one that it boots "
    "from. Nothing was changed. Together with it there can be no mirror yet: take storage.mirror out of the clinic file.' >&2; exit 1; }"
)


def described() -> None:
    """What mdadm leaves alone. Before the package is installed: its first initramfs takes along what lies there."""
    kit.config_file(name="BASE put no array together while booting", dest=MDADM, src="storage/mdadm.conf", check=OTHERS)


def mirrored(storage: Storage) -> None:
    """The array of the clinic's two disks, and who watches it."""
    assert storage.mirror is not None
    initrd = "/boot/initrd.img-$(uname -r)"
    kit.script(
        name="STO-17 leave the array to systemd, which starts it although a disk is missing",
        unless=f"! test -e {initrd} || test {initrd} -nt {MDADM}",
        run="update-initramfs -u",
    )
    for script in ("mirror-volume", "mirror-event"):
        kit.config_file(name=f"STO-16 {script}", dest=f"{SCRIPTS}/{script}", src=f"storage/{script}", check=kit.PARSES, mode="755")
    disks = " ".join(f"{disk.disk} {disk.wipe or '-'}" for disk in (storage, storage.mirror))
    kit.script(
        name=f"STO-16 STO-09 mirror the disks {' and '.join(storage.disks)}, each if it is provably blank",
        unless=f"{SCRIPTS}/mirror-volume --check {disks}",
        run=f"{SCRIPTS}/mirror-volume {disks}",
    )
    kit.config_file(name="STO-17 say which disks there should be", dest=CONFIG, content=json.dumps({"disks": storage.disks}) + "\n")
    kit.unit(name="STO-17 hear at once of a disk that fails", unit="mdmonitor.service", config=[MDADM, f"{MDADM}.d"])


def compared() -> None:
    """Once a month, and read by somebody; by a timer that waits for the volume, so only once that is there."""
    kit.script(
        name="STO-18 one check, ours",
        unless=f'test "$(systemctl is-enabled {" ".join(DEBIANS)} | sort -u)" = masked',
        # Stopped first: a timer that is masked while it waits has failed.
        run=f"systemctl stop {' '.join(DEBIANS)}\nsystemctl --quiet --root=/ mask {' '.join(DEBIANS)}",
    )
    for unit in (TIMER, SERVICE):
        kit.config_file(name=f"STO-18 {unit}", dest=f"{SYSTEMD}/{unit}", src=f"storage/{unit}")
    kit.timers_run("STO-18 compare the two disks every month", (TIMER,), (TIMER, SERVICE))
