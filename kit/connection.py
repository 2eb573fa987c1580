"""The way in: one OpenSSH connection per server, logged in once with both factors; everything after rides on it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyinfra_openssh.master import Master
from pyinfra_openssh.shell import Shell

from kit import paths
from kit.site import Site
from kit.vm import Machine

# How long the connection stays after its last session: as long as the server allows (UnusedConnectionTimeout in sshd_config).
PERSIST_SECONDS = 600
# In the environment of pyinfra: the file descriptor on which it is told to go on and connect (deployment.role_at_hand).
HELD = "CABINET_HELD"
# The umask of whoever logged in may be stricter: directories that services must enter would shut them out.
ROOT_SHELL = "env LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root sh -c 'umask 022; exec sh'"


class LoginError(ConnectionError):
    """Nobody was let in; says who tried, how, and what the server said."""


@dataclass(frozen=True)
class Login:
    """One way to ask for entry: an account, its key file (None: whatever the agent offers), and its TOTP seed where the kit may know it."""

    user: str
    key: Path | None = None
    totp: Path | None = None


class Connection:
    """The OpenSSH master of one server; `vagrant` is the VM."""

    def __init__(self, name: str, site: Site) -> None:
        self.name, self.site = name, site
        self.directory = paths.state_dir() / "ssh"
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.config = self.directory / f"{name}.conf"
        self.master = Master(name, self.directory / f"{name}.sock", ["-F", str(self.config)])

    def login(self) -> None:
        """Open the master unless it is open. Raises LoginError with every way that was tried."""
        if self.alive():
            return
        self._write_config()
        refusals = []
        for login in self.logins():
            said = self.master.open(*self._how(login))
            if said is None:
                self._user.write_text(login.user)
                return
            refusals.append(f"  as {login.user}: {said}")
        raise LoginError(f"{self.name}: no way in at {self.address[0]} port {self.address[1]}:\n" + "\n".join(refusals))

    def renew(self) -> None:
        """Come in anew as the technician, and let everything from now on ride on that connection; what runs on the old one goes on.

        Raises LoginError when the server refuses; then the old connection is still the one.
        """
        login, beside = self.logins()[0], Master(self.name, self.master.socket.with_suffix(".new"), self.master.options)
        refused = beside.open(*self._how(login))
        if refused is not None:
            raise LoginError(f"{self.name}: {login.user} does not get in at {self.address[0]} port {self.address[1]}: {refused}")
        asked = subprocess.run(beside.riding(self.name, "sudo -n true"), capture_output=True, text=True, check=False)
        if asked.returncode:
            beside.close()
            raise LoginError(f"{self.name}: {login.user} gets in, but does not become root: {asked.stderr.strip()}")
        # The old master takes no new session and ends with its last one; the new one answers where the old one did.
        self.master.retire()
        beside.socket.rename(self.master.socket)
        self._user.write_text(login.user)

    def logout(self) -> None:
        """Close the master, and with it every session on it."""
        self.master.close()

    def alive(self) -> bool:
        """Whether the master answers; costs no round trip to the server."""
        return self.config.exists() and self.master.alive()

    def greeting_refused(self) -> str | None:
        """Whether sshd greets a new connection: None, or what happened instead. Asks for no log-in."""
        try:
            with socket.create_connection(self.address, timeout=20) as link:
                return None if link.recv(4) == b"SSH-" else "the port is open, but no SSH server greets"
        except OSError as silence:
            return str(silence)

    def entry_refused(self) -> str | None:
        """Whether the best way in lets us in anew, beside the master: None, or what the server said."""
        options, env = self._how(self.logins()[0])
        return self.master.attempt([*options, "-o", "ControlPath=none", self.name, "true"], env)

    def shell(self) -> Shell:
        """A new root shell over the master."""
        return self.master.shell(f"exec sudo -n {ROOT_SHELL}")

    def file(self, path: str) -> bytes | None:
        """What lies at `path` on the server, or None when nothing does. Raises LoginError."""
        self.login()
        shell = self.shell()
        said = shell.run(f"cat {shlex.quote(path)}")
        shell.close()
        return None if said.rc else said.stdout

    @property
    def logged_in_as(self) -> str | None:
        """The account that the master was opened as; None when nobody is logged in."""
        return self._user.read_text() if self.alive() else None

    @property
    def _user(self) -> Path:
        return self.directory / f"{self.name}.user"

    @cached_property
    def address(self) -> tuple[str, int]:
        """Host and port of sshd as seen from here."""
        if self.site.connect is not None:
            return str(self.site.connect.host), self.site.connect.port
        return "127.0.0.1", Machine().ssh_port

    def logins(self) -> list[Login]:
        """The ways in, best first: the technician with both factors, then the account of a machine that was never deployed."""
        if self.site.connect is None:
            keys, seeds = paths.state_dir() / "keys", paths.state_dir() / "totp"
            technician = self.site.technician
            # Without a seed here nobody was enrolled yet; a refused log-in would only cost a penalty.
            enrolled = [Login(technician, keys / technician, seeds / technician)] if (seeds / technician).exists() else []
            return [*enrolled, Login("vagrant", Machine().key)]
        connect = self.site.connect
        user = os.environ.get("CABINET_USER", self.site.technician)
        bootstrap_key = Path(connect.bootstrap_key).expanduser() if connect.bootstrap_key else None
        return [Login(user), Login(connect.bootstrap_user, bootstrap_key)]

    def _write_config(self) -> None:
        host, port = self.address
        self.config.write_text(
            f"Host {self.name}\n  HostName {host}\n  Port {port}\n  HostKeyAlias {self.name}\n"
            f"  UserKnownHostsFile {self.directory / (self.name + '.known_hosts')}\n  StrictHostKeyChecking accept-new\n"
            f"  ControlPath {self.master.socket}\n  ControlPersist {PERSIST_SECONDS}\n  ServerAliveInterval 15\n  ServerAliveCountMax 4\n"
            "  PasswordAuthentication no\n  ForwardAgent no\n  LogLevel ERROR\n"
        )

    def _how(self, login: Login) -> tuple[list[str], dict[str, str]]:
        """The options and the environment of ssh that mean `login`. A code is asked for on the terminal, unless the kit may know it."""
        options = ["-l", login.user]
        if login.key is not None:
            options += ["-i", str(login.key), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        if login.totp is None or not login.totp.exists():
            return options, {}
        return options, {"SSH_ASKPASS": str(self._askpass(login.totp)), "SSH_ASKPASS_REQUIRE": "force"}

    def _askpass(self, seed: Path) -> Path:
        """A program that answers ssh's question for a code; only for people who are tests."""
        script = self.directory / f"{self.name}.askpass"
        argv = shlex.join([sys.executable, "-m", "kit.totp", str(seed)])
        script.write_text(f"#!/bin/sh\ncd {shlex.quote(str(paths.ROOT))} && exec {argv}\n")
        script.chmod(0o700)
        return script
