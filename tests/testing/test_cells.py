"""JUP: what the magic does with a cell, in a shell that is as simple as can be; tests/testing has real kernels."""

from __future__ import annotations

import ast
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import NativeMemError, NativeUnavailable
from nativemem.observe.recording import Moment, Path, Recording, Sampled
from nativemem.sizes import SIZE_MAX
from nativemem.testing import notebook

MIB = 1 << 20
RUNNER = f"{os.sep}x{os.sep}IPython{os.sep}shell.py"


class Usage(Exception):
    """In place of IPython's UsageError."""


class Compiler:
    def __init__(self) -> None:
        self.cached: list[Any] = []

    def cache(self, code: str, number: int, raw_code: str) -> str:
        self.cached.append((code, number, raw_code))
        return f"<cell {number}>"

    def ast_parse(self, code: str, filename: str) -> ast.Module:
        return ast.parse(code, filename)

    def __call__(self, tree: Any, name: str, mode: str) -> Any:
        return compile(tree, name, mode)


class Shell:
    """``~x`` is its own word for ``x``; names that begin with ``old`` are ``new`` in what runs."""

    def __init__(self) -> None:
        self.execution_count, self.user_ns, self.compile = 7, dict[str, Any](), Compiler()
        self.registered: list[Any] = []

    def transform_cell(self, raw: str) -> str:
        return raw.replace("~", "")

    def transform_ast(self, tree: ast.Module) -> ast.Module:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = node.id.replace("old", "new")
        return tree

    def register_magic_function(self, *given: Any) -> None:
        self.registered.append(given)


class World:
    """``log`` has what was done, in turn; ``displayed`` and ``last`` what was shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.displayed: list[Any] = []
        self.last: list[Any] = []
        self.installs: Any = True
        self.traces = True
        self.recording: Recording | None = None
        world = self

        class Budget:
            def __init__(self, limit: int, name: str) -> None:
                self.limit, self.name, self.peak, self.used, self.denied = limit, name, 5 * MIB, 3 * MIB, 0
                self.last_denial = SimpleNamespace(requested=9 * MIB, used=MIB)
                world.budget = self

            def __enter__(self) -> None:
                world.log.append("enter")

            def __exit__(self, *error: Any) -> None:
                world.log.append(error[1])

        class Trace:
            def __init__(self, rate: int) -> None:
                world.log.append(f"trace {rate}")
                self.runs = False

            def start(self) -> None:
                if not world.traces:
                    raise NativeMemError("another runs")
                self.runs = True

            @property
            def recording(self) -> Any:
                return world.recording if self.runs else None

            def stop(self) -> None:
                world.log.append("stop")

        def install() -> Any:
            if isinstance(self.installs, Exception):
                raise self.installs
            return self.installs

        self.budget: Any = None
        monkeypatch.setattr(notebook, "install", install)
        monkeypatch.setattr(notebook, "new_budget", Budget)
        monkeypatch.setattr(notebook, "Trace", Trace)
        monkeypatch.setattr(sys, "displayhook", self.last.append)
        monkeypatch.setitem(sys.modules, "IPython.core.error", SimpleNamespace(UsageError=Usage))  # type: ignore[misc]
        display = SimpleNamespace(display=self.displayed.append)
        monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[misc]

    def magic(self) -> tuple[notebook.Magic, Shell]:
        shell = Shell()
        return notebook.Magic(shell), shell


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_it_is_registered() -> None:
    """JUP-1"""
    shell = Shell()
    notebook.load(shell)
    ((magic, kind, name),) = shell.registered
    assert magic.shell is shell and (kind, name) == ("cell", "nativemem")


def test_a_cell_runs_as_without_it(world: World) -> None:
    """JUP-1: transformed, in the shell's names; its last expression is shown, and no other."""
    magic, shell = world.magic()
    magic.execute("~oldx = 2\noldx\n~oldx + 1")
    assert shell.user_ns["newx"] == 2 and world.last == [3]
    assert shell.compile.cached == [("oldx = 2\noldx\noldx + 1", 7, "~oldx = 2\noldx\n~oldx + 1")]
    magic.execute("y = newx")
    assert shell.user_ns["y"] == 2 and world.last == [3]
    magic.execute("")
    assert world.last == [3]
    with pytest.raises(ZeroDivisionError) as raised:
        magic.execute("z = 1\n1/0\nz = 2")
    assert shell.user_ns["z"] == 1 and raised.traceback[-1].path == "<cell 7>"


def test_a_cell_is_charged(world: World) -> None:
    """JUP-1, JUP-2: from its beginning to its end, also where it fails, and then shown."""
    magic, shell = world.magic()
    magic("", "'x'")
    assert (world.budget.limit, world.budget.name, world.last) == (SIZE_MAX, "cell [7]", ["x"])
    assert world.log == ["trace 65536", "enter", None, "stop"]
    (memory,) = world.displayed
    assert (memory.peak, memory.limit, memory.blocks, memory.places, memory.refused) == (5 * MIB, None, 0, (), "")
    assert memory.used == [3 * MIB]
    world.log.clear()
    error = ValueError("no")
    shell.user_ns["error"] = error
    with pytest.raises(ValueError) as raised:
        magic("--budget 8MiB", "raise error")
    assert raised.value is error and world.log == ["trace 65536", "enter", error, "stop"]
    assert world.budget.limit == 8 * MIB and world.displayed[1].limit == 8 * MIB


def test_what_a_cell_took(world: World) -> None:
    """JUP-2: its own, of five places the largest; the most that it had in the course of time."""
    magic, shell = world.magic()
    top = Path(RUNNER, 1, "run", None)

    def sampled(n: int, owner: str, file: str = "<cell 7>") -> Sampled:
        return Sampled(Path(file, n, "f", top), owner, "objects", 1, 1, 3 * n, 3, n * 1024, 2)

    def moment(owner: str, used: int) -> Moment:
        return Moment(0.0, owner, used, None)

    world.recording = Recording(
        pid=1, began=0.0, lasted=1.0, rate=1, samples=1, dropped=0, live=0, peak=0, peak_at=0.0,
        sites=(*(sampled(n, "cell [7]") for n in range(1, 8)), sampled(99, "other")),
        owners=(), moments=(moment("cell [7]", MIB), moment("other", 9 * MIB), moment("cell [7]", 4 * MIB)),
        refused=(), about={},
    )  # fmt: skip
    shell.user_ns["deny"] = lambda: setattr(world.budget, "denied", 1)
    magic("--budget=8MiB", "deny()\n")
    (memory,) = world.displayed
    assert [(place.bytes, place.blocks, place.path) for place in memory.places] == [
        (n * 1024, 2, (f"the cell:{n} in f",)) for n in (7, 6, 5, 4, 3)
    ]
    assert memory.used == [MIB, 4 * MIB, 3 * MIB] and memory.blocks == 7 * 3
    assert memory.refused == (
        "nativemem: over the cell's budget of 8.0 MiB: 9.0 MiB were asked for with 1.0 MiB in use"
    )


def test_a_cell_beside_another_profile(world: World) -> None:
    """JUP-2: whose places are not the cell's alone."""
    world.traces = False
    magic, _ = world.magic()
    magic("", "1")
    assert world.log == ["trace 65536", "trace 65536", "enter", None, "stop"]
    assert world.displayed[0].places == () and world.displayed[0].used == [3 * MIB]


@pytest.mark.parametrize(
    ("installs", "why"),
    [(False, "NATIVEMEM_DISABLE=1 is set"), (NativeUnavailable("there is no core"), "there is no core")],
)
def test_a_cell_without_the_engine(
    world: World, capsys: pytest.CaptureFixture[str], installs: Any, why: str
) -> None:
    """JUP-1: said once; what the line asks for is looked at all the same."""
    world.installs = installs
    magic, _ = world.magic()
    magic("--budget 1MiB", "1")
    magic("", "2")
    assert world.last == [1, 2] and world.log == [] and world.displayed == []
    assert capsys.readouterr().out == f"nativemem: cells are neither measured nor bounded here: {why}\n"
    with pytest.raises(Usage):
        magic("--budget much", "3")


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        *[("", None), ("  ", None), ("--budget 1", 1), ("--budget 16MiB", 16 * MIB), ("--budget=16MiB", 16 * MIB)],
        *[("--budget '16 MiB'", 16 * MIB), ('--budget "2 KiB"', 2048)],
    ],
)
def test_the_budget_of_a_line(world: World, line: str, limit: int | None) -> None:
    assert world.magic()[0]._limit(line) == limit


@pytest.mark.parametrize("line", ["--budget", "--budget=", "16MiB", "--limit 16MiB", "16MiB --budget"])
def test_a_line_that_is_none(world: World, line: str) -> None:
    with pytest.raises(Usage, match=r"^%%nativemem \[--budget SIZE\], a size as 1GiB$"):
        world.magic()[0]._limit(line)


@pytest.mark.parametrize("size", ["0", "much"])
def test_a_budget_that_is_no_size(world: World, size: str) -> None:
    with pytest.raises(Usage, match=r"^%%nativemem: the budget"):
        world.magic()[0]._limit(f"--budget {size}")
