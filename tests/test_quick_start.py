"""ENG-5c: the start at every start, where no variable is set but what asks, or a limit: by the core alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nativemem
from nativemem.backends.machine import is_free_threaded
from nativemem.sizes import SIZE_MAX

SRC = Path(__file__).parents[1] / "src"
sys.path.insert(0, str(SRC))
import nativemem_autoinstall as at_start  # noqa: E402

sys.path.remove(str(SRC))

pytestmark = [
    pytest.mark.skipif(nativemem.backend != "native", reason="the engine needs the C core"),
    pytest.mark.skipif(is_free_threaded(), reason="its objects are the interpreter's, which the package says"),
]

#: the modules of ours that a process has
OURS = "sorted(n for n in sys.modules if n.startswith('nativemem'))"
QUICK = "['nativemem._dataplane', 'nativemem_autoinstall']"


@pytest.fixture
def start(tmp_path: Path) -> dict[str, str]:
    """The variables of a Python that reads the start-up file, wherever the package lies."""
    for kind in ("pth", "start", "py"):
        shutil.copy(SRC / f"nativemem_autoinstall.{kind}", tmp_path)
    (tmp_path / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(tmp_path)!r})")
    return {"NATIVEMEM_AUTOINSTALL": "1", "PYTHONPATH": str(tmp_path)}


def python(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    ours = (*at_start.OTHERS, "NATIVEMEM_LIMIT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**kept, **env},
    )


def output(code: str, *flags: str, **env: str) -> list[str]:
    """The lines that the program printed; it must succeed and say nothing else."""
    done = python(code, *flags, **env)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_of_the_package_nothing_is_loaded(start: dict[str, str]) -> None:
    """P10. What it costs is in docs/performance.md."""
    lines = output(f"import sys; print({OURS}); print('__future__' in sys.modules)", "-S", **start)
    assert lines == ["[]", "False"]  # no start-up file is read
    heavy = "{'_interpreters', '_xxsubinterpreters', 'warnings', 'importlib', '__future__'}"
    program = f"import sys; print({OURS}); print(sorted({heavy} & sys.modules.keys()))"
    plain = output(program, **{**start, "NATIVEMEM_AUTOINSTALL": "0"})
    assert output(program, **start) == [QUICK, plain[1]]


def test_what_is_on_then_is_what_the_import_puts_on(start: dict[str, str]) -> None:
    shown = """
        import nativemem
        core = __import__("nativemem.backends.native.loader", fromlist=["dataplane"]).dataplane
        print(nativemem.installed(), core.region_size(), core.engine_state(), core.engine_budget()[1:])
        print(nativemem.process.owns(id(object())), nativemem.process.owns(id(bytearray(1000))))
        """
    quick = output(shown, **start)
    there = "Installed(objects=True, arrays=True, raw=False, limit=None)"
    assert quick[0].startswith(there) and quick[1] == "True True"
    whole = output("import nativemem.auto\n" + textwrap.dedent(shown), NATIVEMEM_AUTOINSTALL="0")
    peak = re.compile(r"\(\d+, (\d+, \d+\))$")  # of the two processes it is not the same
    assert [peak.sub(r"(\1", line) for line in whole] == [peak.sub(r"(\1", line) for line in quick]


def test_imports_that_are_put_off_change_nothing(start: dict[str, str]) -> None:
    """The variable is of 3.15, and counts from the end of the start on; before 3.15 it is nothing."""
    code = f"import sys; print({OURS}); import nativemem; print(nativemem.installed().objects)"
    assert output(code, PYTHON_LAZY_IMPORTS="all", **start) == [QUICK, "True"]


def test_it_knows_every_variable_that_a_start_reads() -> None:
    """One that it did not would have no effect there."""
    text = (SRC / "nativemem" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"(_?NATIVEMEM_\w+)"', text)) - {"NATIVEMEM_AUTOINSTALL", "NATIVEMEM_LIMIT"}
    assert read == set(at_start.OTHERS) and len(read) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATIVEMEM_LIMIT", ""),
        ("NATIVEMEM_LIMIT", "much"),
        ("NATIVEMEM_LIMIT", "0"),
        ("NATIVEMEM_LIMIT", "-1"),
        ("NATIVEMEM_LIMIT", "9999999 TiB"),
        ("NATIVEMEM_PROFILE", ""),
        ("NATIVEMEM_SECURE", "0"),
        ("NATIVEMEM_DISABLE", "1"),
        ("NATIVEMEM_AUTOINSTALL", "yes"),
        ("NATIVEMEM_AUTOINSTALL", ""),
    ],
)
def test_any_other_setting_is_for_the_package(start: dict[str, str], name: str, value: str) -> None:
    """With the error of a wrong one, also where it is empty."""
    done = python(f"import sys; print({OURS})", **{**start, name: value})
    assert "nativemem.settings" in done.stdout
    is_wrong = name == "NATIVEMEM_LIMIT" or value in ("", "yes")
    assert (f"ConfigError: {name}" in done.stderr or f"{name} takes" in done.stderr) is is_wrong


@pytest.mark.parametrize(
    ("text", "limit"),
    [("1 GiB", 1 << 30), (" 64MB", 64_000_000), ("5000000000", 5_000_000_000), (str(SIZE_MAX), None)],
)
def test_a_limit_holds_from_the_start(start: dict[str, str], text: str, limit: int | None) -> None:
    """It is the same as with the whole package: in bytes, in what is kept beyond it, and in what it refuses."""
    shown = """
        core = __import__("nativemem.backends.native.loader", fromlist=["dataplane"]).dataplane
        print(__import__("nativemem").installed().limit, core.engine_budget()[2:])
        """
    quick = output(f"import sys; print({OURS})\n{textwrap.dedent(shown)}", **start, NATIVEMEM_LIMIT=text)
    assert quick[0] == QUICK and quick[1].split()[0] == str(limit)
    whole = output("import nativemem.auto\n" + textwrap.dedent(shown), NATIVEMEM_LIMIT=text)
    assert quick[1:] == whole


def test_what_a_limit_refuses_from_the_start(start: dict[str, str]) -> None:
    code = f"""
        import sys
        kept = []
        try:
            while True:
                kept.append(bytearray(1 << 20))
        except MemoryError:
            print(48 < len(kept) < 64, {OURS})
        """
    assert output(code, **start, NATIVEMEM_LIMIT="64 MiB") == [f"True {QUICK}"]


def test_a_limit_that_is_less_than_what_is_held(start: dict[str, str]) -> None:
    done = python(f"import sys; print({OURS})", **start, NATIVEMEM_LIMIT="4 KiB")
    assert done.returncode == 0 and "nativemem.auto" in done.stdout
    assert re.search("the engine is off: install.limit: 4096 bytes is too little; the least is [0-9]+", done.stderr)


def test_what_is_declined_the_package_says(start: dict[str, str]) -> None:
    done = python(f"import sys; print({OURS})", "-X", "tracemalloc", **start)
    assert done.returncode == 0 and "nativemem.auto" in done.stdout
    assert done.stderr.count("RuntimeWarning: nativemem.auto: the engine is off: tracemalloc is tracing") == 1


def test_another_package_is_left_to_itself(start: dict[str, str], tmp_path: Path) -> None:
    """The one that an import finds is started, here one that has no core, and not the start-up file's neighbour."""
    (tmp_path / "nativemem").mkdir()
    (tmp_path / "nativemem" / "__init__.py").touch()
    (tmp_path / "nativemem" / "auto.py").write_text("print('the other')")
    (tmp_path / "nativemem" / "backends").mkdir()
    shutil.copy(SRC / "nativemem" / "backends" / "machine.py", tmp_path / "nativemem" / "backends")
    lines = output(f"import sys; print({OURS})", **start)
    assert lines == ["the other", "['nativemem', 'nativemem.auto', 'nativemem_autoinstall']"]


def test_a_second_call_does_nothing(start: dict[str, str]) -> None:
    assert output(
        f"""
        import sys, nativemem_autoinstall as again
        before = list(sys.meta_path)
        again.start()
        print({OURS}, sys.meta_path == before)
        """,
        **start,
    ) == [f"{QUICK} True"]


@pytest.mark.parametrize("others", [{}, {"NATIVEMEM_LIMIT": "1 GiB"}, {"NATIVEMEM_IDLE_DECAY": "1"}])
def test_a_second_call_after_the_package_came(start: dict[str, str], others: dict[str, str]) -> None:
    """As where the folder is added twice, and `nativemem run` has taken its variable out: imports go on."""
    assert output(
        """
        import os, sys, nativemem_autoinstall as again
        import nativemem.auto
        os.environ.pop("NATIVEMEM_IDLE_DECAY", None)
        before = list(sys.meta_path)
        again.start()
        print(sys.meta_path == before)
        from importlib.util import find_spec
        find_spec("numpy")
        print(nativemem.installed().objects)
        """,
        **start,
        **others,
    ) == ["True", "True"]


# --- NumPy, which comes later ---

numpy = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("numpy") is None, reason="NumPy is not installed"
)
FINDERS = "[type(f).__name__ for f in sys.meta_path if type(f).__module__.startswith('nativemem')]"


@numpy
def test_numpy_gets_its_memory(start: dict[str, str]) -> None:
    assert output(
        f"""
        import sys
        print({FINDERS})
        import numpy
        print({FINDERS}, type(numpy.__loader__).__name__, numpy.__loader__ is numpy.__spec__.loader)
        import nativemem
        print(nativemem.process.owns(numpy.ones(1000).ctypes.data), nativemem.installed().arrays)
        """,
        **start,
    ) == ["['_NumPyAwaited']", "[] SourceFileLoader True", "True True"]


@numpy
def test_the_package_waits_for_it_from_its_import_on(start: dict[str, str]) -> None:
    assert output(
        f"""
        import sys, importlib.util, nativemem
        print({FINDERS}, nativemem.installed().arrays)
        importlib.util.find_spec("numpy")
        print({FINDERS}, nativemem.installed().arrays)
        nativemem.uninstall()
        print({FINDERS}, nativemem.installed().arrays)
        import numpy
        print(nativemem.process.owns(numpy.ones(1000).ctypes.data))
        """,
        **start,
    ) == ["['WhenImported'] True", "['WhenImported'] True", "[] False", "False"]


@numpy
def test_looking_for_it_is_not_importing_it(start: dict[str, str]) -> None:
    assert output(
        f"""
        import sys, importlib.util
        spec = importlib.util.find_spec("numpy")
        print(spec.loader.get_filename("numpy") == spec.origin, {FINDERS}, "numpy" in sys.modules)
        """,
        **start,
    ) == ["True ['WhenImported'] False"]


WITHOUT = "nativemem: arrays stay with NumPy's allocator: "


@numpy
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("os.environ['NATIVEMEM_LIMIT'] = 'much'", "NATIVEMEM_LIMIT takes"),
        ("sys.modules['nativemem'] = None", "No module named 'nativemem.engine'; 'nativemem' is not a package"),
    ],
)
def test_where_the_package_does_not_load_numpy_does(start: dict[str, str], change: str, why: str) -> None:
    """It is said, and once."""
    done = python(
        f"""
        import os, sys
        {change}
        import numpy
        print(int(numpy.ones(3).sum()))
        """,
        **start,
    )
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert done.stderr.count(WITHOUT) == done.stderr.count(WITHOUT + why) == 1


# --- whose start it is ---


def test_in_another_thread_than_the_first_it_is_asked(start: dict[str, str]) -> None:
    """Such a thread cannot be told from a subinterpreter by what it may do."""
    assert output(
        """
        import sys, threading, nativemem_autoinstall as at_start
        seen = []
        thread = threading.Thread(target=lambda: seen.append(at_start._in_main_interpreter()))
        thread.start(); thread.join()
        asked = {"_interpreters", "_xxsubinterpreters"} & sys.modules.keys()
        print(seen, len(asked), at_start._in_main_interpreter())
        from nativemem.backends.selection import in_main_interpreter
        thread = threading.Thread(target=lambda: seen.append(in_main_interpreter()))
        thread.start(); thread.join()
        print(seen, in_main_interpreter())
        """,
        **start,
    ) == ["[True] 1 True", "[True, True] True"]


def test_the_children_of_a_fork_go_on(start: dict[str, str]) -> None:
    assert output(
        f"""
        import os, sys
        kept = [bytearray(100_000) for _ in range(50)]
        child = os.fork()
        if child == 0:
            del kept[::2]
            more = [bytes(n) for n in range(3000)]
            import nativemem
            os._exit(7 if nativemem.installed().objects else 8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), {OURS})
        """,
        **start,
    ) == [f"7 {QUICK}"]
