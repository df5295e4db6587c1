"""The fast paths stay as short as they are: callgrind counts them, ``bench/instructions.csv`` remembers.

A count is of one compiler's code: the version that wrote the table makes the same code from the same source, so one
instruction more is one too many; another version of the same major may differ by a tenth; any other compiler or
processor is not compared. ``make instructions`` writes the table anew, for a change that is worth its instructions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "instructions.py"
TABLE = ROOT / "bench" / "instructions.csv"
HINT = "if the change is worth it: make instructions"
#: of the table's count, allowed to another version of the compiler
SLACK = 0.1


def grown(table: Mapping[str, float], counts: Mapping[str, float], slack: float) -> list[str]:
    """What is at least one instruction, and more than ``slack`` of its count, above the table."""
    return [
        f"{function}: {table[function]:g} instructions in the table, now {count:g}"
        for function, count in counts.items()
        if count >= table[function] + 1 and count > table[function] * (1 + slack)
    ]


def read_table() -> tuple[str, dict[str, float]]:
    first, head, *rows = TABLE.read_text(encoding="utf-8").splitlines()
    assert head == "function,instructions"
    pairs = (row.rsplit(",", 1) for row in rows)
    return first.removeprefix("# "), {function: float(count) for function, count in pairs}


def generation(compiler: str) -> tuple[str, str, str]:
    """``gcc 12.2.0 x86_64`` as kind, major version, processor."""
    kind, version, machine = compiler.split()
    return kind, version.split(".")[0], machine


def test_no_fast_path_has_grown() -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed (on Debian or Ubuntu: apt-get install valgrind)")
    done = subprocess.run([sys.executable, str(SCRIPT), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    compiler, table = read_table()
    if generation(now["compiler"]) != generation(compiler):
        pytest.skip(f"the table is of {compiler}, this is {now['compiler']}")
    assert list(now["counts"]) == list(table), f"the table has other functions; {HINT}"
    longer = grown(table, now["counts"], 0 if now["compiler"] == compiler else SLACK)
    assert not longer, "\n".join([*longer, HINT])


@pytest.mark.parametrize(
    ("before", "now", "same_compiler", "found"),
    [
        (27, 28, True, True),
        (27, 27, True, False),
        (5, 5.9, True, False),
        (9, 3, True, False),
        (10, 11, False, False),
        (10, 11.5, False, True),
        (5, 5.9, False, False),
        (5, 6, False, True),
        (30, 33, False, False),
        (30, 34, False, True),
    ],
)
def test_what_counts_as_grown(before: float, now: float, same_compiler: bool, found: bool) -> None:
    assert bool(grown({"f": before}, {"f": now}, 0 if same_compiler else SLACK)) is found
