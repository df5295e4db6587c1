"""Stacks of C code as a report has them, and whose code they are.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import struct
import sysconfig
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..wrappers.sites import Frame as PythonFrame

__all__ = ["CFrame", "PythonFrame", "Modules", "c_frames", "inner", "python_frames", "within"]

_HERE = os.path.dirname(os.path.abspath(__file__))
#: libraries through which a call passes without being theirs
_PASSED = ("libc.so", "libc-", "libpthread", "libm.so", "libm-", "ld-linux", "ld-musl", "libdl", "linux-vdso")
#: the function of the interpreter in which Python code runs; what is outside of it called that code
EVAL = "_PyEval_EvalFrameDefault"


@dataclass(frozen=True)
class CFrame:
    """A call in C code, of ``function``, ``at`` so many bytes into it. ``offset``: in bytes, in ``module``, the
    file of a program or library."""

    module: str
    offset: int
    function: str = ""
    #: of the call in the function, in bytes
    at: int = 0

    def __str__(self) -> str:
        place = f"{os.path.basename(self.module)}+{self.offset:#x}"
        return f"{self.function}+{self.at:#x} ({place})" if self.function else place


def python_frames(text: str) -> tuple[PythonFrame, ...]:
    """From lines with the file, the line and the function, tabs between them."""
    rows = (line.split("\t") for line in text.splitlines())
    return within(PythonFrame(row[0], int(row[1]), row[2]) for row in rows if len(row) == 3)


def within(frames: Iterable[PythonFrame]) -> tuple[PythonFrame, ...]:
    """Those of the function that is swept: up to what called it."""
    return tuple(itertools.takewhile(lambda frame: os.path.dirname(frame.file) != _HERE, frames))


def c_frames(text: str) -> tuple[CFrame, ...]:
    """From lines with the module, the offset in it, the symbol and the offset from that, tabs between them; the
    module's own table of symbols names what the loader does not."""
    frames = []
    for line in text.splitlines():
        row = line.split("\t")
        if len(row) != 4:
            continue
        frame = CFrame(row[0], int(row[1], 16), row[2], int(row[3], 16))
        frames.append(frame if frame.function else _named(frame))
    return tuple(frames)


def inner(frames: Sequence[CFrame]) -> Sequence[CFrame]:
    """Those of the C code that the innermost Python code called: up to the interpreter's loop."""
    for i, frame in enumerate(frames):
        if frame.function.startswith(EVAL):
            return frames[:i]
    return frames


class Modules:
    """Which modules are the interpreter's: its program or library, and the extensions that come with it."""

    def __init__(self, python: str | None) -> None:
        self.python = python
        self.folders = [
            os.path.join(path, "lib-dynload")
            for path in {sysconfig.get_path("platstdlib"), sysconfig.get_path("stdlib")}
            if path
        ]

    def is_interpreters(self, frame: CFrame) -> bool:
        folder, name = os.path.split(frame.module)
        # ctypes does what it is told by code that is not the interpreter's
        return frame.module == self.python or (folder in self.folders and not name.startswith("_ctypes"))

    def is_passed(self, frame: CFrame) -> bool:
        return os.path.basename(frame.module).startswith(_PASSED)

    def others(self, frames: Iterable[CFrame]) -> CFrame | None:
        """The innermost frame of an extension; None: there is none."""
        for frame in frames:
            if not self.is_interpreters(frame) and not self.is_passed(frame) and frame.module != "?":
                return frame
        return None


# ---- the table of symbols of an ELF file: what is static has no other name -----------------------------------


def _named(frame: CFrame) -> CFrame:
    starts, functions = _functions(frame.module)
    i = bisect_right(starts, frame.offset) - 1
    if i < 0:
        return frame
    start, size, name = functions[i]
    return CFrame(frame.module, frame.offset, name, frame.offset - start) if frame.offset < start + size else frame


@functools.lru_cache(maxsize=64)
def _functions(path: str) -> tuple[list[int], list[tuple[int, int, str]]]:
    """(offset in the module, size, name) of each function in ``.symtab``, by offset; empty where it has none."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            found = sorted(_symbols(image))
    except (OSError, ValueError, struct.error, IndexError):
        return [], []
    return [start for start, *_ in found], found


def _symbols(image: mmap.mmap) -> Iterable[tuple[int, int, str]]:
    """System V ABI, chapters 4 and 5; 64-bit, of this machine's byte order."""
    if image[:5] != b"\x7fELF\x02":
        return
    programs, sections = struct.unpack_from("=QQ", image, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from("=HHHH", image, 54)
    loaded = [
        struct.unpack_from("=IIQQ", image, programs + i * program_size)
        for i in range(program_count)
        if struct.unpack_from("=I", image, programs + i * program_size)[0] == 1  # PT_LOAD
    ]
    base = min((address for *_, address in loaded), default=0) & -4096
    headers = [struct.unpack_from("=IIQQQQI", image, sections + i * section_size) for i in range(section_count)]
    for header in headers:
        if header[1] != 2:  # SHT_SYMTAB
            continue
        *_, at, size, link = header
        names = headers[link][4]
        for entry in range(at, at + size, 24):
            name, info, _, section, value, length = struct.unpack_from("=IBBHQQ", image, entry)
            if info & 15 == 2 and section != 0 and length:  # STT_FUNC, defined
                end = image.find(b"\0", names + name)
                yield value - base, length, image[names + name : end].decode("ascii", "replace")
