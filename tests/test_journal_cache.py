"""examples/journal_cache: the clauses of its service."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nativemem
from nativemem.errors import DoubleFree, StaleBlock

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "journal_cache"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    names = ("fixture", "index", "paths", "plain")
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def edges(modules: dict[str, Any]) -> list[Any]:
    fixture = modules["fixture"]
    return list(fixture.Repository(fixture.verified()).edges())


def run(*arguments: str, backend: str = "auto") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        env={**os.environ, "NATIVEMEM_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_fixture_is_the_one_that_was_pinned(modules: dict[str, Any], tmp_path: Path) -> None:
    fixture = modules["fixture"]
    changed = tmp_path / "fixture.tar.gz"
    changed.write_bytes(fixture.FIXTURE.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="is pinned"):
        fixture.verified(changed)
    files = fixture.verified()
    blob = max((name for name in files if name.startswith("objects/")), key=lambda name: len(files[name]))
    repository = fixture.Repository(files)
    with pytest.raises(ValueError, match="no sound tree"):
        repository.read(blob.removeprefix("objects/").replace("/", ""), "tree")
    made = subprocess.run(
        [sys.executable, str(EXAMPLE / "make_fixture.py"), "--check"], capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize("backend", ["native", "pure"])
def test_a_rebuild_within_its_budget(backend: str, request: pytest.FixtureRequest) -> None:
    """The job: it prints the peak, the fixture's hash and the environment."""
    if backend == "native":
        request.getfixturevalue("needs_native")
    done = run(backend=backend)
    assert done.returncode == 0, done.stderr
    assert "fixture sha256=" in done.stdout and f"environment python={sys.version.split()[0]}" in done.stdout
    assert "alloc.op=cache.rebuild limit=268435456 used=0" in done.stdout and "warning" not in done.stdout


def test_a_rebuild_that_needs_more(needs_native: None) -> None:
    """It warns from 80 % on, and fails above the limit."""
    peak = int(run().stdout.partition("alloc.peak_bytes=")[2].split()[0])
    near = run("--limit", str(peak + peak // 10))
    assert near.returncode == 0 and "warning alloc.op=cache.rebuild warn: " in near.stdout
    over = run("--limit", str(peak // 2))
    assert over.returncode == 1 and "failed alloc.op=cache.rebuild" in over.stderr
    assert "budget 'cache.rebuild'" in over.stderr and "fixture sha256=" in over.stdout


def test_nothing_escapes(modules: dict[str, Any], edges: list[Any]) -> None:
    index, files = modules["index"], modules["paths"].FakePaths()
    heap = nativemem.Heap()
    rebuilt = index.rebuild(edges, heap, files)
    assert rebuilt.digest == modules["plain"].digest(edges) and rebuilt.edges == 6000
    assert dict(rebuilt.telemetry)["alloc.op"] == "cache.rebuild"
    assert rebuilt.saved_bytes > 5 * rebuilt.stored_bytes
    for value in dataclasses.astuple(rebuilt)[:-1]:
        assert type(value) in (int, str)
    gc.collect()
    assert heap.stats.current == heap.stats.live == 0 and files.files == {}
    heap.close()


def test_no_edges(modules: dict[str, Any]) -> None:
    with nativemem.Heap() as heap:
        rebuilt = modules["index"].rebuild([], heap, modules["paths"].FakePaths())
        assert (rebuilt.edges, rebuilt.paths, heap.stats.current) == (0, 0, 0)


def test_rebuilds_at_once_do_not_mix(modules: dict[str, Any], edges: list[Any]) -> None:
    index, files = modules["index"], modules["paths"].FakePaths()
    parts = [edges[n::4] for n in range(4)]
    budgets = [nativemem.Budget("16 MiB", f"rebuild {n}") for n in range(4)]

    def work(n: int) -> str:
        with nativemem.Limited(nativemem.Heap(), budgets[n]) as memory:
            return index.rebuild(parts[n], memory, files, f"{n}.bin").digest

    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(work, range(4)))
    assert digests == [modules["plain"].digest(part) for part in parts] and len(set(digests)) == 4
    assert [budget.used for budget in budgets] == [0] * 4 and all(budget.peak > 50_000 for budget in budgets)
    assert files.files == {}


def test_each_allocation_refused_once(modules: dict[str, Any], edges: list[Any]) -> None:
    """Whichever fails, everything goes back, and the next rebuild is right."""
    index, files = modules["index"], modules["paths"].FakePaths()
    few, failures = edges[:150], 0
    right = modules["plain"].digest(few)
    heap = nativemem.Heap()
    for n in range(1, 1000):
        failing = nativemem.Failing(heap, n)
        try:
            assert index.rebuild(few, failing, files).digest == right
        except nativemem.OutOfMemory:
            failures += 1
        done = not failing.failed
        failing.close()
        assert heap.stats.current == 0 and files.files == {}
        if done:
            break
    assert failures == n - 1 > 20


@pytest.mark.parametrize("kind", ["posix", "fake"])
def test_paths_are_canonical_and_owned(modules: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """One contract for both adapters."""
    paths = modules["paths"]
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    files = paths.FakePaths() if kind == "fake" else paths.PosixPaths(str(link))
    with nativemem.Heap() as heap:
        path, same = files.canonical(heap, "a name"), files.canonical(heap, "a name")
        assert path.text == same.text and os.path.isabs(path.text) and path is not same
        assert os.path.normpath(path.text) == path.text and "link" not in path.text
        with pytest.raises(FileNotFoundError):
            files.read(path)
        files.write(path, b"bytes")
        assert files.read(same) == b"bytes"
        files.remove(path)
        with pytest.raises(FileNotFoundError):
            files.remove(path)
        paths.free_path(path)
        with pytest.raises(DoubleFree):
            paths.free_path(path)
        with pytest.raises(StaleBlock):
            _ = path.text
        assert files.canonical(heap, "é" * 100).text.endswith("é")
        for name in ("", ".", "..", "a/b", "a\0b", "x" * 256):
            with pytest.raises(ValueError, match="not the name of a file"):
                files.canonical(heap, name)
        paths.free_path(same)
        gc.collect()
        assert heap.stats.current == 0


def test_telemetry_is_small(modules: dict[str, Any]) -> None:
    with nativemem.Slab() as slab:
        telemetry = modules["index"].Telemetry(slab)
        telemetry.put("key", "x" * 253)
        with pytest.raises(ValueError, match="257 bytes, 256 at most"):
            telemetry.put("key", "x" * 254)
        assert telemetry.all() == (("key", "x" * 253),)
        telemetry.close()
        assert slab.stats.live == 0


def test_the_table(modules: dict[str, Any], needs_native: None) -> None:
    done = run("--table", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    before, after = (line.split() for line in done.stdout.splitlines()[1:3])
    assert (before[0], after[0], after[3]) == ("before", "after", "0") and before[3] != "0"
