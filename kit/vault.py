"""The file of an off-site host: whom it keeps copies for, and how much of them for how long."""

from __future__ import annotations

import functools
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from kit import words, yamlmarks
from kit.alarms import Alarm, Given
from kit.clinic import this_clinic
from kit.offsite import PASSWORD, AccountName
from kit.paths import ROOT
from kit.sections import TIME_SERVERS, Certificate, Connect, Egress, Management, Resolvers
from kit.site import Network, People, Reach, Site
from kit.yamlmarks import FileError, Loc, Mistakes, Strict

VAULTS = ROOT / "vaults"
SSH = 22
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class VaultNet(Strict):
    """Where the host stands, and who looks after it."""

    interface: words.InterfaceName = Field(examples=["enp1s0"])
    management: Management
    resolvers: Resolvers
    ntp: tuple[words.Fqdn, ...] = TIME_SERVERS


class Account(Strict):
    """A practice, and what was agreed with it."""

    name: AccountName = Field(examples=["haddad"])
    password_file: Annotated[Given, PASSWORD] = Field(examples=["~/secrets/alger-offsite"])
    port: Annotated[int, Field(ge=1024, le=65535)] = 8443
    quota_gib: Annotated[int, Field(ge=1, le=100000)] = Field(examples=["200"])
    keep_days: Annotated[int, Field(ge=30, le=3650)] = 35
    silence_hours: Annotated[int, Field(ge=1, le=72)] = 2
    sources: tuple[words.Network, ...] = ()


class Vault(Site):
    """An off-site host."""

    egress: ClassVar[Egress] = Egress()
    vpn: ClassVar[None] = None
    offsite: ClassVar[None] = None
    storage: ClassVar[None] = None

    host: words.Fqdn = Field(examples=["vault.atlas.example"])
    connect: Connect
    network: VaultNet
    people: People
    certificate: Certificate
    alarm: Alarm | None = None
    accounts: Annotated[tuple[Account, ...], Field(min_length=1)] = Field(examples=["[{name: haddad, …}]"])

    @field_validator("accounts")
    @classmethod
    def are_different(cls, accounts: tuple[Account, ...]) -> tuple[Account, ...]:
        """Each has a process of its own, so each needs a port of its own."""
        found: list[tuple[Loc, str]] = []
        first: dict[tuple[str, object], str] = {}
        for index, account in enumerate(accounts):
            for key, value in (("name", account.name), ("port", account.port)):
                if (owner := first.setdefault((key, value), f"{account.name} {index}")) != f"{account.name} {index}":
                    found.append(((index, key), f"{value} is {owner.split()[0]}'s already; each practice needs one of its own"))
        if found:
            raise Mistakes(found)
        return accounts

    @model_validator(mode="after")
    def people_are_no_processes(self) -> Self:
        """A person and a practice's process are two accounts of one system."""
        processes = {process_account(account.name) for account in self.accounts}
        found: list[tuple[Loc, str]] = [
            (("people", index, "name"), f"{person.name} is what the practice's process is called; choose another name")
            for index, person in enumerate(self.people)
            if person.name in processes
        ]
        if found:
            raise Mistakes(found)
        return self

    @property
    def hostname(self) -> str:
        """Its full name."""
        return self.host

    @property
    def practice(self) -> str:
        """It is nobody's alone."""
        return self.host

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Its one network card."""
        return (self.network.interface,)

    @property
    def neighbours(self) -> tuple[Network, ...]:
        """The networks that may ping it."""
        return self.network.management

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """SSH from the management networks, each practice's port from where that practice comes."""
        ssh = Reach("ssh", "management", SSH, None, self.network.management)
        return (ssh, *(Reach("copies", one.name, one.port, None, one.sources or ANYWHERE) for one in self.accounts))


def process_account(name: str) -> str:
    """The system's account that takes the copies of the practice `name`."""
    return f"vault-{name}"


def name_of(path: Path) -> str:
    """What the host is called here: a practice may have a file of the same name."""
    return f"{path.stem}.vault"


def load(path: Path) -> Vault:
    """The host in `path`. Raises FileError with one line per mistake."""
    return yamlmarks.load(Vault, path, expected="an off-site host as in vaults/example.yaml")


def inventory() -> list[tuple[str, dict[str, str]]]:
    """All off-site hosts as pyinfra hosts; a mistake ends pyinfra before it connects."""
    found = []
    for path in sorted(path for path in VAULTS.glob("*.yaml") if path.stem != "example"):
        try:
            load(path)
        except FileError as bad:
            raise SystemExit(str(bad)) from None
        found.append((f"@cabinet/{name_of(path)}", {"vault_file": f"vaults/{path.name}"}))
    return found


def this_vault() -> Vault:
    """The off-site host that pyinfra is working on."""
    from pyinfra import host  # noqa: PLC0415 -- pyinfra takes a second to import, and most of the kit does without

    return _loaded(host.data.vault_file)


@functools.cache
def _loaded(path: str) -> Vault:
    return load(ROOT / path)


def this_site() -> Site:
    """The practice's server, or the off-site host, that pyinfra is working on."""
    from pyinfra import host  # noqa: PLC0415 -- as above

    return this_vault() if host.data.get("vault_file") else this_clinic()
