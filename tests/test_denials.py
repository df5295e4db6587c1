"""ENG-9: a full budget, or a full process, harms the code that filled it and nothing else. Each program is a
process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from test_scopes import HEAD, PATIENCE, native, output

LIMITS = ("64 KiB", "256 KiB", "1 MiB", "8 MiB")

#: makers of what fills a budget: what each takes in C differs
MAKERS = """
class Point:
    def __init__(self, x): self.x = x
class Slots:
    __slots__ = ("x",)
    def __init__(self, x): self.x = x
def closure(n):
    def inner(): return n
    return inner
def generator(n):
    yield n
makers = dict(
    objects=lambda i: object(), cells=lambda i: closure(i), instances=lambda i: Point(float(i)),
    slots=lambda i: Slots([i]), dicts=lambda i: {i: i}, text=lambda i: f"{i} of {i / 2}",
    numbers=lambda i: 10**30 + i, functions=lambda i: (lambda: i), loops=lambda i: list(map(str, range(500))),
    sets=lambda i: {*range(200)}, buffers=lambda i: bytearray(5000), nested=lambda i: [Point(j) for j in range(40)],
    generators=lambda i: generator(i), classes=lambda i: type("C", (), {"i": i}), bound=lambda i: Point(i).__init__,
    code=lambda i: compile("a = 1", "c", "exec"),
    sorts=lambda i: sorted(range(300), key=lambda j: -j), exceptions=lambda i: ValueError(i),
)
def holds(budget):
    return budget.peak <= budget.limit
"""


def run(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=PATIENCE)


@native
class TestProgress:
    @pytest.mark.parametrize("limit", LIMITS)
    def test_code_that_catches_and_goes_on(self, limit: str) -> None:
        """ENG-9b: a thousand times, with what it got still there; the limit holds, others are not harmed."""
        assert (
            output(
                MAKERS
                + f"""
limit = {limit!r}
for name, make in makers.items():
    tight = Budget(limit, name=name)
    kept, errors, i = [], 0, 0
    try:
        with tight:
            while errors < 1000:
                try:
                    while True:
                        kept.append(make(i))
                        i += 1
                except MemoryError:
                    errors += 1
    except MemoryError:
        pass
    told = tight.last_denial
    if errors < 1000 or not holds(tight) or told is None or told.owner != name: print(name, errors, tight, told)
    kept.clear()
    some()
"""
            )
            == []
        )

    def test_in_constructors(self) -> None:
        """ENG-9: the interpreter's own frame around an ``__init__`` is no function's and has no globals."""
        assert (
            output(
                """
class Inner:
    def __init__(self, i): self.values, self.text = [i], str(i) * 3
class Outer:
    def __init__(self, i): self.inner, self.more = Inner(i), {i: [Inner(i)]}
def work(kept):
    for i in range(100_000): kept.append(Outer(i))
for limit in ("64 KiB", "256 KiB", "1 MiB"):
    kept, errors = [], 0
    try:
        with Budget(limit):
            while errors < 200:
                try: work(kept)
                except MemoryError: errors += 1
    except MemoryError: pass
    print(errors)
    kept.clear()
"""
            )
            == ["200"] * 3
        )

    def test_an_interrupt(self) -> None:
        """ENG-9a: Ctrl-C ends code that catches what is refused, in which no instruction is like the others."""
        done = run(
            """
import signal
import nativemem
nativemem.install()
def closure(n):
    def inner(): return n
    return inner
def work(kept):
    n, caught = 0, 0
    while True:
        try:
            kept.append(object()); kept.append(closure(n)); kept.append([n]); kept.append(lambda: n)
            n += 1
        except MemoryError:
            caught += 1
            if caught == 500: signal.raise_signal(signal.SIGINT)
try:
    with nativemem.Budget("512 KiB"): work([])
except KeyboardInterrupt: print("interrupted")
"""
        )
        assert (done.returncode, done.stdout) == (0, "interrupted\n")

    def test_a_handler_far_into_a_function(self) -> None:
        """ENG-9a: to enter one beyond the 256th instruction the interpreter makes an int, and tries till it can."""
        lines = "".join(f"    a{i} = {i}; b{i} = a{i}\n" for i in range(200))
        assert output(
            f"""
def work():
{lines}    kept, errors = [], 0
    with Budget("128 KiB"):
        while errors < 50:
            try:
                while True: kept.append(object())
            except MemoryError: errors += 1
    return errors
print(work())
"""
        ) == ["50"]

    @pytest.mark.parametrize("version", ["keeps", "drops"])
    def test_threads(self, version: str) -> None:
        """ENG-9b: in other threads than the first, too."""
        drops = "kept.clear()" if version == "drops" else ""
        done = run(
            textwrap.dedent(HEAD)
            + MAKERS
            + f"""
from concurrent.futures import ThreadPoolExecutor
def work(name):
    tight = Budget("512 KiB", name=name)
    kept, errors, i = [], 0, 0
    with tight:
        while errors < 100:
            try:
                while True:
                    kept.append(makers[name](i))
                    i += 1
            except MemoryError:
                errors += 1
                {drops}
    return errors, holds(tight)
with ThreadPoolExecutor(3) as pool:
    jobs = dict((name, pool.submit(work, name)) for name in makers)
for name, job in jobs.items():
    try: done = job.result()
    except MemoryError: continue # where the last one was still due
    if done != (100, True): print(name, done)
print(len(some()))
"""
        )  # what the collector has to say of its own errors is on stderr
        assert (done.returncode, done.stdout) == (0, "20000\n")

    def test_why_is_known_whatever_thread(self) -> None:
        """OWN-2, ENG-9: ``last_denial`` says why in other threads than the first too, whether the
        error is put off to the end of a call or to that of the scope."""
        assert (
            output(
                """
import asyncio, contextvars
makers = {"small": lambda: [0] * 9, "call": lambda: bytes(24_000), "list": lambda: list(range(3000)),
          "large": lambda: bytes(100_000)}
def fill(budget, make):
    kept = []
    try:
        with budget:
            while True: kept.append(make())
    except MemoryError: return "refused"
async def fill_in_task(budget, make):
    return fill(budget, make)
def inherited(budget, make):
    with budget: context = contextvars.copy_context()
    return context.run(fill_in_vain, make)
def fill_in_vain(make):
    kept = []
    try:
        while True: kept.append(make())
    except MemoryError: return "refused"
ways = {"plain": fill, "task": lambda *a: asyncio.run(fill_in_task(*a)), "inherited": inherited}
for name, make in makers.items():
    for way, do in ways.items():
        for limit in (256, 480, 512, 1000):
            budget, said = Budget(limit << 10, name), []
            thread = threading.Thread(target=lambda: said.append(do(budget, make)))
            thread.start()
            thread.join()
            denial = budget.last_denial
            if said != ["refused"] or not budget.denied or denial is None or denial.owner != name:
                print(name, way, limit, said, budget.denied, denial)
"""
            )
            == []
        )

    def test_generators_do_not_pass_it_on(self) -> None:
        """ENG-9, OWN-2: what a generator's scope is refused comes out there, not where it is resumed from."""
        assert output(
            """
def steps(budget):
    with budget:
        i, kept = 0, []
        while True:
            kept.append([i])
            i += 1
            yield f"{i} of {i + 0.5}"
def consume():
    steps_of, inner = steps(Budget("256 KiB")), 0
    while True:
        try: step = next(steps_of)
        except MemoryError as error:
            trace = error.__traceback__
            while trace.tb_next: trace = trace.tb_next
            return trace.tb_frame.f_code.co_name
print(consume())
def in_thread(): print(consume())
thread = threading.Thread(target=in_thread); thread.start(); thread.join()
"""
        ) == ["steps", "steps"]

    def test_tasks(self) -> None:
        """ENG-9c: a server's other requests, and the loop, go on."""
        assert (
            output(
                """
async def request(i):
    kept = []
    if i % 3: return len(some(2000))
    with Budget("256 KiB"):
        while True:
            kept.append([i])
            if len(kept) % 100 == 0: await asyncio.sleep(0)
async def main():
    for _ in range(5):
        done = await asyncio.gather(*map(request, range(30)), return_exceptions=True)
        print(sum(isinstance(d, MemoryError) for d in done), sum(d == 2000 for d in done if isinstance(d, int)))
asyncio.run(main())
"""
            )
            == ["10 20"] * 5
        )

    @pytest.mark.parametrize("limit", LIMITS)
    def test_not_between_entering_and_the_block(self, limit: str) -> None:
        """ENG-9d: what a `with` has entered is left, though a safe point lies between since 3.14."""
        assert output(
            f"""
lock, errors, budget = threading.Lock(), 0, Budget({limit!r})
def fill(kept):
    while True:
        kept.append(0)
        kept[-1] = lambda i=len(kept): [i, lock]  # a function: no refusal there, an error is due
        with lock: pass
def turns():
    global errors
    for _ in range(20):
        kept = []
        try:
            with budget: fill(kept)
        except MemoryError: errors += 1
        if lock.locked():
            print("locked")
            lock.release()
turns()
thread = threading.Thread(target=turns)
thread.start(); thread.join()
print(errors)
"""
        ) == ["40"]

    def test_in_a_generator_of_another_thread(self) -> None:
        """ENG-9d: there it waits for the scope's end, rather than to come out in the caller."""
        assert output(
            """
text, numbers, kept = "x" * 100, list(range(10_000)), [None] * 10_000 # what is refused at once is made before
def steps(budget, most):
    with budget:
        for i in numbers:
            kept[i] = lambda: 0
            try: int(text)
            except ValueError: pass # with no safe point from that call to the caller
            yield kept[i]
            if budget.used > most: break
        kept[-1] = "done"
    yield "after the scope"
def consume():
    seen = None
    try:
        for seen in steps(Budget("512 KiB"), (512 << 10) - 60_000): pass # within the overdraft
    except MemoryError as error:
        trace = error.__traceback__
        while trace.tb_next: trace = trace.tb_next
        print(trace.tb_frame.f_code.co_name, kept[-1])
    else: print(seen)
thread = threading.Thread(target=consume); thread.start(); thread.join()
"""
        ) == ["steps done"]

    def test_it_comes_soon(self) -> None:
        """ENG-9d: with the first block of the overdraft, and from the code that asked for it."""
        assert (
            output(
                """
numbers = list(range(20_000))
def work(kept):
    for i in numbers: kept[i] = bytes(100)
def fill():
    kept = [None] * 20_000
    tight = Budget("1 MiB", name="tight")
    try:
        with tight: work(kept)
    except MemoryError as error:
        return tight.peak - (tight.limit - 65536) < 4000, error.__traceback__.tb_next.tb_frame.f_code.co_name
print(fill())
def in_thread(): print(fill())
thread = threading.Thread(target=in_thread); thread.start(); thread.join()
"""
            )
            == ["(True, 'work')"] * 2
        )

    def test_at_the_end_of_the_scope(self) -> None:
        """ENG-9d: what was had from the overdraft is an error there at the latest."""
        assert output(
            """
tight, errors = Budget("64 KiB"), 0
for _ in range(100):
    kept = None
    try:
        with tight: kept = [str(i) for i in range(900)] + [{}, (1.5,)]
    except MemoryError: errors += 1
    if tight.used > tight.limit: print(tight)
print(errors)
"""
        ) == ["100"]

    def test_what_is_freed_is_credited(self) -> None:
        """ENG-9, BUDGET-2: in a budget below a superblock's size each block is one of the overdraft's."""
        assert output(
            """
tight, kept, least = Budget("16 KiB"), None, MiB
for _ in range(50):
    with tight: kept = [bytes(200) for _ in range(20)]
    least, kept = min(least, tight.used), None
print(least > 4000, tight.used < 1000, tight.denied)
"""
        ) == ["True True 0"]

    @pytest.mark.parametrize("bound", ["scope", "limit"])
    def test_ints_of_one_call(self, bound: str) -> None:
        """ENG-9a: the int of a handler is had beyond every limit, another of that size is not."""
        assert output(
            f"""
            bound = {bound!r}
            many = 1_000_000
            numbers = iter(range(10**9, 10**9 + many))
            def fill():
                try: list(numbers) # its own 8 MB come first; there is no safe point before its end
                except MemoryError: return next(numbers) - 10**9
            if bound == "limit":
                held = nativemem.process.usage().held
                nativemem.install(limit=held + (16 << 20))
                made = fill()
            else:
                with Budget("16 MiB"): made = fill()
            print(200_000 < made < 300_000)
            """
        ) == ["True"]

    def test_the_handler_has_some_memory(self) -> None:
        """ENG-9b: while a MemoryError is handled small blocks are had, and no other one is raised."""
        assert (
            output(
                """
def work(kept):
    while True: kept.append((len(kept), 2.5))
for limit in ("1 MiB", "16 MiB"):
    kept = []
    with Budget(limit) as tight:
        try: work(kept)
        except MemoryError as error:
            notes = [f"{i} {error!r}" for i in range(100)]
            print(len(notes), len({i: str(i) for i in range(100)}), len([bytes(1000) for _ in range(36)]))
    kept.clear()
"""
            )
            == ["100 100 36"] * 2
        )

    def test_a_callback_may_free_before_the_error(self) -> None:
        """BUDGET-3: asked once, from the loop; where it frees enough there is no error, and no denial."""
        assert output(
            """
cache, asked = [], []
def relieve(level, budget):
    if level == "refusal":
        asked.append(level)
        cache.clear()
tight = Budget("4 MiB", name="tight", on_pressure=relieve)
kept, numbers = [None] * 40_000, list(range(40_000))
with tight:
    cache.extend(bytes(1000) for _ in range(3000))
    for i in numbers: kept[i] = str(i)
print(kept[-1], len(asked), tight.denied)
try:
    with tight: more = [str(i) for i in range(100_000)]
except MemoryError: print(tight.denied > 0, tight.last_denial.owner)
"""
        ) == ["39999 1 0", "True tight"]


@native
class TestProcessLimit:
    HEAD = """
import gc, sys
import nativemem
nativemem.install()
nativemem.install(limit=nativemem.process.usage().held + (%d << 20))
"""

    @pytest.mark.parametrize("times", [1, 5, 500])
    def test_a_program_that_met_its_limit_ends(self, times: int) -> None:
        """ENG-9a: with its data still there."""
        for make in ("bytes(100)", "object()", "[1]", "{1: 2}", "str(len(kept))", "bytearray(70_000)"):
            done = run(
                self.HEAD % 8
                + f"""
kept, errors = [], 0
while errors < {times}:
    try: kept.append({make})
    except MemoryError: errors += 1
usage = nativemem.process.usage() if errors == 1 else None
if usage: print(usage.peak <= usage.limit, usage.denials >= 1)
"""
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == ("True True\n" if times == 1 else "")

    def test_threads_start(self) -> None:
        """ENG-9a: the thread that starts another one waits until that has told that it runs."""
        done = run(
            self.HEAD % 8
            + """
import threading
kept, errors, ran, failed = [], 0, [], 0
while errors < 3:
    try: kept.append((len(kept), 1.5))
    except MemoryError: errors += 1
for _ in range(30):
    try:
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
    except (MemoryError, RuntimeError): failed += 1
while kept:
    try: kept.clear()
    except MemoryError: pass  # for what was served from beyond the limit
print(len(ran) + failed >= 30)
"""
        )
        assert (done.returncode, done.stdout) == (0, "True\n")

    def test_a_console_goes_on(self) -> None:
        """ENG-9c: the traceback still holds what filled it."""
        done = run(
            self.HEAD % 32
            + """
import code
console, lines = code.InteractiveConsole(), []
console.write = lines.append
filling = ("kept = []", "while True: kept.append([1.5])\\n", "n = len(kept)", "print(n > 1000)", "del kept")
for source in (*filling, "print(len([i for i in range(1000)]))"): console.push(source)
print(sum("MemoryError" in line for line in lines))
"""
        )
        assert (done.returncode, done.stdout) == (0, "True\n1000\n1\n")

    def test_in_the_secure_mode(self) -> None:
        """ENG-9: as in the plain one."""
        done = run(
            self.HEAD % 4
            + MAKERS
            + """
for name in ("cells", "instances", "text", "functions", "generators", "code", "exceptions"):
    kept, errors, i, make = [], 0, 0, makers[name]
    try:
        while errors < 30:
            try:
                while True:
                    kept.append(make(i))
                    i += 1
            except MemoryError: errors += 1
    except MemoryError: pass
    if errors < 30: print(name, errors)
    kept.clear()
    if len([str(i) for i in range(1000)]) != 1000: print(name)
""",
            NATIVEMEM_SECURE="1",
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@native
def test_nothing_of_a_programs_is_beyond_its_limit() -> None:
    """ENG-8a: what the interpreter has for itself no code of a program's gets, nor the library's that it calls."""
    done = run("""
        import copy, sys
        import nativemem
        nativemem.install(limit="12 MiB")
        thing = list(range(1000))
        for make in (lambda: [0] * 1000, lambda: copy.deepcopy(thing), lambda: copy.copy(thing)):
            kept = []
            try:
                while True: kept.append(make())
            except MemoryError: pass
            size, kept = len(kept) * sys.getsizeof(thing), None
            print(6 << 20 < size < 12 << 20)
        """)
    assert (done.stdout.splitlines(), done.stderr) == (["True"] * 3, "")


@native
def test_nothing_of_a_package_that_is_run_is_beyond_its_limit(tmp_path: Path) -> None:
    """ENG-8a: its `__init__` runs with the interpreter's own code alone on the stack."""
    (tmp_path / "package").mkdir()
    text = """
import nativemem
nativemem.install(limit="12 MiB")
kept = []
try:
    while True: kept.append([0] * 1000)
except MemoryError: n = len(kept)
kept.clear()
print(6 << 20 < n * 8056 < 12 << 20)
"""
    (tmp_path / "package" / "__init__.py").write_text(text)
    (tmp_path / "package" / "__main__.py").write_text("")
    command = [sys.executable, "-m", "package"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@native
def test_interned_strings() -> None:
    """ENG-9d: the interpreter drops the error of its table of them, and 3.13.0 counts one that is not there."""
    assert output(
        """
kept, tight = [], Budget("4 MiB")
try:
    with tight:
        while True: kept.append(sys.intern(f"name {len(kept)}"))
except MemoryError: pass
print(len(kept) > 10_000, tight.denied < 10 or sys.version_info < (3, 12))  # it cannot be read there
others = [sys.intern(f"other {i}") for i in range(150_000)]
print(all(sys.intern(f"other {i}") is others[i] for i in range(150_000)), len(set(kept)) == len(kept))
"""
    ) == ["True True", "True True"]


@native
@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11),
    reason="only CPython 3.11 is known to stand allocations that fail by itself",
)
def test_a_scope_that_cannot_be_entered_is_not() -> None:
    """ENG-9: whichever allocation fails, nothing is charged to it then, and nothing of the caller's is kept."""
    pytest.importorskip("_testcapi")
    done = run("""
        import _testcapi, gc, weakref
        import nativemem
        nativemem.install()
        class Thing: pass
        def once(k):
            budget = nativemem.Budget("1 GiB")
            with budget: pass
            kept = []
            def caller():
                thing = Thing()
                kept.append(weakref.ref(thing))
                def enters():
                    _testcapi.set_nomemory(k, k + 1)
                    try: budget.__enter__()
                    finally: _testcapi.remove_mem_hooks()
                    try: yield
                    finally: budget.__exit__(None, None, None)
                inner = enters()
                next(inner)
                inner.close()
                yield
            try:
                for _ in caller(): pass
                entered = True
            except MemoryError: entered = False
            used = budget.used
            more = [[i] for i in range(1000)]
            charged = budget.used - used
            gc.collect()
            return entered, charged > 8000, kept[0]() is None
        once(1000)
        outcomes = [once(k) for k in range(1, 40)]
        print({(charged, gone) for _, charged, gone in outcomes})
        print(outcomes.count((False, False, True)) > 3, outcomes[-1][0])
        """)
    assert done.stdout.splitlines() == ["{(False, True)}", "True True"], done.stderr
