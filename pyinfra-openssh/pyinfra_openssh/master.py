"""One OpenSSH connection that stays open (ssh_config(5), ControlMaster): logged in once, everything after rides on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyinfra_openssh import askpass
from pyinfra_openssh.shell import Shell


class Master:
    """The connection to `host`, which answers at `socket`; `options` are words of ssh's command line, such as `-F FILE`."""

    def __init__(self, host: str, socket: Path, options: Sequence[str] = ()) -> None:
        self.host, self.socket, self.options = host, socket, list(options)

    def riding(self, *words: str) -> list[str]:
        """The ssh command line that uses the connection and never opens one, or asks a question, of its own."""
        return ["ssh", *self.options, "-S", str(self.socket), "-o", "ControlMaster=no", "-o", "BatchMode=yes", *words]

    def open(self, how: Sequence[str] = (), env: Mapping[str, str] | None = None) -> str | None:
        """Log in by the further options `how`. None when the connection is open, else what was said last.

        A code or a PIN is asked for on the terminal, or by SSH_ASKPASS where there is none or SSH_ASKPASS_REQUIRE says so.
        """
        self.socket.unlink(missing_ok=True)  # a master that was killed leaves it, and ssh would go on without being one
        return self.attempt([*how, "-o", "ControlMaster=yes", "-S", str(self.socket), "-N", "-f", self.host], env)

    def attempt(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> str | None:
        """Run ssh once with `words`, beside any connection. None when that worked, else what was said last."""
        env = os.environ | (env or {})
        if sys.stdin.isatty() and env.get("SSH_ASKPASS_REQUIRE") not in ("force", "prefer"):
            env |= {"SSH_ASKPASS": str(self._terminal()), "SSH_ASKPASS_REQUIRE": "force"}
        asks = [] if env.get("SSH_ASKPASS") else ["-o", "BatchMode=yes"]
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
        # The last line alone would be "Host key verification failed": which key, and of which file, stands before it.
        return None if done.returncode == 0 else " ".join(" ".join(log.read_text().splitlines()[-3:]).split()) or "no answer"

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

    def _terminal(self) -> Path:
        """A program that asks on the terminal."""
        script = self.socket.with_suffix(".ask")
        lock = self.socket.with_name("terminal.lock")
        argv = shlex.join([sys.executable, "-I", askpass.__file__, str(lock)])
        script.write_text(f'#!/bin/sh\nexec {argv} "$@"\n')
        script.chmod(0o700)
        return script

    def _tell(self, word: str) -> int:
        return subprocess.run(self.riding("-O", word, self.host), capture_output=True, check=False).returncode
