"""PROV: boundaries, growth and words of providers."""

from __future__ import annotations

import array
import gc
import operator
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import (
    CapacityExceeded,
    ConfigError,
    CorruptionDetected,
    InvalidLayout,
    OutOfBounds,
    OutOfMemory,
    StaleHandle,
    UninitializedRead,
)
from nativemem.manager import (
    CappedProvider,
    Provider,
    StaticProvider,
    StdProvider,
    default_provider,
)
from nativemem.manager.buffers import plain
from nativemem.manager.provider import ProviderStats, wipe_range
from nativemem.sizes import SIZE_MAX

Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("old_objects_apart")  # they collect


# --- what is read and written


def test_reads_at_the_boundaries(make: Make) -> None:
    provider = make(verification="off")
    name = type(provider).__name__
    provider.write_bytes(0, b"hello")
    for offset, n, data in ((0, 5, b"hello"), (4, 1, b"o"), (5, 0, b""), (0, 0, b""), (1, 3, b"ell")):
        assert provider.read_bytes(offset, n) == data
    if provider.tier == "static":
        assert provider.read_bytes(3, 4) == b"lo\0\0" and provider.read_bytes(4095, 1) == b"\0"
        wrong = ((-1, 2), (0, -1), (4096, 1), (0, 4097), (5, -5))
    else:
        wrong = ((-1, 2), (0, -1), (5, 1), (0, 6), (6, 0), (5, -5))
    for offset, n in wrong:
        with pytest.raises(OutOfBounds) as caught:
            provider.read_bytes(offset, n)
        assert str(caught.value) == f"{name}.read_bytes: {n} bytes at {offset} are not within the 5 used ones"
        state = {"requested": n, "offset": offset, "used": 5, "capacity": provider.capacity}
        assert caught.value.state == state
        if offset >= 0 and provider.tier != "static":
            with pytest.raises(OutOfBounds, match=f"^{name}.acquire: {n} bytes at {offset} are not within"):
                provider.acquire(offset, n)
    for bad in ("0", 1.5, None, b"x"):
        for call in (lambda bad=bad: provider.read_bytes(bad, 1), lambda bad=bad: provider.read_bytes(0, bad)):
            with pytest.raises(TypeError):
                call()


def test_what_was_not_written() -> None:
    provider = StaticProvider(16)
    provider.write_bytes(0, b"hello")
    for offset, n, written in ((0, 6, 5), (4, 2, 1), (5, 1, 0), (6, 1, 0), (0, 16, 5), (15, 1, 0)):
        with pytest.raises(UninitializedRead) as caught:
            provider.read_bytes(offset, n)
        assert str(caught.value) == (
            f"StaticProvider.read_bytes: {n} bytes at {offset}, of which {written} were written"
        )
        assert caught.value.state == {"requested": n, "offset": offset, "used": 5, "capacity": 16}
    for offset, n in ((0, 17), (16, 1), (-1, 1), (0, -1)):
        with pytest.raises(OutOfBounds):
            provider.read_bytes(offset, n)


def test_writes_at_the_boundaries(make: Make) -> None:
    provider = make(verification="off")
    name = type(provider).__name__
    provider.write_bytes(0, b"abc")
    provider.write_bytes(3, b"")
    provider.write_bytes(2, b"x")
    provider.write_bytes(3, b"y")
    assert provider.read_bytes(0, 4) == b"abxy" and len(provider) == 4
    for offset, data in ((-1, b"x"), (SIZE_MAX, b"x"), (SIZE_MAX - 1, b"xy"), (5, b""), (-1, b"")):
        with pytest.raises(OutOfBounds) as caught:
            provider.write_bytes(offset, data)
        assert str(caught.value).startswith(f"{name}.write_bytes: {len(data)} bytes at ")
        assert caught.value.state["requested"] == len(data) and len(provider) == 4
    for offset in ("0", 0.5, None, 9.5):
        with pytest.raises(TypeError):
            provider.write_bytes(offset, b"x")
    for data, kind in (("x", "str"), (3, "int"), (None, "NoneType"), ([1], "list")):
        with pytest.raises(TypeError) as wrong:
            provider.write_bytes(0, data)
        assert str(wrong.value) == f"{name}.write_bytes: takes bytes or another buffer, not {kind}"
    assert provider.read_bytes(0, 4) == b"abxy"


def test_what_a_buffer_holds() -> None:
    """Its bytes, in its order, whatever its items and strides are."""
    assert plain(b"x", "l") == b"x" and plain(bytearray(b"ab"), "l") == b"ab" == bytes(
        plain(memoryview(b"ab"), "l")
    )
    words = array.array("H", [1, 2])
    assert bytes(plain(words, "l")) == words.tobytes() and len(plain(words, "l")) == 4
    assert (
        bytes(plain(memoryview(b"abcdef")[::2], "l")) == b"ace" and len(plain(memoryview(b"abcdef")[::2], "l")) == 3
    )
    for empty in (b"", bytearray(), array.array("H"), memoryview(b"x")[1:]):
        assert len(plain(empty, "l")) == 0
    grid = memoryview(bytes(range(6))).cast("B", (2, 3))
    assert bytes(plain(grid, "l")) == bytes(range(6)) and len(plain(grid, "l")) == 6
    with pytest.raises(TypeError, match="^l: takes bytes or another buffer, not str$"):
        plain("x", "l")


def test_ranges_are_wiped() -> None:
    for size, start, end in ((9, 2, 5), (9, 0, 9), (9, 4, 4), (200_000, 3, 199_999), (200_000, 65_536, 131_072)):
        data = bytearray(b"x" * size)
        wipe_range(memoryview(data), start, end)
        assert data == b"x" * start + bytes(end - start) + b"x" * (size - end)


# --- growth


def test_what_a_growth_takes(nm: Binding) -> None:
    """Half as much again, 64 at the least; of a resize as much as it says; never more than there can be."""
    provider = StdProvider(upstream=nm.System())
    for end, capacity in ((1, 64), (64, 64), (65, 96), (96, 96), (97, 144), (1000, 1000), (1001, 1500)):
        provider.write_bytes(end - 1, b"x")
        assert (len(provider), provider.capacity) == (end, capacity)
    other = StdProvider(upstream=nm.System())
    for n, capacity in ((1, 1), (10, 10), (11, 11), (6, 11), (11, 11), (5, 5), (6, 6), (3, 3), (2, 3), (0, 0)):
        other.resize(n)
        assert (len(other), other.capacity) == (n, capacity)
    capped = CappedProvider(70, upstream=nm.System())
    for end, capacity in ((1, 64), (65, 70), (70, 70)):
        capped.write_bytes(end - 1, b"x")
        assert capped.capacity == capacity
    small = CappedProvider(10, upstream=nm.System())
    small.write_bytes(0, b"x")
    assert small.capacity == 10


def test_what_is_given_back(nm: Binding) -> None:
    """Where half the block or more is not used any more."""
    for left, capacity in ((51, 100), (50, 50), (49, 49), (1, 1), (0, 0)):
        system = nm.System()
        provider = StdProvider(upstream=system)
        provider.resize(100)
        provider.write_bytes(0, b"x" * 100)
        provider.resize(left)
        assert provider.capacity == capacity == system.stats.current
        assert provider.read_bytes(0, left) == b"x" * left
        provider.resize(100)
        assert provider.read_bytes(0, 100) == b"x" * left + bytes(100 - left)


def test_no_more_than_there_can_be(nm: Binding) -> None:
    for provider in (CappedProvider(100, upstream=nm.System()), StaticProvider(100, upstream=nm.System())):
        name = type(provider).__name__
        provider.resize(40)
        provider.resize(100)
        provider.resize(40)
        for call, verb, end in (
            (lambda p=provider: p.resize(101), "resize", 101),
            (lambda p=provider: p.write_bytes(100, b"x"), "write_bytes", 101),
            (lambda p=provider: p.write_bytes(39, b"x" * 99), "write_bytes", 138),
        ):
            with pytest.raises(CapacityExceeded) as caught:
                call()
            assert str(caught.value) == f"{name}.{verb}: up to byte {end}, beyond the 100 that there can be"
            assert caught.value.suggestion == "write less, resize to fewer bytes, or make it with more capacity"
            state = caught.value.state
            assert (state["requested"], state["used"], state["limit"]) == (end - 40, 40, 100)
            assert len(provider) == 40


class Upstream:
    """What a provider takes from: it notes sizes, and refuses those above a limit."""

    def __init__(self, allocator: Any, most: int = 1 << 40) -> None:
        self.allocator, self.most = allocator, most
        self.asked: list[int] = []

    def alloc(self, size: int) -> Any:
        self.asked.append(size)
        if size > self.most:
            raise OutOfMemory("no room")
        return self.allocator.alloc(size)

    def resize(self, block: Any, size: int) -> bool:
        return False


def test_where_there_is_no_room_for_spare_bytes(nm: Binding) -> None:
    """As many as are needed; where there is none for those nothing has changed."""
    provider: Any = StdProvider(upstream=nm.System())
    provider.write_bytes(0, b"a" * 100)
    upstream = provider._upstream = Upstream(nm.System(), 120)
    provider.write_bytes(100, b"b" * 10)
    assert upstream.asked == [150, 110] and provider.capacity == 110
    assert provider.read_bytes(0, 110) == b"a" * 100 + b"b" * 10
    upstream.asked.clear()
    with pytest.raises(OutOfMemory):
        provider.write_bytes(110, b"c" * 11)
    assert upstream.asked == [165, 121] and (len(provider), provider.capacity) == (110, 110)
    upstream.asked.clear()
    with pytest.raises(OutOfMemory):
        provider.resize(121)
    assert upstream.asked == [121] and provider.read_bytes(109, 1) == b"b"
    provider.verify()


def test_a_block_that_grows_where_it_is(nm: Binding) -> None:
    """The view is of all of it, and what came is zero; nothing is allocated anew."""
    provider: Any = StdProvider(upstream=nm.System())
    provider.write_bytes(0, b"abc")
    provider.verify()

    class Grows(Upstream):
        def resize(self, block: Any, size: int) -> bool:
            raise BufferError("a view is out")

    provider._upstream = Grows(nm.System())
    provider.write_bytes(64, b"d")
    assert provider._upstream.asked == [96] and provider.read_bytes(0, 65) == b"abc" + bytes(61) + b"d"


def test_what_a_window_is_of(make: Make) -> None:
    provider = make()
    assert provider.acquire().nbytes == 0
    provider.write_bytes(0, b"hello")
    for offset, n, data in (
        (0, None, b"hello"),
        (2, None, b"llo"),
        (5, None, b""),
        (1, 2, b"el"),
        (0, 5, b"hello"),
        (5, 0, b""),
    ):
        window = provider.acquire(offset, n)
        assert bytes(window) == data and not window.readonly
        provider.release(window)
        assert all(each() is not window for each in provider._windows), "what was released is not kept"
    assert bytes(provider.acquire(n=1)) == b"h"
    for offset, n in ((-1, 1), (0, 6), (6, None), (0, -1), (-1, None)):
        with pytest.raises(OutOfBounds):
            provider.acquire(offset, n)
    name = type(provider).__name__
    first, second = provider.acquire(0, 1), provider.acquire(0, 1)
    provider.release(second)
    with pytest.raises(BufferError) as caught:
        provider.resize(1)
    assert str(caught.value) == f"{name}.resize: refused while a window is out; release that first"
    with pytest.raises(ConfigError, match=f"^{name}.release: takes a window that acquire gave, once, not "):
        provider.release(second)
    first.release()
    with pytest.raises(ConfigError):
        provider.release(first)
    provider.resize(1)
    assert provider._windows == []


def test_the_end_of_a_with_block(make: Make) -> None:
    """A view that is out is told of, but not in place of another error."""
    provider = make()
    provider.resize(4)
    with pytest.raises(BufferError), provider as same:
        assert same is provider
        window = provider.acquire()
    with pytest.raises(LookupError, match="mine"), provider:
        raise LookupError("mine")
    provider.release(window)
    with pytest.raises(LookupError), provider:
        raise LookupError
    assert provider.closed


def test_invariants_of_a_provider(make: Make) -> None:
    provider = make(verification="off")
    provider.verify()
    provider.write_bytes(0, b"abc")
    provider.verify()
    capacity, name = provider.capacity, type(provider).__name__
    for used in (capacity + 1, capacity, 0):
        provider._used = used
        if used <= capacity:
            provider.verify()
            continue
        with pytest.raises(CorruptionDetected) as caught:
            provider.verify()
        assert str(caught.value) == f"{name}.verify: {used} of {capacity} bytes are used, in a block of {capacity}"
        assert caught.value.state == {"used": used, "capacity": capacity}
    provider._used = 3
    block = provider._block
    provider._block = SimpleNamespace(size=capacity, alive=False)
    with pytest.raises(CorruptionDetected):
        provider.verify()
    provider._block = SimpleNamespace(size=capacity + 1, alive=True)
    with pytest.raises(CorruptionDetected):
        provider.verify()
    provider._block = block
    provider.verify()


def test_figures_and_words(make: Make) -> None:
    provider = make()
    limit = None if provider.tier == "std" else 4096
    nothing = (0, 0, 0) if provider.tier == "std" else (None, None, None)
    assert provider.stats == ProviderStats(0, provider.capacity, limit, *nothing)
    provider.write_bytes(0, b"abc")
    more = (1, 1, 3) if provider.tier == "std" else (None, None, None)
    assert provider.stats == ProviderStats(3, provider.capacity, limit, *more) and provider.limit == limit
    provider.write_bytes(0, b"x")
    provider.read_bytes(0, 1)
    provider.read_bytes(0, 2)
    if provider.tier == "std":
        assert provider.stats == ProviderStats(3, provider.capacity, None, 4, 3, 3)
    name = type(provider).__name__
    assert repr(provider) == f"<{name} 3 of {provider.capacity} bytes>" and not provider.closed
    provider.close()
    assert (provider.closed, len(provider), provider.capacity, repr(provider)) == (True, 0, 0, f"<{name} closed>")
    with pytest.raises(StaleHandle, match=f"^{name}.stats: the provider is closed"):
        _ = provider.stats


def test_how_providers_compare() -> None:
    one, other = StdProvider(), CappedProvider(9)
    one.write_bytes(0, b"ab")
    other.write_bytes(0, b"ab")
    for data, results in (
        (b"ab", (0, 1, 0, 1, 1, 0)),
        (b"b", (1, 1, 0, 0, 0, 1)),
        (b"a", (0, 0, 1, 1, 0, 1)),
        (b"ax", (1, 1, 0, 0, 0, 1)),
    ):
        other.resize(0)
        other.write_bytes(0, data)
        if data == b"ax":
            one.resize(0)
            one.write_bytes(0, b"ab")
        operators = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
        assert [compare(one, other) for compare in operators] == [*map(bool, results)]
    assert one == one and not one != one
    assert (one == 3, one != 3) == (False, True)


def test_the_tiers() -> None:
    for env, config, kind in (
        ({}, None, StdProvider), ({"NATIVEMEM_LIMIT": "1 GiB"}, None, CappedProvider),
        ({"NATIVEMEM_LIMIT": "1 GiB", "NATIVEMEM_PROVIDER": "static"}, None, StaticProvider),
        ({"NATIVEMEM_PROVIDER": "static"}, "std", StdProvider),
    ):  # fmt: skip
        provider = default_provider(config, 100, env=env)
        assert type(provider) is kind or isinstance(provider, kind)
        assert provider.limit == (None if kind is StdProvider else 100)
    assert default_provider("static").capacity == 64 << 10 == StaticProvider().capacity
    for config in ("std", "alloc", "static"):
        assert default_provider(config, 1).tier == config
        for size in (0, -1, "x", None):
            with pytest.raises(InvalidLayout, match="^default_provider.size: "):
                default_provider(config, size)  # type: ignore[arg-type]
    for kind, label in ((CappedProvider, "CappedProvider.max_size"), (StaticProvider, "StaticProvider.capacity")):
        with pytest.raises(InvalidLayout, match=f"^{label}: "):
            kind(0)
        assert kind(1).limit == 1
    with pytest.raises(TypeError, match="^Provider is what the tiers have in common: make one of those$"):
        Provider()
    with pytest.raises(ConfigError, match="^StdProvider.upstream: takes an allocator or None, not 3"):
        StdProvider(upstream=3)  # type: ignore[arg-type]


def test_what_is_forgotten_of_a_window(make: Make) -> None:
    """One that was dropped is none, and is not kept."""
    provider = make()
    provider.resize(8)
    gone = weakref.ref(provider.acquire())
    gc.collect()
    assert gone() is None
    provider.resize(9)
    assert provider._windows == []
