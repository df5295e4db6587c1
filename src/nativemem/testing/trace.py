"""What a stretch of code takes from the engine, by place: the heap profile of it, as tests and notebooks show it.

Cannot: trace while another profile of the process runs, or where there is no engine. What blocks of allocators
hold is in it as far as it is in a profile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, shown
from ..observe.profile import Profile
from ..sizes import format_size

if TYPE_CHECKING:
    from ..observe.recording import Path, Recording, Sampled

__all__ = ["Place", "Trace", "lines_of", "places_of"]

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
#: files of what runs tests: they call the code that is traced, and are not part of it
_RUNNERS = (
    *(f"{os.sep}{name}{os.sep}" for name in ("_pytest", "pluggy", "pytest_asyncio", "IPython", "ipykernel")),
    *(f"{os.sep}unittest{os.sep}{name}.py" for name in ("case", "async_case")),
)
#: modules of pytest that call tests; what others of it call reports, captures and the like
_CALLING = ("python", "fixtures", "unittest", "raises", "python_api", "doctest")
#: functions of this room that call the code under test; what others of it call measures
_CALLERS = ("growth", "steps", "execute")
#: what of a site is asked for: what is live, its share of the peak, what it took in all
_PARTS: dict[str, Callable[[Sampled], tuple[int, int]]] = {
    "live": lambda site: (site.live, site.live_blocks),
    "peak": lambda site: (site.peak, site.peak_blocks),
    "total": lambda site: (site.total, site.total_blocks),
}


def is_runner(file: str) -> bool:
    """Whether ``file`` is of what runs tests or cells, this package's part included."""
    return file.startswith(_HERE) or any(part in file for part in _RUNNERS)


@dataclass(frozen=True)
class Place:
    """Bytes and blocks that one call path took. ``path`` has a text for each call of it, the innermost first, as
    far as the code under test goes. Immutable; any thread.

    >>> Place(2048, 2, ("cache.py:12 in fill", "test_cache.py:5 in test_fill"))
    Place(bytes=2048, blocks=2, path=('cache.py:12 in fill', 'test_cache.py:5 in test_fill'))
    """

    bytes: int
    blocks: int
    path: tuple[str, ...]

    def __str__(self) -> str:
        blocks = f"{self.blocks:,} block{'' if self.blocks == 1 else 's'}"
        return f"{format_size(self.bytes)} in {blocks}: {self.path[0] if self.path else 'other code'}"


def _calls_tests(runner: Path) -> bool:
    if runner.file.startswith(_HERE):
        return runner.function.rpartition(".")[2] in _CALLERS
    inside = runner.file.rpartition(f"{os.sep}_pytest{os.sep}")[2]  # all of it where it is of another runner
    return inside == runner.file or inside.removesuffix(".py") in _CALLING


def path_of(path: Path) -> tuple[tuple[str, int, str], ...]:
    """The calls of a path, the innermost first, up to what called the code under test. None of them where the
    path is of what runs it, or measures it."""
    frames: list[tuple[str, int, str]] = []
    for at in path:
        if is_runner(at.file):
            return tuple(frames) if _calls_tests(at) else ()
        frames.append((at.file, at.line, at.function))
    return tuple(frames)


def _shown(frame: tuple[str, int, str]) -> str:
    file, line, function = frame
    if not file:
        return function
    if os.path.isabs(file):
        short = os.path.relpath(file)
        file = file if short.startswith(os.pardir) else short
    return f"{file}:{line} in {function}"


def made_place(frames: Iterable[tuple[str, int, str]], size: int, blocks: int) -> Place:
    """A :class:`Place` of these calls."""
    return Place(size, blocks, tuple(_shown(frame) for frame in frames))


def by_path(recording: Recording, part: str, owner: str | None = None) -> dict[Any, tuple[int, int]]:
    """Bytes and blocks by call path. ``part``: live, peak or total; ``owner``: a budget's name, None for all."""
    get = _PARTS[part]
    sums: dict[Any, tuple[int, int]] = {}
    for site in recording.sites:
        size, blocks = get(site)
        if size and (owner is None or site.owner == owner):
            key = path_of(site.path)
            if not key:
                continue
            before = sums.get(key, (0, 0))
            sums[key] = before[0] + size, before[1] + blocks
    return sums


def places_of(recording: Recording, part: str, most: int, owner: str | None = None) -> list[Place]:
    """The ``most`` places that took most, in that order."""
    found = sorted(by_path(recording, part, owner).items(), key=lambda item: (-item[1][0], item[0]))
    return [made_place(frames, size, blocks) for frames, (size, blocks) in found[:most]]


def refused_at(recording: Recording, owner: str) -> str | None:
    """Where the last request was that ``owner`` refused; None where none was noted."""
    for refused in reversed(recording.refused):
        if refused.owner == owner:
            frames = path_of(refused.path)
            return _shown(frames[0]) if frames else None
    return None


def lines_of(places: Iterable[Place], callers: int = 4) -> list[str]:
    """Places as lines of text, each with its nearest callers."""
    lines = []
    for place in places:
        lines.append(f"  {place}")
        lines += [f"      called from {call}" for call in place.path[1 : 1 + callers]]
    return lines


class Trace:
    """Traces what is taken from the engine between its beginning and its end, by place: in a ``with`` block, or
    from :meth:`start` to :meth:`stop`.

    Parameters: ``rate``, bytes between two samples in the mean, as :class:`~nativemem.observe.profile.Profile`
    has it; 1, the default, notes each block. One at a time in a process, beside no other profile. Raises
    :class:`ConfigError` for a rate that will not do. Any thread.

    >>> import nativemem
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> with Trace() as trace:  # doctest: +SKIP
    ...     rows = [bytes(1000) for _ in range(1000)]
    >>> trace.live > 1_000_000, trace.places()[0].blocks >= 1000, trace.exact  # doctest: +SKIP
    (True, True, True)
    """

    def __init__(self, rate: int | str = 1) -> None:
        self._profile = Profile(rate=rate)
        self._read: Recording | None = None
        self.running = False

    def __repr__(self) -> str:
        return f"<Trace {'running' if self.running else 'not running'}, a sample in {self._profile.rate} B>"

    def start(self) -> Trace:
        """Begins, and returns itself. Raises :class:`NativeUnavailable` where there is no engine or it is off, and
        :class:`NativeMemError` where a profile runs already."""
        self._profile.start()
        self.running, self._read = True, None
        return self

    def stop(self) -> None:
        """Ends; what was noted stays. No effect where it does not run."""
        if self.running:
            self._profile.stop()
            self.running = False

    def __enter__(self) -> Trace:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def exact(self) -> bool:
        """Whether it notes each block."""
        return self._profile.rate == 1

    @property
    def recording(self) -> Recording | None:
        """The :class:`~nativemem.observe.recording.Recording` as it is now; None before the beginning."""
        if self.running:
            return self._profile.read()
        if self._read is None and self._profile._parts is not None:
            self._read = self._profile.read()
        return self._read

    @property
    def live(self) -> int:
        """Bytes that were taken since the beginning and are still in use; 0 before it."""
        recording = self.recording
        return 0 if recording is None else recording.live

    @property
    def peak(self) -> int:
        """The most that :attr:`live` was."""
        recording = self.recording
        return 0 if recording is None else recording.peak

    @property
    def total(self) -> int:
        """Bytes that were taken in all, also of what was freed."""
        recording = self.recording
        return 0 if recording is None else sum(site.total for site in recording.sites)

    @property
    def blocks(self) -> int:
        """How many blocks were taken in all."""
        recording = self.recording
        return 0 if recording is None else sum(site.total_blocks for site in recording.sites)

    def places(self, most: int = 10, of: str = "peak") -> list[Place]:
        """Where most was taken: a list of :class:`Place`, most bytes first.

        Parameters: ``most``, how many at the most; ``of``, what is compared: ``"live"``, ``"peak"`` (what each
        had when all together had most) or ``"total"``. Raises :class:`ConfigError` for another word.
        """
        if of not in _PARTS:
            raise ConfigError(f"trace.of: takes live, peak or total, not {shown(of)}")
        recording = self.recording
        return [] if recording is None else places_of(recording, of, most)
