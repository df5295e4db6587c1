"""P7: what an operation costs by how many live blocks, owners and threads there are."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator

import core_build
import peers
import pytest
from interleave import HERE, Command, turns
from ratios import Row, Table, paired

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux only")

ROUNDS = 5
LIVE = [10**power for power in range(3, 8)]
OWNERS = [10**power for power in range(5)]
#: of the time at the small end; of the time that one thread takes for a step (1.9 times as many steps a second)
GROWTH, TWO_THREADS = 1.3, 1 / 1.9
#: blocks of each thread, where threads are compared
OWN = 1000


def _power(number: int) -> str:
    return f"10^{len(str(number)) - 1}"


def _python(kind: str, count: int, engine: bool, quick: bool) -> Command:
    words = [sys.executable, str(HERE / "scale_worker.py"), "--engine" if engine else "--default"]
    return Command([*words, "--kind", kind, "--count", str(count), *(["--quick"] if quick else [])])


def _programs(table: Table) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Side, program with its kind, environment."""
    ours = str(core_build.program("scale-heap", "scale.c", side="SIDE_HEAP"))
    theirs = str(core_build.program("scale-malloc", "scale.c", side="SIDE_MALLOC"))
    yield "native", [ours, "replace"], {}
    for peer, env in peers.found(table.skip).items():
        yield peer, [theirs, "replace"], env
    yield "touch", [ours, "touch"], {}


def _compiler_is_there() -> None:
    lacking = core_build.missing()
    if lacking is not None:
        pytest.skip(f"missing: {lacking}; on Debian or Ubuntu: apt-get install gcc")


def _measure(
    table: Table, commands: dict[tuple[str, str], Command], count: int, smallest: str, target: float
) -> None:
    """``commands`` by what there is, in growing numbers, and side. One row for each."""
    named = {f"{many}/{side}": command for (many, side), command in commands.items()}
    reports = turns(named, count)
    times = {key: [report["time"] for report in reports["/".join(key)]] for key in commands}
    for (many, side), each in times.items():
        median = statistics.median(each)
        if many == smallest:
            table.add(Row(many, side, median, 1.0))
        else:
            ratio = paired(each, times[smallest, side])
            table.add(Row(many, side, median, *ratio, target if side == "native" else None))


def test_live_blocks(tables: dict[str, Table], quick: bool) -> None:
    """The heap in C, beside malloc of each peer."""
    _compiler_is_there()
    table = tables["P7"]
    commands = {
        (f"blocks, {_power(live)} live", side): Command([*words, str(live), "1", str(int(quick))], env)
        for live in (LIVE[:2] if quick else LIVE)
        for side, words, env in _programs(table)
    }
    _measure(table, commands, 1 if quick else ROUNDS, f"blocks, {_power(LIVE[0])} live", GROWTH)


def test_live_objects(tables: dict[str, Table], quick: bool) -> None:
    """Objects of CPython, with the engine and on its own allocator."""
    sides = {"native": ("replace", True), "pymalloc": ("replace", False), "touch": ("touch", False)}
    commands = {
        (f"objects, {_power(live)} live", side): _python(kind, live, engine, quick)
        for live in (LIVE[:2] if quick else LIVE)
        for side, (kind, engine) in sides.items()
    }
    _measure(tables["P7"], commands, 1 if quick else ROUNDS, f"objects, {_power(LIVE[0])} live", GROWTH)


def test_owners(tables: dict[str, Table], quick: bool) -> None:
    """Owners in turn; pymalloc: the same lists of objects, and scopes that do nothing."""
    commands = {
        (f"owners, {_power(owners)}", side): _python("owners", owners, side == "native", quick)
        for owners in (OWNERS[:2] if quick else OWNERS)
        for side in ("native", "pymalloc")
    }
    _measure(tables["P7"], commands, 1 if quick else ROUNDS, f"owners, {_power(OWNERS[0])}", GROWTH)


def test_threads(tables: dict[str, Table], quick: bool) -> None:
    """Each thread works on its own blocks."""
    _compiler_is_there()
    table = tables["P7"]
    names = {1: "threads, 1", 2: "threads, 2"}
    commands = {
        (names[threads], side): Command([*words, str(OWN), str(threads), str(int(quick))], env)
        for threads in names
        for side, words, env in _programs(table)
    }
    _measure(table, commands, 1 if quick else ROUNDS, names[1], round(TWO_THREADS, 2))
