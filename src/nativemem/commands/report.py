"""``nativemem report FILE``: what a recording shows, for people and for other tools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .files import add_common, opened, size
from .output import is_terminal, write

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "execute"]

HELP = "show what a recording of a profile holds"

_DESCRIPTION = """\
Shows what a recording holds: whose memory it was, which lines of the program
took it, what was refused, and what was live at the end. It opens nothing but
FILE, which may still be written to, or be of a process that was killed.
"""

_EXAMPLES = """\
examples:
  nativemem report run.nm
  nativemem report run.nm -o run.html
  nativemem report run.nm --by live --owner cache --top 10
  nativemem report run.nm --format json | jq .amount

exit code: 0; 1 where the output cannot be written; 2 for a mistake in the
command line, or a FILE that is no recording.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    from ..observe.report.formats import FORMATS

    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="a recording")
    formats = "; ".join(f"{name}: {each.help}" for name, each in FORMATS.items())
    parser.add_argument(
        "--format", choices=FORMATS, metavar="NAME", help=f"{formats} (usual: as the name of -o says, else text)"
    )
    parser.add_argument("-o", dest="output", metavar="FILE", help="where to write it (-: standard output)")
    parser.add_argument(
        "--by", choices=("live", "peak", "total"), default="peak", help="what the largest sites have most of"
    )
    parser.add_argument("--owner", metavar="NAME", help="this owner alone")
    parser.add_argument("--top", type=size, metavar="N", help="the most rows of a table, or sites of a list")


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``report``. Returns the exit code."""
    from ..errors import ConfigError
    from ..observe.report.formats import FORMATS, format_of, render
    from ..observe.report.model import Report

    options = parser.parse_args(argv)
    recording = opened(parser, options.file)
    form = options.format or (options.output and format_of(options.output))
    if form is None and options.output not in (None, "-"):
        known = ", ".join(ending for each in FORMATS.values() for ending in each.endings[:1])
        parser.error(f"-o: the name says no format ({known}); give --format")
    form = form or "text"
    rest = {} if options.top is None else {"top": options.top}
    try:
        if form == "text" and options.output is None and is_terminal():
            from ..observe.report.text import show

            show(Report(recording, where=options.file, owner=options.owner), sys.stdout, by=options.by, **rest)
            return 0
        made = render(recording, form, by=options.by, owner=options.owner, where=options.file, **rest)
    except ConfigError as error:
        parser.error(str(error).partition("\n")[0].removeprefix("report: "))
    if isinstance(made, bytes) and options.output is None and is_terminal():
        parser.error(f"{form} is no text for a terminal; give -o FILE")
    try:
        write(made, options.output)
    except OSError as error:
        print(f"nativemem report: {options.output or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
