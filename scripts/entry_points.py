"""Every way from Python into C, and which of them take a raw pointer.

Usage: entry_points.py [--count | --write]

Two ways lead into the core:

* the functions of ``cdef.h`` (with those that ``ffi_build.py`` adds for each structure), which cffi calls with the
  types that stand there, and nothing else; *raw* is one with a pointer or an ``nm_allocator`` among its parameters;
* the methods, attributes, slots and module functions of the types in C (``PyMethodDef``, ``PyGetSetDef``,
  ``PyTypeObject`` of csrc/binding and csrc/engine); *raw* is one in which, or in a function of the same file that
  it calls, a number that came from Python becomes a pointer.

None of them is public: ``nativemem._core`` and ``nativemem._dataplane`` are imported by two modules alone
(tests/test_layering.py), and these check what the user gave. docs/security.md has the numbers and the table
(``--write`` puts them there), and says of each raw one what is checked, and by what; tests/test_entry_points.py
holds the page to the sources.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CDEF = ROOT / "src" / "nativemem" / "backends" / "native" / "cdef.h"
OWNED = ROOT / "csrc" / "binding" / "owned.h"
PAGE = ROOT / "docs" / "security.md"
TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
FUNCTION = re.compile(
    r"^(?:static |inline |NM_\w+ )*[A-Za-z_][\w ]*?[ *]+(\w+)\(([^;{}]*)\)\s*\{([^\n]*\}$|.*?^\})",
    re.DOTALL | re.MULTILINE,
)
# {"name", (PyCFunction)function, METH_...}, and {"name", (getter)function, (setter)function, ...}
METHOD = re.compile(r'\{\s*"(\w+)",\s*([^;{}]*?),\s*METH_')
ATTRIBUTE = re.compile(r'\{\s*"(\w+)",\s*\(getter\)\s*(\w+),\s*(?:\(setter\)\s*(\w+)|NULL)')
# .tp_iter = (getiterfunc)function
SLOT = re.compile(r"\.((?:tp|nb|sq|mp|am|bf)_\w+) = (?:\((?:\w+)\)\s*)?([a-z]\w+),")
# slots that are no functions
DATA = ("tp_methods", "tp_members", "tp_getset", "tp_base", "tp_doc", "tp_flags", "tp_name")
# a number becomes a pointer
RAW = re.compile(r"PyLong_AsVoidPtr\(|\*\s*\)\s*\(uintptr_t\)\s*(?!&|\()\w+|\*\)\)\(uintptr_t\)\w+")
PROTOTYPE = re.compile(r"^(?!typedef|struct|enum|#)([A-Za-z_][\w \*]*?[ \*])(\w+)\(([^()]*)\);", re.MULTILINE)


class Entry(NamedTuple):
    way: str  # cdef or method
    file: str
    name: str
    raw: bool


def without_comments(text: str) -> str:
    return TOKEN.sub(lambda match: " " if match[0][0] == "/" else match[0], text)


def of_cdef(text: str, owned: str) -> Iterator[Entry]:
    """The declared functions, and what each structure of the list has besides."""
    code = without_comments(text)
    for _, name, parameters in PROTOTYPE.findall(code):
        yield Entry("cdef", "cdef.h", name, "*" in parameters or "nm_allocator" in parameters)
    for noun in re.findall(r"^NM__OWNED\((\w+),", owned, re.MULTILINE):
        yield Entry("cdef", "owned.h", f"own_{noun}", True)
        yield Entry("cdef", "owned.h", f"nm_{noun}_destroy", True)
        if f"nm_{noun}_port(" in header(noun):
            yield Entry("cdef", "owned.h", f"nm_{noun}_port", True)


def header(noun: str) -> str:
    path = ROOT / "csrc" / "include" / "nativemem" / f"{noun}.h"
    return path.read_text(encoding="utf-8")


class Functions(NamedTuple):
    """Those that a file has, and which of them handle a raw pointer."""

    names: set[str]
    raw: set[str]


def functions_of(code: str) -> Functions:
    bodies = {name: body for name, _, body in FUNCTION.findall(code)}
    raw = {name for name, body in bodies.items() if RAW.search(body)}
    grown = True
    while grown:  # what calls it in the same file
        more = {
            name
            for name, body in bodies.items()
            if name not in raw and any(re.search(rf"\b{each}\(", body) for each in raw)
        }
        raw |= more
        grown = bool(more)
    return Functions(set(bodies), raw)


def of_types(shown: str, code: str, own: Functions, shared: Functions) -> Iterator[Entry]:
    """``own``: functions of this file; ``shared``: those of all files, which its types may name."""
    names, raw = own.names | shared.names, own.raw | shared.raw
    for name, called in METHOD.findall(code):
        functions = re.findall(r"\w+", called)
        yield Entry("method", shown, name, any(each in raw for each in functions))
    for name, getter, setter in ATTRIBUTE.findall(code):
        yield Entry("method", shown, name, getter in raw or setter in raw)
    for slot, function in SLOT.findall(code):
        if slot not in DATA and not slot.startswith("tp_as_") and function in names:
            yield Entry("slot", shown, slot, function in raw)


def entries() -> list[Entry]:
    found = list(of_cdef(CDEF.read_text(encoding="utf-8"), OWNED.read_text(encoding="utf-8")))
    files = {
        path.relative_to(ROOT / "csrc").as_posix(): without_comments(path.read_text(encoding="utf-8"))
        for room in ("binding", "engine")
        for path in sorted((ROOT / "csrc" / room).glob("*.c"))
    }
    functions = {shown: functions_of(code) for shown, code in files.items()}
    shared = Functions(
        *({name for each in functions.values() for name in each[i] if name.startswith("nm__")} for i in (0, 1))
    )
    for shown, code in files.items():
        found += of_types(shown, code, functions[shown], shared)
    return found


def counts(found: list[Entry]) -> dict[str, int]:
    return {
        "cdef": sum(each.way == "cdef" for each in found),
        "cdef, raw": sum(each.way == "cdef" and each.raw for each in found),
        "methods": sum(each.way == "method" for each in found),
        "methods, raw": sum(each.way == "method" and each.raw for each in found),
        "slots": sum(each.way == "slot" for each in found),
        "slots, raw": sum(each.way == "slot" and each.raw for each in found),
    }


def markdown(found: list[Entry]) -> str:
    files = sorted({each.file for each in found if each.way != "cdef"})
    rows = ["| file | methods, attributes, functions | slots | of them raw |", "| --- | ---: | ---: | --- |"]
    for file in files:
        here = [each for each in found if each.file == file]
        methods, slots = (sum(each.way == way for each in here) for way in ("method", "slot"))
        raw = ", ".join(f"`{each.name}`" for each in here if each.raw)
        rows.append(f"| `csrc/{file}` | {methods} | {slots} | {raw or '-'} |")
    return "\n".join(rows)


def told(found: list[Entry]) -> str:
    """The numbers as a line."""
    parts = []
    for way, words in (("cdef", "functions of cdef"), ("methods", "methods"), ("slots", "slots")):
        parts.append(f"{counts(found)[way]} {words} ({counts(found)[f'{way}, raw']} raw)")
    return ", ".join(parts)


def written(page: str, found: list[Entry]) -> str:
    """The page with the numbers and the table of today."""
    page = re.sub(r"^> \d+ functions of cdef.*$", f"> {told(found)}", page, flags=re.MULTILINE)
    return re.sub(r"^\| file \|.*?\n(?=\n)", markdown(found) + "\n", page, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description="The ways from Python into C.")
    parser.add_argument("--write", action="store_true", help="put numbers and table into docs/security.md")
    parser.add_argument("--count", action="store_true", help="the numbers alone")
    options = parser.parse_args()
    found = entries()
    if options.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    if not options.count:
        for each in found:
            print(f"{each.way:7} {'raw' if each.raw else '-':4} {each.file:26} {each.name}")
    print(told(found))


if __name__ == "__main__":
    main()
