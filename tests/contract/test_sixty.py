"""The connector beside pyinfra's own, through a real sshd: the same sixty operations and facts, and the whole system after them."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.paths import ROOT
from kit.place import Place
from kit.sshd import DIRECTORY, Sshd
from tests.helpers import pyinfra_run

FACTS = ["server.Users", "server.Groups", "server.Mounts", "server.Path", "server.Home", "server.LinuxDistribution", "deb.DebPackages"]
BECOMES_ROOT = """useradd --create-home --password '*' technician
echo 'technician ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/technician"""
# What tells the hour or the place in memory, not the connector; and pyinfra's own leaves what it uploaded in /tmp.
UNLIKE = re.compile(rf"(\.{DIRECTORY}|\./tmp|\./var/log|\./var/cache|\./run/sudo)(/| |$)")


def pyinfra(sshd: Sshd, connector: str, *words: str) -> Any:
    """What pyinfra says as JSON, as the technician who becomes root by sudo."""
    options = ["--data", f"{'ssh' if connector == 'ssh' else 'openssh'}_config_file={sshd.ssh_config}", "--sudo"]
    done = pyinfra_run(sshd, *options, f"@{connector}/server", *words, cwd=ROOT / "bench/sixty")
    return json.loads(done.stdout.replace(f"@{connector}/", "@"))


def carried_out(connector: str, scratch: Path) -> dict[str, Any]:
    """What pyinfra says of the sixty operations, what it did to the system, what it finds there, and what it would do again."""
    with Place() as place, Sshd(place.inside, scratch, user="technician") as sshd:
        subprocess.run(place.inside(BECOMES_ROOT), check=True)
        said = pyinfra(sshd, connector, "deploy.py", "--yes")
        again = pyinfra(sshd, connector, "deploy.py", "--dry")
        facts = pyinfra(sshd, connector, "fact", *FACTS)
        changes = [line for line in place.changes() if not UNLIKE.search(line)]
    return {"said": said, "changes": changes, "again": again, "facts": facts}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What comes of pyinfra's own connector, and of this one; each at the same time in a place of its own."""
    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(carried_out, ("ssh", "openssh"), (tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("o")))
    return theirs, ours


@pytest.mark.parametrize("what", ["said", "changes", "again", "facts"])
def test_it_is_the_same_through_both(both: tuple[dict[str, Any], dict[str, Any]], what: str) -> None:
    """Byte by byte: the results, every file of the system with its rights and owner, the plan afterwards, the facts."""
    theirs, ours = both
    assert ours[what] == theirs[what]


def test_there_was_something_to_compare(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Control: sixty operations, most of which changed something, and nothing is left to do."""
    totals = both[1]["said"]["results"]["totals"]
    assert (totals["hosts"], totals["success"] > 45, totals["error"]) == (60, True, 0)
    assert [step["name"] for step in both[1]["again"]["plan"] if step["hosts_with_change"]] == []
    assert len(both[1]["changes"]) > 100


def test_ansible_does_the_same_sixty(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """bench/rerun sets the one list beside the other: as many of each kind."""
    (play,) = yaml.safe_load((ROOT / "bench/sixty/playbook.yml").read_text())
    ansible = Counter({task["name"].split()[0]: items(task.get("loop", [1])) for task in play["tasks"]})
    assert Counter(step["name"].split()[0] for step in both[1]["said"]["plan"]) == ansible


def items(loop: list[object] | str) -> int:
    """How often a task runs."""
    return len(loop) if isinstance(loop, list) else int(re.findall(r"range\((\d+)\)", loop)[0])


def test_what_is_done_in_a_place_stays_there() -> None:
    """This machine sees nothing of it; and when the place has ended, nothing can be done in its name."""
    here = Path("/usr/bin/systemctl")
    before = here.read_bytes() if here.exists() else None
    with Place() as place:
        subprocess.run(place.inside("grep -q SubState /usr/bin/systemctl && touch /was-here"), check=True)
        assert not Path("/was-here").exists() and before == (here.read_bytes() if here.exists() else None)
    assert subprocess.run(place.inside("touch /was-here"), capture_output=True, check=False).returncode != 0
    assert not Path("/was-here").exists()
