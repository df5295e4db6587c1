"""CLI-4: what `nativemem run --live` shows while a program runs, in a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from nativemem.commands import live

pytestmark = pytest.mark.skipif(live.missing() is not None, reason="--live is not to be had here")
COMMAND = [sys.executable, "-m", "nativemem", "run", "--live=0.05"]
LOOK = re.compile(r"nativemem: [\d.]+ s, resident ([\d.]+ \w+), peak ([\d.]+ \w+)")
#: ends with its standard input
WAITS = "import sys; kept = bytearray(50 << 20); del kept; print('ready', flush=True); sys.stdin.read()"


def read_until(file: int, enough: Callable[[str], object]) -> str:
    """What comes, until it is enough or ends."""
    text = ""
    while not enough(text):
        assert select.select([file], [], [], 60)[0], f"nothing more comes after {text!r}"
        try:
            part = os.read(file, 4096)
        except OSError:  # the other side of the terminal is closed
            part = b""
        if not part:
            break
        text += part.decode()
    return text


def test_a_line_each_time_in_a_pipe() -> None:
    with subprocess.Popen(
        [*COMMAND, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin is not None and program.stdout is not None and program.stderr is not None
        assert program.stdout.readline() == b"ready\n"
        shown = read_until(program.stderr.fileno(), lambda text: text.count("\n") >= 3)
        looks = [LOOK.fullmatch(line) for line in shown.splitlines()]
        assert None not in looks, shown
        assert looks[-1] is not None and float(looks[-1][2].split()[0]) > 50, "the peak, and not what is there now"
        program.stdin.close()
        rest = read_until(program.stderr.fileno(), lambda _: False)  # to the end: what looks has ended, too
        assert program.wait() == 0 and program.stdout.read() == b""
        assert re.search(r"^nativemem: .* allocations", rest, re.M), "the summary"
        assert "\x1b" not in shown + rest


def test_one_line_in_a_terminal() -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, env=env
    ) as program:
        os.close(theirs)
        assert program.stdin is not None
        shown = read_until(ours, lambda text: text.count("\x1b[K") >= 3)
        assert re.fullmatch(rf"(\r({LOOK.pattern})\x1b\[K\r)+", shown.rpartition("\x1b[K")[0] + "\x1b[K\r"), repr(
            shown
        )
        longest = max(map(len, re.split(r"[\r\x1b]", shown)))
        program.stdin.close()
        rest = read_until(ours, lambda _: False)
        assert program.wait() == 0
    os.close(ours)
    summary = re.search(r"nativemem: .* allocations.*", rest)
    assert summary is not None and len(summary[0]) > longest, "it takes the whole place of the line"


def test_the_program_has_nothing_more() -> None:
    code = (
        "import os, threading; print(threading.active_count(), len(os.listdir('/proc/self/task')));"
        "print(sorted(os.listdir('/proc/self/fd')));"
        "print(open('/proc/self/task/%d/children' % os.getpid()).read())"
    )
    shown = [
        subprocess.run([*words, "-c", code], capture_output=True, text=True, check=True).stdout
        for words in (COMMAND, COMMAND[:-1])
    ]
    assert shown[0] == shown[1]


def test_it_ends_with_a_program_that_is_killed() -> None:
    with subprocess.Popen(
        [*COMMAND, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.readline() == b"ready\n"
        read_until(program.stderr.fileno(), lambda text: "\n" in text)
        program.send_signal(signal.SIGKILL)
        read_until(program.stderr.fileno(), lambda _: False)  # hangs where something has it open
        assert program.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.5, "0.5 s"), (59.4, "59 s"), (61.0, "1:01 min"), (3723.0, "1:02:03 h")]
)
def test_how_long(seconds: float, shown: str) -> None:
    assert live._clock(seconds) == shown


def test_what_it_does_not_take() -> None:
    for value in ("0", "x", "nan", "1e9"):
        done = subprocess.run([*COMMAND[:-1], f"--live={value}", "-c", "pass"], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"{value!r}: takes 0.05 to 86400 seconds" in done.stderr
