"""P8: what memory a program keeps beyond its live blocks, after churn."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import core_build
import interleave
import peers
import pytest
from interleave import Command, Side, turns
from ratios import Row, Table, paired

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")

ROUNDS = 5
MIXES = [("small", 1), ("service", 1), ("service", 2)]
MOMENTS = ["full", "freed", "later"]
#: MiB of live blocks, and what `churn` calls rounds
MIB, GOES_ON = 64, 1500
#: native/peer: half of glibc's, no more than the best peer's
GLIBC, BEST = 0.5, 1.0


def _beyond(report: dict[str, Any], moment: str) -> float:
    live, rss = report[moment]["live"], report[moment]["rss"]
    return (rss - live) / live


def _rows(name: str, native: list[float], others: dict[str, list[float]], targets: dict[str, float]) -> list[Row]:
    return [
        Row(name, "native", statistics.median(native), 1.0, unit="1"),
        *(
            Row(name, peer, statistics.median(each), *paired(native, each), targets.get(peer), unit="1")
            for peer, each in others.items()
        ),
    ]


@pytest.mark.parametrize(("mix", "threads"), MIXES)
def test_malloc(tables: dict[str, Table], quick: bool, mix: str, threads: int) -> None:
    """``nm_heap_malloc`` and ``nm_heap_free`` beside ``malloc`` and ``free`` of each peer."""
    lacking = core_build.missing()
    if lacking is not None:
        pytest.skip(f"missing: {lacking}; on Debian or Ubuntu: apt-get install gcc")
    table = tables["P8"]
    ours = core_build.program("churn-heap", "churn.c", side="SIDE_HEAP")
    theirs = core_build.program("churn-malloc", "churn.c", side="SIDE_MALLOC")
    reports: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, 2 if quick else 1 + ROUNDS):
        arguments = [mix, str(threads), str(seed), *(["4", "0"] if quick else [str(MIB), str(GOES_ON)])]
        commands = {"native": Command([str(ours), *arguments])}
        for peer, env in peers.found(table.skip).items():
            commands[peer] = Command([str(theirs), *arguments], env)
        for side, each in turns(commands, 1).items():
            reports.setdefault(side, []).extend(each)
    for moment in MOMENTS:
        beyond = {side: [_beyond(report, moment) for report in each] for side, each in reports.items()}
        native = beyond.pop("native")
        best = min(beyond, key=lambda peer: statistics.median(beyond[peer]))
        # where glibc is the best peer, its own target is the harder one
        targets = {best: BEST, "glibc": GLIBC}
        name = f"{mix}, {threads} thread{'s' if threads > 1 else ''}, {moment}"
        for row in _rows(name, native, beyond, targets):
            table.add(row)


def test_objects(tables: dict[str, Table], quick: bool) -> None:
    """The same in Python: the engine beside CPython's own allocator."""
    table = tables["P8"]
    sides = [Side("native", engine=True), Side("pymalloc")]
    arguments = ["--quick"] if quick else []
    reports = interleave.rounds("churn_worker.py", sides, arguments, 1 if quick else ROUNDS)
    assert len({report["full"]["live"] for each in reports.values() for report in each}) == 1
    for moment in MOMENTS:
        native, default = ([_beyond(report, moment) for report in reports[side.name]] for side in sides)
        for row in _rows(f"objects, {moment}", native, {"pymalloc": default}, {"pymalloc": BEST}):
            table.add(row)
