"""C data of :mod:`cffi` in blocks of any allocator: charged, traced, counted and refused like any other block.

``ffi.new`` takes memory from the interpreter and wipes it. What :func:`allocator` gives takes blocks instead. On
both backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..allocators.base import Allocator, check_source, wipe
from ..config import parse_bool
from ..errors import ConfigError, shown
from ..refusals import coerce_layout

__all__ = ["allocator"]

#: so many types are remembered; a program may make their names
_MOST = 1000


def _parts(ffi: Any, ctype: Any, least: int) -> tuple[Any, int, int, int]:
    """The type, the bytes of one (-1: that takes more than a look), those of an item of an array of any length
    (else 0), and the alignment, ``least`` or more. Raises TypeError for what ``ffi.new`` takes none of."""
    if ctype.kind == "pointer":
        item = ctype.item
        if item.kind in ("void", "function"):
            raise TypeError(f"there is none of {item.cname!r}")
        # cffi's own: one more character, which is zero
        return ctype, -1 if item.cname in _CHARACTERS else ffi.sizeof(item), 0, max(least, ffi.alignof(item))
    if ctype.kind != "array":
        raise TypeError(f"expected a pointer or array ctype, got '{ctype.cname}'")
    align = max(least, ffi.alignof(ctype.item))
    if ctype.length is None:
        return ctype, -1, ffi.sizeof(ctype.item), align
    return ctype, ffi.sizeof(ctype), 0, align


_CHARACTERS = ("char", "wchar_t", "char16_t", "char32_t")


def allocator(ffi: Any, allocator: Allocator, *, zero: bool = False, align: int = 16) -> Callable[..., Any]:
    """What to call instead of ``ffi.new``, for C data in blocks of ``allocator``.

    Parameters: ``ffi``, a :class:`cffi.FFI` or that of a compiled module; ``allocator``, of the process's backend;
    ``zero``, whether memory without an initialiser is wiped, as ``ffi.new`` does, or has undefined contents;
    ``align``, of which each address is a multiple, and of what the type needs if that is more.

    Returns ``new(cdecl, init=None)``, which takes what ``ffi.new`` takes and returns what ``ffi.from_buffer`` does:
    C data that holds its block, and with it the allocator, which can be neither closed nor reset meanwhile. The
    block goes when that object does. As in cffi nothing else holds it: no slice, no ``p + 1``, no cast, no pointer
    that C was given. What has an initialiser other than a length is made by ``ffi.new`` first and copied.

    ``new`` raises what ``allocator.alloc`` raises, and what ``ffi.new`` does, :class:`TypeError` for what is no
    pointer or array type among it. Raises :class:`ConfigError` for an
    argument of another kind. Thread policy as ``alloc``.

    >>> import cffi, nativemem
    >>> from nativemem.hooks import cffi as hook
    >>> ffi = cffi.FFI()
    >>> budget = nativemem.Budget("1 MiB")
    >>> new = hook.allocator(ffi, nativemem.Limited(nativemem.Heap(), budget))
    >>> numbers = new("double[]", 1000)
    >>> len(numbers), budget.used
    (1000, 8000)
    >>> del numbers; budget.used
    0
    """
    if not isinstance(allocator, Allocator):
        raise ConfigError(f"hooks.cffi.allocator: takes an allocator, not {shown(allocator)}")
    if not all(callable(getattr(ffi, name, None)) for name in ("typeof", "new", "sizeof", "alignof", "memmove")):
        raise ConfigError(f"hooks.cffi.allocator: takes a cffi.FFI, not {shown(ffi)}")
    parse_bool(zero, "hooks.cffi.zero")
    allocator._opened()
    check_source(allocator, "hooks.cffi.allocator")
    _, least = coerce_layout(allocator, 0, align, "hooks.cffi.allocator")
    # that of cffi.FFI goes through more of Python
    view = importlib.import_module("_cffi_backend").from_buffer
    alloc = allocator.alloc
    known: dict[Any, tuple[Any, int, int, int]] = {}

    def learn(cdecl: Any) -> tuple[Any, int, int, int]:
        if len(known) >= _MOST:
            known.clear()
        ctype = ffi.typeof(cdecl) if isinstance(cdecl, str) else cdecl
        if not isinstance(ctype, ffi.CType):
            raise TypeError(f"expected a C type as a string or a CType, not {shown(cdecl)}")
        found = known[cdecl] = _parts(ffi, ctype, least)
        return found

    def copied(cdecl: Any, init: Any, align: int) -> Any:
        made = ffi.new(cdecl, init)
        ctype = ffi.typeof(made)
        if ctype.kind == "array" or ctype.item.kind in ("struct", "union"):  # which may end in an array
            size = ffi.sizeof(made if ctype.kind == "array" else made[0])
        else:
            size = ffi.sizeof(ctype.item) * (2 if ctype.item.cname in _CHARACTERS else 1)
        data = view(ctype, alloc(size, align))
        ffi.memmove(data, made, size)
        return data

    def new(cdecl: Any, init: Any = None) -> Any:
        """As ``ffi.new``, in a block."""
        try:
            ctype, size, item, align = known[cdecl]
        except (KeyError, TypeError):
            ctype, size, item, align = learn(cdecl)
        if init is None and size >= 0:
            block = alloc(size, align)
        elif item and type(init) is int and init >= 0:
            block = alloc(init * item, align)
        else:
            return copied(cdecl, init, align)
        if zero:
            wipe(block)
        return view(ctype, block)

    # the same, but for what is not as simple, in C
    in_c = allocator._backend.cdata_new
    return new if in_c is None else in_c(allocator, known, view, new, zero)
