"""Which revision of this tree is checked out, and whether it was edited since."""

from __future__ import annotations

import hashlib
import subprocess

from kit.paths import ROOT


def _git(*args: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, check=True).stdout


def revision() -> str:
    """The commit, 12 digits; of an edited tree with `+` and 8 digits of what differs: same edits, same revision."""
    commit = _git("rev-parse", "--short=12", "HEAD").decode().strip()
    edits = _git("diff", "HEAD", "--", "roles", "templates", "files", "practice", "clinics", "kit", "deploy.py")
    return f"{commit}+{hashlib.sha256(edits).hexdigest()[:8]}" if edits else commit
