"""BLOCK-4: typed views over blocks."""

from __future__ import annotations

import ctypes
import struct
import sys

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import InvalidLayout, StaleHandle
from nativemem.sizes import SIZE_MAX

from .helpers import Index, collect, is_one_line, traits_of, unchanged

FORMATS = [*"bBhHiIlLqQnNfdcP?", *(["Zf", "Zd"] if sys.version_info >= (3, 15) else [])]
VALUES: dict[str, object] = {"f": 1.5, "d": 1.5, "c": b"x", "?": True}
#: since 3.14, where the system's libffi has complex numbers
COMPLEX = [kind for name in ("float", "double") if (kind := getattr(ctypes, f"c_{name}_complex", None))]


class Point(ctypes.Structure):
    """A record of a user."""

    _fields_ = (("x", ctypes.c_double), ("y", ctypes.c_int16))


@pytest.mark.parametrize("kind", FORMATS)
def test_struct_formats(nm: Binding, kind: str) -> None:
    """BLOCK-4"""
    arena = nm.Arena()
    view = arena.array(kind, 10)
    assert isinstance(view, memoryview)
    assert (view.format, view.itemsize, view.shape) == (kind, struct.calcsize(kind), (10,))
    assert bytes(view) == bytes(view.nbytes)
    value = VALUES.get(kind, 77)
    view[3] = value
    assert view[3] == value
    (block,) = arena.blocks()
    assert (block.size, block.align) == (10 * view.itemsize, 16)
    assert arena.stats.current == view.nbytes


def test_ctypes_types(allocator: Allocator) -> None:
    """BLOCK-4"""
    points = allocator.array(Point, 3)
    assert ctypes.sizeof(points) == 3 * ctypes.sizeof(Point)
    points[1].x, points[2].y = 2.5, -3
    assert [(p.x, p.y) for p in points] == [(0.0, 0), (2.5, 0), (0.0, -3)]
    ints = allocator.array(ctypes.c_int32 * 4, 2)
    ints[1][3] = 7
    assert list(ints[1]) == [0, 0, 0, 7]
    assert ctypes.addressof(ints) % 16 == 0
    for kind in COMPLEX:
        numbers = allocator.array(kind, 2)
        numbers[1] = 2j
        assert list(numbers) == [0j, 2j]


@pytest.mark.parametrize("align", [1, 8, 64, 256, 4096])
def test_alignment(nm: Binding, align: int) -> None:
    """PORT-7: as asked for, and never less than the kind needs."""
    arena = nm.Arena()
    numpy = pytest.importorskip("numpy")
    kinds = (("d", 8), (Point, 8), (numpy.dtype("f8"), 8), (numpy.dtype("u1"), 1))
    for kind, needed in kinds:
        held = arena.array(kind, 3, align=align)
        block = arena.blocks()[0]
        assert (block.align, block.address % align) == (max(align, needed), 0)
        assert bytes(memoryview(held).cast("B")) == bytes(block.size)


@pytest.mark.parametrize("align", [0, 3, -16, 8192, "16", 16.0, True, 1 << 70], ids=repr)
def test_bad_alignments(nm: Binding, align: object) -> None:
    """PORT-7, LAYOUT-2: InvalidLayout by the name of the method, and nothing is taken."""
    heap = nm.Heap()
    calls = {
        "Heap.array": lambda: heap.array("d", 3, align=align),
        "Heap.alloc_many": lambda: heap.alloc_many([1, 2], align=align),
        "Heap.alloc_value": lambda: heap.alloc_value("d", 1.0, align=align),
        "Heap.alloc_array": lambda: heap.alloc_array("d", [1.0], align=align),
        "Heap.alloc": lambda: heap.alloc(1, align=align),
        "TypedArena": lambda: nm.TypedArena("d", upstream=heap, align=align),
    }
    for name, call in calls.items():
        with unchanged(heap), pytest.raises(InvalidLayout, match=rf"^{name}: align takes a power of two"):
            call()


@pytest.mark.parametrize("dtype", ["f8", "u1", "c16", "M8[s]", [("a", "f4"), ("b", "i2")]], ids=str)
def test_numpy_dtypes(nm: Binding, dtype: object) -> None:
    """BLOCK-4"""
    numpy = pytest.importorskip("numpy")
    heap = nm.Heap()
    array = heap.array(numpy.dtype(dtype), 5)
    assert isinstance(array, numpy.ndarray)
    assert (array.dtype, array.shape) == (numpy.dtype(dtype), (5,))
    assert array.flags.writeable
    assert array.ctypes.data % 64 == 0
    assert array.tobytes() == bytes(array.nbytes)
    assert heap.stats.current == array.nbytes
    del array
    collect()
    assert heap.stats.live == 0


def test_arithmetic_on_an_array(nm: Binding) -> None:
    numpy = pytest.importorskip("numpy")
    array = nm.Arena().array(numpy.dtype("f8"), 1000)
    array += numpy.arange(1000)
    assert array.sum() == 499500
    del array


@pytest.mark.parametrize("n", [1, 100, 8192, 8193, 100_000])
def test_zero(allocator: Allocator, n: int) -> None:
    """BLOCK-4: zeroed on request, which is the default, also where the memory was used before."""
    n = min(n, (traits_of(allocator).largest or 8 * n) // 8)
    block = allocator.alloc(8 * n)
    with memoryview(block) as view:
        view[:] = b"\xff" * len(view)
    block.free()
    with allocator.array("q", n) as view:
        assert bytes(view) == bytes(8 * n)
    with allocator.array("q", n, zero=False) as view:
        assert view.nbytes == 8 * n


def test_no_items(allocator: Allocator) -> None:
    with unchanged(allocator):
        assert list(allocator.array("d", 0)) == []
        assert list(allocator.array(ctypes.c_int, 0)) == []
    numpy = pytest.importorskip("numpy")
    assert allocator.array(numpy.dtype("f8"), 0).shape == (0,)


def test_n_may_be_anything_that_is_an_index(nm: Binding) -> None:
    assert len(nm.System().array("d", Index(3))) == 3


def test_the_view_holds_the_block(allocator: Allocator) -> None:
    """BLOCK-3, BLOCK-4"""
    view = allocator.array("d", 4)
    collect()
    (block,) = allocator.blocks()
    with pytest.raises(BufferError):
        block.free()
    view[3] = 2.5
    view.release()
    block.free()


@pytest.mark.parametrize("n", [-1, 1.0, True, None, "x", SIZE_MAX + 1, [], SIZE_MAX // 8 + 1])
@pytest.mark.parametrize("kind", ["d", ctypes.c_double])
def test_bad_counts(nm: Binding, kind: object, n: object) -> None:
    """BLOCK-4, LAYOUT-4: also where only the product is too large."""
    system = nm.System()
    with unchanged(system), pytest.raises(InvalidLayout) as caught:
        system.array(kind, n)
    assert str(caught.value).startswith("System.array: ")
    assert is_one_line(caught.value)


def test_a_product_that_fits_but_is_not_to_be_had(nm: Binding) -> None:
    with pytest.raises(MemoryError):
        nm.System().array("d", SIZE_MAX // 8)


@pytest.mark.parametrize(
    "kind",
    [*("", "dd", "<d", "@d", "d\0", "Z", "Zh", "x", "s", "é"), None, 3, b"d", int, object, object(), [("a", "f4")]],
)
def test_bad_kinds(nm: Binding, kind: object) -> None:
    """BLOCK-4"""
    system = nm.System()
    with unchanged(system), pytest.raises(InvalidLayout) as caught:
        system.array(kind, 2)
    assert str(caught.value).startswith("System.array: kind takes ")
    assert is_one_line(caught.value)


def test_bad_kinds_of_numpy(nm: Binding) -> None:
    """BLOCK-4: objects hold references, which raw memory must not; the rest are no dtypes."""
    numpy = pytest.importorskip("numpy")
    system = nm.System()
    for kind in (
        numpy.dtype(object),
        numpy.dtype([("a", "O")]),
        numpy.dtype("V0"),
        numpy.float64,
        numpy.float64(3),
        numpy.zeros(3),
        numpy,
    ):
        with unchanged(system), pytest.raises(InvalidLayout):
            system.array(kind, 2)


def test_misuse(allocator: Allocator) -> None:
    with unchanged(allocator):
        for call in (
            lambda: allocator.array(),
            lambda: allocator.array("d"),
            lambda: allocator.array("d", 1, False),
        ):
            with pytest.raises(TypeError):
                call()
    allocator.close()
    with pytest.raises(StaleHandle):
        allocator.array("d", 1)


@pytest.mark.parametrize("kind", ["struct", "ctypes", "numpy"])
def test_every_kind_of_view_holds_its_block(nm: Binding, kind: str) -> None:
    """BLOCK-3, BLOCK-4: as long as the view lives the memory is neither freed nor reset."""
    if kind == "numpy":
        wanted = pytest.importorskip("numpy").dtype("f8")
    else:
        wanted = {"struct": "d", "ctypes": ctypes.c_double}[kind]
    arena = nm.Arena(upstream=nm.System())
    view = arena.array(wanted, 100)
    [block] = arena.blocks()
    for call in (arena.reset, block.free, arena.close):
        with pytest.raises(BufferError):
            call()
    view[99] = 1.5
    assert view[99] == 1.5
    del view
    collect()
    arena.reset()
    assert not block.alive


def test_types_with_pointers_are_refused(nm: Binding) -> None:
    """BLOCK-4: raw memory is no reference and no address."""

    class Node(ctypes.Structure):
        pass

    Node._fields_ = [("next", ctypes.POINTER(Node))]

    class Holder(ctypes.Structure):
        _fields_ = (("n", ctypes.c_int), ("things", ctypes.py_object * 2))

    system = nm.System()
    for kind in (ctypes.py_object, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), Node, Holder):
        with unchanged(system), pytest.raises(InvalidLayout, match="has pointers"):
            system.array(kind, 2)
    assert len(system.array(ctypes.c_double * 3, 2)) == 2
