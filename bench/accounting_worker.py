"""Worker of P4: a loop of P3, or NumPy expressions, while an account is kept of what it allocates."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import worker
from object_worker import LOOPS

#: bytes of each array
ARRAYS = {"arrays_1KiB": 1 << 10, "arrays_1MiB": 1 << 20}
WORKLOADS = [*LOOPS, *ARRAYS]
#: what is entered for the work, and the bytes that the account speaks of
Account = tuple[AbstractContextManager[Any], Callable[[], int]]


def arrays(size: int) -> Callable[[], int]:
    """Twenty to 200 evaluations of an expression, seven arrays each."""
    import numpy as np
    from numpy_worker import nested

    n = size // 8
    expression, _ = nested(np, np.linspace(0.5, 1.5, n), np.linspace(2.0, 3.0, n))
    times = max(20, min(200, (1 << 24) // size))
    return lambda: int(sum(float(expression()[-1]) for _ in range(times)) * 1e6)


def no_account(folder: str) -> Account:
    """On the engine a budget is made and not entered: the collector looks at the same modules on both sides."""
    if "nativemem._dataplane" not in sys.modules:
        return nullcontext(), lambda: 0
    import nativemem

    return nullcontext(nativemem.Budget("8 GiB", "not entered")), lambda: 0


def owner(folder: str) -> Account:
    """The engine charges a budget with all of it."""
    import nativemem

    budget = nativemem.Budget("8 GiB", "owner")
    return budget, lambda: budget.peak


def outside(folder: str) -> Account:
    """Scopes are in use in the process, but not around the work."""
    import nativemem

    budget = nativemem.Budget("8 GiB", "other")
    with budget:
        kept = bytearray(1000)
    return nullcontext(kept), lambda: budget.used


def tracemalloc(folder: str) -> Account:
    import tracemalloc

    tracemalloc.start()
    return nullcontext(), lambda: tracemalloc.get_traced_memory()[1]


def memray(folder: str) -> Account:
    """As ``memray run --trace-python-allocators`` does."""
    import memray

    path = os.path.join(folder, "trace.bin")
    return memray.Tracker(path, trace_python_allocators=True), lambda: os.stat(path).st_size


ACCOUNTS = {each.__name__: each for each in (no_account, owner, outside, tracemalloc, memray)}


def main() -> None:
    """Reports the time of a call, what it computed, and the bytes that the account speaks of."""
    parser = worker.parser()
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--account", choices=list(ACCOUNTS), required=True)
    parser.add_argument("--samples", type=int, default=5)
    options = parser.parse_args()
    worker.install(options.engine)
    name = options.workload
    with tempfile.TemporaryDirectory() as folder:
        account, size = ACCOUNTS[options.account](folder)
        with account:
            function = arrays(ARRAYS[name]) if name in ARRAYS else LOOPS[name]
            check = function()
            calls = 1 if options.quick else worker.calls_for(function, 0.1)
            samples = [worker.timed(function, calls) for _ in range(1 if options.quick else options.samples)]
            accounted = size()
    worker.report(time=statistics.median(samples), check=check, accounted=accounted)


if __name__ == "__main__":
    main()
