"""Worker of the profile's cost: one loop, with a profile, another tool, or nothing watching it.

The loops are P3's, and programs in the manner of pyperformance's that allocate most.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
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


def watch(tool: str, rate: int) -> Any:
    """The context in which the loop is watched."""
    stack = ExitStack()
    folder = Path(tempfile.mkdtemp())
    if tool in ("engine", "profile"):
        import nativemem

        if not nativemem.install():
            raise SystemExit("the engine did not start")
    if tool == "profile":
        from nativemem.observe.profile import Profile

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=list(LOOPS), required=True)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--rate", type=int, default=512 << 10)
    parser.add_argument("--calls", type=int, help="so many calls, nothing reported: for callgrind")
    options = parser.parse_args()
    function = LOOPS[options.loop]
    with watch(options.tool, options.rate):
        if options.calls is not None:
            for _ in range(options.calls):
                function()
            return
        check = function()
        samples = []
        for _ in range(5):
            start = time.process_time()
            function()
            samples.append(time.process_time() - start)
    json.dump({"time": statistics.median(samples), "check": check}, sys.stdout)


if __name__ == "__main__":
    main()
