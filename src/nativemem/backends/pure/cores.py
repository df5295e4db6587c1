"""The control plane and the bookkeeping of the pure backend's allocators.

A core decides whether a block may be had, counts it, and calls ``make`` for its memory at the moment when the
native core would take it. A refusal is the exception :class:`Refusal`, which never leaves the backend.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ...budgets.pressure import name_of, unraisable
from ...config import BudgetOptions, Settings
from ...errors import SIZE_MAX, Refusal, Status, raise_scope
from ...wrappers.sites import Place, here
from .. import forks as _forks
from ..selection import unavailable
from .memory import take


class _Lock:
    """The backend's one lock; see dataplane.py. The collector is off while it is held.

    A finaliser that the collector runs may wait for a thread (to write a log, say) that in turn waits for
    this lock; then neither would go on.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: how often this thread has entered
        self.depth = 0
        self._resume = False
        # of its own: views are released also where the interpreter is at its end, and has taken modules apart
        self._is_enabled, self._enable, self._disable = gc.isenabled, gc.enable, gc.disable
        #: what finalisers left to do; only the thread that has the lock touches it
        self._late: collections.deque[tuple[Callable[[Any], object], Any]] = collections.deque()
        #: At which depth a finaliser does its work. Deeper, it has come into the midst of a call of this thread's:
        #: a signal handler let go of something; or another thread did, and a free-threaded interpreter has the
        #: thread that made it finalise it, wherever that is. What the call is changing is not to be changed under
        #: it: the finaliser is put off until its end.
        self.at_once = 1
        _forks.hold(self._lock, inner=True)

    # Here and in __exit__ nothing is allocated while the lock is held and the collector on.
    def __enter__(self) -> None:
        try:
            self._lock.acquire()
            self.depth += 1  # first: a profiler's or a signal's code may come in at the calls below
            if self.depth == 1:
                self._resume = self._is_enabled()
                self._disable()
                if self._late:
                    self._catch_up()
        except BaseException:  # an interrupt
            if self._lock._is_owned():  # type: ignore[attr-defined]
                self.depth = max(self.depth, 1)
                self.__exit__()
            raise

    # not *error: where there is no memory for the tuple the lock would stay held
    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        try:
            if self._late and self.depth == 1:
                self._catch_up()
        finally:
            if self.depth == 1 and self._resume:
                self._enable()
            self.depth -= 1
            self._lock.release()

    def put_off(self, call: Callable[[Any], object], thing: Any) -> bool:
        """Has ``call(thing)`` done when this thread leaves. False: there is no memory for that, and now is better
        than never."""
        try:
            self._late.append((call, thing))
        except MemoryError:
            return False
        return True

    def finalise(self, call: Callable[[], object]) -> None:
        """Calls it with the lock, from a finaliser; it may be put off."""
        with self:
            if self.depth <= self.at_once or not self.put_off(self.finalise, call):
                call()

    def _catch_up(self) -> None:
        self.at_once = 2
        try:
            while self._late:
                self._do_next()
        finally:
            self.at_once = 1

    def _do_next(self) -> None:
        """What it lets go of has gone when it returns; that may put off more."""
        call, thing = self._late.popleft()
        try:
            call(thing)
        except Exception:  # a finaliser's, and not of the call that it meets here
            unraisable("Exception ignored in a finaliser that had waited", call)


lock = _Lock()

#: refusals that count as failures: want of memory, not misuse
_WANT = (
    Status.OUT_OF_MEMORY,
    Status.EXHAUSTED,
    Status.OVER_BUDGET,
    Status.POOL_EXHAUSTED,
    Status.CAPACITY_EXCEEDED,
)

Numbers = tuple[int, int, int, int, int, int, int, int, int]
Make = Callable[[], Any]
F = TypeVar("F", bound=Callable[..., Any])

_SUPERBLOCK = 65536
_CHUNK_ALIGN = 4096


def locked(method: F) -> F:
    """Of a method that has the lock."""

    @functools.wraps(method)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return method(*args, **kwargs)

    return inside  # type: ignore[return-value]


_LEVELS = 4


class BudgetCore:
    """A limit on bytes, with ancestors."""

    def __init__(self, limit: int, parent: BudgetCore | None, options: BudgetOptions) -> None:
        self._o = options._replace(warn=options.warn or 1.0, critical=options.critical or 1.0)
        self._parent = parent
        self._used = self._peak = self._denied = self._in_shared = self._level = 0
        self._locked = False
        # names the refuser unless it is this one: a cycle would keep the charge until a collection
        self._last: tuple[int, int, int, BudgetCore | None, int, int] | None = None
        self._children: dict[int, weakref.ref[BudgetCore]] = {}
        with lock:
            self._limit_is(limit, self._with_overcommit(limit))
            if parent is not None:
                parent._children[id(self)] = weakref.ref(self)

    def __del__(self) -> None:
        # else memory ran out while it was made; or the interpreter is at its end, and has taken modules apart
        if hasattr(self, "_children") and lock is not None:
            lock.finalise(self._end)

    def _end(self) -> None:
        self._discharge(self._parent, self._used)
        self._discharge(self._o.shared, self._in_shared)
        if self._parent is not None:
            self._parent._children.pop(id(self), None)
        # A collection finalises what it finds in any order: what is charged here may be released later, and is then
        # to be released no further.
        self._used = self._in_shared = 0
        self._parent, self._o = None, self._o._replace(shared=None)

    # --- limits and levels

    def _limit_is(self, limit: int, allowed: int) -> None:
        self._limit, self._allowed = limit, allowed
        self._set_level()

    def _with_overcommit(self, limit: int) -> int:
        return min(limit + int(self._o.overcommit * limit), SIZE_MAX)

    def _from(self, level: int) -> int:
        """The bytes in use at which a level begins."""
        if level == 3:
            return self._limit
        part = (self._o.warn if level == 1 else self._o.critical) * self._limit
        return max(min(math.ceil(part), self._limit), 1)

    def pressure(self) -> int:
        level = _LEVELS - 1
        while level and self._used < self._from(level):
            level -= 1
        return level

    def _set_level(self) -> None:
        before, self._level = self._level, self.pressure()
        if self._level > before:
            pressed.append((weakref.ref(self), self._level, before == 0))

    @locked
    def set_limit(self, limit: int) -> None:
        """Sets the limit."""
        self._limit_is(limit, self._with_overcommit(limit))

    @locked
    def seal(self) -> None:
        self._locked = True

    def sealed(self) -> bool:
        return self._locked

    def shared_used(self) -> int:
        return self._in_shared

    # --- lending

    @locked
    def lend(self, to: BudgetCore, n: int) -> bool:
        """Moves ``n`` of the limit to another's, where so much is unused."""
        if to is self:
            return True
        least = max(self._o.minimum, 1)
        if self._limit - n < least or self._allowed - self._used < n or to._allowed + n > SIZE_MAX:
            return False
        self._limit_is(self._limit - n, self._allowed - n)
        to._limit_is(to._limit + n, to._allowed + n)
        return True

    def _siblings(self) -> list[BudgetCore]:
        """Its children, newest first."""
        children = [child() for child in reversed(list(self._children.values()))]
        return [child for child in children if child is not None]

    def _comfortable(self) -> int:
        """The least limit at which what is used is below the warn level."""
        return int(self._used / self._o.warn) + 1

    def _spare(self) -> int:
        """What an idle budget can do without."""
        keep = max(self._comfortable(), self._o.minimum)
        if keep >= self._limit or self.pressure():
            return 0
        return max(min(self._limit - keep, self._allowed - self._used), 0)

    def _gather(self, givers: list[BudgetCore], need: int, moves: list[tuple[Any, Any, int]]) -> int:
        """Takes up to ``need`` bytes of limit from the givers, the last first; who has no more leaves the list."""
        total = 0
        while givers and total < need:
            giver = givers[-1]
            n = 0 if giver is self else min(giver._spare(), need - total)
            if n and giver.lend(self, n):
                moves.append((giver, self, n))
                total += n
            if total < need:
                givers.pop()
        return total

    @locked
    def rebalance(self) -> list[tuple[Any, Any, int]]:
        """Among its children, from the idle to the pressed; the moves."""
        moves: list[tuple[Any, Any, int]] = []
        children = self._siblings()
        givers = children[::-1]
        for child in children:
            need = child._comfortable() - child._limit
            if need > 0 and child.pressure():
                child._gather(givers, need, moves)
        return moves

    def _take_from_siblings(self, n: int) -> bool:
        """All that is missing, or nothing."""
        assert self._parent is not None
        moves: list[tuple[Any, Any, int]] = []
        need = n - (self._allowed - self._used)
        if self._gather(self._parent._siblings()[::-1], need, moves) >= need:
            return True
        for giver, _, bytes_ in reversed(moves):
            self.lend(giver, bytes_)
        return False

    # --- charging

    @staticmethod
    def _discharge(budget: BudgetCore | None, n: int) -> None:
        while budget is not None:
            # no lower than zero: what came through here may have been released there as well
            budget._used = max(budget._used - n, 0)
            budget._set_level()
            budget = budget._parent

    def _denies(self, n: int) -> int | None:
        """Why it refuses by itself: 0 the limit, 1 the largest charge, 2 it is locked; None: it does not."""
        if n and self._locked:
            return 2
        if self._o.max_single and n > int(self._o.max_single * self._limit):
            return 1
        if self._used + n <= self._allowed:
            return None
        asks = self._parent is not None and self._parent._o.auto_rebalance
        return None if asks and self._take_from_siblings(n) else 0

    def _charge(self, n: int) -> tuple[BudgetCore, int] | None:
        """Charges the whole line; or nothing, and says who refused, and why."""
        budget: BudgetCore | None = self
        while budget is not None:
            kind = budget._denies(n)
            if kind is not None:
                return budget, kind
            budget = budget._parent
        budget = self
        while budget is not None:
            budget._used += n
            budget = budget._parent
        return None

    def owner(self) -> None:
        """None under the kill switch: a scope is nothing then. Else raises :class:`NativeUnavailable`."""
        if not Settings.from_env().disable:
            raise unavailable("a scope")

    def misuse(self, kind: int, another: int, contexts: Any, ended: bool, error: Any) -> None:
        """As :func:`raise_scope`: here no scope is ever open. Nothing under the kill switch."""
        if not Settings.from_env().disable:
            raise_scope(name_of(self), kind, None, contexts, ended, error)

    @locked
    def charge(self, n: int) -> bool:
        """Charges ``n`` bytes here and in every ancestor, or nowhere."""
        done = self._hold(n)
        if done:
            self._settle()
        return done

    def _settle(self) -> None:
        for start in (self, self._o.shared):
            budget = start
            while budget is not None:
                if budget._used > budget._peak:
                    budget._peak = budget._used
                budget._set_level()
                budget = budget._parent

    def _hold(self, n: int) -> bool:
        """A charge that shows in peak and pressure only once it is settled."""
        shared = self._o.shared
        if shared is not None and n <= self._o.shared_max and not self._locked and shared._charge(n) is None:
            self._in_shared += n
            return True
        refusal = self._charge(n)
        if refusal is None:
            return True
        refuser, kind = refusal
        numbers, now = (n, refuser._used, refuser._allowed), time.time_ns()
        if refuser is not self:
            refuser._last = (*numbers, None, now, kind)
            refuser._denied += 1
        self._last = (*numbers, None if refuser is self else refuser, now, kind)
        self._denied += 1
        _refused.last = None if kind else (weakref.ref(self), weakref.ref(refuser))
        return False

    @locked
    def uncount(self, refuser: BudgetCore) -> None:
        """A charge that ``refuser`` refused is tried again: it is denied no longer."""
        self._denied -= 1
        if refuser is not self:
            refuser._denied -= 1

    @locked
    def release(self, n: int) -> int:
        """Gives ``n`` bytes back; UNDERFLOW, nothing changed, if more than are used."""
        back = min(self._in_shared, n)
        if n - back > self._used:
            return Status.UNDERFLOW
        self._in_shared -= back
        self._discharge(self._o.shared, back)
        self._discharge(self, n - back)
        return Status.OK

    @locked
    def numbers(self) -> tuple[int, int, int, int]:
        """used, peak, limit, denied."""
        return self._used, self._peak, self._limit, self._denied

    @locked
    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        """requested, used, allowed, the core that refused, time in ns, why."""
        if self._last is None:
            return None
        requested, used, limit, refuser, when, kind = self._last
        return requested, used, limit, refuser or self, when, kind

    @locked
    def check(self) -> str | None:
        """None, or the invariant that does not hold."""
        budget: BudgetCore | None = self
        while budget is not None:
            if budget._peak < budget._used:
                return "used is above peak"
            if budget._used < sum(child._used for child in budget._siblings()):
                return "a parent uses less than its children"
            if budget._level != budget.pressure():
                return "the level is not that of what is used"
            budget = budget._parent
        return None

    def _hold_or_refuse(self, n: int) -> None:
        if not self._hold(n):
            assert self._last is not None
            raise Refusal(Status.OVER_BUDGET, *self._last[:3])


#: levels that budgets came to and that nobody was told of: the budget, the level, whether it had no pressure before
pressed: collections.deque[tuple[weakref.ref[BudgetCore], int, bool]] = collections.deque()


def crossing() -> tuple[Any, int, bool] | None:
    """The next of them."""
    try:
        budget, level, was_normal = pressed.popleft()
    except IndexError:
        return None
    return budget(), level, was_normal


class _Refused(threading.local):
    #: the budget that was to be charged, and the one whose limit stood in the way
    last: tuple[weakref.ref[BudgetCore], weakref.ref[BudgetCore]] | None = None


_refused = _Refused()


def refusal() -> tuple[BudgetCore, BudgetCore] | None:
    """Of this thread's last charge, once, if a limit refused it: the budget that was to be charged, and the one
    that stood in the way."""
    last, _refused.last = _refused.last, None
    if last is None:
        return None
    charged, refuser = last[0](), last[1]()
    return None if charged is None or refuser is None else (charged, refuser)


def aside(call: Callable[[], Any]) -> Any:
    """Calls a function at nobody's charge: there are no scopes here."""
    return call()


class _Counted:
    """The counters that every core has."""

    _wipes: bool = False  # whether memory is zeroed before it is given up

    def __init__(self) -> None:
        self._used = self._peak = self._total = self._live = 0
        self._count = self._frees = self._failures = 0

    @locked
    def stats(self) -> Numbers:
        """used, peak, reserved, limit, total, live, count, frees, failures."""
        return (
            self._used,
            self._peak,
            self._reserved(),
            self._limit(),
            self._total,
            self._live,
            self._count,
            self._frees,
            self._failures,
        )

    def _reserved(self) -> int:
        return self._used

    def _limit(self) -> int:
        return 0

    def check(self) -> int:
        """OK, or WRONG_THREAD."""
        return Status.OK

    def hand_over(self, thread: _Thread) -> int:
        """Makes what only one thread may use another's; for all others nothing changes."""
        return Status.OK

    def check_free(self) -> int:
        """OK, or WRONG_THREAD where this thread may not give a block back."""
        return self.check()

    def clear(self) -> int:
        """Gives everything back."""
        return Status.OK

    def unwind(self) -> None:
        """Blocks are about to be dropped together."""

    def _destroy(self) -> None:
        """The allocator was collected; nobody can call it any more."""

    def _count_alloc(self, size: int) -> None:
        self._used += size
        self._total += size
        self._live += 1
        self._count += 1
        if self._used > self._peak:
            self._peak = self._used

    def _count_free(self, size: int) -> None:
        self._used -= size
        self._live -= 1
        self._frees += 1

    def _count_resize(self, old: int, size: int) -> None:
        self._used += size - old
        if size > old:
            self._total += size - old
            if self._used > self._peak:
                self._peak = self._used

    def _from_upstream(self, upstream: Any, size: int, align: int, make: Make) -> Any:
        try:
            return upstream._alloc(size, align, make)
        except Refusal as refusal:
            self._failures += refusal.status in _WANT
            raise

    def _memory(self, size: int, make: Make) -> Any:
        try:
            return make()
        except MemoryError:
            self._failures += 1
            raise Refusal(Status.OUT_OF_MEMORY, size) from None


class SystemCore(_Counted):
    """Counts; Python gives the memory."""

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        memory = self._memory(size, make)
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if size > old:
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True


class _Thread:
    """Stands for a thread and goes with it; unlike the thread's number it is never used again."""

    __slots__ = ("__weakref__",)


class _Own(threading.local):
    def __init__(self) -> None:
        self.thread = _Thread()


class _Here(threading.local):
    """Whose confined allocators the thread may use: its own, or those that a Locked has it act for."""

    def __init__(self) -> None:
        self.thread = _own.thread


_own = _Own()
_here = _Here()


class _Confined(_Counted):
    def __init__(self) -> None:
        super().__init__()
        self._thread = weakref.ref(_here.thread)

    def check(self) -> int:
        """WRONG_THREAD from any thread but the one that made it."""
        return Status.OK if self._thread() is _here.thread else Status.WRONG_THREAD

    def _must_be_here(self) -> None:
        if self._thread() is not _here.thread:
            raise Refusal(Status.WRONG_THREAD)

    @locked
    def hand_over(self, thread: _Thread) -> int:
        """From now on it is that thread's, or a Locked's."""
        status = self.check()
        if status == Status.OK:
            self._belongs_to(thread)
        return status

    def _belongs_to(self, thread: _Thread) -> None:
        self._thread = weakref.ref(thread)


def this_thread() -> _Thread:
    """The calling thread, to hand allocators back to it."""
    return _own.thread


def _give_chunk(upstream: Any, chunk: _Chunk) -> None:
    """Back to upstream; where that does not take it (from this thread, or below the top of a stack) it stays in
    use there until the upstream is reset or closed."""
    with contextlib.suppress(Refusal):
        upstream._free(chunk.capacity, chunk.align, chunk)


class _Chunk:
    """Memory that one allocator takes from another. Nothing lies in it, as each block has memory of its own: it is
    there so that what can be had is what the native backend could have."""

    __slots__ = ("_kept", "_place", "align", "capacity", "memory")

    def __init__(self, capacity: int, align: int) -> None:
        self.capacity, self.align, self.memory = capacity, align, take(capacity)
        self._kept = False

    def _keep_in(self, store: dict[int, Any], key: int) -> None:
        """Nothing knows where it is, so nothing is kept."""

    def _fill(self, byte: int, start: int = 0) -> None:
        """Nothing reads it."""


class _Kept:
    """The memory of an arena's or a stack's blocks, which is theirs until it is dropped."""

    __slots__ = ("_next", "_store")

    def __init__(self) -> None:
        #: by number, ascending: the memory, or a weak reference to it where it is a block that something refers to
        self._store: dict[int, Any] = {}
        self._next = 0

    def add(self, memory: Any) -> int:
        """Keeps it; returns its number."""
        number = self._next
        memory._keep_in(self._store, number)
        self._next = number + 1
        return number

    def mark(self) -> int:
        """The number that the next has."""
        return self._next

    def let_go(self, number: int, memory: Any) -> None:
        """It is its block's alone from now on."""
        if self._store.pop(number, None) is not None:
            memory._kept = False

    def drop(self, mark: int, wipe: bool) -> None:
        """Gives the memory back that has that number or a higher one, the newest first."""
        store = self._store
        while store and next(reversed(store)) >= mark:
            _, memory = store.popitem()
            if isinstance(memory, weakref.ref):
                memory = memory()
            if memory is not None:
                memory._discard(wipe)


class ArenaCore(_Confined):
    """The native arena's arithmetic. Chunks are taken from upstream and stay empty: each block has memory
    of its own, which the arena keeps until it drops it."""

    def __init__(self, upstream: Any, hint: int, cap: int, grow: bool, zero: bool, patterns: bool) -> None:
        super().__init__()
        first = hint if grow or not cap else min(hint, cap)
        self._upstream, self._hint, self._cap, self._grow = upstream, first, cap, grow
        self._wipes, self._patterns = zero, patterns
        self._chunks: list[_Chunk] = []  # the doubling sequence; the last is the head
        self._large: list[_Chunk] = []
        self._pos = 0
        self._floor = 0  # of the newest mark in the head; what lies below it keeps its place and size
        self._held = 0
        self._generation = 1
        self._kept = _Kept()

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _reserved(self) -> int:
        return self._held

    def _limit(self) -> int:
        return self._cap if self._grow else self._hint

    def largest_free(self) -> int:
        """The largest block, at alignment 1, that would be served now, if upstream gives what that takes."""
        rest = self._chunks[-1].capacity - self._pos if self._chunks else 0
        if not self._grow:
            return rest if self._chunks else self._hint
        return max(rest, self._cap - self._held) if self._cap else SIZE_MAX

    def _take_chunk(self, capacity: int, align: int = _CHUNK_ALIGN) -> _Chunk:
        chunk: _Chunk = self._from_upstream(self._upstream, capacity, align, lambda: _Chunk(capacity, align))
        self._held += capacity
        return chunk

    def _drop_chunk(self, chunk: _Chunk) -> None:
        self._held -= chunk.capacity
        _give_chunk(self._upstream, chunk)

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        start = (self._pos + align - 1) & -align
        head = self._chunks[-1] if self._chunks else None
        if head is None or start + size > head.capacity or align > _CHUNK_ALIGN:
            head, start = self._room_for(size, align)
        memory = self._memory(size, make)
        if self._patterns:
            memory._fill(0xAA)
        memory._place = head, start
        self._kept.add(memory)
        if head is not None:
            self._pos = start + size
        self._count_alloc(size)
        return memory

    def _room_for(self, size: int, align: int) -> tuple[_Chunk | None, int]:
        """The chunk, None for one of the block's own, and where in it."""
        head = self._chunks[-1] if self._chunks else None
        left = self._cap - self._held
        own = align > _CHUNK_ALIGN
        if not self._grow:
            if head is not None or size > self._hint or own:
                self._exhausted(size, self._hint)
            want = self._hint
        else:
            want = self._hint if head is None else min(2 * head.capacity, SIZE_MAX)
            if self._cap:
                want = min(want, left)
            if size > want or own:
                if self._cap and size > left:
                    self._exhausted(size, self._cap)
                self._large.append(self._take_chunk(size, max(align, _CHUNK_ALIGN)))
                return None, 0
        self._chunks.append(self._take_chunk(want))
        self._pos = self._floor = 0
        return self._chunks[-1], 0

    def _exhausted(self, size: int, limit: int) -> None:
        self._failures += 1
        raise Refusal(Status.EXHAUSTED, size, self._held, limit)

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        self._frees += 1
        if self._patterns:
            memory._fill(0xDD)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size == old:
            return True
        chunk, start = memory._place
        top = bool(self._chunks) and chunk is self._chunks[-1] and start + old == self._pos
        if not top or start < self._floor or start + size > chunk.capacity:
            return False
        if not apply():
            return False
        if self._patterns and size > old:
            memory._fill(0xAA, old)
        self._count_resize(old, size)
        self._pos = start + size
        return True

    def _forget(self, used: int, live: int) -> None:
        self._used, self._live = used, live

    def _empty(self) -> None:
        self._forget(0, 0)
        self._kept.drop(0, self._wipes)
        while self._large:
            self._drop_chunk(self._large.pop())
        while len(self._chunks) > 1:
            self._drop_chunk(self._chunks.pop(-2))
        self._pos = self._floor = 0
        self._generation += 1

    def _destroy(self) -> None:
        self._empty()
        if self._chunks:
            self._drop_chunk(self._chunks.pop())

    @locked
    def reset(self) -> int:
        """Drops every block, keeps the head."""
        if self.check():
            return Status.WRONG_THREAD
        self._empty()
        return Status.OK

    @locked
    def clear(self) -> int:
        """Drops every block and chunk."""
        if self.check():
            return Status.WRONG_THREAD
        self._destroy()
        return Status.OK

    @locked
    def take_mark(self) -> tuple[int, Any]:
        """The position now."""
        if self.check():
            return Status.WRONG_THREAD, None
        place = self._generation, len(self._chunks), len(self._large), self._floor, self._pos
        self._floor = self._pos
        return Status.OK, (self, *place, self._used, self._live, self._kept.mark())

    def check_mark(self, mark: Any) -> int:
        """INVALID_MARK: foreign, of an older generation, or ahead of the arena."""
        arena, generation, chunks, large, _, pos, used, live, _ = mark
        if (
            arena is not self
            or generation != self._generation
            or chunks > len(self._chunks)
            or large > len(self._large)
            or (chunks == len(self._chunks) and pos > self._pos)
            or used > self._used
            or live > self._live
        ):
            return Status.INVALID_MARK
        return Status.OK

    @locked
    def release(self, mark: Any) -> int:
        """Drops what is newer than the mark."""
        if self.check():
            return Status.WRONG_THREAD
        if self.check_mark(mark):
            return Status.INVALID_MARK
        _, _, chunks, large, floor, pos, used, live, kept = mark
        self._forget(used, live)
        self._kept.drop(kept, self._wipes)
        while len(self._large) > large:
            self._drop_chunk(self._large.pop())
        # a mark from before the first chunk keeps that chunk
        while len(self._chunks) > max(chunks, 1):
            self._drop_chunk(self._chunks.pop())
        self._pos = pos
        self._floor = floor if chunks else 0
        return Status.OK


class StackCore(_Confined):
    """The native stack's arithmetic; each block has memory of its own, which the stack keeps until it drops it or
    the block is freed. A block's place is its entry: where it starts and ends, where the one below ended, and the
    number of its memory."""

    def __init__(self, upstream: Any, capacity: int, patterns: bool) -> None:
        super().__init__()
        self._upstream, self._capacity, self._patterns = upstream, capacity, patterns
        self._entries: list[list[int]] = []
        self._unwinds = False
        self._pos = 0
        self._generation = 0
        self._kept = _Kept()
        self._chunk: _Chunk | None
        with lock:
            self._chunk = upstream._alloc(capacity, _CHUNK_ALIGN, lambda: _Chunk(capacity, _CHUNK_ALIGN))

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _reserved(self) -> int:
        return self._capacity if self._chunk else 0

    def _limit(self) -> int:
        return self._capacity

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        start = (self._pos + align - 1) & -align
        if self._chunk is None or start + size > self._capacity or align > _CHUNK_ALIGN:
            self._failures += 1
            raise Refusal(Status.CAPACITY_EXCEEDED, size, self._pos, self._capacity)
        memory = self._memory(size, make)
        if self._patterns:
            memory._fill(0xCC)
        memory._place = [start, start + size, self._pos, self._kept.add(memory)]
        self._entries.append(memory._place)
        self._pos = start + size
        self._count_alloc(size)
        return memory

    def _is_top(self, memory: Any) -> bool:
        return bool(self._entries) and self._entries[-1] is memory._place

    def _pop(self) -> None:
        start, end, self._pos, _ = self._entries.pop()
        self._used -= end - start
        self._live -= 1

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        if self._is_top(memory):
            self._pop()
            self._kept.let_go(memory._place[-1], memory)
        elif not self._unwinds:
            raise Refusal(Status.LIFO_VIOLATION, size)
        self._frees += 1

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size == old:
            return True
        if not self._is_top(memory) or memory._place[0] + size > self._capacity:
            return False
        if not apply():
            return False
        if self._patterns and size > old:
            memory._fill(0xCC, old)
        self._count_resize(old, size)
        self._pos = memory._place[1] = memory._place[0] + size
        return True

    def unwind(self) -> None:
        """Until the next reset, release or clear a free out of order counts, and leaves the bytes to that."""
        self._unwinds = True

    def _pop_to(self, depth: int) -> None:
        self._unwinds = False
        if len(self._entries) > depth:
            self._kept.drop(self._entries[depth][-1], self._wipes)
        while len(self._entries) > depth:
            self._pop()

    @locked
    def reset(self) -> int:
        """Drops every block."""
        if self.check():
            return Status.WRONG_THREAD
        self._pop_to(0)
        self._generation += 1
        return Status.OK

    @locked
    def clear(self) -> int:
        """Drops every block and gives the chunk back."""
        if self.check():
            return Status.WRONG_THREAD
        self._destroy()
        return Status.OK

    def _destroy(self) -> None:
        self._pop_to(0)
        self._generation += 1
        if self._chunk is not None:
            _give_chunk(self._upstream, self._chunk)
            self._chunk = None

    @locked
    def take_mark(self) -> tuple[int, Any]:
        """The height now."""
        if self.check():
            return Status.WRONG_THREAD, None
        top = self._entries[-1] if self._entries else None
        return Status.OK, (self, self._generation, len(self._entries), top)

    def check_mark(self, mark: Any) -> int:
        """INVALID_MARK: foreign, of an older generation, or its top block is gone."""
        stack, generation, depth, top = mark
        if stack is not self or generation != self._generation or depth > len(self._entries):
            return Status.INVALID_MARK
        same = depth == 0 or self._entries[depth - 1] is top
        return Status.OK if same else Status.INVALID_MARK

    @locked
    def release(self, mark: Any) -> int:
        """Drops what is newer than the mark."""
        if self.check():
            return Status.WRONG_THREAD
        if self.check_mark(mark):
            return Status.INVALID_MARK
        self._pop_to(mark[2])
        return Status.OK


class PoolCore(_Confined):
    """The native pool's chunks, counted; each block has memory of its own."""

    def __init__(self, upstream: Any, block_size: int, count: int, grow: bool) -> None:
        super().__init__()
        self._upstream, self._grow = upstream, grow
        self._cell = -(-block_size // 16) * 16
        self._align = min(self._cell & -self._cell, _CHUNK_ALIGN)
        self._first = count
        self._cells = self._taken = 0
        self._chunks: list[_Chunk] = []
        with lock:
            self._take_chunk(count, upstream._alloc)

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return self._cell

    def _reserved(self) -> int:
        return self._cells * self._cell

    def _limit(self) -> int:
        return 0 if self._grow else self._first * self._cell

    def _take_chunk(self, cells: int, alloc: Callable[..., Any]) -> None:
        size, align = cells * self._cell, self._align
        if size > SIZE_MAX:
            raise Refusal(Status.INVALID_LAYOUT, (1 << 64) - 1)
        chunk = alloc(size, align, lambda: _Chunk(size, align))
        self._chunks.append(chunk)
        self._cells += cells

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        if size > self._cell or align > self._align:
            raise Refusal(Status.INVALID_LAYOUT, size, self._used, self._cell)
        if self._taken == self._cells:
            if not self._grow or not self._cells:
                self._failures += 1
                raise Refusal(Status.POOL_EXHAUSTED, size, self._used, self._reserved())
            self._take_chunk(self._cells, functools.partial(self._from_upstream, self._upstream))
        memory = self._memory(size, make)
        self._taken += 1
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        self._taken -= 1
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size > self._cell:
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True

    @locked
    def clear(self) -> int:
        """Gives every chunk back."""
        if self.check():
            return Status.WRONG_THREAD
        self._destroy()
        return Status.OK

    def _destroy(self) -> None:
        while self._chunks:
            _give_chunk(self._upstream, self._chunks.pop())
        self._frees += self._live
        self._cells = self._taken = self._used = self._live = 0


class _Superblock:
    __slots__ = ("chunk", "used")

    def __init__(self, chunk: _Chunk) -> None:
        self.chunk, self.used = chunk, 0


class _Bin:
    """The superblocks of one cell size; as in the native slab, those with a free cell stand on a list, the
    latest to get one first, and one empty one is kept."""

    def __init__(self, cell: int) -> None:
        divisor = cell & -cell
        start = divisor if divisor >= 192 else -(-192 // divisor) * divisor
        self.cell, self.capacity = cell, (_SUPERBLOCK - start) // cell
        self.free: list[_Superblock] = []
        self.spare: _Superblock | None = None


class SlabCore(_Confined):
    """The native slab's superblocks, counted; each block has memory of its own."""

    def __init__(self, upstream: Any, bins: tuple[int, ...], zero: bool) -> None:
        super().__init__()
        self._upstream, self._wipes = upstream, zero
        self._bins = [_Bin(cell) for cell in bins]
        self._all: set[_Superblock] = set()
        self._passed = 0
        self._ending = False  # keep no spares
        #: cells freed by other threads, until this one runs out
        self._remote: list[tuple[_Bin, _Superblock]] = []
        me = weakref.ref(self)

        def thread_ended(unused: object) -> None:
            slab = me()
            if slab is not None and lock is not None:  # as above
                lock.finalise(slab._return_empty)

        self._ended = thread_ended
        self._belongs_to(_here.thread)

    def _belongs_to(self, thread: _Thread) -> None:
        self._thread = weakref.ref(thread, self._ended)

    def check_free(self) -> int:
        """Any thread."""
        return Status.OK

    def _bin(self, size: int, align: int) -> _Bin | None:
        return next((b for b in self._bins if b.cell >= size and b.cell % align == 0), None)

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        b = self._bin(size, align)
        return self._upstream.usable(size, align) if b is None else b.cell  # type: ignore[no-any-return]

    def _reserved(self) -> int:
        return len(self._all) * _SUPERBLOCK + self._passed

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        b = self._bin(size, align)
        if b is None:
            memory = self._from_upstream(self._upstream, size, align, make)
            self._passed += size
        else:
            if not b.free:
                self._collect()
            if not b.free:
                self._take_superblock(b)
            memory = self._memory(size, make)
            superblock = b.free[-1]
            if b.spare is superblock:
                b.spare = None
            superblock.used += 1
            if superblock.used == b.capacity:
                b.free.pop()
            memory._place = b, superblock
        self._count_alloc(size)
        return memory

    def _take_superblock(self, b: _Bin) -> None:
        size = align = _SUPERBLOCK
        chunk = self._from_upstream(self._upstream, size, align, lambda: _Chunk(size, align))
        superblock = _Superblock(chunk)
        self._all.add(superblock)
        b.free.append(superblock)

    def _return_superblock(self, b: _Bin, superblock: _Superblock) -> None:
        if superblock in b.free:
            b.free.remove(superblock)
        if b.spare is superblock:
            b.spare = None
        self._all.remove(superblock)
        _give_chunk(self._upstream, superblock.chunk)

    def _give(self, b: _Bin, superblock: _Superblock) -> None:
        if superblock.used == b.capacity:
            b.free.append(superblock)
        superblock.used -= 1
        if superblock.used == 0:
            if b.spare is None and not self._ending:
                b.spare = superblock
            else:
                self._return_superblock(b, superblock)

    def _collect(self) -> None:
        while self._remote:
            self._give(*self._remote.pop())

    def _free(self, size: int, align: int, memory: Any) -> None:
        if self._bin(size, align) is None:
            self._upstream._free(size, align, memory)
            self._passed -= size
        elif self.check():
            self._remote.append(memory._place)
            if self._thread() is None:  # nobody else will collect it
                self._return_empty()
        else:
            self._give(*memory._place)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        b = self._bin(old, memory._align)
        if self._bin(size, memory._align) is not b:
            return False
        if b is None:
            if not self._upstream._resize(old, size, memory, apply):
                return False
            self._passed += size - old
        else:
            if not apply():
                return False
        self._count_resize(old, size)
        return True

    @locked
    def trim(self) -> int:
        """Gives every empty superblock back."""
        if self.check():
            return Status.WRONG_THREAD
        self._return_empty()
        return Status.OK

    def _return_empty(self) -> None:
        self._collect()
        for b in self._bins:
            for superblock in [s for s in b.free if s.used == 0]:
                self._return_superblock(b, superblock)

    clear = trim

    def _destroy(self) -> None:
        self._ending = True  # in a collected cycle blocks may still come
        self._return_empty()


class HeapCore(SystemCore):
    """The native heap's cell sizes; Python gives the memory. A secure one wipes what is freed; memory here has
    no free lists and no neighbours to protect."""

    #: what the native secure heap adds to a block, and to a span: there it is a page of the system
    _TAIL, _GUARD = 16, os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

    def __init__(self, budget: BudgetCore | None, secure: bool) -> None:
        super().__init__()
        self._budget, self._wipes = budget, secure

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size if self._wipes else self._class(size, align)

    def _class(self, size: int, align: int) -> int:
        if self._wipes:
            size += self._TAIL
        if size > 32768:
            size += self._GUARD * self._wipes
            return -(-size // _SUPERBLOCK) * _SUPERBLOCK
        cell = -(-size // 16) * 16
        if size > 512:
            step = 1 << ((size - 1).bit_length() - 3)
            cell = -(-size // step) * step
        while cell % align:
            cell += 16 if cell < 512 else 1 << (cell.bit_length() - 3)
        return cell

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        """The budget is charged what the block's cell or span takes; a native heap charges whole superblocks."""
        held = self._class(size, align)
        if self._budget is not None:
            try:
                self._budget._hold_or_refuse(held)
            except Refusal:
                self._failures += 1
                raise
        try:
            memory = super()._alloc(size, align, make)
        except Refusal:
            self._discharge(held)
            raise
        if self._budget is not None:
            self._budget._settle()
        return memory

    def _discharge(self, n: int) -> None:
        if self._budget is not None:
            self._budget.release(n)

    def _free(self, size: int, align: int, memory: Any) -> None:
        super()._free(size, align, memory)
        self._discharge(self._class(size, align))

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if self._class(old, memory._align) != self._class(size, memory._align):
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True

    def trim(self) -> None:
        """Nothing is kept."""


class _Wrapper(_Counted):
    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self._upstream = upstream
        self._wipes = upstream._wipes

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return self._upstream.usable(size, align)  # type: ignore[no-any-return]

    def check(self) -> int:
        """As upstream."""
        return self._upstream.check()  # type: ignore[no-any-return]

    def check_free(self) -> int:
        """As upstream."""
        return self._upstream.check_free()  # type: ignore[no-any-return]

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._upstream._free(size, align, memory)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if not self._upstream._resize(old, size, memory, apply):
            return False
        self._count_resize(old, size)
        return True


class LimitedCore(_Wrapper):
    """Charges before upstream serves."""

    def __init__(self, upstream: Any, budget: BudgetCore) -> None:
        super().__init__(upstream)
        self._budget = budget

    def _limit(self) -> int:
        return self._budget._limit

    def _charge(self, n: int) -> None:
        try:
            self._budget._hold_or_refuse(n)
        except Refusal:
            self._failures += 1
            raise

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._charge(size)
        try:
            memory = self._from_upstream(self._upstream, size, align, make)
        except Refusal:
            self._budget.release(size)
            raise
        self._budget._settle()
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._upstream._free(size, align, memory)
        # what still stands on it when it is destroyed, in a collection, was released with all it had
        self._budget.release(min(size, max(self._used, 0)))
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if size > old:
            self._charge(size - old)
        try:
            done = self._upstream._resize(old, size, memory, apply)
        except Refusal:
            if size > old:
                self._budget.release(size - old)
            raise
        if not done:
            if size > old:
                self._budget.release(size - old)
            return False
        if size < old:
            self._budget.release(old - size)
        self._budget._settle()
        self._count_resize(old, size)
        return True

    @locked
    def clear(self) -> int:
        """Gives back what is still charged, for blocks that will not be freed any more."""
        self._destroy()
        return Status.OK

    def _destroy(self) -> None:
        used, self._used = self._used, 0
        self._budget.release(used)


#: blocks by the largest of the bucket that their size, or upstream's nanoseconds, are in
_Buckets = tuple[dict[int, int], dict[int, int]]
#: of all that the process has traced with a histogram
_all_buckets: _Buckets = ({}, {})


def _sorted(buckets: _Buckets) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    sizes, latencies = (sorted(counts.items()) for counts in buckets)
    return sizes, latencies


def histograms() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Those of all that the process has traced with a histogram."""
    with lock:
        return _sorted(_all_buckets)


class TracedCore(_Wrapper):
    """Counts what passes through, its sizes, how long upstream takes, and who asked for it."""

    def __init__(self, upstream: Any, histogram: bool, zero_on_free: bool, depth: int, sample: int) -> None:
        super().__init__(upstream)
        self._zeroes = zero_on_free
        self._buckets: _Buckets | None = ({}, {}) if histogram else None
        self._stacks_of = depth
        #: who asked for what, by the address of the object that stands for the memory
        self._sites: dict[int, tuple[tuple[Place, ...], int]] = {}
        self._sample = sample
        self._until = 0.0
        if sample:
            from random import Random  # here: it takes long to import

            self._gap = functools.partial(Random(1).expovariate, 1 / sample)
            self._until = self._gap()

    def _is_sampled(self, size: int) -> bool:
        if self._until > size:
            self._until -= size
            return False
        self._until = self._gap()
        return True

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        wanted = bool(self._stacks_of) and (not self._sample or self._is_sampled(size))
        start = time.perf_counter_ns() if self._buckets is not None else 0
        memory = self._from_upstream(self._upstream, size, align, make)
        took = time.perf_counter_ns() - start if self._buckets is not None else 0
        if wanted:
            self._sites[id(memory)] = here(self._stacks_of), size
        self._count_alloc(size)
        if self._buckets is not None:
            for both in zip(self._buckets, _all_buckets, strict=True):
                value = size if both[0] is self._buckets[0] else max(took, 1)
                largest = _bucket_size(value)
                for buckets in both:
                    buckets[largest] = buckets.get(largest, 0) + 1
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        super()._free(size, align, memory)
        if self._zeroes:
            memory._fill(0)
        self._sites.pop(id(memory), None)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if not super()._resize(old, size, memory, apply):
            return False
        if id(memory) in self._sites:
            self._sites[id(memory)] = self._sites[id(memory)][0], size
        return True

    @locked
    def histograms(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
        """(largest of the bucket, blocks), ascending, by size and by nanoseconds; None where they are not kept."""
        return None if self._buckets is None else _sorted(self._buckets)

    @locked
    def sites(self) -> tuple[list[Any], list[int]]:
        """Of each block that is known: where it came from, and its size."""
        known = self._sites.values()
        return [frames for frames, _ in known], [size for _, size in known]

    def site_of(self, block: Any) -> Any:
        """Where a live block came from; False where that is not known."""
        return self._sites.get(id(block._memory), (False, 0))[0]

    @staticmethod
    def frames(site: tuple[Place, ...]) -> tuple[Place, ...]:
        return site


class MemlibCore:
    """Control plane of what :mod:`nativemem.memlib` takes from: ``upstream``, a core, or a heap of its own. Made,
    it is the one or the other."""

    def __new__(cls, upstream: Any = None, hold: Any = None) -> Any:
        core: Any = _OwnMemlib(None, False) if upstream is None else _UpstreamMemlib(upstream, False, False, 0, 0)
        core._hold = hold
        return core


class _Memlib:
    _hold: Any

    @staticmethod
    def pointer(thing: Any) -> None:
        """Memory of C's is nothing here."""

    def end(self) -> None:
        """Another takes its place."""
        if self._hold is not None:
            self._hold.release()


class _OwnMemlib(_Memlib, HeapCore):
    pass


class _UpstreamMemlib(_Memlib, TracedCore):
    def trim(self) -> None:
        """What upstream keeps is its own."""


class FailingCore(_Wrapper):
    """Refuses the n-th allocation."""

    def __init__(self, upstream: Any, n: int, sticky: bool) -> None:
        super().__init__(upstream)
        self.arm(n, sticky)

    @locked
    def arm(self, n: int, sticky: bool) -> None:
        """Counts from zero again."""
        self._n, self._sticky, self._calls, self._failed = n, sticky, 0, 0

    @locked
    def calls(self) -> tuple[int, int]:
        """Allocations since it was armed, and how many of them it refused."""
        return self._calls, self._failed

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._calls += 1
        if self._n and (self._calls == self._n or (self._calls > self._n and self._sticky)):
            self._failed += 1
            self._failures += 1
            raise Refusal(Status.OUT_OF_MEMORY, size)
        memory = self._from_upstream(self._upstream, size, align, make)
        self._count_alloc(size)
        return memory


class LockedCore(_Wrapper):
    """Acts as the owner of what is below it. The backend's lock is all the lock it needs."""

    def __init__(self, upstream: Any) -> None:
        super().__init__(upstream)
        self._acts_as = _Thread()

    def check(self) -> int:
        """Any thread."""
        return Status.OK

    check_free = check

    def thread(self) -> _Thread:
        """Who the confined allocators below it are handed to."""
        return self._acts_as

    def enter(self) -> _Thread:
        """Has the calling thread act as that one; returns what ``leave`` wants."""
        before, _here.thread = _here.thread, self._acts_as
        return before

    @staticmethod
    def leave(before: _Thread) -> None:
        _here.thread = before

    def contended(self) -> int:
        """Not known: the lock is the whole backend's."""
        return 0

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        before = self.enter()
        try:
            yield
        finally:
            self.leave(before)

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        with self._acting():
            memory = self._from_upstream(self._upstream, size, align, make)
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        with self._acting():
            self._upstream._free(size, align, memory)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        with self._acting():
            if not self._upstream._resize(old, size, memory, apply):
                return False
        self._count_resize(old, size)
        return True


def _bucket_size(size: int) -> int:
    """The largest size of the bucket that ``size`` is in: four to each doubling."""
    if size <= 4:
        return size
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step
