"""The practice's mail server and its webhook, in the tests' LAN: a real SMTP server (aiosmtpd) and HTTPS, which tell what they are given.

As a program (`postbox.py ADDRESS CERTIFICATE PASSWORD none|starttls`) it serves; `postbox()` starts it beside the server under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import logging
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult

if TYPE_CHECKING:
    from kit.neighbour import Neighbour

SMTP_PORT, HTTPS_PORT = 587, 443


def tell(event: str, **what: Any) -> None:
    """One event is one line."""
    print(json.dumps({"event": event} | what), flush=True)


class Mailbox:
    """What aiosmtpd asks; `tls` says whether the conversation is encrypted by then."""

    async def handle_EHLO(self, server: SMTP, session: Any, envelope: Any, hostname: str, responses: list[str]) -> list[str]:
        tell("hello", tls=session.ssl is not None, name=hostname)
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        tell("sender", tls=session.ssl is not None, address=address)
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        read = email.message_from_bytes(envelope.content, policy=email.policy.default)
        tell(
            "mail",
            tls=session.ssl is not None,
            user=session.auth_data,
            sender=envelope.mail_from,
            to=envelope.rcpt_tos,
            headers=dict(read.items()),
            text=read.get_content(),
        )
        return "250 taken"


def serve(address: str, certificate: str, password: str, encryption: str) -> None:
    """Both servers, until the end. `none` is a mail server that offers no TLS and takes whatever comes."""
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # at each log-in aiosmtpd warns of something that it does itself
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def known(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = data.password.decode() == Path(password).read_text().strip()
        tell("password", tls=session.ssl is not None, good=good)
        return AuthResult(success=good, auth_data=data.login.decode())

    def smtp() -> SMTP:
        encrypted = {"tls_context": context, "require_starttls": True, "auth_required": True} if encryption == "starttls" else {}
        return SMTP(Mailbox(), authenticator=known, auth_require_tls=encryption == "starttls", **encrypted)

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            tell("hook", path=self.path, header=self.headers["Authorization"], body=json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: what matters was told."""

    async def main() -> None:
        web = HTTPServer((address, HTTPS_PORT), Hook)
        web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        await asyncio.get_running_loop().create_server(smtp, address, SMTP_PORT)
        print("listening", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


class Postbox:
    """What the servers have told so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def heard(self, event: str, state: str | None = None, subject: str = "") -> list[dict[str, Any]]:
        """The events of one kind, in order; of the webhook's, those about one state; of mails, those whose subject ends so."""
        told = [each for each in map(json.loads, list(self.lines)) if each["event"] == event]
        told = [each for each in told if not subject or each["headers"]["Subject"].endswith(subject)]
        return [each for each in told if state is None or each["body"]["state"] == state]

    def wait(self, event: str, count: int = 1, state: str | None = None, seconds: float = 20, subject: str = "") -> list[dict[str, Any]]:
        """The events of one kind, as soon as there are so many, or when the time is over."""
        end = time.monotonic() + seconds
        while len(self.heard(event, state, subject)) < count and time.monotonic() < end:
            time.sleep(0.05)
        return self.heard(event, state, subject)


@contextlib.contextmanager
def postbox(inside: Neighbour, *, trusted: bool = True, encryption: str = "starttls") -> Iterator[Postbox]:
    """Both servers run, with a certificate that the clinic trusts, or with somebody else's."""
    from kit import post  # noqa: PLC0415 -- as a program this stands alone
    from kit.neighbour import ADDRESS  # noqa: PLC0415

    box = Postbox()
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as certificate:
        certificate.write(post.server_certificate(ADDRESS, trusted))
        certificate.flush()
        words = [sys.executable, "-I", "-u", __file__, ADDRESS, certificate.name, str(post.given(post.PASSWORD)), encryption]
        with inside.serving(words, box.lines):
            yield box


if __name__ == "__main__":
    serve(*sys.argv[1:])
