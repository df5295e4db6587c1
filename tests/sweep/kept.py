"""What an operation that succeeds leaves behind of the interpreter's: nothing, however often it is done."""

from __future__ import annotations

import contextlib

from bad_input.cases import REPEATED, Case, _settle, rising
from bad_input.world import World
from nativemem._api import load

from .scenarios import scenarios, subject_of


def kept(backend: str, group: str) -> list[int] | None:
    """By how many blocks of the interpreter each round of a group's operations left more, if each did."""
    nm = load(backend)
    rows = [row for row in scenarios()[group] if not row.changes and not row.dry and "exported" not in row.label]

    def round_() -> None:
        for row in rows:
            for _ in range(REPEATED + 2):  # what else is freed meanwhile hides none of them
                w = World(nm, subject_of(group))
                w.watched = False
                try:
                    with contextlib.suppress(Exception):
                        row.prepare(w)
                        _settle(row.run(w), w, Case("", row.run, attribute=True))
                finally:
                    w.finish()

    return rising(round_, 15)
