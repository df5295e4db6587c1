"""What the pure backend takes from Python: bytes in an ``array``, and in pages where they are many.

Both refuse to change their size while a buffer of theirs is out, which is how exports are found. An ``array`` tells
its address without :mod:`ctypes`. Its alignment is that of the allocator under Python, whatever that is, so nothing
here relies on one; pages begin at a multiple of every alignment that a block may have. PyPy's do not look for
buffers that are out, but its ``bytearray`` does: there all memory is in those.
"""

from __future__ import annotations

import array
import mmap
import sys
from collections.abc import Iterator
from typing import Any


def _looks_for_exports() -> bool:
    memory = array.array("B", b"\0")
    with memoryview(memory):
        try:
            del memory[0:0]
        except BufferError:
            return True
    return False


class _Window:
    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(b"")


def _decides() -> bool:
    try:
        memoryview(_Window())
    except TypeError:
        return False
    return True


ARRAYS = _looks_for_exports()
#: whether a class decides what its buffer is; from Python 3.12 on, and on PyPy
WINDOWS = _decides()
#: from this size on: zeros that are not touched cost nothing, and go back to the system at once
LARGE = 1 << 20 if ARRAYS else sys.maxsize
#: no system gives more; a larger size does not reach the interpreter, some of which do not survive it
MOST = 1 << 47 if sys.maxsize >> 32 else 1 << 31
#: bytes that are written at a time
_STEP = 1 << 16

_ZERO = array.array("B", b"\0")


def cells(size: int) -> Any:
    """An array of so many zero bytes."""
    return _ZERO * size if ARRAYS else bytearray(size)


def pages(size: int, kind: type = mmap.mmap) -> Any:
    """``size`` zero bytes in pages, which a child made by fork gets a copy of. Raises :class:`MemoryError`."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        return mmap.mmap.__new__(kind, -1, size, **private)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from None


def check_size(size: int) -> None:
    """Raises :class:`MemoryError` for more than there can be."""
    if size > MOST:
        raise MemoryError(f"{size} bytes are more than a process can have")


def take(size: int) -> Any:
    """``size`` bytes of zero, at any address. Raises :class:`MemoryError`."""
    check_size(size)
    return cells(size) if size < LARGE else pages(size)


def address_of(memory: Any) -> int:
    """Where the bytes are. There have to be some."""
    if isinstance(memory, array.array):
        return int(array.array.buffer_info(memory)[0])
    if isinstance(memory, bytearray):
        import _cffi_backend  # PyPy has it; a buffer of ctypes' would be out until the next collection

        ffi = _cffi_backend.FFI()
        with ffi.from_buffer(memory) as there:
            return int(ffi.cast("uintptr_t", there))
    import ctypes  # late: few blocks are that large

    return ctypes.addressof((ctypes.c_char * 1).from_buffer(memory))


def is_exported(memory: Any) -> bool:
    """Whether a buffer is out. One call finds it, so no thread comes in between; nothing changes."""
    try:
        if not isinstance(memory, mmap.mmap):
            (array.array if ARRAYS else bytearray).__delitem__(memory, slice(0, 0))
        else:
            mmap.mmap.resize(memory, mmap.mmap.__len__(memory))
    except BufferError:
        return True
    except SystemError:  # exports are looked at first, then that this system has no mremap
        return False
    return False


def _spans(size: int, start: int) -> Iterator[slice]:
    return (slice(at, min(at + _STEP, size)) for at in range(start, size, _STEP))


def fill(view: memoryview, byte: int, start: int = 0) -> None:
    """Writes ``byte`` from ``start`` on, without a copy of the whole."""
    pattern = bytes([byte]) * min(_STEP, len(view))
    for span in _spans(len(view), start):
        view[span] = pattern[: span.stop - span.start]
