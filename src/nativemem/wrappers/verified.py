"""Verified: an allocator whose calls are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import parse_count
from ..errors import CorruptionDetected, Refusal
from ..levels import Level
from ..refusals import chain, raise_block, raise_status
from .base import Wrapper

if TYPE_CHECKING:
    from ..allocators.base import Allocator
    from ..allocators.block import Block

__all__ = ["Verified"]


class Verified(Wrapper):
    """Checks what passes through, as deep as its level says, and sealed contents with it.

    It keeps a ledger of live blocks: what C code frees or resizes that it did not give, or with another layout,
    is refused, and so is memory that upstream gives twice. A block that is sealed has its final contents: a
    byte that changes raises :class:`CorruptionDetected` when the block is next compared. A second ``free`` gives
    such a block back.

    Parameters: ``upstream``, an allocator (None: the system); ``level``, a :class:`nativemem.manager.Level` or its
    name; ``seed``, for the dice of SAMPLING (None: another each time). As thread-safe as its upstream.

    * ``OFF``: nothing; calls are upstream's own, and so are ``stats``.
    * ``BASIC``: the ledger.
    * ``SAMPLING``: sealed contents too, by dice: before 200 of 256 frees and resizes of their block, 150 of its
      seals and unseals, and 100 of allocs, each of which looks at one sealed block, in turn.
    * ``STANDARD``: before each free, resize, seal and unseal of their block.
    * ``FULL``: before each of these, and one sealed block, in turn, before each alloc.
    * ``REDUNDANT``: as FULL; what is known of a block is kept twice and compared.

    Raises :class:`ConfigError` for other values.

    >>> import nativemem
    >>> from nativemem.errors import CorruptionDetected
    >>> verified = nativemem.Verified(nativemem.Heap(), "full")
    >>> table = verified.alloc(5)
    >>> with memoryview(table) as view:
    ...     view[:] = b"hello"
    >>> verified.seal(table)
    >>> memoryview(table)[1] = ord("a")           # nothing may write to it any more
    >>> try:
    ...     verified.verify()
    ... except CorruptionDetected as error:
    ...     print(str(error).partition(" at ")[0])
    Verified: a sealed block of 5 bytes
    >>> verified.close()                          # which takes along what is damaged
    """

    __slots__ = ()
    _fields = ("_level",)
    _level: Level

    def __init__(
        self, upstream: Allocator | None = None, level: Level | str = Level.STANDARD, *, seed: int | None = None
    ) -> None:
        upstream = self._upstream(upstream)
        level = Level.parse(level, "verified.level")
        seed = 0 if seed is None else parse_count(seed, "verified.seed", least=1)
        self._open(self._make("VerifiedCore", upstream, upstream._core, level.name, seed), upstream, wraps=True)
        self._level = level

    @property
    def level(self) -> Level:
        """How deep it checks."""
        return self._level

    @property
    def checks(self) -> int:
        """Comparisons so far: of a layout with the ledger, of two copies, of contents, of ledger and counters."""
        return self._core.counts()[0]

    @property
    def failures(self) -> int:
        """Of those, how many found something."""
        return self._core.counts()[1]

    def seal(self, block: Block) -> None:
        """From now on the contents of ``block`` are what they are, until :meth:`unseal` or a resize.

        Release the views that write to it first: what is written from here on is a failure, whatever wrote it. The
        block is one of this wrapper, or of a wrapper in front of it. One that is sealed already is compared first,
        as the level has it. Raises :class:`ForeignBlock` for others, :class:`StaleBlock` for one that is gone,
        :class:`CorruptionDetected`, and :class:`StaleHandle` when closed. Any thread.

        >>> import nativemem
        >>> with nativemem.Verified(level="full") as verified:
        ...     table = verified.array("d", 3)
        ...     verified.seal(table.obj)
        ...     verified.verify()
        ...     table.release()
        1
        """
        self._set(block, "seal")

    def unseal(self, block: Block) -> None:
        """The contents of ``block`` may change again; they are compared first, as the level has it. Does nothing
        for one that is not sealed. Raises as :meth:`seal`. Any thread.

        >>> import nativemem
        >>> with nativemem.Verified(level="full") as verified:
        ...     block = verified.alloc(4)
        ...     verified.seal(block)
        ...     verified.unseal(block)
        ...     memoryview(block)[:] = b"next"  # now it is no failure
        ...     verified.seal(block)
        ...     block.free()
        """
        self._set(block, "unseal")

    def _set(self, block: Any, verb: str) -> None:
        core = self._opened()
        if not isinstance(block, self._backend.Block):
            raise_block(self, block, "type")
        if not any(link is self for link in chain(block.allocator)):
            raise_block(self, block, "foreign")
        if not (block.address and block.size):  # of a dead one this raises
            return
        refusal: tuple[int, int, int, int] | None = None
        try:
            getattr(core, verb)(block)
        except Refusal as r:
            refusal = r.status, r.requested, r.used, r.limit
        if refusal is not None:
            raise_status(self, *refusal, (block.size, block.align))

    def verify(self) -> int:
        """Compares every sealed block, whatever the level, and the ledger with the counters. Returns how many
        blocks it compared. Raises :class:`CorruptionDetected`, :class:`StaleHandle` when closed. Any thread."""
        compared, broken = self._opened().verify()
        if broken is None:
            return compared
        address, size = broken
        what = f"a sealed block of {size} bytes at {address:#x} was changed"
        raise CorruptionDetected(
            f"Verified: {what if size else 'the ledger has other blocks than the counters'}",
            suggestion="look for code that writes by address or through a view that was kept; save what can be "
            "checked, and end the process",
            used=size,
        )
