"""A real rest-server from Debian 13, append-only and with TLS, as roles/vault.py runs it; and restic beside it.

Both programs come out of the system that kit/place.py makes from Debian's signed archive; they need nothing but a C library of 2022.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import importlib.machinery
import importlib.util
import os
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from kit import place, post
from kit.paths import ROOT
from practice.engine import Restic
from tests.helpers import free_port

if TYPE_CHECKING:
    from kit.neighbour import Neighbour

ACCOUNT = "haddad"
ADDRESS = "127.0.0.1"


# journalctl, for what a server below `home` has written: the log of its requests, and what else it said. Long lines are in pieces.
JOURNAL = """#!{python} -IS
import json, os, re, sys
from datetime import datetime
wanted = ["--quiet", "--all", "--no-pager", "--output=json", "--output-fields=MESSAGE,_LINE_BREAK", "_SYSTEMD_UNIT={unit}"]
assert sys.argv[1:7] == wanted, sys.argv
read = [int(number) for number in (sys.argv[7:] or ["--after-cursor=0,0"])[0].removeprefix("--after-cursor=").split(",")]
for number, name in enumerate(("log", "said")):
    path = f"{home}/{{name}}"
    for line in open(path, errors="replace").read().splitlines()[read[number]:] if os.path.exists(path) else []:
        read[number] += 1
        moment = re.match(r"[^[]*\\[([^]]*)\\]", line)
        at = datetime.strptime(moment[1], "%d/%b/%Y:%H:%M:%S %z").timestamp() if moment else os.stat(path).st_mtime
        stamp, cursor = str(int(at * 1e6)), ",".join(map(str, read))
        entry = {{"__CURSOR": cursor, "__REALTIME_TIMESTAMP": stamp}}
        while len(line) > 49152:
            print(json.dumps(entry | {{"MESSAGE": line[:49152], "_LINE_BREAK": "line-max"}}))
            line = line[49152:]
        print(json.dumps(entry | {{"MESSAGE": line}}))
"""


def keeper(home: Path) -> ModuleType:
    """files/vault/keeper.py, for what lies below `home`; a module of its own for each caller, and nothing compiled beside it.

    What it asks of systemd is written down in `home`/restarts, what it has told in `home`/told; the journal is `home`/log and `home`/said.
    """
    loader = importlib.machinery.SourceFileLoader("keeper", str(ROOT / "files/vault/keeper.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    before, sys.dont_write_bytecode, sys.modules["keeper"] = sys.dont_write_bytecode, True, module
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    module.STORE, module.LEDGERS, module.CONFIG = home / "vault", home / "ledgers", home / "vault.json"
    module.SYSTEMCTL, module.JOURNALCTL, module.PRACTICE = (str(home / name) for name in ("systemctl", "journalctl", "practice"))
    for program, text in (
        (module.SYSTEMCTL, f'#!/bin/sh\necho "$*" >>{home}/restarts\n'),
        (module.JOURNALCTL, JOURNAL.format(python=sys.executable, home=home, unit=f"cabinet-vault-{ACCOUNT}.service")),
        (module.PRACTICE, f'#!/bin/sh\necho "$1 $2 $3" >>{home}/told\n'),
    ):
        Path(program).write_text(text)
        Path(program).chmod(0o755)
    module.LEDGERS.mkdir()
    (module.STORE / ACCOUNT).mkdir(parents=True, exist_ok=True)
    return module


def programs(into: Path) -> Path:
    """The directory with both programs."""
    directory = into / "usr/bin"
    if not directory.exists():
        wanted = ["./usr/bin/restic", "./usr/bin/restic-rest-server"]
        subprocess.run(["tar", "-xf", str(place.system()), "-C", str(into), *wanted], check=True)
    return directory


@dataclass
class Server:
    """Where it is, what the practice was given to reach it, and where it keeps things."""

    home: Path
    port: int
    login: str
    programs: Path
    account: str = ACCOUNT
    address: str = ADDRESS
    quota: int = 1 << 30
    append_only: bool = True

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://{self.address}:{self.port}"

    @property
    def store(self) -> Path:
        """Where the account's repositories lie."""
        return self.home / "vault" / self.account / self.account

    @property
    def authority(self) -> Path:
        """Whom to believe."""
        return self.home / "authority.pem"

    @property
    def log(self) -> Path:
        """What it was asked."""
        return self.home / "log"

    def words(self, certificate: str, quota: int) -> list[str]:
        """How it is started; what it needs is written below `home`."""
        store = self.home / "vault" / self.account
        store.mkdir(parents=True, exist_ok=True)
        self.authority.write_bytes(post.given(post.AUTHORITY).read_bytes())
        # A random password of 190 bits: nobody finds it from a hash, however quick the hash is.
        verifier = base64.b64encode(hashlib.sha1(self.login.encode()).digest()).decode()
        (self.home / "htpasswd").write_text(f"{self.account}:{{SHA}}{verifier}\n")
        (self.home / "server.pem").write_text(certificate)
        return [
            f"{self.programs}/restic-rest-server", *(["--append-only"] if self.append_only else []), "--private-repos",
            f"--path={store}", f"--max-size={quota}",
            f"--htpasswd-file={self.home}/htpasswd", "--tls", f"--tls-cert={self.home}/server.pem", f"--tls-key={self.home}/server.pem",
            f"--listen={self.address}:{self.port}", f"--log={self.home}/log",
        ]  # fmt: skip

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """For a while nobody is there."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    _start: Callable[[], None] = print
    _stop: Callable[[], None] = print

    def engine(self, generation: str, password: str, login: str | None = None, authority: Path | None = None, **more: str) -> Restic:
        """A practice's way to a repository."""
        given = {
            "RESTIC_PASSWORD": password,
            "RESTIC_REST_USERNAME": self.account,
            "RESTIC_REST_PASSWORD": login or self.login,
            "RESTIC_CACERT": str(authority or self.authority),
        }
        repository = f"rest:{self.url}/{self.account}/{generation}/"
        return Restic(repository, given | more, self.home / "cache", str(self.programs / "restic"))

    def local(self, repository: Path, password: str) -> Restic:
        """The same files, read where they lie."""
        return Restic(str(repository), {"RESTIC_PASSWORD": password}, self.home / "cache-local", str(self.programs / "restic"))

    def asked(self, method: str, path: str, body: bytes = b"", login: str | None = None, who: str | None = None) -> int:
        """What it answers to a request as whoever holds the practice's password; the path goes as it is written."""
        context = ssl.create_default_context(cafile=str(self.authority))
        link = http.client.HTTPSConnection(self.address, self.port, context=context, timeout=20)
        word = base64.b64encode(f"{who or self.account}:{login or self.login}".encode()).decode()
        with contextlib.closing(link):
            link.connect()
            link.putrequest(method, path, skip_accept_encoding=True)
            link.putheader("Authorization", f"Basic {word}")
            link.putheader("Content-Length", str(len(body)))
            with contextlib.suppress(OSError):  # it may have had enough before it has read all
                link.endheaders(body)
            try:
                return link.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0


@contextlib.contextmanager
def rest_server(home: Path, quota: int = 1 << 30) -> Iterator[Server]:
    """It runs on this machine; everything it keeps lies below `home`; it can be away for a while."""
    server = Server(home, free_port(), secrets.token_urlsafe(24), programs(home), quota=quota)
    with contextlib.ExitStack() as running:
        server._start = lambda: running.enter_context(listening(server))
        server._stop = running.close
        server._start()
        yield server


@contextlib.contextmanager
def listening(server: Server) -> Iterator[None]:
    """It answers; at the end it is killed, as when its machine goes."""
    home = server.home
    words = ["setpriv", "--pdeathsig", "TERM", *server.words(post.server_certificate(ADDRESS), server.quota)]  # ends with the tests
    with (home / "said").open("w") as said, subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as process:
        try:
            end = time.monotonic() + 10
            while True:
                with contextlib.suppress(OSError):
                    server.asked("GET", "/")
                    break
                assert process.poll() is None and time.monotonic() < end, (home / "said").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def in_the_network(
    inside: Neighbour, home: Path, address: str, port: int, account: str, login: str, certificate: str = "", append_only: bool = True
) -> Iterator[Server]:
    """It runs in the tests' LAN, with what the clinic's server was given; it can be away for a while."""
    server = Server(home, port, login, programs(home), account, address, append_only=append_only)
    words = server.words(certificate or post.server_certificate(address), 1 << 30)
    # It says nothing when it listens; whoever comes first comes from a virtual machine, which takes longer than it does to begin.
    # It keeps what the tests read, so it is no more than whoever runs them.
    ours = ["setpriv", f"--reuid={os.getuid()}", f"--regid={os.getgid()}", "--clear-groups"]
    begin = [*ours, "sh", "-c", 'echo listening; exec "$@" >/dev/null 2>&1', "sh", *words]
    with contextlib.ExitStack() as running:
        server._start = lambda: running.enter_context(inside.serving(begin, []))
        server._stop = running.close
        server._start()
        yield server
