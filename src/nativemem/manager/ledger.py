"""The manager that checks: hooks around each call, and a ledger of live blocks that is held against the counters.

What is under way counts as either done or not, so a ledger that is looked at while other threads allocate gives no
false alarm. Hooks run without the lock, and so does what takes memory: a budget's callback may do anything.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._frames import site
from ..sizes import parse_size
from .configuration import PROVIDERS
from .verification import Event, Verification, lock, new_key

if TYPE_CHECKING:
    from .manager import MemoryManager

    _Base = MemoryManager
else:
    _Base = object

__all__ = ["verified"]

#: times that a ledger which does not agree is looked at again, a millisecond later, and found wrong: another thread
#: may be in the midst of dropping a block
TRIES = 50


class _Reference(weakref.ref[Any]):
    """A reference to a block that knows the block's key."""

    __slots__ = ("key",)
    key: int


class _Verified(_Base):
    """The checks in front of the manager's calls."""

    _verification: Verification
    #: by key: the block, its ``id()``, its size and its owner
    _live: dict[int, tuple[_Reference, int, int, str]]
    #: keys of blocks that were collected, which may happen anywhere
    _gone: deque[int]
    #: keys by the ``id()`` of the block
    _keys: dict[int, int]
    #: called with the reference to a block that was collected
    _drop: Callable[[Any], None]

    def _begin(self) -> None:
        gone: deque[int] = deque()
        self._live, self._keys, self._gone = {}, {}, gone
        self._drop = lambda reference: gone.append(reference.key)
        self._under_way = self._bytes_under_way = 0
        name, weak = f"ledger of manager {new_key()}", weakref.ref(self)

        def agrees() -> str | None:
            manager = weak()
            return None if manager is None else manager._difference()

        def settle() -> None:
            manager = weak()
            if manager is not None:
                manager._leave_gone()

        checks = self._verification
        checks.invariant(name, agrees)
        checks._books[name] = settle
        for book in (checks._invariants, checks._books):
            weakref.finalize(self, book.pop, name, None)

    def _begins(self, size: int, operation: str) -> None:
        """Something that changes the counters is under way from here to :meth:`_ends`; it has its cost."""
        with lock:
            self._verification._spend(operation)
            while self._gone:
                self._leave(self._gone.popleft())
            self._under_way += 1
            self._bytes_under_way += size

    def _ends(self, size: int) -> bool:
        """Under the lock. Whether the ledger is due to be reconciled, once it is given up."""
        self._under_way -= 1
        self._bytes_under_way -= size
        return self._verification._is_due()

    def allocate(self, owner: str, size: int | str, align: int = 16, *, zero: bool = False) -> Any:
        checks, size = self._verification, parse_size(size, "manager.allocate: size")
        try:
            self._owners[owner]
        except (KeyError, TypeError):
            self._owner(owner)
        provider = PROVIDERS[0 if size <= self._small else self._larger(size)]
        if checks._hooks["pre_allocate"]:
            checks._run("pre_allocate", Event("pre_allocate", 0, owner, size, provider), "allocate")
        self._begins(size, "alloc")
        key = 0
        try:
            block = super().allocate(owner, size, align, zero=zero)
            key = self._enter(block, size, owner)
        finally:
            with lock:
                due = self._ends(size) and key != 0
        if due:
            self._reconcile()
        if checks._hooks["post_allocate"]:
            checks._run("post_allocate", Event("post_allocate", key, owner, size, provider), "allocate")
        return block

    def _enter(self, block: Any, size: int, owner: str) -> int:
        asked, key = site(2), new_key()
        reference = _Reference(block, self._drop)
        reference.key = key
        with lock:
            self._keys[id(block)] = key
            self._live[key] = reference, id(block), size, owner
            self._verification._tell("opened", key, size, owner, asked)
        return key

    def deallocate(self, block: Any) -> None:
        if not self._is_ours(block):
            self._must_be_ours(block)
        checks, size = self._verification, block.size
        hooks = checks._hooks
        key = self._keys.get(id(block), 0)
        event = None
        if hooks["pre_deallocate"] or hooks["post_deallocate"]:
            route = block.allocator
            event = Event("pre_deallocate", key, route.owner_name, size, route.provider)
            checks._run("pre_deallocate", event, "deallocate")
        self._begins(size, "free")
        done = False
        try:
            super().deallocate(block)
            done = True
        finally:
            with lock:
                if done:
                    self._leave(key)
                due = self._ends(size) and done
        if due:
            self._reconcile()
        if event is not None:
            checks._run("post_deallocate", event._replace(hook="post_deallocate"), "deallocate")

    def _leave(self, key: int) -> None:
        """Takes a block that is gone from the ledger. Under the lock."""
        if key in self._live:
            _, place, _, _ = self._live.pop(key)
            if self._keys.get(place) == key:  # otherwise a newer block is there
                del self._keys[place]
            self._verification._tell("closed", key)

    def _leave_gone(self) -> None:
        """Takes out what was freed or collected by itself. Under the lock."""
        for key, (reference, _, _, _) in list(self._live.items()):
            block = reference()
            if block is None or not block.alive:
                self._leave(key)

    def _reconcile(self) -> None:
        wrong = self._difference()
        self._verification._count(wrong)
        if wrong is not None:
            self._verification._fail(f"manager: {wrong}")

    def _difference(self) -> str | None:
        """How ledger and counters differ, for good; None where they agree."""
        wrong = None
        for _ in range(TRIES):
            with lock:
                wrong = self._difference_now()
            if wrong is None:
                return None
            time.sleep(0.001)
        return wrong

    def _difference_now(self) -> str | None:
        self._leave_gone()
        ghost = self._verification._ghost
        shadow: dict[str, tuple[int, int]] = {}
        for key, (_, _, size, owner) in self._live.items():
            if ghost is not None:
                entry = ghost._entries.get(key)
                if entry is None:
                    return f"the block {key} of {size} bytes is not in the ledger"
                size = entry.size
            blocks, total = shadow.get(owner, (0, 0))
            shadow[owner] = blocks + (size > 0), total + size
        for name, held in list(self._owners.items()):
            stats = [route.stats for route in held.routes if route is not None]
            live, used = sum(each.live for each in stats), sum(each.current for each in stats)
            blocks, total = shadow.get(name, (0, 0))
            if abs(live - blocks) > self._under_way or abs(used - total) > self._bytes_under_way:
                found = f"the ledger has {total} bytes in {blocks} blocks, the counters {used} in {live}"
                return f"of owner {name!r} {found}"
            if held.budget.used < total - self._bytes_under_way:
                return f"owner {name!r} is charged {held.budget.used} bytes, the ledger has {total}"
        return None


@functools.cache
def verified(kind: type[MemoryManager]) -> Any:
    """The subclass of a manager's class that checks."""
    return type(kind.__name__, (_Verified, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
