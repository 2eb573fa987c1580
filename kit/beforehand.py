"""What a first deploy lays down before the packages are there: then systemd reads its units once, and each file costs no commands.

Only where no package puts anything, and only what does nothing by itself. Each operation finds its own file there as it wants it.
"""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from io import BytesIO
from typing import Any

from pyinfra import host

from kit.render import content_of

# Not the mounts of the volume: whatever needs such a directory would wait for a volume that nobody has made yet.
PLACES = re.compile(r"/usr/local/.*|/etc/systemd/system/(?!.*\.mount$|dev-).*|/etc/systemd/system/tmp\.mount")
ARCHIVE = "/usr/local/.cabinet.tar"

# By host: pyinfra may work on several at once.
_noted: defaultdict[str, dict[str, tuple[int, dict[str, Any]]]] = defaultdict(dict)


def note(path: str, mode: str, described: dict[str, Any]) -> None:
    """An operation of this run will want root's file `path`, which nothing has to check on the server and everybody may read."""
    if PLACES.fullmatch(path):
        _noted[host.name][path] = (int(mode, 8), described)


def archive() -> bytes:
    """All that was noted, as a tar."""
    return packed({path.lstrip("/"): (mode, _content(**described)) for path, (mode, described) in _noted[host.name].items()})


def _content(content: str | bytes | None = None, src: str | None = None, template: str | None = None, **data: Any) -> bytes:
    return content_of(content, src, template, data)


def packed(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A tar of `files`: relative path to mode and content."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, (mode, content) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, BytesIO(content))
    return made.getvalue()
