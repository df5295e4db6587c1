"""Which budget a core of one belongs to."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["OwnedCore"]


class OwnedCore:
    """A core that knows the budget in front of it. It does not keep it: the budget keeps the core."""

    __slots__ = ()
    #: the budget's name, though the budget be gone
    name: str | None
    _budget: weakref.ref[Any] | None

    def belongs_to(self, name: str | None, budget: Any) -> None:
        """Tells which budget it is the core of. Once."""
        self.name = name  # type: ignore[misc]  # slots of each backend's core
        self._budget = weakref.ref(budget)  # type: ignore[misc]

    def budget(self) -> Any:
        """Its budget; None where that is gone, or was never told."""
        return None if self._budget is None else self._budget()
