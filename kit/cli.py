"""./cabinet: from a clinic's file to a server, and to a proof of it."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kit import deployment, paths
from kit.clinic import Clinic, load
from kit.connection import PERSIST_SECONDS, Connection
from kit.host import HostError
from kit.mirror import MirrorError
from kit.new import new
from kit.peer import peer
from kit.yamlmarks import FileError

# Two halves, about equally long, run beside each other: of the tests without a machine (here with the connector's), and of tests/contract.
LOCAL = tuple(f"tests/offline/test_{what}.py" for what in ("beforehand", "drift", "plan"))
NATIVE = tuple(f"tests/contract/test_{what}.py" for what in ("drill", "media", "rebuild", "recovery", "restore"))
PARTS = ("offline", "contract", "claims", "sabotage", "stories")
# With two machines one begins at the front, the other at the back, until they meet. Slices whose claims take long lie at either end.
SLICES = ("offsite", "ssh", "database", "alarm", "proxy", "media", "vpn", "base", "recovery", "firewall", "storage", "backup")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Put a safe server into a medical practice, and prove it. NAME is a file in clinics/; `vagrant` is the VM."""


cli.add_command(new)
cli.add_command(peer)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    click.secho(f"==> {what}", bold=True)
    began = time.monotonic()
    yield
    click.secho(f"    {what}: {time.monotonic() - began:.0f} s", fg="green")


@contextmanager
def alone() -> Iterator[None]:
    """One command at a time raises, proves or removes the VM of this checkout; a second one ends, and names the first."""
    with (paths.state_dir() / "in-use").open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            raise click.ClickException(f"another ./cabinet works on this VM, process {held.read()}: wait for its end, or end it") from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def clinic_named(name: str) -> Clinic:
    """The clinic of clinics/NAME.yaml; ends the program with what is wrong in it."""
    return load(paths.ROOT / "clinics" / f"{name}.yaml")


def pytest(*arguments: str) -> None:
    """Run pytest; ends the program with its exit code unless all passed."""
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=paths.ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def but(files: Sequence[str]) -> list[str]:
    """As pytest is told to leave out `files`."""
    return [f"--ignore={path}" for path in files]


@contextmanager
def pytest_beside(*runs: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run pytest with the arguments of each of `runs`, one after another, while the block runs; then say what they said.

    Ends the program as `pytest` does. A failure within the block waits for the runs, so that both are told.
    """
    line = " && ".join(shlex.join([sys.executable, "-m", "pytest", *arguments]) for arguments in runs)
    with (
        tempfile.TemporaryFile("w+") as said,
        # A group of its own: whoever ends the shell ends what it runs.
        subprocess.Popen(
            ["sh", "-c", line], cwd=paths.ROOT, env=env, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        ) as running,
    ):
        try:
            yield
        except BaseException as ended:
            if not isinstance(ended, SystemExit):
                os.killpg(running.pid, signal.SIGTERM)
            raise
        finally:
            running.wait()
            said.seek(0)
            click.echo(said.read(), nl=False)
    if running.returncode:
        sys.exit(running.returncode)


def on_the_vm(*runs: Sequence[str]) -> None:
    """Run pytest with the arguments of each of `runs` and the claims, which the VM and a copy of it share, if there is room for one."""
    from kit import twin  # noqa: PLC0415 - the VM's modules are not needed on the way to a clinic

    claims = [f"tests/claims/test_{slice}.py" for slice in SLICES]
    if not twin.room():
        for run in runs:
            pytest(*run, *claims)
        return
    with tempfile.TemporaryDirectory() as noted, twin.twin() as env:
        share = ["--share", noted]
        with pytest_beside(*([*run, *share, *reversed(claims)] for run in runs), env=env):
            for run in runs:
                pytest(*run, *share, *claims)


def raise_vm() -> None:
    """The VM runs, and there are snapshots of it: plain, and with the packages but nothing configured."""
    from kit.vm import Machine  # noqa: PLC0415 - the VM's modules are not needed on the way to a clinic

    machine = Machine()
    with step("boot the VM"):
        machine.up()
    if machine.has_snapshot("packages"):
        return
    if machine.has_snapshot("clean"):  # an earlier run was cut off while it installed
        with step("go back to the plain machine"):
            deployment.back_to("clean", Connection("vagrant", clinic_named("vagrant")))
    else:
        with step("keep a snapshot of the plain machine"):
            machine.snapshot("clean")
    with step("install all packages, and keep a snapshot"):
        deployment.run_role("vagrant", "base", echo=True)
        machine.snapshot("packages")


@cli.command()
def up() -> None:
    """Boot the VM, deploy it, prove it, write the report; again: only what changed."""
    with alone():
        raise_vm()
        changed = deployed("vagrant")
        if changed or not deployment.proved("vagrant"):
            with step("prove every claim"):
                on_the_vm(["-q"])
    show_report("vagrant")


@cli.command()
@click.confirmation_option(prompt="Destroy the VM and everything on it?")
def down() -> None:
    """Destroy the VM and what was put beside it, after asking."""
    from kit import machines, twin, vm  # noqa: PLC0415

    with alone():
        vm.Machine().destroy()
        for other in (twin.environment(), machines.offsite(), machines.bench()):
            machines.removed(other)


@cli.command()
@click.argument("part", type=click.Choice([*PARTS, "long"]), required=False)
def test(part: str | None) -> None:
    """Without PART: offline, the connector's contract, and on the VM: deployed again, each claim broken and healed, a reboot, each claim.

    `long`: the stories as well, repeated many times; hours on a slow machine.
    """
    everything = ("offline", "contract", "twice", "sabotage", "claims")
    wanted = {None: everything, "long": (*everything, "stories"), "sabotage": ("sabotage", "claims")}.get(part, (part,))
    repeated = ["--long"] if part == "long" else []
    if "offline" in wanted:
        with pytest_beside(["pyinfra-openssh/tests", "-q"], [*LOCAL, "-q"]):
            pytest("tests/offline", "-q", *but(LOCAL))
    if "contract" in wanted:
        with pytest_beside([*NATIVE, "-q", *repeated]):
            pytest("tests/contract", "-q", *but(NATIVE), *repeated)
    if set(wanted) - {"offline", "contract"}:
        with alone():
            machine_parts(wanted, repeated)


def machine_parts(wanted: Sequence[str], repeated: Sequence[str]) -> None:
    """Those parts of the tests that need the VM."""
    raise_vm()
    deployed("vagrant")
    if "twice" in wanted:
        pytest("tests/stories/test_2_twice.py", "-v")
    broken = [["-v", "--sabotage"]] if "sabotage" in wanted else []
    # Of a server that nobody has touched since it was healed, or deployed.
    rebooted = [["-v", "tests/stories/test_3_reboot.py"]] if "claims" in wanted else []
    if broken or rebooted:
        on_the_vm(*broken, *rebooted)
    if "stories" in wanted:
        pytest("tests/stories", "-v", "-s", *repeated)
    # Quietly: the last line is pytest's own.
    clinic = clinic_named("vagrant")
    deployment.write_report("vagrant", clinic, Connection("vagrant", clinic))


@cli.command()
@click.argument("name")
def plan(name: str) -> None:
    """Show what a deploy of NAME would change, files as a diff, all else by name; changes nothing.

    Exit code 0: nothing; 2: something; 1: it could not be found out.
    """
    clinic_named(name)
    changes = deployment.planned_changes(name)
    show(changes, otherwise="Nothing to change: the server is as described.")
    sys.exit(2 if changes else 0)


def show(changes: list[str], otherwise: str) -> None:
    """A plan; on a terminal what comes is green, what goes is red, and what somebody altered stands out."""
    colours = {"    +": "green", "    -": "red", "    ALTERED": "yellow", "    REMOVED": "yellow"}
    for line in "\n".join(changes).splitlines() or [otherwise]:
        click.secho(line, fg=next((colour for start, colour in colours.items() if line.startswith(start)), None))


@cli.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="do not ask before the first change")
def deploy(name: str, yes: bool) -> None:
    """Make the server what clinics/NAME.yaml describes: show what would change, ask, change it."""
    deployed(name, lambda changes: agreed(changes, ask=not yes))


def agreed(changes: list[str], ask: bool) -> bool:
    """Show these changes; whether a person says yes to them, where one is asked. To a first deploy, whatever it will do."""
    show(changes, otherwise="This server was never deployed to its end: everything is still to do.")
    return not ask or click.confirm("Go on?", default=False)


def deployed(name: str, agree: Callable[[list[str]], bool] = lambda _: True) -> bool:
    """Deploy clinic `name` whole; whether anything was changed. Ends the program when pyinfra could not."""
    connection = Connection(name, clinic_named(name))
    with step(f"deploy {name}"):
        return deployment.deploy(name, connection, agree)


@cli.command()
@click.argument("name")
@click.option("--from", "source", type=click.Choice(["offsite", "media"]), required=True, help="where the copy is kept")
@click.option("--backup-disk", is_flag=True, help="the backup disk in it is the practice's own, and whole: the database out of that")
@click.option("--repository", help="out of this repository outside alone: after an intruder, or as a refusal says it")
@click.option("--yes", is_flag=True, help="do not ask before the first change")
def restore(name: str, source: str, backup_disk: bool, repository: str | None, yes: bool) -> None:
    """Make a new machine the server of NAME again, from a copy and the recovery kit. Broken off, it goes on when repeated.

    offsite: the copy outside; media: the newest of the media that are plugged in.

    The newest copy comes back. Where that is an intruder's, the host outside shows the one of before: docs/recovery.md.

    The kit's lines are asked for; from a pipe, all that its large code says.
    """
    from kit import restore as restoring  # noqa: PLC0415 - pyinfra takes a second to import

    clinic = clinic_named(name)
    which = (*(("--repository", repository) if repository else ()), *(("--backup-disk",) if backup_disk else ()))
    copy = " ".join((source, *which))
    connection = Connection(name, clinic)
    if restoring.possible(name, clinic, connection, source, repository, backup_disk) and not yes and sys.stdin.isatty():
        host, port = connection.address
        click.confirm(f"The machine at {host} port {port} becomes the server of {clinic.practice}, from {copy}. Go on?", abort=True)
    kit = restoring.typed()
    with step("prepare the machine and its volume"):
        restoring.prepared(name, restoring.BEFORE)
    restoring.keys_put_back(connection, kit, outside=clinic.offsite is not None)
    with step("prepare the way to the copy"):
        restoring.prepared(name, restoring.AFTER)
    with step(f"bring back the copy ({copy})"):
        ended = restoring.rebuilt(connection, source, *which)
    if not ended:
        deployed(name)
        with step("give the documents back, and begin to back up"):
            if not restoring.rebuilt(connection, source, *which):
                raise click.ClickException(f"{name}: the database does not answer after the deploy: sudo practice status")
    others = "the volume and the copy outside have other keys" if repository else "the volume has another key"
    click.echo(f"Now a new recovery kit: {others}. Then ./cabinet prove {name}")


@cli.command()
@click.argument("name")
@click.option("--sabotage", is_flag=True, help="break each claim first, to show that its test can fail (only where nobody works)")
def prove(name: str, sabotage: bool) -> None:
    """Test every claim on the server of NAME."""
    if sabotage:
        pytest("tests/claims", "-v", f"--clinic={name}", "--sabotage")
    pytest("tests/claims", "-v", f"--clinic={name}")


@cli.command()
@click.argument("name")
def report(name: str) -> None:
    """Write the acceptance report of NAME."""
    show_report(name)


def show_report(name: str) -> None:
    """Write the report and say where it lies."""
    clinic = clinic_named(name)
    for path in deployment.write_report(name, clinic, Connection(name, clinic)):
        click.echo(f"    {path}")


@cli.command()
@click.argument("name")
def authority(name: str) -> None:
    """Print the certificate of NAME's own authority: what the practice's workstations are to trust."""
    from roles.certificates import TLS  # noqa: PLC0415 - pyinfra takes a second to import

    certificate = Connection(name, clinic_named(name)).file(f"{TLS}/authority.pem")
    if certificate is None:
        raise click.ClickException(f"{name}: there is none yet; deploy first")
    digest = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    click.echo(certificate.decode().strip())
    click.echo(f"SHA-256 {digest.hex(':').upper()}", err=True)  # for who installs it to compare


@cli.command()
@click.argument("name")
def login(name: str) -> None:
    """Log in to NAME once, with both factors; everything after rides on it."""
    connection = Connection(name, clinic_named(name))
    connection.login()
    click.echo(f"{name}: open until {PERSIST_SECONDS // 60} minutes after its last use, or `./cabinet logout {name}`")


@cli.command()
@click.argument("name")
def logout(name: str) -> None:
    """Close the connection to NAME."""
    Connection(name, clinic_named(name)).logout()


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def vm(arguments: tuple[str, ...]) -> None:
    """The VM by itself: up, down, ssh, snapshot NAME, restore NAME."""
    sys.exit(subprocess.run([sys.executable, "-m", "kit.vm", *arguments], cwd=paths.ROOT, check=False).returncode)


def main() -> None:
    """Run; what is wrong with the input or the server ends as a sentence, not as a traceback."""
    try:
        cli()
    except (FileError, ConnectionError, deployment.DeployError, HostError, MirrorError, paths.PathError) as said:
        click.echo(str(said), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
