"""Reads the vendored git repository: no network, no git, and nothing that is not what was pinned."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FIXTURE = Path(__file__).resolve().with_name("fixture.tar.gz")
SHA256 = "75bdc5cdbdcee5d67adcddc64d9489949e9e4fabe464bd726ac42518778ad860"


class Edge(NamedTuple):
    """A line of the journal."""

    parent: str
    child: str
    object_id: str


def verified(path: Path = FIXTURE, sha256: str = SHA256) -> dict[str, bytes]:
    """The repository's files by name. Raises ValueError where the tarball is not the one that was pinned."""
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: has the SHA-256 {found}, and {sha256} is pinned")
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        found_files = {m.name.partition("/")[2]: tar.extractfile(m) for m in tar if m.isfile()}
        return {name: file.read() for name, file in found_files.items() if file is not None}


class Repository:
    """Loose objects of git's."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        ref = files["HEAD"].decode().removeprefix("ref: ").strip()
        self.head = files[ref].decode().strip()

    def read(self, name: str, kind: str) -> bytes:
        """An object's body. Raises ValueError where it is another, or damaged."""
        whole = zlib.decompress(self._files[f"objects/{name[:2]}/{name[2:]}"])
        if hashlib.sha1(whole).hexdigest() != name or not whole.startswith(kind.encode() + b" "):
            raise ValueError(f"object {name} is no sound {kind}")
        return whole.partition(b"\0")[2]

    def tree(self, name: str) -> dict[str, str]:
        """Names and ids in a folder."""
        body, entries = self.read(name, "tree"), {}
        while body:
            head, _, rest = body.partition(b"\0")
            entries[head.partition(b" ")[2].decode()] = rest[:20].hex()
            body = rest[20:]
        return entries

    def edges(self) -> Iterator[Edge]:
        """The journal, line by line, each with strings of its own, as a reader of a file has them."""
        commit = self.read(self.head, "commit").decode()
        root = self.tree(commit.partition("\n")[0].removeprefix("tree "))
        for _, blob in sorted(self.tree(root["journal"]).items()):
            for line in self.read(blob, "blob").decode().splitlines():
                yield Edge(*line.split("\t"))
