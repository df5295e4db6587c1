"""BLOCK: attributes, the buffer, exports, free and its errors, collection."""

from __future__ import annotations

import array
import base64
import binascii
import contextlib
import ctypes
import hashlib
import hmac
import io
import marshal
import os
import pickle
import re
import socket
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import DoubleFree, ForeignBlock, LeakError, StaleBlock

from .helpers import (
    CLOSABLE,
    SELF_FREEING,
    Block,
    as_owner,
    chain_of,
    chain_to_noun,
    collect,
    content,
    fill,
    freeable,
    is_one_line,
    make,
    noun_of,
    traits_of,
    unchanged,
)

# --- attributes ---


def test_attributes(allocator: Allocator) -> None:
    """BLOCK-1"""
    block = allocator.alloc(100, 64)
    assert (block.size, block.align, len(block), block.alive) == (100, 64, 100, True)
    assert block.usable >= 100
    assert block.allocator is allocator
    assert block.owner is allocator.owner
    assert isinstance(block.address, int)


def test_attributes_stay_when_the_block_is_gone(allocator: Allocator) -> None:
    """BLOCK-1: all but where the memory was."""
    block = allocator.alloc(100, 64)
    block.free()
    assert (block.size, block.align, len(block), block.alive) == (100, 64, 100, False)
    assert block.allocator is allocator
    assert block.owner is allocator.owner
    for name in ("address", "usable"):
        with pytest.raises(StaleBlock, match="was freed"):
            getattr(block, name)


@pytest.mark.parametrize("name", ["size", "align", "address", "usable", "owner", "allocator", "alive"])
def test_attributes_are_read_only(nm: Binding, name: str) -> None:
    block = nm.System().alloc(10)
    before = getattr(block, name)
    with pytest.raises(AttributeError):
        setattr(block, name, 1)
    assert getattr(block, name) == before


def test_type(nm: Binding, allocator: Allocator) -> None:
    """One type for every allocator of a backend; made by alloc and by nothing else."""
    block = allocator.alloc(10)
    assert isinstance(block, nm.Block)
    assert isinstance(allocator.alloc(0), nm.Block)
    assert type(block).__name__ == "Block"
    assert not isinstance(b"", nm.Block)
    with pytest.raises(TypeError):
        nm.Block()
    with pytest.raises(TypeError):
        type(block)()
    with pytest.raises(TypeError):
        type("Sub", (nm.Block,), {})


def test_identity_is_equality(allocator: Allocator) -> None:
    one, other = allocator.alloc(8), allocator.alloc(8)
    fill(one, 0)
    fill(other, 0)
    assert one == one
    assert one != other
    assert len({one, other}) == 2
    assert hash(one) == hash(one)


def test_a_block_is_not_a_sequence(allocator: Allocator) -> None:
    """Reading and writing is memoryview's business."""
    block = allocator.alloc(8)
    for call in (
        lambda: block[0],
        lambda: block[0:2],
        lambda: iter(block),
        lambda: list(block),
        lambda: 0 in block,
        lambda: block + block,
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        block[0] = 1
    with pytest.raises(TypeError):
        del block[0]


def test_repr(allocator: Allocator) -> None:
    block, other = allocator.alloc(100), allocator.alloc(2048)
    assert repr(block) == f"<Block 100 B at {block.address:#x}>"
    assert repr(other) == f"<Block 2048 B at {other.address:#x}>"
    other.free()
    block.free()
    assert repr(block) == "<Block 100 B, freed>"


@pytest.mark.parametrize("chain", CLOSABLE)
def test_repr_of_a_stale_block(nm: Binding, chain: str) -> None:
    allocator = make(nm, chain)
    block = allocator.alloc(5)
    allocator.close()
    assert repr(block) == "<Block 5 B, stale>"


def test_owner_is_the_budget(nm: Binding) -> None:
    """BLOCK-1: also through allocators that stand on a budgeted one."""
    budget = nm.Budget("1 MiB", name="cache")
    limited = nm.Limited(nm.System(), budget)
    traced = nm.Traced(limited)
    arena = nm.Arena(upstream=traced)
    inner = nm.Limited(arena, nm.Budget("1 MiB", name="inner"))
    assert nm.System().alloc(1).owner is None
    assert limited.alloc(1).owner is budget
    blocks = [traced.alloc(1), arena.alloc(1)]
    assert [block.owner for block in blocks] == [budget, budget]
    assert inner.alloc(1).owner.name == "inner"
    del blocks


# --- the buffer ---


def test_the_buffer_is_plain_writable_bytes(allocator: Allocator) -> None:
    """BLOCK-1"""
    block = allocator.alloc(100)
    with memoryview(block) as view:
        assert (view.format, view.ndim, view.itemsize, view.shape) == ("B", 1, 1, (100,))
        assert view.nbytes == 100
        assert view.c_contiguous
        assert not view.readonly
        view[3] = 200
        view[4:8] = b"abcd"
        assert view[3] == 200
    assert content(block)[3:8] == b"\xc8abcd"


def test_views_share_the_memory(allocator: Allocator) -> None:
    """BLOCK-5"""
    block = allocator.alloc(32)
    with memoryview(block) as one, memoryview(block) as other, other.cast("I") as words:
        one[:] = bytes(32)
        words[1] = 0x01020304
        assert sum(one) == 10
        other[31] = 9
        assert one[31] == 9


def test_numpy_sees_the_same_memory(allocator: Allocator) -> None:
    """BLOCK-5"""
    numpy = pytest.importorskip("numpy")
    block = allocator.alloc(64, 64)
    fill(block, 1)
    array = numpy.asarray(block)
    assert (array.dtype, array.shape) == (numpy.uint8, (64,))
    assert array.flags.writeable
    assert array.ctypes.data == block.address
    array[5] = 77
    doubles = numpy.frombuffer(block, dtype=numpy.float64)
    doubles[7] = 0.0
    del array, doubles
    assert content(block) == b"\x01" * 5 + b"\x4d" + b"\x01" * 50 + bytes(8)


def test_address_is_where_the_bytes_are(allocator: Allocator) -> None:
    block = allocator.alloc(16)
    fill(block, 0x33)
    assert ctypes.string_at(block.address, 16) == b"\x33" * 16


def test_writes_do_not_disturb_neighbours(allocator: Allocator) -> None:
    """No two live blocks overlap, whatever is freed and taken in between."""
    sizes = (1, 15, 16, 17, 31, 64, 100, 250, 256, 257, 1000, 4096, 5000, 40000)
    aligns = (1, 16, 64, 256)
    blocks = {}

    def take(key: int) -> None:
        block = allocator.alloc(sizes[key % len(sizes)], aligns[key % len(aligns)])
        fill(block, key % 251)
        blocks[key] = block

    def intact() -> bool:
        return all(content(b) == bytes([key % 251]) * b.size for key, b in blocks.items())

    for key in range(100):
        take(key)
    assert intact()
    keys = {block: key for key, block in blocks.items()}
    for block in freeable(allocator, list(blocks.values()), 3):
        blocks.pop(keys.pop(block)).free()
    assert intact()
    for key in range(100, 150):
        take(key)
    assert intact()
    ranges = sorted((b.address, b.address + b.size) for b in blocks.values())
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))


# --- exports ---

Refused = Callable[[Allocator, Block], object]

REFUSED: dict[str, Refused] = {
    "block.free": lambda allocator, block: block.free(),
    "allocator.free": lambda allocator, block: allocator.free(block),
    "shrink": lambda allocator, block: allocator.resize(block, 8),
    "grow": lambda allocator, block: allocator.resize(block, 65),
    "same size": lambda allocator, block: allocator.resize(block, 64),
}
EXPORTS: dict[str, Callable[[Block], object]] = {
    "memoryview": memoryview,
    "slice": lambda block: memoryview(block)[8:16],
    "cast": lambda block: memoryview(block).cast("I"),
    "ctypes": lambda block: (ctypes.c_ubyte * 8).from_buffer(block),
    "numpy": lambda block: pytest.importorskip("numpy").frombuffer(block, dtype="u1"),
    "numpy asarray": lambda block: pytest.importorskip("numpy").asarray(block),
}


@pytest.mark.parametrize("how", REFUSED)
def test_an_exported_block_stays(allocator: Allocator, how: str) -> None:
    """BLOCK-3: as for bytearray, and nothing changes."""
    block = allocator.alloc(64)
    fill(block, 0x42)
    view = memoryview(block)
    with unchanged(allocator), pytest.raises(BufferError) as caught:
        REFUSED[how](allocator, block)
    assert is_one_line(caught.value)
    assert "with a memoryview or an array" in str(caught.value)
    assert block.alive
    assert bytes(view) == b"\x42" * 64
    view.release()
    REFUSED[how](allocator, block)


@pytest.mark.parametrize("export", EXPORTS)
def test_every_kind_of_export_counts(allocator: Allocator, export: str) -> None:
    """BLOCK-3"""
    block = allocator.alloc(64)
    view = EXPORTS[export](block)
    with unchanged(allocator), pytest.raises(BufferError):
        block.free()
    refusal = LeakError if type(allocator).__name__ == "Traced" else BufferError
    with unchanged(allocator), pytest.raises(refusal):
        allocator.close()
    del view
    collect()
    block.free()
    assert not block.alive


def test_each_export_counts_once(allocator: Allocator) -> None:
    """BLOCK-3"""
    block = allocator.alloc(64)
    views = [memoryview(block) for _ in range(3)]
    while views:
        with pytest.raises(BufferError):
            block.free()
        views.pop().release()
    block.free()


def test_an_exported_empty_block_stays_as_well(allocator: Allocator) -> None:
    """BLOCK-3"""
    block = allocator.alloc(0)
    with memoryview(block), pytest.raises(BufferError):
        block.free()
    block.free()


def test_exports_of_other_blocks_do_not_matter_to_free(allocator: Allocator) -> None:
    other, block = allocator.alloc(64), allocator.alloc(64)
    with memoryview(other) as view:
        view[0] = 1
        block.free()
        assert view[0] == 1
    assert not block.alive


def test_leaving_the_context_of_an_exported_block(allocator: Allocator) -> None:
    """BLOCK-3: the block stays, and the error shows."""
    block = allocator.alloc(8)
    with pytest.raises(BufferError), block:
        view = memoryview(block)
    assert block.alive
    view.release()
    block.free()


# --- free ---


def test_double_free(allocator: Allocator) -> None:
    """BLOCK-2"""
    block = allocator.alloc(10)
    block.free()
    for call in (block.free, lambda: allocator.free(block)):
        with unchanged(allocator), pytest.raises(DoubleFree) as caught:
            call()
        assert is_one_line(caught.value)
        assert "10 bytes" in str(caught.value)


def test_double_free_of_an_empty_block(allocator: Allocator) -> None:
    """BLOCK-2"""
    block = allocator.alloc(0)
    allocator.free(block)
    with unchanged(allocator), pytest.raises(DoubleFree):
        allocator.free(block)


def test_free_through_the_allocator(allocator: Allocator) -> None:
    block = allocator.alloc(10)
    assert allocator.free(block) is None
    assert not block.alive
    assert allocator.blocks() == []
    assert allocator.stats.frees == 1


def test_foreign_block(allocator: Allocator) -> None:
    """BLOCK-2: also where the other allocator is of the same kind, or of the same chain."""
    other = make(allocator._binding, "System")
    twin = type(allocator)
    with as_owner(allocator):
        strangers = [other.alloc(10), *(link.alloc(10) for link in chain_of(allocator)[1:])]
    for stranger in strangers[:: -1 if traits_of(allocator).lifo else 1]:
        fill(stranger, 3)
        for call in (
            lambda block=stranger: allocator.free(block),
            lambda block=stranger: allocator.resize(block, 5),
        ):
            with unchanged(allocator, stranger.allocator), pytest.raises(ForeignBlock) as caught:
                call()
            assert is_one_line(caught.value)
            assert str(caught.value).startswith(twin.__name__)
        assert content(stranger) == b"\x03" * 10
        with as_owner(allocator):
            stranger.free()


def test_a_block_of_a_wrapper_is_foreign_to_its_upstream(nm: Binding) -> None:
    """BLOCK-2: else the wrapper's accounting would be bypassed."""
    system = nm.System()
    limited = nm.Limited(system, nm.Budget(100))
    block = limited.alloc(10)
    with unchanged(limited), pytest.raises(ForeignBlock):
        system.free(block)
    limited.free(block)


def test_foreign_wins_over_freed_and_exported(nm: Binding) -> None:
    """The order of the checks is the same on both backends."""
    one, other = nm.System(), nm.System()
    block = one.alloc(10)
    with memoryview(block), pytest.raises(ForeignBlock):
        other.free(block)
    block.free()
    with pytest.raises(ForeignBlock):
        other.free(block)
    with pytest.raises(ForeignBlock):
        other.resize(block, 5)


def test_only_blocks_are_freed(allocator: Allocator) -> None:
    for thing in (None, 3, b"x", bytearray(8), "block", object(), memoryview(b""), allocator):
        with unchanged(allocator):
            with pytest.raises(TypeError) as caught:
                allocator.free(thing)
            assert str(caught.value) == (f"{type(allocator).__name__}: takes a Block, not {type(thing).__name__}")
            with pytest.raises(TypeError):
                allocator.resize(thing, 5)


def test_a_block_of_the_other_backend_is_no_block(both: tuple[Binding, Binding]) -> None:
    for mine, theirs in (both, both[::-1]):
        block = theirs.System().alloc(8)
        with pytest.raises(TypeError, match="takes a Block"):
            mine.System().free(block)
        assert block.alive


@pytest.mark.parametrize("chain", CLOSABLE)
def test_stale_after_close(nm: Binding, chain: str) -> None:
    """BLOCK-2"""
    allocator = make(nm, chain)
    block = allocator.alloc(10)
    fill(block, 1)
    allocator.close()
    assert not block.alive
    for call in (block.free, lambda: allocator.free(block), lambda: allocator.resize(block, 5)):
        with pytest.raises(StaleBlock) as caught:
            call()
        assert is_one_line(caught.value)


def test_a_freed_block_stays_freed_after_close(allocator: Allocator) -> None:
    """BLOCK-2: it was freed, not dropped, and the error says so."""
    block = allocator.alloc(10)
    block.free()
    allocator.close()
    with pytest.raises(DoubleFree):
        block.free()


def test_resize_of_a_freed_block(allocator: Allocator) -> None:
    """BLOCK-2"""
    block = allocator.alloc(10)
    block.free()
    with unchanged(allocator), pytest.raises(StaleBlock, match="was freed"):
        allocator.resize(block, 5)


def stale_buffer(nm: Any) -> type[Exception]:
    """What asking for the buffer of a dead block raises: a block has none where it cannot refuse it."""
    return StaleBlock if "stale-buffer-raises" in nm.features else TypeError


@pytest.mark.parametrize("size", [10, 100_000, 0])
def test_the_buffer_of_a_dead_block(allocator: Allocator, size: int) -> None:
    """BLOCK-2d, BLOCK-10"""
    freed = allocator.alloc(size, 64)
    freed.free()
    with pytest.raises(stale_buffer(allocator._backend)) as caught:
        memoryview(freed)
    assert is_one_line(caught.value)


def a_pipe() -> Any:
    reader, writer = os.pipe()
    return stack_of(open(reader, "rb", buffering=0), open(writer, "wb", buffering=0))


@contextlib.contextmanager
def stack_of(*files: Any) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(file) for file in files]


def with_pipe(use: Callable[[Any, Any], object]) -> object:
    with a_pipe() as (reader, writer):
        writer.write(b"12345678")
        return use(reader, writer)


def with_sockets(use: Callable[[socket.socket, socket.socket], object]) -> object:
    with stack_of(*socket.socketpair()) as (one, other):
        other.sendall(b"12345678")
        return use(one, other)


def with_database(use: Callable[[sqlite3.Connection], object]) -> object:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        return use(database)


def numpy() -> Any:
    return pytest.importorskip("numpy")


#: of standard library and NumPy, what reads a buffer, writes into one, or takes one as a sequence
CONSUMERS: dict[str, Callable[[Block], object]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "int": int,
    "float": float,
    "str": lambda block: str(block, "latin-1"),
    "int.from_bytes": lambda block: int.from_bytes(block, "big"),
    "list": list,
    "join": lambda block: b"".join([block]),
    "concatenation": lambda block: b"" + block,
    "in-place concatenation": lambda block: bytearray(4).__iadd__(block),
    "%b": lambda block: b"%b" % (block,),
    "slice": lambda block: bytearray(4).__setitem__(slice(0, 2), block),
    "whole slice": lambda block: bytearray(4).__setitem__(slice(None), block),
    "extended slice": lambda block: bytearray(4).__setitem__(slice(0, 4, 2), block),
    "memoryview slice": lambda block: memoryview(bytearray(10)).__setitem__(slice(None), block),
    "bytearray.extend": lambda block: bytearray().extend(block),
    "bytes.find": lambda block: b"abc".find(block),
    "bytes.strip": lambda block: b"abc".strip(block),
    "bytes.replace": lambda block: b"abc".replace(block, b"x"),
    "array": lambda block: array.array("B", block),
    "array.frombytes": lambda block: array.array("B").frombytes(block),
    "hash": hashlib.sha256,
    "hash.update": lambda block: hashlib.md5(usedforsecurity=False).update(block),
    "hmac": lambda block: hmac.compare_digest(block, b""),
    "crc32": zlib.crc32,
    "compress": zlib.compress,
    "base64": base64.b64encode,
    "hexlify": binascii.hexlify,
    "struct.unpack_from": lambda block: struct.unpack_from("B", block),
    "struct.unpack": lambda block: struct.unpack("", block),
    "struct.pack_into": lambda block: struct.pack_into("", block, 0),
    "struct.iter_unpack": lambda block: struct.iter_unpack("B", block),
    "PickleBuffer": pickle.PickleBuffer,
    "pickle.loads": pickle.loads,
    "marshal.loads": marshal.loads,
    "ctypes": lambda block: (ctypes.c_char * 0).from_buffer(block),
    "ctypes copy": lambda block: (ctypes.c_char * 0).from_buffer_copy(block),
    "BytesIO": io.BytesIO,
    "BytesIO.write": lambda block: io.BytesIO().write(block),
    "BytesIO.readinto": lambda block: io.BytesIO(b"abc").readinto(block),
    "write": lambda block: with_pipe(lambda reader, writer: writer.write(block)),
    "buffered write": lambda block: io.BufferedWriter(io.BytesIO()).write(block),  # type: ignore[type-var]
    "os.write": lambda block: with_pipe(lambda reader, writer: os.write(writer.fileno(), block)),
    "os.writev": lambda block: with_pipe(lambda reader, writer: os.writev(writer.fileno(), [block])),
    "readinto": lambda block: with_pipe(lambda reader, writer: reader.readinto(block)),
    "buffered readinto": lambda block: io.BufferedReader(io.BytesIO(b"abc")).readinto(block),  # type: ignore[type-var]
    "os.readv": lambda block: with_pipe(lambda reader, writer: os.readv(reader.fileno(), [block])),
    "send": lambda block: with_sockets(lambda one, other: one.send(block)),
    "sendall": lambda block: with_sockets(lambda one, other: one.sendall(block)),
    "sendmsg": lambda block: with_sockets(lambda one, other: one.sendmsg([block])),
    "recv_into": lambda block: with_sockets(lambda one, other: one.recv_into(block)),
    "recvmsg_into": lambda block: with_sockets(lambda one, other: one.recvmsg_into([block])),
    "sqlite": lambda block: with_database(lambda database: database.execute("select ?", (block,))),
    "re": lambda block: re.match(b"", block),
    "numpy.asarray": lambda block: numpy().asarray(block),
    "numpy.array": lambda block: numpy().array(block),
    "numpy.array of a type": lambda block: numpy().array(block, dtype="u1"),
    "numpy.array of objects": lambda block: numpy().array(block, dtype=object),
    "numpy.array of it": lambda block: numpy().array([block]),
    "numpy.asanyarray": lambda block: numpy().asanyarray(block),
    "numpy.ascontiguousarray": lambda block: numpy().ascontiguousarray(block),
    "numpy.frombuffer": lambda block: numpy().frombuffer(block, "u1"),
    "numpy.ndarray": lambda block: numpy().ndarray((0,), "u1", block),
    "numpy sum": lambda block: numpy().sum(block),
    "numpy copyto": lambda block: numpy().copyto(numpy().zeros(10, "u1"), block),
    "numpy concatenate": lambda block: numpy().concatenate([block, block]),
}
DEATHS: dict[str, Callable[[Allocator, Block], object]] = {
    "free": lambda allocator, block: block.free(),
    "reset": lambda allocator, block: allocator.reset(),  # type: ignore[attr-defined]
    "close": lambda allocator, block: allocator.close(),
}


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("size", [8, 3_000_000])
def test_a_dead_block_raises_for_every_consumer(nm: Binding, size: int, consumer: str, death: str) -> None:
    """BLOCK-10: neither its bytes nor none."""
    allocator = nm.Arena(upstream=nm.System())
    block = allocator.alloc(size, 64)
    fill(block, 65)
    DEATHS[death](allocator, block)
    with pytest.raises((StaleBlock, TypeError, ValueError, sqlite3.Error)) as caught:
        CONSUMERS[consumer](block)
    if consumer.startswith("numpy.a"):
        assert isinstance(caught.value, StaleBlock)
    assert not block.alive


@pytest.mark.parametrize(
    "consumer", ["bytes", "bytearray", "join", "hash", "crc32", "write", "send", "numpy.asarray"]
)
def test_a_live_block_is_taken_by_these(nm: Binding, consumer: str) -> None:
    """BLOCK-10: so what was raised above was for its death."""
    block = nm.System().alloc(8)
    fill(block, 65)
    CONSUMERS[consumer](block)
    assert content(block) == b"A" * 8


def test_numpy_gets_the_memory_however_it_asks(nm: Binding) -> None:
    """BLOCK-5"""
    pytest.importorskip("numpy")
    block = nm.System().alloc(8)
    fill(block, 65)
    given = block.__array__()
    assert given.ctypes.data == block.address
    assert given.tolist() == numpy().asarray(block).tolist() == [65] * 8
    with pytest.raises(TypeError):
        block.__array__(nonsense=1)
    del given
    block.free()


def test_context_manager(allocator: Allocator) -> None:
    """BLOCK-1"""
    with allocator.alloc(10) as block:
        assert block.alive
        fill(block, 1)
    assert not block.alive
    assert allocator.stats.frees == 1


def test_context_manager_frees_on_errors(allocator: Allocator) -> None:
    """BLOCK-1"""
    with pytest.raises(ZeroDivisionError), allocator.alloc(10) as block:
        raise ZeroDivisionError
    assert not block.alive


def test_context_manager_after_free(allocator: Allocator) -> None:
    """BLOCK-1: a block that is gone already is not freed again."""
    with allocator.alloc(10) as block:
        block.free()
    assert allocator.stats.frees == 1


def test_entering_a_dead_block(allocator: Allocator) -> None:
    block = allocator.alloc(10)
    block.free()
    with pytest.raises(StaleBlock), block:
        pytest.fail("a dead block was entered")


# --- resize ---


def test_resize_keeps_contents(allocator: Allocator) -> None:
    """In place or not at all: what is kept of the old bytes is kept, and the address stays."""
    for old, new in ((100, 60), (100, 110), (3000, 2999), (200, 256), (5000, 5001), (33, 64)):
        block = allocator.alloc(old)
        fill(block, 0x77)
        address = block.address
        done = allocator.resize(block, new)
        assert isinstance(done, bool)
        assert block.size == len(block) == (new if done else old)
        if "resize-keeps-address" in allocator._backend.features:
            assert block.address == address
        assert block.address % block.align == 0
        assert block.alive
        keep = min(old, block.size)
        assert content(block)[:keep] == b"\x77" * keep
        fill(block, 0x78)
        assert content(block) == b"\x78" * block.size
        assert block.usable >= block.size


def test_resize_to_the_same_size(allocator: Allocator) -> None:
    block = allocator.alloc(100)
    with unchanged(allocator):
        assert allocator.resize(block, 100) is True


def test_shrinking_is_counted(allocator: Allocator) -> None:
    block = allocator.alloc(100)
    assert allocator.resize(block, 99)
    for link in chain_to_noun(allocator):
        stats = link.stats
        assert (stats.current, stats.peak, stats.total) == (99, 100, 100)
        assert (stats.live, stats.count, stats.frees, stats.failures) == (1, 1, 0, 0)


# --- collection ---


@pytest.mark.parametrize("chain", SELF_FREEING)
def test_a_collected_block_frees_itself(nm: Binding, chain: str) -> None:
    allocator = make(nm, chain)
    kept, block = allocator.alloc(100), allocator.alloc(200)
    del block
    collect()
    stats = allocator.stats
    assert (stats.current, stats.live, stats.count, stats.frees) == (100, 1, 2, 1)
    assert allocator.blocks() == [kept]
    if allocator.owner is not None:
        assert allocator.owner.used == 100


def test_a_collected_block_of_an_arena_stays_until_reset(nm: Binding) -> None:
    """ARENA-3"""
    arena = nm.Arena()
    arena.alloc(100)
    collect()
    stats = arena.stats
    assert (stats.current, stats.live, stats.frees) == (100, 1, 0)
    assert arena.blocks() == []


def test_a_view_keeps_its_block(allocator: Allocator) -> None:
    view = memoryview(allocator.alloc(64))
    collect()
    assert allocator.stats.live == 1
    view[:] = bytes(range(64))
    assert view[63] == 63
    view.release()
    collect()
    assert allocator.blocks() == []
    wrapped = noun_of(allocator) is not allocator
    assert allocator.stats.live == (0 if wrapped or traits_of(allocator).self_freeing else 1)


def test_a_freed_block_that_is_collected_counts_once(allocator: Allocator) -> None:
    block = allocator.alloc(64)
    block.free()
    del block
    collect()
    assert allocator.stats.frees == 1


def test_blocks_are_listed_newest_first(allocator: Allocator) -> None:
    blocks = [allocator.alloc(n) for n in (10, 0, 30, 20)]
    assert allocator.blocks() == blocks[::-1]
    blocks.pop(-1 if traits_of(allocator).lifo else 2).free()
    assert allocator.blocks() == blocks[::-1]
    blocks.append(allocator.alloc(5))
    del blocks[0]
    collect()
    assert allocator.blocks() == blocks[::-1]


def test_blocks_of_other_allocators_of_the_chain_are_not_listed(nm: Binding) -> None:
    arena = nm.Arena(upstream=nm.System())
    traced = nm.Traced(arena)
    mine, theirs = arena.alloc(1), traced.alloc(2)
    assert arena.blocks() == [mine]
    assert traced.blocks() == [theirs]
    assert arena.upstream.blocks() == []


def test_many_blocks(allocator: Allocator) -> None:
    """Blocks come and go in any order without a trace."""
    blocks = [allocator.alloc(n % 97 + 1) for n in range(2000)]
    assert allocator.stats.live == 2000
    while len(blocks) > 2:
        dead = freeable(allocator, blocks, 2)
        blocks = [block for block in blocks if block not in set(dead)]
        for block in dead:
            block.free()
        assert allocator.blocks() == blocks[::-1]
    del dead, block, blocks
    collect()
    assert allocator.blocks() == []
