"""Utilities: alignment arithmetic and bytes, the same on both backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InvalidLayout, shown
from ..sizes import parse_size

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Utilities"]

_SIZE_T_MAX = (1 << 64) - 1


def _number(value: Any, label: str) -> int:
    try:
        if value <= _SIZE_T_MAX and type(value) is int and value >= 0:
            return value
    except TypeError:
        pass
    return parse_size(value, label)


def _align(value: Any, label: str) -> int:
    align = _number(value, label)
    if align < 1 or align & (align - 1):
        raise InvalidLayout(f"{label} takes a power of two, not {shown(value)}")
    return align


def _bytes(thing: Any, label: str, *, write: bool = False) -> memoryview:
    try:
        view = memoryview(thing)
        if view.nbytes == 0:
            return memoryview(bytearray())
        view = view.cast("B")
    except TypeError:
        raise TypeError(f"{label} takes a contiguous buffer, not {type(thing).__name__}") from None
    if write and view.readonly:
        raise TypeError(f"{label} takes a writable buffer, not {type(thing).__name__}")
    return view


class Utilities:
    """Functions on sizes (ints or strings, in bytes, up to 2^64 - 1) and on buffers. Any thread.

    A size that is no such number raises :class:`InvalidLayout`, an object without a buffer of plain,
    contiguous bytes :class:`TypeError`.

    >>> import nativemem
    >>> nativemem.utilities.align_up(100, 64), nativemem.utilities.align_up(2**64 - 1, 16)
    (128, None)
    >>> isinstance(nativemem.utilities, Utilities)
    True
    """

    __slots__ = ()
    _backend: ClassVar[Any]

    @property
    def _of(self) -> Any:
        return self._backend.Utilities

    def align_up(self, n: int | str, align: int | str) -> int | None:
        """The least multiple of ``align``, a power of two, that is >= ``n``; None above 2^64 - 1."""
        up: int | None = self._of.align_up(_number(n, "align_up: n"), _align(align, "align_up: align"))
        return up

    def align_down(self, n: int | str, align: int | str) -> int:
        """The greatest multiple of ``align``, a power of two, that is <= ``n``.

        >>> import nativemem
        >>> nativemem.utilities.align_down(100, 64)
        64
        """
        down: int = self._of.align_down(_number(n, "align_down: n"), _align(align, "align_down: align"))
        return down

    def is_aligned(self, n: int | str, align: int | str) -> bool:
        """Whether ``n`` is a multiple of ``align``, a power of two.

        >>> import nativemem
        >>> nativemem.utilities.is_aligned(128, 64)
        True
        """
        return bool(self._of.is_aligned(_number(n, "is_aligned: n"), _align(align, "is_aligned: align")))

    def padding_needed(self, n: int | str, align: int | str) -> int:
        """Bytes from ``n`` to the next multiple of ``align``, a power of two.

        >>> import nativemem
        >>> nativemem.utilities.padding_needed(100, 64)
        28
        """
        label = "padding_needed:"
        padding: int = self._of.padding_needed(_number(n, f"{label} n"), _align(align, f"{label} align"))
        return padding

    def next_power_of_two(self, n: int | str) -> int | None:
        """The least power of two that is >= ``n``; None above 2^63.

        >>> import nativemem
        >>> nativemem.utilities.next_power_of_two(100), nativemem.utilities.next_power_of_two(0)
        (128, 1)
        """
        power: int | None = self._of.next_power_of_two(_number(n, "next_power_of_two: n"))
        return power

    def copy(self, to: Buffer, source: Buffer) -> None:
        """Copies ``source`` to the start of ``to``; the two may overlap. Raises :class:`InvalidLayout`,
        nothing written, where ``to`` is shorter.

        >>> import nativemem
        >>> buffer = bytearray(5)
        >>> nativemem.utilities.copy(buffer, b"abc")
        >>> bytes(buffer[:3])
        b'abc'
        """
        with _bytes(to, "copy: to", write=True) as target, _bytes(source, "copy: source") as given:
            if len(given) > len(target):
                raise InvalidLayout(f"copy: {len(given)} bytes do not fit into {len(target)}")
            self._of.copy(target, given)

    def fill(self, to: Buffer, byte: int) -> None:
        """Sets every byte of ``to``. Raises :class:`InvalidLayout` for a ``byte`` outside 0 … 255.

        >>> import nativemem
        >>> buffer = bytearray(3)
        >>> nativemem.utilities.fill(buffer, 65)
        >>> buffer
        bytearray(b'AAA')
        """
        value = _number(byte, "fill: byte")
        if value > 255:
            raise InvalidLayout(f"fill: byte takes 0 to 255, not {shown(byte)}")
        with _bytes(to, "fill: to", write=True) as target:
            self._of.fill(target, value)

    def compare(self, a: Buffer, b: Buffer) -> int:
        """-1, 0 or 1: the order of two buffers, byte by byte as unsigned numbers, a prefix before the longer.

        >>> import nativemem
        >>> nativemem.utilities.compare(b"ab", b"abc"), nativemem.utilities.compare(b"b", b"a")
        (-1, 1)
        """
        with _bytes(a, "compare: a") as x, _bytes(b, "compare: b") as y:
            order: int = self._of.compare(x, y)
        return order

    def secure_zero(self, to: Buffer) -> None:
        """Zeroes ``to`` in a way that no compiler drops.

        >>> import nativemem
        >>> key = bytearray(b"secret")
        >>> nativemem.utilities.secure_zero(key)
        >>> any(key)
        False
        """
        with _bytes(to, "secure_zero: to", write=True) as target:
            self._of.secure_zero(target)

    def equal_constant_time(self, a: Buffer, b: Buffer) -> bool:
        """Whether two buffers are the same, in a time that depends on their lengths alone.

        >>> import nativemem
        >>> nativemem.utilities.equal_constant_time(b"token", b"token")
        True
        """
        with _bytes(a, "equal_constant_time: a") as x, _bytes(b, "equal_constant_time: b") as y:
            return bool(self._of.equal_constant_time(x, y))
