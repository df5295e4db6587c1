"""memlib in C: REQ-MEM-001 to 007, each as a check of a source tree, and what breaks it.

A check builds what it needs of a copy of the sources and returns what is wrong. The sound tree has nothing wrong; each
flip, planted in a copy, has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path("tests/memlib")
SIX = ("HMalloc", "HCalloc", "HRealloc", "HFree", "mem_init", "mem_uninit")
NATIVE = tuple(f"nm_{name.lower()}" for name in SIX)
GUARD = "memlib_system.c should not be compiled when USE_NATIVE_MEM is enabled"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")
Words = tuple[str, ...]
COMPILERS = [name for name in ("gcc", "clang", "clang-19") if shutil.which(name)][:2]

pytestmark = pytest.mark.skipif(
    not (COMPILERS and shutil.which("make") and shutil.which("nm")),
    reason="builds C: wants make, nm and a compiler",
)


def copy(target: Path) -> Path:
    """What the C library is built of, and its programs."""
    for part in ("csrc", PROGRAMS):
        shutil.copytree(ROOT / part, target / part)
    (target / "src" / "nativemem").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", target)
    shutil.copy(ROOT / "src" / "nativemem" / "_version.py", target / "src" / "nativemem")
    return target


def run(tree: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("USE_NATIVE_MEM", "MAKEFLAGS", "CC")}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=300)


def build(tree: Path, flag: int) -> str:
    """The library; what make said where it failed."""
    done = run(tree, "make", "-s", "lib", f"USE_NATIVE_MEM={flag}", f"CC={COMPILERS[0]}", "CFLAGS=-O0")
    return done.stdout + done.stderr if done.returncode else ""


def program(tree: Path, flag: int, source: str, compiler: str, static: bool = False, more: Words = ()) -> Path:
    """Compiled as a stranger would: against the headers and the library that were built."""
    built = tree / "build" / "c" / str(flag)
    made = tree / "build" / f"{source}-{flag}-{compiler}-{static}"
    shared = (f"-L{built / 'lib'}", "-lnativemem", f"-Wl,-rpath,{built / 'lib'}")
    link = (built / "lib" / "libnativemem.a",) if static else shared
    source_file = PROGRAMS / f"{source}.c"
    done = run(
        tree, compiler, *STRICT, *more, f"-I{built / 'include'}", source_file, "-o", made, *link, "-pthread", "-ldl"
    )
    assert done.returncode == 0, done.stderr
    return made


Check = Callable[[Path], Iterator[str]]


def redirect(tree: Path) -> Iterator[str]:
    """REQ-MEM-001: six function-like macros with the flag, six externs without; no code takes an address."""
    include = tree / "csrc" / "include"
    for flag in (0, 1):
        run(tree, "make", "-s", f"build/config/{flag}/nm_config.h")
        flags = (f"-I{include}", f"-I{tree / 'build' / 'config' / str(flag)}", "-x", "c", include / "memlib.h")
        defined = run(tree, COMPILERS[0], "-E", "-dM", *flags).stdout
        macros = dict(re.findall(r"^#define (\w+)\([\w, ]*\) (\w+)\(", defined, re.MULTILINE))
        code = run(tree, COMPILERS[0], "-E", "-P", *flags).stdout
        declared = set(re.findall(r"extern (?:void \*|void |bool |_Bool )(\w+)\(", code))
        for name, native in zip(SIX, NATIVE, strict=True):
            if flag and macros.get(name) != native:
                yield f"{name} leads to {macros.get(name)}"
            if name in re.findall(r"^#define (\w+) ", defined, re.MULTILINE):
                yield f"{name} is no function-like macro"
            if (native if flag else name) not in declared:
                yield f"{native if flag else name} is not declared with USE_NATIVE_MEM={flag}"
            if not flag and name in macros:
                yield f"{name} is a macro without the flag"
    text = (tree / PROGRAMS / "program.c").read_text()
    for name in SIX:
        if re.search(rf"\b{name}\b(?!\s*\()", text):
            yield f"program.c takes the address of {name}"
        if f"{name}(" not in text:
            yield f"program.c does not call {name}"


def guard(tree: Path) -> Iterator[str]:
    """REQ-MEM-002: the legacy source refuses to be compiled, whichever way the flag came."""
    for flag in (0, 1):
        run(tree, "make", "-s", f"build/config/{flag}/nm_config.h")
    routes = {"-D": (0, ("-DUSE_NATIVE_MEM",)), "-D=1": (0, ("-DUSE_NATIVE_MEM=1",)), "nm_config.h": (1, ())}
    for route, (flag, more) in routes.items():
        done = run(
            tree, COMPILERS[0], *STRICT, *more, "-Icsrc/include", "-Icsrc", f"-Ibuild/config/{flag}", "-fsyntax-only",
            "csrc/use/memlib_system.c",
        )  # fmt: skip
        if done.returncode == 0:
            yield f"compiles with the flag by {route}"
        elif f'#error "{GUARD}"' not in done.stderr:
            yield f"does not say why with the flag by {route}"


def one_build(tree: Path) -> Iterator[str]:
    """REQ-MEM-003: exactly the right six in each library, none of the other six."""
    for flag, ours, others in ((1, NATIVE, SIX), (0, SIX, NATIVE)):
        if said := build(tree, flag):
            yield said
            continue
        for library, option in (("libnativemem.a", "-g"), ("libnativemem.so", "-D")):
            listed = run(tree, "nm", option, "--defined-only", f"build/c/{flag}/lib/{library}").stdout
            found = set(re.findall(r" T (\w+)$", listed, re.MULTILINE))
            yield from (f"{name} is not in {library}, USE_NATIVE_MEM={flag}" for name in ours if name not in found)
            yield from (f"{name} is in {library}, USE_NATIVE_MEM={flag}" for name in others if name in found)
            strangers = {name for name in found if not name.startswith(("nm_", "_")) and name not in ours}
            yield from (f"{name} is in {library}" for name in strangers)


def one_place(tree: Path) -> Iterator[str]:
    """REQ-MEM-004: one file defines the flag; -D beside it warns of nothing; 1 and 0 count, and nothing else."""
    for path in sorted((tree / "csrc").rglob("*.*")):
        lines = re.findall(r"#\s*define\s+USE_NATIVE_MEM\b", path.read_text())
        if len(lines) != (path.name == "nm_config.h.in"):
            yield f"{path.name} defines it {len(lines)} times"
    (tree / "uses.c").write_text(
        '#include "memlib.h"\n#include "nm_config.h"\n#ifdef USE_NATIVE_MEM\nint native;\n#endif\nint built = NM_BUILT_NATIVE;\n'
    )
    for flag in (0, 1):
        run(tree, "make", "-s", f"build/config/{flag}/nm_config.h")
        for given, native in {
            None: flag, "": 1, "=": 1, "=1": 1, "=0": 0, "=2": None, "=yes": None, "=-1": None,
        }.items():  # fmt: skip
            more = () if given is None else (f"-DUSE_NATIVE_MEM{given}",)
            words = (*STRICT, "-Icsrc/include", f"-Ibuild/config/{flag}", *more, "uses.c")
            done = run(tree, COMPILERS[0], "-E", "-P", *words)
            if native is None and given != "=yes" and done.returncode == 0:
                yield f"takes -DUSE_NATIVE_MEM{given}"
            if native is None:
                continue
            if done.returncode or done.stderr:
                yield f"-DUSE_NATIVE_MEM{given} beside {flag}: {done.stderr}"
            elif ("int native;" in done.stdout) != bool(native):
                yield f"-DUSE_NATIVE_MEM{given} beside {flag}: native is {'int native;' in done.stdout}"
            elif f"int built = {flag};" not in done.stdout:
                yield f"nm_config.h does not say that it was built with {flag}"
    for value in ("auto", "yes", "2", ""):
        done = run(tree, "make", "-s", "lib", f"USE_NATIVE_MEM={value}")
        if done.returncode == 0 or "takes 1 (the native core) or 0" not in done.stdout:
            yield f"make lib takes USE_NATIVE_MEM={value}"


def out_of_memory(tree: Path) -> Iterator[str]:
    """REQ-MEM-005: the name that was called, the level, an abort, and nothing asked for on the way."""
    for flag in (0, 1):
        if said := build(tree, flag):
            yield said
            continue
        made = program(tree, flag, "out_of_memory", COMPILERS[0])
        hows = ["", "sink", "nothing", "huge"] + (["empty"] if flag else [])
        for call in ("HMalloc", "HCalloc", "HRealloc", "HRealloc-new"):
            for how in hows:
                done = run(tree, made, f"{call}-{how}")
                message = f"{call.split('-')[0]}() FATAL: out of memory."
                # of the system's malloc the one call that failed; of the failing wrapper none gets through to it
                asked = f"asked {0 if flag or how == 'huge' else 1}\n"
                words = {"sink": (f"level 1: {message}", asked), "nothing": ("", asked)}
                expected = words.get(how, ("", f"{message}\n{asked}"))
                if (done.stdout, done.stderr) != expected or done.returncode != -6:
                    yield f"{flag} {call} {how}: {done.returncode} {done.stdout!r} {done.stderr!r}"


def equivalence(tree: Path) -> Iterator[str]:
    """REQ-MEM-006 and 007: one program on both paths, by each compiler, with a library of either kind."""
    for flag, path in ((0, "system"), (1, "native")):
        if said := build(tree, flag):
            yield said
            continue
        for compiler in COMPILERS:
            for static in (False, True):
                try:
                    made = program(tree, flag, "program", compiler, static)
                except AssertionError as error:
                    yield str(error)
                    continue
                done = run(tree, made, "some", "words")
                if (done.returncode, done.stdout, done.stderr) != (0, f"{path}: 0 failures\n", ""):
                    yield f"{path}, {compiler}, static {static}: {done.returncode} {done.stdout}{done.stderr}"


#: calls that memlib has no answer for
REFUSED = {
    "aligned_alloc": "(void)aligned_alloc(64, 64)",
    "memalign": "(void)memalign(64, 64)",
    "posix_memalign": "void *p; (void)posix_memalign(&p, 64, 64)",
    "valloc": "(void)valloc(64)",
    "pvalloc": "(void)pvalloc(64)",
    "malloc_usable_size": "(void)malloc_usable_size(0)",
}


def by_the_header_alone(tree: Path) -> Iterator[str]:
    """memlib_redirect.h in front of a file that calls malloc; as it is, that file does the same."""
    before = ("-D_GNU_SOURCE", "-include", "memlib_redirect.h")
    # gcc takes a comparison with a quotient for one with a product, and does not divide
    divided = ("-fsanitize=integer-divide-by-zero", "-fsanitize-undefined-trap-on-error")
    as_it_is = tree / "build" / "as-it-is"
    (tree / "build").mkdir(exist_ok=True)
    plain = run(tree, COMPILERS[0], *STRICT, "-D_GNU_SOURCE", PROGRAMS / "redirect.c", "-o", as_it_is)
    if plain.returncode == 0:
        plain = run(tree, as_it_is)
    if (plain.returncode, plain.stdout, plain.stderr) != (0, "0 failures\n", ""):
        yield f"as it is: {plain.returncode} {plain.stdout}{plain.stderr}"
    for flag, foreign in ((0, ""), (1, "HFree() ERROR: not a block.\n")):
        if said := build(tree, flag):
            yield said
            continue
        for compiler in COMPILERS:
            try:
                made = program(tree, flag, "redirect", compiler, more=(*before, *divided))
            except AssertionError as error:
                yield str(error)
                continue
            done = run(tree, made)
            if (done.returncode, done.stdout, done.stderr) != (0, "0 failures\n", foreign):
                yield f"{flag}, {compiler}: {done.returncode} {done.stdout}{done.stderr}"
            for how, name in (("overflow", "HCalloc"), ("array", "HRealloc")):
                done = run(tree, made, how)
                if (done.returncode, done.stdout, done.stderr) != (-6, "", f"{name}() FATAL: out of memory.\n"):
                    yield f"{flag}, {compiler}, {how}: {done.returncode} {done.stdout}{done.stderr}"
    calls = "".join(f"void {name}_(void);\nvoid {name}_(void) {{ {call}; }}\n" for name, call in REFUSED.items())
    (tree / "build" / "refused.h").write_text(calls)
    for language in ("c", "c++") if shutil.which("g++") else ("c",):
        words = (COMPILERS[0], "-w", "-D_GNU_SOURCE", "-x", language, "-fsyntax-only", "build/refused.h")
        done = run(tree, *words, "-include", "malloc.h", "-include", "stdlib.h")
        if done.returncode:
            yield f"does not compile as it is: {done.stderr}"
        said = run(tree, *words, f"-I{tree / 'build/c/1/include'}", *before).stderr
        yield from (f"{name} is taken, in {language}" for name in REFUSED if f"has_no_{name}" not in said)


CHECKS: tuple[Check, ...] = (
    redirect, guard, one_build, one_place, out_of_memory, equivalence, by_the_header_alone,
)  # fmt: skip
MEMLIB, SYSTEM, PLAIN = "csrc/use/memlib.c", "csrc/use/memlib_system.c", "csrc/use/plain.c"
HEADER_ALONE = "csrc/include/memlib_redirect.h"
REDIRECT, CONFIG, LOG = "csrc/include/memlib.h", "csrc/nm_config.h.in", "csrc/base/log.c"
GUARDED = f'#ifdef USE_NATIVE_MEM\n#error "{GUARD}"\n#endif\n'

#: what breaks a requirement: the check, the file, what stands there, and what is put in its place
FLIPS: dict[str, tuple[Check, str, str, str]] = {
    "macro leads elsewhere": (redirect, REDIRECT, "HCalloc(size) nm_hcalloc(size)", "HCalloc(size) nm_hmalloc(size)"),
    "macro without arguments": (redirect, REDIRECT, "#define HFree(ptr) nm_hfree(ptr)", "#define HFree nm_hfree"),
    "extern missing": (redirect, REDIRECT, "extern bool mem_init(void);\n", ""),
    "address taken": (redirect, str(PROGRAMS / "program.c"), "HFree(NULL);", "(void)&HMalloc;"),
    "guard removed": (guard, SYSTEM, GUARDED, ""),
    "guard before the config": (guard, SYSTEM, f'#include "nm_config.h"\n\n{GUARDED}', f'{GUARDED}#include "nm_config.h"\n'),
    "guard says something else": (guard, SYSTEM, GUARD, "not now"),
    "legacy source left in": (one_build, "Makefile", " csrc/use/memlib_system.c,$(C_SOURCES)", ",$(C_SOURCES)"),
    "native source left in": (one_build, "Makefile", "LIB_SOURCES_0 := ", "LIB_SOURCES_0 := $(CORE_SOURCES) "),
    "legacy names in the native source": (one_build, MEMLIB, "void nm_hfree(void *ptr)", "void HFree(void *ptr);\nvoid HFree(void *ptr) { (void)ptr; }\nvoid nm_hfree(void *ptr)"),
    "defined in two places": (one_place, REDIRECT, "#include \"nm_config.h\"\n", "#include \"nm_config.h\"\n#define USE_NATIVE_MEM 1\n"),
    "defined without a look": (one_place, CONFIG, "#ifndef USE_NATIVE_MEM\n#if NM_BUILT_NATIVE\n#define USE_NATIVE_MEM 1\n#endif\n#elif", "#if NM_BUILT_NATIVE\n#define USE_NATIVE_MEM 1\n#endif\n#ifndef USE_NATIVE_MEM\n#elif"),
    "any value counts": (one_place, CONFIG, '#error "USE_NATIVE_MEM takes 1 or 0"', ""),
    "zero counts": (one_place, CONFIG, "#undef USE_NATIVE_MEM", ""),
    "make takes any value": (one_place, "Makefile", "$(filter 0 1,$(USE_NATIVE_MEM))", "1"),
    "message changed": (out_of_memory, MEMLIB, '"HCalloc() FATAL: out of memory."', '"HCalloc: out of memory."'),
    "another's name": (out_of_memory, MEMLIB, '"HRealloc() FATAL', '"HMalloc() FATAL'),
    "legacy message changed": (out_of_memory, SYSTEM, '"HMalloc() FATAL: out', '"HMalloc() fatal: out'),
    "level changed": (out_of_memory, LOG, "nm_log(NM_LOG_FATAL, message)", "nm_log(NM_LOG_ERROR, message)"),
    "no abort": (out_of_memory, LOG, "    abort();\n", "    exit(1);\n"),
    "allocates on the way": (out_of_memory, LOG, "nm_log(NM_LOG_FATAL, message);", "void *volatile one = malloc(1);\n    free(one);\n    nm_log(NM_LOG_FATAL, message);"),
    "logs at level nothing": (out_of_memory, LOG, "level <= log_most && level != NM_LOG_NOTHING", "level <= log_most || true"),
    "zero sizes are refused": (equivalence, PLAIN, "    size += size == 0;\n    *bytes", "    *bytes"),
    "zero size goes back as it came": (equivalence, MEMLIB, "    if (size == 0) {\n        nm_hfree(ptr);", "    if (size == 0) {\n        nm_hfree(ptr);\n        return NULL;"),
    "realloc forgets": (equivalence, PLAIN, "nm_realloc(p->upstream, block, had, bytes, NM_ALIGN_DEFAULT)", "nm_realloc(p->upstream, block, 1, bytes, NM_ALIGN_DEFAULT)"),
    "calloc is not zeroed": (equivalence, PLAIN, "if (ptr != NULL) memset(ptr, 0, bytes);", ""),
    "free of nothing": (equivalence, PLAIN, "if (ptr == NULL || !plain_is_open(p)) return NM_OK;", "if (!plain_is_open(p)) return NM_OK;"),
    "init refuses": (equivalence, SYSTEM, "    return true;\n}\n\nbool mem_uninit", "    return false;\n}\n\nbool mem_uninit"),
    "malloc stays": (by_the_header_alone, HEADER_ALONE, "#define free(ptr) HFree(ptr)", "#define free(ptr) (free)(ptr)"),
    "the product is not checked": (by_the_header_alone, HEADER_ALONE, "count > SIZE_MAX / size ? SIZE_MAX : count * size", "count == size ? SIZE_MAX : count * size"),
    "a product of nothing": (by_the_header_alone, HEADER_ALONE, "size != 0 && count > SIZE_MAX / size", "count > SIZE_MAX / size"),
    "the product is not asked": (by_the_header_alone, HEADER_ALONE, "HRealloc(ptr, nm__redirect_product(count, size))", "HRealloc(ptr, (count) * (size))"),
    "strdup is libc's": (by_the_header_alone, HEADER_ALONE, "#define strdup(text) nm__redirect_strdup(text)", ""),
    "strndup is libc's": (by_the_header_alone, HEADER_ALONE, "#define strndup(text, most) nm__redirect_strndup(text, most)", ""),
    "strndup reads on": (by_the_header_alone, HEADER_ALONE, "(size_t)(end - text) : most", "(size_t)(end - text) : strlen(text) + 1"),
    "strndup copies all": (by_the_header_alone, HEADER_ALONE, "memchr(text, '\\0', most)", "memchr(text, '\\0', most + 100)"),
    "a macro without arguments": (by_the_header_alone, HEADER_ALONE, "#define free(ptr) HFree(ptr)", "#define free HFree"),
    "alignment is taken": (by_the_header_alone, HEADER_ALONE, "#define posix_memalign(out, align, size) memlib_redirect_has_no_posix_memalign", ""),
    "not installed": (by_the_header_alone, "Makefile", "csrc/include/memlib.h csrc/include/memlib_redirect.h", "csrc/include/memlib.h"),
    "a warning": (equivalence, SYSTEM, "void HFree(void *ptr) {", "void HFree(void *ptr) {\n    int unused;"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory.mktemp("memlib") / "sound")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong(sound: Path, check: Check) -> None:
    assert list(check(sound)) == []


@pytest.mark.slow
@pytest.mark.parametrize("flip", FLIPS)
def test_what_breaks_it_shows(tmp_path: Path, sound: Path, flip: str) -> None:
    check, file, old, new = FLIPS[flip]
    tree = copy(tmp_path / "tree")
    # make builds anew what the flip changes; without the tests of the sound tree it builds all
    if check in (one_build, out_of_memory, equivalence, by_the_header_alone) and (sound / "build").exists():
        shutil.copytree(sound / "build", tree / "build", dirs_exist_ok=True)
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    assert list(check(tree)) != []


def test_the_pkg_config_file_and_an_install(sound: Path, tmp_path: Path) -> None:
    """What a stranger's build asks for is enough, wherever the library was installed."""
    if shutil.which("pkg-config") is None:
        pytest.skip("wants pkg-config")
    for flag, path in ((0, "system"), (1, "native")):
        prefix = tmp_path / path
        done = run(sound, "make", "-s", "install-lib", f"USE_NATIVE_MEM={flag}", f"PREFIX={prefix}", "CFLAGS=-O0")
        assert done.returncode == 0, done.stderr
        asked = run(
            tmp_path,
            "env",
            f"PKG_CONFIG_PATH={prefix / 'lib' / 'pkgconfig'}",
            "pkg-config",
            "--cflags",
            "--libs",
            "nativemem",
        )
        words = asked.stdout.split()
        compiled = run(
            tmp_path, COMPILERS[0], *STRICT, sound / PROGRAMS / "program.c", "-o", prefix / "program", *words
        )
        assert compiled.returncode == 0, compiled.stderr
        done = run(tmp_path, "env", f"LD_LIBRARY_PATH={prefix / 'lib'}", prefix / "program")
        assert done.stdout == f"{path}: 0 failures\n"
