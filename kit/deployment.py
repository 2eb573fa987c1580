"""Carrying it out: pyinfra on a clinic, whole or one role; and the proof that the way in still works before anything else is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kit import acceptance, page, paths, register
from kit import plan as plans
from kit.clinic import Clinic, load
from kit.connection import HELD, Connection
from kit.revision import revision
from kit.vm import Machine

PYINFRA = Path(sys.executable).with_name("pyinfra")


class DeployError(RuntimeError):
    """pyinfra ended with an error; its output says at which operation."""


def inventory(name: str) -> list[str]:
    """The pyinfra arguments that mean clinic `name`; `vagrant` is the VM."""
    return ["inventory/vagrant.py"] if name == "vagrant" else ["inventory/clinics.py", "--limit", f"@cabinet/{name}"]


def pyinfra(name: str, *what: str, echo: bool = True, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run pyinfra on clinic `name`; `what` is deploy.py, or roles.firewall.firewall, and options. `told`: see kit/plan.py."""
    argv = [str(PYINFRA), *inventory(name), *what]
    if echo:
        print(f"[$ pyinfra {' '.join(argv[1:])}]", flush=True)
    # pyinfra's debug log would land in the tree and may hold what was uploaded.
    env = os.environ | {"PYINFRA_PROGRESS": os.environ.get("PYINFRA_PROGRESS", "auto"), plans.TOLD: told}
    return subprocess.run(argv, cwd=paths.ROOT, env=env, text=True, check=False, capture_output=not echo)


def run_role(name: str, role: str, echo: bool = False, part: str = "") -> None:
    """Run one role on clinic `name`, or a part of it. Raises DeployError with what pyinfra said."""
    done = pyinfra(name, f"roles.{role}.{part or role}", "--yes", echo=echo)
    if done.returncode:
        raise failed(name, role, "" if echo else f"{done.stdout}\n{done.stderr}")


@contextmanager
def role_at_hand(name: str, role: str) -> Iterator[Callable[[], None]]:
    """What runs one role on clinic `name` as `run_role` does, but at once: pyinfra is loaded meanwhile, and waits before it connects."""
    held, let_go = os.pipe()
    argv = [str(PYINFRA), *inventory(name), f"roles.{role}.{role}", "--yes"]
    with tempfile.TemporaryFile("w+") as said:
        env = os.environ | {HELD: str(held)}
        process = subprocess.Popen(argv, cwd=paths.ROOT, env=env, pass_fds=[held], stdout=said, stderr=subprocess.STDOUT)
        os.close(held)

        def run() -> None:
            with suppress(BrokenPipeError):  # it has ended already, and said why
                os.write(let_go, b"go")
            if process.wait():
                said.seek(0)
                raise failed(name, role, said.read())

        try:
            yield run
        finally:
            process.kill()  # whoever never let it go
            process.wait()
            os.close(let_go)


def failed(name: str, role: str, said: str) -> DeployError:
    """The error that ends with what pyinfra said at the operation that failed; it stops at the first."""
    last = said.rpartition("--> Starting operation:")[2][-3000:]
    return DeployError(f"roles.{role} on {name} failed" + (f":{last}" if last else ""))


def planned_changes(name: str) -> list[str]:
    """The operations that would change something on clinic `name`, each with its diff; empty when the server is as described.

    Raises DeployError when the plan could not be made.
    """
    with tempfile.NamedTemporaryFile(dir=paths.state_dir(), prefix="plan.") as told:
        changing = [step["name"] for step in plan(name, told.name)["plan"] if step["hosts_with_change"]]
        files = plans.read(Path(told.name))
    return plans.explained(changing, files, lambda question: asked(name, question))


def asked(name: str, question: str) -> bytes:
    """What a command says on clinic `name`, over the connection that is open."""
    shell = Connection(name, load(paths.ROOT / "clinics" / f"{name}.yaml")).shell()
    try:
        return shell.run(question).stdout
    finally:
        shell.close()


def operations(name: str) -> int:
    """How many operations a deploy of clinic `name` has."""
    return len(plan(name)["plan"])


def plan(name: str, told: str = "") -> dict[str, Any]:
    """What `pyinfra --dry --json` says of clinic `name`. Raises DeployError when the plan could not be made."""
    done = pyinfra(name, "deploy.py", "--dry", "--json", echo=False, told=told)
    if done.returncode:
        raise DeployError(f"plan of {name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def deploy(name: str, connection: Connection, agree: Callable[[list[str]], bool] = lambda _: True) -> bool:
    """Make the server what its clinic file describes; whether anything was changed.

    `agree` is shown the operations that would change something, and may refuse; of a server that was never deployed
    nobody can say which they are, and it is shown none.

    Raises LoginError when nobody is let in, DeployError when an operation failed: what was done so far stays, a repeat goes on there.
    """
    connection.login()
    shell = connection.shell()
    changes = planned_changes(name) if shell.run("test -e /etc/cabinet/revision").rc == 0 else None
    if changes == [] or not agree(changes or []):
        shell.close()
        return False
    done = pyinfra(name, "deploy.py", "--yes")
    if done.returncode:
        raise DeployError(f"{name}: the deploy stopped at the operation named above; mend its cause, then deploy again")
    shell.close()
    return True


def back_to(snapshot: str, connection: Connection) -> None:
    """The VM as it was in `snapshot`: what is open to the server of today ends, and its people's seeds are void."""
    connection.logout()
    Machine().restore(snapshot)
    shutil.rmtree(paths.state_dir() / "totp", ignore_errors=True)


def deployed_revision(connection: Connection) -> str | None:
    """The revision stamped on the server; None when no deploy ever came to its end, or nobody is logged in."""
    if not connection.alive():
        return None
    shell = connection.shell()
    stamped = shell.run("cat /etc/cabinet/revision")
    shell.close()
    return stamped.stdout.decode().strip() or None


def counting(connection: Connection) -> acceptance.Counting | None:
    """Whether the server's backups count, looked at now; None when it cannot say, or nobody is logged in."""
    if not connection.alive():
        return None
    shell = connection.shell()
    said = shell.run("practice status --json")
    shell.close()
    return acceptance.counted(said.stdout.decode())


def proved(name: str) -> bool:
    """Whether every claim held when it was last tested, at this very revision."""
    results = acceptance.read_results(paths.results(name, "claims"))
    now = revision()
    return all(
        claim in results and results[claim].outcome == "passed" and results[claim].revision == now for claim in register.load_claims()
    )


def write_report(name: str, clinic: Clinic, connection: Connection) -> list[Path]:
    """Write the acceptance report of clinic `name`; the paths of its files."""
    checked_out = revision()
    report = acceptance.build(
        clinic,
        register.load_claims(),
        register.load_measures(),
        acceptance.read_results(paths.results(name, "claims")),
        acceptance.read_results(paths.results(name, "sabotage")),
        revision=acceptance.Revision(checked_out=checked_out, deployed=deployed_revision(connection)),
        guidelines=register.load_guidelines(),
        counting=counting(connection),
    )
    return list(page.write(report, paths.state_dir() / "report" / name).values())
