"""System, Arena, Stack, Pool, Slab, Heap: the facade, written once and bound to either backend.

The hot methods ``alloc``, ``free`` and ``resize`` come from the backend's own type; what is here validates,
configures and inspects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from ..backends.binding import DataPlane, facade
from ..budgets import pressure as _pressure
from ..config import (
    MAX_DEPTH,
    ArenaConfig,
    Config,
    HeapConfig,
    PoolConfig,
    SlabConfig,
    StackConfig,
    format_size,
    parse_size,
)
from ..errors import (
    ConfigError,
    InvalidMark,
    LifoViolation,
    NativeMemError,
    Refusal,
    StaleHandle,
    Status,
    coerce_layout,
    name_of,
    raise_status,
)
from .typed import Array, Value, typed

if TYPE_CHECKING:
    _Base = DataPlane
else:
    _Base = object

__all__ = ["Allocator", "Arena", "Heap", "Mark", "Pool", "Slab", "Stack", "Stats", "System"]

A = TypeVar("A", bound="Allocator")


@dataclass(frozen=True)
class Stats:
    """Counters of an allocator at one moment; sizes in bytes.

    ``current`` bytes in live blocks, ``peak`` the highest ``current``, ``reserved`` bytes taken from
    upstream, ``limit`` the most allowed (None: no limit), ``total`` bytes ever handed out, ``live`` blocks,
    ``count`` blocks ever handed out, ``frees`` blocks given back, ``failures`` calls refused for want of
    memory, of which there are two where a budget was asked for room and refused again. A freed block of an arena
    counts as live until reset.
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


def check_source(allocator: Any, label: str) -> None:
    """Raises :class:`ConfigError` for an allocator with methods of its own in place of those that take and give
    memory. What stands on an allocator takes from its core and would not call them: neither a check nor a count
    that somebody put there may be passed over in silence."""
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
    returns False, changing nothing, where that is not possible.
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
    def from_config(cls: type[A], config: Any, **rest: Any) -> A:
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
    def owner(self) -> Any:
        """The :class:`Budget` that blocks are charged to, or None; also of a closed allocator."""
        if self._left is not None:
            return self._left[1]
        return None if self.upstream is None else self.upstream.owner

    def array(self, kind: Any, n: Any, *, zero: bool = True, align: int | None = None) -> Any:
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

    def alloc_many(self, sizes: Iterable[int | str], align: int = 16) -> list[Any]:
        """A block for each of ``sizes``, in bytes, all at multiples of ``align``; or, raising what ``alloc``
        raises, none: the blocks that were to be had are given back. Thread policy as ``alloc``.

        >>> import nativemem
        >>> with nativemem.Heap() as heap:
        ...     [block.size for block in heap.alloc_many([10, 20, "1 KiB"])]
        [10, 20, 1024]
        """
        label = f"{name_of(self)}.alloc_many"
        sizes = [coerce_layout(self, size, align, label)[0] for size in sizes]
        blocks: list[Any] = []
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

    def _undo(self, blocks: list[Any], arena: Any, mark: Any) -> None:
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
                with suppress(LifoViolation):  # somebody has one on top of it: it stays, as a dropped one does
                    self.free(block)

    def alloc_value(self, fmt: str, value: Any, align: int = 16) -> Value:
        """A :class:`Value` of a :mod:`struct` format in a new block at a multiple of ``align``. Raises
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
        """An :class:`Array` of a :mod:`struct` format in a new block at a multiple of ``align``: of these items,
        or of so many zeros. Raises as :meth:`alloc_value`. Thread policy as ``alloc``.

        >>> import nativemem
        >>> with nativemem.Heap().alloc_array("i", [1, 2, 3]) as numbers:
        ...     numbers[0] = 10
        ...     sum(numbers)
        15
        """
        return Array(self, fmt, items, align)

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

    def _is_anybodys(self) -> bool:
        """Whether any thread may use it."""
        link: Any = self
        kinds = self._binding
        while isinstance(link, (kinds.Limited, kinds.Traced, kinds.Failing)):
            link = link.upstream
        return isinstance(link, (kinds.System, kinds.Heap, kinds.Locked))

    def c_port(self) -> Any:
        """This allocator for C code, as a :class:`CPort`. Raises :class:`NativeUnavailable` on the pure backend,
        :class:`StaleHandle` when closed. Thread policy as ``alloc``."""
        return self._binding.CPort(self)

    def describe(self) -> str:
        """The chain from here to the bottom, ``"Limited > Traced > System"``; of a closed allocator the one that it
        was on top of."""
        if self._left is not None:
            return str(self._left[0])
        names, link = [], self
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


@facade
class System(Allocator):
    """libc's allocator (Python's on the pure backend), counted; the bottom of each chain.

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
        self._open(self._make("SystemCore", self))


class Mark:
    """A position in an arena, or a height of a stack, to come back to; made by their ``mark``."""

    __slots__ = ("_core", "_serial")

    def __init__(self, core: Any, serial: int) -> None:
        self._core, self._serial = core, serial

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Mark': it is released once")


class _Rewindable(Allocator):
    """What arena and stack have in common: blocks that go together."""

    __slots__ = ()
    _marks: list[Mark]

    def reset(self) -> None:
        """Drops every block, keeps memory for reuse. Raises :class:`BufferError` while a view is out."""
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

        Raises :class:`InvalidMark` for a mark of another allocator, of an earlier generation, already
        released, or above the top of a stack, :class:`BufferError` while a view of a dropped block is out.
        """
        if not isinstance(mark, Mark):
            raise TypeError(f"{name_of(self)}.release: takes a Mark, not {type(mark).__name__}")
        core = self._opened()
        self._call(core.check())
        if mark not in self._marks:
            raise_status(self, Status.INVALID_MARK)
        self._release(mark._serial, mark._core)
        with suppress(ValueError):  # as in _forget
            del self._marks[self._marks.index(mark) :]

    def _forget(self, mark: Mark) -> None:
        """Strikes one mark off, unless a signal handler or a finalizer has reset in between."""
        with suppress(ValueError):
            self._marks.remove(mark)

    @contextmanager
    def _rewound(self, what: str) -> Iterator[Any]:
        mark = self.mark()
        try:
            yield self
        except BaseException as original:
            try:
                self.release(mark)
            except (NativeMemError, BufferError) as error:
                if hasattr(original, "add_note"):
                    original.add_note(f"the {what} was not released: {error}")
            raise
        self.release(mark)


@facade
class Arena(_Rewindable):
    """Many blocks, one lifetime: allocation bumps a pointer, ``reset`` drops everything at once.

    Parameters: ``hint``, bytes of the first chunk, later ones double; ``cap``, most bytes reserved (None:
    no cap); ``grow`` False: one chunk and no more; ``zero_on_free``: wipe on reset and close;
    ``upstream``: where chunks come from (None: the system); ``patterns``, for debugging: new blocks are
    filled with 0xAA, freed and dropped ones with 0xDD. Sizes are ints or strings.

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
    _config = ArenaConfig
    config: ArenaConfig

    def __init__(
        self,
        hint: int | str | None = None,
        cap: int | str | None = None,
        grow: bool = True,
        zero_on_free: bool = False,
        upstream: Any = None,
        *,
        patterns: bool = False,
    ) -> None:
        config: Any = ArenaConfig.from_env() if hint is None or cap is None else ArenaConfig()
        config = config.replace(
            hint=config.hint if hint is None else hint,
            cap=config.cap if cap is None else cap,
            grow=grow,
            zero_on_free=zero_on_free,
            patterns=patterns,
        )
        upstream = self._upstream(upstream)
        core = self._make(
            "ArenaCore",
            upstream,
            upstream._core,
            config.hint,
            config.cap or 0,
            config.grow,
            config.zero_on_free,
            config.patterns,
        )
        self._open(core, upstream, auto=False)
        self.config = config  # type: ignore[misc]  # a slot of the bound class
        self._marks = []  # type: ignore[misc]

    def _arena_below(self) -> Any:
        return self

    def scope(self) -> Any:
        """Context manager: drops what was allocated inside, also when the body raises.

        >>> import nativemem
        >>> arena = nativemem.Arena()
        >>> with arena.scope():
        ...     block = arena.alloc(1000)
        >>> arena.stats.current
        0
        """
        return self._rewound("arena's scope")


@facade
class Stack(_Rewindable):
    """Blocks that end in the reverse order of their making; each gives its memory back at once.

    Parameters: ``capacity``, bytes for blocks and the padding between them, taken from ``upstream`` (None:
    the system) at once; ``patterns``, for debugging: new blocks are filled with 0xCC, freed ones with 0xDD.

    Belongs to the thread that made it: any call from another raises :class:`WrongThread`. Freeing a block that
    is not the newest raises :class:`LifoViolation` and changes nothing. A block that nobody refers to stays
    until it is dropped by ``reset``, ``release``, the end of a ``frame`` or ``close``. Raises
    :class:`CapacityExceeded` where a block does not fit. ``resize`` serves the newest block.

    >>> import nativemem
    >>> with nativemem.Stack("64 KiB") as stack:
    ...     with stack.frame():
    ...         a, b = stack.alloc(100), stack.alloc(200)
    ...         try:
    ...             a.free()
    ...         except nativemem.errors.LifoViolation as error:
    ...             print(error)
    ...     stack.stats.current
    Stack: the block of 100 bytes is not the newest; blocks above it are live
    0
    """

    __slots__ = ()
    _fields = ("config", "_marks")
    _config = StackConfig
    config: StackConfig

    def __init__(self, capacity: int | str, upstream: Any = None, *, patterns: bool = False) -> None:
        config = StackConfig(capacity, patterns)
        upstream = self._upstream(upstream)
        core = self._make("StackCore", upstream, upstream._core, config.capacity, config.patterns)
        self._open(core, upstream, auto=False)
        self.config = config  # type: ignore[misc]
        self._marks = []  # type: ignore[misc]

    def frame(self) -> Any:
        """Context manager: drops what was allocated inside, also when the body raises.

        >>> import nativemem
        >>> stack = nativemem.Stack(1000)
        >>> with stack.frame():
        ...     block = stack.alloc(900)
        >>> stack.alloc(900).size
        900
        """
        return self._rewound("stack's frame")


@facade
class Pool(Allocator):
    """Cells of one size, taken and given back in any order, in constant time.

    Parameters: ``block_size``, bytes, rounded up to a multiple of 16 for the cells; ``count``, cells, taken
    from ``upstream`` (None: the system) at once; ``grow``: when all are in use, take as many again.

    ``alloc()`` takes the block size where none is given. Belongs to the thread that made it: any call from
    another raises :class:`WrongThread`. Raises :class:`PoolExhausted` when all cells are in use,
    :class:`InvalidLayout` for a block that no cell fits, :class:`CorruptionDetected` where a freed cell was
    written to. A block frees itself when collected.

    >>> import nativemem
    >>> pool = nativemem.Pool(100, 1000)
    >>> block = pool.alloc()
    >>> block.size, block.usable
    (100, 112)
    """

    __slots__ = ()
    _fields = ("config",)
    _config = PoolConfig
    config: PoolConfig

    def __init__(self, block_size: int | str, count: int, grow: bool = False, upstream: Any = None) -> None:
        config: Any = PoolConfig(block_size, count, grow)
        upstream = self._upstream(upstream)
        core = self._make("PoolCore", upstream, upstream._core, config.block_size, config.count, config.grow)
        self._open(core, upstream, natural=config.block_size)
        self.config = config  # type: ignore[misc]


@facade
class Slab(Allocator):
    """Small blocks of a few sizes, allocated and freed in any order.

    Parameters: ``bins``, ascending cell sizes in bytes, multiples of 16 up to 4096; ``zero_on_free``;
    ``upstream``. Larger blocks go to upstream. Belongs to the thread that made it: ``alloc`` from another
    raises :class:`WrongThread`, ``free`` from another is queued. When that thread ends live blocks stay valid,
    and their memory goes back with the last free. A block frees itself when collected.

    >>> import nativemem
    >>> slab = nativemem.Slab()
    >>> slab.alloc(40).usable
    64
    """

    __slots__ = ()
    _fields = ("config",)
    _config = SlabConfig
    config: SlabConfig

    def __init__(
        self,
        bins: Iterable[int | str] = (32, 64, 128, 256),
        zero_on_free: bool = False,
        upstream: Any = None,
    ) -> None:
        config = SlabConfig(bins, zero_on_free)
        upstream = self._upstream(upstream)
        core = self._make("SlabCore", upstream, upstream._core, config.bins, config.zero_on_free)
        self._open(core, upstream)
        self.config = config  # type: ignore[misc]  # a slot of the bound class

    def trim(self) -> None:
        """Gives every empty superblock back to upstream."""
        self._call(self._opened().trim())


@facade
class Heap(Allocator):
    """The general allocator: any size, any thread may allocate and free.

    Parameters: ``budget``, a :class:`Budget` that is charged for what the heap holds, in steps of 64 KiB
    (None: nobody); ``secure``, see docs/safety.md (None: as ``NATIVEMEM_SECURE`` says). A block frees itself
    when collected. In a secure heap a free that finds bytes behind the block changed raises
    :class:`CorruptionDetected`.

    >>> import nativemem
    >>> heap = nativemem.Heap()
    >>> heap.alloc(1000).usable
    1024
    """

    __slots__ = ()
    _fields = ("config", "_budget")
    _config = HeapConfig
    config: HeapConfig
    _budget: Any

    def __init__(self, budget: Any = None, *, secure: bool | None = None) -> None:
        config = HeapConfig.from_env() if secure is None else HeapConfig(secure)
        if budget is not None and not isinstance(budget, self._binding.Budget):
            raise ConfigError(
                f"heap.budget: takes a Budget of the {self._backend.name} backend, not {type(budget).__name__}"
            )
        core = self._make("HeapCore", self, None if budget is None else budget._core, config.secure)
        self._open(core)
        self.config = config  # type: ignore[misc]
        self._budget = budget  # type: ignore[misc]

    @property
    def owner(self) -> Any:
        """The budget that the heap's memory is charged to, or None."""
        return self._budget

    def trim(self) -> None:
        """Gives free memory back to the system at once, rather than after the decay time."""
        self._opened().trim()
