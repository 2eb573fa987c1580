"""What is done to an external medium: made ours, opened, written, read back, closed.

It is a LUKS2 volume with an ext4 in it, whose journal survives that somebody pulls it out, and in that a restic repository, which does
too: what it held before stays as it is. One password opens both, on every medium. The service has a mount namespace of its own, so
nobody else on the server ever sees the medium.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from practice import alarm, courier, media, notes, telling
from practice.engine import Missing, Restic
from practice.server import Trouble, run

FORMAT = "/usr/local/lib/cabinet/format-volume"
PASSWORD = Path("/var/lib/cabinet/secrets/backup-passphrase")
CACHE = Path("/var/lib/cabinet/media-cache")
MAPPING = "cabinet-media"
MAPPER = Path("/dev/mapper") / MAPPING
# cryptsetup 2.7.5 crashes at `close` when the device beneath is gone.
LET_GO = ("dmsetup", "remove", "--deferred", MAPPING)
MOUNT = Path("/run/cabinet/media")
REPOSITORY = MOUNT / "restic"
OPTIONS = "nodev,nosuid,noexec,noatime"
# The password holds 384 random bits: no stretching makes it harder to find, and argon2id would cost memory in an emergency. So does
# systemd with the random keys that a TPM holds (its src/shared/cryptsetup-util.c, cryptsetup_set_minimal_pbkdf); 1000 is the least.
FORMATTING = (
    *("--batch-mode", "--type", "luks2", "--subsystem", "cabinet-forming", "--cipher", "aes-xts-plain64", "--key-size", "512"),
    *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
)
# restic, as whoever restores calls it: it ends with them, so that the next run is alone, and can close what this one left open.
ENDING = ("setpriv", "--pdeathsig=KILL", "restic")
# A medium with less room than this part of it forgets what is older than that.
SCARCE, KEEP_DAYS = 0.25, 30
# A repository up to this size is read whole each time; of a larger one what is new, and a quarter of the rest, another one each week.
SMALL = 1 << 30
UNFINISHED = "it was pulled out, or the server went down, before it was finished"


class Ended(Exception):
    """Systemd ends the service. No Trouble, after which somebody might try again."""


# ---- making one ours ------------------------------------------------------------------------------------------------


def disks() -> list[dict[str, Any]]:
    """All disks, and what the kernel knows of them."""
    columns = "NAME,SERIAL,SIZE,MODEL,TRAN,RM,HOTPLUG,TYPE"
    found = json.loads(run("lsblk", "--nodeps", "--json", "--paths", "--output", columns))["blockdevices"]
    return [disk for disk in found if disk["type"] == "disk"]


def called(disk: dict[str, Any]) -> str:
    """A disk in words."""
    return f"{disk['name']}  {disk['size']}  serial {disk['serial'] or 'NONE'}  {(disk['model'] or '').strip()}".strip()


def candidates() -> list[str]:
    """What could become a medium: what can be pulled out and is none of the server's own disks."""
    own = json.loads(media.CONFIG.read_text())["never"]
    return [called(disk) for disk in disks() if (disk["tran"] == "usb" or disk["rm"] or disk["hotplug"]) and disk["serial"] not in own]


def enrol(weekday: str, device: str, wipe: str) -> tuple[str, str]:
    """Make `device` the medium of `weekday`; its new UUID, and what the kernel calls it.

    Raises Trouble, and has written nothing, unless it is provably blank, or `wipe` is its serial number.
    """
    found = [disk for disk in disks() if device in (disk["name"], disk["serial"])]
    if len(found) != 1:
        raise Trouble(f"{len(found)} disks are called {device}; here are: {'; '.join(called(disk) for disk in disks())}")
    path, serial = found[0]["name"], found[0]["serial"]
    if not serial or len([disk for disk in disks() if disk["serial"] == serial]) != 1:
        raise Trouble(f"{path} has no serial number of its own, so it could be mistaken for another; take another medium")
    if serial in json.loads(media.CONFIG.read_text())["never"]:
        raise Trouble(f"{path} (serial {serial}) is the server's own disk (storage or backup in the clinic file); take another")
    with only_one():
        tidy()
        # One that was begun and never finished held nothing yet.
        begun = (luks(path, "Label").startswith("cabinet-media-"), luks(path, "Subsystem")) == (True, "cabinet-forming")
        allowed(weekday, path, serial, serial if begun else wipe)
        form(weekday, path)
        uuid = run("cryptsetup", "luksUUID", path).strip()
        media.note(uuid, weekday=weekday, serial=serial, copies=[])
    return uuid, os.path.basename(path)


def allowed(weekday: str, path: str, serial: str, wipe: str) -> None:
    """By the same rule as for the data disk, and by the same script: provably blank, or named. Raises Trouble."""
    reasons = []
    ask = [FORMAT, "--check", serial, "none", wipe]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            words = line.strip().removeprefix("storage: ")
            if "is blank as far as" in words:  # a large one takes hours
                print(words, flush=True)
            else:
                reasons.append(words)
        answer = process.stdout.read().strip()
    if process.returncode or answer not in ("blank", "named"):
        why = reasons[0] if reasons else f"{path} (serial {serial}) carries the encrypted data volume of a server."
        remedy = f" To lose what is on it: sudo practice media enrol {weekday} {path} --wipe {serial}" if "not blank" in why else ""
        raise Trouble(f"{why} Nothing was written to it.{remedy}")


def form(weekday: str, path: str) -> None:
    """Encryption, file system, repository; only then it is finished. May be cut off anywhere and done again. Raises Trouble."""
    parts = run("lsblk", "--noheadings", "--raw", "--paths", "--output", "NAME", path).split()
    for part in reversed(parts):  # the disk itself is the first
        run("wipefs", "--all", "--quiet", part)
    label = f"cabinet-media-{weekday}"
    run("cryptsetup", "luksFormat", *FORMATTING, "--label", label, "--key-file", str(PASSWORD), path, timeout=600)
    with opened(path):
        # 16 letters are all that ext4 takes.
        run("mkfs.ext4", "-q", "-m", "0", "-L", f"media-{weekday}", str(MAPPER), timeout=3600)
        with mounted():
            engine().prepare()
    run("cryptsetup", "config", path, "--label", label, "--subsystem", "cabinet-ready")
    run("sync", path)


def luks(path: str, what: str) -> str:
    """A line of the header, such as Label; nothing where there is none."""
    try:
        said = run("cryptsetup", "luksDump", path)
    except Trouble:
        return ""
    return next((line.partition(":")[2].strip() for line in said.splitlines() if line.startswith(f"{what}:")), "")


# ---- writing one ----------------------------------------------------------------------------------------------------


def plugged_in(name: str) -> None:
    """A device has appeared: write it if it is a medium of ours, and else leave it alone, and say so. Raises Trouble."""
    path, now = f"/dev/{name}", time.time()
    try:
        uuid = run("cryptsetup", "luksUUID", path).strip()
    except Trouble:
        uuid = ""
    medium = notes.read(media.REGISTRY).get("media", {}).get(uuid)
    if medium is None:
        what = next((called(disk) for disk in disks() if disk["name"] == path), path)
        notes.change(media.REGISTRY, lambda state: state.update(unknown={"at": now, "what": what}))
        print(f"An unknown device was plugged in, and is left alone: {what}", flush=True)
        return
    signal.signal(signal.SIGTERM, ended)
    with only_one():
        # Written first, and taken away last: whatever ends this run, it stands there.
        media.note(uuid, error={"at": now, "why": UNFINISHED})
        try:
            sent = write(path, medium.get("sent", {}), now)
        except Trouble as trouble:
            if not os.path.exists(path):
                raise Trouble(UNFINISHED) from None
            media.note(uuid, error={"at": now, "why": str(trouble).rstrip(".")})
            raise
        done, today = time.time(), media.DAYS[datetime.date.fromtimestamp(now).weekday()]
        other = None if today == medium["weekday"] else f"it was written on a {today}"
        media.note(uuid, error=None, sent=sent, copies=[*medium["copies"], done][-media.REMEMBERED:], note=other)
    # From here on it may be pulled out: systemd would end the service for that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(medium["weekday"], other)


def write(path: str, sent: dict[str, Any], now: float) -> dict[str, Any]:
    """Everything that the practice needs, written and read back; what was sent before is still there. Raises Trouble."""
    tidy()
    with opened(path):
        repair()
        with mounted():
            copied, new = copy(sent, now)
        # Mounted anew, so that nothing comes out of memory: what is read now lies on the medium.
        with mounted("ro"):
            read_back(new)
            small = sum(file.stat().st_size for file in files()) < SMALL
            engine().verify("1/1" if small else courier.quarter(now))
    return copied


def copy(sent: dict[str, Any], now: float) -> tuple[dict[str, Any], set[Path]]:
    """Make each copy that is due; what is there now, and the files that are new. Raises Trouble."""
    repository = engine()
    try:
        there = {snapshot.id for snapshot in repository.snapshots()}
    except Missing:  # emptied by somebody: everything goes there again
        repository.prepare()
        there = set()
    before = set(files())
    room = os.statvfs(MOUNT)
    if room.f_bavail < SCARCE * room.f_blocks and there:
        repository.forget(KEEP_DAYS)
    known = {kind: copy for kind, copy in sent.items() if copy["id"] in there}
    return dict(courier.copies(repository, known, now)), set(files()) - before


def files() -> list[Path]:
    """What the repository consists of; what restic had not finished when it was cut off, it never looks at again, so it goes."""
    found = [file for kind in ("data", "index", "snapshots") for file in (REPOSITORY / kind).rglob("*") if file.is_file()]
    for file in (file for file in found if "-tmp-" in file.name):
        with contextlib.suppress(OSError):  # read-only, while it is read back
            file.unlink()
    return [file for file in found if "-tmp-" not in file.name]


def read_back(new: set[Path]) -> None:
    """Each of restic's files is named by the SHA-256 of what is in it. Raises Trouble."""
    for file in sorted(new):
        try:
            with file.open("rb") as source:
                found = hashlib.file_digest(source, "sha256").hexdigest()
        except OSError as bad:
            raise Trouble(f"what was written cannot be read back: {bad.strerror}") from None
        if found != file.name:
            raise Trouble(f"what was written does not come back as it was: {file.relative_to(MOUNT)}; do not use this medium any more")


def engine() -> Restic:
    """The repository on the medium that is open."""
    return Restic(str(REPOSITORY), secret(), CACHE)


def secret() -> dict[str, str]:
    """What opens a repository on a medium."""
    return {"RESTIC_PASSWORD": PASSWORD.read_text().strip()}


# ---- open, and closed again -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """One medium at a time."""
    media.LOCK.parent.mkdir(mode=0o755, exist_ok=True)
    with notes.only_one(media.LOCK):
        yield


def tidy() -> None:
    """Close what a run that was ended by force has left open, so that the same name can be opened again."""
    while os.path.ismount(MOUNT):
        run("umount", "--lazy", str(MOUNT))
    if MAPPER.exists():
        run(*LET_GO)


@contextlib.contextmanager
def opened(path: str) -> Iterator[None]:
    """The medium's encryption is open, as MAPPER. Raises Trouble."""
    run("cryptsetup", "open", "--type", "luks2", "--key-file", str(PASSWORD), path, MAPPING)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Trouble):  # its device may be gone; the mapping goes when the last file is closed
            run(*LET_GO)
        raise
    run("cryptsetup", "close", MAPPING)


@contextlib.contextmanager
def reading(path: str) -> Iterator[Restic]:
    """What the medium keeps, from which somebody restores. Raises Trouble."""
    with only_one():
        tidy()
        with opened(path), mounted("ro"):
            yield Restic(str(REPOSITORY), secret(), CACHE, *ENDING)


def repair() -> None:
    """Let the file system's journal be carried out, and what it can put right by itself. Raises Trouble (e2fsck(8): 4 and more)."""
    done = subprocess.run(["e2fsck", "-p", str(MAPPER)], capture_output=True, text=True, check=False, timeout=86400)
    if done.returncode >= 4:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"e2fsck ended with {done.returncode}"]
        raise Trouble(f"its file system is damaged: {said[-1]}; enrol another medium")


@contextlib.contextmanager
def mounted(*options: str) -> Iterator[None]:
    """The medium that is open is mounted at MOUNT. Raises Trouble, also when not all that was written has reached it."""
    MOUNT.mkdir(mode=0o700, parents=True, exist_ok=True)
    run("mount", "-t", "ext4", "-o", ",".join((OPTIONS, *options)), str(MAPPER), str(MOUNT))
    try:
        yield
    except BaseException:
        with contextlib.suppress(Trouble):
            run("umount", "--lazy", str(MOUNT))
        raise
    # By itself umount tells nobody of a write that has failed.
    run("sync", "--file-system", str(MOUNT), timeout=3600)
    run("umount", str(MOUNT), timeout=3600)


def ended(*_: object) -> None:
    """SIGTERM: systemd ends the service when the device is gone, and when the server goes down."""
    raise Ended(UNFINISHED)


def say(weekday: str, other: str | None) -> None:
    """Tell whoever stands there, and whoever reads mail, that it can be taken out."""
    print(f"The medium of {weekday} is written, read back and closed{f' ({other})' if other else ''}: you can take it out.", flush=True)
    mail = [receiver for receiver in alarm.outbox.receivers() if receiver.startswith("mail:")]
    alarm.send([telling.message(("written", weekday, time.time()))], mail, time.time())
    for console in ("/dev/console", "/dev/tty0"):
        with contextlib.suppress(OSError):
            terminal = os.open(console, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            with contextlib.closing(os.fdopen(terminal, "wb", buffering=0)) as bell:
                bell.write(b"\a")
