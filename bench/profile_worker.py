"""Worker of the profile's cost: one loop, with a profile, another tool, or nothing watching it.

The loops are P3's, programs in the manner of pyperformance's that allocate most, and, as ``pyperformance:NAME``,
its own.

Both sides of a comparison import the same. In a call whose instructions are counted the collector is off: a handful
of objects, even the length of the environment, decides whether one collection more falls into it, and that is up to
four percent. Without collections the call is shorter, so that a profile's share of it is at its largest.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import ctypes
import gc
import io
import json
import logging
import statistics
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import object_worker
import pyperformance_programs

PROGRAMS: dict[str, Callable[[], int]] = {}


def program(function: Callable[[], int]) -> Callable[[], int]:
    PROGRAMS[function.__name__] = function
    return function


@program
def small_tuples() -> int:
    """Little else than blocks of two sizes that come and go."""
    made = 0
    for i in range(200_000):
        made += len((i,)) + len([i])
    return made


@program
def formats() -> int:
    made = 0
    for i in range(60_000):
        made += len(f"{i} of {made}")
    return made


@program
def async_tree() -> int:
    async def node(level: int) -> int:
        if level == 0:
            await asyncio.sleep(0)
            return 1
        return sum(await asyncio.gather(*(node(level - 1) for _ in range(6))))

    return asyncio.run(node(4))


@program
def deepcopy() -> int:
    data = {"list": [1, 2, 3, "four", (5, 6)], "nested": {str(i): [i, {"x": i}] for i in range(30)}}
    return sum(len(copy.deepcopy(data)) for _ in range(100))


@program
def xml_etree() -> int:
    root = ElementTree.Element("root")
    for i in range(2_000):
        child = ElementTree.SubElement(root, "row", {"id": str(i)})
        for j in range(5):
            ElementTree.SubElement(child, f"c{j}").text = f"text {i * j}"
    return len(ElementTree.fromstring(ElementTree.tostring(root)))


@program
def logging_format() -> int:
    stream = io.StringIO()
    logger = logging.Logger("bench")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logger.addHandler(handler)
    for i in range(3_000):
        logger.warning("hi %d there %s", i, "again")
    return len(stream.getvalue().splitlines())


LOOPS = {**object_worker.LOOPS, **PROGRAMS}
#: what its names begin with
PYPERFORMANCE = "pyperformance:"


def watch(tool: str, rate: int) -> Any:
    """The context in which the loop is watched."""
    stack = ExitStack()
    folder = Path(tempfile.mkdtemp())
    if tool in ("engine", "profile"):
        import nativemem
        from nativemem.observe.profile import Profile

        if not nativemem.install():
            raise SystemExit("the engine did not start")
    if tool == "profile":
        stack.enter_context(Profile(folder / "run.nm", rate=rate))
    elif tool == "tracemalloc":
        import tracemalloc

        tracemalloc.start()
    elif tool in ("memray", "memray-python"):
        import memray

        destination = memray.FileDestination(folder / "run.bin", overwrite=True)
        options = {"trace_python_allocators": tool == "memray-python"}
        stack.enter_context(memray.Tracker(destination=destination, **options))
    return stack


def in_turns(function: Callable[[], int], rate: int, pairs: int) -> list[float]:
    """Time with a profile over time without, of calls that take turns in this process.

    Of each two calls the second: a profile that has just begun touches all of its memory for the first time.
    """
    from nativemem.observe.profile import Profile

    def once() -> float:
        function()
        gc.collect()
        start = time.process_time()
        function()
        return time.process_time() - start

    def watched() -> float:
        with Profile(rate=rate):
            return once()

    sides = (once, watched)
    found = []
    for i in range(pairs):
        first = i % 2
        spent = {first: sides[first](), 1 - first: sides[1 - first]()}
        found.append(spent[1] / spent[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--rate", type=int, default=512 << 10)
    parser.add_argument("--pairs", type=int, help="so many calls with a profile and without, of --tool engine")
    parser.add_argument("--counted", metavar="LIBRARY", help="the second call is what callgrind counts; no times")
    options = parser.parse_args()
    name = options.loop.removeprefix(PYPERFORMANCE)
    function = LOOPS[name] if name == options.loop else pyperformance_programs.load(name)
    with watch(options.tool, options.rate):
        gc.collect()
        gc.freeze()
        check = function()
        if options.pairs is not None:
            json.dump(in_turns(function, options.rate, options.pairs), sys.stdout)
            return
        if options.counted is not None:
            counted = ctypes.PyDLL(options.counted)
            gc.collect()
            gc.disable()
            counted.counted_begin()
            function()
            counted.counted_end()
            return
        samples = []
        for _ in range(5):
            gc.collect()
            start = time.process_time()
            function()
            samples.append(time.process_time() - start)
    json.dump({"time": statistics.median(samples), "check": check}, sys.stdout)


if __name__ == "__main__":
    main()
