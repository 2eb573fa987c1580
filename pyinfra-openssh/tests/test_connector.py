"""The contract: what operations do and say through this connector is what they do and say through pyinfra's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DEPLOY = """
from pyinfra import host
from pyinfra.facts.files import Directory, File, Sha256File
from pyinfra.operations import files, server

ROOT = {root!r}
for number in range(4):
    files.directory(name=f"directory {{number}}", path=f"{{ROOT}}/d{{number}}", mode="750")
    files.put(name=f"file {{number}}", src=f"{{ROOT}}.source", dest=f"{{ROOT}}/d{{number}}/it's a file", mode="640")
    files.line(name=f"line {{number}}", path=f"{{ROOT}}/d{{number}}/lines", line=f"key{{number}} = 'a b'", ensure_newline=True)
    server.shell(name=f"shell {{number}}", commands=[f"test -e {{ROOT}}/ran{{number}} || echo $(id -un) > {{ROOT}}/ran{{number}}"],
                 _env={{"NUMBER": str(number)}}, _chdir=ROOT)
files.link(name="link", path=f"{{ROOT}}/link", target="d0")
files.template(name="template", src=f"{{ROOT}}.j2", dest=f"{{ROOT}}/template", mode="600", value="ä 'quoted'")
files.get(name="get", src=f"{{ROOT}}/template", dest=f"{{ROOT}}.got")
files.file(name="absent", path=f"{{ROOT}}/ran3", present=False)
server.shell(name="input", commands=[f"cat > {{ROOT}}/input"], _stdin=["one", "two"])
"""


AS_OTHERS = """
from pyinfra.operations import server

for number in range(3):
    server.shell(name="myself", commands=["echo ${{BECAME:-myself}} >> {root}"])
    server.shell(name="root", commands=["echo $BECAME >> {root}"], _sudo=True)
    server.shell(name="eve", commands=["echo $BECAME >> {root}"], _sudo=True, _sudo_user="eve")
"""


def pyinfra(place: Path, host: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pyinfra with `place` as its world."""
    env = os.environ | {"PATH": f"{place}/bin:{os.environ['PATH']}", "XDG_CACHE_HOME": str(place / "cache"), "PYINFRA_PROGRESS": "off"}
    argv = [sys.executable, "-m", "pyinfra", host, *words]
    return subprocess.run(argv, cwd=place, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below `root`: rights and contents."""
    found = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in found}


def plan(place: Path, host: str) -> list[str]:
    """The operations that would change something."""
    said = pyinfra(place, host, "deploy.py", "--dry", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    return [step["name"] for step in json.loads(said.stdout)["plan"] if step["hosts_with_change"]]


def deployed(world: Path, host: str) -> tuple[list[str], dict[str, tuple[int, bytes]], list[str]]:
    """The plan for `host`, what lies there after a deploy, and the plan then."""
    root = world / "t"
    root.mkdir()
    (world / "deploy.py").write_text(DEPLOY.format(root=str(root)))
    before = plan(world, host)
    carried_out = pyinfra(world, host, "deploy.py", "--yes")
    assert carried_out.returncode == 0, carried_out.stdout + carried_out.stderr
    return before, tree(root), plan(world, host)


def test_operations_do_what_they_do_without_this_connector(place: Path) -> None:
    """Byte by byte and right by right the same, the same plans, before and after; and all of it in one log-in."""
    beside = place.with_name("beside")
    shutil.copytree(place, beside)
    with ThreadPoolExecutor() as pool:
        ours, theirs = pool.map(deployed, (place, beside), ("@openssh/server", "@local"))
    assert ours == theirs
    started = (place / "ssh.log").read_text().splitlines()
    assert len([line for line in started if " -N " in f" {line} "]) == 1, "more than one log-in"
    assert len([line for line in started if "exec sh" in line]) == 3, "more than one shell for each of the three runs"


def test_a_host_that_is_not_there_is_named(place: Path) -> None:
    """With ssh's own last word."""
    said = pyinfra(place, "@openssh/nowhere", "exec", "--", "true")
    assert said.returncode != 0 and "Could not resolve hostname nowhere" in said.stdout + said.stderr


def test_a_command_that_fails_fails_the_run(place: Path) -> None:
    """And one that is lost with its connection says so, with host, operation and command; the next run works."""
    assert pyinfra(place, "@openssh/server", "exec", "--", "exit 3").returncode != 0
    lost = pyinfra(place, "@openssh/server", "exec", "--", "kill -KILL $$")
    assert lost.returncode != 0 and "server: the connection ended during: server.shell: kill -KILL $$" in lost.stdout + lost.stderr
    assert "fine" in (said := pyinfra(place, "@openssh/server", "exec", "--", "echo fine")).stdout + said.stderr


def test_each_account_has_a_shell_of_its_own(place: Path) -> None:
    """Root and Eve by sudo, once each, however many commands are theirs; where sudo refuses, it says so itself."""
    (place / "deploy.py").write_text(AS_OTHERS.format(root=place / "said"))
    done = pyinfra(place, "@openssh/server", "deploy.py", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "said").read_text().split() == ["myself", "root", "eve"] * 3
    assert [line for line in (place / "ssh.log").read_text().splitlines() if line.startswith("sudo")] == ["sudo root", "sudo eve"]
    refused = pyinfra(place, "@openssh/server", "exec", "--sudo", "--sudo-user", "stranger", "--", "true")
    assert refused.returncode != 0 and "a password is required" in refused.stdout + refused.stderr


RECONNECTS = """
from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.operations import python, server

class Anew(FactBase):
    def command(self):
        host.disconnect()
        host.connect()
        return "echo anew"

def look():
    assert host.get_fact(Anew) == "anew"
    assert host.connector.asking == 0, host.connector.asking

server.shell(name="before", commands=["echo ran >> {root}"])
python.call(name="connect in the middle of a fact", function=look)
server.shell(name="after", commands=["echo ran >> {root}"])
"""


def test_a_fact_that_connects_anew_makes_no_question_of_a_command(place: Path) -> None:
    """What is carried out is never answered from memory, in this run or the next."""
    (place / "deploy.py").write_text(RECONNECTS.format(root=place / "said"))
    for _ in range(2):
        done = pyinfra(place, "@openssh/server", "deploy.py", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "said").read_text().split() == ["ran"] * 4
