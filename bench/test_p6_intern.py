"""P6: ten million acquires of 100,000 different strings."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path

import pytest
from interleave import Command, turns
from ratios import Row, Table, paired

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")

ROUNDS = 5
#: native/peer, of the time and of the bytes that are kept
TIME, BYTES = 1.2, 0.6
WORKER = str(Path(__file__).with_name("intern_worker.py"))


@pytest.mark.parametrize("workload", ["new objects", "same objects"])
def test_strings(tables: dict[str, Table], quick: bool, workload: str) -> None:
    """``acquire_many`` beside ``dict.setdefault``, ``sys.intern`` and pyarrow's dictionary encoding."""
    table = tables["P6"]
    sides = ["native", "dict", "sys.intern"]
    if importlib.util.find_spec("pyarrow") is None:
        table.skip("pyarrow: is not installed")
    else:
        sides.append("pyarrow")
    word = workload.partition(" ")[0]
    commands = {side: Command([sys.executable, WORKER, side, word, "1" if quick else "0"]) for side in sides}
    reports = turns(commands, 1 if quick else ROUNDS)
    kinds = [("time", "s", TIME)] + ([("bytes", "B", BYTES)] if word == "new" else [])
    for kind, unit, target in kinds:
        found = {side: [float(report[kind]) for report in each] for side, each in reports.items()}
        name = f"{workload}, {kind}" if kind == "time" else "kept"
        table.add(Row(name, "native", statistics.median(found["native"]), 1.0, unit=unit))
        for peer in sides[1:]:
            ratio = paired(found["native"], found[peer])
            table.add(Row(name, peer, statistics.median(found[peer]), *ratio, target, unit=unit))
