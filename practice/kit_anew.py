"""New keys in place of those on a page that somebody else has seen: the volume's, and the one of the copy outside.

What is planned, and the new keys, lie in JOURNAL until all of it is done, for root alone on the encrypted volume: cut off anywhere, it goes
on when called again. At every moment the key on the server opens the volume, and until a page with that one is confirmed, the key on the
page before does as well: the new one lies on the volume that it opens, and nowhere else.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from practice import notes, offsite
from practice.enrol import record
from practice.journal import synced
from practice.letters import spelled
from practice.recovery_kit import ANEW as JOURNAL
from practice.recovery_kit import ANEW_LOCK, BEFORE, asked, kept, keys, packed, places, write
from practice.recovery_kit import changed as not_opened
from practice.server import Trouble, run
from practice.unlock import CRYPTTAB, disk
from practice.unlock import spelled as recovery_key

ENROL = "/usr/local/lib/cabinet/enrol-volume"
ENROL_LOCK = Path("/run/cabinet/enrol.lock")  # the script's own: it takes out what it does not know
# In memory; cryptsetup takes a new key from a file.
NEW = Path("/run/cabinet/anew.key")
# As files/storage/format-volume has it.
STRETCHED = ("--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "4", "--pbkdf-force-iterations", "4")
# Part B is in each of pgBackRest's files, and the encryption of each medium: neither can be given another key where it lies.
STAYS = """B stays: what pgBackRest has written, and each medium, opens by it for as long as it exists. Whoever has seen it still needs the
backup disk or a medium, or the copy outside together with C. D stays: have whoever keeps the copy outside give another one at once.
Until then the old page and the Internet open what was sent with the old C, and that stays readable with it until the place outside
removes it; the new C opens what is sent from now on."""


def anew() -> None:
    """Change what can be changed in place; the old page is not believed any more. Raises Trouble."""
    ANEW_LOCK.parent.mkdir(mode=0o755, exist_ok=True)
    with notes.only_one(ANEW_LOCK):
        changed()


def changed() -> None:
    """All of it, or what is left of it. Raises Trouble."""
    if not JOURNAL.exists():
        keys()  # what is on the server must be whole before anything is changed
        agreed()
        write(JOURNAL, json.dumps({part: born() for part, born in BORN.items() if part in places()}))
        synced(JOURNAL.parent)
    number, planned = kept().get("number", 0), json.loads(JOURNAL.read_text())
    for part, secret in planned.items():
        CHANGES[part](Path(places()[part]), secret)
        record(f"part {part} of recovery kit {number} replaced")
    JOURNAL.unlink()
    synced(JOURNAL.parent)
    old = f"kit {number} does not open all any more" if number else "no kit was made yet"
    print(
        f"New: {' and '.join(planned)}; {old}.\n{STAYS}\nNow: sudo practice recovery-kit, and --confirm; until then the old page "
        "still opens the data volume: keep it."
    )


def agreed() -> None:
    """A person at a terminal is asked. Raises Trouble."""
    if sys.stdin.isatty():
        print("The page that is held now will not open everything any more; a new one must be printed and locked away.")
        if asked("Type yes: ").lower() != "yes":
            raise Trouble("nothing was changed")


def volume(path: Path, secret: str) -> None:
    """The volume opens by the new key, then that is the one that counts; the page before opens it still. Raises Trouble."""
    device = disk()
    with notes.only_one(ENROL_LOCK):
        retire(path, device)
        # That of a page that nobody has confirmed is not worth keeping: an older one is, which somebody may hold.
        if path.read_text() != secret and not BEFORE.exists():
            write(BEFORE, path.read_text())
            synced(BEFORE.parent)
        if not opens(device, secret):
            write(NEW, secret)
            try:
                run("cryptsetup", "luksAddKey", "--batch-mode", *STRETCHED, "--key-file", str(path), device, str(NEW), timeout=600)
            finally:
                NEW.unlink()
            if not opens(device, secret):
                raise Trouble(f"{device} does not open by the key that was added; nothing else was changed")
        write(path, secret)
        synced(path.parent)
    # The role's own: exactly the keys at `path` and BEFORE, and the TPM where the clinic file wants it, open the volume.
    serial = run("lsblk", "--nodeps", "--noheadings", "--output", "SERIAL", device).strip()
    unlock = "tpm2" if "tpm2-device=" in CRYPTTAB.read_text() else "passphrase"
    run(ENROL, serial or device, unlock, timeout=600)  # a mirror has no serial number


def retired() -> None:
    """A page was confirmed: the one before opens the volume no more. Raises Trouble."""
    ENROL_LOCK.parent.mkdir(mode=0o755, exist_ok=True)
    with notes.only_one(ENROL_LOCK):
        retire(Path(places()["A"]), disk())


def retire(path: Path, device: str) -> None:
    """Take the key of the page before out of the volume, if a page with the one at `path` is confirmed. Raises Trouble."""
    state, present = kept(), path.read_text()
    if not BEFORE.exists() or BEFORE.read_text() == present:
        return
    if not state.get("confirmed") or not_opened({"A": packed("A", present.strip())}, state):
        return
    if not opens(device, present):
        raise Trouble(f"{device} does not open by the key on the page; the page before still opens it: keep that, and deploy this server")
    if opens(device, BEFORE.read_text()):
        run("cryptsetup", "luksRemoveKey", "--batch-mode", device, str(BEFORE), timeout=600)
    BEFORE.unlink()
    synced(BEFORE.parent)
    record("the page before opens the volume no more")


def opens(device: str, secret: str) -> bool:
    """Whether the volume opens by this key."""
    with suppress(Trouble):
        run("cryptsetup", "open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-", device, stdin=secret, timeout=600)
        return True
    return False


def outside(path: Path, secret: str) -> None:
    """The old repository is left as it is, and another is begun, which the new password opens. Raises Trouble."""
    write(path, secret)
    synced(path.parent)
    run("systemctl", "start", offsite.SERVICE.format("anew"), timeout=86400)
    if reason := offsite.kept().get("errors", {}).get("anew"):
        # It is noted that another one is to be begun, so the next run that sends begins it.
        print(f"The copy outside could not be begun anew yet: {reason}. That is tried every 15 minutes: sudo practice offsite", flush=True)


BORN: dict[str, Callable[[], str]] = {
    "A": lambda: recovery_key(spelled(secrets.token_bytes(32))),
    "C": lambda: base64.b64encode(os.urandom(48)).decode(),
}
CHANGES: dict[str, Callable[[Path, str], None]] = {"A": volume, "C": outside}
