"""What keeps copies: one small interface, and restic behind it. tests/contract/test_engines.py is what every engine must do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from practice.server import Trouble

# restic(1), "exit status".
INCOMPLETE, NO_REPOSITORY, WRONG_PASSWORD = 3, 10, 12
# How it names a file that is not what its name says.
DAMAGED = re.compile(r"^(?:pack|error: failed to load snapshot|error: error loading index) ([0-9a-f]{8,64})", re.MULTILINE)
# What rest-server answers when a quota is used up, and a kernel whose medium is full. restic takes the one always, the other sometimes, for
# a hiccup, and would write the same again for half an hour.
QUOTA = "507 Insufficient Storage"
NO_ROOM = re.compile(f"{QUOTA}|no space left on device")
LOOK_SECONDS = 0.5
# A snapshot belongs to the practice, not to the machine it was made on: the next one goes on with it.
OWNER = "practice"


class Missing(Trouble):
    """There is no repository yet."""


class WrongPassword(Trouble):
    """There is a repository, and this password does not open it."""


class Full(Trouble):
    """Where it is kept, there is no room left."""


class Incomplete(Trouble):
    """Something could not be read, or was gone before it was: what was written is no copy to trust."""


@dataclass(frozen=True)
class Snapshot:
    """What can be gone back to. `at` is the clock of whoever made it; only where it is kept is it known when it arrived.

    `bytes` is what its files come to when they are restored, as far as whoever made it has written that down.
    """

    id: str
    at: float
    tags: tuple[str, ...]
    bytes: int = 0


class Engine(Protocol):
    """Keeps copies of files. Each method raises Trouble when it could not do all of what it says.

    What is too old goes by whoever may remove it: the off-site host's keeper, pgBackRest after each backup, else `forget`.
    """

    def prepare(self) -> None:
        """Make the repository where there is none."""

    def back_up(self, paths: Sequence[Path], *tags: str) -> str:
        """Keep what is there now; the new snapshot's id."""

    def snapshots(self) -> list[Snapshot]:
        """What can be gone back to, oldest first."""

    def restore(self, snapshot: str, into: Path) -> None:
        """Write what was kept below `into`, under the path that it had."""

    def verify(self, part: str = "1/1") -> None:
        """Read what is kept, or one of so many parts of it, and compare checksums."""


class Restic:
    """A restic repository. The passwords go by its environment, never by its command line."""

    def __init__(self, repository: str, secrets: Mapping[str, str], cache: Path, *program: str) -> None:
        self._program = program or ("restic",)
        # A cache whose owner was replaced would be believed; one that is gone costs a moment.
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "RESTIC_REPOSITORY": repository,
            "RESTIC_CACHE_DIR": str(cache),
            "RESTIC_PROGRESS_FPS": "0.01",
        } | dict(secrets)

    def prepare(self) -> None:
        """Make the repository where there is none. One of somebody else's, under this name, is Trouble."""
        try:
            self._ask("cat", "config", "--no-lock", timeout=120)
        except Missing:
            self._ask("init", timeout=120)

    def key(self) -> str:
        """The id of the key that opens it; as RESTIC_KEY_HINT it opens also where many false ones were added."""
        return next(key["id"] for key in json.loads(self._ask("key", "list", "--json", "--no-lock")) if key["current"])

    def back_up(self, paths: Sequence[Path], *tags: str) -> str:
        """Keep what is there now; the new snapshot's id."""
        # What pgBackRest has not finished writing has this suffix; it is gone before it could be read.
        return self._backup(["--exclude=*.pgbackrest.tmp", "--", *(str(path) for path in paths)], tags)["snapshot_id"]

    def back_up_text(self, text: str, name: str, *tags: str) -> str:
        """Keep a text that lies in no file."""
        return self._backup(["--stdin", f"--stdin-filename={name}"], tags, stdin=text)["snapshot_id"]

    def snapshots(self) -> list[Snapshot]:
        """What can be gone back to, oldest first."""
        found = json.loads(self._ask("snapshots", "--json", "--no-lock"))
        made = (
            Snapshot(
                one["id"],
                moment(one["time"]),
                tuple(one.get("tags") or ()),
                one.get("summary", {}).get("total_bytes_processed", 0),
            )
            for one in found
        )
        return sorted(made, key=lambda snapshot: snapshot.at)

    def listed(self, snapshot: str) -> list[str]:
        """The paths that a snapshot holds."""
        lines = self._ask("ls", "--json", "--no-lock", snapshot).splitlines()
        return [entry["path"] for entry in map(json.loads, lines) if "path" in entry]

    def found(self, path: Path, snapshots: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What lies at `path` and below it, as restic describes each file; by snapshot, without those that have nothing there."""
        chosen = (f"--snapshot={snapshot}" for snapshot in snapshots)
        said = json.loads(self._ask("find", "--json", "--no-lock", *chosen, "--", pattern(path), timeout=3600))
        return {one["snapshot"]: one["matches"] for one in said}

    def restore(self, snapshot: str, into: Path, only: Sequence[Path] = ()) -> None:
        """Write what was kept, or these paths alone, below `into`. Without a lock: where the quota is used up, none could be made."""
        what = [f"--include={pattern(path)}" for path in only]
        self._ask("restore", snapshot, f"--target={into}", "--no-lock", "--verify", *what, timeout=86400)

    def verify(self, part: str = "1/1") -> None:
        """Read what is kept, or one of so many parts of it, and compare checksums; what belongs together is looked at in any case."""
        self._ask("check", f"--read-data-subset={part}", "--no-lock", timeout=86400)

    def forget(self, days: int) -> None:
        """Remove what is older than the newest of its kind by more than so many days, and make its room free.

        Only where nobody else writes, as on a medium of ours: what a run that was cut off has left locked, it unlocks. `forget --prune`
        would leave what that run has left half written, if no snapshot is old enough; and a disk that is full first needs whole files
        removed, before there is room to write others anew.
        """
        self._ask("unlock", "--remove-all", timeout=120)
        self._ask("forget", f"--keep-within={days}d", "--group-by=paths", timeout=86400)
        for how in (["--max-unused=unlimited"], []):
            self._ask("prune", *how, timeout=86400)

    def _backup(self, words: Sequence[str], tags: Sequence[str], stdin: str = "") -> dict[str, Any]:
        """What restic sums up at the end."""
        marks = [f"--tag={tag}" for tag in tags]
        command = ["backup", "--json", "--no-scan", "--cleanup-cache", f"--host={OWNER}", *marks, *words]
        try:
            said = self._ask(*command, stdin=stdin, timeout=86400)
        except (Missing, Incomplete, Full):
            raise
        except Trouble:
            # Nobody else writes here and nothing is ever removed, so no lock means anything. But whoever holds the account's password
            # can put one there that keeps restic out, or, with less than 16 bytes, makes 0.18.0 crash (its pull request 21977).
            self._ask("unlock", "--remove-all", timeout=120)
            said = self._ask(*command, stdin=stdin, timeout=86400)
        return json.loads(said.strip().splitlines()[-1])

    def _ask(self, *words: str, stdin: str = "", timeout: float = 600) -> str:
        """What restic prints. Raises Trouble with its last words."""
        try:
            done = self._run(words, stdin, timeout)
        except subprocess.TimeoutExpired:
            raise Trouble(f"restic {words[0]} gave no answer in {timeout:.0f} s") from None
        except FileNotFoundError:
            raise Trouble("restic is not installed") from None
        if done.returncode == 0:
            return done.stdout
        if QUOTA in done.stderr:
            raise Full("there is no room left for this practice outside: its quota is used up. Ask whoever keeps the copy for more")
        kinds: dict[int, type[Trouble]] = {NO_REPOSITORY: Missing, INCOMPLETE: Incomplete, WRONG_PASSWORD: WrongPassword}
        raise kinds.get(done.returncode, Trouble)(f"restic {words[0]}: {last_words(done.stderr or done.stdout, done.returncode)}")

    def _run(self, words: Sequence[str], stdin: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run it, and end it when it goes on although there is no room. Raises subprocess.TimeoutExpired.

        Whatever ends this ends restic as well: nothing is written any more to a medium that is about to be closed.
        """
        end = time.monotonic() + timeout
        with tempfile.TemporaryFile("w+", errors="replace") as said, tempfile.TemporaryFile("w+") as given:
            given.write(stdin)
            given.seek(0)
            files: dict[str, Any] = {"stdin": given, "stdout": subprocess.PIPE, "stderr": said}
            with subprocess.Popen(
                [*self._program, *words], **files, env=self._environment, cwd="/", text=True, errors="replace"
            ) as process:
                try:
                    printed = self._heard(process, said, end)
                except BaseException:
                    process.kill()
                    raise
            said.seek(0)
            return subprocess.CompletedProcess(process.args, process.returncode, printed, said.read())

    def _heard(self, process: subprocess.Popen[str], said: IO[str], end: float) -> str:
        """What it prints until its end, which comes soon once it has said that there is no room. Raises subprocess.TimeoutExpired."""
        while True:
            try:
                return process.communicate(timeout=LOOK_SECONDS)[0]
            except subprocess.TimeoutExpired:
                said.seek(0)
                if NO_ROOM.search(said.read()):
                    process.terminate()
                elif time.monotonic() > end:
                    raise


def moment(said: str) -> float:
    """When a snapshot says that it was made; who has the password may have chosen a year that Python does not know, which is long ago."""
    try:
        return datetime.fromisoformat(said).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def pattern(path: Path) -> str:
    """A path for restic, in which no letter stands for another."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", str(path))


def last_words(said: str, code: int) -> str:
    """Why restic gave up: its line that begins with Fatal, else its last one; and which files it has found damaged."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    damaged = sorted(set(DAMAGED.findall(said)))
    for line in reversed(lines):
        message = json.loads(line).get("message", "") if line.startswith("{") else line
        if "Fatal:" in message:
            return message.partition("Fatal:")[2].strip() + (f" (damaged: {', '.join(damaged)})" if damaged else "")
    return lines[-1] if lines else f"it ended with {code}"
