"""What a new server fetches from a medium: the newest whole set on those that are plugged in. The recovery kit's part B opens them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from practice import fetch, media, medium
from practice.engine import WrongPassword
from practice.server import Trouble, run

READY = "cabinet-ready"
ANOTHER_KIT = f"If part B is of another kit, remove {medium.PASSWORD}, and put the right one back: practice recovery-kit --put-back"
STRANGE = f"the password does not open it: part B is of another kit, or the medium is of another practice. {ANOTHER_KIT}"


def newest() -> dict[str, Any]:
    """The set of copies to take: which medium, which snapshots, and when they were made (by the lost server's clock). Raises Trouble.

    The register of media is on the lost server, so each medium that says that it is one is tried. One that breaks may be the newest, and
    is not passed over before somebody has pulled it out.
    """
    if not medium.PASSWORD.exists():
        raise Trouble(f"{medium.PASSWORD} is not there: put the keys back from the recovery kit: practice recovery-kit --put-back")
    found, empty, closed, broken = [], [], [], []
    for path, words in plugged_in().items():
        try:
            with medium.reading(path) as engine:
                sets = fetch.whole(engine.snapshots())
            uuid = run("cryptsetup", "luksUUID", path).strip()
            found += [{"generation": words, "medium": uuid} | copies for copies in sets]
            empty += [] if sets else [f"{words}: no whole copy is on it"]
        except Trouble as trouble:
            if isinstance(trouble, WrongPassword) or "No key available" in str(trouble):
                closed.append(f"{words}: {STRANGE}")
            else:
                broken.append(f"{words}: {trouble}")
    if found and broken:
        raise Trouble(f"{'; '.join(broken)}. It may be the newest: call this again; to do without it, pull it out before")
    if found:
        return fetch.latest(found) | {"unread": closed}
    none = "no medium of a practice is plugged in; plug in the newest one, or several, and call this again"
    raise Trouble("; ".join(empty + closed + broken) or none)


def plugged_in() -> dict[str, str]:
    """The media that were finished, by the device, in words."""
    names = json.loads(run("lsblk", "--nodeps", "--json", "--paths", "--output", "NAME,SERIAL"))["blockdevices"]
    labels = {disk["name"]: (medium.luks(disk["name"], "Label"), disk["serial"]) for disk in names}
    return {
        path: f"the medium of {label.removeprefix('cabinet-media-')} (serial {serial or 'NONE'})"
        for path, (label, serial) in labels.items()
        if label.startswith("cabinet-media-") and medium.luks(path, "Subsystem") == READY
    }


def fetched(work: dict[str, Any], kind: str, into: Path) -> None:
    """What a snapshot holds lies below `into`; what an interrupted run has brought is compared, and not brought again. Raises Trouble."""
    name = media.plugged(work["medium"])
    if not name:
        raise Trouble(f"{work['generation']}, from which this server is rebuilt, is not plugged in: plug it in, and call this again")
    into.mkdir(mode=0o700, exist_ok=True)
    with medium.reading(f"/dev/{name}") as engine:
        engine.restore(work["snapshots"][kind], into)
