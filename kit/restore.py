"""`./cabinet restore NAME --from offsite|media`: a new machine becomes the practice's server again, from a copy and the recovery kit.

What is done is not done again, so whatever went wrong: mend its cause, and repeat.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

import click

from kit import deployment
from kit.clinic import Clinic
from kit.connection import Connection
from practice.fetch import AS_IT_WAS, NAME
from practice.offsite import REBUILD
from practice.rebuild import DEPLOY_NOW
from roles.backup import PASSPHRASE
from roles.offsite import PASSWORD

# Before the keys are there nothing may be made that would need them; after them, what pgBackRest and restic need, and nothing that sends.
BEFORE = (("base", "base"), ("storage", "storage"), ("recovery", "recovery"))
AFTER = (("offsite", "reachable"), ("backup", "ready"))
PUT_BACK = "practice recovery-kit --put-back"


def possible(
    name: str, clinic: Clinic, connection: Connection, source: str, repository: str | None = None, backup_disk: bool = False
) -> bool:
    """Whether nothing was begun yet. Raises ClickException where this would not be a new server, or there is no copy."""
    if repository and AS_IT_WAS in repository and backup_disk:
        raise click.UsageError(f"{repository} is from before an intruder, who had the backup disk as well: without --backup-disk")
    if repository and source != "offsite":
        raise click.UsageError("--repository names a repository of the copy outside: --from offsite")
    if repository and not NAME.fullmatch(repository):
        raise click.UsageError(f"--repository {repository}: the host outside says its name, such as 2026-11.as-of-20261120T080000Z")
    if source == "offsite" and clinic.offsite is None:
        raise click.ClickException(f"clinics/{name}.yaml has no section offsite: there is no copy to restore from")
    connection.login()
    begun, deployed = asked(connection, f"test -e {REBUILD}"), asked(connection, "test -e /etc/cabinet/revision")
    if deployed and not begun:
        raise click.ClickException(
            f"{name}: this server was deployed to its end. To go back on it: sudo practice restore. "
            "A new server begins with a machine on which nothing but Debian 13 was installed"
        )
    return not begun


def prepared(name: str, roles: tuple[tuple[str, str], ...]) -> None:
    """Carry out these parts of roles. Raises DeployError."""
    for role, part in roles:
        deployment.run_role(name, role, echo=True, part=part)


def typed() -> bytes | None:
    """What the recovery kit says, where it comes from a pipe; None where a person sits. Read before anything else could read it."""
    return None if sys.stdin.isatty() else sys.stdin.buffer.read()


def keys_put_back(connection: Connection, kit: bytes | None, outside: bool = True) -> None:
    """What the recovery kit says goes from this terminal, or from a pipe, to the server's memory: no file and no command line holds it.

    A practice that sends nothing `outside` has one key less. Raises ClickException when the kit was not believed.
    """
    if asked(connection, " && ".join(f"test -s {path}" for path in ((PASSPHRASE, PASSWORD) if outside else (PASSPHRASE,)))):
        click.echo("The keys are in place already.")
        return
    if kit is None:
        click.echo("Take the recovery kit, and type its lines as the server asks for them.")
        done = subprocess.run(told(connection, PUT_BACK, "-t"), check=False)
    else:
        done = subprocess.run(told(connection, PUT_BACK), input=kit, check=False)
    if done.returncode:
        raise click.ClickException(f"{connection.name}: the keys are not in place; nothing was restored")


def rebuilt(connection: Connection, source: str = "offsite", *which: str) -> bool:
    """All that the server can do now; whether that was all. `which` is said to `practice rebuild`. Raises ClickException."""
    connection.login()
    command = shlex.join(["practice", "rebuild", "--from", source, *which])
    code = subprocess.run(told(connection, command), stdin=subprocess.DEVNULL, check=False).returncode
    if code not in (0, DEPLOY_NOW):
        raise click.ClickException(f"{connection.name}: not restored; the reason stands above. Mend it, and repeat: it goes on from there")
    return code == 0


def asked(connection: Connection, question: str) -> bool:
    """Whether a command on the server ends well."""
    shell = connection.shell()
    try:
        return shell.run(question).rc == 0
    finally:
        shell.close()


def told(connection: Connection, command: str, terminal: str = "-T") -> list[str]:
    """The words that run a command as root there, and show what it says."""
    return connection.master.riding(terminal, connection.name, f"exec sudo -n sh -c {shlex.quote(f'exec {command}')}")
