"""How many ways lead from Python into C, how many take a raw pointer, and that docs/security.md has them."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from loading import load

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    return load(ROOT / "scripts" / "entry_points.py")


def test_the_numbers_are_those_of_the_page(script: types.ModuleType) -> None:
    """One raw one more, or less: look at it, then `make entry-points ARGS=--write`. The others may come and go."""
    page = PAGE.read_text(encoding="utf-8")
    counts = script.counts(script.entries())
    (told,) = re.findall(r"^> (.* cdef .*)$", page, re.MULTILINE)
    assert re.findall(r"\((\d+) raw\)", told) == [
        str(counts[f"{way}, raw"]) for way in ("cdef", "methods", "slots")
    ]
    raw = [each for each in script.entries() if each.raw and each.way != "cdef"]
    for file in {each.file for each in raw}:
        names = ", ".join(f"`{each.name}`" for each in raw if each.file == file)
        assert re.search(rf"^\| `csrc/{file}` \| \d+ \| \d+ \| {names} \|$", page, re.MULTILINE), file
    written = script.written(page, script.entries())
    assert script.markdown(script.entries()) in written
    assert script.written(written, script.entries()) == written
    assert counts["slots, raw"] == 0
    assert counts["methods"] > 100 and counts["slots"] > 20 and counts["cdef"] > counts["cdef, raw"]


def test_the_page_says_of_each_raw_one_what_is_checked(script: types.ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("### The raw ones")[1].split("## ")[0]
    named = [
        name
        for line in section.strip().splitlines()
        for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
        if line[0] == "|"
    ]
    assert sorted(named) == sorted(each.name for each in script.entries() if each.way != "cdef" and each.raw)


def test_each_test_that_the_page_names_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"(?:tests/)?(?:\w+/)*(test_\w+\.(?:py|c))", text):
        assert list((ROOT / "tests").rglob(name)), name
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", text):
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {name}(" in path.read_text(encoding="utf-8")


PLANTED = """
static int followed(unsigned long long a) { return *(int *)(uintptr_t)a; }
static PyObject *direct(PyObject *m, PyObject *args) {
    unsigned long long a;
    if (!PyArg_ParseTuple(args, "K", &a)) return NULL;
    return PyLong_FromLong(*(long *)(uintptr_t)a);
}
static PyObject *by_another(PyObject *m, PyObject *args) {
    return PyLong_FromLong(followed(1));
}
static PyObject *sound(PyObject *m, PyObject *o) {
    /* PyLong_AsVoidPtr(o) */
    return PyLong_FromVoidPtr(&table);
}
static PyMethodDef methods[] = {
    {"direct", direct, METH_VARARGS, NULL},
    {"by_another", (PyCFunction)by_another, METH_VARARGS, "PyLong_AsVoidPtr(x)"},
    {"sound", sound, METH_O, NULL},
};
static PyGetSetDef attributes[] = {{"address", (getter)direct, NULL, NULL, NULL}};
static PyTypeObject Type = {
    .tp_call = (ternaryfunc)nm__raw_in_another_file,
    .tp_repr = (reprfunc)nm__sound_in_another_file,
    .tp_iter = PyObject_SelfIter,
};
"""
ANOTHER = """
PyObject *nm__raw_in_another_file(PyObject *m, PyObject *args) {
    return PyLong_FromLong(*(long *)PyLong_AsVoidPtr(args));
}
PyObject *nm__sound_in_another_file(PyObject *m) {
    return Py_NewRef(m);
}
"""


def test_planted_ones_are_seen(script: types.ModuleType) -> None:
    code = script.without_comments(PLANTED)
    found = {
        each.name: each.raw
        for each in script.of_types("planted.c", code, *map(script.functions_of, (code, ANOTHER)))
    }
    assert found == {
        "direct": True,
        "by_another": True,
        "sound": False,
        "address": True,
        "tp_call": True,
        "tp_repr": False,
    }
    declared = "nm_failure nm_last(void);\nsize_t nm_of(const nm_heap *h);\nbool nm_with(nm_allocator a, int b);\n"
    assert [each.raw for each in script.of_cdef(declared, "")] == [False, True, True]


def test_the_list_is_that_of_cffi(script: types.ModuleType) -> None:
    """The functions that are counted are those that the module has."""
    lib = pytest.importorskip("nativemem._core").lib
    counted = {each.name for each in script.entries() if each.way == "cdef"}
    assert counted == {name for name in dir(lib) if callable(getattr(lib, name))}
