"""What all bounded collections have in common: how they are made, closed, copied and refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from ...errors import CapacityExceeded, StaleHandle
from ...refusals import name_of, space
from .storage import Storage

__all__ = ["Bounded"]

B = TypeVar("B", bound="Bounded")


class Bounded:
    """A collection of fixed capacity, whose memory is taken and charged when it is made.

    Full, it raises :class:`CapacityExceeded` and keeps its contents. It is a context manager that closes. Any
    thread may use it, one call at a time: on the native backend the interpreter's lock sees to that for each single
    call, as for a list; on the pure one callers do.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ("_storage", "_record", "__weakref__")  # slots of the bound class
    _binding: ClassVar[Any]
    #: what its capacity counts
    _unit: ClassVar[str] = "items"
    _storage: Storage
    capacity: int
    closed: bool

    if TYPE_CHECKING:

        def copy(self: B) -> B: ...
        def _detach(self) -> None: ...
        def _resume(self, memory: Any) -> None: ...

    @contextmanager
    def _made(self) -> Iterator[None]:
        """Around what follows the taking of the memory: if it fails the memory goes back."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _refuse(self, why: str, n: int) -> NoReturn:
        """Raises what a backend found: ``"closed"``, or ``"full"`` where n more were to be put in."""
        name = name_of(self)
        if why == "closed":
            raise StaleHandle(f"{name}: is closed")
        used, capacity = self._in_use(), self.capacity
        one = self._unit[:-1] if n == 1 else self._unit
        raise CapacityExceeded(
            f"{name}: no room for {n} more {one}; {used} of {capacity} are in use",
            suggestion=f"take {self._unit} out first, or make it with more capacity",
            **space(n, used, capacity),
            owner=getattr(self.owner, "name", None),
        )

    def _in_use(self) -> int:
        return len(self)  # type: ignore[arg-type]

    def _open_or_refuse(self) -> None:
        if self.closed:
            self._refuse("closed", 0)

    @property
    def upstream(self) -> Any:
        """What it was told to take its memory from; None: the system."""
        return self._storage.upstream

    @property
    def owner(self) -> Any:
        """The :class:`Budget` that its memory is charged to, or None."""
        return self._storage.owner

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds, however many items are in it; 0 when closed."""
        return 0 if self.closed else memoryview(self._storage.memory).nbytes

    def close(self) -> None:
        """Drops the contents and gives the memory back. Idempotent. Afterwards every use but this raises
        :class:`StaleHandle`.

        Raises :class:`BufferError`, with nothing changed, while a view of the memory is out, and what its allocator
        raises, as :class:`WrongThread` of an arena's.
        """
        if self.closed:
            return
        self._detach()
        try:
            self._storage.close()
        except BaseException:
            self._resume(self._storage.memory)
            raise

    def __enter__(self: B) -> B:
        self._open_or_refuse()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    def __copy__(self: B) -> B:
        return self.copy()

    def __deepcopy__(self: B, memo: Any) -> B:
        return self.copy()  # what comes out of it are numbers and bytes

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"cannot pickle {name_of(self)!r}: memory has one owner; pickle a list or dict of its contents"
        )
