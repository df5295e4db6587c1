"""Services that stand on the allocators: interning, object pools, caches."""

from __future__ import annotations

from .intern import Handle, InternStats, InternTable

__all__ = ["Handle", "InternStats", "InternTable"]
