"""A block of code that is refused an allocation of the interpreter's own domains, in the process itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backends.native.loader import dataplane

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["FailingInterpreter"]


class FailingInterpreter:
    """What :meth:`Failing.interpreter` returns: a context manager, which may be entered again, and counts anew
    then. It is entered and left by one thread. A block within the block raises RuntimeError."""

    __slots__ = ("_arguments", "_counted", "_domains")

    def __init__(self, domains: tuple[str, ...], bits: int, n: int) -> None:
        self._domains, self._arguments = domains, (bits, n)
        self._counted = (0, 0)

    if TYPE_CHECKING:

        def __enter__(self) -> Self: ...

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> bool: ...

    else:
        __enter__, __exit__ = dataplane.injection_enter, dataplane.injection_exit

    def __repr__(self) -> str:
        return f"<Failing.interpreter n={self.n}, of {', '.join(self._domains)}>"

    @property
    def n(self) -> int:
        """Which allocation fails; 0: none."""
        return self._arguments[1]

    @property
    def domains(self) -> tuple[str, ...]:
        """Those of the interpreter's domains that are counted."""
        return self._domains

    @property
    def calls(self) -> int:
        """Allocations that the last block asked for, known at its end."""
        return self._counted[0]

    @property
    def failed(self) -> int:
        """Of those, how many it made fail."""
        return self._counted[1]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot copy or pickle 'FailingInterpreter': it is for a block of this process")
