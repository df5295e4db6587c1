"""Lua, SQLite, expat and zlib in one process, each with the memory of a budget of its own.

First each does real work within its limit. Then each in turn is given more than fits: it is denied, says so in its
own words, and still works, and the other three notice nothing. After it was closed, nothing of it is left.

    python examples/c_libraries
    python examples/c_libraries --allocator system --only lua --only zlib
    python examples/c_libraries --faults

Exit codes: 0; 1 when anything is not as said; 2 when something needed is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from common import Denied, Library, Wrong, check, missing
from on_expat import Expat
from on_lua import Lua
from on_sqlite import SQLite
from on_zlib import Zlib

import nativemem

LIBRARIES: dict[str, type[Library]] = {library.name: library for library in (Lua, SQLite, Expat, Zlib)}
ALLOCATORS: dict[str, type] = {"heap": nativemem.Heap, "system": nativemem.System}
# Wide enough for the table, so nothing is cut when the output goes to a file or a pipe.
PIPED_WIDTH = 116


@dataclass
class Seen:
    """What a library's budget saw."""

    library: Library
    budget: Any
    port: Any
    did: str = ""
    used: int = 0
    peak: int = 0
    denial: Any = None
    said: str = ""
    left: int = 0


def start(library: type[Library], allocator: type, stack: ExitStack) -> Seen:
    budget = nativemem.Budget(library.limit, library.name)
    limited = stack.enter_context(nativemem.Limited(stack.enter_context(allocator()), budget))
    port = limited.c_port()
    return Seen(library(port), budget, port)


def work(seen: Seen) -> None:
    seen.did = seen.library.work(seen.library.fits)
    seen.used, seen.peak = seen.budget.used, seen.budget.peak
    name = seen.library.name
    check(seen.budget.denied == 0, f"{name}: was denied what fits")
    check(0 < seen.used <= seen.peak <= seen.budget.limit, f"{name}: {seen.used} used, peak {seen.peak}")
    check(seen.used == seen.port.stats.current, f"{name}: the budget and the port do not agree")


def deny(seen: Seen, others: list[Seen]) -> None:
    library, name = seen.library, seen.library.name
    before = [(other.budget.used, other.budget.denied) for other in others]
    try:
        library.work(library.too_much)
    except Denied as denied:
        seen.said = denied.code
    check(seen.said == library.no_memory, f"{name}: was not denied, with {seen.budget!r}")
    seen.denial = denial = seen.budget.last_denial
    check(denial is not None, f"{name}: its budget did not deny it")
    why = (denial.owner, denial.reason, denial.limit, denial.used + denial.requested > denial.limit)
    check(why == (name, "limit", library.limit, True), f"{name}: was denied for another reason: {denial}")
    after = [(other.budget.used, other.budget.denied) for other in others]
    check(before == after, f"{name}: others were charged or denied for it")
    for one in (seen, *others):
        one.library.answer()


def end(seen: Seen) -> None:
    seen.library.close()
    seen.port.close()  # raises LeakError where the library has not given everything back
    seen.left = seen.budget.used
    check(seen.left == 0, f"{seen.library.name}: {seen.left} bytes are still charged")


def show(all_seen: list[Seen], allocator: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("", "work", "used", "peak", "limit", "more ends with", "asked for", "beside", "left"):
        words = heading in ("", "work", "more ends with")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for seen in all_seen:
        sizes = seen.used, seen.peak, seen.budget.limit
        why = seen.denial.requested, seen.denial.used
        texts = [f"{size:,}" for size in (*sizes, *why, seen.left)]
        table.add_row(seen.library.name, seen.did, *texts[:3], seen.said, *texts[3:])
    console.print(table)
    console.print(f"Sizes in bytes. Each has a budget of its own, on Limited > {ALLOCATORS[allocator].__name__}.")


def run(libraries: list[type[Library]], allocator: str) -> None:
    with ExitStack() as stack:
        all_seen = [start(library, ALLOCATORS[allocator], stack) for library in libraries]
        for seen in all_seen:
            work(seen)
        for seen in all_seen:
            deny(seen, [other for other in all_seen if other is not seen])
        for seen in all_seen:
            end(seen)
    show(all_seen, allocator)


def run_faults(libraries: list[type[Library]], allocator: str) -> None:
    """A little work with the first allocation failing, with the second, and so on; and with all from there on."""
    for library in libraries:
        with ALLOCATORS[allocator]() as upstream:
            count, again = (
                nativemem.Failing.sweep(attempt(library), upstream, sticky=sticky) for sticky in (False, True)
            )
        check(count > 0 < again, f"{library.name}: allocates nothing")
        print(f"{library.name}: {count} allocations, and any of them may fail")


def attempt(library: type[Library]) -> Callable[[Any], None]:
    def attempt(failing: Any) -> None:
        with failing.c_port() as port, closing(library(port)) as opened:
            try:
                opened.work(opened.little)
            except Denied:
                if not failing.sticky:
                    opened.answer()
                raise
            opened.answer()

    return attempt


def main() -> int:
    parser = argparse.ArgumentParser(description="C libraries, each on a budget of its own.")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="heap", help="where the memory is from (heap)")
    parser.add_argument("--only", choices=LIBRARIES, action="append", help="just this one; may be repeated")
    parser.add_argument("--faults", action="store_true", help="have each allocation fail in turn instead")
    options = parser.parse_args()
    libraries = [library for name, library in LIBRARIES.items() if name in (options.only or LIBRARIES)]
    lacking = missing(library.binding for library in libraries)
    if importlib.util.find_spec("rich") is None:
        lacking.append("missing: rich; pip install rich")
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    try:
        (run_faults if options.faults else run)(libraries, options.allocator)
    except nativemem.NativeUnavailable as error:
        print(f"missing: the C core; {error}", file=sys.stderr)
        return 2
    except (Denied, Wrong, nativemem.NativeMemError) as error:
        print(f"c_libraries: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
