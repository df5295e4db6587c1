"""The C API: extensions built against an installed wheel, in an environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import nativemem
from builds import Build
from nativemem import capi
from nativemem.errors import NativeUnavailable

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "capi"
EXAMPLE = ROOT / "examples" / "c_extension"


class Environment:
    """A fresh environment with a wheel of this tree, and the extensions built there."""

    def __init__(self, place: Path, built: Build) -> None:
        pytest.importorskip("nativemem._core")
        self.place = place
        venv.create(place / "venv", with_pip=False, symlinks=True)
        self.python = place / "venv" / "bin" / "python"
        (site,) = (place / "venv" / "lib").glob("python*/site-packages")
        # cffi and setuptools are looked for here last, so what is installed there comes first; they may be
        # in another environment that this one stands on
        here = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
        (site / "zz_last.pth").write_text("".join(f"{path}\n" for path in here))
        where = ("--prefix", place / "venv", "--ignore-installed")
        self.pip("install", "--no-index", "--no-deps", *where, built.wheel)
        for source in (EXAMPLE, HERE):
            copy = place / source.name
            shutil.copytree(source, copy)
            self.build(copy)

    def pip(self, *words: str | Path) -> None:
        done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def build(self, source: Path) -> None:
        done = self.run("setup.py", "-q", "build_ext", "--inplace", cwd=source)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *words: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NATIVEMEM"))}
        path = os.pathsep.join(str(self.place / name) for name in ("c_extension", "capi"))
        return subprocess.run(
            [str(self.python), *map(str, words)],
            cwd=cwd or self.place,
            env={**clean, "PYTHONPATH": path, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def says(self, program: str, **env: str) -> str:
        done = self.run("-X", "dev", "-W", "error", "-c", program, **env)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, required: Build) -> Environment:
    return Environment(tmp_path_factory.mktemp("capi"), required)


def test_the_wheel_has_the_headers(environment: Environment) -> None:
    said = environment.says(
        "import nativemem, nativemem.config as c; print(nativemem.get_include(), c.USE_NATIVE_MEM)"
        "; from nativemem.backends.native.control import lib; print(lib.NM_BUILT_NATIVE)"
    )
    include, flag, built = said.split()
    assert Path(include).is_relative_to(environment.place) and flag == built == "1"
    ours = {path.relative_to(ROOT / "csrc" / "include") for path in (ROOT / "csrc" / "include").rglob("*.h")}
    assert {path.relative_to(include) for path in Path(include).rglob("*.h")} == ours | {Path("nm_config.h")}


def test_the_example(environment: Environment) -> None:
    done = environment.run(EXAMPLE / "demo.py")
    assert done.returncode == 0, done.stderr
    denied, *advice, kept = done.stdout.splitlines()
    assert denied.endswith("bytes asked for; budget 'vectors' has 524288 of 1048576 bytes in use")
    assert kept == "65536 numbers are kept; vectors has 524288 of 1048576 bytes in use"


def test_the_example_with_bad_input_and_without_its_end(environment: Environment) -> None:
    environment.says(
        """
import gc, threading
import nativemem as nm
from vector import Vector
for thing in (None, 1, "heap", nm.Budget(10)):
    try:
        Vector(thing)
    except nm.errors.ConfigError:
        continue
    raise AssertionError(thing)
for call in (lambda: Vector(), lambda: Vector(nm.Heap()).append("x")):
    try:
        call()
    except TypeError:
        continue
    raise AssertionError
heap = nm.Heap()
vector = Vector(heap)
vector.append(1)
try:
    heap.close()
except BufferError:
    del vector
gc.collect()
assert heap.stats.live == 0
heap.close()
arena = nm.Arena()
vector = Vector(arena)
refusals = []
def elsewhere():
    try:
        vector.append(1.0)
    except nm.errors.WrongThread:
        refusals.append(1)
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
assert refusals == [1] and len(vector) == 0
vector.append(2.0)
vector.close()
try:
    vector.append(1.0)
except ValueError:
    pass
"""
    )


def test_memory_crosses_both_ways(environment: Environment) -> None:
    """REQ-MEM-007: from C to Python's hfree, and from Python to C's HFree."""
    environment.says(
        """
import crossing, cffi, nativemem as nm
from nativemem import memlib
ffi = cffi.FFI()
budget = nm.Budget("16 MiB")
memlib.use(nm.Limited(nm.Heap(), budget))
for size in (0, 1, 100, 5000, 100_000, 3_000_000):
    there = ffi.cast("void *", crossing.malloc(size, True))
    assert budget.used >= max(size, 1)
    if size:
        assert ffi.buffer(there, size)[:] == bytes(size)
    memlib.hfree(there)
    assert budget.used == 0
    block = memlib.hmalloc(size)
    pointer = memlib.detach(block)
    crossing.free(int(ffi.cast("uintptr_t", pointer)))
    assert budget.used == 0 and not block.alive
block = memlib.hmalloc(10)
with memoryview(block) as view:
    view[:] = b"0123456789"
moved = crossing.realloc(int(ffi.cast("uintptr_t", memlib.detach(block))), 100_000)
assert ffi.buffer(ffi.cast("void *", moved), 10)[:] == b"0123456789"
memlib.hfree(ffi.cast("void *", moved))
assert crossing.argv(["one", "", "three"] * 50) == "onethree" * 50
assert crossing.lifecycle() is True
assert budget.used == 0
memlib.use(None)
"""
    )


def test_the_port_without_the_lock(environment: Environment) -> None:
    said = environment.says(
        """
import crossing, nativemem as nm
budget = nm.Budget("1 MiB", name="of C")
for make in (nm.Heap, nm.System, nm.Arena, lambda: nm.Traced(nm.Heap(), stacks=2)):
    limited = nm.Limited(make(), budget)
    address = crossing.take(limited, 1000, 256)
    assert address % 256 == 0 and budget.used == 1000
    assert crossing.let_go() == (0, nm.LeakError)
    assert budget.used == 0
    for bad in ((1 << 40, 16), (10, 3), (10, 1 << 20), (-1, 16)):
        try:
            crossing.take(limited, *bad)
        except (nm.BudgetExceeded, nm.errors.InvalidLayout) as error:
            print(type(error).__name__)
        else:
            raise AssertionError(bad)
    limited.close()
"""
    )
    assert said.split() == ["BudgetExceeded", *["InvalidLayout"] * 3] * 4


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("c++") or os.environ.get("CI")),
    reason="there is no C++ compiler to ask",
)
def test_in_cxx(environment: Environment) -> None:
    program = "import crossing_cxx, nativemem; print(crossing_cxx.round_trip(nativemem.Heap()))"
    assert environment.says(program) == "True\n"


def test_on_the_pure_backend_the_import_says_so(environment: Environment) -> None:
    done = environment.run("-c", "import vector", NATIVEMEM_BACKEND="pure")
    assert done.returncode == 1 and "the C API needs the native core" in done.stderr


def test_an_older_or_a_newer_one(environment: Environment) -> None:
    """A table that is too short, or of another name, is refused in words."""
    said = environment.says(
        """
import ctypes, nativemem.capi as capi
real = capi._C_API
get, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
short = (ctypes.c_size_t * 4)(32)
name = ctypes.create_string_buffer(b"nativemem.capi._C_API.2")
ours = ctypes.create_string_buffer(b"nativemem.capi._C_API.1")
for capsule in (new(ctypes.addressof(short), ours, None), new(get(real, ours), name, None)):
    capi._C_API = capsule
    try:
        import vector
    except (ImportError, ValueError) as error:
        print(error)
    else:
        raise AssertionError
"""
    )
    assert said.count("is not what this extension was built for") == 2


def test_get_include_where_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nativemem.interop.capi.PACKAGE", str(tmp_path))
    with pytest.raises(NativeUnavailable, match="built without its core"):
        nativemem.get_include()


def test_the_module_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="has no attribute '_D_API'"):
        _ = capi._D_API
