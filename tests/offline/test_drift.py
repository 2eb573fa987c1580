"""What somebody altered on the server: what the plan says of it, and what is set aside before it is put back."""

from __future__ import annotations

import getpass
import grp
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from kit import plan
from kit.paths import ROOT
from kit.render import source

RIGHTS = "644 root:root"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def change(lies: str | None, wanted: str, rights: str = RIGHTS, secret: bool = False) -> plan.FileChange:
    """A change of /etc/x, as an operation would tell it."""
    return plan.FileChange(
        operation="role | X-01 describe it",
        path="/etc/x",
        lies="" if lies is None else digest(lies),
        rights="" if lies is None else rights,
        wanted=digest(wanted),
        wanted_rights=RIGHTS,
        secret=secret,
        text=None if secret else wanted,
    )


class Server:
    """A server where /etc/x lies so, and where the last deploy left it so; it counts the questions."""

    def __init__(self, lies: str | None = None, left: str | None = None, deployed: bool = True, mode: int = 0o644) -> None:
        self.mode = mode
        self.asked: list[str] = []
        self.files = {"etc/cabinet/manifest": f"{digest(left)}  /etc/x\n" if left else ""} if deployed else {}
        self.files |= {"etc/x": lies} if lies is not None else {}

    def ask(self, question: str) -> bytes:
        self.asked.append(question)
        answer = io.BytesIO()
        with tarfile.open(fileobj=answer, mode="w") as tar:
            for name, text in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text.encode()), self.mode
                tar.addfile(entry, io.BytesIO(text.encode()))
        return answer.getvalue()


def explained(file: plan.FileChange, server: Server) -> str:
    return "\n".join(plan.explained([file.operation], [file], server.ask))


def test_a_plan_shows_what_goes_and_what_comes() -> None:
    """As a diff, with what surrounds it; in one question."""
    server = Server(lies="one\ntwo\nthree\n", left="one\ntwo\nthree\n")
    said = explained(change("one\ntwo\nthree\n", "one\n2\nthree\n"), server)
    assert said.splitlines() == [
        "role | X-01 describe it", "  /etc/x", "    --- as it lies there", "    +++ as it will", "    @@ -1,3 +1,3 @@",
        "     one", "    -two", "    +2", "     three",
    ]  # fmt: skip
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("lies", "left", "says"),
    [
        ("by hand\n", "old\n", "ALTERED on the server since the last deploy, by hand; a copy will be in /var/lib/cabinet/set-aside"),
        (None, "old\n", "REMOVED on the server since the last deploy, by hand"),
        ("Debian's\n", None, "no deploy has put there what lies there; a copy will be in /var/lib/cabinet/set-aside"),
    ],
)
def test_a_plan_says_what_somebody_did(lies: str | None, left: str | None, says: str) -> None:
    """Whatever lies there is neither what the last deploy left nor what this one wants. Control: the deploy's own is not called so."""
    assert says in explained(change(lies, "new\n"), Server(lies, left))
    assert "by hand" not in explained(change("old\n", "new\n"), Server("old\n", "old\n"))


def test_a_change_of_rights_is_said() -> None:
    """The text is the same, so there is nothing else to say."""
    said = explained(change("same\n", "same\n", rights="666 root:root"), Server("same\n", "same\n"))
    assert said.splitlines()[2:] == ["    rights: 666 root:root becomes 644 root:root"]


def test_a_secret_is_neither_fetched_nor_shown() -> None:
    """Nor is it asked for; what somebody did to it is said all the same."""
    server = Server(lies="canary-there\n", left="old\n")
    said = explained(change("canary-there\n", "canary-here\n", secret=True), server)
    assert "canary" not in said
    assert ["changed, not shown" in said, "ALTERED" in said] == [True, True]
    assert [question for question in server.asked if "etc/x" in question] == []


def test_rights_that_were_not_told_are_looked_at() -> None:
    """Of what lies in a tree only the digest is told. Control: what everybody may read is shown."""
    stray = change("canary\n", "new\n", rights="")
    said = explained(stray, Server("canary\n", mode=0o600))
    assert ("canary" in said, "changed, not shown" in said) == (False, True)
    assert "-canary" in explained(stray, Server("canary\n"))


def test_a_link_is_something_too() -> None:
    """It has rights and no digest."""
    said = explained(replace(change(None, "new\n"), rights="777 root:root"), Server("to elsewhere\n", left="old\n"))
    assert "ALTERED" in said


def test_a_missing_end_of_line_is_a_difference() -> None:
    """Otherwise the diff would be empty."""
    said = explained(change("same", "same\n"), Server("same", "same"))
    assert said.splitlines()[-1] == "    -\\ no end of line here"


def test_what_lies_there_cannot_write_on_the_terminal() -> None:
    """A colour or a cursor movement in a file would show another plan than the one that is carried out."""
    escape = chr(27)
    said = explained(change(f"{escape}[1Aold\n", "new\n"), Server(f"{escape}[1Aold\n", "x"))
    assert (escape in said, "[1Aold" in said) == (False, True)


def test_of_a_first_deploy_only_names_are_shown() -> None:
    """It brings every file of the tree whole."""
    said = explained(change(None, "new\n"), Server(deployed=False))
    assert said.splitlines() == ["role | X-01 describe it", "  /etc/x"]


def test_where_no_file_changes_nothing_is_asked() -> None:
    """An operation without a file is shown by its name."""
    server = Server()
    assert plan.explained(["role | X-02 run it"], [], server.ask) == ["role | X-02 run it"]
    assert server.asked == []


def test_only_what_somebody_altered_is_set_aside(tmp_path: Path) -> None:
    """Files, links, and what lies below a directory, each at its own path, for its owner alone; not what the last deploy left there."""
    etc, kept = tmp_path / "etc", tmp_path / "set-aside"
    (etc / "directory").mkdir(parents=True)
    files = {"left": "as left", "altered": "by hand", "directory/stranger's file": "by hand", "directory/left": "as left"}
    for name, text in files.items():
        (etc / name).write_text(text)
    (etc / "link").symlink_to("nowhere")
    (tmp_path / "manifest").write_text("".join(f"{digest('as left')}  {etc / name}\n" for name in files))
    script = source("base/set-aside.sh").replace("/etc/cabinet", str(tmp_path)).replace("/var/lib/cabinet", str(tmp_path))
    paths = [str(etc / name) for name in ("left", "altered", "directory", "link", "nothing")]
    subprocess.run(["sh", "-euc", f'{script}set_aside "$@"', "sh", *paths], check=True)
    found = {path.relative_to(kept).as_posix().partition(f"{etc}/")[2] for path in kept.rglob("*") if path.is_symlink() or path.is_file()}
    assert found == {"altered", "directory/stranger's file", "link"}
    assert kept.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_set_aside_is_not_replaced(tmp_path: Path) -> None:
    """A full disk, say: then the deploy stops there."""
    (tmp_path / "altered").write_text("by hand")
    script = source("base/set-aside.sh").replace("/etc/cabinet", str(tmp_path)).replace("/var/lib/cabinet", "/dev/null")
    done = subprocess.run(["sh", "-c", f'{script}set_aside "$1"', "sh", tmp_path / "altered"], check=False, capture_output=True)
    assert done.returncode != 0


DEPLOY = """
from kit import manifest, operations as kit
manifest.MANIFEST = "{top}/manifest"
manifest.SET_ASIDE = manifest.SET_ASIDE.replace("/etc/cabinet", "{top}").replace("/var/lib/cabinet", "{top}")
owner = dict(owner="{user}", group="{group}")
kit.config_file(name="describe it", dest="{top}/etc/described", content="described", **owner)
kit.config_file(name="describe a secret", dest="{top}/etc/secret", content="canary described", mode="600", **owner)
kit.tree(name="bring a tree", path="{top}/etc/tree", files={{"one": b"described", "two": b"described"}})
kit.script(name="leave nothing else", unless="! test -e {top}/etc/else", run="set_aside {top}/etc/else; rm {top}/etc/else")
kit.file_list(name="list what lies where")
"""


class Local:
    """This machine as a server, all of it below one directory."""

    def __init__(self, top: Path) -> None:
        self.top = top
        group = grp.getgrgid(os.getgid()).gr_name
        (top / "deploy.py").write_text(DEPLOY.format(top=top, user=getpass.getuser(), group=group))

    def pyinfra(self, *options: str, told: str = "") -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pyinfra", "@local", str(self.top / "deploy.py"), *options]
        done = subprocess.run(argv, cwd=ROOT, env=os.environ | {plan.TOLD: told}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def changes(self, told: str = "") -> list[str]:
        """What would change."""
        return [step["name"] for step in json.loads(self.pyinfra("--dry", "--json", told=told).stdout)["plan"] if step["hosts_with_change"]]

    def alter(self) -> None:
        """As somebody does by hand."""
        for name in ("described", "secret", "tree/two", "tree/three", "else"):
            (self.top / "etc" / name).write_text(f"canary in {name}")
        (self.top / "etc/tree/one").unlink()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Each of these tests leaves it deployed."""
    here = Local(tmp_path_factory.mktemp("server"))
    here.pyinfra("--yes")
    return here


@pytest.fixture
def local(deployed: Local) -> Local:
    """Deployed, and altered since."""
    deployed.alter()
    return deployed


def test_a_deploy_writes_keeps_and_mends(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations themselves: deployed, altered, planned, deployed again. Control: then there is nothing to do."""
    monkeypatch.setattr(plan, "MANIFEST", f"{local.top}/manifest")
    told = local.top / "told"
    changes = local.changes(told=str(told))
    said = plan.explained(changes, plan.read(told), lambda question: subprocess.check_output(question, shell=True))
    assert changes == ["describe it", "describe a secret", "bring a tree", "leave nothing else"]
    assert ["canary in described" in said[0], "canary" in said[1], "canary in tree/three" in said[2]] == [True, False, True]
    assert "canary" not in told.read_text()
    local.pyinfra("--yes")
    assert (local.top / "etc/described").read_text() == "described"
    copies = {str(path).partition("/etc/")[2] for path in (local.top / "set-aside").rglob("*") if path.is_file()}
    assert copies == {"described", "secret", "tree/two", "tree/three", "else"}
    assert local.changes() == []


@pytest.mark.parametrize("loud", [["-vvv", "--diff"], ["-vvv", "--debug", "--debug-all"]], ids=" ".join)
def test_the_loudest_run_does_not_say_what_a_file_holds(local: Local, loud: list[str]) -> None:
    """Neither what lies there nor what comes; pyinfra's own operations would. Control: it says which file it is about."""
    done = local.pyinfra("--yes", *loud)
    assert "canary" not in done.stdout + done.stderr
    assert "describe a secret" in done.stderr
