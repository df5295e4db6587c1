"""The native backend.

``Allocator`` and ``Block`` are C types (the data plane); the ``*Core`` classes reach the C structures
through cffi (the control plane). A core's handle owns its structure and holds the handles of those that it
takes memory from or charges to, so that whatever order Python drops them in, upstreams go last.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, NamedTuple, NoReturn

from ... import errors
from ..._folder import PACKAGE
from ...budgets.pressure import ask, known, name_of, tell
from ...config import BudgetOptions
from ...settings import reserve_of
from .control import address, ffi, lib
from .loader import dataplane, start_region

name = "native"
#: what not every backend can do; pinned by a test
features = frozenset({"c-port", "engine", "resize-keeps-address", "stale-buffer-raises"})
Allocator = dataplane.Allocator
Block = dataplane.Block
finish = dataplane.own_hot_methods
packed = dataplane
finish_packed = dataplane.packed_own_methods
cdata_new = dataplane.cdata_new
#: of the facade's classes, in C: nothing may come between them and the `with` they serve
methods = {"Budget": {"__enter__": dataplane.scope_enter, "__exit__": dataplane.scope_exit}}


def _own(kind: str, needs: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Makes a structure: the pointer, and a handle that destroys it when Python drops that, and keeps ``needs``
    until after that. The handle comes first: no failure may come between the structure and who destroys it.

    Raises :class:`Refusal` where there is none.
    """
    handle = dataplane.own(address(ffi.addressof(lib, f"nm_{kind}_destroy")), needs)
    slot = ffi.cast("void **", handle.slot)
    with_lock = getattr(dataplane, f"own_{kind}", None)  # not through cffi
    made = with_lock(handle.slot, *args) if with_lock else getattr(lib, f"own_{kind}")(slot, *args)
    if not made:
        f = lib.nm_last_failure()
        raise errors.Refusal(f.status, f.requested, f.used, f.limit)
    return ffi.cast(f"nm_{kind} *", slot[0]), handle


#: by address, to name the budget that refused
_budgets: weakref.WeakValueDictionary[int, BudgetCore] = weakref.WeakValueDictionary()


class BudgetCore:
    """Control plane of one budget."""

    __slots__ = ("__weakref__", "_keeps_reserve", "_owner", "_parent", "_ptr", "handle")
    _ptr: Any
    handle: Any

    def __init__(self, limit: int, parent: BudgetCore | None, options: BudgetOptions) -> None:
        up, needs = (ffi.NULL, ()) if parent is None else (parent._ptr, (parent.handle,))
        fields = options._asdict()
        if options.shared is None:
            fields["shared"] = ffi.NULL
        else:
            fields["shared"], needs = options.shared._ptr, (*needs, options.shared.handle)
        self._ptr, self.handle = _own("budget", needs, limit, up, ffi.new("nm_budget_options *", fields))
        self._owner: Any = None
        self._keeps_reserve = False
        self._parent = parent
        _budgets[address(self._ptr)] = self

    def owner(self) -> Any:
        """What a scope is of. Raises :class:`NativeUnavailable` where the engine is not on."""
        if not any(dataplane.engine_state()[:2]):
            raise errors.NativeUnavailable(
                "the engine is not on, so nothing that the code allocates would be charged",
                suggestion="call nativemem.install() first",
            )
        if self._owner is None:
            core: BudgetCore | None = self
            while core is not None:  # each of them may refuse
                core._keeps_reserve = True
                core._set_reserve()
                core = core._parent
            try:
                made = dataplane.scope_owner(self.handle, address(self._ptr), self._asks())
            except MemoryError:
                raise errors.OutOfMemory("no memory for the control structures of a scope") from None
            # another thread may have come first; no other runs between the look and the assignment
            self._owner = self._owner or made
        return self._owner

    def misuse(self, kind: int, another: int, contexts: Any, ended: bool, error: Any) -> NoReturn:
        """Raises the :class:`ScopeError` that :func:`raise_scope` makes of what the data plane found;
        ``another`` is the address of the budget that is open inside, or 0."""
        inner = name_of(_budgets.get(another)) if another else None
        errors.raise_scope(name_of(self), kind, inner, contexts, ended, error)

    def charge(self, n: int) -> bool:
        return lib.nm_budget_charge(self._ptr, n)

    def release(self, n: int) -> int:
        return lib.nm_budget_release(self._ptr, n)

    def set_limit(self, limit: int) -> None:
        lib.nm_budget_set_limit(self._ptr, limit)
        if self._keeps_reserve:
            self._set_reserve()

    def _asks(self) -> bool:
        core: BudgetCore | None = self
        while core is not None:
            budget = known(core)
            if budget is not None and budget._on_pressure is not None:
                return True
            core = core._parent
        return False

    def _set_reserve(self) -> None:
        lib.nm__budget_hold_back(self._ptr, reserve_of(lib.nm_budget_limit(self._ptr)))

    def seal(self) -> None:
        lib.nm_budget_lock(self._ptr)

    def sealed(self) -> bool:
        return lib.nm_budget_is_locked(self._ptr)

    def shared_used(self) -> int:
        return lib.nm_budget_shared_used(self._ptr)

    def pressure(self) -> int:
        return lib.nm_budget_pressure(self._ptr)

    def lend(self, to: BudgetCore, n: int) -> bool:
        # what else moves limits is done within microseconds, unless a debugger stands on it
        status = lib.nm_budget_lend(self._ptr, to._ptr, n, 10**9)
        if status == lib.NM_TIMED_OUT:
            raise errors.Refusal(status, n)
        return not status

    def rebalance(self) -> list[tuple[Any, Any, int]]:
        out: list[tuple[Any, Any, int]] = []
        moves = ffi.new("nm_move[256]")
        while count := lib.nm_budget_rebalance(self._ptr, moves, 256):
            for move in moves[0:count]:
                cores = _budgets.get(address(getattr(move, "from"))), _budgets.get(address(move.to))
                out.append((*cores, move.bytes))
        return out

    def check(self) -> str | None:
        broken = lib.nm_budget_check(self._ptr)
        return None if broken == ffi.NULL else ffi.string(broken).decode()

    def numbers(self) -> tuple[int, int, int, int]:
        b = self._ptr
        used = lib.nm_budget_used(b)
        return used, lib.nm_budget_peak(b), lib.nm_budget_limit(b), lib.nm_budget_denied(b)

    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        return denial_of(self._ptr)

    def uncount(self, refuser: BudgetCore) -> None:
        lib.nm__budget_uncount(self._ptr, refuser._ptr)


def denial_of(budget: Any) -> tuple[int, int, int, Any, int, int] | None:
    out = ffi.new("nm_denial *")
    if not lib.nm_budget_last_denial(budget, out):
        return None
    refuser = _budgets.get(address(out.refuser))
    return out.requested, out.used, out.limit, refuser, out.time_ns, out.kind


def denial_of_engine() -> tuple[int, int, int, Any, int, int] | None:
    """As :func:`denial_of`, of the process limit."""
    return denial_of(lib.nm_engine_budget())


def crossing() -> tuple[Any, int, bool] | None:
    """The next level that a budget came to from below and that nobody was told of: its core, the level, whether
    there was no pressure before. The core is None where nobody has the budget any more."""
    budget, level, was_normal = ffi.new("const nm_budget **"), ffi.new("int *"), ffi.new("bool *")
    if not lib.nm_budget_crossed(budget, level, was_normal):
        return None
    return _budgets.get(address(budget[0])), level[0], was_normal[0]


def refusal() -> tuple[BudgetCore, BudgetCore] | None:
    """Of this thread's last charge, once, if a limit refused it: the budget that was to be charged, and the one
    that stood in the way."""
    out = ffi.new("nm__refusal *")
    if not lib.nm__budget_take_refusal(out):
        return None
    charged, refuser = _budgets.get(address(out.charged)), _budgets.get(address(out.refuser))
    return None if charged is None or refuser is None else (charged, refuser)


#: calls a function at nobody's charge
aside = dataplane.scope_aside


def _ask(charged: int, refuser: int, asked: list[Any] | None) -> list[Any] | None:
    core = _budgets.get(charged)
    return None if core is None else ask(aside, core, _budgets.get(refuser), asked)


def array_budget(address: int) -> BudgetCore | None:
    """The core of the budget that an array is charged to."""
    return _budgets.get(dataplane.scope_array_budget(address))


dataplane.set_hooks(
    errors.coerce_layout,
    errors.raise_status,
    errors.raise_block,
    errors.raise_exports,
    functools.partial(tell, crossing),
    _ask,
)


class _Core:
    """What the cores of all allocators share."""

    __slots__ = ("_port", "_ptr", "handle")
    #: which verbs drop several blocks at once, for the data plane
    rewinds = dataplane.REWINDS_NEVER
    _port: Any
    _ptr: Any
    handle: Any

    def _open(self, kind: str, needs: tuple[Any, ...], *args: Any) -> None:
        # a list, because CPython loses references where it has no memory to shorten a tuple made of a generator
        self._ptr, self.handle = _own(kind, tuple([core.handle for core in needs]), *args)
        self._port = getattr(lib, f"nm_{kind}_port")(self._ptr)

    def port(self) -> tuple[Any, int, int, int]:
        """The handle, the port's two words and ``rewinds``, for the data plane."""
        return self.handle, *self.words(), self.rewinds

    def words(self) -> tuple[int, int]:
        """The port's two."""
        return address(self._port.self), address(self._port.methods)

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        s = ffi.new("nm_stats *")
        self._port.methods.stats(self._port.self, s)
        return s.used, s.peak, s.reserved, s.limit, s.total, s.live, s.count, s.frees, s.failures

    def check(self) -> int:
        return 0

    def check_free(self) -> int:
        return self.check()

    def clear(self) -> int:
        return 0

    def heap(self) -> Any:
        """The heap that blocks lie in, or NULL."""
        return ffi.NULL

    def hand_over(self, thread: Any) -> int:
        """Makes what only one thread may use another's; for all others nothing changes."""
        return 0


class SystemCore(_Core):
    """Control plane of System."""

    __slots__ = ()

    def __init__(self) -> None:
        self._open("system", ())

    def usable(self, size: int, align: int) -> int:
        return size


class ArenaCore(_Core):
    """Control plane of Arena."""

    __slots__ = ()
    rewinds = dataplane.REWINDS_ARENA

    def __init__(self, upstream: _Core, hint: int, cap: int, grow: bool, zero: bool, patterns: bool) -> None:
        self._open("arena", (upstream,), upstream._port, (hint, cap, grow, zero, patterns))

    def usable(self, size: int, align: int) -> int:
        return size

    def check(self) -> int:
        return lib.nm_arena_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_arena_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_arena_clear(self._ptr)

    def largest_free(self) -> int:
        return lib.nm_arena_largest_free(self._ptr)

    def take_mark(self) -> tuple[int, Any]:
        mark = ffi.new("nm_arena_mark *")
        return lib.nm_arena_take_mark(self._ptr, mark), (mark, address(mark))


class StackCore(_Core):
    """Control plane of Stack."""

    __slots__ = ()
    rewinds = dataplane.REWINDS_STACK

    def __init__(self, upstream: _Core, capacity: int, patterns: bool) -> None:
        self._open("stack", (upstream,), upstream.words(), capacity, patterns)

    def usable(self, size: int, align: int) -> int:
        return size

    def check(self) -> int:
        return lib.nm_stack_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_stack_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_stack_clear(self._ptr)

    def take_mark(self) -> tuple[int, Any]:
        mark = ffi.new("nm_stack_mark *")
        return lib.nm_stack_take_mark(self._ptr, mark), (mark, address(mark))


class PoolCore(_Core):
    """Control plane of Pool."""

    __slots__ = ()

    def __init__(self, upstream: _Core, block_size: int, count: int, grow: bool) -> None:
        self._open("pool", (upstream,), upstream.words(), block_size, count, grow)

    def usable(self, size: int, align: int) -> int:
        return lib.nm_pool_cell(self._ptr)

    def check(self) -> int:
        return lib.nm_pool_check_thread(self._ptr)

    def hand_over(self, thread: int) -> int:
        return lib.nm_pool_hand_over(self._ptr, thread)

    def clear(self) -> int:
        return lib.nm_pool_clear(self._ptr)


class SlabCore(_Core):
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


class HeapCore(_Core):
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


class _WrapperCore(_Core):
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


class LimitedCore(_WrapperCore):
    """Control plane of Limited."""

    __slots__ = ()

    def __init__(self, upstream: Any, budget: BudgetCore) -> None:
        self._upstream = upstream
        self._open("limited", (upstream, budget), upstream._port, budget._ptr)

    def clear(self) -> int:
        lib.nm_limited_clear(self._ptr)
        return 0


class TracedCore(_WrapperCore):
    """Control plane of Traced."""

    __slots__ = ("_stacks",)
    _stacks: Any

    def __init__(self, upstream: Any, histogram: bool, zero_on_free: bool, depth: int, sample: int) -> None:
        self._upstream = upstream
        options = ffi.new("nm_traced_options *", (histogram, zero_on_free))
        needs: tuple[Any, ...] = (upstream,)
        if depth:
            stacks, handle = _own("stacks", (), depth, PACKAGE)
            needs = (upstream, _Needed(handle))
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
        return lib.nm_traced_site_of(self._ptr, ffi.cast("void *", block.address))  # type: ignore[no-any-return]

    @staticmethod
    def frames(site: int) -> tuple[tuple[str, int, str], ...]:
        return dataplane.stacks_frames(site)


class _Needed(NamedTuple):
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


class FailingCore(_WrapperCore):
    """Control plane of Failing."""

    __slots__ = ()

    def __init__(self, upstream: Any, n: int, sticky: bool) -> None:
        self._upstream = upstream
        self._open("failing", (upstream,), upstream._port, n, sticky)

    def arm(self, n: int, sticky: bool) -> None:
        lib.nm_failing_arm(self._ptr, n, sticky)

    def calls(self) -> tuple[int, int]:
        return lib.nm_failing_calls(self._ptr), lib.nm_failing_failed(self._ptr)


class LockedCore(_WrapperCore):
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


class PlainCore:
    """Control plane of CPort: malloc's calls on a counted ``upstream``. ``hold`` is what keeps that from being
    reset or closed. Until ``close`` nothing of it goes, whoever drops it: C may have its addresses."""

    __slots__ = ("_kept", "_methods", "_ptr", "_self", "_traced")
    _kept: tuple[Any, Any] | None

    def __init__(self, upstream: Any, hold: Any) -> None:
        self._traced = TracedCore(upstream, False, False, 0, 0)
        self._ptr, handle = _own("plain", (self._traced.handle,), self._traced._port, upstream.heap())
        self._self, self._methods = self._traced._port.self, self._traced._port.methods
        self._kept = (handle, hold)
        dataplane.keep(self._kept)

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        return self._traced.stats()

    def is_idle(self) -> bool:
        """Whether C has nothing of it. Takes no memory."""
        return lib.own_is_idle(self._self, self._methods)

    def words(self) -> tuple[int, int]:
        """Of the counted port, where sizes come back."""
        return self._traced.words()

    def close(self) -> Any:
        """Returns ``hold``; None the second time."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        dataplane.let_go(kept)  # with the last reference, here, its handle ends the structure
        return kept[1]

    def context(self) -> Any:
        return ffi.cast("void *", self._ptr)

    def calls(self) -> tuple[Any, Any, Any, Any, Any]:
        """malloc, realloc, free, calloc, usable_size."""
        c = self._placed(lib.nm_plain_calls_of(self._ptr))
        return c.malloc, c.realloc, c.free, c.calloc, c.usable_size

    def expat(self) -> Any:
        return self._placed(lib.nm_plain_calls_of(self._ptr))

    def sqlite(self) -> Any:
        return self._placed(lib.nm_plain_sqlite_of(self._ptr))

    @staticmethod
    def _placed(found: Any) -> Any:
        if found == ffi.NULL:
            raise errors.Refusal(lib.NM_CAPACITY_EXCEEDED, 1, lib.NM_PLAIN_PLACES, lib.NM_PLAIN_PLACES)
        return found

    def lzma(self) -> Any:
        return lib.nm_plain_lzma_of(self._ptr)

    def freetype(self) -> Any:
        return lib.nm_plain_freetype_of(self._ptr)

    lua, zalloc, bzalloc, zfree, alloc = (
        ffi.addressof(lib, f"nm_plain_{name}") for name in ("lua", "zalloc", "bzalloc", "zfree", "alloc")
    )


class MemlibCore:
    """Control plane of what :mod:`nativemem.memlib` takes from: ``upstream``, a core, or memlib's own heap. It is
    memlib's from now on."""

    __slots__ = ("_plain", "_port", "handle", "headed")
    rewinds = dataplane.REWINDS_NEVER

    def __init__(self, upstream: Any = None, hold: Any = None) -> None:
        start_region()
        #: whether something stands in front of a block
        self.headed = upstream is not None and upstream.heap() == ffi.NULL
        self._plain = None if upstream is None else PlainCore(upstream, hold)
        try:
            lib.nm_memlib_use(ffi.NULL if self._plain is None else self._plain._ptr)
            now = lib.nm_memlib_now()
            if now == ffi.NULL:
                raise errors.Refusal(lib.NM_OUT_OF_MEMORY)
            self._port = lib.nm_plain_port(now)
            self.handle = dataplane.own(0, ())  # of nothing: neither is Python's to end
        except BaseException:  # nobody else knows of what PlainCore keeps
            self.end()
            raise

    def port(self) -> tuple[Any, int, int, int]:
        return self.handle, address(self._port.self), address(self._port.methods), self.rewinds

    def usable(self, size: int, align: int) -> int:
        return size

    stats, check, check_free, clear = _Core.stats, _Core.check, _Core.check_free, _Core.clear
    hand_over = _Core.hand_over

    @staticmethod
    def pointer(thing: Any) -> Any:
        """``thing`` as a ``void *``, if it is a pointer of cffi's."""
        is_one = isinstance(thing, ffi.CData) and ffi.typeof(thing).kind == "pointer"
        return ffi.cast("void *", thing) if is_one else None

    number = staticmethod(address)  # of a pointer

    @staticmethod
    def at(number: int) -> Any:
        """A ``void *``."""
        return ffi.cast("void *", number)

    def trim(self) -> None:
        lib.nm_mem_uninit()

    def end(self) -> None:
        """Memlib's own heap takes its place."""
        lib.nm_memlib_use(ffi.NULL)
        hold = None if self._plain is None else self._plain.close()
        if hold is not None:
            hold.release()


this_thread = lib.nm_this_thread


def Intern(allocator: Any, shards: int, hold: Any) -> Any:
    """A table of :class:`nativemem.structures.InternTable`, or the failure as a tuple. ``hold`` keeps ``allocator``
    from being closed, and goes after the table."""
    core = allocator._core
    return dataplane.intern_new(core.words(), shards, (hold, core.handle))


class Utilities:
    """The core's utilities; arguments were checked by the facade."""

    @staticmethod
    def align_up(n: int, align: int) -> int | None:
        out = ffi.new("size_t *")
        return out[0] if lib.nm_align_up(n, align, out) else None

    @staticmethod
    def next_power_of_two(n: int) -> int | None:
        out = ffi.new("size_t *")
        return out[0] if lib.nm_next_power_of_two(n, out) else None

    align_down = lib.nm_align_down
    padding_needed = lib.nm_padding_needed
    is_aligned = lib.nm_is_aligned

    @staticmethod
    def copy(to: memoryview, source: memoryview) -> None:
        lib.nm_copy(_bytes(to), _bytes(source), len(source))

    @staticmethod
    def fill(to: memoryview, byte: int) -> None:
        lib.nm_fill(_bytes(to), byte, len(to))

    @staticmethod
    def compare(a: memoryview, b: memoryview) -> int:
        n = min(len(a), len(b))
        return lib.nm_compare(_bytes(a), _bytes(b), n) or (len(a) > len(b)) - (len(a) < len(b))

    @staticmethod
    def secure_zero(to: memoryview) -> None:
        lib.nm_secure_zero(_bytes(to), len(to))

    @staticmethod
    def equal_constant_time(a: memoryview, b: memoryview) -> bool:
        return len(a) == len(b) and lib.nm_equal_constant_time(_bytes(a), _bytes(b), len(a))


def _bytes(view: memoryview) -> Any:
    return ffi.from_buffer("unsigned char[]", view)
