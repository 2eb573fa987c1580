"""The pyinfra connector `@cabinet/NAME`: the server of clinics/NAME.yaml, or an off-site host, in a shell that is root's already.

Operations need no sudo; `_sudo_user` and `_su_user` still work, from root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pyinfra.connectors.base import ConnectorData, DataMeta
from pyinfra_openssh.connector import OpenSSHConnector, private
from pyinfra_openssh.foresight import Answers, in_parallel
from pyinfra_openssh.shell import Result, Shell

from kit import facts


class CabinetData(ConnectorData, total=False):
    """What the inventory says of a host."""

    clinic_file: str
    vault_file: str


def together(shell: Shell, questions: Sequence[str]) -> Answers:
    """Have questions asked at the same time; what lies at many paths is one question. What this returns waits for the answers."""
    paths = {question: path for question in questions if (path := facts.Path.asked(question))}
    others = [question for question in questions if question not in paths]
    all_paths = facts.Path.together(list(paths.values()))
    under_way = in_parallel(shell, [*others, *([all_paths] if paths else [])])

    def answers() -> dict[str, Result]:
        known = under_way()
        if said := known.pop(all_paths, None):
            found = facts.Path.apart(said.stdout.decode(errors="replace"))
            known |= {question: Result(0, found[path].encode(), b"") for question, path in paths.items() if path in found}
        return known

    return answers


class CabinetConnector(OpenSSHConnector):
    """Executes on the server that a clinic file describes, or on an off-site host."""

    data_cls = CabinetData
    data_meta: ClassVar = {
        "clinic_file": DataMeta("The clinic file, relative to the top of the tree."),
        "vault_file": DataMeta("The off-site host's file, where that is what it is."),
    }
    together = staticmethod(together)

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """`@cabinet/alger` is the clinic of clinics/alger.yaml."""
        yield f"@cabinet/{name}", {"clinic_file": f"clinics/{name}.yaml"}, []

    def open(self) -> tuple[Shell, Path]:
        """Log in with both factors unless somebody did, and become root. Raises LoginError, ShellGone."""
        # pyinfra loads each connector in each run; who uses another one need not load the clinic's model.
        from kit import clinic, vault  # noqa: PLC0415
        from kit.connection import HELD, Connection  # noqa: PLC0415

        if held := os.environ.get(HELD):
            os.read(int(held), 2)  # all is loaded by now
        if vault_file := self.host.data.get("vault_file"):
            name, site = vault.name_of(Path(vault_file)), vault.load(Path(vault_file))
        else:
            name, site = Path(self.host.data.clinic_file).stem, clinic.load(Path(self.host.data.clinic_file))
        self.connection = Connection(name, site)
        self.connection.login()
        self.master = self.connection.master
        shell = self.connection.shell()
        if (asked := shell.run("id -u", timeout=60)).stdout.strip() != b"0":
            raise ConnectionError(f"{name}: logged in, but not as root: {asked.stderr.decode(errors='replace').strip()}")
        return shell, private(self.connection.directory / f"{name}.asked")

    @property
    def shell(self) -> Shell:
        """The root shell."""
        return self.shells[None]

    @shell.setter
    def shell(self, other: Shell) -> None:
        self.shells[None] = other

    def account(self, arguments: dict[str, Any]) -> str | None:
        """Everything runs in the one shell: as root, who needs no sudo to be it."""
        if not (arguments.get("_sudo_user") or arguments.get("_su_user")):
            arguments["_sudo"] = False
        return None
