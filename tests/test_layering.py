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

C_LAYERS = ("base", "port", "alloc", "heap", "wrap", "structures", "use", "observe", "engine", "binding")
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


def c_modules(csrc: Path, layers: Sequence[str]) -> dict[str, set[str]]:
    """Of each file and its header together, ``layer/name``, those that it includes."""
    graph: dict[str, set[str]] = {}
    for path in c_files(csrc):
        module = path.relative_to(csrc).with_suffix("").as_posix()
        if not module.startswith(tuple(f"{layer}/" for layer in layers)):
            continue
        found = graph.setdefault(module, set())
        for _, name in INCLUDE.findall(strip_c(path.read_text(encoding="utf-8"), strings=False)):
            target = resolve(name, path, csrc)
            if target is not None and csrc in target.parents:
                found.add(target.relative_to(csrc).with_suffix("").as_posix())
        found.discard(module)
    return graph


def c_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of a circle, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if circle := walk(other, [*path, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := walk(module, []))), [])


C_FUNCTION = re.compile(
    r"^(?!static|typedef|NM_INLINE|#|extern)[A-Za-z_][\w \*]*?\b(\w+)\([^;{}]*\)\s*\{", re.MULTILINE
)


def undeclared(csrc: Path, layers: Sequence[str]) -> Iterator[str]:
    """Functions that other files may call and that the header of their own file does not declare."""
    for layer in layers:
        for path in sorted((csrc / layer).glob("*.c")):
            header = path.with_suffix(".h")
            declared = header.read_text(encoding="utf-8") if header.exists() else ""
            for name in C_FUNCTION.findall(strip_c(path.read_text(encoding="utf-8"), strings=True)):
                if not re.search(rf"\b{name}\(", declared) and not name.startswith("PyInit_"):
                    yield f"csrc/{layer}/{path.name}: {name} is not in {header.name}"


# --- Python ---

#: The rooms (folders) of the package and the modules beside them, from the lowest on. Those of one line do not use
#: each other.
PY_LAYERS = (
    ("_folder", "_version", "errors", "units"),
    ("_lazy",),
    ("_frames", "_unraisable", "levels", "sizes", "stats"),
    ("settings", "refusals"),
    ("config",),
    ("backends",),
    ("budgets",),
    ("allocators",),
    ("wrappers",),
    ("facades",),
    ("engine",),
    ("interop",),
    ("manager",),
    ("structures",),
    ("observe",),
    ("testing",),
    ("auto",),
    ("commands",),
    ("process", "memlib", "capi", "hooks"),
    ("_api",),
    ("", "__main__"),
)
PY_RANK = {room: rank for rank, layer in enumerate(PY_LAYERS) for room in layer}
# describes the extension to the build; imports nothing of the package and nothing imports it
BACKENDS = {"backends.pure", "backends.native"}
BUILD_SCRIPT = "backends.native.ffi_build"
EXTENSION_MODULES = ("_core", "_dataplane")
THEIR_USERS = ("backends.native.control", "backends.native.loader")
# what imports a module that is named in a string
BY_NAME = ("import_module", "__import__", "ExtensionFileLoader", "spec_from_file_location")
LAZY_ROOM = "room"


def room_of(module: str) -> str:
    return module.partition(".")[0]


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file but for those in ``if TYPE_CHECKING:``. These name types alone, and types may lead in a
    circle: a block has an allocator, and an allocator gives blocks."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def imported(tree: ast.AST, file: Path, package: Path) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in it and however it spells that: ``x.y``, or an empty
    string for the package itself."""
    here = ("nativemem", *file.relative_to(package).parent.parts)

    def is_module(parts: Sequence[str]) -> bool:
        path = package.joinpath(*parts)
        return parts[0] in EXTENSION_MODULES or path.is_dir() or path.with_suffix(".py").exists()

    for node in executed(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*(here[: len(here) - node.level + 1] if node.level else ())]
            base += node.module.split(".") if node.module else []
            # `from room import x`: x is a module, or a name of the room itself
            paths = [[*base, a.name] if is_module([*base[1:], a.name]) else base for a in node.names]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            named = [str(arg.value).split(".") for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            paths = named if called in BY_NAME else []
            if called == LAZY_ROOM:  # its keywords are the modules of the room
                paths = [[*here, keyword.arg] for keyword in node.keywords if keyword.arg]
        else:
            continue
        yield from (".".join(parts[1:]) for parts in paths if parts[0] == "nativemem")


def py_arrows(package: Path) -> dict[str, set[str]]:
    """By module, the modules that it imports; also in functions and by name."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix("."): set(
            imported(ast.parse(path.read_text(encoding="utf-8")), path, package)
        )
        for path in sorted(package.rglob("*.py"))
    }


def circles(arrows: dict[str, set[str]]) -> Iterator[str]:
    """Each circle once, as ``a -> b -> a``, by a walk in depth."""
    done: set[str] = set()
    way: list[str] = []

    def walk(at: str) -> Iterator[str]:
        if at in way:
            yield " -> ".join(place or "the package" for place in [*way[way.index(at) :], at])
        elif at not in done:
            way.append(at)
            for to in sorted(arrows.get(at, ())):
                yield from walk(to)
            way.pop()
            done.add(at)

    for start in sorted(arrows):
        yield from walk(start)


def py_violations(root: Path) -> Iterator[str]:
    package = root / "src" / "nativemem"
    arrows = py_arrows(package)
    for module, targets in arrows.items():
        place = package.joinpath(*module.split(".")) if module else package
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        shown = path.relative_to(root).as_posix()
        rank = PY_RANK.get(room_of(module))
        if rank is None:
            yield f"{shown}: belongs to no layer"
        for target in sorted(targets):
            height = PY_RANK.get(room_of(target))
            if module == BUILD_SCRIPT:
                yield f"{shown}: the build script imports {target} of the package"
            elif target in EXTENSION_MODULES:
                if module not in THEIR_USERS:
                    yield f"{shown}: imports {target}; only {' and '.join(THEIR_USERS)} may"
            elif height is None:
                yield f"{shown}: imports {target}, which belongs to no layer"
            elif {".".join(each.split(".")[:2]) for each in (module, target)} == BACKENDS:
                yield f"{shown}: imports {target} of the other backend"
            elif room_of(target) != room_of(module) and height >= (-1 if rank is None else rank):
                yield f"{shown}: imports {target}, of a layer above"


# --- the tests ---


def test_no_c_file_includes_a_layer_above() -> None:
    assert len(c_files(ROOT / "csrc")) > 10
    assert list(c_violations(ROOT)) == []


def test_no_circle_among_the_files_that_see_python() -> None:
    graph = c_modules(ROOT / "csrc", SEE_PYTHON)
    assert "engine/charge" in graph["engine/overdraft"]
    assert c_circle(graph) == []
    assert c_circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d"]


def test_each_function_is_declared_in_its_files_own_header(tmp_path: Path) -> None:
    assert list(undeclared(ROOT / "csrc", SEE_PYTHON)) == []
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "planted.c").write_text("static int a(void) {}\nbool b(int c) {}\n", encoding="utf-8")
    assert list(undeclared(tmp_path, ("engine",))) == ["csrc/engine/planted.c: b is not in planted.h"]


def test_no_python_module_imports_a_layer_above() -> None:
    assert list(py_violations(ROOT)) == []


def test_no_circle_of_python_modules() -> None:
    """Not even one whose last arrow is in a function."""
    arrows = py_arrows(ROOT / "src" / "nativemem")
    assert len(arrows) > 50
    assert list(circles(arrows)) == []


def test_no_circle_of_rooms() -> None:
    arrows: dict[str, set[str]] = {}
    for module, targets in py_arrows(ROOT / "src" / "nativemem").items():
        room = room_of(module)
        arrows.setdefault(room, set()).update(room_of(target) for target in targets if room_of(target) != room)
    assert list(circles(arrows)) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    for name, text in {
        "a": "from . import b",
        "b": "def f():\n    from .room import thing",
        "room/__init__": "room(__name__, c='thing')",
        "room/c": "from .. import a\nfrom . import d",
        "room/d": "from importlib import import_module\nimport_module('nativemem.a')",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    way = "a -> b -> room -> room.c"
    assert list(circles(py_arrows(tmp_path))) == [f"{way} -> a", f"{way} -> room.d -> a"]


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
        "def f():\n    from nativemem.wrappers.limited import Limited",
        "of a layer above",
    ),
    "package import": ("src/nativemem/commands/cli.py", "from nativemem import Arena", "of a layer above"),
    "pure imports up": (
        "src/nativemem/backends/pure/planted.py",
        "from ...budgets.pressure import tell",
        "of a layer above",
    ),
    "the other backend": (
        "src/nativemem/backends/pure/planted.py",
        "from ..native import control",
        "of the other backend",
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


def test_the_ways_through_the_code_are_those_of_the_sources() -> None:
    """docs/architecture.md: each file that a way names, and each function in it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    ways = page.partition("## Five ways through it")[2].partition("\n## ")[0]
    stations = re.findall(r"`((?:csrc|src)/[\w./]+?)(?::(\w+))?`", ways)
    assert len(stations) > 20
    for file, function in stations:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"^[^\n#]*\b{function}\(", text, re.MULTILINE), f"{file}: {function}"
