"""The scripts that keep a rule of the sources: each passes on what is here, and sees what is planted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RAW = "scripts/check-no-raw-allocs.sh"
OWNERSHIP = "scripts/check-ownership.py"


def run(root: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    first = ["sh"] if script.endswith(".sh") else [sys.executable]
    command = [*first, str(root / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The scripts and what they look at."""
    for folder in ("scripts", "csrc"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


# --- the C library's allocator ---

NAMES = ("malloc", "calloc", "realloc", "free", "strdup", "strndup", "aligned_alloc", "posix_memalign")
CALLS = {
    **{name: f"void *p(void) {{ return (void *){name}(1, 2); }}" for name in NAMES},
    "spaced": "void p(void *q) { free \t(q); }",
    "over lines": "void *p(void) {\n    return malloc\n        (1);\n}",
    "in brackets": "void *p(void) { return (malloc)(1); }",
    "in a macro": "#define TAKE(n) \\\n    malloc(n)",
    "behind a comment": "void p(void *q) { /* it's gone */ free(q); }",
    "behind a string": 'void p(void *q) { puts("/*"); free(q); puts("*/"); }',
    "behind a character": "void p(void *q) { char c = '\"'; free(q); char d = '\"'; }",
    "behind an apostrophe": "#error don't\nvoid p(void *q) { free(q); }",
    "negated": "int p(void) { return !malloc(1); }",
    "twice on a line": "void p(struct port *q) { q->free(q); free(q); }",
}
NO_CALLS = (
    "/* malloc(1) and free(p) */",
    "// free(p) \\\n   and free(q)",
    "/* over\n * lines: free(p)\n */",
    'const char *s = "free(p) \\" free(q)";',
    "int f(struct s *x) { return x->free(1) + x->m.malloc(2) + x -> realloc (3) + x->\n        free(4); }",
    "int f(void) { return nm_free(3) + xmalloc(1) + free_all(2) + mallocated(1) + strdup2(x); }",
    "struct t { void *(*malloc)(void *, size_t); void (*free)(void *); };",
    "static const table t = {.free = nothing, .malloc = nothing};",
    "int f(int free) { if (free) (void)free; return free; }",
)


def test_no_raw_allocations() -> None:
    done = run(ROOT, RAW)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_planted_call_is_found(tree: Path) -> None:
    for number, text in enumerate(CALLS.values()):
        (tree / "csrc" / "alloc" / f"planted_{number}.c").write_text(f"int x;\n{text}\n", encoding="utf-8")
    done = run(tree, RAW)
    assert (done.returncode, done.stderr) == (1, "")
    files = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert sorted(files) == sorted(f"csrc/alloc/planted_{number}.c" for number in range(len(CALLS)))
    over_lines = list(CALLS).index("over lines")
    assert f"csrc/alloc/planted_{over_lines}.c:3: calls malloc() of the C library" in done.stdout


def test_what_only_looks_like_a_call(tmp_path: Path) -> None:
    for number, text in enumerate(NO_CALLS):
        (tmp_path / f"fine_{number}.c").write_text(text + "\n", encoding="utf-8")
    done = run(ROOT, RAW, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_allowed_files_alone(tree: Path) -> None:
    """The same call is fine where it is allowed, in a header or a file of the same name elsewhere it is not."""
    (tree / "csrc" / "heap" / "system.c").write_text("void p(void *q) { free(q); }\n", encoding="utf-8")
    with (tree / "csrc" / "alloc" / "system.c").open("a", encoding="utf-8") as file:
        file.write("void p(void *q) { free(q); }\n")
    done = run(tree, RAW)
    assert (done.returncode, done.stdout) == (1, "csrc/heap/system.c:1: calls free() of the C library\n")
    (tree / "csrc" / "alloc" / "system.c").unlink()
    done = run(tree, RAW)
    assert done.returncode == 2
    assert "csrc/alloc/system.c is allowed, and is no file" in done.stderr


def test_files_that_are_named(tree: Path) -> None:
    """As pre-commit does; a path may have blanks."""
    odd = tree / "csrc" / "heap" / "of two words.c"
    odd.write_text("void p(void *q) { free(q); }\n", encoding="utf-8")
    assert run(tree, RAW, tree / "csrc" / "heap" / "heap.c", tree / "csrc" / "alloc" / "system.c").returncode == 0
    done = run(tree, RAW, odd)
    assert (done.returncode, done.stdout) == (1, "csrc/heap/of two words.c:1: calls free() of the C library\n")
    assert run(tree, RAW, tree / "csrc" / "nothing.c").returncode == 2


# --- whose memory it is ---

UNSOUND = {
    "owned, no destroy": ("char *nm_path_owned(void);", "nm_path_owned gives memory away"),
    "created, no destroy": ("nm_path *nm_path_create(void);", "nm_path_create gives memory away"),
    "destroy of another": ("char *nm_path_owned(void);\nvoid nm_paths_destroy(char *);", "nm_path_owned gives"),
    "all blocks' free": ("char *nm_path_owned(void);\nvoid nm_free(char *);", "nm_path_owned gives"),
    "over lines": ("NM_API char *\nnm_path_owned(int a,\n              int b);", "nm_path_owned gives"),
    "defined": ("inline char *nm_path_owned(void) { return f(); }", "nm_path_owned gives"),
    "view without comment": ("const char *nm_path_view(void);", "nm_path_view lends memory"),
    "view that says nothing": ("/* The path. */\nconst char *nm_path_view(void);", "nm_path_view lends memory"),
    "comment of another": (
        "/* Valid until the next call. */\n\nint nm_a(void);\nconst char *nm_path_borrowed(void);",
        "nm_path_borrowed lends memory",
    ),
    "comment of the line before": (
        "int nm_a(void); /* until it ends */\nconst char *nm_path_borrowed(void);",
        "nm_path_borrowed lends memory",
    ),
    "comment apart": ("/* Valid until the end. */\n\nconst char *nm_path_view(void);", "nm_path_view lends memory"),
}
SOUND = (
    "char *nm_path_owned(void);\nvoid nm_path_destroy(char *path);",
    "char *nm_path_copy_owned(void);\nvoid nm_path_free(char *path);",
    "/* Good until the table is destroyed. */\nconst char *nm_path_view(void);",
    "const char *nm_path_borrowed(void); /* valid until the next call */",
    "/* char *nm_path_owned(void); */\n// const char *nm_path_view(void);",
    "#define nm_path_owned(a) \\\n    f(a)\n#define nm_path_view(a) g(a)",
    "static inline char *nm_path_owned(void) { return f(); }\nstatic const char *nm_path_view(void);",
    "struct nm_calls { char *(*path_owned)(void); const char *(*path_view)(void); };",
    "typedef const char *nm_path_view(void);",
    "typedef struct nm_borrowed { int a; } nm_borrowed;\nint nm_viewer(int a);\nint nm_ownedness(void);",
)


def check(tmp_path: Path, text: str, allowed: str = "") -> subprocess.CompletedProcess[str]:
    for name, content in (
        ("planted.h", f'#ifdef __cplusplus\nextern "C" {{\n#endif\n{text}\n'),
        ("allowed", allowed),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
    return run(ROOT, OWNERSHIP, tmp_path / "planted.h", "--allowed", tmp_path / "allowed")


def test_the_public_headers_say_whose_memory_it_is() -> None:
    done = run(ROOT, OWNERSHIP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("text", "complaint"), UNSOUND.values(), ids=UNSOUND.keys())
def test_each_planted_name_is_found(text: str, complaint: str, tmp_path: Path) -> None:
    done = check(tmp_path, text)
    assert (done.returncode, done.stderr) == (1, "")
    assert complaint in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("text", SOUND)
def test_sound_names_pass(text: str, tmp_path: Path) -> None:
    done = check(tmp_path, text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_allowed_has_a_reason_and_a_function(tmp_path: Path) -> None:
    text = "const char *nm_path_view(void);"
    assert check(tmp_path, text, "# why\nnm_path_view: its text is a constant\n").returncode == 0
    for empty in ("nm_path_view\n", "nm_path_view: \n"):
        done = check(tmp_path, text, empty)
        assert done.returncode == 2
        assert "nm_path_view is allowed without a reason" in done.stderr
    done = check(tmp_path, "int nm_a(void);", "nm_path_view: its text is a constant\n")
    assert (done.returncode, done.stdout) == (1, "nm_path_view: it is allowed, and no header has it\n")


def test_a_planted_view_in_a_public_header(tree: Path) -> None:
    """Without arguments it looks at every header that is installed."""
    assert run(tree, OWNERSHIP).returncode == 0
    for header in ("nativemem/slab.h", "memlib.h", "nativemem/log.h"):
        path = tree / "csrc" / "include" / header
        before = path.read_text(encoding="utf-8")
        path.write_text(before + "\nconst char *nm_planted_view(void);\n", encoding="utf-8")
        done = run(tree, OWNERSHIP)
        assert done.returncode == 1
        assert "nm_planted_view lends memory" in done.stdout
        path.write_text(before, encoding="utf-8")


# --- before a commit, and in CI ---


def test_what_pre_commit_asks() -> None:
    """Each tool, at the version of the project, and the two scripts; a hook calls what is there."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    named = re.findall(r"^ +- id: (\S+)$", hooks, re.MULTILINE)
    assert named == ["ruff", "ruff-format", "clang-format", "mypy", "cppcheck", "no-raw-allocs", "ownership"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = re.findall(r'additional_dependencies: \["([^"]+)"\]', hooks)
    assert len(pinned) == 3
    for requirement in pinned:
        assert f'"{requirement}"' in project
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"entry: make -s (\S+)", hooks):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for script in re.findall(r"entry: (?:python3 )?(scripts/\S+)", hooks):
        assert (ROOT / script).is_file(), script


def test_ci_asks_the_same() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint: (.*?) ##", makefile, re.MULTILINE)
    assert lint is not None
    assert {"guardrails", "mypy"} <= set(lint[1].split())
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("lint", "lint-c", "lint-c-deep"):
        assert re.search(rf"^stage make (-j2 )?{target}$", ci, re.MULTILINE), target


def test_what_is_left_out_has_its_reason() -> None:
    """Each check that .clang-tidy switches off is named above it, and each NOLINT has words behind it."""
    text = (ROOT / ".clang-tidy").read_text(encoding="utf-8")
    comment, checks = text.split("Checks: >")
    for check in re.findall(r"^ +-([a-z][\w.-]+),?$", checks, re.MULTILINE):
        # the same check by another name
        assert f"-{check} " in comment or f"-{check}," in comment or check == "cert-dcl51-cpp", check
    nolints = [
        f"{path.name}: {line.strip()}"
        for path in [*(ROOT / "csrc").rglob("*.c"), *(ROOT / "csrc").rglob("*.h")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if "NOLINT" in line
    ]
    assert nolints
    assert [line for line in nolints if not re.search(r"NOLINT\w*\([\w., -]+\): \w+", line)] == []
    suppressed = (ROOT / "scripts" / "cppcheck-suppressed.txt").read_text(encoding="utf-8").splitlines()
    for above, line in zip(suppressed, suppressed[1:], strict=False):
        assert line.startswith("#") or above.startswith("# "), line


def test_mypy_is_strict() -> None:
    """But for one thing, with its reason: what comes out of an untyped core is returned as it was declared."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[tool.mypy]")[1]
    assert re.search(r"^strict = true$", section, re.MULTILINE)
    assert re.findall(r"^(\w+) = false$", section, re.MULTILINE) == ["warn_return_any"]
    assert "ignore_errors" not in section
