"""PROV: one suite for three tiers on both backends, at every verification level."""

from __future__ import annotations

import array
import copy
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import (
    BudgetExceeded,
    CapacityExceeded,
    ConfigError,
    InvalidLayout,
    OutOfBounds,
    StaleHandle,
    UninitializedRead,
)
from nativemem.manager import (
    CappedProvider,
    Level,
    LinearMemory,
    MemoryManager,
    Provider,
    StaticProvider,
    StdProvider,
    default_provider,
)

from .conftest import MOST, TIERS

Make = Callable[..., Any]


def test_what_is_written_is_read(make: Make, level: Level) -> None:
    """PROV-6: len is what was used, wherever the writes were."""
    with make(verification=level) as provider:
        assert (len(provider), provider.level, provider.closed) == (0, level, False)
        provider.write_bytes(0, b"hello")
        provider.write_bytes(5, bytearray(b" world"))
        provider.write_bytes(4, memoryview(b"O"))
        assert (len(provider), provider.read_bytes(0, 11)) == (11, b"hellO world")
        assert provider.read_bytes(11, 0) == b""
        provider.write_bytes(11, array.array("H", [1, 2]))
        assert len(provider) == 15
        provider.verify()
    assert provider.closed


def test_a_gap_is_zero(make: Make, level: Level) -> None:
    provider = make(verification=level)
    provider.write_bytes(10, b"x")
    assert provider.read_bytes(0, 11) == bytes(10) + b"x"


def test_resize(make: Make, level: Level) -> None:
    """PROV-4: what comes back after a cut is zero, not what was there."""
    provider = make(verification=level)
    provider.write_bytes(0, b"abcdef" * 100)
    provider.resize(3)
    provider.resize("1 KiB")
    assert provider.read_bytes(0, 5) == b"abc\0\0"
    assert provider.read_bytes(0, 1024) == b"abc" + bytes(1021)
    provider.resize(0)
    assert (len(provider), provider == make()) == (0, True)
    provider.write_bytes(0, b"again")
    provider.verify()


OUTSIDE = ((-1, 1), (0, -1), (0, 6), (5, 1), (1 << 62, 1 << 62), (1 << 80, 1), (6, 0))


def test_reads_out_of_range(make: Make, tier: str, level: Level) -> None:
    """PROV-4 PROV-3: a static one tells what was not written apart, unless verification is off."""
    provider = make(verification=level)
    provider.write_bytes(0, b"hello")
    for offset, n in OUTSIDE:
        with pytest.raises(OutOfBounds):
            provider.acquire(offset, n)
        unwritten = tier == "static" and offset >= 0 and n >= 0 and offset + n <= MOST
        if unwritten and level is Level.OFF:
            assert provider.read_bytes(offset, n) == b"hello"[offset : offset + n].ljust(n, b"\0")
            continue
        with pytest.raises(UninitializedRead if unwritten else OutOfBounds) as caught:
            provider.read_bytes(offset, n)
        assert caught.value.state["used"] == 5


def test_writes_out_of_range(make: Make, level: Level) -> None:
    """PROV-4"""
    provider = make(verification=level)
    provider.write_bytes(0, b"hello")
    for offset in (-1, (1 << 63) - 1, 1 << 80):
        with pytest.raises(OutOfBounds):
            provider.write_bytes(offset, b"xy")
    with pytest.raises(OutOfBounds):
        provider.write_bytes(6, b"")
    provider.write_bytes(5, b"")
    assert provider.read_bytes(0, 5) == b"hello"
    provider.verify()


def test_a_refused_write_is_not_begun(make: Make, tier: str, level: Level) -> None:
    """PROV-2 PROV-3 PROV-4: partial writes never happen."""
    provider = make(verification=level)
    provider.write_bytes(0, b"a" * MOST)
    if tier == "std":
        assert provider.limit is None
        return
    for call in (
        lambda: provider.write_bytes(MOST - 1, b"xy"),
        lambda: provider.write_bytes(MOST, b"x"),
        lambda: provider.write_bytes(MOST + 10, b"x"),
        lambda: provider.resize(MOST + 1),
    ):
        with pytest.raises(CapacityExceeded) as caught:
            call()
        assert caught.value.state["capacity"] == provider.limit == MOST
    assert provider.read_bytes(0, MOST) == b"a" * MOST
    assert (len(provider), provider.capacity) == (MOST, MOST)
    provider.verify()


def test_what_is_no_buffer(make: Make, level: Level) -> None:
    provider = make(verification=level)
    for data in ("text", 3, None, [1]):
        with pytest.raises(TypeError, match="write_bytes: takes bytes or another buffer"):
            provider.write_bytes(0, data)
    for size in (-1, 1.5, "many", None):
        with pytest.raises(InvalidLayout):
            provider.resize(size)
    for offset in ("0", 0.5, None):
        with pytest.raises(TypeError):
            provider.read_bytes(offset, 1)
        with pytest.raises(TypeError):
            provider.write_bytes(offset, b"x")
    assert len(provider) == 0


def test_a_window_pins(make: Make, level: Level) -> None:
    """PROV-4: no view moves: what would change the used bytes raises."""
    provider = make(verification=level)
    provider.resize(100)
    window = provider.acquire(10, 5)
    window[:] = b"abcde"
    for call in (lambda: provider.resize(50), lambda: provider.write_bytes(99, b"xy"), provider.close):
        with pytest.raises(BufferError):
            call()
    provider.write_bytes(0, b"in place")
    assert provider.read_bytes(8, 8) == b"\0\0abcde\0"
    provider.release(window)
    with pytest.raises(ValueError, match="released"):
        window[0]
    for other in (window, memoryview(b"x"), None):
        with pytest.raises(ConfigError, match="release"):
            provider.release(other)
    provider.verify()
    provider.resize(200)
    assert provider.read_bytes(10, 5) == b"abcde"


def test_a_window_that_was_dropped_is_none(make: Make, level: Level) -> None:
    provider = make(verification=level)
    provider.resize(10)
    provider.acquire()[:] = b"x" * 10
    provider.resize(20)
    assert provider.read_bytes(0, 11) == b"x" * 10 + b"\0"
    provider.verify()


def test_a_slice_of_a_released_window_pins_the_block(make: Make, tier: str, level: Level) -> None:
    provider = make(verification=level)
    provider.write_bytes(0, b"abc")
    window = provider.acquire()
    part = window[1:]
    provider.release(window)
    with pytest.raises(BufferError):
        provider.close()
    if tier != "static":
        with pytest.raises(BufferError):
            provider.resize(MOST)
    assert bytes(part) == b"bc"
    other = make(verification=level)
    other.write_bytes(0, b"abc")
    window = other.acquire()
    rest = window[1:]
    other.release(window)
    if tier != "static":
        with pytest.raises(BufferError):
            other.resize(0)
        assert other.read_bytes(0, 3) == b"abc"
    rest.release()
    other.resize(0)
    assert len(other) == 0
    other.close()
    part.release()
    assert provider.read_bytes(0, 3) == b"abc"
    provider.resize(MOST)
    provider.close()


def test_equality_order_and_hash(make: Make) -> None:
    """PROV-6: over the used bytes, whatever the tier."""
    for other_tier in TIERS.values():
        one, other = make(), other_tier(verification="full")
        assert one == other
        one.write_bytes(0, b"abc")
        other.write_bytes(0, b"abd")
        assert one != other
        assert one < other
        assert one <= other
        assert other > one
        assert other >= one
        one.write_bytes(2, b"d")
        assert one == other
        assert hash(one) == hash(other)
        assert len({one, other}) == 1
        assert one <= other
    assert one != b"abd"
    with pytest.raises(TypeError):
        assert one < b"abd"


def test_after_close(make: Make, level: Level) -> None:
    provider = make(verification=level)
    provider.write_bytes(0, b"x")
    provider.close()
    provider.close()
    for call in (
        lambda: provider.read_bytes(0, 1),
        lambda: provider.read_bytes(0, 0),
        lambda: provider.write_bytes(0, b"x"),
        lambda: provider.resize(1),
        provider.acquire,
        provider.verify,
        lambda: provider.stats,
        provider.__enter__,
    ):
        with pytest.raises(StaleHandle):
            call()
    assert (len(provider), repr(provider)) == (0, f"<{type(provider).__name__} closed>")


def test_memory_comes_from_upstream_and_goes_back(nm: Binding, tier: str, level: Level) -> None:
    system = nm.System()
    with TIERS[tier](upstream=nm.Limited(system, nm.Budget(1 << 20)), verification=level) as provider:
        for at in range(0, 4000, 100):
            provider.write_bytes(at, b"x" * 100)
        assert system.stats.current == provider.capacity >= 4000
        provider.resize(0)
        assert system.stats.current == (MOST if tier == "static" else 0)
        provider.write_bytes(0, b"x")
    assert system.stats.current == 0


def test_a_budget_that_is_full(nm: Binding, level: Level) -> None:
    """PROV-4: grows where it is or moves; else nothing changed."""
    budget = nm.Budget(1000)
    for provider in (
        StdProvider(upstream=nm.Limited(None, budget), verification=level),
        CappedProvider(MOST, upstream=nm.Limited(None, budget), verification=level),
    ):
        provider.write_bytes(0, b"x" * 600)
        with pytest.raises(BudgetExceeded):
            provider.write_bytes(600, b"y" * 600)
        assert (len(provider), provider.read_bytes(0, 600)) == (600, b"x" * 600)
        provider.verify()
        provider.close()
        assert budget.used == 0


def test_every_allocation_that_fails(nm: Binding, tier: str, level: Level) -> None:
    """PROV-3 PROV-4: nothing leaks, nothing is half done."""

    def use(allocator: Any) -> None:
        provider = TIERS[tier](upstream=allocator, verification=level)
        for at, data in ((0, b"a" * 10), (10, b"b" * 1000), (1010, b"c" * 2000)):
            before = provider.read_bytes(0, len(provider))
            try:
                provider.write_bytes(at, data)
            except MemoryError:
                assert provider.read_bytes(0, len(provider)) == before
                provider.verify()
                raise
        provider.close()

    assert nm.Failing.sweep(use) == (1 if tier == "static" else nm.Failing.sweep(use))


def test_a_static_one_allocates_once(nm: Binding, level: Level) -> None:
    """PROV-3: every allocation after the first one would fail, and none is asked for."""
    failing = nm.Failing(nm.System(), 2, sticky=True)
    provider = StaticProvider(MOST, upstream=failing, verification=level)
    assert failing.calls == 1
    for at in range(0, MOST, 64):
        provider.write_bytes(at, bytes([at % 251]) * 64)
    for n in (0, MOST, 10, MOST - 1):
        provider.resize(n)
        provider.release(provider.acquire())
    provider.read_bytes(0, 100)
    with pytest.raises(CapacityExceeded):
        provider.resize(MOST + 1)
    provider.verify()
    assert (failing.calls, failing.failed, provider.capacity) == (1, 0, MOST)
    provider.close()
    assert failing.stats.live == 0


def test_a_static_one_has_64_kib() -> None:
    """PROV-3: and tells what was not written from what was unless it is told not to."""
    provider = StaticProvider()
    assert (provider.capacity, provider.limit, provider.level) == (65536, 65536, Level.BASIC)
    assert (StdProvider().level, CappedProvider(1).level) == (Level.OFF, Level.OFF)


def test_the_tracker() -> None:
    """PROV-1: count, distinct regions, largest."""
    provider = StdProvider()
    provider.write_bytes(0, b"x" * 100)
    for _ in range(3):
        provider.read_bytes(10, 20)
    stats = provider.stats
    assert (stats.accesses, stats.regions, stats.largest) == (4, 2, 100)
    for at in range(5000):
        provider.write_bytes(at, b"x")
    assert (provider.stats.accesses, provider.stats.regions) == (5004, 4096)
    stats = CappedProvider(10).stats
    assert (stats.accesses, stats.regions, stats.largest, stats.limit) == (None, None, None, 10)


def test_growth_is_amortised(nm: Binding) -> None:
    """PROV-1: by half as much again, so n bytes are copied a few times."""
    traced = nm.Traced(nm.System())
    provider = StdProvider(upstream=traced)
    for at in range(20_000):
        provider.write_bytes(at, b"x")
    assert traced.stats.count < 20
    assert provider.capacity < 30_000


def test_what_makes_one() -> None:
    for bad in (0, -1, 1.5, None, "x"):
        for kind in (CappedProvider, StaticProvider):
            with pytest.raises(InvalidLayout):
                kind(bad)
    closed = nativemem.Heap()
    closed.close()
    for kind in (StdProvider, StaticProvider):
        with pytest.raises(ConfigError, match="upstream"):
            kind(upstream=3)
        with pytest.raises(StaleHandle):
            kind(upstream=closed)
        with pytest.raises(ConfigError, match="verification: takes off, basic"):
            kind(verification="deep")
    with pytest.raises(TypeError, match="tiers"):
        Provider()


def test_the_default_is_by_the_environment() -> None:
    """PROV-5"""
    kinds = {"std": StdProvider, "alloc": CappedProvider, "static": StaticProvider}
    for name, kind in kinds.items():
        assert isinstance(default_provider(name), kind)
        assert isinstance(default_provider(env={"NATIVEMEM_PROVIDER": name}), kind)
        assert isinstance(default_provider(name, env={"NATIVEMEM_PROVIDER": "std"}), kind)
    assert isinstance(default_provider(env={}), StdProvider)
    assert default_provider(size="1 KiB", env={"NATIVEMEM_LIMIT": "1 GiB"}).limit == 1024
    for config, env, label in (
        ("heap", {}, "default_provider.config"),
        (None, {"NATIVEMEM_PROVIDER": "x"}, "NATIVEMEM_PROVIDER"),
    ):
        with pytest.raises(ConfigError, match=f"^{label}: takes std, alloc, static, not"):
            default_provider(config, env=env)
    with pytest.raises(ConfigError, match="env"):
        default_provider(env=3)


@pytest.mark.parametrize("name", ["std", "alloc", "static"])
def test_each_tier_is_forced_by_the_environment(name: str) -> None:
    """PROV-5: in a process that has nothing but the variable."""
    program = "from nativemem.manager import default_provider; print(default_provider().tier)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NATIVEMEM_PROVIDER": name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(-1, 300), st.binary(max_size=60)),
        st.tuples(st.just("read"), st.integers(-1, 300), st.integers(-1, 60)),
        st.tuples(st.just("resize"), st.integers(0, 320), st.none()),
        st.tuples(st.just("window"), st.integers(0, 300), st.binary(max_size=60)),
    ),
    max_size=30,
)


def perform(provider: Provider, what: str, at: int, arg: Any) -> Any:
    if what == "write":
        return provider.write_bytes(at, arg)
    if what == "read":
        return provider.read_bytes(at, arg)
    if what == "resize":
        return provider.resize(at)
    return provider.acquire(at, len(arg))


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, level=st.sampled_from(Level))
def test_programs_against_a_bytearray(steps: list[Any], level: Level) -> None:
    """PROV-4: each tier does what a bytearray would, or raises and changes nothing; no false alarm."""
    model = bytearray()
    providers = [
        StdProvider(verification=level),
        CappedProvider(256, verification=level),
        StaticProvider(256, verification=level),
    ]
    for what, at, arg in steps:
        end = at + (len(arg) if isinstance(arg, bytes) else arg or 0)
        for provider in providers[1:] if end > 256 else ():
            before = provider.read_bytes(0, len(provider))
            with pytest.raises((CapacityExceeded, ValueError)):
                perform(provider, what, at, arg)
            assert provider.read_bytes(0, len(provider)) == before
        if end > 256:
            continue
        for provider in providers:
            if what == "write" and at >= 0 and (arg or at <= len(model)):
                provider.write_bytes(at, arg)
            elif what == "resize":
                provider.resize(at)
            elif what == "window" and end <= len(model):
                window = provider.acquire(at, len(arg))
                window[:] = arg
                provider.release(window)
            elif what == "read" and at >= 0 and arg >= 0 and end <= len(model):
                assert provider.read_bytes(at, arg) == model[at:end]
            else:
                what = "nothing"
        if what == "write":
            model.extend(bytes(max(end - len(model), 0)))
            model[at:end] = arg
        elif what == "resize":
            model[:] = model[:at].ljust(at, b"\0")
        elif what == "window":
            model[at:end] = arg
        for provider in providers:
            assert provider.read_bytes(0, len(provider)) == model
            provider.verify()


def test_what_is_not_copied(make: Make) -> None:
    provider = make()
    provider.write_bytes(0, b"abc")
    for thing in (provider, LinearMemory(1), MemoryManager(total=10)):
        with pytest.raises(TypeError, match="cannot copy or pickle"):
            copy.copy(thing)
    assert repr(provider) == f"<{type(provider).__name__} 3 of {provider.capacity} bytes>"
    assert repr(LinearMemory(1, 2)) == "<LinearMemory 1 of 2 pages>"
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError, match="not supported"):
            compare(provider, b"abc")
