"""Drawn changes that no test can tell from the original, each with the reason."""

from __future__ import annotations

from mutants_random import Equivalent

EQUIVALENT: tuple[Equivalent, ...] = ()
