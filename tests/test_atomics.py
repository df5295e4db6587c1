"""docs/atomics.md states each atomic operation that is not sequentially consistent, and no other."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from mutants_random import arguments, closing, code_only  # noqa: E402

CALL = re.compile(r"\batomic_(\w+?)(?:_explicit)?\(")


def weaker(text: str) -> Counter[tuple[str, str, str]]:
    """(atomic, operation, orders) of each operation that names its order."""
    code = re.sub(r"\s+", " ", code_only(text))
    found: Counter[tuple[str, str, str]] = Counter()
    for match in CALL.finditer(code):
        words = arguments(code[match.end() : closing(code, match.end() - 1)])
        orders = ", ".join(word.removeprefix("memory_order_") for word in words if word.startswith("memory_order_"))
        if orders:
            names = re.findall(r"\w+", re.sub(r"\[.*?\]", "", words[0]))
            found["fence" if "fence" in match[1] else names[-1], match[1], orders] += 1
    return found


def test_of_a_text() -> None:
    text = """
    atomic_store(&a->b, atomic_load(&c)); /* atomic_load_explicit(&a, memory_order_relaxed) */
    atomic_store_explicit(&a->b[f(i)], 1, memory_order_release);
    x = atomic_compare_exchange_weak_explicit((_Atomic int *)&c, &seen, n,
            memory_order_seq_cst, memory_order_relaxed);
    y = atomic_load_explicit(p, memory_order_relaxed) + atomic_load_explicit(p, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    """
    assert weaker(text) == {
        ("b", "store", "release"): 1,
        ("c", "compare_exchange_weak", "seq_cst, relaxed"): 1,
        ("p", "load", "relaxed"): 2,
        ("fence", "thread_fence", "acquire"): 1,
    }


def stated() -> dict[tuple[str, str, str, str], tuple[int, str]]:
    page = (ROOT / "docs" / "atomics.md").read_text(encoding="utf-8")
    rows: dict[tuple[str, str, str, str], tuple[int, str]] = {}
    for line in page.partition("| --- |")[2].splitlines()[1:]:
        file, atomic, operation, orders, places, why = (cell.strip(" `") for cell in line.strip("|").split(" | "))
        assert (file, atomic, operation, orders) not in rows
        rows[file, atomic, operation, orders] = int(places), why
    return rows


def test_each_weaker_order_is_stated_with_its_reason() -> None:
    there = {
        (path.relative_to(ROOT / "csrc").as_posix(), *operation): count
        for path in sorted((ROOT / "csrc").rglob("*.[ch]"))
        for operation, count in weaker(path.read_text(encoding="utf-8")).items()
    }
    assert there == {row: places for row, (places, _) in stated().items()}
    assert all(why for _, why in stated().values())
