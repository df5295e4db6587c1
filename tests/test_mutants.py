"""The table of planted faults fits the sources, and a fault that nothing notices is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import mutants  # noqa: E402
import mutants_python  # noqa: E402
import mutants_random  # noqa: E402
from mutant_table import MUTANTS, Mutant  # noqa: E402
from mutants_equivalent import EQUIVALENT  # noqa: E402
from mutants_random import Equivalent  # noqa: E402

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
#: nothing but tables, declarations and what the compiler is told
WITHOUT = {"csrc/base/base.h", "csrc/base/poison.h", "csrc/heap/region.h", "csrc/engine/python.h"}


def test_the_table_reaches_every_source() -> None:
    assert len(BY_NAME) == len(MUTANTS)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.c")}
    assert sources <= {mutant.file for mutant in MUTANTS}
    assert not WITHOUT & {mutant.file for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_stands_just_once(mutant: Mutant) -> None:
    """Or it would plant nothing, or not what its name says."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new


def test_the_tests_that_a_mutant_names_are_there() -> None:
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, *names = test.split("::")
        text = "" if (ROOT / file).is_dir() else (ROOT / file).read_text(encoding="utf-8")
        assert (ROOT / file).exists() and all(name in text for name in names)


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8").partition("| mutant | file |")[2]
    rows = [line.split(" | ") for line in page.splitlines()[2:]]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [
        (mutant.name, f"`{mutant.file.removeprefix('csrc/')}`") for mutant in MUTANTS
    ]
    assert not any(row[2] == "nothing |" for row in rows)


def test_a_mutant_whose_text_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("twice twice", encoding="utf-8")
    for old in ("twice", "never"):
        with pytest.raises(mutants.Unfit, match="not once"):
            mutants.mutate(Mutant("wrong", "a.c", old, ""), tmp_path)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--list", "--only", "add-overflow", "--only", "pool-bit-not-set"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("add-overflow  csrc/include/nativemem/base.h\n")
    assert "pool-bit-not-set  csrc/alloc/pool.c\n  - c->taken[i / 64] |=" in listed
    with pytest.raises(SystemExit):
        mutants.main(["--only", "no-such"])
    assert "no such mutant: no-such" in capsys.readouterr().err


def drawn_from(root: Path, stratum: str) -> set[tuple[str, str]]:
    """Each change that may be drawn, as the line before and after."""
    lines = {
        file: (root / file).read_text(encoding="utf-8").splitlines() for file in ("csrc/a.c", "src/nativemem/a.py")
    }
    return {
        (old.strip(), (old[: change.start] + change.new + old[change.end :]).strip())
        for (file, line), changes in mutants_random.candidates(root, stratum).items()
        for old in [lines[file][line - 1]]
        for change in changes
    }


def test_what_may_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.c").write_text(
        "#include <a.h>\n"
        "static int f(int a, int *b) { /* a < b */\n"
        "    int c = a;\n"
        "    if (a < 7) return *b;\n"
        "    *b = c;\n"
        "    pthread_mutex_lock(&lock);\n"
        "    (void)atomic_fetch_add(&x, f(a, b));\n"
        "    while (!atomic_compare_exchange_weak(&x, &a, c)) continue;\n"
        "    atomic_store_explicit(&x, true, memory_order_release);\n"
        "}\n",
        encoding="utf-8",
    )
    (tmp_path / "src" / "nativemem").mkdir(parents=True)
    (tmp_path / "src" / "nativemem" / "a.py").write_text(
        '"""1 + 1"""\n'
        "def f(a: 'x < 1', b=2):\n"
        "    if not a or b < 3:\n"
        "        raise ValueError(f'{b + 1}')\n"
        "    self.a = g(b)\n"
        "    b += 1\n"
        "    return b\n",
        encoding="utf-8",
    )
    assert drawn_from(tmp_path, "c") == {
        ("if (a < 7) return *b;", "if (a <= 7) return *b;"),
        ("if (a < 7) return *b;", "if (a < 8) return *b;"),
        ("if (a < 7) return *b;", "if (!(a < 7)) return *b;"),
        ("if (a < 7) return *b;", "if (true) return *b;"),
        ("if (a < 7) return *b;", "if (false) return *b;"),
        ("*b = c;", ";"),
    }
    add, swap = "(void)atomic_fetch_add(&x, f(a, b));", "while (!atomic_compare_exchange_weak(&x, &a, c)) continue;"
    store = "atomic_store_explicit(&x, true, memory_order_release);"
    assert drawn_from(tmp_path, "atomics") == {
        ("pthread_mutex_lock(&lock);", "((int)0);"),
        (add, f"(void){mutants_random.torn('&x', 'o__ + (f(a, b))')};"),
        (swap, "while (!(atomic_store(&x, c), true)) continue;"),
        (store, "atomic_store_explicit(&x, true, memory_order_relaxed);"),
        (store, "((void)0);"),
    }
    assert drawn_from(tmp_path, "python") == {
        ("def f(a: 'x < 1', b=2):", "def f(a: 'x < 1', b=3):"),
        ("if not a or b < 3:", "if not (not a or b < 3):"),
        ("if not a or b < 3:", "if a or b < 3:"),
        ("if not a or b < 3:", "if not a and b < 3:"),
        ("if not a or b < 3:", "if not a or b <= 3:"),
        ("if not a or b < 3:", "if not a or b < 4:"),
        ("raise ValueError(f'{b + 1}')", "pass"),
        ("self.a = g(b)", "pass"),
        ("b += 1", "pass"),
        ("b += 1", "b += 2"),
        ("return b", "return None"),
    }


def test_which_of_two_that_are_equal_is_not_asked() -> None:
    """The lesser or the greater of two: `<` and `<=` are the same there, and nowhere else."""

    def operators(line: str) -> list[str]:
        changes = mutants_random.c_changes(line, ";")
        return [change.new.strip() for change in changes if change.what == "operator"]

    assert operators("    if (n > used(b) - sum) n = used(b) - sum;") == ["+", "+"]
    assert operators("    return a < b->c[i] ? a : b->c[i];") == operators("    x = f(a >= b ? b : a);") == []
    assert operators("    if (n > most) n = least;") == operators("    return a > b ? a : c;") == [">="]
    assert operators("    if (n > most) n += most;") == [">=", "-=", "="]
    assert operators("    bool more = a < b;") == ["<="]


def test_a_condition_keeps_its_strings() -> None:
    """They are blanks where operators are looked for; a change that is made of them would not compile."""
    line = '    if (!parse(args, "a < b") || none) return !same(name, "a && b");'
    changes = list(mutants_random.c_changes(mutants_random.code_only(line), ";", line))
    assert {change.new for change in changes if change.what == "operator"} == {" && "}
    conditions = [change.new for change in changes if change.what in ("condition", "result")]
    assert conditions == [
        '(!(!parse(args, "a < b") || none))',
        "(true)",
        "(false)",
        '!(!same(name, "a && b"))',
    ]


def test_a_seed_says_what_is_drawn(tmp_path: Path) -> None:
    first, left = mutants_random.draw(ROOT, 40, 5, ())
    again, _ = mutants_random.draw(ROOT, 40, 5, ())
    other, _ = mutants_random.draw(ROOT, 40, 6, ())
    assert first == again != other and left == []
    assert len({mutant.name for mutant in first}) == 40
    locks = [mutant for mutant in first if mutant.threads]
    assert 10 <= len(locks) and all("lock" in mutant.old for mutant in locks[10:] if "atomic" not in mutant.old)
    assert sum(mutant.file.endswith(".py") for mutant in first) == 10
    for mutant in first:
        (tmp_path / mutant.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / mutant.file, tmp_path / mutant.file)
        mutants.mutate(mutant, tmp_path)
        before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
        after = (tmp_path / mutant.file).read_text(encoding="utf-8").splitlines()
        assert [i for i, pair in enumerate(zip(before, after, strict=True), 1) if len(set(pair)) == 2] == [
            mutant.line
        ]
    gone = first[0]
    same = Equivalent(gone.file, gone.old.strip(), gone.new.strip(), "for one")
    without, left = mutants_random.draw(ROOT, 40, 5, (same,))
    assert gone not in without and (gone, "for one") in left


def test_every_mutant_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Each change of each line, with a name of its own; what is equivalent is left out here, too."""
    of = "src/nativemem/budgets/le*.py"
    found, left = mutants_random.every(ROOT, (of,), (), ("python",))
    lines = mutants_random.candidates(ROOT, "python")
    file = "src/nativemem/budgets/lending.py"
    assert {mutant.file for mutant in found} == {file} and left == []
    assert {mutant.line for mutant in found} == {line for at, line in lines if at == file}
    assert len({mutant.name for mutant in found}) == len(found) > 50
    gone = found[7]
    same = Equivalent(gone.file, gone.old.strip(), gone.new.strip(), "for one")
    assert (gone, "for one") in mutants_random.every(ROOT, (of,), (same,), ("python",))[1]
    in_c, _ = mutants_random.every(ROOT, ("csrc/alloc/arena.c",), (), ("c", "atomics"))
    assert len({mutant.name for mutant in in_c}) == len(in_c) > 20

    assert mutants.main(["--list", "--of", of, "--strata", "python", "--random", "5", "--seed", "3"]) == 0
    some = capsys.readouterr().out
    assert some.count(f"  {file}\n") == 5
    assert mutants.main(["--list", "--of", of, "--strata", "python"]) == 0
    assert capsys.readouterr().out.count(f"  {file}\n") == len(found)


def in_c(file: str, old: str, new: str) -> Mutant:
    """A mutant of the one line that is like this."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.strip() == old)
    return Mutant("drawn", file, lines[number - 1], lines[number - 1].replace(old, new), line=number)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="compiles")
def test_what_the_compiler_makes_the_same_of(tmp_path: Path) -> None:
    """What is for other interpreters, or tests an invariant, is no hole in the tests; anything else would be."""
    here = "NM_ASSERT(nm__is_held(&nm__region.lock));"
    other = in_c("csrc/base/events.c", "return count;", "return !(count);")
    assert mutants.is_the_same(in_c("csrc/heap/decay.c", here, ";"), tmp_path)
    assert not mutants.is_the_same(other, tmp_path)
    in_header = in_c("csrc/base/events.h", "NM__EVENT_MADE,", "NM__EVENT_MADE = 9,")
    assert not mutants.is_the_same(in_header, tmp_path)
    with pytest.raises(mutants.Stillborn):
        mutants.is_the_same(in_c("csrc/base/events.c", "return count;", "return coun;"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_tests_that_are_asked_are_there() -> None:
    assert all((ROOT / test).exists() for tests in mutants_random.TESTS.values() for test in tests)
    asked = (*mutants_random.MORE, *mutants_random.MORE_IN_C, *mutants_random.ORDERS)
    assert all((ROOT / test).exists() for test in asked)
    assert mutants_random.tests_of("src/nativemem/allocators/arena.py")[0] == "tests/contract/test_arena.py"
    assert all((ROOT / file).exists() for file in mutants_random.WITH_DOCTESTS)
    # a file or a folder of them
    assert all((ROOT / file).exists() for file in mutants_random.TESTS)


def test_what_is_equivalent_may_still_be_drawn() -> None:
    """Or its line is not what it was, and the reason may not hold."""
    drawn = set()
    for stratum in mutants_random.STRATA:
        for (file, line), changes in mutants_random.candidates(ROOT, stratum).items():
            if file in {equivalent.file for equivalent in EQUIVALENT}:
                old = (ROOT / file).read_text(encoding="utf-8").splitlines()[line - 1]
                drawn |= {(file, old.strip(), (old[: c.start] + c.new + old[c.end :]).strip()) for c in changes}
    assert all(equivalent.reason for equivalent in EQUIVALENT)
    assert {(e.file, e.old, e.new) for e in EQUIVALENT} <= drawn


def test_the_check_of_the_page_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mutants.noted(
        "text\n| mutant | file | caught by |\n| --- | --- | --- |\n"
        "| a | `x.c` | test_pool, SIGSEGV |\n"
        "| b | `x.c` | test_cells, test_of_it, runtime error: index 8 |\n"
        "| c | `x.c` | contract/test_sites, test_sites_name_file_line_and_function |\n"
        "| d | `x.c` | timeout |\n"
    )
    assert found["a"] == mutants.Noted("test_pool")
    assert found["b"] == mutants.Noted("test_cells", "test_of_it", "asan")
    sites = "tests/contract/test_sites.py"
    assert found["c"].in_python() == (sites, "-k", "test_sites_name_file_line_and_function and not pure")
    assert not any(found[name].in_python() for name in "abd")

    asked: list[tuple[str, ...]] = []
    tests = mutants.PythonTests(tmp_path)
    monkeypatch.setattr(tests, "prepare", lambda asked: None)
    monkeypatch.setattr(tests, "plant", lambda *_, **how: tmp_path)
    monkeypatch.setattr(tests, "ask", lambda _, __, which, ___: (asked.append(which), str(len(asked) - 1 or ""))[1])
    fault = next(mutant for mutant in MUTANTS if mutant.tests)
    assert tests.catch(fault, first=("those",)) == "1"  # it did not notice: all are asked
    assert tests.catch(fault, first=("those",)) == "2"  # it did
    assert asked == [("those",), fault.tests, ("those",)]


@pytest.mark.slow
def test_faults_are_caught_and_what_changes_nothing_survives(tmp_path: Path) -> None:
    """With one test program only, plain: each fault below is one that it notices."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build mutants with")
    c_tests = mutants.CTests(tmp_path, ["test_base"])
    for name in ("add-overflow", "budget-limit-off-by-one", "traced-bucket-of-a-power"):
        assert c_tests.catch(BY_NAME[name], "plain").startswith("test_base, test_")
    fault = BY_NAME["budget-limit-off-by-one"]
    same = replace(fault, name="same", new=fault.old + " /* the same */")
    assert c_tests.catch(same, "plain") == ""
    broken = replace(fault, name="broken", new=fault.old + " }")
    with pytest.raises(mutants.Unfit, match="does not compile"):
        c_tests.catch(broken, "plain")


def test_how_it_was_caught(tmp_path: Path) -> None:
    def describe(code: int | None, output: str) -> str:
        return mutants.CTests.describe("tests/c/test_x", code, output, tmp_path)

    source = tmp_path / "tests" / "c" / "test_x.c"
    source.parent.mkdir(parents=True)
    source.write_text("static void test_of_it(void) {\n    CHECK(0);\n}\n", encoding="utf-8")
    assert describe(1, "tests/c/test_x.c:2: 0\nFAILED test_of_it()\n") == "test_x, test_of_it"
    assert describe(-11, "tests/c/test_x.c:2: 0\n") == "test_x, test_of_it, SIGSEGV"
    assert describe(-6, "") == "test_x, SIGABRT"
    assert describe(None, "") == "test_x, timeout"
    report = "==1==ERROR: AddressSanitizer: use-after-poison on\n    #0 0x5 in test_of_it tests/c/test_x.c:2\n"
    assert describe(1, report) == "test_x, test_of_it, AddressSanitizer: use-after-poison"


ENDS = {
    "": "",
    "def test_second(): assert False": "test_a, test_second",
    "def test_second(): __import__('os').kill(__import__('os').getpid(), 11)": "test_a, test_second, SIGSEGV",
    "def test_second(): __import__('os')._exit(70)": "test_a, test_second, exit code 70",
    "def test_second(): raise KeyboardInterrupt": "test_a, test_second, pytest is interrupted",
    "def test_second(request): request.node.repr_failure = None; assert False": (
        "test_a, test_second, internal error of pytest"
    ),
    "raise ValueError": "test_a",
}


def test_how_a_python_test_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that takes down pytest is caught; if pytest comes to no verdict without it, nothing is said."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(mutants.PythonTests, "interpreter", staticmethod(lambda _: sys.executable))
    tests, fault = mutants.PythonTests(tmp_path), MUTANTS[0]
    trees = tmp_path / "sound", tmp_path / "mutant"
    for tree in trees:
        (tree / "tests").mkdir(parents=True)
        (tree / "tests" / "test_a.py").write_text("def test_first(): pass\n", encoding="utf-8")
    monkeypatch.setattr(tests, "sound", lambda: trees[0])
    asked = ("tests/test_a.py",)
    for more, told in ENDS.items():
        (trees[1] / "tests" / "test_a.py").write_text(f"def test_first(): pass\n{more}\n", encoding="utf-8")
        assert tests.ask(fault, trees[1], asked, False) == told
    (trees[1] / "tests" / "conftest.py").write_text("raise ValueError", encoding="utf-8")
    assert tests.ask(fault, trees[1], asked, False) == "pytest does not start"
    shutil.copy(trees[1] / "tests" / "conftest.py", trees[0] / "tests")
    with pytest.raises(mutants.Unfit, match="pytest ends with 4 on the sound sources"):
        tests.ask(fault, trees[1], asked, False)


def test_how_tests_in_a_fork_ended(tmp_path: Path) -> None:
    """Also where a mutant ends the process as if all were well."""
    server = mutants_python.Server(tmp_path / "map", 1)
    server.tests = {}

    def item(name: str, does: Callable[[], object]) -> Any:
        hook = SimpleNamespace(pytest_runtest_protocol=lambda item, nextitem: does())
        return SimpleNamespace(nodeid=name, config=SimpleNamespace(hook=hook))

    well, fails = item("well", lambda: None), item("fails", lambda: server.failed.append("fails"))
    ends, killed = item("ends", lambda: os._exit(0)), item("killed", lambda: os.kill(os.getpid(), 9))
    assert server.run([well, well]) == ("", False) == server.run([])
    assert server.run([well, fails, well]) == ("fails", False)
    assert server.run([well, ends, well]) == ("ends", False)
    assert server.run([well, killed]) == ("killed, signal 9", False)


SOUND = """
from __future__ import annotations
LIMIT = 3
def outer(n, most=LIMIT):
    def inner(x):
        return x + 1
    return [inner(i) for i in range(n) if i < most]
class Counter:
    step = 2
    def __init__(self):
        self.n = 0
    def count(self):
        self.n += self.step
        return self.n
"""


def module_of(path: Path, text: str) -> dict[str, Any]:
    made: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, str(path), "exec"), made)
    return made


@pytest.mark.parametrize(
    ("old", "new", "after"),
    [
        ("x + 1", "x - 1", ([-1, 0, 1], 2)),
        ("i < most", "i <= most", ([1, 2, 3, 4], 2)),
        ("self.n += self.step", "pass", ([1, 2, 3], 0)),
        ("return self.n", "return None", ([1, 2, 3], None)),
    ],
)
def test_code_of_a_mutant_in_functions_that_are_there(
    tmp_path: Path, old: str, new: str, after: tuple[object, object]
) -> None:
    path = str(tmp_path / "made.py")
    made = module_of(tmp_path / "made.py", SOUND)
    outer, counter = made["outer"], made["Counter"]()
    pairs = mutants_python.replacements(SOUND, SOUND.replace(old, new), path)
    mutants_python.plant(pairs, path)
    assert (outer(5), counter.count()) == after
    mutants_python.plant({new: old for old, new in pairs.items()}, path)
    counter.n = 0
    assert (outer(5), counter.count()) == ([1, 2, 3], 2)


@pytest.mark.parametrize(
    ("old", "new"), [("LIMIT = 3", "LIMIT = 4"), ("step = 2", "step = 3"), ("most=", "most=1 + ")]
)
def test_code_of_a_mutant_that_runs_at_the_import(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(mutants_python.AtImport):
        mutants_python.replacements(SOUND, SOUND.replace(old, new), str(tmp_path / "made.py"))


def test_a_function_that_is_not_what_its_file_says(tmp_path: Path) -> None:
    made = module_of(tmp_path / "made.py", SOUND.replace("+ 1", "+ 2"))
    path = str(tmp_path / "made.py")
    with pytest.raises(mutants_python.AtImport):
        mutants_python.plant(mutants_python.replacements(SOUND, SOUND, path), path)
    assert made["outer"](1) == [2]


def test_lines_that_run() -> None:
    """Of the package alone, in whatever thread."""
    from nativemem import config

    with mutants_python.Lines(Path(config.__file__).parent) as lines:
        thread = threading.Thread(target=config.HeapConfig)
        thread.start()
        thread.join()
        Path("here").exists()
    assert {file for file, _ in lines.seen} == {"config.py"}
    assert not sys.gettrace()


def test_programs_that_tests_start_import_the_mutants_package(tmp_path: Path) -> None:
    """Also those that are started without the environment of the tests."""
    package = tmp_path / "src" / "nativemem"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("where = __file__\n", encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = "import nativemem, pytest; print(nativemem.where)"
    command = [mutants.PythonTests.interpreter(tmp_path), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=300, check=True)
    assert done.stdout == f"{package / '__init__.py'}\n"
