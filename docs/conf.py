"""The site: ``make docs`` builds it from docs/ and the README files of the other folders.

The source tree is the site's tree: Sphinx reads from the repository's root, so that a link between two pages is
right in the repository and in the site, and none is written anew (docs/decisions/0083-the-tree-is-the-site.md).
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION: dict[str, str] = {}
exec((ROOT / "src/nativemem/_version.py").read_text(encoding="utf-8"), VERSION)

project = "nativemem"
author = "The nativemem authors"
project_copyright = author
version = release = VERSION["__version__"]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "bench/*.md", "csrc/*.md", "examples/*.md", "examples/*/*.md"]
# folders that hold no page; Sphinx does not walk through them
exclude_patterns = [".*", "build", "dist", "src", "tests", "scripts"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
templates_path = ["site"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
# the site's address leads to docs/index.html
html_additional_pages = {"index": "start.html"}
html_copy_source = False
html_title = f"nativemem {version}"
