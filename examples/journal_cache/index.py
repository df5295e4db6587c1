"""Rebuilds the cache's index under an arena. Nothing of it outlives the rebuild but plain numbers and a digest.

Rows of the index come from the arena; paths and object ids from the intern table; a record for each path, and
telemetry, from the slab; the path of the snapshot from the heap. One stack of contexts gives all of it
back, whatever fails.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fixture import Edge
from paths import Paths, free_path

import nativemem
from nativemem.structures import InternTable

#: path, object id, where its edges begin, how many they are
RECORD = struct.Struct("QQII")
#: bytes of a key and its value together
TELEMETRY_MOST = 256
OPERATION = "cache.rebuild"


@dataclass(frozen=True)
class Rebuilt:
    """What came of a rebuild: plain values, none of which points into its memory."""

    digest: str
    edges: int
    paths: int
    stored_bytes: int
    saved_bytes: int
    telemetry: tuple[tuple[str, str], ...]


class Telemetry:
    """Keys and values, each pair in a cell of the slab."""

    def __init__(self, slab: Any) -> None:
        self._slab = slab
        self._blocks: list[tuple[Any, int]] = []

    def put(self, key: str, value: object) -> None:
        """Raises ValueError for more than 256 bytes."""
        raw_key, raw = key.encode(), str(value).encode()
        size = len(raw_key) + len(raw)
        if size > TELEMETRY_MOST:
            raise ValueError(f"telemetry: {key} takes {size} bytes, {TELEMETRY_MOST} at most")
        block = self._slab.alloc(max(size, 1))
        memoryview(block)[:size] = raw_key + raw
        self._blocks.append((block, len(raw_key)))

    def all(self) -> tuple[tuple[str, str], ...]:
        """Copies."""
        pairs = ((bytes(memoryview(block)), split) for block, split in self._blocks)
        return tuple((raw[:split].decode(), raw[split:].decode()) for raw, split in pairs)

    def close(self) -> None:
        while self._blocks:
            self._blocks.pop()[0].free()


def rebuild(edges: Iterable[Edge], upstream: Any, files: Paths, name: str = "cache-index.bin") -> Rebuilt:
    """The index of ``edges``, written to ``name`` and read back.

    ``upstream`` is a heap or what stands before one, of this rebuild alone or shared. Raises what it raises; then,
    as otherwise, all of its memory has gone back and the file is gone.
    """
    with ExitStack() as ends:
        arena = ends.enter_context(nativemem.Arena("64 KiB", upstream=upstream))
        slab = ends.enter_context(nativemem.Slab(upstream=upstream))
        names = ends.enter_context(InternTable(upstream, shards=4))
        telemetry = Telemetry(slab)
        ends.callback(telemetry.close)
        parents, children, ids, counts = read(edges, names)
        rows = {handle: row for row, handle in enumerate(counts)}
        starts = ends.enter_context(arena.array("Q", len(rows) + 1))
        links = ends.enter_context(arena.array("Q", 2 * len(children)))
        fill(parents, children, ids, counts, rows, starts, links)
        records = []
        ends.callback(lambda: [record.free() for record in records])
        for handle, row in rows.items():
            records.append(slab.alloc(RECORD.size))
            RECORD.pack_into(records[-1], 0, handle, links[2 * starts[row] + 1], starts[row], counts[handle])
        snapshot = serialized(names, rows, starts, links)
        path = files.canonical(upstream, name)
        ends.callback(free_path, path)
        files.write(path, snapshot)
        ends.callback(files.remove, path)
        digest = hashlib.sha256(files.read(path)).hexdigest()
        stats = names.stats
        telemetry.put("alloc.op", OPERATION)
        telemetry.put("index.digest", digest)
        telemetry.put("index.edges", len(children))
        telemetry.put("intern.hit_rate", f"{stats.hit_rate:.3f}")
        return Rebuilt(digest, len(children), len(rows), stats.stored, stats.saved, telemetry.all())


def read(edges: Iterable[Edge], names: Any) -> tuple[Any, Any, Any, dict[int, int]]:
    """Handles of each column, and how many edges each parent has, in the order in which they came."""
    columns = list(zip(*edges, strict=True)) or [(), (), ()]
    parents, children, ids = (names.acquire_many(column) for column in columns)
    counts: dict[int, int] = {}
    for parent in parents:
        counts[parent] = counts.get(parent, 0) + 1
    return parents, children, ids, counts


def fill(
    parents: Any, children: Any, ids: Any, counts: dict[int, int], rows: dict[int, int], starts: Any, links: Any
) -> None:
    """The rows: where each parent's edges begin, and the edges, a child and its object id."""
    at = 0
    for row, count in enumerate(counts.values()):
        starts[row] = at
        at += count
    starts[len(rows)] = at
    free = list(starts)
    for parent, child, object_id in zip(parents, children, ids, strict=True):
        row = rows[parent]
        links[2 * free[row]], links[2 * free[row] + 1] = child, object_id
        free[row] += 1


def serialized(names: Any, rows: dict[int, int], starts: Any, links: Any) -> bytes:
    """The index as bytes that do not depend on handles."""
    lines = []
    for parent, row in rows.items():
        lines.append(b"%s %d" % (names.view(parent), starts[row + 1] - starts[row]))
        for edge in range(starts[row], starts[row + 1]):
            lines.append(b"  %s %s" % (names.view(links[2 * edge]), names.view(links[2 * edge + 1])))
    return b"\n".join(lines)
