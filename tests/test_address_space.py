"""ENG-8, ENG-11: the engine beside limits on address space, and beside code that counts it, threads, and forks."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import nativemem

native = pytest.mark.skipif(nativemem.backend != "native", reason="the engine needs the C core")
pytestmark = native
numpy = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="NumPy is not installed")

#: what the programs below have in common
HEAD = """
import mmap, os, resource, sys, threading, time
import nativemem
PAGE = resource.getpagesize()
def size(which=0): # bytes: 0 virtual, 1 resident
    with open("/proc/self/statm") as file:
        return int(file.read().split()[which]) * PAGE
def limit(most): resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
def thread():
    ran = []
    other = threading.Thread(target=ran.append, args=(1,))
    other.start(); other.join()
    return len(ran)
def fork():
    child = os.fork()
    if child == 0: os._exit(len([str(i) for i in range(100_000)]) != 100_000)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def others(): # what the rest of the process needs
    mapped = len(mmap.mmap(-1, 64 << 20))
    import sqlite3
    database = sqlite3.connect(":memory:")
    return thread(), fork(), mapped >> 20, database.execute("select 6 * 7").fetchone()[0]
"""
OTHERS = "(1, 0, 64, 42)"

#: an item of each kind, and how many bytes it has
KINDS = {
    "cells": "lambda i: bytes(1000)",
    "spans": "lambda i: bytes(500_000)",
    "large": "lambda i: bytes(20_000_000)",
    "arrays": "lambda i: numpy.ones(125_000)",
}


#: NumPy has threads, and 3.12 warns of the fork beside them; a debug build, of the database that is not closed
QUIET = ("-W", "ignore:This process:DeprecationWarning", "-W", "ignore:unclosed database:ResourceWarning")


def run(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *QUIET, *flags, "-c", HEAD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
    )


def output(code: str, *flags: str, **env: str) -> list[str]:
    """The lines that the program printed; it must succeed and say nothing else."""
    done = run(code, *flags, **env)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def filling(kind: str) -> str:
    """A function that takes items of the kind until there are no more, and says how many MB of data they had."""
    return textwrap.dedent(
        f"""
        {"import numpy" if kind == "arrays" else ""}
        make = {KINDS[kind]}
        bytes_of = len(make(0)) * (8 if {kind == "arrays"} else 1)
        def fill(most=4000):
            kept = []
            try:
                while len(kept) * bytes_of < most * 1_000_000: kept.append(make(len(kept)))
            except MemoryError:
                pass
            n = len(kept)
            del kept
            return n * bytes_of // 1_000_000
        """
    )


kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=numpy) if kind == "arrays" else kind for kind in KINDS]
)


def test_the_virtual_size_is_what_is_needed() -> None:
    """ENG-8d, at the start, at a peak, and after it."""
    first, peak, after = output(
        """
        import nativemem.process # what it loads is not the engine's
        before = size()
        nativemem.install()
        print(size() - before >> 20)
        kept = [bytes(1000) for _ in range(300_000)] + [bytes(10_000_000) for _ in range(30)]
        print(size() - before >> 20)
        del kept
        print(size() - before >> 20)
        """
    )
    assert int(first) <= 4
    assert 570 <= int(peak) <= 800
    assert int(after) <= 110


@kinds
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_limit_on_address_space(kind: str, when: str) -> None:
    """ENG-8c: what exceeds it is refused, again and again, and the rest of the process has what it needs."""
    install, restrict = "nativemem.install()", "limit(size() + (500 << 20))"
    first, second = (restrict, install) if when == "before" else (install, restrict)
    lines = output(f"{filling(kind)}\n{first}\n{second}\nprint(fill(), fill(), others(), fill(300))")
    once, again, rest = lines[0].split(maxsplit=2)
    assert 380 <= int(once) <= 530
    assert 380 <= int(again) <= 530
    assert rest == f"{OTHERS} {300}"


@kinds
def test_a_limit_after_a_peak(kind: str) -> None:
    """ENG-8c: addresses that were in use are to be had by others."""
    lines = output(
        f"""
{filling(kind)}
nativemem.install()
fill(1500)
limit(2 << 30)
print(len(mmap.mmap(-1, 1 << 30)) >> 30, others())
"""
    )
    assert lines == [f"1 {OTHERS}"]


@kinds
@pytest.mark.parametrize("bound", ["process", "scope"])
def test_a_budget_below_the_limit_is_what_counts(kind: str, bound: str) -> None:
    """ENG-8a: no more than the budget is served, though the system would give more."""
    within = "nativemem.install(limit='200 MiB')" if bound == "process" else "nativemem.install()"
    call = "fill()" if bound == "process" else "budget_fill()"
    lines = output(
        f"""
{filling(kind)}
limit(size() + (700 << 20))
{within}
budget = nativemem.Budget("200 MiB")
def budget_fill():
    with budget: return fill()
print({call}, {call}, others(), size(1) < 320 << 20)
""",
        "-W",
        "ignore",  # the budget's warnings
    )
    once, again, rest = lines[0].split(maxsplit=2)
    assert 90 <= int(once) <= 210
    assert 90 <= int(again) <= 210
    assert rest == f"{OTHERS} True"


def test_children_have_the_same_limit() -> None:
    """ENG-8: pools by fork and spawn, with the limit in the parent or in the initializer."""
    assert output(
        """
        import multiprocessing
        def restrict(more): resource.setrlimit(resource.RLIMIT_AS, (more, more))
        def work(n):
            try:
                return len(bytes(n))
            except MemoryError:
                return -1
        if __name__ == "__main__":
            nativemem.install()
            sizes = [100 << 20, 3 << 30, 200 << 20]
            for context in (multiprocessing.get_context("fork"),):
                with context.Pool(2, initializer=restrict, initargs=(2 << 30,)) as pool:
                    print([n >> 20 for n in pool.map(work, sizes)])
            restrict(2 << 30)
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print([n >> 20 for n in pool.map(work, sizes)])
        """,
        "-W",
        "ignore::DeprecationWarning",  # a pool has threads of its own
    ) == ["[100, -1, 200]", "[100, -1, 200]"]


def test_spawned_children(tmp_path: os.PathLike[str]) -> None:
    program = os.path.join(tmp_path, "pools.py")
    with open(program, "w", encoding="utf-8") as file:
        file.write(
            textwrap.dedent(
                """
                import multiprocessing, resource
                def restrict(most): resource.setrlimit(resource.RLIMIT_AS, (most, most))
                def work(n):
                    import nativemem
                    try:
                        return nativemem.installed().objects, len(bytes(n)) >> 20
                    except MemoryError:
                        return nativemem.installed().objects, -1
                if __name__ == "__main__":
                    for method in ("spawn", "forkserver"):
                        context = multiprocessing.get_context(method)
                        with context.Pool(2, initializer=restrict, initargs=(2 << 30,)) as pool:
                            print(pool.map(work, [100 << 20, 3 << 30, 200 << 20]))
                """
            )
        )
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NATIVEMEM_AUTOINSTALL": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[(True, 100), (True, -1), (True, 200)]"] * 2


def test_no_address_space_at_all_is_declined_and_nothing_changes() -> None:
    assert output(
        """
        nativemem.engine.install.core()
        nativemem.errors
        try:
            limit(size())
            nativemem.install()
        except nativemem.OutOfMemory as error:
            limit(resource.RLIM_INFINITY)
            print(error)
        print(bool(nativemem.installed()), len([str(i) for i in range(10_000)]))
        """
    ) == ["the system refused the first memory for the heap", "False 10000"]


STRUCTURES = """
import ctypes
preloaded = ctypes.CDLL(None)
refused = ctypes.c_ulong.in_dll(preloaded, "refused")
nativemem.OutOfMemory, nativemem.process
def attempt(n, more):
    preloaded.arm(n, more, b"nativemem")
    try:
        nativemem.install()
        said = "installed"
    except nativemem.OutOfMemory as error:
        said = str(error)
    some = refused.value
    preloaded.arm(0, 0, b"")
    assert bool(nativemem.installed()) == (said == "installed"), said
    nativemem.install()
    kept = [[i, str(i)] for i in range(20_000)]
    assert nativemem.process.owns(id(bytes(1000))) and nativemem.process.usage().held > 1 << 20
    print(said, flush=True)
    os._exit(0 if some else 1)
for more in (0, 1):
    for n in range(1, 100):
        child = os.fork() # each begins where there is no engine yet
        if child == 0: attempt(n, more)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]): break
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="calls glibc's calloc by a name of its own")
def test_no_memory_for_the_structures_of_the_engine(tmp_path: Path) -> None:
    """ENG-1: one allocation fails, or all from there on: it says so, nothing is on, the next install works."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    library = str(tmp_path / "structures.so")
    source = Path(__file__).resolve().parent / "beside" / "structures.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    lines = output(STRUCTURES, LD_PRELOAD=library)
    # the budget, the heap, the overdraft; what comes after is not needed to begin with
    assert lines.count("no memory for the engine's control structures") == 2 * 3
    assert set(lines) == {"no memory for the engine's control structures", "installed"}


def test_there_is_no_thread() -> None:
    """ENG-11: none that a leak checker, the system's own count, or a warning of forks would show."""
    assert (
        output(
            """
        nativemem.install()
        for turn in range(3):
            kept = [bytes(1000) for _ in range(200_000)] + [b"x" * (3 << 20) for _ in range(30)]
            del kept
            print(len(os.listdir("/proc/self/task")), threading.active_count(), fork())
        """,
            "-W",
            "error",
        )
        == ["1 1 0"] * 3
    )


@pytest.mark.parametrize("asked", ["argument", "environment"])
def test_idle_decay_is_asked_for(asked: str) -> None:
    """ENG-11: a thread then gives back what is kept, ends, and is not there at a fork."""
    argument = "idle_decay=True" if asked == "argument" else ""
    env = {"NATIVEMEM_IDLE_DECAY": "1"} if asked == "environment" else {}
    assert output(
        f"""
        nativemem.install({argument})
        kept = [b"x" * (3 << 20) for _ in range(30)]
        del kept
        print(len(os.listdir("/proc/self/task")), fork(), len(os.listdir("/proc/self/task")))
        kept = [b"x" * (3 << 20) for _ in range(30)]
        del kept
        before, end = size(1), time.monotonic() + 30
        while size(1) > before - (60 << 20) and time.monotonic() < end: os.sched_yield()
        while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end: os.sched_yield()
        print(size(1) <= before - (60 << 20), len(os.listdir("/proc/self/task")))
        """,
        "-W",
        "error",
        **env,
    ) == ["2 0 1", "True 1"]


def test_an_idle_process_keeps_little() -> None:
    """ENG-11: without the thread a peak leaves no more than what was used again and again."""
    (kept,) = output(
        """
        nativemem.install()
        before = size(1)
        kept = [bytes(1000) for _ in range(300_000)] + [b"x" * (3 << 20) for _ in range(100)]
        del kept
        print(size(1) - before >> 20)
        """
    )
    assert int(kept) <= 64


@pytest.mark.parametrize("value", ["yes", ""])
def test_a_bad_switch(value: str) -> None:
    done = run("", NATIVEMEM_IDLE_DECAY=value)
    error = f"nativemem.errors.ConfigError: NATIVEMEM_IDLE_DECAY: takes 1 (on) or 0 (off), not {value!r}"
    assert error in done.stderr.splitlines()


@pytest.mark.parametrize("domain", ["raw", "mem", "obj"])
def test_a_block_of_others_in_a_hole(domain: str) -> None:
    """ENG-8: what another allocator has where the region gave its addresses back is that allocator's, which gets
    the frees and resizes. Of what begins in the middle of a block of ours it hears nothing. (The other is glibc,
    and the block begins as those do that it maps one by one: each version has its way.)"""
    assert output(
        f"""
        import ctypes
        P, N = ctypes.c_void_p, ctypes.c_size_t
        libc, api, number = ctypes.CDLL(None), ctypes.pythonapi, ("raw", "mem", "obj").index({domain!r})
        prefix = ("PyMem_Raw", "PyMem_", "PyObject_")[number]
        def function(name, result, *arguments): return ctypes.PYFUNCTYPE(result, *arguments)((prefix + name, api))
        malloc, free = function("Malloc", P, N), function("Free", None, P)
        realloc = function("Realloc", P, P, N)
        libc.mmap.restype, libc.mmap.argtypes = P, (P, N, *[ctypes.c_int] * 3, ctypes.c_long)
        def is_mapped(place):
            with open("/proc/self/maps") as maps:
                ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
            return any(start <= place < end for start, end in ranges)
        size = 256 << 10
        libc.malloc.restype, libc.malloc.argtypes = P, (N,)
        libc.mallopt(-3, 4096) # M_MMAP_THRESHOLD
        like = libc.malloc(size - 64)
        assert like % 4096 <= 64
        def plant(place): # private, anonymous, fixed but replacing nothing
            assert libc.mmap(place, size, 3, 0x100022, -1, 0) == place
            start = ctypes.string_at(like - like % 4096, like % 4096) + b"not ours"
            ctypes.memmove(place, start, len(start))
            return place + like % 4096
        nativemem.install(raw=number == 0)
        heap = nativemem.Heap()
        block = malloc(4 << 20)
        free(block)
        heap.trim()
        place = block + (1 << 20)
        print(is_mapped(place))
        planted = plant(place)
        print(is_mapped(place))
        free(planted)
        print(is_mapped(place))
        moved = realloc(plant(place), 100_000)
        print(ctypes.string_at(moved, 8))
        other = malloc(1 << 20)
        free(other + 65536)
        ctypes.memset(other, 1, 1 << 20)
        free(other)
        """
    ) == ["False", "True", "False", "b'not ours'"]


def test_what_the_system_refuses_below_a_budget() -> None:
    """ENG-8a: in a scope and with a limit nothing is served uncounted, though the budget has room."""
    assert (
        output(
            """
        import resource
        nativemem.install()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), used + (200 << 20)))
        large, kept = nativemem.Budget("10 GiB"), []
        for size in (1 << 20, 20_000, 300):
            try:
                with large:
                    while True: kept.append(bytearray(size))
            except MemoryError: n = len(kept)
            print(large.used >= n * size > 100 << 20, nativemem.process.usage().held >= n * size)
            kept.clear()
        """
        )
        == ["True True"] * 3
    )


@pytest.mark.parametrize(
    "fill",
    [
        "while True: kept.append(bytes(20_000))",
        "while True: kept.append(bytes(30))",
        "for i in range(len(kept)): kept[i] = 10**9 + i",
    ],
    ids=["20_000", "30", "ints"],
)
@pytest.mark.parametrize("how", ["unbounded", "scope", "limit"])
def test_a_handler_far_into_a_function_when_the_system_has_no_more(how: str, fill: str) -> None:
    """The interpreter makes an int to enter it, asking for ever: other ints do not use up what it needs."""
    code = """
import resource, sys
import nativemem
how, fill = sys.argv[1:]
nativemem.install(limit="10 GiB" if how == "limit" else None)
budget = nativemem.Budget("8 GiB")
code = "def far():\\n" + "".join(f"    a{i} = {i}; b{i} = a{i}\\n" for i in range(90)) + f'''
    times = 0
    for _ in range(2):
        kept = [None] * (2_000_000 if 'range' in fill else 0) # one that grows would be refused before an int is
        try:
            try:
                {fill}
            except KeyError: pass
        except MemoryError: times += 1
        kept = None
    return times
'''
names = {"fill": fill}
exec(code, names)
with open("/proc/self/statm") as file: in_use = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (32 << 20), -1))
if how == "scope":
    with budget: print(names["far"]())
else: print(names["far"]())
"""
    done = subprocess.run([sys.executable, "-c", code, how, fill], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
