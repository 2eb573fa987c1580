"""What things cost, measured beside what they could cost at best; both sides in one run, on the VM."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import click

from kit import bench_backup, bench_fleet, bench_rerun, deployment, paths
from kit.clinic import load
from kit.connection import Connection
from kit.vm import Machine
from roles.base import all_packages

FIRST_DEPLOY_LIMIT = 1.5  # times the floor; issue "First light", section 5
RERUN_SECONDS = 60
REST_MEMORY_MB = 1536


@click.group()
def cli() -> None:
    """Benchmarks; each prints a table, or one object with --json."""


cli.add_command(bench_backup.backup)
cli.add_command(bench_fleet.fleet)
cli.add_command(bench_rerun.rerun)


@cli.command()
@click.option("--json", "as_json", is_flag=True)
def deploy(as_json: bool) -> None:
    """First deploy and repeated deploy, next to `apt-get install` of the same packages; ends with 1 when a limit is broken."""
    connection = Connection("vagrant", load(paths.ROOT / "clinics" / "vagrant.yaml"))
    floor = timed(lambda: plain(connection).check(install_line(), 3600))
    plain(connection).close()
    first = timed(lambda: deployment.deploy("vagrant", connection))
    again = timed(lambda: deployment.deploy("vagrant", connection))
    memory = used_memory(connection)
    figures = {"floor_s": floor, "first_s": first, "ratio": round(first / floor, 2), "again_s": again, "memory_mb": memory}
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(f"{'one apt-get install of the same packages':45}{floor:8.1f} s")
        click.echo(f"{'first deploy':45}{first:8.1f} s   {first / floor:.2f} x the floor, at most {FIRST_DEPLOY_LIMIT}")
        click.echo(f"{'deploy again, nothing to change':45}{again:8.1f} s   at most {RERUN_SECONDS}")
        click.echo(f"{'memory of the server at rest':45}{memory:8d} MB  at most {REST_MEMORY_MB}")
    sys.exit(first > FIRST_DEPLOY_LIMIT * floor or again > RERUN_SECONDS or memory > REST_MEMORY_MB)


def install_line() -> str:
    """What a person would type on a plain machine."""
    packages = all_packages(load(paths.ROOT / "clinics" / "vagrant.yaml"))
    return f"apt-get -q update && apt-get -q -y --no-install-recommends install {' '.join(packages)}"


def plain(connection: Connection) -> CheckedShell:
    """The plain machine again, and a root shell on it."""
    if not Machine().has_snapshot("clean"):  # it was raised this minute, and nobody has touched it
        Machine().snapshot("clean")
    deployment.back_to("clean", connection)
    connection.login()
    return CheckedShell(connection)


def used_memory(connection: Connection) -> int:
    """Megabytes that are neither free nor reclaimable."""
    return int(CheckedShell(connection).check("free -m | awk '/^Mem/ {print $2 - $7}'", 60))


class CheckedShell:
    """A root shell in which a failing command ends the benchmark: a figure of a failure is no figure."""

    def __init__(self, connection: Connection) -> None:
        self.shell = connection.shell()

    def check(self, command: str, timeout: float) -> str:
        """What `command` printed. Raises RuntimeError with what it said when it fails."""
        done = self.shell.run(command, timeout=timeout)
        if done.rc:
            raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout.decode()

    def close(self) -> None:
        """End the shell."""
        self.shell.close()


def timed(what: Callable[[], object]) -> float:
    """Seconds that `what` took."""
    began = time.monotonic()
    what()
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    cli()
