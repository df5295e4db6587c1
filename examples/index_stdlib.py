"""Cross-reference index of a Python source tree: where names are defined, and where they are used.

By default the tree is the standard library of the running Python, without its test suites.

    python examples/index_stdlib.py
    python examples/index_stdlib.py --query OrderedDict --query namedtuple
    python examples/index_stdlib.py --root path/to/project --query main
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_QUERIES = (
    "ArgumentParser",
    "Mapping",
    "OrderedDict",
    "Thread",
    "dataclass",
    "join",
    "main",
)
SKIPPED_DIRS = frozenset({"__pycache__", "site-packages"})
TEST_DIRS = frozenset({"idle_test", "test", "tests"})
TAGS = ("BUG", "FIXME", "TODO", "XXX")


@dataclass(frozen=True)
class Definition:
    """A function, class or module-level assignment."""

    name: str
    qualified: str
    kind: str
    path: str
    line: int


@dataclass(frozen=True)
class Use:
    """One place that reads, calls or imports a name."""

    name: str
    kind: str
    path: str
    line: int
    column: int
    scope: str


@dataclass(frozen=True)
class Literal:
    """A string literal as it stands in the source, quotes included."""

    text: str
    path: str
    line: int


@dataclass(frozen=True)
class Comment:
    """A comment, and the tags such as TODO that stand in it."""

    text: str
    path: str
    line: int
    tags: tuple[str, ...]


@dataclass
class Source:
    """One parsed file."""

    path: str
    text_bytes: bytes
    tree: ast.Module
    tokens: list[tokenize.TokenInfo]


@dataclass
class Index:
    """Everything known about a tree."""

    files: int = 0
    lines: int = 0
    nodes: int = 0
    tokens: int = 0
    warnings: int = 0
    skipped: list[str] = field(default_factory=list)
    definitions: dict[str, list[Definition]] = field(default_factory=lambda: defaultdict(list))
    uses: dict[str, list[Use]] = field(default_factory=lambda: defaultdict(list))
    comments: list[Comment] = field(default_factory=list)
    literals: dict[str, list[Literal]] = field(default_factory=lambda: defaultdict(list))


def find_sources(root: Path, with_tests: bool) -> list[Path]:
    """Return the tree's source files, sorted by their path below `root`."""
    skipped = SKIPPED_DIRS if with_tests else SKIPPED_DIRS | TEST_DIRS
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in skipped]
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def load(paths: list[Path], root: Path, index: Index) -> list[Source]:
    """Parse and tokenize the files. Those that are not valid Python are listed as skipped."""
    sources: list[Source] = []
    # What the compiler finds odd in the indexed files is a figure of the report, not our stderr.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in paths:
            name = path.relative_to(root).as_posix()
            data = path.read_bytes()
            try:
                tree = ast.parse(data, filename=name)
                tokens = list(tokenize.tokenize(io.BytesIO(data).readline))
            # ValueError: a null byte. UnicodeDecodeError is one too. TokenError is no SyntaxError.
            except (SyntaxError, ValueError, tokenize.TokenError):
                index.skipped.append(name)
                continue
            sources.append(Source(name, data, tree, tokens))
    index.warnings = len(caught)
    return sources


class Collector(ast.NodeVisitor):
    """Walks one file and adds its definitions and uses to the index."""

    def __init__(self, index: Index, path: str) -> None:
        self.index = index
        self.path = path
        self.scopes: list[str] = []

    def visit(self, node: ast.AST) -> None:
        self.index.nodes += 1
        super().visit(node)

    def define(self, name: str, kind: str, line: int) -> None:
        qualified = ".".join([*self.scopes, name])
        definition = Definition(name, qualified, kind, self.path, line)
        self.index.definitions[name].append(definition)

    def use(self, name: str, kind: str, line: int, column: int) -> None:
        scope = ".".join(self.scopes) or "<module>"
        self.index.uses[name].append(Use(name, kind, self.path, line, column, scope))

    def enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: str) -> None:
        self.define(node.name, kind, node.lineno)
        self.scopes.append(node.name)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.enter(node, "class")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.enter(node, "function")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.enter(node, "function")

    def visit_Call(self, node: ast.Call) -> None:
        callee = node.func
        if isinstance(callee, ast.Name):
            self.use(callee.id, "call", callee.lineno, callee.col_offset)
        elif isinstance(callee, ast.Attribute):
            self.use(callee.attr, "call", callee.lineno, callee.col_offset)
            self.visit(callee.value)
        else:
            self.visit(callee)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            self.visit(keyword)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.use(node.id, "name", node.lineno, node.col_offset)
        elif isinstance(node.ctx, ast.Store) and not self.scopes:
            self.define(node.id, "variable", node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.use(node.attr, "attribute", node.lineno, node.col_offset)
        self.visit(node.value)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        # The target is left out: it does not exist outside of the comprehension.
        self.visit(node.iter)
        for condition in node.ifs:
            self.visit(condition)

    def visit_Import(self, node: ast.Import) -> None:
        self.imports(node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imports(node.names)

    def imports(self, names: list[ast.alias]) -> None:
        for alias in names:
            self.use(alias.name, "import", alias.lineno, alias.col_offset)


def collect_text(index: Index, source: Source) -> None:
    """Add the file's comments and string literals to the index."""
    for token in source.tokens:
        if token.type == tokenize.COMMENT:
            tags = tuple(tag for tag in TAGS if tag in token.string)
            index.comments.append(Comment(token.string, source.path, token.start[0], tags))
        elif token.type == tokenize.STRING:
            literal = Literal(token.string, source.path, token.start[0])
            index.literals[token.string].append(literal)


def build(root: Path, limit: int | None, with_tests: bool) -> Index:
    """Load the whole tree, then index it."""
    index = Index()
    sources = load(find_sources(root, with_tests)[:limit], root, index)
    for source in sources:
        index.files += 1
        index.lines += source.text_bytes.count(b"\n")
        index.tokens += len(source.tokens)
        Collector(index, source.path).visit(source.tree)
        collect_text(index, source)
    return index


def top(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """Return the most frequent entries; equal counts stand in order of name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]


def describe_tree(index: Index) -> Iterator[str]:
    """Yield the lines of the summary."""
    kinds = Counter(d.kind for found in index.definitions.values() for d in found)
    uses = Counter({name: len(found) for name, found in index.uses.items()})
    unused = sum(name not in index.uses for name in index.definitions)
    literals = Counter({text: len(found) for text, found in index.literals.items()})
    tags = Counter(tag for comment in index.comments for tag in comment.tags)
    yield f"files        {index.files:,} indexed, {len(index.skipped):,} skipped"
    for name in index.skipped:
        yield f"  skipped    {name}"
    yield f"source       {index.lines:,} lines, {index.tokens:,} tokens, {index.nodes:,} nodes"
    yield f"warnings     {index.warnings:,}"
    yield "definitions  " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    yield f"names        {len(index.definitions):,} defined, {unused:,} of them never used by name"
    yield f"uses         {uses.total():,} of {len(uses):,} names"
    yield "  most used  " + ", ".join(f"{name} {count:,}" for name, count in top(uses, 5))
    size = sum(len(comment.text) for comment in index.comments)
    yield f"comments     {len(index.comments):,}, {size:,} characters"
    yield "  tags       " + ", ".join(f"{tag} {tags[tag]:,}" for tag in TAGS)
    yield f"strings      {literals.total():,}, {len(literals):,} distinct"
    yield "  repeated   " + ", ".join(f"{text} {count:,}" for text, count in top(literals, 5))


def describe_name(index: Index, name: str) -> Iterator[str]:
    """Yield the lines that answer one query."""
    definitions = index.definitions.get(name, [])
    uses = index.uses.get(name, [])
    yield f"{name}: {len(definitions):,} definitions, {len(uses):,} uses"
    for definition in sorted(definitions, key=lambda d: (d.path, d.line))[:5]:
        place = f"{definition.path}:{definition.line}"
        yield f"  defined    {place}  {definition.kind} {definition.qualified}"
    if len(definitions) > 5:
        yield f"             and {len(definitions) - 5:,} more"
    if uses:
        kinds = Counter(use.kind for use in uses)
        yield "  as         " + ", ".join(f"{kind} {n:,}" for kind, n in sorted(kinds.items()))
        first = min(uses, key=lambda use: (use.path, use.line, use.column))
        yield f"  first      {first.path}:{first.line}  in {first.scope}"
    for path, count in top(Counter(use.path for use in uses), 5):
        yield f"  used by    {path}  {count:,}"


def positive(text: str) -> int:
    """Parse a command-line number that must be 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def main() -> int:
    """Build the index and print what it knows."""
    parser = argparse.ArgumentParser(description="Index a Python source tree and answer queries.")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="tree to index (default: the standard library)",
    )
    parser.add_argument("--limit", type=positive, help="index only the first LIMIT files")
    parser.add_argument("--with-tests", action="store_true", help="index test folders as well")
    parser.add_argument("--query", action="append", metavar="NAME", help="name to look up; may be repeated")
    options = parser.parse_args()
    if not options.root.is_dir():
        parser.error(f"not a folder: {options.root}")
    index = build(options.root, options.limit, options.with_tests)
    print("\n".join(describe_tree(index)))
    for name in options.query or DEFAULT_QUERIES:
        print()
        print("\n".join(describe_name(index, name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
