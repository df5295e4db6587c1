"""Every public call with bad input: docs/testing.md says what is tried, bad_input/ how it is found."""

from __future__ import annotations

import gc
import inspect
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from bad_input import cases, world
from bad_input.cases import PROCESS, Case, differences, groups, grown, judge, run
from bad_input.values import Hostile
from bad_input.world import NO_SUBJECT, RECIPES, World, class_of, surface
from nativemem import errors
from nativemem._api import load
from nativemem.allocators import typed
from nativemem.backends.binding import Binding

# of the values: that NotImplemented has no truth, and the like
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

HERE = Path(__file__).resolve().parent
GROUPS = [key for key in groups() if not key.startswith(PROCESS)]


@pytest.fixture(scope="module", autouse=True)
def _own_thread() -> Iterator[None]:
    """The second thread ends with the module: a process with threads is not forked by later tests."""
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()  # what pytest has need not be gone through again and again
    yield
    world.worker.dismiss()
    if hasattr(gc, "freeze"):
        gc.unfreeze()


# ---- what is tried ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", GROUPS)
def test_bad_input(nm: Binding, key: str) -> None:
    """ERR-4: each call returns or raises an error of ours, with one line that says why, and nothing is lost."""
    assert run(nm.name, key).complaints == []


@pytest.mark.parametrize("key", GROUPS)
def test_pure_answers_as_native(both: tuple[Binding, Binding], key: str) -> None:
    """ERR-4"""
    assert differences(key) == []


@pytest.mark.usefixtures("needs_counts")
@pytest.mark.parametrize("subject", RECIPES)
def test_refused_calls_leave_no_reference(nm: Binding, subject: str) -> None:
    """ERR-4"""
    assert grown(nm.name, subject) is None


def test_the_functions_of_the_process(nm: Binding) -> None:
    """ERR-4: install and the like, in a process of their own."""
    keys = [key for key in groups() if key.startswith(PROCESS)]
    assert len(keys) >= 5
    code = (
        "import json, sys; from bad_input.cases import run; "
        "print(json.dumps([c for key in sys.argv[2:] for c in run(sys.argv[1], key).complaints]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, nm.name, *keys],
        cwd=HERE,
        env=os.environ | {"NATIVEMEM_BACKEND": nm.name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# ---- that it is enough --------------------------------------------------------------------------------------


def test_there_are_thousands_of_cases() -> None:
    per_backend = sum(map(len, groups().values()))
    assert per_backend >= 40_000
    called = (property, classmethod, FunctionType)
    for subject in RECIPES:
        cls = class_of(load("pure"), subject)
        own = [key for key in groups() if key.startswith((f"{subject}: ", f"{subject}()"))]
        assert sum(len(groups()[key]) for key in own) >= 50, subject
        for name in vars(cls):
            if not name.startswith("_") and isinstance(inspect.getattr_static(cls, name), called):
                assert f"{subject}: {name}" in own


def test_every_public_name_is_tried() -> None:
    groups()
    assert cases.unknown == []
    functions = {key.removeprefix(PROCESS).removesuffix("()") for key in groups()}
    tried = {*RECIPES, *NO_SUBJECT, *functions, "utilities"}
    missing = sorted(set(surface(load("pure"))) - tried)
    assert not missing, f"add a line for each of {missing} to RECIPES in tests/bad_input/world.py: how to make one"
    assert set(surface(load("pure"))) >= set(NO_SUBJECT)


def test_an_unknown_parameter_is_an_error_that_says_what_to_add() -> None:
    with pytest.raises(LookupError, match="add a line to GOOD, 'novelty' or 'Arena.alloc.novelty'"):
        world.good("Arena", "alloc", "novelty")


def test_each_difference_is_of_some_case() -> None:
    for group, label, *_ in (*cases.DIFFERENCES, *cases.STALE_BUFFERS):
        labels = [case.label for key in groups() if re.fullmatch(group, key) for case in groups()[key]]
        assert any(re.fullmatch(label, each) for each in labels), (group, label)


# ---- that it sees what is wrong -----------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        SystemError("returned NULL"),
        AssertionError("x"),
        KeyError("x"),
        struct.error("x"),
        UnboundLocalError("x"),
        RecursionError("x"),
        UnicodeEncodeError("ascii", "x", 0, 1, "x"),
        AttributeError("'NoneType' object has no attribute 'x'"),
        ZeroDivisionError("x"),
        MemoryError(),
        ValueError(" "),
        TypeError("one\ntwo"),
        errors.ConfigError("long" * 1000),
        errors.ConfigError("\ud800"),
    ],
    ids=repr,
)
def test_a_bad_error_is_seen(error: BaseException) -> None:
    assert judge(raised(error), Case("", lambda w: None)) is not None


def test_a_good_error_is_none() -> None:
    for error in (errors.StaleBlock("x"), TypeError("x"), MemoryError("x"), Hostile("x\n"), StopIteration("x")):
        assert judge(raised(error), Case("", lambda w: None)) is None


def test_an_error_from_inside_is_seen(nm: Binding) -> None:
    """A bare error of a builtin that the package calls is no answer, though of an expected class."""
    with pytest.raises(ValueError) as caught:
        typed._values("no number", "i")
    assert "from inside" in (judge(caught.value, Case("", lambda w: None)) or "")
    with pytest.raises(TypeError) as refused:
        nm.Arena().release(None)  # type: ignore[arg-type]
    assert judge(refused.value, Case("", lambda w: None)) is None


def one(nm: Binding, subject: str, call: Any, **flags: Any) -> list[str]:
    """The complaints about one case."""
    runs = cases._Run(nm.name, f"{subject}: x")
    runs.one(Case("planted", call, **flags))
    runs.finish("end")
    return runs.report.complaints


def test_what_a_refused_call_changed_is_seen(nm: Binding) -> None:
    def call(w: World) -> None:
        w.kept.append(w.allocator.alloc(1))
        raise TypeError("refused")

    assert any("and changed" in text for text in one(nm, "Arena", call))
    assert one(nm, "Arena", call, acts=True) == []


def test_a_lost_block_is_seen(nm: Binding) -> None:
    lost = []
    assert any("lost at the end" in text for text in one(nm, "Arena", lambda w: lost.append(w.system.alloc(8))))
    lost.clear()


def test_a_lost_charge_is_seen(nm: Binding) -> None:
    assert any("charges of" in text for text in one(nm, "Limited", lambda w: w.budget.try_reserve(8)))


def test_damage_is_seen(nm: Binding) -> None:
    def call(w: World) -> None:
        with memoryview(w.sentinel) as raw:
            raw[7:8] = b"\xff"

    assert any("lost its content" in text for text in one(nm, "Heap", call))


@pytest.mark.usefixtures("needs_counts")
def test_a_reference_that_stays_is_seen() -> None:
    kept: list[object] = []
    assert cases.rising(lambda: kept.extend(object() for _ in range(cases.REPEATED)), 10) is not None
    assert cases.rising(lambda: None) is None


def test_what_cannot_be_closed_is_seen(nm: Binding) -> None:
    views = []
    complaints = one(nm, "Heap", lambda w: views.append(memoryview(w.sentinel)))
    assert any("cannot be closed" in text for text in complaints)


def test_an_unknown_class_is_seen(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["Heap"]
    monkeypatch.delitem(RECIPES, "Mark")
    assert recipe is RECIPES["Heap"]
    assert any("add a line to RECIPES" in text for text in one(nm, "Arena", lambda w: w.subject.mark()))
