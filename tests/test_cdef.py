"""What cffi is told of the C core is what the headers say: each signature, each field, each status.

cffi's own checks let much pass: an argument of another integer type is converted, a status that is missing is
a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from loading import load

pytest.importorskip("cffi")

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "src" / "nativemem" / "backends" / "native"
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
#: a declaration or the head of an inline function
FUNCTION = re.compile(
    r"(?:^|[;}])\s*([A-Za-z_][\w *]*?)\b(\w+)\(([^(){};]*(?:\([^(){};]*\)[^(){};]*)*)\)\s*(?=[;{])"
)
STRUCT = re.compile(r"(?:typedef\s+)?struct\s*(\w*)\s*\{([^{}]*)\}\s*(\w*)\s*;")
OWNED = re.compile(r"NM__OWNED\((\w+),\s*\((.*?)\),\s*\((.*?)\)\)", re.DOTALL)


def ffi_build() -> ModuleType:
    return load(NATIVE / "ffi_build.py")


def plain(text: str) -> str:
    """Without comments, directives and what only a compiler cares for."""
    text = COMMENT.sub(" ", text)
    text = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$|^extern \"C\" \{|_Noreturn", "", text, flags=re.MULTILINE)
    text = OWNED.sub(" ", text).replace("unsigned int", "unsigned")
    return re.sub(r"__attribute__\(\(.*?\)\)|\b(static|inline|extern|NM_INLINE|NM_COLD|NM_FROM_TABLE)\b", " ", text)


def kind(declarator: str) -> str:
    """A parameter, a field or a result without its name."""
    text = re.sub(r"\bstruct (?=nm_)", "", declarator.strip())
    text = re.sub(r"(\(\*)\w+(\))", r"\1\2", text, count=1)  # a pointer to a function
    if "(" not in text and len(re.findall(r"\w+", text.replace("const", ""))) > 1:
        text = re.sub(r"\b(?!int\b|char\b|long\b)\w+(\[.*?\])?\s*$", r"\1", text)
    return re.sub(r"\s*([*(),])\s*", r"\1", re.sub(r"\s+", " ", text)).strip()


def split(text: str) -> list[str]:
    """At the commas that are not in parentheses."""
    return [part for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def functions(text: str) -> dict[str, str]:
    return {
        name: f"{kind(result + ' x')} ({', '.join(kind(each) for each in split(parameters))})"
        for result, name, parameters in FUNCTION.findall(plain(text))
        if result.strip() not in ("return", "else", "typedef")
    }


def structs(text: str) -> dict[str, list[str]]:
    """The fields of each: ``name: type``, or ``...`` for those that are left out."""
    found: dict[str, list[str]] = {}
    for tag, body, name in STRUCT.findall(plain(text)):
        fields = found.setdefault(name or tag, [])
        for line in filter(str.strip, body.split(";")):
            first, *more = split(line.strip())
            for each in (first, *(re.sub(r"[\w*]+(\[.*?\])?\s*$", "", first) + other for other in more)):
                pointer = re.search(r"\(\*(\w+)\)", each)
                named = pointer or re.search(r"(\w+)(\[.*?\])?\s*$", each)
                size_left_out = re.sub(r"\[.*?\]", "[]", kind(each))
                fields += [f"{named[1]}: {size_left_out}"] if named else ["..."]
    return found


HEADERS = [
    *sorted((ROOT / "csrc" / "include").rglob("*.h")),
    *(
        ROOT / "csrc" / name
        for name in ("base/base.h", "base/events.h", "heap/heap.h", "engine/engine.h", "engine/stacks.h")
    ),
    ROOT / "csrc" / "binding" / "owned.h",
]


def of_headers() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in HEADERS)


def test_each_function_has_the_signature_of_its_header() -> None:
    said, known = functions(ffi_build().declarations()), functions(of_headers())
    for noun, parameters, _ in OWNED.findall((ROOT / "csrc/binding/owned.h").read_text(encoding="utf-8")):
        known |= functions(f"bool own_{noun}({parameters});")
    assert len(said) > 90
    assert {name: known.get(name) for name in said} == said


def test_a_structure_is_made_with_what_its_create_takes() -> None:
    """The list in owned.h is the one list of structures. Its macro calls `nm_<noun>_create`, which would compile
    with other integers as well."""
    known = functions(of_headers())
    for noun, parameters, arguments in OWNED.findall((ROOT / "csrc/binding/owned.h").read_text(encoding="utf-8")):
        place, *rest = split(parameters)
        assert kind(place) == "void**"
        assert known[f"nm_{noun}_create"].partition(" (")[2] in (f"{', '.join(map(kind, rest))})", "void)"), noun
        assert [re.search(r"(\w+)$", each)[1] for each in rest] == [each.strip() for each in split(arguments)]  # type: ignore[index]


def test_each_field_is_there_with_its_type() -> None:
    said, known = structs(ffi_build().declarations()), structs(of_headers())
    assert len(said) > 12
    for name, fields in said.items():
        if "..." in fields:
            assert [each for each in fields if each != "..." and each not in known[name]] == [], name
        else:
            assert fields == known[name], name


def test_each_status_is_there() -> None:
    statuses = re.compile(r"enum nm_status\s*\{(.*?)\}", re.DOTALL)
    said, known = (
        re.findall(r"\bNM_\w+", statuses.search(plain(text))[1])  # type: ignore[index]
        for text in (ffi_build().declarations(), of_headers())
    )
    assert said == known


def test_python_calls_nothing_else_and_nothing_stands_there_for_nothing() -> None:
    said = set(functions(ffi_build().declarations()))
    source = "\n".join(
        path.read_text(encoding="utf-8") for room in ("src", "tests") for path in ROOT.glob(f"{room}/**/*.py")
    )
    called = set(re.findall(r"\b(?:lib|_lib|core_lib)\.((?:nm|own)_\w+)", source)) | set(
        re.findall(r"\"(nm_+\w+)\"", source)
    )
    by_name = re.compile(r"(own_\w+|nm_\w+_(destroy|port|clear|check_thread|hand_over)|nm_plain_\w+)")
    assert sorted(called & set(functions(of_headers())) - said) == []
    assert sorted(name for name in said - called if not by_name.fullmatch(name)) == []


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("size_t nm_f(size_t n);", "int64_t nm_f(size_t n);"),
        ("size_t nm_f(size_t n);", "size_t nm_f(unsigned n);"),
        ("size_t nm_f(size_t n);", "size_t nm_f(size_t n, bool b);"),
        ("void nm_f(const nm_heap *h);", "void nm_f(nm_heap *h);"),
        ("void nm_f(void *p);", "void nm_g(void *p);"),
    ],
)
def test_a_difference_is_seen(said: str, known: str) -> None:
    assert functions(said) != functions(known)
    assert functions("static inline size_t nm_f(size_t count, struct nm_heap *h) { return 1; }") == functions(
        "/* x */ size_t nm_f(size_t n, nm_heap *heap);"
    )
