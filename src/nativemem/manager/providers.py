"""The tiers of providers, growable, capped and static, and the choice between them.

A provider serves one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import Settings
from ..errors import ConfigError, UninitializedRead, shown
from ..levels import Level
from ..sizes import parse_size
from .buffers import plain
from .provider import Provider, ProviderStats, wipe_range

if TYPE_CHECKING:
    from ..allocators.base import Allocator

__all__ = ["CappedProvider", "Provider", "ProviderStats", "StaticProvider", "StdProvider", "default_provider"]

#: distinct regions that a tracker tells apart; each takes about 200 bytes
MOST_REGIONS = 4096


class StdProvider(Provider):
    """Bytes that grow as they are written, up to what the allocator gives, with a tracker of accesses.

    Parameters: ``upstream``, an allocator (None: the system's), whose budget is charged; ``verification``, a
    level, its name or a :class:`Verification` (None: OFF). Raises :class:`ConfigError` for other values.

    >>> from nativemem.manager import StdProvider
    >>> provider = StdProvider()
    >>> provider.write_bytes(0, b"hello")
    >>> provider.read_bytes(0, 5), provider.stats.accesses, provider.stats.largest
    (b'hello', 2, 5)
    """

    __slots__ = ("_accesses", "_largest", "_regions")
    tier = "std"

    def __init__(self, *, upstream: Allocator | None = None, verification: Any = None) -> None:
        self._open(upstream, None)
        self._accesses, self._largest = 0, 0
        self._regions: set[tuple[int, int]] = set()

    @property
    def stats(self) -> ProviderStats:
        """Counters now, the tracker's among them. Raises :class:`StaleHandle` when closed."""
        self._must_be_open("stats")
        return ProviderStats(
            self._used, self.capacity, self._limit, self._accesses, len(self._regions), self._largest
        )

    def _track(self, offset: int, n: int) -> None:
        self._accesses += 1
        if n > self._largest:
            self._largest = n
        if len(self._regions) < MOST_REGIONS:
            self._regions.add((offset, n))

    def read_bytes(self, offset: int, n: int) -> bytes:
        data = super().read_bytes(offset, n)
        self._track(offset, n)
        return data

    def write_bytes(self, offset: int, data: Any) -> None:
        if type(data) is not bytes:
            data = plain(data, f"{self._name}.write_bytes")
        super().write_bytes(offset, data)
        self._track(offset, len(data))

    read_bytes.__doc__ = Provider.read_bytes.__doc__
    write_bytes.__doc__ = Provider.write_bytes.__doc__


class CappedProvider(Provider):
    """Bytes that grow as they are written, up to a cap; beyond it :class:`CapacityExceeded`, with nothing changed.

    Parameters: ``max_size``, the most bytes, an int or a string such as ``"64 KiB"``; ``upstream`` and
    ``verification`` as for :class:`StdProvider`. Raises :class:`ConfigError` and :class:`InvalidLayout` for other
    values.

    >>> from nativemem.manager import CappedProvider
    >>> provider = CappedProvider(4)
    >>> try:
    ...     provider.write_bytes(0, b"hello")
    ... except MemoryError as error:
    ...     print(error)
    CappedProvider.write_bytes: up to byte 5, beyond the 4 that there can be
    >>> len(provider)
    0
    """

    __slots__ = ()
    tier = "alloc"

    def __init__(self, max_size: int | str, *, upstream: Allocator | None = None, verification: Any = None) -> None:
        self._open(upstream, parse_size(max_size, "CappedProvider.max_size:", least=1))


class StaticProvider(Provider):
    """Bytes of fixed capacity in one block, which is taken at construction: nothing allocates after that.

    Parameters: ``capacity``, bytes, an int or a string such as ``"64 KiB"``; ``upstream`` as for
    :class:`StdProvider`; ``verification`` (None: BASIC). To read what was not written raises
    :class:`UninitializedRead`; at OFF it gives zeros. A write beyond the capacity raises
    :class:`CapacityExceeded`. Raises what the allocator raises where there is no memory, and
    :class:`ConfigError` and :class:`InvalidLayout` for other values.

    >>> from nativemem.manager import StaticProvider
    >>> provider = StaticProvider(16)
    >>> provider.write_bytes(0, b"hello")
    >>> try:
    ...     provider.read_bytes(0, 6)
    ... except ValueError as error:
    ...     print(error)
    StaticProvider.read_bytes: 6 bytes at 0, of which 5 were written
    """

    __slots__ = ()
    tier = "static"
    _default = Level.BASIC

    def __init__(
        self, capacity: int | str = 64 << 10, *, upstream: Allocator | None = None, verification: Any = None
    ) -> None:
        size = parse_size(capacity, "StaticProvider.capacity:", least=1)
        self._open(upstream, size)
        self._grow(size, size)

    def _read_beyond(self, offset: int, n: int) -> bytes:
        self._must_be_open("read_bytes")
        beyond = self._beyond("read_bytes", offset, n)
        if offset < 0 or n < 0 or offset + n > self.capacity:
            raise beyond
        if self.level is Level.OFF:
            return bytes(self._view[offset : offset + n])
        raise UninitializedRead(
            f"{self._name}.read_bytes: {n} bytes at {offset}, of which {max(self._used - offset, 0)} were written",
            requested=n,
            offset=offset,
            used=self._used,
            capacity=self.capacity,
        )

    def _empty(self) -> None:
        wipe_range(self._view, 0, self._used)

    def _give_back(self) -> None:
        """Nothing: what is no longer used stays."""


TIERS: dict[str, type[Provider]] = {cls.tier: cls for cls in (StdProvider, CappedProvider, StaticProvider)}


def default_provider(
    config: str | None = None,
    size: int | str = 64 << 10,
    *,
    upstream: Allocator | None = None,
    verification: Any = None,
    env: Mapping[str, str] | None = None,
) -> Provider:
    """A provider of the tier that the environment allows.

    Parameters: ``config``, ``"std"``, ``"alloc"`` or ``"static"`` (None: what ``NATIVEMEM_PROVIDER`` says; without
    it ``"alloc"``, capped, where ``NATIVEMEM_LIMIT`` limits the process, else ``"std"``); ``size``, bytes, the
    capacity of a static one and the cap of a capped one; ``upstream`` and ``verification`` as for the tiers;
    ``env``, variables (None: the process's). Raises :class:`ConfigError` for another tier, and what making it
    raises. Any thread.

    >>> from nativemem.manager import default_provider
    >>> default_provider("static", 4096).limit, default_provider(env={"NATIVEMEM_PROVIDER": "alloc"}).limit
    (4096, 65536)
    """
    settings = Settings.from_env(env)
    if config is None:
        config = settings.provider or ("std" if settings.limit is None else "alloc")
    if config not in TIERS:
        raise ConfigError(f"default_provider.config: takes {', '.join(TIERS)}, not {shown(config)}")
    rest: dict[str, Any] = {"upstream": upstream, "verification": verification}
    size = parse_size(size, "default_provider.size:", least=1)
    if config == "std":
        return StdProvider(**rest)
    return TIERS[config](size, **rest)
