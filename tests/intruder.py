"""Root on the practice's server, against the place outside: as the account that may get there, with all its passwords."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from testinfra.backend.base import CommandResult
from testinfra.host import Host

from roles.offsite import ACCOUNT, AUTHORITY, LOGIN, PASSWORD, WAY

# Prints the status of each answer.
ASK = """
import base64, http.client, os, ssl, sys
word = base64.b64encode((os.environ["RESTIC_REST_USERNAME"] + ":" + os.environ["RESTIC_REST_PASSWORD"]).encode()).decode()
link = http.client.HTTPSConnection(sys.argv[1], int(sys.argv[2]), context=ssl.create_default_context(cafile=os.environ["RESTIC_CACERT"]))
for asked in sys.argv[4:]:
    link.request(*asked.split(" "), sys.argv[3].encode(), {"Authorization": "Basic " + word})
    answer = link.getresponse()
    answer.read()
    print(answer.status)
"""


@dataclass(frozen=True)
class Intruder:
    """Where the copies go, and under which name."""

    host: Host
    address: str
    port: int
    account: str

    def runs(self, generation: str, *words: str) -> CommandResult:
        """A program, told about that repository as restic is."""
        secrets = {
            "RESTIC_REPOSITORY": f"rest:https://{self.address}:{self.port}/{self.account}/{generation}/",
            "RESTIC_REST_USERNAME": self.account,
            "RESTIC_REST_PASSWORD": f"$(cat {LOGIN})",
            "RESTIC_PASSWORD": f"$(cat {PASSWORD})",
            "RESTIC_CACERT": AUTHORITY,
        }
        given = " ".join(f'{name}="{value}"' for name, value in secrets.items())
        who = f"setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups"
        return self.host.run(f"{WAY}; {given} {who} {shlex.join(words)}")

    def asks(self, *asked: str, body: str = "gone") -> list[int]:
        """The host's answers, one for each `METHOD PATH`, as far as it gives any."""
        done = self.runs("any", "python3", "-c", ASK, self.address, str(self.port), body, *asked)
        return [int(status) for status in done.stdout.split()]

    def destroys(self, generation: str, files: Iterable[str]) -> list[int]:
        """restic forgets; each of its `files`, as they lie there (GENERATION/KIND/…), is deleted and written over: the answers to that."""
        parts = [file.split("/") for file in files if file.startswith(f"{generation}/")]
        # What lies in data/ab/abc… is asked for as data/abc….
        paths = ["/".join(["", self.account, *one[:2], *one[2:][-1:]]) for one in parts]
        self.runs(generation, "restic", "--quiet", "--no-cache", "forget", "--prune", "--keep-last=1")
        return self.asks(*(f"{method} {path}" for path in paths for method in ("DELETE", "POST")))
