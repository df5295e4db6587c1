"""Drawn changes that no test can tell from the original, each with the reason."""

from __future__ import annotations

import mutants_random
from mutants_random import Equivalent

def torn(file: str, old: str, place: str, value: str, call: str, reason: str) -> Equivalent:
    """A load and a store for one atomic step."""
    return Equivalent(file, old, old.replace(call, mutants_random.torn(place, value)), reason)


EQUIVALENT: tuple[Equivalent, ...] = (
    torn(
        "csrc/use/plain.c",
        "if (!atomic_exchange(&p->open, false)) {",
        "&p->open",
        "false",
        "atomic_exchange(&p->open, false)",
        "under the lock of all, as everywhere that stores it but where it is made",
    ),
    *(
        torn(
            "csrc/base/budget.c",
            f"static void {verb}_move(nm_budget *b) {{ (void)atomic_fetch_add(&b->moves, 1); }}",
            "&b->moves",
            "o__ + (1)",
            "atomic_fetch_add(&b->moves, 1)",
            "under the lock of all, as everywhere that calls it",
        )
        for verb in ("begin", "end")
    ),
    Equivalent(
        "src/nativemem/typed.py",
        "raw.release()",
        "pass",
        "nothing else refers to the view, so it ends with this reference",
    ),
    Equivalent(
        "src/nativemem/_native.py",
        "cap = 0",
        "cap = 1",
        "it grows until all fits: where it begins is a matter of how often it asks",
    ),
)
