"""Runs the harnesses of tests/cbmc under CBMC, or shows with --mutants that planted mistakes are refuted.

A harness says in its head comment what it needs, one directive a line: ``cbmc: source FILE...`` (of csrc, linked
as they are), ``unwind N``, ``loop NAME N``, ``call FUNCTION[.N] TARGET...`` (what the N-th call through a pointer
in it may reach, which CBMC then also proves), ``run NAME=VALUE...`` (one run with these macros). Each run is made
twice: for the properties, and for the harness's goals, each of which has to be reachable in one run at least.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HARNESSES = ROOT / "tests" / "cbmc"
BUILD = ROOT / "build" / "cbmc"
# nm__bump is one instruction of assembly otherwise, which CBMC takes for nothing
MACROS = ["NM__TSAN=1", "NM_STACK_ENTRIES=2"]  # and so few entries that a stack needs more
CHECKS = """--bounds-check --pointer-check --pointer-overflow-check --signed-overflow-check --undefined-shift-check
    --unwinding-assertions""".split()
# a variable for each element of an array costs more than it tells
COMMON = "--malloc-may-fail --malloc-fail-null --object-bits 10 --max-field-sensitivity-array-size 0".split()


@dataclass
class Harness:
    name: str
    sources: list[str] = field(default_factory=list)
    unwind: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    runs: list[list[str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Harness:
        harness = cls(path.stem)
        for key, value in re.findall(r"^ \* cbmc: (\w+) (.*)$", path.read_text(), re.M):
            words = value.split()
            if key == "source":
                harness.sources = words
            elif key == "unwind":
                harness.unwind = ["--unwind", words[0]]
            elif key == "loop":
                harness.loops += ["--unwindset", ":".join(words)]
            elif key == "call":
                function, _, number = words[0].partition(".")
                pointer = f"{function}.function_pointer_call.{number or 1}/{','.join(words[1:])}"
                harness.calls += ["--restrict-function-pointer", pointer]
            elif key == "run":
                harness.runs.append(words)
            else:
                raise SystemExit(f"cbmc: {path.name}: no such directive: {key}")
        if not harness.runs:
            raise SystemExit(f"cbmc: {path.name}: no runs")
        return harness


@dataclass
class Tools:
    cbmc: str
    compiler: str
    instrument: str

    @classmethod
    def find(cls) -> Tools:
        cbmc = shutil.which(os.environ.get("CBMC") or "cbmc")
        if cbmc is None:
            raise SystemExit(
                "missing: cbmc; on Debian 13 (trixie) or later: apt-get install cbmc; elsewhere from "
                "https://www.cprover.org/cbmc, then CBMC=path/to/cbmc"
            )
        beside = Path(cbmc).parent
        found = [
            shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
            for name in ("goto-cc", "goto-instrument")
        ]
        if found[0] is None or found[1] is None:
            raise SystemExit(f"missing: goto-cc and goto-instrument, which come with cbmc, beside {cbmc}")
        return cls(cbmc, found[0], found[1])

    def build(self, harness: Harness, run: list[str], tree: Path, cover: bool) -> Path:
        BUILD.mkdir(parents=True, exist_ok=True)
        plain, ready = BUILD / "plain.gb", BUILD / "ready.gb"
        macros = [f"-D{macro}" for macro in MACROS + run] + (["-DCOVER"] if cover else [])
        command = [self.compiler, "-std=c11", *macros, f"-I{tree}/include", f"-I{tree}", f"-I{HARNESSES}"]
        command += ["-o", str(plain), str(HARNESSES / f"{harness.name}.c")]
        quietly(command + [str(tree.parent / source) for source in harness.sources])
        quietly([self.instrument, *harness.calls, str(plain), str(ready)])
        return ready

    def check(self, harness: Harness, run: list[str], tree: Path, cover: bool = False) -> tuple[str, float]:
        """CBMC's answer, and the seconds that it took."""
        start = time.monotonic()
        program = self.build(harness, run, tree, cover)
        options = ["--no-standard-checks"] if cover else CHECKS
        command = [self.cbmc, str(program), *options, *COMMON, *harness.unwind, *harness.loops]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 10):
            raise SystemExit(f"cbmc: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout, time.monotonic() - start


def quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cbmc: {' '.join(command)}\n{done.stdout}{done.stderr}")


def failed(answer: str) -> list[str]:
    return re.findall(r"^\[.*: FAILURE$", answer, re.M)


def verify(tools: Tools, harnesses: list[Harness]) -> bool:
    good = True
    print(f"{'harness':44} {'properties':>10} {'goals':>7} {'seconds':>8}  verdict", flush=True)
    for harness in harnesses:
        reached: set[str] = set()
        goals: set[str] = set()
        for run in harness.runs:
            answer, seconds = tools.check(harness, run, ROOT / "csrc")
            cover, more = tools.check(harness, run, ROOT / "csrc", cover=True)
            verdict = re.findall(r"^\*\* (\d+) of (\d+) failed", answer, re.M)[-1]
            states = re.findall(r"^\[(\w+)\.\S+\] (line \d+) goal: (\w+)$", cover, re.M)
            here = {f"{function}, {line}" for function, line, state in states if state == "FAILURE"}
            goals |= {f"{function}, {line}" for function, line, _ in states}
            reached |= here
            holds = "VERIFICATION SUCCESSFUL" in answer and verdict[0] == "0"
            good &= holds
            name = f"{harness.name} {' '.join(run)}"
            print(
                f"{name:44} {verdict[1]:>10} {len(here):>7} {seconds + more:>8.0f}  "
                f"{'holds' if holds else 'FAILS'}",
                flush=True,
            )
            for line in failed(answer):
                print(f"    {line}")
        for place in sorted(goals - reached):
            good = False
            print(f"    never reached: {harness.name}: {place}")
    return good


@dataclass
class Mutant:
    """One mistake, and the run that has to find it."""

    what: str
    file: str
    old: str
    new: str
    harness: str
    run: int


MUTANTS = [
    Mutant(
        "align_up does not see an overflow",
        "include/nativemem/base.h",
        "if (n > SIZE_MAX - (align - 1)) return false;",
        "",
        "arithmetic",
        0,
    ),
    Mutant(
        "a product's limit is off by one",
        "include/nativemem/base.h",
        "a > SIZE_MAX / b",
        "a >= SIZE_MAX / b",
        "arithmetic",
        1,
    ),
    Mutant(
        "an arena's block may end a byte behind the chunk",
        "alloc/arena.c",
        "size > (uintptr_t)a->end - at ||",
        "size > (uintptr_t)a->end - at + 1 ||",
        "arena",
        0,
    ),
    Mutant(
        "an arena's chunk is aligned too little",
        "alloc/arena.c",
        "a->upstream.methods->alloc(a->upstream.self, capacity, align)",
        "a->upstream.methods->alloc(a->upstream.self, capacity, NM_ALIGN_DEFAULT)",
        "arena",
        0,
    ),
    Mutant(
        "an arena's cap does not bound a doubled chunk",
        "alloc/arena.c",
        "if (a->o.cap != 0 && want > a->o.cap - reserved) want = a->o.cap - reserved;",
        "",
        "arena",
        0,
    ),
    Mutant(
        "an arena's block grows over a mark",
        "alloc/arena.c",
        " || ptr < a->floor) return false;",
        ") return false;",
        "arena",
        1,
    ),
    Mutant(
        "an arena's release keeps what was used",
        "alloc/arena.c",
        "    arena_drop_to(a, mark->used, mark->live);",
        "    arena_drop_to(a, arena_used(a), mark->live);",
        "arena",
        2,
    ),
    Mutant(
        "an arena wipes a byte too few",
        "alloc/arena.c",
        "nm__wipe(ptr, size);",
        "nm__wipe(ptr, size - 1);",
        "arena",
        4,
    ),
    Mutant(
        "a stack's block may end a byte behind the chunk",
        "alloc/stack.c",
        "size > left - padding ||",
        "size > left - padding + 1 ||",
        "stack",
        0,
    ),
    Mutant(
        "a stack takes a block out of order",
        "alloc/stack.c",
        "if (s->entries[s->depth - 1].start != offset) return NM_LIFO_VIOLATION;",
        "",
        "stack",
        3,
    ),
    Mutant(
        "a stack's padding stays when its block goes",
        "alloc/stack.c",
        "s->pos = s->base + e->start - e->padding;",
        "s->pos = s->base + e->start;",
        "stack",
        5,
    ),
    Mutant(
        "a stack's padding stays when its block is freed",
        "alloc/stack.c",
        "s->pos = (char *)ptr - s->entries[--s->depth].padding;",
        "s->pos = (char *)ptr, --s->depth;",
        "stack",
        3,
    ),
    Mutant(
        "a pool forgets that a cell was given",
        "alloc/pool.c",
        "c->taken[i / 64] |= (uint64_t)1 << i % 64;",
        "",
        "pool",
        0,
    ),
    Mutant(
        "a pool forgets that a cell came back",
        "alloc/pool.c",
        "c->taken[i / 64] &= ~((uint64_t)1 << i % 64);",
        "",
        "pool",
        1,
    ),
    Mutant("a pool takes an address between two cells", "alloc/pool.c", "i * p->cell != offset || ", "", "pool", 0),
    Mutant(
        "a pool follows any link",
        "alloc/pool.c",
        "if (NM_UNLIKELY(i >= c->fresh || pool_is_taken(c, i))) return pool_refuse(p, NM_CORRUPTED, size);",
        "",
        "pool",
        2,
    ),
    Mutant(
        "a superblock has a cell too many",
        "alloc/cells.h",
        "(bytes - start) / cell;",
        "(bytes - start + cell - 1) / cell;",
        "cells",
        0,
    ),
    Mutant("a cell that was given back is lost", "alloc/cells.h", "    c->free = ptr;\n", "", "cells", 0),
]


def refute(tools: Tools, harnesses: list[Harness]) -> bool:
    by_name = {harness.name: harness for harness in harnesses}
    survivors = 0
    chosen = [mutant for mutant in MUTANTS if mutant.harness in by_name]
    for mutant in chosen:
        tree = BUILD / "mutant" / "csrc"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(ROOT / "csrc", tree)
        text = (tree / mutant.file).read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"cbmc: {mutant.file} has not this line, once: {mutant.old.strip()}")
        (tree / mutant.file).write_text(text.replace(mutant.old, mutant.new))
        harness = by_name[mutant.harness]
        answer, seconds = tools.check(harness, harness.runs[mutant.run], tree)
        # a loop that runs on past its bound shows nothing by itself
        why = [line for line in failed(answer) if ".unwind." not in line]
        survivors += not why
        print(f"{mutant.what:52} {seconds:5.0f} s  {why[0] if why else 'SURVIVES'}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants refuted")
    return survivors == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Bounded model checking of the C core with CBMC.")
    parser.add_argument("harness", nargs="*", help="names, as tests/cbmc/NAME.c; all where none is given")
    parser.add_argument("--mutants", action="store_true", help="show that planted mistakes are refuted")
    arguments = parser.parse_args()
    tools = Tools.find()
    paths = sorted(HARNESSES.glob("*.c"))
    unknown = set(arguments.harness) - {path.stem for path in paths}
    if unknown:
        parser.error(f"no such harness: {', '.join(sorted(unknown))}")
    chosen = [Harness.read(path) for path in paths if not arguments.harness or path.stem in arguments.harness]
    return 0 if (refute if arguments.mutants else verify)(tools, chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
