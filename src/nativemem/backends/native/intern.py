"""The native table of :class:`nativemem.structures.InternTable`."""

from __future__ import annotations

from typing import Any

from .loader import dataplane

__all__ = ["Intern"]


def Intern(allocator: Any, shards: int, hold: Any) -> Any:
    """A table of :class:`nativemem.structures.InternTable`, or the failure as a tuple. ``hold`` keeps ``allocator``
    from being closed, and goes after the table."""
    core = allocator._core
    return dataplane.intern_new(core.words(), shards, (hold, core.handle))
