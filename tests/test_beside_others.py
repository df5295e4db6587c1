"""The engine beside allocator hooks of others, in any order: it works, or is refused with a reason, to the exit."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import nativemem

pytestmark = pytest.mark.skipif(nativemem.backend != "native", reason="the engine needs the C core")

SOURCES = Path(__file__).parent / "beside"

# Objects of every kind are made and freed between the steps, so that blocks cross all of them.
PROGRAM = """
    import ctypes, os, sys, threading
    import nativemem
    from nativemem.process import owns
    others = ctypes.CDLL(os.environ["FORWARDING"]) if "FORWARDING" in os.environ else None

    def churn():
        return [[bytes(n), str(n), {n: n}, [n] * n] for n in range(200)]

    def thread():
        made = threading.Thread(target=lambda: kept.append(churn()))
        made.start()
        made.join()

    def trace():
        import tracemalloc
        tracemalloc.start()

    def untrace():
        import tracemalloc
        before = tracemalloc.get_traced_memory()[0]
        assert before > 0
        tracemalloc.stop()

    trackers = []
    def track(of_python):
        import memray
        path = os.path.join(os.environ["RESULTS"], str(len(os.listdir(os.environ["RESULTS"]))))
        trackers.append(memray.Tracker(path, trace_python_allocators=of_python))
        trackers[-1].__enter__()

    STEPS = dict(
        install=nativemem.install,
        install_raw=lambda: nativemem.install(raw=True),
        uninstall=nativemem.uninstall,
        trace=trace,
        untrace=untrace,
        look_0=lambda: others.look(0),
        put_0=lambda: others.put(0),
        restore_0=lambda: others.restore(0),
        put_1=lambda: others.put(1),
        restore_1=lambda: others.restore(1),
        debug=ctypes.pythonapi.PyMem_SetupDebugHooks,
        thread=thread,
        memray=lambda: track(False),
        memray_python=lambda: track(True),
        memray_end=lambda: trackers.pop().__exit__(None, None, None),
    )
    kept = [churn()]
    for step in sys.argv[1:]:
        try:
            STEPS[step]()
        except nativemem.NativeUnavailable as error:
            print("refused", error)
        for _ in range(3):
            kept.append(churn())
            del kept[::2]
        on = nativemem.installed().objects
        assert owns(id(bytes(3000))) == on, step
        print(step, "on" if on else "off")
"""


def built(name: str, folder: Path) -> str:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} to build another tool's hook with")
    library = folder / f"{name}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCES / f"{name}.c"], check=True)
    return str(library)


@pytest.fixture(scope="module")
def forwarding(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built("forwarding", tmp_path_factory.mktemp("beside"))


def steps(text: str, *flags: str, **env: str) -> list[str]:
    """What each step printed; the program must reach its end, and say nothing else."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(PROGRAM), *text.split()],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def states(text: str, *flags: str, **env: str) -> str:
    lines = steps(text, *flags, **env)
    return " ".join("refused" if line.startswith("refused") else line.split()[1] for line in lines)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("install trace untrace uninstall", "on on on off"),
        ("install trace uninstall untrace", "on on off off"),
        ("install uninstall trace install untrace", "on off off on on"),
        ("install trace install", "on on on"),
        ("trace install untrace install", "off refused off off on"),
        ("install_raw trace thread uninstall untrace", "on on on off off"),
        ("trace install_raw untrace install_raw", "off refused off off on"),
    ],
)
def test_tracemalloc(order: str, expected: str) -> None:
    assert states(order) == expected


@pytest.mark.parametrize("flags", [("-X", "tracemalloc"), ()])
def test_tracemalloc_is_named(flags: tuple[str, ...]) -> None:
    """Also where the interpreter itself started it, and nothing imported the module."""
    lines = steps("install" if flags else "trace install", *flags)
    refused = next(line for line in lines if line.startswith("refused"))
    assert refused.startswith("refused tracemalloc is tracing; ")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("put_0 install restore_0", "off refused off off"),
        ("put_0 restore_0 install", "off off on"),
        ("put_0 put_1 install restore_1 restore_0 install", "off off refused off off off on"),
        ("install put_0 put_1 restore_0 restore_1", "on on on on on"),
        ("install put_0 put_1 restore_1 restore_0", "on on on on on"),
        ("install put_0 uninstall restore_0", "on on off off"),
        ("install uninstall put_0 install restore_0", "on off off on on"),
        ("install put_0 trace untrace restore_0", "on on on on on"),
        ("install_raw put_0 thread uninstall restore_0", "on on on off off"),
        ("install put_0 install_raw restore_0 install_raw", "on on refused on on on"),
        ("install put_0", "on on"),
    ],
)
def test_hooks_of_other_tools(order: str, expected: str, forwarding: str) -> None:
    assert states(order, FORWARDING=forwarding) == expected


def run_beside(code: str, forwarding: str) -> subprocess.CompletedProcess[str]:
    """A program that finds the other tool's hook in FORWARDING."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "FORWARDING": forwarding},
    )


def test_the_reason_names_the_tool_and_nothing_is_switched_on(forwarding: str) -> None:
    code = """
        import ctypes, os, nativemem
        ctypes.CDLL(os.environ["FORWARDING"]).put(0)
        try: nativemem.install(limit="1 GiB")
        except nativemem.NativeUnavailable as error: print(error.code, os.environ["FORWARDING"] in str(error))
        print(nativemem.installed())
        print(nativemem.install(objects=False))
        """
    done = run_beside(code, forwarding)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "NM-NATIVE-UNAVAILABLE True",
        "Installed(objects=False, arrays=False, raw=False, limit=None)",
        "Installed(objects=False, arrays=True, raw=False, limit=None)",
    ]


def test_taken_out_it_is_not_on_and_stands_again_with_the_next_install(forwarding: str) -> None:
    """A tool that puts back what it had found before the engine came; in the raw domain, where the program has no
    blocks whose frees would go to an allocator that does not know them."""
    code = """
        import ctypes, os, nativemem
        other = ctypes.CDLL(os.environ["FORWARDING"])
        other.look(0)
        print(nativemem.install(raw=True).raw, end=" ")
        other.restore_domain(0, 0)
        print(nativemem.installed().raw, end=" ")
        print(nativemem.install(raw=True).raw)
        """
    done = run_beside(code, forwarding)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True False True\n")


#: whose tables strays.c knows
catches = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 1 << 32 or platform.machine() not in ("x86_64", "aarch64"),
    reason="blocks that are given to the C library are taken back on Linux alone, on two kinds of machine",
)


@catches
@pytest.mark.parametrize("which", ["pymalloc", "malloc", "pymalloc_debug"])
@pytest.mark.parametrize(
    ("order", "expected", "beneath_debug_hooks"),
    [
        ("look_0 install thread restore_0 thread", "off on on off off", "off on on on on"),
        ("look_0 install restore_0 install put_0 restore_0", "off on off on on on", "off on on on on on"),
        ("look_0 install_raw thread restore_0 thread install_raw", "off on on off off on", "off on on on on on"),
        ("look_0 install trace restore_0 untrace uninstall", "off on on off on off", "off on on on on off"),
        ("install look_0 uninstall put_1 restore_0 install restore_1", *2 * ["on on off off off on on"]),
    ],
)
def test_a_table_from_before_that_is_put_back(
    order: str, expected: str, beneath_debug_hooks: str, which: str, forwarding: str
) -> None:
    """ENG-10c: blocks of the engine are then freed, and resized, by an allocator that does not know them. The debug
    hooks, which are put back with what they stand on, keep the engine in."""
    reached = states(order, PYTHONMALLOC=which, FORWARDING=forwarding)
    assert reached == (beneath_debug_hooks if which == "pymalloc_debug" else expected)


@catches
@pytest.mark.parametrize(("raw", "domains"), [(False, "0 1 2"), (False, "1 2"), (True, "1 2"), (True, "0 1 2")])
def test_what_is_freed_behind_the_engines_back_is_credited(raw: bool, domains: str, forwarding: str) -> None:
    """ENG-10c: blocks come back to the heap that they are of, and keep their contents where they are resized."""
    stays = 4_000_000 if raw and "0" not in domains.split() else 0  # what is resized goes into the raw heap
    code = f"""
        import ctypes, os, nativemem
        from nativemem.process import usage
        other = ctypes.CDLL(os.environ["FORWARDING"])
        other.look(0)
        nativemem.install(raw={raw})
        kept, grown = [bytes(5000) for _ in range(2000)], bytearray(b"contents" * 500_000)
        used = usage().held
        for domain in {domains.split()}: other.restore_domain(0, int(domain))
        kept.clear()
        grown += b"end"
        print(used - usage().held > {13_000_000 - stays}, grown == b"contents" * 500_000 + b"end")
        """
    done = run_beside(code, forwarding)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True True\n")


@catches
def test_a_tool_that_calls_what_it_found_in_the_loaders_table(tmp_path: Path) -> None:
    """ENG-10c: which is ours; with the next install() the two would call one another without end."""
    code = """
        import ctypes, os, nativemem
        print(nativemem.install().objects, end=" ")
        other = ctypes.CDLL(os.environ["FORWARDING"])
        taken = other.chain()
        print(nativemem.install().objects, end=" ")
        api = ctypes.pythonapi
        api.PyMem_RawMalloc.restype = ctypes.c_void_p
        for _ in range(100): api.PyMem_RawFree(ctypes.c_void_p(api.PyMem_RawMalloc(ctypes.c_size_t(100))))
        print(taken == 0 or ctypes.c_ulong.in_dll(other, "calls").value >= 100)
        """
    done = run_beside(code, built("chaining", tmp_path))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True True True\n")


@pytest.mark.parametrize("which", ["debug", "malloc", "malloc_debug", "pymalloc", "pymalloc_debug", "default"])
@pytest.mark.parametrize(
    "order", ["install uninstall", "install_raw thread uninstall install", "install trace untrace"]
)
def test_allocators_of_the_interpreter(which: str, order: str) -> None:
    assert "refused" not in states(order, PYTHONMALLOC=which)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="PYTHONMALLOC=mimalloc is from 3.13 on")
def test_mimalloc() -> None:
    build = subprocess.run([sys.executable, "-c", ""], env={**os.environ, "PYTHONMALLOC": "mimalloc"}, check=False)
    if build.returncode != 0:
        pytest.skip("this interpreter was built without mimalloc")
    assert states("install thread uninstall", PYTHONMALLOC="mimalloc") == "on on off"
    assert states("install_raw thread uninstall", PYTHONMALLOC="mimalloc_debug") == "on on off"


def test_debug_hooks_that_are_set_up_again(forwarding: str) -> None:
    """As PyMem_SetAllocator's page asks of tools. The engine is beneath the hooks: above them it would be called by
    what it calls."""
    for order, expected in (
        ("install debug uninstall", "on on off"),
        ("install_raw debug thread uninstall debug", "on on on off off"),
        ("put_0 restore_0 install debug", "off off on on"),
        ("install put_0 restore_0 debug", "on on on on"),
    ):
        assert states(order, PYTHONMALLOC="debug", FORWARDING=forwarding) == expected
    assert states("install debug uninstall", "-X", "dev") == "on on off"


def test_debug_hooks_find_what_is_written_behind_the_engines_blocks() -> None:
    code = """
        import ctypes, nativemem
        nativemem.install()
        api = ctypes.pythonapi
        api.PyMem_Malloc.restype = ctypes.c_void_p
        block = api.PyMem_Malloc(ctypes.c_size_t(100))
        assert nativemem.process.owns(block)
        ctypes.memset(block + 100, 1, 1)
        api.PyMem_Free(ctypes.c_void_p(block))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONMALLOC": "debug"},
    )
    assert done.returncode != 0 and "bad trailing pad byte" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("memray") is None, reason="memray is not installed (extra: bench)")
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("install memray thread memray_end uninstall", "on on on on off"),
        ("install memray_python thread uninstall memray_end", "on on on off off"),
        ("memray install thread memray_end uninstall", "off on on on off"),
        ("memray install_raw", "off on"),
        ("memray_python install memray_end install", "off refused off off on"),
        ("install_raw memray_python trace untrace memray_end", "on on on on on"),
        ("install trace memray_python memray_end untrace memray memray_end", "on on on on on on on"),
        ("install memray_python", "on on"),
    ],
)
def test_memray(order: str, expected: str, tmp_path: Path) -> None:
    assert states(order, RESULTS=str(tmp_path)) == expected


def test_pymallocs_count_does_not_know_the_engines_blocks() -> None:
    """ENG-10: `sys.getallocatedblocks` counts what pymalloc gave; `process.usage` counts the rest."""
    code = """
        import sys, nativemem
        from nativemem import process
        nativemem.install()
        process.usage()
        before, used = sys.getallocatedblocks(), process.usage().allocations
        kept = [bytes(100) for _ in range(5000)]
        print(abs(sys.getallocatedblocks() - before) < 100, process.usage().allocations - used >= 5000)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")
