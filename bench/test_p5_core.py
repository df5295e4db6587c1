"""P5: the C core beside the malloc libraries, and beside a bare pointer bump."""

from __future__ import annotations

import statistics
import sys

import core_build
import instructions
import peers
import pytest
from interleave import Command, turns
from ratios import Row, Table, paired, size_name

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux only")

ROUNDS = 7
SIZES = [8, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20]
#: workload, bytes of a block (0: many sizes), threads
WORKLOADS = [
    *(("pair", size, 1) for size in SIZES),
    *((order, size, 1) for order in ("lifo", "fifo") for size in (64, 1 << 10)),
    *((name, 0, threads) for threads in (1, 2) for name in ("larson", "mstress")),
    ("xmalloc", 0, 2),
]
#: native/peer: faster than the best peer, as two digits show it
FASTER = 0.99
NOUNS = ["arena", "stack", "stack_free", "pool", "slab", "heap", "system", "limited", "traced"]
#: of the bare bump's time
ARENA = 1.20
#: instructions of a call
LIMITS = {"nm_heap_malloc": 14, "nm_heap_free": 12}


@pytest.fixture(scope="module")
def compiled() -> None:
    """Skips where the programs cannot be built."""
    lacking = core_build.missing()
    if lacking is not None:
        pytest.skip(f"missing: {lacking}; on Debian or Ubuntu: apt-get install gcc")


def _name(workload: str, size: int, threads: int) -> str:
    if size:
        return f"{workload} {size_name(size)}"
    return f"{workload}, {threads} thread{'s' if threads > 1 else ''}"


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("workload", "size", "threads"), WORKLOADS)
def test_patterns(tables: dict[str, Table], quick: bool, workload: str, size: int, threads: int) -> None:
    """``nm_heap_malloc`` and ``nm_heap_free`` beside ``malloc`` and ``free`` of each peer."""
    table = tables["P5"]
    ours = core_build.program("patterns-heap", "patterns.c", side="SIDE_HEAP")
    theirs = core_build.program("patterns-malloc", "patterns.c", side="SIDE_MALLOC")
    arguments = [workload, str(size), str(threads), "1" if quick else "0"]
    commands = {"native": Command([str(ours), *arguments])}
    for peer, env in peers.found(table.skip).items():
        commands[peer] = Command([str(theirs), *arguments], env)
    reports = turns(commands, 1 if quick else ROUNDS)
    times = {side: [report["time"] for report in each] for side, each in reports.items()}
    native = times.pop("native")
    name = _name(workload, size, threads)
    table.add(Row(name, "native", statistics.median(native), 1.0))
    rows = {peer: paired(native, each) for peer, each in times.items()}
    best = max(rows, key=lambda peer: rows[peer][0])
    for peer, ratio in rows.items():
        target = FASTER if peer == best else None
        table.add(Row(name, peer, statistics.median(times[peer]), *ratio, target))


@pytest.mark.usefixtures("compiled")
def test_ports(tables: dict[str, Table], quick: bool) -> None:
    """Each noun through the port, beside a pointer bump behind the same call."""
    table = tables["P5 ports"]
    program = str(core_build.program("ports", "ports.c", "bump.c"))
    commands = {noun: Command([program, noun, "1" if quick else "0"]) for noun in ("bump", "inline", *NOUNS)}
    reports = turns(commands, 1 if quick else ROUNDS)
    times = {noun: [report["time"] for report in each] for noun, each in reports.items()}
    table.add(Row("bump", "native", statistics.median(times["bump"]), 1.0))
    for noun in NOUNS:
        table.add(Row(noun, "native", statistics.median(times[noun]), 1.0))
        ratio = paired(times[noun], times["bump"])
        target = ARENA if noun == "arena" else None
        table.add(Row(noun, "bump", statistics.median(times["bump"]), *ratio, target))
        if noun == "arena":
            inline = paired(times[noun], times["inline"])
            table.add(Row(noun, "inline", statistics.median(times["inline"]), *inline))


@pytest.mark.usefixtures("compiled")
def test_instructions(tables: dict[str, Table]) -> None:
    """Instructions of a call beside what they are to come to."""
    table = tables["P5 instructions"]
    lacking = instructions.missing()
    if lacking is not None:
        pytest.skip(f"missing: {lacking}; on Debian or Ubuntu: apt-get install valgrind")
    counts = instructions.own()
    for function, limit in LIMITS.items():
        table.add(Row(function, "limit", limit, counts[function] / limit, target=1.0, unit="1"))
    for peer, each in instructions.of_peers().items():
        table.add(Row("nm_heap_malloc", peer, each["malloc"], counts["nm_heap_malloc"] / each["malloc"], unit="1"))
        table.add(Row("nm_heap_free", peer, each["free"], counts["nm_heap_free"] / each["free"], unit="1"))
