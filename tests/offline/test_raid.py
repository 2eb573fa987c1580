"""The mirror as the server sees it, without a server: the kernel's words in a directory of the test's own."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from practice import mirror
from tests.offline.test_storage import ran

NOW = 1_800_000_000.0
DAY = 86400
BOTH = {"vdb": ("one", "in_sync"), "vdc": ("two", "in_sync")}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two disks are asked for, since yesterday; what the kernel says goes to the directory that is returned."""
    (tmp_path / "mirror.json").write_text('{"disks": ["one", "two"]}')
    os.utime(tmp_path / "mirror.json", (NOW - DAY, NOW - DAY))
    (tmp_path / "md127").touch()
    (tmp_path / "array").symlink_to(tmp_path / "md127")
    for name, path in {"CONFIG": "mirror.json", "COMPARED": "compared.json", "ARRAY": "array", "SYS": "sys"}.items():
        monkeypatch.setattr(mirror, name, tmp_path / path)
    return tmp_path / "sys/md127/md"


def says(kernel: Path, disks: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch, done: str = "none") -> None:
    """These are in the mirror: what the kernel calls each, its serial number, its state; and how far a filling is."""
    kernel.mkdir(parents=True)
    (kernel / "sync_completed").write_text(f"{done}\n")
    for name, (_, state) in disks.items():
        (kernel.parents[1] / name).mkdir()
        (kernel / f"dev-{name}").mkdir()
        (kernel / f"dev-{name}/state").write_text(f"{state}\n")
        (kernel / f"dev-{name}/block").symlink_to(kernel.parents[1] / name)
    listed = [{"name": name, "serial": serial} for name, (serial, _) in disks.items()] + [{"name": "vda", "serial": None}]
    monkeypatch.setattr(mirror, "run", lambda *words: json.dumps({"blockdevices": listed}))


@pytest.mark.parametrize(
    ("disks", "said"),
    [
        (BOTH, None),
        ({"vdb": ("one", "in_sync,write_error"), "vdc": ("two", "in_sync")}, None),
        ({"vdb": ("one", "in_sync")}, "the disk two is missing"),
        (BOTH | {"vdc": ("two", "faulty,write_error")}, "the disk two has failed"),
        (BOTH | {"vdc": ("two", "spare")}, "the disk two is being filled."),
        (BOTH | {"vdc": ("another", "in_sync")}, "the disk two is missing"),
    ],
)
def test_a_disk_that_does_not_hold_everything_is_named(
    disks: dict[str, tuple[str, str]], said: str | None, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two it is; and a third that nobody named is no comfort."""
    says(kernel, disks, monkeypatch)
    seen, wrong = mirror.look(NOW)
    assert list(wrong) == (["mirror"] if said else [])
    assert (said or "") in wrong.get("mirror", "")
    assert list(seen["disks"]) == ["one", "two"]


def test_a_mirror_that_does_not_run_lacks_both(kernel: Path) -> None:
    """Nothing is there that could be asked."""
    assert mirror.look(NOW)[1]["mirror"].count("is missing") == 2
    assert not kernel.exists(), "control: there was nothing"


def test_how_far_a_new_disk_is_filled(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever waits for it."""
    says(kernel, BOTH | {"vdc": ("two", "spare")}, monkeypatch, done="300 / 1200")
    assert mirror.describe(mirror.look(NOW)[0]) == "one works, two is being filled (25 %); not compared yet"


@pytest.mark.parametrize(
    ("found", "later", "said"),
    [
        ({}, 0, ""),
        ({}, 45, "were not compared"),
        ({"at": NOW, "differ": 0}, 44, ""),
        ({"at": NOW, "differ": 0}, 46, "were not compared"),
        ({"at": NOW + 400 * DAY, "differ": 0}, 45, "were not compared"),  # by a clock that was ahead: as none
        ({"at": NOW, "differ": 128}, 0, "differ in 128 sectors"),
    ],
)
def test_what_differs_or_is_not_compared(
    found: dict[str, float], later: int, said: str, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first comparison, time runs since the deploy that asked for it."""
    says(kernel, BOTH, monkeypatch)
    mirror.COMPARED.write_text(json.dumps(found))
    wrong = mirror.look(NOW + later * DAY)[1]
    assert (list(wrong), said in wrong.get("mirror-differs", "")) == (["mirror-differs"] if said else [], True)


def test_one_disk_is_all_that_was_asked_for(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then there is no line on the screen, and no alarm."""
    mirror.CONFIG.unlink()
    assert mirror.look(NOW) == ({}, {})
    assert (mirror.main(argparse.Namespace(compare=False)), "names no second one" in capsys.readouterr().out) == (0, True)


@pytest.mark.parametrize(("assembles", "says"), [("false", "could not be put together"), ("true", "does not say which one it is")])
def test_a_mirror_that_cannot_be_put_together_stays_described(assembles: str, says: str, tmp_path: Path) -> None:
    """Without that line no boot puts it together; an empty one in its place was the same as none."""
    listed = tmp_path / "etc/mdadm/mdadm.conf.d/cabinet.conf"
    listed.parent.mkdir(parents=True)
    line = "ARRAY /dev/md/cabinet-data metadata=1.2 UUID=aa:bb\n"
    listed.write_text(line)
    mdadm = f"case $1 in --examine) echo MD_NAME=any:cabinet-data; echo MD_UUID=aa:bb ;; --assemble) {assembles} ;; *) false ;; esac"
    there = r"printf '/dev/vdb one\n/dev/vdc two\n'"
    done = ran(tmp_path, "storage/mirror-volume", "one", "-", "two", "-", lsblk=there, mdadm=mdadm, udevadm="true", format_volume="false")
    assert listed.read_text() == line, done
    assert (done.returncode, says in done.stderr) == (1, True), done
