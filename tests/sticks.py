"""Media for a server in a place: loop devices of the test's own, which lsblk calls disks.

Not every kernel that runs this has a device mapper. So `cryptsetup open` asks the real one whether the password opens the medium, and
then shows what lies behind its header by a second loop device, unencrypted; all else is as on a server.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from typing import Self

from kit.paths import ROOT
from kit.place import Place

MIB = 1 << 20
KEY = "/var/lib/cabinet/secrets/backup-passphrase"
# Loop devices are the whole machine's: these are ours.
STICKS = f"/run/sticks-{os.getpid()}"
# Devices of our own: what happens here, the machine's /dev never sees. lsblk asks udev's notes for a serial number.
DEVICES = r"""set -eu
mount -t sysfs sys /sys && umount --lazy /dev && mount -t tmpfs -o dev dev /dev && mkdir -p /dev/mapper /dev/disk/by-uuid /run/udev/data
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 /dev/${node%:*} c 1 ${node#*:}; done
mknod /dev/loop-control c 10 237
number=0; while [ $number -lt 32 ]; do mknod /dev/loop$number b 7 $number; number=$((number + 1)); done
mkdir -m 1777 /dev/shm
"""
CRYPTSETUP = r"""#!/bin/sh
set -eu
case $1 in
open)
    eval "name=\${$#}" "device=\${$(($# - 1))}"
    /usr/sbin/cryptsetup open --test-passphrase --key-file /var/lib/cabinet/secrets/backup-passphrase "$device"
    offset=$(/usr/sbin/cryptsetup luksDump "$device" | awk '$1 == "offset:" { print $2; exit }')
    ln -s "$(losetup --find --show --offset "$offset" "$device")" /dev/mapper/$name ;;
close)
    eval "name=\${$#}"
    losetup --detach "$(readlink /dev/mapper/$name)"
    rm /dev/mapper/$name ;;
*) exec /usr/sbin/cryptsetup "$@" ;;
esac
"""
DMSETUP = """#!/bin/sh
shift; exec cryptsetup close "$@"
"""
# Here a loop device is a disk.
LSBLK = r"""#!/bin/sh
/usr/bin/lsblk "$@" | sed 's/ loop\( \|$\)/ disk\1/; s/"loop"/"disk"/'
"""


@dataclass
class Sticks:
    """A server, and what is plugged into it."""

    place: Place

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """What a line of shell does there."""
        words = self.place.inside(f"export PATH=/opt/instead:$PATH:/usr/local/bin\n{command}")
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def done(self, command: str) -> str:
        """What it prints, when it must succeed."""
        done = self.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def medium(self, serial: str, size: int = 256 * MIB, carries: str = "") -> str:
        """A blank one is plugged in, or one that `carries` something; what the kernel calls it."""
        self.done(f"mkdir -p {STICKS}; truncate -s {size} {STICKS}/{serial}; {carries.format(disk=f'{STICKS}/{serial}')}")
        return self.plug(serial)

    def plug(self, serial: str) -> str:
        """The medium of that serial number is plugged in."""
        path = self.done(f"losetup --find --show {STICKS}/{serial}")
        number = path.removeprefix("/dev/loop")
        self.done(f"printf 'I:1\\nE:ID_SERIAL_SHORT={serial}\\n' >/run/udev/data/b7:{number}")
        self.done(f"uuid=$(cryptsetup luksUUID {path} 2>/dev/null) && ln -sf {path} /dev/disk/by-uuid/$uuid || true")
        return path.removeprefix("/dev/")

    def pull(self, name: str) -> None:
        """It is not there any more."""
        self.done(f"losetup --detach /dev/{name}; rm -f /run/udev/data/b7:{name.removeprefix('loop')}")

    def __enter__(self) -> Self:
        """It has such devices, and the programs that see them."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(ROOT / "files/storage/format-volume", "usr/local/lib/cabinet/format-volume")
            for program, text in (("cryptsetup", CRYPTSETUP), ("dmsetup", DMSETUP), ("lsblk", LSBLK)):
                entry = tarfile.TarInfo(f"opt/instead/{program}")
                entry.size, entry.mode = len(text), 0o755
                tar.addfile(entry, io.BytesIO(text.encode()))
        subprocess.run(self.place.inside("tar -x -C / -f -"), input=archive.getvalue(), check=True)
        self.done(DEVICES)
        return self

    def __exit__(self, *_: object) -> None:
        """None is left: loop devices outlive the place."""
        ours = f"$(losetup -nO NAME,BACK-FILE | awk '$2 ~ \"^{STICKS}/\" {{ print $1 }}')"
        self.run(
            f"umount --lazy /run/cabinet/media\nfor outer in {ours}; do "
            "losetup -nO NAME -j $outer | xargs -r losetup --detach; losetup --detach $outer; done"
        )
