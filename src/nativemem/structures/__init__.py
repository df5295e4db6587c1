"""Services that stand on the allocators: interning, object pools, caches."""

from __future__ import annotations

from .async_pools import AsyncObjectPool
from .intern import Handle, InternStats, InternTable
from .pools import ObjectPool
from .slots import PoolHealth

__all__ = [
    "AsyncObjectPool",
    "Handle",
    "InternStats",
    "InternTable",
    "ObjectPool",
    "PoolHealth",
]
