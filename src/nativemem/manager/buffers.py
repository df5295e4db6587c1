"""What a provider is given to write."""

from __future__ import annotations

from typing import Any

__all__ = ["plain"]


def plain(data: Any, label: str) -> Any:
    """``data`` as bytes or as a view of plain bytes, whose length is what it holds. Raises :class:`TypeError`."""
    if type(data) is bytes:
        return data
    try:
        view = memoryview(data)
        return view.cast("B") if view.contiguous and view.nbytes else bytes(view)
    except TypeError:
        raise TypeError(f"{label}: takes bytes or another buffer, not {type(data).__name__}") from None
