"""System, Arena, Slab, Heap: the facade, written once and bound to either backend.

The hot methods ``alloc``, ``free`` and ``resize`` come from the backend's own type; what is here validates,
configures and inspects.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ._backend import DataPlane, facade
from .config import MAX_DEPTH, ArenaConfig, Settings, SlabConfig, format_size, parse_size
from .errors import (
    ConfigError,
    InvalidLayout,
    NativeMemError,
    Status,
    name_of,
    raise_status,
    shown,
)

if TYPE_CHECKING:
    _Base = DataPlane
else:
    _Base = object

__all__ = ["Allocator", "Arena", "Heap", "Mark", "Slab", "Stats", "System"]


@dataclass(frozen=True)
class Stats:
    """Counters of an allocator at one moment; sizes in bytes.

    ``current`` bytes in live blocks, ``peak`` the highest ``current``, ``reserved`` bytes taken from
    upstream, ``limit`` the most allowed (None: no limit), ``total`` bytes ever handed out, ``live`` blocks,
    ``count`` blocks ever handed out, ``frees`` blocks given back, ``failures`` calls refused for want of
    memory. A freed block of an arena counts as live until reset.
    """

    current: int
    peak: int
    reserved: int
    limit: int | None
    total: int
    live: int
    count: int
    frees: int
    failures: int


class Allocator(_Base):
    """What every allocator and wrapper can do.

    Use it as a context manager to close it at the end of a block. ``alloc(size, align=16)`` returns a
    :class:`Block`; ``free(block)`` gives it back; ``resize(block, size)`` changes its size in place and
    returns False, changing nothing, where that is not possible.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _backend: ClassVar[Any]
    _binding: ClassVar[Any]

    def _open(self, core: Any, upstream: Any = None, *, wraps: bool = False, auto: bool = True) -> None:
        self._attach(core, upstream, wraps, auto)

    @classmethod
    def _upstream(cls, upstream: Any) -> Any:
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
    def owner(self) -> Any:
        """The :class:`Budget` that blocks are charged to, or None."""
        return None if self.upstream is None else self.upstream.owner

    def array(self, kind: Any, n: Any, *, zero: bool = True) -> Any:
        """A typed, writable view of ``n`` items over a new block, which lives as long as the view.

        Parameters: ``kind``, a native one-character :mod:`struct` format such as ``"d"``, a ctypes type,
        or a NumPy dtype (anything else that NumPy takes as one must be passed as ``numpy.dtype(...)``);
        ``n``, items; ``zero``, whether they start as zero. Returns a :class:`memoryview`, a ctypes array
        or a :class:`numpy.ndarray`. Raises :class:`InvalidLayout` for another kind or a size that
        overflows, and what ``alloc`` raises. Thread policy as ``alloc``.

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
        itemsize, align, view = _typed(kind, label)
        block = self.alloc(parse_size(count * itemsize, f"{label}: size"), align)
        if zero and block.size:
            with memoryview(block) as raw:
                raw[:] = bytes(len(raw)) if len(raw) <= 1 << 16 else memoryview(bytearray(len(raw)))
        return view(block, count)

    def blocks(self) -> list[Any]:
        """The live blocks that this allocator gave and somebody still refers to, newest first.

        Raises :class:`StaleHandle` when closed."""
        self._opened()
        return self._live()

    @property
    def stats(self) -> Stats:
        """Counters now, as a :class:`Stats`. Raises :class:`StaleHandle` when closed. Any thread."""
        used, peak, reserved, limit, *rest = self._opened().stats()
        return Stats(used, peak, reserved, limit or None, *rest)

    def describe(self) -> str:
        """The chain from here to the bottom: ``"Limited > Traced > System"``."""
        names, link = [], self
        while link is not None:
            names.append(name_of(link))
            link = link.upstream
        return " > ".join(names)

    def close(self) -> None:
        """Frees the allocator's blocks, which become stale, and gives its memory back. Idempotent.

        Raises :class:`BufferError`, changing nothing, while a view of a block is out or another allocator
        stands on this one.
        """
        if not self.closed:
            self._call(self._core.check())
            self._shut()

    def __enter__(self) -> Any:
        self._opened()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
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


def _has_pointers(kind: Any) -> bool:
    """Whether reading a ctypes type follows an address or takes a reference."""
    import ctypes

    if issubclass(kind, ctypes.Array):
        return _has_pointers(kind._type_)
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        fields = (field for cls in kind.__mro__ for field in vars(cls).get("_fields_", ()))
        return any(_has_pointers(field[1]) for field in fields)
    return getattr(kind, "_type_", None) not in tuple("cbBhHiIlLqQfdgu?vP")


def _typed(kind: Any, label: str) -> tuple[int, int, Any]:
    """Item size, alignment (bytes) and a function (block, n) -> view."""
    if isinstance(kind, str) and len(kind) == 1:
        try:
            itemsize = memoryview(bytes(16)).cast(kind).itemsize  # type: ignore[call-overload]
        except ValueError:
            itemsize = 0
        if itemsize:
            return itemsize, 16, lambda block, n: memoryview(block).cast(kind)  # type: ignore[call-overload]
    if isinstance(kind, type):
        import ctypes

        try:
            itemsize, align = ctypes.sizeof(kind), ctypes.alignment(kind)
        except TypeError:
            pass
        else:
            if _has_pointers(kind):
                raise InvalidLayout(f"{label}: {shown(kind)} has pointers; raw memory must not be read so")
            return itemsize, max(align, 16), lambda block, n: (kind * n).from_buffer(block)
    numpy = sys.modules.get("numpy")  # who has a dtype has imported it
    if numpy is not None and isinstance(kind, numpy.dtype) and not kind.hasobject and kind.itemsize:
        # not ndarray(buffer=...), which gives the buffer back at once and keeps the address
        return kind.itemsize, 64, lambda block, n: numpy.frombuffer(block, kind)
    raise InvalidLayout(
        f"{label}: kind takes a native struct format of one character, a ctypes type or a "
        f"numpy.dtype without objects, not {shown(kind)}"
    )


@facade
class System(Allocator):
    """libc's allocator (``bytearray`` storage on the pure backend), counted; the bottom of each chain.

    Any thread may call it. A block frees itself when it is collected.

    >>> import nativemem
    >>> system = nativemem.System()
    >>> block = system.alloc("1 KiB", 64)
    >>> block.size, block.address % 64, system.stats.current
    (1024, 0, 1024)
    >>> block.free(); system.stats.current
    0
    """

    __slots__ = ()

    def __init__(self) -> None:
        self._open(self._backend.SystemCore())


class Mark:
    """A position in an arena to come back to; made by :meth:`Arena.mark`."""

    __slots__ = ("_core", "_serial")

    def __init__(self, core: Any, serial: int) -> None:
        self._core, self._serial = core, serial


@facade
class Arena(Allocator):
    """Many blocks, one lifetime: allocation bumps a pointer, ``reset`` drops everything at once.

    Parameters: ``hint``, bytes of the first chunk, later ones double; ``cap``, most bytes reserved (None:
    no cap); ``grow`` False: one chunk and no more; ``zero_on_free``: wipe on reset and close;
    ``upstream``: where chunks come from (None: the system). Sizes are ints or strings.

    Belongs to the thread that made it: any call from another raises :class:`WrongThread`. A block stays
    until ``reset``, ``release`` or ``close``, whether freed or not, and is stale afterwards. Raises
    :class:`ArenaExhausted` when ``cap`` is reached; the arena is usable after it.

    >>> import nativemem
    >>> with nativemem.Arena(cap="1 MiB") as arena:
    ...     block = arena.alloc(100)
    ...     arena.reset()
    ...     block.alive
    False
    """

    __slots__ = ()
    _fields = ("config", "_marks")  # slots of the bound class
    config: ArenaConfig
    _marks: list[Mark]

    def __init__(
        self,
        hint: int | str | None = None,
        cap: int | str | None = None,
        grow: bool = True,
        zero_on_free: bool = False,
        upstream: Any = None,
    ) -> None:
        if hint is None or cap is None:
            given = _env_arena()
            hint = given.hint if hint is None else hint
            cap = given.cap if cap is None else cap
        config = ArenaConfig.of(hint, cap, grow, zero_on_free)
        upstream = self._upstream(upstream)
        core = self._backend.ArenaCore(
            upstream._core, config.hint, config.cap or 0, config.grow, config.zero_on_free
        )
        self._open(core, upstream, auto=False)
        self.config = config  # type: ignore[misc]  # a slot of the bound class
        self._marks = []  # type: ignore[misc]

    def reset(self) -> None:
        """Drops every block, keeps one chunk for reuse. Raises :class:`BufferError` while a view is out."""
        self._opened()
        self._reset()
        self._marks.clear()

    def mark(self) -> Mark:
        """The position now, for :meth:`release`."""
        core = self._opened()
        serial = self._serial()  # first: a block that comes in between belongs to what is released
        status, position = core.take_mark()
        self._call(status)
        mark = Mark(position, serial)
        self._marks.append(mark)
        return mark

    def release(self, mark: Mark) -> None:
        """Drops every block newer than ``mark``, which is used up; marks newer than it become invalid.

        Raises :class:`InvalidMark` for a mark of another arena, of an earlier generation or already
        released, :class:`BufferError` while a view of a dropped block is out.
        """
        if not isinstance(mark, Mark):
            raise TypeError(f"{name_of(self)}.release: takes a Mark, not {type(mark).__name__}")
        core = self._opened()
        self._call(core.check())
        if mark not in self._marks:
            raise_status(self, Status.INVALID_MARK)
        self._release(mark._serial, mark._core)
        del self._marks[self._marks.index(mark) :]

    @contextmanager
    def scope(self) -> Iterator[Arena]:
        """Context manager: drops what was allocated inside, also when the body raises.

        >>> import nativemem
        >>> arena = nativemem.Arena()
        >>> with arena.scope():
        ...     block = arena.alloc(1000)
        >>> arena.stats.current
        0
        """
        mark = self.mark()
        try:
            yield self
        except BaseException as original:
            try:
                self.release(mark)
            except (NativeMemError, BufferError) as error:
                if hasattr(original, "add_note"):
                    original.add_note(f"the arena's scope was not released: {error}")
            raise
        self.release(mark)


def _env_arena() -> ArenaConfig:
    return Settings.from_env().arena


@facade
class Slab(Allocator):
    """Small blocks of a few sizes, allocated and freed in any order.

    Parameters: ``bins``, ascending cell sizes in bytes, multiples of 16 up to 4096; ``zero_on_free``;
    ``upstream``. Larger blocks go to upstream. Belongs to the thread that made it: ``alloc`` from another
    raises :class:`WrongThread`, ``free`` from another is queued. A block frees itself when collected.

    >>> import nativemem
    >>> slab = nativemem.Slab()
    >>> slab.alloc(40).usable
    64
    """

    __slots__ = ()
    _fields = ("config",)
    config: SlabConfig

    def __init__(
        self,
        bins: Iterable[int | str] = SlabConfig.bins,
        zero_on_free: bool = False,
        upstream: Any = None,
    ) -> None:
        config = SlabConfig.of(bins, zero_on_free)
        upstream = self._upstream(upstream)
        core = self._backend.SlabCore(upstream._core, config.bins, config.zero_on_free)
        self._open(core, upstream)
        self.config = config  # type: ignore[misc]  # a slot of the bound class

    def trim(self) -> None:
        """Gives every empty superblock back to upstream."""
        self._call(self._opened().trim())


@facade
class Heap(Allocator):
    """The general allocator: any size, any thread may allocate and free.

    A block frees itself when collected.

    >>> import nativemem
    >>> heap = nativemem.Heap()
    >>> heap.alloc(1000).usable
    1024
    """

    __slots__ = ()

    def __init__(self) -> None:
        self._open(self._backend.HeapCore())

    def trim(self) -> None:
        """Gives free memory back to the system at once, rather than after the decay time."""
        self._opened().trim()
