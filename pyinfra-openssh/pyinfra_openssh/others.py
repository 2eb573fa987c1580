"""Accounts that have no shell of their own here: commands go by pyinfra's command line (sudo with a password, su, doas), files too."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from typing import Any

# What makes a shell of another account an answer to something else than was asked.
KINDS = ("_sudo_password", "_use_sudo_login", "_preserve_sudo_env", "_su_user", "_doas", "_dzdo")

TAKES = """umask 077; put=$(mktemp -- {beside}) && cat >"$put" && {{
test "$(sha256sum <"$put")" = "{digest}  -" || {{ echo "what arrived is not what was sent" >&2; false; }}; }} &&
mv -fT -- "$put" {path} || {{ rm -f "$put"; false; }}"""


def concerned(arguments: Mapping[str, Any]) -> bool:
    """Whether a command is for such an account."""
    return any(arguments.get(each) for each in ("_sudo", *KINDS))


def takes(data: bytes, path: str) -> str:
    """The command that puts `data`, its standard input, in its place: whole or not at all, 0600 from the first byte."""
    beside = shlex.quote(f"{os.path.dirname(path) or '.'}/.put.XXXXXXXXXX")
    return TAKES.format(beside=beside, digest=hashlib.sha256(data).hexdigest(), path=shlex.quote(path))


def gives(path: str) -> str:
    """The command that says what lies at `path`, as base64: what a command says is taken for text."""
    return f"base64 -- {shlex.quote(path)}"
