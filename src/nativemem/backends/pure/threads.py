"""Which thread a confined allocator belongs to, and for which one the calling thread acts."""

from __future__ import annotations

import threading


class ThreadToken:
    """Stands for a thread and goes with it; unlike the thread's number it is never used again."""

    __slots__ = ("__weakref__",)


class _Own(threading.local):
    def __init__(self) -> None:
        self.thread = ThreadToken()


class _Acting(threading.local):
    """Whose confined allocators the thread may use: its own, or those that a Locked has it act for."""

    def __init__(self) -> None:
        self.thread = own.thread


own = _Own()
acting = _Acting()


def this_thread() -> ThreadToken:
    """The calling thread, to hand allocators back to it."""
    return own.thread
