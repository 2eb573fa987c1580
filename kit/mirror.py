"""Which Debian mirror this machine uses: the box is built from the same one.

`python -m kit.mirror` prints the archive and the security archive, one per line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")


class MirrorError(Exception):
    """No Debian mirror is known; the text names the variable that helps."""


def mirrors(apt: Path = APT, os_release: Path = OS_RELEASE) -> tuple[str, str]:
    """The URIs of Debian's archive and of its security archive."""
    archive = os.environ.get("CABINET_DEBIAN_MIRROR", "")
    security = os.environ.get("CABINET_DEBIAN_SECURITY_MIRROR", "")
    if not archive and not re.search(r"^ID=\"?debian\"?$", os_release.read_text(), re.MULTILINE):
        raise MirrorError("this machine is not Debian: set CABINET_DEBIAN_MIRROR to the URI of a Debian mirror")
    known = list(_sources(apt))
    archive = archive or next((uri for uri, suite in known if _is_archive(suite)), "")
    security = security or next((uri for uri, suite in known if suite.endswith("-security")), "")
    if not archive:
        raise MirrorError(f"no Debian archive in {apt}: set CABINET_DEBIAN_MIRROR to the URI of a Debian mirror")
    # Mirrors keep the security archive beside the archive.
    return archive.rstrip("/"), (security or archive.rstrip("/") + "-security").rstrip("/")


def _is_archive(suite: str) -> bool:
    """Whether a suite is a Debian release itself: its name is one of Debian's, without a suffix."""
    return suite in {"bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"}


def _sources(apt: Path) -> Iterator[tuple[str, str]]:
    """All pairs of URI and suite that apt fetches binary packages from."""
    for path in sorted([apt / "sources.list", *(apt / "sources.list.d").glob("*")]):
        if path.suffix == ".sources":
            yield from deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            yield from one_line(path.read_text())


def one_line(text: str) -> Iterator[tuple[str, str]]:
    """The pairs in the one-line format: `deb [options] URI suite component…`."""
    for found in re.finditer(r"^\s*deb\s+(?:\[[^\]]*\]\s+)?(https?://\S+)\s+(\S+)", text, re.MULTILINE):
        yield found[1], found[2]


def deb822(text: str) -> Iterator[tuple[str, str]]:
    """The pairs in the deb822 format: stanzas of fields, continued by indented lines."""
    plain = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", plain):
        fields = {key.lower(): value.split() for key, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            for uri in fields.get("uris", []):
                if uri.startswith(("http://", "https://")):
                    yield from ((uri, suite) for suite in fields.get("suites", []))


if __name__ == "__main__":
    try:
        print(*mirrors(), sep="\n")
    except MirrorError as error:
        sys.exit(f"{error}")
