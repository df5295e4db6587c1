"""Utilities without the C core; arguments were checked by the facade."""

from __future__ import annotations

SIZE_T_MAX = (1 << 64) - 1


class Utilities:
    """Answers as the native ones do, for a 64-bit ``size_t``."""

    @staticmethod
    def align_up(n: int, align: int) -> int | None:
        """None: the result does not fit."""
        up = (n + align - 1) & -align
        return up if up <= SIZE_T_MAX else None

    @staticmethod
    def next_power_of_two(n: int) -> int | None:
        """None: the result does not fit."""
        power = 1 << max(n - 1, 0).bit_length()
        return power if power <= SIZE_T_MAX else None

    @staticmethod
    def align_down(n: int, align: int) -> int:
        """The multiple at or below."""
        return n & -align

    @staticmethod
    def padding_needed(n: int, align: int) -> int:
        """Bytes to the next multiple."""
        return -n & (align - 1)

    @staticmethod
    def is_aligned(n: int, align: int) -> bool:
        """Whether it is a multiple."""
        return not n & (align - 1)

    @staticmethod
    def copy(to: memoryview, source: memoryview) -> None:
        """The areas may overlap: a slice assignment of views moves."""
        to[: len(source)] = source

    @staticmethod
    def fill(to: memoryview, byte: int) -> None:
        """Every byte the same."""
        to[:] = bytes([byte]) * len(to)

    @staticmethod
    def compare(a: memoryview, b: memoryview) -> int:
        """-1, 0 or 1."""
        x, y = bytes(a), bytes(b)
        return (x > y) - (x < y)

    @staticmethod
    def secure_zero(to: memoryview) -> None:
        """No compiler is at work that could drop it."""
        to[:] = bytes(len(to))

    @staticmethod
    def equal_constant_time(a: memoryview, b: memoryview) -> bool:
        """In a time that depends on the lengths alone."""
        import hmac  # late: it brings all of hashlib

        return hmac.compare_digest(a, b)
