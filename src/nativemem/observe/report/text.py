"""A report as text: plain, or for a terminal with rich where that is installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from .model import Report
from .tables import Table, headline, tables

__all__ = ["fitting", "plain", "render", "show", "show_tables"]


def render(report: Report, *, top: int = 20, by: str = "peak", **_: Any) -> str:
    """The report as plain text of any width, for a file or a pipe."""
    parts = ["\n".join(headline(report)), *(plain(table) for table in tables(report, top=top, by=by))]
    return "\n\n".join(parts) + "\n"


def plain(table: Table, kept: Sequence[int] | None = None) -> str:
    """One table, of the columns ``kept`` (None: all). The last column is as wide as it needs."""
    kept = range(len(table.columns)) if kept is None else kept
    columns = [table.columns[i] for i in kept]
    rows = [tuple(column.name for column in columns), *(tuple(row[i] for i in kept) for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [table.title]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column.is_number else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    if table.more:
        lines.append(f"  and {table.more:,} more")
    if table.note:
        lines.append(f"  {table.note}")
    return "\n".join(lines)


def show(report: Report, file: Any, *, top: int = 20, by: str = "peak") -> None:
    """Writes the report to the terminal ``file``."""
    show_tables("\n".join(headline(report)), tables(report, top=top, by=by), file)


def show_tables(text: str, shown: list[Table], file: Any) -> None:
    """Writes ``text`` and the tables to a terminal, with rich where that is installed, and what fits of them."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        width = shutil.get_terminal_size().columns
        kept = [fitting(table, width) for table in shown]
        parts = [text, *map(plain, shown, kept), *_left_out(shown, kept, width)]
        file.write("\n\n".join(parts) + "\n")
        return
    console = Console(file=file)
    kept = [fitting(table, console.width) for table in shown]
    console.print(Text(text))
    for table, columns in zip(shown, kept, strict=True):
        made = RichTable(title=Text(table.title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i in columns:
            column = table.columns[i]
            made.add_column(column.name, justify="right" if column.is_number else "left", overflow="fold")
        for row in table.rows:
            made.add_row(*(Text(row[i]) for i in columns))
        console.print()
        console.print(made)
        rest = [f"and {table.more:,} more"] * bool(table.more) + [table.note] * bool(table.note)
        if rest:
            console.print(Text(". ".join(rest), "dim"))
    for line in _left_out(shown, kept, console.width):
        console.print()
        console.print(Text(line, "dim"))


def _left_out(shown: list[Table], kept: list[list[int]], width: int) -> list[str]:
    """A line on the columns that found no room."""
    names = [
        column.name
        for table, columns in zip(shown, kept, strict=True)
        for i, column in enumerate(table.columns)
        if i not in columns
    ]
    return [f"Left out, as the terminal has {width} columns: {', '.join(dict.fromkeys(names))}."] * bool(names)


#: what a table can do without where there is no room, the first first
_SPARED = ("called from", "in total", "used before", "before", "blocks", "live at the end", "at the peak", "after")
#: columns of texts that may be broken, and how wide they have to be
_BROKEN = {"line": 34, "called from": 60, "is": 20, "owner": 16}
#: between two columns
_GAP = 3


def fitting(table: Table, width: int) -> list[int]:
    """The numbers of the columns that have room in ``width``: no figure is broken, and a line's name hardly. The
    first stays."""
    widths = {}
    for i, column in enumerate(table.columns):
        longest = max(len(text) for text in (column.name, *(row[i] for row in table.rows)))
        widths[i] = min(longest, _BROKEN.get(column.name, longest))
    for name in _SPARED:
        if sum(widths.values()) + _GAP * len(widths) <= width:
            break
        for i, column in enumerate(table.columns):
            if i and column.name == name:
                widths.pop(i, None)
    return list(widths)
