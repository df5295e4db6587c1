"""Counts the instructions of each fast path with callgrind.

Usage: instructions.py [--write | --json]

Without an option: prints the table, with the peers that are installed. ``--write`` also puts our own counts into
``instructions.csv`` beside this file, which ``tests/test_instructions.py`` holds the core to. ``--json``: our own
counts for that test.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import core_build
import peers

TABLE = Path(__file__).resolve().parent / "instructions.csv"
HEAD = ("function", "instructions")
#: as in ``c/instructions.c``
CALLS = 1000
#: a function of libc's that an allocator of ours calls; what it costs is libc's
LIBC = re.compile(r"(malloc|free|calloc|realloc|posix_memalign|aligned_alloc)(@.*)?")
#: path -> function, and what to take off: "libc", or a path whose count is the upstream's
PATHS: dict[str, tuple[str, str | None]] = {
    "heap_malloc": ("nm_heap_malloc", None),
    "heap_free": ("nm_heap_free", None),
    "heap_malloc_1KiB": ("nm_heap_malloc (1 KiB)", None),
    "heap_free_1KiB": ("nm_heap_free (1 KiB)", None),
}
for _noun, _name in (
    ("arena", "arena"),
    ("stack", "stack"),
    ("pool", "pool"),
    ("slab", "slab"),
    ("heap_port", "heap"),
    ("system", "system"),
    ("limited", "limited"),
    ("traced", "traced"),
    ("traced_sizes", "traced with histogram"),
):
    for _slot in ("alloc", "free"):
        _less = {"system": "libc"}.get(_noun)
        if _noun in ("limited", "traced", "traced_sizes"):
            _less = f"bare_{_slot}"
        PATHS[f"{_noun}_{_slot}"] = (f"{_name}: {_slot}", _less)


def compiler_version() -> str:
    """For instance ``gcc 12.2.0 x86_64``: the counts are of its code."""
    words = core_build.compiler()
    text = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+\.\d+\.\d+", text)
    kind = "clang" if "clang" in text else "gcc"
    return f"{kind} {number[0] if number else '?'} {platform.machine()}"


def missing() -> str | None:
    """What is wanted and not there, or None."""
    if shutil.which("valgrind") is None:
        return "valgrind"
    return core_build.missing()


def _callgrind(program: Path, env: dict[str, str]) -> str:
    out = core_build.OUT / f"callgrind.{program.name}.{os.getpid()}"
    options = ["--tool=callgrind", "--toggle-collect=counted", f"--callgrind-out-file={out}"]
    command = ["valgrind", *options, str(program)]
    env = peers.clean(os.environ) | env
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        return out.read_text()
    finally:
        out.unlink(missing_ok=True)


def _calls(profile: str) -> dict[str, dict[str, int]]:
    """By caller and callee: the instructions of all its calls, with all that it calls. The number of calls that
    stands there too is not used: it counts those before the collection began."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    names: dict[str, str] = {}

    def name(text: str) -> str:  # "(3) name" the first time, "(3)" after that
        key, _, rest = text.partition(" ")
        return names.setdefault(key, rest)

    caller = callee = ""
    lines = iter(profile.splitlines())
    for line in lines:
        if line.startswith("fn="):
            caller = name(line[3:])
        elif line.startswith("cfn="):
            callee = name(line[4:])
        elif line.startswith("calls="):
            found[caller][callee] += int(next(lines).split()[-1])
    return found


def _each(profile: str) -> dict[str, tuple[float, float]]:
    """By path: instructions of one call, and how many of them are libc's."""
    calls = _calls(profile)
    each = {}
    for caller, callees in calls.items():
        if caller.startswith("path_"):
            if len(callees) != 1:
                raise RuntimeError(f"{caller} calls {sorted(callees)}, not one function")
            ((callee, cost),) = callees.items()
            inner = sum(spent for name, spent in calls.get(callee, {}).items() if LIBC.fullmatch(name))
            each[caller.removeprefix("path_")] = (cost / CALLS, inner / CALLS)
    return each


def own() -> dict[str, float]:
    """Instructions of one call, by function."""
    program = core_build.program("instructions", "instructions.c")
    each = _each(_callgrind(program, {}))
    counts = {}
    for path, (function, less) in PATHS.items():
        whole, libc = each[path]
        counts[function] = round(whole - (libc if less == "libc" else each[less][0] if less else 0), 1)
    return counts


def of_peers() -> dict[str, dict[str, float]]:
    """By peer: instructions of one call of malloc and free, at 64 bytes and 1 KiB."""
    program = core_build.program("instructions-malloc", "instructions.c", side="SIDE_MALLOC")
    return {
        name: {path: round(whole, 1) for path, (whole, _) in _each(_callgrind(program, env)).items()}
        for name, env in peers.found().items()
    }


def read() -> tuple[str, dict[str, float]]:
    """The compiler that the table was made with, and its counts."""
    first, *rest = TABLE.read_text(encoding="utf-8").splitlines()
    rows = list(csv.reader(rest))
    if not first.startswith("# ") or tuple(rows[0]) != HEAD:
        raise ValueError(f"{TABLE.name} is not a table of instruction counts")
    return first[2:], {function: float(count) for function, count in rows[1:]}


def write(counts: dict[str, float]) -> None:
    """Makes ``counts`` the table."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {compiler_version()}\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HEAD)
        rows.writerows((function, f"{count:g}") for function, count in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help="keep our own counts in instructions.csv")
    parser.add_argument("--json", action="store_true", help="print our own counts for programs to read")
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"missing: {lacking}; on Debian or Ubuntu: apt-get install valgrind gcc", file=sys.stderr)
        return 1
    counts = own()
    if options.json:
        print(json.dumps({"compiler": compiler_version(), "counts": counts}))
        return 0
    if options.write:
        write(counts)
    print(f"instructions of one call, {compiler_version()}, {' '.join(core_build.FLAGS[1:2])}")
    width = max(map(len, counts))
    for function, count in counts.items():
        print(f"{function:{width}}  {count:g}")
    print(f"\n{'peer':8}  malloc    free  malloc (1 KiB)  free (1 KiB)")
    for peer, each in of_peers().items():
        print(
            f"{peer:8}  {each['malloc']:6g}  {each['free']:6g}  {each['malloc_1KiB']:14g}  {each['free_1KiB']:12g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
