"""The section `alarm` of a clinic file: who is told when something is wrong, and how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, model_validator

from kit import post, words
from kit.yamlmarks import Mistakes, Strict


def _given(text: object, info: ValidationInfo) -> Path:
    """A file with what the practice was given. What is no path may be the secret itself, so it is not repeated."""
    written = str(text)
    if written.startswith("state:") and (info.context or {}).get("vm"):
        return post.given(written.removeprefix("state:"))
    path = Path(written).expanduser()
    if not path.is_absolute():
        raise ValueError("is not the whole path of a file on the technician's machine; no secret stands in a clinic file itself")
    if not words.outside_tree(path).is_file():
        raise ValueError(f"{path} is not a file on this machine; write where it lies")
    return path


Given = Annotated[Path, PlainValidator(_given, json_schema_input_type=str)]


def one_line(pattern: str, looks: str) -> AfterValidator:
    """What stands in the file is one line that matches; it is not repeated."""

    def check(path: Path) -> Path:
        if not re.fullmatch(pattern, path.read_text().strip()):
            raise ValueError(f"{path} does not hold {looks}")
        return path

    return AfterValidator(check)


class Login(Strict):
    """The server's account at a mail server."""

    user: words.Line = Field(examples=["server@haddad.example"])
    password_file: Annotated[Given, one_line(r"[^\x00-\x1f\x7f]{1,200}", "a password, alone on its only line")] = Field(
        examples=["~/secrets/alger-mail"]
    )


class Mail(Strict):
    """Alarms by mail. There is no key for doing without TLS."""

    to: Annotated[tuple[words.MailAddress, ...], Field(min_length=1)] = Field(examples=["[garde@haddad.example]"])
    sender: words.MailAddress = Field(examples=["server@haddad.example"])
    host: words.Host = Field(examples=["mail.haddad.example"])
    port: words.Port = 587
    encryption: Annotated[str, words.one_of(("starttls", "tls"), {"none": "mail goes out encrypted or not at all"})] = "starttls"
    login: Login | None = None

    @model_validator(mode="after")
    def speaks_as_its_port(self) -> Self:
        """RFC 8314: at 465 TLS comes first; a client that waits there for a greeting waits in vain."""
        if self.port == 465 and self.encryption != "tls":
            raise Mistakes([(("encryption",), "port 465 speaks TLS from the start; write encryption: tls")])
        return self


class Webhook(Strict):
    """Alarms to a program."""

    url: words.WebAddress = Field(examples=["https://alarms.haddad.example/practice"])
    header_file: Annotated[Given, one_line(r"[A-Za-z0-9-]+: *[!-~][ -~]*", "one line such as Authorization: Bearer …")] | None = None


class Alarm(Strict):
    """How alarms reach a person."""

    mail: Mail | None = None
    webhook: Webhook | None = None
    authority: Annotated[Given, AfterValidator(post.check_authority)] | None = None

    @model_validator(mode="after")
    def reaches_somebody(self) -> Self:
        """A section that names nobody was meant to name somebody."""
        if self.mail is None and self.webhook is None:
            raise ValueError("names nobody; it needs mail, webhook, or both")
        return self

    @property
    def ways(self) -> tuple[tuple[str, int], ...]:
        """The hosts, each with its port, that alarms go to."""
        mail = [(self.mail.host, self.mail.port)] if self.mail else []
        parts = urlsplit(self.webhook.url) if self.webhook else None
        return (*mail, *([(parts.hostname or "", parts.port or 443)] if parts else []))
