"""Commands on the technician's own machine: each is echoed, long ones show how far they are."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit.paths import RUNNER, as_root, state_dir

# Vagrant draws a bar of hundreds of lines, and says all of the Vagrantfile again.
NOISE = re.compile(r"^\s*$|Progress:|^==> \w+:  +-")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostError(Exception):
    """A command on this machine failed; the text holds the command and what it said."""


def runner() -> str:
    """The account that Vagrant and QEMU run as."""
    return RUNNER if as_root() else pwd.getpwuid(os.geteuid()).pw_name


def runner_env() -> dict[str, str]:
    """An environment in which libvirt and Vagrant find this checkout's own state and nobody else's."""
    state = state_dir()
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "USER": runner(),
        "LOGNAME": runner(),
        "HOME": str(state),
        # A runtime directory of its own gives each checkout a session libvirtd of its own. "c": see LONGEST_STATE.
        "XDG_RUNTIME_DIR": str(state / "run"),
        "XDG_CONFIG_HOME": str(state / "c"),
        "XDG_CACHE_HOME": str(state / "cache"),
        "XDG_DATA_HOME": str(state / "data"),
        "VAGRANT_HOME": str(state / "vagrant.d"),
        "VAGRANT_CWD": str(state / "vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_NO_COLOR": "1",
        "CABINET_STATE": str(state),
    }


def as_runner(args: Sequence[str]) -> list[str]:
    """The same command as the runner: root steps down, an ordinary user already is who he is."""
    return ["runuser", "-u", RUNNER, "--", *args] if as_root() else list(args)


def as_admin(args: Sequence[str]) -> list[str]:
    """The same command as root: directly, or by sudo, which must not ask here."""
    return list(args) if as_root() else ["sudo", "-n", *args]


def echo(args: Sequence[str]) -> None:
    """Show a command the way a person would have typed it."""
    print(f"[$ {shlex.join(args)}]", flush=True)


def capture(args: Sequence[str], *, runner: bool = False, show: bool = True, check: bool = True) -> str:
    """What a short command prints."""
    if show:
        echo(args)
    done = subprocess.run(
        as_runner(args) if runner else list(args),
        env=runner_env() if runner else None,
        cwd=state_dir() if runner else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if check and done.returncode:
        raise HostError(f"{shlex.join(args)}: exit code {done.returncode}\n{done.stdout.strip()}")
    return done.stdout


def stream(args: Sequence[str], *, runner: bool = False, env: Mapping[str, str] | None = None) -> None:
    """Run a long command and print its lines as they come, each after the seconds that went by."""
    echo(args)
    started = time.monotonic()
    with subprocess.Popen(
        as_runner(args) if runner else list(args),
        env=runner_env() if runner else {**os.environ, **(env or {})},
        cwd=state_dir() if runner else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not NOISE.search(line):
                print(f"{time.monotonic() - started:6.0f} s  {line.rstrip()}", flush=True)
    if process.returncode:
        raise HostError(f"{shlex.join(args)}: exit code {process.returncode}, see above")


def runner_directory(name: str) -> Path:
    """A directory of the runner inside the state directory, private, created when missing."""
    path = state_dir() / name
    if not path.is_dir():
        path.mkdir(mode=0o700)
        if as_root():
            account = pwd.getpwnam(RUNNER)
            os.chown(path, account.pw_uid, account.pw_gid)
    return path
