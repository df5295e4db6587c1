"""``Block``, and what a backend's own allocator type does with it, as readers and type checkers see them.

Both are types of the backend, in C or in Python, so here are declarations alone. tests/test_typing.py compares them
with what the backends have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn, final

    from ..budgets.budget import Budget
    from .base import Allocator

    __all__ = ["Block", "DataPlane"]

    @final
    class Block:
        """Memory handed to a user: a writable buffer that keeps its allocator alive.

        Made by an allocator's alloc; freed by free(), at the end of a ``with`` block, or, where its allocator
        takes single blocks back, when it is collected. As thread-safe as its allocator.
        """

        def __init__(self, only_an_allocator_makes_one: NoReturn, /) -> None: ...
        @property
        def size(self) -> int:
            """Bytes asked for."""

        @property
        def align(self) -> int:
            """Alignment asked for, in bytes."""

        @property
        def alive(self) -> bool:
            """Whether the block can be used."""

        @property
        def allocator(self) -> Allocator:
            """The allocator that gave the block."""

        @property
        def owner(self) -> Budget | None:
            """The Budget that the block is charged to, or None."""

        @property
        def usable(self) -> int:
            """Bytes actually behind the block."""

        @property
        def address(self) -> int:
            """Address of the first byte; valid while the block is alive."""

        def free(self) -> None:
            """Gives the block back. DoubleFree or StaleBlock if it is gone, BufferError while a view is out."""

        def __enter__(self) -> Block: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> None: ...
        def __len__(self) -> int: ...
        def __buffer__(self, flags: int, /) -> memoryview: ...

    class DataPlane:
        """The allocator base type that a backend supplies; the facade classes inherit it."""

        _core: Any
        _depth: int

        @property
        def closed(self) -> bool:
            """Whether it was closed."""

        @property
        def upstream(self) -> Allocator | None:
            """The allocator that it takes its memory from; None at the bottom of a chain and of a closed one."""

        @property
        def generation(self) -> int:
            """How often it was reset."""

        @property
        def id(self) -> int:
            """A number that no other allocator of the process has."""

        def alloc(self, size: int | str, align: int = 16) -> Block:
            """A new block of ``size`` bytes at a multiple of ``align``."""

        def free(self, block: Block) -> None:
            """Gives a block of this allocator back."""

        def resize(self, block: Block, size: int | str) -> bool:
            """Changes a block's size where it is; False, changing nothing, where that is not possible."""

        def _attach(self, core: Any, upstream: Any, wraps: bool, autofree: bool, natural: int, /) -> None:
            """Once, from ``__init__``. ``wraps``: shares the upstream's blocks rather than holding memory, and its
            ``natural`` size, which alloc takes where none is given (0: one must be)."""

        def _live(self) -> list[Block]:
            """Live blocks that this allocator gave and that are referred to still, newest first."""

        def _serial(self) -> int:
            """Number of the newest block of the whole chain; grows with each block."""

        def _reset(self) -> None:
            """A reset of an arena or stack: every block of the chain becomes stale. BufferError, and nothing
            changed, where one of them is exported or an allocator stands on this one's memory."""

        def _release(self, serial: int, mark: Any, /) -> None:
            """As ``_reset``, for the blocks newer than ``serial``; ``mark`` is the core's."""

        def _shut(self, left: tuple[str, Any], /) -> None:
            """Closes: frees its blocks, clears the core, lets go of the upstream. BufferError, nothing changed, as
            ``_reset``. ``left`` becomes ``_left``, which is None before."""

        @property
        def _left(self) -> tuple[str, Any] | None:
            """Of a closed one: how it was described, and its owner."""
