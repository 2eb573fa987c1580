"""media: what is plugged in is written if it is ours, left alone if not, and missed when it is not there.

Debian's kernel for virtual machines knows no USB. Its scsi_debug is a disk in memory that appears and is gone at a word, which the
kernel tells udev as it does of a stick; what was written to it stays until the module goes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from kit.neighbour import Neighbour
from kit.vm import Machine
from roles.media import CONFIG, PASSWORD, REGISTRY, RULE, SERVICE, SYSTEMD
from tests.claim import claim
from tests.claims.test_alarm import QUIET
from tests.claims.test_backup import alarms, eventually
from tests.postbox import postbox

PATIENT = "Nadia Bouzid, hepatitis"
DRIVER = "/sys/bus/pseudo/drivers/scsi_debug"
KINDS = {"database", "changes", "documents", "configuration", "system"}
# By itself udev looks at its rules every three seconds at most.
AT_ONCE = "udevadm control --reload"
CLOSED = "[ ! -e /dev/mapper/cabinet-media ]"
# How the subject of the mail ends that says it.
WRITTEN = "is written and read back."


@dataclass
class Stick:
    """A medium that can be plugged in and pulled out."""

    host: Host
    name: str = ""

    def make(self, megabytes: int = 192) -> None:
        """There is a blank one of this size, not plugged in; what the server knew of others is gone."""
        # The last: its serial number stays the same.
        options = f"add_host=0 dev_size_mb={megabytes} removable=1 delay=0 vpd_use_hostno=0"
        self.host.check_output(f"rm -f {REGISTRY}; modprobe -r scsi_debug; modprobe scsi_debug {options}")

    def forget(self) -> None:
        """There is none, whatever was being done to it, and the server knows of none."""
        self.host.run(f"systemctl kill --signal=KILL 'practice-media@*'; echo -1 >{DRIVER}/add_host; udevadm settle")
        self.host.run("cryptsetup close cabinet-media; for i in $(seq 20); do modprobe -r scsi_debug && break; sleep 0.5; done")
        self.host.run(f"rm -f {REGISTRY}")
        self.host.run("systemctl reset-failed 'practice-media@*'; systemctl start --no-block practice-watch.service")

    def plug(self) -> None:
        """It is plugged in; udev has seen it."""
        disk = f"{DRIVER}/adapter*/host*/target*/*/block/*"
        appears = f"for i in $(seq 50); do ls -d {disk} >/dev/null 2>&1 && break; sleep 0.2; done; udevadm settle"
        self.name = self.host.check_output(f"echo 1 >{DRIVER}/add_host; {appears}; basename {disk}")

    def pull(self) -> None:
        """It is not there any more, whatever was being done to it."""
        self.host.check_output(f"[ $(cat {DRIVER}/add_host) = 0 ] || echo -1 >{DRIVER}/add_host; udevadm settle")

    @property
    def unit(self) -> str:
        """The service that looks at it."""
        return SERVICE.replace("@", f"@{self.name}")

    def looked_at(self) -> None:
        """Wait until the service has come to its end; when none begins within ten seconds, none will."""
        # Its processes' group: whoever asks systemd twice a second takes the processor from it.
        self.host.check_output(
            f"begun=; for i in $(seq 600); do if [ -d /sys/fs/cgroup/system.slice/{self.unit} ]; then begun=1; "
            "elif [ $begun ] || [ $i -gt 20 ]; then break; fi; sleep 0.5; done"
        )

    def pulled_out_while_written(self) -> None:
        """It is plugged in, and gone while restic writes: the service ends, nothing stays open, and that is an alarm."""
        self.plug()
        assert eventually(self.host, "pgrep -x restic", 60), "control: nothing is being written"
        self.pull()
        ended = f"[ $(systemctl show -P ActiveState {self.unit}) != activating ]"
        assert eventually(self.host, ended, 20), "the service still runs, although its medium is gone"
        assert eventually(self.host, CLOSED, 5), "the medium is gone, and still open"
        assert "pulled out" in self.noted()["error"]["why"]
        assert eventually(self.host, "practice alarm list | grep -q media-failed"), "no alarm although it was pulled out"

    def noted(self) -> dict:
        """What the server knows of it."""
        (medium,) = json.loads(self.host.check_output(f"cat {REGISTRY}"))["media"].values()
        return medium

    def written(self) -> str:
        """How many sectors of it were written since it was plugged in."""
        return self.host.check_output(f"awk '{{ print $7 }}' /sys/class/block/{self.name}/stat")

    def asked(self, *questions: str) -> list[str]:
        """What restic answers, opened by nothing but the password."""
        restic = f"restic --no-lock --no-cache -q -r /mnt/restic --password-file {PASSWORD}"
        script = [
            f"set -e; trap 'umount /mnt; cryptsetup close probe' EXIT; cryptsetup open --key-file {PASSWORD} /dev/{self.name} probe",
            "mount -o ro /dev/mapper/probe /mnt",
            *(f"{restic} {question}; printf '\\1'" for question in questions),
        ]
        return self.host.check_output("\n".join(script)).split("\1")[: len(questions)]


@pytest.fixture(scope="module")
def stick(pytestconfig: pytest.Config, host: Host, clinic: Clinic) -> Iterator[Stick]:
    """The medium of the first of the clinic's days, made once and written once; what the server knew of others is gone."""
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test plugs a disk in and out: it runs on the VM alone. On this server: sudo practice media", pytrace=False)
    assert clinic.media is not None
    stick = Stick(host)
    stick.make()
    try:
        stick.plug()
        host.check_output(f"practice media enrol {clinic.media.days[0]} /dev/{stick.name}")
        stick.looked_at()
        yield stick
    finally:
        stick.forget()


def nothing_looks(host: Host) -> None:
    host.check_output(f"rm {RULE} && {AT_ONCE}")


@claim("MED-01", broken_by=nothing_looks, symptom="nothing was written")
def test_what_is_plugged_in_is_written_and_can_be_taken_out(
    host: Host, vm: Machine, inside: Neighbour, clinic: Clinic, stick: Stick
) -> None:
    """It is closed again, and the server says so, writes so, and beeps. All is there, and was; without the password no word of it is."""
    before, beeps = len(stick.noted()["copies"]), vm.serial_log().count("\a")
    held = {snapshot["id"] for snapshot in json.loads(*stick.asked("snapshots --json"))}
    host.check_output(f"{QUIET}; echo {shlex.quote(PATIENT)} >/srv/probe")
    try:
        with postbox(inside) as box:
            stick.pull()
            stick.plug()
            stick.looked_at()
            medium = stick.noted()
            assert len(medium["copies"]) == before + 1 and "error" not in medium, f"nothing was written: {medium}"
            told = box.wait("mail", len(clinic.alarm.mail.to), subject=WRITTEN)
    finally:
        host.check_output("rm /srv/probe")
    assert sorted(to for mail in told for to in mail["to"]) == sorted(clinic.alarm.mail.to), "no mail says that it can be taken out"
    assert {mail["headers"]["Subject"].rpartition("] ")[2] for mail in told} == {f"done: The medium of {medium['weekday']} {WRITTEN}"}
    assert vm.serial_log().count("\a") > beeps, "the console did not beep"
    assert "you can take out the medium" in host.run("practice media").stdout and host.run(CLOSED).rc == 0
    snapshots, document = stick.asked("snapshots --json", "dump latest --tag documents /srv/probe")
    assert {snapshot["tags"][0] for snapshot in json.loads(snapshots)} == KINDS
    assert held - {snapshot["id"] for snapshot in json.loads(snapshots)} == set(), "what it held before is gone"
    assert held != set(), "control: it held something"
    assert document.strip() == PATIENT, "control: it is there"
    assert host.check_output(f"blkid -p -o value -s TYPE /dev/{stick.name}") == "crypto_LUKS"
    assert host.run(f"LC_ALL=C grep -qaE 'Bouzid|backup.info' /dev/{stick.name}").rc == 1, "it can be read without the password"
    assert host.check_output(f"stat -c '%a %U' {PASSWORD}; findmnt -no TARGET -T {PASSWORD}").split()[:2] == ["600", "root"]


def every_device_is_written_to(host: Host) -> None:
    write = "/usr/bin/dd if=/dev/zero of=$devnode bs=1M seek=8 count=1 conv=fsync"  # into a hole of the header
    host.check_output(f"echo 'ACTION==\"add\", KERNEL==\"sd*\", SUBSYSTEM==\"block\", RUN+=\"{write}\"' >>{RULE} && {AT_ONCE}")


@claim("MED-02", broken_by=every_device_is_written_to, symptom="was written to")
def test_what_is_not_ours_is_left_alone(host: Host, clinic: Clinic, stick: Stick) -> None:
    """A medium that this server has not made is noted, and neither opened nor written, nor made a medium unless it is named exactly."""
    stick.pull()
    host.check_output(f"mv {REGISTRY} {REGISTRY}.aside")
    try:
        stick.plug()
        stick.looked_at()
        assert stick.written() == "0", f"an unknown device was written to: {stick.written()} sectors"
        assert host.run(CLOSED).rc == 0 and f"/dev/{stick.name} " in host.run("practice media").stdout
        refused = {
            words: host.run(f"practice media enrol monday {words}")
            for words in (f"/dev/{stick.name}", f"/dev/{stick.name} --wipe 1", f"{clinic.storage.disk} --wipe {clinic.storage.disk}")
        }
        assert [words for words, said in refused.items() if said.rc != 1] == []
        assert "is not blank" in refused[f"/dev/{stick.name}"].stderr, refused
        assert stick.written() == "0", f"what was refused was written to: {stick.written()} sectors"
    finally:
        host.check_output(f"mv {REGISTRY}.aside {REGISTRY}")


def no_day_has_a_medium(host: Host) -> None:
    host.check_output(f"sed -i 's/\"days\": [^]]*]/\"days\": []/' {CONFIG}")


@claim("MED-03", broken_by=no_day_has_a_medium, symptom="no alarm")
def test_a_medium_that_is_not_plugged_in_is_missed(host: Host, clinic: Clinic, stick: Stick) -> None:
    """Asked for long ago and never seen: an alarm at the next look. Written, there is none."""
    day = clinic.media.days[0]
    host.check_output(f"mv {REGISTRY} {REGISTRY}.aside; touch -d '30 days ago' {CONFIG}; systemctl restart practice-watch.service")
    try:
        assert f"media:{day}" in alarms(host), f"no alarm although {day} has no medium"
    finally:
        host.check_output(f"mv {REGISTRY}.aside {REGISTRY}; systemctl restart practice-watch.service; touch {CONFIG}")
    assert f"media:{day}" not in alarms(host), "the alarm stays although the medium was written"


def nobody_notices(host: Host) -> None:
    host.check_output(f"sed -i '/^BindsTo=/d' {SYSTEMD}/{SERVICE} && systemctl daemon-reload")


@claim("MED-04", broken_by=nobody_notices, symptom="still runs")
def test_a_medium_that_is_pulled_out_is_finished_the_next_time(host: Host, stick: Stick) -> None:
    """While restic writes it is gone: that is an alarm, and nothing stays open. Plugged in again all is well, and what it held is there."""
    held = stick.noted()
    stick.pull()
    try:
        # So much that can't be compressed takes restic seconds.
        host.check_output("head -c 32M /dev/urandom >/srv/probe")
        stick.pulled_out_while_written()
    finally:
        host.run(f"systemctl kill --signal=KILL {stick.unit}; systemctl stop {stick.unit}; {CLOSED} || cryptsetup close cabinet-media")
        host.run("rm -f /srv/probe")
    stick.plug()
    stick.looked_at()
    medium = stick.noted()
    assert "error" not in medium and len(medium["copies"]) == len(held["copies"]) + 1, f"it was not finished: {medium}"
    there = {snapshot["id"] for snapshot in json.loads(stick.asked("snapshots --json")[0])}
    assert [copy["id"] for copy in held["sent"].values() if copy["id"] not in there] == [], "what it held is gone"
    host.check_output("systemctl restart practice-watch.service")
    assert "media-failed" not in alarms(host)
