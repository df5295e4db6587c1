"""One long-lived process on the engine that does everything a program does, for an hour, and has to stay as it is.

    python scripts/soak.py [--seconds 3600] [--log build/soak.log]

Cycle after cycle it runs each kind of work once, but for those that take long (processes and other interpreters:
every second to 60th), in another order each time: the example programs' work, threads
that come and go and leave blocks to others, children by fork, a pool and spawn, budgets that refuse and recover,
scopes in threads, tasks and generators, arrays, documents, garbage, other interpreters. Each checks its results.

A line of the log: seconds, resident bytes, what the engine holds and held at most, refusals so far, owners there
are, rounds done. After every tenth cycle it pauses for longer than the engine keeps free memory for reuse: what
is resident then is what is needed, however fast the machine was just before. At the end a straight line is laid
through these resident bytes, but for the warm-up (a tenth of the time, or five minutes if that is more, but no
more than a quarter). They are flat if that line rises by less than 5 % of their mean, and the mean of the last
tenth is at most 5 % above that of the first. Below ten minutes that is not judged. How much of it is the engine's
is printed too, and the rise of what is resident during the work, and of what the engine holds.

Exit code: 0; 1 if it is not flat, if a result was wrong, or if a kind of work that can run here did not (arrays
need NumPy, the pictures Pillow).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import statistics
import sys
import sysconfig
import threading
import time
import traceback
import warnings
import weakref
import zlib
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
#: below this many seconds growth cannot be told from noise
JUDGED = 600
RISE = 0.05
#: cycles; seconds, more than what is kept for reuse stays
PAUSE_EVERY, PAUSE = 10, 1.5
#: entries of the program's own data
STORED = 400
#: a kind that has not come back by then hangs
HANGS = 300


class Wrong(Exception):
    """A result is not what it has to be."""


def expect(true: object, what: str) -> None:
    if not true:
        raise Wrong(what)


def rows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Records as of a service."""
    return [
        {
            "id": i,
            "name": f"name {rng.randrange(1000)}",
            "tags": [f"t{i % 7}", f"t{i % 11}"],
            "at": {"x": rng.random(), "y": -i},
        }
        for i in range(count)
    ]


def resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_of_engine() -> int:
    """Bytes, of what is resident."""
    from nativemem import process

    ours, total = False, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        first, *words = line.split()
        if first == "Rss:" and ours:
            total += int(words[0]) << 10
        elif "-" in first and not first.endswith(":"):
            ours = process.owns(int(first.partition("-")[0], 16))
    return total


# ---- what children do; at the top, so that a spawned one finds it ----


def child_work(seed: int) -> int:
    """Builds and drops, in a scope too; the checksum depends on the seed only."""
    import nativemem

    nativemem.install()
    made = rows(random.Random(seed), 2000)
    with nativemem.Budget("64 MiB", "child"):
        again = json.loads(json.dumps(made))
    expect(again == made, "a child's document came back changed")
    return zlib.crc32(repr(again[seed % 2000]).encode())


class Soak:
    """The state of the program, and each kind of work as a method ``do_<kind>``."""

    def __init__(self, seed: int) -> None:
        import nativemem

        self.nativemem = nativemem
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.left_out: dict[str, str] = {}
        self.denied = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()
        #: what threads left behind; others drop it
        self.blocks: deque[list[Any]] = deque()
        #: the program's own data, replaced bit by bit
        self.store: OrderedDict[int, Any] = OrderedDict()
        self.stored = 0
        self.store_budget = self.budget("256 MiB", "store")
        self.modules: dict[str, Any] = {}
        for name in ("index_stdlib", "two_subsystems", "image_pipeline", "numpy"):
            try:
                self.modules[name] = importlib.import_module(name)
            except ImportError as error:
                self.left_out[name] = str(error)
        if "two_subsystems" in self.modules:
            subsystems = self.modules["two_subsystems"]
            self.cache = subsystems.Cache()
            self.known.update((subsystems.SERVICE, subsystems.CACHE))
        self.pictures: dict[Path, int] = {}
        self.interpreters: Any = None
        for name in ("_interpreters", "_xxsubinterpreters"):
            try:
                self.interpreters = importlib.import_module(name)
                break
            except ImportError as error:
                reason = str(error)
        kinds = {name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")}
        needs = {
            "index": "index_stdlib",
            "subsystems": "two_subsystems",
            "pictures": "image_pipeline",
            "temporaries": "numpy",
        }
        for kind, module in needs.items():
            if module not in self.modules:
                del kinds[kind]
        if self.interpreters is None:
            del kinds["interpreters"]
            self.left_out["interpreters"] = reason
        self.kinds: dict[str, Callable[[], None]] = kinds
        #: these take long, and others of their kind come each time: done each so many cycles
        # an interpreter of 3.12 or later leaves memory behind: on CPython's own allocator 2.9 MiB (3.12.1, 3.13.0)
        self.rare = {"spawn": 3, "interpreters": 5 if sys.version_info < (3, 12) else 60, "pool": 2}
        while len(self.store) < STORED:
            self.do_store()

    def budget(self, limit: str, name: str) -> Any:
        made = self.nativemem.Budget(limit, name)
        self.known.add(made)
        return made

    def cycle(self, number: int) -> float:
        """Resident bytes, the mean of those after each kind: one alone says more of the kind before it."""
        seen = []
        kinds = [kind for kind in self.kinds if number % self.rare.get(kind, 1) == 0]
        self.rng.shuffle(kinds)
        for kind in kinds:
            signal.alarm(HANGS)  # nothing catches it: the process ends
            try:
                self.kinds[kind]()
            except Exception as error:
                raise Wrong(f"{kind}, cycle {number}: {type(error).__name__}: {error}") from error
            signal.alarm(0)
            self.done[kind] += 1
            seen.append(resident())
        return statistics.fmean(seen)

    # ---- the examples ----

    def do_index(self) -> None:
        index = self.modules["index_stdlib"]
        built = index.build(Path(sysconfig.get_path("stdlib")), self.rng.randrange(20, 80), False)
        lines = list(index.describe_tree(built))
        expect(lines[0].startswith(f"files        {built.files:,} indexed"), lines[0])
        expect(built.definitions and built.uses and built.literals, "an index without contents")

    def do_pictures(self) -> None:
        pipeline = self.modules["image_pipeline"]
        path = self.rng.choice(sorted(pipeline.DEFAULT_DIR.glob("*.png")))
        pixels = pipeline.load(path, 480)
        developed = pipeline.develop(pixels, pipeline.Look(1.2, 0.8, 0.4))
        checksum = pipeline.measure(path.stem, developed).checksum
        expect(self.pictures.setdefault(path, checksum) == checksum, f"{path.name} came out another")

    def do_subsystems(self) -> None:
        subsystems = self.modules["two_subsystems"]
        for n in range(40):
            self.cache.fill()
            subsystems.answer(n)
        expect(subsystems.SERVICE.denied == 0, "the service was refused")

    # ---- threads ----

    def do_threads(self) -> None:
        """They leave live blocks, some of them an owner's, and drop what others left."""
        owner = self.budget("64 MiB", "threads")
        seeds = [self.rng.random() for _ in range(4)]
        failed: list[str] = []

        def body(number: int, seed: float) -> None:
            rng = random.Random(seed)
            made: list[Any]
            try:
                for _ in range(5):
                    if number % 2:
                        with owner:
                            made = rows(rng, 300)
                    else:
                        made = [bytes(rng.randrange(1, 2000)) for _ in range(1000)]
                    self.blocks.append(made)
                    if len(self.blocks) > 60:
                        self.blocks.popleft()
            except BaseException:
                failed.append(traceback.format_exc())

        threads = [threading.Thread(target=body, args=each) for each in enumerate(seeds)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(not failed, "".join(failed))

    # ---- children ----

    def do_fork(self) -> None:
        """With a scope open in the parent; the child drops what it inherited."""
        with self.store_budget:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    self.blocks.clear()
                    self.store.clear()
                    gc.collect()
                    code = 0 if child_work(1) == child_work(1) else 2
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
        _, status = os.waitpid(child, 0)
        expect(status == 0, f"a forked child ended with status {status}")

    def do_pool(self) -> None:
        numbers = [self.rng.randrange(1 << 30) for _ in range(4)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = pool.map(child_work, numbers)
        expect(answers == [child_work(number) for number in numbers], "a pool answered something else")

    def do_spawn(self) -> None:
        child = multiprocessing.get_context("spawn").Process(target=child_work, args=(self.rng.randrange(1 << 30),))
        child.start()
        child.join()
        expect(child.exitcode == 0, f"a spawned child ended with {child.exitcode}")
        child.close()

    # ---- scopes ----

    def do_refusals(self) -> None:
        """A budget refuses, what was made is dropped, and it serves again."""
        budget = self.budget("8 MiB", "small")
        for _ in range(3):
            kept: list[Any] = []
            try:
                with budget:
                    while True:
                        kept.append([bytes(200) for _ in range(500)])
            except MemoryError:
                pass
            expect(budget.last_denial is not None, "refused without a denial")
            expect(budget.used <= 8 * MIB, f"{budget.used} bytes in use of 8 MiB")
            kept.clear()
            with budget:
                kept.append(bytes(MIB))
        self.denied += budget.denied

    def do_owners(self) -> None:
        """Many that live for a moment; a few of their objects live on."""
        for n in range(50):
            budget = self.budget("16 MiB", f"owner {n}")
            with budget:
                made = rows(self.rng, 20)
            expect(budget.used > 0, "nothing was charged")
            if n % 10 == 0:
                self.blocks.append(made)
        while len(self.blocks) > 60:
            self.blocks.popleft()

    def do_tasks(self) -> None:
        budgets = [self.budget("32 MiB", f"task {n}") for n in range(8)]

        async def task(budget: Any, n: int) -> int:
            total = 0
            with budget:
                for _ in range(5):
                    made = [(n, i) for i in range(4000)]
                    await asyncio.sleep(0)
                    total += len(made) + made[-1][1]
            return total

        async def main() -> list[int]:
            return await asyncio.gather(*(task(budget, n) for n, budget in enumerate(budgets)))

        expect(asyncio.run(main()) == [5 * (4000 + 3999)] * 8, "tasks returned something else")
        expect(all(budget.peak > 100_000 for budget in budgets), "a task's owner was not charged")

    def do_generators(self) -> None:
        """Run to the end, closed, thrown into, and left to the collector."""
        budget = self.budget("32 MiB", "generator")

        def numbers() -> Iterator[int]:
            with budget:
                made = [[i] for i in range(20_000)]
                for each in made:
                    yield each[0]

        expect(sum(numbers()) == sum(range(20_000)), "a generator lost something")
        for end in ("close", "throw", "drop"):
            generator: Any = numbers()
            for _ in range(100):
                next(generator)
            held = budget.used
            outside = [[i] for i in range(20_000)]
            expect(budget.used == held, "a suspended generator's owner was charged")
            if end == "close":
                generator.close()
            elif end == "throw":
                try:
                    generator.throw(Wrong("thrown"))
                except Wrong:
                    pass
            del generator, outside
        expect(budget.peak > MIB, "a generator's owner was not charged")

    # ---- data ----

    def do_store(self) -> None:
        """The program's own data: about 40 MiB, the oldest of it replaced."""
        with self.store_budget:
            for _ in range(20):
                self.store[self.stored] = (rows(self.rng, 100), bytearray(self.rng.randrange(1, 100_000)))
                self.stored += 1
        while len(self.store) > STORED:
            self.store.popitem(last=False)

    def do_temporaries(self) -> None:
        np = self.modules["numpy"]
        for _ in range(20):
            n = 1 << self.rng.randrange(4, 20)
            x = np.linspace(0.5, 1.5, n)
            y = np.sqrt(x * x + 3 * x) / (np.abs(x - 2) + 1)
            z = np.concatenate([x, y])[::2].copy()
            z.resize(n + 100)
            expect(float(z[n:].sum()) == 0.0, "an array grew by something else than zeros")

    def do_documents(self) -> None:
        made = rows(self.rng, 3000)
        expect(json.loads(json.dumps(made)) == made, "JSON came back changed")
        expect(pickle.loads(pickle.dumps(made)) == made, "a pickle came back changed")

    def do_garbage(self) -> None:
        """Cycles, for the collector."""

        class Node:
            def __init__(self, text: str) -> None:
                self.me, self.text = self, text

        last = None
        for i in range(5000):
            last = weakref.ref(Node(f"node {i}"))
        gc.collect()
        expect(last is not None and last() is None, "the collector left a cycle")

    def do_interpreters(self) -> None:
        other = self.interpreters.create()
        try:
            code = "import json; made = [{'a': i} for i in range(1000)]; json.loads(json.dumps(made))[999]['a']"
            failed = self.interpreters.run_string(other, code)
            expect(failed is None, f"in another interpreter: {failed}")
        finally:
            self.interpreters.destroy(other)

    def line(self, seconds: float) -> str:
        """Of the log."""
        used = self.nativemem.process.usage()
        denied = self.denied + used.denials
        if "subsystems" in self.kinds:
            denied += self.modules["two_subsystems"].CACHE.denied
        sizes = {"rss": resident(), "held": used.held, "peak": used.peak}
        return (
            f"{seconds:8.1f} s  {'  '.join(f'{name} {size / MIB:.1f}' for name, size in sizes.items())} MiB"
            f"  denials {denied}  owners {len(self.known)}  rounds {self.done.total()}"
        )


# ---- judging ----


def rise(samples: list[tuple[float, float]]) -> float:
    """What the least-squares line through (time, value) gains from the first to the last, of the mean value."""
    line = statistics.linear_regression([at for at, _ in samples], [value for _, value in samples])
    return line.slope * (samples[-1][0] - samples[0][0]) / statistics.fmean(value for _, value in samples)


def tenths(samples: list[tuple[float, float]]) -> float:
    """The mean of the last tenth of the time over that of the first, less one."""
    begin, end = samples[0][0], samples[-1][0]
    tenth = (end - begin) / 10
    first = statistics.fmean(value for at, value in samples if at <= begin + tenth)
    last = statistics.fmean(value for at, value in samples if at >= end - tenth)
    return last / first - 1


def main() -> int:
    parser = argparse.ArgumentParser(description="a long-lived process on the engine, doing everything")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--every", type=float, default=10, help="seconds between lines (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "soak.log")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", help="only these kinds of work, with commas: to find out which one it is")
    options = parser.parse_args()
    import nativemem

    nativemem.install()
    expect(nativemem.installed().objects, "the engine is not on")
    warnings.simplefilter("ignore", nativemem.MemoryPressure)
    # 3.12 counts threads of the system, and so one that was joined but is not quite gone
    warnings.filterwarnings("ignore", ".* multi-threaded, use of fork", DeprecationWarning)
    sys.path.insert(0, str(ROOT / "examples"))
    soak = Soak(options.seed)
    if options.kinds is not None:
        unknown = set(options.kinds.split(",")) - set(soak.kinds)
        if unknown:
            parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(sorted(soak.kinds))}")
        soak.kinds = {kind: soak.kinds[kind] for kind in options.kinds.split(",")}
        soak.rare.clear()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    # an object that stays for good keeps 16 KiB or more of whatever it is among, an owner's above all: one for each
    # cycle would be a growth of our own
    times, rss, held = array("d"), array("d"), array("d")
    pauses, settled, engines = array("d"), array("d"), array("d")
    logged = number = 0
    with options.log.open("w", encoding="utf-8") as log:

        def tell(text: str) -> None:
            print(text, flush=True)
            print(text, file=log, flush=True)

        tell(f"python {sys.version.split()[0]}, nativemem {nativemem.__version__}, seed {options.seed}")
        for name, reason in soak.left_out.items():
            tell(f"left out: {name}: {reason}")
        while number == 0 or time.monotonic() - started < options.seconds:
            try:
                mean_of_cycle = soak.cycle(number)
            except Wrong:
                tell(traceback.format_exc())
                return 1
            number += 1
            now = time.monotonic() - started
            times.append(now)
            rss.append(mean_of_cycle)
            held.append(nativemem.process.usage().held)
            if number % PAUSE_EVERY == 0:
                time.sleep(PAUSE)
                pauses.append(time.monotonic() - started)
                settled.append(resident())
                engines.append(resident_of_engine())
            if now >= logged:
                tell(soak.line(now))
                logged = now + options.every
        took = time.monotonic() - started
        tell(soak.line(took))
        for kind in sorted(soak.kinds):
            tell(f"{kind:14} {soak.done[kind]}")
        missed = [kind for kind in soak.kinds if not soak.done[kind]]
        if missed:
            tell(f"did not run: {', '.join(missed)}")
            return 1
        if took < JUDGED:
            tell(f"{number} cycles; resident bytes are judged from {JUDGED} seconds on")
            return 0
        warm = max(took / 10, min(300, took / 4))

        def after(ats: array[float], values: array[float]) -> list[tuple[float, float]]:
            return [(at, value) for at, value in zip(ats, values, strict=True) if at >= warm]

        judged, working = after(pauses, settled), after(times, rss)
        slope, growth = rise(judged), tenths(judged)
        flat = slope < RISE and growth <= RISE
        mean, busy = (statistics.fmean(value for _, value in values) / MIB for values in (judged, working))
        tell(
            f"{number} cycles, {len(judged)} pauses after the first {warm:.0f} s: rss {mean:.1f} MiB in the mean;"
            f" the line rises by {slope:+.2%}, the last tenth is {growth:+.2%} off the first:"
            f" {'flat' if flat else 'NOT FLAT'}"
        )
        rest = array("d", (whole - part for whole, part in zip(settled, engines, strict=True)))
        for name, values in (("the engine's", after(pauses, engines)), ("others'", after(pauses, rest))):
            part = statistics.fmean(value for _, value in values) / MIB
            tell(f"of it {name}: {part:.1f} MiB, {rise(values):+.2%}, last tenth {tenths(values):+.2%}")
        holds = rise(after(times, held))
        tell(f"at work: rss {busy:.1f} MiB, {rise(working):+.2%}; what the engine holds: {holds:+.2%}")
        return 0 if flat else 1


if __name__ == "__main__":
    # before NumPy is imported; a thread of its own would be one too many for fork
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise SystemExit(main())
