"""InternTable: equal values once, under a number.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..allocators.base import Allocator, check_source
from ..budgets import pressure
from ..errors import ConfigError, Refusal, StaleHandle, Status, shown
from ..facades import configured
from ..refusals import raise_status
from ..sizes import format_size

if TYPE_CHECKING:
    from ..budgets.budget import Budget

__all__ = ["Handle", "InternStats", "InternTable"]

#: what stands for a value: an int of 64 bits, not 0
Handle: TypeAlias = int
Value: TypeAlias = "str | bytes"
_Text: TypeAlias = str  # a method is called str

_SHARDS_MAX = 256
_ZERO = array("Q", [0])


@dataclass(frozen=True)
class InternStats:
    """Counters of an :class:`InternTable` at one instant: ``unique`` values held and the ``references`` to them;
    ``stored``, bytes of the values, each once; ``saved``, bytes that as many copies would take beyond that;
    ``acquires`` ever, and the ``hits`` among them, which found their value there; ``reserved``, bytes taken from
    upstream; ``failures``, acquires refused for want of memory."""

    unique: int
    references: int
    stored: int
    saved: int
    acquires: int
    hits: int
    reserved: int
    failures: int

    @property
    def hit_rate(self) -> float:
        """Hits of all acquires, 0 to 1; 0 before the first."""
        return self.hits / self.acquires if self.acquires else 0.0


class InternTable:
    """Values, each stored once and known by a handle: paths, identifiers, the words of a column.

    Equal values have equal handles, different ones never, so handles are compared, stored and used as keys in place
    of the values; 8 bytes each in an ``array`` or in NumPy. A value is its bytes, NUL among them; of a ``str`` it
    is the UTF-8 (a lone surrogate as if it were a character), so ``"a"`` and ``b"a"`` are equal.

    Each :meth:`acquire` and :meth:`retain` adds a reference, each :meth:`release` drops one, and the last one
    reclaims the value. A handle stands for nothing after that, also when the same value comes again: using it is a
    :class:`StaleHandle`, and changes nothing.

    Parameters: ``upstream``, what the memory comes from (None: a :class:`Heap` of its own): a :class:`Heap` or
    :class:`System`, wrapped or not, or anything below a :class:`Locked`, as any thread may call the table. It can
    be neither closed nor reset while the table is open. ``shards``, a power of two, at most 256: how many parts
    with a lock of their own the values are spread over; on the pure backend there is one lock.

    The table of the native backend takes about 40 bytes beside each value; docs/structures.md has figures. It is
    for values that repeat. It is not for values that are looked at all the time, as each look makes an object, nor
    for ordering or prefixes.

    Any thread. Raises :class:`ConfigError` for other arguments.

    >>> with InternTable() as table:
    ...     path = table.acquire("usr/lib/python3")
    ...     path == table.acquire(b"usr/lib/python3"), table.str(path), table.stats.references
    (True, 'usr/lib/python3', 2)
    """

    __slots__ = ("__weakref__", "_backend", "_core", "_hold", "_upstream")

    def __init__(self, upstream: Allocator | None = None, *, shards: int = 16) -> None:
        if isinstance(shards, bool) or not isinstance(shards, int):
            raise ConfigError(f"intern.shards: takes an int, not {shown(shards)}")
        if not 1 <= shards <= _SHARDS_MAX or shards & (shards - 1):
            raise ConfigError(f"intern.shards: takes a power of two from 1 to {_SHARDS_MAX}, not {shards}")
        if hasattr(self, "_core"):
            raise RuntimeError("InternTable: was initialised before")
        if upstream is None:
            upstream = configured().Heap()
        _check_upstream(upstream)
        self._upstream, self._backend = upstream, upstream._backend
        self._hold: memoryview | None = memoryview(upstream.alloc(0))  # so it can be neither closed nor reset
        self._core: Any = self._backend.Intern(upstream, shards, self._hold)
        if type(self._core) is tuple:
            self._core = self._after(self._core, partial(self._backend.Intern, upstream, shards, self._hold))

    def _after(self, failure: tuple[int, int, int, int], call: Callable[[], Any]) -> Any:
        """What ``call`` of the backend, which gave ``failure``, returns when the budget that refused it was asked
        for room; raises what the failure stands for where none was."""
        try:
            return pressure.retry(self._backend, partial(_raising, call), failure)
        except Refusal as r:
            refused = r.status, r.requested, r.used, r.limit
        raise_status(self, *refused)

    def _opened(self) -> Any:
        if self.closed:
            raise_status(self, Status.CLOSED)
        return self._core

    def _stale(self, handle: Any) -> NoReturn:
        self._opened()
        raise StaleHandle(
            f"InternTable: the handle {_hex(handle)} stands for no value",
            suggestion="release a handle as often as it was acquired and retained, and use it no longer then; "
            "handles of another table are numbers of their own",
        )

    def acquire(self, value: Value) -> Handle:
        """The handle of ``value``, with one more reference.

        Raises TypeError for what is neither str nor bytes; :class:`OutOfMemory`, :class:`BudgetExceeded` as
        upstream does; :class:`CapacityExceeded` where a value has 2**32 - 1 references. Nothing is changed then.

        >>> table = InternTable()
        >>> table.acquire("one") == table.acquire("one") != table.acquire("two")
        True
        """
        result = self._opened().acquire(value)
        if type(result) is tuple:
            result = self._after(result, partial(self._core.acquire, value))
        return result

    def acquire_many(self, values: Iterable[Value]) -> array[int]:
        """The handles of ``values``, in their order, each with one more reference for each time it is there.

        All or none: raises what :meth:`acquire` raises, TypeError for a single value, and then nothing is held. It
        takes a fraction of the time of as many calls. Other threads of Python wait meanwhile: give it some ten
        thousand at a time.

        >>> table = InternTable()
        >>> column = table.acquire_many(["de", "fr", "de"])
        >>> column[0] == column[2], len(table)
        (True, 2)
        """
        core = self._opened()
        if isinstance(values, (str, bytes)):
            kind = type(values).__name__
            raise TypeError(f"InternTable.acquire_many: takes an iterable of values, not one {kind}")
        if type(values) is not list:
            values = list(values)
        out = _ZERO * len(values)
        failure = core.acquire_many(values, out)
        if failure is not None:
            self._after(failure, partial(core.acquire_many, values, out))
        return out

    def retain(self, handle: Handle) -> None:
        """One more reference. Raises :class:`StaleHandle` where the handle stands for no value.

        >>> table = InternTable()
        >>> handle = table.acquire("kept")
        >>> table.retain(handle); table.release(handle); table.str(handle)
        'kept'
        """
        result = self._opened().retain(handle)
        if result is not None:
            self._refused(handle, result)

    def release(self, handle: Handle) -> None:
        """One reference less; the last one reclaims the value. Raises :class:`StaleHandle`, and nothing is changed,
        where the handle stands for no value (any more)."""
        result = self._opened().release(handle)
        if result is not None:
            self._refused(handle, result)

    def release_many(self, handles: Iterable[Handle]) -> None:
        """Releases each in turn, once for each time it is there; best an ``array`` as :meth:`acquire_many` gives.

        Raises :class:`StaleHandle` at the first that stands for no value; its ``state["released"]`` says how many
        before it were released.

        >>> table = InternTable()
        >>> table.release_many(table.acquire_many(["a", "b", "a"])); len(table)
        0
        """
        if not isinstance(handles, array) or handles.typecode != "Q":
            handles = array("Q", [_number(handle) for handle in handles])
        done = self._opened().release_many(handles)
        if done is not None:
            raise StaleHandle(
                f"InternTable: the handle {_hex(handles[done])}, number {done} of those to be released, "
                "stands for no value",
                suggestion="release a handle as often as it was acquired; those before it were released",
                released=done,
            )

    def view(self, handle: Handle) -> bytes:
        """The value's bytes, a copy. Raises :class:`StaleHandle`.

        >>> table = InternTable()
        >>> table.view(table.acquire("é"))
        b'\\xc3\\xa9'
        """
        result = self._opened().view(handle)
        if type(result) is tuple:
            self._refused(handle, result)
        return result

    def str(self, handle: Handle) -> _Text:
        """The value as text. Raises :class:`StaleHandle`, and UnicodeDecodeError where its bytes are no UTF-8."""
        result = self._opened().text(handle)
        if type(result) is tuple:
            self._refused(handle, result)
        return result

    def _refused(self, handle: Any, failure: tuple[int, int, int, int]) -> NoReturn:
        if failure[0] == Status.CLOSED:
            self._stale(handle)
        raise_status(self, *failure)

    def __len__(self) -> int:
        """Values held."""
        return self.stats.unique

    def __bool__(self) -> bool:
        """True, also of an empty table."""
        return True

    @property
    def stats(self) -> InternStats:
        """Counters, as an :class:`InternStats`. Raises :class:`StaleHandle` of a closed table."""
        unique, references, stored, held, *rest = self._opened().stats()
        return InternStats(unique, references, stored, held - stored, *rest)

    @property
    def upstream(self) -> Allocator | None:
        """What the memory comes from; None of a closed table."""
        return self._upstream

    @property
    def owner(self) -> Budget | None:
        """The :class:`Budget` that is charged, or None."""
        return None if self._upstream is None else self._upstream.owner

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return getattr(self, "_hold", None) is None

    def close(self) -> None:
        """Reclaims every value, whatever refers to it, and lets go of the upstream. Idempotent."""
        hold = getattr(self, "_hold", None)
        if hold is None:
            return
        self._hold = None
        self._core.close()
        hold.release()
        self._upstream = None

    def __enter__(self) -> InternTable:
        self._opened()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'InternTable': memory has one owner")

    def __repr__(self) -> _Text:
        if self.closed:
            return "<InternTable closed>"
        s = self.stats
        return f"<InternTable of {s.unique} values, {format_size(s.stored)}, with {s.references} references>"


def _raising(call: Callable[[], Any]) -> Any:
    result = call()
    if type(result) is tuple:
        raise Refusal(*result)
    return result


def _number(handle: Any) -> int:
    if not isinstance(handle, int):
        raise TypeError(f"InternTable: takes a handle, which is an int, not {type(handle).__name__}")
    return handle if 0 <= handle < 1 << 64 else 0


def _hex(handle: Any) -> str:
    return f"{handle:#x}" if isinstance(handle, int) and -1 < handle < 1 << 64 else shown(handle)


def _check_upstream(upstream: Any) -> None:
    if not isinstance(upstream, Allocator):
        raise ConfigError(f"intern.upstream: takes an allocator, not {shown(upstream)}")
    if upstream.closed:
        raise_status(upstream, Status.CLOSED)
    check_source(upstream, "intern.upstream")
    link = upstream._confined()
    if link is not None:
        raise ConfigError(
            f"intern.upstream: takes what any thread may call, and {type(link).__name__} belongs to one thread",
            suggestion="give it a Heap, or put a Locked in front",
        )
