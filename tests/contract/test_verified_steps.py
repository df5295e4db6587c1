"""The same steps through a Verified of each backend, which have to agree after each of them on what they
raise, on how many comparisons there were and how many of them found something, and on the counters."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import NativeMemError

#: none of which refuses: whether a call that is refused has looked at a block before is each backend's business
BELOW: dict[str, Callable[[Binding], Any]] = {
    "System": lambda nm: nm.System(),
    "Heap": lambda nm: nm.Heap(secure=False),
    "Pool": lambda nm: nm.Pool(100, 100),
    "Limited": lambda nm: nm.Limited(nm.System(), nm.Budget(100_000)),
}
#: those of SAMPLING are dice, which each backend throws for itself
LEVELS = ("off", "basic", "standard", "full", "redundant")
VERBS = (
    *("alloc", "alloc", "alloc", "free", "free", "resize", "seal", "seal", "unseal", "verify"),
    *("drop", "foreign", "write", "restore"),
)


def told(error: Exception) -> tuple[Any, ...]:
    """What an error says, but for addresses and ids, and for which of several damaged blocks was met first."""
    text = re.sub("0x[0-9a-f]+|(Verified|Heap) [0-9]+|sealed block of [0-9]+ bytes", "…", str(error))
    return type(error), text, error.state if isinstance(error, NativeMemError) and "…" not in text else None


def figures(allocator: Any) -> Any:
    """Its counters, but for what is reserved: a heap has superblocks on one backend alone."""
    return replace(allocator.stats, reserved=0)


class Run:
    """The blocks that one backend has given, and what was written to them."""

    def __init__(self, nm: Binding, below: str, level: str) -> None:
        self.upstream = BELOW[below](nm)
        self.verified = nm.Verified(self.upstream, level)
        self.other = nm.Heap().alloc(8)
        #: which block has its turn before an alloc is each backend's business, and whether there is one
        self.counts = level not in ("full", "redundant")
        self.blocks: list[Any] = []
        #: those that were sealed once: such a one that is dropped is looked at no longer on one backend alone
        self.kept: list[Any] = []

    def of(self, block: Any) -> tuple[Any, ...]:
        return block.size, block.alive, bytes(block) if block.alive else b""

    def shown(self) -> tuple[Any, ...]:
        open_ = not self.verified.closed
        return (
            *(self.verified.checks if self.counts else 0, self.verified.failures, self.verified.closed),
            *((figures(self.verified), figures(self.upstream), len(self.verified.blocks())) if open_ else ()),
            [self.of(block) for block in self.blocks],
        )

    def step(self, verb: str, at: float, size: int) -> Any:
        """What a verb does with the block at that part of the list."""
        block = self.blocks[int(at * len(self.blocks))] if self.blocks else None
        if verb == "alloc":
            new = self.verified.alloc(size, 16)
            with memoryview(new) as view:
                view[:] = bytes(i % 251 for i in range(size))
            self.blocks.append(new)
        elif verb == "verify":
            return self.verified.verify()
        elif verb == "foreign":
            return self.verified.seal(self.other)
        elif verb == "close":
            return self.verified.close()
        elif block is None:
            return None
        elif verb == "free":
            block.free()
            self.blocks.remove(block)
        elif verb == "resize":
            done = self.verified.resize(block, max(size, 1))
            with memoryview(block) as view:
                view[:] = bytes(i % 251 for i in range(block.size))
            return done
        elif verb == "drop":
            self.blocks.remove(block)
            del block
        elif verb == "write" and block.alive:
            with memoryview(block) as view:
                view[size % len(view)] ^= 1
        elif verb == "restore" and block.alive:
            with memoryview(block) as view:
                view[:] = bytes(i % 251 for i in range(block.size))
        elif verb in ("seal", "unseal"):
            self.kept.append(block)
            return getattr(self.verified, verb)(block)
        return None


@pytest.mark.unplanted("compares what each backend refuses")
@pytest.mark.filterwarnings("ignore::nativemem.MemoryPressure")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("below", BELOW)
def test_the_same_steps(both: tuple[Binding, Binding], below: str, level: str) -> None:
    """With contents that change while they are sealed, and change back."""
    r = random.Random(f"{below} {level}")
    for _ in range(6):
        runs = [Run(nm, below, level) for nm in both]
        verbs = VERBS if runs[0].counts else VERBS[:-2]  # nothing is damaged where the turn would show
        steps = [(r.choice(verbs), r.random(), r.choice((1, 8, 16, 60, 64, 65, 100))) for _ in range(60)]
        past = []
        for step in (*steps, ("close", 0.0, 0), ("verify", 0.0, 0), ("seal", 0.0, 0)):
            past.append(step)
            seen = []
            for run in runs:
                try:
                    result = run.step(*step)
                except (NativeMemError, TypeError) as error:
                    result = told(error)
                seen.append((result, run.shown()))
            assert seen[0] == seen[1], past[-6:]
