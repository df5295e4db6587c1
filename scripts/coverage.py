"""Line coverage of csrc and src together, by the C tests and the Python suite (what is not marked slow).

Usage: coverage.py [--python FILE] [--fail-under PERCENT] [pytest arguments]

The interpreter is the one that ``--python`` names, else the latest at hand (scripts/dist.py finds them): from 3.12
on lines are counted by `sys.monitoring`, which turns each line off once it was met, so that the suite takes hardly
longer; before, a trace function runs at each line, and it takes twice as long.

Works on a copy of the tree below build/coverage, so that nothing else uses the extension with counters. Prints
both tables and their sum; exit code 1 where either language is below the limit, or where a test failed: the tables
are shown all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dist

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "coverage"
TREE, VENV = TOP / "tree", TOP / "venv"
PARTS = (".ci", "csrc", "src", "tests", "docs", "examples", "scripts", "bench")
FILES = (
    *("setup.py", "pyproject.toml", "README.md", "Makefile", "LICENSE", "MANIFEST.in"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", ".clang-tidy", ".pre-commit-config.yaml"),
)


#: what a counter of lines in the interpreter changes: it allocates, imports, keeps code, starts in the main
#: interpreter alone, needs memory to end, and fails aloud where the interpreter's dictionary is emptied below it.
#: An extension that is built in place has headers beside it
DISTURBED = (
    "tests/observe/test_profile.py::test_code_that_goes_is_not_kept",
    "tests/test_case_studies.py::test_columns_of_handles",
    "tests/test_config.py::test_the_engine_alone_is_lean",
    "tests/test_core.py::test_the_guide_to_a_new_allocator_names_the_files_that_make_one",
    "tests/test_denials.py::TestProcessLimit::test_a_program_that_met_its_limit_ends",
    "tests/test_denials.py::TestProgress::test_it_comes_soon",
    "tests/test_engine.py::TestAtTheStart::test_other_interpreters_leave_it_to_the_first",
    "tests/test_engine.py::TestAtTheStart::test_in_other_interpreters_nothing_is_imported",
    "tests/test_engine.py::test_an_isolated_interpreter_has_the_pure_backend",
    "tests/test_engine.py::TestObjects::test_counts_every_allocation_by_size",
    "tests/test_engine.py::TestObjects::test_subinterpreters",
    "tests/test_examples.py::test_a_short_soak_runs_every_kind_of_work",
    "tests/test_goes_on.py::test_a_finder_works_for_the_import",
    "tests/test_goes_on.py::test_a_notebook_kernel",
    "tests/test_goes_on.py::test_an_interrupt",
    "tests/test_goes_on.py::test_errors_that_are_kept",
    "tests/test_scopes.py::TestLife::test_another_interpreter",
    "tests/testing/test_injection.py::test_the_pages_programs",
    "tests/contract/test_lifetime.py::test_each_interpreter_has_errors_of_its_own",
    "tests/contract/test_lifetime.py::test_an_interpreter_whose_end_took_the_package",
)


def outcome(*command: object, env: dict[str, str] | None = None) -> int:
    """Runs it in the copy of the tree; its exit code."""
    return subprocess.run([str(word) for word in command], cwd=TREE, env=os.environ | (env or {})).returncode


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Runs it in the copy of the tree; ends the program where it fails."""
    code = outcome(*command, env=env)
    if code:
        sys.exit(f"coverage: {' '.join(map(str, command))} ended with {code}")


def copy_tree() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_core.c")
    for part in PARTS:
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, TREE / part, ignore=ignore)
    for file in FILES:
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, TREE / file)


def newest() -> dist.Python:
    """The latest CPython of this machine that the core can be built for."""
    return [python for python in dist.interpreters([], []) if python.native][-1]


def version(python: str | Path) -> str:
    """Of an interpreter, with whether it has `sys.monitoring`."""
    about = "import sys; print(sys.version, hasattr(sys, 'monitoring'))"
    return subprocess.run([python, "-c", about], check=True, capture_output=True, text=True).stdout.strip()


def percent(covered: int, lines: int) -> float:
    return 100 * covered / lines if lines else 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", metavar="FILE", help="the interpreter (default: the latest at hand)")
    parser.add_argument("--fail-under", type=float, default=95.0, metavar="PERCENT")
    options, pytest_arguments = parser.parse_known_args()
    copy_tree()
    (interpreter,) = dist.interpreters([options.python], []) if options.python else [newest()]
    print(f"coverage: on {interpreter}", flush=True)
    python = VENV / "bin" / "python"
    if not python.exists() or version(python) != version(interpreter.file):
        subprocess.run([interpreter.file, "-m", "venv", "--clear", VENV], check=True)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "setuptools>=77", "cffi>=1.17", "coverage>=7.10", "gcovr>=8.8")
    counted = {"USE_NATIVE_MEM": "1", "NATIVEMEM_CFLAGS": "--coverage -O0", "NATIVEMEM_LDFLAGS": "--coverage"}
    run(*pip, "--no-build-isolation", "--editable", ".[test]", env=counted)
    # once more, because pip throws the objects away, and with them what the counters are read by
    run(python, "setup.py", "--quiet", "build_ext", "--inplace", "--force", env=counted)

    run("make", "c-tests-coverage", "CC=gcc")
    (TOP / "asked.txt").write_text(" ".join(pytest_arguments), encoding="utf-8")
    core = "sysmon" if version(python).endswith("True") else "ctrace"
    data = {"COVERAGE_FILE": str(TOP / "data"), "COVERAGE_CORE": core}
    run(python, "-m", "coverage", "erase", env=data)
    # the workers are processes of their own, which coverage's patch of subprocess counts
    workers = ("-n", len(os.sched_getaffinity(0)), "--dist", "loadfile", "-m", "not slow")
    suite = (python, "-m", "coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers)
    tests = outcome(*suite, *(f"--deselect={test}" for test in DISTURBED), *pytest_arguments, env=data)
    run(python, "-m", "coverage", "combine", "--quiet", env=data)
    ours = "--include=src/nativemem/*"  # not the copies that the tests of the build switch make
    run(python, "-m", "coverage", "report", ours, env=data)
    run(python, "-m", "coverage", "json", "--quiet", ours, "-o", TOP / "src.json", env=data)
    gcovr = (python, "-m", "gcovr", "--root", ".", "--filter", "csrc/", "--merge-mode-functions=merge-use-line-0")
    # lines of the heap run more often than 2^32 times, which gcovr takes for a fault of gcov's
    often = ("--gcov-suspicious-hits-threshold", "0")
    run(*gcovr, *often, "--txt", "--json-summary", TOP / "csrc.json")

    c = json.loads((TOP / "csrc.json").read_text())
    py = json.loads((TOP / "src.json").read_text())["totals"]
    table = {
        "csrc": (c["line_covered"], c["line_total"]),
        "src": (py["covered_lines"], py["num_statements"]),
    }
    table["both"] = tuple(map(sum, zip(*table.values(), strict=True)))  # type: ignore[assignment]
    print("lines     covered   all   percent")
    for name, (covered, lines) in table.items():
        print(f"{name:8} {covered:8} {lines:6} {percent(covered, lines):8.1f}")
    if tests:
        print(f"coverage: the tests ended with {tests}")
    return int(tests != 0 or any(percent(*row) < options.fail_under for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
