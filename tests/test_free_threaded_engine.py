"""PYV-2: the engine and scopes where many threads run at once. Each program is a process of its own.

Without the lock the threads run at the same time; with it they take turns as often as they can. Objects
are left out, as they are on the first: what is served is arrays and the raw domain."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

import nativemem
from nativemem.backends.machine import is_free_threaded

FREE_THREADED = is_free_threaded()

pytestmark = [
    pytest.mark.skipif(nativemem.backend != "native", reason="the engine needs the C core"),
    pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="NumPy is not installed"),
]
without_lock = pytest.mark.skipif(not FREE_THREADED, reason="what a free-threaded interpreter declines")

HEAD = """
import contextvars, gc, sys, threading, warnings
import numpy
import nativemem
from nativemem import Budget
warnings.simplefilter("ignore", nativemem.MemoryPressure)
sys.setswitchinterval(1e-5)
THREADS, ROUNDS = 6, 150

def at_once(work, threads=THREADS):
    start, failures = threading.Barrier(threads), []
    def body(i):
        try:
            start.wait()
            work(i)
        except BaseException as error:
            failures.append(error)
    started = [threading.Thread(target=body, args=(i,)) for i in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]

def rounded(array):
    return (array.nbytes + 63) // 64 * 64

def is_locked():
    return getattr(sys, "_is_gil_enabled", lambda: True)()
"""


INSTALL = 'nativemem.install(objects=False, raw=not hasattr(sys, "gettotalrefcount"))'


def output(code: str, *, installed: bool = True) -> list[str]:
    """The lines that a program prints; it must succeed and say nothing else."""
    program = "\n".join([textwrap.dedent(HEAD), INSTALL * installed, textwrap.dedent(code)])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


class TestArrays:
    def test_arrays_of_many_threads_within_a_limit(self) -> None:
        """What is refused is what did not fit; no array shares a byte with another, and all come back."""
        assert output(
            """
            nativemem.uninstall()  # of the raw domain, whose blocks would be refused, too
            nativemem.install(objects=False, limit="8 MiB")
            shared, lock, refused = [], threading.Lock(), []
            def work(i):
                for n in range(ROUNDS):
                    try:
                        array = numpy.empty(1 + (i * 37 + n * 4001) % 90_000, numpy.uint8)
                    except MemoryError:
                        with lock:
                            refused.append(1)
                            shared.clear()
                        continue
                    memoryview(array)[:] = bytes([i]) * len(array)
                    with lock:
                        shared.append((array, i))
                        other, owner = shared[(i * 7 + n) % len(shared)]
                        if n % 3 == 0:
                            shared.pop(0)
                    assert other.tobytes() == bytes([owner]) * len(other)
            at_once(work)
            shared.clear()
            gc.collect()
            try:
                numpy.empty(9 << 20, numpy.uint8)
            except MemoryError:
                refused.append(1)
            usage = nativemem.process.usage()
            print(usage.peak <= usage.limit, usage.denials == len(refused), is_locked())
            """
        ) == [f"True True {not FREE_THREADED}"]

    def test_the_engine_is_switched_while_threads_allocate(self) -> None:
        """What one of both gave is given back to it, and keeps what is in it when it grows."""
        assert output(
            """
            done = threading.Event()
            def work(i):
                if i == 0:
                    for n in range(ROUNDS):
                        nativemem.uninstall()
                        nativemem.install(objects=False)
                    done.set()
                kept = []
                while not done.is_set() or len(kept) < 20:
                    array = numpy.full(100, i)
                    array.resize(5_000, refcheck=False)
                    kept = [*kept[-19:], array]
                    assert all(each[:100].tolist() == [i] * 100 for each in kept)
            at_once(work)
            print(nativemem.installed().arrays)
            """
        ) == ["True"]

    def test_it_is_installed_in_another_thread(self) -> None:
        """Each thread runs a copy of the code: what runs, and where, is found in the right one."""
        assert output(
            """
            from nativemem.backends.native.loader import dataplane
            def work(i):
                kept.append(dataplane.insides_check())
                nativemem.install(objects=False)
                with Budget("1 MiB") as budget:
                    try:
                        numpy.ones(1 << 20)
                    except MemoryError:
                        kept.append(budget.denied)
            kept = []
            at_once(work, 1)
            print(kept)
            """,
            installed=False,
        ) == ["[None, 1]"]

    def test_a_thread_ends_with_its_arrays_in_use(self) -> None:
        assert output(
            """
            kept = []
            def work(i):
                with Budget("1 MiB", f"of thread {i}") as budget:
                    kept.append((budget, [numpy.full(n, i) for n in range(1, 60)]))
            for _ in range(5):
                at_once(work)
            print(all(budget.used == sum(map(rounded, arrays)) for budget, arrays in kept))
            budgets = [budget for budget, _ in kept]
            kept.clear()
            gc.collect()
            print(any(budget.used for budget in budgets))
            """
        ) == ["True", "False"]


class TestScopes:
    def test_scopes_of_many_threads_are_exact(self) -> None:
        """Each thread's own budget and one that all of them fill; arrays that other threads drop."""
        assert output(
            """
            from nativemem.hooks.numpy import owner_of
            shared, passed = Budget("1 MiB", "shared"), []
            def work(i):
                own, kept = Budget("8 MiB", f"own {i}"), []
                for n in range(ROUNDS):
                    with own:
                        kept.append(numpy.ones(n + 1))
                        with shared:
                            try:
                                passed.append(numpy.ones(1 + (n * 397 + i) % 9_000))
                            except MemoryError:
                                passed.clear()
                        kept.append(numpy.ones(i + 1))
                    if n % 10 == 0:
                        kept[-1].resize(n + 3, refcheck=False)
                    if n % 7 == 0:
                        with own:
                            kept[-2].resize(2 * n + 50, refcheck=False)
                    if n % 10 == 9:
                        charged = [array for array in kept if owner_of(array) is own]
                        assert own.used == sum(map(rounded, charged)), (own.used, n)
                kept.clear()
                assert len(charged) >= ROUNDS
                charged.clear()
                assert own.used == 0
            at_once(work)
            passed.clear()
            gc.collect()
            print(shared.used, shared.peak <= shared.limit)
            """
        ) == ["0 True"]

    def test_the_first_entries_of_a_budget_are_of_one_owner(self) -> None:
        """Threads that enter it first at the same time leave what they entered."""
        assert output(
            """
            budgets = [Budget("1 MiB", f"{n}") for n in range(ROUNDS)]
            def work(i):
                for budget in budgets:
                    with budget:
                        array = numpy.ones(9)
                    del array
            at_once(work)
            print({budget.used for budget in budgets})
            """
        ) == ["{0}"]

    def test_an_inherited_scope_that_ends_elsewhere(self) -> None:
        """Threads enter copies of a context while that leaves its scopes, in any order."""
        assert output(
            """
            outer, inner = Budget("64 MiB", "outer"), Budget("64 MiB", "inner")
            copies, done = [], threading.Event()
            def allocate():
                return numpy.ones(9)
            def work(i):
                if i == 0:
                    for n in range(ROUNDS):
                        outer.__enter__()
                        inner.__enter__()
                        copies.append(contextvars.copy_context())
                        del copies[:-20]
                        for budget in (outer, inner) if n % 2 else (inner, outer):
                            try:
                                budget.__exit__(None, None, None)
                            except nativemem.errors.ScopeError:
                                pass
                    done.set()
                while not done.is_set():
                    for copy in copies[-3:]:
                        copy.copy().run(allocate)
            at_once(work)
            copies.clear()
            gc.collect()
            print(outer.used, inner.used, nativemem.Budget("1 MiB", "x").used)
            """
        ) == ["0 0 0"]

    def test_tasks_of_an_event_loop_in_each_thread(self) -> None:
        assert output(
            """
            import asyncio
            async def task(budget, n):
                with budget:
                    first = numpy.ones(n)
                    await asyncio.sleep(0)
                    second = numpy.ones(2 * n)
                    await asyncio.to_thread(lambda: numpy.ones(9).size)
                    assert budget.used == rounded(first) + rounded(second), budget.used
            def work(i):
                async def main():
                    for n in range(1, 8):
                        await asyncio.gather(*(task(Budget("1 MiB", f"{i} {k}"), n * 10 + k) for k in range(4)))
                asyncio.run(main())
            at_once(work, 3)
            print("done")
            """
        ) == ["done"]

    def test_budgets_come_and_go(self) -> None:
        """An owner lasts until nothing that it was charged for is in use, whichever thread is the last."""
        assert output(
            """
            passed = []
            def work(i):
                for n in range(ROUNDS):
                    with Budget("1 MiB", "short") as budget:
                        passed.append(numpy.ones(n + 1))
                    del budget
                    try:
                        del passed[n % len(passed)]
                    except (IndexError, ZeroDivisionError):
                        pass
            at_once(work)
            passed.clear()
            with Budget("1 MiB", "last") as budget:
                array = numpy.ones(8)
            print(budget.used)
            """
        ) == ["64"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_fork_among_threads_in_scopes(self) -> None:
        assert output(
            """
            import os
            warnings.simplefilter("ignore", DeprecationWarning)
            shared, done = Budget("64 MiB", "shared"), threading.Event()
            def work(i):
                if i == 0:
                    try:
                        for _ in range(8):
                            child = os.fork()
                            if child == 0:
                                with shared:
                                    array = numpy.ones(100)
                                os._exit(array[99] != 1)
                            assert os.waitpid(child, 0)[1] == 0
                    finally:
                        done.set()
                while not done.is_set():
                    with shared:
                        array = numpy.ones(100)
                        array.resize(300, refcheck=False)
            at_once(work, 3)
            gc.collect()
            print(shared.used)
            """
        ) == ["0"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_program_started_while_threads_read_the_figures(self) -> None:
        """By a plain fork, which stops no thread first: with another user `subprocess` makes one."""
        assert output(
            """
            import os, subprocess
            budgets = [Budget("1 MiB", str(n)) for n in range(200)]
            arrays, done = [], threading.Event()
            for budget in budgets:
                with budget:
                    arrays.append(numpy.ones(9))
            def work(i):
                if i == 0:
                    try:
                        for _ in range(40):
                            subprocess.run(["true"], user=os.getuid(), check=True)
                    finally:
                        done.set()
                while not done.is_set():
                    nativemem.process.stats()
            at_once(work, 3)
            print("done")
            """
        ) == ["done"]


@without_lock
class TestWhatIsDeclined:
    def test_objects(self) -> None:
        assert output(
            """
            try:
                nativemem.install()
            except nativemem.NativeUnavailable as error:
                print(error)
                print(error.suggestion)
            print(nativemem.installed().objects, nativemem.installed().arrays)
            """
        ) == [
            "objects: the collector of a free-threaded interpreter requires the interpreter's own heap",
            "install(objects=False) puts the heap under arrays, with raw=True under the raw domain",
            "False True",
        ]

    def test_a_scope_in_a_generator(self) -> None:
        """A coroutine's is its task's; what a generator calls is its context's."""
        assert output(
            """
            import asyncio, contextlib
            budget = Budget("1 MiB", "b")
            def generator():
                with budget:
                    yield
            async def asynchronous():
                with budget:
                    yield
            async def coroutine():
                with budget:
                    return numpy.ones(8)
            async def steps():
                async for _ in asynchronous():
                    pass
            manager = contextlib.contextmanager(generator)
            for run in (lambda: next(generator()), lambda: asyncio.run(steps()), lambda: manager().__enter__()):
                try:
                    run()
                except nativemem.NativeUnavailable as error:
                    print(error)
            array = asyncio.run(coroutine())
            def holder():
                with contextlib.ExitStack() as stack:
                    stack.enter_context(budget)
                    yield numpy.ones(8)
            kept = [array, *holder()]
            print(budget.used)
            """
        ) == [
            *[
                "the scope of budget 'b' is not entered in a generator on a free-threaded interpreter: what the "
                "generator's caller does would be charged, too"
            ]
            * 3,
            "128",
        ]

    def test_objects_of_a_program_that_is_run(self) -> None:
        """Arrays are refused at once, in any thread; what is not bounded so is said."""
        code = """
            import threading, numpy
            def work():
                try: numpy.empty(80 << 20, numpy.uint8)
                except MemoryError: print("refused")
            for _ in range(3):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        """
        command = [sys.executable, "-m", "nativemem", "run", "--budget", "64 MiB", "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, "refused\n" * 3), done.stderr
        assert "objects, so they are not bounded exactly" in done.stderr and "3 denials" in done.stderr

    def test_what_was_not_shown(self) -> None:
        assert output(
            """
            from nativemem import Failing
            from nativemem.observe.profile import Profile
            from nativemem.hooks import numpy as hook
            for call in (
                lambda: hook.using(nativemem.Heap()).__enter__(),
                lambda: hook.install(nativemem.Heap()),
                lambda: Failing.interpreter(),
                lambda: Profile().start(),
            ):
                try:
                    call()
                except nativemem.NativeUnavailable as error:
                    print(error)
            """
        ) == [
            f"{what}: not on a free-threaded interpreter, whose threads run at the same time"
            for what in ("hooks.numpy.using", "hooks.numpy.install", "Failing.interpreter", "a profile")
        ]
