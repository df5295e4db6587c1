"""P9: what it costs in C to count an operation, beside an atomic add for each counter."""

from __future__ import annotations

import statistics
import sys

import core_build
import pytest
from interleave import Command, turns
from ratios import Row, Table, paired

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux only")

ROUNDS = 7
#: of the atomic counters' time; and seconds of an operation
SHARE, MOST = 0.1, 1e-9


def test_counting(tables: dict[str, Table], quick: bool) -> None:
    """An alloc and a free through ``Traced`` and through atomic counters, each less what is below them."""
    lacking = core_build.missing()
    if lacking is not None:
        pytest.skip(f"missing: {lacking}; on Debian or Ubuntu: apt-get install gcc")
    table = tables["P9"]
    program = str(core_build.program("counting", "counting.c"))
    commands = {kind: Command([program, kind, "1" if quick else "0"]) for kind in ("bare", "traced", "atomic")}
    reports = turns(commands, 1 if quick else ROUNDS)
    times = {kind: [report["time"] for report in each] for kind, each in reports.items()}
    # a pair is two operations
    cost = {
        kind: [max(pair - bare, 1e-12) / 2 for pair, bare in zip(times[kind], times["bare"], strict=True)]
        for kind in ("traced", "atomic")
    }
    traced = statistics.median(cost["traced"])
    table.add(Row("counted operation", "native", traced, 1.0))
    atomic = statistics.median(cost["atomic"])
    table.add(Row("counted operation", "atomics", atomic, *paired(cost["traced"], cost["atomic"]), SHARE))
    table.add(Row("counted operation", "limit", MOST, traced / MOST, target=1.0))
