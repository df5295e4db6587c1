"""examples/case_studies: each does the same work twice, and what it claims is so. Times are not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).resolve().parent.parent / "examples" / "case_studies"


def rows(study: str, *arguments: str) -> tuple[list[str], list[str], str]:
    """Of its table the cells before and after, and the last line."""
    done = subprocess.run(
        [sys.executable, str(STUDIES / study), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    before, after = (line.split() for line in lines[1:3])
    assert (before[0], after[0]) == ("before", "after")
    return before, after, lines[-1]


def test_a_cache_by_memory() -> None:
    pytest.importorskip("cachetools", reason="cachetools is not installed (it comes with nativemem[cache])")
    before, after, _ = rows("web_cache.py", "--requests", "5000")
    assert float(before[2]) > 64 and int(before[3]) > 0
    assert float(after[2]) <= 64 and int(after[3]) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_columns_of_handles(needs_native: None) -> None:
    before, after, last = rows("csv_columns.py", "--rows", "30000")
    assert "the answers are the same" in last
    assert float(after[1]) < 0.5 * float(before[1])


def test_a_pool_of_parsers() -> None:
    before, after, last = rows("parser_pool.py", "--requests", "12")
    assert before[3] == "12" and 1 <= int(after[3]) <= 2 and int(after[4]) <= 2  # threads may take turns
    assert last == "12 requests, 240 words each time"
