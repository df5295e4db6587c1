"""CFG: settings, sizes, and which backend an import takes."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nativemem
from nativemem import config, settings
from nativemem.backends.binding import Binding
from nativemem.config import ArenaConfig, Settings, SlabConfig
from nativemem.errors import ConfigError, InvalidLayout
from nativemem.sizes import SIZE_MAX, format_size, parse_size

PACKAGE = Path(nativemem.__file__).parent

# --- sizes ---


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (0, 0),
        (SIZE_MAX, SIZE_MAX),
        ("0", 0),
        ("007", 7),
        ("12b", 12),
        ("64 KiB", 65536),
        ("64kib", 65536),
        ("  64\tKIB ", 65536),
        ("64 kB", 64000),
        ("64 MiB", 64 << 20),
        ("64 MB", 64_000_000),
        ("2 GiB", 2 << 30),
        ("2 GB", 2_000_000_000),
        ("1 TiB", 1 << 40),
        ("1 TB", 10**12),
        (str(SIZE_MAX), SIZE_MAX),
        ("8388607 TiB", 8388607 << 40),
    ],
)
def test_sizes(given: object, size: int) -> None:
    """LAYOUT: 1024-based with an i, 1000-based without."""
    assert parse_size(given) == size


@pytest.mark.parametrize(
    "given",
    ["", " ", "B", "64 K", "64 Ki", "64 KiB KiB", "64 PiB", "+1", "-1", "1_000", "1,5 KiB", "½ MiB"]
    + ["0b1", "1.0", "inf", 1.0, float("nan"), True, None, b"1", [1], {}, 1j, -1, SIZE_MAX + 1]
    + ["8388608 TiB", "9" * 5000],
    ids=lambda given: repr(given)[:20],
)
def test_what_is_no_size(given: object) -> None:
    """LAYOUT-1: the message says what it is for, and is one line of bounded length."""
    with pytest.raises(InvalidLayout) as caught:
        parse_size(given, "arena.cap:")
    message = str(caught.value)
    assert message.startswith("arena.cap: ")
    assert "\n" not in message
    assert len(message) < 220


def test_what_a_size_may_be_is_said() -> None:
    with pytest.raises(InvalidLayout) as caught:
        parse_size("64 KB iB", "size")
    assert str(caught.value) == (
        "size takes bytes as an int, or a string such as '64 KiB' (1024-based) or '64 MB' "
        "(1000-based), not '64 KB iB'"
    )


def test_the_least_size() -> None:
    assert parse_size(5, least=5) == 5
    with pytest.raises(InvalidLayout, match="is 4 bytes; the least is 5"):
        parse_size("4", least=5)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


# --- settings ---


def test_defaults() -> None:
    """CFG-3"""
    assert Settings.from_env({}) == Settings()
    assert ArenaConfig.from_env({}) == ArenaConfig(65536, None, True, False)
    assert SlabConfig() == SlabConfig((32, 64, 128, 256), False)


def test_settings_are_frozen() -> None:
    """CFG-1"""
    for given in (ArenaConfig(), SlabConfig()):
        for each in dataclasses.fields(given):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(given, each.name, None)
    of_env = Settings(backend="pure")
    with pytest.raises(AttributeError):
        of_env.backend = "native"
    assert (of_env.backend, repr(of_env)) == ("pure", "Settings(backend='pure')")


def test_settings_are_what_they_are_made_of() -> None:
    assert Settings(limit=5) == Settings(limit=5, backend="auto")
    assert Settings(limit=5) != Settings(limit=6)
    assert Settings() != 0
    with pytest.raises(ConfigError, match="no 'speed'"):
        Settings(speed=1)


def test_the_table_of_the_environment() -> None:
    """CFG-1: docs/reference.md shows it as it is made from config.py, and it names each variable that is read."""
    text = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8")
    assert config.environment_table() + "\n" in text
    rows = config.environment_table().splitlines()[2:]
    assert len(rows) == len(config.VARIABLES) and all("NATIVE_MEM" in row or "NATIVEMEM_" in row for row in rows)
    read = set(re.findall(r'"(NATIVEMEM_[A-Z_]+)"', inspect.getsource(settings)))
    named = {name for variable in config.VARIABLES for name in variable.name.split(", ")}
    assert read - named == set()
    assert named - read == {"USE_NATIVE_MEM", "NATIVEMEM_CFLAGS", "NATIVEMEM_LDFLAGS"}


KILLED = """
import nativemem, sys
assert not nativemem.install(limit="1 GiB") and not nativemem.installed()
nativemem.uninstall()
assert "nativemem.backends.native.backend" not in sys.modules
with nativemem.Arena() as arena:
    block = arena.alloc(100)
    assert block.alive and arena.stats.current == 100
limited = nativemem.Limited(None, nativemem.Budget(100, "x", warn=1))
block = limited.alloc(100)
try:
    limited.alloc(1)
except nativemem.BudgetExceeded as error:
    print(error)
print(nativemem.backend)
"""


@pytest.mark.parametrize("backend", ["auto", "native", "pure"])
def test_the_kill_switch(backend: str) -> None:
    """KILL-1: no block of the package's own core, no hook; errors, budgets and counters as ever."""
    done = run(KILLED, NATIVEMEM_DISABLE="1", NATIVEMEM_BACKEND=backend)
    assert ("MemoryPressure" in done.stderr, done.returncode) == (True, 0)
    assert done.stdout == "Limited: 1 bytes asked for; budget 'x' has 100 of 100 bytes in use\npure\n"


def test_the_environment() -> None:
    settings = Settings.from_env(
        {
            "NATIVEMEM_BACKEND": "pure",
            "NATIVEMEM_ARENA_HINT": "128 KiB",
            "NATIVEMEM_ARENA_CAP": "1000000",
            "SOMETHING_ELSE": "x",
        }
    )
    assert settings.backend == "pure"
    assert (settings.arena_hint, settings.arena_cap) == (131072, 1_000_000)


BAD = [
    ("NATIVEMEM_BACKEND", "Native", "auto, native or pure"),
    ("NATIVEMEM_BACKEND", "", "auto, native or pure"),
    ("NATIVEMEM_ARENA_HINT", "64 KB iB", "bytes"),
    ("NATIVEMEM_ARENA_HINT", "", "bytes"),
    ("NATIVEMEM_ARENA_HINT", "0", "least is 1"),
    ("NATIVEMEM_ARENA_CAP", "-5", "bytes"),
    ("NATIVEMEM_ARENA_CAP", "1.5", "bytes"),
    ("NATIVEMEM_LIMIT", "0", "least is 1"),
    ("NATIVEMEM_LIMIT", "much", "bytes"),
    ("NATIVEMEM_PROVIDER", "heap", "std, alloc, static"),
    ("NATIVEMEM_MANAGER", "pc", "embedded, desktop, server, or the path of a .toml file"),
    ("NATIVEMEM_PROFILE", "", "a file or a folder"),
    ("NATIVEMEM_PROFILE_RATE", "0", "least is 1"),
    ("NATIVEMEM_CONTROL", "", "a socket or a folder"),
    ("NATIVEMEM_CONTROL_SIGNAL", "usr 2", "such as USR2"),
    ("NATIVEMEM_DISABLE", "yes", "1 (on) or 0 (off)"),
    ("NATIVEMEM_ALLOC_HISTO", "2", "1 (on) or 0 (off)"),
    ("NATIVEMEM_TEST_OOM_N", "-1", "whole number"),
    ("NATIVEMEM_TEST_OOM_N", "1.0", "whole number"),
]


@pytest.mark.parametrize(("variable", "value", "takes"), BAD)
def test_a_bad_value_names_variable_value_and_what_it_takes(variable: str, value: str, takes: str) -> None:
    """CFG-1"""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: value})
    message = str(caught.value)
    assert message.startswith(variable)
    assert value in message
    assert takes in message
    assert "\n" not in message


# --- imports, each in a process of its own ---


def run(code: str, *options: str, path: Path = PACKAGE.parent, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NATIVEMEM_")}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=path,
        env={**clean, "PYTHONPATH": str(path), **env},
    )


SHOW = "import nativemem; print(nativemem.backend, nativemem.Arena().alloc(10).size)"


@pytest.mark.parametrize(("variable", "value", "takes"), BAD)
def test_a_bad_value_stops_the_import(variable: str, value: str, takes: str) -> None:
    """CFG-1"""
    done = run("import nativemem", **{variable: value})
    assert done.returncode == 1
    [last] = [line for line in done.stderr.splitlines() if line.startswith("nativemem.errors.")]
    assert last.startswith(f"nativemem.errors.ConfigError: {variable}")
    assert value in last
    assert takes in last


def test_the_pure_backend_on_demand() -> None:
    done = run(SHOW, NATIVEMEM_BACKEND="pure")
    assert (done.stdout, done.stderr) == ("pure 10\n", "")


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("choice", ["auto", "native", None])
def test_the_native_backend_where_it_was_built(choice: str | None) -> None:
    done = run(SHOW, **({} if choice is None else {"NATIVEMEM_BACKEND": choice}))
    assert (done.stdout, done.stderr) == ("native 10\n", "")


@pytest.fixture
def without_extension(tmp_path: Path) -> Path:
    """A copy of the package as a pure build has it."""
    ignore = shutil.ignore_patterns("_core*", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "nativemem", ignore=ignore)
    return tmp_path


@pytest.mark.parametrize("choice", ["auto", "pure", None])
def test_auto_takes_pure_where_the_extension_is_absent(without_extension: Path, choice: str | None) -> None:
    env = {} if choice is None else {"NATIVEMEM_BACKEND": choice}
    done = run(SHOW, path=without_extension, **env)
    assert (done.stdout, done.stderr) == ("pure 10\n", "")


def test_native_is_not_to_be_had_where_the_extension_is_absent(without_extension: Path) -> None:
    done = run(SHOW, path=without_extension, NATIVEMEM_BACKEND="native")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nativemem.errors.NativeUnavailable: the native backend was asked for: " in done.stderr


@pytest.fixture
def broken_extension(without_extension: Path) -> Path:
    """A copy of the package with an extension that no loader takes."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (without_extension / "nativemem" / f"_core{suffix}").write_bytes(b"not a shared object\n" * 50)
    return without_extension


@pytest.mark.parametrize("choice", ["auto", "native", None])
def test_a_broken_extension_shows(broken_extension: Path, choice: str | None) -> None:
    """It is not fallen back from in silence: it was built because it is wanted."""
    env = {} if choice is None else {"NATIVEMEM_BACKEND": choice}
    done = run(SHOW, path=broken_extension, **env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: ")


def test_pure_does_not_look_at_a_broken_extension(broken_extension: Path) -> None:
    done = run(SHOW, path=broken_extension, NATIVEMEM_BACKEND="pure")
    assert (done.stdout, done.stderr) == ("pure 10\n", "")


LEAN = """
import sys
before = set(sys.modules)
import nativemem.auto, nativemem
heavy = {"dataclasses", "inspect", "typing", "threading", "re", "enum", "functools", "collections", "contextlib"}
heavy |= {"importlib", "warnings", "_cffi_backend", "nativemem.backends.native.control", "nativemem.errors"}
print(nativemem.installed().objects, sorted(heavy & (set(sys.modules) - before)))
print(nativemem.Budget.__name__, "Arena" in dir(nativemem), nativemem.process.usage().denials)
"""


@pytest.mark.usefixtures("needs_objects")
def test_the_engine_alone_is_lean() -> None:
    """P3, P10: what it does not need is not loaded before it is used."""
    done = run(LEAN, "-S")  # what packages beside it bring at each start is not there
    assert (done.stdout, done.stderr) == ("True []\nBudget True 0\n", "")


@pytest.mark.usefixtures("needs_native")
def test_finders_that_find_nothing_by_specification() -> None:
    """ENG-5: the import system passes over them, and so do we."""
    code = "sys.meta_path.insert(0, types.SimpleNamespace(find_module=lambda name, path=None: None))"
    before = "import sys, types, warnings; warnings.simplefilter('ignore')"
    done = run(f"{before}; {code}; import nativemem.backends.native.loader; print('found')")
    assert (done.stdout, done.stderr) == ("found\n", "")


def test_what_there_is_not() -> None:
    done = run("import nativemem; print(hasattr(nativemem, 'speed'), hasattr(nativemem, '_secret'))")
    assert (done.stdout, done.stderr) == ("False False\n", "")
    names: dict[str, object] = {}
    exec("from nativemem import *", names)
    assert set(nativemem.__all__) <= set(names)


IMPORTS = """
import sys
before = set(sys.modules)
import nativemem
nativemem.Arena
heavy = {"numpy", "ctypes", "cffi", "asyncio", "subprocess", "rich", "nativemem.backends.pure"}
print(sorted(heavy & (set(sys.modules) - before)), bool(nativemem.installed()))
"""


@pytest.mark.usefixtures("needs_native")
def test_the_import_is_light_and_installs_nothing() -> None:
    done = run(IMPORTS, NATIVEMEM_BACKEND="native")
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_the_import_of_pure_is_light_and_installs_nothing() -> None:
    done = run(IMPORTS, NATIVEMEM_BACKEND="pure")
    assert (done.stdout, done.stderr) == ("['nativemem.backends.pure'] False\n", "")


def test_all_of_the_package_comes_without_what_only_a_call_needs(nm: Binding) -> None:
    program = (
        "import sys; before = set(sys.modules); import nativemem; nativemem.Heap\n"
        "print({'logging', 'pathlib'} & (set(sys.modules) - before))"
    )
    done = run(program, NATIVEMEM_BACKEND=nm.name)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.skipif(sys.version_info < (3, 15), reason="imports can be put off from 3.15 on")
@pytest.mark.parametrize("used", ["nativemem.Heap().alloc(10)", "nativemem.install()"])
def test_nothing_of_the_package_is_put_off(nm: Binding, used: str) -> None:
    """Not where memory ends, or the program does, and no class that a module registers is missing."""
    if "install" in used and nm.name != "native":
        pytest.skip("the pure backend has no engine")
    program = f"""
import sys, types, nativemem
print(sys.get_lazy_imports())
kept = {used}
for name, module in list(sys.modules.items()):
    if name.startswith("nativemem"):
        late = [each for each, value in list(vars(module).items()) if type(value) is types.LazyImportType]
        if late: print(name, late)
"""
    done = run(program, NATIVEMEM_BACKEND=nm.name, PYTHON_LAZY_IMPORTS="all")
    assert (done.stdout, done.stderr) == ("all\n", "")


def test_the_environment_is_not_changed() -> None:
    done = run("import os; before = dict(os.environ); import nativemem; print(os.environ == before)")
    assert (done.stdout, done.stderr) == ("True\n", "")
