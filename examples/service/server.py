"""Words of the standard library's sources, for several tenants: an HTTP service on asyncio.

    GET /<tenant>?files=4&from=17     what words are in so many files, and where, as JSON
    GET /                             counts of all tenants

Each tenant has a queue of at most 16 jobs and, with nativemem, a budget. What its jobs allocate (texts, dicts,
lists, ints: objects of ordinary code) is charged to that. A job that would have more is refused with a 503, which
names the owner and the line that asked; no other tenant is, since none of their memory was taken. ``Server-Timing``
in an answer is the processor time of the service, for jobs of any tenant, from the request's arrival on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import re
import sysconfig
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nativemem
from nativemem.errors import CapacityExceeded
from nativemem.manager.collections import BoundedMap, BoundedQueue

WORD = re.compile(r"[A-Za-z_]\w+")
#: each a step of a millisecond or two; between steps other tenants have their turn
FILES = [
    path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if 8_000 < path.stat().st_size < 40_000
]


def add_words(places: dict[str, list[int]], texts: list[str], path: Path) -> None:
    """Adds the words of a file, and its text."""
    start = sum(map(len, texts))
    texts.append(path.read_text(encoding="utf-8", errors="replace"))
    for found in WORD.finditer(texts[-1]):
        places.setdefault(found[0], []).append(start + found.start())


def most_frequent(places: dict[str, list[int]]) -> list[str]:
    """The three words that are in most places."""
    return sorted(places, key=lambda word: (-len(places[word]), word))[:3]


async def index(first: int, count: int, charge: Callable[..., Any]) -> dict[str, Any]:
    """How many words are in the files, and which are the most frequent: from where each is in all of their text.

    ``charge`` calls a function at the tenant's charge. A scope for each step is in no other's way, and costs less
    than one around the awaits.
    """
    places: dict[str, list[int]] = {}
    texts: list[str] = []
    for i in range(first, first + count):
        charge(add_words, places, texts, FILES[i % len(FILES)])
        await asyncio.sleep(0)
    return {"words": sum(map(len, places.values())), "top": charge(most_frequent, places)}


def freely(function: Callable[..., Any], *args: Any) -> Any:
    """Calls it at the service's charge."""
    return function(*args)


class Tenant:
    """What one tenant has: a queue, a budget, and a task that does its jobs one after the other."""

    def __init__(self, name: str, limit: str | None) -> None:
        self.name = name
        self.budget = None if limit is None else nativemem.Budget(limit, name)
        #: number of the job, first file, how many
        self.jobs = BoundedQueue(16, "QII")
        self.answers: dict[int, asyncio.Future[tuple[int, dict[str, Any]]]] = {}
        self.arrived = asyncio.Event()
        #: how often each status was answered
        self.statuses = BoundedMap(8, "H", "Q")
        self.task = asyncio.ensure_future(self.work())

    async def ask(self, number: int, first: int, count: int) -> tuple[int, dict[str, Any]]:
        """Status and answer, once its turn has come."""
        try:
            self.jobs.push((number, first, count))
        except CapacityExceeded as error:
            return 503, {"owner": self.name, "site": "the queue", "reason": str(error)}
        self.answers[number] = asyncio.get_running_loop().create_future()
        self.arrived.set()
        try:
            return await self.answers[number]
        finally:
            del self.answers[number]

    async def work(self) -> None:
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.jobs:
                number, first, count = self.jobs.pop()
                done = await self.do(first, count)
                future = self.answers.get(number)
                if future is not None and not future.done():  # or the client has gone
                    future.set_result(done)

    async def do(self, first: int, count: int) -> tuple[int, dict[str, Any]]:
        try:
            return 200, await index(first, count, freely if self.budget is None else self.charged)
        except MemoryError as error:
            return 503, self.refusal(error)

    def charged(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it at this tenant's charge."""
        with self.budget:
            return function(*args)

    def refusal(self, error: MemoryError) -> dict[str, Any]:
        """The owner that was refused, and where. It is made outside of the scope, and so at the service's
        charge."""
        site, trace = "", error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename == __file__:
                site = f"{Path(__file__).name}:{trace.tb_lineno} in {code.co_name}"
            trace = trace.tb_next
        denial = self.budget.last_denial if self.budget is not None else None
        owner = None if denial is None else denial.owner
        return {"owner": owner, "site": site, "limit": None if denial is None else denial.limit}


class Service:
    """The tenants, by name, and the connections."""

    def __init__(self, names: list[str], limit: str | None) -> None:
        self.tenants = {name: Tenant(name, limit) for name in names}
        self.numbers = iter(range(1 << 62))

    async def answer(self, target: str) -> tuple[int, dict[str, Any]]:
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/":
            return 200, {name: self.counts(tenant) for name, tenant in self.tenants.items()}
        tenant = self.tenants.get(url.path[1:])
        try:
            first, count = int(query.get("from", 0)), int(query.get("files", 4))
            if tenant is None or not (0 <= first < 1 << 32 and 1 <= count <= 1000):
                raise ValueError
        except ValueError:
            return 404, {"reason": "no such tenant, or no such files"}
        status, body = await tenant.ask(next(self.numbers), first, count)
        tenant.statuses[status] = tenant.statuses.get(status, 0) + 1
        return status, body

    def counts(self, tenant: Tenant) -> dict[str, Any]:
        found: dict[str, Any] = {str(status): n for status, n in tenant.statuses.items()}
        if tenant.budget is not None:
            found |= {"used": tenant.budget.used, "peak": tenant.budget.peak, "limit": tenant.budget.limit}
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, of any number of requests."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                words, start = head.split(b" ", 2), time.process_time()
                try:
                    status, body = await self.answer(words[1].decode("latin-1"))
                    packed = json.dumps(body).encode()
                except MemoryError:  # where no budget bounds what others take
                    status, packed = 500, b"{}"
                busy = b"Server-Timing: cpu;dur=%.3f" % (1000 * (time.process_time() - start))
                head = b"HTTP/1.1 %d .\r\n%b\r\nContent-Length: %d\r\n\r\n" % (status, busy, len(packed))
                writer.write(head + packed)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def bounded(total: int | None, with_nativemem: bool) -> Iterator[None]:
    """Bounds what the process may have on top of what it has: with nativemem, or by the system's limit."""
    if with_nativemem:
        nativemem.install()
        try:
            yield
        finally:
            nativemem.uninstall()
        return
    import resource

    if total is not None:
        sizes = Path("/proc/self/statm").read_text().split()
        now = int(sizes[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + total, resource.RLIM_INFINITY))
    yield


async def run(options: argparse.Namespace) -> None:
    warnings.simplefilter(
        "ignore", nativemem.MemoryPressure
    )  # that a tenant comes near its limit is its own affair
    service = Service(options.tenant, None if options.plain else options.limit)
    server = await asyncio.start_server(service.serve, "127.0.0.1", options.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tenant", action="append", required=True, metavar="NAME")
    parser.add_argument("--limit", default="4 MiB", help="of each tenant's budget (default: %(default)s)")
    parser.add_argument("--plain", action="store_true", help="without nativemem, under a limit of the system")
    parser.add_argument("--room", type=int, help="bytes for all jobs together, where --plain")
    parser.add_argument("--port", type=int, default=0, help="0 (default): any; it is printed")
    options = parser.parse_args()
    with bounded(options.room, not options.plain), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(options))


if __name__ == "__main__":
    main()
