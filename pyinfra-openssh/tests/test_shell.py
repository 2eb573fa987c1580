"""The one root shell, tried on a shell of this machine: what it says, what it survives, how it ends."""

from __future__ import annotations

import filecmp
import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyinfra_openssh.shell import Shell, ShellGone


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A shell as the server's would be, without the server."""
    here = Shell(["sh"], "here")
    yield here
    here.close()


@pytest.mark.parametrize(
    ("command", "rc", "stdout", "stderr"),
    [
        ("echo hi; exit 3", 3, b"hi\n", b""),
        ("printf x; printf y >&2", 0, b"x", b"y"),
        ("cat", 0, b"", b""),
        ("printf 'a\\0b'", 0, b"a\0b", b""),
        ("printf '\\n\\n'", 0, b"\n\n", b""),
        ("kill -TERM $(exec sh -c 'echo $PPID')", 143, b"", b"Terminated\n"),
    ],
)
def test_a_command_says_what_it_says(shell: Shell, command: str, rc: int, stdout: bytes, stderr: bytes) -> None:
    """Exit code and both streams, byte by byte."""
    done = shell.run(command)
    assert (done.rc, done.stdout, done.stderr) == (rc, stdout, stderr)


def test_nothing_of_a_command_stays(shell: Shell) -> None:
    """Directory, variables and a syntax error end with the command that brought them."""
    before = shell.run("pwd").stdout
    assert shell.run("cd /; x=1; echo 'unterminated").rc != 0
    assert shell.run("cd /; x=1").rc == 0
    assert shell.run('echo "[$x]"; pwd').stdout == b"[]\n" + before


def test_standard_input_arrives_whole(shell: Shell) -> None:
    """Any bytes, and more of them than a pipe holds."""
    data = os.urandom(300_000)
    assert shell.run("cat", stdin=data).stdout == data


def test_a_pipe_that_ssh_made_non_blocking(shell: Shell) -> None:
    """ssh hands its standard input to the master, which sets O_NONBLOCK on it, for us as well."""
    os.set_blocking(shell._process.stdin.fileno(), False)  # type: ignore[union-attr]  # noqa: SLF001 - what ssh does behind our back
    data = os.urandom(3_000_000)
    assert shell.run("sleep 0.3; cat", stdin=data).stdout == data


def test_much_output_on_both_streams(shell: Shell) -> None:
    """Neither stream waits for the other to be read."""
    done = shell.run("head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2; exit 7")
    assert (done.rc, len(done.stdout), len(done.stderr)) == (7, 2_000_000, 2_000_000)


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(100_000)], ids=["empty", "one byte", "100 kB"])
def test_an_upload_is_nobody_elses_from_the_first_byte(shell: Shell, tmp_path: Path, data: bytes) -> None:
    """An old file with wide rights does not lend them to the new one."""
    target = tmp_path / "odd name'$(x)"
    target.touch(0o666)
    shell.put(io.BytesIO(data), str(target))
    assert target.read_bytes() == data
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_an_upload_that_fails_says_why(shell: Shell, tmp_path: Path) -> None:
    """The path and the server's own words."""
    with pytest.raises(OSError, match="here: .*no/file"):
        shell.put(io.BytesIO(b"x"), str(tmp_path / "no" / "file"))


def test_an_upload_fills_no_memory(shell: Shell, tmp_path: Path) -> None:
    """20 MB arrive whole, and the shell that took them never held them."""
    target, source = tmp_path / "image", tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(20):
            file.write(os.urandom(1_000_000))
    with source.open("rb") as file:
        shell.put(file, str(target))
    assert filecmp.cmp(source, target, shallow=False)
    assert int(shell.run("awk '/VmHWM/ { print $2 }' /proc/$$/status").stdout) < 10_000


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 5_000_000])
def test_a_download_is_what_lies_there(shell: Shell, tmp_path: Path, size: int) -> None:
    """Whatever its size and name."""
    source, target = tmp_path / "odd name'$(x)\n", io.BytesIO()
    source.write_bytes(os.urandom(size))
    shell.get(str(source), target)
    assert target.getvalue() == source.read_bytes()


def test_a_download_that_fails_says_why(shell: Shell, tmp_path: Path) -> None:
    """The path and the server's own words; the shell goes on."""
    with pytest.raises(OSError, match="here: .*/missing"):
        shell.get(str(tmp_path / "missing"), io.BytesIO())
    assert shell.run("echo on").stdout == b"on\n"


def test_half_an_upload_leaves_nothing(tmp_path: Path) -> None:
    """The connection ends in the middle of a piece: the old file is as it was, and nothing lies beside it."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2_000_000:
                os.write(shell._process.stdin.fileno(), b"printf %s 'half a pie")  # type: ignore[union-attr]  # noqa: SLF001
                raise KeyboardInterrupt
            return super().read(size)

    shell = Shell(["sh"], "here")
    target = tmp_path / "image"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        shell.put(Broken(os.urandom(4_000_000)), str(target))
    shell.close()
    assert (target.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["image"])


def test_what_did_not_arrive_whole_takes_no_place(shell: Shell, tmp_path: Path) -> None:
    """The disk is full (here: no file may grow): the old file stays, and nothing lies beside it."""
    target = tmp_path / "image"
    target.write_text("old")
    limited = Shell(["sh", "-c", "ulimit -f 1000; trap '' XFSZ; exec sh"], "here")
    with pytest.raises(OSError, match="what arrived is not what was sent"):
        limited.put(io.BytesIO(os.urandom(4_000_000)), str(target))
    assert limited.run("echo on").stdout == b"on\n"
    limited.close()
    assert (target.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["image"])


def test_a_lost_connection_is_told_from_a_failed_command(shell: Shell) -> None:
    """It names the host and the command during which it was lost, and every later command says so too."""
    with pytest.raises(ShellGone, match="here: the connection ended during: kill"):
        shell.run("kill -KILL $$; sleep 1")
    with pytest.raises(ShellGone):
        shell.run("true")


def test_a_command_without_end_is_given_up(shell: Shell) -> None:
    """The time-out names the host and the command."""
    with pytest.raises(TimeoutError, match="here: no end after 0.3 s: sleep 30"):
        shell.run("sleep 30", timeout=0.3)


def test_what_was_begun_is_answered_in_its_turn(shell: Shell) -> None:
    """More than a pipe holds either way; what is run meanwhile gets its own answer, whichever is asked for first."""
    padding = "x" * 200_000
    first = shell.begin(f": {padding}; head -c 200000 /dev/zero; exit 3")
    second = shell.begin("echo second")
    assert shell.run("echo third").stdout == b"third\n"
    assert second().stdout == b"second\n"
    assert (first().rc, len(first().stdout)) == (3, 200_000)


def test_a_connection_that_is_lost_under_what_was_begun(shell: Shell) -> None:
    """Whoever waits is told, and so is whoever comes after."""
    answer = shell.begin("kill -KILL $$; sleep 1")
    with pytest.raises(ShellGone, match="here: the connection (had )?ended"):
        answer()
    with pytest.raises(ShellGone):
        shell.run("true")


def test_who_leaves_does_not_wait_for_what_was_begun() -> None:
    """Nobody will read its answer."""
    shell, began = Shell(["sh"], "here"), time.monotonic()
    shell.begin("exec sleep 30")
    shell.close()
    assert time.monotonic() - began < 3
