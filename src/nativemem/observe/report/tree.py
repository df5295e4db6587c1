"""The call paths of a recording as one tree, in which paths of equal places are one.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..recording import Path, Sampled

__all__ = ["MEASURES", "Amount", "Leaf", "Place", "Tree", "tree_of"]

#: what of a site is looked at: live at the end, at the process's peak, or all that it took
MEASURES = ("live", "peak", "total")


class Place(NamedTuple):
    """A line of a program: ``file``, ``line`` and the ``function`` that it is in; no file: it is no Python code."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Amount:
    """Bytes and blocks: ``live`` when the recording was read, its share of the process's ``peak``, and in
    ``total``; ``live_blocks``, ``peak_blocks`` and ``total_blocks``. A ``measure`` is one of the three, by its
    name."""

    live: int = 0
    live_blocks: int = 0
    peak: int = 0
    peak_blocks: int = 0
    total: int = 0
    total_blocks: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.live + other.live,
            self.live_blocks + other.live_blocks,
            self.peak + other.peak,
            self.peak_blocks + other.peak_blocks,
            self.total + other.total,
            self.total_blocks + other.total_blocks,
        )

    def bytes(self, measure: str) -> int:
        """Those of one of :data:`MEASURES`."""
        number: int = getattr(self, measure)
        return number

    def blocks(self, measure: str) -> int:
        """Those of one of :data:`MEASURES`."""
        number: int = getattr(self, f"{measure}_blocks")
        return number

    @staticmethod
    def of(site: Sampled) -> Amount:
        """That of a site of a recording."""
        return Amount(site.live, site.live_blocks, site.peak, site.peak_blocks, site.total, site.total_blocks)


class Leaf(NamedTuple):
    """What one call path (its innermost ``node``) took for one ``owner`` from one ``source``: an ``amount``."""

    node: int
    owner: str
    source: str
    amount: Amount


class Tree:
    """Nodes are numbers; 0 is the root, which stands for the process, and a node's parent has a smaller number.

    ``parents`` and ``places`` are by node, and ``leaves`` are what was taken. Not safe while it is being built.

    >>> tree = Tree()
    >>> main = tree.node(0, Place("app.py", 9, "main"))
    >>> rows = tree.node(main, Place("app.py", 4, "rows"))
    >>> [place.function for place in tree.path(rows)], tree.node(0, Place("app.py", 9, "main")) == main
    (['rows', 'main'], True)
    """

    def __init__(self) -> None:
        self.parents = [0]
        self.places = [Place("", 0, "(all)")]
        self.leaves: list[Leaf] = []
        self._below: dict[tuple[int, Place], int] = {}

    def node(self, parent: int, place: Place) -> int:
        """The node for ``place`` below ``parent``."""
        found = self._below.get((parent, place))
        if found is None:
            found = self._below[parent, place] = len(self.parents)
            self.parents.append(parent)
            self.places.append(place)
        return found

    def path(self, node: int) -> Iterator[Place]:
        """Its places, innermost first; the root has none."""
        while node != 0:
            yield self.places[node]
            node = self.parents[node]


def tree_of(sites: Iterable[Sampled]) -> Tree:
    """The tree of the call paths of ``sites``.

    >>> outer = Path("a.py", 3, "main")
    >>> site = Sampled(Path("a.py", 9, "load", outer), "cache", "objects", 10, 1, 30, 3, 20, 2)
    >>> tree = tree_of([site, site])
    >>> [place.function for place in tree.path(tree.leaves[0].node)], len(tree.leaves), tree.leaves[0].amount.live
    (['load', 'main'], 1, 20)
    """
    tree = Tree()
    known: dict[int, int] = {}  # by the path's identity: the recording's own are shared
    sums: dict[tuple[int, str, str], Amount] = {}
    for site in sites:
        todo: list[Path] = []
        at: Path | None = site.path
        while at is not None and id(at) not in known:
            todo.append(at)
            at = at.caller
        node = 0 if at is None else known[id(at)]
        for each in reversed(todo):
            node = known[id(each)] = tree.node(node, Place(each.file, each.line, each.function))
        key = node, site.owner, site.source
        sums[key] = sums.get(key, Amount()) + Amount.of(site)
    tree.leaves = [Leaf(*key, amount) for key, amount in sums.items()]
    return tree
