"""CLI-1, PROF-1: a program is started with a profile, by ``nativemem run --profile`` or by the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nativemem
from nativemem.observe.recording import Recording, read

native = pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")
PROGRAM = "import sys\ndef make(): return [bytes(1000) for _ in range(5000)]\nkept = make()\nsys.exit(7)\n"


def python(
    *words: str, cwd: Path, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, **(env or {})}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, env=full, timeout=300)


def run(*words: str, cwd: Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "nativemem", "run", *words, cwd=cwd, stdin=stdin, env=env)


def made(recording: Recording, function: str = "make") -> int:
    return sum(s.live for s in recording.sites if any(function == at.function for at in s.path))


@native
@pytest.mark.parametrize(
    "words",
    [["program.py"], ["-m", "program"], ["-c", PROGRAM], ["-"], ["-S", "program.py"]],
    ids=lambda w: w[0][:2],
)
def test_each_form_of_run(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run("--profile=4KiB", *words, cwd=tmp_path, stdin=PROGRAM)
    assert (done.returncode, done.stdout) == (7, ""), done.stderr
    (file,) = tmp_path.glob("nativemem-*.nm")
    recording = read(file)
    assert file.name == f"nativemem-{recording.pid}.nm" and recording.rate == 4096
    assert recording.lasted is not None and made(recording) > 4_000_000
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"nativemem: profile {file.name}, {recording.samples:,} samples; nativemem report {file.name} shows it"
    )


@native
def test_the_files_and_what_is_said_of_them(tmp_path: Path) -> None:
    words = ["--profile=1", "-o", "the run; %p.nm", "--summary", "numbers.json", "-c", PROGRAM]
    done = run(*words, cwd=tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    file = tmp_path / f"the run; {numbers['pid']}.nm"
    assert (numbers["profile"], numbers["exit_code"], done.returncode) == (str(file), 7, 7)
    assert f"nativemem report '{file}' shows it" in done.stderr
    assert made(read(file)) >= 5000 * sys.getsizeof(bytes(1000))
    # where there is no profile -o is the summary's
    run("-o", "other.json", "-c", PROGRAM, cwd=tmp_path)
    assert "profile" not in json.loads((tmp_path / "other.json").read_text())


@native
def test_children_have_none(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'pass'], check=True)\n"
        "pid = os.fork()\n"
        "def of_child(): return [bytes(1000) for _ in range(5000)]\n"
        "if pid == 0:\n    kept = of_child()\n    sys.exit(0)\n"
        "os.wait()\n"
    )
    done = run("--profile=1", "-W", "ignore", "-c", program, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("nativemem report")) == (0, 1), done.stderr
    (file,) = tmp_path.glob("*.nm")
    assert made(read(file), "of_child") == 0


@native
def test_of_the_environment(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import nativemem.auto'], check=True)\n"
    program = "import nativemem.auto\n" + child + PROGRAM
    (tmp_path / "folder").mkdir()
    for name, files in (("one.nm", 1), ("each-%p.nm", 2), ("folder", 2)):
        env = {"NATIVEMEM_PROFILE": name, "NATIVEMEM_PROFILE_RATE": "4 KiB"}
        done = python("-W", "error", "-c", program, cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (7, "")
        found = [*tmp_path.rglob("*.nm")]
        assert len(found) == files, (name, found)
        recordings = [read(file) for file in found]
        assert all(r.rate == 4096 and r.lasted is not None for r in recordings)
        assert sorted(made(r) > 4_000_000 for r in recordings) == [False, True][-files:]
        for file in found:
            file.unlink()
    # `run` has it, too
    done = run("-c", PROGRAM, cwd=tmp_path, NATIVEMEM_PROFILE="of_run.nm")
    assert "nativemem report of_run.nm shows it" in done.stderr


@native
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("no/such.nm", "pipe"):  # a pipe, as a device, is not replaced by a file
        done = run("--profile", "-o", name, "-c", "print(1)", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("nativemem run: profile: ") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()
    env = {"NATIVEMEM_PROFILE": "no/such.nm"}
    done = python("-c", "import nativemem.auto; print(bool(nativemem.installed()))", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert (
        "RuntimeWarning: nativemem.auto: there is no profile: profile: 'no/such.nm' cannot be written"
        in done.stderr
    )


@native
def test_a_program_that_stops_it_or_is_killed(tmp_path: Path) -> None:
    stops = PROGRAM.replace("sys.exit(7)", "from nativemem.engine.profiling import stop; stop()")
    done = run("--profile=4KiB", "-o", "a.nm", "-c", stops, cwd=tmp_path)
    assert done.returncode == 0 and "nativemem report" in done.stderr
    assert made(read(tmp_path / "a.nm")) > 4_000_000
    killed = PROGRAM.replace("sys.exit(7)", "import os; os._exit(4)")
    assert run("--profile=4KiB", "-o", "c.nm", "-c", killed, cwd=tmp_path).returncode == 4
    assert read(tmp_path / "c.nm").lasted is None and made(read(tmp_path / "c.nm")) > 4_000_000


def test_the_pure_backend_says_that_there_is_none(tmp_path: Path) -> None:
    done = run("--profile", "-c", PROGRAM, cwd=tmp_path, NATIVEMEM_BACKEND="pure")
    assert done.returncode == 7 and "there is no profile, which is of the engine" in done.stderr
    assert not [*tmp_path.iterdir()]
