"""A snapshot as lines and tables of text, for ``stats``, ``top`` and ``attach``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..sizes import format_size

if TYPE_CHECKING:
    from ..observe.snapshot import Snapshot

__all__ = ["OWNERS", "SITES", "line_of", "owner_rows", "site_rows", "text_of", "title_of"]

#: the heads of the tables; the first is set to the left
OWNERS = ("owner", "used", "limit", "peak", "denials", "pressure")
SITES = ("live", "blocks", "owner", "line")


def _clean(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _size(size: int | None) -> str:
    return "none" if size is None else format_size(size)


def title_of(taken: Snapshot) -> str:
    """The process, its memory, and what the engine holds."""
    parts = [f"process {taken.process.pid}"]
    if taken.process.resident is not None:
        parts.append(f"resident {format_size(taken.process.resident)}")
    engine = taken.engine
    if engine is None and taken.process.python:  # it is of the process itself, rather than of a recording
        parts.append("no engine")
    elif engine is not None:
        limit = "no limit" if engine.limit is None else f"limit {format_size(engine.limit)}"
        parts.append(f"engine {format_size(engine.held)} (peak {format_size(engine.peak)}, {limit})")
        parts.append(f"{engine.allocations:,} allocations")
        parts.append(f"{engine.denials:,} denial{'s' * (engine.denials != 1)}")
    return ", ".join(parts)


def owner_rows(taken: Snapshot) -> list[tuple[str, ...]]:
    """A row for each owner; the largest first."""
    owners = sorted(taken.owners, key=lambda owner: -owner.used)
    return [
        (
            _clean(o.path),
            _size(o.used),
            _size(o.stats.limit),
            _size(o.peak),
            f"{o.denials:,}",
            "locked" if o.locked else o.pressure,
        )
        for o in owners
    ]


def site_rows(taken: Snapshot, most: int) -> list[tuple[str, ...]]:
    """A row for each of the lines that have most that is live."""
    from ..observe.report.tree import Place
    from ..observe.report.wording import named
    from ..observe.snapshot import by_line

    rows: list[tuple[str, ...]] = []
    for site in by_line(taken.sites)[:most]:
        at = Place(site.path.file, site.path.line, site.path.function)
        rows.append((_size(site.live), f"{site.live_blocks:,}", _clean(site.owner), _clean(named(at))))
    return rows


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], left: tuple[int, ...]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for row in (heads, *rows):
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def text_of(taken: Snapshot, sites: int = 10) -> str:
    """The whole of it."""
    parts = [title_of(taken) + "\n"]
    if taken.owners:
        parts.append(_table(OWNERS, owner_rows(taken), (0, 5)))
    if taken.sites:
        parts.append(_table(SITES, site_rows(taken, sites), (2, 3)))
    return "\n".join(parts)


def line_of(taken: Snapshot) -> str:
    """One line, for a pipe: time, process, and what each owner uses."""
    import time

    when = time.strftime("%H:%M:%S", time.localtime(taken.when))
    owners = "".join(
        f", {name} {used}" + ("" if limit == "none" else f"/{limit}")
        for name, used, limit, *_ in owner_rows(taken)[:8]
    )
    return f"{when} {title_of(taken)}{owners}"
