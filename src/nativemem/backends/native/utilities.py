"""The core's utilities."""

from __future__ import annotations

from typing import Any

from .control import ffi, lib


class Utilities:
    """The core's utilities; arguments were checked by the facade."""

    @staticmethod
    def align_up(n: int, align: int) -> int | None:
        out = ffi.new("size_t *")
        return out[0] if lib.nm_align_up(n, align, out) else None

    @staticmethod
    def next_power_of_two(n: int) -> int | None:
        out = ffi.new("size_t *")
        return out[0] if lib.nm_next_power_of_two(n, out) else None

    align_down = lib.nm_align_down
    padding_needed = lib.nm_padding_needed
    is_aligned = lib.nm_is_aligned

    @staticmethod
    def copy(to: memoryview, source: memoryview) -> None:
        lib.nm_copy(_bytes(to), _bytes(source), len(source))

    @staticmethod
    def fill(to: memoryview, byte: int) -> None:
        lib.nm_fill(_bytes(to), byte, len(to))

    @staticmethod
    def compare(a: memoryview, b: memoryview) -> int:
        n = min(len(a), len(b))
        return lib.nm_compare(_bytes(a), _bytes(b), n) or (len(a) > len(b)) - (len(a) < len(b))

    @staticmethod
    def secure_zero(to: memoryview) -> None:
        lib.nm_secure_zero(_bytes(to), len(to))

    @staticmethod
    def equal_constant_time(a: memoryview, b: memoryview) -> bool:
        return len(a) == len(b) and lib.nm_equal_constant_time(_bytes(a), _bytes(b), len(a))


def _bytes(view: memoryview) -> Any:
    return ffi.from_buffer("unsigned char[]", view)
