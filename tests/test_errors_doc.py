"""ERR-3: docs/errors.md has an entry for each code and no other, and its examples do what it says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nativemem
from nativemem import errors
from nativemem.backends.binding import Binding
from nativemem.errors import NativeMemError
from nativemem.refusals import space

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
EXAMPLE = re.compile(r"^\*\*(Bad|Good)\*\*([^\n]*)\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: their examples change the process that they run in
ALONE = {"NM-NATIVE-UNAVAILABLE"}


@dataclass(frozen=True)
class Entry:
    """One section: its code, its text without the examples, and the examples."""

    code: str
    text: str
    examples: dict[str, tuple[str, str]]


def entries() -> list[Entry]:
    _, *sections = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = []
    for section in sections:
        code, _, body = section.partition("\n")
        examples = {kind: (note, source) for kind, note, source in EXAMPLE.findall(body)}
        found.append(Entry(code, EXAMPLE.sub("", body), examples))
    return found


CLASSES = {
    cls.code: cls
    for name in errors.__all__
    if issubclass(cls := getattr(errors, name), NativeMemError) and cls is not NativeMemError
}
ENTRIES = entries()
EACH = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)


def test_each_code_has_an_entry_and_each_entry_a_code() -> None:
    """ERR-3: in alphabetical order."""
    assert [entry.code for entry in ENTRIES] == sorted(CLASSES)
    assert len(CLASSES) > 15


@EACH
def test_an_entry_says_what_the_class_says(entry: Entry) -> None:
    """ERR-3"""
    cls = CLASSES[entry.code]
    [builtin] = [base for base in cls.__bases__ if base.__module__ == "builtins"]
    retry = ", may pass later" if cls.retryable else ""
    first, meaning, cause, solutions = [part for part in entry.text.split("\n\n") if part.strip()]
    assert first.strip() == f"`{cls.__name__}`, a `{builtin.__name__}`: {cls.severity}{retry}."
    assert not meaning.startswith("**")
    assert cause.startswith("**Cause.** ")
    assert solutions.startswith("**Solutions.** ")
    assert set(entry.examples) == {"Bad", "Good"}


def bound(nm: Binding) -> SimpleNamespace:
    """The package, on one backend."""
    package = SimpleNamespace(**{name: getattr(nativemem, name) for name in nativemem.__all__})
    package.__dict__.update({name: thing for name, thing in vars(nm).items() if name in nativemem.__all__})
    package.backend = nm.name
    return package


def run_alone(source: str, nm: Binding) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import nativemem\n{source}"],
        env={**os.environ, "NATIVEMEM_BACKEND": nm.name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def example(entry: Entry, kind: str, nm: Binding) -> str:
    note, source = entry.examples[kind]
    if note:
        assert note.startswith(" (native only: ")
        if nm.name != "native":
            pytest.skip("native only, and the page says why")
    return source


@EACH
def test_the_bad_example_raises_it(entry: Entry, nm: Binding) -> None:
    """ERR-3: in its last statement."""
    source = example(entry, "Bad", nm)
    cls = CLASSES[entry.code]
    if entry.code in ALONE:
        done = run_alone(source, nm)
        assert done.returncode == 1
        assert f"\nnativemem.errors.{cls.__name__}: " in done.stderr
        assert f"line {len(source.splitlines()) + 1}, in <module>" in done.stderr
        return
    tree = ast.parse(source)
    last = ast.Module([tree.body.pop()], [])
    names: dict[str, Any] = {"nativemem": bound(nm)}
    exec(compile(tree, str(DOCUMENT), "exec"), names)
    with pytest.raises(cls) as caught:
        exec(compile(last, str(DOCUMENT), "exec"), names)
    assert type(caught.value) is cls


@EACH
def test_the_good_example_does_not(entry: Entry, nm: Binding) -> None:
    """ERR-3"""
    source = example(entry, "Good", nm)
    if entry.code in ALONE:
        done = run_alone(source, nm)
        assert (done.returncode, done.stderr) == (0, "")
        return
    exec(compile(source, str(DOCUMENT), "exec"), {"nativemem": bound(nm)})


def test_the_tables_name_what_an_error_has() -> None:
    """ERR-2, ERR-3"""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in ("code", "severity", "retryable", "state", "layout", "suggestion", "link", "explain"):
        assert hasattr(NativeMemError("no"), name)
        assert re.search(rf"^\| `{name}[`(]", text, re.MULTILINE), name
    for key in (*space(1, 2, 3), "largest_free", "reserved", "owner", "blocks"):
        assert re.search(rf"^\| [^|]*`{key}`", text, re.MULTILINE), key
