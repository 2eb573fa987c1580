"""One OpenSSH connection that stays open (ssh_config(5), ControlMaster): logged in once, everything after rides on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyinfra_openssh.shell import Shell


class Master:
    """The connection to `host`, which answers at `socket`; `options` are words of ssh's command line, such as `-F FILE`."""

    def __init__(self, host: str, socket: Path, options: Sequence[str] = ()) -> None:
        self.host, self.socket, self.options = host, socket, list(options)

    def riding(self, *words: str) -> list[str]:
        """The ssh command line that uses the connection and never opens one, or asks a question, of its own."""
        return ["ssh", *self.options, "-S", str(self.socket), "-o", "ControlMaster=no", "-o", "BatchMode=yes", *words]

    def open(self, how: Sequence[str] = (), env: Mapping[str, str] | None = None) -> str | None:
        """Log in by the further options `how`. None when the connection is open, else the last that was said.

        A code or a PIN is asked for on the terminal, or by SSH_ASKPASS.
        """
        self.socket.unlink(missing_ok=True)  # a master that was killed leaves it, and ssh would go on without being one
        return self.attempt([*how, "-o", "ControlMaster=yes", "-S", str(self.socket), "-N", "-f", self.host], env)

    def attempt(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> str | None:
        """Run ssh once with `words`, beside any connection. None when that worked, else the last that was said."""
        env = os.environ | (env or {})
        asks = [] if sys.stdin.isatty() or env.get("SSH_ASKPASS") else ["-o", "BatchMode=yes"]
        log = self.socket.with_suffix(".log")
        with log.open("w") as errors:  # a file: the master goes into the background, and a pipe would never end
            done = subprocess.run(
                ["ssh", *self.options, "-o", "ConnectTimeout=20", *asks, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=env,
                check=False,
            )
        return None if done.returncode == 0 else (log.read_text().strip().splitlines() or ["no answer"])[-1]

    def alive(self) -> bool:
        """Whether the connection is open; costs no round trip."""
        return self.socket.exists() and self._tell("check") == 0

    def close(self) -> None:
        """Close the connection, and with it every session on it."""
        self._tell("exit")
        self.socket.unlink(missing_ok=True)

    def retire(self) -> None:
        """Let nothing new in; what runs goes on, and with its end the connection ends."""
        self._tell("stop")

    def shell(self, command: str = "exec sh") -> Shell:
        """A shell over the connection; `command` is what starts it there, such as `exec sudo -n sh`."""
        return Shell(self.riding("-T", self.host, command), self.host)

    def _tell(self, word: str) -> int:
        return subprocess.run(self.riding("-O", word, self.host), capture_output=True, check=False).returncode
