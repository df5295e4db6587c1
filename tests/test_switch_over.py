"""scripts/switch_over.py, on a code base of one file: what differs after the switch is said."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import switch_over  # noqa: E402
from switch_over import Build, CodeBase  # noqa: E402

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, (switch_over.CC, "make", "nm"))), reason="builds C: wants make, nm and a compiler"
)

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    char **copies = calloc((size_t)argc, sizeof *copies);
    char *text = malloc(1);
    size_t length = 0;
    for (int i = 1; i < argc; i++) {
        copies[i] = strdup(argv[i]);
        text = realloc(text, length + strlen(copies[i]) + 1);
        memcpy(text + length, copies[i], strlen(copies[i]));
        length += strlen(copies[i]);
    }
    text[length] = '\0';
    puts(text);
    for (int i = 1; i < argc; i++) free(copies[i]);
    free(copies);
    free(text);
    /* here */
    return 0;
}
"""

#: what is put in place of the comment, and what is said of which side
FLIPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nothing": ("", ()),
    "a pointer to free": (
        "void (*volatile give)(void *) = free; (void)give;",
        ("USE_NATIVE_MEM=0: objects refer to free", "USE_NATIVE_MEM=1: objects refer to free"),
    ),
    "memory of libc's": (
        'FILE *f = fopen("main.c", "r"); char *line = NULL; size_t n; getline(&line, &n, f); free(line);',
        ("USE_NATIVE_MEM=1: memlib reported 2 errors",),
    ),
    "another outcome": (
        "#ifdef USE_NATIVE_MEM\nreturn 3;\n#endif",
        ("USE_NATIVE_MEM=1: words: ended with 3: ab\n; it was: passed",),
    ),
    "another word": (
        '#ifdef MEMLIB_H\nputs("!");\n#endif',
        ("USE_NATIVE_MEM=0: joined: ab\n!\n; it was: passed", "USE_NATIVE_MEM=1: joined: ab\n!\n; it was: passed"),
    ),
    "a call more": (
        "#ifdef USE_NATIVE_MEM\nfree(malloc(1));\n#endif",
        ("USE_NATIVE_MEM=1: calls: (8, 2, 4, 10); as it is: (6, 2, 4, 8)",),
    ),
}


def build_words(build: Build) -> None:
    switch_over.must(switch_over.CC, "-D_GNU_SOURCE", *build.flags, "-c", "main.c", cwd=build.tree)
    switch_over.must(switch_over.CC, "main.o", "-o", "words", *build.link, cwd=build.tree)


def run_words(build: Build) -> None:
    done = build.script("./words", "a", "b")
    build.outcomes["words"] = switch_over.ended(done)
    done = build.script("./words", "a", "b")
    build.outcomes["joined"] = "passed" if done.stdout == "ab\n" else done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("switch") / "tree"
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    (tree / "src" / "nativemem").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tree)
    shutil.copy(ROOT / "src" / "nativemem" / "_version.py", tree / "src" / "nativemem")
    for flag in (0, 1):
        switch_over.must("make", "-s", "lib", f"USE_NATIVE_MEM={flag}", f"CC={switch_over.CC}", cwd=tree)
    return tree / "build" / "c"


@pytest.mark.parametrize("flip", FLIPS)
def test_what_differs_is_said(
    flip: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line, expected = FLIPS[flip]
    monkeypatch.setattr(switch_over, "TOP", tmp_path / "built")
    monkeypatch.setattr(switch_over, "BUILT", built)
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.c").write_text(SOURCE.replace("/* here */", f"\n{line}\n"))
    base = CodeBase("words", "1", "main.c", build_words, run_words)
    assert tuple(switch_over.compare(base, source)) == expected
    rows = [row.split() for row in capsys.readouterr().out.splitlines() if "USE_NATIVE_MEM" in row]
    assert [row[1] for row in rows] == ["2", "2"]
    if flip == "nothing":
        assert [row[2:] for row in rows] == [["2", "6", "2", "4", "8", "0"]] * 2


def test_a_tree_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is none of jq, discount"):
        switch_over.given([tmp_path], list(switch_over.CODE_BASES))
