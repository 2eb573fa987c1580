"""The code reads as pyproject.toml says, and so do the units."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from kit.paths import ROOT


def test_ruff_finds_nothing() -> None:
    """Every rule chosen in pyproject.toml; control: it looked at this file."""
    ruff = Path(sys.executable).with_name("ruff")
    looked = subprocess.run([ruff, "check", "--no-cache", "--show-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert __file__ in looked.splitlines()
    found = subprocess.run([ruff, "check", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_every_test_can_be_collected() -> None:
    """Also those that need a machine: what does not import would be noticed half an hour later. Control: they are many."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("tests/claims/") > 100, done.stdout[-3000:]


def test_no_unit_needs_what_another_one_makes_in_run() -> None:
    """A unit does not start without a path that it may write to; after a boot Debian's alone are in /run. Control: they are many."""
    units = [path for part in ("files", "templates") for path in (ROOT / part).rglob("*") if ".service" in path.name]
    lines = [(path.name, line) for path in units for line in re.findall("^ReadWritePaths=(.*)", path.read_text(), re.M)]
    named = {(unit, at) for unit, line in lines for at in line.split()}
    assert len(named) > 10, named
    assert {(unit, at) for unit, at in named if at.startswith("/run/") and at != "/run/postgresql"} == set()


def test_every_script_parses() -> None:
    """A first deploy lays them down unasked, because a unit that calls one may run already. Control: they are many."""
    roles = "\n".join(path.read_text() for path in (ROOT / "roles").glob("*.py"))
    assert roles.count("check=kit.PARSES") > 5 and "sh -n" not in roles, "control: this is how roles say it"
    scripts = [path for path in (ROOT / "files").rglob("*") if path.is_file() and path.read_text().startswith("#!/bin/sh")]
    assert len(scripts) > 15
    assert [path.name for path in scripts if subprocess.run(["sh", "-n", path], capture_output=True, check=False).returncode] == []
