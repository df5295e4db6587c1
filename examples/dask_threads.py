"""Dask's scheduler of threads within a budget: the job that needs too much fails, the others do not.

``budget.wrap`` makes an executor whose calls run in the budget's scope; Dask takes it as its pool.

Usage: python examples/dask_threads.py       (pip install dask)
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import dask

import nativemem


@dask.delayed  # type: ignore[untyped-decorator]
def words(count: int) -> list[str]:
    return [f"word {number}" for number in range(count)]


@dask.delayed  # type: ignore[untyped-decorator]
def letters(parts: list[list[str]]) -> int:
    return sum(len(word) for part in parts for word in part)


def main() -> None:
    warnings.simplefilter("ignore", nativemem.MemoryPressure)  # it warns at 80 % of a limit
    nativemem.install()
    budget = nativemem.Budget("16 MiB", name="dask")
    with ThreadPoolExecutor(2) as threads:
        pool = budget.wrap(threads)
        for count in (1_000, 1_000_000, 2_000):
            job = letters([words(count) for _ in range(4)])
            try:
                print(count, job.compute(scheduler="threads", pool=pool))
            except MemoryError:
                denial = budget.last_denial
                assert denial is not None
                print(count, "refused by", denial.owner, denial.limit)


if __name__ == "__main__":
    main()
