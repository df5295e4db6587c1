"""The same index as Python objects alone: what the example is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from fixture import Edge


def index(edges: Iterable[Edge]) -> dict[str, list[tuple[str, str]]]:
    """By parent, its children and their object ids."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for parent, child, object_id in edges:
        rows.setdefault(parent, []).append((child, object_id))
    return rows


def serialized(rows: dict[str, list[tuple[str, str]]]) -> bytes:
    """As :func:`index.serialized`."""
    lines = []
    for parent, links in rows.items():
        lines.append(f"{parent} {len(links)}")
        lines.extend(f"  {child} {object_id}" for child, object_id in links)
    return "\n".join(lines).encode()


def digest(edges: Iterable[Edge]) -> str:
    """Of the index."""
    return hashlib.sha256(serialized(index(edges))).hexdigest()


def duplicate_bytes(rows: dict[str, list[tuple[str, str]]]) -> int:
    """Letters of strings that are there again in another object."""
    objects = {id(text): text for links in rows.values() for link in links for text in link}
    objects |= {id(text): text for text in rows}
    return sum(map(len, objects.values())) - sum(map(len, set(objects.values())))
