"""VER: what each call of a provider and of a manager checks, counts, tells and says."""

from __future__ import annotations

import gc
import random
import re
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, CorruptionDetected, OperationRefused
from nativemem.levels import FUEL
from nativemem.manager import (
    CappedProvider,
    Level,
    MemoryManager,
    StaticProvider,
    StdProvider,
    Verification,
)
from nativemem.manager.checks import Checksum, Entry, Ghost, Nothing, backends_of, told
from nativemem.manager.verification import Event, VerificationStats

pytestmark = pytest.mark.usefixtures("old_objects_apart")  # they collect

TIERS = {"std": StdProvider, "alloc": lambda **rest: CappedProvider(4096, **rest), "static": StaticProvider}
CALLS = {
    "read": (lambda p: p.read_bytes(0, 4), 100, "read"),
    "write": (lambda p: p.write_bytes(0, b"abcd"), 150, "write"),
    "longer": (lambda p: p.write_bytes(2, b"abcdefgh"), 150, "write"),
    "resize": (lambda p: p.resize(4), 200, "grow"),
    "acquire": (lambda p: p.release(p.acquire(0, 1)), 150, "read"),
    "equal": (lambda p: p == StdProvider(), None, "copy"),
    "hash": (hash, 100, "copy"),
    "order": (lambda p: p < StdProvider(), 100, "copy"),
}


class Told(Nothing):
    """Keeps what it is told."""

    name = "told"

    def __init__(self, wrong: str | None = None) -> None:
        self.log: list[Any] = []
        self.wrong = wrong

    def opened(self, key: int, size: int, owner: str | None, site: str) -> None:
        self.log.append(("opened", size, owner))

    def closed(self, key: int) -> None:
        self.log.append(("closed",))

    def sealed(self, key: int, used: memoryview) -> None:
        self.log.append(("sealed", bytes(used)))

    def wrote(self, key: int, offset: int, old: bytes, new: memoryview) -> None:
        self.log.append(("wrote", offset, bytes(old), bytes(new)))

    def resized(self, key: int, length: int, tail: bytes) -> None:
        self.log.append(("resized", length, bytes(tail)))

    def compare(self, key: int, used: memoryview) -> str | None:
        self.log.append(("compare", bytes(used)))
        return self.wrong

    def taken(self) -> list[Any]:
        log, self.log = self.log, []
        return log


# --- when, and what for


@pytest.mark.parametrize("tier", TIERS)
def test_how_much_depends_on_a_call(tier: str, nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the level decides, and by sampling the dice."""
    asked: list[int] = []
    monkeypatch.setattr(Verification, "_is_compared", lambda self, importance: asked.append(importance))
    provider = TIERS[tier](upstream=nm.System(), verification=Verification("sampling", Told()))  # type: ignore[operator]
    assert asked == []
    provider.write_bytes(0, b"abcd")
    assert asked == [180], "nothing was used before"
    provider.write_bytes(0, b"abcdef")
    for name, (call, importance, _) in CALLS.items():
        asked.clear()
        call(provider)
        if name != "equal":
            assert asked == [importance]
        provider.resize(6)
    asked.clear()
    provider.verify()
    assert asked == [], "it compares whatever the level"
    provider.close()
    assert asked == [200]


@pytest.mark.parametrize("level", ["basic", "standard", "full", "redundant"])
def test_what_a_call_costs(nm: Binding, level: str) -> None:
    """Its own work, and that of each comparison."""
    parsed = Level.parse(level)
    compares = {"basic": 999, "standard": 150, "full": 100, "redundant": 100}[level]
    for name, (call, importance, work) in CALLS.items():
        if name == "equal":
            continue
        checks = Verification(level, "checksum")
        provider = StdProvider(upstream=nm.System(), verification=checks)
        provider.write_bytes(0, b"abcdef")
        before = checks.stats
        call(provider)
        after = checks.stats
        comparisons = int((importance or 0) >= compares)
        if level in ("full", "redundant") and work == "write":
            comparisons += 1  # after it, too
        sizes = int(level == "redundant" or importance == 200)
        works = [work, *(["write"] if name == "acquire" else [])]
        assert after.fuel - before.fuel == sum(map(parsed.cost, works)) + comparisons * parsed.cost("checksum")
        assert after.checks - before.checks == comparisons + sizes
        assert (after.level, after.failures, after.last_failure, after.refused) == (parsed, 0, None, 0)


def test_what_a_manager_costs(nm: Binding) -> None:
    for level in Level:
        checks = Verification(level)
        manager = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)
        block = manager.allocate("a", 10)
        assert checks.stats.fuel == (0 if level is Level.OFF else level.cost("alloc"))
        manager.deallocate(block)
        expected = 0 if level is Level.OFF else level.cost("alloc") + level.cost("free")
        assert checks.stats == VerificationStats(level, 0, 0, None, 0, expected)


@pytest.mark.parametrize("tier", TIERS)
def test_what_backends_are_told(tier: str, nm: Binding) -> None:
    """Each change once, with what there was; at FULL a comparison before each call and after each write."""
    backend = Told()
    provider = TIERS[tier](upstream=nm.System(), verification=Verification("full", backend))  # type: ignore[operator]
    assert backend.taken() == [("sealed", b"")]
    provider.write_bytes(2, b"ab")
    assert backend.taken() == [
        *(("compare", b""), ("resized", 4, b""), ("wrote", 2, b"\0\0", b"ab"), ("compare", b"\0\0ab")),
    ]
    provider.write_bytes(1, b"xyz")
    assert backend.taken() == [("compare", b"\0\0ab"), ("wrote", 1, b"\0ab", b"xyz"), ("compare", b"\0xyz")]
    provider.write_bytes(3, b"12")
    assert backend.taken() == [
        *(("compare", b"\0xyz"), ("resized", 5, b""), ("wrote", 3, b"z\0", b"12"), ("compare", b"\0xy12")),
    ]
    provider.write_bytes(5, b"")
    assert backend.taken() == [("compare", b"\0xy12"), ("wrote", 5, b"", b""), ("compare", b"\0xy12")]
    provider.resize(2)
    assert backend.taken() == [("compare", b"\0xy12"), ("resized", 2, b"y12")]
    provider.resize(4)
    assert backend.taken() == [("compare", b"\0x"), ("resized", 4, b"")]
    provider.read_bytes(0, 1)
    assert backend.taken() == [("compare", b"\0x\0\0")]
    window = provider.acquire(0, 2)
    assert backend.taken() == [("compare", b"\0x\0\0")]
    provider.read_bytes(0, 1)
    provider.write_bytes(3, b"!")
    assert backend.taken() == [], "what is written through a window is not known"
    window[0] = 65
    provider.release(window)
    assert backend.taken() == [("sealed", b"Ax\0!")]
    first, second = provider.acquire(0, 1), provider.acquire(1, 1)
    provider.release(first)
    assert backend.taken() == [("compare", b"Ax\0!")]
    second.release()
    provider.read_bytes(0, 1)
    assert backend.taken() == [("sealed", b"Ax\0!"), ("compare", b"Ax\0!")]
    provider.verify()
    assert backend.taken() == [("compare", b"Ax\0!")]
    provider.close()
    assert backend.taken() == [("compare", b"Ax\0!"), ("closed",)]
    provider.close()
    assert backend.taken() in ([], [("closed",)])


def test_at_standard_a_write_is_compared_before_it_alone(nm: Binding) -> None:
    backend = Told()
    provider = StdProvider(upstream=nm.System(), verification=Verification("standard", backend))
    provider.write_bytes(0, b"ab")
    backend.taken()
    provider.write_bytes(0, b"c")
    assert backend.taken() == [("compare", b"ab"), ("wrote", 0, b"a", b"c")]
    provider.read_bytes(0, 1)
    assert hash(provider) == hash(b"cb") and backend.taken() == []


def test_at_basic_no_contents_are_told_of(nm: Binding) -> None:
    backend = Told()
    provider = StdProvider(upstream=nm.System(), verification=Verification("basic", backend))
    for call in (
        lambda: provider.write_bytes(0, b"ab"),
        lambda: provider.resize(1),
        lambda: provider.release(provider.acquire()),
        lambda: provider.read_bytes(0, 1),
        provider.verify,
    ):
        call()
    assert backend.taken() == []
    provider.close()
    assert backend.taken() == [("closed",)]


def test_a_provider_that_is_dropped_is_told_of_later(nm: Binding) -> None:
    """With the next work of any."""
    backend = Told()
    checks = Verification("basic", backend)
    kept = StdProvider(upstream=nm.System(), verification=checks)
    StdProvider(upstream=nm.System(), verification=checks)
    gc.collect()
    assert backend.taken() == []
    kept.write_bytes(0, b"x")
    assert backend.taken() == [("closed",)]
    assert len(checks._gone) == 0


@pytest.mark.parametrize(("level", "importance"), [("standard", 200), ("full", 100), ("redundant", 100)])
def test_what_a_comparison_finds(nm: Binding, level: str, importance: int) -> None:
    """In the provider's words, with how much was used; counted once; a close gives the memory back all the same."""
    system = nm.System()
    backend = Told("not what it was")
    checks = Verification(level, ["none", backend])
    provider = StdProvider(upstream=system, verification=checks)
    with pytest.raises(CorruptionDetected):
        provider.write_bytes(0, b"abc")
    backend.wrong = None
    provider.resize(0)
    provider.write_bytes(0, b"abc")
    backend.wrong = "not what it was"
    before = checks.stats
    with pytest.raises(CorruptionDetected) as caught:
        _ = provider.close() if importance == 200 else provider.read_bytes(0, 1)
    assert str(caught.value) == "StdProvider: not what it was" and caught.value.state["used"] == 3
    assert str(caught.value.suggestion).startswith("look for code that writes by address or through a view")
    after = checks.stats
    assert (after.failures - before.failures, after.last_failure) == (1, "StdProvider: not what it was")
    sizes = int(level == "redundant" or importance == 200)
    assert after.checks - before.checks == sizes + 2, "of both backends"
    if importance == 200:
        assert provider.closed and system.stats.current == 0


def test_sizes_that_do_not_fit(nm: Binding) -> None:
    provider: Any = StdProvider(upstream=nm.System(), verification="basic")
    provider.write_bytes(0, b"abc")
    capacity = provider.capacity
    for used, fits in ((0, True), (capacity, True), (capacity + 1, False)):
        provider._used = used
        if fits:
            provider._compare_sizes()
            continue
        with pytest.raises(CorruptionDetected, match=f"^StdProvider: {used} of {capacity} bytes are used"):
            provider._compare_sizes()
    provider._used = 3
    twice: Any = StdProvider(upstream=nm.System(), verification="redundant")
    twice.write_bytes(0, b"abc")
    twice._used = 2
    with pytest.raises(CorruptionDetected) as caught:
        twice.read_bytes(0, 1)
    size = twice.capacity
    assert str(caught.value) == f"StdProvider: 2 of {size} bytes are used, by the second copy 3 of {size}"
    twice._used = 3
    for call in (
        lambda: twice.resize(2),
        lambda: twice.write_bytes(0, b"x" * 200),
        lambda: twice.resize(0),
        lambda: twice.resize(9),
    ):
        call()
        assert twice._copy == (len(twice), twice.capacity)
    fixed: Any = StaticProvider(16, verification="redundant")
    assert fixed._copy == (0, 16)
    fixed.verify()


def test_verify_looks_at_all(nm: Binding) -> None:
    """Sizes at any level, contents where a checksum is kept, and no view is out."""
    for level, checked in (("basic", 1), ("standard", 2), ("full", 2)):
        checks = Verification(level, "checksum")
        provider = StdProvider(upstream=nm.System(), verification=checks)
        provider.write_bytes(0, b"abc")
        before = checks.stats.checks
        provider.verify()
        assert checks.stats.checks - before == checked
        window = provider.acquire()
        before = checks.stats.checks
        provider.verify()
        assert checks.stats.checks - before == 1
        provider.release(window)


# --- backends


def test_the_sums_of_a_checksum() -> None:
    made = Checksum()
    made.wrote(1, 0, b"a", memoryview(b"b"))  # of what it was never told
    made.resized(1, 5, b"")
    made.closed(1)
    assert made.compare(1, memoryview(b"x")) is None and made._sums == {}
    made.sealed(1, memoryview(b"hello"))
    made.sealed(2, memoryview(b""))
    made.resized(1, 7, b"")
    assert made.compare(1, memoryview(b"hello\0\0")) is None and made._sums[1].value == zlib.adler32(b"hello\0\0")
    made.resized(1, 7, b"")
    made.resized(1, 3, b"lo\0\0")
    assert made._sums[1].value == zlib.adler32(b"hel") and made._sums[1].n == 3
    assert made.compare(1, memoryview(b"he")) == "2 bytes are used, 3 were written"
    found, written = zlib.adler32(b"hex"), zlib.adler32(b"hel")
    assert made.compare(1, memoryview(b"hex")) == (
        f"the checksum of 3 used bytes is {found:#010x}, of what was written {written:#010x}"
    )
    made.sealed(1, memoryview(b"anew"))
    assert made.compare(1, memoryview(b"anew")) is None
    made.closed(1)
    assert list(made._sums) == [2] and made.name == "checksum"


def test_the_sums_of_much() -> None:
    """Past the modulus, at the beginning, in the midst and at the end."""
    made, model = Checksum(), bytearray(b"\xff" * 200_000)
    made.sealed(1, memoryview(bytes(model)))
    for at, data in ((0, b"\0" * 70_000), (130_000, b"\x01" * 70_000), (65_000, b"\xfe" * 70_000), (199_999, b"z")):
        made.wrote(1, at, bytes(model[at : at + len(data)]), memoryview(data))
        model[at : at + len(data)] = data
        assert made._sums[1].value == zlib.adler32(model)
    made.resized(1, 100_000, bytes(model[100_000:]))
    assert made._sums[1].value == zlib.adler32(model[:100_000])
    made.resized(1, 300_000, b"")
    assert made._sums[1].value == zlib.adler32(bytes(model[:100_000]) + bytes(200_000))


def test_a_ghost() -> None:
    made = Ghost()
    made.opened(5, 100, "a", "x.py:1")
    made.opened(7, 50, "a", "x.py:2")
    made.opened(6, 1, None, "x.py:3")
    assert made.entries() == [
        Entry(5, 100, "a", "x.py:1"),
        Entry(7, 50, "a", "x.py:2"),
        Entry(6, 1, None, "x.py:3"),
    ]
    assert made.totals() == {"a": (2, 150), None: (1, 1)} and made.name == "ghost"
    made.closed(5)
    made.closed(5)
    assert made.totals() == {"a": (1, 50), None: (1, 1)}


def test_backends_by_their_names() -> None:
    own = Told()
    assert [type(each) for each in backends_of(["none", "checksum", "ghost"])] == [Nothing, Checksum, Ghost]
    assert backends_of(own) == [own] and backends_of((own, own)) == [own, own] and backends_of(()) == []
    assert type(backends_of("ghost")[0]) is Ghost
    for wrong in ("shadow", Told, 3, None, object(), ["ghost", "x"], SimpleNamespace(opened=len)):
        with pytest.raises(
            ConfigError, match="^verification.backend: takes none, checksum, ghost, or an object with"
        ):
            backends_of(wrong)
    duck = SimpleNamespace(**dict.fromkeys(("opened", "closed", "sealed", "wrote", "resized", "compare"), len))
    assert backends_of(duck) == [duck]
    assert {name: len(calls) for name, calls in told([own, Nothing(), Ghost()]).items()} == {
        "opened": 2, "closed": 2, "sealed": 1, "wrote": 1, "resized": 1, "compare": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        ("off", []),
        ("basic", [Ghost]),
        *((level, [Ghost, Checksum]) for level in ("sampling", "standard", "full", "redundant")),
    ],
)
def test_backends_of_a_level(level: str, kinds: list[type]) -> None:
    checks = Verification(level)
    assert [type(each) for each in checks._backends] == kinds and checks.level is Level.parse(level)
    if kinds:
        assert checks.ledger() == []
    else:
        with pytest.raises(ConfigError, match="^verification.backend: a ledger needs 'ghost'"):
            checks.ledger()
    for own in ("checksum", "none"):
        with pytest.raises(ConfigError, match="a ledger needs 'ghost'"):
            Verification(level, own).ledger()
    assert Verification(level, "ghost").ledger() == [] and Verification().level is Level.STANDARD


def test_the_dice_of_sampling() -> None:
    """A number of eight bits of the seed's, below the importance."""
    checks, dice = Verification("sampling", seed=3), random.Random(3)
    for importance in (1, 100, 128, 150, 180, 200, 255, 256) * 40:
        assert checks._is_compared(importance) is (dice.getrandbits(8) < importance)
    for level, least in (("standard", 150), ("full", 0), ("redundant", 0)):
        always = Verification(level)
        assert always._is_compared(least) and not always._is_compared(least - 1)


def test_what_it_is_made_of() -> None:
    checks = Verification("basic")
    assert Verification.of(checks) is checks and Verification.of("full").level is Level.FULL
    assert Verification("sampling", seed=0)._random.random() == Verification("sampling", seed=0)._random.random()
    assert Verification("sampling", seed=1)._random.random() != Verification("sampling", seed=2)._random.random()
    assert Verification("sampling")._random.random() != Verification("sampling")._random.random()
    for wrong, says in (
        ({"level": "deep"}, "verification.level: takes off"),
        ({"debug": 1}, "verification.debug: "),
        ({"seed": -1}, "verification.seed: "),
        ({"seed": "x"}, "verification.seed: "),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
            Verification(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^verification: takes off"):
        Verification.of(3)
    assert checks.stats == VerificationStats(Level.BASIC, 0, 0, None, 0, 0)
    assert checks._costs == {name: Level.BASIC.cost(name) for name in FUEL}


# --- hooks, invariants


def test_answers_of_hooks(nm: Binding) -> None:
    """Before, None and True are content, all else is a reason; after, whatever it is."""
    for answer, refuses in (
        (None, ""),
        (True, ""),
        (False, "X"),
        ("", "X"),
        ("why", "X: why"),
        (0, "X: 0"),
        (1, "X: 1"),
    ):
        checks = Verification("basic")
        manager = MemoryManager({"a": 1000}, upstream=nm.Heap(), verification=checks)

        class X:
            def __call__(self, event: Event, answer: Any = answer) -> Any:
                return answer

        for hook in ("post_allocate", "post_deallocate"):
            checks.on(hook)(X())
        block = manager.allocate("a", 10)
        manager.deallocate(block)
        hook = checks.on("pre_allocate")(X())
        assert isinstance(hook, X)
        if not refuses:
            manager.allocate("a", 10)
            assert checks.stats.refused == 0
            continue
        with pytest.raises(OperationRefused) as caught:
            manager.allocate("a", 10)
        assert str(caught.value) == f"manager.allocate: refused by {refuses}"
        assert caught.value.state["reason"] == refuses.partition(": ")[2]
        assert (caught.value.state["requested"], caught.value.state["owner"]) == (10, "a")
        assert checks.stats.refused == 1 and manager.total.used == 0 and checks.ledger() == []


def test_hooks_that_are_not_taken() -> None:
    checks = Verification("basic")
    with pytest.raises(ConfigError) as caught:
        checks.on("during")
    assert str(caught.value) == (
        "verification.on: takes pre_allocate, post_allocate, pre_deallocate, post_deallocate, not 'during'"
    )
    with pytest.raises(ConfigError, match="^verification.on: takes a callable, not 3"):
        checks.on("pre_allocate")(3)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="^verification.on: at OFF there are no hooks; take another level"):
        Verification("off").on("pre_allocate")
    assert not any(checks._hooks.values())


@pytest.mark.parametrize("hook", ["pre_allocate", "post_allocate", "pre_deallocate", "post_deallocate"])
def test_one_hook_alone(nm: Binding, hook: str) -> None:
    """It is called once for a call of its kind, with the provider that the size goes to."""
    checks = Verification("basic")
    manager = MemoryManager({"a": "4 MiB"}, upstream=nm.Heap(), verification=checks)
    seen: list[Event] = []
    assert checks.on(hook)(seen.append) is not None
    kinds = {10: "small", 10_000: "medium", 100_000: "large", 2_000_000: "heap"}
    for size, kind in kinds.items():
        block = manager.allocate("a", size)
        (entry,) = checks.ledger()
        manager.deallocate(block)
        number = 0 if hook == "pre_allocate" else entry.id
        assert seen == [Event(hook, number, "a", size, kind)]
        seen.clear()


def test_invariants_by_name() -> None:
    checks = Verification("basic")
    answers: list[Any] = [None]
    assert checks.invariant("x", lambda: answers[0]) is None

    @checks.invariant("y")
    def other() -> bool:
        return True

    assert other() is True and checks.check() == 2 and checks.stats.checks == 2
    checks.invariant("x", lambda: "no")
    with pytest.raises(CorruptionDetected) as caught:
        checks.check()
    assert str(caught.value) == "invariant 'x' does not hold: no" and checks.stats.checks == 3
    assert (checks.stats.failures, checks.stats.last_failure) == (1, str(caught.value))
    checks.invariant("x", lambda: answers[0])
    for answer, says in ((False, ""), ("", ""), (0, ": 0"), ([], ": []")):
        answers[0] = answer
        with pytest.raises(CorruptionDetected) as caught:
            checks.check()
        assert str(caught.value) == f"invariant 'x' does not hold{says}"
    for wrong, says in (
        (("", len), "takes a name, not ''"),
        ((3, len), "takes a name, not 3"),
        (("z", 3), "takes a callable, not 3"),
    ):
        with pytest.raises(ConfigError, match=f"^verification.invariant: {says}"):
            checks.invariant(*wrong)  # type: ignore[arg-type]
