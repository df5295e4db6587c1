"""What verification does with what it is told: nothing, a checksum of contents, or a ledger of live blocks.

A backend is told of what the manager's room does to memory, and answers whether contents are still what was
written. :class:`Nothing` is the protocol: each of its methods does nothing, and a backend overrides those that it
has a use for. Calls come one at a time, under the room's lock. Of contents it is told from SAMPLING on.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError, shown

__all__ = ["Checksum", "Entry", "Ghost", "Nothing"]

_MODULUS = 65521


class Nothing:
    """The backend that does nothing, and the protocol of those that do.

    ``key`` is a number that the manager or provider has for a block or for its used bytes; offsets and lengths are
    bytes; ``old``, ``new``, ``tail`` and ``used`` are bytes or views of them, valid during the call.
    """

    name = "none"

    def opened(self, key: int, size: int, owner: str | None, site: str) -> None:
        """A block of ``size`` bytes came into being, asked for at ``site`` (``file:line``)."""

    def closed(self, key: int) -> None:
        """What ``opened`` or ``sealed`` told of is gone."""

    def sealed(self, key: int, used: memoryview) -> None:
        """The used bytes are these from now on, whatever they were."""

    def wrote(self, key: int, offset: int, old: bytes, new: memoryview) -> None:
        """``old`` at ``offset`` became ``new``, as long as it; both lie within the used bytes."""

    def resized(self, key: int, length: int, tail: bytes) -> None:
        """There are ``length`` used bytes now: zeros came at the end, or ``tail`` was cut off."""

    def compare(self, key: int, used: memoryview) -> str | None:
        """What is wrong with the used bytes, in one line; None where nothing is."""
        return None


class _Sums:
    """Adler-32 (RFC 1950) as its two sums, which follow a change in time that grows with the change alone.

    Of n bytes d: ``a = 1 + sum(d[i])`` and ``b = n + sum((n - i) * d[i])``, both modulo 65521. A byte that changes
    by less than 65521 changes ``a``, so no single flipped byte goes unnoticed.
    """

    __slots__ = ("a", "b", "n")

    def __init__(self) -> None:
        self.a, self.b, self.n = 1, 0, 0

    def seal(self, used: memoryview) -> None:
        value = zlib.adler32(used)
        self.a, self.b, self.n = value & 0xFFFF, value >> 16, len(used)

    def change(self, offset: int, old: bytes, new: memoryview) -> None:
        before, after = zlib.adler32(old), zlib.adler32(new)
        behind = self.n - offset - len(old)
        da = (after & 0xFFFF) - (before & 0xFFFF)
        self.b = (self.b + (after >> 16) - (before >> 16) + behind * da) % _MODULUS
        self.a = (self.a + da) % _MODULUS

    def extend(self, n: int) -> None:
        self.b = (self.b + n * self.a) % _MODULUS  # each zero adds the sum so far once
        self.n += n

    def cut(self, tail: bytes) -> None:
        value, m = zlib.adler32(tail), len(tail)
        self.a = (self.a - (value & 0xFFFF) + 1) % _MODULUS
        self.b = (self.b - (value >> 16) + m - m * self.a) % _MODULUS
        self.n -= m

    @property
    def value(self) -> int:
        return self.b << 16 | self.a


class Checksum(Nothing):
    """Keeps an Adler-32 of the used bytes of each provider, and finds any single byte that changed otherwise.

    A write costs time by its own length, not by that of the provider; only a comparison reads all used bytes. What
    was changed behind the provider's back is still found after writes beside it, and after one over it.
    """

    name = "checksum"

    def __init__(self) -> None:
        self._sums: dict[int, _Sums] = {}

    def sealed(self, key: int, used: memoryview) -> None:
        self._sums.setdefault(key, _Sums()).seal(used)

    def closed(self, key: int) -> None:
        self._sums.pop(key, None)

    def wrote(self, key: int, offset: int, old: bytes, new: memoryview) -> None:
        if key in self._sums:
            self._sums[key].change(offset, old, new)

    def resized(self, key: int, length: int, tail: bytes) -> None:
        sums = self._sums.get(key)
        if sums is not None:
            if tail:
                sums.cut(tail)
            else:
                sums.extend(length - sums.n)

    def compare(self, key: int, used: memoryview) -> str | None:
        sums = self._sums.get(key)
        if sums is None:
            return None
        if len(used) != sums.n:
            return f"{len(used)} bytes are used, {sums.n} were written"
        found = zlib.adler32(used)
        if found != sums.value:
            return f"the checksum of {sums.n} used bytes is {found:#010x}, of what was written {sums.value:#010x}"
        return None


class Entry(NamedTuple):
    """A live block in the ledger: its ``id``, ``size`` in bytes, ``owner``, and ``site``, where it was asked for
    (``file:line``)."""

    id: int
    size: int
    owner: str | None
    site: str


class Ghost(Nothing):
    """A shadow record of every live block, to be held against the counters.

    >>> ghost = Ghost()
    >>> ghost.opened(1, 100, "decoder", "app.py:3")
    >>> ghost.entries()
    [Entry(id=1, size=100, owner='decoder', site='app.py:3')]
    >>> ghost.closed(1); ghost.totals()
    {}
    """

    name = "ghost"

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def opened(self, key: int, size: int, owner: str | None, site: str) -> None:
        self._entries[key] = Entry(key, size, owner, site)

    def closed(self, key: int) -> None:
        self._entries.pop(key, None)

    def entries(self) -> list[Entry]:
        """The live blocks, the oldest first."""
        return list(self._entries.values())

    def totals(self) -> dict[str | None, tuple[int, int]]:
        """By owner: live blocks and their bytes."""
        found: dict[str | None, tuple[int, int]] = {}
        for entry in self.entries():
            blocks, size = found.get(entry.owner, (0, 0))
            found[entry.owner] = blocks + 1, size + entry.size
        return found


_SHIPPED = {"none": Nothing, "checksum": Checksum, "ghost": Ghost}


def backends_of(value: Any) -> list[Nothing]:
    """The backends that ``value`` stands for: a name, an object with the methods of :class:`Nothing`, or several.
    Raises :class:`ConfigError` for anything else."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    found: list[Nothing] = []
    for each in value if several else (value,):
        if isinstance(each, str) and each in _SHIPPED:
            found.append(_SHIPPED[each]())
        elif not isinstance(each, (str, type)) and all(callable(getattr(each, name, None)) for name in _METHODS):
            found.append(each)
        else:
            raise ConfigError(
                f"verification.backend: takes {', '.join(_SHIPPED)}, or an object with the methods of "
                f"nativemem.manager.checks.Nothing, not {shown(each)}"
            )
    return found


_METHODS = tuple(name for name in vars(Nothing) if not name.startswith("_") and name != "name")


def told(backends: Sequence[Nothing]) -> dict[str, list[Callable[..., Any]]]:
    """By method the backends' own: what a backend has from :class:`Nothing` need not be called."""
    return {
        name: [
            getattr(backend, name)
            for backend in backends
            if getattr(getattr(backend, name), "__func__", None) is not getattr(Nothing, name)
        ]
        for name in _METHODS
    }
