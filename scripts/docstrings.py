"""What the docstrings of the public names lack: `python scripts/docstrings.py`.

Public is what docs/reference/*.md describes. Of each name it is asked whether

* ``what``: it has a docstring of its own;
* ``parameters``: each parameter, or each field of a dataclass, is named in it or in its class's;
* ``returns``: what a function returns is said: by "returns" and the like, or by a first sentence that is no verb;
* ``raises``: each error that its own lines raise is named in it or in its class's;
* ``threads``: it, its class or its module has a word about threads;
* ``example``: an example that is run (a docstring's, a page's) uses it. A line that doctest skips is none on a
  page; in a docstring it is, since tests/test_engine.py runs each of those, in a process of its own.

It needs nativemem, as it is installed. Exit code 1 below ``--least`` per cent with all of these.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import enum
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("what", "parameters", "returns", "raises", "threads", "example")

_DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)(\(\))?$", re.MULTILINE)
#: "Parameters as of :class:`Arena`", "As :meth:`Cache.get`": they are named there
_AS_OF = re.compile(r"\b[Aa]s\s+(?:of\s+)?:(?:class|meth|func):`(?:\w+\.)*(\w+)`")
#: "What :func:`measure` returns": what has an example of that has one of this
_RETURNED = re.compile(r"\b[Ww]hat\s+:\w+:`[~.\w]*?(\w+)`\s+(?:returns|gives|found)")
_CODE = re.compile(r"\s*(>>>|\.\.\.) ")
SKIPPED = re.compile(r"# doctest: *\+SKIP\b")
_NAMED: dict[str, str] = {}
_UNMADE: set[str] = set()
_RETURNS = re.compile(r"\b(returns?|gives?|yields?|results?|whether)\b", re.IGNORECASE)
_NOUNS = {"Arrays", "Blocks", "Bytes", "Counters", "Events", "Figures", "Its", "Sizes", "Names", "This"}
_VERB = re.compile(r"[A-Z][a-z]+s\b")


@dataclasses.dataclass(frozen=True)
class Name:
    """A public name: its path, what it is, the class that it is a member of, and its module."""

    path: str
    thing: Any
    owner: type | None
    module: ModuleType | None

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def function(self) -> Any:
        """What is called, of a property or class method as well."""
        thing = self.thing
        if isinstance(thing, property):
            return thing.fget
        if isinstance(thing, functools.cached_property):
            return thing.func
        return getattr(thing, "__func__", thing)

    @property
    def doc(self) -> str:
        return str(getattr(self.thing, "__doc__", None) or "")

    def around(self) -> str:
        """The docstrings of its class, of those that the class inherits, and of its module."""
        cls = self.thing if _is_class(self.thing) else self.owner
        classes = [] if cls is None else [each.__doc__ for each in cls.__mro__ if _ours(each)]
        text = "\n".join(doc for doc in (self.doc, *classes, getattr(self.module, "__doc__", "")) if doc)
        others = [_NAMED[other] for other in _AS_OF.findall(text) if other in _NAMED]
        return "\n".join([text, *others])


def _ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "nativemem"


def _find(path: str) -> Any:
    """The object that ``path`` leads to, through modules and attributes."""
    words = path.split(".")
    for end in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            found = getattr(found, word)
        return found
    raise LookupError(path)


def names() -> list[Name]:
    """What the pages of the reference describe, each object once, members of classes among them."""
    found: dict[int, Name] = {}
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for kind, path, unmade in _DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if kind == "data":
                continue
            if unmade:  # as the page says, no program makes one
                _UNMADE.add(path)
            thing = _find(path)
            if not isinstance(thing, ModuleType):
                places = {path: thing}
            elif kind == "module" and path == "nativemem.manager.collections":
                continue  # the page has its classes one by one
            else:
                places = {f"{path}.{name}": getattr(thing, name) for name in thing.__all__}
            for place, each in places.items():
                if callable(each) and getattr(each, "__module__", "").startswith("nativemem"):
                    for name in _with_members(place, each):
                        found.setdefault(id(name.thing), name)
    for name in found.values():
        _NAMED[name.last] = _NAMED.get(name.last, "") + name.doc
    return sorted(found.values(), key=lambda name: name.path)


def _with_members(path: str, thing: Any) -> Iterator[Name]:
    module = sys.modules.get(getattr(thing, "__module__", ""))
    home = (
        next((cls for cls in thing.__mro__[1:] if cls.__name__ == thing.__name__), None)
        if _is_class(thing)
        else None
    )
    if home is not None:  # the facade of a bound class
        module = sys.modules.get(home.__module__, module)
    yield Name(path, thing, None, module)
    if not _is_class(thing):
        return
    seen = set()
    for cls in thing.__mro__:
        if not _ours(cls) and cls.__module__ != "_dataplane":
            continue
        for name, member in vars(cls).items():
            is_member = inspect.isroutine(member) or isinstance(member, property | functools.cached_property)
            is_member = (
                is_member or isinstance(member, classmethod | staticmethod) or inspect.isgetsetdescriptor(member)
            )
            if name.startswith("_") or name in seen or not is_member:
                continue
            seen.add(name)
            yield Name(f"{path}.{name}", member, thing, module)


def _is_class(thing: Any) -> bool:
    return isinstance(thing, type)


def lacks(name: Name, examples: str) -> list[str]:
    """The parts that the docstring of ``name`` lacks; ``examples``, the lines of all examples."""
    doc, around = name.doc, name.around()
    missing = [] if doc.strip() else ["what"]
    unnamed = [each for each in _parameters(name) if not re.search(rf"\b{re.escape(each)}\b", around)]
    if unnamed:
        missing.append(f"parameters ({' '.join(unnamed)})")
    if _returns_something(name) and not _RETURNS.search(doc):
        first = _VERB.match(doc.strip())
        if first is None and not doc.strip() or first is not None and first[0] not in _NOUNS:
            missing.append("returns")
    untold = [error for error in sorted(_raised(name)) if not any(word in around for word in _kinds(error))]
    if untold:
        missing.append(f"raises ({' '.join(untold)})")
    if not re.search(r"\bthreads?\b|thread-safe", around, re.IGNORECASE):
        missing.append("threads")
    if not _is_shown(name, examples):
        missing.append("example")
    return missing


def _kinds(error: str) -> list[str]:
    """The error, and of a builtin one those that it is one of, as ``OSError``."""
    known = getattr(builtins, error, Exception)
    return [error, *(cls.__name__ for cls in known.__mro__ if cls not in (Exception, BaseException, object))]


def _is_shown(name: Name, examples: str) -> bool:
    """An example has the name, or reads a field of it: most values are returned, and no program makes them."""
    words = [rf"\b{re.escape(each)}\b" for each in (name.last, *_RETURNED.findall(name.doc))]
    if dataclasses.is_dataclass(name.thing) or isinstance(name.thing, type) and issubclass(name.thing, tuple):
        words += [rf"\.{each}\b" for each in _parameters(name)]
    return any(re.search(word, examples) for word in words)


def _parameters(name: Name) -> list[str]:
    thing = name.thing
    if name.path in _UNMADE:
        return []
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if field.init and not field.name.startswith("_")]
    if hasattr(thing, "_fields") and isinstance(thing, type) and issubclass(thing, tuple):
        return list(thing._fields)
    if isinstance(thing, type) and issubclass(thing, BaseException | enum.Enum):
        return []  # what raises it makes it, and no call makes another member
    if isinstance(thing, property | functools.cached_property) or inspect.isgetsetdescriptor(thing):
        return []
    try:
        found = inspect.signature(name.function).parameters.values()
        # a method of any arguments passes them on, and has each that it knows in its text
        parameters = [each.name for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    except (TypeError, ValueError):
        return []
    return [each for each in parameters if each not in ("self", "cls") and not each.startswith("_")]


def _returns_something(name: Name) -> bool:
    if _is_class(name.thing) or not inspect.isfunction(name.function) or name.function is not name.thing:
        return False
    annotation = name.function.__annotations__.get("return")
    return annotation not in (None, "None", "NoReturn")


def _raised(name: Name) -> set[str]:
    """The errors that its own lines raise by their names."""
    if _is_class(name.thing) or not inspect.isfunction(name.function):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(name.function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    raised = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    internal = {"Refusal", "AttributeError", "AssertionError"}
    return {each for each in raised if re.fullmatch(r"[A-Z]\w+", each)} - internal


def _examples(public: list[Name]) -> str:
    """The lines of the examples that `make doctest` runs."""
    pages = [ROOT / path for path in re.findall(r"\S+\.md", _tried_pages())]
    texts = [name.doc for name in public]
    texts += [name.module.__doc__ or "" for name in public if name.module is not None]
    texts += [run_by_doctest(page.read_text(encoding="utf-8")) for page in pages]
    shown = [line for text in texts for line in text.splitlines() if _CODE.match(line)]
    # each class of errors.md is raised by the example below it; the others are programs that tests run as they are
    shown.append((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    for page in [*(ROOT / "docs" / "how-to").glob("*.md"), *(ROOT / "docs" / f"{name}.md" for name in _RUN)]:
        shown += re.findall(r"^```(?:python|ipython)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(shown)


def run_by_doctest(page: str) -> str:
    """The page without the examples that doctest skips."""
    left, skipped = [], False
    for line in page.splitlines():
        if line.lstrip().startswith(">>> "):
            skipped = SKIPPED.search(line) is not None
        elif not line.lstrip().startswith("... "):
            skipped = False
        if not skipped:
            left.append(line)
    return "\n".join(left)


#: pages whose programs tests/ runs in another way than as doctests
_RUN = ("tutorial", "scopes", "numpy")


def _tried_pages() -> str:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^TRIED_PAGES := (.*)$", text, re.MULTILINE)[0]


def gaps() -> dict[str, list[str]]:
    """By public name, the parts that its docstring lacks; an empty list where it has them all."""
    public = names()
    examples = _examples(public)
    return {name.path: lacks(name, examples) for name in public}


def coverage() -> dict[str, float]:
    """Per cent of the public names that have each of :data:`PARTS`, and ``all`` of them; ``names``, how many there
    are."""
    found = gaps()
    share = {
        part: sum(not any(each.startswith(part) for each in missing) for missing in found.values())
        for part in PARTS
    }
    share["all"] = sum(not missing for missing in found.values())
    return {"names": len(found), **{part: 100 * count / len(found) for part, count in share.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=0, help="per cent of names that have all parts")
    parser.add_argument("--gaps", action="store_true", help="a line for each name that lacks a part")
    options = parser.parse_args()
    if options.gaps:
        print(*(f"{name}: {', '.join(missing)}" for name, missing in gaps().items() if missing), sep="\n")
    found = coverage()
    print(f"{found.pop('names')} public names")
    print(*(f"{part:<11}{share:6.1f} %" for part, share in found.items()), sep="\n")
    return 1 if found["all"] < options.least else 0


if __name__ == "__main__":
    sys.exit(main())
