"""The command line: ``nativemem COMMAND``. Each command is a module, named in `COMMANDS`.

argparse rather than a richer library, because the command stands before each start of a program.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from .._version import __version__
from ..engine.startup import USAGE

#: by name, the module of each: it has ``HELP``, a line; ``configure(parser)``, which adds its options; and
#: ``execute(parser, argv)``, which is given the words after the command, and returns what to exit with
COMMANDS = {
    "run": "run",
    "report": "report",
    "leaks": "leaks",
    "diff": "diff",
    "stats": "stats",
    "top": "top",
    "attach": "attach",
    "bench": "bench",
    "doctor": "doctor",
}


class _Parser(argparse.ArgumentParser):
    """Answers a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints ``message`` and exits with the code for a mistake in the command line."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int | str | None:
    """Runs the command line ``argv`` (None: the process's own). Returns what to exit with; ``run`` becomes the
    program and does not return."""
    words = sys.argv[1:] if argv is None else argv
    parser = _Parser(prog="nativemem", description="The memory engine for CPython programs.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"nativemem {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f".{module_name}", __package__)
        command = commands.add_parser(name, help=module.HELP, allow_abbrev=False)
        module.configure(command)
        if words[:1] == [name]:
            try:
                return module.execute(command, words[1:])  # a command takes its own words apart
            except OSError as error:
                from .output import Unwritten

                if not isinstance(error, Unwritten):
                    raise
                print(f"nativemem {name}: standard output: {error.strerror}", file=sys.stderr)
                return 1
    if not words:
        parser.error(f"name a command: {', '.join(COMMANDS)}")
    parser.parse_args(words)
    raise AssertionError("the parser has exited")
