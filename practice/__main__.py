"""practice: what the people who work there, and the timers, can do on the server."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

import practice


def main(argv: list[str] | None = None) -> int:
    """Run one command; each is a module here with `register(commands)` and `main(arguments) -> exit code`."""
    parser = argparse.ArgumentParser(prog="practice", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else argv
    asked = [word.replace("-", "_") for word in words[:1]]
    names = [module.name for module in pkgutil.iter_modules(practice.__path__)]
    # Only what is asked for: on a slow machine every module costs.
    for name in asked if set(asked) & set(names) else names:
        command = importlib.import_module(f"practice.{name}")
        if hasattr(command, "register"):
            command.register(commands).set_defaults(run=command.main)
    arguments = parser.parse_args(argv)
    # Whoever calls may have a stricter one; then what is meant for a service's account would be shut to it.
    os.umask(0o022)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
