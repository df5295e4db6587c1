"""Opens what a report can be made of."""

from __future__ import annotations

import os

from ..recording import Recording, read

__all__ = ["load"]


def load(file: str | os.PathLike[str]) -> Recording:
    """What ``file`` holds. Raises OSError where it cannot be read, :class:`ConfigError` where it is no
    recording."""
    return read(file)
