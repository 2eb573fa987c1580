"""A server without a server: stand-ins for ssh and sudo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Stands for ssh where no server is: the same words, a shell of this machine at the other end. `log` counts what was started.
SSH = """#!/bin/sh
echo "$*" >> {log}
while [ $# -gt 0 ]; do case $1 in
  -S) socket=$2; shift 2 ;;
  -O) word=$2; shift 2; [ -e "$socket" ] || exit 255; [ $word != exit ] || rm "$socket"; exit 0 ;;
  -N) master=1; shift ;;
  -o | -F | -l | -p) shift 2 ;;
  -*) shift ;;
  *) host=$1; shift; break ;;
esac; done
[ "$host" != nowhere ] || {{ echo "ssh: Could not resolve hostname nowhere" >&2; exit 255; }}
if [ -n "$master" ]; then : > "$socket"; exit 0; fi
[ -e "$socket" ] || {{ echo "no connection" >&2; exit 255; }}
cd {home} && exec sh -c "$*"
"""

# Becomes anybody but the stranger, for whom it wants the password "pass'word", from SUDO_ASKPASS alone.
SUDO = """#!/bin/sh
user=root
while [ $# -gt 0 ]; do case $1 in -u) user=$2; shift 2 ;; -A) asks=1; shift ;; -*) shift ;; *) break ;; esac; done
if [ $user = stranger ]; then
  [ "$asks" ] || { echo "sudo: a password is required" >&2; exit 1; }
  [ "$("$SUDO_ASKPASS")" = "pass'word" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
fi
echo "sudo $user" >> {home}/ssh.log
BECAME=$user exec "$@"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with stand-ins for ssh and sudo, and something to deploy."""
    (tmp_path / "bin").mkdir()
    for name, text in (("ssh", SSH.format(home=tmp_path, log=tmp_path / "ssh.log")), ("sudo", SUDO.replace("{home}", str(tmp_path)))):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "t.source").write_bytes(os.urandom(3000))
    (tmp_path / "t.j2").write_text("value: {{ value }}\n")
    return tmp_path
