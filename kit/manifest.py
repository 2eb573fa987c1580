"""What a deploy leaves on the server: written down there at its end, so that what somebody alters afterwards is seen.

A file that lies there otherwise than the last deploy left it is copied by `set_aside` before another takes its place.
"""

from __future__ import annotations

import os
from collections import defaultdict
from hashlib import sha256

from pyinfra import host, state

from kit.plan import MANIFEST, TOLD, FileChange
from kit.render import source

# Shell, for what replaces or removes files: defines set_aside PATH…
SET_ASIDE = source("base/set-aside.sh")

# By host: pyinfra may work on several at once.
_left: defaultdict[str, dict[str, str]] = defaultdict(dict)


def leaves(path: str, content: bytes) -> None:
    """When this run has come to its end, `path` holds `content`."""
    _left[host.name][path] = sha256(content).hexdigest()


def left() -> str:
    """What the operations of this run leave, up to now, in the format of sha256sum."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(_left[host.name].items()))


def tell(path: str, content: bytes | None, wanted_rights: str, *, lies: str, rights: str, secret: bool | None) -> None:
    """Tell the plan, if one is being made, what the operation that calls will do to `path`; see FileChange.

    `secret` None: a file that not everybody may read, as it lies there or as it will, is one.
    """
    told = os.environ.get(TOLD)
    if not told:
        return
    if secret is None:
        secret = any(each and not int(each.split(" ")[0][-1]) & 4 for each in (rights, wanted_rights))
    FileChange(
        operation=next(iter(state.op_meta[host.current_op_hash].names)),  # type: ignore[index]
        path=path,
        lies=lies,
        rights=rights,
        wanted="" if content is None else sha256(content).hexdigest(),
        wanted_rights=wanted_rights,
        secret=secret,
        text=None if secret or content is None else content.decode(errors="replace"),
    ).tell(told)


__all__ = ["MANIFEST", "SET_ASIDE", "leaves", "left", "tell"]
