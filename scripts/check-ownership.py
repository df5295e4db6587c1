#!/usr/bin/env python3
"""Whether the names of the public headers say truly whose memory it is.

``python scripts/check-ownership.py [HEADER OR FOLDER ...]`` looks at ``csrc/include``, or at what is named:

* ``nm_thing_create`` and ``nm_thing_..._owned`` give memory that the caller gives back: there is
  ``nm_thing_destroy`` (or ``_free``) in the same headers.
* ``nm_thing_view`` and ``nm_thing_..._borrowed`` show memory of something else: the comment at the declaration
  says until when it is good.

Names of ``static`` functions are not looked at. ``scripts/ownership-allowed.txt`` names what is passed over, each
with its reason; a name without a reason, or one that no header has, is an error. Exit code: 0 sound, 1 not, 2 wrong
arguments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HEADERS = ROOT / "csrc" / "include"
ALLOWED = ROOT / "scripts" / "ownership-allowed.txt"

TOKEN = re.compile(r"""//(?:[^\n\\]|\\.)*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
# its lines and those that a backslash joins to it
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
LINKAGE = re.compile(r'extern\s*"[^"]*"\s*\{')
# a declaration at file level, up to its semicolon or body
NAME = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
PREFIX = "nm"
GIVES = ("_create", "_owned")
LENDS = ("_view", "_borrowed")
LIFETIME = re.compile(
    r"\b(until|valid|lifetime|lives?|as long as|for as long|while|outlives?|good (?:for|until|while))\b",
    re.IGNORECASE,
)


class Function(NamedTuple):
    name: str
    place: str  # file:line
    is_static: bool
    comment: str  # in front of it, in it and behind it on the line of its end


def blanked(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def functions(text: str, shown: str) -> Iterator[Function]:
    """Those that a header declares or defines, in their order."""
    comments = [match for match in TOKEN.finditer(text) if match[0][0] == "/"]
    code = TOKEN.sub(lambda match: blanked(match[0]) if match[0][0] == "/" else match[0], text)
    code = DIRECTIVE.sub(lambda match: blanked(match[0]), code)
    code = LINKAGE.sub(lambda match: ";" + " " * (len(match[0]) - 1), code)
    start, depth = 0, 0
    for at, mark in enumerate(code):
        if mark == "{":
            depth += 1
            if depth == 1:
                yield from declared(code, text, comments, start, at, shown)
        elif mark == "}":
            # below 0: the brace of extern "C"
            depth = max(depth - 1, 0)
            if depth == 0:
                start = at + 1
        elif mark == ";" and depth == 0:
            yield from declared(code, text, comments, start, at, shown)
            start = at + 1


def declared(
    code: str, text: str, comments: list[re.Match[str]], start: int, end: int, shown: str
) -> Iterator[Function]:
    words = code[start:end]
    if re.search(r"\btypedef\b", words) or "=" in words.partition("(")[0]:
        return
    # the first name in front of a bracket that is no attribute
    plain = re.sub(r"__attribute__\s*\(\(.*?\)\)|_Alignas\s*\([^)]*\)", lambda match: blanked(match[0]), words)
    found = NAME.search(plain)
    if found is None or plain[found.end() :].lstrip().startswith("*"):
        return
    begin = start + found.start()
    line_end = text.find("\n", end)
    about = [
        match[0]
        for match in comments
        if start <= match.start() < (line_end if line_end >= 0 else len(text))
        and not is_of_the_one_before(text, start, match.start())
        and not is_apart(text, match.end(), begin)
    ]
    line = text.count("\n", 0, begin) + 1
    yield Function(found[1], f"{shown}:{line}", re.search(r"\bstatic\b", words) is not None, " ".join(about))


def is_of_the_one_before(text: str, start: int, comment: int) -> bool:
    """A comment on the line on which the declaration before ends."""
    return start > 0 and "\n" not in text[start:comment]


def is_apart(text: str, comment_end: int, name: int) -> bool:
    """An empty line between a comment and the declaration behind it."""
    return re.search(r"\n[ \t]*\n", text[comment_end:name]) is not None


def siblings(name: str) -> Iterator[str]:
    """What gives back ``nm_path_copy_owned``: ``nm_path_copy_destroy``, ``nm_path_destroy``, ``..._free``."""
    words = name.split("_")
    for length in range(len(words), 0, -1):
        stem = "_".join(words[:length])
        if stem != PREFIX:  # nm_free is of all blocks
            yield f"{stem}_destroy"
            yield f"{stem}_free"


def violations(found: list[Function], allowed: dict[str, str]) -> Iterator[str]:
    names = {each.name for each in found}
    for name in sorted(set(allowed) - names):
        yield f"{name}: it is allowed, and no header has it"
    for each in found:
        if each.is_static or each.name in allowed:
            continue
        if each.name.endswith(GIVES):
            if not any(sibling in names and sibling != each.name for sibling in siblings(each.name)):
                stem = "_".join(each.name.split("_")[:-1])
                yield f"{each.place}: {each.name} gives memory away, and there is no {stem}_destroy"
        elif each.name.endswith(LENDS) and not LIFETIME.search(each.comment):
            yield f"{each.place}: {each.name} lends memory, and its comment does not say until when it is good"


def read_allowed(text: str) -> dict[str, str]:
    allowed = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.partition(":")
        if not reason.strip():
            raise ValueError(f"line {number}: {name.strip()} is allowed without a reason")
        allowed[name.strip()] = reason.strip()
    return allowed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("headers", nargs="*", type=Path, help="headers or folders of them (default: csrc/include)")
    parser.add_argument("--allowed", type=Path, default=ALLOWED, help="NAME: REASON, a line each")
    options = parser.parse_args()
    files: list[Path] = []
    for given in options.headers or [HEADERS]:
        if not given.exists():
            parser.error(f"there is no {given}")
        files += sorted(given.rglob("*.h")) if given.is_dir() else [given]
    try:
        allowed = read_allowed(options.allowed.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{options.allowed}: {error}")
    found = [each for file in files for each in functions(file.read_text(encoding="utf-8"), str(file))]
    complaints = list(violations(found, allowed))
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
