"""``nativemem run`` beside ``python``: each situation is run with both, and must differ in the summary alone.

What is compared: standard output, standard error without the summary's lines, the exit status or signal. Each side
has a folder of its own, whose path is taken out of what it prints, as are the addresses of objects.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conftest import BACKENDS
from situations import SITUATIONS, Situation

PYTHON = [sys.executable]
RUN = [sys.executable, "-m", "nativemem", "run"]
SUMMARY = re.compile(r"nativemem: .* s, peak .*$", re.MULTILINE)


def prepare(situation: Situation, folder: Path) -> None:
    folder.mkdir()
    for name, text in {"program.py": situation.text, **situation.files}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if situation.make is not None:
        situation.make(folder)


def start(situation: Situation, command: list[str], folder: Path, **more: str) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NATIVEMEM_", "PYTHON", "COVERAGE"))}
    env = {**kept, "PYTHONHASHSEED": "0", **situation.env, **more, "P": " ".join(command)}
    words = ["sh", "-c", situation.shell] if situation.shell else [*command, *situation.words]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=env, bufsize=0
    )


def finish(situation: Situation, process: subprocess.Popen[bytes], folder: Path) -> tuple[str, str, int]:
    try:
        said = b""
        if situation.send is not None:
            assert process.stdout is not None
            while b"ready\n" not in said:
                byte = process.stdout.read(1)
                assert byte, process.communicate(timeout=300)
                said += byte
            process.send_signal(situation.send)
        out, error = process.communicate(situation.stdin, timeout=300)
    finally:  # a process that did not end leaves no pipe to the next test
        process.kill()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipe.close()
        process.wait()
    clean = []
    for text in (said + out, error):
        shown = text.decode("utf-8", "backslashreplace")
        for name in (os.path.realpath(folder), str(folder)):
            shown = shown.replace(name, "FOLDER")
        clean.append(re.sub(r"0x[0-9a-f]+", "0x", shown))
    return clean[0], clean[1], process.returncode


def both(situation: Situation, tmp_path: Path, **more: str) -> tuple[list[object], list[object], int]:
    """What each side showed, and how many summaries there were."""
    sides = {"python": PYTHON, "native": RUN}
    processes = {}
    for name, command in sides.items():
        prepare(situation, tmp_path / name)
        processes[name] = start(situation, command, tmp_path / name, **more)
    shown = {}
    summaries = 0
    for name, process in processes.items():
        out, error, code = finish(situation, process, tmp_path / name)
        if name == "native":
            summaries = len(SUMMARY.findall(error)) if "2>&1" not in situation.shell else 0
            error = re.sub(r"nativemem: .*\n", "", error)  # a prompt may stand before it
        same = situation.same or (lambda text: text)
        shown[name] = [same(out).splitlines(), same(error).splitlines(), code]
    return shown["python"], shown["native"], summaries


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name.replace("\n", "; ")[:60])
def test_it_is_as_python(situation: Situation, tmp_path: Path) -> None:
    """CLI-5"""
    python, run, summaries = both(situation, tmp_path)
    assert run == python
    assert summaries == situation.summary


ON_PURE = (
    *("script", "zip file", "-m module of a package", "-c that raises", "- and standard input", "no such script"),
    *("-m package whose import fails", "a traceback", "sys.last_*", "an excepthook that raises", "Ctrl-C"),
    *("SIGTERM", "threads and exit functions that pickle", "multiprocessing by spawn", "fork", "children"),
    *("another file as descriptor 2", "names of threads and children", "a thread that goes on", "option -S"),
    *("ends by sys.exit(7)", "ends by raise MemoryError('of its own')", "standard output that nothing reads"),
)


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s.name in ON_PURE], ids=lambda s: s.name)
def test_it_is_as_python_on_the_pure_backend(situation: Situation, tmp_path: Path) -> None:
    """CLI-5"""
    python, run, summaries = both(situation, tmp_path, NATIVEMEM_BACKEND="pure")
    assert run == python
    assert summaries == situation.summary


#: each fills the limit in its last line; with the lines that its traceback has below the first
FULL = {
    "lists": ("kept = []\nwhile True: kept.append([0] * 1000)\n", [("<module>", 2)]),
    "buffers": ("kept = []\nwhile True: kept.append(bytes(300_000))\n", [("<module>", 2)]),
    "in functions": (
        "kept = []\ndef fill(n):\n    if n: fill(n - 1)\n    while True: kept.append(str(n) * 9)\nfill(2)\n",
        [("<module>", 5), ("fill", 3), ("fill", 3), ("fill", 4)],
    ),
    "in a long line": ("kept = []\nwhile True: kept.append({1: 2}) #" + 600_000 * "x" + "\n", [("<module>", 2)]),
}


def last_words(text: str, steps: list[tuple[str, int]], name: str, shows_lines: bool) -> list[str]:
    """The traceback of a program, but for the marks below its lines."""
    lines = ["Traceback (most recent call last):"]
    for function, number in steps:
        lines.append(f'  File "{name}", line {number}, in {function}')
        if shows_lines:
            lines.append(f"    {text.splitlines()[number - 1].strip()}")
    return [*lines, "MemoryError"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", ["4 MiB", "12 MiB"])
def test_the_last_traceback_under_a_limit(
    limit: str, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """CLI-5, ENG-9: what shows the error that has ended the program is not refused, however full the limit is. On
    3.13.0 a refusal there ended the process by a signal."""
    if backend == "native":
        request.getfixturevalue("needs_native")
    runs = []
    for name, (text, steps) in FULL.items():
        by_hand = ("-S", "program.py") if len(text) > 100_000 else ("-S", "-c", text)  # no word is that long
        for words in (("program.py",), by_hand):
            program = Situation(name, text, words)
            folder = tmp_path / f"{len(runs)}"
            prepare(program, folder)
            process = start(program, [*RUN, "--budget", limit], folder, NATIVEMEM_BACKEND=backend)
            runs.append((program, steps, process, folder))
    ended = [(program, steps, finish(program, process, folder)) for program, steps, process, folder in runs]
    for program, steps, (_, error, code) in ended:
        is_file = program.words[-1] == "program.py"
        expected = last_words(program.text, steps, "FOLDER/program.py" if is_file else "<string>", is_file)
        shown = [line for line in re.sub(r"nativemem: .*\n", "", error).splitlines() if line.strip(" ~^")]
        if not is_file:  # 3.14 shows a command's lines even so
            shown = [line for line in shown if not line.startswith("    ")]
        assert (shown, code) == (expected, 3), (program.name, program.words[:2])


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("limit", ["6 MiB", "12 MiB"])
def test_the_traceback_of_a_thread_under_a_limit(limit: str, tmp_path: Path) -> None:
    """CLI-5, ENG-9: a thread that the error has ended shows it, too, and the program goes on."""
    text = """
        import threading
        kept = []
        def work():
            while True: kept.append([0] * 100)
        made = threading.Thread(target=work, name="worker")
        made.start()
        made.join()
        print(len(kept) > 100)
        """
    program = Situation("a thread", textwrap.dedent(text))
    prepare(program, tmp_path / "of")
    process = start(program, [*RUN, "--budget", limit], tmp_path / "of")
    out, error, code = finish(program, process, tmp_path / "of")
    first, *_, last = [line for line in error.splitlines() if not line.startswith("nativemem: ")]
    assert (out, first, last, code) == ("True\n", "Exception in thread worker:", "MemoryError", 0), error


def test_there_are_enough_situations() -> None:
    assert len(SITUATIONS) >= 83
    assert len({situation.name for situation in SITUATIONS}) == len(SITUATIONS)
