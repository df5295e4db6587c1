"""memlib's six calls, for Python: the same memory that C programs and extensions have through ``memlib.h``.

What one side allocates the other may free: :func:`detach` makes a block C's, and :func:`hfree` takes a pointer that
came from C. On the pure backend the calls behave alike, among Python programs.

Where there is no memory the C calls log and abort. Here the message goes to the logger ``nativemem.memlib`` at
``logging.FATAL``, and then a :class:`MemoryError` is raised. Every function may be called from any thread.
"""

from __future__ import annotations

import gc
import os
import threading
from enum import IntEnum
from typing import Any

from ..allocators.base import Allocator, check_source, wipe
from ..backends.selection import need_native
from ..errors import ConfigError, ForeignBlock, LeakError, shown
from ..facades import configured
from ..sizes import parse_size

__all__ = ["Level", "detach", "hcalloc", "hfree", "hmalloc", "hrealloc", "mem_init", "mem_uninit", "use"]


def _say(level: Level, message: str) -> None:
    import logging  # here: the import of nativemem is not to wait for it

    logging.getLogger("nativemem.memlib").log(level.logging, message)


class Level(IntEnum):
    """The levels of memlib's log. ``FATAL`` is another name of ``USER``; a number that is no level is ``INFO``.

    >>> Level(1), Level(99)
    (<Level.USER: 1>, <Level.INFO: 4>)
    >>> import logging
    >>> Level.FATAL.logging == logging.FATAL
    True
    """

    NOTHING = 0
    USER = 1
    FATAL = 1
    ERROR = 2
    WARNING = 3
    INFO = 4
    DEBUG = 5
    ALL = 6

    @classmethod
    def _missing_(cls, value: object) -> Level | None:
        return cls.INFO if isinstance(value, int) else None

    @property
    def logging(self) -> int:
        """The level of :mod:`logging` for it; for ``NOTHING`` above all of them, for ``ALL`` below."""
        import logging

        named = (logging.FATAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
        return (logging.FATAL + 1, *named, 1)[self]


#: A collection or a signal may come in the middle, and its code call here, too.
_lock = threading.RLock()
_now: Any = None


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held it
    os.register_at_fork(after_in_child=_renew_lock)


def _memlib() -> Any:
    global _now
    if _now is None:
        with _lock:
            if _now is None:
                made = configured().Memlib()
                _now = _now or made
    return _now


def use(allocator: Allocator | None) -> None:
    """From now on memlib takes its memory from ``allocator``, on the native backend C's as well; None: from a heap
    of its own, as at first.

    Raises :class:`LeakError`, changing nothing, while blocks of memlib are out, :class:`ConfigError` for anything
    but an allocator that any thread may use, :class:`StaleHandle` for a closed one. While no other thread uses
    memlib.

    >>> import nativemem
    >>> from nativemem import memlib
    >>> budget = nativemem.Budget("1 MiB")
    >>> memlib.use(nativemem.Limited(nativemem.Heap(), budget))
    >>> block = memlib.hmalloc(1000)
    >>> budget.used >= 1000
    True
    >>> memlib.hfree(block); memlib.use(None)
    """
    global _now
    binding = configured()
    if allocator is not None:
        if not isinstance(allocator, binding.backend.Allocator) or not isinstance(allocator, Allocator):
            raise ConfigError(
                f"memlib.use: takes an allocator of the {binding.name} backend, or None, not {shown(allocator)}"
            )
        allocator._opened()
        check_source(allocator, "memlib.use")
        if allocator._confined() is not None:
            raise ConfigError(
                f"memlib.use: {allocator.describe()} belongs to one thread; give a heap, or one in a Locked"
            )
    with _lock:
        before = _memlib()
        if before.stats.live:
            gc.collect()  # what only a cycle refers to is not out
        stats = before.stats
        if stats.live:
            raise LeakError(
                f"memlib.use: {stats.live} blocks of {stats.current} bytes in all are still out",
                suggestion="free them first: what memlib uses now does not know them",
                blocks=stats.live,
                used=stats.current,
            )
        _now = None
        before.close()  # a block that another thread got in between is stale, rather than lost
        before._core.end()
        before._below = None  # a stale block of it may be about
        _now = binding.Memlib(allocator)


def _served(name: str, size: Any) -> Any:
    number = parse_size(size, f"{name}: size")
    try:
        return _memlib().alloc(number or 1)
    except MemoryError:
        _say(Level.FATAL, f"{name}() FATAL: out of memory.")
        raise


def hmalloc(size: int | str) -> Any:
    """A :class:`Block` of ``size`` bytes, contents undefined; of one byte for 0. Raises :class:`MemoryError`,
    logged before, and :class:`InvalidLayout` for what is no size.

    >>> block = hmalloc(64)
    >>> block.size
    64
    >>> hfree(block)
    """
    return _served("HMalloc", size)


def hcalloc(size: int | str) -> Any:
    """As :func:`hmalloc`, ``size`` bytes, of zeros."""
    block = _served("HCalloc", size)
    wipe(block)
    return block


def hrealloc(block: Any, size: int | str) -> Any:
    """A :class:`Block` of ``size`` bytes that begins with what ``block`` had, which is gone; for None as
    :func:`hmalloc`. For size 0 ``block`` is freed, and one of one byte returned. Raises as those, and
    :class:`BufferError` while a view of ``block`` is out; then it is as it was.
    """
    number = parse_size(size, "HRealloc: size")
    if block is None:
        return _served("HRealloc", number)
    memlib = _memlib()
    if number == 0:
        memlib.free(block)
        return _served("HRealloc", 0)
    if memlib.resize(block, number):
        return block
    moved = _served("HRealloc", number)
    kept = min(number, block.size)
    try:
        with memoryview(block) as old, memoryview(moved) as new:
            new[:kept] = old[:kept]
        memlib.free(block)
    except BaseException:
        memlib.free(moved)
        raise
    return moved


def hfree(block: Any) -> None:
    """Gives a block back, or what a ``void *`` of :mod:`cffi` that came from C points to; nothing for None and
    NULL. Raises as :meth:`Allocator.free`, and :class:`ForeignBlock` for a pointer to no block of memlib's, as far
    as that can be told."""
    if block is None:
        return
    memlib = _memlib()
    pointer = memlib._core.pointer(block)
    if pointer is None:
        memlib.free(block)
        return
    number = memlib._core.number(pointer)
    if number == 0:
        return
    status = memlib._free_at(number, memlib._core.headed)
    if status is None:
        raise ForeignBlock(
            "memlib: the pointer leads to a block of Python's",
            suggestion="free the block itself, or detach it first",
        )
    memlib._call(status)


def detach(block: Any) -> Any:
    """Makes a block of memlib C's: returns its ``void *``, for C's ``HFree`` or :func:`hfree`, and the block is as
    one that was freed. Raises as :meth:`Allocator.free`; :class:`NativeUnavailable` on the pure backend.

    >>> import nativemem
    >>> block = hmalloc(100)
    >>> if nativemem.backend == "native":
    ...     pointer = detach(block)  # a C function may keep it, and call HFree
    ...     hfree(pointer)
    ... else:
    ...     hfree(block)
    >>> block.alive
    False
    """
    need_native("a block for C")
    memlib = _memlib()
    # first, as there may be no memory for it
    pointer = memlib._core.at(block.address) if isinstance(block, configured().Block) and block.alive else None
    memlib._detach(block)
    return pointer


def mem_init() -> bool:
    """May be called first, and again; not needed. Logs at ``logging.INFO`` and returns True.

    >>> mem_init()
    True
    """
    _memlib()
    _say(Level.INFO, f"mem_init(): the {configured().name} backend")
    return True


def mem_uninit() -> bool:
    """Gives memory that is not in use back to the system. Blocks stay. Logs and returns as :func:`mem_init`.

    >>> block = hmalloc(100)
    >>> mem_uninit(), block.alive
    (True, True)
    >>> hfree(block)
    """
    _memlib()._core.trim()
    _say(Level.INFO, "mem_uninit(): done")
    return True
