"""What the technician's commands say and ask, without a server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from kit import cli, deployment
from kit.connection import Connection


class Server:
    """A server that was deployed before, or not, and what pyinfra was told to do to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changes: list[str], deployed_before: bool = True) -> None:
        self.carried_out = 0
        shell = SimpleNamespace(run=lambda _: SimpleNamespace(rc=0 if deployed_before else 1), close=lambda: None)
        monkeypatch.setattr(Connection, "login", lambda _: None)
        monkeypatch.setattr(Connection, "shell", lambda _: shell)
        monkeypatch.setattr(deployment, "planned_changes", lambda _: changes)
        monkeypatch.setattr(deployment, "pyinfra", self.pyinfra)

    def pyinfra(self, *_: str, **__: str) -> CompletedProcess[str]:
        self.carried_out += 1
        return CompletedProcess([], 0)


def run(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(cli.cli, words, input=typed)


@pytest.mark.parametrize(("changes", "code"), [([], 0), (["FW-01 close the door"], 2)])
def test_a_plan_says_by_its_exit_code_whether_there_is_something_to_do(
    monkeypatch: pytest.MonkeyPatch, changes: list[str], code: int
) -> None:
    """0: nothing; 2: something, by name."""
    Server(monkeypatch, changes)
    said = run("plan", "vagrant")
    assert (said.exit_code, all(change in said.output for change in changes)) == (code, True)


@pytest.mark.parametrize(("typed", "carried_out"), [("y\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
@pytest.mark.parametrize("deployed_before", [True, False])
def test_a_deploy_asks_before_the_first_change(
    monkeypatch: pytest.MonkeyPatch, deployed_before: bool, typed: str, carried_out: int
) -> None:
    """It shows what would change, and without a yes (or anybody there to say it) nothing does; --yes shows it too, and does not ask."""
    server = Server(monkeypatch, ["FW-01 close the door"], deployed_before)
    shown = "FW-01 close the door" if deployed_before else "everything is still to do"
    said = run("deploy", "vagrant", typed=typed)
    assert (shown in said.output, "Go on?" in said.output, server.carried_out) == (True, True, carried_out)
    said = run("deploy", "vagrant", "--yes")
    assert (said.exit_code, shown in said.output, "Go on?" in said.output, server.carried_out) == (0, True, False, carried_out + 1)


def test_where_nothing_is_to_do_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again after an update: it ends by itself."""
    server = Server(monkeypatch, [])
    assert (run("deploy", "vagrant").exit_code, server.carried_out) == (0, 0)


def test_a_held_run_that_cannot_even_start_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has ended before it was let go: what it said is the error, not the pipe."""
    dies = tmp_path / "pyinfra"
    dies.write_text("#!/bin/sh\necho '--> Starting operation: no module of that name'; exit 1\n")
    dies.chmod(0o755)
    monkeypatch.setattr(deployment, "PYINFRA", dies)
    with deployment.role_at_hand("vagrant", "nothing") as run:
        time.sleep(0.3)
        with pytest.raises(deployment.DeployError, match="no module of that name"):
            run()


def test_a_second_command_on_the_vm_ends_and_names_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before it has touched anything; and when the first one has ended, however it did, there is nothing to remove."""
    monkeypatch.setattr(cli.paths, "state_dir", lambda: tmp_path)
    monkeypatch.setattr(cli, "raise_vm", lambda: pytest.fail("it begins"))
    with cli.alone():
        done = run("up")
        assert done.exit_code == 1 and f"process {os.getpid()}: wait for its end" in done.output
    with cli.alone():
        assert (tmp_path / "in-use").read_text() == str(os.getpid())
