"""``nativemem top PID``: a running process, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .files import add_common, seconds

if TYPE_CHECKING:
    import argparse

    from ..observe.snapshot import Snapshot

__all__ = ["HELP", "configure", "execute"]

HELP = "watch a running process: its owners, limits, peaks and largest sites"

_DESCRIPTION = """\
Shows a running process (see nativemem attach) again and again, until Ctrl-C,
its end, or --count. In a terminal, and with rich installed (nativemem[rich]),
as tables; otherwise a line each time.
"""
_EXAMPLES = """\
examples:
  nativemem top 4711
  nativemem top 4711 --interval 5 --count 12 >log.txt

exit code: 0; 1 where the process does not answer; 2 for a mistake in the
command line.
"""
#: sites that are asked for
_SITES = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    from .processes import add_process, pid

    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("pid", type=pid, metavar="PID")
    parser.add_argument("--interval", type=seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--count", type=_count, metavar="N", help="so many looks")
    add_process(parser)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _short(text: str, width: int) -> str:
    """Its end, which says more of a path than its beginning."""
    return text if len(text) <= width else "\N{HORIZONTAL ELLIPSIS}" + text[1 - width :]


def _shortened(rows: list[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """Sites whose last column has what the others leave of ``width``."""
    from .view import SITES

    rows = [(*row[:2], _short(row[2], width // 4), row[3]) for row in rows]
    others = sum(2 + max(len(row[i]) for row in (SITES, *rows)) for i in range(3))
    return [(*row[:3], _short(row[3], max(width - others, 20))) for row in rows]


def _rich(taken: Snapshot, width: int, height: int) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from .view import OWNERS, SITES, owner_rows, site_rows, title_of

    parts: list[Any] = [Text(title_of(taken), style="bold")]
    room = max(height - 6, 4)
    for heads, rows, left in (
        (OWNERS, owner_rows(taken), (0, 5)),
        (SITES, _shortened(site_rows(taken, _SITES), width), (2, 3)),
    ):
        if not rows or room < 3:
            continue
        table = Table(box=None, pad_edge=False, header_style="dim")
        for i, head in enumerate(heads):
            justify: Any = "left" if i in left else "right"
            table.add_column(head, justify=justify, no_wrap=True, min_width=max(len(row[i]) for row in rows[:room]))
        shown = rows[: room // 2] if heads is OWNERS and taken.sites else rows[: room - 1]
        for row in shown:
            if heads is OWNERS:
                row = (_short(row[0], max(width - 60, 12)), *row[1:])
            style = {"warn": "yellow", "critical": "red", "full": "bold red"}.get(row[-1])
            table.add_row(*map(Text, row), style=style)
        room -= len(shown) + 2
        parts += ["", table]
    return Group(*parts)


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``top``."""
    from .output import is_terminal
    from .processes import Unreachable, find

    options = parser.parse_args(argv)
    try:
        path = find(options.pid, options.socket)
        if is_terminal():
            try:
                from rich.live import Live
            except ImportError:
                print("nativemem top: rich is not installed (nativemem[rich]): a line each time", file=sys.stderr)
            else:
                _watch_live(path, options, Live)
                return 0
        _watch(path, options)
    except Unreachable as error:
        print(f"nativemem top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _looks(path: str, options: argparse.Namespace) -> Any:
    """Snapshots, one each interval; ends where the process does."""
    from ..observe.control import ask
    from ..observe.snapshot import Snapshot
    from .processes import Unreachable

    seen = 0
    while options.count is None or seen < options.count:
        if seen:
            time.sleep(options.interval)
        try:
            yield Snapshot.from_dict(ask(path, do="snapshot", sites=_SITES, by="line"))
        except (OSError, ValueError) as error:
            if seen and isinstance(error, (FileNotFoundError, ConnectionError)):
                return  # it has ended
            raise Unreachable(f"process {options.pid} does not answer: {error}") from None
        seen += 1


def _watch(path: str, options: argparse.Namespace) -> None:
    from .output import say
    from .view import line_of

    for taken in _looks(path, options):
        if not say(line_of(taken) + "\n"):
            return


def _watch_live(path: str, options: argparse.Namespace, live_class: Any) -> None:
    with live_class(screen=options.count is None, auto_refresh=False) as live:
        for taken in _looks(path, options):
            live.update(_rich(taken, *live.console.size), refresh=True)
