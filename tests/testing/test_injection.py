"""Fault injection: ``sweep``, on functions whose faults are known, and on an extension with five."""

from __future__ import annotations

import _thread
import ctypes
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nativemem
from nativemem.errors import ConfigError, NativeMemError, NativeUnavailable
from nativemem.testing import Findings, injection, stacks, sweep
from nativemem.testing.findings import KINDS
from nativemem.testing.injection_report import Shared
from nativemem.testing.stacks import c_frames

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "extension_under_test"

native = pytest.mark.usefixtures("needs_native")


class Kept:
    """What a function may change. The sweep runs in other processes, so here nothing of it is seen."""

    calls = 0
    broken = False
    blocks: list[bytes] = []


def big() -> bytes:
    """One allocation that is easy to have refused."""
    Kept.calls += 1
    return b"x" * 70_000


def on_want(act: Callable[[], object]) -> Callable[[], object]:
    """A function that takes memory, and does something of its own where there is none."""

    def function() -> object:
        try:
            big()
        except MemoryError:
            return act()
        return None

    return function


def the_one(findings: Findings) -> Any:
    assert len(findings) == 1, str(findings)
    assert findings[0].kind in KINDS
    return findings[0]


# ---- what is borne ------------------------------------------------------------------------------------------


@native
def test_each_allocation_is_refused_once() -> None:
    """INJ-1: counted, the same each time, and nothing happens in the process that asks."""

    def function() -> list[bytes]:
        return [bytes(1000 + i) for i in range(15)]

    first, second = sweep(function), sweep(function)
    assert list(first) == [], str(first)
    assert first.allocations == first.attempts == second.allocations >= 15
    assert first.unreached == 0 and first.stopped == "" and first.sites < 15
    assert first == second
    before = Kept.calls
    sweep(big)
    assert Kept.calls == before


@native
def test_a_memory_error_may_come_out_as_another_that_names_it() -> None:
    def said(error: type[Exception]) -> Callable[[], object]:
        def function() -> object:
            try:
                return big()
            except MemoryError as want:
                raise error("no memory") from want

        return function

    def only_said() -> None:
        try:
            big()
        except MemoryError:
            raise OSError("no memory") from None

    assert list(sweep(said(OSError))) == []
    assert the_one(sweep(only_said)).kind == "wrong exception"
    assert list(sweep(only_said, allowed=OSError)) == list(sweep(only_said, allowed=(KeyError, OSError))) == []


# ---- the kinds of findings ----------------------------------------------------------------------------------


def fails_with(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error from None

    return act


def hang() -> None:
    while True:
        signal.pause()


def stays_broken() -> None:
    Kept.broken = True
    raise MemoryError


def keeps() -> None:
    Kept.blocks.extend([b"x" * 70_000, b"y" * 70_000, b"z" * 70_000])
    raise MemoryError


def crash() -> None:
    ctypes.memset(0, 1, 1)


KINDS_SHOWN: dict[str, tuple[Callable[[], object], str]] = {
    "wrong exception": (fails_with(KeyError("x")), "KeyError: 'x'"),
    "no exception": (
        fails_with(SystemError("f returned NULL without setting an exception")),
        "SystemError: f returned",
    ),
    "stray exception": (
        fails_with(SystemError("f returned a result with an exception set")),
        "SystemError: f returned",
    ),
    "wrong result": (lambda: 1, "1 instead of None"),
    "exit": (lambda: os._exit(7), "status 7"),
    "hang": (hang, "did not end in time"),
    "crash": (crash, "SIGSEGV"),
    "leak": (keeps, "3 blocks each time"),
}


@native
@pytest.mark.parametrize("kind", KINDS_SHOWN)
def test_a_kind_of_finding(kind: str) -> None:
    """INJ-1: what it is, which allocation, and the stacks; the sweep has gone on after it."""
    act, detail = KINDS_SHOWN[kind]
    function = on_want(act)
    findings = sweep(function, timeout=2 if kind == "hang" else 30, leaks=kind == "leak")
    found = the_one(findings)
    assert found.kind == kind and detail in found.detail, str(findings)
    assert findings.attempts == findings.allocations
    assert found.size >= 70_000 and found.domain in ("raw", "mem", "obj")
    assert [frame.function for frame in found.python[:2]] == ["big", "function"]
    assert str(ROOT) in found.python[0].file or "test_injection" in found.python[0].file
    if sys.platform == "linux":
        stripped = not stacks._functions(found.c[0].module)[0]  # as Debian's, which names no static function
        assert stripped or any("bytes" in frame.function.lower() for frame in found.c), found.c
    if kind in ("crash", "hang"):
        assert found.end_python[0].function == act.__name__
    assert str(found.nth) in found.command and found.kind in str(findings)
    assert not Kept.broken and Kept.blocks == []


@native
def test_names_in_the_interpreters_cache_are_no_leak() -> None:
    """A lookup leaves its name in the cache of attributes, and may free another's there."""
    numbers = iter(range(10**6))

    def looks_up() -> None:
        getattr(Kept, f"no_{next(numbers)}", None)
        raise MemoryError

    assert list(sweep(on_want(looks_up), leaks=True)) == []


@native
def test_what_is_not_usable_afterwards() -> None:
    def function() -> object:
        if Kept.broken:
            raise ValueError("broken")
        return on_want(stays_broken)()

    found = the_one(sweep(function))
    assert found.kind == "not usable afterwards" and "ValueError: broken" in found.detail


@native
def test_an_attempt_without_its_alarm_is_ended() -> None:
    """INJ-1: from outside, where the function has taken the alarm away."""

    def deaf() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        hang()

    assert the_one(sweep(on_want(deaf), timeout=2)).kind == "hang"


# ---- which are tried ----------------------------------------------------------------------------------------


@native
def test_one_by_number() -> None:
    """INJ-2: the number that a finding names shows the same again, alone."""
    function = on_want(lambda: 1)
    found = the_one(sweep(function))
    again = sweep(function, nth=found.nth)
    assert again.attempts == 1 and the_one(again) == found
    with pytest.raises(ConfigError, match=rf"the function makes \d+ allocations, not {10**6}"):
        sweep(function, nth=10**6)


@native
def test_sites_are_sampled() -> None:
    """INJ-2: of each place so many; a place that has failed is not tried again."""

    def function() -> list[bytes]:
        return [bytes(1000 + i) for i in range(2100)]  # since 3.14 the ints take nothing

    findings = sweep(function)
    assert findings.allocations > 2000 > 3 * findings.sites >= findings.attempts > findings.sites
    assert sweep(function, per_site=1).attempts == findings.sites

    def failing() -> object:
        try:
            return function()
        except MemoryError:
            return 1

    found = the_one(sweep(failing))
    assert len(found.numbers) <= findings.sites


@native
def test_time_and_count_are_bounded() -> None:
    """INJ-2: it says that not all was tried."""

    def function() -> list[bytes]:
        time.sleep(0.02)
        return [bytes(1000 + i) for i in range(50)]

    late = sweep(function, seconds=0.3)
    assert late.attempts < late.allocations and "0.3 seconds were over" in late.stopped
    few = sweep(function, most=7)
    assert few.attempts == 7 and "more than most=7" in few.stopped and few.stopped in str(few)


@native
def test_all_from_one_on() -> None:
    def second_wind() -> object:
        try:
            return big()
        except MemoryError:
            return big()

    assert list(sweep(second_wind)) == []
    findings = sweep(on_want(lambda: bytes(80_000) and None), sticky=True)
    assert list(findings) == [] and findings.attempts == findings.allocations


# ---- sources ------------------------------------------------------------------------------------------------


@native
def test_each_domain_by_itself() -> None:
    """FAIL-4: what a domain takes from another for its own block has no number of its own."""

    def function() -> object:
        return [bytearray(3000), {i: str(i) for i in range(100)}, "x".encode("utf-16")]

    alone = {name: sweep(function, domains=name, nth=1).allocations for name in ("mem", "obj")}
    together = sweep(function, domains=("mem", "obj"), nth=1)
    assert together.allocations == sum(alone.values()) and together.domains == ("mem", "obj")
    assert sweep(function, nth=1).allocations >= together.allocations
    assert sweep(big).allocations == 1


def test_the_packages_own_allocators(nm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: on both backends; which need no core."""
    monkeypatch.setattr("nativemem.testing.injection_sources.configured", lambda: nm)

    def sound() -> None:
        with nm.Arena(4096) as arena:
            for _ in range(3):
                arena.alloc(3000)

    findings = sweep(sound, domains="allocators", leaks=True)
    assert (findings.allocations, findings.attempts, list(findings)) == (2, 2, [])

    def keeps_block() -> None:
        first = nm.default_system.alloc(10)
        try:
            nm.default_system.alloc(20).free()
        except MemoryError:
            Kept.blocks.append(first)
            raise
        first.free()

    found = the_one(sweep(keeps_block, domains="allocators", leaks=True))
    assert (found.kind, found.nth, found.domain) == ("leak", 2, "allocators")
    assert the_one(sweep(lambda: sound() and None or crash_without(nm), domains="allocators")).kind == "crash"


def crash_without(nm: Any) -> None:
    try:
        nm.default_system.alloc(10).free()
    except MemoryError:
        crash()


def test_malloc_needs_the_preloaded_library() -> None:
    with pytest.raises(NativeUnavailable, match="preloaded library"):
        sweep(big, domains="malloc")


def test_domains_need_the_core() -> None:
    program = "from nativemem.testing import sweep\nsweep(int)"
    env = {**os.environ, "NATIVEMEM_BACKEND": "pure", "NATIVEMEM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert "NativeUnavailable" in done.stderr


# ---- functions that do more than to compute -----------------------------------------------------------------


@native
def test_a_function_that_forks() -> None:
    """A child of its own is not refused, and does not come back as another attempt. In an interpreter of its own:
    with no memory for the list of what is called before a fork, CPython calls what comes after it all the same, and
    modules that release their locks there (logging, concurrent.futures) are not to be among it."""
    program = textwrap.dedent(
        """
        import os, sys
        from nativemem.testing import sweep

        def function(times):
            child = os.fork()
            if child == 0:
                for _ in range(times):
                    b"x" * 70_000
                return 5
            return os.waitpid(child, 0)[1]

        def function_and_locks():
            "Also how many locks were released that had not been taken."
            wrong = []
            sys.unraisablehook = lambda told: wrong.append(told.exc_type) if told.exc_type is RuntimeError else None
            return function(1), len(wrong)

        findings = sweep(function_and_locks)
        assert findings.attempts == findings.allocations > 0 and list(findings) == [], str(findings)
        findings = sweep(lambda: function(1))
        assert not {"logging", "concurrent.futures"} & set(sys.modules)
        assert list(findings) == [], str(findings)
        assert findings.attempts == findings.allocations < 60
        assert sweep(lambda: function(100), nth=1).allocations == findings.allocations
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@native
def test_a_function_that_starts_threads() -> None:
    """Theirs are not counted; also those that it leaves behind."""
    never = _thread.allocate_lock()
    never.acquire()

    def function() -> None:
        ended = _thread.allocate_lock()
        ended.acquire()

        def work() -> None:
            for _ in range(20):
                big()
            ended.release()
            never.acquire(timeout=300)

        _thread.start_new_thread(work, ())
        ended.acquire()

    findings = sweep(function)
    assert list(findings) == [], str(findings)
    assert findings.attempts == findings.allocations < 20


@native
@pytest.mark.parametrize("whose", ["the function's", "a library's, which each fork starts again"])
def test_results_are_compared_beside_threads(whose: str) -> None:
    program = textwrap.dedent(f"""
        import _thread, os, threading, time
        from nativemem.testing import sweep

        def start():
            threading.Thread(target=time.sleep, args=(300,), daemon=True).start()

        if {whose.startswith("a library")}:
            os.register_at_fork(after_in_child=start)
        else:
            never = _thread.allocate_lock()
            never.acquire()

        def function():
            if {whose.startswith("the function")}:
                try:
                    _thread.start_new_thread(never.acquire, ())
                except RuntimeError as error:
                    raise MemoryError from error
            try:
                b"x" * 70_000
            except MemoryError:
                return 1
            return None

        findings = sweep(function)
        assert [found.detail for found in findings] == ["1 instead of None"], findings
        again = sweep(function, nth=findings[0].nth)
        assert list(again) == list(findings), again
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@native
def test_a_function_that_ends_the_process() -> None:
    """Its status is what it should be; another is a finding."""

    def ends() -> None:
        bytes(60_000)  # whose MemoryError comes out, and once there is memory it ends as ever
        try:
            big()
        except MemoryError:
            os._exit(4)
        os._exit(3)

    findings = sweep(ends)
    found = the_one(findings)
    assert found.kind == "exit" and "status 4" in found.detail and findings.attempts > len(found.numbers)
    with pytest.raises(ConfigError, match="SystemExit"):
        sweep(sys.exit)


@native
def test_a_sweep_from_another_thread_and_within_a_scope() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(sweep(on_want(crash))))
    thread.start()
    thread.join()
    assert the_one(results[0]).kind == "crash"


@native
def test_with_the_engine(tmp_path: Path) -> None:
    program = (
        "import nativemem; from nativemem.testing import sweep\n"
        "f = lambda: [bytes(1000) for _ in range(9)]\n"
        "before = sweep(f); nativemem.install(); after = sweep(f)\n"
        "assert not len(before) and not len(after), (str(before), str(after))\n"
        "assert before.allocations == after.allocations == after.attempts, (before, after)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- bad calls ----------------------------------------------------------------------------------------------


async def coroutine() -> None: ...


def generator() -> Any:
    yield


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"function": 5}, "takes a callable, not 5"),
        ({"function": coroutine}, "only makes a coroutine"),
        ({"function": generator}, "only makes a generator"),
        ({"domains": "memory"}, "takes raw, mem and obj"),
        ({"domains": ()}, "takes raw, mem and obj"),
        ({"domains": ("obj", "allocators")}, "takes raw, mem and obj"),
        ({"domains": 3}, "takes raw, mem and obj"),
        ({"nth": 0}, "sweep.nth: takes an integer from 1"),
        ({"sticky": 1}, "sweep.sticky: takes True or False"),
        ({"allowed": 3}, "takes classes of exceptions, not 3"),
        ({"allowed": (KeyError, int)}, "takes classes of exceptions"),
        ({"leaks": None}, "sweep.leaks: takes True or False"),
        ({"per_site": 0}, "sweep.per_site: takes an integer from 1"),
        ({"most": 0}, "sweep.most: takes an integer from 1"),
        ({"most": 10**9}, "sweep.most: takes at most"),
        ({"seconds": -1}, "sweep.seconds: takes 0.01 to 86400 seconds, not -1"),
        ({"seconds": float("nan")}, "sweep.seconds"),
        ({"timeout": "1"}, "sweep.timeout"),
        ({"timeout": True}, "sweep.timeout"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sweep(**{"function": big, **arguments})


@native
def test_a_signal_ends_the_process_where_it_comes(tmp_path: Path) -> None:
    """Also one of which the code that got it could go on: nothing runs after it."""

    def goes_on() -> None:
        signal.raise_signal(signal.SIGALRM)
        (tmp_path / "went on").touch()

    with pytest.raises(ConfigError, match=f"ends with signal {int(signal.SIGALRM)} without any refusal"):
        sweep(goes_on)
    assert list(tmp_path.iterdir()) == []


@native
def test_a_function_that_does_not_do_by_itself() -> None:
    for function, says in (
        (fails_with(ValueError("of its own")), "fails without any refusal: ValueError: of its own"),
        (crash, f"ends with signal {int(signal.SIGSEGV)} without any refusal"),
        (hang, f"ends with signal {int(signal.SIGALRM)} without any refusal"),
    ):
        with pytest.raises(ConfigError, match=says):
            sweep(function, timeout=2 if function is hang else 30)
    with pytest.raises(ConfigError, match="took nothing from raw, so nothing was tried"):
        sweep(lambda: None, domains="raw")


# ---- the interpreter's own ----------------------------------------------------------------------------------


@native
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the fault is 3.11's")
def test_the_interpreters_own_are_kept_apart() -> None:
    """INJ-3: known by the stack of the refusal, or because no extension has a part in it."""

    def inner(depth: int) -> None:
        if depth == 0:
            raise ValueError
        inner(depth - 1)

    def function() -> None:
        try:
            inner(5)
        except ValueError:
            return

    findings = sweep(function)
    assert list(findings) == [], str(findings)
    assert [found.kind for found in findings.interpreter] == ["no exception"]
    assert "frame object has no memory" in findings.interpreter[0].known
    assert "the interpreter's own, 1:" in str(findings)


@native
def test_a_code_object_that_is_given_back_twice() -> None:
    """INJ-3: of 3.12 and 3.13; whatever comes of it, which may be anything. Here the references are counted."""

    def function() -> int:
        made = lambda: None  # noqa: E731
        return sys.getrefcount(made.__code__)

    (code,) = (each for each in function.__code__.co_consts if isinstance(each, types.CodeType))
    kept = [code] * 100  # so that it lasts
    findings = sweep(function)
    assert list(findings) == [], str(findings)
    known = [(found.kind, found.known) for found in findings.interpreter]
    twice = ("not usable afterwards", "a function object that has no memory gives its code object back twice")
    assert known == ([twice] if (3, 12) <= sys.version_info[:2] < (3, 14) else []), str(findings)

    # made by a call of a program's, and the same refusal is borne
    assert len(kept) == 100 and not sweep(lambda: types.FunctionType(code, {}) and None).interpreter


# ---- an extension with five mistakes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("extension") / "under_test"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("*.so", "build", "__pycache__"))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@native
def test_the_planted_mistakes(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-4: five of five, each in its place, and nothing else."""
    monkeypatch.syspath_prepend(str(records))
    use = load(records / "sweep.py").use
    findings = sweep(use, leaks=True)
    monkeypatch.delitem(sys.modules, "records")
    named = {
        next(frame.function for frame in found.c if frame.function.startswith("records_")): found.kind
        for found in findings
    }
    assert named == {
        "records_numbers": "crash",
        "records_index": "stray exception",
        "records_line": "crash",
        "records_pair": "leak",
        "records_mean": "crash",
    }, str(findings)
    assert len(findings) == 5 and findings.interpreter == ()
    by = {found.kind: found for found in findings if found.kind == "crash"}
    assert any(frame.function.startswith("records_") for frame in by["crash"].end_c)


@native
def test_the_program_of_the_example(records: Path) -> None:
    """INJ-2: what it prints has a command for each that shows it again."""
    done = subprocess.run(
        [sys.executable, "sweep.py"], cwd=records, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 findings: ") and done.stdout.count("again: sweep(use, nth=") == 5


@native
def test_the_pages_programs() -> None:
    """docs/injection.md: the examples, and that the interpreter's own faults show without nativemem."""
    page = (ROOT / "docs" / "injection.md").read_text(encoding="utf-8")
    first, block, lost, twice = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    programs = {first: "", block: ""}
    if importlib.util.find_spec("_testcapi") is not None:
        programs[lost] = "error return without exception set" if sys.version_info[:2] == (3, 11) else ""
        programs[twice] = "\n-1\n" if (3, 12) <= sys.version_info[:2] < (3, 14) else "\n0\n"
    for program, says in programs.items():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and says in f"\n{done.stdout}", done.stderr


# ---- stacks -------------------------------------------------------------------------------------------------


def test_a_report_is_what_the_core_writes(needs_native: None) -> None:
    from nativemem.backends.native.loader import dataplane

    Shared(dataplane.injection_size)
    with pytest.raises(RuntimeError, match="hooks are not there"):
        dataplane.injection_call(int, 7, 1, False, None)
    with pytest.raises(ValueError, match="too small"):
        dataplane.injection_open(bytearray(10))


def test_frames_of_c_as_text(tmp_path: Path) -> None:
    (tmp_path / "no.so").write_bytes(b"\x7fELF\x02 and then nothing")
    text = f"{tmp_path}/no.so\t1f\t\t0\nlib/x.so\tff\tf\t10\n?\t7f00\t\t0\nbroken\n"
    assert [str(frame) for frame in c_frames(text)] == ["no.so+0x1f", "f+0x10 (x.so+0xff)", "?+0x7f00"]


def test_names() -> None:
    assert {"Finding", "Findings", "sweep"} <= set(nativemem.testing.__all__)


def test_an_answer_in_pieces() -> None:
    """Of what comes through a pipe just one answer is taken, however it arrives."""
    end, told = os.pipe()
    with os.fdopen(end, "rb", buffering=0) as channel:
        os.write(told, b"ab")
        watched: list[Any] = []

        class Sweep:
            def watch(self, shared: Any) -> None:
                watched.append(shared)
                os.write(told, b"cdef")

        sweep_: Any = Sweep()
        shared: Any = object()
        assert injection._Sweep.received(sweep_, channel, shared, 4) == b"abcd"
        assert watched == [shared] and channel.read(2) == b"ef"
        os.close(told)
        with pytest.raises(NativeMemError, match="ended without a word"):
            injection._Sweep.received(sweep_, channel, shared, 1)
