"""Limited, Traced, Failing, Locked: allocators in front of another, one concern each."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..allocators.base import Allocator
from ..backends.binding import facade
from ..config import Settings, _bool, format_size, parse_count, parse_size
from ..errors import ConfigError, CorruptionDetected, LeakError, Status, raise_status, shown
from .histogram import percentiles, show
from .sites import MOST_FRAMES, Site, gather

__all__ = ["Failing", "Limited", "Locked", "Traced"]


class _Wrapper(Allocator):
    __slots__ = ()

    def _arena_below(self) -> Any:
        return None if self.upstream is None else self.upstream._arena_below()  # None: closed


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
                f"limited.budget: takes a Budget of the {self._backend.name} backend, not {type(budget).__name__}"
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
    """Exact counters, histograms, a leak check, and who allocated, of what passes through.

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
        upstream: Any = None,
        *,
        histogram: bool | None = None,
        zero_on_free: bool = False,
        stacks: int = 0,
        sample: int | str = 0,
    ) -> None:
        upstream = self._upstream(upstream)
        if histogram is None:
            histogram = Settings.from_env().alloc_histo
        options = _bool(histogram, "traced.histogram"), _bool(zero_on_free, "traced.zero_on_free")
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
        """Frames are kept for one block in so many bytes; 0: for each."""
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
        return percentiles(self._histograms()[0])

    def latencies(self) -> dict[int, int] | None:
        """As :meth:`percentiles`, of the nanoseconds that upstream took for a block."""
        return percentiles(self._histograms()[1])

    def print_histogram(self, file: TextIO | None = None) -> None:
        """Prints the histograms of sizes and latencies, their percentiles, and what they were measured on, to
        ``file`` (None: stderr). Raises as :meth:`percentiles`. With ``NATIVEMEM_ALLOC_HISTO=1`` the process prints
        those of everything that was traced when it ends."""
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


@facade
class Failing(_Wrapper):
    """Makes one allocation fail, to see what the program makes of it.

    Parameters: ``upstream``, an allocator (None: the system); ``n``: the n-th ``alloc`` raises
    :class:`OutOfMemory` before upstream is asked (0: none does); ``sticky``, whether every one from then on does.
    ``resize`` never moves a block, so it takes no memory and is not counted. As thread-safe as its upstream.

    >>> import nativemem
    >>> failing = nativemem.Failing(n=2)
    >>> first = failing.alloc(10)
    >>> try:
    ...     failing.alloc(20)
    ... except nativemem.OutOfMemory as error:
    ...     print(error)
    Failing: the system has no 20 bytes to give
    >>> third = failing.alloc(30)
    >>> failing.calls, failing.failed
    (3, 1)
    """

    __slots__ = ()
    _fields = ("_n", "_sticky")
    _n: int
    _sticky: bool

    def __init__(self, upstream: Any = None, n: int = 0, sticky: bool = False) -> None:
        upstream = self._upstream(upstream)
        n, sticky = parse_count(n, "failing.n"), _bool(sticky, "failing.sticky")
        core = self._make("FailingCore", upstream, upstream._core, n, sticky)
        self._open(core, upstream, wraps=True)
        self._n, self._sticky = n, sticky

    @property
    def n(self) -> int:
        """Which allocation fails; 0: none."""
        return self._n

    @property
    def sticky(self) -> bool:
        """Whether all later ones fail too."""
        return self._sticky

    @property
    def calls(self) -> int:
        """Allocations asked for since it was made or reset."""
        return self._core.calls()[0]  # type: ignore[no-any-return]

    @property
    def failed(self) -> int:
        """Of those, how many it made fail."""
        return self._core.calls()[1]  # type: ignore[no-any-return]

    def reset(self, n: int | None = None, sticky: bool | None = None) -> None:
        """Counts from zero again; with another ``n`` or ``sticky`` where given."""
        n = self._n if n is None else parse_count(n, "failing.n")
        sticky = self._sticky if sticky is None else _bool(sticky, "failing.sticky")
        self._opened().arm(n, sticky)
        self._n, self._sticky = n, sticky

    @classmethod
    def sweep(
        cls, fn: Callable[[Any], Any], upstream: Any = None, *, sticky: bool = False, most: int = 100_000
    ) -> int:
        """Runs ``fn(failing)`` with the first allocation failing, then with the second, and so on, until it gets by
        without. Returns how many allocations it makes.

        Parameters: ``fn``, which takes its memory from the allocator it is given, and gives it back or drops it;
        ``upstream`` and ``sticky`` as for the class; ``most``, runs after which it is given up. Raises
        :class:`LeakError` where blocks are live after a run, :class:`CorruptionDetected` where an invariant of
        a budget is broken, :class:`ConfigError` where the first run allocates nothing, so that nothing is tried,
        and, with a note of which allocation failed, whatever ``fn`` raises but for :class:`MemoryError`.

        >>> import nativemem
        >>> def build(allocator):
        ...     with nativemem.Arena(4096, upstream=allocator) as arena:
        ...         return [bytes(arena.alloc(3000)) for _ in range(3)]
        >>> nativemem.Failing.sweep(build)  # a chunk, and one of twice its size
        2
        """
        if not callable(fn):
            raise ConfigError(f"failing.sweep: takes a callable, not {type(fn).__name__}")
        most = parse_count(most, "failing.most", least=1)
        for n in itertools.count(1):
            if n > most:
                raise ConfigError(f"failing.most: still not done after {most} allocations")
            failing = cls(upstream, n, sticky)
            error: BaseException | None = None
            try:
                fn(failing)
            except Exception as e:
                if not isinstance(e, MemoryError):
                    if hasattr(e, "add_note"):
                        e.add_note(cls._of_run(failing, n))
                    raise
                error = e
            failed = failing.failed
            if not failed and error is not None:
                raise error
            if not failing.calls:
                raise ConfigError(
                    "failing.sweep: fn allocated nothing, so nothing was tried",
                    suggestion="have fn take its memory from the allocator that it is called with; a block of no "
                    "bytes takes none",
                )
            if error is not None:
                from traceback import clear_frames  # since 3.14 it brings half of the library with it

                clear_frames(error.__traceback__)  # they hold what the run made
                error = None
            cls._check_run(failing, n)
            if not failed:
                return n - 1
        raise AssertionError("unreachable")

    @staticmethod
    def _of_run(failing: Any, n: int) -> str:
        return f"with allocation {n} failing" if failing.failed else "with no allocation failing"

    @classmethod
    def _check_run(cls, failing: Any, n: int) -> None:
        if failing.stats.live:
            gc.collect()
        stats = failing.stats
        if stats.live:
            raise LeakError(
                f"Failing: {stats.live} live blocks of {format_size(stats.current)} {cls._of_run(failing, n)}",
                suggestion="give back on the way out of an error what was taken before it"
                if failing.failed
                else "give back, or drop, what was taken before fn returns",
                blocks=stats.live,
                used=stats.current,
            )
        broken = None if failing.owner is None else failing.owner._core.check()
        if broken is not None:
            raise CorruptionDetected(f"Failing: {cls._of_run(failing, n)} {broken}")
        failing.close()


@facade
class Locked(_Wrapper):
    """Lets any thread use allocators that belong to one, such as an arena: one call at a time.

    It takes over what is below it: from then on that refuses every thread, the one that made it too, but for
    calls that come through here. ``close()`` hands it to the thread that closes.

    Parameter: ``upstream``, an allocator (None: the system). Raises :class:`WrongThread` where what is below
    belongs to another thread.

    >>> import nativemem, threading
    >>> arena = nativemem.Arena()
    >>> with nativemem.Locked(arena) as locked:
    ...     thread = threading.Thread(target=lambda: locked.alloc(100))
    ...     thread.start(); thread.join()
    ...     with locked.owning():
    ...         arena.reset()
    >>> arena.stats.current
    0
    """

    __slots__ = ()

    def __init__(self, upstream: Any = None) -> None:
        upstream = self._upstream(upstream)
        self._open(self._make("LockedCore", upstream, upstream._core), upstream, wraps=True)
        taken: list[Any] = []
        for link in self._below():
            status = link._core.hand_over(self._core.thread())
            if status != Status.OK:
                with self.owning():
                    for other in taken:
                        other._core.hand_over(self._backend.this_thread())
                super().close()
                raise_status(link, status)
            taken.append(link)

    def _below(self) -> Iterator[Any]:
        """What it takes over: all below, down to another of its kind, which has what is below that."""
        link = self.upstream
        while link is not None and not isinstance(link, Locked):
            yield link
            link = link.upstream

    def _arena_below(self) -> Any:
        return None  # only the owner could take a mark

    @property
    def contended(self) -> int:
        """Calls that had to wait for another. On the pure backend always 0: its one lock is held before."""
        return self._core.contended()  # type: ignore[no-any-return]

    @contextmanager
    def owning(self) -> Iterator[Any]:
        """Has this thread be the owner of what is below, for what an allocator does not do through a wrapper: a
        reset, a mark, a close. Yields ``upstream``. Calls of other threads may come between two of its calls.

        Raises :class:`StaleHandle` when closed."""
        core = self._opened()
        before = core.enter()
        try:
            yield self.upstream
        finally:
            core.leave(before)

    def close(self) -> None:
        """As every close; then what is below belongs to this thread."""
        if self.closed:
            return
        core, below = self._core, list(self._below())
        before = core.enter()
        try:
            super().close()
            for link in below:
                link._core.hand_over(self._backend.this_thread())
        finally:
            core.leave(before)
