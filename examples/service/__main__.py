"""A load test of server.py on loopback: one tenant asks for ten times what its budget holds. What of the others?

    python examples/service [--requests 40] [--rounds 10] [--svg FILE]

Starts the server twice with nativemem and twice without, one of each for tenants that all ask for what they
may, and one for a load in which one tenant asks for ten times as much. The four are loaded in turn, a few
requests at a time, in an order that changes with each round, so that what else the machine does hits them
alike; the others are stopped meanwhile. A latency is what the server says of it (``Server-Timing``): its own
processor time from the request's arrival to its answer, the steps of other tenants in between among it, but
nothing of other processes. Prints a table, and draws it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
OTHERS = ["ada", "bob", "cyd", "dan"]
GREEDY = "eve"
#: files of a request that is within the budget
FILES = 4
LIMIT = 4 << 20
#: what the greedy one asks for: about ten times its limit
TIMES = 100


@dataclass
class Answers:
    """What some tenants got: of each answer the server's processor time and the clock's, in milliseconds."""

    busy: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)

    def add(self, other: Answers) -> None:
        self.busy += other.busy
        self.clock += other.clock
        self.refused += other.refused


def percentile(values: list[float], share: float) -> float:
    """The least of the values that such a share of them does not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(-(-int(share * 1000) * len(ordered) // 1000) - 1, 0)] if ordered else float("nan")


async def client(run: Run, tenant: str, files: int, requests: int, first: int, into: Answers) -> None:
    """Asks one thing after the other, each when the one before is answered; connects again where that is lost."""
    reader = writer = None
    for i in range(requests):
        start = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            writer.write(f"GET /{tenant}?files={files}&from={first + 7 * i} HTTP/1.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1]))
        except (OSError, asyncio.IncompleteReadError):
            into.refused.append({"reason": "the connection was lost"})
            writer = None
            await asyncio.sleep(0.1)
            continue
        if head.split()[1] == b"200":
            into.clock.append(1000 * (time.perf_counter() - start))
            into.busy.append(float(head.split(b"Server-Timing: cpu;dur=")[1].split()[0]))
        else:
            into.refused.append(json.loads(body))
    if writer is not None:
        writer.close()


def kibibytes(pid: int, key: str) -> int:
    """A number of /proc/<pid>/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0])


class Run:
    """One server, and what the tenants that load it got so far."""

    def __init__(self, name: str, times: int, *, plain: bool) -> None:
        self.name, self.times, self.plain = name, times, plain
        self.others, self.greedy, self.peak = Answers(), Answers(), 0.0
        self.p99s: list[float] = []
        self.rounds = 0

    async def start(self) -> None:
        """Starts the server, and has each of the others ask once: for what a server makes at first."""
        command = [sys.executable, str(HERE / "server.py"), "--limit", str(LIMIT)]
        for tenant in (*OTHERS, GREEDY):
            command += ["--tenant", tenant]
        if self.plain:
            command += ["--plain", "--room", str(LIMIT * (len(OTHERS) + 1))]
        # without a bound of each tenant's own, what the server prints are tracebacks of whichever was in the way
        errors = subprocess.DEVNULL if self.plain else None
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.server.stdout is not None
        self.port = int(self.server.stdout.readline())
        await self.load(1, Answers())
        self.before = kibibytes(self.server.pid, "VmRSS")

    async def begin(self) -> None:
        """Two clients for the greedy tenant, which go on from round to round."""
        await self.start()
        files = FILES * self.times
        self.tasks = [
            asyncio.ensure_future(client(self, GREEDY, files, 1 << 30, 100 * i, self.greedy)) for i in range(2)
        ]
        self.server.send_signal(signal.SIGSTOP)

    async def load(self, requests: int, into: Answers) -> None:
        """Two clients for each of the others."""
        clients = enumerate(2 * OTHERS, 8 * self.rounds)
        await asyncio.gather(*(client(self, name, FILES, requests, 31 * i, into) for i, name in clients))

    async def round(self, requests: int) -> None:
        """A few requests of each client. A server that its load has ended is started anew."""
        self.server.send_signal(signal.SIGCONT)
        if self.server.poll() is not None:
            await self.start()
        others = Answers()
        await self.load(requests, others)
        self.rounds += 1
        self.others.add(others)
        self.p99s.append(percentile(others.busy, 0.99))
        with contextlib.suppress(OSError, IndexError):  # it has ended
            self.peak = max(self.peak, (kibibytes(self.server.pid, "VmHWM") - self.before) / 1024)
        self.server.send_signal(signal.SIGSTOP)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.server.kill()
        self.server.communicate()


def table(runs: list[Run]) -> str:
    """A line for each run."""
    lines = [
        f"{'':28} {'others:':>9} {'':>8} {'p50':>7} {'p99':>7} {'p99':>7}   {'greedy:':>9} {'':>8} {'memory':>8}",
        f"{'':28} {'answered':>9} {'refused':>8} {'ms':>7} {'ms':>7} {'clock':>7}   {'answered':>9} {'refused':>8} "
        f"{'MiB':>8}",
    ]
    for each in runs:
        others, greedy = each.others, each.greedy
        lines.append(
            f"{each.name:28} {len(others.busy):9} {len(others.refused):8} {percentile(others.busy, 0.5):7.1f} "
            f"{percentile(others.busy, 0.99):7.1f} {percentile(others.clock, 0.99):7.1f}   {len(greedy.busy):9} "
            f"{len(greedy.refused):8} {each.peak:8.1f}"
        )
    return "\n".join(lines)


def svg(runs: list[Run]) -> str:
    """Bars: of all requests of the others, those answered and those refused; and their p99."""
    p99s = [percentile(run.others.busy, 0.99) for run in runs]
    most = max([1.0, *(p99 for p99 in p99s if p99 == p99)])
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="230" font-family="sans-serif" font-size="13">'
    ]
    parts.append('<rect width="760" height="230" fill="white"/>')
    parts.append(
        '<text x="220" y="22">answered, refused of the others\' requests</text>'
        '<text x="560" y="22">p99, ms of processor time</text>'
    )
    for i, (each, p99) in enumerate(zip(runs, p99s, strict=True)):
        y, answered, refused = 40 + 46 * i, len(each.others.busy), len(each.others.refused)
        share = 300 * answered / max(answered + refused, 1)
        parts += [
            f'<text x="10" y="{y + 19}">{each.name}</text>',
            f'<rect x="220" y="{y}" width="{share:.0f}" height="28" fill="#3a7"/>',
            f'<rect x="{220 + share:.0f}" y="{y}" width="{300 - share:.0f}" height="28" fill="#c33"/>',
            f'<text x="226" y="{y + 19}" fill="white">{answered}, {refused}</text>',
            f'<rect x="560" y="{y}" width="{140 * p99 / most if p99 == p99 else 0:.0f}" height="28" fill="#48b"/>',
            f'<text x="566" y="{y + 19}" fill="white">{p99:.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


async def measure(runs: list[Run], requests: int, rounds: int) -> None:
    """All rounds of all runs."""
    begun: list[Run] = []
    try:
        for each in runs:
            await each.begin()
            begun.append(each)
        for i in range(rounds):
            count = requests * (i + 1) // rounds - requests * i // rounds
            for each in runs if i % 2 else reversed(runs):
                await each.round(count)
    finally:
        for each in begun:
            await each.end()


def main() -> int:
    """Prints the table, what a refusal said, and the ratio of the others' p99."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=40, help="of each of the others' clients, in all rounds")
    parser.add_argument("--rounds", type=int, default=10, help="in so many parts; each loads every server")
    parser.add_argument("--only-nativemem", action="store_true", help="leave the servers without it out")
    parser.add_argument("--svg", type=Path, help="where to draw it")
    options = parser.parse_args()
    runs = [
        Run(f"{'without nativemem' if plain else 'nativemem'}, {who}", times, plain=plain)
        for plain in ((False,) if options.only_nativemem else (False, True))
        for who, times in (("all modest", 1), ("one greedy", TIMES))
    ]
    rounds = min(options.rounds, options.requests)
    asyncio.run(measure(runs, options.requests, rounds))
    print(table(runs))
    for refusal in runs[1].greedy.refused[:1]:
        print(f"\na refusal: 503, owner {refusal['owner']!r}, {refusal['site']}, limit {refusal['limit']}")
    ratios = sorted(greedy / modest for modest, greedy in zip(runs[0].p99s, runs[1].p99s, strict=True))
    modest, greedy = (percentile(run.others.busy, 0.99) for run in runs[:2])
    print(f"p99 of the others with a greedy one beside them, by that without: {greedy / modest:.3f}")
    print(f"in {rounds} rounds {ratios[0]:.3f} to {ratios[-1]:.3f}, median {statistics.median(ratios):.3f}")
    if options.svg is not None:
        options.svg.write_text(svg(runs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
