"""The file of an off-site host: whom it keeps copies for, and how much of them for how long."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from kit import words, yamlmarks
from kit.alarms import Alarm, Given
from kit.offsite import PASSWORD, AccountName
from kit.paths import ROOT
from kit.sections import Certificate
from kit.yamlmarks import FileError, Loc, Mistakes, Strict

VAULTS = ROOT / "vaults"


class Account(Strict):
    """A practice, and what was agreed with it."""

    name: AccountName = Field(examples=["haddad"])
    password_file: Annotated[Given, PASSWORD] = Field(examples=["~/secrets/alger-offsite"])
    port: Annotated[int, Field(ge=1024, le=65535)] = 8443
    quota_gib: Annotated[int, Field(ge=1, le=100000)] = Field(examples=["200"])
    keep_days: Annotated[int, Field(ge=30, le=3650)] = 35
    silence_hours: Annotated[int, Field(ge=1, le=72)] = 2
    sources: tuple[words.Network, ...] = ()


class Vault(Strict):
    """An off-site host."""

    host: words.Fqdn = Field(examples=["vault.atlas.example"])
    certificate: Certificate
    alarm: Alarm | None = None
    accounts: Annotated[tuple[Account, ...], Field(min_length=1)] = Field(examples=["[{name: haddad, …}]"])

    @field_validator("accounts")
    @classmethod
    def are_different(cls, accounts: tuple[Account, ...], info: ValidationInfo) -> tuple[Account, ...]:
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


def load(path: Path) -> Vault:
    """The host in `path`. Raises FileError with one line per mistake."""
    return yamlmarks.load(Vault, path, expected="an off-site host as in vaults/example.yaml")


def inventory() -> list[tuple[str, dict[str, str]]]:
    """All off-site hosts as pyinfra hosts, by the technician's own ssh_config; a mistake ends pyinfra before it connects."""
    found = []
    for path in sorted(path for path in VAULTS.glob("*.yaml") if path.stem != "example"):
        try:
            found.append((f"@openssh/{load(path).host}", {"vault_file": f"vaults/{path.name}"}))
        except FileError as bad:
            raise SystemExit(str(bad)) from None
    return found


def this_vault() -> Vault:
    """The off-site host that pyinfra is working on."""
    from pyinfra import host  # noqa: PLC0415 -- pyinfra takes a second to import, and most of the kit does without

    return _loaded(host.data.vault_file)


@functools.cache
def _loaded(path: str) -> Vault:
    return load(ROOT / path)
