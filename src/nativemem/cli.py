"""The command line: ``nativemem run``.

argparse rather than a richer library, because what the command imports is part of the memory that it
measures.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from ._version import __version__
from .config import parse_size
from .errors import InvalidLayout, NativeMemError

#: exit codes of `run` beside the program's own
USAGE, OVER_BUDGET = 2, 3

_EXAMPLES = """\
examples:
  nativemem run script.py --its --arguments
  nativemem run --budget 512MiB script.py
  nativemem run -o summary.json -m json.tool data.json

exit code: the program's own; 2 for a mistake in the command line; 3 when the program ended with a
MemoryError because of the budget.
"""


class _Parser(argparse.ArgumentParser):
    """Answers a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints ``message`` and exits with the code for a mistake in the command line."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _size(text: str) -> int:
    try:
        return parse_size(text, "it", least=1)
    except InvalidLayout as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nativemem", description="The memory engine for CPython programs.")
    parser.add_argument("--version", action="version", version=f"nativemem {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a program on the engine and say what it used",
        description="Runs a Python program with the engine under its objects and NumPy arrays; at the end "
        "says on stderr what it used. The program's own output and exit code pass through.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="nativemem run [--budget SIZE] [-o FILE] (script | -m module) ...",
    )
    run.add_argument(
        "--budget",
        type=_size,
        metavar="SIZE",
        help="most memory that the engine may hold, such as 512MiB; beyond it the program gets MemoryError",
    )
    run.add_argument("-o", dest="output", metavar="FILE", help="write the summary as JSON")
    run.add_argument(
        "-m", action="store_true", help="what follows is a module and its arguments, as for python -m"
    )
    return parser


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """This command's own words, and the program's: from the first that is no option, or after ``-m``.

    argparse has no way to leave the program's words alone: it takes a ``--`` out of them.
    """
    takes_value = ("--budget", "-o")
    i = 1
    while i < len(argv) and argv[i].startswith("-") and argv[i] != "-":
        if argv[i] == "-m":
            return argv[: i + 1], argv[i + 1 :]
        i += 1 + (argv[i] in takes_value)
    return argv[:i], argv[i:]


def main(argv: list[str] | None = None) -> int | str | None:
    """Runs the command line ``argv`` (None: the process's own). Returns what to exit with."""
    parser = _parser()
    own, program = _split(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(own)
    if not program:
        parser.error("run: name a script, or a module with -m")
    module, script = (program.pop(0), None) if own[-1] == "-m" else (None, program.pop(0))
    from . import _run

    try:
        return _run.run(
            script,
            module,
            program,
            budget=options.budget,
            output=options.output,
        )
    except _run.NoProgram as error:
        parser.error(f"run: {error}")
    except NativeMemError as error:
        print(f"nativemem: {error}", file=sys.stderr)
        return 1
