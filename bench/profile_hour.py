"""A profile of an hour: whether its file stays within its bound, can be read all along, and outlives `kill -9`.

Usage: profile_hour.py [--seconds 3600] [--rate 512KiB] [--share 0.1] [--templates 1] [--keep FILE]

Runs `nativemem run --profile` over hour_worker.py, whose requests make new code and new call paths, and looks at it
each minute: what the file has on disk, what the process has of its own in memory, what the recording says. At the
end the process is killed by SIGKILL, and the recording is read once more.

Exit code 1 where the file came above 64 MiB, where it could not be read at any time, or where the planted leak is
not the line that has most, within three standard deviations.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nativemem.observe.recording import Recording, read
from nativemem.observe.report import render
from nativemem.sizes import parse_size

WORKER = Path(__file__).resolve().parent / "hour_worker.py"
BOUND = 64 << 20
LEAK = 1024  #: bytes a request, as hour_worker.py keeps them
MIB = 1 << 20


def resident(pid: int) -> int:
    """Bytes of its own that are resident: not those of the file."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) << 10


def leaked(recording: Recording) -> tuple[int, str]:
    """What the function with most live bytes has, and its file and name."""
    lines: dict[str, int] = {}
    for site in recording.sites:
        where = f"{Path(site.path.file).name}:{site.path.function}"
        lines[where] = lines.get(where, 0) + site.live
    where = max(lines, key=lambda each: lines[each])
    return lines[where], where


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--rate", default="512KiB")
    parser.add_argument("--share", type=float, default=0.1, help="how much of a core the program may use")
    parser.add_argument("--templates", type=int, default=1, help="pieces of new code a request makes")
    parser.add_argument("--keep", type=Path, help="where the recording is left")
    options = parser.parse_args()
    holder = tempfile.TemporaryDirectory()  # removed with it
    folder = Path(holder.name)
    file = options.keep or folder / "hour.nm"
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} CPUs")
    print(
        f"nativemem run --profile={options.rate}, {options.share:.0%} of a core, {options.seconds:.0f} s,", end=" "
    )
    print(f"new pieces of code a request: {options.templates}\n")
    print(f"{'seconds':>8}{'requests':>10}{'disk':>8}{'own':>9}{'leak':>8}", end="")
    print(f"{'samples':>11}{'sites':>9}{'dropped':>11}  (disk, own, leak: MiB)")
    words = [sys.executable, "-m", "nativemem", "run", f"--profile={options.rate}", "-o", str(file)]
    program = ["--share", str(options.share), "--templates", str(options.templates)]
    counter = folder / "requests"
    with counter.open("wb") as out:
        child = subprocess.Popen([*words, str(WORKER), *program], stdout=out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the program ends, too
    began, most, bad = time.monotonic(), 0, []

    def requests() -> int:
        lines = counter.read_bytes().split(b"\n")
        return int(lines[-2]) if len(lines) > 1 else 0

    def look() -> Recording:
        nonlocal most
        disk = os.stat(file).st_blocks * 512
        most = max(most, disk)
        own, recording, done = resident(child.pid), read(file), requests()
        print(
            f"{time.monotonic() - began:8.0f}{done:10,}{disk / MIB:8.1f}{own / MIB:9.1f}{done * LEAK / MIB:8.1f}"
            f"{recording.samples:11,}{len(recording.sites):9,}{recording.dropped:11,}",
            flush=True,
        )
        return recording

    try:
        while (left := options.seconds - (time.monotonic() - began)) > 0:
            time.sleep(min(options.every, left))
            if child.poll() is not None:
                print(f"the program ended: {child.returncode}")
                return 1
            look()
        child.send_signal(signal.SIGSTOP)
        done = requests()
        look()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    recording = read(file)
    live, where = leaked(recording)
    expected = done * (LEAK + 33)
    doubt = 3 * (expected * max(parse_size(options.rate, "rate"), LEAK)) ** 0.5
    start = time.monotonic()
    page = render(recording, "html")
    print(f"\nafter SIGKILL: read; lasted {recording.lasted}; {len(recording.refused):,} refusals with their paths")
    print(f"most live: {where}, {live / MIB:.1f} MiB; planted {expected / MIB:.1f} MiB,", end=" ")
    print(f"three standard deviations {doubt / MIB:.1f}")
    print(f"the page: {len(page) / MIB:.2f} MiB in {time.monotonic() - start:.1f} s")
    print(f"the file: {os.stat(file).st_size / MIB:.1f} MiB long, on disk {most / MIB:.1f} MiB at the most")
    if most > BOUND:
        bad.append("the file came above 64 MiB on disk")
    if where != "hour_worker.py:remember" or abs(live - expected) > doubt:
        bad.append("the planted leak was not found as it is")
    print("\n".join(bad) or "within its bound, and found")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
