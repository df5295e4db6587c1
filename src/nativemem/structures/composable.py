"""What a cache and the layers around it have in common: a layer is put around either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .layers import CircuitBreakerCache, DedupCache, RateLimitedCache

__all__ = ["Composable"]


class Composable:
    """What caches and their layers share: each ``with_`` puts a layer around, which is a cache of the same kind."""

    _is_async = False

    def _layers(self) -> Any:
        """The module of the layers, which the cache itself knows."""
        raise NotImplementedError

    def with_dedup(self) -> DedupCache:
        """A :class:`DedupCache` around this one."""
        made: DedupCache = self._layers().DedupCache(self)
        return made

    def with_circuit_breaker(
        self, failures: int = 5, reset_after: float = 60.0, **parameters: Any
    ) -> CircuitBreakerCache:
        """A :class:`CircuitBreakerCache` around this one; parameters as of :class:`CircuitBreakerCache`."""
        made: CircuitBreakerCache = self._layers().CircuitBreakerCache(self, failures, reset_after, **parameters)
        return made

    def with_rate_limit(self, rate: float, burst: int | None = None, **parameters: Any) -> RateLimitedCache:
        """A :class:`RateLimitedCache` around this one; parameters as of :class:`RateLimitedCache`."""
        made: RateLimitedCache = self._layers().RateLimitedCache(self, rate, burst, **parameters)
        return made
