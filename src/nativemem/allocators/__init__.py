"""The allocators: what hands out memory, and what holds values in it."""

from __future__ import annotations

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    base="Allocator Stats",
    system="System",
    arena="Arena",
    stack="Stack",
    pool="Pool",
    slab="Slab",
    heap="Heap",
    memlib="Memlib",
    rewindable="Mark",
    typed="Array TypedArena Value",
    utilities="Utilities",
)
