"""One shell on a server, kept open: a command costs one round trip, no log-in, no session, no sudo."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import secrets
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

# A file travels in pieces of this size: the server's shell holds no more than one of them, a few times over.
PIECE = 3 << 18  # bytes; divisible by three, so that base64 pads none but the last

T = TypeVar("T")
TAIL = 64  # bytes; the mark at the end of a stream is shorter


class ShellGone(ConnectionError):
    """The connection under the shell ended: nobody knows how far the last command came."""


@dataclass(frozen=True)
class Result:
    """What a command said: its exit code and both streams, as bytes."""

    rc: int
    stdout: bytes
    stderr: bytes


def marks() -> tuple[str, str]:
    """A nonce, and the line that says it on both streams, with the exit code of what came before."""
    nonce = secrets.token_hex(12)
    return nonce, f"{{ printf '\\n{nonce} %d\\n' $?; printf '\\n{nonce}\\n' >&2; }}\n"


class Shell:
    """A POSIX shell at the other end of `argv`, fed over its standard input.

    Each command runs in a subshell, so that `exit`, `cd` and a syntax error end with it. A nonce on both streams marks its end;
    `/dev/null` is its standard input, unless one is given.
    """

    def __init__(self, argv: Sequence[str], label: str) -> None:
        """Start `argv`; `label` names the host in errors."""
        self.argv, self.label = list(argv), label
        self._lock = threading.RLock()
        self._begun: Callable[[], Result] | None = None
        self._process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)

    def again(self) -> Shell:
        """Another one, started as this one was."""
        return Shell(self.argv, self.label)

    @property
    def ended(self) -> bool:
        """Whether it can be used no more; whatever is raised in the middle of a command ends it."""
        return self._process.stdin.closed or self._process.poll() is not None  # type: ignore[union-attr]

    def run(self, command: str, stdin: bytes | None = None, timeout: float | None = None, shown: str | None = None) -> Result:
        """Run `command` and wait for its end, at most `timeout` seconds. `shown` stands for it in errors: it may hold a secret.

        Raises ShellGone when the connection ends first, TimeoutError when time does.
        """
        before, source = "", "</dev/null"
        if stdin is not None:
            before, source = f"printf %s {shlex.quote(base64.b64encode(stdin).decode())} | base64 -d | ", ""
        return self._exchange([f"{before}( eval {shlex.quote(command)} ) {source}\n".encode()], shown or command, timeout)

    def begin(self, command: str, timeout: float | None = None) -> Callable[[], Result]:
        """Send `command`, and go on; what this returns waits for its end, at most `timeout` seconds. Both raise as `run` does.

        Whatever is run before its answer was asked for waits for it, too.
        """
        nonce, end = marks()
        said: list[Result] = []

        def result() -> Result:
            with self._lock:
                if not said:
                    self._begun = None
                    said.append(self._guarded(command, lambda: self._feed(iter([b""]), nonce, command, timeout, None)))
                return said[0]

        with self._lock:
            self._settle()
            self._guarded(command, lambda: self._send(f"( eval {shlex.quote(command)} ) </dev/null\n{end}".encode(), command))
            self._begun = result
        return result

    def put(self, source: BinaryIO, path: str, mode: str = "600") -> None:
        """Create or replace `path` whole or not at all: 0600 and under a name nobody can guess until its checksum is right, then `mode`.

        Raises OSError with what the server said.
        """
        done = self._exchange(self._pieces(source, path, mode), f"upload of {path}", None)
        if done.rc:
            raise OSError(f"{self.label}: {path}: {done.stderr.decode(errors='replace').strip()}")

    def _pieces(self, source: BinaryIO, path: str, mode: str) -> Iterator[bytes]:
        """The upload as commands, none of which is large. A shell whose connection ends in the middle takes its half away."""
        digest = hashlib.sha256()
        beside = shlex.quote(f"{os.path.dirname(path) or '.'}/.put.XXXXXXXXXX")
        yield f"trap 'rm -f \"$put\"' EXIT; put=$(umask 077; mktemp -- {beside})\n".encode()
        while piece := source.read(PIECE):
            digest.update(piece)
            yield b'test -z "$put" || printf %s \'' + base64.b64encode(piece) + b'\' | base64 -d >>"$put"\n'
        yield (
            f'( test -n "$put" || exit 1\n test "$(sha256sum <"$put")" = "{digest.hexdigest()}  -" || '
            f'{{ echo "what arrived is not what was sent" >&2; exit 1; }}\n chmod {mode} "$put" && mv -fT -- "$put" {shlex.quote(path)} ) '
            '|| { rm -f "$put"; false; }; eval "trap - EXIT; unset put; (exit $?)"\n'
        ).encode()

    def get(self, path: str, target: BinaryIO) -> None:
        """Write what lies at `path` into `target` as it comes. Raises OSError with what the server said, or when the checksum differs."""
        digest = hashlib.sha256()

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            target.write(chunk)

        quoted = shlex.quote(path)
        done = self._exchange([f"( sha256sum <{quoted} >&2 && cat <{quoted} ) </dev/null\n".encode()], f"download of {path}", None, take)
        said = done.stderr.decode(errors="replace").strip()
        if done.rc:
            raise OSError(f"{self.label}: {path}: {said}")
        if said != f"{digest.hexdigest()}  -":
            raise OSError(f"{self.label}: {path}: what arrived is not what lies there; does something write to it?")

    def close(self) -> None:
        """End the shell; what it started in the background goes on."""
        self._process.stdin.close()  # type: ignore[union-attr]
        if self._begun:  # nobody will read what it says
            self._process.kill()
        if self._process.poll() is None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()  # type: ignore[union-attr]

    def _exchange(self, commands: Iterable[bytes], what: str, timeout: float | None, take: Callable[[bytes], None] | None = None) -> Result:
        """Feed `commands` to the shell; the exit code is that of the last one. `what` names them in errors.

        `take` gets the output as it comes, instead of the result.
        """
        nonce, end = marks()
        with self._lock:
            self._settle()
            return self._guarded(what, lambda: self._feed(itertools.chain(commands, [end.encode()]), nonce, what, timeout, take))

    def _settle(self) -> None:
        """The answer to what was begun comes first."""
        if self._begun:
            self._begun()

    def _guarded(self, what: str, talk: Callable[[], T]) -> T:
        """What `talk` gives; when it fails, the shell ends with it. Raises ShellGone when it had ended before."""
        if self.ended:
            raise ShellGone(f"{self.label}: the connection had ended before: {what[:200]}")
        try:
            return talk()
        except BaseException:  # what this command says yet would be taken for the answer to the next one
            self._process.stdin.close()  # type: ignore[union-attr]
            raise

    def _send(self, script: bytes, what: str) -> None:
        """Write all of what is one command: it says nothing before it has read its end, so nobody need read meanwhile."""
        into, unsent = self._process.stdin.fileno(), memoryview(script)  # type: ignore[union-attr]
        while unsent:
            select.select([], [into], [])
            unsent = unsent[self._write(unsent[:65536], what) :]

    def _feed(self, script: Iterator[bytes], nonce: str, what: str, timeout: float | None, take: Callable[[bytes], None] | None) -> Result:
        """Write and read at once: neither side waits for the other, and ssh may have made our pipes non-blocking."""
        into, out, err = (stream.fileno() for stream in (self._process.stdin, self._process.stdout, self._process.stderr))  # type: ignore[union-attr]
        seen = {out: bytearray(), err: bytearray()}
        wanted = {out: f"\n{nonce} ".encode(), err: f"\n{nonce}\n".encode()}
        unsent, unread = memoryview(next(script)), {out, err}
        deadline = None if timeout is None else time.monotonic() + timeout
        while unread:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            readable, writable, _ = select.select(unread, [into] if unsent else [], [], left)
            if not readable and not writable:
                self._process.kill()  # a command without end would hold up a friendly good-bye
                self.close()
                raise TimeoutError(f"{self.label}: no end after {timeout} s: {what[:200]}")
            for stream in readable:
                chunk = os.read(stream, 65536)
                if not chunk:
                    raise self._gone(bytes(seen[err]), what)
                seen[stream] += chunk
                if seen[stream].endswith(b"\n") and wanted[stream] in seen[stream][-TAIL:]:
                    unread.discard(stream)
                elif take and stream == out and len(seen[out]) > TAIL:
                    take(bytes(seen[out][:-TAIL]))
                    del seen[out][:-TAIL]
            if writable:
                unsent = unsent[self._write(unsent[:65536], what) :] or memoryview(next(script, b""))
        stdout, _, code = bytes(seen[out]).rpartition(wanted[out])
        if take:
            take(stdout)
            stdout = b""
        return Result(int(code), stdout, bytes(seen[err]).rpartition(wanted[err])[0])

    def _write(self, data: bytes | memoryview, what: str) -> int:
        """How many bytes of `data` the pipe took now; none is an answer too."""
        try:
            return os.write(self._process.stdin.fileno(), data)  # type: ignore[union-attr]
        except BlockingIOError:
            return 0
        except BrokenPipeError as gone:
            raise self._gone(b"", what) from gone

    def _gone(self, stderr: bytes, what: str) -> ShellGone:
        said = stderr.decode(errors="replace").strip()
        return ShellGone(f"{self.label}: the connection ended during: {what[:200]}{': ' + said if said else ''}")
