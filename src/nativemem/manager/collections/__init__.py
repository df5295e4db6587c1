"""Bounded collections: lists, stacks, queues, deques, maps, sets, bit sets and strings that never grow past their
capacity.

Each takes its memory when it is made, from an allocator, a budget or a provider, and holds its items packed in it.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ...backends import forks
from ...backends.binding import Binding
from ...facades import configured
from . import bits, hashed, sequences, text

__all__ = [
    "BoundedBitSet",
    "BoundedDeque",
    "BoundedList",
    "BoundedMap",
    "BoundedQueue",
    "BoundedSet",
    "BoundedStack",
    "BoundedString",
    "bound",
]

#: the class of packed items in a backend that each collection is made from; None: none
_KINDS: dict[str, tuple[type, str | None]] = {
    "BoundedBitSet": (bits.BoundedBitSet, "Bits"),
    "BoundedDeque": (sequences.BoundedDeque, "RingDeque"),
    "BoundedList": (sequences.BoundedList, "Ring"),
    "BoundedMap": (hashed.BoundedMap, "TableMap"),
    "BoundedQueue": (sequences.BoundedQueue, "RingQueue"),
    "BoundedSet": (hashed.BoundedSet, "TableSet"),
    "BoundedStack": (sequences.BoundedStack, "RingStack"),
    "BoundedString": (text.BoundedString, None),
}
_lock = threading.RLock()
forks.hold(_lock)
_bound: dict[str, SimpleNamespace] = {}


def bound(binding: Binding) -> SimpleNamespace:
    """The collections on one backend, as :func:`nativemem.facades.load` gives it: a namespace with the
    classes.

    The backend's class comes first in the order of inheritance, so that its methods are called and not those that
    every subclass of the abstract base classes has.
    """
    with _lock:
        if binding.name not in _bound:
            made = SimpleNamespace()
            packed = binding.backend.packed
            for name, (kind, base) in _KINDS.items():
                namespace = {
                    "__slots__": kind._fields,  # type: ignore[attr-defined]
                    "__doc__": kind.__doc__,
                    "__module__": __name__,
                    "_binding": binding,
                }
                bases = (kind,) if base is None else (getattr(packed, base), kind)
                cls = type(kind)(name, bases, namespace)
                if base is not None:
                    binding.backend.finish_packed(cls)
                setattr(made, name, cls)
            _bound[binding.name] = made
        return _bound[binding.name]


if TYPE_CHECKING:
    from .bits import BoundedBitSet as BoundedBitSet
    from .hashed import BoundedMap as BoundedMap
    from .hashed import BoundedSet as BoundedSet
    from .sequences import BoundedDeque as BoundedDeque
    from .sequences import BoundedList as BoundedList
    from .sequences import BoundedQueue as BoundedQueue
    from .sequences import BoundedStack as BoundedStack
    from .text import BoundedString as BoundedString
else:
    globals().update(vars(bound(configured())))
