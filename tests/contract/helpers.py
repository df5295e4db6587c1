"""What the tests of the contract share: the chains they run on, and what "nothing changed" means."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.errors import NativeMemError

#: a block of either backend; the two types have no common base
Block: TypeAlias = Any
Result = TypeVar("Result")

ROOMY = 1 << 40  # bytes; a limit that no test reaches


def own_system(nm: Binding) -> Allocator | None:
    """A new system allocator; None, which is the shared one, in a run where that one fails (tests/planted.py)."""
    return nm.System() if isinstance(nm.default_system, nm.System) else None


NOUNS: dict[str, Callable[[Binding], Allocator]] = {
    "System": lambda nm: own_system(nm) or nm.Failing(),
    "Arena": lambda nm: nm.Arena(upstream=own_system(nm)),
    "Stack": lambda nm: nm.Stack("16 MiB", upstream=own_system(nm)),
    "Pool": lambda nm: nm.Pool("128 KiB", 16, grow=True, upstream=own_system(nm)),
    "Slab": lambda nm: nm.Slab(upstream=own_system(nm)),
    "Heap": lambda nm: nm.Heap(secure=False),
    "Secure heap": lambda nm: nm.Heap(secure=True),
}
WRAPPERS: dict[str, Callable[[Binding, Allocator], Allocator]] = {
    "Limited": lambda nm, upstream: nm.Limited(upstream, nm.Budget(ROOMY, name="test")),
    "Traced": lambda nm, upstream: nm.Traced(upstream, histogram=True),
    "Failing": lambda nm, upstream: nm.Failing(upstream),  # which does not
    "Locked": lambda nm, upstream: nm.Locked(upstream),
    "Verified": lambda nm, upstream: nm.Verified(upstream, "redundant"),
}


@dataclass(frozen=True)
class Traits:
    """What an allocator's own design decides, and a test of all allocators has to know."""

    #: bytes of the largest block; a larger one is no layout for it. None: memory alone decides
    largest: int | None = None
    #: bytes reserved from the start
    eager: int = 0
    #: only the newest block can be given back
    lifo: bool = False
    #: a block that is collected frees itself
    self_freeing: bool = True
    #: freed bytes count as used until reset
    keeps_freed: bool = False
    #: ``alloc`` belongs to one thread
    confined: bool = False


TRAITS = {
    "System": Traits(),
    "Arena": Traits(self_freeing=False, keeps_freed=True, confined=True),
    "Stack": Traits(eager=16 << 20, lifo=True, self_freeing=False, confined=True),
    "Pool": Traits(largest=128 << 10, eager=16 * (128 << 10), confined=True),
    "Slab": Traits(confined=True),
    "Heap": Traits(),
    "Secure heap": Traits(),
}


def make(nm: Binding, chain: str) -> Allocator:
    """Builds ``"Limited > Arena"`` and the like, outermost first; the bottom is a noun."""
    *wrappers, noun = chain.split(" > ")
    allocator = NOUNS[noun](nm)
    for wrapper in reversed(wrappers):
        allocator = WRAPPERS[wrapper](nm, allocator)
    return allocator


#: every order of two or three wrappers over every noun, for ``make test-orders``
ALL_ORDERS = tuple(
    " > ".join((*order, noun))
    for count in (2, 3)
    for order in itertools.permutations(WRAPPERS, count)
    for noun in NOUNS
)
#: a handful, in which each stands above and below each other one
SOME_ORDERS = (
    "Limited > Traced > Arena",
    "Traced > Verified > Limited > Locked > Failing > Slab",
    "Failing > Locked > Limited > Traced > Verified > Stack",
    "Verified > Locked > Failing > Traced > Limited > Pool",
)
CHAINS = (
    *NOUNS,
    *(f"{wrapper} > {noun}" for wrapper in WRAPPERS for noun in NOUNS),
    *(ALL_ORDERS if "NATIVEMEM_TEST_ALL_ORDERS" in os.environ else SOME_ORDERS),
)
WRAPPED = tuple(chain for chain in CHAINS if " > " in chain)
#: chains that close although blocks are live
CLOSABLE = tuple(chain for chain in CHAINS if not chain.startswith("Traced"))
#: chains whose blocks free themselves when they are collected
SELF_FREEING = tuple(chain for chain in CHAINS if chain in WRAPPED or TRAITS[chain].self_freeing)


def chain_of(allocator: Allocator) -> list[Allocator]:
    """The allocator and all below it, without the system allocator that a whole backend shares."""
    links = []
    while allocator is not None and allocator is not allocator._binding.default_system:
        links.append(allocator)
        allocator = allocator.upstream
    return links


def noun_of(allocator: Allocator) -> Allocator:
    """The allocator that holds the memory of ``allocator``'s blocks."""
    while type(allocator).__name__ in WRAPPERS:
        allocator = allocator.upstream
    return allocator


def chain_to_noun(allocator: Allocator) -> list[Allocator]:
    """The allocator and those below it down to the one that holds the memory, unless that is the shared one."""
    links, noun = chain_of(allocator), noun_of(allocator)
    return links[: links.index(noun) + 1] if noun in links else links


def as_owner(allocator: Allocator) -> ExitStack:
    """A context in which the links below a Locked may be called, too."""
    stack = ExitStack()
    for link in chain_of(allocator):
        if type(link).__name__ == "Locked":
            stack.enter_context(link.owning())  # type: ignore[attr-defined]
    return stack


def traits_of(allocator: Allocator) -> Traits:
    """Those of the allocator that holds the memory, and of a Locked above it."""
    traits = TRAITS[type(noun_of(allocator)).__name__]
    if any(type(link).__name__ == "Locked" for link in chain_of(allocator)):
        traits = replace(traits, confined=False)
    return traits


def freeable(allocator: Allocator, blocks: list[Block], step: int) -> list[Block]:
    """One of ``step`` of the blocks, in an order in which they can be freed while the others live: some here and
    there, but of a stack the newest."""
    if traits_of(allocator).lifo:
        return blocks[::-1][: -(-len(blocks) // step)]
    return blocks[::step]


def fill(block: Block, byte: int) -> None:
    """Writes ``byte`` to every byte of the block."""
    with memoryview(block) as view:
        view[:] = bytes([byte]) * len(view)


def content(block: Block) -> bytes:
    """A copy of the block's bytes."""
    with memoryview(block) as view:
        return bytes(view)


Snapshot: TypeAlias = list[tuple[Any, ...]]


def snapshot(*allocators: Allocator) -> Snapshot:
    """Everything about these chains that a refused call must leave alone."""
    return [
        (link.closed, link.generation, link.stats, link.blocks())
        for allocator in allocators
        for link in chain_of(allocator)
    ]


@contextmanager
def unchanged(*allocators: Allocator) -> Iterator[None]:
    """Asserts that counters, generation and live blocks of the chains come out as they went in."""
    before = snapshot(*allocators)
    yield
    assert snapshot(*allocators) == before


def wait_for_end(native_id: int | None) -> None:
    """Until a thread that was joined is gone for the system too: what the core does at its end comes after what a
    join waits for. Where the system does not tell, join is all there is."""
    while sys.platform == "linux" and os.path.exists(f"/proc/self/task/{native_id}"):
        os.sched_yield()


def in_thread(call: Callable[[], Result]) -> Result:
    """Runs ``call`` in a thread of its own, which has ended afterwards; its result, or the exception it raised."""
    ids: list[int] = []

    def work() -> Result:
        ids.append(threading.get_native_id())
        return call()

    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()
    finally:
        wait_for_end(ids[0])


def drop_elsewhere(things: list[Any]) -> None:
    """Has another thread finalise them.

    In a free-threaded interpreter an object goes back to the thread that made it when its last reference goes, so
    there the other thread finds them in a cycle.
    """
    if not is_free_threaded():
        in_thread(things.clear)
        return
    was = gc.isenabled()
    gc.disable()
    try:
        cycle = [*things]
        cycle.append(cycle)
        things.clear()
        del cycle
        in_thread(gc.collect)
    finally:
        if was:
            gc.enable()


def collect() -> None:
    """Collects garbage; on CPython needed for cycles only. On PyPy what a finaliser drops is for the next time."""
    for _ in range(1 if sys.implementation.name == "cpython" else 5):
        gc.collect()


def figures(error: NativeMemError) -> dict[str, Any]:
    """The numbers of a refusal, without those that follow from them."""
    follow = ("capacity", "available", "utilization", "largest_free")
    return {key: value for key, value in error.state.items() if key not in follow}


def is_one_line(error: BaseException) -> bool:
    """Whether the message is one line that says something."""
    text = str(error)
    return bool(text.strip()) and "\n" not in text


class Index:
    """An integer by ``__index__`` alone, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value
