"""How scripts/suites.py reads and compares outcomes. The suites themselves are run by `make suites`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import suites
import suites_reasons


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> suites.Task:
    monkeypatch.setattr(suites, "TOP", tmp_path)
    for side in suites.SIDES:
        (tmp_path / "3.11" / "interpreter" / side).mkdir(parents=True)
    return suites.Task(suites.Python(Path("python"), "3.11"), suites.SUITES["interpreter"], fast=False)


def keep(task: suites.Task, side: str, again: int, end: str = suites.ENDED, **outcomes: str) -> None:
    by_outcome = {end: [suites.PROCESS]}
    for test, outcome in outcomes.items():
        by_outcome.setdefault(outcome, []).append(test)
    task.keep(side, {"unit": "test_x", "round": again, "seconds": 1.0, "outcomes": by_outcome})


def kinds(task: suites.Task) -> dict[str, str]:
    return {found.name: found.kind for found in suites.compare(task, "on")}


def test_what_differs_in_the_first_run_only_is_told_apart(task: suites.Task) -> None:
    first = {"same": "passed", "real": "passed", "flaky": "passed", "once": "passed", "gone": "passed"}
    keep(task, "off", 0, **first)
    keep(task, "on", 0, same="passed", real="failed", flaky="failed", once="failed")
    assert set(kinds(task).values()) == {suites.DIFFERENT}
    for again in (1, 2, 3):
        keep(task, "off", again, **first | {"flaky": "failed" if again == 2 else "passed"})
        keep(task, "on", again, same="passed", real="failed", flaky="passed", once="passed")
    different, unstable, once = suites.DIFFERENT, suites.UNSTABLE, suites.ONCE
    assert kinds(task) == {"real": different, "flaky": unstable, "once": once, "gone": different}


def test_a_crash_is_one_difference_and_never_chance(task: suites.Task) -> None:
    keep(task, "off", 0, a="passed", b="passed")
    keep(task, "on", 0, end="ended by SIGSEGV")
    for again in (1, 2, 3, 4):
        keep(task, "off", again, a="passed", b="passed")
        keep(task, "on", again, a="passed", b="passed")
    assert kinds(task) == {"test_x (the process)": suites.DIFFERENT}


def test_a_line_that_was_cut_off_is_run_again(task: suites.Task) -> None:
    keep(task, "off", 0, a="passed")
    with open(task.top / "off" / "outcomes.jsonl", "a") as file:
        file.write('{"unit": "test_y", "rou')
    assert [record["unit"] for record in task.records("off")] == ["test_x"]


def test_outcomes_of_both_kinds_of_file(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.xml"
    file.write_text(
        "<testsuites><testsuite><testcase name='t.A.a'/><testcase/><testcase name='t.A.b'><error/></testcase>"
        "<testcase name='t.A.b'><skipped/></testcase><testcase name='t at 0x7f00dead00'><failure/></testcase>"
        "</testsuite></testsuites>"
    )
    assert suites.read_outcomes(file, suites.interpreter_name) == {
        "t.A.a": "passed",
        "t.A.b": "failed",
        "t.A.b #2": "skipped",
        "t at 0x": "failed",
    }
    file.write_text(
        "<testsuites><testsuite>"
        "<testcase classname='.T' name='a[1]' file='../lib/site-packages/numpy/tests/test_x.py'/>"
        "<testcase classname='tests.test_x' name='b' file='../lib/site-packages/numpy/tests/test_x.py'/>"
        "<testcase classname='' name='numpy.tests.test_y' file=''><error/></testcase></testsuite></testsuites>"
    )
    names = ["numpy.tests.test_x::T::a[1]", "numpy.tests.test_x::b", "numpy.tests.test_y"]
    assert list(suites.read_outcomes(file, suites.pytest_name)) == names
    assert suites.own_module("numpy.tests", names[0]) == "numpy.tests.test_x"
    assert suites.own_module("numpy.tests", suites.PROCESS) == "numpy.tests"


def test_tests_of_which_only_sub_tests_failed() -> None:
    new = "FAIL: test_x (test.test_a.T.test_x) (i=1)\nFAIL: test_x (test.test_a.T.test_x) (i=2)\n"
    old = "ERROR: test_y (test.test_a.T) (i=1)\n"
    assert suites.interpreter_failures(new + "test_z (test.test_a.T.test_z) ... ok\n" + old) == [
        "test.test_a.T.test_x",
        "test.test_a.T.test_x",
        "test.test_a.T.test_y",
    ]


@pytest.mark.parametrize(
    "code, complete, log, end",
    [
        (0, True, "", "ended"),
        (2, True, "", "ended"),
        (-11, True, "", "ended by SIGSEGV"),
        (1, False, "Timeout (0:00:01)!", "hung"),
        (None, False, "", "hung"),
        (1, False, "", "ended with 1"),
    ],
)
def test_how_a_process_ended(code: int | None, complete: bool, log: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(log)
    assert suites.end_of_process(code, complete, file) == end


def test_a_difference_without_a_reason_is_counted_and_a_reason_without_a_difference_is_told(
    task: suites.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites.Python, "versions", lambda self: {"CPython": "3.11.0", "nativemem": "0"})
    keep(task, "off", 0, a="passed", b="passed", c="passed")
    keep(task, "on", 0, a="failed", b="failed", c="passed")
    known = suites_reasons.Reason("interpreter", "a", "because")
    other = dataclasses.replace(known, test="c")
    nowhere = dataclasses.replace(known, test="d")
    elsewhere = dataclasses.replace(known, pythons=("3.12",))
    monkeypatch.setattr(suites, "REASONS", (elsewhere, known, other, nowhere))
    told = suites.report([task])
    assert (told.unexplained, told.unused) == (1, [other])
    assert "| on | passed | failed | because | `a` |" in told.text
    assert "| on | passed | failed | **none** | `b` |" in told.text
    assert "| interpreter | on | 1 | 3 | 1 | 2 | 0 | 0 |" in told.text


def test_the_page_keeps_the_tables_of_versions_that_were_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "What it is.\n\n<!-- below: written by scripts/suites.py --page -->\n\n"
        "## CPython 3.9.1, a\n\nold\n\n## CPython 3.10.2, a\n\nkept\n\n## CPython 3.12.0, a\n\nkept too\n"
    )
    monkeypatch.setattr(suites, "PAGE", page)
    suites.write_page("## CPython 3.11.7, b\n\nnew\n\n## CPython 3.9.4, b\n\nnew as well\n")
    head, *tables = page.read_text().split("## CPython ")
    assert head == "What it is.\n\n<!-- below: written by scripts/suites.py --page -->\n\n"
    assert tables == [
        "3.9.4, b\n\nnew as well\n\n",
        "3.10.2, a\n\nkept\n\n",
        "3.11.7, b\n\nnew\n\n",
        "3.12.0, a\n\nkept too\n",
    ]
