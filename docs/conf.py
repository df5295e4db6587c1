"""The site: ``make docs`` builds it from docs/ and the README files of the other folders.

The source tree is the site's tree: Sphinx reads from the repository's root, so that a link between two pages is
right in the repository and in the site, and none is written anew (docs/decisions/0083-the-tree-is-the-site.md).
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[1]
VERSION: dict[str, str] = {}
exec((ROOT / "src/nativemem/_version.py").read_text(encoding="utf-8"), VERSION)

project = "nativemem"
author = "The nativemem authors"
project_copyright = author
version = release = VERSION["__version__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "bench/*.md", "csrc/*.md", "examples/*.md", "examples/*/*.md"]
# folders that hold no page; Sphinx does not walk through them
exclude_patterns = [".*", "build", "dist", "src", "tests", "scripts"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"nativemem {version}"
templates_path = ["site"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
# the site's address leads to docs/index.html
html_additional_pages = {"index": "start.html"}
html_copy_source = False


def pages_become_links(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """A page that a docstring names, as docs/scopes.md, is a link to it."""
    lines[:] = [re.sub(r"(?<![\w/])(docs/[\w/]+)\.md(?![\w#])", r":doc:`\1.md </\1>`", line) for line in lines]


#: what an annotation or :class: can mean, as against methods of the same name
_TYPES = {"class", "exception", "data", "type"}
#: modules whose names annotations use, and names of packages that the build may not have
_PLACES = ("builtins", "typing", "collections.abc", "contextlib", "types", "os", "array", "pathlib")
_OTHERS = {"Buffer", "Executor", "NDArray", "Self", "cffi", "dtype", "numpy"}


def find_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Docstrings and annotations name a class as code does that has imported it.

    The name is looked for among all that the reference describes. What belongs to Python or to another package is
    no link. What is left is a name of this package that nothing describes, which Sphinx warns of.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if _is_of_others(target):
        return contnode
    entries = env.domains["py"].data["objects"]
    types_alone = node["reftype"] in ("class", "exc", "obj")
    for end in (f".{target}", f".{target.rpartition('.')[2]}"):
        known = [name for name in entries if name.endswith(end)]
        if types_alone:
            known = [name for name in known if entries[name].objtype in _TYPES]
        if known:
            from sphinx.util.nodes import make_refnode

            name = min(known, key=lambda name: (name.count("."), name))
            entry = entries[name]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)
    return None


def _is_of_others(target: str) -> bool:
    first, last = re.split(r"[.\[]", target)[0], target.rpartition(".")[2]
    if re.fullmatch(r"[A-Z]|_\w+", last):  # a type variable; what an annotation alone uses
        return True
    if first in sys.stdlib_module_names or first in _OTHERS:
        return True
    return any(hasattr(importlib.import_module(name), first) for name in _PLACES)


def source_of_a_facade(app: Sphinx | None, module: str, name: str) -> str | None:
    """The module that has the source of ``name``: a class that is bound to a backend has a facade's."""
    thing = getattr(sys.modules.get(module), name, None)
    for cls in thing.__mro__[1:] if isinstance(thing, type) else ():
        if cls.__name__ == name:
            return str(cls.__module__)
    return None


def source_pages_lead_back(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """viewcode takes all names of a module for those of one place, and the reference may have some elsewhere; its
    list of modules has those without a source, too."""
    if not pagename.startswith("_modules/"):
        return
    entries = app.env.domains["py"].data["objects"]

    def right(match: re.Match[str]) -> str:
        words = match[2].split(".")
        for start in range(len(words)):
            end = "." + ".".join(words[start:])
            for name in sorted(entries, key=len):
                if f".{name}".endswith(end) and match[1].endswith(f"{entries[name].docname}.html"):
                    return f'href="{match[1]}#{name}"'
        return match[0]

    body = re.sub(r'href="([^"#]*/reference/\w+\.html)#([\w.]+)"', right, context["body"])
    context["body"] = re.sub(r'<li><a href="builtins\.html">builtins</a></li>\n?', "", body)


def name_meant(node: pending_xref) -> str:
    """The whole name of a class that an annotation names as the module does which has the annotation; else ""."""
    signature = node.parent
    while signature is not None and signature.tagname != "desc_signature":
        signature = signature.parent
    if signature is None or "." in node["reftarget"]:
        return ""
    module, name = signature.get("module"), signature.get("fullname", "").partition(".")[0]
    home = source_of_a_facade(None, module, name)
    home = home or getattr(getattr(sys.modules.get(module), name, None), "__module__", module)
    thing = getattr(sys.modules.get(home), node["reftarget"], None)
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else ""


def setup(app: Sphinx) -> dict[str, Any]:
    from pygments.lexers.python import PythonLexer
    from sphinx.addnodes import pending_xref
    from sphinx.transforms.post_transforms import SphinxPostTransform

    class NamesThatAreTwo(SphinxPostTransform):
        """Before references are resolved: where the reference has two classes of a name, the one that is meant."""

        default_priority = 5

        def run(self, **options: Any) -> None:
            entries = self.env.domains["py"].data["objects"]
            for node in self.document.findall(pending_xref):
                end = f".{node['reftarget']}"
                if node.get("refdomain") == "py" and sum(name.endswith(end) for name in entries) > 1:
                    name = name_meant(node)
                    if name in entries:
                        node["reftarget"] = name

    app.add_lexer("ipython", PythonLexer)  # that of cells comes with IPython, which the build need not have
    app.add_post_transform(NamesThatAreTwo)
    app.connect("autodoc-process-docstring", pages_become_links)
    app.connect("missing-reference", find_short_name)
    app.connect("viewcode-follow-imported", source_of_a_facade)
    app.connect("html-page-context", source_pages_lead_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
