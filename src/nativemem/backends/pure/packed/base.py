"""What sequences, tables and bits have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["Packed"]


class Packed:
    """What sequences and tables have in common: memory that they hold until they are detached."""

    __slots__ = ("_capacity", "_raw", "_used", "_version")

    _raw: Any
    _used: int
    _capacity: int
    _version: int

    def __new__(cls, *args: Any, **options: Any) -> Any:
        self = super().__new__(cls)
        self._raw, self._used, self._capacity, self._version = None, 0, 0, 0
        return self

    if TYPE_CHECKING:  # the facade's

        def _refuse(self, why: str, n: int) -> NoReturn: ...
        def _sought(self, key: Any) -> bytes | None: ...

    def _opened(self) -> Any:
        if self._raw is None:
            self._refuse("closed", 0)
        return self._raw

    def _take(self, buffer: Any, capacity: int) -> None:
        if self._capacity:
            raise RuntimeError(f"{type(self).__name__}: was initialised before")
        self._raw, self._capacity = memoryview(buffer), capacity

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._raw is None

    @property
    def capacity(self) -> int:
        """Most items that it holds."""
        return self._capacity

    def __len__(self) -> int:
        self._opened()
        return self._used

    def _detach(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.release()

    def _resume(self, buffer: Any) -> None:
        if self._raw is None and self._capacity:
            self._raw = memoryview(buffer)
