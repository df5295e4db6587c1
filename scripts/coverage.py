"""Line coverage of csrc and src together, by the C tests and the Python suite.

Usage: coverage.py [--fail-under PERCENT] [pytest arguments]

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

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "coverage"
TREE, VENV = TOP / "tree", TOP / "venv"
PARTS = (".ci", "csrc", "src", "tests", "docs", "examples", "scripts", "bench")
FILES = (
    *("setup.py", "pyproject.toml", "README.md", "Makefile", "LICENSE", "MANIFEST.in"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", ".clang-tidy", ".pre-commit-config.yaml"),
)


#: what a tracer in the interpreter changes: it allocates, and its module cannot be loaded twice in a process
DISTURBED = (
    "tests/test_engine.py::TestObjects::test_counts_every_allocation_by_size",
    "tests/test_engine.py::TestObjects::test_subinterpreters",
    "tests/contract/test_lifetime.py::test_each_interpreter_has_errors_of_its_own",
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


def percent(covered: int, lines: int) -> float:
    return 100 * covered / lines if lines else 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fail-under", type=float, default=95.0, metavar="PERCENT")
    options, pytest_arguments = parser.parse_known_args()
    copy_tree()
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "setuptools>=77", "cffi>=1.17", "coverage>=7.10", "gcovr>=8")
    counted = {"USE_NATIVE_MEM": "1", "NATIVEMEM_CFLAGS": "--coverage -O0", "NATIVEMEM_LDFLAGS": "--coverage"}
    run(*pip, "--no-build-isolation", "--editable", ".[test]", env=counted)
    # once more, because pip throws the objects away, and with them what the counters are read by
    run(python, "setup.py", "--quiet", "build_ext", "--inplace", "--force", env=counted)

    # -O0 at the end, where it wins over the tests' own level
    run("make", "c-tests", "CC=gcc", "C_FLAGS=-std=c11 -pthread -Icsrc/include -Icsrc --coverage -O0 -Wno-error")
    (TOP / "asked.txt").write_text(" ".join(pytest_arguments), encoding="utf-8")
    data = {"COVERAGE_FILE": str(TOP / "data"), "COVERAGE_CORE": "ctrace"}
    run(python, "-m", "coverage", "erase", env=data)
    # the workers are processes of their own, which coverage's patch of subprocess counts
    workers = ("-n", os.cpu_count() or 1, "--dist", "loadfile")
    suite = (python, "-m", "coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers)
    tests = outcome(*suite, *(f"--deselect={test}" for test in DISTURBED), *pytest_arguments, env=data)
    run(python, "-m", "coverage", "combine", "--quiet", env=data)
    ours = "--include=src/nativemem/*"  # not the copies that the tests of the build switch make
    run(python, "-m", "coverage", "report", ours, env=data)
    run(python, "-m", "coverage", "json", "--quiet", ours, "-o", TOP / "src.json", env=data)
    gcovr = (python, "-m", "gcovr", "--root", ".", "--filter", "csrc/", "--merge-mode-functions=merge-use-line-0")
    run(*gcovr, "--txt", "--json-summary", TOP / "csrc.json")

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
