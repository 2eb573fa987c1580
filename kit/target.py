"""testinfra's view of a server: every command as root, over the same connection that deploys it."""

from __future__ import annotations

from typing import Any

from pyinfra_openssh.shell import Shell, ShellGone
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from kit.connection import Connection


class ShellBackend(BaseBackend):
    """A testinfra backend over its root shell. A lost connection raises ShellGone, never an AssertionError: it proves nothing."""

    NAME = "cabinet"

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.name)
        self.connection = connection
        self.shell: Shell | None = None

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Run as root. The shell is opened at the first command; after a reboot call reconnect()."""
        line = self.get_command(command, *args)
        if self.shell is None:
            self.reconnect()
        done = self.shell.run(line, timeout=kwargs.get("timeout", 600))  # type: ignore[union-attr]
        return self.result(done.rc, line.encode(), done.stdout, done.stderr)

    def reconnect(self) -> None:
        """Log in again if need be, and start a new shell. Raises LoginError."""
        if self.shell is not None:
            self.shell.close()
        self.connection.login()
        self.shell = self.connection.shell()

    def get_encoding(self) -> str:
        """The root shell speaks C.UTF-8."""
        return "UTF-8"


def target(connection: Connection) -> Host:
    """A testinfra host that rides on `connection`."""
    return Host(ShellBackend(connection))


__all__ = ["ShellBackend", "ShellGone", "target"]
