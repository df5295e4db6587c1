"""Failing: an allocator that refuses when it is told to."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..backends.selection import need_lock, need_native
from ..config import parse_bool, parse_count
from ..errors import ConfigError, CorruptionDetected, LeakError
from ..sizes import format_size
from .base import Wrapper
from .domains import DOMAINS, chosen_domains

if TYPE_CHECKING:
    from ..allocators.base import Allocator
    from .interpreter import FailingInterpreter

__all__ = ["Failing"]


class Failing(Wrapper):
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

    def __init__(self, upstream: Allocator | None = None, n: int = 0, sticky: bool = False) -> None:
        upstream = self._upstream(upstream)
        n, sticky = parse_count(n, "failing.n"), parse_bool(sticky, "failing.sticky")
        core = self._make("FailingCore", upstream, upstream._core, n, sticky)
        self._open(core, upstream, wraps=True)
        self._n, self._sticky = n, sticky

    @property
    def n(self) -> int:
        """Which allocation fails; 0: none."""
        return self._n

    @property
    def sticky(self) -> bool:
        """Whether all later ones fail too.

        >>> import nativemem
        >>> nativemem.Failing(n=3).sticky
        False
        """
        return self._sticky

    @property
    def calls(self) -> int:
        """Allocations asked for since it was made or reset."""
        return self._core.calls()[0]

    @property
    def failed(self) -> int:
        """Of those, how many it made fail."""
        return self._core.calls()[1]

    def reset(self, n: int | None = None, sticky: bool | None = None) -> None:
        """Counts from zero again; with another ``n`` or ``sticky`` where given."""
        n = self._n if n is None else parse_count(n, "failing.n")
        sticky = self._sticky if sticky is None else parse_bool(sticky, "failing.sticky")
        self._opened().arm(n, sticky)
        self._n, self._sticky = n, sticky

    @staticmethod
    def interpreter(n: int = 0, *, domains: str | Iterable[str] = DOMAINS) -> FailingInterpreter:
        """A context manager that makes the n-th allocation fail which its block takes from CPython itself: what any
        C code asks of ``PyMem_RawMalloc``, ``PyMem_Malloc``, ``PyObject_Malloc`` and all that stands on these, on
        the installed interpreter, without a debug build.

        Parameters: ``n`` (0: none fails, they are counted); ``domains``, one or more of ``"raw"``, ``"mem"`` and
        ``"obj"``. Returns a manager, whose ``calls`` and ``failed`` are known at the block's end. Counted is what
        the thread asks for that entered; meanwhile the garbage collector is off. Code that does not look at the
        result crashes: :func:`nativemem.testing.sweep` runs each attempt in a process of its own. Raises
        :class:`ConfigError` for other values, :class:`NativeUnavailable` without the C core and for ``"malloc"``.

        >>> import nativemem
        >>> unit = b"ab"
        >>> with nativemem.Failing.interpreter() as counted:  # doctest: +SKIP
        ...     data = unit * 1000
        >>> counted.calls, counted.failed  # doctest: +SKIP
        (1, 0)
        >>> try:  # doctest: +SKIP
        ...     with nativemem.Failing.interpreter(1, domains="obj"):
        ...         data = unit * 1000
        ... except MemoryError:
        ...     print("refused")
        refused
        """
        n = parse_count(n, "failing.n")
        chosen = chosen_domains(domains, "failing.domains")
        need_native("Failing.interpreter")
        need_lock("Failing.interpreter")
        from .interpreter import FailingInterpreter

        return FailingInterpreter(chosen, sum(1 << DOMAINS.index(name) for name in chosen), n)

    @classmethod
    def sweep(
        cls,
        fn: Callable[[Failing], object],
        upstream: Allocator | None = None,
        *,
        sticky: bool = False,
        most: int = 100_000,
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
