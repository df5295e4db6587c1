"""The core of Verified: a ledger of live blocks, and the checksums of those that are sealed."""

from __future__ import annotations

import weakref
import zlib
from typing import Any

from ...errors import Refusal, Status
from .counted import Make
from .lock import locked
from .wrapper import WrapperCore

#: how much depends on an operation: at SAMPLING contents are compared with a probability of so many 256ths
_READ, _MUTATION, _CRITICAL = 100, 150, 200


class _Live:
    """What is known of a live block; ``layout`` is the second copy of its size and alignment."""

    __slots__ = ("align", "block", "layout", "refused", "size", "sum", "told")

    def __init__(self, size: int, align: int) -> None:
        self.size, self.align, self.layout = size, align, (size, align)
        #: of a sealed one: a weak reference to the block, and the Adler-32 of its bytes
        self.block: Any = None
        self.sum: int | None = None
        #: a call has failed as it was damaged: its memory is not read again
        self.told = False
        #: that call was a free of it: the next one gives it back
        self.refused = False


class VerifiedCore(WrapperCore):
    """Checks what passes through. At OFF its calls are upstream's own."""

    def __init__(self, upstream: Any, level: str, seed: int) -> None:
        super().__init__(upstream)
        self._level = level
        #: by the ``id()`` of the object that stands for the memory
        self._ledger: dict[int, _Live] = {}
        #: keys of sealed blocks, in the order in which allocs look at them
        self._turns: dict[int, None] = {}
        self._checks = self._broken = 0
        if level == "OFF":
            self._alloc, self._free, self._resize = upstream._alloc, upstream._free, upstream._resize  # type: ignore[method-assign]
            self.stats = upstream.stats  # type: ignore[method-assign]
        if level == "SAMPLING":
            from random import Random  # here: it takes long to import

            self._random = Random(seed or None)

    def _is_compared(self, importance: int) -> bool:
        if self._level == "SAMPLING":
            return self._random.getrandbits(8) < importance
        if self._level == "STANDARD":
            return importance >= _MUTATION
        return self._level in ("FULL", "REDUNDANT")

    def _holds(self, holds: bool) -> bool:
        """Counts a comparison."""
        self._checks += 1
        self._broken += not holds
        return holds

    def _is_sound(self, live: _Live, memory: Any, compare: bool) -> bool:
        """Whether what is known of a block, and its contents if they are to be compared, are as they were."""
        if live.told:
            return False
        sound = True
        if self._level == "REDUNDANT":
            sound = self._holds(live.layout == (live.size, live.align))
        if sound and live.sum is not None and compare:
            with memory._view() as view:
                sound = self._holds(zlib.adler32(view) == live.sum)
        live.told = not sound
        return sound

    def _taken_up(self, size: int, align: int, memory: Any, ends: bool) -> _Live:
        """The live block, if it may be given back or resized. What is damaged is refused to be given back once: the
        caller knows then, and its memory is not lost."""
        live = self._ledger.get(id(memory))
        if not self._holds(live is not None) or live is None:
            raise Refusal(Status.FOREIGN_BLOCK, size)
        if not (ends and live.refused) and not self._is_sound(live, memory, self._is_compared(_CRITICAL)):
            live.refused |= ends and live.layout == (live.size, live.align)
            raise Refusal(Status.CORRUPTED, size)
        if not self._holds((live.size, live.align) == (size, align)):
            raise Refusal(Status.INVALID_LAYOUT, size)
        return live

    def _look_around(self, size: int) -> None:
        """Looks at the sealed block whose turn it is."""
        key = next(iter(self._turns), None)
        if key is None:
            return
        del self._turns[key]
        live, block = self._ledger[key], self._ledger[key].block()
        if live.told or block is None:
            return
        self._turns[key] = None
        if not self._is_sound(live, block._memory, self._is_compared(_READ)):
            raise Refusal(Status.CORRUPTED, size)

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._look_around(size)
        memory = self._from_upstream(self._upstream, size, align, make)
        dropped = self._ledger.get(id(memory))  # damaged, and gone with all that it lay among
        self._checks += 1
        self._ledger[id(memory)] = _Live(size, align)
        if dropped is not None:
            self._turns.pop(id(memory), None)
            self._count_free(dropped.size)
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._taken_up(size, align, memory, True)
        key = id(memory)  # takes memory: not once upstream has the block, which is not to be given back twice
        self._upstream._free(size, align, memory)
        del self._ledger[key]
        self._turns.pop(key, None)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        live = self._taken_up(old, memory._align, memory, False)
        if not self._upstream._resize(old, size, memory, apply):
            return False
        live.size, live.layout, live.sum = size, (size, live.align), None
        self._turns.pop(id(memory), None)
        self._count_resize(old, size)
        return True

    def _set(self, block: Any, sealed: bool) -> None:
        if self._level == "OFF":
            return
        memory = block._memory
        live = self._ledger.get(id(memory))
        if not self._holds(live is not None) or live is None:
            raise Refusal(Status.FOREIGN_BLOCK)
        if not self._is_sound(live, memory, self._is_compared(_MUTATION)):
            raise Refusal(Status.CORRUPTED)
        self._turns.pop(id(memory), None)
        live.sum = live.block = None
        if sealed:
            with memory._view() as view:
                live.sum = zlib.adler32(view)
            live.block = weakref.ref(block)
            self._turns[id(memory)] = None

    @locked
    def seal(self, block: Any) -> None:
        """Its contents are what they are from now on."""
        self._set(block, True)

    @locked
    def unseal(self, block: Any) -> None:
        """They may change again."""
        self._set(block, False)

    @locked
    def verify(self) -> tuple[int, tuple[int, int] | None]:
        """How many were compared; None, or address and size of a block that is damaged (0: the ledger is)."""
        compared, found, used = 0, None, 0
        for live in self._ledger.values():
            block = live.block() if live.sum is not None else None
            used += live.size
            if live.told or block is not None or self._level == "REDUNDANT":
                compared += not live.told and block is not None
                memory = None if block is None else block._memory
                if not self._is_sound(live, memory, memory is not None) and found is None:
                    found = block.address if block is not None else 0, live.size
        if self._level != "OFF" and not self._holds(used == self._used) and found is None:
            found = 0, 0
        return compared, found

    @locked
    def counts(self) -> tuple[int, int]:
        """Comparisons, and those that found something."""
        return self._checks, self._broken
