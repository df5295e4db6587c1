"""examples/c_libraries, run as a user runs it: Lua, SQLite, expat and zlib, each on a budget of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "c_libraries"
#: what each says when it is refused memory, and how often it asks for some in a little work, at least
SAYS = {
    "lua": ("LUA_ERRMEM", 300),
    "sqlite": ("SQLITE_NOMEM", 300),
    "expat": ("XML_ERROR_NO_MEMORY", 10),
    "zlib": ("Z_MEM_ERROR", 10),
}
ALLOCATORS = ("heap", "system")
ROW = re.compile(
    r"^ (?P<name>\w+) .*  (?P<used>[\d,]+) +(?P<peak>[\d,]+) +(?P<limit>[\d,]+)  (?P<said>\w+) +"
    r"(?P<asked>[\d,]+) +(?P<beside>[\d,]+) +(?P<left>[\d,]+) $",
    re.MULTILINE,
)

pytestmark = pytest.mark.usefixtures("needs_native")


def start(*arguments: str, first: str = "", then: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The example in a child, after the code ``first``, and with ``then`` behind it."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(FOLDER)!r}); sys.argv[0] = {str(FOLDER)!r}\n{first}\n"
        f"try: runpy.run_path({str(FOLDER)!r}, run_name='__main__')\n"
        f"except SystemExit as end: code = end.code\n{then}\nsys.exit(code)"
    )
    # coverage would use Python's sqlite3, and so SQLite, before the example configures it
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**environment, "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def run(*arguments: str, first: str = "", then: str = "") -> str:
    """What it prints; it must end well and have no complaints."""
    done = start(*arguments, first=first, then=then)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """The bindings. On a CI machine that they cannot be built is a failure."""
    pytest.importorskip("rich", reason="the example prints a table")
    done = subprocess.run([sys.executable, str(FOLDER)], capture_output=True, text=True, timeout=300, check=False)
    lines = done.stderr.splitlines()
    if done.returncode == 2 and lines and all(line.startswith("missing: ") for line in lines):
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, but {done.stderr}")
        pytest.skip(done.stderr)


@pytest.mark.parametrize("only", [*SAYS, None])
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_each_works_is_denied_and_leaves_nothing(allocator: str, only: str | None) -> None:
    printed = run("--allocator", allocator, *(("--only", only) if only else ()))
    rows = list(ROW.finditer(printed))
    assert [row["name"] for row in rows] == ([only] if only else list(SAYS))
    for row in rows:
        columns = ("used", "peak", "limit", "asked", "beside", "left")
        used, peak, limit, asked, beside, left = (int(row[name].replace(",", "")) for name in columns)
        assert limit / 8 < used <= peak <= limit
        assert row["said"] == SAYS[row["name"]][0]
        assert beside <= limit < beside + asked
        assert left == 0


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_any_allocation_may_fail(allocator: str) -> None:
    """Each in turn, alone and with all after it: no crash, no wrong result, nothing left."""
    printed = run("--faults", "--allocator", allocator)
    counts = {name: int(count) for name, count in re.findall(r"^(\w+): (\d+) allocations, ", printed, re.MULTILINE)}
    assert list(counts) == list(SAYS)
    assert all(counts[name] >= least for name, (_, least) in SAYS.items())


def test_it_is_noticed_that_a_library_keeps_something() -> None:
    done = start("--only", "lua", first="from on_lua import Lua; Lua.close = lambda self: None")
    assert done.returncode == 1
    assert re.match(r"c_libraries: CPort: \d+ blocks of [\d.]+ .iB in all are still with C\n", done.stderr)
    done = start("--only", "zlib", "--faults", first="from on_zlib import Link; Link.close = lambda self: None")
    assert done.returncode == 1
    assert re.match(r"c_libraries: (CPort|Failing): \d+ (live )?blocks? of ", done.stderr)


def test_it_is_noticed_that_a_library_is_not_denied() -> None:
    done = start("--only", "expat", first="from on_expat import Expat; Expat.too_much = 30")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("c_libraries: expat: was not denied, with <Budget 'expat' ")


def test_it_is_noticed_that_a_result_is_wrong() -> None:
    done = start("--only", "sqlite", first="from on_sqlite import SQLite; SQLite.query = lambda *_: (1, 2)")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "c_libraries: sqlite: the query's result is not right\n"


def test_where_sqlite_is_in_use_already_that_is_said() -> None:
    before = "import common, on_sqlite; common.load(on_sqlite.BINDING).lib.sqlite3_initialize()"
    done = start("--only", "sqlite", first=before)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("c_libraries: sqlite: SQLite is in use in this process, so it is too late to ")
    assert done.stderr.endswith("before anything imports Python's sqlite3 module\n")


def test_afterwards_sqlite_has_its_own_memory_again() -> None:
    pytest.importorskip("sqlite3")
    run("--only", "sqlite", then="import sqlite3; sqlite3.connect(':memory:').execute('SELECT 1').fetchone()")


@pytest.mark.parametrize(
    "env, first, package",
    [
        ({"CC": "no-such-compiler"}, "", "gcc"),
        (
            {},
            "import dataclasses, on_lua\n"
            "on_lua.Lua.binding = dataclasses.replace(on_lua.BINDING, header='no/such.h')",
            "liblua5.4-dev",
        ),
    ],
    ids=["compiler", "header"],
)
def test_what_is_missing_is_said(tmp_path: Path, env: dict[str, str], first: str, package: str) -> None:
    nowhere = f"import common, pathlib; common.BUILT = pathlib.Path({str(tmp_path)!r})"
    done = start("--only", "lua", first=f"{nowhere}\n{first}", **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"missing: {package}; on Debian or Ubuntu: apt-get install {package}\n"


def test_without_the_c_core_that_is_said() -> None:
    done = start(NATIVEMEM_BACKEND="pure")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("missing: the C core; ")
