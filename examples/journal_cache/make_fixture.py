"""Makes fixture.tar.gz: a bare git repository with a journal of edges, the same in every run.

    python examples/journal_cache/make_fixture.py [--check]

Git's own format is written here (loose objects), so no git is needed, and ``git -C … log`` reads it. The compressed
bytes depend on the zlib at hand; the commit does not: ``--check`` compares that with the vendored file's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import sys
import tarfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURE = HERE / "fixture.tar.gz"
SEGMENTS, EDGES, PATHS = 4, 1500, 1200
WHO = b"nativemem <nativemem@example.invalid> 1700000000 +0000"


def segments() -> list[bytes]:
    """Lines of parent, child and object id; few paths, many times."""
    rng = random.Random(18)
    folders = [f"srv/cache/{rng.choice('abcdefgh')}{i % 40:02d}/shard-{i % 7}" for i in range(PATHS // 10)]
    paths = [f"{folders[i % len(folders)]}/object-{i * 7919 % 100003:06d}.bin" for i in range(PATHS)]
    ids = [hashlib.sha1(path.encode()).hexdigest() for path in paths]
    made = []
    for _ in range(SEGMENTS):
        lines = []
        for _ in range(EDGES):
            child = min(int(rng.expovariate(4 / PATHS)), PATHS - 1)
            lines.append(f"{folders[child % len(folders)]}\t{paths[child]}\t{ids[child]}\n")
        made.append("".join(lines).encode())
    return made


def loose(kind: str, body: bytes, files: dict[str, bytes]) -> str:
    """Adds an object; its id."""
    whole = f"{kind} {len(body)}\0".encode() + body
    name = hashlib.sha1(whole).hexdigest()
    files[f"objects/{name[:2]}/{name[2:]}"] = zlib.compress(whole, 9)
    return name


def repository() -> tuple[str, dict[str, bytes]]:
    """The last commit, and the repository's files."""
    files: dict[str, bytes] = {}
    entries: list[tuple[str, str]] = []
    commit = ""
    for number, segment in enumerate(segments()):
        entries.append((f"{number:04d}.log", loose("blob", segment, files)))
        journal = loose("tree", b"".join(f"100644 {n}\0".encode() + bytes.fromhex(i) for n, i in entries), files)
        tree = loose("tree", b"40000 journal\0" + bytes.fromhex(journal), files)
        parent = f"parent {commit}\n".encode() if commit else b""
        body = b"tree %s\n%sauthor %s\ncommitter %s\n\nsegment %d\n" % (tree.encode(), parent, WHO, WHO, number)
        commit = loose("commit", body, files)
    files["HEAD"] = b"ref: refs/heads/main\n"
    files["config"] = b"[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
    files["refs/heads/main"] = f"{commit}\n".encode()
    return commit, files


def main() -> int:
    commit, files = repository()
    if "--check" in sys.argv[1:]:
        from fixture import Repository, verified

        found = Repository(verified()).head
        print(f"the vendored commit is {found}, this makes {commit}")
        return int(found != commit)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            info = tarfile.TarInfo(f"journal.git/{name}")
            info.size, info.mtime = len(files[name]), 1700000000
            tar.addfile(info, io.BytesIO(files[name]))
    FIXTURE.write_bytes(gzip.compress(packed.getvalue(), 9, mtime=0))
    print(f"{FIXTURE.name}: {FIXTURE.stat().st_size} bytes, commit {commit}")
    print(f"sha256 {hashlib.sha256(FIXTURE.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
