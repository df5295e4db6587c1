"""Draws faults at random: in C by line, in locks and atomics, in Python by syntax tree.

A stratum is a list of lines, each with the changes that it allows. A line is drawn first, so that a long expression
is not drawn more often than a short one, then one of its changes.
"""

from __future__ import annotations

import ast
import collections
import fnmatch
import functools
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mutant_table import Mutant

STRATA = ("c", "atomics", "python")
#: how many of each among four
SHARES = ("c", "c", "atomics", "python")

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = "tests/contract"
#: where tests lie
ROOMS = ("", "contract/", "manager/", "structures/", "observe/")
COLLECTIONS = (
    *("tests/manager/test_collections.py", "tests/manager/test_collections_models.py"),
    "tests/manager/test_references.py",
)
#: what is asked first of an atomic operation: it reads the sources
ORDERS = ("tests/test_atomics.py",)
#: and of what runs where a module is imported
IMPORTS = ("tests/test_imports.py", "tests/test_values.py")
#: the tests of a source, the nearest first, where the C tests see nothing of it
TESTS = {
    "csrc/binding/capi.c": ("tests/test_capi.py",),
    "csrc/binding/cdata.c": ("tests/test_cffi_hook.py",),
    "csrc/binding/numbers.h": COLLECTIONS,
    "csrc/binding/packed.c": COLLECTIONS,
    "csrc/binding/ring.c": COLLECTIONS,
    "csrc/binding/ring_ranges.c": COLLECTIONS,
    "csrc/binding/ring_search.c": COLLECTIONS,
    "csrc/binding/ring_store.c": COLLECTIONS,
    "csrc/binding/table.c": COLLECTIONS,
    "csrc/binding/table_iter.c": COLLECTIONS,
    "csrc/binding/table_store.c": COLLECTIONS,
    "csrc/binding/bits.c": COLLECTIONS,
    "csrc/binding/allocator.c": (CONTRACT, "tests/test_cffi_hook.py"),
    "csrc/binding/held.c": ("tests/test_numpy_hook.py", CONTRACT),
    "csrc/binding/pressure.c": ("tests/contract/test_pressure.py", "tests/test_denials.py"),
    "csrc/binding/region.c": ("tests/test_engine.py", "tests/test_address_space.py"),
    "csrc/binding/sources.c": ("tests/test_numpy_hook.py", "tests/test_scopes.py"),
    "csrc/binding/": (CONTRACT,),
    "csrc/base/events.c": ("tests/observe/test_telemetry.py",),
    "csrc/engine/apart.c": ("tests/observe/test_profile.py", "tests/test_scopes.py", "tests/test_numpy_hook.py"),
    "csrc/engine/sampler.c": ("tests/observe/test_profile.py",),
    "csrc/engine/account.c": (
        "tests/test_core_details.py",
        "tests/test_engine.py",
        "tests/test_cli.py",
        "tests/test_beside_others.py",
    ),
    "csrc/engine/crash.c": ("tests/testing/test_injection.py",),
    "csrc/engine/injection.c": ("tests/testing/test_injection.py", "tests/testing/test_failing_interpreter.py"),
    "csrc/engine/denials.c": ("tests/test_denials.py", "tests/test_goes_on.py", "tests/test_scopes.py"),
    "csrc/engine/ending.c": ("tests/test_cli.py",),
    "csrc/engine/frames.c": ("tests/test_insides.py", "tests/test_denials.py", "tests/test_scopes.py"),
    "csrc/engine/insides.c": ("tests/test_insides.py", "tests/test_denials.py", "tests/test_scopes.py"),
    "csrc/engine/insides_check.c": ("tests/test_insides.py",),
    "csrc/engine/overdraft.c": (
        "tests/test_denials.py",
        "tests/test_goes_on.py",
        "tests/test_scopes.py",
        "tests/test_run_is_python.py",
    ),
    "csrc/engine/place.c": ("tests/test_beside_others.py",),
    "csrc/engine/strays.c": ("tests/test_beside_others.py",),
    "csrc/engine/spared.c": ("tests/test_goes_on.py", "tests/test_denials.py", "tests/test_run_is_python.py"),
    "csrc/engine/stacks.c": (CONTRACT, "tests/test_scopes.py"),
    **dict.fromkeys(
        (f"csrc/engine/{name}.c" for name in ("active", "array_charges", "charge", "entries", "owners", "scopes")),
        ("tests/test_scopes.py", "tests/test_denials.py"),
    ),
    "csrc/engine/": ("tests/test_engine.py", "tests/test_numpy_hook.py", "tests/test_scopes.py"),
    "csrc/": (CONTRACT, "tests/test_scopes.py", "tests/test_engine.py"),
    "src/nativemem/_lazy.py": ("tests/test_imports.py", "tests/test_config.py"),
    "src/nativemem/levels.py": ("tests/manager/test_verification.py", "tests/contract/test_verified.py"),
    "src/nativemem/backends/forks.py": (
        "tests/test_pure_details.py",
        "tests/test_scopes.py",
        "tests/test_engine.py",
    ),
    "src/nativemem/backends/pure/": (CONTRACT, "tests/test_pure_details.py", "tests/test_differential.py"),
    "src/nativemem/commands/doctor.py": ("tests/test_doctor_parts.py", "tests/test_doctor.py"),
    "src/nativemem/commands/probes.py": ("tests/test_doctor.py",),
    "src/nativemem/backends/selection.py": (
        "tests/test_core.py",
        "tests/test_build_switch.py",
        "tests/test_doctor.py",
    ),
    "src/nativemem/commands/run.py": (
        "tests/test_run_words.py",
        "tests/test_cli.py",
        "tests/test_run_is_python.py",
    ),
    "src/nativemem/engine/profiling.py": ("tests/observe/test_run_profile.py",),
    "src/nativemem/engine/startup.py": (
        "tests/observe/test_run_profile.py",
        "tests/test_cli.py",
        "tests/test_run_is_python.py",
    ),
    **dict.fromkeys(
        (f"src/nativemem/commands/{name}.py" for name in ("report", "leaks", "diff", "files")),
        ("tests/observe/test_report_commands.py", "tests/observe/test_command_words.py"),
    ),
    "src/nativemem/commands/output.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_report_commands.py",
        "tests/test_doctor.py",
    ),
    "src/nativemem/observe/export/": ("tests/observe/test_rendered.py", "tests/observe/test_exports.py"),
    "src/nativemem/observe/report/": (
        "tests/observe/test_rendered.py",
        "tests/observe/test_report.py",
        "tests/observe/test_report_page.py",
        "tests/observe/test_report_commands.py",
    ),
    "src/nativemem/commands/live.py": (
        "tests/observe/test_command_words.py",
        "tests/test_run_live.py",
    ),
    "src/nativemem/commands/attach.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_control.py",
    ),
    "src/nativemem/commands/bench.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_bench_command.py",
    ),
    "src/nativemem/commands/workloads.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_bench_command.py",
    ),
    "src/nativemem/commands/processes.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_control.py",
    ),
    "src/nativemem/commands/stats.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_control.py",
    ),
    "src/nativemem/commands/top.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_control.py",
    ),
    "src/nativemem/commands/view.py": (
        "tests/observe/test_command_words.py",
        "tests/observe/test_control.py",
    ),
    "src/nativemem/commands/cli.py": ("tests/test_cli.py",),
    "src/nativemem/__init__.py": ("tests/test_core.py", "tests/test_doctor.py", "tests/test_config.py", CONTRACT),
    "src/nativemem/__main__.py": ("tests/test_cli.py",),
    "src/nativemem/backends/machine.py": ("tests/test_machine.py", "tests/test_cli.py"),
    "src/nativemem/commands/start.py": ("tests/test_cli.py", "tests/test_run_is_python.py"),
    "src/nativemem/allocators/utilities.py": ("tests/contract/test_utilities.py",),
    "src/nativemem/wrappers/histogram.py": ("tests/contract/test_sites.py", "tests/test_engine.py"),
    "src/nativemem/wrappers/sites.py": ("tests/contract/test_sites.py",),
    "src/nativemem/auto.py": ("tests/test_engine.py",),
    "src/nativemem/engine/install.py": ("tests/test_engine.py", "tests/test_numpy_hook.py", "tests/test_scopes.py"),
    "src/nativemem/engine/process.py": ("tests/test_engine.py",),
    "src/nativemem/budgets/executors.py": ("tests/test_scopes.py",),
    "src/nativemem/budgets/scopes.py": ("tests/test_scopes.py",),
    "src/nativemem/budgets/budget.py": (CONTRACT, "tests/test_scopes.py"),
    "src/nativemem/budgets/lending.py": (CONTRACT,),
    "src/nativemem/budgets/pressure.py": (CONTRACT, "tests/test_scopes.py", "tests/test_engine.py"),
    "src/nativemem/errors.py": ("tests/test_errors.py", CONTRACT, "tests/test_scopes.py"),
    "src/nativemem/refusals.py": ("tests/test_errors.py", CONTRACT, "tests/test_scopes.py"),
    "src/nativemem/units.py": ("tests/test_config.py", "tests/test_quick_start.py", CONTRACT),
    "src/nativemem/sizes.py": ("tests/test_config.py", CONTRACT, "tests/test_engine.py"),
    "src/nativemem/facades.py": (
        "tests/contract/test_surface.py",
        "tests/test_config.py",
        "tests/test_free_threaded.py",
        "tests/manager/test_facades.py",
        "tests/test_core.py",
    ),
    "src/nativemem/_frames.py": ("tests/contract/test_sites.py", "tests/contract/test_pressure.py"),
    "src/nativemem/_unraisable.py": ("tests/contract/test_pressure.py", "tests/test_free_threaded.py"),
    "src/nativemem/backends/native/": (
        CONTRACT,
        "tests/test_scopes.py",
        "tests/test_cport.py",
        "tests/test_memlib.py",
    ),
    "src/nativemem/config.py": ("tests/test_config.py", "tests/test_presets.py", CONTRACT),
    "src/nativemem/settings.py": ("tests/test_config.py", "tests/test_engine.py"),
    "src/nativemem/interop/memlib.py": ("tests/test_memlib.py",),
    "src/nativemem/wrappers/cport.py": ("tests/test_cport.py",),
    "src/nativemem/interop/capi.py": ("tests/test_capi.py",),
    "src/nativemem/engine/numpy_default.py": ("tests/test_numpy_hook.py", "tests/test_engine.py"),
    "src/nativemem/interop/numpy.py": ("tests/test_numpy_hook.py",),
    "src/nativemem/interop/cffi.py": ("tests/test_cffi_hook.py",),
    "src/nativemem/engine/about.py": ("tests/observe/test_recordings.py",),
    **{
        f"src/nativemem/observe/{name}.py": (f"tests/observe/test_{test}.py",)
        for name, test in (
            ("as_tracemalloc", "as_tracemalloc"),
            ("changes", "snapshot"),
            ("measure", "measure"),
            ("metrics", "metrics"),
            ("opentelemetry", "metrics"),
            ("prometheus", "metrics"),
            ("snapshot", "snapshot"),
            ("telemetry", "telemetry"),
        )
    },
    "src/nativemem/stats.py": ("tests/observe/test_snapshot.py", "tests/contract/test_stats.py"),
    "src/nativemem/observe/": ("tests/observe",),
    "src/nativemem/testing/": ("tests/testing",),
    "src/nativemem/wrappers/domains.py": ("tests/testing/test_failing_interpreter.py",),
    "src/nativemem/wrappers/interpreter.py": ("tests/testing/test_failing_interpreter.py",),
    "src/nativemem_pytest.py": ("tests/testing/test_pytest_plugin.py",),
    "src/nativemem/manager/collections/": COLLECTIONS,
    "src/nativemem/backends/pure/packed/": COLLECTIONS,
    "src/nativemem/manager/": ("tests/manager",),
    "src/nativemem/structures/": ("tests/structures",),
    "src/nativemem/backends/pure/intern.py": ("tests/structures/test_intern.py",),
    "csrc/binding/intern_type.c": ("tests/structures/test_intern.py",),
    "src/nativemem/": (CONTRACT, "tests/test_core.py", "tests/test_scopes.py", "tests/test_engine.py"),
}


@dataclass(frozen=True)
class Equivalent:
    """A change that no test can tell, and why."""

    file: str
    old: str  # the line, without what surrounds it
    new: str
    reason: str


@dataclass(frozen=True)
class Change:
    start: int  # in the line
    end: int
    new: str
    what: str


def tests_of(file: str) -> tuple[str, ...]:
    """The nearest first: those of its name."""
    named = (f"tests/{room}test_{Path(file).stem}.py" for room in ROOMS)
    found = [test for test in named if (ROOT / test).exists()]
    table = TESTS[max((start for start in TESTS if file.startswith(start)), key=len)]
    return (*found, *(test for test in table if test not in found))


# ---- C ------------------------------------------------------------------------------------------------

TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
DECLARATION = re.compile(r"(?:[A-Za-z_]\w*\s+)*[A-Za-z_]\w*(?:\s*\*+\s*|\s+)\w+\s*(?:=|;|\[|,|\()")
NO_STATEMENT = re.compile(
    r"\(void\)\w+(, \(void\)\w+)*;|[}\]]"
    r"|(return|break|continue|goto|typedef|static|extern|struct|case|default|else|for|if|while|do|_\w+)\b"
)
OPERATORS = {
    " < ": (" <= ",), " <= ": (" < ",), " > ": (" >= ",), " >= ": (" > ",), " == ": (" != ",), " != ": (" == ",),
    " + ": (" - ",), " - ": (" + ",), " * ": (" / ",), " / ": (" * ",), " % ": (" / ",),
    " && ": (" || ",), " || ": (" && ",), " & ": (" | ",), " | ": (" & ",), " << ": (" >> ",), " >> ": (" << ",),
    "++": ("--",), "--": ("++",), " += ": (" -= ", " = "), " -= ": (" += ", " = "), " |= ": (" &= ", " = "),
}  # fmt: skip
OPERATOR = re.compile("|".join(map(re.escape, sorted(OPERATORS, key=len, reverse=True))))
CONSTANT = re.compile(r"(?<![\w.])(0x[0-9a-fA-F]+|\d+)(?=[uUlL]*\b)(?![.\w]*\.)|\b(true|false)\b")
ATOMIC = re.compile(r"\b(atomic_\w+|pthread_(mutex|cond|rwlock)_\w+|memory_order_\w+)\b")

#: the lesser or the greater of two: where they are equal either is
VALUE = r"(?:\w|->|\.|\[\w+\]|\(\w+\)|(?<=\w)\([\w>.,& -]*\)| [+-] (?!=))+"
OF_TWO = (
    re.compile(rf"\bif \((?P<a>{VALUE}) (?P<o>[<>]=?) (?P<b>{VALUE})\) (?:(?P=a) = (?P=b)|(?P=b) = (?P=a));"),
    re.compile(
        rf"(?:= |\(|return )(?P<a>{VALUE}) (?P<o>[<>]=?) (?P<b>{VALUE}) \? "
        r"(?:(?P=a) : (?P=b)|(?P=b) : (?P=a))(?=[,;)])"
    ),
)

#: the core's own names for its locks
LOCK = re.compile(r"\b(un)?lock_\w+\(|\bnm__\w+_(un)?lock\(")


def code_only(text: str) -> str:
    """Comments and strings as blanks; columns stay."""
    return TOKEN.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def closing(line: str, start: int) -> int:
    """Where the parenthesis at `start` is closed; -1 if not in this line."""
    depth = 0
    for i in range(start, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if depth == 0:
            return i
    return -1


def arguments(text: str) -> list[str]:
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def c_changes(line: str, before: str, whole: str = "") -> Iterator[Change]:
    """Of a line without comments; `before` is the code above it, `whole` the line with its strings."""
    whole = whole or line
    of_two = {match.start("o") - 1 for pattern in OF_TWO for match in pattern.finditer(line)}
    for match in OPERATOR.finditer(line):
        for new in () if match.start() in of_two else OPERATORS[match[0]]:
            yield Change(match.start(), match.end(), new, "operator")
    for match in CONSTANT.finditer(line):
        if match[2]:
            yield Change(match.start(), match.end(), "false" if match[2] == "true" else "true", "constant")
        else:
            yield Change(match.start(), match.end(), str(int(match[1], 0) + 1), "constant")
    for match in re.finditer(r"\b(?:if|while) \(", line):
        start, end = match.end() - 1, closing(line, match.end() - 1)
        if end > 0:
            yield Change(start, end + 1, f"(!{whole[start : end + 1]})", "condition")
            if match[0].startswith("if"):
                yield Change(start, end + 1, "(true)", "condition")
                yield Change(start, end + 1, "(false)", "condition")
    statement = line.strip()
    if (
        statement.endswith(";")
        and statement.count("(") == statement.count(")")
        and not DECLARATION.match(statement)
        and not NO_STATEMENT.match(statement)
        and re.search(r"(^|[;{}:)]|else)\s*$", before) is not None
    ):
        start = len(line) - len(line.lstrip())
        yield Change(start, len(line.rstrip()), ";", "statement deleted")
    match = re.search(r"\breturn ([^;]+);", line)
    if match and re.fullmatch(r"true|false", match[1]) is None and re.search(r"[=<>!&|]{2}| [<>] |^!", match[1]):
        yield Change(match.start(1), match.end(1), f"!({whole[match.start(1) : match.end(1)]})", "result")


def torn(place: str, value: str) -> str:
    load = f"__auto_type p__ = {place}; __auto_type o__ = atomic_load_explicit(p__, memory_order_relaxed);"
    return f"({{ {load} atomic_store_explicit(p__, {value}, memory_order_relaxed); o__; }})"


def atomic_changes(line: str) -> Iterator[Change]:
    for match in re.finditer(r"\bmemory_order_(acquire|release|acq_rel|seq_cst|consume)\b", line):
        yield Change(match.start(), match.end(), "memory_order_relaxed", "order weakened")
    for match in re.finditer(r"\b(?:\(void\))?(atomic_\w+|pthread_(?:mutex|cond|rwlock)_\w+)\(", line):
        name, start, end = match[1], match.start(1), closing(line, match.end() - 1)
        if end < 0:
            continue
        words = arguments(line[match.end() : end])
        if name.startswith("pthread"):
            if re.search(r"_(un)?lock|_signal|_broadcast|_rdlock|_wrlock", name):
                yield Change(start, end + 1, "((int)0)", "lock")
        elif name.startswith("atomic_compare_exchange"):
            yield Change(start, end + 1, f"(atomic_store({words[0]}, {words[2]}), true)", "exchange not compared")
            if "weak" not in name:
                continue
        elif match2 := re.match(r"atomic_fetch_(add|sub|or|and|xor)", name):
            sign = {"add": "+", "sub": "-", "or": "|", "and": "&", "xor": "^"}[match2[1]]
            yield Change(start, end + 1, torn(words[0], f"o__ {sign} ({words[1]})"), "load and store")
        elif name.startswith("atomic_exchange"):
            yield Change(start, end + 1, torn(*words[:2]), "load and store")
        elif name == "atomic_load":
            yield Change(
                start, end + 1, f"atomic_load_explicit({words[0]}, memory_order_relaxed)", "order weakened"
            )
        elif name == "atomic_store":
            new = f"atomic_store_explicit({words[0]}, {words[1]}, memory_order_relaxed)"
            yield Change(start, end + 1, new, "order weakened")
        if name.startswith("atomic_store") and line.strip().startswith("atomic_store"):
            yield Change(start, end + 1, "((void)0)", "store left out")


def of_c(root: Path, atomics: bool) -> dict[tuple[str, int], list[Change]]:
    found: dict[tuple[str, int], list[Change]] = {}
    for path in sorted((root / "csrc").rglob("*.[ch]")):
        file = path.relative_to(root).as_posix()
        if path.name == "memlib_system.c":  # compiled where the core is not
            continue
        before, text = "", path.read_text(encoding="utf-8")
        for number, (line, whole) in enumerate(
            zip(code_only(text).splitlines(), text.splitlines(), strict=True), 1
        ):
            if line.lstrip().startswith("#") or line.rstrip().endswith("\\") or before.rstrip().endswith("\\"):
                before = line
                continue
            if not line.strip():
                continue
            if "HEAD_INIT" in line or ".tp_" in line:  # tables for the interpreter
                before = line
                continue
            if bool(ATOMIC.search(line)) == atomics and re.match(r"\s|[\w ].*\{.*;", line):
                changes = list(atomic_changes(line) if atomics else c_changes(line, before, whole))
                if changes:
                    found[file, number] = changes
            before = line
    return found


# ---- Python -------------------------------------------------------------------------------------------

COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
COMPUTED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "//"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.Div: ("/", "*"),
}  # fmt: skip


class Python(ast.NodeVisitor):
    """Changes within one line each."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.found: dict[int, list[Change]] = {}

    def column(self, line: int, offset: int) -> int:
        return len(self.lines[line - 1].encode()[:offset].decode())

    def change(self, line: int, start: int, end: int, new: str, what: str) -> None:
        self.found.setdefault(line, []).append(Change(start, end, new, what))

    def replace(self, node: ast.expr | ast.stmt, new: str, what: str) -> None:
        if node.end_lineno == node.lineno and node.end_col_offset is not None:
            start = self.column(node.lineno, node.col_offset)
            end = self.column(node.lineno, node.end_col_offset)
            self.change(node.lineno, start, end, new, what)

    def source(self, node: ast.expr) -> str:
        line = self.lines[node.lineno - 1]
        assert node.end_col_offset is not None
        return line[self.column(node.lineno, node.col_offset) : self.column(node.lineno, node.end_col_offset)]

    def between(self, left: ast.expr, right: ast.expr, operator: str, new: str) -> None:
        if left.end_lineno == right.lineno and left.end_col_offset is not None:
            line = self.lines[right.lineno - 1]
            start = self.column(right.lineno, left.end_col_offset)
            end = self.column(right.lineno, right.col_offset)
            at = line.find(operator, start, end)
            if at >= 0:
                self.change(right.lineno, at, at + len(operator), new, "operator")

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.between(left, right, *COMPARED[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, *words)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        text = any(
            isinstance(side, (ast.JoinedStr, ast.Constant)) and not isinstance(getattr(side, "value", 0), int)
            for side in (node.left, node.right)
        )
        if type(node.op) in COMPUTED and not text:
            self.between(node.left, node.right, *COMPUTED[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not) and node.lineno == node.operand.end_lineno:
            self.replace(node, self.source(node.operand), "not left out")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value), "constant")
        elif isinstance(node.value, int):
            self.replace(node, str(node.value + 1), "constant")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Before 3.12 what is in it has no place of its own."""

    def condition(self, test: ast.expr) -> None:
        if test.lineno == test.end_lineno:
            self.replace(test, f"not ({self.source(test)})", "condition")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace(node.value, "None", "result")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, (ast.Constant, ast.Yield, ast.YieldFrom)):
            self.replace(node, "pass", "statement deleted")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.replace(node, "pass", "statement deleted")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass", "statement deleted")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "TYPE_CHECKING" for target in node.targets):
            return  # as if typing had been imported: what stands under it is never run
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self.replace(node, "pass", "statement deleted")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in ("TypeVar", "cast", "NewType"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
            return
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    visit_AsyncFunctionDef = visit_FunctionDef


#: how the pure backend's blocks show their memory where this interpreter is older, or newer
NOT_HERE = "windows.py" if sys.version_info < (3, 12) else "inherited.py"


def of_python(root: Path) -> dict[tuple[str, int], list[Change]]:
    found: dict[tuple[str, int], list[Change]] = {}
    for path in sorted((root / "src" / "nativemem").rglob("*.py")):
        if path.name in ("ffi_build.py", "_version.py", NOT_HERE):
            continue
        text = path.read_text(encoding="utf-8")
        visitor = Python(text)
        visitor.visit(ast.parse(text))
        for line, changes in visitor.found.items():
            found[path.relative_to(root).as_posix(), line] = changes
    return found


# ---- drawing ------------------------------------------------------------------------------------------


@functools.cache  # the sources of a tree stay as they are while it is hunted; to read them all takes a second
def candidates(root: Path, stratum: str) -> dict[tuple[str, int], list[Change]]:
    return of_python(root) if stratum == "python" else of_c(root, stratum == "atomics")


def made(root: Path, stratum: str, file: str, line: int, change: Change) -> Mutant:
    old = (root / file).read_text(encoding="utf-8").splitlines()[line - 1]
    new = old[: change.start] + change.new + old[change.end :]
    return Mutant(
        f"{Path(file).stem}-{line}-{change.what.replace(' ', '-')}-{change.start}",
        file,
        old,
        new,
        threads=stratum == "atomics" or (stratum == "c" and LOCK.search(old) is not None),
        tests=() if of_the_core(file) else tests_of(file),
        line=line,
    )


def draw(
    root: Path, number: int, seed: int, equivalents: Sequence[Equivalent], strata: Sequence[str] = SHARES
) -> tuple[list[Mutant], list[tuple[Mutant, str]]]:
    """`number` mutants; those that were drawn and are known to be equivalent, with the reason."""
    lists = {stratum: candidates(root, stratum) for stratum in set(strata)}
    r = random.Random(seed)
    drawn: list[Mutant] = []
    left: list[tuple[Mutant, str]] = []
    seen: set[tuple[str, int, Change]] = set()
    while len(drawn) < number:
        stratum = strata[len(drawn) % len(strata)]
        at = r.choice(list(lists[stratum]))
        change = r.choice(lists[stratum][at])
        if (*at, change) in seen:
            continue
        seen.add((*at, change))
        new, equivalent = sorted_out([made(root, stratum, *at, change)], equivalents)
        drawn += new
        left += equivalent
    return drawn, left


def every(
    root: Path, files: Sequence[str], equivalents: Sequence[Equivalent], strata: Sequence[str]
) -> tuple[list[Mutant], list[tuple[Mutant, str]]]:
    """All mutants of the files with such names (as `fnmatch` has them), as `draw` returns them."""
    mutants = [
        made(root, stratum, file, line, change)
        for stratum in dict.fromkeys(strata)
        for (file, line), changes in candidates(root, stratum).items()
        if any(fnmatch.fnmatch(file, pattern) for pattern in files)
        for change in dict.fromkeys(changes)
    ]
    of_name = collections.Counter[str]()
    for i, mutant in enumerate(mutants):  # a condition has several at its place
        of_name[mutant.name] += 1
        if of_name[mutant.name] > 1:
            mutants[i] = replace(mutant, name=f"{mutant.name}-{of_name[mutant.name]}")
    return sorted_out(mutants, equivalents)


def sorted_out(
    mutants: Sequence[Mutant], equivalents: Sequence[Equivalent]
) -> tuple[list[Mutant], list[tuple[Mutant, str]]]:
    known = {(e.file, e.old, e.new): e.reason for e in equivalents}
    left = [(m, known[key]) for m in mutants if (key := (m.file, m.old.strip(), m.new.strip())) in known]
    gone = {id(mutant) for mutant, _ in left}
    return [m for m in mutants if id(m) not in gone], left


#: modules whose own examples are asked first
WITH_DOCTESTS = {
    f"src/nativemem/{name}.py"
    for name in (
        *("allocators/base", "allocators/arena", "allocators/stack", "allocators/pool", "allocators/slab"),
        *("allocators/heap", "allocators/system", "allocators/typed", "budgets/budget", "budgets/lending"),
        *("config", "engine/process", "interop/memlib", "wrappers/limited", "wrappers/traced"),
        *("wrappers/failing", "wrappers/locked"),
    )
}

#: what is asked of a mutant in C that the nearest tests do not see, beside MORE
MORE_IN_C = tuple(
    f"tests/test_{name}.py" for name in "sweep bad_input address_space insides beside_others c_libraries".split()
)
#: what is asked of a mutant that the nearest tests do not see
MORE = (
    CONTRACT,
    *("tests/manager", "tests/structures", "tests/observe", "tests/testing"),
    *(
        f"tests/test_{name}.py"
        for name in (
            "scopes engine numpy_hook core config errors cli cport cffi_hook capi memlib presets machine"
            " pure_details differential examples run_is_python errors_doc goes_on doctor doctor_parts probes"
            " startup"
            " free_threaded denials imports values run_words"
        ).split()
    ),
)


def of_the_core(file: str) -> bool:
    return file.startswith("csrc/") and not file.startswith(("csrc/binding/", "csrc/engine/"))
