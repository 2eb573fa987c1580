"""The pyinfra connector `@cabinet/NAME`: pyinfra's commands over the root shell that rides on the one OpenSSH connection.

Operations run as root without sudo: the shell is root's already. `_sudo_user` and `_su_user` still work, from root.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from io import IOBase
from pathlib import Path
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.output import echo
from pyinfra.api.util import get_file_io
from pyinfra.connectors.base import BaseConnector, ConnectorData, DataMeta
from pyinfra.connectors.util import CommandOutput, OutputLine, extract_control_arguments, make_unix_command_for_host

from kit import facts
from kit.clinic import load
from kit.connection import Connection, LoginError
from kit.foresight import Foresight
from kit.shell import Result, RootShell, ShellGone


class CabinetData(ConnectorData, total=False):
    """What the inventory says of a host."""

    clinic_file: str


class CabinetConnector(BaseConnector):
    """Executes on the server that a clinic file describes."""

    handles_execution = True
    data_cls = CabinetData
    data_meta = {"clinic_file": DataMeta("The clinic file, relative to the top of the tree.")}

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """`@cabinet/alger` is the clinic of clinics/alger.yaml."""
        yield f"@cabinet/{name}", {"clinic_file": f"clinics/{name}.yaml"}, []

    def connect(self) -> None:
        """Log in unless the master is open already, and start a root shell."""
        path = Path(self.host.data.clinic_file)
        self.connection = Connection(path.stem, load(path))
        try:
            self.connection.login()
            self.shell: RootShell = self.connection.shell()
            asked = self.shell.run("id -u", timeout=60)
        except (LoginError, ShellGone, TimeoutError) as refused:
            raise ConnectError(str(refused)) from refused
        if asked.stdout.strip() != b"0":
            raise ConnectError(f"{path.stem}: logged in, but not as root: {asked.stderr.decode(errors='replace').strip()}")
        self.foresight = Foresight(self.connection.directory)

    def disconnect(self) -> None:
        """End the shell; the master stays for the next command."""
        self.foresight.keep()
        self.shell.close()

    def run_shell_command(
        self, command: StringCommand, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, CommandOutput]:
        """Run `command` as root (or as `_sudo_user`). Raises nothing for a failing command: the bool says it."""
        control = extract_control_arguments(arguments)  # type: ignore[arg-type]
        if not (arguments.get("_sudo_user") or arguments.get("_su_user")):
            # The root shell evaluates the command itself: no sudo, and no second shell, to start.
            arguments |= {"_sudo": False, "_shell_executable": None}
        unix = make_unix_command_for_host(self.state, self.host, command, **arguments)
        if print_input:
            echo(f"{self.host.print_prefix}>>> {unix}", err=True)
        stdin = control.get("_stdin")
        if stdin is not None and not isinstance(stdin, str):
            stdin = "\n".join(stdin)
        done = self._done(unix.get_raw_value(), None if stdin is None else (stdin + "\n").encode(), control.get("_timeout"))
        lines = [OutputLine("stdout", line) for line in done.stdout.decode(errors="replace").splitlines()]
        lines += [OutputLine("stderr", line) for line in done.stderr.decode(errors="replace").splitlines()]
        if print_output:
            for line in lines:
                echo(f"{self.host.print_prefix}{line.line}", err=True)
        return done.rc in (control.get("_success_exit_codes") or [0]), CommandOutput(lines)

    def _done(self, command: str, stdin: bytes | None, timeout: float | None) -> Result:
        """What `command` says; a question may have its answer already, anything else may change what was known."""
        if stdin is None and command.startswith(facts.QUESTION):
            return self.foresight.answer(command, self.shell) or self.shell.run(command, timeout=timeout)
        self.foresight.forget()
        return self.shell.run(command, stdin=stdin, timeout=timeout)

    def put_file(
        self,
        filename_or_io: str | IOBase,
        remote_filename: str,
        remote_temp_filename: str | None = None,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> bool:
        """Upload, 0600 from the first byte, straight to its place: the caller stages what must not be seen half-written."""
        self.foresight.forget()
        with get_file_io(filename_or_io) as source:
            self.shell.put(source, remote_filename)
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
        """Download without a copy on the server. Raises OSError with what the server said."""
        done = self.shell.run(f"cat {shlex.quote(remote_filename)}")
        if done.rc:
            raise OSError(f"{self.host}: {remote_filename}: {done.stderr.decode(errors='replace').strip()}")
        with get_file_io(filename_or_io, "wb") as target:
            target.write(done.stdout)
        return True
