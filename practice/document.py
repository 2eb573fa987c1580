"""One document, a file or a folder, comes back out of any copy that can be reached: the one outside the practice, or a plugged-in medium.

It comes to lie beside the present one, under a name with the copy's date. Nothing is ever written over.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from practice import courier, fetch, media, medium, notes, offsite, owners
from practice.engine import Missing, Restic
from practice.health import clock
from practice.server import SPARE_BYTES, Trouble

# Both on the encrypted volume, and seen from there, so that what was fetched comes to its place in one step: root's alone until then.
SCRATCH, PLACE = Path("/data/document"), Path("/data/srv")
# What restic says of a folder has an entry for each file in each snapshot: so many of them fit into memory. How many files there are is
# not known before the first is found; until then, few snapshots are looked through at once.
ENTRIES, FEW, MANY = 200_000, 30, 1000
LONGEST_NAME = 255
ID = 8


@dataclass(frozen=True)
class Source:
    """Where copies are kept: a repository outside, by its name, or a medium that is plugged in, by its device."""

    words: str
    name: str = ""
    device: str = ""


@dataclass(frozen=True)
class Copy:
    """The document as one snapshot holds it. `mark` is the same for as long as nothing in it has changed."""

    at: float
    id: str
    source: Source
    files: int
    bytes: int
    mark: str


def below(text: str) -> Path:
    """The document of this name; one that does not begin with / lies in the documents' directory. Raises Trouble."""
    path = courier.DOCUMENTS / text
    if "\0" in text or ".." in path.parts or not path.is_relative_to(courier.DOCUMENTS) or path == courier.DOCUMENTS:
        raise Trouble(f'"{text}" is no document: name a file or a folder below {courier.DOCUMENTS}, without ".."')
    return path


def show(text: str, as_json: bool) -> str:
    """Each version of a document that can be gone back to, newest first. Raises Trouble when there is none."""
    path = below(text)
    found, troubles = searched(path)
    versions = changes(found, path, troubles)
    if as_json:
        said = [{"at": one.at, "id": one.id, "where": one.source.words, "files": one.files, "bytes": one.bytes} for one in versions]
        return json.dumps({"versions": said, "troubles": troubles}, indent=1)
    again = f"practice restore --document {shlex.quote(str(path))} --snapshot"
    lines = [f"  {clock(one.at)}  {size(one)}, {one.source.words}:  {again} {one.id[:ID]}" for one in versions]
    return "\n".join([f"{path} as it was, newest first:", *lines, *(f"Not looked at: {trouble}." for trouble in troubles)])


def restored(text: str, at: float | None, snapshot: str | None) -> str:
    """The document lies beside the present one, as its newest copy has it, or the one that was asked for. Raises Trouble."""
    path = below(text)
    os.close(folder(path))
    found, troubles = searched(path)
    chosen = choice(changes(found, path, troubles), found, path, at, snapshot)
    try:
        tree, missing = fetched(chosen, path)
        name = put(tree, path, dated(path, chosen.at, tree.is_dir() and not tree.is_symlink()))
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    said = [f"{path} as it was at {clock(chosen.at)} ({chosen.source.words}) lies in {path.with_name(name)}; nothing else was touched."]
    if missing:
        said.append(f"This server does not have {', '.join(sorted(missing))}; what was theirs in it is root's now.")
    return "\n".join([*said, *(f"Not looked at: {trouble}." for trouble in troubles)])


# ---- which versions there are ---------------------------------------------------------------------------------------


def searched(path: Path) -> tuple[list[Copy], list[str]]:
    """Every copy of the document that can be reached, newest first, and why others cannot. Raises Trouble when none can."""
    found: list[Copy] = []
    troubles: list[str] = []
    looked = 0
    for source in plugged_in():
        try:
            with opened(source) as engine:
                found += held(engine, source, path)
            looked += 1
        except Trouble as trouble:
            troubles.append(f"{source.words}: {trouble}")
    if offsite.CONFIG.exists():
        try:
            looked += outside(lambda engine, source: found.extend(held(engine, source, path)), troubles)
        except Trouble as trouble:
            troubles.append(f"outside the practice: {trouble}")
    if not looked:
        reason = "; ".join(troubles) or "the clinic file has no section offsite, and no medium is plugged in"
        raise Trouble(f"there is no copy to look into: {reason}")
    return sorted(found, key=lambda copy: copy.at, reverse=True), troubles


def plugged_in() -> list[Source]:
    """The media of ours that are plugged in."""
    known = notes.read(media.REGISTRY).get("media", {}).items()
    return [Source(f"the medium of {one['weekday']}", device=f"/dev/{name}") for uuid, one in known if (name := media.plugged(uuid))]


def outside(look: Callable[[Restic, Source], None], troubles: list[str]) -> int:
    """Look into each repository outside, from this month back to one before all of ours; into how many. Raises Trouble."""
    fetch.reached()
    looked = 0
    for month in fetch.months(time.time()):
        before = looked
        for name in courier.names(month):
            source = Source(f"outside, {name}", name=name)
            try:
                look(fetch.opened(name), source)
                looked += 1
            except Missing:
                continue
            except Trouble as trouble:
                troubles.append(f"{source.words}: {trouble}")
        if before and looked == before:
            break
    return looked


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Restic]:
    """What is kept there. Raises Trouble."""
    if source.device:
        with medium.reading(source.device) as engine:
            yield engine
    else:
        fetch.reached()
        yield fetch.opened(source.name)


def held(engine: Restic, source: Source, path: Path) -> Iterator[Copy]:
    """Each copy of the document that lies in a repository. Raises Trouble."""
    made = {one.id: one.at for one in engine.snapshots() if "documents" in one.tags}
    left, most = list(made), 0
    while left:
        number = max(1, min(MANY, ENTRIES // most)) if most else FEW
        for id, entries in engine.found(path, left[-number:]).items():
            most = max(most, len(entries))
            files = [entry for entry in entries if entry["type"] != "dir"]
            yield Copy(made[id], id, source, len(files), sum(entry.get("size", 0) for entry in files), mark(entries))
        del left[-number:]


def mark(entries: list[dict[str, Any]]) -> str:
    """The same for as long as no file in it was changed: restic writes down when that was, as the server's file system says."""
    kept = ("path", "type", "mode", "size", "mtime", "ctime", "uid", "gid")
    return hashlib.sha256(json.dumps(sorted([str(entry.get(key)) for key in kept] for entry in entries)).encode()).hexdigest()


def changes(found: list[Copy], path: Path, troubles: list[str]) -> list[Copy]:
    """Of copies that are alike, the newest, by which it is taken; newest first. Raises Trouble when there are none."""
    if not found:
        also = f" Not looked at: {'; '.join(troubles)}." if troubles else ""
        raise Trouble(f"no copy that can be reached holds {path}.{also} Is the name right? Big and small letters count")
    alike = {copy.mark: copy for copy in reversed(found)}
    return sorted(alike.values(), key=lambda copy: copy.at, reverse=True)


def choice(versions: list[Copy], found: list[Copy], path: Path, at: float | None, snapshot: str | None) -> Copy:
    """The copy to take: that snapshot, the newest up to a moment, or the newest. Raises Trouble."""
    if snapshot is not None:
        named = {copy.id: copy for copy in found if copy.id.startswith(snapshot)}
        if len(named) != 1:
            raise Trouble(f"{len(named)} copies that hold {path} are called {snapshot}; --list says which there are")
        return next(iter(named.values()))
    if at is None:
        return versions[0]
    early = [copy for copy in found if copy.at <= at]
    if not early:
        raise Trouble(f"the oldest copy that holds {path} is of {clock(found[-1].at)}; --list shows all versions")
    return early[0]


def size(copy: Copy) -> str:
    """How much it is."""
    much = f"{copy.bytes >> 20} MiB" if copy.bytes >= 1 << 20 else f"{copy.bytes} bytes"
    return much if copy.files == 1 else f"{copy.files} files, {much}"


# ---- how one comes back ---------------------------------------------------------------------------------------------


def fetched(copy: Copy, path: Path) -> tuple[Path, set[str]]:
    """It lies below SCRATCH, with its owners; which of them this server does not have. Raises Trouble, before it could fill the volume."""
    disk = os.statvfs(SCRATCH.parent)
    wanted, free = copy.bytes + SPARE_BYTES, disk.f_bavail * disk.f_frsize
    if free < wanted:
        raise Trouble(f"it needs {wanted >> 20} MiB on the data volume, and {free >> 20} MiB are free; nothing was begun")
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(mode=0o700)
    with opened(copy.source) as engine:
        entries = engine.found(path, [copy.id])[copy.id]
        engine.restore(copy.id, SCRATCH, [path])
    tree = SCRATCH / path.relative_to("/")
    return tree, owned(tree, {entry["path"]: entry for entry in entries})


def owned(tree: Path, entries: dict[str, dict[str, Any]]) -> set[str]:
    """Everything belongs to whom it belonged, by name: a number may be somebody else's since the server was rebuilt. Who is not here."""
    missing: set[str] = set()

    def here(entry: dict[str, Any], kind: str, key: str, look_up: Callable[[str], int]) -> int:
        name = entry.get(key) or ""
        try:
            return look_up(name)
        except KeyError:
            missing.add(f"{kind} {name or 'without a name'}")
            return 0

    # What a link leads to is none of it.
    inner = [] if tree.is_symlink() else list(owners.entries(tree))
    for name, status in [(str(tree), tree.lstat()), *inner]:
        entry = entries.get(f"/{os.path.relpath(name, SCRATCH)}", {})
        user = here(entry, "account", "user", lambda one: pwd.getpwnam(one).pw_uid)
        owners.changed(name, status, user, here(entry, "group", "group", lambda one: grp.getgrnam(one).gr_gid))
    return missing


def dated(path: Path, at: float, is_folder: bool) -> str:
    """The name under which it lies beside the present one: its own, with the copy's moment before what says which kind of file it is."""
    suffix = "" if is_folder else path.suffix
    more = f".from-{time.strftime('%Y%m%d_%H%M%S', time.localtime(at))}{suffix}"
    stem = path.name.removesuffix(suffix)
    while len(os.fsencode(stem + more)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + more


def folder(path: Path) -> int:
    """The folder in which the document lies, open. Raises Trouble. No link is followed: whoever may write there could make one."""
    if not PLACE.is_dir():
        raise Trouble(f"{PLACE} is not there; is the volume open? See `practice status`")
    number = os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY)
    for part in path.parent.relative_to(courier.DOCUMENTS).parts:
        try:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=number)
        except OSError:
            raise Trouble(f"{path.parent} is not there, or is no folder: restore that one, or the one above it") from None
        finally:
            os.close(number)
        number = inner
    return number


def put(tree: Path, path: Path, name: str) -> str:
    """What was fetched comes beside the document, called `name`, where nothing of that name lies. Raises Trouble."""
    number = folder(path)
    try:
        if name in os.listdir(number):
            raise FileExistsError
        if tree.is_dir() and not tree.is_symlink():
            os.rename(tree, name, dst_dir_fd=number)
        else:  # a rename would replace what has come there meanwhile
            os.link(tree, name, dst_dir_fd=number, follow_symlinks=False)
        os.fsync(number)
    except FileExistsError:
        raise Trouble(f"{path.with_name(name)} is there already: that copy was brought back before; nothing was changed") from None
    except OSError as bad:
        raise Trouble(f"{path.with_name(name)} cannot be made: {bad.strerror}; nothing was changed") from None
    finally:
        os.close(number)
    return name
