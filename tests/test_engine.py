"""The engine under a running interpreter. Hooks stay for the life of a process, so each test has its own."""

from __future__ import annotations

import doctest
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nativemem
from nativemem.errors import ConfigError

native = pytest.mark.skipif(nativemem.backend != "native", reason="the engine needs the C core")
numpy = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="NumPy is not installed")


def python(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
    )


takes_raw = pytest.mark.skipif(
    hasattr(sys, "gettotalrefcount"), reason="a debug build of CPython declines raw; see docs/platforms.md"
)


def output(code: str, *flags: str, **env: str) -> list[str]:
    """The lines that the program printed; it must succeed and say nothing else."""
    done = python(code, *flags, **env)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_importing_installs_nothing() -> None:
    assert output(
        """
        import nativemem
        print(bool(nativemem.installed()), nativemem.installed())
        """
    ) == ["False Installed(objects=False, arrays=False, raw=False, limit=None)"]


def test_the_pure_backend_declines_and_says_what_to_do() -> None:
    lines = output(
        """
        import nativemem
        try:
            nativemem.install()
        except nativemem.NativeUnavailable as error:
            print(isinstance(error, RuntimeError), error.code, error)
            print(error.suggestion)
        print(bool(nativemem.installed()))
        nativemem.uninstall()
        """,
        NATIVEMEM_BACKEND="pure",
    )
    assert lines[0].startswith("True NM-NATIVE-UNAVAILABLE the engine needs the native core")
    assert lines[1].startswith("leave NATIVEMEM_BACKEND unset") and "USE_NATIVE_MEM=1" in lines[1]
    assert lines[2] == "False"


def test_a_limit_is_given_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^install\.objects: takes True or False, not '64 MiB'") as caught:
        nativemem.install("64 MiB")  # type: ignore[arg-type]
    assert caught.value.suggestion == "a limit is given by its name: install(limit='64 MiB')"


LEFT_OUT = "  # doctest: +SKIP"


def left_out() -> list[tuple[str, str]]:
    """Modules, and names in them, with examples that change the whole process: doctest leaves them out."""
    found = []
    package = Path(nativemem.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if LEFT_OUT in path.read_text(encoding="utf-8"):
            module = ".".join(("nativemem", *path.relative_to(package).with_suffix("").parts))
            tests = doctest.DocTestFinder().find(importlib.import_module(module))
            names = [(module, test.name) for test in tests if LEFT_OUT in (test.docstring or "")]
            assert names, f"{module} has such lines where no test finds them"
            found += names
    return found


@native
@numpy
@pytest.mark.parametrize(("module", "name"), left_out())
def test_examples_that_change_the_process(module: str, name: str) -> None:
    assert output(
        f"""
        import doctest, importlib
        module = importlib.import_module({module!r})
        text = next(test.docstring for test in doctest.DocTestFinder().find(module) if test.name == {name!r})
        names = vars(module).copy()
        whole = doctest.DocTestParser().get_doctest(text.replace({LEFT_OUT!r}, ""), names, {name!r}, None, 0)
        print(doctest.DocTestRunner().run(whole).failed)
        """
    ) == ["0"]


@native
class TestTheDropInImport:
    """ENG-6"""

    def test_it_installs_with_the_settings_of_the_environment(self) -> None:
        code = "import nativemem.auto; print(nativemem.installed())"
        for env, installed in (
            ({}, "objects=True, arrays=True, raw=False, limit=None"),
            ({"NATIVEMEM_LIMIT": "1 GiB"}, "objects=True, arrays=True, raw=False, limit=1073741824"),
            ({"NATIVEMEM_DISABLE": "1"}, "objects=False, arrays=False, raw=False, limit=None"),
        ):
            assert output(code, **env) == [f"Installed({installed})"]

    def test_the_limit_holds(self) -> None:
        assert output(
            """
            import nativemem.auto
            kept = []
            try:
                while True: kept.append(bytearray(1 << 20))
            except MemoryError:
                print(20 < len(kept) < 64)
            """,
            NATIVEMEM_LIMIT="64 MiB",
        ) == ["True"]

    def test_where_it_cannot_it_says_so_once(self) -> None:
        code = "import nativemem.auto, nativemem.auto; print(bool(nativemem.installed()))"
        for env in ({"NATIVEMEM_BACKEND": "pure"}, {"NATIVEMEM_LIMIT": "10 KiB"}):
            done = python(code, **env)
            assert (done.returncode, done.stdout) == (0, "False\n")
            assert done.stderr.count("RuntimeWarning: nativemem.auto: the engine is off: ") == 1
            assert done.stderr.startswith("<string>:1: RuntimeWarning: nativemem.auto: ")

    def test_a_bad_setting_is_an_error(self) -> None:
        done = python("import nativemem.auto", NATIVEMEM_LIMIT="much")
        assert done.returncode == 1
        assert "ConfigError: NATIVEMEM_LIMIT" in done.stderr


SUBINTERPRETERS = """
import nativemem
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
"""


@native
class TestAtTheStart:
    """ENG-5. The .pth is taken from the sources, so that a package that is only on the path is tested too."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> dict[str, str]:
        for kind in ("pth", "start", "py"):
            shutil.copy(Path(__file__).parents[1] / "src" / f"nativemem_autoinstall.{kind}", tmp_path)
        (tmp_path / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(tmp_path)!r})")
        return {"NATIVEMEM_AUTOINSTALL": "1", "PYTHONPATH": str(tmp_path)}

    def test_only_where_it_is_asked_for(self, start: dict[str, str]) -> None:
        there = "'nativemem._dataplane' in sys.modules"
        code = f"import sys; print({there}); import nativemem; print(bool(nativemem.installed()))"
        assert output(code, **start) == ["True", "True"]
        assert output(code, **{**start, "NATIVEMEM_AUTOINSTALL": "0"}) == ["False", "False"]
        del start["NATIVEMEM_AUTOINSTALL"]
        assert output(code, **start) == ["False", "False"]

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            ({"NATIVEMEM_AUTOINSTALL": "yes"}, "ConfigError: NATIVEMEM_AUTOINSTALL: takes 1 (on) or 0"),
            ({"NATIVEMEM_LIMIT": "much"}, "NATIVEMEM_LIMIT "),
            ({"NATIVEMEM_BACKEND": "pure"}, "RuntimeWarning: nativemem.auto: the engine is off: "),
        ],
    )
    def test_whatever_is_wrong_the_program_starts(
        self, start: dict[str, str], env: dict[str, str], message: str
    ) -> None:
        done = python("print('here')", **{**start, **env})
        assert (done.returncode, done.stdout) == (0, "here\n")
        assert message in done.stderr

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_children_have_it(self, start: dict[str, str], method: str) -> None:
        code = f"""
            import multiprocessing, nativemem
            if __name__ == "__main__":
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    print([pool.apply(nativemem.installed) for _ in range(2)])
            """
        there = "Installed(objects=True, arrays=True, raw=False, limit=1073741824)"
        assert output(code, NATIVEMEM_LIMIT="1 GiB", **start) == [f"[{there}, {there}]"]

    def test_the_children_of_nativemem_run(self, start: dict[str, str], tmp_path: Path) -> None:
        script = tmp_path / "parent.py"
        script.write_text(
            "import subprocess, sys\n"
            "subprocess.run([sys.executable, '-c', 'import nativemem; print(nativemem.installed())'])\n"
        )
        del start["NATIVEMEM_AUTOINSTALL"]
        done = python(
            f"import nativemem.commands.cli as c; c.main(['run', '--budget', '1 GiB', {str(script)!r}])", **start
        )
        assert done.stdout == "Installed(objects=True, arrays=True, raw=False, limit=1073741824)\n"

    def test_other_interpreters_leave_it_to_the_first(self, start: dict[str, str]) -> None:
        code = SUBINTERPRETERS + textwrap.dedent(
            """
            inner = interpreters.create()
            failed = interpreters.run_string(inner, "import nativemem.auto as n; assert n.__name__")
            print(failed, bool(nativemem.installed()))
            interpreters.destroy(inner)
            """
        )
        assert output(code, **start) == ["None True"]

    def test_in_other_interpreters_nothing_is_imported(self, start: dict[str, str]) -> None:
        """One that ends in another thread than imported `threading` waits for that thread for ever."""
        code = SUBINTERPRETERS + textwrap.dedent(
            """
            import threading
            made = []
            thread = threading.Thread(target=lambda: made.append(interpreters.create()))
            thread.start(); thread.join()
            [inner] = made
            clean = "import sys; assert not {'nativemem', 'nativemem._dataplane', 'threading'} & sys.modules.keys()"
            print(interpreters.run_string(inner, clean), bool(nativemem.installed()))
            interpreters.destroy(inner)
            """
        )
        assert output(code, **start) == ["None True"]


def test_an_isolated_interpreter_has_the_pure_backend() -> None:
    """ENG-3: since 3.12 they are isolated unless they are asked not to be, and do not load the C core."""
    code = SUBINTERPRETERS + textwrap.dedent(
        """
        inner = interpreters.create()
        print(interpreters.run_string(inner, '''if True:
            import nativemem, sys
            assert nativemem.backend == ("pure" if sys.version_info >= (3, 12) else WANTED), nativemem.backend
            with nativemem.Arena() as arena:
                arena.alloc(10)
        '''.replace("WANTED", repr(nativemem.backend))))
        interpreters.destroy(inner)
        print(nativemem.Arena().alloc(10).size)
        """
    )
    assert output(code) == ["None", "10"]


@native
class TestObjects:
    def test_new_objects_come_from_the_heap_and_old_ones_stay(self) -> None:
        assert output(
            """
            import nativemem
            from nativemem.process import owns
            ours = lambda thing: owns(id(thing))
            old = [object() for _ in range(1000)]
            nativemem.install()
            new = [object() for _ in range(1000)]
            print(any(map(ours, old)), all(map(ours, new)))
            old.clear()
            nativemem.uninstall()
            later = [object() for _ in range(1000)]
            print(any(map(ours, later)), all(map(ours, new)))
            new.clear()
            print(nativemem.installed())
            print(nativemem.install().objects, ours(object()))
            """
        ) == [
            "False True",
            "False True",
            "Installed(objects=False, arrays=False, raw=False, limit=None)",
            "True True",
        ]

    def test_what_was_there_before_goes_back_where_it_came_from(self) -> None:
        assert output(
            """
            import resource
            import nativemem
            def resident():
                with open("/proc/self/statm") as file:
                    return int(file.read().split()[1]) * resource.getpagesize()
            early = [bytearray(b"x") * (64 << 20) for _ in range(2)] # libc maps blocks of that size
            nativemem.install()
            full = resident()
            early.clear()
            print(full - resident() > 100 << 20)
            """
        ) == ["True"]

    def test_growing_and_shrinking_across_the_switch_keeps_contents(self) -> None:
        assert output(
            """
            import nativemem
            before = list(range(1000)); early = bytearray(b"x" * 1000)
            nativemem.install()
            before.extend(range(200_000)); early += b"y" * 1_000_000
            inside = list(range(1000)); middle = bytearray(b"z" * 100)
            for n in (10, 1000, 40_000, 200_000, 5_000_000):
                middle += b"z" * n
            nativemem.uninstall()
            inside.extend(range(100_000)); del before[500:]; middle += b"w" * 9_000_000
            del middle[100:]
            print(before == list(range(500)), inside[-1], bytes(middle) == b"z" * 100, early[-1:])
            """
        ) == ["True 99999 True bytearray(b'y')"]

    def test_installing_twice_is_the_same_as_once(self) -> None:
        assert output(
            """
            import nativemem
            a = nativemem.install(limit="1 GiB"); b = nativemem.install()
            print(a == b, b.limit == 1 << 30)
            """
        ) == ["True True"]

    def test_a_limit_counts_from_what_is_in_use(self) -> None:
        """A peak that is over is no reason to refuse it; what is in use is."""
        assert output(
            """
            import nativemem
            from nativemem import process
            nativemem.install()
            kept = bytearray(64 << 20)
            try:
                nativemem.install(limit="32 MiB")
            except nativemem.errors.InvalidLayout as error:
                least = int(str(error).rpartition(" ")[2])
                print(least - (64 << 20) - (1 << 20) in range(16 << 20), nativemem.installed().limit)
            del kept
            print(nativemem.install(limit="32 MiB").limit >> 20, process.usage().peak >= 64 << 20)
            """
        ) == ["True None", "32 True"]

    def test_over_the_limit_is_a_memory_error_and_the_interpreter_goes_on(self) -> None:
        assert output(
            """
            import nativemem
            from nativemem import process
            nativemem.install(limit="32 MiB")
            def hoard():
                kept = []
                while True:
                    kept.append([None] * 100)
            for _ in range(5):
                try:
                    hoard()
                except MemoryError:
                    pass
            usage = process.usage()
            print(usage.peak <= usage.limit == 32 << 20, usage.denials >= 5)
            d = usage.last_denial
            # up to 2 MiB are kept for handling the error
            print(d.limit == 32 << 20, d.used + d.requested > d.limit - (2 << 20))
            print(len([object() for _ in range(100_000)]))
            try:
                bytearray(1 << 30)
            except MemoryError:
                print("refused", process.usage().last_denial.requested >= 1 << 30)
            """
        ) == ["True True", "True True", "100000", "refused True"]

    def test_tracemalloc_first_is_declined_and_after_is_fine(self) -> None:
        assert output(
            """
            import nativemem, tracemalloc
            tracemalloc.start()
            try:
                nativemem.install()
            except nativemem.NativeUnavailable as error:
                print("tracemalloc" in str(error), bool(nativemem.installed()))
            tracemalloc.stop()
            nativemem.install()
            tracemalloc.start()
            kept = [str(i) for i in range(10_000)]
            print(tracemalloc.get_traced_memory()[0] > 100_000)
            tracemalloc.stop()
            kept.clear()
            print(len([str(i) for i in range(10_000)]))
            """
        ) == ["True False", "True", "10000"]

    @takes_raw
    def test_without_an_interpreters_lock_only_arrays_are_served(self) -> None:
        """ENG-2. What a free-threaded build says of itself is put in its mouth; the core has no such build."""
        assert output(
            """
            import sys
            sys.abiflags += "t"
            import nativemem
            try: nativemem.install()
            except nativemem.NativeUnavailable as error: print(error)
            print(nativemem.installed())
            print(nativemem.install(objects=False, raw=True))
            """
        ) == [
            "objects: the collector of a free-threaded interpreter requires the interpreter's own heap",
            "Installed(objects=False, arrays=False, raw=False, limit=None)",
            "Installed(objects=False, arrays=True, raw=True, limit=None)",
        ]

    def test_tracemalloc_from_the_start_is_declined_too(self) -> None:
        code = """
            import sys, nativemem
            print("tracemalloc" in sys.modules)
            try:
                nativemem.install()
            except nativemem.NativeUnavailable as error:
                print("tracemalloc" in str(error), bool(nativemem.installed()))
            kept = [str(i) for i in range(1000)]
            """
        assert output(code, "-X", "tracemalloc") == ["False", "True False"]

    @pytest.mark.parametrize("value", ["'yes'", "1", "None"])
    def test_bad_arguments(self, value: str) -> None:
        assert output(
            f"""
            import nativemem
            bad = {value}
            for keywords in (dict(objects=bad), dict(arrays=bad), dict(limit=0), dict(limit="lots")):
                try:
                    nativemem.install(**keywords)
                except ValueError as error:
                    print(type(error).__name__, "\\n" in str(error))
            print(bool(nativemem.installed()))
            """
        ) == ["ConfigError False", "ConfigError False", "InvalidLayout False", "InvalidLayout False", "False"]

    def test_usage_before_install(self) -> None:
        assert output(
            """
            import nativemem
            from nativemem import process
            try:
                process.usage()
            except nativemem.NativeUnavailable as error:
                print(error)
            """
        ) == ["the engine was not installed"]

    def test_counts_every_allocation_by_size(self) -> None:
        assert output(
            """
            import nativemem
            from nativemem import process
            nativemem.install(arrays=False)
            process.usage()
            first, before = process.usage().allocations, process.usage().allocations
            kept = [bytes(3000) for _ in range(1000)]
            after = process.usage()
            made = after.allocations - before - (before - first)  # without what usage() makes itself
            # the interpreter makes up to one more for each, a tuple of arguments
            print(1000 <= made < 2100, after.held > 3_000_000)
            print(sorted(after.sizes) == [50, 90, 99], after.sizes[50] <= after.sizes[90] <= after.sizes[99])
            """
        ) == ["True True", "True True"]

    def test_threads_allocate_and_free_each_others_objects(self) -> None:
        assert output(
            """
            import nativemem, queue, threading
            nativemem.install()
            box = queue.Queue(maxsize=50)
            def make():
                for i in range(300):
                    box.put([str(j) * (j % 40) for j in range(100)])
                box.put(None)
            def take(total):
                while (item := box.get()) is not None:
                    total.append(sum(map(len, item)))
            sums = [[] for _ in range(4)]
            threads = [threading.Thread(target=make) for _ in range(4)]
            threads += [threading.Thread(target=take, args=(s,)) for s in sums]
            for t in threads: t.start()
            for t in threads: t.join()
            print(sum(map(len, sums)), len({x for s in sums for x in s}))
            """
        ) == ["1200 1"]

    def test_objects_outlive_the_thread_that_made_them(self) -> None:
        assert output(
            """
            import gc, nativemem, threading
            from nativemem import process
            nativemem.install()
            def make(into):
                into.extend(bytes([i % 256]) * 200 for i in range(20_000))
            peaks = []
            for _ in range(20):
                kept = []
                thread = threading.Thread(target=make, args=(kept,)); thread.start(); thread.join()
                assert all(len(set(b)) == 1 for b in kept)
                del kept; gc.collect()
                peaks.append(process.usage().peak)
            print(peaks[-1] <= peaks[2] * 1.2)
            """
        ) == ["True"]

    def test_fork(self) -> None:
        assert output(
            """
            import nativemem, os, threading
            nativemem.install()
            data = {i: str(i) * 10 for i in range(50_000)}
            stop = threading.Event()
            def churn():
                while not stop.is_set():
                    [str(i) for i in range(100)]
            thread = threading.Thread(target=churn); thread.start()
            codes = []
            for _ in range(5):
                pid = os.fork()
                if pid == 0:
                    ok = sum(map(len, data.values())) == sum(len(str(i)) * 10 for i in range(50_000))
                    data.clear()
                    more = [str(i) for i in range(100_000)]
                    extra = threading.Thread(target=more.clear); extra.start(); extra.join()
                    os._exit(0 if ok and not more else 1)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            stop.set(); thread.join()
            print(codes, len(data))
            """,
            "-W",
            "ignore::DeprecationWarning",  # 3.12 and later warn of fork with threads: the point here
        ) == ["[0, 0, 0, 0, 0] 50000"]

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_multiprocessing(self, method: str) -> None:
        assert output(
            f"""
            import multiprocessing, nativemem, sys
            nativemem.install()
            if __name__ == "__main__":
                context = multiprocessing.get_context({method!r})
                with context.Pool(2) as pool:
                    print(sum(pool.map(len, [["x"] * n for n in range(100)])))
            """
        ) == ["4950"]

    def test_under_the_debug_hooks(self) -> None:
        assert output(
            """
            import nativemem
            old = [bytearray(n) for n in range(500)]
            nativemem.install()
            for b in old: b += b"more"
            new = [bytearray(n) for n in range(500)]
            nativemem.uninstall()
            del old, new
            print("ok")
            """,
            PYTHONMALLOC="debug",
        ) == ["ok"]

    def test_a_system_that_commits_no_more(self) -> None:
        """As with vm.overcommit_memory=2: what is reserved costs nothing, what cannot be had is refused."""
        assert output(
            """
            import nativemem, resource
            nativemem.install()
            nativemem.process  # loaded while there is memory for it
            resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))
            for _ in range(3):
                kept = []
                try:
                    while len(kept) < 1000: kept += bytes(3 << 20), [str(i) for i in range(1000)]
                except MemoryError:
                    print(40 < len(kept) < 300)
                del kept
            print(nativemem.process.usage().denials, len([str(i) for i in range(10_000)]))
            """
        ) == ["True", "True", "True", "0 10000"]

    def test_signals(self) -> None:
        """ENG-3: handlers run between bytecodes and allocate, free and enter scopes themselves."""
        assert output(
            """
            import nativemem, signal
            nativemem.install()
            budget, seen, kept = nativemem.Budget("64 MiB"), [], []
            def handler(number, frame):
                with budget:
                    kept.append([str(i) for i in range(100)])
                if len(kept) > 50: kept.clear()
                seen.append(number)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            while len(seen) < 500:
                rows = [{"id": i, "name": str(i)} for i in range(500)]
                assert sorted(rows, key=lambda row: row["id"]) == rows
            signal.setitimer(signal.ITIMER_REAL, 0)
            kept.clear()
            print(len(rows), budget.used < 16 << 20)
            """
        ) == ["500 True"]

    def test_frozen_objects_and_leaving_at_once(self) -> None:
        """ENG-3: gc.freeze before a fork, os._exit in threads."""
        assert output(
            """
            import gc, nativemem, os, threading
            nativemem.install()
            kept = [[i] for i in range(100_000)]
            gc.freeze()
            for code in (0, 7):
                child = os.fork()
                if child == 0:
                    kept.clear(); gc.collect(); gc.unfreeze(); gc.collect()
                    more = [[i] for i in range(100_000)]
                    threading.Thread(target=os._exit, args=(code,)).start()
                    while True: [str(i) for i in range(100)]
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(kept))
            """
        ) == ["0 100000", "7 100000"]

    def test_pickles(self) -> None:
        """ENG-3"""
        assert output(
            """
            import copy, nativemem, pickle
            thing = {i: (str(i), [i] * 10, {"x": bytes(i % 100)}) for i in range(5000)}
            nativemem.install()
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                print(pickle.loads(pickle.dumps(thing, protocol)) == thing == copy.deepcopy(thing), end=" ")
            print(pickle.loads(pickle.dumps(nativemem.installed())) == nativemem.installed())
            """
        ) == [" ".join(["True"] * 7)]

    def test_subinterpreters(self) -> None:
        assert output(
            """
            import nativemem
            try:
                import _xxsubinterpreters as interpreters
            except ImportError:
                import _interpreters as interpreters
            nativemem.install()
            for _ in range(3):
                inner = interpreters.create()
                interpreters.run_string(inner, "x = [str(i) for i in range(20_000)]; assert len(x) == 20_000")
                interpreters.destroy(inner)
            print(len([str(i) for i in range(20_000)]))
            """,
            "-W",
            "ignore",
        ) == ["20000"]

    def test_an_idle_process_gives_back_what_it_had(self) -> None:
        """ENG-7: after a peak, without anything asked of the engine."""
        assert output(
            """
            import os, time, nativemem, warnings
            warnings.simplefilter("error")  # 3.12 and later warn of a fork with threads: there are none
            def resident():
                os.lseek(statm, 0, 0)
                return int(os.read(statm, 100).split()[1]) * 4096
            def comes_down(limit):
                end = time.monotonic() + 30
                while resident() > limit and time.monotonic() < end: pass
                return resident() <= limit
            statm = os.open("/proc/self/statm", os.O_RDONLY)
            nativemem.install(idle_decay=True)
            before = resident()
            for number in (3, 10):
                peak = [b"x" * (20 << 20) for _ in range(number)]
                del peak
                print(resident() - before > number * (19 << 20), comes_down(before + (8 << 20)))
            peak = b"x" * (60 << 20)
            del peak
            child = os.fork()
            if child == 0: os._exit(0)
            print(os.waitpid(child, 0)[1])
            """
        ) == ["True True", "True True", "0"]

    def test_exit_with_daemon_threads_running(self) -> None:
        assert output(
            """
            import nativemem, threading
            nativemem.install()
            def churn():
                while True:
                    [str(i) for i in range(100)]
            for _ in range(3):
                threading.Thread(target=churn, daemon=True).start()
            print("bye")
            """
        ) == ["bye"]


RAW = """
import ctypes, nativemem, threading
from nativemem import process
free_of_the_lock = ctypes.CDLL(None)
def function(name, result, *takes):
    it = getattr(free_of_the_lock, name)
    it.restype, it.argtypes = result, takes
    return it
malloc = function("PyMem_RawMalloc", ctypes.c_void_p, ctypes.c_size_t)
calloc = function("PyMem_RawCalloc", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
realloc = function("PyMem_RawRealloc", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
free = function("PyMem_RawFree", None, ctypes.c_void_p)
"""


@takes_raw
@native
class TestRaw:
    """ENG-1: the domain whose calls come without the interpreter's lock."""

    def test_only_when_it_is_asked_for(self) -> None:
        code = """
            nativemem.install()
            a = malloc(100)
            nativemem.install(objects=False, arrays=False, raw=True)
            b, c = malloc(100), malloc(100_000)
            print([process.owns(x) for x in (a, b, c)], nativemem.installed().raw)
            nativemem.uninstall()
            print(process.owns(malloc(100)), nativemem.installed().raw)
            for block in (a, b, c): free(block)
            """
        assert output(RAW + textwrap.dedent(code)) == ["[False, True, True] True", "False False"]

    def test_contents_stay_across_the_switch(self) -> None:
        code = """
            old = malloc(100)
            ctypes.memset(old, 120, 100)
            nativemem.install(raw=True)
            old = realloc(old, 50_000)
            new = calloc(10, 20)
            print(ctypes.string_at(old, 100) == b"x" * 100, ctypes.string_at(new, 200) == bytes(200))
            ctypes.memset(new, 121, 200)
            new = realloc(new, 300_000)
            print(ctypes.string_at(new, 200) == b"y" * 200, process.owns(new))
            nativemem.uninstall()
            new = realloc(new, 600_000)
            print(ctypes.string_at(new, 200) == b"y" * 200, process.owns(new))
            free(old); free(new); free(None)
            """
        assert output(RAW + textwrap.dedent(code)) == ["True True", "True True", "True False"]

    def test_threads_free_what_others_took(self) -> None:
        code = """
            nativemem.install(raw=True)
            def take(): blocks.extend(malloc(n % 3000 + 1) for n in range(20_000))
            def give():
                while True:
                    try: block = blocks.pop()
                    except IndexError: break # another thread has taken the last one
                    free(block)
            blocks = []
            for target in (take, give):
                threads = [threading.Thread(target=target) for _ in range(3)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                print(len(blocks), process.usage().held > 60 << 20)
            """
        first, second = output(RAW + textwrap.dedent(code))
        assert (first, second.split()[0]) == ("60000 True", "0")

    def test_the_limit_holds_and_no_owner_is_charged(self) -> None:
        code = """
            nativemem.install(raw=True, limit="64 MiB")
            budget = nativemem.Budget("32 MiB")
            with budget:
                blocks = [malloc(1 << 20) for _ in range(40)]
            print(all(blocks), budget.used < 8 << 20)
            while (block := malloc(1 << 20)): blocks.append(block)
            print(40 < len(blocks) < 64, process.usage().denials >= 1)
            for block in blocks: free(block)
            print(len(bytes(1 << 20)))
            """
        assert output(RAW + textwrap.dedent(code)) == ["True True", "True True", "1048576"]

    @numpy
    @pytest.mark.parametrize("arrays", [True, False])
    def test_arrays_are_charged_once(self, arrays: bool) -> None:
        """NPY-6: NumPy 2.5 and later takes from this domain where it has no other handler."""
        code = f"""
            import numpy
            nativemem.install(raw=True, arrays={arrays})
            before = process.usage().held
            a = numpy.ones(10 << 17)
            more = process.usage().held - before
            print(more < 11 << 20, more >= 10 << 20 or not process.owns(a.ctypes.data), process.owns(a.ctypes.data))
            """
        lines = output(RAW + textwrap.dedent(code))
        assert lines in (["True True True"], ["True True False"][: not arrays])

    def test_a_whole_program(self) -> None:
        code = """
            nativemem.install(raw=True)
            import asyncio, concurrent.futures, json, os
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                print(sum(pool.map(len, ["x" * n for n in range(200)])))
            child = os.fork()
            if child == 0: os._exit(len(json.dumps([str(i) for i in range(1000)])) != 6890)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            asyncio.run(asyncio.sleep(0))
            threading.Thread(target=lambda: [malloc(10) for _ in iter(int, 1)], daemon=True).start()
            """
        lines = output(RAW + textwrap.dedent(code), "-W", "ignore::DeprecationWarning")
        assert lines == ["19900", "0"]


HANDLER = """
import contextlib, ctypes, sys
P, N = ctypes.c_void_p, ctypes.c_size_t
class Handler(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("ctx", P),
                ("malloc", P), ("calloc", P), ("realloc", P), ("free", P)]
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (P, ctypes.c_char_p, P)
inside = ctypes.pythonapi.PyCapsule_GetPointer
inside.restype, inside.argtypes = P, (ctypes.py_object, ctypes.c_char_p)
def of(handler, name, result, *arguments):
    return ctypes.PYFUNCTYPE(result, P, *arguments)(getattr(handler, name))
def handler():
    import numpy
    umath = next(m for n, m in sys.modules.items() if n.endswith("._multiarray_umath"))
    table = ctypes.cast(inside(umath._ARRAY_API, None), ctypes.POINTER(P))
    return Handler.from_address(inside(ctypes.PYFUNCTYPE(ctypes.py_object)(table[305])(), b"mem_handler"))
"""


@native
@numpy
class TestArrays:
    def test_arrays_in_every_thread_come_from_the_heap(self) -> None:
        assert output(
            """
            import threading, numpy as np, nativemem
            from nativemem.process import owns
            ours = lambda array: owns(array.ctypes.data)
            old = np.arange(100_000)
            nativemem.install()
            new = np.arange(100_000); small = np.arange(3)
            print(ours(old), ours(new), ours(small), new.ctypes.data % 64, small.ctypes.data % 64)
            seen = []
            def work(): seen.append(ours(np.ones(1000)))
            thread = threading.Thread(target=work); thread.start(); thread.join()
            print(seen)
            nativemem.uninstall()
            print(ours(np.arange(100_000)), ours(new))
            new.resize(200_000, refcheck=False); old.resize(200_000, refcheck=False)
            print(ours(new), int(new[99_999]), int(new[-1]), int(old[99_999]))
            """
        ) == ["False True True 0 0", "[True]", "False True", "False 99999 0 99999"]

    def test_numpy_imported_later(self) -> None:
        assert output(
            """
            import sys, nativemem
            nativemem.install()
            assert "numpy" not in sys.modules
            import numpy as np
            from nativemem.process import owns
            print(owns(np.ones(1000).ctypes.data))
            print(any("WhenImported" in type(f).__name__ for f in sys.meta_path))
            """
        ) == ["True", "False"]

    def test_looking_for_numpy_and_a_failed_import_change_nothing(self) -> None:
        assert output(
            """
            import importlib.util, sys, nativemem
            from nativemem.process import owns
            nativemem.install()
            spec = importlib.util.find_spec("numpy")
            print(spec.origin.endswith("__init__.py"), spec.loader.get_filename("numpy") == spec.origin)
            sys.modules["numpy.version"] = None
            try: import numpy
            except ImportError: del sys.modules["numpy.version"]
            print("numpy" in sys.modules, nativemem.installed().arrays)
            import numpy
            print(owns(numpy.ones(1000).ctypes.data), nativemem.installed().arrays)
            print(type(numpy.__loader__).__name__, numpy.__loader__ is numpy.__spec__.loader)
            """
        ) == ["True True", "False True", "True True", "SourceFileLoader True"]

    def test_switched_off_before_numpy_is_there(self) -> None:
        assert output(
            """
            import importlib.util, nativemem
            from nativemem.process import owns
            nativemem.install(objects=False)
            early = importlib.util.find_spec("numpy")
            print(nativemem.installed().arrays)
            nativemem.uninstall()
            print(nativemem.installed().arrays)
            import numpy
            print(owns(numpy.ones(1000).ctypes.data))
            """
        ) == ["True", "False", "False"]

    def test_the_handlers_own_functions(self) -> None:
        """NPY-3, as NumPy calls them: the size that free gets is not believed, and NULL is fine."""
        lines = output(
            HANDLER
            + textwrap.dedent(
                """
                import nativemem
                from nativemem.hooks import numpy as hook
                from nativemem.process import usage
                nativemem.install(objects=False)
                heap = nativemem.Heap()
                for using in (contextlib.nullcontext(), hook.using(heap)):
                    with using:
                        h = handler()
                        malloc, calloc = of(h, "malloc", P, N), of(h, "calloc", P, N, N)
                        realloc, free = of(h, "realloc", P, P, N), of(h, "free", None, P, N)
                        held = usage().held, len(heap.blocks())
                        for wrong in (0, 1, 100, 5000, 1 << 40, (1 << 64) - 1):
                            block = malloc(h.ctx, 5000)
                            ctypes.memset(block, 7, 5000)
                            block = realloc(h.ctx, block, 9000)
                            assert ctypes.string_at(block, 5000) == bytes([7]) * 5000
                            free(h.ctx, block, wrong)
                            free(h.ctx, None, wrong)
                        block = realloc(h.ctx, None, 100)
                        free(h.ctx, block, 0)
                        print(h.name[:9], h.version, calloc(h.ctx, 1 << 62, 8), calloc(h.ctx, 1 << 33, 1 << 33))
                        print(len(heap.blocks()) == held[1], usage().held - held[0] <= 4 << 16)
                """
            )
        )
        assert lines == ["b'nativemem' 1 None None", "True True"] * 2

    def test_a_numpy_with_other_handlers(self, tmp_path: Path) -> None:
        """One that is too old, whose import is not done, or whose handlers are of another version."""
        here = {"PYTHONDONTWRITEBYTECODE": "1"}  # the package is written three times in a second
        (tmp_path / "numpy" / "core").mkdir(parents=True)
        (tmp_path / "numpy" / "core" / "__init__.py").touch()
        umath = tmp_path / "numpy" / "core" / "_multiarray_umath.py"
        umath.write_text(
            HANDLER
            + textwrap.dedent(
                """
            newer = Handler(b"other", 2)
            capsule = new_capsule(ctypes.addressof(newer), b"mem_handler", None)
            get = ctypes.PYFUNCTYPE(ctypes.py_object)(lambda: capsule)
            table = (ctypes.c_void_p * 310)()
            table[305] = ctypes.cast(get, ctypes.c_void_p)
            _ARRAY_API = new_capsule(ctypes.addressof(table), None, None)
            """
            )
        )
        for version, inside, why in (
            ("1.21.6", "import numpy.core._multiarray_umath", "no memory handlers"),
            ("1.26.0", "import numpy.core._multiarray_umath", "unknown version 2"),
            ("1.26.0", "", "not done"),
        ):
            (tmp_path / "numpy" / "__init__.py").write_text(f"{inside}\n__version__ = {version!r}")
            first = f"""
                import sys; sys.path.insert(0, {str(tmp_path)!r})
                import nativemem, numpy
                try: nativemem.install()
                except nativemem.NativeUnavailable as error: print(error)
                print(nativemem.installed())
                """
            lines = output(first, **here)
            assert why in lines[0], version
            assert lines[1:] == ["Installed(objects=False, arrays=False, raw=False, limit=None)"]
            later = f"""
                import sys; sys.path.insert(0, {str(tmp_path)!r})
                import nativemem.auto, numpy
                print(nativemem.installed())
                """
            done = python(later, **here)
            assert (done.returncode, done.stdout) == (
                0,
                "Installed(objects=True, arrays=False, raw=False, limit=None)\n",
            )
            assert done.stderr.count("UserWarning: nativemem: arrays stay with NumPy's allocator") == 1
            assert why in done.stderr
            before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport numpy, nativemem.auto"
            done = python(before, **here)
            assert done.returncode == 0
            assert done.stderr.count("RuntimeWarning: nativemem.auto: the engine is off") == 1

    def test_zeros_that_are_large_take_fresh_pages(self) -> None:
        """NPY-7: they become resident where they are written to, again after others of that size have been."""
        assert (
            output(
                """
            import numpy, nativemem
            nativemem.install()
            def resident():
                with open("/proc/self/statm") as statm: return int(statm.read().split()[1]) * 4096
            before = resident()
            for _ in range(2):
                numpy.full(4 << 20, 7.0)
                print(resident() - before > 24 << 20)  # kept for what comes next
                zeros = numpy.zeros(4 << 20)
                print(resident() - before < 8 << 20, float(zeros[0] + zeros[-1]))
                del zeros
            """
            )
            == ["True", "True 0.0"] * 2
        )

    def test_zeros_are_zero_on_reused_memory(self) -> None:
        assert output(
            """
            import numpy as np, nativemem
            nativemem.install()
            for n in (7, 100, 5_000, 20_000, 100_000, 1_000_000, 12_000_000):
                for _ in range(3):
                    np.full(n, 7.0)
                    assert not np.zeros(n).any(), n
            print("ok")
            """
        ) == ["ok"]

    def test_over_the_limit(self) -> None:
        assert output(
            """
            import numpy as np, nativemem
            from nativemem import process
            nativemem.install(limit="64 MiB")
            kept = np.ones(4_000_000)
            try:
                np.ones(8_000_000)
            except MemoryError as error:
                print("refused")
            print(process.usage().last_denial.requested >= 64_000_000, float(kept.sum()))
            del kept
            print(float(np.ones(6_000_000).sum()))
            """
        ) == ["refused", "True 4000000.0", "6000000.0"]
