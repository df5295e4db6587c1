"""FAIL-4: a block of the process itself is refused what it takes from the interpreter's domains."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import pytest

import nativemem
from nativemem import Failing
from nativemem.errors import ConfigError, NativeUnavailable

native = pytest.mark.skipif(nativemem.backend != "native", reason="the domains are refused by the core")


unit = b"ab"  # of which a multiple is one allocation of obj


def three() -> list[bytes]:
    return [bytes(1000), bytes(2000), bytes(3000)]


@native
def test_the_nth_allocation_of_a_block() -> None:
    """FAIL-4: counted, the same each time; the n-th fails; then nothing is left behind."""
    three()  # 3.10 keeps the frame of its first call
    counts = []
    for _ in range(3):
        with Failing.interpreter() as counted:
            kept = three()
        counts.append((counted.calls, counted.failed))
        del kept
    assert len(set(counts)) == 1 and counts[0][0] >= 4 and counts[0][1] == 0
    total = counts[0][0]
    for n in range(1, total + 1):
        failing = Failing.interpreter(n)
        with pytest.raises(MemoryError), failing:
            three()
        assert failing.failed == 1 and failing.calls >= n
        assert [len(data) for data in three()] == [1000, 2000, 3000]
    with Failing.interpreter(total + 1) as after:
        three()
    assert (after.calls, after.failed) == (total, 0)


@native
def test_once() -> None:
    seen: list[Any] = [0]
    failing = Failing.interpreter(1)
    with failing:
        try:
            unit * 5000
        except MemoryError:
            seen[0] = unit * 5000
    assert len(seen[0]) == 10_000 and failing.failed == 1


@native
def test_domains_are_told_apart() -> None:
    with Failing.interpreter(domains="obj") as objects:
        unit * 1000
    assert (objects.calls, objects.domains) == (1, ("obj",))
    with Failing.interpreter(domains=["mem", "raw"]) as others:
        unit * 1000
    assert (others.calls, others.domains) == (0, ("raw", "mem"))
    failing = Failing.interpreter(1, domains="mem")
    with pytest.raises(MemoryError), failing:
        kept = [None] * 1000
        assert kept
    assert (failing.failed, failing.n, repr(failing)) == (1, 1, "<Failing.interpreter n=1, of mem>")


@native
def test_other_threads_are_served() -> None:
    """FAIL-4: neither counted nor refused; and only the thread that entered may leave."""
    go, done = threading.Event(), threading.Event()
    made: list[Any] = []

    def work() -> None:
        go.wait()
        made.extend(three())
        try:
            failing.__exit__(None, None, None)
        except RuntimeError as error:
            made.append(str(error))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    failing = Failing.interpreter(1, domains="obj")
    go_set, wait = go.set, done.wait
    try:
        with Failing.interpreter():
            go_set()
            wait()
    finally:
        thread.join()
    assert [len(each) for each in made[:3]] == [1000, 2000, 3000]
    assert made[3] == "the thread that entered the block has to leave it"


@native
def test_one_block_at_a_time() -> None:
    outer, inner = Failing.interpreter(), Failing.interpreter(1)
    with outer:
        with pytest.raises(RuntimeError, match="one block at a time"), inner:
            pass
        kept = unit * 1000
    assert outer.calls > 1 and kept
    with outer:  # again, and counted anew
        kept = unit * 2000
    assert outer.calls == 1
    with pytest.raises(RuntimeError, match="no block was entered"):
        outer.__exit__(None, None, None)
    for each in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot copy or pickle"):
            each(outer)


@native
def test_the_collector_is_as_it_was() -> None:
    before = gc.isenabled()
    try:
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            with Failing.interpreter():
                inside = gc.isenabled()
            assert (inside, gc.isenabled()) == (False, enabled)
    finally:
        (gc.enable if before else gc.disable)()


@native
def test_hooks_of_others_may_come_and_go() -> None:
    """FAIL-4: what was put on top in the block stays, and goes on when the block is over."""
    failing = Failing.interpreter(domains="obj")
    with failing:
        tracemalloc.start()
    try:
        data = bytes(100_000)
        assert tracemalloc.get_traced_memory()[0] >= 100_000
        second = Failing.interpreter(1, domains="obj")
        with pytest.raises(MemoryError), second:
            unit * 1000
        assert second.failed == 1 and data
    finally:
        tracemalloc.stop()
    with failing:
        unit * 1000
    assert failing.calls == 1


PROGRAM = """
import os, nativemem
from nativemem.testing import sweep
nativemem.install()
budget = nativemem.Budget("64 MiB", "block")
failing = nativemem.Failing.interpreter(1, domains="obj")
with budget:
    try:
        with failing:
            bytes(100_000)
    except MemoryError:
        print("refused", failing.failed, budget.denied)
    kept = bytes(1 << 20)
print(budget.used > 1 << 20)
with nativemem.Failing.interpreter():
    child = os.fork()
    if child == 0:
        try:
            kept = bytes(1000)
        finally:
            pass
if child == 0:
    os._exit(len(kept) != 1000)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
def use(): return [bytes(1000 + i) for i in range(3)]
found = sweep(use, domains="obj")
print(len(found), found.attempts == found.allocations > 2, found.domains)
nativemem.uninstall()
"""


@native
def test_with_the_engine_forks_and_sweeps() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    said = "refused 1 0\nTrue\n0\n0 True ('obj',)\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": -1}, "failing.n: takes an integer from 0"),
        ({"n": "1"}, "failing.n: takes an integer from 0"),
        ({"domains": "memory"}, "failing.domains: takes raw, mem and obj, one or more, not 'memory'"),
        ({"domains": ()}, "failing.domains: takes raw, mem and obj"),
        ({"domains": 3}, "failing.domains: takes raw, mem and obj"),
        ({"domains": "allocators"}, "failing.domains: takes raw, mem and obj"),
    ],
)
def test_bad_arguments_of_a_block(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Failing.interpreter(**arguments)


def test_malloc_is_for_the_preloaded_library() -> None:
    """FAIL-4"""
    with pytest.raises(NativeUnavailable, match="preloaded library"):
        Failing.interpreter(1, domains="malloc")


def test_a_block_needs_the_core() -> None:
    env = {**os.environ, "NATIVEMEM_BACKEND": "pure", "NATIVEMEM_DISABLE": "1"}
    program = "import nativemem; nativemem.Failing.interpreter(1)"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "NativeUnavailable: Failing.interpreter" in done.stderr
