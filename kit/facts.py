"""Facts that ask what runs, not what was written (R3). Each costs one round trip."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from pyinfra.api import FactBase, QuoteString, StringCommand

from kit import mirror

# When a unit was last started or told to read its configuration again by us; gone after a boot, as it should be.
APPLIED = "/run/cabinet/applied"


@dataclass(frozen=True)
class FileState:
    """What lies at a path; `sha256` is empty for what is not a regular file."""

    mode: str
    owner: str
    group: str
    kind: str
    sha256: str


class Path(FactBase[FileState | None]):
    """State of `path`, a symbolic link not followed; None when nothing is there."""

    def command(self, path: str) -> StringCommand:
        quoted = QuoteString(path)
        return StringCommand(
            "if test -e", quoted, "|| test -L", quoted, "; then stat -c '%a %U %G %F' --", quoted,
            "; if test -f", quoted, "&& ! test -L", quoted, "; then sha256sum <", quoted, "; fi; fi",
        )  # fmt: skip

    @staticmethod
    def asked(question: str) -> str | None:
        """The path that `question`, as `command` wrote it, is about; None when it asks something else."""
        written = re.match(r"if test -e (.+) \|\| test -L \1 ; then stat -c", question, re.DOTALL)
        return shlex.split(written[1])[0] if written else None

    @staticmethod
    def together(paths: list[str]) -> str:
        """One question about many paths: four processes for all instead of three for each. `apart` reads the answer."""
        words = shlex.join(paths)
        return (
            f"for path in {words}; do test -e \"$path\" || test -L \"$path\" || printf 'none %s\\0' \"$path\"; done\n"
            f"find {words} -maxdepth 0 -printf '%y %s %m %u %g %p\\0' 2>/dev/null\n"
            f"find {words} -maxdepth 0 -type f -exec sha256sum -z {{}} + 2>/dev/null\n:"
        )

    @staticmethod
    def apart(answer: str) -> dict[str, str]:
        """What `command` would have said of each path; what is neither file, directory nor link is left to be asked by itself."""
        said: dict[str, str] = {}
        digests: dict[str, str] = {}
        entries = []
        for record in answer.split("\0"):
            if record.startswith("none "):
                said[record[5:]] = ""
            elif record[64:66] == "  ":
                digests[record[66:]] = record[:64]
            elif record:
                entries.append(record.split(" ", 5))
        for letter, size, mode, owner, group, path in entries:
            kind = {"d": "directory", "l": "symbolic link"}.get(letter)
            if kind:
                said[path] = f"{mode} {owner} {group} {kind}\n"
            elif letter == "f" and path in digests:
                kind = "regular file" if int(size) else "regular empty file"
                said[path] = f"{mode} {owner} {group} {kind}\n{digests[path]}  -\n"
        return said

    def process(self, output: list[str]) -> FileState | None:
        """Two lines of stat and sha256sum; none for a path where nothing lies."""
        if not output:
            return None
        mode, owner, group, kind = output[0].split(" ", 3)
        return FileState(mode, owner, group, kind, output[1].split()[0] if len(output) > 1 else "")


class Tree(FactBase[dict[str, str]]):
    """The regular files below `path`, but for what Python has compiled: relative path to SHA-256; empty when there is no such directory."""

    default = dict

    def command(self, path: str) -> StringCommand:
        files = "find . -name __pycache__ -prune -o -type f -exec sha256sum {} +"
        return StringCommand("cd", QuoteString(path), f"2>/dev/null && {files} || true")

    def process(self, output: list[str]) -> dict[str, str]:
        """Lines of sha256sum: hash, two blanks, ./path."""
        return {path.removeprefix("./"): digest for digest, path in (line.split("  ", 1) for line in output)}


class Holds(FactBase[bool]):
    """Whether `question`, a shell script, ends with 0 on the live system."""

    def command(self, question: str) -> StringCommand:
        # Not `( … ) && echo`: in an and-or list the shell ignores -e, and only the question's last line would count.
        return StringCommand("(set -eu;", f"{question}\n) >/dev/null 2>&1; test $? -eq 0 && echo holds || echo lacks")

    def process(self, output: list[str]) -> bool:
        return output[-1:] == ["holds"]


class Unit(FactBase[dict[str, Any]]):
    """How systemd sees `unit`, and whether a file below one of `config` is newer than what runs (`stale`).

    Newer by change time (ctime), which a rename into place sets and nobody can set back.
    """

    @staticmethod
    def default() -> dict[str, Any]:
        """A machine that says nothing (the offline plan) knows no unit."""
        return Unit().process([])

    def command(self, unit: str, config: tuple[str, ...] = ()) -> StringCommand:
        bits: list[Any] = [
            "systemctl show --timestamp=unix -p LoadState,ActiveState,NeedDaemonReload,ActiveEnterTimestamp", QuoteString(unit),
            # The property UnitFileState is what systemd read once, before we made the links (kit.enabling).
            "; echo Enabled=$(systemctl is-enabled", QuoteString(unit), "2>/dev/null)",
            "; echo Applied=$(stat -c %.9Y", QuoteString(f"{APPLIED}/{unit}"), "2>/dev/null)",
        ]  # fmt: skip
        if config:
            bits += ["; echo Changed=$(find", *(QuoteString(path) for path in config), "-printf '%C@\\n' 2>/dev/null | sort -n | tail -1)"]
        return StringCommand(*bits)

    def process(self, output: list[str]) -> dict[str, Any]:
        said = dict(line.split("=", 1) for line in output if "=" in line)
        started = float(said.get("ActiveEnterTimestamp", "").removeprefix("@") or 0)
        applied = float(said.get("Applied") or 0)
        return {
            "active": said.get("ActiveState") in ("active", "activating", "reloading"),
            "enabled": said.get("Enabled") in ("enabled", "static", "alias", "generated", "indirect"),
            "known": said.get("LoadState") not in ("not-found", None),
            "outdated": said.get("NeedDaemonReload") == "yes",
            "stale": float(said.get("Changed") or 0) > max(started, applied),
        }


class AptArchives(FactBase[list[str]]):
    """The archives in apt's sources, each once. Not `apt-get indextargets`: before the first update it knows of none."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand(
            "cd /etc/apt && for file in sources.list sources.list.d/*.list sources.list.d/*.sources; do",
            'if test -f "$file"; then echo "== $file"; cat "$file"; echo; fi; done',
        )

    def process(self, output: list[str]) -> list[str]:
        """The files one after the other, each behind a line with its name."""
        archives: set[str] = set()
        for file in "\n".join(["", *output]).split("\n== ")[1:]:
            name, _, text = file.partition("\n")
            read = mirror.deb822 if name.endswith(".sources") else mirror.one_line
            archives |= {uri for uri, _ in read(text)}
        return sorted(archives)
