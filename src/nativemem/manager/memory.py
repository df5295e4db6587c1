"""Memory, memory() and with_memory: zeroed blocks of the default manager for a while.

Any thread may call what is here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from ..errors import ConfigError, shown
from .manager import MemoryManager
from .scoped import caller, zeroed_size

if TYPE_CHECKING:
    from ..allocators.block import Block

__all__ = ["Memory", "memory", "with_memory"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class _Blocks(type):
    def __instancecheck__(cls, thing: Any) -> bool:
        route = getattr(thing, "allocator", None)
        return isinstance(getattr(route, "manager", None), MemoryManager)


if TYPE_CHECKING:

    class _Memory(Block):  # type: ignore[misc]  # which nothing derives from when it runs
        def __init__(self, size: int | str, owner: str | None = None) -> None: ...

    class _Decorator(Protocol):
        """Takes the block out of a function's parameters: the first, or of a method the one after ``self``."""

        @overload
        def __call__(self, function: Callable[Concatenate[Block, P], T], /) -> Callable[P, T]: ...
        @overload
        def __call__(
            self, function: Callable[Concatenate[S, Block, P], T], /
        ) -> Callable[Concatenate[S, P], T]: ...

else:
    _Memory = object


class Memory(_Memory, metaclass=_Blocks):  # type: ignore[misc]
    """A block of fixed size, all zero, charged to an owner of the default manager.

    Parameters: ``size``, bytes, at least 1, or a string such as ``"64 KiB"``; ``owner``, its name (None: the
    top-level package of the calling code). What is made is a :class:`nativemem.Block`: a writable buffer with
    ``size``, ``owner`` and ``address``, a context manager that frees at its end, or freed when it is collected.
    Raises :class:`InvalidLayout` for what is no size, and as :meth:`MemoryManager.allocate`. Any thread.

    >>> from nativemem.manager import Memory, MemoryManager
    >>> with Memory("1 KiB", "decoder") as block, memoryview(block) as view:
    ...     view[:5] = b"hello"
    ...     len(block), bytes(view[:6]), block.owner.name
    (1024, b'hello\\x00', 'decoder')
    >>> MemoryManager.default().owner("decoder").used
    0
    """

    if not TYPE_CHECKING:

        def __new__(cls, size, owner=None):
            return MemoryManager.default().allocate(
                caller() if owner is None else owner, zeroed_size(size), zero=True
            )


def memory(size: int | str, owner: str | None = None) -> AbstractContextManager[Block]:
    """A zeroed block of the default manager for a ``with`` block: :meth:`MemoryManager.memory` of
    :meth:`MemoryManager.default`. Parameters as of :class:`Memory`.

    >>> from nativemem.manager import memory
    >>> with memory("1 KiB", "decoder") as block:
    ...     len(block)
    1024
    """
    return MemoryManager.default().memory(size, caller() if owner is None else owner)


def _place(function: Callable[..., Any]) -> int:
    """Which argument of a function the block is: the first, or the one after ``self``."""
    try:
        parameters = [*inspect.signature(function).parameters]
    except ValueError:  # of a builtin that does not say
        return 0
    return 1 if parameters[:1] in (["self"], ["cls"]) else 0


def with_memory(size: int | str, owner: str | None = None) -> _Decorator:
    """Decorates a function: each call has a zeroed block of ``size`` bytes as its first argument (of a method, the
    one after ``self``), freed at its end. What it returns or raises goes through unchanged.

    Parameters: ``owner``, as for :func:`memory`, of the code that decorates; also coroutine functions and generator
    functions, whose block is there until they end. Raises :class:`ConfigError` for what is no function, and for an
    asynchronous generator function, which cannot pass on all that its caller sends; the calls raise as
    :func:`memory`.

    >>> from nativemem.manager import with_memory
    >>> @with_memory("1 KiB", "decoder")
    ... def decode(block, text):
    ...     with memoryview(block) as view:
    ...         view[: len(text)] = text
    ...     return bytes(block)[: len(text)]
    >>> decode(b"hello")
    b'hello'
    """
    charged = caller() if owner is None else owner

    def decorate(function: Any) -> Any:
        if not callable(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"with_memory: decorates a function, not {shown(function)}")
        at = _place(function)
        called: Any = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        wrapper: Any
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with memory(size, charged) as block:
                    return await function(*args[:at], block, *args[at:], **kwargs)

        elif inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(called):

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with memory(size, charged) as block:
                    return (yield from function(*args[:at], block, *args[at:], **kwargs))

        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with memory(size, charged) as block:
                    return function(*args[:at], block, *args[at:], **kwargs)

        return functools.wraps(function)(wrapper)

    return decorate
