"""Traced: counts, histograms, leaks, and where live blocks were asked for."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, TextIO

from ..config import Settings, parse_bool, parse_count
from ..errors import ConfigError, LeakError, shown
from ..sizes import format_size, parse_size
from .base import Wrapper
from .histogram import percentiles, show
from .sites import MOST_FRAMES, Site, gather

if TYPE_CHECKING:
    from ..allocators.base import Allocator
    from ..allocators.block import Block

__all__ = ["Traced"]


class Traced(Wrapper):
    """Exact counters, histograms, a leak check, and where it was asked for, of what passes through.

    Each thread counts for itself, so a count costs a few instructions; what is read is exact after each call on any
    thread, but for ``peak`` where several threads use it at once, which may then be too high.

    Parameters: ``upstream``, an allocator (None: the system); ``histogram``, whether sizes and latencies are
    counted (None: as ``NATIVEMEM_ALLOC_HISTO`` says); ``zero_on_free``, whether a block is wiped before upstream
    has it back; ``stacks``, how many Python frames are kept for each live block (0: none, at most 128);
    ``sample``, a size: frames are kept for one block in so many bytes, on average (0: for each). Closing with
    live blocks raises :class:`LeakError` and leaves everything as it is. As thread-safe as its upstream.

    >>> import nativemem
    >>> try:
    ...     with nativemem.Traced(None) as traced:
    ...         block = traced.alloc(100)
    ... except nativemem.LeakError as error:
    ...     print(error)
    Traced: 1 live block of 100 B in all
    """

    __slots__ = ()
    _fields = ("_sample", "_stacks")
    _stacks: int
    _sample: int

    def __init__(
        self,
        upstream: Allocator | None = None,
        *,
        histogram: bool | None = None,
        zero_on_free: bool = False,
        stacks: int = 0,
        sample: int | str = 0,
    ) -> None:
        upstream = self._upstream(upstream)
        if histogram is None:
            histogram = Settings.from_env().alloc_histo
        options = parse_bool(histogram, "traced.histogram"), parse_bool(zero_on_free, "traced.zero_on_free")
        stacks, sample = parse_count(stacks, "traced.stacks"), parse_size(sample, "traced.sample:")
        if stacks > MOST_FRAMES:
            raise ConfigError(f"traced.stacks: at most {MOST_FRAMES} frames are kept, not {shown(stacks)}")
        if sample and not stacks:
            raise ConfigError("traced.sample: says whose frames are kept, so it needs stacks=1 or more")
        core = self._make("TracedCore", upstream, upstream._core, *options, stacks, sample)
        self._open(core, upstream, wraps=True)
        self._stacks, self._sample = stacks, sample

    @property
    def stacks(self) -> int:
        """How many frames are kept for a block; 0: none."""
        return self._stacks

    @property
    def sample(self) -> int:
        """Frames are kept for one block in so many bytes; 0: for each.

        >>> import nativemem
        >>> nativemem.Traced(None, stacks=4).sample
        0
        """
        return self._sample

    def sites(self) -> list[Site]:
        """Where the live blocks were asked for, as :class:`Site`, most bytes first: of all that came through
        here, for an allocator on top as well. With ``sample`` they are estimates.

        Raises :class:`ConfigError` where it was made without ``stacks``, :class:`StaleHandle` when closed. Any
        thread.

        >>> import nativemem
        >>> traced = nativemem.Traced(None, stacks=1)
        >>> def load():
        ...     return traced.alloc(100)
        >>> blocks = [load(), load()]
        >>> [(site.blocks, site.bytes, site.frames[0].function) for site in traced.sites()]
        [(2, 200, 'load')]
        """
        core = self._opened()
        if not self._stacks:
            raise ConfigError("traced.stacks: sites need stacks=1 or more")
        sites, sizes = core.sites()
        return gather(sites, sizes, core.frames, self._sample)

    def _sites_of(self, blocks: list[Block]) -> list[Site]:
        """Of these blocks, as far as it is known where they were asked for."""
        core = self._core
        known = [(site, block.size) for block in blocks if (site := core.site_of(block))]
        return gather([site for site, _ in known], [size for _, size in known], core.frames, 0)

    def leaks(self) -> list[Block]:
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
        return percentiles(self._histograms()[0])

    def latencies(self) -> dict[int, int] | None:
        """As :meth:`percentiles`, of the nanoseconds that upstream took for a block.

        >>> import nativemem
        >>> traced = nativemem.Traced(None, histogram=True)
        >>> block = traced.alloc(8); sorted(traced.latencies())
        [50, 90, 99]
        """
        return percentiles(self._histograms()[1])

    def print_histogram(self, file: TextIO | None = None) -> None:
        """Prints the histograms of sizes and latencies, their percentiles, and what they were measured on, to
        ``file`` (None: stderr). Raises as :meth:`percentiles`. With ``NATIVEMEM_ALLOC_HISTO=1`` the process prints
        those of everything that was traced when it ends.

        >>> import io, nativemem
        >>> with nativemem.Traced(histogram=True) as traced:
        ...     traced.alloc(100).free()
        ...     shown = io.StringIO()
        ...     traced.print_histogram(shown)
        >>> shown.getvalue().startswith("Traced")
        True
        """
        sizes, latencies = self._histograms()
        show("Traced", sizes, latencies, self._backend.name, file)

    def _histograms(self) -> Any:
        counts = self._opened().histograms()
        if counts is None:
            raise ConfigError("traced.histogram: percentiles need histogram=True")
        return counts

    def close(self) -> None:
        """As every close; raises :class:`LeakError`, changing nothing, while blocks are live. Where some are,
        garbage is collected first: what only a cycle refers to is no leak."""
        if not self.closed and self.stats.live:
            gc.collect()
        if not self.closed:  # a finaliser may have closed it
            stats = self.stats
            if stats.live:
                noun = "block" if stats.live == 1 else "blocks"
                leak = f"Traced: {stats.live} live {noun} of {format_size(stats.current)} in all"
                sites = self.sites() if self._stacks else []
                raise LeakError(leak, blocks=stats.live, used=stats.current)._at(sites)
        super().close()
