"""The intern table of the pure backend: a dictionary under the backend's one lock.

Python keeps the bytes, as the dictionary's keys; upstream counts them, with the 16 bytes that a value takes beside
them in the native table.
"""

from __future__ import annotations

import itertools
from typing import Any

from ...errors import Refusal, Status
from .budget import pressed, tell
from .chunks import Chunk, give_chunk_back
from .lock import lock, locked

__all__ = ["Intern"]

_HEADER = 16
_REFERENCES_MAX = (1 << 32) - 1

Failure = tuple[int, int, int, int]
_NONE: Failure = (Status.CLOSED, 0, 0, 0)


class _Record:
    __slots__ = ("chunk", "id", "references", "value")

    def __init__(self, number: int, value: bytes, chunk: Any) -> None:
        self.id, self.value, self.chunk, self.references = number, value, chunk, 0


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return str.encode(value, "utf-8", "surrogatepass")  # whatever a subclass makes of it
    if isinstance(value, bytes):
        return value if type(value) is bytes else bytes(memoryview(value))
    raise TypeError(f"InternTable: takes str or bytes, not {type(value).__name__}")


def _id_of(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"InternTable: takes a handle, which is an int, not {type(number).__name__}")
    return int(number)


class Intern:
    """Its calls give what they are asked for, or the failure as a tuple."""

    def __init__(self, allocator: Any, shards: int, hold: Any) -> None:
        self._upstream, self._hold, self._closed = allocator._core, hold, False
        self._clear()
        self._numbers = itertools.count(1)
        self._acquires = self._hits = self._failures = 0

    def _clear(self) -> None:
        self._by_value: dict[bytes, _Record] = {}
        self._by_id: dict[int, _Record] = {}
        self._references = self._stored = self._held = 0

    def __del__(self) -> None:
        if hasattr(self, "_by_value") and lock is not None:
            lock.finalise(self.close)

    def _acquire(self, value: bytes) -> int:
        """Raises Refusal."""
        record = self._by_value.get(value)
        if record is None:
            size = _HEADER + len(value)
            try:
                chunk = self._upstream._alloc(size, 16, lambda: Chunk(size, 16))
            except Refusal:
                self._failures += 1
                raise
            record = _Record(next(self._numbers), value, chunk)
            self._by_value[value] = self._by_id[record.id] = record
            self._stored += len(value)
            self._hits -= 1
        self._add(record)
        self._hits += 1
        self._acquires += 1
        return record.id

    def _add(self, record: _Record) -> None:
        if record.references == _REFERENCES_MAX:
            self._failures += 1
            raise Refusal(Status.CAPACITY_EXCEEDED, 1, _REFERENCES_MAX, _REFERENCES_MAX)
        record.references += 1
        self._references += 1
        self._held += len(record.value)

    def _drop(self, record: _Record) -> None:
        record.references -= 1
        self._references -= 1
        self._held -= len(record.value)
        if not record.references:
            del self._by_value[record.value], self._by_id[record.id]
            self._stored -= len(record.value)
            give_chunk_back(self._upstream, record.chunk)

    def _acquire_all(self, values: list[Any], out: Any) -> Failure | None:
        done = 0
        try:
            with lock:
                if self._closed:
                    return _NONE
                for value in values:
                    out[done] = self._acquire(_bytes_of(value))
                    done += 1
        except (Refusal, TypeError) as error:
            self.release_many(out[:done])
            if not isinstance(error, Refusal):
                raise
            return error.status, error.requested, error.used, error.limit
        if pressed:
            tell()
        return None

    def acquire(self, value: Any) -> int | Failure:
        """The id of a value, with one more reference."""
        out = [0]
        return self._acquire_all([value], out) or out[0]

    def acquire_many(self, values: Any, out: Any) -> Failure | None:
        """Those of many, all or none."""
        return self._acquire_all(values, out)

    @locked
    def retain(self, number: Any) -> Failure | None:
        """One more reference."""
        record = self._by_id.get(_id_of(number))
        if record is None:
            return _NONE
        try:
            self._add(record)
        except Refusal as r:
            return r.status, r.requested, r.used, r.limit
        return None

    @locked
    def release(self, number: Any) -> Failure | None:
        """One less."""
        record = self._by_id.get(_id_of(number))
        if record is None:
            return _NONE
        self._drop(record)
        return None

    @locked
    def release_many(self, ids: Any) -> int | None:
        """One less of each; how many were before the first that is none."""
        for done, number in enumerate(ids):
            if self.release(number) is not None:
                return done
        return None

    def view(self, number: Any) -> bytes | Failure:
        """The value as bytes."""
        record = self._by_id.get(_id_of(number))
        return _NONE if record is None else record.value

    def text(self, number: Any) -> str | Failure:
        """The value as a str."""
        record = self._by_id.get(_id_of(number))
        return _NONE if record is None else record.value.decode("utf-8", "surrogatepass")

    @locked
    def stats(self) -> tuple[int, ...]:
        """unique, references, stored, held, acquires, hits, reserved, failures."""
        unique = len(self._by_value)
        reserved = self._stored + unique * _HEADER
        counted = self._acquires, self._hits, reserved, self._failures
        return unique, self._references, self._stored, self._held, *counted

    @locked
    def check(self) -> str | None:
        """None, or the invariant that does not hold."""
        records = list(self._by_value.values())
        if {record.id: record for record in records} != self._by_id:
            return "the two dictionaries have different records"
        if sum(record.references for record in records) != self._references:
            return "references is not the sum of the records'"
        return None

    @locked
    def close(self) -> None:
        """Reclaims every value, and takes none any more."""
        self._closed = True
        records = list(self._by_value.values())
        self._clear()
        for record in records:
            give_chunk_back(self._upstream, record.chunk)
