"""C data of cffi's: in blocks of an allocator, and as cffi makes it, by size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from calls import CALLS, turns, unrolled
from ratios import Row, Table, paired

from nativemem import _api
from nativemem.hooks import cffi as hook

cffi = pytest.importorskip("cffi")

SIZES = [1 << 6, 1 << 12, 1 << 14, 1 << 16, 1 << 20]
#: of native/peer, from so many bytes on
TARGET, FROM = 1.0, 4096
NEW, COMPILED, LIBC = "ffi.new", "ffi.new, compiled", "ffi.new_allocator(malloc, free)"


def members() -> dict[str, Any]:
    """What is called ``new``, by name."""
    made = cffi.FFI()
    made.cdef("void *malloc(size_t size); void free(void *ptr);")
    libc = made.dlopen(None)
    compiled = pytest.importorskip("nativemem._core").ffi
    return {
        "native": hook.allocator(made, _api.load("native").Heap()),
        "pure": hook.allocator(made, _api.load("pure").Heap()),
        NEW: made.new,
        COMPILED: compiled.new,
        LIBC: made.new_allocator(libc.malloc, libc.free, should_clear_after_alloc=False),
    }


def build(name: str, size: int) -> Callable[[], None]:
    """A function of CALLS calls."""
    return unrolled(f"new('char[]', {size})", {"new": members()[name]})


NAMES = ("native", "pure", NEW, COMPILED, LIBC)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.benchmark(max_time=0.2, min_rounds=10, disable_gc=True, warmup=True)
def test_new(benchmark: Any, name: str, size: int) -> None:
    """One case of the table; a round is CALLS calls."""
    benchmark.group = f"new('char[]', {size}), {CALLS} calls"
    benchmark(build(name, size))


@pytest.mark.parametrize("size", SIZES)
def test_ratios(size: int, tables: dict[str, Table], quick: bool) -> None:
    """The ratios, from members that take turns."""
    times = turns({name: build(name, size) for name in NAMES}, 1 if quick else 51)
    native = times["native"]
    for name, each in times.items():
        value = statistics.median(each)
        if name == "native":
            tables["cffi"].add(Row(f"char[{size}]", name, value, 1.0))
        else:
            target = TARGET if size >= FROM and name in (NEW, COMPILED) else None
            tables["cffi"].add(Row(f"char[{size}]", name, value, *paired(native, each), target))
    assert all(min(each) > 0 for each in times.values())
