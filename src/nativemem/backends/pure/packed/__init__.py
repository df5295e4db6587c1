"""Packed items in Python: the same types and algorithms as ``ring.c``, ``table.c`` and ``bits.c`` of csrc/binding.

What they cost is in docs/collections.md: a call takes some hundred nanoseconds to some microseconds.
"""

from __future__ import annotations

from .bits import Bits
from .rings import Ring, RingDeque, RingQueue, RingStack
from .tables import TableMap, TableSet

__all__ = ["Bits", "Ring", "RingDeque", "RingQueue", "RingStack", "TableMap", "TableSet"]
