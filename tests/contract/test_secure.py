"""HEAP-4: the secure heap: what it finds, what it wipes, what it costs in size, and how it is switched on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from nativemem._api import load
from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.config import HeapConfig
from nativemem.errors import ConfigError, CorruptionDetected, DoubleFree, StaleBlock

from .helpers import collect, content, fill, in_thread, is_one_line, unchanged

SIZES = (1, 15, 16, 17, 100, 496, 497, 2000, 32752, 32753, 61424, 61425, 65536, 200_000)


@contextmanager
def unchanged_but_reserved(heap: Allocator) -> Iterator[None]:
    """As ``unchanged``; on its way to a refusal a heap may have taken a superblock."""
    before = (replace(heap.stats, reserved=0), heap.blocks())
    yield
    assert (replace(heap.stats, reserved=0), heap.blocks()) == before


def write(address: int, data: bytes) -> None:
    """As C code that holds a stale or a wrong pointer does."""
    ctypes.memmove(address, data, len(data))


# --- on both backends ---


def test_configuration(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAP-4, CFG-3: off unless asked for, by the argument or by the environment; the argument wins."""
    monkeypatch.delenv("NATIVEMEM_SECURE", raising=False)
    assert nm.Heap().config == HeapConfig(False)
    assert nm.Heap(secure=True).config == HeapConfig(True)
    monkeypatch.setenv("NATIVEMEM_SECURE", "1")
    assert nm.Heap().config.secure is True
    assert nm.Heap(secure=False).config.secure is False
    for bad in (1, "yes", 0):
        with pytest.raises(ConfigError, match=r"^heap\.secure: takes True or False, not "):
            nm.Heap(secure=bad)


@pytest.mark.parametrize("size", SIZES)
def test_usable_is_size(nm: Binding, size: int) -> None:
    """HEAP-4: what follows is watched, so no block has it."""
    heap = nm.Heap(secure=True)
    for align in (1, 16, 64, 4096):
        block = heap.alloc(size, align)
        assert (block.usable, block.size, block.address % align) == (size, size, 0)
        fill(block, 0xEE)
        assert content(block) == b"\xee" * size


def test_double_free(nm: Binding) -> None:
    """HEAP-4, BLOCK-2"""
    heap = nm.Heap(secure=True)
    block = heap.alloc(100)
    block.free()
    for call in (block.free, lambda: heap.free(block)):
        with unchanged(heap), pytest.raises(DoubleFree):
            call()
    with unchanged(heap), pytest.raises(StaleBlock):
        heap.resize(block, 50)


@pytest.mark.parametrize("size", SIZES)
def test_resize_keeps_the_watch(nm: Binding, size: int) -> None:
    """HEAP-4, HEAP-1: in place or not at all; `usable` follows."""
    heap = nm.Heap(secure=True)
    block = heap.alloc(size)
    fill(block, 5)
    for new in (size + 1, size + 7, size + 16, size + 100, max(1, size - 1), max(1, size // 2)):
        old = block.size
        done = heap.resize(block, new)
        assert block.size == block.usable == (new if done else old)
        keep = min(old, block.size)
        assert content(block)[:keep] == b"\x05" * keep
        fill(block, 5)
    block.free()
    assert heap.stats.current == 0


def test_growing_in_place_shows_no_old_bytes(nm: Binding) -> None:
    """HEAP-4"""
    heap = nm.Heap(secure=True)
    block = heap.alloc(32)
    old = bytes(range(200, 232))  # all different: what the heap fills with is one byte, and may be any
    memoryview(block)[:] = old
    assert heap.resize(block, 20) is True
    assert heap.resize(block, 32) is True
    assert content(block)[:20] == old[:20]
    assert not any(old[at : at + 2] in content(block)[20:] for at in range(20, 31))


def test_freed_memory_is_not_to_be_found_again(nm: Binding) -> None:
    """HEAP-4: zero on free."""
    heap = nm.Heap(secure=True)
    for size in (40, 2000, 100_000):
        blocks = [heap.alloc(size) for _ in range(50)]
        for block in blocks:
            fill(block, 0xA7)
        del block
        blocks.clear()
        collect()
        blocks = [heap.alloc(size) for _ in range(50)]
        # a single such byte may be one of an encoded link
        assert not any(b"\xa7" * 4 in content(block) for block in blocks), size


def test_any_thread(nm: Binding) -> None:
    """HEAP-4, HEAP-1"""
    heap = nm.Heap(secure=True)
    blocks = in_thread(lambda: [heap.alloc(n) for n in (10, 1000, 100_000)])
    for block in blocks:
        fill(block, 1)
        assert content(block) == b"\x01" * block.size
    in_thread(lambda: [block.free() for block in blocks])
    assert heap.stats.live == 0


# --- what C code may do to it ---


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("size", SIZES)
def test_a_write_behind_the_end(size: int) -> None:
    """HEAP-4: from one byte on, found when the block is freed or resized; the block stays, nothing changes."""
    heap = load("native").Heap(secure=True)
    block = heap.alloc(size)
    end = block.address + size
    before = ctypes.string_at(end, 1)
    write(end, bytes([before[0] ^ 0x41]))
    for call in (block.free, lambda: heap.free(block)):
        with unchanged(heap), pytest.raises(CorruptionDetected) as caught:
            call()
        assert is_one_line(caught.value)
        assert isinstance(caught.value, RuntimeError)
        assert caught.value.suggestion
    assert block.alive
    write(end, before)
    block.free()
    assert heap.stats.live == 0


@pytest.mark.usefixtures("needs_native")
def test_resize_looks_as_well() -> None:
    """HEAP-4"""
    heap = load("native").Heap(secure=True)
    block = heap.alloc(40)
    before = ctypes.string_at(block.address + 40, 1)
    write(block.address + 40, bytes([before[0] ^ 1]))
    with unchanged(heap), pytest.raises(CorruptionDetected):
        heap.resize(block, 42)
    assert block.size == 40
    write(block.address + 40, before)
    assert heap.resize(block, 42) is True


@pytest.mark.usefixtures("needs_native")
def test_wrappers_pass_it_on() -> None:
    """HEAP-4, PORT-1: nothing is uncharged for a block that stays."""
    nm = load("native")
    limited = nm.Limited(nm.Traced(nm.Heap(secure=True)), nm.Budget(1000))
    block = limited.alloc(100)
    before = ctypes.string_at(block.address + 100, 1)
    write(block.address + 100, bytes([before[0] ^ 1]))
    with unchanged(limited), pytest.raises(CorruptionDetected):
        block.free()
    assert limited.owner.used == 100
    write(block.address + 100, before)
    block.free()
    assert limited.owner.used == 0


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
def test_a_write_after_free() -> None:
    """HEAP-4: freed memory is zero, and found changed when the cell is to be used again."""
    heap = load("native").Heap(secure=True)
    blocks = [heap.alloc(200) for _ in range(4)]
    address = blocks[1].address
    fill(blocks[1], 0xA7)
    blocks[1].free()
    assert ctypes.string_at(address + 8, 192) == bytes(192)
    write(address + 100, b"A")
    with unchanged_but_reserved(heap), pytest.raises(CorruptionDetected) as caught:
        heap.alloc(200)
    assert is_one_line(caught.value)
    write(address + 100, b"\0")
    assert heap.alloc(200).address == address


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
def test_a_forged_link() -> None:
    """HEAP-4: an address written into a freed cell does not come out of the next allocation."""
    heap = load("native").Heap(secure=True)
    blocks = [heap.alloc(200) for _ in range(4)]
    address = blocks[2].address
    blocks[2].free()
    link = ctypes.string_at(address, 8)
    victim = ctypes.create_string_buffer(300)
    for forged in (ctypes.addressof(victim), address, 0x4141414141414141):
        write(address, forged.to_bytes(8, "little"))
        with unchanged_but_reserved(heap), pytest.raises(CorruptionDetected):
            heap.alloc(200)
    write(address, link)
    assert heap.alloc(200).address == address


@pytest.mark.usefixtures("needs_native")
def test_cells_come_in_random_order() -> None:
    """HEAP-4: of 200 in a row few lie behind the one before."""
    heap = load("native").Heap(secure=True)
    blocks = [heap.alloc(48) for _ in range(200)]
    ascending = sum(b.address == a.address + 64 for a, b in zip(blocks, blocks[1:], strict=False))
    assert ascending < 20
    plain = load("native").Heap(secure=False)
    blocks = [plain.alloc(48) for _ in range(200)]
    assert sum(b.address == a.address + 48 for a, b in zip(blocks, blocks[1:], strict=False)) > 150


OVERRUN = """
import ctypes, sys
from nativemem._api import load
heap = load("native").Heap(secure=sys.argv[2] == "secure")
size, far = int(sys.argv[1]), int(sys.argv[3])
blocks = [heap.alloc(size) for _ in range(3)]
print("made", flush=True)
ctypes.memmove(blocks[0].address + size + far, b"A", 1)
print("written", flush=True)
sys.stdout.flush()
import os
os._exit(0)
"""


def overrun(size: int, kind: str, far: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", OVERRUN, str(size), kind, str(far)], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
@pytest.mark.skipif(sys.platform != "linux", reason="how a process dies by its guard page is Linux's here")
def test_a_guard_page_stops_a_long_overflow() -> None:
    """HEAP-4: a span ends in a page that no code can touch; for 200000 bytes 204800 are taken, with it."""
    to_guard = 204_800 - 4096 - 200_000
    assert overrun(200_000, "secure", to_guard) == (-signal.SIGSEGV, "made\n")
    assert overrun(200_000, "secure", to_guard - 1) == (0, "made\nwritten\n")
    assert overrun(200_000, "plain", to_guard) == (0, "made\nwritten\n")


# --- the switch ---

UNDER_THE_SWITCH = """
import nativemem, sys
heap = nativemem.Heap()
print(nativemem.backend, heap.config.secure, heap.alloc(100).usable, bool(nativemem.installed()))
data = [bytes(n) for n in range(0, 100_000, 997)]
words = {str(n): [n] * 10 for n in range(10_000)}
assert sum(len(w) for w in words.values()) == 100_000
assert [len(d) for d in data] == list(range(0, 100_000, 997))
del data, words
print("done")
"""


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NATIVEMEM_")}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, env={**clean, **env}
    )


def test_the_switch(nm: Binding) -> None:
    """HEAP-4: NATIVEMEM_SECURE=1 makes every heap secure."""
    done = run("-c", UNDER_THE_SWITCH, NATIVEMEM_SECURE="1", NATIVEMEM_BACKEND=nm.name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{nm.name} True 100 False\ndone\n", "")
    done = run("-c", UNDER_THE_SWITCH, NATIVEMEM_SECURE="0", NATIVEMEM_BACKEND=nm.name)
    assert done.stdout == f"{nm.name} False 112 False\ndone\n"


@pytest.mark.usefixtures("needs_native")
@pytest.mark.skipif(is_free_threaded(), reason="a free-threaded interpreter keeps its own allocator for objects")
def test_a_program_on_the_secure_engine(tmp_path: object) -> None:
    """HEAP-4: the interpreter's own memory comes from a secure heap too."""
    script = tmp_path / "script.py"
    script.write_text(UNDER_THE_SWITCH)
    done = run("-m", "nativemem", "run", str(script), NATIVEMEM_SECURE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("native True 100 True\ndone\n")


OVERFLOW_IN_THE_ENGINE = """
import ctypes, nativemem
nativemem.install()
data = bytearray(1000)
address = ctypes.addressof(ctypes.c_char.from_buffer(data))
ctypes.memset(address, 0x41, 1012)  # to the next cell would be a guard page for one in sixty
del data
print("unnoticed")
"""


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
@pytest.mark.skipif(is_free_threaded(), reason="a free-threaded interpreter keeps its own allocator for objects")
def test_an_overflow_under_the_secure_engine_ends_the_process() -> None:
    """HEAP-4: there is no exception to raise in the interpreter's own free."""
    done = run("-c", OVERFLOW_IN_THE_ENGINE, NATIVEMEM_SECURE="1")
    assert done.returncode == -signal.SIGABRT
    assert "unnoticed" not in done.stdout
    assert done.stderr.count("nativemem") >= 1


@pytest.mark.parametrize("value", ["yes", "", "2", "true", " 1"])
def test_a_bad_switch(value: str) -> None:
    """HEAP-4, CFG-1: stops the import, naming the variable, the value and what it takes."""
    done = run("-c", "import nativemem", NATIVEMEM_SECURE=value)
    assert done.returncode == 1
    [last] = [line for line in done.stderr.splitlines() if line.startswith("nativemem.errors.")]
    assert last == f"nativemem.errors.ConfigError: NATIVEMEM_SECURE: takes 1 (on) or 0 (off), not {value!r}"
