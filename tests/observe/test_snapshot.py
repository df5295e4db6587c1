"""OBS: one class of figures, snapshots, and what grew between two of them."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError
from nativemem.observe import snapshot as observe
from nativemem.observe.recording import Path as CallPath
from nativemem.observe.recording import Sampled
from nativemem.observe.snapshot import Snapshot, diff, snapshot
from nativemem.stats import Stats

from .helpers import native, run


def test_one_class_of_figures(nm: Binding) -> None:
    """OBS-1"""
    budget = nm.Budget(1000, "figures")
    budget.try_reserve(300)
    budget.try_reserve(200)
    budget.release(200)
    budget.try_reserve(1001)
    assert budget.stats == Stats(300, 500, 300, 1000, 500, 0, 2, 0, 1, 700)
    assert type(nm.Arena().stats) is type(budget.stats) is Stats is nativemem.Stats
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.stats.current = 1  # type: ignore[misc]


def test_shares() -> None:
    """OBS-1: of nothing, nothing is lost."""
    assert (Stats(0, 0, 0, None, 0, 0, 0, 0, 0).efficiency, Stats(0, 0, 0, None, 0, 0, 0, 0, 0).fragmentation) == (
        1,
        0,
    )
    stats = Stats(250, 500, 1000, None, 2000, 1, 8, 7, 0)
    assert (stats.efficiency, stats.fragmentation, stats.turnover) == (0.25, 0.75, 4)
    assert Stats(0, 0, 10, None, 0, 0, 0, 0, 0).turnover == 0


def test_charges_are_counted_up_the_line(nm: Binding) -> None:
    """OBS-1: also those of a child that is gone; a refused charge is none."""
    parent = nm.Budget(1000, "parent")
    shared = nm.Budget(100, "shared")
    child = nm.Budget(500, "child", parent, shared=shared, shared_max=10)
    limited = nm.Limited(None, child)
    blocks = [limited.alloc(100), limited.alloc(10), limited.alloc(200)]
    assert not child.try_reserve(300)
    counted = [(b.stats.count, b.stats.total) for b in (child, parent, shared)]
    assert counted == [(2, 300), (2, 300), (1, 10)]
    blocks.clear()
    limited.close()
    del child, limited
    assert (parent.stats.count, parent.stats.total, parent.used) == (2, 300, 0)
    assert parent.try_reserve(1)
    assert parent.stats.count == 3


def test_largest_free_is_to_be_had(nm: Binding) -> None:
    """OBS-1: what is said to be free is served, and one byte more is not."""
    parent = nm.Budget(4000)
    budget = nm.Budget(3000, None, parent, overcommit=0.5)
    parent.try_reserve(100)
    heap = nm.Heap()
    found = [
        nm.Arena(cap=5000),
        nm.Arena(hint=500, grow=False),
        nm.Stack(777),
        nm.Pool(96, 2),
        nm.Limited(None, budget),
        nm.Limited(nm.Stack(5000), budget),
        nm.Traced(nm.Limited(None, nm.Budget(1000, max_single=0.25))),
    ]
    sizes = []
    for allocator in found:
        size = allocator.stats.largest_free
        sizes.append(size)
        with pytest.raises((MemoryError, ValueError)):
            allocator.alloc(size + 1, 1)
        block = allocator.alloc(size, 1)
        assert block.size == size
        block.free()
    assert sizes == [5000, 500, 777, 96, 3900, 3900, 250]
    pool = found[3]
    kept = [pool.alloc(), pool.alloc()]
    assert pool.stats.largest_free == 0
    assert kept[0].size == 96
    budget.lock()
    assert budget.stats.largest_free == 0
    assert heap.stats.largest_free is None and nm.Locked(nm.Arena(cap=100)).stats.largest_free is None


def test_of_another_thread_largest_free_is_not_told(nm: Binding) -> None:
    """OBS-1: the other figures are."""
    arena = nm.Arena(cap=5000)
    block = arena.alloc(10)
    found: list[Stats] = []
    thread = threading.Thread(target=lambda: found.append(arena.stats))
    thread.start()
    thread.join()
    assert found[0].largest_free is None
    assert dataclasses.replace(arena.stats, largest_free=None) == found[0]
    block.free()


def test_owners(nm: Binding) -> None:
    """OBS-2"""
    service = nm.Budget(10_000, "of owners")
    cache = nm.Budget(1000, "cache", service)
    nameless = nm.Budget(1000, None, cache)
    nameless.try_reserve(900)
    nameless.try_reserve(200)
    loan = service.lend(cache, 500)
    now = snapshot()
    found = {owner.path: owner for owner in now.owners if owner.path.startswith("of owners")}
    paths = sorted(found)
    assert paths[:2] == ["of owners", "of owners/cache"] and paths[2].startswith("of owners/cache/budget ")
    top, middle, bottom = (found[path] for path in paths)
    assert (top.used, top.peak, top.limit, top.denials, top.lent, top.held) == (900, 900, 9500, 0, 500, None)
    assert (middle.name, middle.limit, middle.pressure) == ("cache", 1500, "normal")
    assert (bottom.stats, bottom.pressure, bottom.locked) == (nameless.stats, "warn", False)
    assert now.owner("of owners/cache") is middle and now.owner("of owners") is top
    with pytest.raises(KeyError):
        now.owner("of owner")
    loan.settle()
    nameless.release(900)
    del nameless
    assert not [o for o in snapshot().owners if o.path.startswith("of owners/cache/")]


def test_the_process(nm: Binding) -> None:
    """OBS-2"""
    process = snapshot().process
    assert process.python == sys.version.split()[0] and process.backend == nativemem.backend
    assert process.pid > 0 and process.nativemem == nativemem.__version__
    if process.resident is not None and process.resident_peak is not None:
        assert 1 << 20 < process.resident <= process.resident_peak


def test_open_allocators(nm: Binding) -> None:
    """OBS-2: those that are open, where they are asked for."""
    budget = nm.Budget(10_000, "of allocators")
    arena = nm.Arena(cap=5000, upstream=nm.Limited(None, budget))
    closed = nm.Arena()
    closed.close()
    block = arena.alloc(100)

    class Liar:
        """It is looked at with all others, and takes no question."""

        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise RuntimeError("asked for its class")

    liar = Liar()
    assert snapshot().allocators == ()
    found = {(each.chain, each.id): each for each in snapshot(allocators=True).allocators}
    state = found["Arena > Limited > System", arena.id]
    assert (state.stats, state.owner) == (arena.stats, "of allocators")
    assert closed.describe() not in [each.chain for each in found.values() if each.id == closed.id]
    del liar
    block.free()


def made(used: dict[str, int], sites: dict[tuple[str, int], int] | None = None, **more: Any) -> Snapshot:
    owners = [
        observe.OwnerState(path, Stats(n, n, n, 1000, n, 0, 1, 0, 0, 1000 - n), "normal", None, 0, False)
        for path, n in used.items()
    ]
    outer = CallPath("a.py", 1, "<module>")
    called = [
        Sampled(CallPath("a.py", line, name, outer), "process", "objects", n, 1, n, 1, n, 1)
        for (name, line), n in (sites or {}).items()
    ]
    process = observe.ProcessState(1, "3.11.7", "0", "native", 1, 2, None)
    return Snapshot(more.get("when", 0.0), process, None, tuple(owners), (), tuple(called), 1)


def test_diff_is_sorted_and_says_what_became_of_each() -> None:
    """OBS-2"""
    a = made({"same": 5, "grows": 1, "shrinks": 900, "goes": 10}, {("f", 3): 100, ("g", 9): 50, ("none", 1): 0})
    b = made(
        {"same": 5, "grows": 300, "shrinks": 100, "comes": 7, "zero": 0},
        {("f", 3): 100, ("f", 4): 60, ("nothing", 1): 0},
        when=2.5,
    )
    found = diff(a, b)
    changes = [(change.name, change.how, change.grew) for change in found.owners]
    assert changes == [
        ("shrinks", "shrank", -800),
        ("grows", "grew", 299),
        ("goes", "went", -10),
        ("comes", "came", 7),
        ("zero", "came", 0),
    ]
    assert [(change.name, change.how, change.blocks) for change in found.sites] == [
        ("a.py:4 in f (process)", "came", 1),
        ("a.py:9 in g (process)", "went", -1),
    ]
    assert str(found).splitlines() == [
        "2.5 s",
        "",
        "change          before  after  owner",
        "-800 B  shrank   900 B  100 B  shrinks",
        "+299 B  grew       1 B  300 B  grows",
        " -10 B  went      10 B    0 B  goes",
        "  +7 B  came       0 B    7 B  comes",
        "  +0 B  came       0 B    0 B  zero",
        "",
        "change        before  after  site",
        " +60 B  came     0 B   60 B  a.py:4 in f (process)",
        " -50 B  went    50 B    0 B  a.py:9 in g (process)",
    ]
    assert str(diff(a, a)).splitlines()[1:] == ["", "no owner changed", "", "no site changed"]


def test_a_table_has_an_end() -> None:
    """OBS-2"""
    found = diff(made({}), made({f"owner {n}": n for n in range(1, 31)}))
    lines = str(found).splitlines()
    assert len(found.owners) == 30
    assert lines[22:24] == [" +11 B  came     0 B   11 B  owner 11", "+55 B in 10 more"]


def test_owners_of_one_path_are_one() -> None:
    """OBS-2"""
    a, b = made({"x": 5}), made({"x": 5})
    twice = dataclasses.replace(b, owners=b.owners * 2)
    assert [(c.name, c.grew) for c in diff(a, twice).owners] == [("x", 5)]
    with pytest.raises(KeyError):
        twice.owner("x")


def test_it_can_be_saved(nm: Binding, tmp_path: Path) -> None:
    """OBS-2: as JSON, with sites of one path once."""
    budget = nm.Budget(10_000, "saved")
    budget.try_reserve(10)
    deep = CallPath("b.py", 0, "outermost")
    for line in range(3000):
        deep = CallPath("b.py", line, "f", deep)
    now = snapshot(allocators=True)
    sites = tuple(Sampled(deep, owner, "arrays", 1, 2, 3, 4, 5, 6) for owner in ("process", "saved"))
    now = dataclasses.replace(now, sites=sites, rate=7)
    now.save(tmp_path / "now.json")
    read = observe.load(tmp_path / "now.json")
    assert dataclasses.replace(read, sites=()) == dataclasses.replace(now, sites=())
    assert [site.path.frames()[0] is not None for site in read.sites] == [True, True]
    assert not diff(now, read).sites and not diff(now, read).owners
    assert len(json.loads((tmp_path / "now.json").read_text())["paths"]) == 3001


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    """OBS-2"""
    good = made({"a": 1}, {("f", 1): 2}).to_dict()
    assert Snapshot.from_dict(good) == made({"a": 1}, {("f", 1): 2})
    without = {key: value for key, value in good.items() if key != "owners"}
    bad = [
        None,
        [],
        {},
        3,
        {**good, "snapshot": 2},
        without,
        {**good, "paths": [[5, "a", 1, "f"]]},
        {**good, "sites": [[9]]},
    ]
    for each in bad:
        with pytest.raises(ConfigError, match="snapshot: "):
            Snapshot.from_dict(each)
    (tmp_path / "none.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no JSON"):
        observe.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="takes two snapshots, not int"):
        diff(made({}), 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="diff.by: takes 'line' or 'path', not 'owner'"):
        diff(made({}), made({}), "owner")


def test_while_budgets_come_and_go(nm: Binding) -> None:
    """OBS-2: from any thread, at any time."""
    end = threading.Event()
    errors: list[BaseException] = []

    def make() -> None:
        try:
            while not end.is_set():
                kept = [nm.Budget(1000, f"gone {n}") for n in range(20)]
                kept[0].try_reserve(10)
        except BaseException as error:  # noqa: B036
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        assert all(owner.used in (0, 10) for owner in snapshot(sites=False).owners if owner.name.startswith("gone"))
    end.set()
    for thread in threads:
        thread.join()
    assert not errors


@native
def test_a_leak_is_found_by_its_line() -> None:
    """OBS-2, PROF-1: a snapshot has the sites of the profile that runs; those of a recording compare as well."""
    run("""
        import nativemem
        from nativemem.observe.profile import Profile
        from nativemem.observe.snapshot import diff, from_recording, snapshot
        nativemem.install(limit="1 GiB")
        cache = nativemem.Budget("64 MiB", name="cache")
        kept = []
        def handle():
            kept.append(bytes(1024))
            return [bytes(100) for _ in range(10)]
        with Profile(rate=1) as profile:
            with cache:
                for _ in range(100): handle()
                a, before = snapshot(), from_recording(profile.read())
                for _ in range(1000): handle()
                b, after = snapshot(), from_recording(profile.read())
        assert b.rate == 1 and not snapshot().sites
        for found in (diff(a, b), diff(before, after)):
            top = found.sites[0]
            assert top.how == "grew" and top.name == "<string>:9 in handle (cache)", top
            assert 1000 * 1024 < top.grew < 1100 * 1200 and 1000 <= top.blocks <= 1010
            assert sum(change.grew for change in found.sites if change.name == top.name) == top.grew
            assert found.owners[0].grew >= 1000 * 1024
        by_path = [c for c in diff(a, b, "path").sites if c.name == top.name]
        assert by_path[0].how == "came" and by_path[0].of.path.caller.line == 15, by_path
        with cache: more = [bytes(1024) for _ in range(1000)]
        owner = snapshot().owner("cache")
        assert 1000 * 1024 < owner.held <= owner.used, owner
        assert b.engine.held <= b.engine.peak <= b.engine.limit == 1 << 30 and b.engine.objects and b.engine.arrays
        assert b.engine.kept >= 0 and b.engine.denials == 0 and b.engine.allocations > 0, b.engine
        stats = b.process.stats
        assert stats.current <= stats.reserved and stats.count > 1000 and stats.total > 1000 * 1024, stats
        assert stats.largest_free == stats.limit - stats.current and 0 <= stats.fragmentation < 1
    """)


@pytest.mark.parametrize(("caller", "taken"), [(-1, True), (0, True), (-2, False), (1, False)])
def test_a_path_lies_behind_its_caller(caller: int, taken: bool) -> None:
    """In what is read; -1 has none."""
    given = {**snapshot().to_dict(), "sites": []}
    given["paths"] = [[-1, "a.py", 1, "f"], [caller, "b.py", 2, "g"]]
    if taken:
        assert Snapshot.from_dict(given).sites == ()
    else:
        with pytest.raises(ConfigError):
            Snapshot.from_dict(given)
