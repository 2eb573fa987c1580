"""This checkout's machines beside the practice's own: its twin, the host outside, the bench's. Each has a state directory beside ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from kit.paths import ROOT, beside


def elsewhere(what: str, machine: str = "practice") -> dict[str, str]:
    """The environment in which everything is about another machine of this checkout, whose state lies beside ours."""
    return os.environ | {"CABINET_STATE": str(beside(what)), "CABINET_MACHINE": machine}


def offsite() -> dict[str, str]:
    """Whoever runs with it means the host outside."""
    return elsewhere("offsite", "offsite")


def bench() -> dict[str, str]:
    """Whoever runs with it means the practice server that bench/backup measures."""
    return elsewhere("bench")


def removed(env: dict[str, str]) -> None:
    """Nothing is left of that machine."""
    if (there := Path(env["CABINET_STATE"])).exists():
        subprocess.run([sys.executable, "-m", "kit.vm", "down"], cwd=ROOT, env=env, check=True)
        shutil.rmtree(there)
