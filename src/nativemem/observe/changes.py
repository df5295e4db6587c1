"""What is more and what is less of two moments, and the table that shows it.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sizes import format_size

__all__ = ["Change", "Difference", "Key", "Part", "compare", "table"]

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Part:
    """What belongs together under one key: ``bytes``, ``blocks``, and ``of``, what it is of."""

    bytes: int = 0
    blocks: int = 0
    of: Any = None


@dataclass(frozen=True)
class Change:
    """One owner, or one site: ``of``, the path of the owner or the :class:`~.recording.Sampled` as it was last;
    ``before`` and ``after``, bytes; ``blocks``, how many more there are; ``how``: grew, shrank, came or went."""

    of: Any
    before: int
    after: int
    blocks: int
    how: str

    @property
    def grew(self) -> int:
        """Bytes that it has more; less than 0 where it has less."""
        return self.after - self.before

    @property
    def name(self) -> str:
        """The owner's path; or the site's place and owner."""
        return self.of if isinstance(self.of, str) else f"{self.of.path} ({self.of.owner})"


def compare(before: Mapping[Key, Part], after: Mapping[Key, Part]) -> tuple[Change, ...]:
    """A :class:`Change` for each key whose bytes are not in ``after`` what they were ``before``, or that came or
    went; the largest first."""
    found = []
    for key in {**before, **after}:
        a, b = before.get(key), after.get(key)
        old, new = a or Part(), b or Part()
        if a is not None and b is not None and old.bytes == new.bytes:
            continue
        how = "came" if a is None else "went" if b is None else "grew" if new.bytes > old.bytes else "shrank"
        of = new.of if b is not None else old.of
        found.append(Change(of, old.bytes, new.bytes, new.blocks - old.blocks, how))
    return tuple(sorted(found, key=lambda change: (-abs(change.grew), change.name)))


@dataclass(frozen=True)
class Difference:
    """What :func:`~.snapshot.diff` found: ``seconds`` between the two, and a :class:`Change` of each of ``owners``
    and ``sites`` that is not as it was, the largest first. ``str()`` of it is a table of at most 20 of each."""

    seconds: float
    owners: tuple[Change, ...]
    sites: tuple[Change, ...]

    def __str__(self) -> str:
        lines = [f"{self.seconds:.1f} s"]
        for noun, changes in (("owner", self.owners), ("site", self.sites)):
            if not changes:
                lines += ["", f"no {noun} changed"]
                continue
            rows = [
                (
                    _signed(change.grew),
                    change.how,
                    format_size(change.before),
                    format_size(change.after),
                    change.name,
                )
                for change in changes[:_MOST]
            ]
            lines += ["", *table(("change", "", "before", "after", noun), rows, left=(1, 4))]
            if len(changes) > _MOST:
                rest = sum(change.grew for change in changes[_MOST:])
                lines.append(f"{_signed(rest)} in {len(changes) - _MOST} more")
        return "\n".join(lines)


_MOST = 20


def _signed(n: int) -> str:
    return f"{'-' if n < 0 else '+'}{format_size(abs(n))}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> list[str]:
    """The lines of a table of ``rows`` below ``head``, columns two spaces apart; those numbered in ``left`` begin
    on the left, all others end on the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
