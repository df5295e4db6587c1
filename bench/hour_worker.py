"""A service that runs for as long as it is let, at a part of one core: the program of profile_hour.py.

Each request makes code of its own, as template engines and `exec` do, a document, and a call path of its own depth;
some make a budget and are refused, some run as tasks, some in a thread. Of each request ``LEAK`` bytes are kept, in
`remember`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time

import nativemem

LEAK = 1024
KEPT: list[bytes] = []
TENANTS = [nativemem.Budget("64 MiB", f"tenant-{i}") for i in range(5)]
ROWS = [{"id": i, "name": f"row {i}", "tags": ["a", "b", str(i)]} for i in range(40)]


def remember(number: int) -> None:
    KEPT.append(number.to_bytes(8, "little") * (LEAK // 8))  # the leak


def document() -> int:
    return len(json.loads(json.dumps(ROWS * 4)))


def template(number: int) -> None:
    """Code that is new, as each template of a template engine is, with a constant of 2 KiB."""
    text = f"def page_{number}(rows):\n    text = {'x' * 2048!r}\n    return [text + str(row) for row in rows]\n"
    scope: dict[str, object] = {}
    exec(compile(text, f"<template {number}>", "exec"), scope)
    scope[f"page_{number}"](range(8))  # type: ignore[operator]


def deep(levels: int) -> list[int]:
    made = [levels] * 50
    return made if levels == 0 else deep(levels - 1)


async def tasks() -> None:
    async def one() -> int:
        await asyncio.sleep(0)
        return document()

    await asyncio.gather(*(one() for _ in range(4)))


def refused(budget: nativemem.Budget) -> None:
    try:
        with budget:
            bytearray(1 << 20)
    except MemoryError:
        return
    raise SystemExit("a budget of 64 KiB let 1 MiB pass")


def request(number: int, templates: int) -> None:
    remember(number)
    with TENANTS[number % len(TENANTS)]:
        document()
        for i in range(templates):
            template(number * templates + i)
        deep(number % 100)
    if number % 10 == 0:
        refused(nativemem.Budget("64 KiB", f"request-{number}"))
    if number % 50 == 0:
        asyncio.run(tasks())
        thread = threading.Thread(target=document)
        thread.start()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.1, help="of a core")
    parser.add_argument("--templates", type=int, default=1, help="pieces of new code a request")
    options = parser.parse_args()
    number = 0
    while True:
        start = time.thread_time()
        for _ in range(10):
            request(number, options.templates)
            number += 1
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        time.sleep((time.thread_time() - start) * (1 / options.share - 1))


if __name__ == "__main__":
    main()
