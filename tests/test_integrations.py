"""examples/error_handling.py and examples/dask_threads.py do what their page says."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nativemem

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def output_of(program: str) -> list[str]:
    done = subprocess.run([sys.executable, str(EXAMPLES / program)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_errors_are_handled() -> None:
    lines = output_of("error_handling.py")
    refusal = "  NM-BUDGET-EXCEEDED: Limited: {} bytes asked for; budget 'requests' has 0 of 4096 bytes in use"
    assert lines[:4] == [refusal.format(10000), refusal.format(5000), "in pieces: 2500", "given up: 3"]
    assert lines[4] == "answered: 503 requests: 5000 bytes asked for, 4096 allowed | 200"
    assert lines[5].startswith("a mistake: NM-STALE-BLOCK; ") and lines[5].endswith("docs/errors.md#nm-stale-block")
    assert lines[6:] == ["in use: 0"]


def test_dask_in_a_budget(needs_native: None) -> None:
    """OWN-2: one job is refused, those before and after it are not."""
    pytest.importorskip("dask", reason="dask is not installed (the test extra has it, but for the newest Python)")
    assert output_of("dask_threads.py") == ["1000 31560", "1000000 refused by dask 16777216", "2000 67560"]


def test_a_wrapped_executor_is_as_wide_as_the_one_below(needs_native: None) -> None:
    """Schedulers ask how many jobs an executor runs at once."""
    with ThreadPoolExecutor(3) as threads:
        assert nativemem.Budget(1000).wrap(threads)._max_workers == 3
