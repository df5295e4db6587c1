"""MEM: zeroed blocks for a while."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, ConfigError, InvalidLayout, OperationRefused
from nativemem.manager import Level, Memory, MemoryManager, Verification, memory, with_memory


@pytest.fixture(autouse=True)
def default(monkeypatch: pytest.MonkeyPatch) -> MemoryManager:
    """A default manager of the test's own."""
    made = MemoryManager({"decoder": "64 KiB"}, total="1 MiB")
    monkeypatch.setattr(MemoryManager, "_default", made)
    return made


def test_a_block_of_zeros(default: MemoryManager) -> None:
    """MEM-1: fixed size, zeroed, a buffer, a context manager."""
    dirty = Memory(1000, "decoder")
    with memoryview(dirty) as view:
        view[:] = b"\xff" * 1000
    dirty.free()
    with Memory("1000 B", "decoder") as block:
        assert (len(block), bytes(block), block.owner.name) == (1000, bytes(1000), "decoder")
        assert isinstance(block, Memory)
        assert isinstance(block, nativemem.Block)
        with memoryview(block) as view:
            view[:5] = b"hello"
            assert bytes(block)[:6] == b"hello\0"
        assert default.total.used == 1000
    assert default.total.used == 0
    assert not isinstance(nativemem.Heap().alloc(10), Memory)
    assert not isinstance(b"", Memory)
    kept = Memory(10)
    assert default.total.used == 10
    del kept
    gc.collect()
    assert default.total.used == 0


def test_sizes() -> None:
    """MEM-1: size 0 is an error."""
    for size in (0, -1, 1.5, None, "x"):
        with pytest.raises(InvalidLayout):
            Memory(size)
        with pytest.raises(InvalidLayout), memory(size):
            pass
    with pytest.raises(BudgetExceeded):
        Memory("65 KiB", "decoder")


def test_the_budget_comes_back(nm: Binding, level: Level) -> None:
    """MEM-1 MEM-2: to what it was, also on an exception, which goes through unchanged."""
    m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=level)
    kept = m.allocate("a", 100)
    with m.memory(200, "a") as block:
        assert (m.total.used, bytes(block)) == (300, bytes(200))
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, m.memory(200, "a"):
        raise error
    assert (caught.value is error, m.total.used) == (True, 100)
    with pytest.raises(BudgetExceeded), m.memory(901, "a"):
        pass
    with m.memory(10, "a") as block:
        block.free()
    assert (m.total.used, kept.alive) == (100, True)
    m.verification.check()


def test_a_view_that_is_out_at_the_end(nm: Binding) -> None:
    """MEM-2: BufferError, but not in place of another exception; the block goes with the view."""
    m = MemoryManager({"a": 1000}, upstream=nm.Heap())
    with pytest.raises(BufferError), m.memory(10, "a") as block:
        view = memoryview(block)
    with pytest.raises(KeyError) as caught, m.memory(10, "a") as block:
        other = memoryview(block)
        raise KeyError
    if hasattr(caught.value, "add_note"):
        assert "in use by 1 block with a memoryview" in caught.value.__notes__[0]
    view.release()
    other.release()
    del block
    gc.collect()
    assert m.total.used == 0


def test_the_default_owner(default: MemoryManager) -> None:
    """MEM-3: the caller's top-level package."""
    mine = __name__.partition(".")[0]
    with memory(10) as block:
        assert block.owner.name == mine
    assert Memory(10).owner.name == mine
    with default.memory(10) as block:
        assert block.owner.name == mine
    space: dict[str, Any] = {"__name__": "library.part", "memory": memory}
    exec("with memory(10) as block:\n    name = block.owner.name", space)
    assert space["name"] == "library"
    strict = MemoryManager({"a": 10}, policy="strict")
    with pytest.raises(ConfigError, match=f"there is no owner {mine!r}"), strict.memory(10):
        pass


@with_memory(100, "decoder")
def plain(block: Any, text: bytes, *, end: bytes = b"") -> Any:
    """A docstring."""
    with memoryview(block) as view:
        view[: len(text)] = text
    return bytes(block)[: len(text)] + end, block.owner.used


class Decoder:
    @with_memory(100, "decoder")
    def decode(self, block: Any, text: bytes) -> Any:
        return self, len(block), text


@with_memory(100, "decoder")
def steps(block: Any, n: int) -> Iterator[int]:
    for _ in range(n):
        got = yield block.owner.used
        assert got is None
    return "end"


@with_memory(100, "decoder")
async def later(block: Any) -> int:
    await asyncio.sleep(0)
    return int(block.owner.used)


def test_the_decorator(default: MemoryManager) -> None:
    """MEM-2: result and exception pass through unchanged."""
    assert plain(b"abc", end=b"!") == (b"abc!", 100)
    assert (plain.__name__, plain.__doc__, default.total.used) == ("plain", "A docstring.", 0)
    with pytest.raises(ValueError, match="different structures"):
        plain(b"x" * 101)
    assert default.total.used == 0
    decoder = Decoder()
    assert decoder.decode(b"x") == (decoder, 100, b"x")
    generator = steps(2)
    assert (default.total.used, next(generator), default.total.used) == (0, 100, 100)
    generator.close()
    assert (default.total.used, list(steps(2))) == (0, [100, 100])
    assert (asyncio.run(later()), default.total.used) == (100, 0)


def test_what_else_is_decorated(default: MemoryManager) -> None:
    """MEM-2: builtins, and objects that are called."""

    class Async:
        async def __call__(self, block: Any) -> int:
            await asyncio.sleep(0)
            return int(block.owner.used)

    assert with_memory(100, "decoder")(len)() == 100
    assert with_memory(100, "decoder")(bytes)() == bytes(100)
    assert asyncio.run(with_memory(100, "decoder")(Async())()) == 100
    assert default.total.used == 0


def test_what_is_not_decorated() -> None:
    async def many(block: Any) -> Any:
        yield block

    for thing in (many, 3, None):
        with pytest.raises(ConfigError, match="with_memory: decorates a function"):
            with_memory(10)(thing)


def test_a_free_that_is_refused(nm: Binding) -> None:
    checks = Verification("basic")
    m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)
    checks.on("pre_deallocate")(lambda event: "stays")
    with pytest.raises(OperationRefused, match="refused by <lambda>: stays"), m.memory(10, "a") as block:
        pass
    assert (block.alive, m.total.used) == (True, 10)
