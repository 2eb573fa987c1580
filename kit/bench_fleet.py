"""bench/fleet: what each further server costs the machine that deploys; nothing to change, on 1, 10, 50 and 100 servers at once.

The servers are sshds on this machine that share one throw-away system, so that their work slows the run down as well. Whose work it is
stands in the table: of pyinfra's process, of ssh's, of the servers, and of the line in between, which a network would be. Memory and
processes are those of the deploying side alone.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kit import deployment, paths
from kit.place import Place
from kit.sshd import Sshd

SIZES = (1, 10, 50, 100)
# What an ssh_config begins with: the second shows what the post-quantum key exchange costs, which paramiko (@ssh) does not have.
CONTESTANTS = {"@openssh": "", "@openssh, its key exchange as @ssh's": "KexAlgorithms curve25519-sha256\n", "@ssh": ""}
# In the environment of all that a run starts, so that what it leaves in the background (ssh's connections) is found as well.
MARK = "CABINET_FLEET"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """One run on `hosts` servers."""

    tool: str
    hosts: int
    seconds: float
    pyinfra: float  # these four: seconds of processor
    ssh: float
    servers: float
    line: float
    megabytes: float
    processes: int


@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--hosts", "sizes", type=int, multiple=True, default=SIZES)
@click.option("--of-each", type=int, default=1, help="operations of each kind; 10 is all sixty")
def fleet(as_json: bool, sizes: tuple[int, ...], of_each: int) -> None:
    """Seconds, processor and memory of the deploying machine by number of servers; with and without this connector."""
    names = [f"h{number}" for number in range(1, max(sizes) + 1)]
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="f") as scratch,
        Place() as place,
        Sshd(place.inside, Path(scratch), names) as sshd,
    ):
        ssh_config = sshd.ssh_config.read_text()
        run(sshd, "@ssh", names[:1], of_each)  # makes what all later runs find made
        for tool, settings in CONTESTANTS.items():
            sshd.ssh_config.write_text(settings + ssh_config)
            run(sshd, tool, names[: max(sizes)], of_each)  # what is remembered of each server
            for size in sizes:
                rows.append(run(sshd, tool, names[:size], of_each))
                click.echo(line(rows[-1]), err=True)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
    else:
        click.echo("\n".join(table(rows)))


def run(sshd: Sshd, tool: str, hosts: list[str], of_each: int) -> Row:
    """Log in to all `hosts` at once and carry out the operations. Raises RuntimeError when a server failed."""
    mark, connector = secrets.token_hex(8), tool.partition(",")[0]
    words = ["--data", f"{connector[1:]}_config_file={sshd.ssh_config}", "--data", f"of_each={of_each}", "deploy.py", "--yes"]
    env = os.environ | {"PYINFRA_PROGRESS": "off", "XDG_CACHE_HOME": str(sshd.scratch), MARK: mark}
    log = sshd.scratch / "log"
    began, here, children = time.monotonic(), time.process_time(), ended()
    with log.open("w") as output:
        argv = [deployment.PYINFRA, ",".join(f"{connector}/{host}" for host in hosts), *words]
        process = subprocess.Popen(argv, cwd=paths.ROOT / "bench/sixty", env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        with Watch(mark) as watch:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and /proc knows it still
    seconds = time.monotonic() - began
    pyinfra, its_children = ticks(process.pid)
    ssh = its_children + sum(sum(ticks(pid)) for pid in marked(mark) if pid != process.pid)  # those that stay in the background
    if process.wait():
        raise RuntimeError(f"{tool} on {len(hosts)} servers ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    sshd.line.cut()  # so that the next run pays for its log-ins, and the servers' processes have ended
    servers = ended() - children - pyinfra - its_children
    spent = (round(each, 2) for each in (seconds, pyinfra, ssh, servers, time.process_time() - here, watch.megabytes))
    return Row(tool, len(hosts), *spent, watch.processes)


def ended() -> float:
    """Seconds of processor of all that this process has started and seen the end of."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """The most memory and processes that all with a mark had at once, looked at twice a second."""

    def __init__(self, mark: str) -> None:
        self.mark, self.megabytes, self.processes = mark, 0.0, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.5):
            sizes = [share(pid) for pid in marked(self.mark)]
            self.megabytes, self.processes = max(self.megabytes, sum(sizes) / 1024), max(self.processes, len(sizes))


def marked(mark: str) -> Iterator[int]:
    """The processes that carry the mark."""
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes():
                yield int(process.name)
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue


def share(pid: int) -> int:
    """Kilobytes of a process, what it shares with others divided among them."""
    try:
        return next(int(row.split()[1]) for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if row.startswith("Pss:"))
    except OSError:
        return 0


def ticks(pid: int) -> tuple[float, float]:
    """Seconds of processor that a process has used so far, and those of its children that have ended."""
    try:
        own_user, own_system, user, system = map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
    except OSError:
        return 0, 0
    return (own_user + own_system) / TICKS, (user + system) / TICKS


def line(row: Row) -> str:
    """A line of the table."""
    spent = [row.pyinfra, row.ssh, row.servers, row.line]
    each = "".join(f"{seconds / row.hosts:9.2f}" for seconds in (row.seconds, *spent))
    rest = 1 - sum(spent) / row.seconds / len(os.sched_getaffinity(0))
    return f"{row.tool:36}{row.hosts:6d}{row.seconds:9.1f}{each}{rest:10.0%}{row.megabytes / row.hosts:7.1f}{row.processes:11d}"


def table(rows: list[Row]) -> Iterator[str]:
    """All of it, for people."""
    yield f"{'':51}for each server: seconds, and seconds of processor of"
    kinds = "".join(f"{kind:>9}" for kind in ("pyinfra", "ssh", "servers", "line"))
    yield f"{'':36}{'hosts':>6}{'seconds':>9}{'':9}{kinds}{'the rest':>10}{'MB':>7}{'processes':>11}"
    yield from (line(row) for row in rows)
    yield "The rest: processors that were idle, or had other work."
