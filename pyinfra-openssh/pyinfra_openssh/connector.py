"""The pyinfra connector `@openssh/HOST`: pyinfra's commands in long-lived shells over one OpenSSH connection."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.output import echo
from pyinfra.api.util import get_file_io
from pyinfra.connectors.base import BaseConnector, ConnectorData, DataMeta
from pyinfra.connectors.util import (
    CommandOutput,
    OutputLine,
    execute_command_with_sudo_retry,
    extract_control_arguments,
    make_unix_command_for_host,
    remove_any_sudo_askpass_file,
)
from pyinfra_openssh import others
from pyinfra_openssh.foresight import Foresight, Together
from pyinfra_openssh.master import Master
from pyinfra_openssh.shell import Result, Shell, ShellGone

if TYPE_CHECKING:
    from pyinfra.api import Host, State

# A line that was silent for a minute is lost; without these a run would wait for ever.
ALIVE = ("ServerAliveInterval=15", "ServerAliveCountMax=4")


class OpenSSHData(ConnectorData, total=False):
    """What an inventory may say of a host; all of it optional."""

    openssh_options: list[str]
    openssh_config_file: str
    openssh_persist: int
    openssh_foresight: bool


class OpenSSHConnector(BaseConnector):
    """Executes on whatever `ssh HOST` gets to."""

    handles_execution = True
    data_cls = OpenSSHData
    data_meta: ClassVar = {
        "openssh_options": DataMeta("Further options of ssh, such as Port=2222.", default=[]),
        "openssh_config_file": DataMeta("Another file than ~/.ssh/config."),
        "openssh_persist": DataMeta("Seconds that the connection stays after its last use.", default=3600),
        "openssh_foresight": DataMeta("Whether the facts of the last run are asked ahead.", default=True),
    }

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """`@openssh/HOST` is a host of ssh_config, or an address."""
        yield f"@openssh/{name}", {}, []

    # ---- what a connector for servers of one kind may say otherwise

    # The way to ask many questions at once; None: foresight.in_parallel, which asks each by itself, all at the same time.
    together: Together | None = None

    def open(self) -> tuple[Shell, Path]:
        """Log in, unless the connection is open, by `self.master`: a shell, and a directory for what is to be remembered of this host.

        Raises ConnectionError with what ssh said.
        """
        name = self.host.name.removeprefix("@openssh/")
        options = ["-o", f"ControlPersist={self.data['openssh_persist']}", "-o", "LogLevel=ERROR"]
        if config := self.data["openssh_config_file"]:
            options += ["-F", str(Path(config).expanduser())]
        # ssh_config(5): the first word on a subject counts.
        options += [word for option in [*self.data["openssh_options"], *ALIVE] for word in ("-o", option)]
        directory = private(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyinfra-openssh")
        # A socket's path ends at 107 characters, and ssh adds 17 while it opens it.
        digest = hashlib.sha256(repr((name, options)).encode()).hexdigest()[:16]
        self.master = Master(name, directory / digest, options)
        if not self.master.alive() and (refused := self.master.open()):
            raise ConnectionError(f"{name}: {refused}")
        shell = self.master.shell()
        shell.run("true", timeout=60)
        return shell, private(directory / f"{digest}.asked")

    def account(self, arguments: dict[str, Any]) -> str | None:
        """Whose shell the command is for; None for the account logged in. Takes out of `arguments` what the shell makes needless."""
        prompted = self.host.connector_data.get("prompted_sudo_password")
        if not arguments.get("_sudo") or prompted or any(arguments.get(each) for each in others.KINDS):
            return None
        user = arguments.get("_sudo_user") or "root"
        if user not in self.shells:
            shell = self.master.shell(f"exec sudo -H -n -u {shlex.quote(user)} sh")
            try:
                shell.run("true", timeout=60)
            except (ShellGone, TimeoutError):
                return None  # sudo refuses or asks: pyinfra's own command line will say how
            self.shells[user] = shell
        arguments.update(_sudo=False, _sudo_user=None)
        return user

    # ---- what pyinfra calls

    def __init__(self, state: State, host: Host) -> None:
        super().__init__(state, host)
        # Not in connect: a fact may be what connects, or connects anew, and it is asked before and after.
        self.asking = 0
        self._watch_facts()

    def connect(self) -> None:
        """Log in, and start a shell."""
        try:
            shell, directory = self.open()
            self.foresight = Foresight(directory / asked_file(), self.together)
            if self.data.get("openssh_foresight", True):
                self.foresight.begin(shell)
        except (ConnectionError, TimeoutError) as refused:
            raise ConnectError(str(refused)) from refused
        self.shells: dict[str | None, Shell] = {None: shell}

    def disconnect(self) -> None:
        """End the shells; the connection stays for the next run."""
        self.foresight.keep()
        remove_any_sudo_askpass_file(self.host)
        for shell in self.shells.values():
            shell.close()

    def run_shell_command(
        self, command: StringCommand, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, CommandOutput]:
        """Run `command`. A command that fails raises nothing: the bool says it. Raises ShellGone (an OSError), TimeoutError."""
        control = extract_control_arguments(arguments)  # type: ignore[arg-type]

        def execute() -> tuple[int, CommandOutput]:
            done = self._run(command, print_input, dict(arguments), control)
            lines = [OutputLine("stdout", line) for line in done.stdout.decode(errors="replace").splitlines()]
            lines += [OutputLine("stderr", line) for line in done.stderr.decode(errors="replace").splitlines()]
            return done.rc, CommandOutput(lines)

        # sudo's password is asked for when it wants one, and somebody is there
        code, output = execute_command_with_sudo_retry(self.host, arguments, execute) if sys.stdin.isatty() else execute()  # type: ignore[arg-type]
        if print_output:
            for line in output:
                echo(f"{self.host.print_prefix}{line.line}", err=True)
        return code in (control.get("_success_exit_codes") or [0]), output

    def put_file(
        self,
        filename_or_io: str | IOBase,
        remote_filename: str,
        remote_temp_filename: str | None = None,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> bool:
        """Upload: whole or not at all, 0600 from the first byte. Raises OSError with what the server said."""
        self.foresight.forget()
        account = self.account(arguments)
        with get_file_io(filename_or_io) as source:
            if not others.concerned(arguments):
                self._shell(account).put(source, remote_filename)
                return True
            data = source.read()
        self._checked(others.takes(data, remote_filename), remote_filename, {**arguments, "_stdin": data})
        return True

    def get_file(
        self,
        remote_filename: str,
        filename_or_io: str | IOBase,
        remote_temp_filename: str | None = None,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> bool:
        """Download without a copy on the server; what fails leaves the local file as it was. Raises OSError with what the server said."""
        account = self.account(arguments)
        with tempfile.TemporaryFile() as arrived:
            if not others.concerned(arguments):
                self._shell(account).get(remote_filename, arrived)
            else:
                said = self._checked(others.gives(remote_filename), remote_filename, arguments)
                arrived.write(base64.b64decode(said.stdout))
            arrived.seek(0)
            with get_file_io(filename_or_io, "wb") as target:  # which empties it
                shutil.copyfileobj(arrived, target)
        return True

    # ---- within

    def _checked(self, command: str, path: str, arguments: dict[str, Any]) -> CommandOutput:
        """What a command for the file at `path` says. Raises OSError when it fails."""
        fine, output = self.run_shell_command(StringCommand(command), **arguments)
        if not fine:
            raise OSError(f"{self.host.name}: {path}: {output.stderr}")
        return output

    def _shell(self, account: str | None) -> Shell:
        """The account's shell; a new one over the same connection where a command without end took the last one with it."""
        shell = self.shells[account]
        if shell.ended:
            if not self.master.alive():
                raise ShellGone(f"{shell.label}: the connection has ended; the next run logs in anew")
            shell.close()
            shell = self.shells[account] = shell.again()
        return shell

    def _watch_facts(self) -> None:
        """Know what is a fact: it changes nothing, so it may be asked early, and what was known before it is known after it."""
        get_fact = self.host.get_fact

        def watched(*words: Any, **named: Any) -> Any:
            self.asking += 1
            try:
                return get_fact(*words, **named)
            finally:
                self.asking -= 1

        self.host.get_fact = watched  # type: ignore[method-assign]

    def _run(self, command: StringCommand, print_input: bool, arguments: dict[str, Any], control: Mapping[str, Any]) -> Result:
        """What `command` says; a question may have its answer already, anything else may change what was known."""
        account = self.account(arguments)
        if not others.concerned(arguments) and arguments.get("_shell_executable", "sh") == "sh":
            arguments["_shell_executable"] = None  # a shell is what runs it
        unix = self._unix(command, arguments)
        if control.get("_get_pty"):
            unix = StringCommand("script", "-qec", QuoteString(unix), "/dev/null")
        if print_input:
            echo(f"{self.host.print_prefix}>>> {unix}", err=True)
        line, shown = unix.get_raw_value(), unix.get_masked_value()
        shell, stdin = self._shell(account), typed(control.get("_stdin"))
        answer = None
        if not self.asking or stdin is not None:
            self.foresight.forget()
        elif line == shown and self.data.get("openssh_foresight", True):  # else it holds a secret, and questions are written down
            answer = self.foresight.answer(account, line, shell)
        return answer or shell.run(line, stdin, control.get("_timeout"), f"{self._operation()}{shown}")

    def _unix(self, command: StringCommand, arguments: dict[str, Any]) -> StringCommand:
        """The line of shell for `command`. For a password pyinfra writes a file to the server first, which is no question."""
        asking, self.asking = self.asking, 0
        try:
            return make_unix_command_for_host(self.state, self.host, command, **arguments)
        finally:
            self.asking = asking

    def _operation(self) -> str:
        """What is being carried out, for errors."""
        operation = self.host.nested_executing_op_hash or self.host.executing_op_hash
        return f"{', '.join(self.state.get_op_meta(operation).names)}: " if operation else ""


def typed(stdin: Any) -> bytes | None:
    """What a command finds on its standard input: lines, each with its end (pyinfra.connectors.util.write_stdin)."""
    if stdin is None or isinstance(stdin, bytes):
        return stdin
    lines: Iterable[str] = [stdin] if isinstance(stdin, str) else stdin
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode()


def private(directory: Path) -> Path:
    """A directory that only its owner can enter, created when missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def asked_file() -> str:
    """A file's name for what is asked by one thing that pyinfra can do, of any hosts: a role alone asks less than the whole."""
    told = "_".join(word.replace("/", ".") for word in sys.argv[1:] if not word.startswith(("-", "@")))
    return f"{told[:150]}.asked.json"
