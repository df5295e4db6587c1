"""What a recording shows: by owner, by line of the program, over time; as text, pages and files for other tools."""

from __future__ import annotations

from ..._lazy import room

__getattr__, __all__ = room(__name__, formats="FORMATS render", model="Report", comparison="Comparison")
