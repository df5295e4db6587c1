"""C code bases of others, switched to memlib by csrc/include/memlib_redirect.h alone: do their tests see it?

Usage: switch_over.py [--source DIR ...] [--only jq discount]

The sources are fetched with apt as Debian source packages, or taken from the unpacked trees that --source names. No
file of theirs is changed. Each is built three times below build/switch-over: as it is; with the header in front of
each file by the compiler's -include, and linked with libnativemem of USE_NATIVE_MEM=0; and the same with that of
USE_NATIVE_MEM=1. Then each build runs the code base's own tests.

Exit code 1 where a test's outcome differs from what it was as it is; where a switched object still refers to malloc
or one of its kin; where the tests made another number of calls (those of random input are not counted); or where
memlib reported a block that is not its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "switch-over"
#: where `make lib` leaves what it builds
BUILT = ROOT / "build" / "c"
CC = os.environ.get("CC") or "gcc"
FLAGS = ("-O1", "-g1", "-w")
#: what an object refers to if it is not switched
KIN = ("malloc", "calloc", "realloc", "reallocarray", "free", "strdup", "strndup", "__strdup")
COLUMNS = ("malloc", "calloc", "realloc", "free", "errors")
TIMEOUT = 600
ENV = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ} | {
    "HOME": str(TOP),  # jq reads what is in it
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}


def stop(message: str) -> NoReturn:
    sys.exit(f"switch_over: {message}")


def run(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words, cwd=cwd, env=ENV | (env or {}), capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        stop(f"{shlex.join(words)} took more than {TIMEOUT} seconds")


def must(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = run(*command, cwd=cwd, env=env)
    if done.returncode:
        stop(f"{shlex.join(map(str, command))} ended with {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@dataclass
class Side:
    """One of the three builds: what the compiler and the linker are told, and what its objects should refer to."""

    name: str
    flag: int | None
    calls: tuple[str, ...]

    def prepare(self, tree: Path) -> Build:
        counts, compiled = tree.with_suffix(".counts"), tree.with_suffix(".counts.o")
        counts.write_bytes(bytes(8 * len(COLUMNS)))
        words = [f'-DCOUNTS="{counts}"']
        flags: tuple[str, ...] = FLAGS
        library: tuple[str, ...] = ()
        wrapped: tuple[str, ...] = (*self.calls, "reallocarray", "strdup", "strndup")
        if self.flag is not None:
            built = BUILT / str(self.flag)
            flags += (f"-I{built / 'include'}", "-include", "memlib_redirect.h", "-pthread")
            library = (str(built / "lib" / "libnativemem.a"), "-pthread")
            wrapped = (*self.calls, "nm_log")
            named = zip(("MALLOC", "CALLOC", "REALLOC", "FREE"), self.calls, strict=True)
            words += ["-DSWITCHED", *(f"-D{macro}={name}" for macro, name in named)]
        must(CC, "-O1", *words, "-c", ROOT / "scripts" / "switch_over_counts.c", "-o", compiled)
        link = (str(compiled), *library, *(f"-Wl,--wrap={name}" for name in wrapped))
        return Build(tree, flags, link, counts)


SIDES = (
    Side("as it is", None, ("malloc", "calloc", "realloc", "free")),
    Side("USE_NATIVE_MEM=0", 0, ("HMalloc", "HCalloc", "HRealloc", "HFree")),
    Side("USE_NATIVE_MEM=1", 1, ("nm_hmalloc", "nm_hcalloc", "nm_hrealloc", "nm_hfree")),
)


@dataclass
class Build:
    tree: Path
    flags: tuple[str, ...]
    link: tuple[str, ...]
    counts: Path
    outcomes: dict[str, str] = field(default_factory=dict)

    def calls(self) -> tuple[int, ...]:
        data = self.counts.read_bytes()
        return tuple(int.from_bytes(data[at : at + 8], sys.byteorder) for at in range(0, len(data), 8))

    def referred(self) -> set[str]:
        """What the code base's objects leave to the linker."""
        listed = must("nm", "-u", *sorted(self.tree.rglob("*.o")))
        return set(re.findall(r" U (\w+)", listed))

    def script(self, *command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run(*command, cwd=self.tree, env=env)


# --- the code bases: how each is built, and how its tests are run and told apart ---


def ended(done: subprocess.CompletedProcess[str]) -> str:
    """The outcome of a script."""
    said = (done.stdout + done.stderr)[-500:]
    return "passed" if done.returncode == 0 else f"ended with {done.returncode}: {said}"


def build_jq(build: Build) -> None:
    """What its Makefile does, without autoconf, whose questions have one answer on Linux with glibc."""
    tree = build.tree
    maths = re.findall(r"AC_CHECK_MATH_FUNC\((\w+)\)", (tree / "configure.ac").read_text())
    have = [*maths, "isatty", "strptime", "strftime", "timegm", "gmtime_r", "gmtime", "localtime_r", "localtime"]
    have += ["gettimeofday", "tm_tm_gmt_off", "pthread_once", "pthread_key_create", "atexit", "__thread"]
    have.remove("pow10")  # glibc dropped it
    defines = ["-D_GNU_SOURCE", "-DIEEE_8087", *(f"-DHAVE_{name.upper()}" for name in have)]
    escaped = (tree / "src/builtin.jq").read_text().replace("\\", "\\\\").replace('"', '\\"')
    (tree / "src/builtin.inc").write_text("".join(f'"{line}\\n"\n' for line in escaped.splitlines()))
    (tree / "src/version.h").write_text('#define JQ_VERSION "1.6"\n')
    objects = []
    for source in sorted((tree / "src").glob("*.c")):
        if source.name != "inject_errors.c":  # a preloaded library, for tests that are not run without libtool
            objects.append(source.with_suffix(".o"))
            flags = ("-std=gnu99", *defines, "-I.", "-Isrc", *build.flags)
            must(CC, *flags, "-c", source, "-o", objects[-1], cwd=tree)
    must(CC, *objects, "-o", "jq", *build.link, "-lm", "-lpthread", cwd=tree)


def test_jq(build: Build) -> None:
    for name in ("jqtest", "optionaltest", "base64test"):
        done = build.script("sh", f"tests/{name}", env={"NO_VALGRIND": "1"})
        _, *sections = re.split(r"^(?=Testing ')", done.stdout, flags=re.MULTILINE)
        for number, section in enumerate(sections):
            said = re.sub(r"^\d+ of \d+ tests passed.*$", "", section, flags=re.MULTILINE)
            build.outcomes[f"{name} {number}"] = said if "\n*** " in said else "passed"
        build.outcomes[name] = ended(done)
    test_scripts(build, ["tests/utf8test"])


def chance_jq(build: Build) -> None:
    """It feeds the parser with random bytes."""
    test_scripts(build, ["tests/shtest"])


def test_scripts(build: Build, scripts: list[str]) -> None:
    for name in scripts:
        done = build.script("sh", name, env={"NO_VALGRIND": "1"})
        build.outcomes[name] = ended(done)


def build_discount(build: Build) -> None:
    tree = build.tree
    must("sh", "./configure.sh", cwd=tree, env={"CC": CC})
    words = (f"CC={CC}", f"CFLAGS={shlex.join(build.flags)}", f"LDFLAGS={shlex.join(build.link)}")
    must("make", *words, "all", cwd=tree)


def test_discount(build: Build) -> None:
    for script in sorted((build.tree / "tests").glob("*.t")):
        done = build.script("sh", f"tests/{script.name}", env={"VERBOSE": "1"})
        lines = [line for line in done.stdout.splitlines() if re.search(r"\.{2,} ", line)]
        for number, line in enumerate(lines):
            build.outcomes[f"{script.name} {number}"] = "passed" if line.endswith(" ok") else line
        build.outcomes[script.name] = ended(done)


@dataclass(frozen=True)
class CodeBase:
    """``mark``: a file by which an unpacked tree is known. ``chance``: tests that make other calls each time."""

    package: str
    version: str
    mark: str
    build: Callable[[Build], None]
    test: Callable[[Build], None]
    chance: Callable[[Build], None] | None = None


CODE_BASES = (
    CodeBase("jq", "1.6", "src/jq_test.c", build_jq, test_jq, chance_jq),
    CodeBase("discount", "2.2.7", "mkdio.h.in", build_discount, test_discount),
)


# --- where the sources come from ---


def source_lists(target: Path) -> None:
    """The machine's own package sources, as sources of source packages."""
    asked = must("apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
    where = dict(re.findall(r"^(\w+)='(.*)'$", asked, re.MULTILINE))
    parts = sorted(Path(where["PARTS"]).glob("*"))
    target.mkdir(parents=True)
    for number, path in enumerate([Path(where["LIST"]), *parts]):
        if path.suffix == ".list" and path.exists():
            lines = re.findall(r"^deb\s.*$", path.read_text(), re.MULTILINE)
            text = "".join(f"deb-src{line[3:]}\n" for line in lines)
        elif path.suffix == ".sources":
            text = re.sub(r"^Types:.*$", "Types: deb-src", path.read_text(), flags=re.MULTILINE)
        else:
            continue
        if text.strip():
            (target / f"{number}{path.suffix}").write_text(text)
    if not any(target.iterdir()):
        stop("apt has no package sources on this machine; unpack the source package and name it: --source DIR")


def fetch(bases: list[CodeBase]) -> dict[str, Path]:
    for tool, package in (("apt-get", "apt"), ("dpkg-source", "dpkg-dev")):
        if not shutil.which(tool):
            stop(f"missing: {tool}; on Debian or Ubuntu: apt-get install {package}; or name a tree: --source DIR")
    apt = TOP / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    source_lists(apt / "sources")
    for part in ("lists/partial", "cache/archives/partial", "unpacked"):
        (apt / part).mkdir(parents=True)
    options = [
        *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={apt / 'sources'}"),
        *("-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"),
    ]
    if os.geteuid() == 0:  # the user that apt would change to may not write here
        options += ["-o", "APT::Sandbox::User=root"]
    env = {name: value for name, value in os.environ.items() if name.lower().endswith("proxy")}
    updated = run("apt-get", "update", *options, env=env)  # may fail for one source that the packages are not in
    trees = {}
    for base in bases:
        said = updated.stderr
        # newest first; a mirror may list a version that it does not hold
        shown = run("apt-cache", "showsrc", *options, base.package).stdout
        for version in dict.fromkeys(re.findall(r"^Version: (.*)$", shown, re.MULTILINE)):
            wanted = f"{base.package}={version}"
            done = run("apt-get", "source", "-qq", *options, wanted, cwd=apt / "unpacked", env=env)
            if done.returncode == 0:
                break
            said += done.stderr
        found = [path for path in (apt / "unpacked").glob(f"{base.package}-*") if path.is_dir()]
        if not found:
            stop(f"no source package {base.package} from apt; name an unpacked tree: --source DIR\n{said[-2000:]}")
        trees[base.package] = found[0]
    return trees


def given(sources: list[Path], bases: list[CodeBase]) -> dict[str, Path]:
    trees = {}
    for source in sources:
        known = [base.package for base in bases if (source / base.mark).is_file()]
        if not known:
            stop(f"{source} is none of {', '.join(base.package for base in bases)}")
        trees[known[0]] = source.resolve()
    return trees


def version_of(tree: Path) -> str:
    """As the Debian package's; empty where the tree is another's."""
    changelog = tree / "debian" / "changelog"
    named = re.match(r"\S+ \((?:\d+:)?([^)]+)\)", changelog.read_text() if changelog.is_file() else "")
    return named[1] if named else ""


# --- the comparison ---


def lines_of(tree: Path) -> int:
    """Of its own sources, not of libraries that it carries."""
    folder = tree / "src" if (tree / "src").is_dir() else tree
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.[ch]"))


def compare(base: CodeBase, source: Path) -> list[str]:
    """Builds and tests it thrice, prints the table; what is wrong."""
    version = version_of(source)
    if version and not re.match(rf"{re.escape(base.version)}\b", version):
        stop(f"{base.package} is {version} here; it is known how to build {base.version} (Debian 12)")
    print(f"{base.package} {version or base.version}, {lines_of(source):,} lines of C", flush=True)
    wrong: list[str] = []
    row = "  {:18} {:>6} {:>7} " + " {:>10}" * len(COLUMNS)
    print(row.format("", "tests", "passed", *COLUMNS))
    first: Build | None = None
    calls: list[tuple[int, ...]] = []
    for number, side in enumerate(SIDES):
        # names of one length: paths are copied and counted too
        tree = TOP / base.package / str(number)
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(source, tree, symlinks=True)
        build = side.prepare(tree)
        base.build(build)
        referred = build.referred()
        if side.flag is not None and (left := sorted(referred & set(KIN))):
            wrong.append(f"{side.name}: objects refer to {', '.join(left)}")
        if side.calls[0] not in referred:
            wrong.append(f"{side.name}: no object refers to {side.calls[0]}")
        build.counts.write_bytes(bytes(8 * len(COLUMNS)))  # what was run to build it does not count
        base.test(build)
        calls.append(build.calls()[:-1])
        if base.chance:
            base.chance(build)
        errors = build.calls()[-1]
        passed = sum(outcome == "passed" for outcome in build.outcomes.values())
        counted = [f"{n:,}" for n in (*calls[-1], errors)]
        print(row.format(side.name, len(build.outcomes), passed, *counted), flush=True)
        if errors:
            wrong.append(f"{side.name}: memlib reported {errors} errors")
        if calls[-1] != calls[0]:
            wrong.append(f"{side.name}: calls: {calls[-1]}; as it is: {calls[0]}")
        if not all(calls[-1]):
            wrong.append(f"{side.name}: not each of the four was called: {calls[-1]}")
        first = first or build
        for name in sorted(first.outcomes.keys() | build.outcomes.keys()):
            was, now = first.outcomes.get(name, "not there"), build.outcomes.get(name, "not there")
            if was != now:
                wrong.append(f"{side.name}: {name}: {now}; it was: {was}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [base.package for base in CODE_BASES]
    parser.add_argument("--source", type=Path, action="append", default=[], metavar="DIR", help="an unpacked tree")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    for tool, package in ((CC, "gcc"), ("make", "make"), ("nm", "binutils")):
        if not shutil.which(tool):
            stop(f"missing: {tool}; on Debian or Ubuntu: apt-get install {package}")
    for flag in (0, 1):
        must("make", "-s", "lib", f"USE_NATIVE_MEM={flag}", f"CC={CC}")
    TOP.mkdir(parents=True, exist_ok=True)
    bases = [base for base in CODE_BASES if base.package in options.only]
    trees = given(options.source, bases) if options.source else fetch(bases)
    wrong = []
    for base in bases:
        if base.package in trees:
            wrong += [f"{base.package}, {said}" for said in compare(base, trees[base.package])]
    print("\n".join(wrong) if wrong else "switch_over: the same outcomes, the same calls")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
