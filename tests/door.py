"""Knocking at SSH as different people, with more or less of what they need, from places of their own in the LAN."""

from __future__ import annotations

import itertools
import random
import shlex
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from testinfra.host import Host

from kit import paths, totp
from kit.neighbour import SERVER, Neighbour

# Who fails is cut off for a while: each knock comes from an address that nobody used in the last minutes.
ADDRESSES = [f"10.70.0.{last}" for last in range(30, 250)]
_next_address = itertools.count(random.randrange(len(ADDRESSES)))
OPTIONS = (
    "-F none -n -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentityAgent=none -o IdentitiesOnly=yes "
    "-o NumberOfPasswordPrompts=1 -o ConnectTimeout=15 -o ControlPath=none"
)
ASKPASS = '#!/bin/sh\nprintf "%s\\n" "$1" >&2\nprintf "%s\\n" "$CABINET_CODE"\n'


@dataclass(frozen=True)
class Knock:
    """One attempt: as whom, whose key (None: no key), which code (None: none is given)."""

    user: str
    key: str | None
    code: str | None
    source: str = ""
    command: str = "echo inside"
    options: str = ""


@dataclass(frozen=True)
class Answer:
    """What the server did: `inside` it let in, `refused` it said no, `cut` it did not talk."""

    verdict: str
    said: str


class Door:
    """SSH on the server, seen from its LAN."""

    def __init__(self, host: Host, inside: Neighbour) -> None:
        self.host, self.inside = host, inside
        self.askpass = paths.state_dir() / "tests.askpass"
        self.askpass.write_text(ASKPASS)
        self.askpass.chmod(0o755)
        # The PAM module refuses a code when somebody else's attempt has rewritten the same seed's file meanwhile.
        self._one_at_a_time: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def codes(self, *people: str) -> dict[str, list[str]]:
        """For each person the codes of now and of the next 30 s. What was used is forgotten first, so that no test waits for another."""
        forget = r"""sed -i 's/^\(" RATE_LIMIT [0-9]* [0-9]*\).*/\1/; s/^\(" DISALLOW_REUSE\).*/\1/' """
        files = " ".join(f"/etc/cabinet/totp/{person}" for person in people)
        step = int(self.host.check_output(f"{forget} {files} && date +%s")) // totp.STEP
        return {person: [totp.code(self.seed(person), step), totp.code(self.seed(person), step + 1)] for person in people}

    def seed(self, person: str) -> str:
        """The seed that the person's phone would hold."""
        return (paths.state_dir() / "totp" / person).read_text().strip()

    def knock(self, *knocks: Knock) -> list[Answer]:
        """All at once, but the codes of one person one after another; the answers in the same order."""
        with ThreadPoolExecutor(len(knocks)) as pool:
            return list(pool.map(self._knock, knocks))

    def new_address(self) -> str:
        """An address of the LAN from which nobody has knocked lately."""
        return ADDRESSES[next(_next_address) % len(ADDRESSES)]

    def _knock(self, knock: Knock) -> Answer:
        source = knock.source or self.new_address()
        key = f"-i {shlex.quote(str(key_of(knock.key)))}" if knock.key else "-o PubkeyAuthentication=no"
        ask = "-o BatchMode=yes" if knock.code is None else ""
        line = (
            f"ip address replace {source}/32 dev $(ip -o route get {SERVER} | sed 's/.* dev \\([^ ]*\\).*/\\1/'); "
            f"CABINET_CODE={knock.code} SSH_ASKPASS={self.askpass} SSH_ASKPASS_REQUIRE=force "
            f"ssh {OPTIONS} {ask} {key} -b {source} {knock.options} {knock.user}@{SERVER} {shlex.quote(knock.command)}"
        )
        with self._one_at_a_time[knock.user] if knock.code else nullcontext():
            done = self.inside.run(line, timeout=60)
        if "inside" in done.stdout:
            return Answer("inside", done.stdout + done.stderr)
        return Answer("refused" if "Permission denied" in done.stderr else "cut", done.stderr)


def key_of(person: str) -> Path:
    """The private key of one of the VM's people."""
    return paths.state_dir() / "keys" / person


def since(host: Host) -> float:
    """The server's clock, for asking its journal what happened after this."""
    return float(host.check_output("date +%s.%N"))


def journal(host: Host, since: float, wanted: str, seconds: float = 3) -> str:
    """What sshd and sudo wrote since then; waits until `wanted` appears in it, at most so long."""
    end = time.monotonic() + seconds
    while True:
        said = host.check_output(f"journalctl --no-pager -o cat --since @{since:.6f} SYSLOG_FACILITY=4 + SYSLOG_FACILITY=10")
        if wanted in said or time.monotonic() > end:
            return said
        time.sleep(0.2)
