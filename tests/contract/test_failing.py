"""FAIL: allocations that fail when they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, CorruptionDetected, LeakError, OutOfMemory
from nativemem.sizes import SIZE_MAX

from .helpers import unchanged


def outcomes(failing: Any, n: int) -> list[bool]:
    """Of so many allocations, which succeed."""
    result = []
    for _ in range(n):
        try:
            failing.alloc(10)
        except OutOfMemory as error:
            assert error.state["requested"] == 10
            result.append(False)
        else:
            result.append(True)
    return result


@pytest.mark.unplanted("counts failures")
def test_never(nm: Binding) -> None:
    """FAIL-1"""
    failing = nm.Failing()
    assert (failing.n, failing.sticky) == (0, False)
    assert outcomes(failing, 50) == [True] * 50
    assert (failing.calls, failing.failed, failing.stats.failures) == (50, 0, 0)


@pytest.mark.unplanted("counts failures")
@pytest.mark.parametrize("n", [1, 3, 7, 37])
@pytest.mark.parametrize("sticky", [False, True])
def test_the_nth(nm: Binding, n: int, sticky: bool) -> None:
    """FAIL-1"""
    failing = nm.Failing(None, n, sticky)
    expected = [i < n or (i > n and not sticky) for i in range(1, 51)]
    assert outcomes(failing, 50) == expected
    assert (failing.calls, failing.failed) == (50, expected.count(False))
    assert failing.stats.failures == expected.count(False)
    failing.reset()
    assert (failing.calls, failing.failed) == (0, 0)
    assert outcomes(failing, 50) == expected  # the same again
    failing.reset(2, not sticky)
    assert (failing.n, failing.sticky) == (2, not sticky)
    assert outcomes(failing, 3) == [True, False, sticky]


def test_a_refusal_changes_nothing(nm: Binding) -> None:
    """FAIL-1: upstream is not asked."""
    below = nm.Traced(nm.Heap())
    failing = nm.Failing(below, 2)
    kept = failing.alloc(100)
    with unchanged(below), pytest.raises(OutOfMemory, match=r"^Failing: "):
        failing.alloc(100)
    assert failing.resize(kept, 105) and failing.calls == 2  # takes no memory
    assert below.stats.failures == 0


def test_whatever_stands_on_it(nm: Binding) -> None:
    """FAIL-1: a chunk is an allocation, its blocks are not."""
    failing = nm.Failing(nm.System(), 2)
    arena = nm.Arena(1024, upstream=failing)
    while arena.stats.reserved == arena.stats.current or failing.calls < 2:
        try:
            arena.alloc(100)
        except OutOfMemory:
            break
    assert (failing.calls, failing.failed) == (2, 1)
    assert arena.alloc(600).size == 600 and failing.calls == 3


@pytest.mark.parametrize(
    "arguments",
    [*({"n": v} for v in (-1, 1.5, "x", None, True, SIZE_MAX + 1)), *({"sticky": v} for v in (1, None))],
    ids=repr,
)
def test_bad_configuration(nm: Binding, arguments: dict[str, Any]) -> None:
    """CFG-1"""
    with pytest.raises(ConfigError, match=r"^failing\."):
        nm.Failing(None, **arguments)
    failing = nm.Failing(None, 3)
    if arguments not in ({"n": None}, {"sticky": None}):
        with pytest.raises(ConfigError, match=r"^failing\."):
            failing.reset(**arguments)
    assert (failing.n, failing.sticky) == (3, False)


def test_sweep(nm: Binding) -> None:
    """FAIL-3"""
    seen = []

    def build(allocator: Any) -> None:
        seen.append(allocator.n)
        blocks = [allocator.alloc(n) for n in (10, 20, 30)]
        del blocks

    assert nm.Failing.sweep(build) == 3
    assert seen == [1, 2, 3, 4]


def test_a_run_may_deal_with_the_failure(nm: Binding) -> None:
    """FAIL-3"""

    def build(allocator: Any) -> None:
        for n in (10, 20):
            try:
                allocator.alloc(n)
            except MemoryError:
                allocator.alloc(n)

    assert nm.Failing.sweep(build) == 2


def test_sweep_finds_a_leak(nm: Binding) -> None:
    """FAIL-3"""
    kept: list[Any] = []

    def leaks(allocator: Any) -> None:
        kept.append(allocator.alloc(100))
        allocator.alloc(200)
        kept.pop()

    with pytest.raises(LeakError, match=r"^Failing: 1 live blocks of 100 B with allocation 2 failing") as caught:
        nm.Failing.sweep(leaks)
    assert caught.value.state == {"blocks": 1, "used": 100}


def test_what_an_error_keeps_alive_is_no_leak(nm: Binding) -> None:
    """FAIL-3: a program may write its errors down; the blocks of their frames are not its fault."""
    written: list[BaseException] = []

    def build(allocator: Any) -> None:
        block = allocator.alloc(10)
        try:
            allocator.alloc(20)
        except MemoryError as error:
            written.append(error)
            raise
        del block

    assert nm.Failing.sweep(build) == 2
    assert [type(error) for error in written] == [OutOfMemory] and written[0].__traceback__ is not None


def test_sweep_finds_a_leak_without_a_failure(nm: Binding) -> None:
    """FAIL-3: and does not speak of an allocation that there is not."""
    kept: list[Any] = []

    def keeps(allocator: Any) -> None:
        kept.append(allocator.alloc(100))

    with pytest.raises(LeakError, match=r"^Failing: 1 live blocks of 100 B with no allocation failing") as caught:
        nm.Failing.sweep(keeps)
    assert caught.value.suggestion == "give back, or drop, what was taken before fn returns"
    kept.clear()

    def fails_at_last(allocator: Any) -> None:
        allocator.alloc(100)
        raise LookupError

    with pytest.raises(LookupError) as other:
        nm.Failing.sweep(fails_at_last)
    if hasattr(other.value, "add_note"):
        assert other.value.__notes__ == ["with no allocation failing"]


@pytest.mark.parametrize("sticky", [False, True])
def test_a_sweep_of_nothing(nm: Binding, sticky: bool) -> None:
    """FAIL-3: says that nothing was tried."""
    nothing = (lambda allocator: None, lambda allocator: allocator.alloc(0), lambda allocator: nm.Heap().alloc(10))
    for fn in nothing:
        with pytest.raises(ConfigError, match=r"^failing\.sweep: fn allocated nothing"):
            nm.Failing.sweep(fn, sticky=sticky)

    def swallows(allocator: Any) -> None:
        try:
            allocator.alloc(10)
        except MemoryError:
            pass

    assert nm.Failing.sweep(swallows, sticky=sticky) == 1


def test_sweep_finds_another_error(nm: Binding) -> None:
    """FAIL-3"""

    def stumbles(allocator: Any) -> None:
        block = None
        try:
            block = allocator.alloc(100)
        finally:
            block.free()

    with pytest.raises(AttributeError) as caught:
        nm.Failing.sweep(stumbles)
    if hasattr(caught.value, "add_note"):
        assert caught.value.__notes__ == ["with allocation 1 failing"]


def test_sweep_passes_on_an_error_of_its_own(nm: Binding) -> None:
    """FAIL-3"""

    def too_large(allocator: Any) -> None:
        allocator.alloc(10)
        raise MemoryError("for another reason")

    with pytest.raises(MemoryError, match="for another reason"):
        nm.Failing.sweep(too_large)
    with pytest.raises(ConfigError):
        nm.Failing.sweep(3)
    with pytest.raises(ConfigError, match="still not done after 5"):
        nm.Failing.sweep(lambda allocator: [allocator.alloc(1) for _ in range(10)], most=5)


def test_sweep_looks_at_budgets(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAIL-3"""
    budget = nm.Budget(1000)
    limited = nm.Limited(None, budget)
    assert nm.Failing.sweep(lambda allocator: allocator.alloc(10), limited) == 1
    assert budget.used == 0
    monkeypatch.setattr(type(budget._core), "check", lambda self: "used is above peak")
    with pytest.raises(CorruptionDetected, match="used is above peak"):
        nm.Failing.sweep(lambda allocator: allocator.alloc(10), limited)


@pytest.mark.parametrize("n", ["0", "3"])
def test_the_default_allocator_fails(nm: Binding, n: str) -> None:
    """FAIL-2"""
    program = """
import nativemem
outcome = []
for _ in range(5):
    try:
        outcome.append(nativemem.Traced().alloc(10).size)
    except MemoryError:
        outcome.append("failed")
print(outcome, nativemem.Traced().describe())
"""
    env = os.environ | {"NATIVEMEM_TEST_OOM_N": n, "NATIVEMEM_BACKEND": nm.name}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    if n == "0":
        assert done.stdout == "[10, 10, 10, 10, 10] Traced > System\n"
    else:
        assert done.stdout == "[10, 10, 'failed', 10, 10] Traced > Failing > System\n"
