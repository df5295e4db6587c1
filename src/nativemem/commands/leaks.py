"""``nativemem leaks FILE``: what was live when a recording ended, by line of the program."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .files import add_common, opened, size
from .output import is_terminal, write

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "LEAKED", "configure", "execute"]

HELP = "list what was live when a recording ended; exit code 4 if it is much"

#: what to exit with where a line has as much
LEAKED = 4

_DESCRIPTION = """\
Lists the lines of the program whose memory was live when the recording ended:
leaks, and what the program meant to keep. Of two recordings of the same
program, with few requests and with many, `nativemem diff` tells the two apart.
"""

_EXAMPLES = """\
examples:
  nativemem leaks run.nm
  nativemem leaks run.nm --at-least 64KiB --owner cache
  nativemem leaks run.nm --format markdown >>"$GITHUB_STEP_SUMMARY"

exit code: 0; 4 where a line has --at-least as much; 1 where the output cannot
be written; 2 for a mistake in the command line, or a FILE that is no
recording.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="a recording")
    parser.add_argument(
        "--at-least",
        type=size,
        default=1 << 20,
        metavar="SIZE",
        help="what a line has to have to be listed (1MiB); as an estimate, where blocks were sampled",
    )
    parser.add_argument("--owner", metavar="NAME", help="this owner alone")
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text", help="text, json or markdown"
    )
    parser.add_argument("--top", type=size, default=20, metavar="N", help="the most lines that are listed (20)")


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``leaks``. Returns the exit code."""
    import json

    from ..errors import ConfigError
    from ..observe.report import markdown, text
    from ..observe.report.as_json import site
    from ..observe.report.model import Report
    from ..observe.report.tables import leaks, leaks_headline

    options = parser.parse_args(argv)
    recording = opened(parser, options.file)
    try:
        report = Report(recording, where=options.file, owner=options.owner)
    except ConfigError as error:
        parser.error(str(error).partition("\n")[0].removeprefix("report: "))
    least = max(options.at_least, 1)
    found = report.sites("live", at_least=least)
    head = leaks_headline(report, least)
    table = leaks(report, options.top, least)
    code = LEAKED if found else 0
    if options.format == "json":
        rows = [site(row) for row in found[: options.top]]
        made = json.dumps({"nativemem_leaks": 1, "at_least": least, "leaks": rows}, indent=1) + "\n"
    elif options.format == "markdown":
        parts = [
            "## Memory: live at the end",
            f"- {markdown.escaped(head)}",
            *[markdown.table(table)] * bool(found),
        ]
        made = "\n\n".join(parts) + "\n"
    elif is_terminal():
        text.show_tables(head, [table] * bool(found), sys.stdout)
        return code
    else:
        made = "\n\n".join([head, *[text.plain(table)] * bool(found)]) + "\n"
    try:
        write(made, None)
    except OSError as error:
        print(f"nativemem leaks: standard output: {error.strerror}", file=sys.stderr)
        return 1
    return code
