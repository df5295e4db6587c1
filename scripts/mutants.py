"""Plants mistakes in the core, one at a time, and shows which check finds each.

Usage: mutants.py [--list] [--only NAME ...] [--markdown]

Each mutant is one line changed in a copy of the tree below build/mutants. The C tests are run on it, plain and then
under AddressSanitizer and UBSan, those of the data plane with the contract suite; the first check that fails has
caught it. A mutant that nothing catches is a hole in the tests: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "mutants"
#: seconds for one test program; a mutant that runs longer hangs, which is a way of being caught
PATIENCE = 120

FLAGS = "-g -std=c11 -pthread -Icsrc/include -Icsrc -w".split()
MODES = {
    "plain": ["-O1"],
    "asan": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}


@dataclass(frozen=True)
class Mutant:
    """``old`` stands exactly once in ``file`` and becomes ``new``."""

    name: str
    file: str
    old: str
    new: str

    @property
    def needs_python(self) -> bool:
        """Whether only the extension has the code."""
        return self.file.startswith("csrc/python")


def m(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"csrc/{file}", old, new)


BASE, UTIL = "include/nativemem/base.h", "include/nativemem/utilities.h"
PORT, PLANE = "include/nativemem/port.h", "python/dataplane.c"
ARENA, STACK, POOL, SLAB = "alloc/arena.c", "alloc/stack.c", "alloc/pool.c", "alloc/slab.c"
CELLS, HEAP, REGION, BUDGET = "alloc/cells.h", "alloc/heap.c", "alloc/region.c", "base/budget.c"

MUTANTS = (
    m("add: overflow not checked", BASE, "if (a > SIZE_MAX - b) return false;", ""),
    m("mul: overflow not checked", BASE, "if (b != 0 && a > SIZE_MAX / b) return false;", ""),
    m("align_up: overflow not checked", BASE, "if (n > SIZE_MAX - (align - 1)) return false;", ""),
    m("layout: any size", BASE, "return size <= NM_SIZE_MAX && nm_is_power", "return nm_is_power"),
    m("next_power_of_two: overflow", UTIL, "if (n > SIZE_MAX / 2 + 1) return false;", "if (n > SIZE_MAX - 8) return false;"),
    m("realloc: copies too much", PORT, "memcpy(moved, ptr, old < size ? old : size);", "memcpy(moved, ptr, size);"),
    m("realloc: loses a refused free", PORT, "(void)nm_free(a, moved, size, align);", ""),
    m("constant time: last byte not seen", "base/utilities.c", "i < size; i++) {", "i + 1 < size; i++) {"),
    m("wipe dropped", "base/base.c", "memset(ptr, 0, size);", ""),
    m("budget: one byte above the limit", BUDGET, "after > (held_back < limit", "after - 1 > (held_back < limit"),
    m("budget: leaf not rolled back", BUDGET, "nm__atomic_sub(&b->used, n);\n        return false;", "return false;"),
    m("budget: parent not released", BUDGET, "discharge(b->parent, n);\n    return NM_OK;", "return NM_OK;"),
    m("threads share a number", "base/thread.c", "memory_order_relaxed) + 1;", "memory_order_relaxed) * 0 + 1;"),
    m("threads: the end is not told", "base/thread.c", "if (hook != NULL) hook();", ""),
    m("arena: one byte over the chunk's end", ARENA, "size > (uintptr_t)a->end - at ||", "size > (uintptr_t)a->end - at + 1 ||"),
    m("arena: alignment ignored", ARENA, "((uintptr_t)a->pos + (align - 1)) & ~(uintptr_t)(align - 1);", "(uintptr_t)a->pos;"),
    m("arena: cap ignored by large blocks", ARENA, "if (a->o.cap != 0 && size > a->o.cap - reserved) goto exhausted;", ""),
    m("arena: grows over a mark", ARENA, "|| ptr < a->floor) return false;", ") return false;"),
    m("arena: generation of a mark not compared", ARENA, "mark->generation != a->generation || !in_list(a->head", "!in_list(a->head"),
    m("arena: reset does not wipe", ARENA, "erase(a, a->head->base + offset, filled - offset);", ""),
    m("arena: a failed alloc is not counted", ARENA, "nm__count_failure(&a->failures);", ""),
    m("arena: dropped chunk not accounted", ARENA, "nm__set(&a->reserved, nm__get(&a->reserved) - c->capacity);", ""),
    m("arena: any thread", ARENA, "if (NM_UNLIKELY(!is_mine(a))) return nm_refuse(", "if (0) return nm_refuse("),
    m("stack: padding not reclaimed", STACK, "s->pos = s->base + e->start - e->padding;", "s->pos = s->base + e->start;"),
    m("stack: any order", STACK, "if (s->entries[s->depth - 1].start != (size_t)(ptr - s->base)) return NM_LIFO_VIOLATION;", ""),
    m("stack: one byte over the end", STACK, "size > left - padding ||", "size > left - padding + 1 ||"),
    m("stack: a mark's block not compared", STACK, "mark->serial != serial_at(s, mark->depth))", "false)"),
    m("stack: resize over the end", STACK, "|| size > (size_t)(s->end - ptr)) return false;", ") return false;"),
    m("pool: bit not set", POOL, "c->taken[i / 64] |= (uint64_t)1 << i % 64;", ""),
    m("pool: bit not cleared", POOL, "c->taken[i / 64] &= ~((uint64_t)1 << i % 64);", ""),
    m("pool: link not checked", POOL, "if (NM_UNLIKELY(i >= c->fresh || is_taken(c, i))) return refuse(p, NM_CORRUPTED, size);", ""),
    m("pool: boundary not checked", POOL, "i * p->cell != offset || ", ""),
    m("pool: full chunk not listed again", POOL, "if (NM_UNLIKELY(c->used-- == c->cells)) {", "if (c->used-- == 0) {"),
    m("pool: one cell too many", POOL, "if (NM_UNLIKELY(++c->used == c->cells)) p->open", "if (NM_UNLIKELY(++c->used > c->cells)) p->open"),
    m("cells: one too many", CELLS, "uint32_t capacity = (bytes - start) / cell;", "uint32_t capacity = (bytes - start) / cell + 1;"),
    m("cells: lost in a stretch", CELLS, "c->fresh = stop;", "c->fresh = stop + c->cell <= c->end ? stop + c->cell : stop;"),
    m("slab: alignment ignored", SLAB, "if (b->cell >= size && nm_is_aligned(b->cell, align)) return", "if (b->cell >= size) return"),
    m("slab: remote free lost", SLAB, "nm__remote_push(&s->remote, ptr, 0);", ""),
    m("slab: no spare is kept", SLAB, "if (b->spare == NULL) b->spare = sb;\n        else return_superblock(s, sb);", "return_superblock(s, sb);"),
    m("slab: empty superblocks stay", SLAB, "else return_superblock(s, sb);\n    }\n}", "}\n}"),
    m("slab: end of its thread not seen", SLAB, "if (atomic_load(&s->state) != OWNED) collect_abandoned(s);", ""),
    m("slab: foreign block taken", SLAB, "if (sb->slab != s || sb->cells.cell != b->cell) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);", ""),
    m("heap: bin one too small", "alloc/heap.h", "return (size + 15) >> 4; }", "return size >> 4; }"),
    m("heap: remote free lost", HEAP, "nm__remote_push(&part->remote, ptr, part->heap->key);", ""),
    m("heap: abandoned part not collected", HEAP, "if (atomic_load(&part->state) == NM__ABANDONED) collect_abandoned(part);", ""),
    m("heap: span stays charged", HEAP, "nm__region_give(p, npages);\n    discharge(h, npages);", "nm__region_give(p, npages);"),
    m("heap: foreign block taken", HEAP, "if (p->part != NULL ? p->part->heap != h : p->kind != NM__SPAN || heap_of_span(p) != h)", "if (0)"),
    m("heap: aligned block in any bin", HEAP, "while (!nm_is_aligned(nm__bin_sizes[bin], align)) bin++;", ""),
    m("secure: canary not checked", HEAP, "if (t->canary != live_canary(h, ptr, *size) || *size > room) return NM_CORRUPTED;", ""),
    m("secure: slack not checked", HEAP, "if ((unsigned char)ptr[i] != (h->canary & 0xFF)) return NM_CORRUPTED;", ";"),
    m("secure: freed block not wiped", HEAP, "nm__wipe(ptr, room);\n", ""),
    m("secure: second free not seen", HEAP, "if (t->canary == freed_canary(h, ptr)) {", "if (0) {"),
    m("region: neighbour behind not merged", REGION, "if (index + n < region.frontier && p[n].kind == kind) {", "if (0) {"),
    m("region: kinds merged", REGION, "if (index > 0 && p[-1].kind == kind) {", "if (index > 0 && (p[-1].kind == NM__DIRTY || p[-1].kind == NM__CLEAN)) {"),
    m("region: nothing decays", REGION, "bool old = now - aged(region.oldest)->since_ms >= region.decay_ms;", "bool old = false;"),
    m("region: dirty span called zero", REGION, "zero = want_zero && nm__os_purge(nm__page_base(p), n << NM__PAGE_SHIFT);", "zero = want_zero;"),
    m("limited: growth not charged", "wrap/limited.c", "if (size > old && !nm__budget_hold(l->budget, size - old)) {", "if (0) {"),
    m("limited: refused block stays charged", "wrap/limited.c", "nm__count_failure(&l->stats.failures);\n        (void)nm_budget_release(l->budget, size);", "nm__count_failure(&l->stats.failures);"),
    m("traced: free not counted", "wrap/traced.c", "if (status == NM_OK) nm__count_free(&t->stats, size);", ""),
    m("system: resize not counted", "alloc/system.c", "nm__count_resize(&s->stats, old, size);", ""),
    m("plane: exports not looked at", PLANE, "else if (b->exports != 0) raise_exports(a, action);\n    else return b;", "else return b;"),
    m("plane: state not looked at", PLANE, "    if (b->state != LIVE) {\n        view->obj = NULL;", "    if (0) {\n        view->obj = NULL;"),
    m("plane: generation not counted", PLANE, "a->life->generation++;", ""),
    m("plane: reset under a view", PLANE, "if (users != 0) {\n        raise_exports(a, action);", "if (0) {\n        raise_exports(a, action);"),
    m("plane: orphans not swept", PLANE, "if (a->life->orphans != 0 && sweep_orphans(a->life)) ptr", "if (0) ptr"),
)


def sources() -> list[str]:
    found = sorted((TREE / "csrc").rglob("*.c"))
    return [str(path.relative_to(TREE)) for path in found if "python" not in path.parts]


def tests() -> list[str]:
    """Those of one structure first: they are quick, and say more when they fail."""
    names = sorted(path.name for path in (TREE / "tests" / "c").glob("test_*.c"))
    return sorted(names, key=lambda name: name in ("test_port.c", "test_heap.c"))


def run(*command: object, env: dict[str, str] | None = None) -> tuple[bool, str]:
    """Whether it passed, and its last words."""
    environ = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"} | (env or {})
    try:
        done = subprocess.run(
            [str(word) for word in command], cwd=TREE, env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return False, "hangs"
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def must(*command: object, env: dict[str, str] | None = None) -> None:
    passed, output = run(*command, env=env)
    if not passed:
        raise SystemExit(f"mutants: {' '.join(map(str, command))} failed:\n{output}")


class Builder:
    """Objects of the unchanged tree are kept; a mutant compiles what its change reaches."""

    def __init__(self, mode: str) -> None:
        self.mode, self.objects = mode, TREE / "objects" / mode
        self.objects.mkdir(parents=True, exist_ok=True)

    def compile(self, source: str, to: Path) -> bool:
        return run("gcc", *MODES[self.mode], *FLAGS, "-c", source, "-o", to)[0]

    def object_of(self, source: str) -> Path:
        path = self.objects / (source.replace("/", "_") + ".o")
        if not path.exists() and not self.compile(source, path):
            raise SystemExit(f"mutants: {source} does not compile")
        return path

    def check(self, changed: str) -> str | None:
        """The test that fails where ``changed`` is as it is now; None: all pass."""
        header = changed.endswith(".h")
        mutated = {}
        for source in sources():
            if header or source == changed:
                mutated[source] = TREE / "mutated.o" if not header else self.objects / f"m_{len(mutated)}.o"
                if not self.compile(source, mutated[source]):
                    return "the compiler"
        for test in tests():
            source = f"tests/c/{test}"
            program, main = TREE / "program", self.object_of(source) if not header else self.objects / "m_test.o"
            if header and not self.compile(source, main):
                return "the compiler"
            parts = [mutated.get(part) or self.object_of(part) for part in sources()]
            must("gcc", *MODES[self.mode], "-pthread", main, *parts, "-o", program)
            passed, output = run(program)
            if not passed:
                return f"{test} ({first_complaint(output)})"
        return None


def first_complaint(output: str) -> str:
    """The name of the first test that failed, or what a sanitizer says."""
    if output == "hangs":
        return output
    for line in output.splitlines():
        if line.startswith("FAILED "):
            return line.split()[1].split("(")[0]
        if "Sanitizer: " in line or "runtime error: " in line:
            return line.split(": ", 1)[1].split(" on ")[0].split(" (")[0][:60]
    return "crash"


def check_python(mutant: Mutant) -> str | None:
    """The same by the contract suite, with the extension built in the copy."""
    must(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", env={"USE_NATIVE_MEM": "1"})
    suite = (sys.executable, "-m", "pytest", "tests/contract", "-q", "-x", "-p", "no:cacheprovider", "-k", "native")
    passed, output = run(*suite, env={"PYTHONPATH": "src"})
    if passed:
        return None
    failed = [line.split("::")[-1].split("[")[0] for line in output.splitlines() if line.startswith("FAILED")]
    return f"contract suite ({failed[0].split()[0] if failed else 'crash'})"


def prepare() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for part in ("csrc", "src", "tests"):
        shutil.copytree(ROOT / part, TREE / part, ignore=ignore)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, TREE / file)


def catch(mutant: Mutant) -> tuple[str | None, float]:
    """What catches it, and the seconds that took."""
    path = TREE / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"mutants: {mutant.name}: its line stands {text.count(mutant.old)} times in {mutant.file}")
    start = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        if mutant.needs_python:
            return check_python(mutant), time.monotonic() - start
        for mode in MODES:
            caught = Builder(mode).check(mutant.file)
            if caught is not None:
                return f"{caught}{', ' + mode if mode != 'plain' else ''}", time.monotonic() - start
        return None, time.monotonic() - start
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these; a part of a name will do")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    chosen = [x for x in MUTANTS if not options.only or any(part in x.name for part in options.only)]
    if options.list:
        print(*(x.name for x in chosen), sep="\n")
        return 0
    prepare()
    for mode in MODES:
        if (caught := Builder(mode).check("")) is not None:
            raise SystemExit(f"mutants: the tests fail without one: {caught}")
    survivors = 0
    rows = []
    for mutant in chosen:
        caught, seconds = catch(mutant)
        survivors += caught is None
        rows.append((mutant.name, mutant.file.removeprefix("csrc/"), caught or "NOTHING"))
        print(f"{rows[-1][0]:42} {rows[-1][1]:28} {rows[-1][2]} ({seconds:.0f} s)", flush=True)
    if options.markdown:
        print("\n| mutant | file | caught by |\n| --- | --- | --- |")
        for row in rows:
            print("| " + " | ".join(row) + " |")
    print(f"{len(chosen)} mutants, {survivors} survivors")
    return int(survivors != 0)


if __name__ == "__main__":
    sys.exit(main())
