"""Canonical temporary paths as owned strings: one function frees them, wherever they come from."""

from __future__ import annotations

import os
import posixpath
import tempfile
from typing import Any, Protocol


class OwnedPath:
    """A path whose bytes lie in a block of the caller's allocator, until :func:`free_path`."""

    __slots__ = ("_block",)

    def __init__(self, allocator: Any, text: str) -> None:
        raw = os.fsencode(text)
        self._block = allocator.alloc(len(raw))
        memoryview(self._block)[:] = raw

    @property
    def text(self) -> str:
        """The path. Raises :class:`nativemem.errors.StaleBlock` once it was freed."""
        return os.fsdecode(bytes(memoryview(self._block)))


def free_path(path: OwnedPath) -> None:
    """Gives the path's memory back. Raises :class:`nativemem.errors.DoubleFree` the second time."""
    path._block.free()


class Paths(Protocol):
    """What the cache needs of a file system; both adapters are under one test."""

    def canonical(self, allocator: Any, name: str) -> OwnedPath: ...
    def write(self, path: OwnedPath, data: bytes) -> None: ...
    def read(self, path: OwnedPath) -> bytes: ...
    def remove(self, path: OwnedPath) -> None: ...


def checked(name: str) -> str:
    """A name without a folder. Raises ValueError for another."""
    if not name or "\0" in name or "/" in name or name in (".", "..") or len(name) > 255:
        raise ValueError(f"not the name of a file: {name!r}")
    return name


class PosixPaths:
    """The system's folder for temporary files, its links resolved."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = os.path.realpath(folder or tempfile.gettempdir())

    def canonical(self, allocator: Any, name: str) -> OwnedPath:
        return OwnedPath(allocator, os.path.join(self._folder, checked(name)))

    def write(self, path: OwnedPath, data: bytes) -> None:
        with open(path.text, "wb") as file:
            file.write(data)

    def read(self, path: OwnedPath) -> bytes:
        with open(path.text, "rb") as file:
            return file.read()

    def remove(self, path: OwnedPath) -> None:
        os.remove(path.text)


class FakePaths:
    """The same in memory, for tests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def canonical(self, allocator: Any, name: str) -> OwnedPath:
        return OwnedPath(allocator, posixpath.join("/fake/tmp", checked(name)))

    def write(self, path: OwnedPath, data: bytes) -> None:
        self.files[path.text] = data

    def read(self, path: OwnedPath) -> bytes:
        if path.text not in self.files:
            raise FileNotFoundError(path.text)
        return self.files[path.text]

    def remove(self, path: OwnedPath) -> None:
        self.read(path)
        del self.files[path.text]
