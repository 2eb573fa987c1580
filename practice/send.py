"""Hand on what waits in the outbox: mail by msmtp(1), the webhook by HTTPS. practice-send.service calls it, as an account of its own."""

from __future__ import annotations

import argparse
import binascii
import json
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from practice import outbox
from practice.server import Trouble

SECONDS = 30


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice send`."""
    return commands.add_parser("send", help="hand on what alarms wait to leave the server; a timer does this", description=__doc__)


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0, also when somebody could not be reached: the outbox knows, and `practice status` tells."""
    seen: set[str] = set()
    outbox.tidied()
    while new := [message for message in outbox.waiting() if message["path"] not in seen]:
        seen |= {message["path"] for message in new}
        outbox.hand_on(new, deliver, time.time())
        for message in new:
            for receiver, reason in message["refused"].items():
                print(f"{receiver}: {reason}")
    return 0


def deliver(receiver: str, message: outbox.Message) -> None:
    """One message to one receiver. Raises Trouble, with a reason, when it was not taken."""
    kind, _, address = receiver.partition(":")
    if kind == "mail":
        mail(address, message)
    else:
        webhook(outbox.config()["webhook"] or {}, message)


def mail(address: str, message: outbox.Message) -> None:
    """By msmtp, whose configuration wants TLS and a certificate that it can verify; the envelope has this one recipient."""
    # Without --file: a file that is named there must be its user's own, which this one is not to change.
    argv, seconds = ["msmtp", "--", address], 10 * SECONDS
    try:
        done = subprocess.run(argv, input=as_mail(address, message), capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:  # the others are told all the same
        raise Trouble(f"the mail server came to no end in {seconds} s") from None
    if done.returncode:
        # Its first line is the reason, the last one says that there was one.
        said = done.stderr.decode(errors="replace").splitlines() or [f"it ended with {done.returncode}"]
        raise Trouble(said[0].removeprefix("msmtp: "))


def as_mail(address: str, message: outbox.Message) -> bytes:
    """RFC 5322, in ASCII. Its id is that of the message here: should it ever be sent twice, the reader's program can tell."""
    text = message["text"].encode()
    headers = {
        "From": outbox.config()["sender"],
        "To": address,
        "Subject": message["subject"],
        "Date": time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(message["at"])),
        "Message-ID": f"<{Path(message['path']).stem}.alarm@{message['server']}>",
        "Auto-Submitted": "auto-generated",  # RFC 3834: nobody's holiday notice answers
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Transfer-Encoding": "quoted-printable",
    }
    head = "".join(f"{name}: {value}\n" for name, value in headers.items())
    return head.encode("ascii") + b"\n" + binascii.b2a_qp(text, istext=True)


def webhook(config: dict[str, Any], message: outbox.Message) -> None:
    """One POST of JSON, whose `text` is what chat services show. http.client follows no redirect and asks no proxy."""
    import http.client  # noqa: PLC0415 -- a second on a slow machine, which mail can do without
    import ssl  # noqa: PLC0415

    url = urlsplit(config["url"])
    body = json.dumps({name: message[name] for name in ("state", "server", "subject", "text", "at")}).encode()
    name, _, value = config["header"].partition(":")
    headers = {"Content-Type": "application/json"} | ({name: value.strip()} if name else {})
    try:
        trust = ssl.create_default_context(cafile=config["ca"])
        link = http.client.HTTPSConnection(url.hostname or "", url.port or 443, timeout=SECONDS, context=trust)
        link.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
        answer = link.getresponse()
    except (OSError, http.client.HTTPException) as bad:
        raise Trouble(f"the webhook's server: {bad}") from None
    if not 200 <= answer.status < 300:
        raise Trouble(f"the webhook's server answered {answer.status}")
