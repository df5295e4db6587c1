"""The figures that the project is held to, measured: `make metrics` writes docs/metrics.md.

Usage: metrics.py [--print]

Each figure has what it was at the baseline, its target, and what it is now; none is typed in. The baseline is the
commit below: its figures come out of git. What takes long is taken from the last run, if its output lies in
``build/``: the C tests under the sanitizers (``make -k c-tests-asan c-tests-tsan c-tests-valgrind``), coverage
(``make coverage``), the variants (``make check-all``). What was not run says so.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "metrics.md"
#: the first commit that counted instructions
BASELINE = "77232da"
NOT_RUN = "not run here"
HOT = ("nm_heap_malloc", "nm_heap_free", "arena: alloc", "slab: alloc")


class Metric(NamedTuple):
    name: str
    target: str
    command: str
    now: Callable[[], str]
    before: Callable[[], str] = lambda: "-"


def at_baseline(path: str) -> str:
    """The file's text at the baseline; empty where there is no git, or no such file."""
    done = subprocess.run(["git", "show", f"{BASELINE}:{path}"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def here(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# --- the sanitizers ---


def passes(kind: str) -> Callable[[], str]:
    def now() -> str:
        names = [path.stem for path in (ROOT / "tests" / "c").glob("test_*.c")]
        folder = ROOT / "build" / "c-tests" / kind
        built = [name for name in names if (folder / name).exists()]
        if not built:
            return NOT_RUN
        passed = [
            name
            for name in built
            if (folder / f"{name}.passed").exists()
            and (folder / f"{name}.passed").stat().st_mtime >= (folder / name).stat().st_mtime
        ]
        sources = [path for place in ("csrc", "tests/c") for path in (ROOT / place).rglob("*.[ch]")]
        changed = max(path.stat().st_mtime for path in sources)
        ran = min((folder / name).stat().st_mtime for name in built)
        old = ", before the last change of the sources" if ran < changed else ""
        return f"{100 * len(passed) / len(names):.0f} % ({len(passed)} of {len(names)} programs{old})"

    return now


# --- coverage ---


def coverage(file: str, covered: Callable[[dict[str, int]], tuple[int, int]]) -> Callable[[], str]:
    def now() -> str:
        path = ROOT / "build" / "coverage" / file
        if not path.exists():
            return NOT_RUN
        lines, of = covered(json.loads(path.read_text(encoding="utf-8")))
        asked = path.with_name("asked.txt")  # of pytest: then it was not every test
        part = asked.read_text(encoding="utf-8").strip() if asked.exists() else ""
        return f"{100 * lines / of:.1f} % of {of:,} lines" + f", by a part of the tests: `{part}`" * bool(part)

    return now


def of_c(found: dict[str, int]) -> tuple[int, int]:
    return found["line_covered"], found["line_total"]


def of_python(found: dict[str, int]) -> tuple[int, int]:
    totals: dict[str, int] = found["totals"]  # type: ignore[assignment]
    return totals["covered_lines"], totals["num_statements"]


# --- the surface and its words ---


def public_names(source: str) -> str:
    """How many names a package's ``__all__`` has."""
    for node in ast.walk(ast.parse(source)):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            value: ast.expr = node.value  # type: ignore[attr-defined]
            if isinstance(value, (ast.List, ast.Tuple)):
                return str(len(value.elts))
    return "-"


def names_now() -> str:
    import nativemem

    return str(len(nativemem.__all__))


def docstrings() -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docstrings.py"), "--least", "0"], capture_output=True, text=True
    )
    shares = dict(re.findall(r"^(\w+) +([\d.]+) %$", done.stdout, re.MULTILINE))
    names = re.match(r"(\d+) public names", done.stdout)
    if names is None or "what" not in shares:
        return NOT_RUN
    return f"{shares['what']} % of {names[1]} names have one, {shares['all']} % say all of it"


#: of each error text: columns status, class, message, state, layout, suggestion (tests/errors.txt)
RUBRIC = (
    ("says what it is about", lambda row, page: re.match(r"[\w.\[\] ]+: ", row[2]) is not None),
    (
        "has figures, or words of the state",
        lambda row, page: bool(re.search(r"\d", row[2]) or len(row[2].split()) > 4),
    ),
    ("is of a class with a code", lambda row, page: bool(row[1])),
    ("says what to do", lambda row, page: row[-1] not in ("", "None")),
    ("is of a class that docs/errors.md explains", lambda row, page: row[1] in page),
)


def errors(table: str, page: str) -> str:
    rows = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line.count(" | ") >= 5]
    if not rows:
        return "-"
    points = sum(bool(rule(row, page)) for row in rows for _, rule in RUBRIC)
    return f"{points / len(rows):.2f} of {len(RUBRIC)} points, {len(rows)} texts"


# --- speed ---


def instructions(table: str) -> str:
    rows = list(csv.reader(table.splitlines()))
    found = {row[0]: row[1] for row in rows if len(row) == 2}
    return ", ".join(f"{name} {found[name]}" for name in HOT if name in found) or "-"


def instructions_hold() -> str:
    """What the table says; tests/test_instructions.py compares it with what callgrind counts."""
    return instructions(here("bench/instructions.csv"))


def overhead() -> str:
    """The loops with everything charged and counted, by the engine without accounts."""
    found = re.search(
        r"^geometric mean of the loops +limit +([\d.]+) +<= ([\d.]+)", here("docs/measured/bench.txt"), re.MULTILINE
    )
    return f"{found[1]} of the time without" if found else NOT_RUN


def build_time() -> str:
    """Processor seconds of building the wheel with the core from the tree as it is."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        unwanted = shutil.ignore_patterns("build", "dist", ".venv*", ".git", "*.so", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=unwanted)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
            "--no-build-isolation",
        ]
        done = subprocess.run(
            [*command, "--wheel-dir", folder, str(tree)],
            env=os.environ | {"USE_NATIVE_MEM": "1"},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"metrics: the wheel could not be built\n{done.stdout}{done.stderr}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{seconds:.0f} s of one core"


def variants() -> str:
    path = ROOT / "build" / "check-all" / "summary.txt"
    return path.read_text(encoding="utf-8").splitlines()[-1] if path.exists() else NOT_RUN


METRICS = (
    Metric("C tests under AddressSanitizer, UBSan, LeakSanitizer", "100 %", "make -k c-tests-asan", passes("asan")),
    Metric("C tests under ThreadSanitizer", "100 %", "make -k c-tests-tsan", passes("tsan")),
    Metric("C tests under Valgrind", "100 %", "make -k c-tests-valgrind", passes("valgrind")),
    Metric("variants of the build", "none failed", "make check-all", variants),
    Metric("coverage of csrc", "at least 95 %", "make coverage", coverage("csrc.json", of_c)),
    Metric("coverage of src", "at least 95 %", "make coverage", coverage("src.json", of_python)),
    Metric(
        "names in `nativemem.__all__`",
        "at most 40",
        "pytest tests/contract/test_surface.py",
        names_now,
        lambda: public_names(at_baseline("src/nativemem/__init__.py")),
    ),
    Metric(
        "quality of error texts, by the rubric below",
        "5 of 5",
        "pytest tests/test_errors.py",
        lambda: errors(here("tests/errors.txt"), here("docs/errors.md")),
        lambda: errors(at_baseline("tests/errors.txt"), at_baseline("docs/errors.md")),
    ),
    Metric(
        "instructions of hot paths",
        "none grows unseen",
        "make instructions",
        instructions_hold,
        lambda: instructions(at_baseline("bench/instructions.csv")),
    ),
    Metric("everything counted and charged (P4)", "at most 1.02", 'make bench ARGS="-k p4"', overhead),
    Metric("docstrings of public names", "at least 98 %", "make docstrings", docstrings),
    Metric("building the wheel with the core", "-", "make metrics", build_time),
)


TEXT = """# Metrics

`make metrics` writes this page; nothing on it is typed in. The baseline is commit {baseline}; `-` is what it did
not have, or what its tree does not tell. What takes long comes from the last run whose results lie in `build/`, by
the command beside it; what was not run says so.

| metric | current | target | baseline | measured by |
| --- | --- | --- | --- | --- |
{rows}

At {at}. The row of P4 is from [measured/bench.txt](measured/bench.txt), on the machine that it names.

An error text of `tests/errors.txt` (each status in each of its situations) has a point for each of these:

{rubric}
"""


def page() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = done.stdout.strip() or "unknown"
    machine = f"{platform.machine()}, {cores} cores, {platform.system()} {platform.release()}"
    rows = [
        f"| {each.name} | {each.now()} | {each.target} | {each.before()} | `{each.command}` |" for each in METRICS
    ]
    return TEXT.format(
        baseline=BASELINE,
        rows="\n".join(rows),
        at=f"commit {commit}: {machine}, CPython {platform.python_version()}",
        rubric="\n".join(f"- it {text};" for text, _ in RUBRIC),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures, and writes docs/metrics.md.")
    parser.add_argument("--print", action="store_true", dest="shown", help="print the page, and write nothing")
    text = page()
    if parser.parse_args().shown:
        print(text)
        return
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(METRICS)} metrics, {text.count(NOT_RUN)} not run here")


if __name__ == "__main__":
    main()
