"""LIFE: no Python program can make a pointer dangle, in whatever order it drops things."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import itertools
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import nativemem
from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.errors import (
    BudgetExceeded,
    ConfigError,
    CorruptionDetected,
    DoubleFree,
    InvalidMark,
    LeakError,
    StaleBlock,
    StaleHandle,
)

from .helpers import (
    CHAINS,
    CLOSABLE,
    ROOMY,
    SELF_FREEING,
    WRAPPERS,
    as_owner,
    chain_of,
    collect,
    content,
    drop_elsewhere,
    fill,
    in_thread,
    is_one_line,
    make,
    own_system,
    unchanged,
)

# --- close ---


def test_close(allocator: Allocator) -> None:
    """LIFE-1"""
    allocator.alloc(10).free()
    assert allocator.closed is False
    assert allocator.close() is None
    assert allocator.closed is True
    allocator.close()
    with pytest.raises(StaleHandle):
        allocator.blocks()
    assert repr(allocator) == f"<{type(allocator).__name__} closed>"


def test_every_method_of_a_closed_allocator(nm: Binding) -> None:
    """LIFE-1: StaleHandle."""
    arena, slab, heap, traced = nm.Arena(), nm.Slab(), nm.Heap(), nm.Traced(histogram=True)
    stack = nm.Stack(1000)
    mark, height = arena.mark(), stack.mark()
    others = (nm.System(), nm.Pool(10, 10), nm.Heap(secure=True), nm.Limited(None, nm.Budget(100)))
    calls: list[tuple[Allocator, Callable[[], object]]] = [
        (arena, arena.reset),
        (arena, arena.mark),
        (arena, lambda: arena.release(mark)),
        (arena, arena.scope().__enter__),
        (stack, stack.reset),
        (stack, stack.mark),
        (stack, lambda: stack.release(height)),
        (stack, stack.frame().__enter__),
        (slab, slab.trim),
        (heap, heap.trim),
        (traced, traced.percentiles),
    ]
    for each in (arena, stack, slab, heap, traced, *others):
        each.close()
        calls += [
            (each, lambda each=each: each.alloc(1)),
            (each, lambda each=each: each.alloc(0)),
            (each, lambda each=each: each.array("d", 1)),
            (each, lambda each=each: each.alloc_many([1])),
            (each, lambda each=each: each.alloc_value("d", 1.0)),
            (each, lambda each=each: each.alloc_array("d", [1.0])),
            (each, lambda each=each: each.stats),
            (each, each.__enter__),
        ]
    for each, call in calls:
        with pytest.raises(StaleHandle) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert str(caught.value) == f"{type(each).__name__}: is closed"


#: allocators that stand on another one, which is what remains when they are closed
ON_TOP: dict[str, Callable[[Binding, Any], Any]] = {
    **WRAPPERS,
    "Arena": lambda nm, upstream: nm.Arena(upstream=upstream),
    "fixed Arena": lambda nm, upstream: nm.Arena("64 KiB", grow=False, upstream=upstream),
    "Stack": lambda nm, upstream: nm.Stack("64 KiB", upstream=upstream),
    "Pool": lambda nm, upstream: nm.Pool(64, 8, upstream=upstream),
    "Slab": lambda nm, upstream: nm.Slab(upstream=upstream),
    "TypedArena": lambda nm, upstream: nm.TypedArena("d", upstream=upstream),
    "Traced with frames": lambda nm, upstream: nm.Traced(upstream, stacks=4),
}


def use(top: Any) -> None:
    if hasattr(top, "append"):
        top.append(1.0)
    else:
        block = top.alloc(64)
        fill(block, 1)
        block.free()


@pytest.mark.parametrize("way", ["close", "with", "Limited between", "Locked between"])
@pytest.mark.parametrize("kind", ON_TOP)
def test_a_closed_allocator_lets_go_of_its_upstream(nm: Binding, kind: str, way: str) -> None:
    """BLOCK-11: it may be closed, and what only stood between goes, with all it charged and without a collection;
    the closed one is still there and knows what it was."""
    heap, budget = nm.Heap(), nm.Budget("1 MiB", name="between")
    upstream: Any = heap
    if way == "Limited between":
        upstream = nm.Limited(heap, budget)
    if way == "Locked between":
        upstream = nm.Locked(nm.Limited(heap, budget))
    top = ON_TOP[kind](nm, upstream)
    use(top)
    described, owner = (each := getattr(top, "arena", top)).describe(), each.owner
    gone = weakref.ref(upstream) if upstream is not heap else None
    gc.disable()
    try:
        del upstream
        if way == "with":
            with top:
                use(top)
        else:
            top.close()
        top.close()
        assert each.upstream is None
        assert sys.implementation.name != "cpython" or gone is None or gone() is None
        assert budget.used == 0
        heap.close()
    finally:
        gc.enable()
    assert (each.describe(), each.owner, each.closed) == (described, owner, True)
    with pytest.raises(StaleHandle):
        each.alloc(1)
    with pytest.raises(StaleHandle):
        each.alloc_many([1])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_blocks_of_a_closed_wrapper_hold_no_upstream(nm: Binding, wrapper: str) -> None:
    """BLOCK-11: dead blocks know their allocator and owner, and no more."""
    arena = nm.Arena()
    top: Any = WRAPPERS[wrapper](nm, arena)
    freed, live = top.alloc(10), top.alloc(10)
    freed.free()
    if wrapper == "Traced":
        live.free()
    owner = live.owner
    generation = top.generation
    top.close()
    assert (freed.allocator, live.allocator, live.owner, live.alive) == (top, top, owner, False)
    assert top.generation == generation
    gone = weakref.ref(arena)
    arena.reset()
    assert top.generation == generation
    arena.close()
    gc.disable()
    try:
        del arena
        assert sys.implementation.name != "cpython" or gone() is None
    finally:
        gc.enable()
    with pytest.raises(StaleBlock):
        live.free() if wrapper != "Traced" else freed.address
    assert repr(freed) == "<Block 10 B, freed>"


@pytest.mark.parametrize("kind", ON_TOP)
def test_a_close_that_is_refused_holds_on(nm: Binding, kind: str) -> None:
    """BLOCK-11: its upstream is held as before."""
    heap = nm.Heap()
    top = ON_TOP[kind](nm, heap)
    each = getattr(top, "arena", top)
    view = memoryview(each.alloc(64))
    with pytest.raises((BufferError, LeakError)):
        top.close()
    with pytest.raises(BufferError):
        heap.close()
    assert each.upstream is heap
    view[:] = bytes(64)
    view.release()
    del view
    collect()
    top.close()
    heap.close()


def test_as_a_context_manager(allocator: Allocator) -> None:
    """LIFE-1"""
    with allocator as inside:
        assert inside is allocator
        allocator.alloc(10).free()
    assert allocator.closed


def test_closing_inside_the_context(allocator: Allocator) -> None:
    """LIFE-1"""
    with allocator:
        allocator.close()
    assert allocator.closed


def test_the_context_lets_exceptions_through(allocator: Allocator) -> None:
    """LIFE-1: also where closing is refused because of a view."""
    with pytest.raises(ZeroDivisionError), allocator:
        view = memoryview(allocator.alloc(10))
        raise ZeroDivisionError
    assert not allocator.closed
    view.release()


@pytest.mark.parametrize("chain", CLOSABLE)
def test_leaving_the_context_under_a_view(nm: Binding, chain: str) -> None:
    """BLOCK-3"""
    allocator = make(nm, chain)
    with pytest.raises(BufferError, match="close refused"), allocator:
        view = memoryview(allocator.alloc(10))
    view[0] = 1
    view.release()
    collect()
    allocator.close()


@pytest.mark.parametrize("chain", CLOSABLE)
def test_close_under_a_view(nm: Binding, chain: str) -> None:
    """BLOCK-3: refused, and nothing changed."""
    allocator = make(nm, chain)
    blocks = [allocator.alloc(n) for n in (10, 64, 20)]
    fill(blocks[1], 3)
    view = memoryview(blocks[1])
    with unchanged(allocator), pytest.raises(BufferError, match="close refused"):
        allocator.close()
    assert all(block.alive for block in blocks)
    assert bytes(view) == b"\x03" * 64
    view.release()
    allocator.close()
    assert not any(block.alive for block in blocks)


def test_closing_upstream_first(allocator: Allocator) -> None:
    """LIFE-2: an allocator that another stands on stays, whether blocks are live or not."""
    *_, bottom = chain_of(allocator)
    chain = chain_of(nm_traced := bottom._binding.Traced(allocator))
    for upstream in chain[1:]:
        with unchanged(nm_traced), as_owner(allocator), pytest.raises(BufferError) as caught:
            upstream.close()
        assert is_one_line(caught.value)
        assert "close refused" in str(caught.value)
    for link in chain:
        link.close()
        assert link.closed


def test_a_collected_allocator_no_longer_stands_on_its_upstream(allocator: Allocator) -> None:
    """LIFE-2"""
    nm = allocator._binding
    nouns = [nm.Arena(upstream=allocator), nm.Slab(upstream=allocator)]
    nouns += [nm.Pool(10, 10, upstream=allocator), nm.Stack(100, upstream=allocator)]
    wrapper = nm.Traced(allocator)
    while nouns:
        with pytest.raises((BufferError, LeakError)):  # what a stack and a pool take at once is a leak to Traced
            allocator.close()
        nouns.pop()
        collect()
    with pytest.raises(BufferError):
        allocator.close()
    del wrapper
    collect()
    allocator.close()


def test_a_closed_allocator_holds_nothing(allocator: Allocator) -> None:
    """LIFE-2"""
    block = allocator.alloc(10)
    block.free()
    upstreams = chain_of(allocator)[1:]
    for link in chain_of(allocator):
        link.close()
    assert all(link.closed for link in upstreams)
    with pytest.raises(DoubleFree):
        block.free()


def test_closing_frees_the_blocks_of_this_allocator_only(nm: Binding) -> None:
    """LIFE-1"""
    system = nm.System()
    limited = nm.Limited(system, nm.Budget(100))
    below, above = system.alloc(10), limited.alloc(20)
    limited.close()
    assert (below.alive, above.alive) == (True, False)
    assert system.stats.current == 10
    with pytest.raises(StaleBlock, match="dropped by"):
        above.free()


def test_a_full_chain_is_closed_from_the_top(nm: Binding) -> None:
    """LIFE-2"""
    system = nm.System()
    with nm.Limited(system, nm.Budget("1 MiB")) as limited:
        with nm.Arena(upstream=limited) as arena, nm.Slab(upstream=arena) as slab:
            blocks = [link.alloc(100) for link in (system, limited, arena, slab)]
            assert slab.describe() == "Slab > Arena > Limited > System"
        assert [block.alive for block in blocks] == [True, True, False, False]
        assert limited.stats.live == 1
    assert [block.alive for block in blocks] == [True, False, False, False]
    assert (system.stats.live, system.stats.current) == (1, 100)


# --- references ---


def test_references_go_in_any_order(nm: Binding) -> None:
    """LIFE-3: block, wrappers, nouns and budget; everything comes back to the bottom."""
    system = nm.System()
    for order in itertools.permutations(range(6)):
        budget = nm.Budget("1 MiB", parent=nm.Budget("2 MiB"))
        limited = nm.Limited(system, budget)
        slab = nm.Slab(upstream=limited)
        arena = nm.Arena(hint=512, upstream=slab)
        traced = nm.Traced(arena)
        block = traced.alloc(100)
        things = [budget, limited, slab, arena, traced, block]
        del budget, limited, slab, arena, traced, block
        for index in order:
            things[index] = None
            if things[5] is not None:
                fill(things[5], index)
    collect()
    assert (system.stats.live, system.stats.current) == (0, 0)
    assert system.stats.count > 0


@pytest.mark.parametrize("chain", CHAINS)
def test_a_block_holds_its_chain(nm: Binding, chain: str) -> None:
    """LIFE-3"""
    allocator = make(nm, chain)
    references = [weakref.ref(link) for link in chain_of(allocator)]
    block = allocator.alloc(64)
    del allocator
    collect()
    assert all(reference() is not None for reference in references)
    fill(block, 1)
    assert content(block) == b"\x01" * 64
    block.free()
    assert references[0]() is block.allocator
    del block
    collect()
    assert all(reference() is None for reference in references)


def test_a_view_holds_the_chain(allocator: Allocator) -> None:
    """LIFE-3"""
    factory = type(allocator._binding.System())
    system = factory()
    view = memoryview(allocator._binding.Arena(hint=64, upstream=system).alloc(64))
    collect()
    view[:] = b"x" * 64
    assert system.stats.live == 1
    assert bytes(view) == b"x" * 64
    del view
    collect()
    assert system.stats.live == 0


def test_everything_can_be_referred_to_weakly(allocator: Allocator) -> None:
    block = allocator.alloc(8)
    deaths: list[str] = []
    references = [
        weakref.ref(block, lambda _: deaths.append("block")),
        weakref.ref(allocator, lambda _: deaths.append("allocator")),
    ]
    assert references[0]() is block
    assert references[1]() is allocator
    del block
    collect()
    assert deaths == ["block"]
    assert references[0]() is None


# --- cycles ---


class Holder:
    """An object of a user."""


@pytest.mark.parametrize("chain", CHAINS)
def test_a_cycle_through_an_attribute(nm: Binding, chain: str) -> None:
    """LIFE-4: block and allocator hang off one object that hangs off itself."""
    system = nm.System()
    holder = Holder()
    holder.allocator = make(nm, chain)
    holder.arena = nm.Arena(upstream=nm.Traced(system))
    holder.blocks = [holder.allocator.alloc(10), holder.arena.alloc(10)]
    holder.me = holder
    gone = [weakref.ref(holder), weakref.ref(holder.allocator)]
    del holder
    collect()
    assert [reference() for reference in gone] == [None, None]
    assert system.stats.live == 0


@pytest.mark.parametrize("kind", ["Arena", "Stack", "Pool", "Slab", "Heap", "System", "Traced", "Limited"])
def test_a_cycle_through_a_subclass(nm: Binding, kind: str) -> None:
    """LIFE-4: allocator -> attribute -> block -> allocator, with and without a view between."""
    system = nm.System()
    sub = type("Sub", (getattr(nm, kind),), {})
    allocator = {
        "Limited": lambda: sub(system, nm.Budget(1000)),
        "Arena": lambda: sub(upstream=system),
        "Stack": lambda: sub(1000, upstream=system),
        "Pool": lambda: sub(20, 5, upstream=system),
        "Slab": lambda: sub(upstream=system),
        "Traced": lambda: sub(system),
    }.get(kind, sub)()
    allocator.blocks_of_mine = [allocator.alloc(10), allocator.alloc(0)]
    allocator.view = memoryview(allocator.alloc(20))
    allocator.me = allocator
    if kind in ("Arena", "Stack"):
        allocator.a_mark = allocator.mark()
    gone = weakref.ref(allocator)
    del allocator
    collect()
    assert gone() is None
    assert system.stats.live == 0


def test_a_cycle_through_a_budget(nm: Binding) -> None:
    """LIFE-4"""
    sub = type("Owner", (nm.Budget,), {})
    budget = sub(1000)
    budget.limited = nm.Limited(nm.System(), budget)
    budget.block = budget.limited.alloc(10)
    gone = weakref.ref(budget)
    del budget
    collect()
    assert gone() is None


@pytest.mark.parametrize("chain", SELF_FREEING)
def test_blocks_in_cycles_free_themselves(nm: Binding, chain: str) -> None:
    """LIFE-4"""
    allocator = make(nm, chain)
    holder = Holder()
    holder.me, holder.block = holder, allocator.alloc(10)
    del holder
    collect()
    assert (allocator.stats.live, allocator.stats.frees) == (0, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_a_collected_cycle_gives_back_each_charge_once(nm: Binding, order: int) -> None:
    """LIFE-4: whatever is finalised first; charges of others on the same budgets stay."""
    parent = nm.Budget(ROOMY)
    assert parent.try_reserve(500)
    budget = nm.Budget(ROOMY, parent=parent, shared=nm.Budget(ROOMY, parent=parent), shared_max=50)
    limited = nm.Limited(own_system(nm), budget)
    cycle: list[Any] = [limited.alloc(100), limited.alloc(10), limited, budget][::order]
    cycle.append(cycle)
    del cycle, budget, limited
    collect()
    assert parent.used == 500
    below = nm.Limited(own_system(nm), parent)
    arena = nm.Arena(1024, upstream=below)
    arena.alloc(10)
    cycle = [below, arena][::order]
    cycle.append(cycle)
    del cycle, below, arena
    collect()
    assert parent.used == 500


# --- half-made and copied objects ---


def test_an_allocator_that_was_never_initialised(nm: Binding) -> None:
    """LIFE-5: a clean error, whatever is called."""
    for kind in (nm.System, nm.Arena, nm.Stack, nm.Pool, nm.Slab, nm.Heap, nm.Limited, nm.Traced):
        allocator = kind.__new__(kind)
        block = nm.System().alloc(10)
        assert allocator.closed
        assert allocator.upstream is None
        for call in (
            lambda: allocator.alloc(1),  # noqa: B023
            lambda: allocator.alloc(0),  # noqa: B023
            lambda: allocator.stats,  # noqa: B023
            allocator.blocks,
            lambda: allocator.array("d", 1),  # noqa: B023
            allocator.__enter__,
        ):
            with pytest.raises(StaleHandle):
                call()
        with pytest.raises(ValueError, match="block"):
            allocator.free(block)
        allocator.close()
        assert "closed" in repr(allocator)
        with pytest.raises(StaleHandle):
            nm.Traced(allocator)


def test_a_failed_constructor_leaves_nothing(nm: Binding) -> None:
    """LIFE-5"""
    system = nm.System()
    for build in (
        lambda: nm.Arena(hint=-1, upstream=system),
        lambda: nm.Stack(0, upstream=system),
        lambda: nm.Pool(16, 0, upstream=system),
        lambda: nm.Slab(bins=(1,), upstream=system),
        lambda: nm.Limited(system, None),
        lambda: nm.Traced(system, histogram=3),
    ):
        with pytest.raises(ValueError, match=r"^\w+\.\w+: "):
            build()
    system.close()


def test_initialising_twice(nm: Binding) -> None:
    """LIFE-5: refused; the allocator goes on with what it had."""
    arena = nm.Arena(hint=64, upstream=nm.System())
    block = arena.alloc(60)
    fill(block, 1)
    with unchanged(arena), pytest.raises(RuntimeError):
        arena.__init__(hint=128)
    assert content(block) == b"\x01" * 60
    assert arena.alloc(4, 1).alive


def test_no_copies(allocator: Allocator) -> None:
    """LIFE-5: memory has one owner."""
    block = allocator.alloc(8)
    fill(block, 1)
    for thing in (allocator, block):
        for copier in (copy.copy, copy.deepcopy, pickle.dumps):
            with unchanged(allocator), pytest.raises(TypeError):
                copier(thing)
    assert content(block) == b"\x01" * 8


def test_a_subclass_with_its_own_names(nm: Binding) -> None:
    """Messages and describe call it by its name."""

    class Scratch(nm.Arena):
        pass

    scratch = Scratch(upstream=nm.System())
    scratch.note = "attributes are fine"
    assert scratch.describe() == "Scratch > System"
    with pytest.raises(ValueError, match=r"^Scratch\.alloc: size "):
        scratch.alloc(-1)


# --- threads and exit ---


def test_blocks_dropped_by_many_threads(nm: Binding) -> None:
    """LIFE-3"""
    heap = nm.Heap()
    limited = nm.Limited(heap, nm.Budget("1 GiB"))
    blocks = [limited.alloc(n + 1) for n in range(1000)]
    piles = [blocks[k::4] for k in range(4)]
    del blocks
    for pile in piles:
        in_thread(pile.clear)
    collect()
    assert (heap.stats.live, limited.stats.live, limited.owner.used) == (0, 0, 0)


LEFT_BEHIND = """
import sys, threading
from nativemem._api import load
nm = load(sys.argv[1])
class Holder: pass
budget = nm.Budget("1 GiB", name="b")
chains = []
heaps = (nm.Heap(), nm.Heap(secure=True))
for noun in (nm.System(), nm.Arena(), nm.Slab(), nm.Stack("1 MiB"), nm.Pool("128 KiB", 9), *heaps):
    chains.append(nm.Traced(nm.Limited(noun, budget), histogram=True))
blocks = [chain.alloc(n) for chain in chains for n in (0, 1, 100, 100000)]
views = [memoryview(block) for block in blocks]
arrays = [chain.array("d", 100) for chain in chains]
holder = Holder()
holder.me, holder.block, holder.chains = holder, chains[1].alloc(5), chains
thread = threading.Thread(target=lambda: blocks.append(chains[-1].alloc(10)))
thread.start()
thread.join()
sys.modules["keeps.it.alive"] = holder
print(len(blocks))
"""


def test_exit_with_everything_alive(nm: Binding) -> None:
    """LIFE-6: an interpreter that ends with blocks, views and cycles alive ends quietly."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", LEFT_BEHIND, nm.name],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "29\n", "")


TWO_INTERPRETERS = """
import sys
from nativemem._api import load
from nativemem.errors import DoubleFree
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
if sys.version_info < (3, 12):
    create = interpreters.create
elif sys.version_info < (3, 13):
    create = lambda: interpreters.create(isolated=False)
else:
    create = lambda: interpreters.create("legacy")

CHECK = '''
block = load(NAME).Arena().alloc("1 KiB")
block.free()
try:
    block.free()
except DoubleFree:
    pass
'''
IMPORT = '''
from nativemem._api import load
from nativemem.errors import DoubleFree
'''
check = CHECK.replace("NAME", repr(sys.argv[1]))
exec(check)
for _ in range(2):
    inner = create()
    assert not interpreters.run_string(inner, IMPORT + check)
    exec(check)
    interpreters.destroy(inner)
    exec(check)
"""


def test_each_interpreter_has_errors_of_its_own(nm: Binding) -> None:
    """LIFE-10: another one that imports the package, or ends, changes nothing."""
    pytest.importorskip("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")
    if nm.name == "native" and is_free_threaded():
        pytest.skip("every subinterpreter of a free-threaded interpreter is isolated: it loads no such extension")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TWO_INTERPRETERS, nm.name],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_chains_and_families_of_budgets_have_a_most(nm: Binding) -> None:
    """LIFE-7: a call goes through all of them."""
    chain, budget = nm.System(), nm.Budget(1000)
    for _ in range(99):
        chain, budget = nm.Traced(chain), nm.Budget(1000, parent=budget)
    limited = nm.Limited(nm.System(), budget)
    assert chain.alloc(10).alive
    assert limited.alloc(10).alive
    with pytest.raises(ConfigError, match="at most 100"):
        nm.Traced(chain)
    with pytest.raises(ConfigError, match="at most 100"):
        nm.Budget(1000, parent=budget)


def test_a_weakref_callback_may_look_at_the_allocator(nm: Binding) -> None:
    """LIFE-4: the block is no longer among the live ones when it is told that it goes."""
    system = nm.System()
    seen = []
    block = system.alloc(10)
    reference = weakref.ref(block, lambda _: seen.append((system.blocks(), system.stats.live)))
    del block
    collect()
    assert seen == [([], 0)]
    assert reference() is None


@pytest.mark.parametrize("what", ["reset", "close"])
def test_a_collection_inside_alloc_may_reset_or_close(nm: Binding, what: str) -> None:
    """LIFE-4: the block that comes out is a live one of the allocator as it then is, or there is none."""

    class Finalizer:
        def __init__(self, arena: Allocator) -> None:
            self.arena, self.me = arena, self

        def __del__(self) -> None:
            getattr(self.arena, what)()

    for _ in range(300):
        arena = nm.Arena(upstream=nm.System())
        Finalizer(arena)
        blocks = []
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            with contextlib.suppress(StaleHandle):
                blocks += [arena.alloc(40) for _ in range(3)]
        finally:
            gc.set_threshold(*threshold)
        live = [block for block in blocks if block.alive]
        assert not (arena.closed and live)
        for number, block in enumerate(live):
            fill(block, number)
        for number, block in enumerate(live):
            assert content(block) == bytes([number]) * 40
        collect()


def test_python_code_inside_reset_and_release_shares_no_bytes(nm: Binding) -> None:
    """LIFE-4: a profiler, as a signal handler, runs between the lines of the facade."""
    for verb in ("reset", "release"):
        arena = nm.Arena(hint=4096, grow=False)
        mark = arena.mark()
        arena.alloc(100)
        inside: list[object] = []

        def profile(*event: object, arena: Allocator = arena, inside: list[object] = inside) -> None:
            if len(inside) < 20:
                sys.setprofile(None)
                inside.append(arena.alloc(32))
                sys.setprofile(profile)

        sys.setprofile(profile)
        try:
            arena.reset() if verb == "reset" else arena.release(mark)
        finally:
            sys.setprofile(None)
        blocks = [block for block in [*inside, *(arena.alloc(32) for _ in range(20))] if block.alive]
        assert len(blocks) >= 20
        for number, block in enumerate(blocks):
            fill(block, number)
        for number, block in enumerate(blocks):
            assert content(block) == bytes([number]) * 32


def test_what_upstream_does_not_take_back_stays_in_use_there(nm: Binding) -> None:
    """LIFE-9: below the top of a stack, or from a thread that is not upstream's; its caller is not told."""
    stack = nm.Stack("1 MiB")
    arena = nm.Arena(hint=64, upstream=stack)
    for n in (60, 100, 200):
        arena.alloc(n)
    assert stack.stats.current == 64 + 128 + 256
    arena.reset()
    assert (arena.stats.reserved, arena.stats.current) == (256, 0)
    assert stack.stats.current == 64 + 128 + 256, "the newest chunk is kept, and lies above the others"
    pool = nm.Pool(64, 4, upstream=stack)
    arena.close()
    assert stack.stats.live == 4, "the pool's chunk is newest"
    pool.close()
    assert stack.stats.live == 3
    stack.reset()
    assert stack.stats.current == 0
    outer = nm.Arena(upstream=nm.System())
    drop_elsewhere([nm.Pool(64, 4, upstream=outer)])
    collect()
    # without the interpreter's lock the thread that made the pool finalises it, in its upstream's own thread
    assert (outer.stats.current, outer.stats.frees) == (256, int(nm.name == "native" and is_free_threaded()))
    outer.close()


def test_a_refused_constructor_holds_nothing(nm: Binding) -> None:
    """LIFE-5: what it was to stand on goes without a collection."""
    limited = nm.Limited(nm.System(), nm.Budget(10))
    gone = weakref.ref(limited)
    gc.disable()
    try:
        for build in (lambda up: nm.Stack(100, upstream=up), lambda up: nm.Pool(100, 1, upstream=up)):
            with contextlib.suppress(BudgetExceeded):
                build(limited)
        assert limited.stats.failures == 2
        del limited
        assert sys.implementation.name != "cpython" or gone() is None
    finally:
        gc.enable()


# --- what is in the way ---


def test_a_refusal_says_which_blocks_are_in_use(nm: Binding) -> None:
    """LIFE-12: how many of which sizes, the largest first; and what stands on the allocator."""
    arena = nm.Arena()
    blocks = [arena.alloc(n) for n in (10, 3000, 10, 500)]
    views = [memoryview(block) for block in (*blocks[:3], blocks[1])]
    with pytest.raises(BufferError) as caught:
        arena.reset()
    assert str(caught.value) == (
        "Arena: reset refused, the memory is in use by 3 blocks with a memoryview or an array: "
        "1 of 3000 bytes, 2 of 10 bytes; release that first"
    )
    slab = nm.Slab(upstream=arena)
    with pytest.raises(BufferError, match=r"2 of 10 bytes and 1 allocator on top of it; release"):
        arena.close()
    with pytest.raises(BufferError, match=r"free refused, .* by 1 block .*: 1 of 3000 bytes; release"):
        blocks[1].free()
    views.clear()
    with pytest.raises(BufferError, match=r"the memory is in use by 1 allocator on top of it; release"):
        arena.reset()
    slab.close()
    many = [memoryview(arena.alloc(n)) for n in range(1, 9)]
    with pytest.raises(BufferError, match=r"8 blocks .*: 1 of 8 bytes, .* 1 of 4 bytes, 3 smaller; release"):
        arena.reset()
    many.clear()
    arena.reset()


def test_a_refusal_says_where_the_blocks_were_asked_for(nm: Binding) -> None:
    """LIFE-12: where a Traced above the memory has kept it, for what came through it."""
    arena = nm.Arena()
    traced = nm.Traced(arena, stacks=1)

    def load(n: int) -> memoryview:
        return memoryview(traced.alloc(n))

    views = [load(1000), load(10), memoryview(traced.alloc(70)), memoryview(arena.alloc(5))]
    with pytest.raises(BufferError) as caught:
        arena.reset()
    sites = caught.value.sites  # type: ignore[attr-defined]
    assert [(site.blocks, site.bytes, site.frames[0].function.split(".")[-1]) for site in sites] == [
        (2, 1010, "load"),
        (1, 70, "test_a_refusal_says_where_the_blocks_were_asked_for"),
    ]
    told = "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    assert "1010 bytes in 2 blocks: " in told
    assert told.index("1010 bytes") < told.index("70 bytes in 1 block: ")
    error = caught.value.with_traceback(None)
    del caught
    views.clear()
    assert traced.blocks() == [], "the error keeps none of them"
    assert str(error).startswith("Arena: reset refused")
    arena.reset()


# --- code of the program in the midst of a call ---


@contextlib.contextmanager
def at_call_of(function: str, then: Callable[[], object]) -> Iterator[None]:
    """Runs ``then`` once, where the package calls its own ``function``."""
    once = [then]

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == function and once:
            once.pop()()

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not once, f"{function} was not called"


def test_a_view_that_is_taken_while_its_block_is_freed(nm: Binding) -> None:
    """LIFE-11"""
    heap = nm.Heap()
    block = heap.alloc(0)
    views: list[memoryview] = []
    with at_call_of("check_free", lambda: views.append(memoryview(block))), pytest.raises(BufferError):
        block.free()
    assert block.alive
    views[0].release()
    block.free()


def test_a_free_in_a_free(nm: Binding) -> None:
    """LIFE-11"""
    block = nm.Heap().alloc(0)
    with at_call_of("check_free", lambda: block.free()), pytest.raises(DoubleFree):
        block.free()
    assert not block.alive


@pytest.mark.parametrize("kind", ["Arena", "Stack"])
def test_a_close_in_a_reset(nm: Binding, kind: str) -> None:
    """LIFE-11"""
    allocator: Any = make(nm, kind)
    block = allocator.alloc(100)
    with at_call_of("check", allocator.close), pytest.raises(StaleHandle):
        allocator.reset()
    assert not block.alive


@pytest.mark.parametrize("kind", ["Arena", "Stack"])
def test_a_reset_in_a_release(nm: Binding, kind: str) -> None:
    """LIFE-11: the mark is of an earlier generation then, and what came since stays."""
    allocator: Any = make(nm, kind)
    allocator.alloc(100)
    mark, since = allocator.mark(), []

    def again() -> None:
        allocator.reset()
        since.append(allocator.alloc(10))
        fill(since[0], 7)

    with at_call_of("check", again), pytest.raises(InvalidMark):
        allocator.release(mark)
    assert since[0].alive
    assert allocator.blocks() == since


def test_blocks_that_go_while_they_are_listed(nm: Binding) -> None:
    """LIFE-11: before Python 3.12 a collection runs in the making of a list."""
    heap = nm.Heap()
    blocks = [heap.alloc(10) for _ in range(300)]
    thresholds = gc.get_threshold()

    def collected(phase: str, _: object) -> None:
        if phase == "start" and blocks:
            blocks.pop().free()

    gc.callbacks.append(collected)
    gc.set_threshold(1)
    try:
        while len(blocks) > 50:
            kept = len(blocks)
            assert kept - 40 < len(heap.blocks()) <= kept
            blocks.pop()
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*thresholds)
    assert set(map(id, heap.blocks())) == set(map(id, blocks))


def test_an_interpreter_whose_end_took_the_package() -> None:
    """LIFE-10: what raises the package's errors goes with the interpreter's dictionary; a finalizer that runs after
    that gets builtin ones."""
    if nativemem.backend != "native":
        pytest.skip("of the native backend")
    program = """
import ctypes, nativemem, sys
limited = nativemem.Limited(nativemem.Heap(), nativemem.Budget(100, on_pressure=print))
block, freed = limited.alloc(10), limited.alloc(10)
freed.free()
view = memoryview(block)
api = ctypes.pythonapi
api.PyInterpreterState_Get.restype = ctypes.c_void_p
api.PyInterpreterState_GetDict.restype = ctypes.c_void_p
api.PyInterpreterState_GetDict.argtypes = [ctypes.c_void_p]
api.PyDict_Clear.argtypes = [ctypes.c_void_p]
api.PyDict_Clear(api.PyInterpreterState_GetDict(api.PyInterpreterState_Get()))
too_much, no_size, enough = (lambda: limited.alloc(200)), (lambda: limited.alloc("x")), (lambda: limited.alloc(90))
for call in (too_much, no_size, block.free, freed.free, enough):
    try:
        print(type(call()).__name__)
    except Exception as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["MemoryError", "ValueError", "BufferError", "ValueError", "Block"]


def test_a_block_that_was_written_over_and_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAP-4e: there is no call that could fail, so the interpreter is told."""
    if nativemem.backend != "native":
        pytest.skip("secure heaps are of the native backend")
    heap = nativemem.Heap(secure=True)
    block = heap.alloc(100)
    ctypes.c_ubyte.from_address(block.address + 100).value ^= 255
    known = heap.alloc(100)
    ctypes.c_ubyte.from_address(known.address + 100).value ^= 255
    with pytest.raises(CorruptionDetected) as caught:
        known.free()
    del caught
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: told.append((u.exc_type, u.object)))
    del known
    assert told == []
    del block
    assert told == [(CorruptionDetected, heap)]
    assert heap.stats.live == 2


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="others find what is out by a collection")
def test_no_collection_in_a_refusal(nm: Binding) -> None:
    """It would run finalizers in the midst of a call, and take as long as the program is large."""
    collections: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        collections.append(phase)

    arena, heap, stack = nm.Arena(), nm.Heap(), nm.Stack(1000)
    kept = [(owner, owner.alloc(100)) for owner in (arena, heap, stack)]
    views = [memoryview(block) for _, block in kept]
    was_on = gc.isenabled()
    gc.disable()
    gc.callbacks.append(note)
    try:
        for owner, block in kept:
            for call in (
                block.free,
                owner.close,
                lambda owner=owner, block=block: owner.resize(block, 200),
                getattr(owner, "reset", owner.close),
            ):
                with pytest.raises(BufferError):
                    call()
        assert collections == []
        for view in views:
            view.release()
        for owner, block in kept:
            block.free()
            owner.close()
        assert collections == []
    finally:
        gc.callbacks.remove(note)
        if was_on:
            gc.enable()
