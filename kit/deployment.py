"""Carrying it out: pyinfra on a clinic, whole or one role; and the proof that the way in still works before anything else is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kit import paths

PYINFRA = Path(sys.executable).with_name("pyinfra")


class DeployError(RuntimeError):
    """pyinfra ended with an error; its output says at which operation."""


def inventory(name: str) -> list[str]:
    """The pyinfra arguments that mean clinic `name`; `vagrant` is the VM."""
    return ["inventory/vagrant.py"] if name == "vagrant" else ["inventory/clinics.py", "--limit", f"@cabinet/{name}"]


def pyinfra(name: str, *what: str, echo: bool = True) -> subprocess.CompletedProcess[str]:
    """Run pyinfra on clinic `name`; `what` is deploy.py, or roles.firewall.firewall, and options."""
    argv = [str(PYINFRA), *inventory(name), *what]
    if echo:
        print(f"[$ pyinfra {' '.join(argv[1:])}]", flush=True)
    # pyinfra's debug log would land in the tree and may hold what was uploaded.
    env = os.environ | {"PYINFRA_PROGRESS": os.environ.get("PYINFRA_PROGRESS", "auto")}
    return subprocess.run(argv, cwd=paths.ROOT, env=env, text=True, check=False, capture_output=not echo)


def run_role(name: str, role: str) -> None:
    """Run one role on clinic `name`, quietly. Raises DeployError with what pyinfra said."""
    done = pyinfra(name, f"roles.{role}.{role}", "--yes", echo=False)
    if done.returncode:
        raise DeployError(f"roles.{role} on {name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def planned_changes(name: str) -> list[str]:
    """The names of the operations that would change something on clinic `name`; empty when the server is as described.

    Raises DeployError when the plan could not be made.
    """
    done = pyinfra(name, "deploy.py", "--dry", "--json", echo=False)
    if done.returncode:
        raise DeployError(f"plan of {name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return changes_in(json.loads(done.stdout))


def changes_in(plan: dict) -> list[str]:
    """The operations of a `--dry --json` plan that would change a host."""
    return [step["name"] for step in plan["operations"] if step["hosts_with_change"]]
