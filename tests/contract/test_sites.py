"""TRACE-2, TRACE-3, TRACE-4, TRACE-6: whose block it is, where it was asked for, what is printed."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, ForeignBlock, InvalidLayout, LeakError, StaleHandle
from nativemem.wrappers import histogram as _histogram

from .helpers import is_one_line

HERE = os.path.abspath(__file__)


def ask(allocator: Allocator, *sizes: int) -> list[Any]:
    return [allocator.alloc(size) for size in sizes]


def ask_elsewhere(allocator: Allocator, *sizes: int) -> list[Any]:
    return ask(allocator, *sizes)


def line_of(function: Any) -> int:
    return int(function.__code__.co_firstlineno) + 1


# ---- whose block it is --------------------------------------------------------------------------------------


def test_no_two_allocators_have_the_same_id(nm: Binding) -> None:
    """TRACE-2"""
    seen = set()
    for _ in range(50):
        arena = nm.Arena()
        seen |= {arena.id, nm.Traced(arena).id}
    assert len(seen) == 100
    assert min(seen) >= 1


def test_the_id_outlives_close(nm: Binding) -> None:
    arena = nm.Arena()
    before = arena.id
    arena.close()
    assert arena.id == before
    with pytest.raises(AttributeError):
        arena.id = 5


def test_a_foreign_block_names_both(nm: Binding) -> None:
    """TRACE-2"""
    ours, theirs = nm.Traced(nm.Heap()), nm.Arena()
    block = theirs.alloc(10)
    with pytest.raises(ForeignBlock) as caught:
        ours.free(block)
    assert f"Traced {ours.id}: " in str(caught.value)
    assert f"Arena {theirs.id}" in str(caught.value)
    assert caught.value.state == {"allocator": ours.id, "given_by": theirs.id}
    assert block.alive


# ---- where it was asked for ---------------------------------------------------------------------------------


def test_sites_name_file_line_and_function(nm: Binding) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=3)
    kept = ask_elsewhere(traced, 100, 50)
    (site,) = traced.sites()
    assert (site.blocks, site.bytes) == (2, 150)
    assert len(site.frames) == 3
    assert {frame.file for frame in site.frames} == {HERE}
    lines = [frame.line for frame in site.frames]
    functions = [frame.function.rpartition(".")[2] for frame in site.frames]
    if sys.version_info >= (3, 12):  # a comprehension is no function any more
        assert functions == ["ask", "ask_elsewhere", "test_sites_name_file_line_and_function"]
        assert lines[:2] == [line_of(ask), line_of(ask_elsewhere)]
    else:
        assert functions == ["<listcomp>", "ask", "ask_elsewhere"]
        assert lines == [line_of(ask), line_of(ask), line_of(ask_elsewhere)]
    text = str(site)
    assert text.startswith(f"150 bytes in 2 blocks: {HERE}:{lines[0]} in ")
    assert is_one_line(ValueError(text))
    kept.clear()
    assert traced.sites() == []


def test_the_most_bytes_come_first(nm: Binding) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=8)
    small, large, many = ask(traced, 10), ask_elsewhere(traced, 1000), [traced.alloc(30) for _ in range(10)]
    assert [site.bytes for site in traced.sites()] == [1000, 300, 10]
    large[0].free()
    assert [site.bytes for site in traced.sites()] == [300, 10]
    del many
    gc.collect()
    assert [(site.bytes, site.blocks) for site in traced.sites()] == [(10, 1)]
    assert traced.resize(small[0], 4)
    assert [site.bytes for site in traced.sites()] == [4]


@pytest.mark.parametrize("stacks", [1, 2, 5, 128])
def test_so_many_frames_and_no_more(nm: Binding, stacks: int) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=stacks)
    assert traced.stacks == stacks

    def deep(n: int) -> Any:
        return deep(n - 1) if n else traced.alloc(1)

    block = deep(200)
    (site,) = traced.sites()
    assert len(site.frames) == stacks
    assert {frame.function.rpartition(".")[2] for frame in site.frames} == {"deep"}
    block.free()


def test_a_stack_may_be_shorter(nm: Binding) -> None:
    traced = nm.Traced(nm.System(), stacks=128)
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(traced.alloc(1)))
    thread.start()
    thread.join()
    (site,) = traced.sites()
    assert 1 < len(site.frames) < 10
    kept.clear()


def test_frames_of_the_package_are_left_out(nm: Binding) -> None:
    """TRACE-6: the line that called the package is meant."""
    traced = nm.Traced(nm.System(), stacks=1)
    kept = [traced.alloc_many([10, 20]), traced.alloc_value("d", 1.0), traced.array("d", 3)]
    assert {frame.file for site in traced.sites() for frame in site.frames} == {HERE}
    assert sum(site.blocks for site in traced.sites()) == 4
    kept.clear()


@pytest.mark.parametrize("wrapper", ["Limited", "Traced", "Failing", "Locked"])
def test_what_came_through_a_wrapper_on_top(nm: Binding, wrapper: str) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=1)
    rest = (nm.Budget(1 << 20),) if wrapper == "Limited" else ()
    top = getattr(nm, wrapper)(traced, *rest)
    blocks = ask(top, 100)
    assert [(site.blocks, site.bytes) for site in traced.sites()] == [(1, 100)]
    blocks[0].free()
    assert traced.sites() == []


@pytest.mark.parametrize("noun", ["Arena", "Slab", "Pool", "Stack"])
def test_what_a_noun_on_top_took(nm: Binding, noun: str) -> None:
    """TRACE-6: its chunks, where they were needed."""
    traced = nm.Traced(nm.System(), stacks=1)
    size = {"Pool": (64, 10), "Stack": (4096,)}.get(noun, ())
    top = getattr(nm, noun)(*size, upstream=traced)
    block = top.alloc(64)
    sites = traced.sites()
    assert sum(site.bytes for site in sites) == traced.stats.current > 64
    assert {frame.file for site in sites for frame in site.frames} == {HERE}
    block.free()
    top.close()
    assert traced.sites() == []


@pytest.mark.parametrize("noun", ["Arena", "Stack"])
def test_blocks_that_a_reset_drops(nm: Binding, noun: str) -> None:
    """TRACE-6"""
    below = nm.Arena() if noun == "Arena" else nm.Stack(4096)
    traced = nm.Traced(below, stacks=1)
    for _ in range(3):
        blocks = ask(traced, 100, 200)
        assert sum(site.bytes for site in traced.sites()) == 300
        below.reset()
        assert traced.sites() == []
    del blocks
    traced.close()


def test_a_refused_call_has_no_site(nm: Binding) -> None:
    traced = nm.Traced(nm.Stack(100), stacks=1)
    first, second = traced.alloc(32), traced.alloc(32)
    for call in (lambda: traced.alloc(100), first.free):
        with pytest.raises((MemoryError, ValueError)):
            call()
        assert sum(site.bytes for site in traced.sites()) == 64
    second.free()
    first.free()


def test_code_that_is_gone_still_has_its_name(nm: Binding) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=1)
    namespace: dict[str, Any] = {"traced": traced}
    exec(compile("def made_up():\n    return traced.alloc(7)\n", "no such file", "exec"), namespace)
    block = namespace.pop("made_up")()
    gc.collect()
    (site,) = traced.sites()
    (frame,) = site.frames
    assert (frame.file, frame.line, frame.function) == ("no such file", 2, "made_up")
    assert str(frame) == "no such file:2 in made_up"
    block.free()


def test_nothing_is_kept_alive_but_code(nm: Binding) -> None:
    class Local:
        pass

    traced = nm.Traced(nm.System(), stacks=10)

    def use() -> tuple[Any, weakref.ref[Local]]:
        local = Local()
        return traced.alloc(1), weakref.ref(local)

    block, local = use()
    assert local() is None
    assert len(traced.sites()) == 1
    block.free()


def test_threads_have_their_own_sites(nm: Binding) -> None:
    """TRACE-6"""
    traced = nm.Traced(nm.System(), stacks=1)
    kept: list[Any] = []

    def work(n: int) -> None:
        for _ in range(200):
            block = traced.alloc(n)
            traced.free(block)
        kept.append(traced.alloc(n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(site.blocks for site in traced.sites()) == 8
    assert sum(site.bytes for site in traced.sites()) == 36
    kept.clear()


def test_a_collection_in_the_middle_of_an_allocation(nm: Binding) -> None:
    """TRACE-6: what is found on the way must not run code of the program, which may drop the block half made."""
    arena = nm.Arena()
    traced = nm.Traced(arena, stacks=30)
    resets = []

    class Cycle:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            if armed:
                arena.reset()
                resets.append(arena.generation)

    def deep(n: int) -> Any:
        return deep(n - 1) if n else traced.alloc(8)

    threshold = gc.get_threshold()
    for n in range(60):
        gc.collect()
        armed = False
        gc.set_threshold(n + 1)
        try:
            Cycle()
            armed = True
            block = deep(20)
            armed = False
        finally:
            gc.set_threshold(*threshold)
        assert traced.stats.live == arena.stats.live == len(traced.blocks()) == block.alive
        assert sum(site.blocks for site in traced.sites()) == block.alive
        del block
        arena.reset()
    assert gc.isenabled()


# ---- a sample -----------------------------------------------------------------------------------------------


def test_a_sample_stands_for_all(nm: Binding) -> None:
    """TRACE-6: the estimates are near, and the same in each run."""
    estimates = []
    for _ in range(2):
        traced = nm.Traced(nm.System(), stacks=1, sample="1 KiB")
        assert traced.sample == 1024
        kept = ask(traced, *[100] * 20_000)
        (site,) = traced.sites()
        estimates.append((site.blocks, site.bytes))
        assert traced.stats.live == 20_000  # what is counted is exact
        kept.clear()
        assert traced.sites() == []
    assert estimates[0] == estimates[1]
    blocks, size = estimates[0]
    # of 20,000 about 1,860 are looked at; five standard deviations are 11 %
    assert 17_800 < blocks < 22_200
    assert size == pytest.approx(100 * blocks, abs=100)


def test_large_blocks_are_always_in_the_sample(nm: Binding) -> None:
    traced = nm.Traced(nm.System(), stacks=1, sample=1000)
    block = traced.alloc(100_000)
    (site,) = traced.sites()
    assert (site.blocks, site.bytes) == (1, 100_000)
    block.free()


# ---- what is refused ----------------------------------------------------------------------------------------


def test_no_sites_by_default(nm: Binding) -> None:
    traced = nm.Traced(nm.System())
    assert (traced.stacks, traced.sample) == (0, 0)
    with pytest.raises(ConfigError, match=r"^traced\.stacks: .*stacks=1"):
        traced.sites()
    traced.close()
    with pytest.raises(StaleHandle):
        traced.sites()


@pytest.mark.parametrize("bad", [-1, 129, 10**30, 1.0, "1", None, True])
def test_bad_stacks(nm: Binding, bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"^traced\.stacks: "):
        nm.Traced(nm.System(), stacks=bad)


@pytest.mark.parametrize("bad", [-1, 10**30, 1.5, "much", None])
def test_bad_sample(nm: Binding, bad: Any) -> None:
    with pytest.raises(InvalidLayout, match=r"^traced\.sample: "):
        nm.Traced(nm.System(), stacks=1, sample=bad)


def test_a_sample_needs_stacks(nm: Binding) -> None:
    with pytest.raises(ConfigError, match=r"^traced\.sample: "):
        nm.Traced(nm.System(), sample="1 KiB")


# ---- leaks --------------------------------------------------------------------------------------------------


def test_a_leak_names_its_sites(nm: Binding) -> None:
    """TRACE-3"""
    with pytest.raises(LeakError) as caught, nm.Traced(nm.System(), stacks=3) as traced:
        kept = ask(traced, 10)
        kept += ask(traced, 1000, 2000)
    error = caught.value
    assert is_one_line(error)
    assert [(site.blocks, site.bytes) for site in error.sites] == [(2, 3000), (1, 10)]
    assert list(error.sites) == traced.sites()
    shown = io.StringIO()
    error.explain(shown)
    assert f"\n  {error.sites[0]}\n  {error.sites[1]}\n" in shown.getvalue()
    if sys.version_info >= (3, 11):
        assert any(str(error.sites[0]) in note for note in error.__notes__)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert copied.sites == error.sites
    kept.clear()


def test_a_leak_without_stacks_has_no_sites(nm: Binding) -> None:
    with pytest.raises(LeakError) as caught, nm.Traced(nm.System()) as traced:
        kept = traced.alloc(10)
    assert caught.value.sites == ()
    kept.free()


def test_the_first_ten_are_shown(nm: Binding) -> None:
    namespace: dict[str, Any] = {}
    lines = "\n".join(f"    kept.append(traced.alloc({100 - n}))" for n in range(13))
    exec(f"def many(traced, kept):\n{lines}\n", namespace)
    kept: list[Any] = []
    with pytest.raises(LeakError) as caught, nm.Traced(nm.System(), stacks=1) as traced:
        namespace["many"](traced, kept)
    assert len(caught.value.sites) == 13
    shown = io.StringIO()
    caught.value.explain(shown)
    assert shown.getvalue().count(" in many\n") == 10
    assert "  and 3 more\n" in shown.getvalue()
    kept.clear()


# ---- printing -----------------------------------------------------------------------------------------------


def test_what_is_printed_of_a_histogram(nm: Binding) -> None:
    """TRACE-4"""
    traced = nm.Traced(nm.System(), histogram=True)
    for size in (10, 10, 10, 1000):
        traced.alloc(size)
    out = io.StringIO()
    traced.print_histogram(out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "Traced: 4 blocks"
    assert lines[1].split() == ["size", "up", "to", "blocks"]
    assert lines[2].split() == ["10", "B", "3", "#" * 40]
    assert lines[3].split() == ["1.0", "KiB", "1", "#" * 14]
    assert lines[4].strip() == "size: p50 10 B, p90 1.0 KiB, p99 1.0 KiB"
    assert lines[5].split() == ["upstream", "took", "up", "to", "blocks"]
    assert lines[-2].strip().startswith("time: p50 ")
    assert lines[-1].strip() == _histogram.environment(nm.name)
    assert f"({nm.name})" in lines[-1]


def test_of_an_empty_one(nm: Binding) -> None:
    out = io.StringIO()
    nm.Traced(nm.System(), histogram=True).print_histogram(out)
    assert out.getvalue() == f"Traced: 0 blocks\n  {_histogram.environment(nm.name)}\n"


def test_there_is_nothing_to_print_without(nm: Binding) -> None:
    with pytest.raises(ConfigError, match=r"^traced\.histogram: "):
        nm.Traced(nm.System()).print_histogram()


@pytest.mark.parametrize(
    ("ns", "text"),
    [(1, "1 ns"), (999, "999 ns"), (1000, "1 us"), (1500, "1.5 us"), (10**6, "1 ms"), (25 * 10**8, "2.5 s")],
)
def test_times(ns: int, text: str) -> None:
    assert _histogram._time(ns) == text


TEST = """
import unittest
from nativemem import Traced

class Some(unittest.TestCase):
    def test_it(self):
        with Traced() as traced:
            traced.alloc(100).free()
        other = Traced(traced.upstream)
        other.alloc(100)
        Traced(traced.upstream, histogram=False).alloc(7)

unittest.main()
"""


@pytest.mark.parametrize(("switch", "printed"), [("1", True), ("0", False)])
def test_the_process_prints_all_when_it_ends(nm: Binding, switch: str, printed: bool) -> None:
    """TRACE-4: of those that are gone as well."""
    env = os.environ | {"NATIVEMEM_ALLOC_HISTO": switch, "NATIVEMEM_BACKEND": nm.name}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(TEST)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("nativemem: all that was traced: 2 blocks\n" in done.stderr) is printed
    assert (f"({nm.name}), " in done.stderr) is printed
    assert done.stdout == ""


def test_nothing_is_printed_where_nothing_was_traced(nm: Binding) -> None:
    env = os.environ | {"NATIVEMEM_ALLOC_HISTO": "1", "NATIVEMEM_BACKEND": nm.name}
    code = "import nativemem; nativemem.Heap().alloc(5)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
