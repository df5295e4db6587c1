"""LIN, MEM: boundaries and words of linear memory, and of blocks for a while."""

from __future__ import annotations

import array
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import (
    BudgetExceeded,
    ConfigError,
    CorruptionDetected,
    InvalidLayout,
    OutOfBounds,
    StaleHandle,
)
from nativemem.manager import (
    Level,
    LinearMemory,
    MemoryManager,
    memory,
    scoped,
    with_memory,
)

PAGE = 64 << 10

pytestmark = pytest.mark.usefixtures("old_objects_apart")  # they collect


# --- linear memory


def test_linear_memory(nm: Binding) -> None:
    made = LinearMemory(0, 0, upstream=nm.System())
    assert (made.size(), made.maximum, len(made), made.grow(0), made.grow(1)) == (0, 0, 0, 0, -1)
    made = LinearMemory(upstream=nm.System())
    assert (made.size(), made.maximum, len(made)) == (1, 65_536, PAGE)
    assert LinearMemory(1, 65_536).maximum == 65_536
    for wrong, says in (
        ({"maximum": 65_537}, "linear.maximum: takes at most 65536 pages, not 65537"),
        ({"pages": 3, "maximum": 2}, "linear.pages: 3 are more than the maximum of 2"),
        ({"pages": -1}, "linear.pages: "), ({"maximum": -1}, "linear.maximum: "),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            LinearMemory(**wrong)
        assert str(caught.value).startswith(says)
    two = LinearMemory(1, 3, upstream=nm.System())
    assert (two.grow(2), two.size(), two.grow(1), two.size(), two.grow(0)) == (1, 3, -1, 3, 3)
    two.close()
    for call in (
        lambda: two.grow(9),
        lambda: two.grow(0),
        lambda: two.read_bytes(0, 0),
        lambda: two.write_bytes(0, b""),
    ):
        with pytest.raises(StaleHandle):
            call()
    assert two.closed and repr(two) == "<LinearMemory closed>" and two.size() == 0


def test_subscripts_of_linear_memory() -> None:
    made = LinearMemory(1, 1)
    made[0:5] = b"hello"
    made[PAGE - 1] = 7
    assert (made[0], made[1:3], made[:2], made[PAGE - 1 :], made[3:3], made[PAGE - 1]) == (
        104,
        b"el",
        b"he",
        b"\x07",
        b"",
        7,
    )
    assert len(made[:]) == PAGE and made[0:5:1] == b"hello"
    for key in (PAGE, -1, slice(-1, 2), slice(0, PAGE + 1), slice(3, 1), slice(PAGE + 1, PAGE + 1)):
        with pytest.raises(OutOfBounds) as caught:
            _ = made[key]
        assert caught.value.state["used"] == PAGE == caught.value.state["capacity"]
    with pytest.raises(OutOfBounds) as caught:
        made.read_bytes(PAGE - 1, 2)
    assert str(caught.value) == f"LinearMemory.read_bytes: 2 bytes at {PAGE - 1} are not within its {PAGE}"
    assert caught.value.suggestion == "grow() adds pages; an address that a program computed may be wrong"
    assert (caught.value.state["requested"], caught.value.state["offset"]) == (2, PAGE - 1)
    for step in (2, -1, 0):
        with pytest.raises(ConfigError, match=f"^linear memory: a slice has a step of 1, not {step}"):
            _ = made[0:4:step]
    for data, n in ((b"abc", 3), (b"a", 1), (b"", 0)):
        with pytest.raises(ConfigError, match=f"^linear memory: 2 bytes are to be written, not {n}"):
            made[0:2] = data
    made[0:2] = array.array("H", [0x4142])
    assert sorted(made[0:2]) == [0x41, 0x42] and made[2] == ord("l")
    made.write_bytes(PAGE - 2, memoryview(b"abcd")[::2])
    assert made[PAGE - 2 :] == b"ac"
    with pytest.raises(OutOfBounds, match=f"^LinearMemory.write_bytes: 2 bytes at {PAGE - 1} are not within"):
        made.write_bytes(PAGE - 1, b"xy")
    for value in (256, -1):
        with pytest.raises(ValueError, match="range"):
            made[0] = value
    assert made[PAGE - 1] == ord("c") and repr(made) == "<LinearMemory 1 of 1 pages>"
    with made as same:
        assert same is made
        view = made.acquire(0, 2)
        assert bytes(view) == b"BA" or bytes(view) == b"AB"
        made.release(view)
        made.verify()
    assert made.closed


def test_linear_memory_is_verified(nm: Binding) -> None:
    made: Any = LinearMemory(1, upstream=nm.System(), verification="full")
    assert made.level is Level.FULL and LinearMemory(1).level is Level.OFF
    made.verify()
    with memoryview(made._provider._block) as raw:
        raw[5] ^= 1
    with pytest.raises(CorruptionDetected):
        made.verify()


# --- blocks for a while


@pytest.fixture
def default(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> MemoryManager:
    made = MemoryManager(total="1 MiB", upstream=nm.Heap())
    monkeypatch.setattr(MemoryManager, "_default", made)
    return made


def test_what_is_decorated_gets_its_block(default: MemoryManager) -> None:
    """Behind `self` or `cls` of a method, first of all else."""

    class Reader:
        @with_memory(10, "o")
        def read(self, block: Any, more: int, *, last: int) -> Any:
            return self, len(block), more, last

        @classmethod
        @with_memory(11, "o")
        def make(cls, block: Any) -> Any:
            return cls, len(block)

        @staticmethod
        @with_memory(12, "o")
        def size(block: Any, *rest: Any) -> Any:
            return len(block), rest

        @with_memory(13, "o")
        def rows(self, block: Any) -> Iterator[int]:
            yield len(block)
            yield default.owner("o").used

        def __call__(self, block: Any) -> int:
            return len(block)

    reader = Reader()
    assert reader.read(1, last=2) == (reader, 10, 1, 2) and Reader.make() == (Reader, 11)
    assert Reader.size(5, 6) == (12, (5, 6)) and list(reader.rows()) == [13, 13]
    assert with_memory(14, "o")(reader)() == 14 and with_memory(15, "o")(len)() == 15
    assert with_memory(15, "o")(functools.partial(max, key=len))(b"x" * 16) == b"x" * 16
    assert Reader.read.__name__ == "read" and default.owner("o").used == 0
    for wrong in (3, None, "f"):
        with pytest.raises(ConfigError, match="^with_memory: decorates a function, not "):
            with_memory(1)(wrong)  # type: ignore[arg-type]

    async def many(block: Any) -> Any:
        yield block

    with pytest.raises(ConfigError, match="^with_memory: decorates a function, not "):
        with_memory(1)(many)


def test_coroutines_and_generators_keep_it(default: MemoryManager) -> None:
    """Until they end, and what is sent to them comes through."""

    class Asks:
        async def __call__(self, block: Any) -> int:
            return len(block) + default.owner("o").used

    class Gives:
        def __call__(self, block: Any) -> Iterator[Any]:
            got = yield len(block)
            return got

    coroutine = with_memory(5, "o")(Asks())()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)  # type: ignore[attr-defined]
    assert ended.value.value == 10
    generator: Any = with_memory(6, "o")(Gives())()
    assert default.owner("o").used == 0 and next(generator) == 6 and default.owner("o").used == 6
    with pytest.raises(StopIteration) as ended:
        generator.send("sent")
    assert ended.value.value == "sent" and default.owner("o").used == 0


def test_a_scope_of_memory(default: MemoryManager) -> None:
    with memory(16, "o") as block:
        assert bytes(block) == bytes(16) and default.owner("o").used == 16
        block.free()
    assert default.owner("o").used == 0
    with memory(16) as block:
        assert block.owner.name == __name__.partition(".")[0]
    for size in (0, -1, "x", None):
        with pytest.raises(InvalidLayout, match="^memory: size"):
            memory(size)  # type: ignore[arg-type]
    scope: Any = memory(8, "o")
    with scope as outer, scope as inner:
        assert outer is not inner and default.owner("o").used == 16
    assert default.owner("o").used == 0
    with pytest.raises(BudgetExceeded):
        memory("2 MiB", "o").__enter__()


def test_an_error_of_the_block_goes_on(default: MemoryManager) -> None:
    """A view that is out is noted on it, and told of where there is none."""
    views: list[memoryview] = []
    with pytest.raises(LookupError) as caught, memory(8, "o") as block:
        views.append(memoryview(block))
        raise LookupError("mine")
    if hasattr(caught.value, "add_note"):
        assert len(caught.value.__notes__) == 1
    with pytest.raises(BufferError), memory(8, "o") as block:
        views.append(memoryview(block))
    for view in views:
        view.release()


def test_the_calling_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the innermost code that is not this package's."""

    def frame(file: str, name: Any) -> Any:
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=file), f_globals={"__name__": name})

    package = scoped.PACKAGE
    for frames, said in (
        ([frame("/app/x.py", "app.sub.module")], "app"),
        ([frame(f"{package}a.py", "p"), frame("/y.py", "other")], "other"),
        ([frame(f"{package}a.py", "p")] * 3 + [frame("/y.py", "a")], "a"),
        ([frame("/y.py", "")], "unknown"),
        ([frame("/y.py", None)], "unknown"),
        ([frame(f"{package}a.py", "p")], "unknown"),
        ([], "unknown"),
        ([frame("/y.py", ".x")], ""),
    ):
        given = [None, *frames]
        monkeypatch.setattr(scoped, "frame_at", lambda n, given=given: given[n] if n < len(given) else None)
        assert scoped.caller() == said
