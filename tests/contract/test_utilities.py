"""UTIL: alignment arithmetic and bytes, against plain Python and against each other."""

from __future__ import annotations

import array
import ctypes
import importlib.util

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.errors import InvalidLayout

from .helpers import Index, collect, is_one_line

TOP = (1 << 64) - 1
EDGES = (0, 1, 2, 3, 15, 16, 17, 4095, 4096, 4097, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1)
EDGES += (TOP - 4096, TOP - 16, TOP - 15, TOP - 14, TOP - 1, TOP)
POWERS = tuple(1 << k for k in range(64))

# --- arithmetic ---


def test_alignment(nm: Binding) -> None:
    """UTIL-1: for every power of two and every edge; None where the result is above 2^64 - 1."""
    u = nm.utilities
    for n in EDGES:
        for align in POWERS:
            up = -(-n // align) * align
            assert u.align_up(n, align) == (up if up <= TOP else None), (n, align)
            assert u.align_down(n, align) == n // align * align, (n, align)
            assert u.is_aligned(n, align) is (n % align == 0), (n, align)
            assert u.padding_needed(n, align) == -n % align, (n, align)


def test_next_power_of_two(nm: Binding) -> None:
    """UTIL-1: 1 for 0; None above 2^63."""
    u = nm.utilities
    for n in EDGES:
        power = next((p for p in POWERS if p >= n), None)
        assert u.next_power_of_two(n) == power, n
    assert [u.next_power_of_two(n) for n in (0, 1, 2, 3, 1 << 63)] == [1, 1, 2, 4, 1 << 63]
    assert u.next_power_of_two((1 << 63) + 1) is None


def test_sizes_may_be_strings(nm: Binding) -> None:
    """UTIL-1: as everywhere."""
    u = nm.utilities
    assert u.align_up("1 kB", "1 KiB") == 1024
    assert u.next_power_of_two(Index(5)) == 8
    assert u.is_aligned("64 KiB", Index(4096)) is True


@pytest.mark.parametrize("n", [-1, 1.0, True, None, "x", b"1", 1 << 64, [], -(1 << 70)])
def test_bad_numbers(nm: Binding, n: object) -> None:
    """UTIL-1: the message names the function and the argument."""
    u = nm.utilities
    for name in ("align_up", "align_down", "is_aligned", "padding_needed"):
        with pytest.raises(InvalidLayout, match=f"^{name}: n ") as caught:
            getattr(u, name)(n, 16)
        assert is_one_line(caught.value)
        with pytest.raises(InvalidLayout, match=f"^{name}: align "):
            getattr(u, name)(1, n)
    with pytest.raises(InvalidLayout, match=r"^next_power_of_two: n "):
        u.next_power_of_two(n)


@pytest.mark.parametrize("align", [0, 3, 6, 12, (1 << 63) + 1, TOP])
def test_an_alignment_is_a_power_of_two(nm: Binding, align: int) -> None:
    """UTIL-1"""
    for name in ("align_up", "align_down", "is_aligned", "padding_needed"):
        with pytest.raises(InvalidLayout, match="takes a power of two") as caught:
            getattr(nm.utilities, name)(100, align)
        assert is_one_line(caught.value)


# --- bytes ---


def test_copy(nm: Binding) -> None:
    """UTIL-2: to the start; what is behind stays."""
    to = bytearray(b"0123456789")
    assert nm.utilities.copy(to, b"abc") is None
    assert to == b"abc3456789"
    nm.utilities.copy(to, b"")
    nm.utilities.copy(to, to)
    assert to == b"abc3456789"
    with pytest.raises(InvalidLayout, match="11 bytes do not fit into 10"):
        nm.utilities.copy(to, bytes(11))
    assert to == b"abc3456789"


@pytest.mark.parametrize("distance", [-100, -17, -8, -1, 0, 1, 7, 16, 100])
def test_copy_where_the_areas_overlap(nm: Binding, distance: int) -> None:
    """UTIL-2: as memmove."""
    block = nm.System().alloc(500)
    expected = bytearray(k * 7 % 251 for k in range(500))
    view = memoryview(block)
    view[:] = expected
    start = 150 + distance
    expected[start : start + 200] = bytes(expected[150:350])
    nm.utilities.copy(view[start : start + 200], view[150:350])
    assert view == expected


def test_fill_and_zero(nm: Binding) -> None:
    """UTIL-2, UTIL-3"""
    for n in (0, 1, 15, 16, 17, 1000):
        buffer = bytearray(n)
        for byte in (0, 1, 127, 128, 255):
            nm.utilities.fill(buffer, byte)
            assert buffer == bytes([byte]) * n
        nm.utilities.secure_zero(buffer)
        assert buffer == bytes(n)
    for byte in (256, -1, 1.0, None, "a", True, 1 << 80):
        with pytest.raises(InvalidLayout, match=r"^fill: byte "):
            nm.utilities.fill(buffer, byte)
        assert buffer == bytes(1000)


ORDERED = (b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"ab", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\0")


def test_compare(nm: Binding) -> None:
    """UTIL-2: bytes are unsigned, a prefix comes first."""
    for i, a in enumerate(ORDERED):
        for j, b in enumerate(ORDERED):
            assert nm.utilities.compare(a, b) == (i > j) - (i < j), (a, b)
            assert nm.utilities.equal_constant_time(a, b) is (i == j), (a, b)


def test_any_difference_is_seen(nm: Binding) -> None:
    """UTIL-2, UTIL-4: in every place, in every bit."""
    for n in (1, 7, 8, 16, 33):
        plain = bytes(range(n))
        for at in range(n):
            for bit in range(8):
                other = bytearray(plain)
                other[at] ^= 1 << bit
                assert not nm.utilities.equal_constant_time(plain, other)
                assert nm.utilities.compare(plain, other) == (1 if plain[at] > other[at] else -1)


BUFFERS = {
    "bytearray": lambda: bytearray(b"12345678"),
    "array": lambda: array.array("I", [1, 2]),
    "ctypes": lambda: (ctypes.c_double * 1)(1.0),
    "slice": lambda: memoryview(bytearray(16))[4:12],
    "two dimensions": lambda: memoryview(bytearray(8)).cast("B", (2, 4)),
    "halves": lambda: memoryview(bytearray(8)).cast("H"),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_any_contiguous_buffer_counts_as_bytes(nm: Binding, kind: str) -> None:
    """UTIL-2: of whatever items."""
    buffer = BUFFERS[kind]()
    nm.utilities.fill(buffer, 9)
    assert memoryview(buffer).tobytes() == b"\x09" * 8
    nm.utilities.copy(buffer, b"abc")
    assert memoryview(buffer).tobytes() == b"abc" + b"\x09" * 5
    assert nm.utilities.compare(buffer, b"abc" + b"\x09" * 5) == 0
    assert nm.utilities.equal_constant_time(buffer, memoryview(buffer)) is True
    nm.utilities.secure_zero(buffer)
    assert memoryview(buffer).tobytes() == bytes(8)


def test_blocks(allocator: object) -> None:
    """UTIL-2: of every allocator; no export stays behind."""
    u = allocator._binding.utilities
    one, other = allocator.alloc(100), allocator.alloc(60)
    u.fill(one, 3)
    u.copy(one, other)
    u.copy(other, b"x" * 60)
    assert u.compare(one, other) in (-1, 1)
    u.secure_zero(one)
    assert u.equal_constant_time(one, bytes(100))
    with pytest.raises(InvalidLayout):
        u.copy(other, one)
    other.free()
    one.free()


def test_read_only_and_other_things(nm: Binding) -> None:
    """UTIL-2: refused, and nothing is written."""
    u, writable = nm.utilities, bytearray(b"1234")
    for target in (b"1234", memoryview(writable).toreadonly()):
        for call in (lambda t: u.copy(t, b"x"), lambda t: u.fill(t, 0), u.secure_zero):
            with pytest.raises(TypeError, match="takes a writable buffer") as caught:
                call(target)
            assert is_one_line(caught.value)
    text = memoryview(b"1234")
    for thing in (text[::2], "text", 3, None, [1], memoryview(bytearray(4))[::-1]):
        for call in (
            lambda t: u.copy(t, b"x"),
            lambda t: u.copy(writable, t),
            lambda t: u.fill(t, 0),
            lambda t: u.compare(t, b""),
            lambda t: u.compare(b"", t),
            u.secure_zero,
            lambda t: u.equal_constant_time(t, b""),
        ):
            with pytest.raises(TypeError, match="takes a contiguous buffer") as caught:
                call(thing)
            assert is_one_line(caught.value)
    assert writable == b"1234"
    del target, thing, call, caught
    collect()
    writable.append(0)  # no view is held


# --- generated: native, pure and plain Python say the same ---

#: where the extension is not built, pure is compared with plain Python; elsewhere its absence is a failure
BOTH = [load("pure").utilities]
if importlib.util.find_spec("nativemem._core") is not None:
    BOTH.append(load("native").utilities)
SIZES = st.integers(0, TOP) | st.sampled_from(EDGES) | st.integers(0, 5000)
BYTES = st.binary(max_size=80)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@example(n=TOP, align=1 << 63)
@given(n=SIZES, align=st.sampled_from(POWERS))
def test_generated_numbers(n: int, align: int) -> None:
    """UTIL-1"""
    up, power = -(-n // align) * align, 1 << max(n - 1, 0).bit_length()
    for u in BOTH:
        assert u.align_up(n, align) == (up if up <= TOP else None)
        assert u.align_down(n, align) == n - n % align
        assert u.padding_needed(n, align) == up - n
        assert u.is_aligned(n, align) is (up == n)
        assert u.next_power_of_two(n) == (power if power <= TOP else None)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(a=BYTES, b=BYTES, start=st.integers(0, 80), to=st.integers(0, 80), n=st.integers(0, 80))
def test_generated_bytes(a: bytes, b: bytes, start: int, to: int, n: int) -> None:
    """UTIL-2, UTIL-4"""
    for u in BOTH:
        assert u.compare(a, b) == (a > b) - (a < b)
        assert u.equal_constant_time(a, b) is (a == b)
        assert u.equal_constant_time(a, bytearray(a)) is True
        expected, buffer = bytearray(a + b), bytearray(a + b)
        piece = bytes(expected[start : start + n])
        with memoryview(buffer) as view:
            if not piece or to + len(piece) <= len(buffer):
                expected[to : to + len(piece)] = piece
                u.copy(view[to:], view[start : start + n])
            else:
                with pytest.raises(InvalidLayout):
                    u.copy(view[to:], view[start : start + n])
        assert buffer == expected
