"""Prints the ratio tables once the benchmarks are done."""

from __future__ import annotations

import os

import pytest
from numpy_worker import EXPRESSIONS
from ratios import Table, machine

_KEY = pytest.StashKey[dict[str, Table]]()

_TABLES = {
    "P1": (
        "P1: a block of 64 bytes from Python, made and dropped",
        "In one process, the members in turns; spread: quartiles over the rounds.",
        "limit: a C method that returns its own object.",
    ),
    "P2": (
        "P2: NumPy expressions with temporaries on float64 arrays",
        *(f"{name}: {text}" for name, text in EXPRESSIONS.items()),
        "Each size and side in processes of its own, in turns; native: glibc with the engine on.",
        "limit: the same steps with out=, the faster of the engine's and the default's.",
    ),
    "P3": (
        "P3: object-heavy loops, the engine against CPython's own allocator",
        "Each loop and side in processes of its own, in turns; peak RSS is the whole process's.",
    ),
    "P4": (
        "P4: what it costs to charge each allocation to an owner",
        "native: the engine charges an owner with all of it (with budget:). outside: it has owners, but the",
        "work is done for none of them. limit: the engine, no accounts. default, tracemalloc, memray (with",
        "Python's allocators): on CPython's own allocator. arrays: nested of P2.",
        "Each side in processes of its own, in turns.",
    ),
    "P5": (
        "P5: patterns of allocation in C, the heap beside malloc",
        "time: of a step, an alloc and a free (xmalloc: a block on its way from one thread to the other).",
        "Each side in processes of its own, in turns. 1 thread: CPU time; 2 threads: the time that passed.",
        "The target is for the best peer of each workload.",
    ),
    "P5 ports": (
        "P5: 1000 blocks of 64 bytes in C through the port, then all of them dropped",
        "time: CPU time of a block. arena is dropped by reset, stack by a mark, the others by 1000 frees;",
        "limited and traced stand on a heap. bump: a bare pointer bump behind the port; inline: without a call.",
    ),
    "P5 instructions": (
        "P5: instructions of one call, 64 bytes, counted by callgrind",
        "instructions: the peer's.",
    ),
    "P6": (
        "P6: 10,000,000 strings of 16 letters, of which 100,000 are different, put in one place each",
        "time: of a string, in batches of 100,000. new objects: as a reader of a file makes them. kept: bytes",
        "of the process for the 100,000, once the batch has gone; of pyarrow those of its dictionary, which has",
        "neither a count of references nor a way to find a string again, and is made anew for each batch.",
        "Each side in processes of its own, in turns.",
    ),
    "P7": (
        "P7: cost of an operation by how much there is of everything",
        "time: of a step. live: a block chosen at random is replaced; objects are bytes of 34 to 96 bytes.",
        "owners: the next one replaces ten of its objects, within its scope.",
        "threads: the time that passed, for the steps of both.",
        "ratio: of the same side's time at the small end. touch: the same without allocating.",
        "Each side in processes of its own, in turns.",
    ),
    "P8": (
        "P8: memory beyond the live blocks after churn, (RSS - live) / live",
        "full: at the end of the last of six phases; freed: 70 % of that freed at random;",
        "later: all that was left replaced again and again, in about two seconds.",
        "Each side in processes of its own, in turns. objects: bytes objects in CPython.",
    ),
    "P9": (
        "P9: counting an operation in C",
        "time: of an alloc or a free through Traced, less that of the port below it, which does nothing.",
        "atomics: an atomic add for each counter. limit: 1 ns.",
    ),
    "cffi": (
        "cffi: new('char[]', n), made and dropped",
        "native, pure: hooks.cffi.allocator on a heap; contents are undefined, as with new_allocator here.",
        "ffi.new wipes. compiled: the ffi of an extension module, whose calls are C.",
        "In one process, the members in turns; spread: quartiles over the rounds.",
    ),
}
#: where the third column is not a time, and the fourth is of something else than a peer
_MEASURED = {"P5 instructions": "instructions", "P8": "beyond"}
_RATIO = {"P7": "of small end"}

#: no mean: one hiccup of the machine would make it
_COLUMNS = ["min", "median", "iqr", "rounds"]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = {
        name: Table(title, notes, _MEASURED.get(name, "time"), _RATIO.get(name, "native/peer"))
        for name, (title, *notes) in _TABLES.items()
    }
    if config.option.benchmark_columns is None:
        config.option.benchmark_columns = _COLUMNS


def _measures(config: pytest.Config) -> bool:
    return not config.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether the benchmarks only have to run, as with ``--benchmark-disable``."""
    return not _measures(pytestconfig)


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> dict[str, Table]:
    """The tables to add rows to."""
    return pytestconfig.stash[_KEY]


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tables = [table for table in config.stash[_KEY].values() if table.rows]
    if not tables or not _measures(config):
        return
    terminalreporter.section("ratios")
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    for line in [*machine(), f"load    {load} at the end (1, 5, 15 minutes)"]:
        terminalreporter.write_line(line)
    for table in tables:
        terminalreporter.write_line("")
        for line in table.lines():
            terminalreporter.write_line(line)
