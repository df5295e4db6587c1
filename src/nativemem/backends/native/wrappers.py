"""The native cores of the wrappers."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._folder import PACKAGE
from ...errors import Refusal, Status
from .budget import BudgetCore
from .control import ffi, lib
from .core import Core
from .handles import own
from .loader import dataplane


class WrapperCore(Core):
    __slots__ = ("_upstream",)
    _upstream: Any

    def heap(self) -> Any:
        return self._upstream.heap()

    def usable(self, size: int, align: int) -> int:
        return self._upstream.usable(size, align)

    def check(self) -> int:
        return self._upstream.check()

    def check_free(self) -> int:
        return self._upstream.check_free()


class LimitedCore(WrapperCore):
    """Control plane of Limited."""

    __slots__ = ()

    def __init__(self, upstream: Any, budget: BudgetCore) -> None:
        self._upstream = upstream
        self._open("limited", (upstream, budget), upstream._port, budget._ptr)

    def clear(self) -> int:
        lib.nm_limited_clear(self._ptr)
        return 0


class TracedCore(WrapperCore):
    """Control plane of Traced."""

    __slots__ = ("_stacks",)
    _stacks: Any

    def __init__(self, upstream: Any, histogram: bool, zero_on_free: bool, depth: int, sample: int) -> None:
        self._upstream = upstream
        options = ffi.new("nm_traced_options *", (histogram, zero_on_free))
        needs: tuple[Any, ...] = (upstream,)
        if depth:
            stacks, handle = own("stacks", (), depth, PACKAGE)
            needs = (upstream, Needed(handle))
            options.site, options.context, options.sample = ffi.addressof(lib, "nm__stacks_site"), stacks, sample
        self._open("traced", needs, upstream._port, options[0])

    def histograms(self) -> Histograms | None:
        return _histograms(self._ptr)

    def sites(self) -> tuple[list[int], list[int]]:
        """Of each block that is known: a number for where it came from, and its size."""
        cap = 0
        while True:
            sites, sizes = ffi.new("uintptr_t[]", cap), ffi.new("size_t[]", cap)
            count = lib.nm_traced_sites(self._ptr, sites, sizes, cap)
            if count <= cap:
                return ffi.unpack(sites, count), ffi.unpack(sizes, count)
            cap = count + count // 8

    def site_of(self, block: Any) -> int:
        """The number for where a live block came from; 0 where that is not known."""
        return lib.nm_traced_site_of(self._ptr, ffi.cast("void *", block.address))

    @staticmethod
    def frames(site: int) -> tuple[tuple[str, int, str], ...]:
        return dataplane.stacks_frames(site)


class Needed(NamedTuple):
    """Something of the core that another needs."""

    handle: Any


Histograms = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def _histograms(traced: Any) -> Histograms | None:
    sizes, latencies = (ffi.new("uint64_t[]", lib.NM_HISTO_BUCKETS) for _ in range(2))
    if not lib.nm_traced_histogram(traced, sizes, latencies):
        return None
    by_size, by_time = ([(lib.nm_histo_size(i), n) for i, n in enumerate(c) if n] for c in (sizes, latencies))
    return by_size, by_time


def histograms() -> Histograms:
    """Those of all that the process has traced with a histogram."""
    return _histograms(ffi.NULL)  # type: ignore[return-value]


class FailingCore(WrapperCore):
    """Control plane of Failing."""

    __slots__ = ()

    def __init__(self, upstream: Any, n: int, sticky: bool) -> None:
        self._upstream = upstream
        self._open("failing", (upstream,), upstream._port, n, sticky)

    def arm(self, n: int, sticky: bool) -> None:
        lib.nm_failing_arm(self._ptr, n, sticky)

    def calls(self) -> tuple[int, int]:
        return lib.nm_failing_calls(self._ptr), lib.nm_failing_failed(self._ptr)


class LockedCore(WrapperCore):
    """Control plane of Locked."""

    __slots__ = ()

    def __init__(self, upstream: Any) -> None:
        self._upstream = upstream
        self._open("locked", (upstream,), upstream._port)

    def check(self) -> int:
        return 0

    check_free = check

    def thread(self) -> int:
        return lib.nm_locked_thread(self._ptr)

    def enter(self) -> int:
        return lib.nm_locked_enter(self._ptr)

    @staticmethod
    def leave(before: int) -> None:
        lib.nm_locked_leave(before)

    def contended(self) -> int:
        return lib.nm_locked_contended(self._ptr)


class VerifiedCore(WrapperCore):
    """Control plane of Verified."""

    __slots__ = ()

    def __init__(self, upstream: Any, level: str, seed: int) -> None:
        self._upstream = upstream
        self._open("verified", (upstream,), upstream._port, getattr(lib, f"NM_VERIFY_{level}"), seed)

    def seal(self, block: Any) -> None:
        self._answer(lib.nm_verified_seal(self._ptr, ffi.cast("void *", block.address)))

    def unseal(self, block: Any) -> None:
        self._answer(lib.nm_verified_unseal(self._ptr, ffi.cast("void *", block.address)))

    @staticmethod
    def _answer(status: int) -> None:
        if status:
            raise Refusal(status)

    def verify(self) -> tuple[int, tuple[int, int] | None]:
        """How many were compared; None, or address and size of a block that is damaged (0: the ledger is)."""
        found = ffi.new("nm_verified_finding *")
        if lib.nm_verified_verify(self._ptr, found) == Status.OK:
            return found.compared, None
        return found.compared, (int(ffi.cast("uintptr_t", found.ptr)), found.size)

    def counts(self) -> tuple[int, int]:
        """Comparisons, and those that found something."""
        return lib.nm_verified_checks(self._ptr), lib.nm_verified_failures(self._ptr)
