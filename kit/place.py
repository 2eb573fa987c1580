"""A place to be root in: a Debian of its own in namespaces of its own, in memory. What is done there, the machine around it never sees."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Self

from kit import mirror
from kit.host import as_admin, stream
from kit.paths import cache_dir

PACKAGES = [
    "cryptsetup-bin", "e2fsprogs", "libpam-google-authenticator", "nano", "openssh-server", "passwd", "python3-apt", "restic",
    "restic-rest-server", "sudo",
]  # fmt: skip
# What tests of the database and of the recovery kit need as well: a system of its own, because each place is unpacked into memory.
SERVER = (
    "eatmydata", "faketime", "pgbackrest", "poppler-utils", "postgresql-17", "postgresql-17-pgaudit", "qrencode", "systemd-cryptsetup",
    "zbar-tools",
)  # fmt: skip
# Half of its bytes, which each place would unpack into memory: what is there to be read, and PostgreSQL's compiler for long queries.
LEFT_OUT = (
    "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*",
    "/usr/lib/postgresql/*/lib/llvm*", "/usr/lib/postgresql/*/lib/bitcode/*",
)  # fmt: skip
# The system itself lies under an overlay: what was changed is what lies in `changed`. It ends with its standard input, so with us.
ENTER = """set -eu
read -r pid rest </proc/self/stat
mount -t tmpfs -o mode=755 place /mnt && cd /mnt
mkdir system changed work cabinet-place
tar -xf - -C system <"$1"
mount -t overlay -o lowerdir=system,upperdir=changed,workdir=work place cabinet-place
mount -t proc proc cabinet-place/proc
mount --rbind /dev cabinet-place/dev
exec chroot cabinet-place sh -c 'echo "$1"; exec cat >/dev/null' sh $pid"""
# Stands for systemd, which does not run there: what was started or enabled is so from then on.
SYSTEMCTL = r"""#!/bin/sh
for word; do case $word in *.path | *.service | *.timer) unit=$word ;; esac; done
said() { grep -qsx "$1 $unit" /var/lib/systemctl; }
active=inactive sub=dead file=disabled
! said start || { active=active sub=running; }
! said enable || file=enabled
! said mask || file=masked
case "$1" in
  show) printf "Id=%s\nLoadState=loaded\nActiveState=%s\nSubState=%s\nUnitFileState=%s\n" "$unit" $active $sub $file ;;
  is-enabled) echo $file; [ $file = enabled ] ;;
  --*) shift; exec "$0" "$@" ;;
  *) echo "$*" >> /var/lib/systemctl ;;
esac
"""
CHANGES = """cd /mnt/changed
find . -printf '%P %y %m %U %G %l\\n' | sort
find . -type f -exec sha256sum {} + | sort -k 2"""


class Place:
    """`with Place() as place:` a plain system, always the same; it has no network. Needs root, or sudo that does not ask.

    `more` are packages that it has as well: each set is a system of its own.
    """

    def __init__(self, *more: str) -> None:
        self._more = more

    def __enter__(self) -> Self:
        tar = str(system(*self._more))
        enter = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", tar]
        self._process = subprocess.Popen(as_admin(enter), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.number = str(int(self._process.stdout.readline()))
        self._target = ["nsenter", "--target", self.number, "--mount", "--pid", "--net", "--uts", "--ipc"]
        install = self.inside("cat > /usr/bin/systemctl; chmod 755 /usr/bin/systemctl")
        subprocess.run(install, input=SYSTEMCTL, text=True, check=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def inside(self, command: str) -> list[str]:
        """The words that run a line of shell there, as root.

        By chroot to a name that no other system has: `nsenter --root` takes whatever root its target has at that moment, and that was,
        once, this machine's own.
        """
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
        return as_admin([*self._target, "chroot", "/mnt/cabinet-place", *clean, "sh", "-c", command])

    def changes(self) -> list[str]:
        """All that is not as it was: kind, rights, owner, and target or digest of each file; what was removed is a device (c)."""
        done = subprocess.run(as_admin([*self._target, "sh", "-c", CHANGES]), check=True, capture_output=True, text=True)
        return done.stdout.splitlines()


def system(*more: str) -> Path:
    """The system, with `more` packages, as a tar, made from Debian's archive when this week's is missing."""
    packages = [*PACKAGES, *sorted(more)]
    archive, security = mirror.mirrors()
    sources = [f"deb {archive} trixie main", f"deb {archive} trixie-updates main", f"deb {security} trixie-security main"]
    made_from = repr((packages, LEFT_OUT, sources, datetime.date.today().isocalendar()[:2]))
    tar = cache_dir() / f"place-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}.tar"
    # One lock for each: two processes make two systems at once.
    with open(tar.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            for old in cache_dir().glob("place-*.tar"):
                if time.time() - old.stat().st_mtime > 28 * 86400:  # a younger one may be another checkout's
                    old.unlink(missing_ok=True)
            staged = tar.with_suffix(".staged.tar")
            environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}  # an ordinary user's PATH on Debian lacks them
            options = ["--quiet", "--variant=apt", f"--include={','.join(packages)}", "--dpkgopt=force-unsafe-io"]
            options += [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
            stream(["mmdebstrap", *options, "trixie", str(staged), *sources], env=environment)
            staged.replace(tar)
    return tar
