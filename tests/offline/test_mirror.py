"""The box is built from the mirror that the technician's machine itself uses, however apt's sources are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.mirror import MirrorError, mirrors

DEB822 = """\
Types: deb
# a comment inside the stanza
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://switched-off.example/debian
Suites: sid
Components: main
"""
ONE_LINE = """\
# deb http://commented-out.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/other.gpg] https://vendor.example/apt nodistro main
deb [arch=amd64] http://lines.example/debian bookworm main
deb http://lines.example/debian-security bookworm-security main
"""


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CABINET_DEBIAN_MIRROR", raising=False)
    monkeypatch.delenv("CABINET_DEBIAN_SECURITY_MIRROR", raising=False)


def machine(directory: Path, os_id: str, **sources: str) -> tuple[Path, Path]:
    """A machine's /etc/apt and /etc/os-release; `sources` maps `list` and `sources` to a file's text."""
    (directory / "sources.list.d").mkdir()
    for suffix, text in sources.items():
        (directory / "sources.list.d" / f"debian.{suffix}").write_text(text)
    (directory / "os-release").write_text(f'NAME="x"\nID={os_id}\n')
    return directory, directory / "os-release"


@pytest.mark.parametrize(("suffix", "text", "host"), [("sources", DEB822, "mirror.example"), ("list", ONE_LINE, "lines.example")])
def test_both_formats_of_apt_sources_are_read(tmp_path: Path, suffix: str, text: str, host: str) -> None:
    """Comments, sources of other vendors and switched-off stanzas are not taken for the archive."""
    apt, os_release = machine(tmp_path, "debian", **{suffix: text})
    assert mirrors(apt, os_release) == (f"http://{host}/debian", f"http://{host}/debian-security")


def test_a_machine_that_is_not_debian_must_name_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu's sources are no Debian mirror; the error names the variable, and the variable helps."""
    apt, os_release = machine(tmp_path, "ubuntu", list="deb http://ubuntu.example/ubuntu noble main\n")
    with pytest.raises(MirrorError, match="CABINET_DEBIAN_MIRROR"):
        mirrors(apt, os_release)
    monkeypatch.setenv("CABINET_DEBIAN_MIRROR", "http://chosen.example/debian/")
    assert mirrors(apt, os_release) == ("http://chosen.example/debian", "http://chosen.example/debian-security")


def test_a_debian_without_an_archive_says_what_is_missing(tmp_path: Path) -> None:
    """A machine that installs from elsewhere gets a sentence, not a traceback."""
    apt, os_release = machine(tmp_path, "debian", list="deb https://vendor.example/apt nodistro main\n")
    with pytest.raises(MirrorError, match="no Debian archive in .*: set CABINET_DEBIAN_MIRROR"):
        mirrors(apt, os_release)
