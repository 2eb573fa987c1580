"""What pyinfra asks of its own connectors, asked of this one.

The cases are those of pyinfra's tests/test_connectors (test_ssh.py, test_local.py; https://github.com/pyinfra-dev/pyinfra), where they
are not about paramiko or the spelling of a command line; there a mock is asked what it was called with, here what has happened.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import Config, HiddenValue, Host, Inventory, State, StringCommand
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.facts.server import Command

PASSWORD = "pass'word"


@pytest.fixture
def state(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A run on two servers."""
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setenv("TMPDIR", str(place))
    inventory = Inventory((["@openssh/one", "@openssh/two"], {}))
    state = State(inventory, Config(TEMP_DIR=str(place)))
    connect_all(state)
    yield state
    disconnect_all(state)


@pytest.fixture
def host(state: State) -> Host:
    """One of the two."""
    return state.inventory.get_host("@openssh/one")


@pytest.fixture
def somebody_types(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody at the terminal who knows sudo's password; all that was asked of them."""
    asked: list[str] = []
    monkeypatch.setattr("pyinfra.connectors.util.getpass", lambda prompt: asked.append(prompt) or PASSWORD)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    return asked


def test_all_hosts_are_connected(state: State) -> None:
    """(test_connect_all)"""
    assert {host.name for host in state.active_hosts} == {"@openssh/one", "@openssh/two"}


def test_a_host_that_lets_nobody_in_fails_the_run(state: State) -> None:
    """(test_connect_exceptions) The others are no excuse; and by itself the host's name is in the error."""
    other = State(Inventory((["@openssh/nowhere"], {})), Config())
    with pytest.raises(PyinfraError):
        connect_all(other)
    assert not other.active_hosts
    with pytest.raises(ConnectError, match="nowhere: .*Could not resolve"):
        other.inventory.get_host("@openssh/nowhere").connect(show_errors=False, raise_exceptions=True)


@pytest.mark.parametrize(
    ("stdin", "arrives"),
    [
        ("hello", ["hello"]),
        ("hello\n", ["hello"]),
        (["hello", "Šablony\n"], ["hello", "Šablony"]),
        (io.StringIO("hello\n\nabc"), ["hello", "", "abc"]),
    ],
    ids=["words", "a line", "lines", "a file"],
)
def test_standard_input_in_every_form(host: Host, stdin: Any, arrives: list[str]) -> None:
    """(test_run_shell_command, test_write_stdin, test_write_stdin_io_object)"""
    fine, output = host.run_shell_command(StringCommand("cat"), _stdin=stdin)
    assert (fine, output.stdout_lines) == (True, arrives)


def test_both_streams_and_their_empty_lines(host: Host) -> None:
    """(test_run_shell_command_output)"""
    _, output = host.run_shell_command(StringCommand("printf 'out1\\n\\nŠablony\\n'; echo err1 >&2"))
    assert (output.stdout_lines, output.stderr_lines) == (["out1", "", "Šablony"], ["err1"])


def test_a_terminal_where_one_is_wanted(host: Host) -> None:
    """(test_run_shell_command_pty)"""
    question = StringCommand("test -t 0 && test -t 1; echo $?; exit 3")
    terminal, plain = (host.run_shell_command(question, _get_pty=wanted, _success_exit_codes=[3]) for wanted in (True, False))
    assert [(fine, output.stdout) for fine, output in (terminal, plain)] == [(True, "0"), (True, "1")]


def test_which_exit_codes_mean_success(host: Host) -> None:
    """(test_run_shell_command_success_exit_code, test_run_shell_command_error)"""
    codes = ([1], None)
    assert [host.run_shell_command(StringCommand("exit 1"), _success_exit_codes=wanted)[0] for wanted in codes] == [True, False]


def test_what_is_hidden_is_shown_nowhere(host: Host, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(test_run_shell_command_masked) Nor in the error of a lost connection, nor in the list of what is asked the next time."""
    shown: list[str] = []
    monkeypatch.setattr("pyinfra.api.output._echo", lambda text, **_: shown.append(text))
    secret = StringCommand("echo", HiddenValue("top-secret"), ">", str(place / "said"))
    host.run_shell_command(secret, print_output=True, print_input=True)
    assert (place / "said").read_text() == "top-secret\n", "control: it is the command's"
    assert "*MASKED*" in shown[0] and "top-secret" not in "".join(shown)
    host.get_fact(Command, "echo seen", _sudo=True, _sudo_user="stranger", _sudo_password=PASSWORD)
    host.get_fact(Command, "echo open")
    with pytest.raises(ConnectionError) as lost:
        host.run_shell_command(StringCommand("kill -KILL $$;", secret))
    assert "kill -KILL $$; echo *MASKED*" in str(lost.value) and "top-secret" not in str(lost.value)
    host.disconnect()
    written = "".join(path.read_text() for path in (place / "cache").rglob("*.json"))
    assert "echo open" in written and "PYINFRA_SUDO_PASSWORD" not in written and "word" not in written


def test_a_command_without_end_ends_itself_alone(host: Host) -> None:
    """(test_run_shell_command_timeout) The next one has a new shell over the same connection, also where something else gave it up."""
    with pytest.raises(TimeoutError, match="one: no end after 0.2 s: sleep 9"):
        host.run_shell_command(StringCommand("sleep 9"), _timeout=0.2)
    assert host.run_shell_command(StringCommand("echo on"))[1].stdout == "on"

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.put_file(Broken(), "/nowhere")
    assert host.run_shell_command(StringCommand("echo on"))[1].stdout == "on"


def test_a_connection_that_has_ended_is_named(host: Host, place: Path) -> None:
    """Nothing logs in anew behind the back of a run; the next one does."""
    host.connector.master.close()  # type: ignore[union-attr]
    with pytest.raises(ConnectionError):
        host.run_shell_command(StringCommand("kill -KILL $$"))
    with pytest.raises(ConnectionError, match="one: the connection has ended; the next run logs in anew"):
        host.run_shell_command(StringCommand("echo on"))


def test_sudo_wants_a_password(host: Host, place: Path, somebody_types: list[str]) -> None:
    """(test_run_shell_command_sudo_password_automatic_prompt_with_special_chars) Asked once; what passes it on is gone afterwards."""
    for _ in range(2):
        fine, output = host.run_shell_command(StringCommand("echo $BECAME"), _sudo=True, _sudo_user="stranger")
        assert (fine, output.stdout) == (True, "stranger")
    assert somebody_types == [f"{host.print_prefix}sudo password: "]
    assert len(list(place.glob("pyinfra-sudo-askpass-*"))) == 1, "control: there is something to take away"
    host.disconnect()
    assert list(place.glob("pyinfra-sudo-askpass-*")) == []


@pytest.mark.parametrize("account", [{}, {"_sudo": True}, {"_sudo": True, "_sudo_user": "stranger", "_sudo_password": PASSWORD}])
def test_files_there_and_back(host: Host, place: Path, account: dict[str, Any]) -> None:
    """(test_put_file, test_put_file_sudo, test_get_file_sudo) As any account, with any name and content; nothing lies beside it."""
    data, target, back = bytes(range(256)) * 1000, place / "d/not another file'$(x)", io.BytesIO()
    target.parent.mkdir()
    assert host.put_file(io.BytesIO(data), str(target), **account)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (data, 0o600)
    assert list(target.parent.iterdir()) == [target]
    assert host.get_file(str(target), back, **account)
    assert back.getvalue() == data


@pytest.mark.parametrize("account", [{}, {"_sudo": True, "_sudo_user": "stranger", "_sudo_password": PASSWORD}])
def test_files_that_do_not_arrive(host: Host, place: Path, account: dict[str, Any]) -> None:
    """(test_put_file_su_user_fail_copy, test_get_file_failure_leaves_local_file_alone) An error with the path; what was there stays."""
    with pytest.raises(OSError, match="no/file"):
        host.put_file(io.BytesIO(b"x"), str(place / "no/file"), **account)
    (place / "existing").write_text("do not truncate me")
    with pytest.raises(OSError, match="missing"):
        host.get_file(str(place / "missing"), str(place / "existing"), **account)
    assert (place / "existing").read_text() == "do not truncate me"
