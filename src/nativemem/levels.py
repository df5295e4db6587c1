"""How deep the checks go: the levels, what each compares when, and what an operation costs at it.

Levels do not change: any thread may use them.
"""

from __future__ import annotations

import enum
from typing import Any

from .errors import ConfigError, shown

__all__ = ["CRITICAL", "FUEL", "INITIALIZATION", "MUTATION", "READ", "Level"]

#: how much depends on an operation: at SAMPLING it is checked with a probability of so many 256ths
READ, MUTATION, INITIALIZATION, CRITICAL = 100, 150, 180, 200

#: units of work that an operation stands for
FUEL = {"read": 1, "write": 2, "copy": 3, "alloc": 10, "free": 8, "grow": 50, "checksum": 20}

#: hundredths of the work, with the checks of a level
_HUNDREDTHS = {"off": 100, "basic": 110, "sampling": 125, "standard": 150, "full": 200, "redundant": 250}


class Level(enum.Enum):
    """How deep checks go. The levels have no numeric order: each is another choice of what to check when.

    * ``OFF``: nothing but bounds; what is handed out has no code for checks.
    * ``BASIC``: that nothing is read that was not written, and that sizes are consistent where much depends on it
      (a resize, ``verify()``, a close).
    * ``SAMPLING``: a checksum of the used bytes is kept right by each write, and compared before some operations,
      with a probability of 100/256 for a read, 150/256 for a write, 180/256 for the first write, 200/256 where much
      depends on it.
    * ``STANDARD``: the checksum is compared before each write and where much depends on it.
    * ``FULL``: before each access, and after each write.
    * ``REDUNDANT``: as FULL; the sizes are kept twice and compared as well.

    >>> Level("full") is Level.FULL, Level.FULL.cost("write"), Level.OFF.cost("grow")
    (True, 4, 50)
    >>> Level.FULL.hundredths, Level.FULL.keeps_checksums, Level.BASIC.keeps_checksums
    (200, True, False)
    """

    OFF = "off"
    BASIC = "basic"
    SAMPLING = "sampling"
    STANDARD = "standard"
    FULL = "full"
    REDUNDANT = "redundant"

    @classmethod
    def parse(cls, value: Any, label: str = "verification") -> Level:
        """The level that ``value`` is, or names in any case. Raises :class:`ConfigError` for anything else, with
        ``label`` in front. Any thread.

        >>> Level.parse("FULL")
        <Level.FULL: 'full'>
        """
        if isinstance(value, cls):
            return value
        try:
            return cls(value.lower())
        except (AttributeError, ValueError):
            names = ", ".join(level.value for level in cls)
            raise ConfigError(f"{label}: takes {names}, not {shown(value)}") from None

    @property
    def keeps_checksums(self) -> bool:
        """Whether a checksum is kept, so that contents can be compared."""
        return self not in (Level.OFF, Level.BASIC)

    @property
    def hundredths(self) -> int:
        """What an operation costs at this level, in hundredths of what it costs at OFF."""
        return _HUNDREDTHS[self.value]

    def compares(self, importance: int, roll: int) -> bool:
        """Whether contents are compared before an operation of this importance.

        Parameters: ``importance``, 100 for a read, 150 for a mutation, 180 for an initialization, 200 where much
        depends on it; ``roll``, a random number from 0 to 255, which only SAMPLING looks at. Any thread.

        >>> Level.SAMPLING.compares(100, 99), Level.SAMPLING.compares(100, 100), Level.STANDARD.compares(100, 0)
        (True, False, False)
        """
        if self is Level.SAMPLING:
            return roll < importance
        if self is Level.STANDARD:
            return importance >= MUTATION
        return self in (Level.FULL, Level.REDUNDANT)

    def cost(self, operation: str) -> int:
        """Returns units of work ("fuel") of an operation with the checks of this level: read 1, write 2, copy 3,
        alloc 10, free 8, grow 50, checksum 20 at OFF, times 1.10 at BASIC, 1.25, 1.50, 2.00, 2.50, rounded to the
        nearest.

        Raises :class:`ConfigError` for another operation. Any thread.

        >>> [level.cost("alloc") for level in Level]
        [10, 11, 13, 15, 20, 25]
        """
        base = FUEL.get(operation) if isinstance(operation, str) else None
        if base is None:
            raise ConfigError(f"level.cost: takes {', '.join(FUEL)}, not {shown(operation)}")
        return (base * self.hundredths + 50) // 100
