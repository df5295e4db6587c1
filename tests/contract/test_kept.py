"""ARENA-10: what an arena or a stack gave is kept, whether or not a Block object still exists, and given back at
the end. Seen from C, which knows addresses only."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from nativemem.backends.binding import Binding

from .helpers import WRAPPERS, Block, collect, fill, in_thread

#: gives an allocator of the chain what to do with a block that it made, and returns the addresses
Form: TypeAlias = Callable[[Any, Callable[[Block], None]], object]
SIZE = 48
COUNT = 300


def numpy() -> Any:
    return pytest.importorskip("numpy")


def in_turn(make: Callable[[Any], Block]) -> Form:
    """A block after the other, each dropped before the next."""

    def form(allocator: Any, seen: Callable[[Block], None]) -> None:
        for _ in range(COUNT):
            seen(make(allocator))

    return form


def free_each(allocator: Any, seen: Callable[[Block], None]) -> None:
    for _ in range(COUNT):
        block = allocator.alloc(SIZE)
        seen(block)
        block.free()


def free_all(allocator: Any, seen: Callable[[Block], None]) -> None:
    blocks = [allocator.alloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        seen(block)
        block.free()


def with_each(allocator: Any, seen: Callable[[Block], None]) -> None:
    for _ in range(COUNT):
        with allocator.alloc(SIZE) as block:
            seen(block)


def many(allocator: Any, seen: Callable[[Block], None]) -> None:
    for block in allocator.alloc_many([SIZE] * COUNT):
        seen(block)


def array_of(kind: Callable[[], Any], n: int) -> Form:
    """Of a view only its block is looked at; both are dropped."""

    def form(allocator: Any, seen: Callable[[Block], None]) -> None:
        for _ in range(COUNT):
            view = allocator.array(kind(), n)
            seen(allocator.blocks()[0])
            del view

    return form


def in_another_thread(allocator: Any, seen: Callable[[Block], None]) -> None:
    blocks = [allocator.alloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        seen(block)
    del block
    in_thread(blocks.clear)


def in_a_cycle(allocator: Any, seen: Callable[[Block], None]) -> None:
    for _ in range(COUNT):
        cycle: list[Any] = [allocator.alloc(SIZE)]
        cycle.append(cycle)
        seen(cycle[0])
    del cycle
    collect()


def resized(allocator: Any, seen: Callable[[Block], None]) -> None:
    for _ in range(COUNT):
        block = allocator.alloc(SIZE * 2)
        assert allocator.resize(block, SIZE)
        seen(block)


FORMS: dict[str, Form] = {
    "dropped": in_turn(lambda allocator: allocator.alloc(SIZE)),
    "dropped at 64": in_turn(lambda allocator: allocator.alloc(SIZE, 64)),
    "dropped, large": lambda allocator, seen: [seen(allocator.alloc(200_000)) for _ in range(5)],
    "dropped, of many sizes": lambda allocator, seen: [seen(allocator.alloc(n % 97 + 1)) for n in range(COUNT)],
    "freed": free_each,
    "freed together": free_all,
    "end of with": with_each,
    "alloc_many": many,
    "array of a format": array_of(lambda: "d", SIZE // 8),
    "array of a ctypes type": array_of(lambda: ctypes.c_int, SIZE // 4),
    "array of a dtype": array_of(lambda: numpy().dtype("f8"), SIZE // 8),
    "alloc_value": in_turn(lambda allocator: allocator.alloc_value("6d", range(6)).block),
    "alloc_array": in_turn(lambda allocator: allocator.alloc_array("d", range(6)).block),
    "in another thread": in_another_thread,
    "in a cycle": in_a_cycle,
    "resized": resized,
}


class Addresses:
    """Blocks as C knows them."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}

    def see(self, block: Block) -> None:
        number = len(self.of)
        self.of[block.address] = block.size
        ctypes.memset(block.address, number % 251, block.size)
        assert len(self.of) == number + 1, "an address came twice"

    def are_held(self) -> bool:
        """Whether each block still has its bytes."""
        return all(
            ctypes.string_at(address, size) == bytes([number % 251]) * size
            for number, (address, size) in enumerate(self.of.items())
        )

    def are_apart(self) -> bool:
        """Whether no two blocks overlap."""
        spans = sorted((address, address + size) for address, size in self.of.items())
        return all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def others_objects() -> list[Any]:
    """What Python and its user put into free memory: many of each small size."""
    return [bytes([77]) * n for n in range(8, 250, 8) for _ in range(200)] + [b"M" * 200_000 for _ in range(10)]


def check_that_it_is_kept(arena: Any, allocator: Any, form: Form) -> Addresses:
    addresses = Addresses()
    form(allocator, addresses.see)
    collect()
    objects = others_objects()
    blocks = [arena.alloc(n % 100 + 1) for n in range(COUNT)]
    for block in blocks:
        fill(block, 255)
    assert addresses.are_held()
    assert addresses.are_apart()
    for address, size in addresses.of.items():
        ctypes.memset(address, 0, size)  # as C may
    assert all(set(each) <= {77} for each in objects)
    assert all(set(memoryview(block)) == {255} for block in blocks)
    return addresses


@pytest.mark.parametrize("form", FORMS)
def test_blocks_of_an_arena(nm: Binding, form: str) -> None:
    """ARENA-10"""
    arena = nm.Arena()
    check_that_it_is_kept(arena, arena, FORMS[form])


#: a stack gives the bytes of a freed block to the next
STACK_FORMS = [name for name in FORMS if "freed" not in name and name not in ("end of with", "array of a format")]


@pytest.mark.parametrize("form", STACK_FORMS)
def test_blocks_of_a_stack(nm: Binding, form: str) -> None:
    """ARENA-10"""
    stack = nm.Stack("4 MiB")
    with stack.frame():
        check_that_it_is_kept(stack, stack, FORMS[form])


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("form", FORMS)
def test_blocks_of_a_wrapper_in_front_of_an_arena(nm: Binding, form: str, wrapper: str) -> None:
    """ARENA-10: collected, they are freed; the arena keeps freed ones."""
    arena = nm.Arena()
    allocator: Any = WRAPPERS[wrapper](nm, arena)
    check_that_it_is_kept(allocator, allocator, FORMS[form])


@pytest.mark.parametrize("form", ["dropped", "freed"])
def test_blocks_of_a_wrapper_that_is_closed(nm: Binding, form: str) -> None:
    """ARENA-10"""
    arena = nm.Arena()

    def run_and_close(allocator: Any, seen: Callable[[Block], None]) -> None:
        with nm.Limited(arena, nm.Budget("1 MiB")) as limited:
            FORMS[form](limited, seen)
            live = limited.alloc(SIZE)
            seen(live)
        assert not live.alive

    check_that_it_is_kept(arena, arena, run_and_close)


def test_large_blocks_of_a_slab_on_an_arena(nm: Binding) -> None:
    """ARENA-10: those that the slab passes on are the arena's."""
    arena = nm.Arena()
    slab = nm.Slab(upstream=arena)
    check_that_it_is_kept(arena, slab, lambda allocator, seen: [seen(allocator.alloc(5000)) for _ in range(50)])


@pytest.mark.parametrize("options", [{"patterns": True}, {"zero_on_free": True}, {"grow": False, "hint": "1 MiB"}])
def test_blocks_of_arenas_with_options(nm: Binding, options: dict[str, Any]) -> None:
    """ARENA-10, ARENA-9: freed ones are marked, where that was asked for."""
    arena = nm.Arena(**options)
    check_that_it_is_kept(arena, arena, FORMS["dropped"])
    block = arena.alloc(SIZE)
    fill(block, 9)
    address = block.address
    block.free()
    collect()
    assert ctypes.string_at(address, SIZE) == (b"\xdd" if "patterns" in options else b"\x09") * SIZE


def test_items_of_a_typed_arena(nm: Binding) -> None:
    """ARENA-10"""
    items = nm.TypedArena("d")
    for n in range(2000):
        items.append(float(n))
    address = items.arena.blocks()[-1].address
    others_objects()
    assert (ctypes.c_double * 3).from_address(address)[:] == [0.0, 1.0, 2.0]
    assert list(items) == [float(n) for n in range(2000)]


def test_a_release_and_a_scope_keep_what_is_older(nm: Binding) -> None:
    """ARENA-10"""
    arena = nm.Arena()
    addresses = Addresses()
    for _ in range(COUNT):
        addresses.see(arena.alloc(SIZE))
        with arena.scope():
            fill(arena.alloc(SIZE), 1)
        mark = arena.mark()
        arena.alloc(SIZE)
        kept = arena.alloc(SIZE)
        kept.free()
        arena.release(mark)
    others_objects()
    assert addresses.are_held()
    assert addresses.are_apart()
    assert arena.stats.current == COUNT * SIZE


def test_a_free_and_a_frame_of_a_stack_keep_what_is_below(nm: Binding) -> None:
    """ARENA-10"""
    stack = nm.Stack("1 MiB")
    addresses = Addresses()
    for _ in range(COUNT):
        addresses.see(stack.alloc(SIZE))
        stack.alloc(SIZE).free()
        with stack.frame():
            stack.alloc(SIZE)
    others_objects()
    assert addresses.are_held()
    assert addresses.are_apart()


# --- given back ---

ENDS: dict[str, Callable[[Any, Any], object]] = {
    "reset": lambda arena, mark: arena.reset(),
    "release": lambda arena, mark: arena.release(mark),
    "close": lambda arena, mark: arena.close(),
}
HOLDS: dict[str, Callable[[Block], object]] = {
    "dropped": lambda block: None,
    "freed": lambda block: block.free(),
    "freed and held": lambda block: (block.free(), block)[1],
    "live": lambda block: block,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("kind", ["Arena", "Limited > Arena", "Stack"])
def test_memory_is_given_back_at_the_end(nm: Binding, kind: str, hold: str, end: str) -> None:
    """ARENA-10: to Python, where it is Python's; dead blocks that something refers to hold none."""
    bottom: Any = nm.Stack("2 MiB") if kind == "Stack" else nm.Arena("2 MiB")
    top = nm.Limited(bottom, nm.Budget("1 GiB")) if ">" in kind else bottom
    bottom.alloc(10)
    mark = bottom.mark()
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = [HOLDS[hold](top.alloc(5000)) for _ in range(200)]
        used = tracemalloc.get_traced_memory()[0] - before
        if top is not bottom and end == "close":
            top.close()
        ENDS[end](bottom, mark)
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    if nm.name == "pure" and not (kind == "Stack" and "freed" in hold):
        assert used > 1_000_000
    assert left < 200_000
    assert len(held) == 200


def test_a_dropped_arena_gives_all_back(nm: Binding) -> None:
    """ARENA-10: without a close, and without a collection."""
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        arena = nm.Arena("2 MiB")
        for _ in range(200):
            arena.alloc(5000)
            arena.alloc(5000).free()
        del arena
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert left < 200_000


def test_rounds_do_not_add_up(nm: Binding) -> None:
    """ARENA-10"""
    arena = nm.Arena("2 MiB")
    stack = nm.Stack("2 MiB")

    def round_() -> None:
        for each in (arena, stack):
            mark = each.mark()
            blocks = [each.alloc(1000) for _ in range(100)]
            del blocks[::2]
            each.release(mark)
            each.alloc(1000)
            each.reset()

    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        round_()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            round_()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert left < 50_000
