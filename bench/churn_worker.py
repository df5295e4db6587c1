"""Worker of P8: the churn of ``c/churn.c`` with objects; plain Python that knows nothing of nativemem."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import worker

PHASES = 6
#: of a bytes object's contents, one pair for each kind of phase
SIZES = [(0, 96), (32, 448), (0, 448)]


def rss() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def main() -> None:
    parser = worker.parser()
    options = parser.parse_args()
    worker.install(options.engine)
    target = (2 if options.quick else 32) << 20
    rounds = 0 if options.quick else 1000
    rng = random.Random(1)
    overhead = sys.getsizeof(b"")
    blocks = [b""] * (target // 64)  # the first `count` are live; as long as it will ever have to be
    count = live = 0
    report: dict[str, dict[str, int]] = {}
    before = rss()

    def tell(moment: str) -> None:
        report[moment] = {"live": live, "rss": max(0, rss() - before)}

    for phase in range(PHASES):
        low, high = SIZES[phase % len(SIZES)]
        while live < target:
            blocks[count] = bytes(rng.randint(low, high))
            live += len(blocks[count]) + overhead
            count += 1
        if phase == PHASES - 1:
            tell("full")
        for _ in range(count // 10 * 7):
            at = rng.randrange(count)
            live -= len(blocks[at]) + overhead
            count -= 1
            blocks[at] = blocks[count]
            blocks[count] = b""
    tell("freed")
    for _ in range(rounds):
        for _ in range(1000):
            at = rng.randrange(count)
            live -= len(blocks[at]) + overhead
            blocks[at] = bytes(rng.randint(low, high))
            live += len(blocks[at]) + overhead
        time.sleep(0.001)
    tell("later")
    worker.report(**report)


if __name__ == "__main__":
    main()
