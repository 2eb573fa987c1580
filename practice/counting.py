"""Which copies count: those that a recovery kit opens which somebody has shown. Without this server nothing else opens any."""

from __future__ import annotations

import time
from typing import Any

from practice import alarm, notes, recovery_kit
from practice.server import is_root

# What each is called within a sentence.
KINDS = {"backup": "them", "offsite": "it", "media": "them"}
SENT_BEFORE = "its key is a newer one, and nothing was sent with that"

Seen = dict[str, Any]


def counts(seen: Seen) -> dict[str, bool]:
    """Whether what there is of each kind counts; where there is nothing, nothing does. Kinds that nobody wants are left out."""
    return {kind: exists(kind, seen) and not why_not(kind, seen) for kind in KINDS if kind == "backup" or seen[kind]}


def exists(kind: str, seen: Seen) -> bool:
    """Whether anything of this kind was made."""
    if kind == "media":
        return any(medium["written"] for medium in seen["media"].get("media", {}).values())
    return bool(seen[kind].get("newest"))


def why_not(kind: str, seen: Seen) -> str:
    """Why what there is of a kind does not count, and what to do; nothing when it does. The keys must be the present ones."""
    kit, them = seen["recovery"], KINDS[kind]
    if "opened_by" not in kit:
        return f"what opens {them} is known a few minutes after a start: sudo practice status"
    opens = kit.get("opens", {})
    if missing := set(kit["opened_by"].get(kind, "?")) - set(opens):
        if not kit.get("number"):
            return f"nobody has shown a recovery kit that opens {them}: sudo practice recovery-kit"
        if missing & set(kit["changed"]):
            return f"kit {kit['number']} is void, and nobody has shown another that opens {them}: sudo practice recovery-kit"
        return f"nobody has shown that kit {kit['number']} opens {them}: sudo practice recovery-kit --confirm"
    # The old key's repository stays where it is, and the new page does not open it (practice/kit_anew.py).
    if kind == "offsite" and seen["offsite"]["newest"] < notes.believed(opens.get("C"), seen["at"]):
        return f"{SENT_BEFORE}: sudo practice offsite send"
    return ""


def note(kind: str, seen: Seen) -> str:
    """What stands before all else that is said of a kind; nothing where it counts, or where there is nothing that could."""
    if not exists(kind, seen) or not (why := why_not(kind, seen)):
        return ""
    return f"{'does not count' if kind == 'offsite' else 'none counts'} yet: {why}"


def asked(kind: str, of_kind: Seen) -> tuple[bool, str]:
    """Whether one kind counts, and its note, by a look now; who is not root may not look at keys, and takes what the watch saw."""
    at = time.time()
    kit = recovery_kit.look(at)[0] if is_root() else notes.read(alarm.SEEN).get("recovery", {})
    seen = {"at": at, "recovery": kit, kind: of_kind}
    return exists(kind, seen) and not why_not(kind, seen), note(kind, seen)
