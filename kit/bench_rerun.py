"""bench/rerun: what a run costs that changes nothing, by which tool and over which distance.

All go through one sshd and one line. Each may keep between runs what it keeps: Ansible its connection, the kit its own and its memory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import yaml
from pyinfra_openssh.shell import Shell

from kit import deployment, paths
from kit.clinic import load
from kit.connection import Connection
from kit.connector import together
from kit.place import Place
from kit.sshd import LOCKED_ROOT, Sshd, by_master

WHOLE, SIXTY = "whole deploy", "60 operations"
KIT, PLAIN, ANSIBLE, MITOGEN = "this kit", "pyinfra @ssh", "Ansible", "Ansible, mitogen"
VENV = paths.ROOT / "bench/.venv"
AT_SIXTY = paths.ROOT / "bench/sixty"
# Ansible's module for apt would install this by itself, and call it no change.
PREPARE = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install python3-apt"
CLEAN = (
    "rm -rf /srv/sixty /root/.ansible; for n in 0 1 2; do userdel sixty$n; done; "
    "DEBIAN_FRONTEND=noninteractive apt-get -q -y autoremove --purge python3-apt"
)

Inside = Callable[[str], list[str]]


@dataclass(frozen=True)
class Tool:
    """A way to do one of the two works; `unchanged` says whether what it printed means that it found nothing to change."""

    work: str
    name: str
    argv: Sequence[str | Path]
    unchanged: Callable[[str], bool]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> str:
        """What it printed. Raises RuntimeError when it failed."""
        env = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"} | {"PYINFRA_PROGRESS": "off"} | self.env
        at = AT_SIXTY if self.work == SIXTY else paths.ROOT
        done = subprocess.run(self.argv, cwd=at, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.work}, {self.name}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout


@dataclass(frozen=True)
class Row:
    """One run: how long the line was, and what the run cost."""

    work: str
    tool: str
    ms: int
    seconds: float
    round_trips: int
    sessions: int
    processes: int


@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--ms", "distances", type=int, multiple=True, default=(0, 20, 100), help="added round trip; the aims are about 0 and 100")
@click.option("--here", is_flag=True, help="the sixty operations alone, on a throw-away system in this machine's memory: no VM, minutes")
@click.option("--best-of", "times", type=int, default=1, help="take the quickest of so many runs: on a machine that others use as well")
def rerun(as_json: bool, distances: tuple[int, ...], here: bool, times: int) -> None:
    """A run that changes nothing, by each tool, next to its floor; ends with 1 when an aim is missed."""
    with tempfile.TemporaryDirectory(prefix="b") as scratch, place() if here else machine() as inside, Sshd(inside, Path(scratch)) as sshd:
        sshd.write("config", LOCKED_ROOT)
        contestants = [tool for tool in tools(sshd) if tool.work == SIXTY or not here]
        rows = list(measured(sshd, contestants, distances, times))
        floors = {work: floor(sshd, work) for work in sorted({tool.work for tool in contestants})}
    reached = aims(rows, floors)
    if as_json:
        click.echo(json.dumps({"rows": [asdict(row) for row in rows], "floors": floors, "aims": reached}))
    else:
        click.echo("\n".join(table(rows, floors, reached)))
    sys.exit(not all(reached.values()))


# ---- where it is measured


@contextmanager
def machine() -> Iterator[Inside]:
    """The VM, deployed, and in the end as it was."""
    connection = Connection("vagrant", load(paths.ROOT / "clinics/vagrant.yaml"))
    deployment.deploy("vagrant", connection)
    inside = by_master(connection.master.riding, connection.name)
    try:
        subprocess.run(inside(PREPARE), check=True, capture_output=True)
        yield inside
    finally:
        subprocess.run(inside(CLEAN), check=False, capture_output=True)


@contextmanager
def place() -> Iterator[Inside]:
    """A system that ends with this run."""
    with Place() as here:
        yield here.inside


# ---- who is measured


def tools(sshd: Sshd) -> list[Tool]:
    """Everybody who takes part; the kit first, because its first run makes what all later ones find made."""
    clinic, plain = f"clinic_file={far_clinic(sshd)}", ["--data", f"ssh_config_file={sshd.ssh_config}"]
    ours = ["--data", f"openssh_config_file={sshd.ssh_config}"]
    run = ["deploy.py", "--yes", "--json"]
    pyinfra: list[str | Path] = [deployment.PYINFRA]
    return [
        Tool(WHOLE, KIT, [*pyinfra, "@cabinet/far", "--data", clinic, *run], nothing_changed, {"CABINET_USER": "root"}),
        Tool(WHOLE, PLAIN, [*pyinfra, "@ssh/server", "--data", clinic, *plain, *run], nothing_changed),
        Tool(SIXTY, KIT, [*pyinfra, "@openssh/server", *ours, *run], nothing_changed, {"XDG_CACHE_HOME": str(sshd.scratch)}),
        Tool(SIXTY, PLAIN, [*pyinfra, "@ssh/server", *plain, *run], nothing_changed),
        Tool(SIXTY, MITOGEN, playbook(), recap_says_so, ansible(sshd) | with_mitogen()),
        Tool(SIXTY, ANSIBLE, playbook(), recap_says_so, ansible(sshd)),
    ]


def far_clinic(sshd: Sshd) -> Path:
    """The VM's clinic file, but with the way in that leads over the line."""
    clinic = load(paths.ROOT / "clinics/vagrant.yaml").model_dump(mode="json", exclude_none=True)
    clinic["connect"] = {"host": "127.0.0.1", "port": sshd.line.port, "bootstrap_user": "root", "bootstrap_key": str(sshd.key)}
    (paths.state_dir() / "ssh/far.known_hosts").unlink(missing_ok=True)  # the key of an earlier run's sshd
    file = sshd.scratch / "far.yaml"
    file.write_text(yaml.safe_dump(clinic))
    return file


def nothing_changed(said: str) -> bool:
    """pyinfra's own count."""
    totals = json.loads(said)["results"]["totals"]
    return totals["no_change"] > 0 and totals["success"] == totals["error"] == 0


def recap_says_so(said: str) -> bool:
    """Ansible's last line."""
    return re.search(r"ok=[1-9]\d* +changed=0 +unreachable=0 +failed=0", said) is not None


def playbook() -> list[str | Path]:
    """Ansible, in a venv that is made when it is missing or another was asked for."""
    wanted = (paths.ROOT / "bench/requirements.txt").read_text()
    made = VENV / "made-from"
    if not made.exists() or made.read_text() != wanted:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([VENV / "bin/pip", "--quiet", "install", "--no-deps", "-r", paths.ROOT / "bench/requirements.txt"], check=True)
        made.write_text(wanted)
    return [VENV / "bin/ansible-playbook", "-i", "server,", "playbook.yml"]


def ansible(sshd: Sshd) -> dict[str, str]:
    """As its manual makes it fast: pipelining, and a connection that stays; and it need not look for Python."""
    return {
        "ANSIBLE_HOME": str(sshd.scratch / "ansible"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_SSH_ARGS": f"-F {sshd.ssh_config} -o ControlMaster=auto -o ControlPersist=3600",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sshd.scratch / "cp"),
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }


def with_mitogen() -> dict[str, str]:
    """One Python on the server for the whole run."""
    plugins = next(VENV.glob("lib/python*/site-packages/ansible_mitogen/plugins/strategy"))
    return {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": str(plugins)}


# ---- measuring


def measured(sshd: Sshd, contestants: Sequence[Tool], distances: Sequence[int], times: int) -> Iterator[Row]:
    """Each tool over each distance, its quickest run. Raises RuntimeError when one found something to change: then it did other work."""
    for tool in contestants:
        if tool.name == KIT:
            tool.run()  # makes what the others find made
            tool.run()  # remembers what a run asks that finds it
        for ms in distances:
            sshd.line.round_trip = ms / 1000
            row = min((once(sshd, tool, ms) for _ in range(times)), key=lambda row: row.seconds)
            click.echo(line(row), err=True)
            yield row
        sshd.line.round_trip = 0
        sshd.line.cut()  # the server allows few sessions on the connection under all this


def once(sshd: Sshd, tool: Tool, ms: int) -> Row:
    """One run, which must find nothing to change."""
    before, turns, began = sshd.count(), sshd.line.turns, time.monotonic()
    said = tool.run()
    seconds, after = time.monotonic() - began, sshd.count()
    if not tool.unchanged(said):
        raise RuntimeError(f"{tool.work}, {tool.name}: it changed something:\n{said[-3000:]}")
    sessions, processes = after[0] - before[0], after[1] - before[1]
    return Row(tool.work, tool.name, ms, round(seconds, 2), sshd.line.turns - turns, sessions, processes)


def asked(directory: Path) -> list[str]:
    """What the last run of ours asked."""
    newest = max(directory.rglob("*.asked.json"), key=lambda path: path.stat().st_mtime)
    return [question for _, question in json.loads(newest.read_text())]


def floor(sshd: Sshd, work: str) -> dict[str, float]:
    """Seconds that the server needs for the questions alone: as one script, and asked at the same time as the kit asks them."""
    questions = asked(paths.state_dir() / "ssh" if work == WHOLE else sshd.scratch / "pyinfra-openssh")
    script = "\n".join(f"( eval {shlex.quote(question)} ) </dev/null >/dev/null 2>&1" for question in questions)
    shell = Shell(sshd.inside("exec sh"), "server")
    began = time.monotonic()
    shell.run(script)
    between = time.monotonic()
    together(shell, questions)()
    seconds = {"script": round(between - began, 1), "in_parallel": round(time.monotonic() - between, 1)}
    shell.close()
    return seconds


# ---- saying


def aims(rows: Sequence[Row], floors: Mapping[str, Mapping[str, float]]) -> dict[str, bool]:
    """What the issue asks, and whether it is reached."""
    took = {(row.work, row.tool, row.ms): row.seconds for row in rows}

    def times(other: str, ms: int, least: float) -> tuple[str, bool]:
        ratio = took[SIXTY, other, ms] / took[SIXTY, KIT, ms]
        return f"{SIXTY}, {ms} ms: {ratio:.1f} x as fast as {other}, at least {least}", ratio >= least

    checks = []
    if whole := took.get((WHOLE, KIT, 100)):
        limit = 1.5 * floors[WHOLE]["script"] + 5
        checks = [(f"{WHOLE}, 100 ms: {whole} s, at most 1.5 x its floor + 5 s = {limit:.1f} s", whole <= limit)]
    wanted = [(PLAIN, 0, 4), (MITOGEN, 0, 4), (PLAIN, 100, 10), (ANSIBLE, 0, 20), (ANSIBLE, 100, 20)]
    checks += [times(other, ms, least) for other, ms, least in wanted if (SIXTY, other, ms) in took]
    return dict(checks)


def line(row: Row) -> str:
    """A line of the table."""
    return f"{row.work:15}{row.tool:18}{row.ms:5d} ms{row.seconds:9.2f} s{row.round_trips:13d}{row.sessions:10d}{row.processes:11d}"


def table(rows: Sequence[Row], floors: Mapping[str, Mapping[str, float]], reached: Mapping[str, bool]) -> Iterator[str]:
    """All of it, for people."""
    yield f"{'':15}{'':18}{'added':>8}{'took':>11}{'round trips':>13}{'sessions':>10}{'processes':>11}"
    for row in sorted(rows, key=lambda row: (row.work != WHOLE, row.ms, row.seconds)):
        yield line(row)
    for work, seconds in floors.items():
        yield f"{work:15}{'floor':18}{seconds['script']:19.1f} s as one script; {seconds['in_parallel']:.1f} s asked in parallel"
    for aim, met in reached.items():
        yield f"{'met   ' if met else 'MISSED'} {aim}"
