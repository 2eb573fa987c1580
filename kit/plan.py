"""The plan as people read it: each operation that would change something, with a diff of the files, and what somebody altered by hand.

The operations tell what they would do to which file (kit/manifest.py); only the text that lies there is still to be fetched.
"""

from __future__ import annotations

import difflib
import io
import json
import shlex
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.acceptance import UNPRINTABLE

# What the last deploy left, as sha256sum writes it; on the server.
MANIFEST = "/etc/cabinet/manifest"
SET_ASIDE = "/var/lib/cabinet/set-aside"
# Names, in pyinfra's environment, the file that the operations tell.
TOLD = "CABINET_PLAN"


@dataclass(frozen=True)
class FileChange:
    """What an operation would do to a file. Digests are SHA-256, empty where no regular file lies; rights are `mode owner:group`.

    `text` is what would lie there; None when nothing would, or when the file is `secret`: then its text is in no plan.
    """

    operation: str
    path: str
    lies: str
    rights: str
    wanted: str
    wanted_rights: str
    secret: bool
    text: str | None

    def tell(self, file: str) -> None:
        """Add a line to `file`, which `read` reads."""
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def read(file: Path) -> list[FileChange]:
    """What the operations have told."""
    return [FileChange(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def explained(operations: Iterable[str], files: list[FileChange], ask: Callable[[str], bytes]) -> list[str]:
    """For each operation its name, and what it would do to which file. `ask` runs a command on the server, once, if at all."""
    fetched = _fetched(files, ask) if files else {}
    left = _manifest(fetched.get(MANIFEST))
    told = {name: [name] for name in operations}
    for file in files:
        told[file.operation] += _told(file, left, fetched)
    return ["\n".join(lines) for lines in told.values()]


def _fetched(files: list[FileChange], ask: Callable[[str], bytes]) -> dict[str, str]:
    """The text of the manifest, and of what would be changed and may be shown; a link's is where it leads."""
    paths = [MANIFEST, *(file.path for file in files if not file.secret)]
    # What lies in a tree is told without its rights: here they are.
    judged = {MANIFEST, *(file.path for file in files if file.rights)}
    # What is not there, tar says and leaves out.
    answer = ask(f"tar -C / -cf - {shlex.join(path[1:] for path in paths)} 2>/dev/null || true")
    with tarfile.open(fileobj=io.BytesIO(answer)) as tar:
        entries = {f"/{entry.name}": entry for entry in tar if not entry.isdir()}
        return {path: _text(tar, entry) for path, entry in entries.items() if path in judged or entry.mode & 4}


def _text(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    file = tar.extractfile(entry) if entry.isfile() else None
    return file.read().decode(errors="replace") if file else f"a link to {entry.linkname}"


def _manifest(text: str | None) -> dict[str, str] | None:
    """Path to digest; None where no deploy came to its end."""
    return None if text is None else {line[66:]: line[:64] for line in text.splitlines()}


def _told(file: FileChange, left: dict[str, str] | None, fetched: dict[str, str]) -> list[str]:
    """The lines about one file."""
    was = (left or {}).get(file.path, "")
    lines = [f"  {file.path}{'' if file.wanted else ': goes'}"]
    lies = file.lies or file.rights  # a link has rights, and no digest
    if was and not lies:
        lines.append("    REMOVED on the server since the last deploy, by hand")
    elif lies and file.lies not in {was, file.wanted} - {""}:
        by_whom = "ALTERED on the server since the last deploy, by hand" if was else "no deploy has put there what lies there"
        lines.append(f"    {by_whom}; a copy will be in {SET_ASIDE}")
    if file.rights and file.wanted_rights and file.rights != file.wanted_rights:
        lines.append(f"    rights: {file.rights} becomes {file.wanted_rights}")
    if file.lies == file.wanted:
        return lines
    if file.secret or (lies and file.path not in fetched):
        return [*lines, "    changed, not shown: it may hold a secret"]
    if left is None:
        return lines  # a first deploy: whole files, all of them in this tree
    diff = difflib.unified_diff(_lines(fetched.get(file.path)), _lines(file.text), "as it lies there", "as it will", lineterm="")
    return lines + [f"    {UNPRINTABLE.sub(chr(0xFFFD), line)}" for line in diff]


def _lines(text: str | None) -> list[str]:
    if not text:
        return []
    return [*text.removesuffix("\n").split("\n"), *([] if text.endswith("\n") else ["\\ no end of line here"])]
