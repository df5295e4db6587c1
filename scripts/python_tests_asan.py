"""The Python tests on an extension that is built with AddressSanitizer and UndefinedBehaviorSanitizer.

Usage: python_tests_asan.py [pytest arguments]

Works on a copy of the tree below build/asan, in an environment of its own. First it plants three mistakes, to see
that they are reported; then it runs the suite in three parts, each test file in a process of its own, as many at
once as there are processors:

* the contract, the errors, the bad input, the sweep, the differential test and the journal cache natively, with
  LeakSanitizer;
* the sweep of the interpreter's allocations, without it: the interpreter loses references then;
* the engine, without it: leaks are searched for in what malloc gave, so what only an object in the engine's region
  points to would be taken for lost.

Left out is what has no C of ours in its process (the pure backend, configuration, layering, documents, types) and
what measures, builds or starts other programs (build switch, checkers, command line, examples, instruction counts).

What LeakSanitizer can see is memory of the core and objects that the collector does not track; tracked objects stay
linked to one another to the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "asan"
TREE, VENV, REPORTS, SUPPRESSIONS = TOP / "tree", TOP / "venv", TOP / "reports", TOP / "leaks.supp"
PYTHON = VENV / "bin" / "python"

#: pytest's exit code where it selected no test of those that a file has
NO_TESTS = 5

#: CPython compiles extensions with -fwrapv and -DNDEBUG: signed overflow would be defined, and asserts gone.
LDFLAGS = "-fsanitize=address,undefined"
CFLAGS = f"{LDFLAGS} -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -fno-wrapv -UNDEBUG -DNM_DEBUG"

#: What others take once and keep. Each is a frame that calls of ours are never below, but the last: CPython gives
#: out again the floats that were let go, with the stack that made them first, so that stack says nothing.
KEPT_BY_OTHERS = (
    "lib_build_cpython_func",  # cffi, for each function of the extension that is looked up
    "ffi_internal_new",  # cffi, for the extension
    "_my_Py_InitModule",
    "_multiarray_umath",  # NumPy, when imported
    "fill_time",  # the interpreter, for the times of a file
    "PyFloat_FromDouble",
)

#: NumPy comes first: the tuples that it keeps would otherwise be some that tests have let go, with their stacks.
PYTEST = "import numpy, pytest, sys; sys.exit(pytest.main())"

LEAK_CHECKED = (
    "tests/contract",
    "tests/manager",
    "tests/structures",
    "tests/test_errors.py",
    "tests/test_bad_input.py",
    "tests/test_differential.py",
    "tests/test_sweep.py",
    "tests/test_journal_cache.py",
)
#: What it starts measures with tracemalloc, which loses what it knows of blocks when its process ends.
MEASURED = "test_the_table"
#: Where allocations of the interpreter fail, it loses references itself.
FAILING = ("tests/test_sweep.py::test_allocations_of_the_interpreter",)
PROCESS = "tests/test_bad_input.py::test_the_functions_of_the_process"
ENGINE = ("tests/test_engine.py", "tests/test_scopes.py", "tests/test_numpy_hook.py", PROCESS)
#: The engine in a program of its own, among the tests with leaks.
WITH_ENGINE = ("test_a_program_on_the_secure_engine", "test_the_functions_of_the_process")
DISTURBED = (
    # under ulimit -v: the sanitizer's own address space is larger than any limit
    "test_a_limit_on_address_space_is_met_with_a_smaller_region",
    # under a limit on what is committed: the same
    "test_a_system_that_commits_no_more",
    # measures what goes back to the system: the sanitizer holds on to freed memory
    "test_what_was_there_before_goes_back_where_it_came_from",
    "test_many_short_budgets",
    "test_an_idle_process_gives_back_what_it_had",
)

MISTAKES = {
    "a byte behind a block": (
        "import ctypes, nativemem; a = nativemem.Slab(); b = a.alloc(50); ctypes.memmove(b.address + 50, b'x', 1)",
        "use-after-poison",
    ),
    "a byte of an object that is gone, on the engine": (
        "import ctypes, nativemem; nativemem.install(); x = bytes(999); i = id(x); del x; ctypes.memset(i, 0, 1)",
        "use-after-poison",
    ),
    "a lost structure of the core": (
        "from nativemem._core import ffi, lib; lib.own_system(ffi.new('void **'))",
        "detected memory leaks",
    ),
}


def fail(message: str) -> None:
    sys.exit(f"python_tests_asan: {message}")


def run(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=cwd, env=os.environ | (env or {})).returncode
    if code:
        fail(f"{' '.join(words)} ended with {code}")


def library(name: str) -> str:
    try:
        command = ["gcc", f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        fail("missing: gcc; on Debian or Ubuntu: apt-get install gcc")
    if not Path(path).is_absolute():
        fail(f"missing: {name}; on Debian or Ubuntu: apt-get install libgcc-12-dev")
    return path


def watched(reports: Path, *, leaks: bool) -> dict[str, str]:
    """The environment of a process that has the sanitizers."""
    # Leaks are told apart by their stacks. Without frame pointers in the interpreter the fast way of finding
    # that out stops at the first of its frames; the slow one is bearable for a few.
    stacks = "fast_unwind_on_malloc=0:malloc_context_size=6" if leaks else "fast_unwind_on_malloc=1"
    return {
        # the interpreter is not linked to them
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        # pymalloc would hide objects in its arenas
        "PYTHONMALLOC": "malloc",
        # pytest holds back what goes to standard error, and a process that ends here never shows it
        "ASAN_OPTIONS": f"log_path={reports}/asan:allocator_may_return_null=1:detect_leaks={int(leaks)}:{stacks}",
        "LSAN_OPTIONS": f"suppressions={SUPPRESSIONS}:print_suppressions=0",
        "UBSAN_OPTIONS": f"log_path={reports}/ubsan:print_stacktrace=1",
        # the native backend must be there
        "CI": "1",
        "NATIVEMEM_TEST_EXAMPLES": "150",
    }


def build() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_core.c")
    for folder in ("csrc", "src", "scripts/backend"):
        shutil.copytree(ROOT / folder, TREE / folder, ignore=ignore)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, TREE / file)
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "setuptools>=77", "cffi>=1.17")
    flags = {"CC": "gcc", "USE_NATIVE_MEM": "1", "NATIVEMEM_CFLAGS": CFLAGS, "NATIVEMEM_LDFLAGS": LDFLAGS}
    run(*pip, "--force-reinstall", "--no-deps", "--no-build-isolation", ".", cwd=TREE, env=flags)
    run(*pip, "--no-build-isolation", ".[test]", cwd=TREE, env=flags)
    SUPPRESSIONS.write_text("".join(f"leak:{frame}\n" for frame in KEPT_BY_OTHERS), encoding="utf-8")


def without(*tests: str) -> str:
    return " and ".join(f"not {test}" for test in tests)


def new_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def text_of(reports: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(reports.glob("*")))


def check_the_checkers() -> None:
    for name, (code, report) in MISTAKES.items():
        reports = new_folder(REPORTS)
        env = os.environ | watched(reports, leaks="leak" in report)
        done = subprocess.run([str(PYTHON), "-c", code], env=env, cwd=TOP, capture_output=True, text=True)
        text = text_of(reports)
        if done.returncode == 0 or report not in text:
            fail(f"{name} was not reported\n{done.stdout}{done.stderr}{text}")
        print(f"reported, as it must be: {name}", flush=True)


class Part(NamedTuple):
    """One process: the tests of ``path`` that ``chosen``, an expression of pytest's, does not leave out."""

    path: str
    chosen: str
    leaks: bool

    def run(self, arguments: list[str]) -> int:
        """Prints what it said when it has ended, with the reports where it failed; returns its exit code."""
        reports = new_folder(REPORTS / re.sub(r"\W", "-", self.path))
        # The package is the installed one, not the tree. The cache would remember what fails under these flags;
        # its benchmark plug-in asks git
        plugins = ("-p", "no:cacheprovider", "-p", "no:benchmark")
        options = ("-q", *plugins, "-m", "not touches_freed", "-k", self.chosen)
        command = [str(PYTHON), "-c", PYTEST, *options, self.path, *arguments]
        env = os.environ | watched(reports, leaks=self.leaks)
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        code = done.returncode
        shown = done.stdout + (text_of(reports) if code else "")
        print(f"== {self.path}\n{shown}== {self.path}: exit code {code}", flush=True)
        return code


def parts() -> list[Part]:
    """What takes longest comes first, so that no processor waits for it at the end."""
    files: list[Path] = []
    for path in (ROOT / name for name in LEAK_CHECKED):
        files += path.glob("**/test_*.py") if path.is_dir() else [path]
    files.sort(key=lambda file: (file.parent.name != "contract", -file.stat().st_size, file))
    chosen = without("pure", "test_allocations_of_the_interpreter", MEASURED, *WITH_ENGINE)
    return [
        *(Part(name, without(*DISTURBED), leaks=False) for name in ENGINE),
        *(Part(str(file.relative_to(ROOT)), chosen, leaks=True) for file in files),
        *(Part(name, without(*DISTURBED, "pure"), leaks=False) for name in FAILING),
    ]


def main() -> None:
    build()
    check_the_checkers()
    todo = parts()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = list(pool.map(lambda part: part.run(sys.argv[1:]), todo))
    failed = [f"{part.path} ({code})" for part, code in zip(todo, codes, strict=True) if code not in (0, NO_TESTS)]
    if failed:
        fail(f"failed: {', '.join(failed)}")
    if set(codes) == {NO_TESTS}:
        fail("no test was selected")
    print(f"python_tests_asan: {len(todo)} parts passed")


if __name__ == "__main__":
    main()
