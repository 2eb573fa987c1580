"""At the server's console: a serial line, a log-in prompt, and nothing else."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testinfra.host import Host

from kit.vm import Machine

GETTY = "serial-getty@ttyS1.service"
PROMPT = r"[#$] $"
ASKED = r"(?<!Last )login: $"  # "Last login: " is said to whoever has come in


class Console:
    """One serial line on which a name is asked for, and all that was said on it."""

    def __init__(self, line: socket.socket) -> None:
        self.line, self.said = line, ""

    def log_in(self, name: str, password: str) -> bool:
        """Whether `name` gets in with `password`; logged out again afterwards."""
        self.type(name, r"Password: $")
        let_in = bool(re.search(PROMPT, self.type(password, rf"{ASKED}|{PROMPT}")))
        if let_in:
            self.type("exit", ASKED)
        return let_in

    def type(self, text: str, until: str, seconds: float = 60) -> str:
        """What comes back after a line is typed, up to what `until` matches. Raises AssertionError when it does not come."""
        self.line.sendall(text.encode() + b"\r")
        answer, deadline = "", time.monotonic() + seconds
        while not re.search(until, answer):
            assert time.monotonic() < deadline, f"control: {until!r} did not come: {answer!r}"
            try:
                answer += self.line.recv(4096).decode(errors="replace")
            except TimeoutError:
                continue
        self.said += answer
        return answer


@contextmanager
def console(host: Host, vm: Machine) -> Iterator[Console]:
    """Somebody has plugged in a serial cable, and the server asks who it is."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(1)
        line.connect(str(vm.state / "run/console"))
        host.check_output(f"systemctl start {GETTY}")
        try:
            asked = Console(line)
            asked.type("", ASKED)
            yield asked
        finally:
            host.run(f"systemctl stop {GETTY}")
