"""The medium is a disk at a USB port, under the kernel that a clinic's machine runs: Debian's kernel for virtual machines knows no USB."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from kit.host import capture
from kit.neighbour import Neighbour
from kit.vm import Machine
from roles.media import REGISTRY
from tests.claims.test_alarm import QUIET
from tests.claims.test_backup import alarms, eventually
from tests.claims.test_media import CLOSED, WRITTEN, Stick
from tests.disks import DOMAIN, file_of, member, virsh
from tests.helpers import power_cycled
from tests.postbox import postbox

SERIAL = "stick0"
DESCRIBED = """\
<disk type="file" device="disk">
  <driver name="qemu" type="qcow2" cache="unsafe"/><source file="{path}"/>
  <target dev="sda" bus="usb"/><serial>{serial}</serial>
</disk>
"""
# The VM's initramfs holds what its own kernel needs; this one needs more, and finds it by itself.
MODULES = "/etc/initramfs-tools/conf.d/zz-usb-story"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y"
# For one boot: the next one is the usual kernel's again.
ORDINARY = "$(ls /boot | sed -n 's/^vmlinuz-//p' | grep -v cloud)"
ONCE = (
    "root=$(findmnt -no UUID /) && version={ORDINARY} && test -n \"$version\" && "
    'grub-reboot "gnulinux-advanced-$root>gnulinux-$version-advanced-$root"'
).replace("{ORDINARY}", ORDINARY)


@dataclass
class UsbStick(Stick):
    """One that QEMU plugs into its USB controller, and pulls out while it is written."""

    vm: Machine = field(kw_only=True)
    described: str = ""

    def make(self, megabytes: int = 256) -> None:
        path = self.vm.state / "disks" / f"story-{SERIAL}.qcow2"
        capture(["qemu-img", "create", "-q", "-f", "qcow2", str(path), f"{megabytes}M"], runner=True, show=False)
        self.described = file_of(self.vm, SERIAL, DESCRIBED.format(path=path, serial=SERIAL))
        self.host.check_output(f"rm -f {REGISTRY}")

    def plug(self) -> None:
        virsh("attach-device", DOMAIN, self.described, "--live")
        assert eventually(self.host, f"lsblk -dnro SERIAL | grep -qx {SERIAL} && udevadm settle", 60), "control: no stick has appeared"
        self.name = member(self.host, SERIAL).removeprefix("/dev/")

    def pull(self) -> None:
        virsh("detach-device", DOMAIN, self.described, "--live")
        assert eventually(self.host, f"! lsblk -dnro SERIAL | grep -qx {SERIAL}", 60), "control: it is still there"

    def forget(self) -> None:
        if self.host.run(f"lsblk -dnro SERIAL | grep -qx {SERIAL}").rc == 0:
            self.pull()
        self.host.run("systemctl stop 'practice-media@*'; cryptsetup close cabinet-media")
        self.host.run(f"rm -f {REGISTRY} /srv/probe; systemctl reset-failed 'practice-media@*'; systemctl restart practice-watch.service")


@pytest.fixture
def stick(host: Host, vm: Machine) -> Iterator[UsbStick]:
    """A blank one, not plugged in, beside a server that runs the ordinary kernel; afterwards it runs the usual one alone."""
    before = host.check_output("uname -r")
    stick = UsbStick(host, vm=vm)
    try:
        host.check_output(f"echo MODULES=most >{MODULES}")
        installed = host.run(f"apt-get -q update && {APT} install --no-install-recommends linux-image-amd64", timeout=1800)
        assert installed.rc == 0, f"{installed.stdout[-2000:]}{installed.stderr[-2000:]}"
        host.check_output(ONCE)
        power_cycled(host, vm)
        assert host.check_output("uname -r") == host.check_output(f"echo {ORDINARY}") != before, "control: another kernel runs"
        stick.make()
        yield stick
    finally:
        stick.forget()
        power_cycled(host, vm)
        host.check_output(f"rm -f {MODULES}; {APT} purge linux-image-amd64 linux-image-{ORDINARY}")
        assert host.check_output("uname -r") == before


def test_a_stick_is_left_alone_enrolled_written_pulled_out_and_finished(
    host: Host, vm: Machine, inside: Neighbour, clinic: Clinic, stick: UsbStick
) -> None:
    """By the rule for the bus alone; and whoever stands there sees, hears and reads that it can be taken out."""
    assert clinic.media is not None and clinic.alarm is not None
    day = clinic.media.days[0]
    stick.plug()
    assert "ID_BUS=usb" in host.check_output(f"udevadm info -q property /dev/{stick.name}").splitlines(), "control: it is at a USB port"
    assert host.check_output(f"cat /sys/class/block/{stick.name}/removable") == "0", "control: it is a disk by all but its bus"
    stick.looked_at()
    assert stick.written() == "0" and "left alone on" in host.run("practice media").stdout, "a stranger's stick was written to"
    assert f"/dev/{stick.name} " in host.run(f"practice media enrol {day}").stdout, "it is not among those that could become a medium"

    beeps = vm.serial_log().count("\a")
    host.check_output(QUIET)
    with postbox(inside) as box:
        began = time.monotonic()
        host.check_output(f"practice media enrol {day} /dev/{stick.name}")
        stick.looked_at()
        print(f"\nenrolled, written, read back and closed after {time.monotonic() - began:.0f} s")
        mails = box.wait("mail", len(clinic.alarm.mail.to), subject=WRITTEN)
    medium = stick.noted()
    assert len(medium["copies"]) == 1 and "error" not in medium, f"nothing was written: {medium}"
    assert sorted(to for mail in mails for to in mail["to"]) == sorted(clinic.alarm.mail.to), "no mail says that it can be taken out"
    assert vm.serial_log().count("\a") > beeps, "the console did not beep"
    assert f"you can take out the medium of {day}" in host.run("practice media").stdout and host.run(CLOSED).rc == 0

    stick.pull()
    host.check_output("head -c 48M /dev/urandom >/srv/probe")
    stick.pulled_out_while_written()

    host.check_output("rm /srv/probe")
    stick.plug()
    stick.looked_at()
    medium = stick.noted()
    assert len(medium["copies"]) == 2 and "error" not in medium, f"it was not finished: {medium}"
    host.check_output("systemctl restart practice-watch.service")
    assert "media-failed" not in alarms(host)
