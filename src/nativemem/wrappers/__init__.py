"""What stands in front of an allocator: limits, traces, failures, locks, a port for C."""

from __future__ import annotations

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    limited="Limited",
    traced="Traced",
    failing="Failing",
    locked="Locked",
    verified="Verified",
    cport="CPort",
    sites="Frame Site",
)
