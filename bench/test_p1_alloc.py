"""P1: what one block costs from Python, beside what else gives 64 bytes."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from calls import CALLS, turns, unrolled
from ratios import Row, Table, paired

from nativemem import _api

#: targets of native/peer, by group and peer
TARGETS = {
    ("arena", "bytearray(64)"): 0.30,
    ("arena", "limit"): 1.30,
    ("slab", "bytearray(64)"): 0.60,
    ("pool", "bytearray(64)"): 0.60,
}
LIMIT = "limit"
#: statement, and the module that it needs beyond the standard library
PEERS: dict[str, tuple[str, str | None]] = {
    "bytearray(64)": ("bytearray(64)", None),
    'ffi.new("char[64]")': ('ffi.new("char[64]")', "cffi"),
    "np.empty(64, 'u1')": ("np.empty(64, 'u1')", "numpy"),
    "pyarrow.allocate_buffer(64)": ("pyarrow.allocate_buffer(64)", "pyarrow"),
    "ctypes.create_string_buffer(64)": ("ctypes.create_string_buffer(64)", None),
    LIMIT: ("one.conjugate()", None),
}
_ALIAS = {"numpy": "np", "pyarrow": "pyarrow"}
GROUPS = ("arena", "stack", "pool", "slab", "heap", "system")
#: how an allocator is made that takes more than nothing
MADE = {"stack": ("1 MiB",), "pool": (64, 1000)}
#: a member's statement after each CALLS calls: blocks of these stay until they are reset
AFTER = {"arena": "arena.reset()", "stack": "stack.reset()"}


@dataclass(frozen=True)
class Member:
    """One way to a block; ``module``: what its statement needs beyond nativemem."""

    name: str
    statement: str
    module: str | None = None


def members(group: str) -> list[Member]:
    """native first, then the pure backend, then the peers."""
    ours = [Member(name, f"{group}.alloc(64)") for name in ("native", "pure")]
    return ours + [Member(name, *how) for name, how in PEERS.items()]


def _names(group: str, member: Member) -> dict[str, Any]:
    """What the statement refers to."""
    if member.module is not None:
        module = pytest.importorskip(member.module)
        return {"ffi": module.FFI()} if member.module == "cffi" else {_ALIAS[member.module]: module}
    if member.name in ("native", "pure"):
        facade = getattr(_api.load(member.name), group.capitalize())
        return {group: facade(*MADE.get(group, ()))}
    return {"ctypes": ctypes, "one": 1}


def build(group: str, member: Member) -> Callable[[], None]:
    """A function of CALLS calls."""
    after = AFTER.get(group, "") if member.name in ("native", "pure") else ""
    return unrolled(member.statement, _names(group, member), after)


CASES = [pytest.param(group, member, id=f"{group}-{member.name}") for group in GROUPS for member in members(group)]


@pytest.mark.parametrize(("group", "member"), CASES)
@pytest.mark.benchmark(max_time=0.2, min_rounds=20, disable_gc=True, warmup=True)
def test_alloc(benchmark: Any, group: str, member: Member) -> None:
    """One case of the group's table; a round is CALLS calls."""
    benchmark.group = f"{group}.alloc(64), {CALLS} calls"
    benchmark(build(group, member))


@pytest.mark.parametrize("group", GROUPS)
def test_ratios(group: str, tables: dict[str, Table], quick: bool) -> None:
    """The ratios, from members that take turns."""
    table = tables["P1"]
    runs: dict[str, Callable[[], None]] = {}
    for member in members(group):
        try:
            runs[member.name] = build(group, member)
        except pytest.skip.Exception as reason:
            table.skip(str(reason))
    times = turns(runs, 1 if quick else 201)
    native = times["native"]
    workload = f"{group}.alloc(64)"
    for name, each in times.items():
        value = statistics.median(each)
        if name == "native":
            table.add(Row(workload, name, value, 1.0))
        else:
            table.add(Row(workload, name, value, *paired(native, each), TARGETS.get((group, name))))
    assert all(min(each) > 0 for each in times.values())
