"""What a first deploy lays down before the packages: all that does nothing by itself, once, and over nothing that lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit import beforehand
from kit.paths import ROOT

DEPLOY = """
import re
from kit import beforehand, manifest, operations as kit
manifest.SET_ASIDE = manifest.SET_ASIDE.replace("/etc/cabinet", "{top}").replace("/var/lib/cabinet", "{top}")
beforehand.PLACES, beforehand.ARCHIVE = re.compile("{top}/etc/.*"), "{top}/archive"
kit.STAMP = "{top}/stamp"
kit.laid_beforehand(name="lay down")
kit.script(name="look", unless="false", run="cd {top} && grep -rc '' etc archive | sort >seen")
kit.config_file(name="a file", dest="{top}/etc/new/one", content="wanted\\n")
kit.config_file(name="with a check", dest="{top}/etc/checked", content="wanted\\n", check="true {{}}")
kit.config_file(name="elsewhere", dest="{top}/var", content="wanted\\n")
kit.config_file(name="not for everybody", dest="{top}/etc/private", content="wanted\\n", mode="640")
kit.config_file(name="somebody's", dest="{top}/etc/there", content="wanted\\n")
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """All of a server below one directory, with a systemctl that only says what it was asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n')
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/there").write_text("by\nhand\n")
    (tmp_path / "deploy.py").write_text(DEPLOY.format(top=tmp_path))
    return tmp_path


def begun(top: Path) -> set[str]:
    """The files, each with its number of lines, as they lie there after the first operation of a deploy; the rest may need root."""
    argv = [sys.executable, "-m", "pyinfra", "@local", str(top / "deploy.py"), "--yes"]
    subprocess.run(argv, cwd=ROOT, env=os.environ | {"PATH": f"{top}/bin:{os.environ['PATH']}"}, capture_output=True, check=False)
    return set((top / "seen").read_text().split())


def test_a_first_deploy_lays_down_at_once_what_waits_for_its_operation(top: Path) -> None:
    """Neither what must be checked nor what not everybody may read, and nothing over what lies there; then systemd looks, once."""
    assert begun(top) == {"etc/new/one:1", "etc/there:2"}
    assert (top / "asked").read_text() == "daemon-reload\n"


def test_a_deploy_after_the_first_lays_down_nothing(top: Path) -> None:
    """Each file comes by its own operation then, which shows and asks."""
    (top / "stamp").touch()
    assert begun(top) == {"etc/there:2"}
    assert not (top / "asked").exists()


@pytest.mark.parametrize(
    ("path", "early"),
    [
        ("/etc/systemd/system/nginx.service.d/cabinet.conf", True),
        ("/etc/systemd/system/tmp.mount", True),
        ("/usr/local/lib/cabinet/deadman", True),
        ("/etc/systemd/system/var-log.mount", False),
        ("/etc/systemd/system/dev-mapper-data.device.d/50-cabinet.conf", False),
        ("/etc/cabinet/revision", False),
        ("/var/lib/cabinet/secrets/x", False),
    ],
)
def test_what_others_would_wait_for_is_not_laid_down_early(path: str, early: bool) -> None:
    """A mount of the volume would be waited for, and the stamp says that the deploy has ended."""
    assert bool(beforehand.PLACES.fullmatch(path)) is early
