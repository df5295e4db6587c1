"""Limited and Traced: allocators in front of another, one concern each."""

from __future__ import annotations

from typing import Any

from ._backend import facade
from .allocators import Allocator
from .config import _bool, format_size
from .errors import ConfigError, LeakError

__all__ = ["Limited", "Traced"]


class _Wrapper(Allocator):
    __slots__ = ()

    def _arena_below(self) -> Any:
        return self.upstream._arena_below()


@facade
class Limited(_Wrapper):
    """Charges each block's size to a budget before ``upstream`` serves it.

    Parameters: ``upstream``, an allocator (None: the system); ``budget``, a :class:`Budget`. Raises
    :class:`BudgetExceeded` where the budget refuses. As thread-safe as its upstream.

    >>> import nativemem
    >>> limited = nativemem.Limited(None, nativemem.Budget("1 KiB", name="cache"))
    >>> block = limited.alloc(1000)
    >>> try:
    ...     limited.alloc(100)
    ... except nativemem.BudgetExceeded as error:
    ...     print(error)
    Limited: 100 bytes asked for; budget 'cache' has 1000 of 1024 bytes in use
    """

    __slots__ = ()
    _fields = ("_budget",)
    _budget: Any

    def __init__(self, upstream: Any, budget: Any) -> None:
        upstream = self._upstream(upstream)
        if not isinstance(budget, self._binding.Budget):
            raise ConfigError(
                f"limited.budget: takes a Budget of the {self._backend.name} backend, "
                f"not {type(budget).__name__}"
            )
        core = self._make("LimitedCore", upstream, upstream._core, budget._core)
        self._open(core, upstream, wraps=True)
        self._budget = budget

    @property
    def owner(self) -> Any:
        """The budget that blocks are charged to."""
        return self._budget


@facade
class Traced(_Wrapper):
    """Exact counters, a size histogram, and a leak check for what passes through.

    Parameters: ``upstream``, an allocator (None: the system); ``histogram``, whether sizes are counted.
    Closing with live blocks raises :class:`LeakError` and leaves everything as it is. As thread-safe as
    its upstream.

    >>> import nativemem
    >>> try:
    ...     with nativemem.Traced(None) as traced:
    ...         block = traced.alloc(100)
    ... except nativemem.LeakError as error:
    ...     print(error)
    Traced: 1 live block of 100 B in all
    """

    __slots__ = ()

    def __init__(self, upstream: Any = None, *, histogram: bool = False) -> None:
        upstream = self._upstream(upstream)
        core = self._make("TracedCore", upstream, upstream._core, _bool(histogram, "traced.histogram"))
        self._open(core, upstream, wraps=True)

    def leaks(self) -> list[Any]:
        """The live blocks that this wrapper gave, largest first. Raises :class:`StaleHandle` when closed."""
        return sorted(self.blocks(), key=lambda block: -block.size)

    def percentiles(self) -> dict[int, int] | None:
        """Sizes in bytes at the 50th, 90th and 99th percentile of all blocks so far, rounded up to the
        histogram's bucket (at most a quarter too large); None before the first block.

        Raises :class:`ConfigError` where it was made without ``histogram=True``.

        >>> import nativemem
        >>> traced = nativemem.Traced(None, histogram=True)
        >>> blocks = [traced.alloc(n) for n in (8, 8, 16, 100)]
        >>> traced.percentiles()
        {50: 8, 90: 112, 99: 112}
        """
        counts = self._opened().histogram()
        if counts is None:
            raise ConfigError("traced.histogram: percentiles need histogram=True")
        return percentiles(counts)

    def close(self) -> None:
        """As every close; raises :class:`LeakError`, changing nothing, while blocks are live."""
        if not self.closed:
            stats = self.stats
            if stats.live:
                noun = "block" if stats.live == 1 else "blocks"
                raise LeakError(
                    f"Traced: {stats.live} live {noun} of {format_size(stats.current)} in all",
                    suggestion="free them first; leaks() lists them",
                    blocks=stats.live,
                    used=stats.current,
                )
        super().close()


def percentiles(counts: list[tuple[int, int]]) -> dict[int, int] | None:
    """The nearest-rank percentiles of ``(size, count)`` pairs in ascending order of size."""
    total = sum(count for _, count in counts)
    if not total:
        return None
    result = {}
    for p in (50, 90, 99):
        rank = -(-p * total // 100)
        for size, count in counts:
            rank -= count
            if rank <= 0:
                result[p] = size
                break
    return result
