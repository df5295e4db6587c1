"""STACK: order, frames and marks, padding, capacity, resize, patterns, confinement."""

from __future__ import annotations

import dataclasses
import sys
import weakref

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.config import StackConfig
from nativemem.errors import (
    BudgetExceeded,
    CapacityExceeded,
    ConfigError,
    InvalidLayout,
    InvalidMark,
    LifoViolation,
    StaleBlock,
    StaleHandle,
    WrongThread,
)

from .helpers import collect, content, figures, fill, in_thread, is_one_line, unchanged


def full(stack: Allocator, size: int, align: int = 16) -> tuple[int, int, int]:
    """requested, used and limit of the refusal, which has to come and to change nothing."""
    failures = stack.stats.failures
    with pytest.raises(CapacityExceeded) as caught:
        stack.alloc(size, align)
    assert isinstance(caught.value, MemoryError)
    assert is_one_line(caught.value)
    assert stack.stats.failures == failures + 1
    state = caught.value.state
    return state["requested"], state["used"], state["limit"]


# --- configuration ---


def test_defaults(nm: Binding) -> None:
    """STACK-1, CFG-3"""
    stack = nm.Stack(1000)
    assert stack.config == StackConfig(1000, False)
    assert stack.upstream is nm.default_system
    assert nm.Stack("1 KiB", patterns=True).config == StackConfig(1024, True)


@pytest.mark.parametrize(
    ("arguments", "error", "section"),
    [
        ({"capacity": 0}, InvalidLayout, "stack.capacity"),
        ({"capacity": -1}, InvalidLayout, "stack.capacity"),
        ({"capacity": "1 KiBi"}, InvalidLayout, "stack.capacity"),
        ({"capacity": 1 << 63}, InvalidLayout, "stack.capacity"),
        ({"capacity": None}, InvalidLayout, "stack.capacity"),
        ({"capacity": 10, "patterns": 1}, ConfigError, "stack.patterns"),
        ({"capacity": 10, "upstream": 3}, ConfigError, "stack.upstream"),
    ],
    ids=repr,
)
def test_bad_configuration(nm: Binding, arguments: dict[str, object], error: type[Exception], section: str) -> None:
    """CFG-1, LAYOUT-3: the message names the section."""
    with pytest.raises(error) as caught:
        nm.Stack(**arguments)
    assert str(caught.value).startswith(section + ":")
    assert is_one_line(caught.value)


def test_the_capacity_is_required(nm: Binding) -> None:
    """CFG-2"""
    with pytest.raises(TypeError, match="capacity"):
        nm.Stack()


# --- capacity ---


def test_the_chunk_is_taken_at_once(nm: Binding) -> None:
    """STACK-1: and goes back at the end."""
    system = nm.System()
    stack = nm.Stack(1000, upstream=system)
    assert (stack.stats.reserved, stack.stats.limit) == (1000, 1000)
    assert (system.stats.current, system.stats.live) == (1000, 1)
    stack.alloc(500)
    stack.reset()
    assert system.stats.count == 1
    stack.close()
    assert (system.stats.current, system.stats.frees) == (0, 1)


def test_the_chunk_goes_back_when_collected(nm: Binding) -> None:
    system = nm.System()
    stack = nm.Stack(1000, upstream=system)
    block = stack.alloc(100)
    del stack
    collect()
    fill(block, 3)
    assert content(block) == b"\x03" * 100
    del block
    collect()
    assert system.stats.live == 0


def test_to_the_last_byte(nm: Binding) -> None:
    """STACK-1: refused above it, and usable after."""
    stack = nm.Stack(256)
    assert full(stack, 257) == (257, 0, 256)
    first = stack.alloc(100, 1)
    assert full(stack, 157, 1) == (157, 100, 256)
    stack.alloc(156, 1)
    assert full(stack, 1, 1) == (1, 256, 256)
    assert stack.stats.failures == 3
    assert first.alive
    stack.reset()
    assert stack.alloc(256).alive


def test_an_upstream_that_refuses(nm: Binding) -> None:
    """Its reason comes out of the constructor, and nothing stays behind."""
    budget = nm.Budget(1000, name="b")
    limited = nm.Limited(nm.System(), budget)
    with pytest.raises(BudgetExceeded) as caught:
        nm.Stack(1001, upstream=limited)
    assert figures(caught.value) == {"requested": 1001, "used": 0, "limit": 1000, "owner": "b"}
    assert budget.used == 0
    limited.close()


# --- order ---


def test_last_in_first_out(nm: Binding) -> None:
    """STACK-2: the bytes of the newest are free again at once."""
    stack = nm.Stack(4096)
    for _ in range(3):
        blocks = [stack.alloc(n) for n in (1000, 0, 2000, 1000)]
        assert stack.stats.live == 3
        while blocks:
            blocks.pop().free()
        assert (stack.stats.current, stack.stats.live) == (0, 0)
    assert (stack.stats.count, stack.stats.frees, stack.stats.peak) == (9, 9, 4000)


def test_a_free_out_of_order(nm: Binding) -> None:
    """STACK-2: refused, nothing changed, whichever way it is asked for."""
    stack = nm.Stack(4096)
    blocks = [stack.alloc(n) for n in (10, 20, 30)]
    for number, block in enumerate(blocks):
        fill(block, number)
    for block in blocks[:2]:
        for call in (block.free, lambda block=block: stack.free(block)):
            with unchanged(stack), pytest.raises(LifoViolation) as caught:
                call()
            assert isinstance(caught.value, ValueError)
            assert is_one_line(caught.value)
            assert f"{block.size} bytes is not the newest" in str(caught.value)
            assert figures(caught.value) == {"requested": block.size}
        with unchanged(stack), pytest.raises(LifoViolation), block:
            pass
        assert block.alive
    assert [content(block) for block in blocks] == [bytes([k]) * (10 * k + 10) for k in range(3)]
    for block in blocks[::-1]:
        block.free()
    assert stack.stats.current == 0


def test_empty_blocks_have_no_place_in_the_order(nm: Binding) -> None:
    """STACK-2, LAYOUT-3: there is nothing in them to be in the way."""
    stack = nm.Stack(100)
    empty, block, other = stack.alloc(0), stack.alloc(10), stack.alloc(0)
    empty.free()
    block.free()
    other.free()
    assert stack.stats.current == 0


def test_a_collected_block_stays(nm: Binding) -> None:
    """STACK-2: until the ones that hold the memory below it are dropped together."""
    stack = nm.Stack(1000)
    kept = stack.alloc(100)
    stack.alloc(200)
    collect()
    assert (stack.stats.current, stack.stats.live, stack.stats.frees) == (300, 2, 0)
    assert stack.blocks() == [kept]
    with pytest.raises(LifoViolation):
        kept.free()
    stack.reset()
    assert stack.stats.current == 0


@pytest.mark.parametrize(
    ("first", "align"), [(1, 16), (1, 64), (17, 32), (100, 256), (3, 1), (5, 2), (1, 1024), (33, 4096)]
)
def test_padding_goes_with_its_block(nm: Binding, first: int, align: int) -> None:
    """STACK-2: how much fits depends on sizes and alignments alone."""
    start = -(-first // align) * align
    stack = nm.Stack(start + 50)
    stack.alloc(first, 1)
    for _ in range(3):
        assert full(stack, 51, align) == (51, first, start + 50)
        block = stack.alloc(50, align)
        assert block.address % align == 0
        assert full(stack, 1, 1) == (1, start + 50, start + 50)
        assert stack.stats.current == first + 50, "padding belongs to no block"
        block.free()
    assert stack.alloc(start + 50 - first, 1).alive


def test_wrappers_keep_the_order(nm: Binding) -> None:
    """STACK-2: blocks of several allocators in one stack."""
    stack = nm.Stack(1000)
    limited, traced = nm.Limited(stack, nm.Budget(1000)), nm.Traced(stack)
    one, two, three = limited.alloc(10), traced.alloc(20), stack.alloc(30)
    for block in (one, two):
        with unchanged(limited, traced), pytest.raises(LifoViolation):
            block.free()
    assert limited.owner.used == 10
    three.free()
    two.free()
    one.free()
    assert (limited.owner.used, stack.stats.current) == (0, 0)


# --- resize ---


def test_the_newest_block_changes_in_place(nm: Binding) -> None:
    """STACK-3"""
    stack = nm.Stack(256)
    stack.alloc(16)
    top = stack.alloc(16)
    fill(top, 4)
    assert stack.resize(top, 240) is True
    assert content(top)[:16] == b"\x04" * 16
    with unchanged(stack):
        assert stack.resize(top, 241) is False
    stats = stack.stats
    assert (stats.current, stats.peak, stats.total, stats.count) == (256, 256, 256, 2)
    assert stats.failures == 0
    assert stack.resize(top, 10) is True
    assert stack.alloc(214, 1).alive, "what it gave up is free again"


def test_other_blocks_keep_their_size(nm: Binding) -> None:
    """STACK-3"""
    stack = nm.Stack(256)
    below, top = stack.alloc(32), stack.alloc(32)
    for size in (33, 31):
        with unchanged(stack):
            assert stack.resize(below, size) is False
    assert stack.resize(below, 32) is True
    top.free()
    assert stack.resize(below, 256) is True


def test_a_block_below_a_mark_grows_into_nobody(nm: Binding) -> None:
    """STACK-1, STACK-3: the mark stays good; what is newer goes, what is older stays whole."""
    stack = nm.Stack(1000)
    block = stack.alloc(100)
    mark = stack.mark()
    grown = stack.resize(block, 200)
    fill(block, 1)
    newer = stack.alloc(50)
    fill(newer, 2)
    stack.release(mark)
    assert (block.alive, newer.alive) == (True, False)
    assert block.size == (200 if grown else 100)
    fill(stack.alloc(100), 3)
    assert content(block) == b"\x01" * block.size
    assert stack.stats.current == block.size + 100


# --- frames and marks ---


def test_frame(nm: Binding) -> None:
    """STACK-1"""
    stack = nm.Stack(4096)
    old = stack.alloc(10)
    with stack.frame() as inside:
        assert inside is stack
        block = stack.alloc(1000)
        with stack.frame():
            stack.alloc(2000)
        assert stack.stats.current == 1010
    assert (old.alive, block.alive) == (True, False)
    assert stack.stats.current == 10
    assert (stack.stats.frees, stack.generation) == (0, 0)
    old.free()


def test_frame_lets_exceptions_through(nm: Binding) -> None:
    """STACK-1: memory is dropped, the exception is the one raised."""
    stack = nm.Stack(4096)
    for original in (KeyError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(original)) as caught, stack.frame():
            stack.alloc(1000)
            raise original
        assert caught.value is original
        assert stack.stats.current == 0


def test_a_frame_that_cannot_be_released_never_masks(nm: Binding) -> None:
    """STACK-1"""
    stack = nm.Stack(4096)
    with pytest.raises(ZeroDivisionError) as caught, stack.frame():
        view = memoryview(stack.alloc(1000))
        raise ZeroDivisionError
    if sys.version_info >= (3, 11):
        assert any("stack's frame was not released" in note for note in caught.value.__notes__)
    assert stack.stats.live == 1
    view.release()
    with pytest.raises(BufferError, match="release refused"), stack.frame():
        view = memoryview(stack.alloc(1000))
    view.release()


def test_reset_and_close_inside_a_frame(nm: Binding) -> None:
    """STACK-1"""
    stack = nm.Stack(1000)
    with pytest.raises(InvalidMark), stack.frame():
        stack.reset()
    with pytest.raises(StaleHandle), stack.frame():
        stack.close()


def test_release_drops_what_is_newer(nm: Binding) -> None:
    """STACK-1"""
    stack = nm.Stack(4096)
    blocks, marks = [], []
    for n in range(5):
        marks.append(stack.mark())
        blocks.append(stack.alloc(100 * n + 1))
    stack.release(marks[3])
    assert [block.alive for block in blocks] == [True, True, True, False, False]
    with pytest.raises(StaleBlock):
        blocks[3].free()
    stack.release(marks[1])
    assert [block.alive for block in blocks] == [True, False, False, False, False]
    assert (stack.stats.current, stack.stats.live, stack.stats.frees) == (1, 1, 0)
    stack.release(marks[0])
    assert stack.stats.current == 0


def test_marks_that_are_no_longer_good(nm: Binding) -> None:
    """STACK-1: used up, newer than one released, of another stack or kind, of an earlier generation."""
    stack, other, arena = nm.Stack(1000), nm.Stack(1000), nm.Arena()
    outer = stack.mark()
    stack.alloc(10)
    inner = stack.mark()
    stack.release(outer)
    kept = stack.alloc(100)
    early = stack.mark()
    bad = [outer, inner, other.mark(), arena.mark()]
    for mark in bad:
        with unchanged(stack), pytest.raises(InvalidMark) as caught:
            stack.release(mark)
        assert is_one_line(caught.value)
    assert kept.alive
    stack.reset()
    with unchanged(stack), pytest.raises(InvalidMark):
        stack.release(early)
    for thing in (None, 0, "mark"):
        with unchanged(stack), pytest.raises(TypeError, match=r"Stack\.release: takes a Mark, not "):
            stack.release(thing)


def test_a_mark_whose_newest_block_is_gone(nm: Binding) -> None:
    """STACK-1: the height that it stands for does not exist any more, also once others are that high again."""
    stack = nm.Stack(1000)
    stack.alloc(10)
    block = stack.alloc(20)
    mark = stack.mark()
    block.free()
    with unchanged(stack), pytest.raises(InvalidMark):
        stack.release(mark)
    kept = stack.alloc(20)
    stack.alloc(30)
    with unchanged(stack), pytest.raises(InvalidMark):
        stack.release(mark)
    assert kept.alive


def test_a_mark_of_an_empty_stack(nm: Binding) -> None:
    """STACK-1"""
    stack = nm.Stack(1000)
    mark = stack.mark()
    stack.alloc(10).free()
    block = stack.alloc(20)
    stack.release(mark)
    assert not block.alive
    assert stack.stats.current == 0


def test_reset(nm: Binding) -> None:
    """STACK-1: drops all, starts a generation; a release does not."""
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, nm.Budget(1000))
    with stack.frame():
        stack.alloc(1)
    assert stack.generation == 0
    blocks = [stack.alloc(10), limited.alloc(20), stack.alloc(0), stack.alloc(30)]
    stack.reset()
    assert stack.generation == limited.generation == 1
    assert not any(block.alive for block in blocks)
    assert (stack.stats.current, stack.stats.live, limited.owner.used) == (0, 0, 0)
    with unchanged(stack), pytest.raises(StaleBlock, match="dropped by a reset"):
        blocks[0].free()


def test_reset_and_release_under_a_view(nm: Binding) -> None:
    """BLOCK-3"""
    stack = nm.Stack(1000)
    mark = stack.mark()
    block = stack.alloc(64)
    fill(block, 5)
    with memoryview(block) as view:
        for call in (stack.reset, lambda: stack.release(mark)):
            with unchanged(stack), pytest.raises(BufferError, match=r"(reset|release) refused"):
                call()
        assert bytes(view) == b"\x05" * 64
    stack.release(mark)
    assert not block.alive


def test_marks_do_not_keep_stacks(nm: Binding) -> None:
    system = nm.System()
    stack = nm.Stack(100, upstream=system)
    mark = stack.mark()
    gone = weakref.ref(stack)
    del stack, mark
    collect()
    assert gone() is None
    assert system.stats.live == 0


def test_closing_a_wrapper_below_the_top(nm: Binding) -> None:
    """STACK-2, LIM-1: its blocks are gone and uncharged; their bytes go with what lies above them, or a reset."""
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, nm.Budget(1000))
    below = limited.alloc(100)
    top = stack.alloc(50)
    limited.close()
    assert (limited.owner.used, below.alive, top.alive) == (0, False, True)
    assert stack.stats.current == 150
    top.free()
    stack.reset()
    assert stack.stats.current == 0
    assert stack.alloc(1000).alive


# --- patterns ---


def test_patterns(nm: Binding) -> None:
    """STACK-3: new bytes are 0xCC, also those that a block grows by."""
    stack = nm.Stack(4096, patterns=True)
    block = stack.alloc(100)
    assert content(block) == b"\xcc" * 100
    fill(block, 1)
    assert stack.resize(block, 160) is True
    assert content(block) == b"\x01" * 100 + b"\xcc" * 60
    assert stack.resize(block, 50) is True
    assert stack.resize(block, 60) is True
    assert content(block) == b"\x01" * 50 + b"\xcc" * 10
    block.free()
    assert content(stack.alloc(100, 64)) == b"\xcc" * 100
    wrapped = nm.Limited(stack, nm.Budget(1000)).alloc(30)
    assert content(wrapped) == b"\xcc" * 30


# --- confinement ---


def test_calls_from_another_thread(nm: Binding) -> None:
    """POOL-4: a stack belongs to its thread."""
    stack = nm.Stack(1000, upstream=nm.System())
    block, empty = stack.alloc(64), stack.alloc(0)
    mark = stack.mark()
    fill(block, 6)
    for call in (
        lambda: stack.alloc(10),
        lambda: stack.alloc(0),
        lambda: stack.alloc(5000),
        lambda: stack.array("d", 3),
        lambda: stack.alloc_many([1, 2]),
        lambda: stack.free(block),
        lambda: stack.free(empty),
        block.free,
        lambda: stack.resize(block, 32),
        stack.reset,
        stack.mark,
        lambda: stack.release(mark),
        stack.frame().__enter__,
        stack.close,
    ):
        with unchanged(stack), pytest.raises(WrongThread) as caught:
            in_thread(call)
        assert is_one_line(caught.value)
    assert content(block) == b"\x06" * 64
    # what would be served is its own thread's to know
    assert in_thread(lambda: stack.stats) == dataclasses.replace(stack.stats, largest_free=None)
    stack.release(mark)


def test_the_thread_is_checked_before_the_order(nm: Binding) -> None:
    """The order of the checks is the same on both backends."""
    stack = nm.Stack(1000)
    below = stack.alloc(10)
    stack.alloc(20)
    with unchanged(stack), pytest.raises(WrongThread):
        in_thread(below.free)
