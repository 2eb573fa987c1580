"""practice: what the people who work there, and the timers, can do on the server."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import practice


def main(argv: list[str] | None = None) -> int:
    """Run one command; each is a module here with `register(commands)` and `main(arguments) -> exit code`."""
    parser = argparse.ArgumentParser(prog="practice", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(practice.__path__):
        command = importlib.import_module(f"practice.{module.name}")
        if hasattr(command, "register"):
            command.register(commands).set_defaults(run=command.main)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
