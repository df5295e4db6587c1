"""VER: levels, hooks, checksums, a second copy, the ledger, invariants, fuel."""

from __future__ import annotations

import dis
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, CorruptionDetected, OperationRefused
from nativemem.manager import CappedProvider, Level, MemoryManager, StaticProvider, StdProvider, Verification
from nativemem.manager.checks import Checksum, Entry, Ghost, Nothing

Make = Callable[..., Any]


def flip(provider: Any, at: int, bit: int = 0) -> None:
    """Changes a byte behind the provider's back, as a stray write does."""
    with memoryview(provider._block) as raw:
        raw[at] ^= 1 << bit


def test_levels_have_no_order() -> None:
    """VER-1"""
    assert [level.name for level in Level] == ["OFF", "BASIC", "SAMPLING", "STANDARD", "FULL", "REDUNDANT"]
    with pytest.raises(TypeError):
        assert Level.OFF < Level.FULL
    assert not isinstance(Level.FULL, int)
    assert [Level.parse(word) for word in ("off", "FULL", Level.BASIC)] == [Level.OFF, Level.FULL, Level.BASIC]
    for bad in ("deep", 3, None):
        with pytest.raises(ConfigError, match="takes off, basic, sampling, standard, full, redundant"):
            Level.parse(bad)


def test_what_is_compared_when() -> None:
    """VER-1 VER-4: by how much depends on an operation."""
    importances = (100, 150, 180, 200)
    compared = {level: [level.compares(n, 127) for n in importances] for level in Level}
    assert compared == {
        Level.OFF: [False] * 4,
        Level.BASIC: [False] * 4,
        Level.SAMPLING: [False, True, True, True],
        Level.STANDARD: [False, True, True, True],
        Level.FULL: [True] * 4,
        Level.REDUNDANT: [True] * 4,
    }
    for n in importances:  # exactly n of 256
        assert sum(Level.SAMPLING.compares(n, roll) for roll in range(256)) == n


def test_sampling_by_the_dice() -> None:
    """VER-4: a read is checked 100 of 256 times, a mutation 150, a first write 180, what matters 200."""

    class Counting(Nothing):
        compared = 0

        def compare(self, key: int, used: Any) -> None:
            self.compared += 1

    def share(act: Callable[[Any], Any], first: bytes = b"x" * 16) -> float:
        counting = Counting()
        provider = StdProvider(verification=Verification("sampling", counting, seed=1))
        if first:
            provider.write_bytes(0, first)
        counting.compared = 0
        for _ in range(4000):
            act(provider)
        return counting.compared / 4000

    assert share(lambda p: p.read_bytes(0, 4)) == pytest.approx(100 / 256, abs=0.03)
    assert share(lambda p: p.write_bytes(0, b"abcd")) == pytest.approx(150 / 256, abs=0.03)
    assert share(lambda p: p.write_bytes(0, b""), b"") == pytest.approx(180 / 256, abs=0.03)
    assert share(lambda p: p.resize(16)) == pytest.approx(200 / 256, abs=0.03)


def test_off_costs_nothing() -> None:
    """VER-3: at OFF the object is of the class itself, whose code has no call, name or branch for checks."""
    for off, basic in (
        (StdProvider(verification="off"), StdProvider(verification="basic")),
        (CappedProvider(8), CappedProvider(8, verification="full")),
        (StaticProvider(8, verification="off"), StaticProvider(8)),
        (MemoryManager(total=8), MemoryManager(total=8, verification="basic")),
    ):
        kind = type(off)
        assert kind is (type(basic).__mro__[2])
        assert isinstance(basic, kind)
        hot = ("allocate", "deallocate") if kind is MemoryManager else ("read_bytes", "write_bytes", "resize")
        for name in hot:
            method = getattr(off, name).__func__
            assert method is getattr(kind, name)
            assert getattr(basic, name).__func__ is not method
            words = {*method.__code__.co_names, *method.__code__.co_freevars}
            assert not words & {"level", "_level", "_verification", "lock", "_compare", "_spend", "_run", "_tell"}
            names = [str(each.argval) for each in dis.get_instructions(method) if each.opname != "LOAD_CONST"]
            assert not any("verif" in name for name in names)


def test_off_runs_no_line_of_the_checks(nm: Binding) -> None:
    """VER-3: measured: every Python function that a call enters is the provider's or the manager's own."""
    import sys

    provider = StdProvider(upstream=nm.System())
    m = MemoryManager({"a": 1000}, upstream=nm.Heap())
    provider.write_bytes(0, b"x" * 100)
    entered: set[str] = set()

    def trace(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2])

    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        provider.read_bytes(0, 10)
        provider.write_bytes(50, b"y" * 10)
        m.deallocate(m.allocate("a", 100))
    finally:
        sys.setprofile(before)
    assert entered & {"providers.py", "provider.py", "manager.py"}
    assert not entered & {"checked.py", "checks.py", "verification.py", "ledger.py", "levels.py"}


def test_every_flipped_byte_is_found(make: Make) -> None:
    """VER-5: at FULL on the next access, whichever byte and bit it is."""
    content = random.Random(5).randbytes(300)
    for at in range(300):
        for bit in range(8) if at % 50 == 0 else (at % 8,):
            provider = make(verification="full")
            provider.write_bytes(0, content)
            flip(provider, at, bit)
            with pytest.raises(CorruptionDetected, match="the checksum of 300 used bytes"):
                provider.read_bytes(299 - at, 1)
            flip(provider, at, bit)
            assert provider.read_bytes(0, 300) == content
    for access in (
        lambda p: p.write_bytes(0, b"x"),
        lambda p: p.resize(10),
        lambda p: p.acquire(),
        lambda p: p.verify(),
        lambda p: p < StdProvider(),
        hash,
        lambda p: p.close(),
    ):
        checks = Verification("full")
        provider = make(verification=checks)
        provider.write_bytes(0, content)
        flip(provider, 7)
        with pytest.raises(CorruptionDetected):
            access(provider)
        assert checks.stats.failures == 1
        assert "checksum" in checks.stats.last_failure


@pytest.mark.parametrize(("at", "length"), [(50, 10), (0, 200), (3, 1), (190, 30)])
def test_a_write_hides_nothing(make: Make, at: int, length: int) -> None:
    """VER-5: where a level does not look before each write, a byte that changed otherwise is still found after
    writes beside it and over it: the checksum follows the change alone."""

    class Blind(Checksum):
        def compare(self, key: int, used: memoryview) -> str | None:
            return super().compare(key, used) if looks else None

    looks = False
    provider = make(verification=Verification("standard", Blind()))
    provider.write_bytes(0, bytes(range(200)))
    flip(provider, 3)
    provider.write_bytes(at, b"z" * length)
    looks = True
    with pytest.raises(CorruptionDetected, match="checksum"):
        provider.verify()


def test_the_second_copy(make: Make) -> None:
    """VER-6: at REDUNDANT the sizes are kept twice; one that changed is found before it is used."""
    checks = Verification("redundant")
    provider = make(verification=checks)
    provider.write_bytes(0, b"x" * 100)
    provider._used = 90
    with pytest.raises(CorruptionDetected, match="90 of .* by the second copy 100"):
        provider.read_bytes(0, 1)
    provider._used = 100
    provider.verify()
    assert (checks.stats.failures, provider.read_bytes(0, 1)) == (1, b"x")
    basic = make(verification="basic")
    basic.write_bytes(0, b"x" * 10)
    basic._used = basic.capacity + 1
    with pytest.raises(CorruptionDetected):
        basic.resize(5)
    basic._used = 10


@settings(max_examples=200, deadline=None)
@given(
    start=st.binary(max_size=300),
    steps=st.lists(st.tuples(st.integers(0, 350), st.binary(max_size=80)), max_size=12),
)
def test_the_checksum_follows(start: bytes, steps: list[Any]) -> None:
    """VER-5: after any changes it is the Adler-32 of what there is, as zlib has it."""
    checksum, model = Checksum(), bytearray(start)
    checksum.sealed(1, memoryview(bytes(model)))
    for at, data in steps:
        if at > len(model):
            checksum.resized(1, at, b"")
            model.extend(bytes(at - len(model)))
        elif not data:
            checksum.resized(1, at, bytes(model[at:]))
            del model[at:]
        else:
            data = data[: len(model) - at]
            checksum.wrote(1, at, bytes(model[at : at + len(data)]), memoryview(data))
            model[at : at + len(data)] = data
        assert checksum._sums[1].value == zlib.adler32(model)
        assert checksum.compare(1, memoryview(bytes(model))) is None
    assert "bytes are used" in str(checksum.compare(1, memoryview(bytes(model) + b"x")))
    checksum.closed(1)
    assert checksum.compare(1, memoryview(b"x")) is None


def test_hooks(nm: Binding) -> None:
    """VER-2: four, in order; those before may refuse, and nothing has happened then."""
    checks = Verification("basic")
    m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)
    seen: list[Any] = []
    for hook in ("pre_allocate", "post_allocate", "pre_deallocate", "post_deallocate"):
        checks.on(hook)(lambda event: seen.append((*event, m.total.used)))
    block = m.allocate("a", 100)
    [entry] = checks.ledger()
    m.deallocate(block)
    number = entry.id
    assert seen == [
        ("pre_allocate", 0, "a", 100, "small", 0),
        ("post_allocate", number, "a", 100, "small", 100),
        ("pre_deallocate", number, "a", 100, "small", 100),
        ("post_deallocate", number, "a", 100, "small", 0),
    ]

    @checks.on("pre_allocate")
    def small(event: Any) -> Any:
        return event.size < 500

    @checks.on("pre_deallocate")
    def stays(event: Any) -> Any:
        return "it stays" if event.size == 50 else None

    with pytest.raises(OperationRefused, match="manager.allocate: refused by small") as caught:
        m.allocate("a", 500)
    assert caught.value.state == {"hook": "pre_allocate", "reason": "", "requested": 500, "owner": "a"}
    block = m.allocate("a", 50)
    with pytest.raises(OperationRefused, match="manager.deallocate: refused by stays: it stays"):
        m.deallocate(block)
    assert (block.alive, m.total.used, checks.stats.refused) == (True, 50, 2)
    checks.check()
    for hook in ("during", None):
        with pytest.raises(ConfigError, match="takes pre_allocate"):
            checks.on(hook)
    with pytest.raises(ConfigError, match="callable"):
        checks.on("pre_allocate")(3)
    with pytest.raises(ConfigError, match="OFF"):
        Verification("off").on("pre_allocate")


def test_a_hook_that_raises(nm: Binding) -> None:
    """VER-2: what it raises goes through; before, nothing has happened, after, the block is gone with the error."""
    checks = Verification("basic", debug=True)
    m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)

    @checks.on("pre_allocate")
    def before(event: Any) -> None:
        if event.size == 1:
            raise KeyError

    @checks.on("post_allocate")
    def after(event: Any) -> None:
        if event.size == 2:
            raise KeyError

    for size in (1, 2):
        with pytest.raises(KeyError):
            m.allocate("a", size)
    assert m.total.used == 0
    checks.check()


def test_the_ledger(nm: Binding) -> None:
    """VER-7: size, owner and site of each live block; held against the counters on demand."""
    checks = Verification("basic")
    m = MemoryManager({"a": 1000, "b": 1000}, upstream=nm.Heap(), verification=checks)
    blocks = [m.allocate("a", 100), m.allocate("b", 200), m.allocate("b", 0)]
    assert [(each.size, each.owner) for each in checks.ledger()] == [(100, "a"), (200, "b"), (0, "b")]
    assert all(each.site.startswith(f"{__file__}:") for each in checks.ledger())
    assert len({each.id for each in checks.ledger()}) == 3
    assert checks.check() == 1
    with nm.Limited(None, m.owner("a")).alloc(10):
        checks.check()  # a charge that the manager did not make is none of the ledger's
    ghost = checks._ghost
    entry = ghost._entries[checks.ledger()[0].id]
    ghost._entries[entry.id] = entry._replace(size=99)
    with pytest.raises(CorruptionDetected, match="'a' the ledger has 99 bytes in 1 blocks, the counters 100 in 1"):
        checks.check()
    del ghost._entries[entry.id]
    with pytest.raises(CorruptionDetected, match="is not in the ledger"):
        checks.check()
    ghost._entries[entry.id] = entry
    stray = blocks[0].allocator.alloc(7)
    with pytest.raises(CorruptionDetected, match="ledger of manager .*the counters 107 in 2"):
        checks.check()
    stray.free()
    checks.check()
    blocks[1].free()
    del blocks[2]
    assert [(each.size, each.owner) for each in checks.ledger()] == [(100, "a")]
    assert (checks.stats.failures, "counters 107" in checks.stats.last_failure) == (3, True)


def test_the_ledger_is_reconciled_by_itself(nm: Binding) -> None:
    """VER-7: every 100 operations, in debug."""
    for debug in (False, True):
        checks = Verification("basic", debug=debug)
        m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)
        block = m.allocate("a", 10)
        stray = block.allocator.alloc(7)
        found = 0
        for _ in range(100):
            try:
                m.deallocate(m.allocate("a", 10))
            except CorruptionDetected:
                found += 1
        assert found == (2 if debug else 0)
        del stray


def test_a_manager_that_is_gone_leaves_no_invariant() -> None:
    import gc

    checks = Verification("basic")
    m = MemoryManager(total=1000, verification=checks)
    assert checks.check() == 1
    del m
    gc.collect()
    assert checks.check() == 0


def test_invariants() -> None:
    """VER-8: callables that any code registers; what came of it is in the stats."""
    checks = Verification("basic")
    good = [True, None, "too many", False]
    checks.invariant("queue", lambda: good[0])

    @checks.invariant("other")
    def other() -> None:
        return None

    assert checks.check() == 2
    good[0] = None
    assert checks.check() == 2
    good[0] = "too many"
    with pytest.raises(CorruptionDetected, match="^invariant 'queue' does not hold: too many"):
        checks.check()
    good[0] = False
    with pytest.raises(CorruptionDetected, match="^invariant 'queue' does not hold(\n|$)"):
        checks.check()
    stats = checks.stats
    assert (stats.checks, stats.failures, stats.last_failure) == (6, 2, "invariant 'queue' does not hold")
    checks.invariant("queue", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checks.check()
    for bad in (("", lambda: None), (3, lambda: None), ("x", 3)):
        with pytest.raises(ConfigError):
            checks.invariant(*bad)


def test_a_backend_of_ones_own(make: Make) -> None:
    """VER-8"""

    class Shadow(Nothing):
        """Keeps a copy of everything."""

        name = "shadow"

        def __init__(self) -> None:
            self.copies: dict[int, bytes] = {}

        def sealed(self, key: int, used: memoryview) -> None:
            self.copies[key] = bytes(used)

        def closed(self, key: int) -> None:
            self.copies.pop(key, None)

        def wrote(self, key: int, offset: int, old: bytes, new: memoryview) -> None:
            copy = self.copies[key]
            assert copy[offset : offset + len(old)] == old
            self.copies[key] = copy[:offset] + bytes(new) + copy[offset + len(old) :]

        def resized(self, key: int, length: int, tail: bytes) -> None:
            self.copies[key] = self.copies[key][:length].ljust(length, b"\0")

        def compare(self, key: int, used: memoryview) -> str | None:
            return None if self.copies[key] == used else "another copy"

    shadow = Shadow()
    checks = Verification("full", [shadow, "checksum"])
    provider = make(verification=checks)
    provider.write_bytes(5, b"hello")
    provider.resize(7)
    window = provider.acquire(0, 2)
    window[:] = b"ab"
    provider.release(window)
    provider.write_bytes(6, b"xyz")
    assert [*shadow.copies.values()] == [b"ab\0\0\0hxyz"]
    flip(provider, 0)
    with pytest.raises(CorruptionDetected, match="another copy"):
        provider.read_bytes(0, 1)
    flip(provider, 0)
    provider.close()
    assert shadow.copies == {}
    for bad in ("deep", 3, object(), Shadow, ["none", 3]):
        with pytest.raises(ConfigError, match=r"verification.backend: takes none, checksum, ghost, or an object"):
            Verification("full", bad)
    with pytest.raises(ConfigError, match="needs 'ghost'"):
        checks.ledger()
    provider = make(verification=Verification("full", "none"))
    provider.write_bytes(0, b"x")
    flip(provider, 0)
    provider.verify()


def test_a_provider_that_was_dropped_is_forgotten(make: Make) -> None:
    import gc

    checks = Verification("full")
    [checksum] = [each for each in checks._backends if isinstance(each, Checksum)]
    make(verification=checks)
    gc.collect()
    make(verification=checks).read_bytes(0, 0)
    assert len(checksum._sums) <= 1


def test_fuel() -> None:
    """VER-9: (base · m · 100 + 50) // 100."""
    base = {"read": 1, "write": 2, "copy": 3, "alloc": 10, "free": 8, "grow": 50, "checksum": 20}
    hundredths = {"off": 100, "basic": 110, "sampling": 125, "standard": 150, "full": 200, "redundant": 250}
    for level in Level:
        for operation, units in base.items():
            assert level.cost(operation) == (units * hundredths[level.value] + 50) // 100
    for bad in ("fly", None, []):
        with pytest.raises(ConfigError, match="takes read, write"):
            Level.FULL.cost(bad)


def test_fuel_is_counted(nm: Binding, level: Level) -> None:
    """VER-9: at OFF nothing counts."""
    checks = Verification(level, "none")
    m = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)
    m.deallocate(m.allocate("a", 10))
    provider = StdProvider(verification=checks)
    provider.write_bytes(0, b"x")
    provider.read_bytes(0, 1)
    provider.resize(10)
    spent = sum(level.cost(each) for each in ("alloc", "free", "write", "read", "grow"))
    compared = (checks.stats.fuel - spent) / level.cost("checksum")
    if level is Level.OFF:
        assert checks.stats.fuel == 0
    elif level is not Level.SAMPLING:
        assert compared == {Level.BASIC: 0, Level.STANDARD: 2}.get(level, 4)


def test_the_ghost_by_itself() -> None:
    ghost = Ghost()
    ghost.opened(1, 10, "a", "x.py:1")
    ghost.opened(2, 20, "a", "x.py:2")
    assert (ghost.totals(), ghost.entries()[0]) == ({"a": (2, 30)}, Entry(1, 10, "a", "x.py:1"))
    ghost.closed(1)
    ghost.closed(1)
    assert ghost.totals() == {"a": (1, 20)}


def test_bad_values() -> None:
    for bad in ({"level": "deep"}, {"debug": 1}, {"seed": -1}, {"seed": "x"}):
        with pytest.raises(ConfigError, match="^verification"):
            Verification(**bad)
