"""Whose a file was on a server that is gone: numbers change from one installation to the next, names do not."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

# Added to the lost server's numbers until each file has its owner of here. No account has such a number, so meanwhile the files are
# nobody's, and what was done already is not done again.
MARK = 1 << 31


class Names:
    """The accounts and groups of the lost server, by their numbers, from its /etc/passwd and /etc/group below `root`."""

    def __init__(self, root: Path) -> None:
        self._people, self._groups = table(root / "etc/passwd"), table(root / "etc/group")
        self.missing: set[str] = set()

    def here(self, status: os.stat_result) -> tuple[int, int]:
        """The numbers of the same account and group on this server; root's, and a note in `missing`, where it has none of that name."""
        user = self._number("account", self._people, status.st_uid, lambda name: pwd.getpwnam(name).pw_uid)
        return user, self._number("group", self._groups, status.st_gid, lambda name: grp.getgrnam(name).gr_gid)

    def _number(self, kind: str, names: dict[int, str], number: int, look_up: Callable[[str], int]) -> int:
        if number < MARK:
            return number
        name = names.get(number - MARK, str(number - MARK))
        try:
            return look_up(name)
        except KeyError:
            self.missing.add(f"{kind} {name}")
            return 0


def table(path: Path) -> dict[int, str]:
    """passwd(5) or group(5): names by their numbers."""
    rows = (line.split(":") for line in path.read_text().splitlines())
    return {int(row[2]): row[0] for row in rows if len(row) > 3 and row[2].isdigit()}


def marked(tree: Path) -> None:
    """What lies in `tree` is nobody's on this server, until `given` has found out whose it is."""
    for path, status in entries(tree):
        changed(path, status, status.st_uid | MARK, status.st_gid | MARK)


def given(tree: Path, names: Names) -> None:
    """What lies in `tree`, and the tree, gets the owners that it had."""
    for path, status in entries(tree):
        changed(path, status, *names.here(status))
    changed(str(tree), tree.lstat(), *names.here(tree.lstat()))


def entries(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in `tree`, with what lstat(2) says."""
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            yield path, os.lstat(path)


def changed(path: str, status: os.stat_result, user: int, group: int) -> None:
    """Another owner; the bits that chown(2) takes away stay."""
    os.lchown(path, user, group)
    if status.st_mode & 0o6000 and not os.path.islink(path):
        os.chmod(path, status.st_mode & 0o7777)
