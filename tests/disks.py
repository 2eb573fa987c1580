"""The disks of the mirror: which is which, what lies on each, and how the VM loses one and gets another."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

from testinfra.host import Host

from kit.host import capture
from kit.vm import Machine
from roles.raid import ARRAY
from tests.claims.test_backup import alarms

DOMAIN = "practice"  # the machine that has a mirror
# mdadm takes no name of more than 31 letters.
NODE = f"$(readlink -f {ARRAY})"
MD = f"/sys/class/block/$(basename $(readlink -f {ARRAY}))/md"
# Where a file's first block lies below the encryption, in blocks; then what is there on each disk, and what a reader of the file gets.
ALIKE = f"""
set -eu
file=/data/.alike
head -c 4096 /dev/zero | tr '\\0' x | sed 's/^x*/'"$marker"'&/' | head -c 4096 >$file
sync $file; sync --file-system /data
block=$(filefrag -b4096 -v $file | awk '$1 == "0:" {{ print $4 + 0 }}')
block=$((block + $(dmsetup table /dev/mapper/data | awk '{{ print $8 }}') / 8))
for disk in {MD}/dev-*; do
    dd if=/dev/${{disk##*/dev-}} bs=4096 skip=$((block + $(cat $disk/offset) / 8)) count=1 iflag=direct status=none | sha256sum | cut -c -64
done
sha256sum <$file | cut -c -64
rm $file
"""


def member(host: Host, serial: str) -> str:
    """What the kernel calls the disk with this serial number now."""
    return host.check_output(f"lsblk -dnrpo NAME,SERIAL | awk '$2 == \"{serial}\" {{ print $1 }}'")


def whole(host: Host, seconds: int = 120) -> bool:
    """Whether both disks work, once whichever was away is filled."""
    done = f"[ $(cat {MD}/degraded) = 0 ] && [ $(cat {MD}/sync_action) = idle ]"
    return host.run(f"end=$(($(date +%s) + {seconds})); until {done}; do [ $(date +%s) -lt $end ] || exit 1; sleep 0.3; done").rc == 0


def healthy(host: Host) -> bool:
    """Whether both disks work and no alarm says otherwise; of what was mended a moment ago one stands until somebody looks."""
    filled = whole(host)
    host.check_output("systemctl restart practice-watch.service")
    return filled and "mirror" not in alarms(host)


def alike(host: Host, marker: str) -> tuple[str, str, str]:
    """A file is written; checksums of the block that holds it, on each of the two disks, and of what it says."""
    first, second, through = host.check_output(f"marker={marker}\n{ALIKE}").split()
    return first, second, through


def virsh(*words: str) -> str:
    """Libvirt's answer about the VM."""
    return capture(["virsh", "--connect", "qemu:///session", *words], runner=True, show=False)


def plugged(serial: str) -> str:
    """The disk with this serial number, as `plug` wants it; empty when there is none in the VM."""
    found = ET.fromstring(virsh("dumpxml", DOMAIN, "--inactive"))
    return "".join(plain(disk) for disk in found.iter("disk") if disk.findtext("serial") == serial)


def pull(vm: Machine, serial: str) -> None:
    """The disk with this serial number is taken out, whether the VM runs or not."""
    virsh("detach-device", DOMAIN, file_of(vm, serial, plugged(serial)), *now_and_later(vm))


def plug(vm: Machine, serial: str, described: str) -> None:
    """A disk is put in, whether the VM runs or not."""
    virsh("attach-device", DOMAIN, file_of(vm, serial, described), *now_and_later(vm))


def now_and_later(vm: Machine) -> list[str]:
    """How libvirt says: at once, and also after the next start."""
    return ["--config", *(["--live"] if vm.running() else [])]


def blank_like(vm: Machine, described: str, serial: str) -> str:
    """A new disk, never used, as large as the described one; its description."""
    disk = ET.fromstring(described)
    source = disk.find("source")
    assert source is not None
    path = f"{vm.state}/disks/story-{serial}.qcow2"
    # -U: the VM has the described one open.
    size = json.loads(capture(["qemu-img", "info", "-U", "--output=json", source.attrib["file"]], runner=True, show=False))["virtual-size"]
    capture(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], runner=True, show=False)
    source.set("file", path)
    (name,) = disk.iter("serial")
    name.text = serial
    return plain(disk)


def plain(disk: ET.Element) -> str:
    """The disk without what libvirt has made up: where it sat on the bus, and what it is called there."""
    for tag in ("alias", "address", "backingStore"):
        for found in disk.findall(tag):
            disk.remove(found)
    return re.sub(r" index=.\d+.", "", ET.tostring(disk, encoding="unicode"))


def file_of(vm: Machine, serial: str, described: str) -> str:
    """A file that libvirt reads it from."""
    path = vm.state / "run" / f"disk-{serial}.xml"
    path.write_text(described)
    path.chmod(0o644)
    return str(path)
