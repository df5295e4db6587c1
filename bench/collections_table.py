"""Time and memory of the bounded collections beside list, deque, dict, set, array and numpy.

    python bench/collections_table.py [--backend pure] [--items 100000] [--repeat 7]

Times are nanoseconds an operation, the least of several rounds, with the loop that runs them; bytes are of a
collection of so many items with all that it keeps alive, as tracemalloc counts it, or as the collection was
charged.
"""

from __future__ import annotations

import argparse
import array
import platform
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from nativemem._api import load
from nativemem.manager.collections import bound

Job = Callable[[Any], None]


def best(make: Callable[[], Any], job: Job, n: int, repeat: int) -> float:
    """Nanoseconds an operation of a job of n operations."""
    times = []
    for _ in range(repeat):
        thing = make()
        start = time.perf_counter_ns()
        job(thing)
        times.append(time.perf_counter_ns() - start)
        if hasattr(thing, "close"):
            thing.close()
    return min(times) / n


def held(make: Callable[[], Any]) -> int:
    """Bytes that a collection keeps alive."""
    tracemalloc.start()
    thing = make()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size + getattr(thing, "nbytes", 0) * (not hasattr(thing, "dtype"))


def jobs(numbers: list[int]) -> dict[str, dict[str, Job]]:
    """Jobs by kind of collection, each as many operations as there are numbers."""

    def append(c: Any) -> None:
        for x in numbers:
            c.append(x)

    def read(c: Any) -> None:
        for i in range(len(numbers)):
            c[i]

    def write(c: Any) -> None:
        for i in range(len(numbers)):
            c[i] = 7

    def iterate(c: Any) -> None:
        for _ in c:
            pass

    def pop(c: Any) -> None:
        for _ in numbers:
            c.pop()

    def both_ends(c: Any) -> None:
        for x in numbers:
            c.append(x)
            c.popleft()

    def absent(c: Any) -> None:
        assert -1 not in c

    def get(c: Any) -> None:
        for x in numbers:
            c[x]

    def has(c: Any) -> None:
        for x in numbers:
            x in c  # noqa: B015

    def put(c: Any) -> None:
        for x in numbers:
            c[x] = x

    def items(c: Any) -> None:
        for _ in c.items():
            pass

    def drop(c: Any) -> None:
        for x in numbers:
            del c[x]

    def add(c: Any) -> None:
        for x in numbers:
            c.add(x)

    def discard(c: Any) -> None:
        for x in numbers:
            c.discard(x)

    numbers_only = {
        "append": append,
        "x[i]": read,
        "x[i] = v": write,
        "for v in x": iterate,
        "pop": pop,
        "extend": lambda c: c.extend(numbers),
    }
    return {
        "array": numbers_only,
        "list": {
            **numbers_only,
            "v in x, per item": absent,
            "sort": lambda c: c.sort(),
        },
        "deque": {"append, popleft": both_ends, "for v in x": iterate},
        "dict": {"x[k]": get, "k in x": has, "x[k] = v, new": put, "items()": items, "del x[k]": drop},
        "set": {"add": add, "v in x": has, "for v in x": iterate, "discard": discard},
    }


EMPTY = {"append", "extend", "append, popleft", "x[k] = v, new", "add"}


def rows(ns: Any, n: int, repeat: int) -> Iterator[tuple[str, str, float, float]]:
    """Collection, operation, its time and the builtin's."""
    rng = random.Random(1)
    numbers = rng.sample(range(1 << 40), n)
    makers: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "array": (lambda items: ns.BoundedList(n, "q", items), lambda items: array.array("q", items)),
        "list": (lambda items: ns.BoundedList(n, "q", items), list),
        "deque": (lambda items: ns.BoundedDeque(n, "q", items), deque),
        "dict": (
            lambda items: ns.BoundedMap(n, "q", "q", zip(items, items, strict=True)),
            lambda items: dict(zip(items, items, strict=True)),
        ),
        "set": (lambda items: ns.BoundedSet(n, "q", items), set),
    }
    for kind, table in jobs(numbers).items():
        ours, theirs = makers[kind]
        for name, job in table.items():
            items = () if name in EMPTY else numbers
            yield (
                kind,
                name,
                best(lambda make=ours, items=items: make(items), job, n, repeat),
                best(lambda make=theirs, items=items: make(items), job, n, repeat),
            )


def sizes(ns: Any, n: int) -> Iterator[tuple[str, int]]:
    """Bytes of n random integers, in each kind of collection. They are made anew, since it keeps those alive."""

    def fresh() -> list[int]:
        rng = random.Random(2)
        return [rng.getrandbits(40) for _ in range(n)]

    yield "BoundedList('q')", held(lambda: ns.BoundedList(n, "q", (x for x in fresh())))
    yield "BoundedList('I')", held(lambda: ns.BoundedList(n, "I", (x & 0xFFFFFFFF for x in fresh())))
    yield "list", held(fresh)
    yield "array('q')", held(lambda: array.array("q", fresh()))
    try:
        import numpy
    except ImportError:
        pass
    else:
        yield "numpy int64", held(lambda: numpy.array(fresh(), dtype=numpy.int64))
    yield "BoundedMap('q', 'q')", held(lambda: ns.BoundedMap(n, "q", "q", ((x, x + 1) for x in fresh())))
    yield "dict", held(lambda: {x: x + 1 for x in fresh()})
    yield "BoundedSet('q')", held(lambda: ns.BoundedSet(n, "q", fresh()))
    yield "set", held(lambda: set(fresh()))


def main() -> None:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="auto", choices=("auto", "native", "pure"))
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    binding = load(options.backend)
    ns = bound(binding)
    print(f"CPython {platform.python_version()}, {binding.name}, {options.items} items\n")
    print(f"{'like':6} {'operation':18} {'bounded':>8} {'builtin':>8} {'ratio':>6}")
    for kind, name, ours, theirs in rows(ns, options.items, options.repeat):
        print(f"{kind:6} {name:18} {ours:8.1f} {theirs:8.1f} {ours / theirs:6.2f}")
    print(f"\n{'of ' + str(options.items) + ' integers':22} {'bytes':>10} {'each':>6}")
    for name, size in sizes(ns, options.items):
        print(f"{name:22} {size:10d} {size / options.items:6.1f}")


if __name__ == "__main__":
    main()
