"""Limited: a budget in front of an allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .base import Wrapper

if TYPE_CHECKING:
    from ..allocators.base import Allocator
    from ..budgets.budget import Budget

__all__ = ["Limited"]


class Limited(Wrapper):
    """Charges each block's size to a budget before ``upstream`` serves it.

    Parameters: ``upstream``, an allocator (None: the system); ``budget``, a :class:`Budget`. Raises
    :class:`BudgetExceeded` where the budget refuses. As thread-safe as its upstream.

    >>> import nativemem
    >>> limited = nativemem.Limited(None, nativemem.Budget("1 KiB", name="cache"))
    >>> block = limited.alloc(1000)
    >>> try:
    ...     limited.alloc(100)
    ... except nativemem.BudgetExceeded as error:
    ...     print(error)
    Limited: 100 bytes asked for; budget 'cache' has 1000 of 1024 bytes in use
    """

    __slots__ = ()
    _fields = ("_budget",)
    _budget: Budget

    def __init__(self, upstream: Allocator | None, budget: Budget) -> None:
        upstream = self._upstream(upstream)
        if not isinstance(budget, self._binding.Budget):
            raise ConfigError(
                f"limited.budget: takes a Budget of the {self._backend.name} backend, not {type(budget).__name__}"
            )
        core = self._make("LimitedCore", upstream, upstream._core, budget._core)
        self._open(core, upstream, wraps=True)
        self._budget = budget

    def _largest_free(self) -> int | None:
        below, charge = super()._largest_free(), self._budget._largest_charge()
        return charge if below is None else min(below, charge)

    @property
    def owner(self) -> Budget:
        """The budget that blocks are charged to."""
        return self._budget
