"""Struct formats of items and keys: what is packed how, and what is refused with which words."""

from __future__ import annotations

import math
import re
import struct
import sys
from numbers import Number
from typing import Any

from ...allocators.typed import _Record
from ...errors import InvalidLayout, shown

__all__ = ["Record"]

_ITEM = re.compile(r"(\d*)(Z?[a-zA-Z?])")
_SWAPPED = "<" if sys.byteorder == "big" else ">!"
#: numbers of the kinds of fields, as in csrc
_SIGNED, _UNSIGNED = {1: 0, 2: 2, 4: 4, 8: 6}, {1: 1, 2: 3, 4: 5, 8: 7}
_F32, _F64, _BOOL, _BYTES, _PASCAL = range(8, 13)
#: from here on a number rounds to an infinity of single precision
_BEYOND_SINGLE = (2 - 2**-24) * 2.0**127
#: formats with more fields than this are left to the struct module
_MOST_FIELDS = 64


def _kind(letter: str, size: int) -> int | None:
    if letter in "bhilqn":
        return _SIGNED[size]
    if letter in "BHILQN":
        return _UNSIGNED[size]
    return {"f": _F32, "d": _F64, "?": _BOOL, "s": _BYTES, "p": _PASCAL}.get(letter)


class Record(_Record):
    """A struct format of items, or with ``key`` of keys: those have to come back as they were.

    ``fields`` are what C packs without Python, none for a format that it does not know; ``code`` is the format as
    :meth:`memoryview.cast` takes it, if it does; ``spec`` is what a backend is told.
    """

    __slots__ = ("_singles", "_widths", "code", "fields", "label", "spec")

    def __init__(self, item_format: Any, label: str, key: bool = False) -> None:
        super().__init__(item_format, f"{label} format")
        self.label = label
        letters = [(int(n) if n else 1, letter) for n, letter in _ITEM.findall(self.format)]
        #: bytes that the text in a field may have, by the field's number
        self._widths: dict[int, int] = {}
        #: numbers of the fields of single precision, which the struct module lets overflow
        self._singles: list[int] = []
        place = 0
        for n, letter in letters:
            if letter in "sp":
                self._widths[place] = n if letter == "s" else min(n - 1, 255)
            if letter == "f":
                self._singles += range(place, min(place + n, place + 4096))
            place += 1 if letter in "sp" else 0 if letter == "x" else n
        if not place:
            raise InvalidLayout(f"{label} format: {shown(item_format)} is a format of no values")
        self.fields = self._plain_fields(letters, place)
        self.code = self._cast_code(letters)
        pack = self.pack_key if key else self.pack_item
        gaps = sum(size for _, _, size in self.fields) != self.size
        self.spec = (self.size, self.single, gaps, key, self.fields, pack, self.unpack_item)

    def _plain_fields(self, letters: list[tuple[int, str]], places: int) -> tuple[tuple[int, int, int], ...]:
        order = self.format[:1] if self.format[:1] in "@=<>!" else ""
        if places > _MOST_FIELDS or (order and order in _SWAPPED):
            return ()
        fields, before = [], order
        for n, letter in letters:
            text = f"{n}{letter}" if letter in "sp" else letter
            for _ in range(1 if letter in "sp" else n):
                size = struct.calcsize(order + text)
                kind = _kind(letter, size)
                if letter != "x":
                    if kind is None:
                        return ()
                    fields.append((kind, struct.calcsize(before + text) - size, size))
                before += text
        return tuple(fields)

    def _cast_code(self, letters: list[tuple[int, str]]) -> str:
        if len(letters) != 1 or len(self.fields) != 1 or self.fields[0][0] > _BOOL:
            return ""
        [(_, letter)] = letters
        return letter if struct.calcsize(letter) == self.size else ""

    def pack_item(self, value: Any) -> bytes:
        """Bytes of an item. Raises :class:`InvalidLayout` for what is of another type, out of range or too long."""
        if self._widths or self._singles:
            try:
                value = (value,) if self.single else tuple(value)
            except TypeError:
                raise self.misfit(value, self.label) from None
            for place, width in self._widths.items():
                text = value[place] if place < len(value) else b""
                if isinstance(text, (bytes, bytearray)) and len(text) > width:
                    why = f": it has {len(text)} bytes, and the field {width}"
                    raise self.misfit(text, self.label, why, "shorten it, or make the field wider")
            for place in self._singles:
                if place < len(value) and _overflows(value[place]):
                    raise self.misfit(value[place], self.label, "", "take d, of twice the size")
            value = value[0] if self.single else value
        return self.pack(value, self.label)

    def unpack_item(self, packed: bytes) -> Any:
        """The item that the bytes stand for."""
        return self.unpack(packed, 0)

    def pack_key(self, key: Any) -> bytes:
        """Bytes of a key, the same for equal keys. Raises :class:`InvalidLayout` for what would come back as
        another (but for zeros at the end of an ``s`` field), and :class:`TypeError` for what has no hash."""
        if type(key) is int and self.code and self.code not in "fd?":
            return self.pack(key, self.label)
        hash(key)
        fields = (key,) if self.single else key
        if not isinstance(fields, tuple):
            raise self.misfit(key, self.label)
        fields = tuple(map(_as_struct_takes_it, fields))
        packed = self.pack_item(fields[0] if self.single else fields)
        back = self.unpack(packed, 0)
        came = (back,) if self.single else back
        for place in self._widths:
            if isinstance(fields[place], bytes) and came[place].rstrip(b"\0") == fields[place].rstrip(b"\0"):
                came = (*came[:place], fields[place], *came[place + 1 :])
        if came != fields:
            why = f": it would come back as {shown(back)}"
            raise self.misfit(key, self.label, why, "take a format that holds such keys exactly")
        return packed


def _overflows(number: Any) -> bool:
    try:
        return _BEYOND_SINGLE <= abs(float(number)) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False  # packing it says so


def _as_struct_takes_it(field: Any) -> Any:
    """A field of a key as a number that is packed one way: 1.0 is equal to 1, and -0.0 to 0.0."""
    if isinstance(field, Number) and not isinstance(field, int):
        try:
            whole = int(field)  # type: ignore[call-overload]
            if whole == field:
                return whole
        except (TypeError, ValueError, OverflowError):  # a complex number, a NaN, an infinity
            pass
    return field
