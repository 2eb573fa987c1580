"""Where things lie: the checkout, the state that belongs to it, and the cache that all checkouts share."""

from __future__ import annotations

import hashlib
import os
import pwd
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Vagrant and QEMU never run as root: libvirt's user session does not exist for root.
RUNNER = "cabinet"

# libvirt hangs 50 more characters below the state directory, and a socket's path ends at 107.
LONGEST_STATE = 55


class PathError(Exception):
    """A directory that the kit needs cannot be used; the text names the remedy."""


def instance_id() -> str:
    """Eight characters that tell this checkout, with this state directory, from every other one on the machine."""
    return hashlib.sha256(f"{ROOT}{os.environ.get('CABINET_STATE', '')}".encode()).hexdigest()[:8]


def as_root() -> bool:
    """Whether the kit runs as root, as it does in CI."""
    return os.geteuid() == 0


def state_dir() -> Path:
    """The one directory that holds all state of this checkout; it is created when missing."""
    if override := os.environ.get("CABINET_STATE"):
        path = Path(override).resolve()
    elif as_root():
        path = Path("/var/lib/cabinet") / instance_id()
    else:
        path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "cabinet" / instance_id()
    if len(str(path)) > LONGEST_STATE:
        raise PathError(f"{path}: longer than {LONGEST_STATE} characters; set CABINET_STATE to a shorter directory")
    return _private(path)


def beside(what: str) -> Path:
    """The state directory of another machine of this checkout; whoever has it in CABINET_STATE means that one."""
    here = state_dir()
    return here.with_name(f"{here.name}-{what}")


def results(clinic: str, kind: str) -> Path:
    """The file in which the tests of `clinic` note what they found; `kind` is claims or sabotage.

    The twin's directory is a link to the original's, which nobody may have written into yet.
    """
    directory = (state_dir() / "results" / clinic).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{kind}.jsonl"


def cache_dir() -> Path:
    """The directory of files that any checkout can use, such as the box; it is created when missing."""
    shared = Path("/var/cache") if as_root() else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = shared / "cabinet"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _private(path: Path) -> Path:
    """Make `path` a directory that only the runner (and root) can enter."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    if as_root() and path.stat().st_uid != _runner_uid():
        os.chown(path, _runner_uid(), -1)
    return path


def _runner_uid() -> int:
    """The numeric id of the user `cabinet`, who is created when missing."""
    try:
        return pwd.getpwnam(RUNNER).pw_uid
    except KeyError:
        subprocess.run(
            ["useradd", "--system", "--user-group", "--home-dir", "/var/lib/cabinet", "--shell", "/bin/bash", RUNNER],
            check=True,
        )
        return pwd.getpwnam(RUNNER).pw_uid
