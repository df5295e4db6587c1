"""A report as text: plain, or for a terminal with rich where that is installed."""

from __future__ import annotations

from typing import Any

from .model import Report
from .tables import Table, headline, tables

__all__ = ["plain", "render", "rich_tables", "show"]


def render(report: Report, *, top: int = 20, by: str = "peak", **_: Any) -> str:
    """The report as plain text of any width, for a file or a pipe."""
    parts = ["\n".join(headline(report)), *(plain(table) for table in tables(report, top=top, by=by))]
    return "\n\n".join(parts) + "\n"


def plain(table: Table) -> str:
    """One table. The last column is as wide as it needs."""
    rows = [tuple(column.name for column in table.columns), *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = [table.title]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column.is_number else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    if table.more:
        lines.append(f"  and {table.more:,} more")
    if table.note:
        lines.append(f"  {table.note}")
    return "\n".join(lines)


def show(report: Report, file: Any, *, top: int = 20, by: str = "peak") -> bool:
    """Writes the report to the terminal ``file`` with rich. False: rich is not installed."""
    return rich_tables("\n".join(headline(report)), tables(report, top=top, by=by), file)


def rich_tables(text: str, shown: list[Table], file: Any) -> bool:
    """Writes ``text`` and the tables to a terminal. False: rich is not installed, and nothing was written."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return False
    console = Console(file=file)
    console.print(Text(text))
    for table in shown:
        made = RichTable(title=Text(table.title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            if column.name == "called from" and console.width < 140:
                continue
            made.add_column(column.name, justify="right" if column.is_number else "left", overflow="fold")
        for row in table.rows:
            made.add_row(*(Text(cell) for cell in row[: len(made.columns)]))
        console.print(made)
        rest = [f"and {table.more:,} more"] * bool(table.more) + [table.note] * bool(table.note)
        if rest:
            console.print(Text(". ".join(rest), "dim"))
    return True
