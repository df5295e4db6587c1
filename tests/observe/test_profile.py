"""PROF: profiles of the process, by call path and owner. Each program has a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nativemem
from nativemem.errors import ConfigError, InvalidLayout, NativeMemError
from nativemem.observe.profile import Profile
from nativemem.observe.recording import read

native = pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")

START = """
import gc, os, sys, threading
import nativemem
from nativemem.observe.profile import Profile
from nativemem.observe.recording import read
nativemem.install(limit="1 GiB")
def live(recording, function, **of):
    found = [s for s in recording.sites if function in [at.function.split(".")[0] for at in s.path]]
    return sum(s.live for s in found if all(getattr(s, key) == value for key, value in of.items()))
"""


def run(program: str, *arguments: str, status: int = 0) -> str:
    code = START + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


@native
def test_each_block_is_noted_with_its_path_and_owner() -> None:
    """PROF-1"""
    run("""
        def make(n): return [bytes(1000) for _ in range(n)]
        def outer(n): return make(n)
        budget = nativemem.Budget("64 MiB", name="cache")
        with Profile(rate=1) as profile:
            ours = outer(1000)
            with budget:
                theirs = outer(500)
            before = profile.read()
            del ours
            after = profile.read()
        size = sys.getsizeof(bytes(1000))
        assert 1000 * size <= live(before, "outer", owner="process") < 1010 * size + 20_000
        assert 500 * size <= live(before, "outer", owner="cache") < 505 * size + 20_000
        assert live(after, "outer", owner="process") < 20_000
        assert live(after, "outer", owner="cache") == live(before, "outer", owner="cache")
        callers = [at.function for at in [s.path for s in before.sites if 1000 <= s.live_blocks < 1010][0]]
        assert callers[-2:] == ["outer", "<module>"] and callers[-3].startswith("make"), callers
        assert sum(s.total for s in after.sites if "outer" in [at.function for at in s.path]) >= 1500 * size
        assert after.peak >= before.live and after.samples > 1500 and after.rate == 1
        assert {o.name: o.limit for o in after.owners} == {"process": 1 << 30, "cache": 64 << 20}
        theirs = None
        assert budget.used < 1000, budget.used
    """)


@native
def test_code_that_goes_is_not_kept() -> None:
    """PROF-3: a program that makes code all the time, as template engines do. Its profile keeps none of it, and
    takes no code for what was at its address before: another file, function or line."""
    run("""
        import weakref
        def source(kind, i):
            if kind == "file": return f"<\N{SNOWMAN} {i}>", "def page(): return bytes(5000)", "page", 1
            if kind == "function": return "<made>", f"def page_{i}(): return bytes(5000)", f"page_{i}", 1
            if kind == "first": return "<first>", chr(10) * i + "def page(): return bytes(5000)", "page", i + 1
            return "<line>", "def page():" + chr(10) * (i + 1) + " return bytes(5000)", "page", i + 2
        kept, seen, addresses, expected = [], [], set(), {}
        with Profile(rate=1) as profile:
            for kind in ("file", "function", "first", "line"):
                for i in range(100):
                    file, text, name, line = source(kind, i)
                    scope = {}
                    exec(compile(text, file, "exec"), scope)
                    kept += [scope[name](), scope[name]()]
                    addresses.add(id(scope[name].__code__))
                    seen.append(weakref.ref(scope[name].__code__))
                    expected[file, name, line] = 2
                    del scope
            gc.collect()
            assert not [code for code in seen if code() is not None]
            recording = profile.read()
        assert len(addresses) < 400, "no address was used twice"
        at = lambda path: (path.file, path.function, path.line)
        found = {at(s.path): s.live_blocks for s in recording.sites if at(s.path) in expected}
        assert found == expected, set(found.items()) ^ set(expected.items())
    """)


@native
def test_names_of_every_script() -> None:
    """PROF-3: the first and the last of each length in UTF-8; a surrogate is none of it, and a long name is cut."""
    run(r"""
        from types import FunctionType
        def page(): return bytes(5000)
        whole = "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
        names = {c + "a" + c: c + "a" + c for c in whole}
        names.update({"b\ud800b\udfff": "b\ufffdb\ufffd", "\xe9" * 600: "\xe9" * 511})
        with Profile(rate=1) as profile:
            kept = [FunctionType(page.__code__.replace(co_filename=name), {"bytes": bytes})() for name in names]
            recording = profile.read()
        found = [(s.path.file, s.live_blocks) for s in recording.sites if s.path.function == "page"]
        assert sorted(found) == sorted((name, 1) for name in names.values()), found
    """)


@native
def test_an_owner_that_has_gone_uses_nothing() -> None:
    """PROF-1: what it used when it was read last is not what it ended with."""
    run("""
        budget = nativemem.Budget("8 MiB", name="gone")
        with Profile(rate=1) as profile:
            with budget:
                kept = [bytearray(5000) for _ in range(100)]
            then = [(o.used, o.peak) for o in profile.read().owners if o.name == "gone"]
            del kept, budget
            gc.collect()
            with nativemem.Budget("1 MiB"): pass # owners that are left are looked at
            now = [(o.used, o.peak) for o in profile.read().owners if o.name == "gone"]
        (used, peak), = then
        assert used >= 500_000 and now == [(0, peak)], (then, now)
    """)


@native
def test_what_is_freed_and_moved_leaves_nothing() -> None:
    """PROF-1: small and large blocks, in and out of scopes, that grow, shrink and go, also after the profile."""
    run("""
        def work():
            grown, chunks, text = [], [], ""
            for i in range(20_000):
                grown.append(i)
                if i % 50 == 0: chunks.append(bytearray(i)); text += str(i) * 9
            for chunk in chunks: chunk.extend(b"x" * 3000)
            del grown[100:]
            for chunk in chunks[::2]: del chunk[10:]
            return grown, chunks, text
        budget = nativemem.Budget("256 MiB", name="b")
        for rate in (1, 1000, 50_000):
            gc.collect()
            with Profile(rate=rate) as profile:
                for scope in (None, budget):
                    if scope is None:
                        kept = work()
                    else:
                        with scope:
                            kept = work()
                    del kept
                    gc.collect()
                    left = live(profile.read(), "work")
                    assert left < 60_000 + 30 * rate, (rate, scope, left)
                with budget: kept = work()
            del kept  # what was noted goes after the profile
        gc.collect()
        assert budget.used < 100_000, budget.used
        with Profile(rate=1) as profile: pass
        assert profile.read().live < 100_000
    """)


@native
def test_what_grows_and_shrinks_is_noted_anew() -> None:
    """PROF-1: with its new size, whether it was there before the profile, was noted, or takes pages of its own."""
    run("""
        def make(n, size): return [bytearray(size) for _ in range(n)]
        def resize(blocks, size):
            for block in blocks:
                if len(block) < size: block.extend(b"x" * (size - len(block)))
                else: del block[size:]
        before = make(200, 100), make(20, 100_000)
        with Profile(rate=1) as profile:
            resize(before[0], 3000)
            resize(before[1], 200_000)
            grown = live(profile.read(), "resize")
            resize(before[0], 100)
            resize(before[1], 200)
            shrunk = live(profile.read(), "resize")
        assert 4_600_000 < grown < 1.2 * 4_600_000, grown
        assert 24_000 < shrunk < 60_000, shrunk
        with Profile(rate="256 KiB") as profile:
            huge = make(10, 8 << 20)  # each is noted, but for one time in e**32
            assert live(profile.read(), "make") > 10 << 23
            resize(huge, 50_000)  # and one in six is now
            left = live(profile.read(), "make") + live(profile.read(), "resize")
        assert left < 8_000_000, left
    """)


@native
def test_arrays() -> None:
    """PROF-1"""
    pytest.importorskip("numpy")
    run("""
        import numpy as np
        nativemem.install()
        budget = nativemem.Budget("256 MiB", name="b")
        def arrays(): return [np.zeros(n) for n in (10, 100, 1000, 100_000)] + [np.empty((50, 50))]
        with Profile(rate=1) as profile:
            ours = arrays()
            with budget: theirs = arrays()
            theirs[0].resize(5000, refcheck=False)
            ours[0].resize(5000, refcheck=False)
            recording = profile.read()
            least = sum(a.nbytes for a in ours) - 40_000  # one of each was moved elsewhere
            assert live(recording, "arrays", source="arrays", owner="b") >= least
            assert live(recording, "arrays", source="arrays", owner="process") >= least
            del ours, theirs
            assert live(profile.read(), "arrays", source="arrays") == 0
        assert budget.used < 100_000
    """)


@native
def test_samples_stand_for_all() -> None:
    """PROF-1"""
    run("""
        def make(): return [bytes(900) for _ in range(100_000)]
        with Profile(rate="32 KiB") as profile:
            kept = make()
            found = live(profile.read(), "make")
        expected = 100_000 * sys.getsizeof(bytes(900))
        assert 0.9 < found / expected < 1.1, found / expected  # 2,800 samples: five standard deviations
        assert profile.read().samples < 5000
    """)


@native
def test_a_killed_process_leaves_its_recording(tmp_path: Path) -> None:
    """PROF-3"""
    file = tmp_path / "killed.nm"
    run(
        """
        import signal
        def leak(): return [bytes(1000) for _ in range(2000)]
        profile = Profile(sys.argv[1], rate=1).start()
        kept = leak()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(file),
        status=-9,
    )
    recording = read(file)
    assert recording.lasted is None
    leaked = [s for s in recording.sites if any("leak" in at.function for at in s.path)]
    assert sum(s.live for s in leaked) >= 2_000_000
    assert file.stat().st_blocks * 512 < 2 << 20


@native
def test_a_fork_leaves_it_to_the_parent(tmp_path: Path) -> None:
    """PROF-3"""
    run(
        """
        def in_child(): return [bytes(1000) for _ in range(1000)]
        def in_parent(): return [bytes(1000) for _ in range(1000)]
        with Profile(sys.argv[1], rate=1) as profile:
            child = os.fork()
            if child == 0:
                kept = in_child()
                with Profile(rate=1) as own: more = in_child()
                os._exit(0 if live(own.read(), "in_child") > 900_000 else 1)
            assert os.waitpid(child, 0)[1] == 0
            kept = in_parent()
        recording = read(sys.argv[1])
        assert live(recording, "in_parent") > 900_000 and live(recording, "in_child") == 0
        assert recording.lasted is not None
        """,
        str(tmp_path / "f.nm"),
    )


@native
def test_threads() -> None:
    """PROF-1"""
    run("""
        def make(out): out.append([bytes(1000) for _ in range(5000)])
        results, threads = [], []
        with Profile(rate=1) as profile:
            threads = [threading.Thread(target=make, args=(results,)) for _ in range(6)]
            for t in threads: t.start()
            for t in threads: t.join()
            assert live(profile.read(), "make") >= 30_000_000
            results.clear()
            gc.collect()
            assert live(profile.read(), "make") < 300_000
    """)


@native
def test_on_and_off_in_a_running_process() -> None:
    """PROF-1"""
    run("""
        def make(): return [bytes(1000) for _ in range(3000)]
        kept = []
        for _ in range(5):
            with Profile(rate="4 KiB") as profile:
                kept.append(make())
                if len(kept) > 2: del kept[0]
            recording = profile.read()
            assert 0.6 < live(recording, "make") / 3_099_000 < 1.5, live(recording, "make")
        with Profile(rate="1 TiB"): rarely = make()  # the next sample is far away
        with Profile(rate=1) as profile:
            each = make()
            assert live(profile.read(), "make") > 3_000_000
    """)


@native
def test_refusals_are_noted() -> None:
    """REP-2"""
    run("""
        budget = nativemem.Budget("4 MiB", name="small")
        def fill():
            kept = []
            while True: kept.append(bytes(100_000))
        with Profile() as profile:
            try:
                with budget: fill()
            except MemoryError: pass
            else: raise AssertionError
        recording = profile.read()
        assert recording.refused and {r.owner for r in recording.refused} == {"small"}
        assert any(at.function == "fill" for at in recording.refused[0].path)
        assert recording.refused[0].limit == 4 << 20
        assert [m.used for m in recording.moments if m.owner == "small"]
    """)


@native
def test_one_at_a_time_and_bad_places(tmp_path: Path) -> None:
    run(
        """
        from nativemem.errors import NativeMemError
        with Profile() as profile:
            try: Profile().start()
            except NativeMemError as error: assert "one is running" in str(error)
            else: raise AssertionError
        profile.stop()
        try: Profile(os.path.join(sys.argv[1], "no", "such")).start()
        except FileNotFoundError: pass
        else: raise AssertionError
        assert "not running" in repr(profile)
        """,
        str(tmp_path),
    )


@native
def test_without_the_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from nativemem.observe.profile import Profile; Profile().start()"],
        capture_output=True,
        text=True,
    )
    assert "NativeUnavailable: a profile: the engine was not installed" in done.stderr


def test_on_the_pure_backend() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from nativemem.observe.profile import Profile; Profile().start()"],
        capture_output=True,
        text=True,
        env=os.environ | {"NATIVEMEM_BACKEND": "pure"},
    )
    assert "NativeUnavailable: a profile needs the native core" in done.stderr


@pytest.mark.parametrize(
    ("path", "options"),
    [(3, {}), (None, {"rate": 0}), (None, {"rate": "much"}), (None, {"bound": 1000}), ("a\0b", {})],
)
def test_values_that_will_not_do(path: object, options: dict[str, object]) -> None:
    with pytest.raises((ConfigError, InvalidLayout), match=r"profile\."):
        Profile(path, **options)  # type: ignore[arg-type]


def test_what_is_no_recording(tmp_path: Path) -> None:
    for content in (b"", b"NMRECORD", os.urandom(5000), b"NMRECORD" + bytes(8000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ConfigError, match="recording"):
            read(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(NativeMemError):
        Profile().read()


@native
def test_blocks_of_allocators() -> None:
    """PROF-1: with their budget; freed, reset, closed, collected or grown they are not live."""
    run("""
        from nativemem import Arena, Budget, Heap, Limited, Pool, Stack, System
        def blocks(recording, **of): return live(recording, "take", source="blocks", **of)
        budget, scoped = Budget("8 MiB", name="blocks of mine"), Budget("8 MiB", name="scoped")
        def take(a, n): return [a.alloc(1000) for _ in range(n)]
        with scoped: pass
        with Profile(rate=1) as profile:
            pool, heap, system = Pool(1000, 200), Heap(budget=budget), Limited(System(), budget=scoped)
            of_pool, of_heap, of_system = take(pool, 100), take(heap, 50), take(system, 20)
            with scoped: take(pool, 1)  # charged to no budget
            recording = profile.read()
            assert blocks(recording, owner="process") == 100_000
            assert blocks(recording, owner="blocks of mine") == 50_000
            assert blocks(recording, owner="scoped") == 20_000
            del of_pool[10:]
            for block in of_heap[25:]: block.free()
            del of_system
            arena = Arena()
            kept = take(arena, 100)
            assert blocks(profile.read()) == 135_000
            arena.reset()
            assert blocks(profile.read()) == 35_000
            kept = take(arena, 10)
            del kept
            arena.close()
            stack = Stack(100_000)
            (top,) = take(stack, 1)
            assert stack.resize(top, 5000)
            assert blocks(profile.read()) == 36_000 - 1000
            assert live(profile.read(), "<module>", source="blocks") == 40_000
            total = sum(s.total for s in profile.read().sites if s.source == "blocks")
        assert total == (100 + 50 + 20 + 1 + 100 + 10 + 1) * 1000 + 5000, total
        with Profile(rate="64 KiB") as profile:
            kept = [take(heap, 1000) for _ in range(5)]
            assert 0.5 < blocks(profile.read()) / 5_000_000 < 1.5
        del kept
        with Profile(rate=1) as profile: pass
    """)
