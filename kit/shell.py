"""One root shell on a server, kept open: a command costs one round trip, no log-in, no session, no sudo."""

from __future__ import annotations

import base64
import os
import secrets
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass


class ShellGone(ConnectionError):
    """The connection under the shell ended: nobody knows how far the last command came."""


@dataclass(frozen=True)
class Result:
    """What a command said: its exit code and both streams, as bytes."""

    rc: int
    stdout: bytes
    stderr: bytes


class RootShell:
    """A POSIX shell at the other end of `argv`, fed over its standard input.

    Each command runs in a subshell, so that `exit`, `cd` and a syntax error end with it. A nonce on both streams marks its end;
    `/dev/null` is its standard input, unless one is given.
    """

    def __init__(self, argv: Sequence[str], label: str) -> None:
        """Start `argv`; `label` names the host in errors."""
        self.argv, self.label = list(argv), label
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def run(self, command: str, stdin: bytes | None = None, timeout: float | None = None) -> Result:
        """Run `command` and wait for its end, at most `timeout` seconds.

        Raises ShellGone when the connection ends first, TimeoutError when time does; the shell cannot be used after either.
        """
        nonce = secrets.token_hex(12)
        source = "</dev/null"
        before = ""
        if stdin is not None:
            before, source = f"printf %s {shlex.quote(base64.b64encode(stdin).decode())} | base64 -d | ", ""
        script = (
            f"{before}( eval {shlex.quote(command)} ) {source}\n"
            f"{{ printf '\\n{nonce} %d\\n' $?; printf '\\n{nonce}\\n' >&2; }}\n"
        )
        with self._lock:
            return self._exchange(script.encode(), nonce.encode(), command, timeout)

    def put(self, data: bytes, path: str, mode: str = "600") -> None:
        """Create or replace `path`: 0600 from the first byte, `mode` at the end. Raises OSError with what the server said."""
        target = shlex.quote(path)
        done = self.run(f"set -eu; umask 077; rm -f {target}; cat > {target}; chmod {mode} {target}", stdin=data)
        if done.rc:
            raise OSError(f"{self.label}: {path}: {done.stderr.decode(errors='replace').strip()}")

    def close(self) -> None:
        """End the shell; what it started in the background goes on."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()  # type: ignore[union-attr]

    def _exchange(self, script: bytes, nonce: bytes, command: str, timeout: float | None) -> Result:
        """Write and read at once: neither side waits for the other, and ssh may have made our pipes non-blocking."""
        into, out, err = (stream.fileno() for stream in (self._process.stdin, self._process.stdout, self._process.stderr))  # type: ignore[union-attr]
        seen = {out: bytearray(), err: bytearray()}
        wanted = {out: b"\n" + nonce + b" ", err: b"\n" + nonce + b"\n"}
        unsent, unread = memoryview(script), {out, err}
        deadline = None if timeout is None else time.monotonic() + timeout
        while unread:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            readable, writable, _ = select.select(unread, [into] if unsent else [], [], left)
            if not readable and not writable:
                self._process.kill()  # a command without end would hold up a friendly good-bye
                self.close()
                raise TimeoutError(f"{self.label}: no end after {timeout} s: {command[:200]}")
            for stream in readable:
                chunk = os.read(stream, 65536)
                if not chunk:
                    raise self._gone(bytes(seen[err]), command)
                seen[stream] += chunk
                if seen[stream].endswith(b"\n") and wanted[stream] in seen[stream][-64:]:
                    unread.discard(stream)
            if writable:
                unsent = unsent[self._write(unsent[:65536], command) :]
        stdout, _, code = bytes(seen[out]).rpartition(wanted[out])
        return Result(int(code), stdout, bytes(seen[err]).rpartition(wanted[err])[0])

    def _write(self, data: bytes | memoryview, command: str) -> int:
        """How many bytes of `data` the pipe took now; none is an answer too."""
        try:
            return os.write(self._process.stdin.fileno(), data)  # type: ignore[union-attr]
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ValueError) as gone:
            raise self._gone(b"", command) from gone

    def _gone(self, stderr: bytes, command: str) -> ShellGone:
        said = stderr.decode(errors="replace").strip()
        return ShellGone(f"{self.label}: the connection ended during: {command[:200]}{': ' + said if said else ''}")
