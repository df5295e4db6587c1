"""docs/contract.md and the suite say the same: each clause has tests, each test's clause is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
DOCUMENT = TESTS.parent / "docs" / "contract.md"

ROW = re.compile(r"^\| ([A-Z]+-\d+[a-z]?) \| (.+) \| ((?:`[^`]+` ?)+) \| (\w+) \|$")
NAME = re.compile(r"`(test_\w+\.(?:py|c))::(test_\w+)`")
IN_C = re.compile(r"^static void (test_\w+)\(", re.MULTILINE)
REFERENCE = re.compile(r"\b[A-Z]{3,}-\d+\b")


def rows() -> list[tuple[str, str, str, str]]:
    """Clause, text, tests, mark."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    head = ("| clause ", "| --- ")
    table = [line for line in lines if line.startswith("|") and not line.startswith(head)]
    found = [(line, ROW.match(line)) for line in table]
    assert [line for line, match in found if match is None] == [], "rows of another form"
    return [match.groups() for _, match in found if match is not None]


@functools.cache
def functions() -> dict[str, dict[str, str]]:
    """Docstrings of the test functions, by file name and name."""
    result = {}
    for path in [*TESTS.glob("*/test_*.py"), *TESTS.glob("test_*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert path.name not in result, "a file name in both folders would be ambiguous"
        result[path.name] = {
            node.name: ast.get_docstring(node) or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
    for path in (TESTS / "c").glob("test_*.c"):
        result[path.name] = dict.fromkeys(IN_C.findall(path.read_text(encoding="utf-8")), "")
    return result


def test_there_are_clauses() -> None:
    assert len(rows()) > 60
    clauses = [clause for clause, *_ in rows()]
    assert len(set(clauses)) == len(clauses)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_clause_names_tests_that_exist(row: tuple[str, str, str, str]) -> None:
    clause, text, tests, mark = row
    assert mark in ("exact", "bounded")
    assert text.endswith(".")
    names = NAME.findall(tests)
    assert len(names) == tests.count("`") // 2 > 0
    known = functions()
    for file, name in names:
        assert name in known.get(file, {}), f"{clause} names {file}::{name}"


def test_every_clause_that_a_test_names_is_in_the_document() -> None:
    documented = {re.sub(r"[a-z]$", "", clause) for clause, *_ in rows()}
    contract = {
        path.name for room in ("contract", "manager", "structures") for path in (TESTS / room).glob("test_*.py")
    }
    for file, tests in functions().items():
        if file in contract:
            for name, docstring in tests.items():
                missing = set(REFERENCE.findall(docstring)) - documented
                assert not missing, f"{file}::{name}"
