"""The layout cannot lie: a file uses its own layer and the layers below it, never one above.

The rules read the sources; the last test plants one violation of each kind in a copy, to show that
the rules can fail.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# --- C ---

C_LAYERS = ("base", "port", "alloc", "heap", "wrap", "structures", "use", "engine", "binding")
# the only ones that include Python.h
SEE_PYTHON = ("binding", "engine")
C_RANK = {layer: rank for rank, layer in enumerate(C_LAYERS)}
# the umbrella includes every noun, so it stands above them all but below its users in C
UMBRELLA_RANK = C_RANK["use"] + 0.5
# public headers without a C file of their name
HEADER_ONLY = {"port": "port", "memlib_redirect": "use"}

# by the build, from csrc/<name>.in
GENERATED = {"nm_config.h"}
# whose business it is
LIBC_USERS = ("csrc/alloc/system.c", "csrc/use/memlib_system.c", "csrc/include/memlib_redirect.h")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)
COMMENT_OR_STRING = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
LIBC_ALLOCATION = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup|aligned_alloc|posix_memalign)\s*\("
)
PYTHON_HEADER = re.compile(r"(Python|pyconfig|structmember|datetime|frameobject|patchlevel)\.h|numpy/.*")
CHECKER_HOOK = re.compile(r"__SANITIZE_ADDRESS__|address_sanitizer|ASAN_(UN)?POISON\w*|__asan_\w+|VALGRIND_\w+")
CHECKER_HEADER = re.compile(r"(sanitizer|valgrind)/.*|(valgrind|memcheck)\.h")


def strip_c(text: str, *, strings: bool) -> str:
    """The code without comments and, if asked, without the contents of strings; lines stay."""

    def blank(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == "/":
            return "\n" * token.count("\n") or " "
        return '""' if strings else token

    return COMMENT_OR_STRING.sub(blank, text)


def c_files(csrc: Path) -> list[Path]:
    return sorted(path for path in csrc.rglob("*") if path.suffix in (".c", ".h"))


def c_rank(path: Path, csrc: Path) -> float | None:
    """The height of a file's layer; None for a file that has no layer."""
    parts = path.relative_to(csrc).parts
    if parts == ("include", "nativemem.h"):
        return UMBRELLA_RANK
    if parts == ("tuning.h",):
        return C_RANK["base"]
    if parts[0] != "include":
        return C_RANK.get(parts[0])
    noun = path.stem
    if noun in HEADER_ONLY:
        return C_RANK[HEADER_ONLY[noun]]
    # the noun names the C file and the header; the C file's folder is the layer of both
    ranks = [C_RANK[layer] for layer in C_LAYERS if (csrc / layer / f"{noun}.c").exists()]
    return ranks[0] if len(ranks) == 1 else None


def resolve(name: str, including: Path, csrc: Path) -> Path | None:
    for folder in (including.parent, csrc / "include", csrc):
        if (folder / name).is_file():
            return (folder / name).resolve()
    return None


def c_violations(root: Path) -> Iterator[str]:
    csrc = (root / "csrc").resolve()
    for path in c_files(csrc):
        shown = path.relative_to(csrc.parent).as_posix()
        rank = c_rank(path, csrc)
        if rank is None:
            yield f"{shown}: belongs to no layer"
            continue
        in_python = path.relative_to(csrc).parts[0] in SEE_PYTHON
        raw = path.read_text(encoding="utf-8")
        for quote, name in INCLUDE.findall(strip_c(raw, strings=False)):
            target = resolve(name, path, csrc)
            if target is not None:
                other = c_rank(target, csrc)
                if other is not None and other > rank:
                    yield f"{shown}: includes {name}, of a layer above"
                if target.suffix == ".c":
                    yield f"{shown}: includes the C file {name}"
            elif quote == '"' and name not in GENERATED:
                yield f"{shown}: includes {name}, which is nowhere in csrc"
            if PYTHON_HEADER.fullmatch(name) and not (in_python or shown == "csrc/include/nativemem/capi.h"):
                yield f"{shown}: includes {name} outside of csrc/binding and csrc/engine"
            if CHECKER_HEADER.fullmatch(name) and shown != "csrc/base/poison.h":
                yield f"{shown}: includes {name} outside csrc/base/poison.h"
        code = strip_c(raw, strings=True)
        for match in CHECKER_HOOK.finditer(code):
            if shown != "csrc/base/poison.h":
                yield f"{shown}: uses {match[0]} outside csrc/base/poison.h"
        for match in LIBC_ALLOCATION.finditer(code):
            if shown not in LIBC_USERS and not shown.startswith("csrc/base/"):
                yield f"{shown}: calls {match[1]}() of libc"


# --- Python ---

PY_LAYERS = (
    ("_folder", "_version", "_lazy", "errors", "config", "settings", "backends.machine", "backends.forks")
    + ("wrappers.sites", "wrappers.histogram", "budgets.pressure", "budgets.scopes"),
    ("backends.native.control", "backends.native.loader", "engine.control"),
    ("backends.selection",),
    ("backends.native", "backends.pure"),
    ("backends",),
    ("allocators.utilities", "allocators.typed"),
    ("budgets.executors",),
    ("allocators", "wrappers", "budgets"),
    ("interop.cport", "engine.install", "engine.numpy_default"),
    ("engine", "engine.process", "interop"),
    ("facades",),
    ("manager", "structures"),
    ("engine.startup",),
    ("auto", "commands.run", "commands.start", "commands.probes"),
    ("commands.doctor",),
    ("commands",),
    ("process", "memlib", "capi", "hooks"),
    ("_api",),
    ("", "__main__"),
)
PY_RANK = {module: rank for rank, layer in enumerate(PY_LAYERS) for module in layer}
# describes the extension to the build; imports nothing of the package and nothing imports it
BUILD_SCRIPT = "backends.native.ffi_build"
EXTENSION_MODULES = ("_core", "_dataplane")
THEIR_USERS = ("backends.native.control", "backends.native.loader")
# what imports a module that is named in a string
BY_NAME = ("import_module", "__import__", "ExtensionFileLoader", "spec_from_file_location")


def rank_of(module: str) -> int | None:
    """The height of a module, ``x.y`` below the package: its own, or that of the room it is in."""
    while module not in PY_RANK and "." in module:
        module = module.rpartition(".")[0]
    return PY_RANK.get(module)


def imported(tree: ast.AST, file: Path, package: Path) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in it and however it spells that: ``x.y``, or an empty
    string for the package itself."""
    here = ("nativemem", *file.relative_to(package).parent.parts)

    def is_module(parts: Sequence[str]) -> bool:
        path = package.joinpath(*parts)
        return parts[0] in EXTENSION_MODULES or path.is_dir() or path.with_suffix(".py").exists()

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*(here[: len(here) - node.level + 1] if node.level else ())]
            base += node.module.split(".") if node.module else []
            # `from room import x`: x is a module, or a name of the room itself
            paths = [[*base, a.name] if is_module([*base[1:], a.name]) else base for a in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            paths = [str(node.args[0].value).split(".")] if called in BY_NAME else []
        else:
            continue
        yield from (".".join(parts[1:]) for parts in paths if parts[0] == "nativemem")


def py_violations(root: Path) -> Iterator[str]:
    package = root / "src" / "nativemem"
    for path in sorted(package.rglob("*.py")):
        shown = path.relative_to(root).as_posix()
        module = (
            ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        )
        rank = rank_of(module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for target in sorted(set(imported(tree, path, package))):
            height = rank_of(target)
            if module == BUILD_SCRIPT:
                yield f"{shown}: the build script imports {target} of the package"
            elif target in EXTENSION_MODULES:
                if module not in THEIR_USERS:
                    yield f"{shown}: imports {target}; only {' and '.join(THEIR_USERS)} may"
            elif height is None:
                yield f"{shown}: imports {target}, which belongs to no layer"
            elif height > (-1 if rank is None else rank):
                yield f"{shown}: imports {target}, of a layer above"
        if rank is None and module != BUILD_SCRIPT:
            yield f"{shown}: belongs to no layer"


# --- the tests ---


def test_no_c_file_includes_a_layer_above() -> None:
    assert len(c_files(ROOT / "csrc")) > 10
    assert list(c_violations(ROOT)) == []


def test_no_python_module_imports_a_layer_above() -> None:
    assert list(py_violations(ROOT)) == []


CORE_ONLY = "only backends.native.control and"
PLANTED = {
    "include up": ("csrc/base/base.c", '#include "nativemem/arena.h"', "of a layer above"),
    "angle include up": ("csrc/base/base.c", "#include <nativemem/arena.h>", "of a layer above"),
    "public header up": (
        "csrc/include/nativemem/arena.h",
        '#include "nativemem/limited.h"',
        "of a layer above",
    ),
    "umbrella": ("csrc/alloc/arena.c", '#include "nativemem.h"', "of a layer above"),
    "missing include": ("csrc/alloc/arena.c", '#include "no_such.h"', "nowhere in csrc"),
    "C file included": ("csrc/wrap/limited.c", '#include "../base/base.c"', "includes the C file"),
    "Python.h": ("csrc/wrap/limited.c", "#include <Python.h>", "outside of csrc/binding and csrc/engine"),
    "ASan": (
        "csrc/alloc/slab.c",
        "#ifdef __SANITIZE_ADDRESS__\n#endif",
        "outside csrc/base/poison.h",
    ),
    "ASan by feature": (
        "csrc/alloc/slab.c",
        "#if __has_feature(address_sanitizer)\n#endif",
        "outside csrc/base/poison.h",
    ),
    "Valgrind": (
        "csrc/alloc/slab.c",
        "#include <valgrind/memcheck.h>",
        "outside csrc/base/poison.h",
    ),
    "libc allocation": (
        "csrc/alloc/arena.c",
        "void *p(void) { return malloc(1); }",
        "calls malloc()",
    ),
    "libc free": ("csrc/binding/planted.c", "void p(void *q) { free (q); }", "calls free()"),
    "C file without layer": ("csrc/misc/planted.c", "int x;", "belongs to no layer"),
    "header without layer": ("csrc/include/nativemem/planted.h", "int x;", "belongs to no layer"),
    "relative import up": ("src/nativemem/errors.py", "from .commands.cli import main", "of a layer above"),
    "module import up": ("src/nativemem/config.py", "from .backends import binding", "of a layer above"),
    "absolute import up": (
        "src/nativemem/budgets/budget.py",
        "import nativemem.engine.process",
        "of a layer above",
    ),
    "import in a function": (
        "src/nativemem/errors.py",
        "def f():\n    from nativemem.wrappers.traced import Limited",
        "of a layer above",
    ),
    "package import": ("src/nativemem/commands/cli.py", "from nativemem import Arena", "of a layer above"),
    "pure imports up": (
        "src/nativemem/backends/pure/planted.py",
        "from ..binding import x",
        "of a layer above",
    ),
    "extension import": (
        "src/nativemem/commands/cli.py",
        "from .. import _core",
        CORE_ONLY,
    ),
    "extension by name": (
        "src/nativemem/commands/cli.py",
        "import importlib\nimportlib.import_module('nativemem._dataplane')",
        CORE_ONLY,
    ),
    "module without layer": ("src/nativemem/planted.py", "x = 1", "belongs to no layer"),
    "build script": (
        "src/nativemem/backends/native/ffi_build.py",
        "from ... import errors",
        "the build script imports",
    ),
}


@pytest.mark.parametrize(("file", "text", "complaint"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_found(file: str, text: str, complaint: str, tmp_path: Path) -> None:
    for name in ("csrc", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so"))
    target = tmp_path / file
    target.parent.mkdir(parents=True, exist_ok=True)
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    target.write_text(f"{before}\n{text}\n", encoding="utf-8")
    found = [*c_violations(tmp_path), *py_violations(tmp_path)]
    assert [line for line in found if line.startswith(f"{file}: ") and complaint in line], found


@pytest.mark.parametrize(
    "text",
    [
        "/* malloc(1) and free(p) */",
        "// VALGRIND_X, free(p)",
        'const char *s = "free(p)";',
        "int f(struct s *x) { return x->free(1) + x->m.malloc(2) + nm_free(3); }",
        "struct t { void (*free)(void *); };",
        "/*\n#include <Python.h>\n*/",
    ],
)
def test_what_only_looks_like_a_violation_is_not_reported(text: str, tmp_path: Path) -> None:
    file = tmp_path / "csrc" / "alloc" / "planted.c"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    assert list(c_violations(tmp_path)) == []
