"""The native cores of the allocators."""

from __future__ import annotations

from typing import Any

from .budget import BudgetCore
from .control import address, ffi, lib
from .core import Core
from .loader import dataplane, start_region


class SystemCore(Core):
    """Control plane of System."""

    __slots__ = ()

    def __init__(self) -> None:
        self._open("system", ())

    def usable(self, size: int, align: int) -> int:
        return size


class ArenaCore(Core):
    """Control plane of Arena."""

    __slots__ = ()
    rewinds = dataplane.REWINDS_ARENA

    def __init__(self, upstream: Core, hint: int, cap: int, grow: bool, zero: bool, patterns: bool) -> None:
        self._open("arena", (upstream,), upstream._port, (hint, cap, grow, zero, patterns))

    def usable(self, size: int, align: int) -> int:
        return size

    def check(self) -> int:
        return lib.nm_arena_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_arena_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_arena_clear(self._ptr)

    def diagnose(self) -> dict[str, int]:
        return {"largest_free": lib.nm_arena_largest_free(self._ptr)}

    def take_mark(self) -> tuple[int, Any]:
        mark = ffi.new("nm_arena_mark *")
        return dataplane.take_mark(self.handle, self.rewinds, address(mark)), (mark, address(mark))


class StackCore(Core):
    """Control plane of Stack."""

    __slots__ = ()
    rewinds = dataplane.REWINDS_STACK

    def __init__(self, upstream: Core, capacity: int, patterns: bool) -> None:
        self._open("stack", (upstream,), upstream.words(), capacity, patterns)

    def usable(self, size: int, align: int) -> int:
        return size

    def check(self) -> int:
        return lib.nm_stack_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_stack_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_stack_clear(self._ptr)

    def diagnose(self) -> dict[str, int]:
        return {"largest_free": lib.nm_stack_largest_free(self._ptr)}

    def take_mark(self) -> tuple[int, Any]:
        mark = ffi.new("nm_stack_mark *")
        return dataplane.take_mark(self.handle, self.rewinds, address(mark)), (mark, address(mark))


class PoolCore(Core):
    """Control plane of Pool."""

    __slots__ = ()

    def __init__(self, upstream: Core, block_size: int, count: int, grow: bool) -> None:
        self._open("pool", (upstream,), upstream.words(), block_size, count, grow)

    def usable(self, size: int, align: int) -> int:
        return lib.nm_pool_cell(self._ptr)

    def check(self) -> int:
        return lib.nm_pool_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_pool_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_pool_clear(self._ptr)


class SlabCore(Core):
    """Control plane of Slab."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Any, bins: tuple[int, ...], zero: bool) -> None:
        self._upstream = upstream
        self._open("slab", (upstream,), upstream._port, list(bins), len(bins), zero)

    def usable(self, size: int, align: int) -> int:
        usable = lib.nm_slab_usable(self._ptr, size, align)
        return usable or self._upstream.usable(size, align)

    def check(self) -> int:
        return lib.nm_slab_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_slab_hand_over(self._ptr, thread)

    def check_free(self) -> int:
        return 0

    def clear(self) -> int:
        return lib.nm_slab_trim(self._ptr)

    def trim(self) -> int:
        return lib.nm_slab_trim(self._ptr)


class HeapCore(Core):
    """Control plane of Heap."""

    __slots__ = ()

    def __init__(self, budget: BudgetCore | None, secure: bool) -> None:
        start_region()
        charged, needs = (ffi.NULL, ()) if budget is None else (budget._ptr, (budget,))
        self._open("heap", needs, charged, secure)

    def heap(self) -> Any:
        return self._ptr

    def usable(self, size: int, align: int) -> int:
        return lib.nm_heap_usable(self._ptr, size, align)

    def clear(self) -> int:
        lib.nm_heap_clear(self._ptr)
        return 0

    def trim(self) -> None:
        lib.nm_heap_trim(self._ptr)
