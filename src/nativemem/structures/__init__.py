"""Services that stand on the allocators: interning, object pools, caches.

A name's module is imported with the first use of the name: asyncio and cachetools cost a program nothing that only
interns.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOME = {
    "async_pools": ("AsyncObjectPool",),
    "caches": ("AsyncCache", "Cache", "CacheInfo"),
    "intern": ("Handle", "InternStats", "InternTable"),
    "layers": ("CircuitBreakerCache", "DedupCache", "RateLimitedCache"),
    "pools": ("ObjectPool",),
    "slots": ("PoolHealth",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
