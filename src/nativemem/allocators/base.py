"""What every allocator can do: the facade, written once and bound to either backend.

The hot methods ``alloc``, ``free`` and ``resize`` come from the backend's own type; what is here validates,
configures and inspects.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, overload

from ..budgets import pressure as _pressure
from ..config import MAX_DEPTH, Config
from ..errors import ConfigError, InvalidMark, LifoViolation, NativeMemError, Refusal, StaleHandle, Status
from ..refusals import coerce_layout, name_of, raise_status
from ..sizes import format_size, parse_size
from ..stats import Stats
from .typed import Array, Value, typed

if TYPE_CHECKING:
    import ctypes
    from _ctypes import _CData
    from types import TracebackType
    from typing import TypeVar

    from numpy import dtype, generic
    from numpy.typing import NDArray
    from typing_extensions import Self

    from ..budgets.budget import Budget
    from ..wrappers.cport import CPort
    from .block import Block, DataPlane

    C = TypeVar("C", bound=_CData)
    S = TypeVar("S", bound=generic)
    _Base = DataPlane
else:
    _Base = object

__all__ = ["Allocator", "Stats"]


def check_source(allocator: Any, label: str) -> None:
    """Raises :class:`ConfigError` for an allocator with methods of its own in place of those that take and give
    memory. What stands on an allocator takes from its core and would not call them: neither a check nor a count
    in such a method may be passed over in silence."""
    # no generator: one that is left before its end has to be closed, which takes memory
    for bound in type(allocator).__mro__:
        if "_binding" in vars(bound):
            break
    for name in ("alloc", "free", "resize"):
        if getattr(type(allocator), name) is not getattr(bound, name) or name in getattr(allocator, "__dict__", ()):
            raise ConfigError(
                f"{label}: takes an allocator with its own {name}, which {type(allocator).__name__} overrides",
                suggestion=f"memory is taken from the allocator's core, and that {name} would not be called: put a "
                "wrapper (Traced, Limited) in front, or call it directly",
            )


def wipe(block: Any) -> None:
    """Makes a new block's bytes zero."""
    if block.size:
        with memoryview(block) as raw:
            raw[:] = bytes(len(raw)) if len(raw) <= 1 << 16 else memoryview(bytearray(len(raw)))


class Allocator(_Base):
    """What every allocator and wrapper can do.

    Use it as a context manager to close it at the end of a block. ``alloc(size, align=16)`` returns a
    :class:`Block`; ``free(block)`` gives it back; ``resize(block, size)`` changes its size in place and
    returns False, changing nothing, where that is not possible. Which thread may call it depends on the allocator:
    docs/safety.md has the table.

    >>> import nativemem
    >>> [isinstance(each(), nativemem.Allocator) for each in (nativemem.Arena, nativemem.Heap)]
    [True, True]
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _backend: ClassVar[Any]
    _binding: ClassVar[Any]
    _config: ClassVar[type[Config] | None] = None

    def _open(
        self, core: Any, upstream: Any = None, *, wraps: bool = False, auto: bool = True, natural: int = 0
    ) -> None:
        self._attach(core, upstream, wraps, auto, natural)

    @classmethod
    def from_config(cls, config: Config, **rest: Any) -> Self:
        """One made as ``config`` says, an :class:`ArenaConfig` for an arena and so on; ``rest`` are the parameters
        that a configuration does not have, as ``upstream``. Raises :class:`ConfigError` for another class.

        >>> import nativemem
        >>> nativemem.Arena.from_config(nativemem.config.ArenaConfig.debug(cap="1 MiB")).config.patterns
        True
        """
        if cls._config is None or not isinstance(config, cls._config):
            takes = f"takes {cls._config.__name__}" if cls._config else "has no configuration"
            raise ConfigError(f"{cls.__name__.lower()}.config: {takes}, not {type(config).__name__}")
        return cls(**{field.name: getattr(config, field.name) for field in fields(config)}, **rest)  # type: ignore[arg-type]

    @classmethod
    def _make(cls, kind: str, upstream: Any, *args: Any) -> Any:
        """A core of the backend; its refusal, of the upstream it takes memory from, as an error."""
        make = getattr(cls._backend, kind)
        refusal: tuple[int, int, int, int] | None = None
        try:
            return make(*args)
        except Refusal as r:
            # not r itself: with its traceback it would be a cycle that holds upstream
            refusal = r.status, r.requested, r.used, r.limit
        try:
            return _pressure.retry(cls._backend, partial(make, *args), refusal)
        except Refusal as r:
            refusal = r.status, r.requested, r.used, r.limit
        raise_status(upstream, *refusal)

    @classmethod
    def _upstream(cls, upstream: Allocator | None) -> Allocator:
        """``upstream`` as given, checked; the shared system allocator for None."""
        if upstream is None:
            return cls._binding.default_system
        if not isinstance(upstream, cls._backend.Allocator):
            raise ConfigError(
                f"{cls.__name__.lower()}.upstream: takes an allocator of the {cls._backend.name} "
                f"backend, not {type(upstream).__name__}"
            )
        if upstream.closed:
            raise_status(upstream, Status.CLOSED)
        check_source(upstream, f"{cls.__name__.lower()}.upstream")
        if upstream._depth >= MAX_DEPTH:
            raise ConfigError(f"{cls.__name__.lower()}.upstream: at most {MAX_DEPTH} allocators make a chain")
        return upstream

    def _call(self, status: int) -> None:
        if status != Status.OK:
            raise_status(self, status)

    def _usable(self, size: int, align: int) -> int:
        return 0 if size == 0 else self._core.usable(size, align)

    def _opened(self) -> Any:
        """The core; raises :class:`StaleHandle` where the allocator is closed."""
        if self.closed:
            raise_status(self, Status.CLOSED)
        return self._core

    @property
    def owner(self) -> Budget | None:
        """The :class:`Budget` that blocks are charged to, or None; also of a closed allocator."""
        if self._left is not None:
            return self._left[1]
        return None if self.upstream is None else self.upstream.owner

    @overload
    def array(self, kind: str, n: int | str, *, zero: bool = True, align: int | None = None) -> memoryview[Any]: ...  # type: ignore[type-arg,unused-ignore]
    @overload
    def array(
        self, kind: type[C], n: int | str, *, zero: bool = True, align: int | None = None
    ) -> ctypes.Array[C]: ...
    @overload
    def array(self, kind: dtype[S], n: int | str, *, zero: bool = True, align: int | None = None) -> NDArray[S]: ...
    def array(self, kind: Any, n: int | str, *, zero: bool = True, align: int | None = None) -> Any:
        """A typed, writable view of ``n`` items over a new block, which lives as long as the view.

        Parameters: ``kind``, a native :mod:`struct` format of one value such as ``"d"``, a ctypes type,
        or a NumPy dtype (anything else that NumPy takes as one must be passed as ``numpy.dtype(...)``);
        ``n``, items; ``zero``, whether they start as zero; ``align``, of which the address of the first is a
        multiple, and of what the kind needs (None: 64 for a NumPy dtype, else 16 or what a ctypes type needs).
        Returns a :class:`memoryview`, a ctypes array or a :class:`numpy.ndarray`. Raises :class:`InvalidLayout`
        for another kind or alignment or a size that overflows, and what ``alloc`` raises. Thread policy as
        ``alloc``.

        >>> import nativemem
        >>> with nativemem.Arena() as arena:
        ...     view = arena.array("d", 3)
        ...     view[0] = 1.5
        ...     list(view)
        ...     view.release()
        [1.5, 0.0, 0.0]
        """
        label = f"{name_of(self)}.array"
        count = parse_size(n, f"{label}: n")
        itemsize, needed, suited, view = typed(kind, label)
        zero = bool(zero)  # may raise, and nothing is taken yet
        size = parse_size(count * itemsize, f"{label}: size")
        at = suited if align is None else max(coerce_layout(self, size, align, label)[1], needed)
        block = self.alloc(size, at)
        if zero:
            wipe(block)
        return view(block, count)

    def alloc_many(self, sizes: Iterable[int | str], align: int = 16) -> list[Block]:
        """A block for each of ``sizes``, in bytes, all at multiples of ``align``; or, raising what ``alloc``
        raises, none: the blocks that were to be had are given back. Thread policy as ``alloc``.

        >>> import nativemem
        >>> with nativemem.Heap() as heap:
        ...     [block.size for block in heap.alloc_many([10, 20, "1 KiB"])]
        [10, 20, 1024]
        """
        label = f"{name_of(self)}.alloc_many"
        sizes = [coerce_layout(self, size, align, label)[0] for size in sizes]
        blocks: list[Block] = []
        arena = self._arena_below() if sizes else None
        mark = arena.mark() if arena is not None else None
        try:
            for size in sizes:
                blocks.append(self.alloc(size, align))
            if arena is not None:
                arena._forget(mark)
        except BaseException:
            self._undo(blocks, arena, mark)
            raise
        return blocks

    def _arena_below(self) -> Any:
        """The arena that this chain's blocks lie in, or None."""
        return None

    def _undo(self, blocks: list[Block], arena: Any, mark: Any) -> None:
        """Gives back the blocks of a batch; to an arena, where only a release gives bytes back, all at once."""
        if arena is not None:
            with suppress(BufferError):  # another allocator stands on the arena: its bytes stay till reset
                with suppress(InvalidMark, StaleHandle):  # gone already, with a reset or a close in between
                    arena.release(mark)
                return
            arena._forget(mark)
        while blocks:  # newest first, as a stack wants it
            block = blocks.pop()
            if block.alive:
                with suppress(LifoViolation):  # there is one on top of it: it stays, as a dropped one does
                    self.free(block)

    def alloc_value(self, fmt: str, value: Any, align: int = 16) -> Value:
        """A :class:`Value` of ``fmt``, a :mod:`struct` format, in a new block at a multiple of ``align``. Raises
        :class:`InvalidLayout` for a format or a value that does not fit it, and what ``alloc`` raises. Thread
        policy as ``alloc``.

        >>> import nativemem
        >>> with nativemem.Heap().alloc_value("d", 1.5) as number:
        ...     number.value += 1
        ...     number.value
        2.5
        """
        return Value(self, fmt, value, align)

    def alloc_array(self, fmt: str, items: Iterable[Any] | int, align: int = 16) -> Array:
        """An :class:`Array` of ``fmt``, a :mod:`struct` format, in a new block at a multiple of ``align``: of these
        items, or of so many zeros. Raises as :meth:`alloc_value`. Thread policy as ``alloc``.

        >>> import nativemem
        >>> with nativemem.Heap().alloc_array("i", [1, 2, 3]) as numbers:
        ...     numbers[0] = 10
        ...     sum(numbers)
        15
        """
        return Array(self, fmt, items, align)

    def blocks(self) -> list[Block]:
        """The live blocks that this allocator gave and that are referred to still, newest first.

        Raises :class:`StaleHandle` when closed."""
        self._opened()
        return self._live()

    @property
    def stats(self) -> Stats:
        """Counters now, as a :class:`Stats`. Raises :class:`StaleHandle` when closed. Any thread."""
        used, peak, reserved, limit, *rest = self._opened().stats()
        return Stats(used, peak, reserved, limit or None, *rest, self._largest_free())  # type: ignore[call-arg]

    def _largest_free(self) -> int | None:
        """``largest_free`` of its stats: None where only the thread that uses it could tell. Pre: it is open."""
        return self._core.diagnose().get("largest_free") if self._core.check() == Status.OK else None

    def _confined(self) -> Allocator | None:
        """The allocator of the chain for whose sake one thread alone may use it; None where any thread may."""
        return self

    def c_port(self) -> CPort:
        """This allocator for C code, as a :class:`CPort`. Raises :class:`NativeUnavailable` on the pure backend,
        :class:`StaleHandle` when closed. Thread policy as ``alloc``."""
        return self._binding.CPort(self)

    def describe(self) -> str:
        """The chain from here to the bottom, ``"Limited > Traced > System"``; of a closed allocator the one that it
        was on top of.

        >>> import nativemem
        >>> nativemem.Limited(nativemem.System(), nativemem.Budget(1000)).describe()
        'Limited > System'
        """
        if self._left is not None:
            return str(self._left[0])
        names: list[str] = []
        link: Allocator | None = self
        while link is not None:
            names.append(name_of(link))
            link = link.upstream
        return " > ".join(names)

    def close(self) -> None:
        """Frees the allocator's blocks, which become stale, gives its memory back and lets go of its upstream. That
        may be closed from then on, and ``upstream`` is None. Idempotent.

        Raises :class:`BufferError`, changing nothing, while a view of a block is out or another allocator
        stands on this one.
        """
        if not self.closed:
            self._call(self._core.check())
            self._shut((self.describe(), self.owner))

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (NativeMemError, BufferError):
            if error is None:
                raise

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {name_of(self)!r}: memory has one owner")

    def __repr__(self) -> str:
        name = name_of(self)
        if self.closed:
            return f"<{name} closed>"
        stats = self.stats
        return f"<{name} {format_size(stats.current)} in {stats.live} blocks, peak {format_size(stats.peak)}>"
