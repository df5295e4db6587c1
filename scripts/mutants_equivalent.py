"""Drawn changes that no test can tell from the original, each with the reason."""

from __future__ import annotations

from mutants_random import Equivalent

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "csrc/alloc/heap.c",
        "if (atomic_load(&part->thread) == me) abandon(part);",
        "if (atomic_load_explicit(&part->thread, memory_order_relaxed) == me) abandon(part);",
        "a thread's number is stored by that thread alone",
    ),
    Equivalent(
        "csrc/alloc/heap.c",
        "if (atomic_load(&part->thread) == me) goto found;",
        "if (atomic_load_explicit(&part->thread, memory_order_relaxed) == me) goto found;",
        "a thread's number is stored by that thread alone",
    ),
    Equivalent(
        "csrc/base/budget.c",
        'else if (atomic_load((_Atomic int *)&b->level) != level_at(b, used)) broken = "the level is not that of what is used";',
        'else if (atomic_load_explicit((_Atomic int *)&b->level, memory_order_relaxed) != level_at(b, used)) broken = "the level is not that of what is used";',
        "under the lock, as all that stores it",
    ),
    Equivalent(
        "csrc/use/memlib.c",
        "if (atomic_load(&memlib.heap) == NULL) {",
        "if (atomic_load_explicit(&memlib.heap, memory_order_relaxed) == NULL) {",
        "it is read again below, and one is kept, whichever thread made it",
    ),
    Equivalent(
        "csrc/use/memlib.c",
        "if (atomic_load(&memlib.own) == NULL) {",
        "if (atomic_load_explicit(&memlib.own, memory_order_relaxed) == NULL) {",
        "it is read again below, and one is kept, whichever thread made it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "for (tally *y = atomic_load(&t->tallies); y != NULL; y = y->next)",
        "for (tally *y = atomic_load_explicit(&t->tallies, memory_order_relaxed); y != NULL; y = y->next)",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "if (atomic_load(&y->owner) == me) atomic_store(&y->owner, 0);",
        "if (atomic_load_explicit(&y->owner, memory_order_relaxed) == me) atomic_store(&y->owner, 0);",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "if (atomic_load(&y->owner) == me) atomic_store(&y->owner, 0);",
        "if (atomic_load(&y->owner) == me) atomic_store_explicit(&y->owner, 0, memory_order_relaxed);",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "atomic_store(&y->owner, nm__thread_id());",
        "atomic_store_explicit(&y->owner, nm__thread_id(), memory_order_relaxed);",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "y->next = atomic_load(&t->tallies);",
        "y->next = atomic_load_explicit(&t->tallies, memory_order_relaxed);",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "tally *y = atomic_load(&t->tallies), *idle = NULL;",
        "tally *y = atomic_load_explicit(&t->tallies, memory_order_relaxed), *idle = NULL;",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "while (y != NULL && atomic_load(&y->owner) != me) {",
        "while (y != NULL && atomic_load_explicit(&y->owner, memory_order_relaxed) != me) {",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "if (atomic_load(&y->owner) == 0) idle = y;",
        "if (atomic_load_explicit(&y->owner, memory_order_relaxed) == 0) idle = y;",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
    Equivalent(
        "csrc/wrap/traced.c",
        "if (y == NULL && idle != NULL) atomic_store(&(y = idle)->owner, me);",
        "if (y == NULL && idle != NULL) atomic_store_explicit(&(y = idle)->owner, me, memory_order_relaxed);",
        "under the lock of all traced allocators, as everywhere that stores it",
    ),
)
