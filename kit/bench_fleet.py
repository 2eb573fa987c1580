"""bench/fleet: what each further server costs the machine that deploys; nothing to change, on 1, 10, 50 and 100 servers at once.

The servers are sshds on this machine that share one throw-away system, so that their work slows the run down as well: the seconds of
processor and the memory are those of the deploying side alone.
"""

from __future__ import annotations

import json
import os
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
# In the environment of all that a run starts, so that what it leaves in the background (ssh's connections) is found as well.
MARK = "CABINET_FLEET"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """One run on `hosts` servers."""

    tool: str
    hosts: int
    seconds: float
    processor: float
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
        run(sshd, "openssh", names[:1], of_each)  # makes what all later runs find made
        for tool in ("openssh", "ssh"):
            for size in sizes:
                if tool == "openssh":
                    run(sshd, tool, names[:size], of_each)  # what is remembered of each server
                    sshd.line.cut()  # but the log-in is paid for, as by the other
                rows.append(run(sshd, tool, names[:size], of_each))
                sshd.line.cut()
                click.echo(line(rows[-1]), err=True)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
    else:
        click.echo("\n".join(table(rows)))


def run(sshd: Sshd, tool: str, hosts: list[str], of_each: int) -> Row:
    """Carry out the operations on all `hosts` at once. Raises RuntimeError when a server failed."""
    mark = secrets.token_hex(8)
    words = ["--data", f"{tool}_config_file={sshd.ssh_config}", "--data", f"of_each={of_each}", "deploy.py", "--yes"]
    env = os.environ | {"PYINFRA_PROGRESS": "off", "XDG_CACHE_HOME": str(sshd.scratch), MARK: mark}
    log = sshd.scratch / "log"
    began = time.monotonic()
    with log.open("w") as output:
        argv = [deployment.PYINFRA, ",".join(f"@{tool}/{host}" for host in hosts), *words]
        process = subprocess.Popen(argv, cwd=paths.ROOT / "bench/sixty", env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        with Watch(mark) as watch:
            _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if process_failed := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{tool} on {len(hosts)} servers ended with {process_failed}:\n{log.read_text()[-3000:]}")
    processor = usage.ru_utime + usage.ru_stime + sum(ticks(pid) for pid in marked(mark)) / TICKS
    return Row(tool, len(hosts), round(seconds, 1), round(processor, 1), round(watch.megabytes, 1), watch.processes)


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


def ticks(pid: int) -> int:
    """Time of the processor that a process has used so far."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[11]) + int(words[12])


def line(row: Row) -> str:
    """A line of the table."""
    each = f"{row.seconds / row.hosts:9.2f}{row.processor / row.hosts:11.2f}{row.megabytes / row.hosts:9.1f}"
    return f"{'@' + row.tool:10}{row.hosts:7d}{row.seconds:9.1f}{row.processor:11.1f}{row.megabytes:9.0f}{row.processes:11d}{each}"


def table(rows: list[Row]) -> Iterator[str]:
    """All of it, for people."""
    yield f"{'':10}{'':7}{'seconds':>9}{'processor':>11}{'MB':>9}{'processes':>11}{'each: s':>9}{'processor':>11}{'MB':>9}"
    yield from (line(row) for row in rows)
