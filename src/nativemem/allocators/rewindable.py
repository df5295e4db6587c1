"""What arena and stack have in common: blocks that go together, and marks to come back to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import NativeMemError, Status
from ..refusals import name_of, raise_status
from .base import Allocator

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Mark"]


class Mark:
    """What :meth:`Arena.mark` returns, and a stack's: a position in an arena, or a height of a stack, to come back
    to. It belongs to the thread of its allocator."""

    __slots__ = ("_core", "_serial")

    def __init__(self, core: Any, serial: int) -> None:
        self._core, self._serial = core, serial

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Mark': it is released once")


class Rewindable(Allocator):
    """What arena and stack have in common: blocks that go together."""

    __slots__ = ()
    _marks: list[Mark]

    def reset(self) -> None:
        """Drops every block, keeps memory for reuse. Raises :class:`BufferError` while a view is out."""
        self._opened()
        self._reset()
        self._marks.clear()

    def mark(self) -> Mark:
        """The position now, for :meth:`release`."""
        core = self._opened()
        serial = self._serial()  # first: a block that comes in between belongs to what is released
        status, position = core.take_mark()
        self._call(status)
        mark = Mark(position, serial)
        self._marks.append(mark)
        return mark

    def release(self, mark: Mark) -> None:
        """Drops every block newer than ``mark``, which is used up; marks newer than it become invalid.

        Raises :class:`InvalidMark` for a mark of another allocator, of an earlier generation, already
        released, or above the top of a stack, :class:`BufferError` while a view of a dropped block is out,
        :class:`TypeError` for what is no mark.
        """
        if not isinstance(mark, Mark):
            raise TypeError(f"{name_of(self)}.release: takes a Mark, not {type(mark).__name__}")
        core = self._opened()
        self._call(core.check())
        if mark not in self._marks:
            raise_status(self, Status.INVALID_MARK)
        self._release(mark._serial, mark._core)
        with suppress(ValueError):  # as in _forget
            del self._marks[self._marks.index(mark) :]

    def _forget(self, mark: Mark) -> None:
        """Strikes one mark off, unless a signal handler or a finalizer has reset in between."""
        with suppress(ValueError):
            self._marks.remove(mark)

    @contextmanager
    def _rewound(self, what: str) -> Iterator[Self]:
        mark = self.mark()
        try:
            yield self
        except BaseException as original:
            try:
                self.release(mark)
            except (NativeMemError, BufferError) as error:
                if hasattr(original, "add_note"):
                    original.add_note(f"the {what} was not released: {error}")
            raise
        self.release(mark)
