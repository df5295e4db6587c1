"""``nativemem run``: what passes through, what is said at the end, and every mistake in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest

import nativemem
from conftest import require_objects
from nativemem.backends.machine import is_free_threaded
from nativemem.commands import cli
from nativemem.sizes import format_size

BACKENDS = [
    pytest.param(
        "native",
        marks=pytest.mark.skipif(nativemem.backend != "native", reason="the C core is not built"),
    ),
    "pure",
]
both = pytest.mark.parametrize("backend", BACKENDS)


def run(
    *args: str | Path, cwd: Path | None = None, backend: str = "auto", stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nativemem", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        input=stdin,
        env={**os.environ, "NATIVEMEM_BACKEND": backend},
    )


@pytest.fixture
def script(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


README = Path(__file__).parents[1] / "README.md"


def in_shape(text: str) -> list[str]:
    """The lines without their numbers, which differ from run to run, and without Python's marks below a line."""
    lines = [line for line in text.splitlines() if line.strip(" ~^")]
    return [re.sub(r"[\d,]+(\.\d+)?( [KMGT]?i?B\b)?", "N", line) for line in lines]


@pytest.mark.usefixtures("needs_objects")
def test_the_first_page_shows_what_run_prints(script) -> None:  # type: ignore[no-untyped-def]
    """Its first program, by its command, prints what the page shows, but for numbers."""
    text = README.read_text(encoding="utf-8")
    program, command, shown = re.findall(
        r"```python\n(cache = .*?)```\n.*?```\n\$ nativemem (run [^\n]*)\n(.*?)```", text, re.DOTALL
    )[0]
    path = script(program, "cache.py")
    done = run(*command.split(), cwd=path.parent)
    assert (done.returncode, done.stdout) == (3, "")
    assert in_shape(done.stderr.replace(f"{path.parent}{os.sep}", "")) == in_shape(shown)


@both
class TestRun:
    def test_output_and_arguments_pass_through(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script(
            "import sys\nprint(__name__, sys.argv[1:], __file__ == sys.argv[0])\n"
            "print(sys.stdin.read(), end='')\nprint('to stderr', file=sys.stderr)\n"
            "import neighbour\nprint(neighbour.here, sys.modules['__main__'].__dict__ is globals())\n"
        )
        script("here = 'found'\n", "neighbour.py")
        done = run("run", path, "--budget", "-x", "--", "y z", backend=backend, stdin="piped\n")
        assert done.returncode == 0
        assert done.stdout.splitlines() == [
            "__main__ ['--budget', '-x', '--', 'y z'] True",
            "piped",
            "found True",
        ]
        first, *rest = done.stderr.splitlines()
        assert first == "to stderr"
        assert rest
        assert all(line.startswith("nativemem: ") for line in rest)
        assert "peak" in done.stderr

    @pytest.mark.parametrize(
        ("ending", "code"),
        [
            ("sys.exit()", 0),
            ("sys.exit(7)", 7),
            ("sys.exit('a reason')", 1),
            ("raise ValueError('oh')", 1),
            ("raise KeyboardInterrupt", -signal.SIGINT),
            ("raise MemoryError('of its own')", 1),
            ("import os; os._exit(9)", 9),
        ],
    )
    def test_exit_codes_pass_through(self, script, backend: str, ending: str, code: int) -> None:  # type: ignore[no-untyped-def]
        done = run("run", script(f"import sys\n{ending}\n"), backend=backend)
        assert done.returncode == code
        if "reason" in ending:
            assert done.stderr.startswith("a reason\n")
        if ending.startswith("raise"):
            lines = done.stderr.splitlines()
            assert lines[0] == "Traceback (most recent call last):"
            assert lines[1].endswith('program.py", line 2, in <module>')

    def test_over_the_budget(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        if backend == "native":
            require_objects()
        path = script("kept = []\nwhile True:\n    kept.append([0] * 1000)\n")
        summary = tmp_path / "summary.json"
        done = run("run", "--budget", "24 MiB", "-o", summary, path, backend=backend)
        assert done.returncode == 3
        assert "MemoryError" in done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("nativemem: budget exceeded: ")
        numbers = json.loads(summary.read_text())
        denial = numbers["denial"]
        for number in (denial["requested"], denial["used"], 24 << 20):
            assert f"{number:,}" in last
        assert (numbers["exit_code"], numbers["budget_bytes"]) == (3, 24 << 20)
        assert numbers["denials"] >= 1
        if backend == "native":
            assert numbers["peak_bytes"] <= 24 << 20

    def test_a_program_that_handles_it_ends_as_it_likes(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script(
            "def hoard():\n    kept = []\n    while True:\n        kept.append([0] * 1000)\n"
            "try:\n    hoard()\nexcept MemoryError:\n    print('handled')\n"
        )
        done = run("run", "--budget", "24 MiB", path, backend=backend)
        assert (done.returncode, done.stdout) == (0, "handled\n")
        assert "1 denial" in done.stderr

    def test_the_summary_file(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        if backend == "native":
            require_objects()
        summary = tmp_path / "summary.json"
        path = script("x = [str(i) for i in range(100_000)]\n")
        done = run("run", "--budget=1GiB", "-o", summary, path, backend=backend)
        assert done.returncode == 0
        numbers = json.loads(summary.read_text())
        assert sorted(numbers) == sorted(
            "backend wall_s peak_bytes peak_rss_bytes allocations p50 p90 p99 budget_bytes headroom_bytes "
            "denials denial pid exit_code".split()
        )
        assert numbers["backend"] == backend
        assert numbers["peak_bytes"] > 4_000_000
        assert numbers["headroom_bytes"] == (1 << 30) - numbers["peak_bytes"]
        assert numbers["peak_rss_bytes"] > numbers["peak_bytes"] / 2
        if backend == "native":
            assert numbers["allocations"] > 100_000
            assert numbers["p50"] <= numbers["p90"] <= numbers["p99"]
        else:
            assert numbers["allocations"] is None
            assert "tracemalloc" in done.stderr

    def test_what_is_said_is_what_the_file_says(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        if backend == "native":
            require_objects()
        summary = tmp_path / "summary.json"
        path = script("x = [str(i) for i in range(9000)]\n")
        done = run("run", "--budget=1GiB", "-o", summary, path, backend=backend)
        n = json.loads(summary.read_text())
        *_, said, budget = (line.removeprefix("nativemem: ") for line in done.stderr.splitlines())
        peak, resident = format_size(n["peak_bytes"]), format_size(n["peak_rss_bytes"])
        expected = f"{n['wall_s']:.2f} s, peak {peak} (resident {resident})"
        if backend == "native":
            expected += f", {n['allocations']:,} allocations"
            expected += f", size p50 {n['p50']:,} p90 {n['p90']:,} p99 {n['p99']:,} B"
        assert said == expected
        assert budget == f"budget 1.0 GiB, headroom {format_size(n['headroom_bytes'])}, {n['denials']} denials"

    def test_a_summary_that_cannot_be_written_is_said(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        done = run("run", "-o", tmp_path / "no" / "such.json", script("print('fine')\n"), backend=backend)
        assert (done.returncode, done.stdout) == (0, "fine\n")
        assert "the summary was not written" in done.stderr

    def test_a_module(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script("import sys\nprint(__name__, sys.argv[1:])\n", "amodule.py")
        done = run("run", "-m", "amodule", "--budget", "--", "1", cwd=path.parent, backend=backend)
        assert (done.returncode, done.stdout) == (0, "__main__ ['--budget', '--', '1']\n"), done.stderr

    def test_the_program_finds_itself_as_under_python(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        # of which not every version has each
        names = "'__annotations__', '__cached__', '__conditional_annotations__', '__file__', '__spec__'"
        shown = f"[(name, globals().get(name, 'no')) for name in ({names})]"
        text = f"import os\nos.chdir('/')\nprint({shown})\n"
        path = script(text)
        plain = subprocess.run([sys.executable, path.name], capture_output=True, text=True, cwd=path.parent)
        done = run("run", path.name, cwd=path.parent, backend=backend)
        assert (done.stdout, done.returncode) == (plain.stdout, plain.returncode) and "__file__" in done.stdout

    def test_the_summary_goes_to_the_stderr_of_the_start(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script("import io, sys\nsys.stderr = io.StringIO()\n")
        assert " s, peak " in run("run", path, backend=backend).stderr

    def test_other_threads_stay_bounded_when_the_main_one_has_failed(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        if backend == "pure":
            pytest.skip("the pure backend bounds the main thread only, and says so")
        require_objects()
        path = script(
            "import threading\n"
            "failed = threading.Event()\n"
            "def work():\n"
            "    failed.wait()\n"
            "    kept = []\n"
            "    try:\n"
            "        for _ in range(100):\n            kept.append(bytes(1 << 20))\n"
            "    except MemoryError:\n        kept = None\n        print('bounded')\n"
            "threading.Thread(target=work).start()\n"
            "threading.excepthook = None\n"
            "import sys\n"
            "sys.excepthook = lambda *error: failed.set()\n"
            "raise ValueError\n"
        )
        done = run("run", "--budget", "32MiB", path, backend=backend)
        assert (done.stdout, done.returncode) == ("bounded\n", 1)
        assert "the last denial" in done.stderr

    def test_exit_functions_and_threads_of_the_program_come_first(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script(
            "import atexit, sys, threading\n"
            "atexit.register(lambda: print('exit function', file=sys.stderr))\n"
            "go = threading.Event()\n"
            "def work():\n    go.wait()\n    print('thread', file=sys.stderr)\n"
            "threading.Thread(target=work).start()\n"
            "go.set()\n"
        )
        lines = run("run", path, backend=backend).stderr.splitlines()
        assert lines[:2] == ["thread", "exit function"]
        assert lines[-1].startswith("nativemem: ")

    def test_a_forked_child_says_nothing(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script(
            "import os, sys\npid = os.fork()\nif pid == 0:\n    sys.exit(5)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        done = run("run", path, backend=backend)
        assert done.stdout == "5\n"
        assert done.stderr.count(" s, peak ") == 1

    def test_a_syntax_error_is_shown_as_python_shows_it(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        done = run("run", script("def broken(:\n"), backend=backend)
        assert done.returncode == 1
        assert "SyntaxError" in done.stderr
        assert "nativemem/" not in done.stderr


MISTAKES = {
    "no command": [],
    "unknown command": ["walk"],
    "no program": ["run"],
    "no program after options of python's": ["run", "-X", "dev", "-B"],
    "no module named": ["run", "-m"],
    "no command after -c": ["run", "-B", "-c"],
    "no value": ["run", "-W"],
    "no file": ["run", "-o"],
    "budget of zero": ["run", "--budget", "0", "x.py"],
    "negative budget": ["run", "--budget=-5", "x.py"],
    "fractional budget": ["run", "--budget", "1.5", "x.py"],
    "misspelt budget": ["run", "--budget", "10 Mib B", "x.py"],
    "huge budget": ["run", "--budget", "99999999999 TiB", "x.py"],
    "no budget": ["run", "--budget"],
    "budget below what the interpreter holds": ["run", "--budget", "1", __file__],
    "budget just too little": ["run", "--budget", str((1 << 20) + 1), "x.py"],
    "a file for a profile that is not asked for": ["run", "-o", "a", "--summary", "b", "x.py"],
    "a rate of zero": ["run", "--profile=0", "x.py"],
    "an option shortened": ["run", "--bud", "1GiB", "x.py"],
    "unknown option": ["run", "--speed", "x.py"],
    "an option that python does not have": ["run", "-Bz", "x.py"],
}


@pytest.mark.parametrize("what", MISTAKES)
def test_each_mistake_is_one_line_and_code_2(what: str, tmp_path: Path) -> None:
    args = MISTAKES[what]
    if what == "budget just too little" and nativemem.backend != "native":
        pytest.skip("the pure backend bounds the main thread from its start on, whatever the interpreter holds")
    if what == "budget just too little":
        require_objects()
    done = run(*args, cwd=tmp_path, stdin="")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("nativemem")
    assert "--help" in done.stderr


def test_what_a_mistake_says() -> None:
    assert "the least is 1" in run("run", "--budget", "0", "x.py").stderr
    assert "name a program" in run("run", stdin="").stderr
    assert "-z" in run("run", "-z", "x.py").stderr


def test_help_and_version() -> None:
    assert "examples:" in run("run", "--help").stdout
    assert "run a program" in run("--help").stdout
    assert run("--version").stdout == f"nativemem {nativemem.__version__}\n"
    assert "name a command: run, report," in run().stderr


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_has_room_in_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert text and not [line for line in text.splitlines() if len(line) > 80]


# --- the process that becomes the program ---


def python(*args: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NATIVEMEM_BACKEND": "auto", **env},
    )


class TestExitCodeInTheFile:
    """What exit() tells, the summary file has."""

    ENDINGS = {
        "pass": 0,
        "import sys; sys.exit(7)": 7,
        "import sys; sys.exit('a reason')": 1,
        "1 / 0": 1,
        "raise KeyboardInterrupt": 128 + signal.SIGINT,
        "import sys; sys.stdout = open('/dev/full', 'w'); print(1)": 120,
        "import sys; sys.exit(-1)": 255,
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    import sys; sys.exit(4)": 4,
    }

    @pytest.mark.usefixtures("needs_objects")
    @pytest.mark.parametrize(("ending", "code"), ENDINGS.items(), ids=map(str, ENDINGS.values()))
    def test_with_the_engine(self, ending: str, code: int, tmp_path: Path) -> None:
        done = run("run", "-o", "out.json", "-c", ending, cwd=tmp_path)
        assert done.returncode == (-signal.SIGINT if code == 130 else code)
        assert json.loads((tmp_path / "out.json").read_text())["exit_code"] == code

    def test_without(self, tmp_path: Path) -> None:
        """Nothing but an exception that ended the program is known then."""
        for ending, code in (("1 / 0", 1), ("import sys; sys.exit(7)", None)):
            run("run", "-o", "out.json", "-c", ending, cwd=tmp_path, backend="pure")
            assert json.loads((tmp_path / "out.json").read_text())["exit_code"] == code

    def test_a_child_leaves_it_alone(self, tmp_path: Path) -> None:
        program = "import os, sys\nif os.fork() == 0: sys.exit(9)\nos.wait()\nsys.exit(3)"
        run("run", "-o", "out.json", "-W", "ignore", "-c", program, cwd=tmp_path)
        assert json.loads((tmp_path / "out.json").read_text())["exit_code"] in (3, None)

    @pytest.mark.usefixtures("needs_objects")
    @pytest.mark.parametrize(("ending", "code"), [("pass", 0), ("1 / 0", 1), ("import sys; sys.exit(1)", 1)])
    def test_what_the_process_does_at_its_end(self, ending: str, code: int, tmp_path: Path) -> None:
        """A program that ends by itself ends as ever, also where a code of its own could stand for a denial: what
        libraries do at the end of the process is done."""
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        if shutil.which(compiler) is None:
            pytest.skip(f"needs {compiler}")
        library = str(tmp_path / "end.so")
        source = Path(__file__).resolve().parent / "beside" / "end.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
        denied = "try: bytearray(1 << 40)\nexcept MemoryError: pass\n"
        words = ("-m", "nativemem", "run", "--budget=1GiB", "-o", "out.json", "-c", denied + ending)
        done = python(*words, cwd=tmp_path, LD_PRELOAD=library)
        assert (done.stdout, done.returncode) == ("ended\n", code)
        numbers = json.loads((tmp_path / "out.json").read_text())
        assert (numbers["exit_code"], numbers["denials"]) == (code, 1)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        done = run("run", "-o", "/dev/stdout", "-c", "import sys; sys.exit(7)")
        assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (7, None)


def test_the_file_is_where_the_command_was_given(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    run("run", "-o", "out.json", "-c", "import os; os.chdir('folder')", cwd=tmp_path)
    assert (tmp_path / "out.json").exists()


@both
def test_another_file_as_descriptor_2(backend: str, tmp_path: Path) -> None:
    """CLI-5: the summary goes where descriptor 2 was at the start, and into no file of the program's."""
    program = "import os; os.dup2(os.open('log', os.O_CREAT | os.O_WRONLY), 2); os.write(2, b'mine')"
    done = run("run", "-c", program, cwd=tmp_path, backend=backend)
    assert (tmp_path / "log").read_text() == "mine"
    assert " s, peak " in done.stderr
    program = "import os; os.closerange(2, 2000)\nfor i in range(500): os.open(f'{i}', os.O_CREAT | os.O_RDWR)"
    done = run("run", "-c", program, cwd=tmp_path, backend=backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert all((tmp_path / f"{i}").read_text() == "" for i in range(500))


def test_a_full_pipe_that_nothing_empties(tmp_path: Path) -> None:
    """CLI-5: the program's end waits for no reader of the summary."""
    program = "import fcntl, os\nos.write(2, b'x' * fcntl.fcntl(2, 1032)); os.write(1, b'full')"  # F_GETPIPE_SZ
    words = [sys.executable, "-m", "nativemem", "run", "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"full"
        assert process.wait(timeout=300) == 0


def test_the_environment_of_the_program() -> None:
    """ENG-5: it has what its children need, and nothing of what the command told its own process."""
    show = "import os; print(sorted((k, v) for k, v in os.environ.items() if 'NATIVEMEM_' in k))"
    before = {k: v for k, v in os.environ.items() if k.startswith("NATIVEMEM_")}
    for_children = {"NATIVEMEM_AUTOINSTALL": "1", "NATIVEMEM_LIMIT": str(1 << 30)}
    for backend, more in (("native", for_children), ("pure", {})):
        if backend == "native" and (nativemem.backend != "native" or is_free_threaded()):
            continue
        done = run("run", "--budget", "1GiB", "-c", show, backend=backend)
        assert done.stdout == f"{sorted({**before, 'NATIVEMEM_BACKEND': backend, **more}.items())}\n"


def test_the_limit_of_the_environment_is_the_budget() -> None:
    done = python("-m", "nativemem", "run", "-c", "pass", NATIVEMEM_LIMIT="300 MiB")
    assert "budget 300.0 MiB" in done.stderr
    done = python("-m", "nativemem", "run", "--budget", "400 MiB", "-c", "pass", NATIVEMEM_LIMIT="300 MiB")
    assert "budget 400.0 MiB" in done.stderr


@pytest.mark.usefixtures("needs_objects")
def test_a_limit_that_is_too_little() -> None:
    done = python("-m", "nativemem", "run", "-c", "print(1)", NATIVEMEM_LIMIT="10 KiB")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "NATIVEMEM_LIMIT: 10240 bytes is too little" in done.stderr


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("budget", ["3MiB", "4MiB", "5 MiB", "12MiB"])
@pytest.mark.parametrize("options", [(), ("-S",), ("-I",)], ids=repr)
def test_little_is_enough_for_the_error_to_be_shown(budget: str, options: tuple[str, ...]) -> None:
    """CLI-3. A process that has the engine alone has no budget that anything could be told of."""
    program = "kept = []\nwhile True: kept.append([0] * 1000)\n"
    done = run("run", "--budget", budget, *options, "-c", program)
    assert done.returncode == 3
    assert "MemoryError" in done.stderr
    assert "SystemError" not in done.stderr
    assert "budget exceeded: " in done.stderr


def test_options_of_the_interpreter_that_runs_the_command() -> None:
    show = "import sys; print(sys.flags.dev_mode, sys.flags.optimize, sys.warnoptions[-1:])"
    done = python("-X", "dev", "-OWerror", "-m", "nativemem", "run", "-c", show)
    assert done.stdout == "True 1 ['error']\n"


def test_tracemalloc_is_measured_with_where_it_was_asked_for() -> None:
    done = run("run", "-X", "tracemalloc=3", "-c", "import tracemalloc as t; print(t.get_traceback_limit())")
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert "measured with tracemalloc" in done.stderr


def test_modules_of_the_programs_folder_are_not_the_commands(tmp_path: Path) -> None:
    for name in ("argparse", "gettext", "stat", "select", "fcntl", "ctypes", "json"):
        (tmp_path / f"{name}.py").write_text("print(__name__)\nraise SystemExit(9)\n")
    for options in ((), ("-S",)):
        done = run("run", *options, "-c", "print(1)", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An interpreter in whose environment nothing is installed, and a path that the package is on."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    (place / "path").mkdir()
    (place / "path" / "nativemem").symlink_to(Path(nativemem.__file__).parent, target_is_directory=True)
    return place / "env" / "bin" / "python", str(place / "path")


@pytest.mark.parametrize("options", [(), ("-E",), ("-I",), ("-s",), ("-S", "-B")], ids=repr)
def test_without_the_start_up_file(options: tuple[str, ...], bare: tuple[Path, str], tmp_path: Path) -> None:
    """CLI-5: where site reads nothing of ours, as in a source tree."""
    executable, path = bare
    (tmp_path / "program.py").write_text("import sys\nprint(__name__, sys.argv, sys.flags.isolated, sys.path[0])\n")

    def output(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": path, "NATIVEMEM_BACKEND": "auto"}
        command = [executable, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)

    plain = output(*options, "program.py", "1")
    done = output("-m", "nativemem", "run", *options, "program.py", "1")
    assert (done.returncode, done.stdout) == (0, plain.stdout), done.stderr
    assert done.stderr.count(" s, peak ") == 1
    has_engine = nativemem.backend == "native" and not is_free_threaded()  # with objects
    assert (" allocations" in done.stderr) == has_engine


def test_an_interpreter_that_does_not_know_its_file() -> None:
    code = "import sys; sys.executable = ''; import nativemem.commands.cli as c; c.main(['run', '-c', 'pass'])"
    done = python("-c", code)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "sys.executable" in done.stderr


def test_a_command_is_a_module_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-7"""
    other = types.ModuleType("nativemem.commands.other")
    other.HELP = "another"  # type: ignore[attr-defined]
    other.configure = lambda parser: parser.add_argument("word")  # type: ignore[attr-defined]
    other.execute = lambda parser, argv: parser.parse_args(argv).word  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nativemem.commands.other", other)
    monkeypatch.setitem(cli.COMMANDS, "other", "other")
    assert cli.main(["other", "said"]) == "said"


@pytest.mark.usefixtures("needs_native")
def test_what_the_program_finds_loaded() -> None:
    """P3, P10: the command is gone, and what measures is small."""
    heavy = "{'argparse', 'dataclasses', 'inspect', 'typing', 'threading', 're', 'enum', 'json', 'ctypes'}"
    done = run("run", "-c", f"import sys; print(sorted({heavy} & sys.modules.keys()))")
    plain = python("-c", f"import sys; print(sorted({heavy} & sys.modules.keys()))", NATIVEMEM_AUTOINSTALL="0")
    assert done.stdout == plain.stdout
