"""Whether each link of a built site leads somewhere: `make docs-links`. No network.

Reads every HTML file of the folder and follows each link to a file of it, and to the place on that page that it
names. Addresses of other hosts are not asked for; a page that loads something from one is a fault, as the site has
to work from a disk. Exit code 1 where a link leads nowhere.
"""

from __future__ import annotations

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: what a page loads by itself, as against what a reader follows
_LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """The places of a page that a link may name, and the links on it: line, address, whether the page loads it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[tuple[int, str, bool]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.places.add(value or "")
            elif name in ("href", "src") and value is not None:
                self.links.append((self.getpos()[0], value, (tag, name) in _LOADED))


def faults(site: Path) -> list[str]:
    """A line for each link below ``site`` that leads nowhere, and for each thing that is loaded from another host.

    Parameters: ``site``, the folder that a build wrote. Raises OSError where it cannot be read.
    """
    site = site.resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for line, address, loaded in page.links:
            fault = _fault(site, path, address, loaded, pages)
            if fault:
                found.append(f"{path.relative_to(site)}:{line}: {address}: {fault}")
    return found


def _fault(site: Path, path: Path, address: str, loaded: bool, pages: dict[Path, Page]) -> str:
    parts = urlsplit(address)
    if parts.scheme == "data" or parts.scheme == "mailto":
        return ""
    if parts.scheme or parts.netloc:
        return "is loaded from another host" if loaded else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(site):
        return "leads out of the site"
    if not target.is_file():
        return "there is no such file"
    place = unquote(parts.fragment)
    if place and target in pages and place not in pages[target].places:
        return "there is no such place on that page"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path, help="the folder that `make docs` wrote")
    site = parser.parse_args().site
    if not site.is_dir():
        parser.error(f"there is no {site}: `make docs` makes it")
    found = faults(site)
    print(*found, f"{site}: {len(found)} links lead nowhere", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
