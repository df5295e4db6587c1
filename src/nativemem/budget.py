"""Budget: a limit on bytes, by owner, with ancestors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from ._backend import facade
from .config import MAX_DEPTH, format_size, parse_size
from .errors import ConfigError, Refusal, Status, raise_status, shown

__all__ = ["Budget", "Denial"]


@dataclass(frozen=True)
class Denial:
    """A request that a budget refused: bytes requested, used and allowed at the time, the name of the
    budget whose limit stood in the way, and when (seconds since the epoch)."""

    requested: int
    used: int
    limit: int
    owner: str | None
    time: float


@facade
class Budget:
    """A limit on bytes. It holds no memory; it says yes or no to those that do.

    Parameters: ``limit``, bytes or a string, at least 1; ``name``, which makes it an owner; ``parent``, a
    budget that is charged as well. A request passes if it fits here and in every ancestor; exactly the
    limit passes. Any thread may call it; the limit is never exceeded.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 KiB", name="cache")
    >>> with budget.reserve(1000):
    ...     budget.used, budget.try_reserve(100), budget.last_denial.owner
    (1000, False, 'cache')
    >>> budget.used, budget.peak
    (0, 1000)
    """

    __slots__ = ("__weakref__", "_core", "_depth", "_name", "_parent")
    _backend: ClassVar[Any]
    _binding: ClassVar[Any]

    def __init__(self, limit: int | str, name: str | None = None, parent: Any = None) -> None:
        limit = parse_size(limit, "budget.limit:", least=1)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"budget.name: takes a string or None, not {shown(name)}")
        if parent is not None and not isinstance(parent, self._binding.Budget):
            raise ConfigError(
                f"budget.parent: takes a Budget of the {self._backend.name} backend, "
                f"not {type(parent).__name__}"
            )
        if hasattr(self, "_core"):
            raise RuntimeError("Budget: was initialised before")
        depth = 1 if parent is None else parent._depth + 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"budget.parent: at most {MAX_DEPTH} budgets stand below each other")
        self._depth, self._name, self._parent = depth, name, parent
        try:
            self._core = self._backend.BudgetCore(limit, None if parent is None else parent._core)
        except Refusal as r:
            raise_status(self, r.status, r.requested, r.used, r.limit)
        _names[self._core] = name

    @property
    def name(self) -> str | None:
        """What it was named, which makes it an owner."""
        return self._name

    @property
    def parent(self) -> Any:
        """The budget that is charged as well, or None."""
        return self._parent

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._core.numbers()[0]

    @property
    def peak(self) -> int:
        """Highest ``used`` so far."""
        return self._core.numbers()[1]

    @property
    def limit(self) -> int:
        """Most bytes allowed. May be set; a limit below ``used`` refuses until enough was released."""
        return self._core.numbers()[2]

    @limit.setter
    def limit(self, limit: int | str) -> None:
        self._core.set_limit(parse_size(limit, "budget.limit:", least=1))

    @property
    def available(self) -> int:
        """Bytes left under this budget's own limit."""
        used, _, limit, _ = self._core.numbers()
        return max(limit - used, 0)

    @property
    def denied(self) -> int:
        """Requests refused so far, here or for a request that came through here."""
        return self._core.numbers()[3]

    @property
    def last_denial(self) -> Denial | None:
        """The last refused request, or None."""
        denial = self._core.denial()
        if denial is None:
            return None
        requested, used, limit, refuser, when = denial
        return Denial(requested, used, limit, None if refuser is None else _names.get(refuser), when / 1e9)

    def try_reserve(self, n: int | str) -> bool:
        """Charges ``n`` bytes; returns whether they fit. Nothing changes where they do not."""
        return self._core.charge(parse_size(n, "budget.reserve: size"))

    def reserve(self, n: int | str) -> Any:
        """Charges ``n`` bytes at once; the result may be used as a context manager that releases them.

        Raises :class:`BudgetExceeded`, charging nothing, where they do not fit.
        """
        n = parse_size(n, "budget.reserve: size")
        if not self._core.charge(n):
            denial = self._core.denial()
            raise_status(self, Status.OVER_BUDGET, n, denial[1], denial[2])
        return self._reserved(n)

    @contextmanager
    def _reserved(self, n: int) -> Iterator[Budget]:
        try:
            yield self
        finally:
            self.release(n)

    @property
    def owner(self) -> Any:
        """The budget itself, as an allocator's ``owner``."""
        return self

    def release(self, n: int | str) -> None:
        """Gives ``n`` charged bytes back. Raises :class:`BudgetUnderflow`, changing nothing, if more than
        are in use."""
        n = parse_size(n, "budget.release: size")
        status = self._core.release(n)
        if status != Status.OK:
            raise_status(self, status, n, self.used)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Budget': what is charged to it is charged once")

    def __repr__(self) -> str:
        used, peak, limit, _ = self._core.numbers()
        label = f" {self.name!r}" if self.name else ""
        return f"<Budget{label} {format_size(used)} of {format_size(limit)}, peak {format_size(peak)}>"


_names: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()
