"""The technician's side of the second factor: who is at the keyboard gets theirs, comes in with it, and only then the old way closes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pyinfra import host
from pyinfra.api import FunctionCommand, operation
from pyinfra_openssh.shell import Shell

from kit import facts, paths
from kit.connection import Connection, LoginError
from kit.operations import Commands
from practice.enrol import PROVEN


def was_proven(door: str) -> str:
    """The question, as a shell script, whether somebody has come in through a door with this fingerprint."""
    return f"grep -q '^{door} ' {PROVEN}"


@operation()
def introduced(door: str) -> Commands:
    """Give the person at the keyboard their second factor before a door that nobody knows yet goes live."""
    if host.get_fact(facts.Holds, question=was_proven(door)):
        host.noop("somebody has come in through this door")
        return
    yield FunctionCommand(introduce, (), {})


def introduce() -> None:
    """On the VM the kit itself keeps the seeds of its people; elsewhere the technician's is shown, once, on the terminal."""
    connection: Connection = host.connector.connection  # type: ignore[union-attr]
    shell: Shell = host.connector.shell  # type: ignore[union-attr]
    host.connector.foresight.forget()  # type: ignore[union-attr]  # this goes to the server past the connector
    if connection.site.connect is None:
        fetch_test_seeds(shell, [person.name for person in connection.site.people if person.login])
    else:
        show(shell, connection.logins()[0].user)


def comes_in(door: str) -> Callable[[Connection], str | None]:
    """Proof for the dead-man switch: the technician gets in by a new connection, which is the one from now on.

    A door that somebody has come in through before and that is only put right again asks for no code: sshd's greeting will do.
    """

    def proof(connection: Connection) -> str | None:
        connector: Any = host.connector
        if connector.shell.run(was_proven(door)).rc == 0:
            return connection.greeting_refused()
        try:
            connection.renew()
        except LoginError as refused:
            return str(refused)
        # From here on this run itself goes by the new way; the old one ends with its last session.
        connector.shell.close()
        connector.shell = connection.shell()
        connector.shell.run(f"echo {door} {connection.logged_in_as} > {PROVEN}")
        return None

    return proof


def fetch_test_seeds(shell: Shell, names: list[str]) -> None:
    """Keep the seeds of the VM's people in the state directory: they are tests, who have no phones. Never for a real clinic."""
    directory = paths.state_dir() / "totp"
    directory.mkdir(mode=0o700, exist_ok=True)
    owner = paths.state_dir().stat()
    for name in names:
        said = shell.run(f"practice enrol --json --show {name}")
        if said.rc:
            raise ConnectionError(f"{shell.label}: no second factor for {name}: {said.stderr.decode(errors='replace').strip()}")
        seed = directory / name
        (directory / f"{name}.spent").unlink(missing_ok=True)
        seed.touch(mode=0o600)
        seed.write_text(seed_in(json.loads(said.stdout)["address"]))
        for path in (directory, seed):
            shutil.chown(path, owner.st_uid, owner.st_gid)


def seed_in(address: str) -> str:
    """The seed in an otpauth address."""
    return parse_qs(urlsplit(address).query)["secret"][0]


def show(shell: Shell, name: str) -> None:
    """Show `name` their second factor, once, on this terminal; ssh then asks for a code. Raises ConnectionError without a terminal."""
    if not sys.stdin.isatty():
        raise ConnectionError(f"{shell.label}: {name} must come in with a code before the old way closes; deploy from a terminal")
    shown = shell.run(f"practice enrol {name}")
    print(f"\n{(shown.stderr if shown.rc else shown.stdout).decode(errors='replace')}", flush=True)
    print(f"{shell.label}: {name}, now come in with your key and the code that your phone shows.", flush=True)
