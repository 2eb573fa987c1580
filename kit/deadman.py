"""The dead-man switch: what can shut the door is changed so that it changes back by itself, unless we come in anew.

`install()` in a role, then one `change(…)` for all the files that belong together. Nothing to do: one fact, no command. Else:
stage and check every file, arm the switch, put the files in place, `load` them, come in by a new connection, disarm.
A dropped connection disarms nothing: the server puts everything back after SECONDS; so does its next boot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any

from pyinfra import host, logger
from pyinfra.api import FactBase, FileUploadCommand, FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.command import PyinfraCommand

from kit import manifest
from kit import operations as kit
from kit.connection import Connection

SECONDS = 180
DEADMAN = "/usr/local/lib/cabinet/deadman"
KEPT = "/etc/cabinet/deadman"
UNIT = "cabinet-deadman.service"

Proof = Callable[[Connection], str | None]


@dataclass(frozen=True)
class Guarded:
    """A file of a change. `content` None: nothing may lie there. `check`: a command that must accept it; {} is the staged file."""

    dest: str
    content: bytes | None
    check: str = "true"
    mode: str = "644"
    # As in config_file. Not in repr: the door's fingerprint is made of that, and whoever shows it is no other door.
    secret: bool | None = field(default=None, repr=False)

    @property
    def state(self) -> str | None:
        """How `Standing` describes the file when it is as wanted."""
        return None if self.content is None else f"{self.rights} {sha256(self.content).hexdigest()}"

    @property
    def rights(self) -> str:
        """Mode and owner; none where nothing may lie."""
        return "" if self.content is None else f"{self.mode} root:root"

    @property
    def staged(self) -> str:
        """Beside its place, so that the rename is atomic; with a dot in front, so that no glob includes it."""
        directory, _, name = self.dest.rpartition("/")
        return f"{directory}/.{name}.staged"


@dataclass
class Now:
    """What is so: the files, whether `live` holds, whether the switch is armed since an earlier run."""

    files: dict[str, str] = field(default_factory=dict)
    holds: bool = False
    armed: bool = False

    def lies(self, path: str) -> tuple[str, str]:
        """Digest and rights of the regular file at `path`; empty where there is none."""
        rights, _, digest = self.files.get(path, "").rpartition(" ")
        return (digest, rights) if rights else ("", "")


class Standing(FactBase[Now]):
    """Everything that a change asks, in one round trip."""

    default = Now

    def command(self, switch: str, paths: tuple[str, ...], live: str) -> StringCommand:
        quoted = [QuoteString(path) for path in paths]
        return StringCommand(
            "set --; for path in", *quoted, '; do if test -f "$path" && ! test -L "$path"; then set -- "$@" "$path";',
            'elif test -e "$path" || test -L "$path"; then echo "$path" other; fi; done;',
            'if test $# -gt 0; then stat -c "%n %a %U:%G" "$@"; sha256sum "$@"; fi;',
            "(set -eu;", f"{live}\n) >/dev/null 2>&1; test $? -eq 0 && echo holds;",
            "test ! -d", QuoteString(f"{KEPT}/{switch}"), "|| echo armed",
        )  # fmt: skip

    def process(self, output: list[str]) -> Now:
        now = Now(holds="holds" in output, armed="armed" in output)
        for line in output:
            first, _, rest = line.partition(" ")
            if rest.startswith(" "):  # sha256sum: digest, two blanks, path
                now.files[rest[1:]] += f" {first}"
            elif rest:
                now.files[first] = rest
        return now


def install() -> None:
    """Put the switch itself on the server; before the first change() of a role."""
    kit.config_file(name="FW-16 dead-man switch", dest=DEADMAN, src="firewall/deadman", mode="755")
    kit.config_file(name="FW-16 dead-man switch at boot", dest=f"/etc/systemd/system/{UNIT}", src="firewall/cabinet-deadman.service")
    # Not started: it acts once, at boot, and only when something is kept.
    kit.unit(name="FW-16 dead-man switch is set at boot", unit=UNIT, running=False)


def greeted(connection: Connection) -> str | None:
    """Proof for the firewall: sshd greets whoever connects now. None, or what went wrong."""
    return connection.greeting_refused()


def logged_in(connection: Connection) -> str | None:
    """Proof for accounts, PAM and sshd: the best way in, with both factors, beside the master. None, or what went wrong."""
    return connection.entry_refused()


@operation()
def change(
    switch: str,
    files: list[Guarded],
    live: str,
    load: str,
    restore: str,
    prepare: str = "true",
    proof: Proof = greeted,
) -> Generator[PyinfraCommand | str, None, None]:
    """Make `files` lie there and `live` (a shell question) hold, by `load` (a shell script), under the dead-man switch.

    `restore` runs after the old files are back; it must also work when they were absent. `prepare` runs while the switch is
    armed, before anything changes. A `load` that fails is put back at once.
    """
    for file in files:
        if file.content is not None:
            manifest.leaves(file.dest, file.content)
    now = host.get_fact(Standing, switch=switch, paths=tuple(file.dest for file in files), live=live)
    different = [file for file in files if now.files.get(file.dest) != file.state]
    if not different and now.holds and not now.armed:
        host.noop(f"{switch} is as wanted")
        return
    for file in different:
        lies, rights = now.lies(file.dest)
        manifest.tell(file.dest, file.content, file.rights, lies=lies, rights=rights, secret=file.secret)
    if different or not now.holds:
        new = [file for file in different if file.content is not None]
        yield StringCommand("mkdir", "-p", KEPT, *(QuoteString(file.dest.rpartition("/")[0]) for file in files))
        for file in new:
            yield FileUploadCommand(BytesIO(file.content or b""), file.staged)
        yield _armed(switch, files, new, restore, prepare)
        yield _loaded(switch, different, load)
    yield FunctionCommand(_proved, (switch, proof), {})


def _armed(switch: str, files: list[Guarded], new: list[Guarded], restore: str, prepare: str) -> StringCommand:
    """Every new file is accepted by its checker before the switch is armed, and nothing is changed before it is."""
    bits: list[Any] = ["set -eu\n"]
    for file in new:
        bits += ["chmod", file.mode, QuoteString(file.staged), "\n", file.check.replace("{}", file.staged), "\n"]
    bits += [DEADMAN, "arm", switch, str(SECONDS), QuoteString(restore), *(QuoteString(file.dest) for file in files), f"\n{prepare}"]
    return StringCommand(*bits)


def _loaded(switch: str, different: list[Guarded], load: str) -> StringCommand:
    """What somebody altered is set aside, each file comes by one rename, then `load`; put back when any of it fails."""
    bits: list[Any] = [f"{manifest.SET_ASIDE}(set -eu\nset_aside", *(QuoteString(file.dest) for file in different), "\n"]
    for file in different:
        bits += ["rm -rf" if file.content is None else f"mv -fT {file.staged}", QuoteString(file.dest), "\n"]
    bits += [f"{load}\n)\ntest $? -eq 0 || {{", DEADMAN, "rollback", switch, ">&2; exit 1; }"]
    return StringCommand(*bits)


def _proved(state: Any, host: Any, switch: str, proof: Proof) -> bool:
    """Come in anew, then disarm; else put it back at once, while the old connection still stands."""
    undone = time.strftime("%H:%M:%S", time.localtime(time.time() + SECONDS))
    host.log_styled(f"{switch}: coming in anew; if nobody does, the server puts it back by itself at {undone}", fg="blue")
    refused = proof(host.connector.connection)
    verb = "rollback" if refused else "confirm"
    done, output = host.run_shell_command(StringCommand(DEADMAN, verb, switch))
    if refused:
        back = "it was put back" if done else f"it puts itself back within {SECONDS} s"
        host.log_styled(f"{switch}: nobody could come in anew ({refused}); {back}", fg="red", log_func=logger.error)
    elif not done:
        host.log_styled(output.stderr, fg="red", log_func=logger.error)
    return done and not refused
