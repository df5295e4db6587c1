"""The site: its contents name each page, and links lead somewhere. Without Sphinx, which `make docs` runs."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from loading import load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONF = runpy.run_path(str(DOCS / "conf.py"))
CONTENTS = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^()\s>]+)>?\)")


def pages() -> list[Path]:
    """What Sphinx reads, by the patterns of conf.py: ``**`` any folders, ``*`` a part of a name."""
    found = {
        path for pattern in CONF["include_patterns"] for path in ROOT.glob(pattern + "/*" * pattern.endswith("**"))
    }
    return sorted(path for path in found if path.suffix in CONF["source_suffix"])


def prose(path: Path) -> str:
    """The page without its code, where brackets are no links."""
    text = re.sub(
        r"^(`{3,})[^\n]*\n.*?^\1`*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def named() -> Iterator[Path]:
    """The pages that a toctree of any page names."""
    for page in pages():
        for block in CONTENTS.findall(page.read_text(encoding="utf-8")):
            for line in block.splitlines():
                entry = re.sub(r".*<(.*)>$", r"\1", line.strip())
                if entry and not entry.startswith(":"):
                    yield from (path.resolve() for path in page.parent.glob(f"{entry}.md"))


def test_the_contents_name_each_page() -> None:
    """A page that is missing from docs/index.md (or another page's toctree) is found by the search alone."""
    everything = set(pages())
    assert len(everything) > 90 and ROOT / "README.md" in everything
    assert everything - set(named()) == {DOCS / "index.md"}


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for address in LINK.findall(prose(page)):
        if ":" in address.partition("/")[0] or address.startswith("#"):
            continue
        target = (page.parent / unquote(address.partition("#")[0])).resolve()
        assert target.is_file(), f"{address}: a link is to a file; of a folder to its README.md"
        assert target.is_relative_to(ROOT), address


def script(name: str) -> ModuleType:
    return load(ROOT / "scripts" / f"{name}.py")


@pytest.mark.parametrize(
    ("element", "fault"),
    [
        ('<a href="b.html#there">', ""),
        ('<a href="#here">', ""),
        ('<a href="sub/c%20d.html">', ""),
        ('<a href="https://example.org/x">', ""),
        ('<img src="data:image/png;base64,">', ""),
        ('<a href="absent.html">', "there is no such file"),
        ('<a href="sub">', "there is no such file"),
        ('<a href="b.html#absent">', "there is no such place on that page"),
        ('<a href="#absent">', "there is no such place on that page"),
        ('<a href="../outside.html">', "leads out of the site"),
        ('<img src="picture.png">', "there is no such file"),
        ('<script src="https://example.org/x.js"></script>', "is loaded from another host"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "is loaded from another host"),
    ],
)
def test_links_of_a_built_site(tmp_path: Path, element: str, fault: str) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (tmp_path / "outside.html").write_text("")
    (site / "sub" / "c d.html").write_text('<a href="../a.html">')
    (site / "b.html").write_text('<p id="there">')
    (site / "a.html").write_text(f'<p id="here">\n{element}')
    address = re.findall(r'(?:href|src)="([^"]*)"', element)[0]
    assert script("check_site").faults(site) == [f"a.html:2: {address}: {fault}"] * bool(fault)


def test_the_check_has_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "a.html"
    monkeypatch.setattr(sys, "argv", ["check_site.py", str(tmp_path)])
    page.write_text("<p>")
    assert script("check_site").main() == 0
    page.write_text('<a href="absent.html">')
    assert script("check_site").main() == 1


def is_ours(thing: object) -> bool:
    return callable(thing) and str(getattr(thing, "__module__", "")).startswith("nativemem")


def test_the_reference_has_each_public_name() -> None:
    """Each name of the package, and of each module that docs/reference.md lists, is there from its docstring."""
    described = {id(name.thing) for name in script("docstrings").names()}
    rows = re.findall(
        r"^\| (`nativemem\..+?`) \|", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    modules = {name for row in rows for name in re.findall(r"`(nativemem\.[\w.]+)`", row)} - {"nativemem.auto"}
    assert len(modules) > 10
    for module in map(importlib.import_module, ["nativemem", *sorted(modules)]):
        public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        missing = [name for name, thing in public.items() if is_ours(thing) and id(thing) not in described]
        assert missing == [], module.__name__


def test_the_reference_has_each_public_header() -> None:
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "include").rglob("*.h"))
    page = (DOCS / "reference" / "c_headers.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^```\{literalinclude\} \.\./\.\./(\S+)$", page, re.MULTILINE)) == headers


def test_docstrings_say_what_callers_need() -> None:
    """Of 100 public names 98 have a docstring with all its parts: `make docstrings ARGS=--gaps`."""
    found = script("docstrings").coverage()
    assert found["names"] > 600
    assert found["all"] >= 98


def test_what_a_docstring_lacks_is_found() -> None:
    docstrings = script("docstrings")

    def bare(size: int) -> int:
        raise ValueError("no")

    def told(size: int) -> int:
        """Returns ``size``. Raises ValueError where it is odd. Any thread."""
        raise ValueError("no")

    def lacks(function: object, examples: str) -> list[str]:
        found: list[str] = docstrings.lacks(
            docstrings.Name("x." + function.__name__, function, None, None), examples
        )
        return found

    everything = ["what", "parameters (size)", "returns", "raises (ValueError)", "threads", "example"]
    assert lacks(bare, "") == everything
    assert lacks(told, ">>> told(2)") == []
    assert lacks(told, ">>> untold(2)") == ["example"]


def test_what_doctest_skips_is_no_example_of_a_page() -> None:
    page = """
>>> run()
>>> with skipped():  # doctest: +SKIP
...     inner()
>>> after(1)
1
"""
    shown = script("docstrings").run_by_doctest(page)
    assert [name for name in ("run", "skipped", "inner", "after") if f"{name}(" in shown] == ["run", "after"]
