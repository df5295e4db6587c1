"""REP, CLI: ``nativemem report``, ``leaks`` and ``diff``."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import nativemem
from nativemem.commands import cli
from nativemem.observe.recording import Owner
from nativemem.observe.report import Comparison, Report
from nativemem.observe.report import changes as written

from .recordings import HOSTILE, LOAD, MAIN, MIB, example, hostile, path, sampled, write

USAGE, LEAKED, GREW = 2, 4, 5


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*words: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
        out, err = capfd.readouterr()
        return int(code or 0), out, err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "run.nm", example())


def test_report(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-2"""
    code, out, err = run("report", file)
    assert code == 0 and err == "" and "Largest sites at the peak" in out and str(file) in out
    code, out, err = run("report", file, "--format", "json", "--owner", "cache", "--by", "live", "--top", "1")
    found = json.loads(out)
    assert code == 0 and found["owner"] == "cache" and len(found["sites"]) == 1


def test_so_many_rows(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-2, CLI-3: each command shows as many as --top says, the largest, and in words how many more there are."""
    for command, key, usual in (
        (("report", file), "sites", 3),
        (("leaks", file, "--at-least", "1"), "leaks", 3),
        (("diff", write(file.with_name("a.nm"), example(sites=())), file, "--at-least", "1"), "sites", 3),
    ):
        shown = json.loads(run(*command, "--format", "json")[1])[key]
        assert len(shown) >= usual
        for top in (1, 2):
            assert json.loads(run(*command, "--format", "json", "--top", str(top))[1])[key] == shown[:top]
            assert f"and {len(shown) - top} more" in run(*command, "--top", str(top))[1]
        assert "\nand " not in run(*command, "--top", str(len(shown)))[1]


@pytest.mark.parametrize(
    ("name", "begins"),
    [("x.txt", "python main.py"), ("x.json", "{"), ("x.csv", "owner,"), ("x.MD", "## "), ("x.prom", "# HELP")],
)
def test_the_name_of_the_output_says_the_format(run, file: Path, name: str, begins: str) -> None:  # type: ignore[no-untyped-def]
    """CLI-2"""
    code, out, err = run("report", file, "-o", file.parent / name)
    assert (code, out, err) == (0, "", "")
    assert (file.parent / name).read_text().startswith(begins)


def test_to_standard_output(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-2"""
    assert run("report", file, "-o", "-", "--format", "csv")[1].startswith("owner,")
    assert run("report", file, "-o", "-")[1] == run("report", file)[1]


@pytest.mark.parametrize("command", [("report",), ("leaks",), ("diff", "good.nm")])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "other", "damaged", "a\nb"])
def test_bad_files_are_one_line(run, file: Path, command: tuple[str, ...], kind: str) -> None:  # type: ignore[no-untyped-def]
    """CLI-3"""
    words = [file if word == "good.nm" else word for word in command]
    bad = file.parent / f"{kind}.nm"
    if kind == "folder":
        bad.mkdir()
    elif kind != "missing":
        content = {"empty": b"", "other": b"#!/bin/sh\n" * 1000, "damaged": file.read_bytes()[:5000]}
        bad.write_bytes(content.get(kind, b"x"))
    code, out, err = run(*words, bad)
    assert code == USAGE and out == "" and err.count("\n") == 1, err
    assert err.startswith(f"nativemem {command[0]}: ") and kind.replace("\n", "\\x0a") in err


def test_mistakes_are_one_line(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-3"""
    for words, says in {
        ("report",): "FILE",
        ("report", file, "--format", "pdf"): "invalid choice: 'pdf'",
        (
            "report",
            file,
            "--owner",
            "nobody\n",
        ): "no owner 'nobody\\n' in the recording; it has process, cache, request",
        ("report", file, "-o", "x.pdf"): "-o: the name says no format (.txt, .html, .json, ",
        ("report", file, "--top", "few"): "argument --top: it takes ",
        ("leaks", file, "--at-least", "much"): "argument --at-least: it takes ",
        ("leaks", file, "--owner", "nobody"): "no owner 'nobody'",
        ("diff", file): "B",
        ("diff", file, file, "-o", "x.csv"): "-o: the name says none of the formats (text, json, markdown",
    }.items():
        code, out, err = run(*words)
        assert code == USAGE and out == "" and err.count("\n") == 1, (words, err)
        assert says in err, err


@pytest.mark.parametrize("command", ["report", "leaks", "diff"])
def test_help_has_examples_and_exit_codes(run, command: str) -> None:  # type: ignore[no-untyped-def]
    """CLI-4"""
    code, out, err = run(command, "--help")
    assert code == 0 and err == "" and "examples:" in out and "exit code:" in out


def test_output_that_cannot_be_written(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-3"""
    for words in (("report", file), ("diff", file, file)):
        code, out, err = run(*words, "-o", file.parent / "none" / "x.json")
        assert code == 1 and out == "" and err.endswith("none/x.json: No such file or directory\n")
    full = [sys.executable, "-m", "nativemem"]
    for words in (("report", file), ("leaks", file), ("diff", file, file)):
        with open("/dev/full", "w") as device:
            done = subprocess.run([*full, *words], stdout=device, stderr=subprocess.PIPE, text=True)
        name = f"nativemem {words[0]}: standard output: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, name)


def test_a_reader_that_goes_away(file: Path) -> None:
    """CLI-3: as in ``| head``."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "nativemem", "report", file], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_leaks(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    """CLI-3"""
    code, out, err = run("leaks", file)
    assert code == LEAKED and err == ""
    assert f"{file}: 23.0 MiB live at the end; 3 lines have 1.0 MiB or more" in out
    assert "json/decoder.py:353 in JSONDecoder.raw_decode" in out and "(no Python code)" not in out
    assert run("leaks", file, "--at-least", "20MiB")[0] == LEAKED
    code, out, err = run("leaks", file, "--at-least", "20971521")
    assert code == 0 and "0 lines have" in out
    assert run("leaks", file, "--owner", "request", "--at-least", "2MiB")[0] == 0
    found = json.loads(run("leaks", file, "--format", "json", "--at-least", "1", "--top", "2")[1])
    assert [row["amount"]["live"] for row in found["leaks"]] == [20 * MIB, 2 * MIB]
    assert "### Live at the end" in run("leaks", file, "--format", "markdown")[1]


def grown() -> tuple[Report, Report]:
    """What moved by two lines, what is new, what grew, what shrank; an owner that grew, one that came."""
    one = path(MAIN, LOAD)
    a = example(
        sites=(
            sampled(one, "process", 4 * MIB, 4 * MIB, 4 * MIB, 1024),
            sampled(path(MAIN), "cache", 8 * MIB, 8 * MIB, 8 * MIB, 1024),
            sampled(path(MAIN, ("/srv/app/x.py", 3, "gone")), "cache", 2 * MIB, 2 * MIB, 2 * MIB, 1024),
        ),
        owners=(Owner("process", None, 20 * MIB, 20 * MIB, 0), Owner("cache", None, 10 * MIB, 12 * MIB, 0)),
    )
    moved = path(MAIN, (LOAD[0], LOAD[1] + 2, LOAD[2]))
    b = example(
        sites=(
            sampled(moved, "process", 9 * MIB, 9 * MIB, 9 * MIB, 1024),
            sampled(path(MAIN), "cache", 7 * MIB, 8 * MIB, 30 * MIB, 1024),
            sampled(path(MAIN, ("/srv/app/x.py", 9, "new")), "extra", 3 * MIB, 3 * MIB, 3 * MIB, 1024),
        ),
        owners=(
            Owner("process", None, 26 * MIB, 30 * MIB, 0),
            Owner("cache", None, 8 * MIB, 12 * MIB, 0),
            Owner("extra", None, 3 * MIB, 3 * MIB, 0),
        ),
    )
    return Report(a, where="a.nm"), Report(b, where="b.nm")


def test_what_grew() -> None:
    """REP-6"""
    found = Comparison(*grown())
    assert [(each.owner, each.grew) for each in found.grown_owners(1)] == [("process", 6 * MIB), ("extra", 3 * MIB)]
    first, second = found.grown_sites(1)
    assert (first.place.line, first.was and first.was.line, first.grew, first.blocks) == (14, 12, 5 * MIB, 5 * 1024)
    assert (second.place.function, second.owner, second.before, second.grew) == ("new", "extra", 0, 3 * MIB)
    assert [each.grew for each in found.sites] == [5 * MIB, 3 * MIB, -MIB, -2 * MIB]
    assert [each.grew for each in found.grown_sites(3 * MIB + 1)] == [5 * MIB]
    by_peak, by_total = (Comparison(*grown(), measure=measure) for measure in ("peak", "total"))
    assert [(each.owner, each.grew) for each in by_peak.grown_owners(1)] == [
        ("process", 10 * MIB),
        ("extra", 3 * MIB),
    ]
    assert by_total.sites[0].owner == "cache" and by_total.sites[0].grew == 22 * MIB
    with pytest.raises(nativemem.errors.ConfigError, match="measures are"):
        Comparison(*grown(), measure="most")


def test_chance_is_no_growth() -> None:
    """REP-6: of 4 and 9 MiB at one sample in 512 KiB three deviations are 7.6 MiB."""
    a, b = grown()
    rough, fine = (
        Comparison(*(Report(replace(each.recording, rate=rate)) for each in (a, b))) for rate in (1 << 19, 1 << 15)
    )
    assert rough.grown_sites(1) == [] and len(rough.grown_owners(1)) == 2
    assert [each.grew for each in fine.grown_sites(1)] == [5 * MIB, 3 * MIB]
    assert 7.5 * MIB < rough.sites[0].doubt < 7.8 * MIB


def test_diff(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """REP-6, CLI-3"""
    a, b = (write(tmp_path / report.where, report.recording) for report in grown())
    code, out, err = run("diff", a, b)
    assert code == GREW and err == "" and "2 owners and 2 lines grew by 1.0 MiB or more" in out
    assert "+5.0 MiB" in out and "load.py:14 in load (was line 12)" in out and "gone" not in out
    assert run("diff", a, a)[0] == run("diff", b, a, "--at-least", "3MiB")[0] == 0
    assert (
        run("diff", a, b, "--at-least", "6291456")[0] == GREW and run("diff", a, b, "--at-least", "6291457")[0] == 0
    )
    assert "gone" in run("diff", a, b, "--all")[1]
    found = json.loads(run("diff", a, b, "--format", "json")[1])
    assert found["grew"] is True and found["sites"][0]["was_line"] == 12 and len(found["owners"]) == 2
    for name in ("d.txt", "d.json", "d.md", "d.html"):
        assert run("diff", a, b, "-o", tmp_path / name)[:2] == (GREW, "")
        assert "load" in (tmp_path / name).read_text()


@pytest.mark.parametrize("form", written.FORMATS)
def test_hostile_names_in_a_comparison(form: str) -> None:
    """REP-5"""
    empty = replace(hostile(), sites=(), owners=(Owner("process", None, 0, 0, 0),))
    made = written.FORMATS[form](Comparison(Report(empty), Report(hostile())), at_least=1, top=20, every=False)
    if form == "json":
        assert {each["owner"] for each in json.loads(made)["sites"]} == set(HOSTILE)
    if form == "markdown":
        assert "<" not in made and "@all" not in made
    if form == "html":
        assert "<script" not in made and "<img" not in made and "script-src 'none'" in html.unescape(made)
        assert (
            made.count("<caption") == made.count("<table") == 2
            and made.count('scope="row"') == 2 * len(HOSTILE) + 1
        )
    assert "\x1b" not in made and "\u202e" not in made


def test_snapshots_are_taken_as_recordings(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """REP-6: of one process at two times, on either backend; and one of each kind."""
    from nativemem.observe.snapshot import snapshot

    budget = nativemem.Budget("64 MiB", name="held")
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    snapshot().save(files[0])
    with budget.reserve(3 * MIB):
        snapshot().save(files[1])
    code, out, _ = run("diff", *files, "--format", "json", "--at-least", "3MiB")
    found = {each["owner"]: each["grew"] for each in json.loads(out)["owners"]}
    assert code == GREW and found["held"] == 3 * MIB
    assert run("report", files[1])[0] == 0 and "held" in run("report", files[1])[1]
    recording = write(tmp_path / "run.nm", example())
    assert json.loads(run("diff", files[0], recording, "--format", "json")[1])["sites"][0]["before"] == 0
    for content in (b"{", b'{"snapshot": 99}', b'{"\xff', b"{" + b'"a":{' * 100_000):
        files[0].write_bytes(content)
        code, out, err = run("diff", *files)
        assert code == USAGE and out == "" and err.count("\n") == 1, err


LEAKY = """\
import os, signal, sys, time
import nativemem
nativemem.install()
from nativemem.observe.profile import Profile
tenant = nativemem.Budget("512 MiB", name="tenant")
kept = []
def handle(request):
    answer = [bytes(1000) for _ in range(10)]
    kept.append(bytearray(1024))
    return len(answer)
def some(count):
    with tenant:
        for request in range(count): handle(request)
async def task(count):
    with tenant:
        for request in range(count):
            handle(request)
            if request % 100 == 0: await asyncio.sleep(0)
async def tasks(count): await asyncio.gather(*(task(count // 10) for _ in range(10)))
profile = Profile(sys.argv[1]).start()
way, count = sys.argv[2], int(sys.argv[3])
if way == "plain": some(count)
elif way == "tasks": import asyncio; asyncio.run(tasks(count))
else:
    import threading
    threads = [threading.Thread(target=some, args=(count // 10,)) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
end = time.monotonic() + 0.02
while time.monotonic() < end: pass
for _ in range(4): bytes(4 << 20)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")
@pytest.mark.parametrize("way", ["plain", "tasks", "threads"])
def test_a_planted_leak_of_a_kib_a_request(run, way: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """REP-3, REP-6: at the usual rate, of processes that were killed. 40 MiB are 80 samples; that fewer than 20 are
    taken has a chance of 1e-15. What an owner has is noted with a sample each 10 ms: the program takes some once
    more after that time."""
    program = tmp_path / "leaky.py"
    program.write_text(LEAKY)
    files = [tmp_path / "few.nm", tmp_path / "many.nm"]
    for file, requests in zip(files, (100, 40_000), strict=True):
        assert subprocess.run([sys.executable, program, file, way, str(requests)]).returncode == -9
    code, out, err = run("diff", *files, "--format", "json")
    found = json.loads(out)
    assert code == GREW and err == ""
    assert found["sites"][0]["file"] == str(program) and found["sites"][0]["owner"] == "tenant"
    assert found["sites"][0]["line"] == 9 and "kept.append" in LEAKY.splitlines()[8]
    assert len(found["sites"]) == 1, "the answers are freed"
    assert {each["owner"]: each["grew"] for each in found["owners"]}["tenant"] > 40 * MIB
    code, out, err = run("leaks", files[1], "--at-least", "10MiB")
    assert code == LEAKED and "leaky.py:9 in handle" in out and "1 line has" in out
    assert "it has no end" in run("report", files[1])[1]
