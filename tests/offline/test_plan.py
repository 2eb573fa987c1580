"""The plan: what pyinfra would do, on a server that is not there. Each claim has an operation in its role, each operation a claim."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from kit import plan
from kit.paths import ROOT
from kit.register import load_claims

# Plumbing: what no claim promises, but some claim stands on.
BASE = "BASE"


@pytest.fixture(scope="session")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[plan.FileChange]]:
    """A first deploy as pyinfra plans it, and what the operations tell; every fact finds an empty machine."""
    told = tmp_path_factory.mktemp("plan") / "told"
    argv = [sys.executable, "-m", "pyinfra", "@fake/practice", "--data", "clinic_file=clinics/vagrant.yaml", "deploy.py", "--dry", "--json"]
    environment = os.environ | {"PYINFRA_FAKE_DELAY": "0", "PYINFRA_FAKE_DELAY_JITTER": "0", plan.TOLD: str(told)}
    run = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), plan.read(Path(told))


@pytest.fixture(scope="session")
def planned(dry: tuple[dict[str, Any], list[plan.FileChange]]) -> list[tuple[str, str]]:
    """Role and name of each operation of a first deploy, in order."""
    names = [name for step in dry[0]["plan"] for name in step["names"]]
    return [(role, operation) for role, _, operation in (name.partition(" | ") for name in names)]


def test_every_claim_is_carried_out_by_its_role(planned: list[tuple[str, str]]) -> None:
    """A promise without an operation would be kept by chance."""
    # One atomic step may carry out several promises: its name then begins with all of their ids.
    carried_out = {(role, word) for role, operation in planned for word in takewhile(load_claims().__contains__, operation.split())}
    assert sorted(key for key, claim in load_claims().items() if (claim.role, key) not in carried_out) == []


def test_every_operation_serves_a_claim_or_is_plumbing(planned: list[tuple[str, str]]) -> None:
    """The id is the first word of an operation's name: whoever reads the plan knows which promise it keeps."""
    known = set(load_claims()) | {BASE}
    assert len(planned) > 10, "control: there is a plan"
    assert [f"{role} | {operation}" for role, operation in planned if operation.split(" ")[0] not in known] == []


def test_the_first_operation_is_the_bases(planned: list[tuple[str, str]]) -> None:
    """All packages are installed at once and without starting anything, before any role needs one."""
    assert planned[0][0] == "base"


# Not everybody may read them, and yet they have no word that a secret could stand behind.
SHOWN = {"/etc/sudoers", "/etc/ssh/sshd_config"}


def test_the_plan_is_told_no_text_that_not_everybody_may_read(dry: tuple[dict[str, Any], list[plan.FileChange]]) -> None:
    """What is secret is decided where the file is declared: by its mode, or by a word there."""
    readable = {file.path for file in dry[1] if file.wanted_rights and int(file.wanted_rights.split(" ")[0]) % 10 & 4 == 0}
    assert {"/etc/cabinet/people.json", "/etc/sudoers"} <= readable, "control: there are such files"
    assert {file.path for file in dry[1] if file.text is not None} & readable == SHOWN


def test_each_file_is_told_under_its_operation(dry: tuple[dict[str, Any], list[plan.FileChange]]) -> None:
    """Every name that is told is one of the plan, so that the diff stands where it belongs."""
    names = {step["name"] for step in dry[0]["plan"]}
    assert len(dry[1]) > 50, "control: files are told"
    assert sorted({file.operation for file in dry[1]} - names) == []


@pytest.fixture(scope="session")
def units(dry: tuple[dict[str, Any], list[plan.FileChange]]) -> dict[str, list[str]]:
    """The lines of each unit, and of each drop-in, by the name of its file."""
    return {Path(file.path).name: file.text.splitlines() for file in dry[1] if file.path.startswith("/etc/systemd/system/") and file.text}


def test_a_timer_waits_for_the_volume_as_its_service_does(units: dict[str, list[str]]) -> None:
    """A run in vain would count as one, and nobody would make up for it after the unlock; what watches a closed volume does not wait."""

    def service(timer: str) -> list[str]:
        named = [line.removeprefix("Unit=") for line in units[timer] if line.startswith("Unit=")] or [timer.replace(".timer", ".service")]
        return units[re.sub("@.*", "@.service", named[0])]

    waiting = {"Requires=practice-data.target", "After=practice-data.target"}
    needing = {"Requires=practice-data.target", "ConditionPathIsMountPoint=/var/lib/cabinet"}
    timers = [name for name in units if name.endswith(".timer")]
    waits = {timer: waiting <= set(units[timer]) for timer in timers}
    assert len(waits) > 10 and set(waits.values()) == {True, False}, "control: of both kinds there are some"
    assert waits == {timer: bool(needing & set(service(timer))) for timer in timers}
    assert "After=practice-locked.service" in units["practice-alarm@.service"], "it asks before it is said that the volume is locked"


def test_the_backup_disk_outlives_the_database_and_is_not_waited_for(units: dict[str, list[str]]) -> None:
    """The order at a shutdown goes through a target that no boot starts; the database starts it past all order."""
    target, database = units["practice-archiving.target"], units["practice-data.conf"]
    assert [line for line in target if re.match("(?!Description)[A-Z][A-Za-z]+=", line)] == ["After=backup.mount"]
    start = "ExecStartPost=-/usr/bin/systemctl --no-block --job-mode=ignore-dependencies start practice-archiving.target"
    assert {"After=practice-archiving.target", start} <= set(database)
    others = {name for name, lines in units.items() if any("practice-archiving" in line for line in lines if line[:1] != "#")}
    assert others == {"practice-data.conf"}, "who else starts it has the database wait for the disk"
    assert [line for line in database if "backup.mount" in line and line[:1] != "#"] == []
