"""``nativemem run``: what passes through, what is said at the end, and every mistake in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nativemem
from nativemem import cli

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
        timeout=120,
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
            ("raise KeyboardInterrupt", 128 + signal.SIGINT),
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
            assert lines[1].endswith("program.py\", line 2, in <module>")

    def test_over_the_budget(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
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

    def test_a_summary_that_cannot_be_written_is_said(self, script, backend: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        done = run("run", "-o", tmp_path / "no" / "such.json", script("print('fine')\n"), backend=backend)
        assert (done.returncode, done.stdout) == (0, "fine\n")
        assert "the summary was not written" in done.stderr

    def test_a_module(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script("import sys\nprint(__name__, sys.argv[1:])\n", "amodule.py")
        done = run("run", "-m", "amodule", "--budget", "--", "1", cwd=path.parent, backend=backend)
        assert (done.returncode, done.stdout) == (0, "__main__ ['--budget', '--', '1']\n"), done.stderr

    def test_the_program_finds_itself_as_under_python(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script("import os\nos.chdir('/')\nprint(__file__, __annotations__, __cached__, __spec__)\n")
        plain = subprocess.run([sys.executable, path.name], capture_output=True, text=True, cwd=path.parent)
        done = run("run", path.name, cwd=path.parent, backend=backend)
        assert (done.stdout, done.returncode) == (plain.stdout, 0)

    def test_the_summary_goes_to_the_stderr_of_the_start(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        path = script("import io, sys\nsys.stderr = io.StringIO()\n")
        assert " s, peak " in run("run", path, backend=backend).stderr

    def test_other_threads_stay_bounded_when_the_main_one_has_failed(self, script, backend: str) -> None:  # type: ignore[no-untyped-def]
        if backend == "pure":
            pytest.skip("the pure backend bounds the main thread only, and says so")
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
    "no such script": ["run", "no_such_script.py"],
    "a folder": ["run", "."],
    "no module named": ["run", "-m"],
    "no such module": ["run", "-m", "no_such_module"],
    "budget of zero": ["run", "--budget", "0", "x.py"],
    "negative budget": ["run", "--budget=-5", "x.py"],
    "fractional budget": ["run", "--budget", "1.5", "x.py"],
    "misspelt budget": ["run", "--budget", "10 Mib B", "x.py"],
    "huge budget": ["run", "--budget", "99999999999 TiB", "x.py"],
    "no budget": ["run", "--budget"],
    "budget below what the interpreter holds": ["run", "--budget", "1", __file__],
    "unknown option": ["run", "--speed", "x.py"],
}


@pytest.mark.parametrize("args", MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_one_line_and_code_2(
    args: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("nativemem")
    assert "--help" in err
    assert not nativemem.installed()


def test_what_a_mistake_says() -> None:
    assert "the least is 1" in run("run", "--budget", "0", "x.py").stderr
    missing = run("run", "no_such_script.py")
    assert "no such script: 'no_such_script.py'" in missing.stderr
    assert missing.returncode == 2


def test_help_and_version() -> None:
    assert "examples:" in run("run", "--help").stdout
    assert run("--version").stdout == f"nativemem {nativemem.__version__}\n"
