"""Locks that are held across a fork, so that the child finds none held by a thread that it does not have, and what
they guard is whole.

They are taken in the order in which the package's calls take them. :mod:`os` calls what was registered last first,
and which module is loaded last is the program's choice.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["hold"]

#: those that are taken before others, and those under which no other is taken
_outer: list[Any] = []
_inner: list[Any] = []
#: those that the thread which forks has taken
_held: tuple[Any, ...] = ()


def hold(lock: Any, *, inner: bool = False) -> None:
    """Has a reentrant lock held across each fork. ``inner``: no other of these is taken under it."""
    (_inner if inner else _outer).append(lock)


def _before() -> None:
    global _held
    locks = (*_outer, *_inner)
    for lock in locks:
        lock.acquire()
    _held = locks


def _after() -> None:
    global _held
    locks, _held = _held, ()  # where there was no memory to call what comes before a fork, there are none
    for lock in reversed(locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
