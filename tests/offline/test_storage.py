"""storage, without a machine: how keys are typed, and the table of directories."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import pytest

from kit.paths import ROOT
from practice import unlock
from practice.unlock import spelled
from roles.storage import DIRECTORIES, escaped

KEY = "-".join(["cbdefghi", "jklnrtuv"] * 4)


@pytest.mark.parametrize("typed", [KEY, KEY.upper(), KEY.replace("-", ""), f"  {KEY.replace('-', ' ')} ", KEY.replace("-", "- ")])
def test_a_recovery_key_may_be_typed_in_any_way(typed: str) -> None:
    """Dashes, spaces and capitals of a key that is read from paper do not matter."""
    assert spelled(typed) == KEY


@pytest.mark.parametrize("passphrase", ["correct horse-battery", KEY[:-1], KEY + "c", KEY[:-1] + "a", "", " x "])
def test_what_is_no_recovery_key_is_taken_as_it_is(passphrase: str) -> None:
    """Any other secret may mean its spaces."""
    assert spelled(passphrase) == passphrase


def test_no_directory_lies_in_another() -> None:
    """A mount within a mount would be hidden, or mounted in the wrong order."""
    assert [(outer, inner) for outer in DIRECTORIES for inner in DIRECTORIES if inner.startswith(f"{outer}/")] == []


def test_mount_units_are_named_as_systemd_wants() -> None:
    """A unit whose name is not its path is refused."""
    assert escaped("/var/lib/postgresql") == "var-lib-postgresql"
    assert escaped("/srv/x-y") == r"srv-x\x2dy"


def ran(home: Path, script: str, *words: str, **instead: str) -> subprocess.CompletedProcess[str]:
    """One of our scripts, where all that it reads and writes lies in `home`, and these lines of shell stand for programs or scripts."""
    text = (ROOT / "files" / script).read_text()
    text = re.sub(r"(?<![\w/$])/(?=(etc|run|sys|dev/disk|usr/local/lib/cabinet)/)", f"{home}/", text)
    for name, lines in instead.items():
        for directory in ("bin", "usr/local/lib/cabinet"):
            program = home / directory / name.replace("_", "-")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{lines}\n")
            program.chmod(0o755)
    environment = {"PATH": f"{home}/bin:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-s", "--", *words], input=text, env=environment, capture_output=True, text=True, check=False)


# A disk with a damaged header, as format-volume sees it: nothing that is known, and yet it is not blank.
DAMAGED = {"blockdev": "echo 1048576", "cryptsetup": "false", "blkid": "true", "wipefs": "true", "python3": "echo 1025"}


@pytest.mark.parametrize(("noted", "wiped"), [("disk1\n", True), ("disk1\ndisk\n", False)])
def test_a_volume_that_was_finished_is_not_wiped_when_its_header_is_damaged(noted: str, wiped: bool, tmp_path: Path) -> None:
    """By a `wipe` that was forgotten in the clinic file. Control: a disk that was never ours is."""
    (tmp_path / "etc/cabinet").mkdir(parents=True)
    (tmp_path / "etc/cabinet/formed").write_text(noted)
    done = ran(tmp_path, "storage/format-volume", "--check", "disk", "tpm2", "disk", lsblk="echo /dev/vdb disk", **DAMAGED)
    assert (done.stdout, done.returncode) == (("named\n", 0) if wiped else ("", 1)), done
    assert wiped or "byte 1025 is not zero" in done.stderr and f"take its line out of {tmp_path}/etc/cabinet/formed, and" in done.stderr


@pytest.mark.parametrize(
    ("formed", "begun", "wiped"),
    [("", "", True), ("disk1\n", "", True), ("disk\n", "", False), ("disk\n", "disk1\n", False), ("disk\n", "disk\n", True)],
)
def test_a_backup_disk_that_was_finished_is_not_wiped_when_its_superblock_is_damaged(
    formed: str, begun: str, wiped: bool, tmp_path: Path
) -> None:
    """Nor is it noted as one that was only begun; what was cut off in the middle of being made anew is made."""
    (tmp_path / "etc/cabinet").mkdir(parents=True)
    (tmp_path / "etc/cabinet/formed-backup").write_text(formed)
    (tmp_path / "etc/cabinet/forming-backup").write_text(begun)
    done = ran(tmp_path, "storage/format-volume", "--check", "disk", "none", "", lsblk="echo /dev/vdb disk", **DAMAGED)
    assert done.returncode == 1 and "To give this disk to Cabinet" in done.stderr, "control: it is refused where nothing names it"
    refuses = f"[ \"$4\" = disk ] && echo named || {{ echo '{done.stderr.splitlines()[-1]}' >&2; exit 1; }}"
    made = {"mkfs.ext4": f"echo made >>{tmp_path}/made", "udevadm": "true", "wipefs": "true", "blkid": "true", "sync": "true"}
    done = ran(tmp_path, "backup/format-disk", "disk", "uuid", "disk", lsblk="echo /dev/vdb disk", format_volume=refuses, **made)
    assert ((tmp_path / "made").exists(), done.returncode) == ((True, 0) if wiped else (False, 1)), done
    assert wiped or "`e2fsck -b 32768 /dev/vdb` may find all of it. To lose it, take its line out of" in done.stderr
    noted = (tmp_path / "etc/cabinet/formed-backup").read_text().splitlines()
    assert noted.count("disk") == 1 and (tmp_path / "etc/cabinet/forming-backup").exists() is not wiped


BY_SERIAL = {
    str(path.relative_to(ROOT)): program
    for path in sorted((ROOT / "files").rglob("*-*"))
    if path.is_file()
    for program in re.findall(r"awk -v serial=\S+ '[^']*print \$1 }'", path.read_text())
}


@pytest.mark.parametrize("serial", ["0123", "12345678901234567", "1e3"])
@pytest.mark.parametrize("program", BY_SERIAL.values(), ids=BY_SERIAL)
def test_a_disk_is_the_one_whose_serial_number_has_the_same_letters(program: str, serial: str) -> None:
    """Not one that is the same as a number: the disk beside it would be formatted while the right one is unplugged."""
    beside = {"0123": "123", "12345678901234567": "12345678901234568", "1e3": "1000"}[serial]
    there = f"/dev/vda {beside}\n/dev/vdb {serial}\n/dev/vdc\n"
    done = subprocess.run(["sh", "-c", f"serial=$1; {program}", "sh", serial], input=there, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["/dev/vdb"]


@pytest.mark.parametrize("broken", [None, "settle-volume", "timers.target"])
def test_what_waited_for_the_volume_starts_in_its_order(
    broken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database before the timers, which make up at once for what was missed; then media, and the watch last. What fails is named."""
    done: list[str] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        done.append(" ".join(argv))
        return subprocess.CompletedProcess(argv, int(broken is not None and broken in done[-1]), "", "")

    monkeypatch.setattr(unlock, "MAPPING", tmp_path)
    monkeypatch.setattr(unlock.os, "geteuid", lambda: 0)
    monkeypatch.setattr(unlock.subprocess, "run", run)
    steps = [
        unlock.SETTLE,
        "systemctl start default.target multi-user.target timers.target",
        "systemctl start --all --no-block practice-media@*.service",
        "systemctl start practice-watch.service",
    ]
    last = next((number for number, step in enumerate(steps, 1) if broken and broken in step), len(steps))
    assert unlock.main(argparse.Namespace()) == (1 if broken else 0)
    assert [command for command in done if "list-dependencies" not in command] == steps[:last]
    assert (broken or "") in capsys.readouterr().err
