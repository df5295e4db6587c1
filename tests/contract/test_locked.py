"""LOCK: allocators of one thread, used by all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ArenaExhausted, LifoViolation, StaleHandle, WrongThread

from .helpers import NOUNS, collect, content, fill, in_thread

CONFINED = ("Arena", "Stack", "Pool", "Slab")


@pytest.mark.parametrize("noun", CONFINED)
def test_any_thread_may_call(nm: Binding, noun: str) -> None:
    """LOCK-1"""
    below = NOUNS[noun](nm)
    locked = nm.Locked(below)
    block = in_thread(lambda: locked.alloc(100))
    fill(block, 7)
    assert content(block) == b"\x07" * 100
    mine = locked.alloc(50)
    in_thread(mine.free)
    block.free()
    assert (locked.stats.count, locked.stats.live, locked.stats.frees) == (2, 0, 2)
    assert locked.contended == 0


@pytest.mark.parametrize("noun", CONFINED)
def test_nobody_else_may(nm: Binding, noun: str) -> None:
    """LOCK-1: not even the thread that made what is below."""
    below = NOUNS[noun](nm)
    kept = below.alloc(10)
    locked = nm.Locked(below)
    for call in (lambda: below.alloc(10), below.close):
        with pytest.raises(WrongThread):
            call()
        with pytest.raises(WrongThread):
            in_thread(call)
    with locked.owning() as owned:
        assert owned is below
        kept.free()
        below.alloc(10).free()
    with pytest.raises(WrongThread):
        below.alloc(10)


def test_all_that_is_below(nm: Binding) -> None:
    """LOCK-1"""
    arena = nm.Arena()
    pool = nm.Pool(64, 4, upstream=arena)
    locked = nm.Locked(nm.Traced(pool))
    block = in_thread(lambda: locked.alloc(64))
    for confined in (arena, pool):
        with pytest.raises(WrongThread):
            confined.alloc(10)
    in_thread(block.free)
    locked.close()
    assert pool.alloc().size == 64 and arena.alloc(10).size == 10


def test_owning(nm: Binding) -> None:
    """LOCK-2"""
    arena = nm.Arena()
    locked = nm.Locked(arena)
    block = locked.alloc(100)

    def start_again() -> None:
        with locked.owning():
            arena.reset()

    in_thread(start_again)
    assert not block.alive and arena.stats.current == 0
    with locked.owning():
        with locked.owning():  # once more
            mark = arena.mark()
        locked.alloc(10)
        arena.release(mark)
    with pytest.raises(WrongThread):
        arena.reset()
    locked.close()
    with pytest.raises(StaleHandle):
        with locked.owning():
            pass


@pytest.mark.parametrize("noun", CONFINED)
def test_closing_gives_it_to_the_thread_that_closes(nm: Binding, noun: str) -> None:
    """LOCK-3"""
    below = NOUNS[noun](nm)
    locked = nm.Locked(below)
    block = locked.alloc(10)

    def close() -> int:
        locked.close()
        locked.close()
        assert not block.alive
        return below.alloc(10).size  # type: ignore[no-any-return]

    assert in_thread(close) == 10
    with pytest.raises(WrongThread):
        below.alloc(10)


def test_a_view_keeps_it(nm: Binding) -> None:
    """LOCK-3, LIFE-2: a close that is refused leaves all as it is."""
    arena = nm.Arena()
    locked = nm.Locked(arena)
    with memoryview(locked.alloc(10)):
        with pytest.raises(BufferError):
            locked.close()
        with pytest.raises(WrongThread):
            arena.alloc(1)
        assert in_thread(lambda: locked.alloc(10).size) == 10
    locked.close()
    assert arena.alloc(1).size == 1


def test_what_is_another_threads(nm: Binding) -> None:
    """LOCK-1: nothing is taken over then."""
    theirs = in_thread(lambda: nm.Arena())
    for upstream in (theirs, nm.Traced(theirs)):
        with pytest.raises(WrongThread, match=r"^Arena: "):
            nm.Locked(upstream)
    collect()
    mine = nm.Pool(64, 4, upstream=nm.Locked(nm.Arena()))
    nested = nm.Locked(mine)  # the arena is the inner one's
    assert in_thread(lambda: nested.alloc(10).size) == 10


def test_what_was_refused_stands_on_nothing(nm: Binding) -> None:
    """LOCK-1: though the error has its frames still."""
    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(nm.Arena).result()
        with pytest.raises(WrongThread) as kept:
            nm.Locked(theirs)
        other.submit(theirs.close).result()
    assert kept.value.__traceback__ is not None


def test_errors_come_through(nm: Binding) -> None:
    """LOCK-1"""
    locked = nm.Locked(nm.Arena(100, grow=False))
    with pytest.raises(ArenaExhausted):
        locked.alloc(101)
    assert locked.stats.failures == 1
    stack = nm.Locked(nm.Stack(1000))
    first, second = stack.alloc(10), stack.alloc(10)
    with pytest.raises(LifoViolation):
        in_thread(first.free)
    second.free()
    first.free()


def test_a_block_collected_in_another_thread_goes_back(nm: Binding) -> None:
    """LOCK-1, LIFE-8"""
    locked = nm.Locked(nm.Pool(64, 2))
    kept = [locked.alloc(), locked.alloc()]

    def drop() -> None:
        kept.clear()
        collect()

    in_thread(drop)
    assert locked.stats.live == 0
    assert [locked.alloc().size for _ in range(2)] == [64, 64]


@pytest.mark.parametrize("noun", CONFINED)
def test_threads(nm: Binding, noun: str) -> None:
    """LOCK-1"""
    locked = nm.Locked(NOUNS[noun](nm))
    start = threading.Barrier(4)

    def work(seed: int) -> bool:
        start.wait()
        sound = True
        for i in range(100):
            block: Any = locked.alloc(16 + (seed * 37 + i * 11) % 300)
            fill(block, seed)
            sound &= content(block) == bytes([seed]) * block.size
            if noun != "Stack":
                block.free()
        return sound

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert locked.stats.count == 400
    if noun != "Stack":
        assert locked.stats.live == 0
