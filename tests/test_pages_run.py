"""The tutorial and the how-to pages: their programs run and print what the pages say (scripts/try_page.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from conftest import require_native
from loading import load

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
IN_C = ROOT / "docs" / "how-to" / "c_programs.md"


def runner() -> ModuleType:
    return load(ROOT / "scripts" / "try_page.py")


def tried(page: Path, folder: Path, **more: str) -> list[str]:
    wrong: list[str] = runner().Trial(folder, {**os.environ, **more}).run(page)
    return wrong


@pytest.mark.parametrize("page", [page for page in PAGES if page != IN_C], ids=lambda path: path.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    require_native()
    if page.stem == "extensions" and shutil.which("cc") is None:
        pytest.skip("builds an extension in C: wants a compiler")
    assert tried(page, tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("make", "cc", "pkg-config")),
    reason="builds the C library: wants make, cc and pkg-config",
)
def test_the_page_in_c_does_what_it_says(tmp_path: Path) -> None:
    tree, place = tmp_path / "tree", tmp_path / "place"
    place.mkdir()
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    shutil.copy(ROOT / "Makefile", tree)
    (tree / "src" / "nativemem").mkdir(parents=True)
    shutil.copy(ROOT / "src" / "nativemem" / "_version.py", tree / "src" / "nativemem")
    env = {name: value for name, value in os.environ.items() if name not in ("USE_NATIVE_MEM", "MAKEFLAGS")}
    subprocess.run(["make", "-s", "lib", "CFLAGS=-O0"], cwd=tree, env=env, check=True, timeout=300)
    assert tried(IN_C, place, PKG_CONFIG_PATH=str(tree / "build" / "c" / "1" / "lib" / "pkgconfig")) == []


def written(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("In `a.py`:\n\n```python\nprint(1)\n```\n```console\n$ python a.py\n1\n```\n", ""),
        (
            "In `a.py`:\n\n```python\nprint(1)\n```\n```console\n$ python a.py\n2\n```\n",
            "is to print\n2\nbut printed\n1",
        ),
        ("```console\n$ exit 3\n(exit code 3)\n```\n", ""),
        ("```console\n$ exit 3\n```\n", "(exit code 3)"),
        ("```console\n$ echo a; echo b >&2\na\nb\n$ true\n```\n", ""),
        ("```console\n$ sleep 60 &\n$ echo $PORT | grep -c '[0-9]'\n1\n```\n", ""),
        ("```sh\nexit 3\n```\n", ""),
        ("```ipython\nprint(1)\n```\n```text\n1\n```\n```ipython\nx = 1\n```\n", ""),
        ("```ipython\nprint(1)\n```\n```text\n2\n```\n", "but printed\n1"),
        ("```ipython\n1 / 0\n```\n```text\n...ZeroDivisionError...\n```\n", ""),
    ],
)
def test_what_a_page_says_is_compared(text: str, wrong: str, tmp_path: Path) -> None:
    found = tried(written(tmp_path, text), tmp_path)
    assert len(found) == bool(wrong)
    assert wrong in "".join(found)


def test_code_that_nothing_would_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="page.md:3: a block of python without a file's name"):
        tried(written(tmp_path, "Some code:\n\n```python\nprint(1)\n```\n"), tmp_path)
