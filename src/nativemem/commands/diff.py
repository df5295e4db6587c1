"""``nativemem diff A B``: which owners and which lines of the program grew from one recording to another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .files import add_common, opened, size
from .output import is_terminal, write

if TYPE_CHECKING:
    import argparse

__all__ = ["GREW", "HELP", "configure", "execute"]

HELP = "say what grew from one recording to another; exit code 5 if anything did"

#: what to exit with where an owner or a line grew
GREW = 5

_DESCRIPTION = """\
Compares two recordings: of two runs, such as before and after a change or with
few requests and with many, or of one run at two times. Owners are compared by
what their budgets counted, lines by what the profile saw; where that is an
estimate, a change within three standard deviations is no growth.
"""

_EXAMPLES = """\
examples:
  nativemem diff before.nm after.nm
  nativemem diff before.nm after.nm --by peak --at-least 16MiB
  nativemem diff before.nm after.nm -o diff.html
  nativemem diff before.nm after.nm --all --format json

exit code: 0 where nothing grew by --at-least as much; 5 where something did; 1
where the output cannot be written; 2 for a mistake in the command line, or for
what is no recording.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    from ..observe.report.changes import FORMATS

    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("a", metavar="A", help="a recording")
    parser.add_argument("b", metavar="B", help="a later one")
    parser.add_argument("--by", choices=("live", "peak", "total"), default="live", help="what is compared (live)")
    parser.add_argument(
        "--at-least", type=size, default=1 << 20, metavar="SIZE", help="the least that is growth (1MiB)"
    )
    parser.add_argument("--all", action="store_true", help="list each change, however small, and what shrank")
    parser.add_argument("--format", choices=FORMATS, help="usual: as the name of -o says, else text")
    parser.add_argument("-o", dest="output", metavar="FILE", help="where to write it (-: standard output)")
    parser.add_argument("--top", type=size, default=20, metavar="N", help="the most rows of a table (20)")


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``diff``. Returns the exit code."""
    from ..observe.report import changes, text
    from ..observe.report.comparison import Comparison
    from ..observe.report.formats import format_of
    from ..observe.report.model import Report

    options = parser.parse_args(argv)
    a, b = (Report(opened(parser, file), where=file) for file in (options.a, options.b))
    form = options.format or (options.output and format_of(options.output))
    if form not in changes.FORMATS:
        if options.output not in (None, "-"):
            parser.error(f"-o: the name says none of the formats ({', '.join(changes.FORMATS)}); give --format")
        form = "text"
    least = max(options.at_least, 1)
    comparison = Comparison(a, b, measure=options.by)
    code = GREW if comparison.grown_owners(least) or comparison.grown_sites(least) else 0
    rest = {"at_least": least, "top": options.top, "every": options.all}
    if form == "text" and options.output is None and is_terminal():
        head = "\n".join(changes.headline(comparison, least))
        text.show_tables(head, changes.tables(comparison, **rest), sys.stdout)
        return code
    try:
        write(changes.FORMATS[form](comparison, **rest), options.output)
    except OSError as error:
        print(f"nativemem diff: {options.output or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    return code
