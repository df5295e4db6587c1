"""What to do with a refusal: catch it where something can be given up, say why, and go on.

Four ways, from the nearest to the farthest: a smaller piece, a cache that gives way, an answer instead of a result,
and a mistake that is not to be caught.

Usage: python examples/error_handling.py
"""

from __future__ import annotations

import warnings

import nativemem
from nativemem.errors import BudgetExceeded, StaleBlock


def in_pieces(budget: nativemem.Budget, size: int) -> int:
    """A buffer as large as may be: half of it where the whole is refused."""
    heap = nativemem.Limited(None, budget)
    while True:
        try:
            with heap.alloc(size) as block:
                return block.size
        except BudgetExceeded as refusal:
            if size == 1:
                raise
            print(f"  {refusal.code}: {refusal}")
            size //= 2


def with_a_cache(budget: nativemem.Budget) -> int:
    """What is kept for later gives way to what is needed now; each block is freed once."""
    heap = nativemem.Limited(None, budget)
    kept = [heap.alloc(1000) for _ in range(4)]
    given_up = 0
    while True:
        try:
            needed = heap.alloc(2500)
            break
        except BudgetExceeded:
            kept.pop().free()
            given_up += 1
    needed.free()
    for block in kept:
        block.free()
    return given_up


def answered(budget: nativemem.Budget, size: int) -> str:
    """At the edge of a service: the owner, what was asked for and what is allowed, without a traceback."""
    try:
        nativemem.Limited(None, budget).alloc(size).free()
    except MemoryError:  # BudgetExceeded is one, and so is what the interpreter raises
        denial = budget.last_denial
        assert denial is not None
        return f"503 {denial.owner}: {denial.requested} bytes asked for, {denial.limit} allowed"
    return "200"


def mistake() -> str:
    """A block that is used after its arena was reset: a fault of the program, to be shown and not forgotten."""
    with nativemem.Arena() as arena:
        block = arena.alloc(100)
        arena.reset()
        try:
            return f"it lies at {block.address}"
        except StaleBlock as error:
            return f"{error.code}; {error.suggestion}; {error.link}"


def main() -> None:
    warnings.simplefilter("ignore", nativemem.MemoryPressure)  # it warns at 80 % of a limit
    budget = nativemem.Budget(4096, name="requests")
    print("in pieces:", in_pieces(budget, 10_000))
    print("given up:", with_a_cache(budget))
    print("answered:", answered(budget, 5000), "|", answered(budget, 100))
    print("a mistake:", mistake())
    print("in use:", budget.used)


if __name__ == "__main__":
    main()
