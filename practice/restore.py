"""Go back: everything, one database, one table, or one document, to a moment or to a backup. Without options: what can be gone back to.

What is replaced is kept beside it, and can be returned to. A restore that was interrupted is gone on with, or taken back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any

from practice import journal, notes, part, whole
from practice.clusters import BaseBackup
from practice.engine import Missing
from practice.health import clock
from practice.server import Trouble, is_root, repository
from practice.timeline import NEWEST, origin, parsed

WORD = "restore"


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice restore [--to TIME | --backup LABEL] [--database NAME | --table D.S.T | --document PATH]`, or one of the other words."""
    parser = commands.add_parser("restore", help="go back to a moment, or return from there", description=__doc__)
    goal = parser.add_mutually_exclusive_group()
    moment = f'a moment, such as "2026-11-22 14:05:00", in the practice\'s time zone; or {NEWEST}: the end of what is archived'
    goal.add_argument("--to", "--at", metavar="TIME", help=moment)
    goal.add_argument("--backup", metavar="LABEL", help="exactly what a backup holds")
    goal.add_argument("--copy", metavar="NAME", help="what a copy of `practice fallback` holds; for when pgBackRest cannot be used")
    goal.add_argument("--back", metavar="KEPT", nargs="?", const="", help="return to what was there before; without a name, to the newest")
    goal.add_argument("--resume", action="store_true", help="go on with the restore that was interrupted")
    goal.add_argument("--cancel", action="store_true", help="take back the restore that was interrupted")
    goal.add_argument("--discard", metavar="KEPT", help="remove, for ever, what an earlier restore has kept")
    goal.add_argument("--snapshot", metavar="ID", help="with --document: as --list calls it")
    goal.add_argument("--list", action="store_true", help="with --document: which versions of it there are")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--database", metavar="NAME", help="this database alone")
    what.add_argument("--table", metavar="DATABASE.SCHEMA.TABLE", help="this table alone, into a schema of its own; replaces nothing")
    beside = "this file or folder alone, from the copy outside or a medium that is plugged in, beside the present one; replaces nothing"
    what.add_argument("--document", metavar="PATH", help=beside)
    parser.add_argument("--yes", action="store_true", help="do not ask; for programs")
    parser.add_argument("--json", action="store_true", help="for programs; with the list")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: done, or listed; 1: not, and the text says what is as it was."""
    if not is_root():
        print("practice restore: only root may do this; use sudo")
        return 2
    try:
        if arguments.document is not None:
            return one_document(arguments)
        if arguments.list or arguments.snapshot is not None:
            raise Trouble("of which document? Say --document PATH")
        goals = (arguments.to, arguments.backup, arguments.copy, arguments.resume, arguments.cancel, arguments.discard)
        if arguments.back is None and not any(goals):
            if arguments.database or arguments.table:
                raise Trouble("to which moment? Say --to TIME or --backup LABEL")
            show(arguments.json)
            return 0
        with journal.alone():
            print(done(arguments))
    except Trouble as trouble:
        print(f"practice restore: {trouble}")
        return 1
    return 0


def one_document(arguments: argparse.Namespace) -> int:
    """Exit code 0: it lies beside the present one, or its versions are listed. Raises Trouble."""
    from practice import document  # noqa: PLC0415 -- nothing else here needs what talks to the copies

    if any((arguments.backup, arguments.copy, arguments.back is not None, arguments.resume, arguments.cancel, arguments.discard)):
        raise Trouble("of a document say --at TIME, --snapshot ID, --list, or nothing: then its newest copy comes back")
    if arguments.list:
        print(document.show(arguments.document, arguments.json))
        return 0
    at = parsed(arguments.to).timestamp() if arguments.to else None
    if at is not None and at > time.time():
        raise Trouble(f"{arguments.to} has not come yet")
    with journal.alone():
        print(document.restored(arguments.document, at, arguments.snapshot))
    return 0


def done(arguments: argparse.Namespace) -> str:
    """Do what was asked for; what came of it. Raises Trouble."""
    whole.swept()
    work = journal.begun()
    if arguments.resume or arguments.cancel:
        if work is None:
            raise Trouble("no restore was interrupted")
        return resumed(work, arguments.yes) if arguments.resume else cancelled(work)
    if work is not None:
        raise Trouble(f"a restore was interrupted ({journal.describe(work)}): first `practice restore --resume` or `--cancel`")
    if arguments.discard:
        return discarded(arguments.discard, arguments.yes)
    if arguments.back is not None:
        return back(arguments.back or newest_kept(), arguments.yes)
    if arguments.copy and (arguments.database or arguments.table):
        raise Trouble("out of such a copy comes everything, or nothing")
    possible(arguments)
    now = time.strftime("%Y%m%d_%H%M%S")
    if arguments.table:
        return journal.apart(lambda: table(arguments, now))
    aim = {"to": arguments.to, "label": arguments.backup, "copy": arguments.copy}
    work = {"id": now, **aim, "name": arguments.database, "step": "beside"}
    if work["name"]:
        part.free(work)
    agreed(f"{overwritten(work)} will be replaced by what it was {goal(work)}.\n{keeping(work)}", WORD, arguments.yes)
    return begun(work)


def possible(arguments: argparse.Namespace) -> None:
    """Raises Trouble when there is no way to that moment or backup; before anything is asked or begun."""
    if arguments.to not in (None, NEWEST) and parsed(arguments.to).timestamp() > time.time():
        raise Trouble(f"{arguments.to} has not come yet")
    if arguments.copy:
        BaseBackup().chain(arguments.copy)
    else:
        origin(arguments.to, arguments.backup)


def table(arguments: argparse.Namespace, now: str) -> str:
    """Bring one back beside the live one. Raises Trouble."""
    side = part.table(arguments.table, arguments.to, arguments.backup, now)
    return f"The table as it was then is in the schema {side}; the live one was not touched."


def begun(work: journal.Work) -> str:
    """Carry it out, so that it can be resumed; whether or not the terminal is lost. Raises Trouble."""
    return journal.apart(lambda: carried_out(work))


def carried_out(work: journal.Work) -> str:
    """To the end; what came of it. Raises Trouble."""
    journal.write(work)
    if work["name"]:
        part.database(work)
        before = part.aside(work)
        way = f"To return: practice restore --back {before}" if before in part.kept() else "There was none by that name, so none is kept."
    else:
        whole.carried_out(work)
        way = f"To return: practice restore --back main.before-{work['id']}"
    return f"{overwritten(work)} is what it was {goal(work)}{but(work)}. {way}"


def resumed(work: journal.Work, yes: bool) -> str:
    """Go on where it was interrupted. Raises Trouble."""
    agreed(f"Interrupted: {journal.describe(work)}. What was entered since then is kept with all else.\n{keeping(work)}", WORD, yes)
    return begun(work)


def cancelled(work: journal.Work) -> str:
    """Take back what was begun. Raises Trouble."""
    if work["name"]:
        part.cancelled(work)
    else:
        whole.cancelled(work)
    return "What was begun is gone; nothing was replaced."


def back(name: str, yes: bool) -> str:
    """Return to what an earlier restore has kept; the present state is kept in turn. Raises Trouble."""
    now = time.strftime("%Y%m%d_%H%M%S")
    if name in whole.kept():
        work = {"id": now, "kept": name, "name": None, "step": "beside"}
        agreed(f"Everything in the database will be replaced by {name}.\n{keeping(work)}", WORD, yes)
        return begun(work)
    agreed(f"The database will be replaced by {name}. The present one is kept under another name.", WORD, yes)
    return f"It is what it was. To return: practice restore --back {part.returned(name, now)}"


def discarded(name: str, yes: bool) -> str:
    """Remove what was kept. Raises Trouble."""
    agreed(f"{name} will be gone for ever, and nobody can return to it.", name, yes)
    if name in part.kept():
        part.live(f"DROP DATABASE {part.identifier(name)}")
    else:
        whole.discarded(name)
    return f"{name} is gone."


def newest_kept() -> str:
    """What the last restore has kept. Raises Trouble when that is not one thing."""
    states = whole.kept()
    if len([*states[-1:], *part.kept()]) != 1:
        raise Trouble("to which? `practice restore` lists what is kept; then: practice restore --back NAME")
    return (states or part.kept())[-1]


def overwritten(work: journal.Work) -> str:
    """What it is about."""
    return f"The database {work['name']}" if work["name"] else "Everything in the database"


def but(work: journal.Work) -> str:
    """What did not come back."""
    return f", except these unlogged tables, which are empty: {', '.join(work['unlogged'])}" if work.get("unlogged") else ""


def goal(work: journal.Work) -> str:
    """Where it goes."""
    if work.get("to") == NEWEST:
        return "at the end of what is archived"
    return f"at {work['to']}" if work.get("to") else f"in {work.get('label') or work.get('copy') or work.get('kept')}"


def keeping(work: journal.Work) -> str:
    """What becomes of the present state, and what the practice notices."""
    if work["name"]:
        return f"The present one is kept as {part.aside(work)}. Whoever works in it is thrown out at the end, for a moment."
    return f"The present state is kept as main.before-{work['id']}. The practice goes on until the end; then it stands still for a moment."


def agreed(what: str, word: str, yes: bool) -> None:
    """Ask the person at the keyboard, by a word that nobody types by chance. Raises Trouble."""
    if yes:
        return
    print(f"{what}\nType {word} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != word:
        raise Trouble("nothing was changed")


def show(as_json: bool) -> None:
    """What can be gone back to, and what is unfinished. Raises Trouble."""
    work, states, copies, lost = journal.begun(), whole.kept(), [], None
    with contextlib.suppress(Missing):
        copies = BaseBackup().snapshots()
    try:
        taken = repository().get("backup", [])
    except Trouble as trouble:
        if not copies:
            raise
        taken, lost = [], trouble
    try:
        states += part.kept()
        answers = True
    except Trouble:  # then it is needed most
        answers = False
    if as_json:
        backups, copied = [backup["label"] for backup in taken], [copy.id for copy in copies]
        print(json.dumps({"backups": backups, "copies": copied, "kept": states, "unfinished": work}, indent=1))
        return
    if work and notes.held(journal.LOCK):
        print(f"GOING ON: {journal.describe(work)}. What comes of it: journalctl -t practice\n")
    elif work:
        print(f"INTERRUPTED: {journal.describe(work)}. Go on: practice restore --resume. Take it back: practice restore --cancel\n")
    if not taken and not copies:
        raise Trouble("there is no backup")
    if taken:
        print(f"Any moment since {clock(taken[0]['timestamp']['stop'])}:  practice restore --to TIME")
        print(f"The end of what is archived:  practice restore --to {NEWEST}\nA backup:")
        print("\n".join(f"  {clock(backup['timestamp']['stop'])}  practice restore --backup {backup['label']}" for backup in taken))
    else:
        print(lost or "There is no backup.")
    if copies:
        print("A copy that was made without pgBackRest, for when that cannot be used:")
        print("\n".join(f"  {clock(copy.at)}  practice restore --copy {copy.id}" for copy in copies))
    print("Kept by earlier restores:" if states else "Nothing is kept by earlier restores.")
    print("\n".join(f"  practice restore --back {name}" for name in states) + ("" if answers else "\nThe database does not answer."))
