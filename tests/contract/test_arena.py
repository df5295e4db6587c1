"""ARENA: chunks, cap, fixed, reset, marks, scopes, wiping, confinement."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
import weakref

import pytest

from nativemem._api import load
from nativemem.allocators.arena import Arena
from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.config import ArenaConfig
from nativemem.errors import (
    ArenaExhausted,
    BudgetExceeded,
    ConfigError,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    InvalidMark,
    StaleBlock,
    StaleHandle,
    WrongThread,
)

from .helpers import collect, content, fill, in_thread, is_one_line, unchanged


def exhausted(arena: Arena, size: int) -> tuple[int, int, int]:
    """requested, used and limit of the refusal, which has to come and to change nothing."""
    before = arena.stats
    with pytest.raises(ArenaExhausted) as caught:
        arena.alloc(size)
    assert isinstance(caught.value, MemoryError)
    assert is_one_line(caught.value)
    after = arena.stats
    assert after.failures == before.failures + 1
    assert (after.current, after.live, after.count, after.total, after.peak, after.reserved) == (
        before.current,
        before.live,
        before.count,
        before.total,
        before.peak,
        before.reserved,
    )
    state = caught.value.state
    return state["requested"], state["reserved"], state["limit"]


# --- configuration ---


def test_defaults(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """ARENA-1, CFG-3"""
    monkeypatch.delenv("NATIVEMEM_ARENA_HINT", raising=False)
    monkeypatch.delenv("NATIVEMEM_ARENA_CAP", raising=False)
    arena = nm.Arena()
    assert arena.config == ArenaConfig(65536, None, True, False)
    assert arena.upstream is nm.default_system
    assert arena.stats.limit is None


def test_defaults_come_from_the_environment(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATIVEMEM_ARENA_HINT", "1 KiB")
    monkeypatch.setenv("NATIVEMEM_ARENA_CAP", "3 KiB")
    assert nm.Arena().config == ArenaConfig(1024, 3072, True, False)
    assert nm.Arena(hint=5, cap=7).config == ArenaConfig(5, 7, True, False)


def test_sizes_may_be_strings(nm: Binding) -> None:
    arena = nm.Arena("1 KiB", "2 KiB")
    assert (arena.config.hint, arena.config.cap, arena.stats.limit) == (1024, 2048, 2048)


def test_the_config_is_frozen(nm: Binding) -> None:
    """CFG-1"""
    with pytest.raises(AttributeError):
        nm.Arena().config.hint = 1


@pytest.mark.parametrize(
    ("arguments", "error", "section"),
    [
        ({"hint": 0}, InvalidLayout, "arena.hint"),
        ({"hint": -1}, InvalidLayout, "arena.hint"),
        ({"hint": "1 KiBi"}, InvalidLayout, "arena.hint"),
        ({"hint": 1 << 63}, InvalidLayout, "arena.hint"),
        ({"cap": 0}, InvalidLayout, "arena.cap"),
        ({"cap": 1.5}, InvalidLayout, "arena.cap"),
        ({"cap": True}, InvalidLayout, "arena.cap"),
        ({"grow": 1}, ConfigError, "arena.grow"),
        ({"grow": "no"}, ConfigError, "arena.grow"),
        ({"zero_on_free": None}, ConfigError, "arena.zero_on_free"),
        ({"upstream": 3}, ConfigError, "arena.upstream"),
        ({"upstream": b"x"}, ConfigError, "arena.upstream"),
    ],
    ids=repr,
)
def test_bad_configuration(nm: Binding, arguments: dict[str, object], error: type[Exception], section: str) -> None:
    """CFG-1, LAYOUT-3: the message names the section."""
    with pytest.raises(error) as caught:
        nm.Arena(**arguments)
    assert str(caught.value).startswith(section + ":")
    assert is_one_line(caught.value)


def test_a_closed_upstream(nm: Binding) -> None:
    system = nm.System()
    system.close()
    with pytest.raises(StaleHandle):
        nm.Arena(upstream=system)


# --- chunks ---


def test_no_chunk_before_the_first_block(nm: Binding) -> None:
    system = nm.System()
    arena = nm.Arena(upstream=system)
    arena.alloc(0)
    assert arena.stats.reserved == system.stats.current == 0


def test_chunks_double(nm: Binding) -> None:
    """ARENA-1"""
    system = nm.System()
    arena = nm.Arena(hint=1024, upstream=system)
    seen = []
    for _ in range(15):
        arena.alloc(512)
        assert arena.stats.reserved == system.stats.current
        seen.append(arena.stats.reserved)
    assert seen == [1024] * 2 + [3072] * 4 + [7168] * 8 + [15360]
    assert system.stats.count == 4


def test_cap_clamps_the_last_chunk(nm: Binding) -> None:
    """ARENA-1"""
    system = nm.System()
    arena = nm.Arena(hint=1024, cap=2500, upstream=system)
    arena.alloc(1024)
    arena.alloc(100)
    assert arena.stats.reserved == system.stats.current == 2500
    arena.alloc(1376, 1)  # what is left behind the 100 bytes
    assert exhausted(arena, 1) == (1, 2500, 2500)
    assert arena.stats.limit == 2500


def test_a_cap_below_the_hint(nm: Binding) -> None:
    arena = nm.Arena(hint=4096, cap=1000)
    arena.alloc(1000)
    assert arena.stats.reserved == 1000
    assert exhausted(arena, 1) == (1, 1000, 1000)


def test_a_request_above_the_cap(nm: Binding) -> None:
    """ARENA-1: refused, and the arena is usable after it."""
    arena = nm.Arena(hint=64, cap=1000)
    assert exhausted(arena, 1001) == (1001, 0, 1000)
    block = arena.alloc(900)
    assert exhausted(arena, 200) == (200, 900, 1000)
    assert arena.alloc(50).alive
    arena.reset()
    assert not block.alive
    assert arena.alloc(900).alive
    assert arena.stats.failures == 2


def test_a_large_block_gets_a_chunk_of_its_own(nm: Binding) -> None:
    """ARENA-2: off the doubling sequence; small blocks go on in the chunk before."""
    system = nm.System()
    arena = nm.Arena(hint=1024, upstream=system)
    arena.alloc(500)
    arena.alloc(5000)
    assert (arena.stats.reserved, system.stats.count) == (6024, 2)
    arena.alloc(500)
    assert (arena.stats.reserved, system.stats.count) == (6024, 2)
    arena.alloc(500)
    assert (arena.stats.reserved, system.stats.count) == (8072, 3)


def test_a_large_first_block(nm: Binding) -> None:
    """ARENA-2"""
    system = nm.System()
    arena = nm.Arena(hint=64, upstream=system)
    arena.alloc(65)
    assert arena.stats.reserved == 65
    arena.alloc(64)
    assert arena.stats.reserved == 129


def test_alignment_padding_is_counted_against_the_chunk(nm: Binding) -> None:
    """ARENA-7: where a block lands depends on sizes and alignments alone."""
    arena = nm.Arena(hint=256, grow=False)
    for size, align in ((1, 1), (1, 64), (191, 1)):
        arena.alloc(size, align)
    assert arena.stats.current == 193
    assert exhausted(arena, 1) == (1, 256, 256)


def test_fixed(nm: Binding) -> None:
    """ARENA-7: one chunk, capacity known."""
    system = nm.System()
    arena = nm.Arena(hint=256, grow=False, upstream=system)
    assert arena.stats.limit == 256
    assert exhausted(arena, 257) == (257, 0, 256)
    arena.alloc(256)
    assert exhausted(arena, 1) == (1, 256, 256)
    assert system.stats.count == 1
    arena.reset()
    arena.alloc(256)
    assert system.stats.count == 1


def test_fixed_below_its_hint(nm: Binding) -> None:
    """ARENA-7b: the cap holds for a fixed arena too."""
    arena = nm.Arena(hint=256, cap=100, grow=False)
    assert arena.stats.limit == 100
    assert exhausted(arena, 101) == (101, 0, 100)
    arena.alloc(100)
    assert arena.stats.reserved == 100


def test_upstream_refusal(nm: Binding) -> None:
    """The upstream's reason comes out; nothing changed but the count of failures."""
    budget = nm.Budget(3000, name="b")
    limited = nm.Limited(nm.System(), budget)
    arena = nm.Arena(hint=1024, upstream=limited)
    first = arena.alloc(1000)
    fill(first, 9)
    with pytest.raises(BudgetExceeded) as caught:
        arena.alloc(1000)
    state = caught.value.state
    assert (state["requested"], state["used"], state["limit"]) == (2048, 1024, 3000)
    assert state["owner"] == "b"
    assert (arena.stats.failures, limited.stats.failures, budget.denied) == (1, 1, 1)
    assert (arena.stats.live, arena.stats.current, arena.stats.reserved) == (1, 1000, 1024)
    assert content(first) == b"\x09" * 1000
    assert arena.alloc(24, 1).alive
    budget.limit = 4000
    assert arena.alloc(1000).alive


def test_chunks_go_back_on_close(nm: Binding) -> None:
    system = nm.System()
    arena = nm.Arena(hint=64, upstream=system)
    for n in (10, 100, 1000, 100):
        arena.alloc(n)
    assert system.stats.live == 4
    arena.close()
    assert (system.stats.current, system.stats.live) == (0, 0)


def test_chunks_go_back_when_collected(nm: Binding) -> None:
    system = nm.System()
    arena = nm.Arena(hint=64, upstream=system)
    block = arena.alloc(10)
    del arena
    collect()
    assert system.stats.live == 1
    fill(block, 3)
    assert content(block) == b"\x03" * 10
    del block
    collect()
    assert system.stats.live == 0


def test_an_arena_on_an_arena(nm: Binding) -> None:
    outer = nm.Arena(hint=4096, upstream=nm.System())
    inner = nm.Arena(hint=256, upstream=outer)
    block = inner.alloc(100)
    fill(block, 1)
    assert (outer.stats.current, outer.stats.live) == (256, 1)
    with unchanged(inner), pytest.raises(BufferError, match="reset refused"):
        outer.reset()
    inner.close()
    assert (outer.stats.current, outer.stats.live, outer.stats.frees) == (256, 1, 1)
    outer.reset()
    assert outer.stats.current == 0


# --- free ---


def test_free_only_counts(nm: Binding) -> None:
    """ARENA-3"""
    arena = nm.Arena()
    block = arena.alloc(100)
    block.free()
    stats = arena.stats
    assert (stats.current, stats.live, stats.count, stats.frees) == (100, 1, 1, 1)
    assert not block.alive
    assert arena.blocks() == []


# --- reset ---


def test_reset(nm: Binding) -> None:
    """ARENA-4"""
    system = nm.System()
    arena = nm.Arena(hint=1024, upstream=system)
    blocks = [arena.alloc(n) for n in (1000, 500, 0, 5000, 10)]
    generation = arena.generation
    assert arena.stats.reserved == 1024 + 2048 + 5000
    assert arena.reset() is None
    assert arena.generation == generation + 1
    stats = arena.stats
    assert (stats.current, stats.live, stats.peak, stats.total) == (0, 0, 6510, 6510)
    assert (stats.count, stats.frees, stats.failures) == (4, 0, 0)
    assert stats.reserved == system.stats.current == 2048, "the newest chunk of the sequence is kept"
    assert not any(block.alive for block in blocks)
    assert arena.blocks() == []
    arena.alloc(2048)
    assert system.stats.count == 3
    arena.alloc(1)
    assert arena.stats.reserved == 2048 + 4096


def test_reset_of_an_unused_arena(nm: Binding) -> None:
    arena = nm.Arena()
    arena.reset()
    arena.reset()
    assert arena.generation == 2
    assert arena.alloc(10).alive


def test_the_first_generation_is_0(allocator: Allocator) -> None:
    assert allocator.generation == 0


def test_blocks_are_stale_after_reset(nm: Binding) -> None:
    """BLOCK-2"""
    arena = nm.Arena()
    block = arena.alloc(10)
    arena.reset()
    newer = arena.alloc(10)
    for call in (block.free, lambda: arena.free(block), lambda: arena.resize(block, 5)):
        with unchanged(arena), pytest.raises(StaleBlock, match="dropped by a reset"):
            call()
    assert newer.alive
    assert repr(block) == "<Block 10 B, stale>"
    with pytest.raises(StaleBlock if "stale-buffer-raises" in nm.backend.features else TypeError):
        memoryview(block)


def test_leaving_the_context_of_a_stale_block(nm: Binding) -> None:
    arena = nm.Arena()
    with arena.alloc(10) as block:
        arena.reset()
    assert not block.alive


def test_reset_under_a_view(nm: Binding) -> None:
    """BLOCK-3"""
    arena = nm.Arena()
    block, other = arena.alloc(64), arena.alloc(64)
    fill(block, 5)
    view = memoryview(block)
    with unchanged(arena), pytest.raises(BufferError, match="reset refused"):
        arena.reset()
    assert other.alive
    assert bytes(view) == b"\x05" * 64
    view.release()
    arena.reset()
    assert not block.alive


def test_a_view_of_a_block_dropped_from_sight_counts(nm: Binding) -> None:
    """BLOCK-3: only the view refers to the block."""
    arena = nm.Arena()
    view = memoryview(arena.alloc(64))
    with unchanged(arena), pytest.raises(BufferError):
        arena.reset()
    view.release()
    arena.reset()


def test_reset_drops_the_blocks_of_wrappers(nm: Binding) -> None:
    """Freed through their own wrapper first, so that budgets and counters are right again."""
    arena = nm.Arena(upstream=nm.System())
    budget = nm.Budget(1000)
    limited = nm.Limited(arena, budget)
    traced = nm.Traced(limited)
    blocks = [arena.alloc(10), limited.alloc(20), traced.alloc(30), limited.alloc(0)]
    assert budget.used == 50
    arena.reset()
    assert not any(block.alive for block in blocks)
    assert budget.used == 0
    assert (limited.stats.current, limited.stats.live, limited.stats.frees) == (0, 0, 2)
    assert (traced.stats.current, traced.stats.live, traced.stats.frees) == (0, 0, 1)
    assert (arena.stats.current, arena.stats.live, arena.stats.frees) == (0, 0, 2)
    traced.close()
    with pytest.raises(StaleBlock):
        blocks[1].free()


def test_reset_under_a_view_of_a_wrappers_block(nm: Binding) -> None:
    """BLOCK-3"""
    arena = nm.Arena(upstream=nm.System())
    limited = nm.Limited(arena, nm.Budget(1000))
    blocks = [limited.alloc(20), limited.alloc(20)]
    with memoryview(blocks[0]), unchanged(limited), pytest.raises(BufferError):
        arena.reset()
    assert all(block.alive for block in blocks)


# --- wiping ---


def test_zero_on_free_wipes_on_reset(nm: Binding) -> None:
    """ARENA-4"""
    arena = nm.Arena(hint=4096, grow=False, zero_on_free=True)
    fill(arena.alloc(4096), 0xFF)
    arena.reset()
    assert content(arena.alloc(4096)) == bytes(4096)


def test_zero_on_free_wipes_on_release(nm: Binding) -> None:
    """ARENA-4"""
    arena = nm.Arena(hint=4096, grow=False, zero_on_free=True)
    kept = arena.alloc(96)
    fill(kept, 0xEE)
    mark = arena.mark()
    fill(arena.alloc(4000), 0xFF)
    arena.release(mark)
    assert content(arena.alloc(4000)) == bytes(4000)
    assert content(kept) == b"\xee" * 96


def test_zero_on_free_wipes_chunks_that_go_back(nm: Binding) -> None:
    """ARENA-4: seen by an arena that gets the same chunk from a fixed upstream."""
    outer = nm.Arena(hint=4096, grow=False)
    mark = outer.mark()
    inner = nm.Arena(hint=4096, zero_on_free=True, upstream=outer)
    fill(inner.alloc(4000), 0xFF)
    inner.close()
    outer.release(mark)
    assert content(outer.alloc(4000)) == bytes(4000)


# --- patterns ---


def test_patterns(nm: Binding) -> None:
    """ARENA-9: new bytes are 0xAA, also those that a block grows by, in a chunk of its own, and after a reset."""
    arena = nm.Arena(hint=256, patterns=True)
    for _ in range(3):
        block = arena.alloc(100)
        assert content(block) == b"\xaa" * 100
        fill(block, 1)
        assert arena.resize(block, 160) is True
        assert content(block) == b"\x01" * 100 + b"\xaa" * 60
        assert arena.resize(block, 50) is True
        assert arena.resize(block, 60) is True
        assert content(block) == b"\x01" * 50 + b"\xaa" * 10
        assert content(arena.alloc(5000, 64)) == b"\xaa" * 5000
        wrapped = nm.Traced(arena).alloc(30)
        assert content(wrapped) == b"\xaa" * 30
        arena.reset()
    both = nm.Arena(hint=256, patterns=True, zero_on_free=True)
    assert content(both.alloc(100)) == b"\xaa" * 100


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
def test_dropped_bytes_are_marked() -> None:
    """ARENA-9: 0xDD, or zero where they are wiped as well; without patterns nothing is written."""
    for arguments, left in (
        ({"patterns": True}, b"\xdd" * 100),
        ({"patterns": True, "zero_on_free": True}, bytes(100)),
        ({"zero_on_free": True}, bytes(100)),
        ({}, b"\x07" * 100),
    ):
        arena = load("native").Arena(hint=4096, **arguments)
        block = arena.alloc(100)
        fill(block, 7)
        address = block.address
        arena.reset()
        assert ctypes.string_at(address, 100) == left, arguments


# --- resize ---


def test_the_topmost_block_grows_in_place(nm: Binding) -> None:
    arena = nm.Arena(hint=256, grow=False)
    arena.alloc(16)
    top = arena.alloc(16)
    fill(top, 4)
    assert arena.resize(top, 240) is True
    assert content(top)[:16] == b"\x04" * 16
    assert arena.resize(top, 241) is False
    stats = arena.stats
    assert (stats.current, stats.peak, stats.total, stats.count) == (256, 256, 256, 2)
    assert stats.failures == 0
    assert exhausted(arena, 1)[1] == 256
    assert arena.resize(top, 16) is True
    assert arena.alloc(224).alive, "what the topmost block gave up is free again"
    assert arena.stats.total == 256 + 224


def test_other_blocks_keep_their_size(nm: Binding) -> None:
    arena = nm.Arena(hint=256, grow=False)
    below, top = arena.alloc(32), arena.alloc(32)
    for size in (33, 31):
        with unchanged(arena):
            assert arena.resize(below, size) is False
    assert arena.resize(below, 32) is True
    assert top.alive


def test_a_block_in_a_large_chunk_keeps_its_size(nm: Binding) -> None:
    arena = nm.Arena(hint=64)
    large = arena.alloc(1000)
    for size in (900, 1001):
        with unchanged(arena):
            assert arena.resize(large, size) is False


def test_a_block_older_than_a_mark_keeps_its_size_until_the_release(nm: Binding) -> None:
    """ARENA-6: or the release would hand out bytes that it has grown into."""
    arena = nm.Arena(hint=1024, grow=False)
    block = arena.alloc(100)
    outer = arena.mark()
    inner = arena.mark()
    newer = arena.alloc(50)
    assert arena.resize(newer, 60) is True
    arena.release(inner)
    for size in (101, 99):
        with unchanged(arena):
            assert arena.resize(block, size) is False
    arena.release(outer)
    assert arena.resize(block, 150) is True
    fill(block, 1)
    fill(arena.alloc(100), 2)
    assert content(block) == b"\x01" * 150


# --- marks ---


def test_release_drops_what_is_newer(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena(hint=128)
    old = arena.alloc(100)
    fill(old, 1)
    generation = arena.generation
    mark = arena.mark()
    new = [arena.alloc(n) for n in (10, 100, 0, 1000)]
    arena.release(mark)
    stats = arena.stats
    assert (stats.current, stats.live, stats.peak, stats.total) == (100, 1, 1210, 1210)
    assert (stats.count, stats.frees) == (4, 0)
    assert old.alive
    assert content(old) == b"\x01" * 100
    assert not any(block.alive for block in new)
    assert arena.blocks() == [old]
    assert arena.generation == generation
    with pytest.raises(StaleBlock):
        new[0].free()


def test_only_reset_makes_a_new_generation(nm: Binding) -> None:
    """ARENA-4, ARENA-6: a release does not, not even to before the first block."""
    arena = nm.Arena(upstream=nm.System())
    wrapper = nm.Traced(arena)
    mark = arena.mark()
    block = arena.alloc(10)
    arena.release(mark)
    with arena.scope():
        arena.alloc(10)
    assert not block.alive
    assert (arena.generation, wrapper.generation) == (0, 0)
    arena.reset()
    assert (arena.generation, wrapper.generation) == (1, 1)


def test_release_gives_room_back(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena(hint=256, grow=False)
    arena.alloc(56, 8)
    mark = arena.mark()
    arena.alloc(200, 8)
    exhausted(arena, 1)
    arena.release(mark)
    assert arena.alloc(200, 8).alive


def test_marks_nest(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena(hint=64)
    blocks, marks = [], []
    for n in range(5):
        marks.append(arena.mark())
        blocks.append(arena.alloc(100 * n + 1))
    arena.release(marks[3])
    assert [block.alive for block in blocks] == [True, True, True, False, False]
    arena.release(marks[1])
    assert [block.alive for block in blocks] == [True, False, False, False, False]
    arena.release(marks[0])
    assert arena.stats.current == 0


def test_a_mark_is_used_up(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    outer = arena.mark()
    inner = arena.mark()
    arena.release(outer)
    for mark in (outer, inner):
        with unchanged(arena), pytest.raises(InvalidMark) as caught:
            arena.release(mark)
        assert isinstance(caught.value, ValueError)
        assert is_one_line(caught.value)


def test_a_mark_newer_than_a_released_one_stays_invalid(nm: Binding) -> None:
    """ARENA-6: also once the arena has grown past its position again."""
    arena = nm.Arena()
    outer = arena.mark()
    arena.alloc(10)
    inner = arena.mark()
    arena.release(outer)
    kept = arena.alloc(100)
    with unchanged(arena), pytest.raises(InvalidMark):
        arena.release(inner)
    assert kept.alive


def test_a_mark_of_an_earlier_generation(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    arena.alloc(10)
    mark = arena.mark()
    arena.reset()
    kept = arena.alloc(100)
    with unchanged(arena), pytest.raises(InvalidMark):
        arena.release(mark)
    assert kept.alive


def test_a_foreign_mark(nm: Binding) -> None:
    """ARENA-6"""
    arena, other = nm.Arena(), nm.Arena()
    with unchanged(arena, other), pytest.raises(InvalidMark):
        arena.release(other.mark())


@pytest.mark.parametrize("thing", [None, 0, "mark", object()])
def test_only_marks_are_released(nm: Binding, thing: object) -> None:
    arena = nm.Arena()
    with unchanged(arena), pytest.raises(TypeError, match=r"Arena\.release: takes a Mark, not "):
        arena.release(thing)


def test_release_under_a_view(nm: Binding) -> None:
    """BLOCK-3: the mark stays good."""
    arena = nm.Arena()
    old = arena.alloc(64)
    mark = arena.mark()
    new = arena.alloc(64)
    view = memoryview(new)
    with unchanged(arena), pytest.raises(BufferError, match="release refused"):
        arena.release(mark)
    view.release()
    with memoryview(old) as view:
        view[0] = 8
        arena.release(mark)
        assert view[0] == 8
    assert (old.alive, new.alive) == (True, False)


def test_release_drops_the_blocks_of_wrappers(nm: Binding) -> None:
    """Those newer than the mark, and they are uncharged."""
    arena = nm.Arena(upstream=nm.System())
    limited = nm.Limited(arena, nm.Budget(1000))
    old = limited.alloc(10)
    mark = arena.mark()
    new = limited.alloc(20)
    arena.release(mark)
    assert (old.alive, new.alive) == (True, False)
    assert limited.owner.used == limited.stats.current == 10
    assert arena.stats.frees == 1


@pytest.mark.parametrize("size", [40, 100, 180])
def test_release_after_a_block_below_the_mark_was_resized(nm: Binding, size: int) -> None:
    """ARENA-6: the mark stays good, the block stays whole, the counters stay sane."""
    arena = nm.Arena(hint=256)
    block = arena.alloc(100)
    mark = arena.mark()
    arena.resize(block, size)
    fill(block, 1)
    arena.release(mark)
    assert block.alive
    assert arena.stats.live == 1
    assert block.size <= arena.stats.current <= max(block.size, 100)
    others = [arena.alloc(40) for _ in range(5)]
    for other in others:
        fill(other, 2)
    assert content(block) == b"\x01" * block.size


def test_release_after_a_block_below_the_mark_shrank_and_others_came(nm: Binding) -> None:
    """ARENA-6: what is newer than the mark goes, what is older stays, wherever it lies."""
    arena = nm.Arena(hint=256, grow=False)
    old = arena.alloc(200)
    fill(old, 1)
    mark = arena.mark()
    assert arena.resize(old, 20) is False
    new = arena.alloc(20)
    fill(new, 2)
    arena.release(mark)
    assert (old.alive, new.alive) == (True, False)
    fill(arena.alloc(30), 3)
    assert content(old) == b"\x01" * 200


def test_marks_do_not_keep_arenas(nm: Binding) -> None:
    system = nm.System()
    arena = nm.Arena(upstream=system)
    arena.alloc(10)
    mark = arena.mark()
    gone = weakref.ref(arena)
    del arena, mark
    collect()
    assert gone() is None
    assert system.stats.live == 0


# --- scopes ---


def test_scope(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    old = arena.alloc(10)
    with arena.scope() as inside:
        assert inside is arena
        block = arena.alloc(1000)
        with arena.scope():
            arena.alloc(2000)
        assert arena.stats.current == 1010
    assert (old.alive, block.alive) == (True, False)
    assert arena.stats.current == 10


def test_scope_lets_exceptions_through(nm: Binding) -> None:
    """ARENA-6: memory is dropped, the exception is the one raised."""
    arena = nm.Arena()
    original = KeyError("mine")
    with pytest.raises(KeyError) as caught, arena.scope():
        arena.alloc(1000)
        raise original
    assert caught.value is original
    assert arena.stats.current == 0


def test_scope_lets_base_exceptions_through(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    with pytest.raises(KeyboardInterrupt), arena.scope():
        arena.alloc(1000)
        raise KeyboardInterrupt
    assert arena.stats.current == 0


def test_a_scope_that_cannot_be_released_never_masks(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    views = []
    with pytest.raises(ZeroDivisionError) as caught, arena.scope():
        block = arena.alloc(1000)
        views.append(memoryview(block))
        raise ZeroDivisionError
    assert block.alive
    if sys.version_info >= (3, 11):
        assert any("scope was not released" in note for note in caught.value.__notes__)
    views.pop().release()


def test_a_scope_under_a_view_shows_its_error(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    with pytest.raises(BufferError, match="release refused"), arena.scope():
        block = arena.alloc(1000)
        view = memoryview(block)
    assert block.alive
    view.release()


def test_reset_and_close_inside_a_scope(nm: Binding) -> None:
    """ARENA-6"""
    arena = nm.Arena()
    with pytest.raises(InvalidMark), arena.scope():
        arena.reset()
    with pytest.raises(StaleHandle), arena.scope():
        arena.close()
    other = nm.Arena()
    with pytest.raises(KeyError), other.scope():
        other.close()
        raise KeyError


# --- confinement ---


def test_calls_from_another_thread(nm: Binding) -> None:
    """ARENA-5"""
    arena = nm.Arena(upstream=nm.System())
    block, empty = arena.alloc(64), arena.alloc(0)
    mark = arena.mark()
    fill(block, 6)
    for call in (
        lambda: arena.alloc(10),
        lambda: arena.alloc(0),
        lambda: arena.alloc(1 << 20),
        lambda: arena.array("d", 3),
        lambda: arena.free(block),
        lambda: arena.free(empty),
        block.free,
        lambda: arena.resize(block, 32),
        lambda: arena.resize(block, 128),
        arena.reset,
        arena.mark,
        lambda: arena.release(mark),
        arena.scope().__enter__,
        arena.close,
    ):
        with unchanged(arena), pytest.raises(WrongThread) as caught:
            in_thread(call)
        assert isinstance(caught.value, RuntimeError)
        assert is_one_line(caught.value)
    assert block.alive
    assert empty.alive
    assert content(block) == b"\x06" * 64
    arena.release(mark)


def test_what_any_thread_may_do(nm: Binding) -> None:
    """ARENA-5: reading changes nothing."""
    arena = nm.Arena(upstream=nm.System())
    block = arena.alloc(64)
    # what would be served is its own thread's to know
    assert in_thread(lambda: arena.stats) == dataclasses.replace(arena.stats, largest_free=None)
    assert in_thread(arena.describe) == "Arena > System"
    assert in_thread(lambda: repr(arena)) == repr(arena)
    assert in_thread(arena.blocks) == [block]
    in_thread(lambda: fill(block, 1))
    assert content(block) == b"\x01" * 64


def test_a_wrapper_is_confined_as_its_upstream(nm: Binding) -> None:
    """ARENA-5: a refusal is neither charged nor counted as a failure."""
    for wrapper in (nm.Limited(nm.Arena(), nm.Budget(1000)), nm.Traced(nm.Arena())):
        block = wrapper.alloc(10)
        for call in (
            lambda: wrapper.alloc(10),  # noqa: B023
            lambda: wrapper.alloc(0),  # noqa: B023
            block.free,
            lambda: wrapper.resize(block, 5),  # noqa: B023
            lambda: wrapper.resize(block, 20),  # noqa: B023
        ):
            with unchanged(wrapper), pytest.raises(WrongThread):
                in_thread(call)
        if wrapper.owner is not None:
            assert wrapper.owner.used == 10


def test_the_thread_is_the_one_that_made_it(nm: Binding) -> None:
    """ARENA-5"""

    def work() -> object:
        arena = nm.Arena()
        arena.alloc(100)
        return arena

    arena = in_thread(work)
    with pytest.raises(WrongThread):
        arena.alloc(1)
    with pytest.raises(WrongThread):
        arena.close()


def test_an_arena_of_another_thread_can_be_collected(nm: Binding) -> None:
    system = nm.System()

    def work() -> None:
        arena = nm.Arena(upstream=system)
        blocks.append(arena.alloc(100))

    blocks: list[object] = []
    in_thread(work)
    fill(blocks[0], 1)
    assert system.stats.live == 1
    blocks.clear()
    gc.collect()
    assert system.stats.live == 0


def test_misuse_comes_before_confinement(nm: Binding) -> None:
    """The order of the checks is the same on both backends."""
    arena, other = nm.Arena(), nm.System()
    freed = arena.alloc(10)
    freed.free()
    foreign = other.alloc(10)
    for call, error in (
        (lambda: arena.free(foreign), ForeignBlock),
        (lambda: arena.free(freed), DoubleFree),
        (lambda: arena.free(None), TypeError),
    ):
        with pytest.raises(error):
            in_thread(call)
