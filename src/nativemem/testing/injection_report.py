"""The memory that a sweep, its server and each attempt share: it outlives an attempt that crashes."""

from __future__ import annotations

import mmap
import pickle
import struct
from dataclasses import dataclass
from typing import Any

__all__ = ["Attempt", "Shared"]

#: csrc/engine/crash.h has the structure, nm__crash_report
_FRAMES, _TEXT = 64, 12288
_HEAD = struct.Struct("=QQQQQqqqQ")
_STACK = 8 + 8 * _FRAMES + _TEXT
#: bytes for what the attempt says of itself
_ROOM = 1 << 16
#: the attempt's number of process, how many were begun, and the length of what it says
_OWN = struct.Struct("=qqq")


@dataclass
class Attempt:
    """What is known of an attempt when it is over. ``said``: what it said of itself; None: it could not."""

    nth: int = 0
    status: int = 0
    said: dict[str, Any] | None = None
    #: without the native core: 0, and empty
    allocations: int = 0
    refused: int = 0
    site: int = 0
    size: int = 0
    domain: int = 0
    live: int = 0
    signal: int = 0
    code: int = 0
    address: int = 0
    c: str = ""
    end_c: str = ""
    python: str = ""
    end_python: str = ""
    output: str = ""


class Shared:
    """``native``: the size of the core's report, in bytes; 0: there is no core."""

    def __init__(self, native: int) -> None:
        assert native in (0, _HEAD.size + 2 * _STACK + _TEXT)
        self.native = native
        self.memory = mmap.mmap(-1, native + _OWN.size + _ROOM)

    def begin(self) -> None:
        """Before an attempt: nothing has been said."""
        self.memory[: self.native] = bytes(self.native)
        _, count, _ = _OWN.unpack_from(self.memory, self.native)
        _OWN.pack_into(self.memory, self.native, 0, count + 1, 0)

    def runs(self, process: int) -> None:
        _, count, length = _OWN.unpack_from(self.memory, self.native)
        _OWN.pack_into(self.memory, self.native, process, count, length)

    def under_way(self) -> tuple[int, int]:
        """The process of the attempt, 0 for none, and how many were begun."""
        process, count, _ = _OWN.unpack_from(self.memory, self.native)
        return process, count

    def say(self, **what: Any) -> None:
        """In the attempt. What is longer than there is room for is left out."""
        data = pickle.dumps(what)
        if len(data) > _ROOM:
            data = pickle.dumps({key: value for key, value in what.items() if isinstance(value, int)})
        start = self.native + _OWN.size
        self.memory[start : start + len(data)] = data
        process, count, _ = _OWN.unpack_from(self.memory, self.native)
        _OWN.pack_into(self.memory, self.native, process, count, len(data))

    def live(self) -> int:
        """Blocks that were taken and not freed, since the hooks are there."""
        return _HEAD.unpack_from(self.memory, 0)[5] if self.native else 0

    def counted(self) -> tuple[int, int]:
        """Allocations of the last call, and how many of them were refused."""
        return _HEAD.unpack_from(self.memory, 0)[:2] if self.native else (0, 0)

    def read(self, nth: int, status: int) -> Attempt:
        attempt = Attempt(nth, status)
        *_, length = _OWN.unpack_from(self.memory, self.native)
        if length:
            start = self.native + _OWN.size
            attempt.said = pickle.loads(self.memory[start : start + length])
        if self.native:
            values = _HEAD.unpack_from(self.memory, 0)
            names = ("allocations", "refused", "site", "size", "domain", "live", "signal", "code", "address")
            for name, value in zip(names, values, strict=True):
                setattr(attempt, name, value)
            after = _HEAD.size + _STACK
            attempt.c = self._text(after - _TEXT)
            attempt.end_c = self._text(after + _STACK - _TEXT)
            attempt.python = self._text(after + _STACK)
        return attempt

    def _text(self, start: int) -> str:
        text = self.memory[start : start + _TEXT]
        return text[: text.find(b"\0")].decode("utf-8", "replace")
