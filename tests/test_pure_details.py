"""The pure backend where it has no counterpart to agree with: its lock, its storage, its own hazards."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nativemem._api import load
from nativemem._backend import Binding
from nativemem._pure import cores

SRC = str(Path(__file__).resolve().parent.parent / "src")


@pytest.fixture
def pure() -> Binding:
    return load("pure")


def run(script: str) -> str:
    """The output of a script in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_inside_a_call(pure: Binding, enabled: bool) -> None:
    """A finaliser run in there might wait for a thread that waits for the lock; after it all is as before."""
    system = pure.System()
    core, seen = system._core, []
    count_alloc = core._count_alloc
    core._count_alloc = lambda size: (seen.append(gc.isenabled()), count_alloc(size))
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        system.alloc(8).free()
        after = gc.isenabled()
    finally:
        (gc.enable if was else gc.disable)()
        del core._count_alloc
    assert seen == [False]
    assert after is enabled


@pytest.mark.parametrize(
    "call",
    [("charge", 1), ("release", 1), ("set_limit", 20), ("seal",), ("rebalance",), ("lend", 1)],
    ids=lambda call: call[0],
)
def test_budgets_change_under_the_lock(
    pure: Binding, call: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else threads would get past a limit together."""
    budget, other = pure.Budget(10), pure.Budget(10)
    budget._core.charge(5)
    name, *args = call
    if name == "lend":
        args.insert(0, other._core)
    taken, lock = [], cores.lock

    class Lock:
        def __enter__(self) -> None:
            taken.append(name)
            lock.__enter__()

        def __exit__(self, *error: Any) -> None:
            lock.__exit__(*error)

    monkeypatch.setattr(cores, "lock", Lock())
    getattr(budget._core, name)(*args)
    assert taken


def test_the_collector_is_back_after_a_refusal(pure: Binding) -> None:
    limited = pure.Limited(None, pure.Budget(1))
    with pytest.raises(MemoryError):
        limited.alloc(2)
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_fork_finds_the_lock_free() -> None:
    """Also where another thread was inside a call at the time, which the child does not have."""
    script = """
import os, signal, threading
from nativemem._api import load
system = load("pure").System()
stop = False
def work():
    while not stop:
        system.alloc(10)
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
failed = 0
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # ends a child that hangs
        system.alloc(10).free()
        os._exit(0 if system.stats.frees else 1)
    failed += os.waitpid(pid, 0)[1] != 0
stop = True
for t in threads: t.join()
print(failed)
"""
    assert run(script) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("align", [16, 64])
def test_a_child_of_fork_writes_to_its_own_copy(pure: Binding, align: int) -> None:
    block = pure.System().alloc(64, align)
    with memoryview(block) as view:
        view[0] = 1
        pid = os.fork()
        if pid == 0:
            view[0] = 2
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert view[0] == 1


@pytest.mark.parametrize("align", [16, 64])
def test_looking_for_exports_changes_nothing(pure: Binding, align: int) -> None:
    block = pure.System().alloc(64, align)
    address = block.address
    with memoryview(block) as view:
        view[:] = bytes(range(64))
        assert block._memory._exported()
    assert not block._memory._exported()
    with memoryview(block) as view:
        assert view.tobytes() == bytes(range(64))
    assert block.address == address


@pytest.mark.parametrize("align", [16, 64])
def test_a_view_taken_while_the_block_is_freed(pure: Binding, align: int) -> None:
    """As another thread may: the free passes, and the view keeps bytes that are nobody else's."""
    system = pure.System()
    block = system.alloc(64, align)
    core, views = system._core, []
    count_free = core._count_free
    core._count_free = lambda size: (views.append(memoryview(block)), count_free(size))
    try:
        block.free()
    finally:
        del core._count_free
    assert not block.alive
    assert system.stats.live == 0
    views[0][:] = bytes(range(64))
    assert views[0].tobytes() == bytes(range(64))


def test_a_budget_that_refused_goes_with_its_last_reference(pure: Binding) -> None:
    """Its memory of the denial is no cycle, so its charge comes back without a collection."""
    parent = pure.Budget(1000)
    child = pure.Budget(50, parent=parent)
    assert child.try_reserve(10)
    assert not child.try_reserve(50)
    gc.disable()
    try:
        del child
        assert parent.used == 0
    finally:
        gc.enable()


def test_releasing_twice_through_an_ancestor(pure: Binding) -> None:
    """What the ancestor released by itself cannot come back a second time."""
    parent = pure.Budget(1000)
    child = pure.Budget(500, parent=parent)
    assert child.try_reserve(100)
    parent.release(100)
    child.release(100)
    assert (parent.used, child.used) == (0, 0)


@pytest.mark.parametrize("align", [16, 64])
def test_the_storage_does_not_show(pure: Binding, align: int) -> None:
    """A block is no ``bytearray`` or ``mmap`` to look at: not its contents, not their methods."""
    block = pure.System().alloc(8, align)
    assert str(block) == f"{block}" == repr(block)
    assert dir(block) == dir(pure.Block)
    for name in ("append", "clear", "close", "resize", "hex", "__alloc__"):
        assert not hasattr(block, name)


def test_the_collector_is_back_after_a_profiler_came_in(pure: Binding) -> None:
    system = pure.System()
    blocks = []

    def profile(*event: object) -> None:
        if len(blocks) < 50:
            blocks.append(system.alloc(1))

    sys.setprofile(profile)
    try:
        system.alloc(10)
    finally:
        sys.setprofile(None)
    assert blocks
    assert gc.isenabled()
