"""The C core as a library: its headers, and what state it has beyond its structures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
HEADERS = sorted((CSRC / "include").rglob("*.h"))
SEE_PYTHON = {"binding", "engine"}
SOURCES = sorted(
    path for path in CSRC.rglob("*.c") if not SEE_PYTHON & set(path.parts) and path.stem != "memlib_system"
)

#: writable objects of the process: what each is there for
GLOBALS = {
    "nm__region": "the one range of addresses of the process",
    "nm__region_base": "the same, set once",
    "nm__region_reach": "how much of it was ever handed out",
    "nm__region_dirty": "how much of it is kept for reuse",
    "nm__region_pages": "the same, set once",
    "nm__region_os_page": "the size of the system's page, set once",
    "nm__pages": "the table of pages, set once",
    "nm__region_grain": "how many of its pages are one of the system's, set once",
    "nm__superblocks": "the table of superblocks, set once",
    "nm__superblock_bias": "the same, set once",
    "decay_watcher": "the thread that gives memory back in an idle process",
    "nm__heaps": "every heap, for fork and the end of a thread",
    "slabs": "every slab, for the same",
    "traceds": "every traced, for the same",
    "verifieds_lock": "over what verified wrappers know of blocks",
    "plains": "what is called by functions without a context",
    "memlib": "where memlib's memory comes from",
    "log_most": "what is logged",
    "log_sink": "and where to",
    "budgets": "one lock for the limits of all budgets, and those with something to tell",
    "events": "the last events, for telemetry",
    "nm__pressed": "whether there is such a one",
    "thread_exit_hooks": "what is done at the end of a thread",
    "thread_numbers": "of threads, never used again",
    "done": "guards of what is done once",
    "nm_empty_block": "what a block of no bytes points to",
    "nm__no_superblock": "stands for no superblock; never written",
    "nm__no_theap": "stands for no thread heap; never written",
    # of each thread
    "last_failure": "why its last call failed",
    "budget_refusal": "which budget refused its last charge",
    "nm__thread_number": "its number",
    "known_tallies": "what it has counted, by owner",
    "nm__acting_as": "whose confined allocators it may use",
    "nm__theaps": "its thread heaps",
    "theap_looked_up": "its thread heap of the heap without a slot that it used last",
    "theaps_shared": "how many thread heaps it has of heaps that take turns",
    "theap_turns": "its thread heaps of heaps that take turns",
    "thread_is_armed": "whether its end is told to those that want to know",
    "this_thread": "its place in the list of threads whose slots a heap empties when it goes",
}


def compiler(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"there is no {names[0]} to ask")


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.stem)
def test_each_public_header_compiles_alone(header: Path, tmp_path: Path) -> None:
    """PORT-4: a program that includes one needs no other first, in C11 and in C++17."""
    config = (CSRC / "nm_config.h.in").read_text().replace("@USE_NATIVE_MEM@", "1")
    (tmp_path / "nm_config.h").write_text(config)
    flags = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{CSRC / 'include'}", f"-I{tmp_path}"]
    # Python's are not ours to judge
    flags += ["-isystem", sysconfig.get_path("include"), "-include", str(header)]
    c, cxx = [compiler("gcc", "cc"), "-x", "c", "-std=c11"], [compiler("g++", "c++"), "-x", "c++", "-std=c++17"]
    for command in (c, cxx):
        done = subprocess.run([*command, *flags, "/dev/null"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_nothing_global_but_what_is_listed(tmp_path: Path) -> None:
    """PORT-3: structures take what they need when they are made."""
    gcc, nm = compiler("gcc", "cc"), compiler("nm")
    found = set()
    for source in SOURCES:
        # one symbol for each object, with a name: no optimisation that merges or drops them
        flags = ["-std=c11", "-O0", "-w", "-pthread", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
        made = tmp_path / f"{source.stem}.o"
        subprocess.run([gcc, *flags, "-c", str(source), "-o", str(made)], check=True)
        listed = subprocess.run([nm, str(made)], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            kind, name = line.split()[-2:]
            if kind in "bBdDC":
                found.add(re.sub(r"\.\d+$", "", name))
    # tables of methods hold addresses, which the loader fills in; they are constant from then on
    found = {name for name in found if not name.endswith("_methods")}
    assert found == set(GLOBALS)


def test_the_guide_to_a_new_allocator_names_the_files_that_make_one() -> None:
    """By the example of Failing: each file of the sources that has something for it, and how many lines."""
    page = (CSRC / "README.md").read_text(encoding="utf-8").partition("| file | lines |")[2]
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \|", page, re.MULTILINE)
    guide = {file.replace("<noun>", "failing"): int(lines) for file, lines in rows}
    in_c = r"nm_failing|NM__OWNED\(failing|failing\.h\""
    in_python = r"FailingCore|\"Failing\"|^ +Failing = |^    Failing,$|wrappers\.failing import"
    its = re.compile(f"{in_c}|{in_python}", re.MULTILINE)
    class_ = re.compile(r"^class (?:Failing|FailingCore)\(.*\n(?:(?:[ \t].*)?\n)*", re.MULTILINE)
    found = {}
    for path in (*CSRC.rglob("*.[ch]"), *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.h")):
        text = path.read_text(encoding="utf-8")
        if path.stem == "failing":
            found[path] = len(text.splitlines())
        elif classes := "".join(class_.findall(text)):
            found[path] = len(classes.strip().splitlines())
        elif lines := [line for line in text.splitlines() if its.search(line)]:
            found[path] = len(lines)
    there = {path.relative_to(ROOT).as_posix(): lines for path, lines in found.items()}
    assert there.keys() == guide.keys()
    assert all(abs(lines - there[file]) <= max(1, there[file] // 4) for file, lines in guide.items()), there
