"""Services that stand on the allocators: interning, object pools, caches."""

from __future__ import annotations

from .async_pools import AsyncObjectPool
from .caches import AsyncCache, Cache, CacheInfo
from .intern import Handle, InternStats, InternTable
from .layers import CircuitBreakerCache, DedupCache, RateLimitedCache
from .pools import ObjectPool
from .slots import PoolHealth

__all__ = [
    "AsyncCache",
    "AsyncObjectPool",
    "Cache",
    "CacheInfo",
    "CircuitBreakerCache",
    "DedupCache",
    "Handle",
    "InternStats",
    "InternTable",
    "ObjectPool",
    "PoolHealth",
    "RateLimitedCache",
]
