"""PYT: the pytest plugin, by suites of its own that are run beside this one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import nativemem

pytest_plugins = ["pytester"]

native = pytest.mark.skipif(
    nativemem.backend != "native", reason="tests are charged by the engine, which is native"
)
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a suite in a process of its own, with the plugin and those that are named, and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(suite: str, *options: str, ini: str = "") -> pytest.RunResult:
        pytester.makepyfile(test_suite=suite)
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        return pytester.runpytest_subprocess(
            "-p", "nativemem", "-p", "no:cacheprovider", "--strict-markers", *options
        )

    return run


def needs(plugin: str) -> None:
    """Skips without importing it: what a test with `pytester` imports is taken out of sys.modules after it, and a
    package that was there in part, as rich may be, would have classes twice."""
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")


def failed(result: pytest.RunResult) -> dict[str, str]:
    """By test that failed, the reason of the short summary."""
    lines = [line for line in result.outlines if line.startswith(("FAILED ", "ERROR "))]
    return {line.split("::", 1)[1].split(" - ")[0]: line.partition(" - ")[2] for line in lines}


BUDGETS = """
import gc, unittest
import pytest
import nativemem

MiB = 1 << 20
over = pytest.mark.nativemem_budget("8 MiB")

@over
def test_small_blocks():
    rows = []
    def make():
        while True: rows.append([len(rows), bytes(1000)])  # this line
    make()

@over
def test_one_large_block(): bytearray(20 * MiB)

@over
def test_swallowed():
    try: bytearray(20 * MiB)
    except MemoryError: pass

@over
def test_within(): bytearray(5 * MiB)

@over
@pytest.mark.xfail(raises=MemoryError)
def test_expected(): bytearray(20 * MiB)

@pytest.mark.nativemem_budget(lambda n: n * 4 * MiB)
@pytest.mark.parametrize("n", [1, 2])
def test_parameters(n): bytearray(5 * MiB)

@over
class TestClass:
    def test_inherits(self): bytearray(20 * MiB)
    @pytest.mark.nativemem_budget("40 MiB")
    def test_nearest(self): bytearray(20 * MiB)
    @pytest.mark.nativemem_budget(None)
    def test_none(self): bytearray(200 * MiB)

class Case(unittest.TestCase):
    @over
    def test_unittest(self): bytearray(20 * MiB)

@pytest.fixture(scope="module")
def shared(): return bytearray(20 * MiB)
@pytest.fixture
def own(): return bytearray(20 * MiB)
@pytest.fixture
def dynamic(request): return request.getfixturevalue("later")
@pytest.fixture(scope="session")
def later(): return bytearray(20 * MiB)

@over
def test_shared_fixture(shared): assert shared
@over
def test_own_fixture(own): assert own
@over
def test_later_fixture(dynamic): assert dynamic

cache = nativemem.Budget("1 GiB", "cache")
@pytest.mark.nativemem_budget("64 MiB")
@pytest.mark.nativemem_budget("2 MiB", owner="cache")
def test_owner():
    with cache: bytearray(4 * MiB)
@pytest.mark.nativemem_budget("2 MiB", owner="made")
def test_owner_that_is_made():
    global made
    made = nativemem.Budget("1 GiB", "made")
    made.try_reserve(4 * MiB)
@pytest.mark.nativemem_budget("4 MiB", owner="no such")
def test_charged_under_it(): bytearray(8 * MiB)
def test_limits_are_as_before(): assert cache.limit == 1 << 30

@over
def test_its_budget(memory_budget):
    kept = bytearray(5 * MiB)
    assert memory_budget.limit == 8 * MiB and 5 * MiB < memory_budget.used <= memory_budget.peak < 8 * MiB
def test_a_budget_without_a_marker(memory_budget):
    used = memory_budget.used
    kept = bytearray(5 * MiB)
    assert 5 * MiB <= memory_budget.used - used < 6 * MiB
    memory_budget.limit = 10 * MiB
    with pytest.raises(MemoryError): bytearray(20 * MiB)
def test_traced(memory_trace):
    kept = [bytes(1000) for _ in range(1000)]
    first = memory_trace.places(of="live")[0]
    assert first.blocks >= 1000 and first.bytes >= MiB * 0.98 and "test_traced" in first.path[-1]
"""


@native
def test_budgets(run: Run) -> None:
    """PYT-1, PYT-2, PYT-3"""
    result = run(BUDGETS, "-rfE", "--nativemem-report=report.json")
    line = "MemoryError: nativemem: over the test's budget of"
    found = failed(result)
    assert set(found) == {
        *("test_small_blocks", "test_one_large_block", "test_swallowed", "test_parameters[1]"),
        *("TestClass::test_inherits", "Case::test_unittest", "test_own_fixture", "test_owner"),
        *("test_owner_that_is_made", "test_charged_under_it", "test_a_budget_without_a_marker"),
    }, result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() and result.ret == 1
    assert found["test_small_blocks"].startswith(line[:30])
    text = result.stdout.str()
    number = next(n for n, code in enumerate(BUDGETS.strip().splitlines(), 1) if "this line" in code)
    # of some hundred samples: 6.8 MiB with a standard deviation of 0.7
    site = rf"^  (?:[3-9]|10)\.\d MiB in [\d,]+ blocks: test_suite.py:{number} in \S*make$"
    assert re.search(site, text, re.M), text
    assert "called from test_suite.py:" in text
    large = r"budget of 8.0 MiB: 20.0 MiB were asked for with [0-9.]+ [KM]iB in use\n  refused at test_suite.py:"
    assert len(re.findall(large, text)) >= 5, text
    assert "over the budget 'cache' of 2.0 MiB: 4.0 MiB were asked for" in text
    assert "over the budget 'made' of 2.0 MiB: 4.0 MiB were in use at the peak" in text
    assert "over the budget 'no such' of 4.0 MiB" in text
    summary = text.partition("memory (nativemem) ==")[2].splitlines()[1:6]
    assert "TestClass::test_none" in summary[0] and summary[0].startswith("200."), text
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    by_name = {each["test"].partition("::")[2]: each for each in report["tests"]}
    assert by_name["test_within"]["outcome"] == "passed" and by_name["test_within"]["limit"] == 8 << 20
    assert 5 << 20 <= by_name["test_within"]["peak"] < 8 << 20
    assert by_name["test_shared_fixture"]["peak"] < 4 << 20
    assert by_name["test_small_blocks"]["places"][0]["blocks"] > 1000
    assert 7 << 20 < by_name["test_small_blocks"]["peak"] <= 8 << 20  # which is exact
    assert by_name["test_swallowed"]["denied"] == 1


ONE_AFTER_ANOTHER = """
import pytest
kept = []
def test_large():
    for _ in range(3): bytearray(40 << 20)  # the large one
def test_small(): pass
def test_swallowed():
    def little(): return bytes(1 << 19)
    little()
    try: bytearray(70 << 20)
    except MemoryError: pass
def test_after_a_refusal(): bytearray(50 << 20)
@pytest.mark.skip
def test_skipped(): pass
def test_keeps(): kept.append(bytearray(30 << 20))
def test_has_all_of_its_own(): bytearray(50 << 20)
def test_sets_the_limit(request):
    budget = request.getfixturevalue("memory_budget")
    assert budget.peak < 4 << 20 and budget.denied == 0 and budget.last_denial is None
    assert budget.name.endswith("test_sets_the_limit")
    budget.limit = 100 << 20
    bytearray(70 << 20)
def test_has_the_first_limit(): bytearray(70 << 20)
@pytest.mark.nativemem_budget("128 MiB")
def test_marked(): bytearray(70 << 20)
def test_unmarked(): bytearray(70 << 20)
"""


@native
def test_a_budget_of_its_own(run: Run) -> None:
    """PYT-5: a test is charged as if it were the first, though tests without a marker have their budget in turn."""
    result = run(ONE_AFTER_ANOTHER, "--nativemem-budget=64MiB", "--nativemem-report=report.json", "-rf")
    over = {"test_swallowed", "test_has_the_first_limit", "test_unmarked"}
    assert set(failed(result)) == over, result.stdout.str()
    tests = json.loads(Path("report.json").read_text(encoding="utf-8"))["tests"]
    by_name = {each["test"].partition("::")[2]: each for each in tests}
    assert 40 << 20 < by_name["test_large"]["peak"] < 44 << 20 and by_name["test_small"]["peak"] < 4 << 20
    assert by_name["test_marked"]["limit"] == 128 << 20 and by_name["test_unmarked"]["limit"] == 64 << 20
    at = next(n for n, code in enumerate(ONE_AFTER_ANOTHER.strip().splitlines(), 1) if "the large one" in code)
    paths = [place["path"] for place in by_name["test_swallowed"]["places"]]
    assert paths and all(f"test_suite.py:{at} " not in path[0] for path in paths), paths
    assert "test_suite.py" in str(paths)


LEAKS = """
import functools, logging, unittest, warnings
import pytest
no_leaks = pytest.mark.nativemem_no_leaks
kept, cache, sink = [], {}, bytearray()

def leak():
    kept.append(bytes(10))  # this line
@no_leaks
def test_some_bytes(): leak()
@no_leaks(repeat=40)
def test_storage_alone(): sink.extend(b"abc")
@no_leaks
class Case(unittest.TestCase):
    def test_unittest(self): kept.append(object())
class Async(unittest.IsolatedAsyncioTestCase):
    @no_leaks(2, 4)
    async def test_asynchronous(self): kept.append(bytes(100))
@no_leaks
def test_fails_when_repeated():
    assert "x" not in cache
    cache["x"] = 1

@no_leaks(warmup=0, repeat=3)
def test_a_cache_that_fills_once(): cache.setdefault("a", [bytes(100) for _ in range(1000)])
@functools.lru_cache(None)
def cached(n): return [n]
@no_leaks(warmup=0, repeat=5)
def test_a_cache_that_fills_late(): cached(cache.__len__() // 100)
@no_leaks
def test_garbage():
    a = []
    a.append(a)
@no_leaks
def test_output(capsys, caplog):
    print("x" * 10_000)
    logging.getLogger().warning("y" * 10_000)
    with pytest.warns(UserWarning): warnings.warn("z")
    assert len(caplog.records) == 1 and len(capsys.readouterr().out) == 10_001
    logging.getLogger().warning("y" * 10_000)
@no_leaks
@pytest.mark.filterwarnings("default")
def test_warnings(): warnings.warn("w" * 1000)
ring = [bytes(100) for _ in range(8)]
@no_leaks(warmup=8, repeat=6)
def test_as_much_comes_as_goes():
    ring.append(bytes(100))
    del ring[0]
@no_leaks
def test_and_traced(memory_trace): bytes(100)
"""


@native
def test_leaks(run: Run) -> None:
    """PYT-1, PYT-5"""
    result = run(LEAKS, "-rfE", "--nativemem-report=report.html")
    names = {"test_some_bytes", "test_storage_alone", "Case::test_unittest", "Async::test_asynchronous"}
    assert set(failed(result)) == names | {"test_fails_when_repeated"}, result.stdout.str()
    text = result.stdout.str()
    number = next(n for n, code in enumerate(LEAKS.strip().splitlines(), 1) if "this line" in code)
    assert re.search(
        r"the test grows by 43 B a repetition \(3 repetitions after 1 to warm up: \+43 B, \+43 B, \+43 B\)\n"
        rf"  43 B in 1 block: test_suite.py:{number} in leak\n"
        rf"      called from test_suite.py:{number + 2} in test_some_bytes\n",
        text,
    ), text
    assert "this was repetition 2 of 4; the first one passed" in text
    page = Path("report.html").read_text(encoding="utf-8")
    assert (
        "test_suite.py::test_garbage" in page and "http" not in page and f"test_suite.py:{number} in leak" in page
    )


WHOLE = """
import unittest, pytest
kept = []
def test_over(): bytearray(20 << 20)
def test_leaks(): kept.append(bytes(10))
@pytest.mark.nativemem_budget("64 MiB")
def test_has_its_own(): bytearray(20 << 20)
@pytest.mark.nativemem_no_leaks(repeat=0)
def test_may_leak(): kept.append(bytes(10))
"""


@native
@pytest.mark.parametrize("by", ["options", "ini"])
def test_a_whole_suite(run: Run, by: str) -> None:
    """PYT-5, PYT-6"""
    if by == "options":
        result = run(WHOLE, "-rfE", "--nativemem-budget", "8MiB", "--nativemem-no-leaks", "--nativemem-top=1")
    else:
        result = run(WHOLE, "-rfE", ini="nativemem_budget = 8MiB\nnativemem_no_leaks = true")
    assert set(failed(result)) == {"test_over", "test_leaks"}, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*= memory (nativemem) =*", "*20.* MiB of 64.0 MiB  test_suite.py::test_has_its_own"]
    )


MISTAKES = """
import pytest
@pytest.mark.nativemem_budget("much")
def test_size(): pass
@pytest.mark.nativemem_budget()
def test_nothing(): pass
@pytest.mark.nativemem_budget("1 MiB", owner=3)
def test_owner(): pass
@pytest.mark.nativemem_budget(lambda rows: rows)
def test_parameter(): pass
@pytest.mark.nativemem_no_leaks(repeat=-1)
def test_repeat(): pass
@pytest.mark.nativemem_no_leaks(often=2)
def test_often(): pass
"""


def test_mistakes(run: Run) -> None:
    """What a marker does not take is the test's error; what an option does not take ends the run."""
    result = run(MISTAKES, "-rfE")
    result.assert_outcomes(errors=6)
    text = result.stdout.str()
    for line in (
        "nativemem_budget: the limit takes bytes as an int",
        "nativemem_budget: missing a required argument: 'limit'",
        "nativemem_budget: the owner is the name of a budget, not 3",
        "nativemem_budget: the limit takes 'rows', and the test has no parameter of that name",
        "growth.repeat: takes a whole number, 1 to 1000000, not -1",
        "nativemem_no_leaks: got an unexpected keyword argument 'often'",
    ):
        assert f"nativemem: {line}" in text, text
    for option in ("--nativemem-budget=much", "--nativemem-report=report.txt"):
        result = run(MISTAKES, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "ERROR: nativemem: " in result.stderr.str(), result.stderr.str()


def test_off_by_default(run: Run) -> None:
    """PYT-4: neither it nor the package is loaded, but for its front, and nothing shows."""
    result = run(
        """
import sys
def test():
    ours = {name for name in sys.modules if name.startswith("nativemem")}
    assert ours - {"nativemem_autoinstall"} == {"nativemem_pytest"}, ours
""",
        "-v",
    )
    result.assert_outcomes(passed=1)
    assert "memory" not in result.stdout.str().partition("test session starts")[2].replace("plugins:", "")


WITHOUT = """
import pytest
import nativemem
kept = []
@pytest.mark.nativemem_budget("8 MiB")
def test_over(): bytearray(20 << 20)
@pytest.mark.nativemem_no_leaks
def test_leak(): kept.append(bytes(10))
def test_fixtures(memory_budget, memory_trace):
    assert memory_budget.used == 0 and memory_trace.peak == 0 and memory_trace.places() == []
cache = nativemem.Budget("1 GiB", "cache")
@pytest.mark.nativemem_budget("2 MiB", owner="cache")
def test_owner():
    with nativemem.Arena(owner=cache) if False else cache.reserve("4 MiB"): pass
"""


@pytest.mark.parametrize("how", ["NATIVEMEM_BACKEND=pure", "NATIVEMEM_DISABLE=1"])
def test_without_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """PYT-4: what cannot be done is said once, and fails no test; budgets of one's own are bounded."""
    name, _, value = how.partition("=")
    monkeypatch.setenv(name, value)
    result = run(WITHOUT, "-rfE", "--nativemem-budget=1MiB")
    assert set(failed(result)) == {"test_owner"}, result.stdout.str()
    assert "over the budget 'cache' of 2.0 MiB: 4.0 MiB were asked for" in result.stdout.str()
    note = "nativemem: nothing is measured, bounded or repeated here: "
    assert result.stdout.str().count(note) == 1 and f"{name}={value} is set" in result.stdout.str()


@native
def test_the_engine_is_there_before_pytest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-6: pytest does not warn that what the start-up files import can no longer be rewritten."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("NATIVEMEM_AUTOINSTALL", "1")
    others = (f"-pno:{name}" for name in ("asyncio", "memray", "rerunfailures"))
    result = run("def test_nothing(): pass", *others)
    assert result.ret == 0 and "arning" not in result.stdout.str() + result.stderr.str(), result.stdout.str()


XDIST = """
import pytest
@pytest.mark.nativemem_budget("8 MiB")
@pytest.mark.parametrize("i", range(4))
def test_over(i): bytearray((4 + 2 * i) << 20)
"""


@native
def test_with_xdist(run: Run) -> None:
    """PYT-4: reports of workers come together."""
    needs("xdist")
    result = run(XDIST, "-p", "xdist", "-n2", "-rfE", "--nativemem-report=report.json")
    assert set(failed(result)) == {"test_over[2]", "test_over[3]"}, result.stdout.str()
    assert "MemoryError: nativemem: over the test's" in failed(result)["test_over[3]"]
    result.stdout.fnmatch_lines(["*= memory (nativemem) =*", "*6.* MiB of 8.0 MiB  test_suite.py::test_over?1?"])
    tests = json.loads(Path("report.json").read_text(encoding="utf-8"))["tests"]
    assert sorted(each["outcome"] for each in tests) == ["failed"] * 2 + ["passed"] * 2


def test_notes_of_workers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("xdist")
    monkeypatch.setenv("NATIVEMEM_BACKEND", "pure")
    result = run(XDIST, "-p", "xdist", "-n2")
    result.assert_outcomes(passed=4)
    assert result.stdout.str().count("nothing is measured, bounded or repeated here") == 1


@native
def test_asynchronous_tests(run: Run) -> None:
    """PYT-4"""
    needs("pytest_asyncio")
    needs("anyio")
    result = run(
        """
import asyncio, unittest
import pytest
over, no_leaks = pytest.mark.nativemem_budget("8 MiB"), pytest.mark.nativemem_no_leaks
kept = []
async def body(size):
    await asyncio.sleep(0)
    await asyncio.gather(inner(size), asyncio.create_task(inner(size)))
async def inner(size):
    await asyncio.sleep(0)
    return bytearray(size)
async def leak():
    await asyncio.sleep(0)
    kept.append(bytes(10))
@pytest.fixture
def anyio_backend(): return "asyncio"

@pytest.mark.asyncio
class TestAsyncio:
    @over
    async def test_over(self): await body(20 << 20)
    @over
    async def test_within(self): await body(2 << 20)
    @no_leaks
    async def test_leak(self): await leak()
    @no_leaks
    async def test_no_leak(self): await body(100)
@pytest.mark.anyio
class TestAnyio:
    @over
    async def test_over(self): await body(20 << 20)
    @over
    async def test_within(self): await body(2 << 20)
    @no_leaks
    async def test_leak(self): await leak()
    @no_leaks
    async def test_no_leak(self): await body(100)
class Case(unittest.IsolatedAsyncioTestCase):
    @over
    async def test_over(self): await body(20 << 20)
    @over
    async def test_within(self): await body(2 << 20)
    @no_leaks
    async def test_no_leak(self): await body(100)
""",
        *("-p", "asyncio", "-p", "anyio", "-rfE"),
        ini="asyncio_default_fixture_loop_scope = function",
    )
    expected = {f"Test{kind}::test_{what}" for kind in ("Asyncio", "Anyio") for what in ("over", "leak")}
    assert set(failed(result)) == expected | {"Case::test_over"}, result.stdout.str()


@native
def test_reruns_and_subtests(run: Run) -> None:
    """PYT-4: each attempt is charged from the start."""
    needs("pytest_rerunfailures")
    result = run(
        """
import unittest
import pytest
tried = []
@pytest.mark.nativemem_budget("8 MiB")
@pytest.mark.flaky(reruns=2)
def test_rerun():
    tried.append(bytearray(5 << 20))  # three of them are above the limit
    assert len(tried) == 3
class Case(unittest.TestCase):
    @pytest.mark.nativemem_budget("8 MiB")
    def test_subtests(self):
        for size in 2, 20:
            with self.subTest(size): bytearray(size << 20)
    @pytest.mark.nativemem_no_leaks
    def test_no_leak(self):
        for size in 2, 20:
            with self.subTest(size): bytearray(size << 10)
@pytest.mark.nativemem_no_leaks
def test_no_leak(subtests):
    for size in 2, 20:
        with subtests.test(size=size): bytearray(size << 10)
""",
        *("-p", "rerunfailures", "-rfE", "--nativemem-report=report.json"),
    )
    assert set(failed(result)) == {"Case::test_subtests"}, result.stdout.str()
    tests = json.loads(Path("report.json").read_text(encoding="utf-8"))["tests"]
    assert [each["outcome"] for each in tests if "rerun" in each["test"]] == ["rerun", "rerun", "passed"]
    assert all((each["peak"] or 0) < 8 << 20 for each in tests)


@native
def test_beside_pytest_memray(run: Run) -> None:
    """No name is in both."""
    needs("pytest_memray")
    result = run(
        """
import pytest
@pytest.mark.limit_memory("64 MB")
@pytest.mark.nativemem_budget("8 MiB")
def test_both(): bytearray(20 << 20)
@pytest.mark.nativemem_no_leaks
@pytest.mark.limit_memory("64 MB")
def test_neither(): bytearray(2 << 20)
""",
        *("-p", "memray", "-rfE", "--memray"),
    )
    assert set(failed(result)) == {"test_both"}, result.stdout.str() + result.stderr.str()


@native
def test_a_report_that_cannot_be_written(run: Run) -> None:
    result = run("def test(): pass", f"--nativemem-report={os.path.join('no', 'such', 'file.json')}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["nativemem: the report was not written: *"])


@native
def test_another_profile_runs(run: Run) -> None:
    result = run(
        """
import pytest
import nativemem
from nativemem.observe.profile import Profile
nativemem.install()
profile = Profile().start()
@pytest.mark.nativemem_budget("8 MiB")
def test_over(): bytearray(20 << 20)
@pytest.mark.nativemem_no_leaks
def test_leak(): pass
def test_trace(memory_trace): assert memory_trace.peak == 0
""",
        "-rfE",
    )
    assert set(failed(result)) == {"test_over"}, result.stdout.str()
    assert result.stdout.str().count("one is running in this process") >= 1


@native
def test_refused_allocations(run: Run) -> None:
    """PYT-1, PYT-2: the marker and the fixture of fault injection."""
    result = run(
        """
import unittest
import pytest
def swallows():
    try: return [bytes(1000), bytes(1001)]
    except MemoryError: return []
def bears(): return [bytes(1000)]
@pytest.mark.nativemem_oom(domains="obj")
def test_sound(): bears()
@pytest.mark.nativemem_oom(domains="obj")
def test_swallows(): assert swallows()
@pytest.mark.nativemem_oom(nth=1)
def test_one(): bears()
@pytest.mark.nativemem_oom(sweep=False)
def test_nothing_asked(): pass
class Case(unittest.TestCase):
    @pytest.mark.nativemem_oom(nth=3)
    def test_unittest(self): bears()
def test_fixture(oom):
    assert oom(bears).allocations >= 1
    oom(swallows)
""",
        "-rfE",
    )
    assert set(failed(result)) == {"test_swallows", "test_nothing_asked", "test_fixture"}, result.stdout.str()
    text = result.stdout.str()
    assert "nativemem: 1 finding" in text and "wrong result" in text, text


def test_refused_allocations_on_the_pure_backend(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATIVEMEM_BACKEND", "pure")
    result = run("import pytest\n@pytest.mark.nativemem_oom\ndef test(oom): assert oom(lambda: []) is None")
    result.assert_outcomes(passed=1)
    assert result.stdout.str().count("no allocation is refused: ") == 1


@native
def test_the_programs_of_the_page(run: Run) -> None:
    """docs/testing_memory.md: each passes with the plugin; those without tests run by themselves."""
    page = (Path(__file__).parents[2] / "docs" / "testing_memory.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    suites = [program for program in programs if "def test_" in program]
    assert len(suites) >= 4 and len(suites) < len(programs)
    result = run("\n".join(suites), "--nativemem")
    result.assert_outcomes(passed=sum(len(re.findall(r"^def test_", suite, re.M)) for suite in suites) + 1)
    assert "memory (nativemem)" in result.stdout.str()
    for program in set(programs) - set(suites):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "grows by" in done.stdout, done.stderr
