"""The engine's control plane."""

from __future__ import annotations

from ._load import address, dataplane, ffi, lib, start_region
from ._settings import Settings, reserve_of
from .errors import OutOfMemory

__all__ = ["Engine"]


class Engine:
    """The engine's control plane: its heap, its limit, and what they have to tell."""

    @staticmethod
    def start() -> None:
        """Makes the heap. Raises :class:`OutOfMemory` where the system refuses the address space."""
        start_region()
        if lib.nm_engine_start(Settings.from_env().secure):
            raise OutOfMemory("no memory for the engine's control structures")

    @staticmethod
    def started() -> bool:
        """Whether there is a heap."""
        return bool(lib.nm_engine_heap() != ffi.NULL)

    objects = staticmethod(dataplane.engine_objects)
    raw = staticmethod(dataplane.engine_raw)
    hook_arrays = staticmethod(dataplane.engine_hook_arrays)
    arrays = staticmethod(dataplane.engine_arrays)
    lift = staticmethod(dataplane.engine_lift)
    state = staticmethod(dataplane.engine_state)

    @staticmethod
    def set_limit(limit: int) -> None:
        lib.nm_heap_set_limit(lib.nm_engine_heap(), limit, reserve_of(limit))

    @staticmethod
    def budget() -> tuple[int, int, int, int]:
        """used, peak, limit, denied, in bytes."""
        b = lib.nm_engine_budget()
        used = lib.nm_budget_used(b)
        return used, lib.nm_budget_peak(b), lib.nm_budget_limit(b), lib.nm_budget_denied(b)

    @staticmethod
    def sizes() -> list[tuple[int, int]]:
        """(size, blocks ever served), ascending: cells exactly by bin, spans by power of two."""
        census = ffi.new("nm_census *")
        dataplane.engine_census(address(census))
        cells = [(lib.nm_bin_size(i), n) for i, n in enumerate(census.allocations) if n]
        spans = [(1 << i, n) for i, n in enumerate(census.span_allocations) if n]
        return sorted(cells + spans)

    @staticmethod
    def owns(address: int) -> bool:
        return lib.nm_region_owns(ffi.cast("void *", address))
