"""LIN: linear memory by itself, and as the memory of a WebAssembly module that runs in pywasm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, CorruptionDetected, OutOfBounds, OutOfMemory, StaleHandle
from nativemem.manager import Level, LinearMemory

HERE = Path(__file__).parent
PAGE = 65536


def test_pages(nm: Binding, level: Level) -> None:
    """LIN-1: grow gives the old count, or -1 past the maximum."""
    with LinearMemory(1, maximum=3, upstream=nm.System(), verification=level) as memory:
        assert (memory.size(), len(memory), memory.maximum, memory.level) == (1, PAGE, 3, level)
        memory[10:15] = b"hello"
        assert [memory.grow(n) for n in (0, 1, 2, 1, 1)] == [1, 1, -1, 2, -1]
        assert (memory.size(), memory[10:15], memory[10], memory[PAGE]) == (3, b"hello", 104, 0)
        memory[PAGE * 3 - 1] = 255
        assert memory.read_bytes(PAGE * 3 - 2, 2) == b"\0\xff"
        memory.verify()
    assert memory.closed
    for call in (lambda: memory.grow(1), lambda: memory[0], lambda: memory.write_bytes(0, b"x"), memory.acquire):
        with pytest.raises(StaleHandle):
            call()


def test_a_trap() -> None:
    """LIN-1: nothing outside of the pages is read or written, and no write makes more."""
    memory = LinearMemory(1)
    for offset, n in ((-1, 1), (PAGE, 1), (PAGE - 1, 2), (0, PAGE + 1), (1 << 70, 1), (0, -1)):
        refused(memory, offset, n)
    assert (memory.size(), memory[:] == bytes(PAGE)) == (1, True)


def refused(memory: LinearMemory, offset: int, n: int) -> None:
    with pytest.raises(OutOfBounds):
        memory.read_bytes(offset, n)
    with pytest.raises(OutOfBounds):
        memory[offset : offset + n]
    with pytest.raises(OutOfBounds):
        memory.acquire(offset, n)
    if n >= 0:
        with pytest.raises(OutOfBounds):
            memory.write_bytes(offset, bytes(n))


def test_bad_values() -> None:
    for bad in ({"pages": -1}, {"pages": "1"}, {"maximum": 65537}, {"pages": 3, "maximum": 2}):
        with pytest.raises(ConfigError, match="^linear"):
            LinearMemory(**bad)
    memory = LinearMemory(0)
    assert (memory.size(), memory.grow(0), memory.maximum) == (0, 0, 65536)
    for n in (-1, 1.5, "1", None):
        with pytest.raises(ConfigError):
            memory.grow(n)
    memory.grow(1)
    with pytest.raises(ConfigError, match="step"):
        memory[::2]
    with pytest.raises(ConfigError, match="2 bytes"):
        memory[0:2] = b"abc"
    with pytest.raises(ValueError, match="range"):
        memory[0] = 256


def test_growth_under_a_view(nm: Binding, level: Level) -> None:
    """LIN-1: never moves a live view silently."""
    memory = LinearMemory(1, upstream=nm.System(), verification=level)
    view = memory.acquire(0, 8)
    view[:] = b"12345678"
    with pytest.raises(BufferError):
        memory.grow(1)
    with pytest.raises(BufferError):
        memory.close()
    assert (memory.size(), bytes(view)) == (1, b"12345678")
    memory.release(view)
    assert (memory.grow(1), memory[:8]) == (1, b"12345678")


def test_a_budget_each(nm: Binding) -> None:
    """LIN-1: several instances; where the budget ends grow gives -1 and nothing changes. What moves is there twice
    for a moment."""
    budgets = [nm.Budget(4 * PAGE, "one"), nm.Budget(3 * PAGE, "two")]
    memories = [LinearMemory(1, upstream=nm.Limited(None, budget)) for budget in budgets]
    for memory, mark in zip(memories, b"ab", strict=True):
        memory[0] = mark
    assert [memory.grow(2) for memory in memories] == [1, -1]
    assert [memory.size() for memory in memories] == [3, 1]
    assert [budget.used for budget in budgets] == [3 * PAGE, PAGE]
    assert [memory[0] for memory in memories] == [*b"ab"]
    memories[0].close()
    assert [budget.used for budget in budgets] == [0, PAGE]


def test_no_memory_for_the_first_page(nm: Binding) -> None:
    with pytest.raises(OutOfMemory):
        LinearMemory(1, upstream=nm.Failing(None, 1))


def test_the_module_is_what_its_text_says(tmp_path: Path) -> None:
    """LIN-1: module.wasm is module.wat, assembled by wabt."""
    wabt = shutil.which("wat2wasm")
    if wabt is None:
        pytest.skip("wat2wasm (wabt) is not here; module.wasm is taken as it is")
    made = tmp_path / "module.wasm"
    subprocess.run([wabt, HERE / "module.wat", "-o", made], check=True)
    assert made.read_bytes() == (HERE / "module.wasm").read_bytes()


def instance(memory: LinearMemory, owner: Any = None) -> Any:
    """``module.wasm`` in pywasm, its memory instance replaced by ours: a function that calls its functions."""
    if sys.version_info < (3, 11):
        pytest.skip("pywasm needs Python 3.11")
    pywasm = pytest.importorskip("pywasm", reason="pywasm is not installed")

    class Limits:
        """What memory.grow of the interpreter asks for before it grows: pages now, and the most there can be."""

        n = memory.size()

        @property
        def m(self) -> int:
            room = memory.maximum if owner is None else owner.available // PAGE
            return min(memory.maximum, max(room, memory.size()))

        def suit(self, other: Any) -> bool:
            return True

    class Type:
        limits = Limits()

    class OurMemory(pywasm.MemInst):  # type: ignore[misc]
        def __init__(self) -> None:
            self.type, self.data = Type(), memory

        @property
        def size(self) -> int:
            return memory.size()

        def grow(self, n: int) -> None:
            assert memory.grow(n) >= 0

    runtime = pywasm.Runtime()
    store = runtime.machine.store

    def allocate_memory(kind: Any) -> int:
        assert kind.limits.n == memory.size()
        store.mems.append(OurMemory())
        return len(store.mems) - 1

    store.allocate_memory = allocate_memory
    module = runtime.instance_from_file(str(HERE / "module.wasm"))
    return lambda name, *args: runtime.invocate(module, name, list(args))


def test_a_module_runs_on_it(nm: Binding, level: Level) -> None:
    """LIN-1: a real module stores, loads, sums and grows; what it wrote is in our memory, and what we write is in
    its."""
    memory = LinearMemory(1, maximum=3, upstream=nm.System(), verification=level)
    call = instance(memory)
    assert memory[16:21] == b"hello"  # its data segment
    call("fill", 100, 50)
    assert memory[100:150] == bytes(range(50))
    memory[149] = 200
    assert call("sum", 100, 50) == [sum(range(49)) + 200]
    call("store", PAGE - 8, 0x1122334455667788)
    assert memory[PAGE - 8 :] == bytes.fromhex("8877665544332211")
    assert [call("grow", n) for n in (1, 2, 1)] == [[1], [-1], [2]]
    assert call("size") == [memory.size()] == [3]
    call("store", 2 * PAGE, 5)
    assert (call("load", 2 * PAGE), memory[2 * PAGE]) == ([5], 5)
    view = memory.acquire()
    assert call("load", 2 * PAGE) == [5]
    memory.release(view)
    memory.verify()
    with pytest.raises(AssertionError):  # as pywasm traps
        call("load", 3 * PAGE - 7)


def test_modules_with_a_budget_each(nm: Binding) -> None:
    """LIN-1: what one takes the other does not have."""
    budgets = [nm.Budget(3 * PAGE, "one"), nm.Budget(4 * PAGE, "two")]
    memories = [LinearMemory(1, maximum=3, upstream=nm.Limited(None, budget)) for budget in budgets]
    calls = [instance(memory, budget) for memory, budget in zip(memories, budgets, strict=True)]
    for value, call in enumerate(calls):
        call("store", 64, value)
    assert [call("grow", 2) for call in calls] == [[-1], [1]]
    assert [call("load", 64) for call in calls] == [[0], [1]]
    assert [budget.used for budget in budgets] == [PAGE, 3 * PAGE]


def test_a_view_that_is_out_while_a_module_grows() -> None:
    """LIN-1: BufferError, in the interpreter too, and the module goes on with what it has."""
    memory = LinearMemory(1)
    call = instance(memory)
    view = memory.acquire(0, 4)
    with pytest.raises(BufferError):
        call("grow", 1)
    memory.release(view)
    assert memory.size() == 1


def test_a_flipped_byte_shows_in_the_module() -> None:
    """LIN-1 VER-5"""
    memory = LinearMemory(1, verification="full")
    call = instance(memory)
    call("store", 64, 7)
    with memoryview(memory._provider._block) as raw:
        raw[1000] ^= 1
    with pytest.raises(CorruptionDetected, match="checksum"):
        call("load", 64)
