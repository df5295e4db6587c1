"""The base type of the pure backend's allocators; the same surface as the C type of the native one.

One lock covers the backend, and the collector is off while it is held. It is reentrant, because a signal or a
finaliser may run code of the user in the middle of any call; counters are therefore changed in straight lines,
without a call in between, and what the backend's own finalisers do waits for the end of such a call.

Nothing here relies on the interpreter's lock: what several threads may change is changed under the backend's.
"""

from __future__ import annotations

import functools
import gc
import itertools
import weakref
from typing import Any

from ...errors import ALIGN_DEFAULT, ALIGN_MAX, Refusal, Status
from ...refusals import coerce_layout, raise_block, raise_exports, raise_status
from ...sizes import SIZE_MAX
from .blocks import FREED, LIVE, STALE, Block
from .budget import pressed, retry, tell
from .lock import lock, locked
from .memory import ARRAYS, WINDOWS

if WINDOWS:
    from .windows import storage
else:
    from .inherited import storage

_ids = itertools.count(1)


def _collect_buffers(blocks: list[Any]) -> None:
    """On PyPy a buffer that was dropped is out until a collection. Not under the lock: finalisers run."""
    if any(isinstance(each, Block) and each._state == LIVE and each._memory._exported() for each in blocks):
        gc.collect()


class _Orphan:
    """What is left of a block that was collected where its allocator would not take it back. It refers to the
    allocator's core, not to the allocator, which may go before it."""

    __slots__ = ("align", "core", "memory", "serial", "size")

    def __init__(self, core: Any, block: Any) -> None:
        self.core, self.memory = core, block._memory
        self.size, self.align, self.serial = block._size, block._align, block._serial
        block._allocator = None

    def give_back(self) -> None:
        self.core._free(self.size, self.align, self.memory)
        self.memory._end(self.core._wipes)


class _Chain:
    """What the allocators of a chain share: its live blocks by serial number, and how many others stand on it."""

    __slots__ = ("blocks", "dependents", "generation", "orphans", "serial")

    def __init__(self) -> None:
        self.blocks: dict[int, weakref.ref[Any]] = {}
        #: by serial number; they wait here until their allocator takes them back, or is gone
        self.orphans: dict[int, _Orphan] = {}
        self.serial = 0
        self.generation = 0
        self.dependents = 0  # open allocators that take memory from the chain and are not in it

    def newest_first(self, after: int = 0) -> list[Any]:
        """The live blocks with a serial number above ``after``."""
        serials = sorted((s for s in list(self.blocks) if s > after), reverse=True)
        found = (self.blocks[s]() for s in serials if s in self.blocks)
        return [block for block in found if block is not None and block._state == LIVE]

    def sweep(self, after: int = 0, core: Any = None) -> bool:
        """Gives back the orphans that can be by now, newest first; with ``core``, forgets all of that one's."""
        any_ = False
        for serial in sorted((s for s in self.orphans if s > after), reverse=True):
            orphan = self.orphans[serial]
            if core is not None and orphan.core is not core:
                continue
            try:
                orphan.give_back()
            except Refusal:
                if core is None:
                    continue
            del self.orphans[serial]
            any_ = True
        return any_


def _is_plain(size: Any, align: Any) -> bool:
    return (
        type(size) is int
        and 0 <= size <= SIZE_MAX
        and type(align) is int
        and 0 < align <= ALIGN_MAX
        and not align & (align - 1)
    )


class Allocator:
    """The data plane of an allocator; the facade classes inherit it."""

    __slots__ = (
        "__weakref__",
        "_autofree",
        "_closed",
        "_core_",
        "_depth",
        "_id",
        "_left",
        "_chain",
        "_natural",
        "_upstream_",
        "_users",
        "_wraps",
    )

    _core_: Any
    #: of a closed one: its description and its owner, which its upstream knew
    _left: tuple[str, Any] | None
    _upstream_: Any
    _users: int
    _depth: int
    _natural: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._closed = True  # until it is attached
        self._core_ = self._upstream_ = self._left = None
        self._chain = _Chain()
        self._id = 0
        self._natural = 0  # what alloc() takes without a size; 0: it needs one
        self._users = 0  # open allocators whose upstream this is
        self._wraps = False
        self._autofree = False
        return self

    def _attach(self, core: Any, upstream: Any, wraps: bool, autofree: bool, natural: int, /) -> None:
        with lock:
            if self._core_ is not None:
                raise RuntimeError(f"{type(self).__name__}: was initialised before")
            if upstream is not None:
                if upstream._closed:
                    raise_status(upstream, Status.CLOSED)
                upstream._users += 1
                if wraps:
                    self._chain = upstream._chain
                else:
                    upstream._chain.dependents += 1
            self._id = next(_ids)
            self._natural = upstream._natural if wraps else natural
            self._core_, self._upstream_ = core, upstream
            self._depth = 1 if upstream is None else upstream._depth + 1
            self._wraps, self._autofree, self._closed = wraps, autofree, False

    def __del__(self) -> None:
        # object.__new__ makes one without; lock: as in _collected
        if not getattr(self, "_closed", True) and lock is not None:
            lock.finalise(self._gone)

    def _gone(self) -> None:
        if not self._closed:
            self._leave()
            self._chain.sweep(core=self._core_)
            self._core_._destroy()

    def _leave(self) -> None:
        upstream = self._upstream_
        if upstream is not None:
            upstream._users -= 1
            if not self._wraps:
                upstream._chain.dependents -= 1

    @property
    def _core(self) -> Any:
        return self._core_

    @property
    def closed(self) -> bool:
        """Whether the allocator was closed."""
        return self._closed

    @property
    def upstream(self) -> Any:
        """The allocator that this one takes its memory from, or None."""
        return self._upstream_

    @property
    def id(self) -> int:
        """A number that no other allocator of the process has or will have."""
        return self._id

    @property
    def generation(self) -> int:
        """Resets so far."""
        return self._chain.generation

    def _check_use(self, check: str = "check") -> None:
        if self._closed:
            raise_status(self, Status.CLOSED)
        status = getattr(self._core_, check)()
        if status:
            raise_status(self, status)
        if self._closed:  # meanwhile
            raise_status(self, Status.CLOSED)

    def alloc(self, /, size: Any = ..., align: int = ALIGN_DEFAULT) -> Any:
        """A new Block of ``size`` bytes (an int or a string such as '64 KiB') at a multiple of ``align``.

        A pool takes its block size where none is given. Contents are undefined. Raises InvalidLayout for a
        size or alignment that no block can have, and a
        MemoryError of the allocator's kind where there is no room.
        """
        if size is ... and not self._natural:
            raise TypeError("alloc() takes a size and an optional alignment (no size given)")
        if not _is_plain(size, align):
            size, align = coerce_layout(self, size, align)
        refused = None
        try:
            block = self._made(size, align)
        except Refusal as r:
            refused = r.status, r.requested, r.used, r.limit
        if refused is not None:
            block = self._after_all(refused, (size, align), self._made, size, align)
        if pressed:
            tell()
        return block

    def _after_all(self, refused: tuple[int, int, int, int], layout: tuple[int, int], call: Any, *args: Any) -> Any:
        """What ``call`` returns when the budget that refused it was asked for room."""
        try:
            return retry(functools.partial(call, *args), refused)
        except Refusal as r:
            refused = r.status, r.requested, r.used, r.limit
        raise_status(self, *refused, layout)

    def _made(self, size: int, align: int) -> Any:
        with lock:
            if size == 0 or self._closed:
                self._check_use()
                memory = storage(0, align)
            else:
                try:
                    memory = self._core_._alloc(size, align, lambda: storage(size, align))
                except Refusal as r:
                    if not (self._chain.orphans and self._chain.sweep()):
                        raise
                    refused = r.status, r.requested, r.used, r.limit
                    memory = self._alloc_again(refused, size, align)
            chain = self._chain
            block = memory._block()
            block._allocator, block._size, block._align = self, size, align
            chain.serial += 1
            block._serial = chain.serial
            block._state = LIVE
            chain.blocks[block._serial] = weakref.ref(block)
        return block

    def _alloc_again(self, refused: tuple[int, int, int, int], size: int, align: int) -> Any:
        try:
            return self._core_._alloc(size, align, lambda: storage(size, align))
        except Refusal:
            raise Refusal(*refused) from None

    def _collect_buffers(self) -> None:
        if not ARRAYS:
            with lock:
                blocks = self._live()
            _collect_buffers(blocks)

    def _own(self, block: Any, action: str, when_freed: str) -> None:
        """Raises unless the block is one of this allocator's, live and without exports."""
        if not isinstance(block, Block):
            raise_block(self, block, "type")
        if block._allocator is not self:
            raise_block(self, block, "foreign")
        if block._state != LIVE:
            raise_block(self, block, when_freed if block._state == FREED else "stale")
        if block._memory._exported():
            raise_exports(self, action, [block])

    def free(self, /, block: Any) -> None:
        """Gives a block back. Raises DoubleFree, StaleBlock, ForeignBlock, or BufferError while a view of
        it is out; nothing changes then."""
        if not ARRAYS:
            _collect_buffers([block])
        with lock:
            self._own(block, "free", "double")
            if not block._size:
                self._check_use("check_free")
                self._own(block, "free", "double")  # again: it may have been interrupted
            try:
                self._give_back(block, FREED)
            except Refusal as r:
                layout = block._size, block._align
                raise_status(self, r.status, r.requested, r.used, r.limit, layout)
            if self._chain.orphans:
                self._chain.sweep()

    def _give_back(self, block: Any, state: int) -> None:
        if block._size:
            self._core_._free(block._size, block._align, block._memory)
        self._end(block, state)

    def _end(self, block: Any, state: int) -> None:
        self._chain.blocks.pop(block._serial, None)
        block._state = state
        block._memory._end(self._core_._wipes)

    def _collected(self, block: Any) -> None:
        """The block is going away; where the free is refused it becomes an orphan."""
        if lock is None:  # the interpreter is at its end, and has taken the module apart
            return
        with lock:
            if lock.depth > lock.at_once and lock.put_off(self._collected, block):
                return
            if block._state != LIVE:  # it was dropped, with others, while this waited
                return
            chain = self._chain
            chain.blocks.pop(block._serial, None)
            block._state = STALE
            if self._autofree and block._size:
                try:
                    self._core_._free(block._size, block._align, block._memory)
                except Refusal:
                    chain.orphans[block._serial] = _Orphan(self._core_, block)
                else:
                    if self._core_._wipes:
                        block._memory._end(True)
                    if chain.orphans:
                        chain.sweep()

    def resize(self, /, block: Any, size: Any) -> bool:
        """Changes the block's size in place. False: it cannot, and nothing changed."""
        if not ARRAYS:
            _collect_buffers([block])
        self._own(block, "resize", "freed")
        if not _is_plain(size, ALIGN_DEFAULT):
            size, _ = coerce_layout(self, size)
        refused = None
        try:
            done = self._resized(block, size)
        except Refusal as r:
            refused = r.status, r.requested, r.used, r.limit
        if refused is not None:
            done = self._after_all(refused, (size, block._align), self._resized, block, size)
        if pressed:
            tell()
        return done

    def _resized(self, block: Any, size: int) -> bool:
        with lock:
            self._own(block, "resize", "freed")
            if not block._size or not size:
                return bool(block._size == size)
            old = block._size
            if not self._core_._resize(old, size, block._memory, lambda: block._memory._set_size(size)):
                return False
            block._size = size
        return True

    @locked
    def _live(self) -> list[Any]:
        return [block for block in self._chain.newest_first() if block._allocator is self]

    def _serial(self) -> int:
        return self._chain.serial

    def _retire(self, block: Any) -> None:
        """Makes a live block stale; through its own chain where that takes single blocks back."""
        owner = block._allocator
        for _ in range(2 if owner._autofree else 0):
            try:
                owner._give_back(block, STALE)
                return
            except Refusal as refusal:
                if refusal.status != Status.CORRUPTED:  # such a block a Verified gives back at the second call
                    break
        owner._end(block, STALE)

    def _reset(self) -> None:
        self._collect_buffers()
        with lock:
            self._check_use()
            self._drop(0, "reset")
            self._core_.reset()
            self._chain.generation += 1

    def _release(self, serial: int, mark: Any, /) -> None:
        self._collect_buffers()
        with lock:
            self._check_use()
            if self._core_.check_mark(mark):
                raise_status(self, Status.INVALID_MARK)
            self._drop(serial, "release")
            status = self._core_.release(mark)
            if status:
                raise_status(self, status)

    def _drop(self, serial: int, action: str) -> None:
        with lock:
            chain = self._chain
            blocks = chain.newest_first(serial)
            users = chain.dependents + sum(block._memory._exported() for block in blocks)
            if users:
                raise_exports(
                    self, action, [block for block in blocks if block._memory._exported()], chain.dependents
                )
            self._core_.unwind()
            for block in blocks:
                chain.sweep(serial)  # first what lies above it, as a stack wants it
                self._retire(block)
            chain.sweep(serial)
            for lost in [s for s in chain.orphans if s > serial]:
                del chain.orphans[lost]

    def _shut(self, left: tuple[str, Any], /) -> None:
        self._collect_buffers()
        with lock:
            if self._closed:
                return
            blocks = self._live()
            users = self._users + sum(block._memory._exported() for block in blocks)
            if users:
                raise_exports(self, "close", [block for block in blocks if block._memory._exported()], self._users)
            for block in blocks:
                self._chain.sweep(block._serial, self._core_)  # first what lies above it
                self._retire(block)
            self._chain.sweep(core=self._core_)
            self._closed, self._left = True, left
            self._leave()
            self._core_.clear()
            # from here on nothing leads from it to what it stood on
            chain, self._chain, upstream, self._upstream_ = self._chain, _Chain(), self._upstream_, None
            self._chain.generation = chain.generation
        del upstream, chain  # outside of the lock: they may go, and run any code
