"""Where collections take their memory from: an allocator, a budget, or a provider."""

from __future__ import annotations

import operator
import weakref
from typing import Any

from ...allocators.base import Allocator
from ...budgets.budget import Budget
from ...errors import ConfigError, InvalidLayout, shown
from ...sizes import SIZE_MAX

__all__ = ["Storage", "capacity_of"]


def capacity_of(value: Any, label: str, most: int = SIZE_MAX) -> int:
    """A number of items from 1 to ``most``. Raises :class:`InvalidLayout` for anything else."""
    try:
        n = operator.index(value)
        if isinstance(value, bool) or not 1 <= n <= most:
            raise TypeError
    except TypeError:
        message = f"{label}: capacity takes a number of items from 1 to {most}, not {shown(value)}"
        raise InvalidLayout(message, suggestion="give the most that it shall ever hold") from None
    return n


class Storage:
    """``size`` bytes, charged at once: ``memory`` is a writable buffer, ``owner`` the budget that pays, or None.

    ``upstream``: an allocator; a :class:`Budget`, charged for a block of the system's; a provider of
    :mod:`nativemem.manager` that is empty, and is again after :meth:`close`; None, the system.
    """

    __slots__ = ("_provider", "_views", "memory", "upstream")

    def __init__(self, binding: Any, upstream: Any, size: int, label: str) -> None:
        self.upstream, self._provider = upstream, None
        self._views: list[weakref.ref[memoryview]] = []
        if size > SIZE_MAX:
            raise InvalidLayout(f"{label}: {size} bytes is not a size that a block can have")
        if upstream is None:
            self.memory = binding.default_system.alloc(size)
        elif isinstance(upstream, Allocator):
            self.memory = upstream.alloc(size)
        elif isinstance(upstream, Budget):
            self.memory = upstream._binding.Limited(None, upstream).alloc(size)
        elif all(hasattr(upstream, name) for name in ("acquire", "release", "resize", "__len__")):
            if len(upstream):
                raise ConfigError(f"{label}: upstream takes an empty provider; this one has {len(upstream)} bytes")
            upstream.resize(size)
            try:
                self.memory = upstream.acquire()
            except BaseException:
                upstream.resize(0)
                raise
            self._provider = upstream
        else:
            raise ConfigError(
                f"{label}: upstream takes an allocator, a Budget or a provider, not {shown(upstream)}"
            )

    @property
    def owner(self) -> Any:
        return getattr(self.memory, "owner", None)

    def lend(self, view: memoryview) -> memoryview:
        """The view, which :meth:`close` looks after: an allocator knows those of its blocks, a provider not."""
        if self._provider is not None:
            self._views = [each for each in self._views if _is_out(each)]
            self._views.append(weakref.ref(view))
        return view

    def close(self) -> None:
        """Gives the memory back. Raises :class:`BufferError`, with the memory still held, while a view of it is
        out, and what the allocator raises."""
        if self._provider is None:
            self.memory.free()
            return
        if any(map(_is_out, self._views)):
            raise BufferError("close refused while a view of the items is out; release that first")
        self._provider.release(self.memory)
        try:
            self._provider.resize(0)
        except BaseException:  # whole: nothing was cut
            self.memory = self._provider.acquire()
            raise


def _is_out(reference: weakref.ref[memoryview]) -> bool:
    view = reference()
    try:
        return view is not None and view.nbytes >= 0
    except ValueError:  # it was released
        return False
