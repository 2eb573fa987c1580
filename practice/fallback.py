"""Copies of the database by PostgreSQL alone, for the day when pgBackRest cannot be used. They leave the practice with the documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from practice.clusters import DATA, BaseBackup
from practice.health import clock
from practice.server import Trouble, is_root, settings


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice fallback [--list | --verify | --restore NAME --into DIRECTORY]`."""
    parser = commands.add_parser("fallback", help="copy the database without pgBackRest", description=__doc__)
    parser.add_argument("--list", action="store_true", help="make none; list those that exist")
    parser.add_argument("--verify", action="store_true", help="make none; read all of them and compare checksums")
    parser.add_argument("--restore", metavar="NAME", help="make none; write the data directory that this one holds")
    parser.add_argument("--into", metavar="DIRECTORY", type=Path, help="where; it must not be there yet")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0: done; 1: it could not be done."""
    if not is_root():
        print("practice fallback: only root may do this; use sudo")
        return 2
    if bool(arguments.restore) != bool(arguments.into):
        print("practice fallback: --restore and --into belong together")
        return 2
    engine = BaseBackup()
    try:
        if arguments.restore:
            engine.restore(arguments.restore, arguments.into)
            print(f"{arguments.into} is the database as it was then. It does not run, and the live one was not touched.")
        elif arguments.verify:
            engine.verify()
            print("every copy is as it was written")
        elif arguments.list:
            print("\n".join(f"{one.id}  {clock(one.at)}" for one in engine.snapshots()) or "There is no copy.")
        else:
            engine.prepare()
            print(engine.back_up([DATA]))
            if "keep_days" in (known := settings()):
                engine.forget(known["keep_days"])
    except Trouble as trouble:
        print(f"practice fallback: {trouble}")
        return 1
    return 0
