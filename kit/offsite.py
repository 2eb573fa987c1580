"""The section `offsite` of a clinic file: where the copy outside the practice goes, and how old it may become."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from kit import post, words
from kit.alarms import Given, one_line
from kit.yamlmarks import Strict

PASSWORD = one_line(r"[!-~]{20,200}", "a password of at least 20 characters, alone on its only line")


def _not_reserved(name: str) -> str:
    """rest-server takes these names in an address for parts of a repository."""
    if name in ("config", "data", "index", "keys", "locks", "snapshots"):
        raise ValueError(f'"{name}" means something else to a rest-server; choose another name')
    return name


AccountName = Annotated[words.Account, AfterValidator(_not_reserved)]


class Offsite(Strict):
    """The second kind of copy: at a restic rest-server that only ever adds. There is no key for doing without TLS."""

    host: words.Host = Field(examples=["vault.atlas.example"])
    port: words.Port = 8443
    account: AccountName = Field(examples=["haddad"])
    password_file: Annotated[Given, PASSWORD] = Field(examples=["~/secrets/alger-offsite"])
    authority: Annotated[Given, AfterValidator(post.check_authority)] | None = None
    max_age_minutes: Annotated[int, Field(ge=30, le=4320)] = 60

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
