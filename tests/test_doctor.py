"""``nativemem doctor``: what it says of the interpreter at hand, and that it says it whatever is wrong (PYV-9)."""

from __future__ import annotations

import importlib.machinery
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nativemem
from nativemem.backends.machine import is_free_threaded
from nativemem.backends.selection import FREE_THREADED, without_lock
from nativemem.commands import doctor as _doctor

PACKAGE = Path(nativemem.__file__).parent
NAMES = [*_doctor._SHOWN]
COMMAND = ("-m", "nativemem", "doctor")


def python(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NATIVEMEM_", "_NATIVEMEM", "PYTHON"))}
    command = [sys.executable, *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **env}, timeout=300, check=False)


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    """The rows of a ``--json``, by name; the whole is as the page says."""
    assert done.stderr == ""
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert len(rows) == len(report["rows"])
    assert [name for name in rows if name in NAMES] == NAMES
    for row in rows.values():
        assert set(row) == {"name", "state", "reason", "cure"}
        assert row["state"] in ("works", "declined", "off")
        assert row["reason"]
    assert report["declined"] == any(row["state"] == "declined" for row in rows.values())
    assert done.returncode == int(report["declined"])
    return rows


def states(rows: dict[str, dict[str, str]], state: str) -> set[str]:
    return {name for name, row in rows.items() if row["state"] == state}


#: what needs the core, whatever else is there
OF_THE_CORE = {"core", "insides", "engine", "scopes", "deferred errors", "raw domain", "C API", "nativemem run"}


@pytest.mark.usefixtures("needs_objects")
def test_where_all_is_well() -> None:
    rows = rows_of(python(*COMMAND, "--json"))
    assert states(rows, "declined") == set()
    assert states(rows, "works") >= OF_THE_CORE | {"backend", "blocks", "start-up file"}
    assert rows["backend"]["reason"] == "native"
    assert rows["core"]["reason"].startswith("_core.")
    assert ("NumPy is not" in rows["arrays"]["reason"]) != (rows["arrays"]["state"] == "works")
    assert rows["kill switch"]["state"] == rows["debug hooks"]["state"] == "off"


def test_the_page_is_within_80_columns() -> None:
    done = python(*COMMAND)
    lines = done.stdout.splitlines()
    paths = (str(PACKAGE), sys.executable)  # words that are longer stay whole
    assert [line for line in lines if len(line) > 80 and not any(path in line for path in paths)] == []
    for name in NAMES:
        (line,) = [line for line in lines if line[10:].startswith(f"{name}  ")]
        assert line.split()[0] in ("works", "declined", "off")
    assert lines[0].startswith("nativemem")
    assert lines[-1].endswith(".")


def test_the_kill_switch() -> None:
    rows = rows_of(python(*COMMAND, "--json", NATIVEMEM_DISABLE="1"))
    assert rows["kill switch"]["state"] == "works"
    assert states(rows, "off") >= OF_THE_CORE
    assert {rows[name]["reason"] for name in ("core", "engine", "scopes")} == {"NATIVEMEM_DISABLE=1 is set"}
    assert states(rows, "declined") == set()


def test_the_pure_backend_on_demand() -> None:
    rows = rows_of(python(*COMMAND, "--json", NATIVEMEM_BACKEND="pure"))
    assert rows["backend"]["reason"] == "pure: NATIVEMEM_BACKEND=pure is set"
    assert rows["blocks"]["state"] == "works"
    assert states(rows, "off") >= OF_THE_CORE - {"core"}


def copy(place: Path, record: dict[str, Any] | None) -> str:
    """The package as a build without the core leaves it. Returns the path that it is on."""
    shutil.copytree(
        PACKAGE, place / "nativemem", ignore=shutil.ignore_patterns("_core*", "_build.json", "__pycache__")
    )
    if record is not None:
        (place / "nativemem" / "_build.json").write_text(json.dumps(record))
    return str(place)


REASON = "there is no C compiler: cc: No such file or directory"


@pytest.mark.parametrize(
    ("record", "state", "why"),
    [
        ({"native": False, "asked": "auto", "reason": REASON}, "declined", f"the core was not built: {REASON}"),
        (
            {"native": False, "asked": "0", "reason": None},
            "off",
            "it was built without the core (USE_NATIVE_MEM=0)",
        ),
        (None, "declined", "these are sources that were never built"),
        ({"native": True, "asked": "1", "reason": None}, "declined", "its core was built for another Python than "),
    ],
)
def test_a_package_without_the_core(record: dict[str, Any] | None, state: str, why: str, tmp_path: Path) -> None:
    """What is wanted and missing is declined; what was not wanted is off, and no failure."""
    cure = "USE_NATIVE_MEM=1 pip install"
    if is_free_threaded() and sys.version_info[:2] < FREE_THREADED:  # whatever is done about a build
        why, cure = without_lock(), "take the interpreter of that version that has the lock"
    rows = rows_of(python(*COMMAND, "--json", PYTHONPATH=copy(tmp_path, record)))
    assert rows["core"]["state"] == rows["engine"]["state"] == rows["scopes"]["state"] == state
    assert rows["core"]["reason"].startswith(why)
    assert cure in rows["core"]["cure"]
    assert why in rows["backend"]["reason"]
    assert rows["blocks"]["state"] == "works"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            "sys.implementation = types.SimpleNamespace(**{**vars(sys.implementation), 'name': 'pypy'})",
            "needs CPython",
        ),
        ("sys.maxsize = (1 << 31) - 1", "needs a 64-bit interpreter"),
        ("sys.abiflags, sys.version_info = 't', (3, 13, 5)", "does not run on a free-threaded interpreter"),
    ],
)
def test_an_interpreter_that_can_have_no_core(change: str, why: str, tmp_path: Path) -> None:
    """The advice is another interpreter, and not to build it."""
    path = copy(tmp_path, {"native": False, "asked": "auto", "reason": REASON})
    code = f"""
import sys, types
from nativemem.backends import selection as _choice
{change}
for text in _choice.missing_core():
    print(text)
"""
    done = python("-c", code, PYTHONPATH=path)
    reason, cure = done.stdout.splitlines()
    assert why in reason
    assert "USE_NATIVE_MEM" not in cure


def test_a_core_that_does_not_load(tmp_path: Path) -> None:
    path = copy(tmp_path, {"native": True, "asked": "1", "reason": None})
    file = tmp_path / "nativemem" / f"_core{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"not a shared object\n" * 50)
    rows = rows_of(python(*COMMAND, "--json", PYTHONPATH=path))
    assert rows["core"]["state"] == "declined"
    assert rows["core"]["reason"].startswith("does not load: ")
    assert states(rows, "declined") >= OF_THE_CORE


@pytest.mark.parametrize(
    ("variable", "value"), [("NATIVEMEM_BACKEND", "wrong"), ("NATIVEMEM_LIMIT", "much"), ("NATIVEMEM_DISABLE", "")]
)
def test_a_variable_with_a_bad_value_is_a_finding(variable: str, value: str) -> None:
    """Everything else stops with an error, so this is where people come to; the rest is tried without it."""
    rows = rows_of(python(*COMMAND, "--json", **{variable: value}))
    assert rows[variable]["state"] == "declined"
    assert variable in rows[variable]["reason"]
    assert rows["blocks"]["state"] == "works"


@pytest.mark.usefixtures("needs_objects")
def test_a_core_without_cffi_at_run_time(tmp_path: Path) -> None:
    """As after an installation without dependencies: the engine does without it, and each of the others says so."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['_cffi_backend'] = None\n")
    rows = rows_of(python(*COMMAND, "--json", PYTHONPATH=str(tmp_path)))
    assert states(rows, "declined") == {"blocks", "scopes", "deferred errors"}
    assert states(rows, "works") >= {"core", "engine", "raw domain", "C API"}
    assert "need cffi at run time" in rows["blocks"]["reason"]
    assert "pip install cffi" in rows["blocks"]["cure"]


@pytest.mark.usefixtures("needs_objects")
def test_what_the_interpreter_declines() -> None:
    """The options that this one was given are those of the processes in which things are tried."""
    done = python("-X", "tracemalloc", *COMMAND, "--json")
    rows = rows_of(done)
    assert states(rows, "declined") == {"engine", "scopes", "deferred errors", "raw domain", "nativemem run"}
    assert "tracemalloc is tracing" in rows["engine"]["reason"]
    assert "stop tracemalloc" in rows["engine"]["cure"]
    assert rows_of(python("-X", "dev", *COMMAND, "--json"))["debug hooks"]["state"] == "works"


@pytest.mark.usefixtures("needs_native")
def test_an_interpreter_whose_insides_have_moved(tmp_path: Path) -> None:
    """PYV-1, and what stands on it: the rest of the core works."""
    code = (
        "from nativemem.backends.native.loader import dataplane\n"
        "dataplane.insides_check = lambda: 'the frame that runs'\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    rows = rows_of(python(*COMMAND, "--json", PYTHONPATH=str(tmp_path)))
    assert "does not keep the frame that runs where" in rows["insides"]["reason"]
    assert states(rows, "declined") >= {"insides", "engine", "scopes", "deferred errors", "raw domain"}
    assert states(rows, "works") >= {"core", "backend", "blocks"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the process that tried it was ended by SIGSEGV",
        ),
        ("import os; print('[\"arrays\"]'); os._exit(3)", "the process that tried it ended with exit code 3"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("raise ImportError('long ' * 1000)", "ImportError: long long "),
    ],
)
@pytest.mark.usefixtures("needs_objects")
def test_a_probe_that_brings_its_process_down(code: str, reason: str, tmp_path: Path) -> None:
    """The others are tried all the same."""
    (tmp_path / "numpy.py").write_text(code)
    rows = rows_of(python(*COMMAND, "--json", PYTHONPATH=str(tmp_path)))
    assert states(rows, "declined") == {"arrays"}
    assert rows["arrays"]["reason"].startswith(reason)
    assert len(rows["arrays"]["reason"]) <= 300


def test_an_interpreter_that_does_not_know_its_file() -> None:
    for value in ("''", "None"):
        call = "import nativemem.commands.cli as c; sys.exit(c.main(['doctor', '--json']))"
        done = python("-c", f"import sys; sys.executable = {value}; {call}")
        assert "does not know its own file" in rows_of(done)["core"]["reason"]


def test_modules_of_the_folder_are_not_the_commands(tmp_path: Path) -> None:
    for name in ("json", "textwrap", "platform", "subprocess", "argparse", "resource", "signal", "numpy"):
        (tmp_path / f"{name}.py").write_text("print(__name__)\nraise SystemExit(9)\n")
    here = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    done: Any = subprocess.run([sys.executable, *COMMAND], **here)  # type: ignore[call-overload]
    assert "SystemExit" not in done.stdout + done.stderr
    assert done.stdout.startswith("nativemem")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_where_its_words_go() -> None:
    """Nothing reads them, or not all characters, or there is no room: no traceback."""
    command = " ".join([sys.executable, *COMMAND])
    for words, code, complaint in (
        (f"{command} >/dev/full", 1, "nativemem doctor: standard output: No space left on device\n"),
        (f"{command} >&-", None, ""),
        (f"{command} | true", 0, ""),
        (f"LC_ALL=C PYTHONIOENCODING=ascii NATIVEMEM_X=\N{SNOWMAN} {command} >/dev/null", None, ""),
    ):
        done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("", complaint)
        assert done.returncode in ((0, 1) if code is None else (code,))


def test_limits_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2 << 30, -1))
    row = _doctor._address_space("address limit")
    assert (row.state, row.reason.split(" (")[0], row.cure) == ("works", "2.0 GiB", "")
    for limit, cure in ((1 << 30, ""), ((1 << 30) - 1, "raise it (ulimit -v)")):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, -1))
        assert _doctor._address_space("address limit").cure.partition(":")[0] == cure
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, -1))
    assert _doctor._address_space("address limit").state == "off"
    for found, state in (([512 << 20, 1 << 40], "works"), ([1 << 62], "off"), ([], "off")):
        monkeypatch.setattr(_doctor, "limits", lambda found=found: iter(found))
        row = _doctor._control_group("cgroup limit")
        assert row.state == state
        assert ("512.0 MiB" in row.reason, "--budget" in row.cure) == (
            (True, True) if state == "works" else (False, False)
        )


PAGE = """\
python     CPython 3
variables  A=1 B=2 A=1 B=2 A=1 B=2 A=1 B=2 A=1 B=2 A=1 B=2 A=1 B=2 A=1 B=2 A=1
           B=2 A=1 B=2 A=1 B=2 A=1 B=2

works     one          it does
declined  another one  words and words words and words words and words words and
                       words words and words words and words
                       > cure it, and cure it again, and again, until it is all
                         well with it
off       third        it is not asked for

Declined: another one.
"""


def test_the_page_is_a_table() -> None:
    """Each state, reason and cure in its place, and what is declined once more at the end."""
    row = _doctor.Row
    cure = "cure it, and cure it again, and again, until it is all well with it"
    declined = row("another one", "declined", "words and words " * 6, cure)
    rows = [row("one", "works", "it does"), declined, row("third", "off", "it is not asked for")]
    assert _doctor._shown({"python": "CPython 3", "variables": "A=1 B=2 " * 12}, rows) == PAGE
    page = "python     x\n\nworks     one  it does\n\nNothing is declined.\n"
    assert _doctor._shown({"python": "x"}, rows[:1]) == page
    paths = f"/{'a-' * 45}b /{'c' * 90}"  # what cannot be read where it is broken stays whole
    about, reason = _doctor._shown({"python": paths}, [row("one", "works", paths)]).split("\n\n")[:2]
    assert about == f"python     {paths}".replace(" /c", "\n" + " " * 11 + "/c")
    assert reason == f"works     one  {paths}".replace(" /c", "\n" + " " * 15 + "/c")


def test_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, state, words in (
        ("always [madvise] never\n", "works", "gives them (madvise)"),
        ("always madvise [never]\n", "off", "gives none (never)"),
        ("", "off", "does not tell: none"),
    ):

        def opened(path: str, encoding: str, text: str = text) -> io.StringIO:
            if not text:
                raise OSError(2, "none")
            return io.StringIO(text)

        monkeypatch.setattr(_doctor, "open", opened, raising=False)
        row = _doctor._huge_pages("huge pages")
        assert (row.name, row.state, words in row.reason) == ("huge pages", state, True)
        assert bool(row.cure) == ("never" in words)


def test_what_the_report_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NATIVEMEM_")]:
        monkeypatch.delenv(name)
    assert _doctor._about()["variables"] == "none"
    monkeypatch.setenv("NATIVEMEM_LIMIT", "1 GiB")
    monkeypatch.setenv("NATIVEMEM_ALLOCATOR", "x")
    about = _doctor._about()
    assert about["variables"] == "NATIVEMEM_ALLOCATOR=x NATIVEMEM_LIMIT=1 GiB"
    assert about["nativemem"].startswith(f"{nativemem.__version__}, ")
    bits = 64 if sys.maxsize > 1 << 32 else 32
    assert f", {bits} bits, {sys.executable}" in about["python"]
    assert ("free-threaded" in about["python"]) == is_free_threaded()
    found = {"native": True, "asked": "1", "compiler": "gcc 12", "flags": ""}
    monkeypatch.setattr(_doctor, "build", lambda: found)
    assert _doctor._built() == "native core, USE_NATIVE_MEM=1, gcc 12"
    found["native"] = False
    assert _doctor._built() == "pure Python, USE_NATIVE_MEM=1, gcc 12"
    found.clear()
    assert _doctor._built() == "none: these are sources"
    assert _doctor._line(lambda: "a  b\nc") == "a b c"
    assert _doctor._line(lambda: str(1 // 0)).startswith("ZeroDivisionError: ")


def test_an_interpreter_that_reads_no_start_up_file() -> None:
    path = os.pathsep.join(path for path in sys.path if path)
    rows = rows_of(python("-S", *COMMAND, "--json", PYTHONPATH=path))
    assert rows["start-up file"]["state"] == "off"


def test_mistakes() -> None:
    for words in (("extra",), ("--colour",)):
        done = python(*COMMAND, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_its_help_is_within_80_columns() -> None:
    done = python(*COMMAND, "--help")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for word in ("works", "declined", "exit code", "--json"):
        assert word in done.stdout


def test_what_is_tried_is_shown() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(_doctor.PROBES) < set(NAMES)
