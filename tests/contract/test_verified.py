"""Verified: a ledger of what passes through, and contents that are sealed."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, CorruptionDetected, ForeignBlock, StaleBlock, StaleHandle
from nativemem.manager import Level

from .helpers import NOUNS, collect, content, fill, make, unchanged

COMPARING = ("sampling", "standard", "full", "redundant")


def flip(block: Any, at: int = 0) -> None:
    """As stray code does: by address."""
    place = ctypes.c_ubyte.from_address(block.address + at)
    place.value ^= 0x40


def sealed(verified: Any, size: int = 64) -> Any:
    block = verified.alloc(size)
    fill(block, 7)
    verified.seal(block)
    return block


def test_levels(nm: Binding) -> None:
    """VER-10a"""
    assert nm.Verified().level is Level.STANDARD
    assert [nm.Verified(None, level.name).level for level in Level] == list(Level)
    for bad in ({"level": "most"}, {"level": 3}, {"seed": 0}, {"seed": "x"}, {"upstream": 1}):
        with pytest.raises(ConfigError, match=r"^verified\."):
            nm.Verified(**bad)


def test_off_is_upstream_itself(nm: Binding) -> None:
    """VER-10b: no call of its own, so nothing is counted twice, and nothing is found."""
    heap = nm.Heap()
    off = nm.Verified(heap, "off")
    block = sealed(off)
    assert off.stats == heap.stats and (off.checks, off.failures) == (0, 0)
    flip(block)
    assert off.verify() == 0 and content(block)[:2] == bytes([71, 7])
    off.unseal(block)
    assert off.resize(block, 70) == (block.size == 70)
    block.free()
    assert heap.stats.live == 0 and (off.checks, off.failures) == (0, 0)
    with off:
        pass
    assert heap.alloc(10).size == 10
    if nm.name == "native":
        assert off._core.words() == heap._core.words()  # the same functions of the same structure


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("level", COMPARING[1:])
def test_each_flipped_byte_is_found(nm: Binding, level: str, noun: str) -> None:
    """VER-10c: wherever it is, and whatever is below."""
    for at in range(0, 33, 8 if noun != "Heap" else 1):
        verified = nm.Verified(make(nm, noun), level)
        block = sealed(verified, 33)
        flip(block, at)
        with unchanged(verified), pytest.raises(CorruptionDetected, match=r"^Verified: ") as caught:
            block.free()
        assert caught.value.layout == (33, 16) and verified.failures == 1
        with pytest.raises(CorruptionDetected, match=r"^Verified: a sealed block of 33 bytes at 0x") as caught:
            verified.verify()
        assert caught.value.state["used"] == 33
        if at % 16:
            block.free()  # the program was told
        else:
            verified.close()
        if noun != "Arena":
            assert verified.upstream is None or verified.stats.live == 0


def is_found(nm: Binding, verified: Any, call: Any) -> bool:
    """Whether the call finds a flipped byte. The wrapper is closed, damaged blocks with it."""
    block = sealed(verified)
    flip(block)
    with verified:
        try:
            call(verified, block)
        except CorruptionDetected:
            return True
        return False


def test_what_each_call_compares(nm: Binding) -> None:
    """VER-10c"""
    calls: dict[str, Any] = {
        "free": lambda v, b: b.free(),
        "resize": lambda v, b: v.resize(b, 60),
        "seal": lambda v, b: v.seal(b),
        "unseal": lambda v, b: v.unseal(b),
        "alloc": lambda v, b: v.alloc(10),
    }
    for level in ("basic", *COMPARING[1:]):
        found = {name for name, call in calls.items() if is_found(nm, nm.Verified(nm.Heap(), level), call)}
        assert found == {"basic": set(), "standard": set(calls) - {"alloc"}}.get(level, set(calls)), level


@pytest.mark.parametrize("level", COMPARING[1:])
def test_only_a_second_free_gives_a_damaged_block_back(nm: Binding, level: str) -> None:
    """VER-10c: whatever else was refused before, and however often."""
    calls: dict[str, Any] = {
        "resize": lambda v, b: v.resize(b, 60),
        "same": lambda v, b: v.resize(b, 64),
        "seal": lambda v, b: v.seal(b),
        "unseal": lambda v, b: v.unseal(b),
    }
    for before in ("", "resize same", "seal unseal", "resize unseal same seal resize"):
        verified = nm.Verified(nm.Heap(), level)
        block = sealed(verified)
        flip(block)
        for name in (*before.split(), *before.split(), "free", *before.split()):
            with unchanged(verified), pytest.raises(CorruptionDetected, match=r"^Verified: "):
                block.free() if name == "free" else calls[name](verified, block)
            assert block.alive and block.size == 64
        block.free()
        assert (block.alive, verified.stats.live, verified.failures) == (False, 0, 1)


def test_a_failure_is_told_once_by_alloc(nm: Binding) -> None:
    """VER-10c: the program may go on; what is damaged is refused for itself."""
    verified = nm.Verified(nm.Heap(), "full")
    blocks = [sealed(verified) for _ in range(3)]
    flip(blocks[1])
    failed = 0
    for _ in range(9):
        try:
            verified.alloc(10).free()
        except CorruptionDetected:
            failed += 1
    assert failed == 1 == verified.failures
    for block in (blocks[0], blocks[2]):
        block.free()
    with pytest.raises(CorruptionDetected):
        blocks[1].free()
    blocks[1].free()
    assert verified.stats.live == 0


def test_by_the_dice(nm: Binding) -> None:
    """VER-10d: at SAMPLING, of 256: 200 frees, 150 seals and unseals, 100 allocs."""

    def share(call: Any) -> float:
        heap = nm.Heap()
        return sum(is_found(nm, nm.Verified(heap, "sampling", seed=n), call) for n in range(1, 401)) / 400

    assert 0.70 < share(lambda v, b: b.free()) < 0.86
    assert 0.50 < share(lambda v, b: v.unseal(b)) < 0.68
    assert 0.30 < share(lambda v, b: v.alloc(10)) < 0.48


@pytest.mark.parametrize("level", Level)
def test_no_false_alarm(nm: Binding, level: Level) -> None:
    """VER-10e: a program that seals, reads, unseals, writes, resizes, frees and drops, at each level."""
    verified = nm.Verified(nm.Heap(), level, seed=1)
    live: list[Any] = []
    for n in range(600):
        block = verified.alloc(1 + n * 37 % 300)
        fill(block, n % 256)
        if n % 3:
            verified.seal(block)
        live.append(block)
        if n % 5 == 0:
            other = live[n * 7 % len(live)]
            content(other)
            verified.unseal(other)
            fill(other, 1)
            verified.resize(other, other.size + n % 20)
            verified.seal(other)
        if n % 2:
            live.pop(n * 13 % len(live)).free()
        elif len(live) > 20:
            del live[3]
    verified.verify()
    live.clear()
    del block, other
    assert verified.failures == 0 and verified.stats.live == 0
    assert verified.verify() == 0 and (verified.checks > 0) == (level is not Level.OFF)


def test_unsealed_blocks_may_change(nm: Binding) -> None:
    """VER-10e"""
    verified = nm.Verified(nm.Heap(), "redundant")
    block = sealed(verified)
    verified.unseal(block)
    flip(block)
    other = sealed(verified)
    assert verified.resize(other, 65) == (other.size == 65)
    verified.unseal(other)
    verified.seal(block)
    assert verified.verify() == 1
    block.free()
    other.free()
    assert verified.failures == 0


def test_in_any_place_of_a_chain(nm: Binding) -> None:
    """VER-10f: blocks of a wrapper in front are sealed here; what stands on it is checked through the port."""
    budget = nm.Budget("1 MiB")
    verified = nm.Verified(nm.Limited(nm.Heap(), budget), "full")
    traced = nm.Traced(nm.Locked(verified))
    block = traced.alloc(100)
    verified.seal(block)
    flip(block)
    with pytest.raises(CorruptionDetected, match="^Traced: "):
        block.free()
    assert budget.used == 100 == verified.stats.current
    flip(block)
    with nm.Arena(1000, upstream=verified) as arena:
        arena.alloc(100)
        assert verified.stats.live == 2
    assert verified.stats.live == 1 and traced.describe() == "Traced > Locked > Verified > Limited > Heap"


def test_what_cannot_be_sealed(nm: Binding) -> None:
    """VER-10f"""
    verified = nm.Verified(nm.Heap(), "full")
    below = nm.Heap()
    for verb in (verified.seal, verified.unseal):
        with pytest.raises(TypeError, match="^Verified: takes a Block, not int"):
            verb(1)
        with pytest.raises(ForeignBlock, match=f"^Verified {verified.id}: the block belongs to another allocator"):
            verb(below.alloc(10))
        verb(verified.alloc(0))
        gone = verified.alloc(10)
        gone.free()
        with pytest.raises(StaleBlock, match="^Verified: the block of 10 bytes was freed"):
            verb(gone)
        foreign = nm.Verified(verified).upstream.upstream.alloc(10)  # of what is below
        with pytest.raises(ForeignBlock):
            verb(foreign)
    kept = verified.alloc(10)
    kept.free()
    verified.close()
    for call in (verified.verify, lambda: verified.seal(kept)):
        with pytest.raises(StaleHandle, match="^Verified: is closed"):
            call()


def test_a_damaged_block_that_a_reset_drops(nm: Binding) -> None:
    """VER-10c: it goes with all that it lies among, and so it does with a wrapper that is closed."""
    arena, heap = nm.Arena(4096), nm.Heap()
    for below, end in ((arena, arena.reset), (heap, None)):
        verified = nm.Verified(below, "redundant")
        block = sealed(verified)
        flip(block)
        (end or verified.close)()
        assert not block.alive and below.stats.live == 0
    verified = nm.Verified(arena, "redundant")
    for each in [sealed(verified) for _ in range(3)]:
        each.free()
    assert (verified.stats.live, verified.failures, verified.verify()) == (0, 0, 0)


def test_a_damaged_block_that_is_collected(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """VER-10c: there is no call that could fail."""
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: told.append(args.exc_value))
    verified = nm.Verified(nm.Heap(), "full")
    block = sealed(verified)
    flip(block)
    del block
    collect()
    assert verified.stats.live == 1 and verified.failures == 1
    if nm.name == "native":
        assert [type(error) for error in told] == [CorruptionDetected]
    verified.alloc(10).free()  # with which what waits is given back
    assert verified.stats.live == 0


def test_the_ledger_agrees_under_threads(nm: Binding) -> None:
    """VER-10g: with the counters, while others allocate."""
    from concurrent.futures import ThreadPoolExecutor

    verified = nm.Verified(nm.Heap(), "redundant")

    def work(_: int) -> None:
        for n in range(300):
            block = sealed(verified, 16 + n % 100)
            if n % 50 == 0:
                verified.verify()
            block.free()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (verified.failures, verified.stats.live, verified.verify()) == (0, 0, 0)


def test_the_second_copy_of_the_pure_backend() -> None:
    """VER-10h; of the native one test_wrappers.c changes it."""
    nm = load("pure")
    for level, fails in (("full", False), ("redundant", True)):
        verified = nm.Verified(nm.Heap(), level)
        block = verified.alloc(100)
        (live,) = verified._core._ledger.values()
        live.layout = (99, 16)
        if fails:
            with pytest.raises(CorruptionDetected):
                block.free()
        else:
            block.free()
        verified.close()
