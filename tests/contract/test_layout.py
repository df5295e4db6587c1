"""LAYOUT: sizes and alignments, and that a refused call changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import ALIGN_MAX, InvalidLayout, OutOfMemory, StaleBlock, StaleHandle
from nativemem.sizes import SIZE_MAX

from .helpers import Index, chain_of, content, fill, in_thread, is_one_line, traits_of, unchanged

BAD_SIZES = (
    -1,
    -SIZE_MAX,
    SIZE_MAX + 1,
    1 << 64,
    1 << 200,
    1.0,
    1.5,
    float("nan"),
    True,
    False,
    None,
    b"64",
    [],
    (),
    object(),
    "",
    " ",
    "KiB",
    "64 KB iB",
    "64 KiBs",
    "64K",
    "-1",
    "1.5 KiB",
    "0x10",
    "1e3",
    "64\n64",
    "٦٤",
    "9" * 21,
    "9" * 5000,
    "9000000 TiB",
)
BAD_ALIGNS = (0, 3, 6, 24, -1, -16, ALIGN_MAX * 2, 65536, 1 << 64, True, False, "16", None, 16.0)
GOOD_SIZES = (
    (0, 0),
    (1, 1),
    (Index(100), 100),
    ("100", 100),
    ("100 B", 100),
    ("0 KiB", 0),
    ("1 kB", 1000),
    ("1KB", 1000),
    ("1 KiB", 1024),
    ("\t2 kib ", 2048),
    ("1 MiB", 1 << 20),
    ("1 MB", 10**6),
    ("128 kB", 128_000),
)
ALIGNS = tuple(1 << k for k in range(13))


def test_a_bad_size_is_invalid_layout(allocator: Allocator) -> None:
    """LAYOUT-1, LAYOUT-5"""
    for size in BAD_SIZES:
        with unchanged(allocator), pytest.raises(InvalidLayout) as caught:
            allocator.alloc(size)
        assert isinstance(caught.value, ValueError)
        assert is_one_line(caught.value)
        assert str(caught.value).startswith(f"{type(allocator).__name__}.alloc: size "), size
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("size", [0, 10])
def test_a_bad_alignment_is_invalid_layout(allocator: Allocator, size: int) -> None:
    """LAYOUT-2, LAYOUT-5"""
    for align in BAD_ALIGNS:
        with unchanged(allocator), pytest.raises(InvalidLayout) as caught:
            allocator.alloc(size, align)
        assert is_one_line(caught.value)
        assert f"power of two from 1 to {ALIGN_MAX}" in str(caught.value), align


def test_sizes_are_ints_or_strings(allocator: Allocator) -> None:
    """LAYOUT-1"""
    largest = traits_of(allocator).largest or SIZE_MAX
    for size, expected in GOOD_SIZES:
        if expected > largest:
            with unchanged(allocator), pytest.raises(InvalidLayout, match="does not fit a cell"):
                allocator.alloc(size)
            continue
        total = allocator.stats.total
        block = allocator.alloc(size)
        assert block.size == len(block) == expected, size
        assert allocator.stats.total == total + expected
        fill(block, 0x5A)
        assert content(block) == b"\x5a" * expected


def test_the_largest_size_is_valid_but_not_to_be_had(allocator: Allocator) -> None:
    """LAYOUT-1: a limit that the machine does not reach is not a bad layout; a cell that it does not fit is."""
    before = [(link.stats, link.generation) for link in chain_of(allocator)]
    too_large = traits_of(allocator).largest is not None and not any(link.owner for link in chain_of(allocator))
    with pytest.raises(InvalidLayout if too_large else MemoryError) as caught:
        allocator.alloc(SIZE_MAX)
    assert is_one_line(caught.value)
    for link, (stats, generation) in zip(chain_of(allocator), before, strict=True):
        now = link.stats
        assert dataclasses.replace(now, failures=0) == dataclasses.replace(stats, failures=0)
        assert now.failures - stats.failures in (0, 1)
        assert link.generation == generation
    assert allocator.stats.failures == (0 if too_large else 1)
    assert allocator.alloc(10).size == 10


def test_out_of_memory_says_what_was_asked_for(nm: Binding) -> None:
    with pytest.raises(OutOfMemory) as caught:
        nm.System().alloc(SIZE_MAX)
    assert caught.value.state["requested"] == SIZE_MAX
    assert caught.value.code == "NM-OUT-OF-MEMORY"


@pytest.mark.parametrize("size", [0, 1, 17, 200, 5000])
def test_addresses_are_aligned(allocator: Allocator, size: int) -> None:
    """LAYOUT-2"""
    blocks = {(n, align): allocator.alloc(size, align) for n in range(3) for align in ALIGNS}
    for (_, align), block in blocks.items():
        assert block.align == align
        assert block.address % align == 0
        assert block.usable >= block.size == size


def test_the_default_alignment_is_16(allocator: Allocator) -> None:
    """LAYOUT-2"""
    blocks = [allocator.alloc(n) for n in (0, 1, 3, 100)]
    assert [block.align for block in blocks] == [16] * 4
    assert not any(block.address % 16 for block in blocks)


def test_zero_size_is_a_valid_empty_block(allocator: Allocator) -> None:
    """LAYOUT-3: it charges nothing and counts nowhere, but lives and dies like any other."""
    before = [link.stats for link in chain_of(allocator)]
    block = allocator.alloc(0)
    assert block.alive
    assert (block.size, block.usable, len(block)) == (0, 0, 0)
    with memoryview(block) as view:
        assert view.nbytes == 0
    assert allocator.blocks() == [block]
    assert [link.stats for link in chain_of(allocator)] == before
    block.free()
    assert not block.alive
    assert allocator.blocks() == []
    assert [link.stats for link in chain_of(allocator)] == before


def test_zero_size_resizes_to_zero_only(allocator: Allocator) -> None:
    """LAYOUT-3"""
    empty, full = allocator.alloc(0), allocator.alloc(8)
    with unchanged(allocator):
        assert allocator.resize(empty, 0) is True
        assert allocator.resize(empty, 1) is False
        assert allocator.resize(full, 0) is False
    assert (empty.size, full.size) == (0, 8)


def test_zero_size_is_refused_by_a_closed_allocator(allocator: Allocator) -> None:
    """LAYOUT-3"""
    allocator.close()
    with pytest.raises(StaleHandle):
        allocator.alloc(0)


def test_layout_is_checked_before_the_handle(allocator: Allocator) -> None:
    allocator.close()
    with pytest.raises(InvalidLayout):
        allocator.alloc(-1)
    with pytest.raises(InvalidLayout):
        allocator.alloc(1, 3)
    with pytest.raises(StaleHandle):
        allocator.alloc(1)


def test_layout_is_checked_before_the_thread(allocator: Allocator) -> None:
    with pytest.raises(InvalidLayout):
        in_thread(lambda: allocator.alloc(-1))


def test_resize_takes_the_same_sizes(allocator: Allocator) -> None:
    """LAYOUT-1, LAYOUT-5"""
    block = allocator.alloc(64)
    fill(block, 7)
    for size in BAD_SIZES:
        with unchanged(allocator), pytest.raises(InvalidLayout) as caught:
            allocator.resize(block, size)
        assert is_one_line(caught.value)
        assert content(block) == b"\x07" * 64
    assert allocator.resize(block, "64 B") is True


def test_arguments_by_keyword(allocator: Allocator) -> None:
    """PORT-7"""
    blocks = [allocator.alloc(100, align=64), allocator.alloc(size=100, align=64)]
    blocks.append(allocator.alloc(align=64, size="100"))
    assert [(block.size, block.align, block.address % 64) for block in blocks] == [(100, 64, 0)] * 3
    assert allocator.alloc(size=10).align == 16
    blocks.append(allocator.alloc(size=20))
    assert allocator.resize(block=blocks[-1], size=20) and allocator.resize(blocks[-1], size=20)
    allocator.free(block=blocks.pop())


def test_arguments_that_a_method_does_not_take(allocator: Allocator) -> None:
    """PORT-7: a TypeError that names what is wrong, and nothing is taken."""
    block = allocator.alloc(10)
    calls: dict[str, Any] = {
        r"alloc\(\).*(3 given|4 were given)": lambda: allocator.alloc(1, 2, 3),
        r"alloc\(\) got an unexpected keyword argument 'alignment'": lambda: allocator.alloc(1, alignment=16),
        r"alloc\(\) got an unexpected keyword argument 'grö\\ße'": lambda: allocator.alloc(**{"grö\\ße": 1}),
        r"alloc\(\) got multiple values for argument 'size'": lambda: allocator.alloc(1, size=1),
        r"alloc\(\) got multiple values for argument 'align'": lambda: allocator.alloc(1, 16, align=1),
        r"free\(\)": lambda: allocator.free(),
        r"free\(\) got an unexpected keyword argument 'size'": lambda: allocator.free(block, size=1),
        r"free\(\) got multiple values for argument 'block'": lambda: allocator.free(block, block=block),
        r"resize\(\)": lambda: allocator.resize(),
        r"resize\(\) .*": lambda: allocator.resize(block),
        r"resize\(\) +.*": lambda: allocator.resize(size=10),
        r"resize\(\) got multiple values for argument 'size'": lambda: allocator.resize(block, 1, size=1),
    }
    with unchanged(allocator):
        for message, call in calls.items():
            with pytest.raises(TypeError, match=message):
                call()
    if traits_of(allocator).largest is None:
        with unchanged(allocator), pytest.raises(TypeError, match="no size given"):
            allocator.alloc(align=16)
    else:
        assert allocator.alloc(align=16).size == traits_of(allocator).largest


def test_only_an_allocator_of_one_size_allocates_without_a_size(allocator: Allocator) -> None:
    natural = traits_of(allocator).largest
    if natural is None:
        with unchanged(allocator), pytest.raises(TypeError):
            allocator.alloc()
    else:
        block = allocator.alloc()
        assert (block.size, block.usable, block.align) == (natural, natural, 16)


def test_an_index_that_raises_shows_its_error(allocator: Allocator) -> None:
    class Broken:
        def __index__(self) -> int:
            raise ZeroDivisionError

    with unchanged(allocator), pytest.raises(ZeroDivisionError):
        allocator.alloc(Broken())


def test_an_index_that_closes_the_allocator_is_harmless(allocator: Allocator) -> None:
    """ERR-4: re-entrancy through the conversion of a size."""

    class Closing:
        def __index__(self) -> int:
            allocator.close()
            return 8

    with pytest.raises(StaleHandle):
        allocator.alloc(Closing())


def test_an_index_that_frees_the_block_is_harmless(allocator: Allocator) -> None:
    """ERR-4: re-entrancy through the conversion of a size."""
    block = allocator.alloc(8)

    class Freeing:
        def __index__(self) -> int:
            block.free()
            return 4

    with pytest.raises(StaleBlock):
        allocator.resize(block, Freeing())
    assert not block.alive
