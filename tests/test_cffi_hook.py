"""C data of cffi's in blocks, on both backends: what ``ffi.new`` gives, elsewhere."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from nativemem import MemoryPressure
from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, ConfigError, InvalidLayout, StaleBlock, StaleHandle
from nativemem.hooks import cffi as hook

cffi = pytest.importorskip("cffi")

DECLARATIONS = """
struct point { double x, y; };
struct node { struct node *next; int value; };
struct packet { short length; char payload[]; };
typedef struct { int a[3]; char name[10]; } record;
union both { int i; float f; };
enum color { RED, GREEN = 5 };
"""


@pytest.fixture(params=["FFI", "compiled"])
def ffi(request: pytest.FixtureRequest) -> Any:
    """One made at run time, and one such as a compiled module has."""
    if request.param == "FFI":
        made = cffi.FFI()
        made.cdef(DECLARATIONS)
        return made
    pytest.importorskip("nativemem._core")
    from nativemem.backends.native.control import ffi as compiled

    return compiled


@pytest.fixture
def heap(nm: Binding) -> Iterator[Any]:
    with nm.Heap() as heap:
        yield heap


def as_bytes(ffi: Any, data: Any) -> bytes:
    ctype = ffi.typeof(data)
    size = ffi.sizeof(data) if ctype.kind == "array" else ffi.sizeof(ctype.item)
    return bytes(ffi.buffer(data, size))


LIKE_NEW = [
    ("int[]", [1, 2, 3]),
    ("int[5]", [1, 2, 3]),
    ("int[]", 4),
    ("char[]", b"hello"),
    ("char[10]", b"hello"),
    ("wchar_t[]", "héllo"),
    ("double *", 1.5),
    ("double *", None),
    ("char *", b"x"),
    ("char *", None),
    ("wchar_t *", "x"),
    ("void *[]", 3),
    ("int[][3]", [[1, 2, 3], [4, 5, 6]]),
    ("int[2][3]", None),
    ("int[][4]", 5),
    ("int[0]", None),
    ("int[]", 0),
    ("int[]", []),
    ("long long[]", (1, 2)),
    ("float[]", [0.5]),
    ("_Bool[]", [True, False]),
    ("signed char[]", [-1, 1]),
    ("int(*)[3]", [1, 2, 3]),
    ("int **", None),
]


@pytest.mark.parametrize(("cdecl", "init"), LIKE_NEW)
def test_as_ffi_new(ffi: Any, heap: Any, cdecl: str, init: Any) -> None:
    """CFFI-1: the type, the length and, asked to be wiped, the bytes are those of ``ffi.new``."""
    new = hook.allocator(ffi, heap, zero=True)
    for _ in range(3):  # the first finds out what the others know
        for spelled in (cdecl, ffi.typeof(cdecl)):
            ours, theirs = new(spelled, init), ffi.new(spelled, init)
            assert ffi.typeof(ours) is ffi.typeof(theirs)
            assert as_bytes(ffi, ours) == as_bytes(ffi, theirs)
            if ffi.typeof(ours).kind == "array":
                assert len(ours) == len(theirs) and ffi.sizeof(ours) == ffi.sizeof(theirs)
            del ours, theirs
    assert heap.stats.live == 0


def test_structs(heap: Any) -> None:
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    new = hook.allocator(ffi, heap, zero=True)
    points = new("struct point[]", 10)
    assert len(points) == 10 and points[9].x == 0
    points[3].y = 2.5
    assert points[3].y == 2.5 and ffi.addressof(points, 3).y == 2.5
    one = new("struct point *", {"x": 1.0})
    assert (one.x, one.y, one[0].x) == (1.0, 0.0, 1.0)
    first = new("struct node *", {"value": 1})
    second = new("struct node *", {"next": first, "value": 2})
    assert second.next.value == 1
    packet = new("struct packet *", {"length": 3, "payload": b"abc"})
    assert list(packet.payload[0:3]) == [b"a", b"b", b"c"] and packet.length == 3
    assert new("record *", [[1, 2, 3], b"name"]).a[2] == 3
    assert new("union both *", {"f": 0.5}).f == 0.5
    assert new("enum color *", 5)[0] == 5


def test_the_memory_is_the_allocators(nm: Binding, ffi: Any) -> None:
    budget = nm.Budget("1 MiB", name="cdata")
    traced = nm.Traced(nm.Limited(nm.System(), budget))
    new = hook.allocator(ffi, traced)
    data = new("double[]", 1000)
    assert budget.used == 8000 == ffi.sizeof(data)
    assert int(ffi.cast("uintptr_t", data)) % 16 == 0
    assert [block.address for block in traced.blocks()] == [int(ffi.cast("uintptr_t", data))]
    with pytest.raises(BudgetExceeded, match="'cdata'"):
        new("char[]", 1 << 20)
    with pytest.raises(BudgetExceeded):
        new("char[2000000]")
    assert budget.used == 8000 and budget.last_denial.owner == "cdata"
    del data
    assert budget.used == 0
    traced.close()


def test_lifetimes(nm: Binding, ffi: Any) -> None:
    """The object holds the block and the allocator; what is made of it does not."""
    arena = nm.Arena()
    data = hook.allocator(ffi, arena)("int[]", 100)
    for verb in (arena.reset, arena.close):
        with pytest.raises(BufferError):
            verb()
    data[99] = 7
    piece, beyond = data[10:20], data + 1
    assert len(piece) == 10
    del piece, beyond
    del data
    arena.reset()
    arena.close()
    data = hook.allocator(ffi, nm.Heap())("int[]", 100)
    gc.collect()
    data[0:100] = range(100)
    assert sum(data) == 4950


def test_contents_are_wiped_only_when_asked(nm: Binding, ffi: Any) -> None:
    """CFFI-2."""
    with nm.Arena(patterns=True) as arena:
        assert set(as_bytes(ffi, hook.allocator(ffi, arena)("char[]", 64))) == {0xAA}
        assert set(as_bytes(ffi, hook.allocator(ffi, arena, zero=True)("char[]", 64))) == {0}


def test_who_watches_may_free_what_is_being_made(nm: Binding, ffi: Any) -> None:
    """Not even the wiping comes after what a callback does; it would meet another's memory."""
    heap, taken = nm.Heap(), []

    def free_all(level: str, budget: Any) -> None:
        for block in limited.blocks():
            block.free()
        taken.append(heap.alloc(1000))
        memoryview(taken[0])[:] = b"x" * 1000

    budget = nm.Budget(2000, warn=0.5, on_pressure=free_all)
    limited = nm.Limited(heap, budget)
    new = hook.allocator(ffi, limited, zero=True)
    new("char[]", 1)
    with pytest.warns(MemoryPressure):
        with pytest.raises(StaleBlock if "stale-buffer-raises" in nm.backend.features else TypeError):
            new("char[]", 1000)
    assert bytes(taken[0]) == b"x" * 1000
    assert budget.used == 0


def test_types_forgotten_in_the_middle(ffi: Any, heap: Any) -> None:
    """An initialiser is any code, and may make data of many types itself."""
    new = hook.allocator(ffi, heap)

    class Three:
        def __int__(self) -> int:
            for n in range(1, 1100):
                new(f"char[{n}]")
            return 3

    assert list(new("int[]", [1, Three()])) == [1, 3]


def test_an_initialiser_wipes_the_rest(nm: Binding, ffi: Any) -> None:
    with nm.Arena(patterns=True) as arena:
        assert as_bytes(ffi, hook.allocator(ffi, arena)("char[64]", b"ab")) == b"ab" + bytes(62)


#: what each kind of ffi raises for words that name no type
UNKNOWN_TYPE = (cffi.CDefError, cffi.FFIError, importlib.import_module("_cffi_backend").FFI.error)

BAD = [
    ("int", None),
    ("int", 5),
    ("void *", None),
    ("struct nowhere *", None),
    ("no such type", None),
    ("int[]", None),
    ("int[]", -1),
    ("int[]", 1.5),
    ("int[]", "text"),
    ("int[2]", [1, 2, 3]),
    ("char[3]", b"four"),
    ("double *", "text"),
    ("int(*)(int)", None),
    (None, None),
    (5, 5),
    (["int"], None),
    ("int[]", 1 << 62),
    ("int[]", 1 << 70),
]


@pytest.mark.parametrize(("cdecl", "init"), BAD)
def test_what_ffi_new_refuses(ffi: Any, heap: Any, cdecl: Any, init: Any) -> None:
    new = hook.allocator(ffi, heap)
    new("int[]", 3)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, OverflowError, MemoryError, IndexError, *UNKNOWN_TYPE)):
            new(cdecl, init)
    assert heap.stats.live == 0


def test_calls_of_another_shape(ffi: Any, heap: Any) -> None:
    new = hook.allocator(ffi, heap)
    assert len(new("int[]", init=3)) == len(new(cdecl="int[]", init=3)) == 3
    for call in (lambda: new(), lambda: new("int[]", 1, 2), lambda: new("int[]", unit=3)):
        with pytest.raises(TypeError):
            call()


def test_what_makes_none(nm: Binding, ffi: Any, heap: Any) -> None:
    for thing in (None, 1, "heap", nm.Budget(10), nm.Heap):
        with pytest.raises(ConfigError, match=r"^hooks.cffi.allocator: takes an allocator"):
            hook.allocator(ffi, thing)
    for thing in (None, 1, "ffi", cffi):
        with pytest.raises(ConfigError, match=r"^hooks.cffi.allocator: takes a cffi.FFI"):
            hook.allocator(thing, heap)
    with pytest.raises(ConfigError, match="^hooks.cffi.zero"):
        hook.allocator(ffi, heap, zero="yes")
    closed = nm.Heap()
    closed.close()
    with pytest.raises(StaleHandle):
        hook.allocator(ffi, closed)


def test_after_the_allocator_was_closed(nm: Binding, ffi: Any) -> None:
    heap = nm.Heap()
    new = hook.allocator(ffi, heap)
    new("int[]", 3)
    heap.close()
    for call in (lambda: new("int[]", 3), lambda: new("int[]", 0), lambda: new("int *")):
        with pytest.raises(StaleHandle):
            call()


def test_too_large_is_a_layout(nm: Binding, ffi: Any, heap: Any) -> None:
    with pytest.raises((InvalidLayout, OverflowError, MemoryError)):
        hook.allocator(ffi, heap)("char[]", (1 << 63) - 1)


def test_many_types(ffi: Any, heap: Any) -> None:
    new = hook.allocator(ffi, heap)
    for n in range(1, 2500):
        assert len(new(f"char[{n}]")) == n
    assert len(new("char[1]")) == 1


def test_types_are_forgotten_where_there_are_many(ffi: Any, heap: Any) -> None:
    """A thousand are known at once, whatever a program makes up."""

    class Text(str):
        """With weak references, which tell whether it is kept."""

    class Forgetful:
        """As the FFI, which would keep the text itself."""

        def __getattr__(self, name: str) -> Any:
            return getattr(ffi, name)

        def typeof(self, cdecl: Any) -> Any:
            return ffi.typeof(str(cdecl) if isinstance(cdecl, str) else cdecl)

    new = hook.allocator(Forgetful(), heap)
    names = [Text(f"char[{n}]") for n in range(1, 1101)]
    for name in names:
        assert len(new(name)) == int(name[5:-1])
    kept = [weakref.ref(name) for name in names]
    del name, names
    gc.collect()
    assert sum(each() is not None for each in kept) == 100


def test_an_alignment_of_ones_own(ffi: Any, heap: Any) -> None:
    """PORT-7, CFFI-1"""
    new = hook.allocator(ffi, heap, align=256)
    for made in (new("double[]", 3), new("long *"), new("int[]", [1, 2, 3])):
        assert int(ffi.cast("uintptr_t", made)) % 256 == 0
    assert {block.align for block in heap.blocks()} <= {256}
    with pytest.raises(InvalidLayout, match=r"^hooks\.cffi\.allocator: align takes a power of two"):
        hook.allocator(ffi, heap, align=3)


def test_an_allocator_with_methods_of_its_own(ffi: Any, nm: Binding) -> None:
    """PORT-8"""
    logged = type("Logged", (nm.Heap,), {"alloc": lambda self, size, align=16: 1})()
    with pytest.raises(ConfigError, match=r"^hooks\.cffi\.allocator: .* its own alloc, which Logged overrides"):
        hook.allocator(ffi, logged)
