"""``nativemem stats PID|FILE``: what a process has now, or had when a file was written."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from .files import add_common

if TYPE_CHECKING:
    import argparse

    from ..observe.snapshot import Snapshot

__all__ = ["HELP", "configure", "execute"]

HELP = "show what a process, a snapshot or a profile has: owners, limits, peaks"

_DESCRIPTION = """\
Shows the owners of a running process (see nativemem attach), of a snapshot, or
of a profile's recording: what each uses, its limit, its peak, what it was
refused; and the largest sites, where there is a profile.
"""
_EXAMPLES = """\
examples:
  nativemem stats 4711
  nativemem stats 4711 --json | jq .engine.held
  nativemem stats now.json
  nativemem stats ./4711                         # a file whose name is a number

exit code: 0; 1 where the process does not answer; 2 for a mistake, and for a
file that is neither.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    from .processes import add_process

    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("of", metavar="PID|FILE")
    parser.add_argument("--json", action="store_true", help="as JSON, the format of a snapshot")
    add_process(parser)


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``stats``."""
    from .output import say
    from .processes import Unreachable
    from .view import text_of

    options = parser.parse_args(argv)
    try:
        taken = _taken(parser, options.of, options.socket, "path" if options.json else "line")
    except Unreachable as error:
        print(f"nativemem stats: {error}", file=sys.stderr)
        return 1
    say(json.dumps(taken.to_dict(), indent=1) + "\n" if options.json else text_of(taken))
    return 0


def _taken(parser: argparse.ArgumentParser, of: str, socket: str | None, by: str) -> Snapshot:
    from ..observe.snapshot import Snapshot, from_recording, load
    from .files import opened
    from .processes import ask, pid

    if of.isascii() and of.isdecimal():
        return Snapshot.from_dict(ask(pid(of), socket, do="snapshot", sites=50, by=by))
    if socket is not None:
        parser.error("--socket is of a process, and a file was named")
    try:
        with open(of, "rb") as file:
            is_json = file.read(1) == b"{"
        if is_json:
            return load(of)
    except OSError as error:
        parser.error(f"{os.fspath(of)}: {error.strerror or error}")
    except ValueError as error:
        parser.error(str(error).partition("\n")[0])
    return from_recording(opened(parser, of))
