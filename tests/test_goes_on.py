"""ENG-9c: consoles, kernels, test runners, pools and servers go on after what they ran has filled a process's limit
or a scope, though the traceback still holds what did. Each program is a process of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kernel import needs_a_kernel, outputs
from test_scopes import native

pytestmark = native

HEAD = """
import nativemem
def bound(mebibytes):
    nativemem.install(limit=nativemem.process.usage().held + (mebibytes << 20) if nativemem.install() else 0)
def fill(kind):
    kept = []
    while True:
        if kind == 0: kept.append([len(kept)])
        elif kind == 1: kept.append(bytearray(3 << 20))
        elif kind == 2: kept.append(bytearray(20_000))
        else: kept.append((lambda n: lambda: n)(len(kept)))
"""


def run(code: str, *args: object, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", HEAD + textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **how)  # type: ignore[call-overload]


def test_a_handler_in_the_handler() -> None:
    """What handles a MemoryError has memory, also in handlers of what it meets meanwhile."""
    done = run("""
bound(32)
try: fill(0)
except MemoryError:
    try: [][1]
    except IndexError:
        table = bytearray(256)
        table += bytes(0xff00)  # as `re` does in such a handler
        print(len(table))
""")
    assert (done.returncode, done.stdout) == (0, "65536\n"), done.stderr


def test_a_finder_works_for_the_import(tmp_path: Path) -> None:
    """Of whatever package: the interpreter imports modules to show a traceback. What is imported gets its error."""
    code = """
import sys
bound(64)
chain = {}
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "colorsys":
            for n in range(40_000): chain[name] = (n, chain.get(name))  # more than is had in silence, less than all
sys.meta_path.insert(0, Finder)
sys.path.insert(0, sys.argv[1])
def hook(kind, error, trace):
    global many
    try: import MODULE
    except MemoryError: pass
    many = None
    chain.clear()
    print("MODULE" in sys.modules)
sys.excepthook = hook
many = None
for n in range(10_000_000): many = (n, many)  # small blocks alone: it ends where the limit is
"""
    (tmp_path / "of_the_program.py").write_text("kept = None\nfor n in range(40_000): kept = (n, kept)\n")
    for module, found in (("colorsys", "True\n"), ("of_the_program", "False\n")):
        done = run(code.replace("MODULE", module), tmp_path)
        assert (done.returncode, done.stdout) == (1, found), done.stderr


def test_the_library_works_for_its_caller() -> None:
    """Code of the standard library is interrupted where its caller may be, and only there."""
    code = """
import collections, re, types
bound(32)
caller = types.ModuleType({name!r})
exec('''
import collections, re
def work():
    for i in range(40):
        re.purge()
        re.compile(r"[a-z\\u0100-\\u0200]+(b|c){{2}}" + str(i))
    return collections.namedtuple("Pair", "x y")(1, 2)
''', caller.__dict__)
held, got = None, []
try: fill(0)
except MemoryError as error: held = error
got.append(held.__traceback__.tb_next is not None)
try: got.append(sum(caller.work()))
except MemoryError: got.append("interrupted")
print(got)
"""
    for name in ("code", "IPython.core", "pygments.util"):
        done = run(code.format(name=name))
        assert (done.returncode, done.stdout) == (0, "[True, 3]\n"), done.stderr


@pytest.mark.parametrize("colors", ["0", "1"])
def test_an_interactive_interpreter(colors: str) -> None:
    lines = ["x = 'a' + 'bc'", "kept = []", "while True: kept.append([len(kept)])", ""]
    again = ["print(x)", "1/0", "print([i * 7 for i in range(3)])", "def f(): return 'f' + x", "", "print(f())"]
    lines += again * 5
    lines += ["del kept", "print(len(bytes(1 << 20)))", "raise SystemExit(7)"]
    done = subprocess.run(
        [sys.executable, "-i", "-q"], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300,
        env=os.environ | {"NATIVEMEM_AUTOINSTALL": "1", "NATIVEMEM_LIMIT": "80 MiB", "PYTHON_COLORS": colors},
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stdout.split("\n") == ["abc", "[0, 7, 14]", "fabc"] * 5 + ["1048576", ""]
    assert done.stderr.count("MemoryError") == 1 and done.stderr.count("ZeroDivisionError") == 5


RUN = """
import contextlib, os
import nativemem, pytest
with contextlib.suppress(ImportError):  # its plugin does at the end, and what imports has to have the memory
    import hypothesis.internal.observability
nativemem.install(limit=nativemem.process.usage().held + (64 << 20) if nativemem.install() else 0)
def fill(make):
    kept = []
    while True: kept.append(make(kept))
def test_before(): assert sum([1, 2]) == 3
def test_fill(): fill(lambda kept: [len(kept)])
def test_after(tmp_path): (tmp_path / "a").write_text("b")
def test_differs(): assert [1, {2: 3}] == [1, {2: 4}]
def test_raises():
    with pytest.raises(ZeroDivisionError): 1 / 0
def test_fill_large(): fill(lambda kept: bytearray(3 << 20))
@pytest.mark.parametrize("i", range(10))
def test_others(i): assert [str(j) for j in range(i)] == list(map(str, range(i)))
"""


def test_a_run_of_pytest(tmp_path: Path) -> None:
    program = tmp_path / "test_program.py"
    program.write_text(RUN)
    options = ("-q", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short")
    command = [sys.executable, "-m", "pytest", *options, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    lines = done.stdout.splitlines()
    failed = sorted(line.split("::")[1].split()[0] for line in lines if line.startswith("FAILED "))
    assert failed == ["test_differs", "test_fill", "test_fill_large"], done.stdout + done.stderr
    assert "3 failed, 13 passed" in done.stdout and done.returncode == 1


def test_a_run_of_unittest() -> None:
    done = run("""
import unittest
bound(32)
class Case(unittest.TestCase):
    def test_a(self): self.assertEqual([1], [1])
    def test_b_fill(self): fill(0)
    def test_c(self): self.assertEqual([1, {2: 3}], [1, {2: 3}])
    def test_d_differs(self): self.assertEqual([1, {2: 3}], [1, {2: 4}])
    def test_e_fill(self): fill(1)
    def test_f(self):
        with self.assertRaises(KeyError): {}[1]
unittest.main()
""")
    assert "FAILED (failures=1, errors=2)" in done.stderr and done.stderr.count("\nMemoryError") == 2, done.stderr
    assert done.returncode == 1


JOBS = """
import multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
def in_scope(kind):
    with nativemem.Budget("4 MiB"): fill(kind)
def job(i): return len([j for j in range(1000)]) + i
def results(executor, filling):
    held, wrong = [], []
    for turn in range(2):
        calls = [(filling, i // 5 % 4) if i % 5 == 0 else (job, i) for i in range(40)]
        futures = [executor.submit(*call) for call in calls]
        for i, future in enumerate(futures):
            try: result = future.result(timeout=250)
            except BaseException as error:
                held.append(error)
                result = type(error)
            if result != (MemoryError if i % 5 == 0 else 1000 + i): wrong.append((i, result))
    return len(held), wrong
"""


def test_jobs_of_threads_with_scopes() -> None:
    done = run(
        JOBS
        + """
nativemem.install()
with ThreadPoolExecutor(3) as executor: print(results(executor, in_scope))
"""
    )
    assert (done.returncode, done.stdout) == (0, "(16, [])\n"), done.stderr


@pytest.mark.parametrize("filling", ["fill", "in_scope"])
def test_jobs_of_processes_with_a_limit(filling: str) -> None:
    done = run(
        JOBS
        + f"""
warnings.simplefilter("ignore", DeprecationWarning) # of a fork beside the executor's threads
fork = multiprocessing.get_context("fork") # since 3.14 the default is another, which needs a program with a file
with ProcessPoolExecutor(2, fork, bound, (40,)) as executor: print(results(executor, {filling}))
"""
    )
    assert (done.returncode, done.stdout) == (0, "(16, [])\n"), done.stderr


@pytest.mark.parametrize("scope", [True, False])
def test_a_server_of_asyncio(scope: bool) -> None:
    """Another request is answered while the one that failed still has what it filled."""
    done = run(f"""
import asyncio, contextlib
nativemem.install() if {scope} else bound(40)
held = []
async def serve(reader, writer):
    line = (await reader.readline()).strip()
    try:
        with nativemem.Budget("8 MiB") if {scope} else contextlib.nullcontext():
            if line.startswith(b"fill"): fill(int(line[4:]))
            writer.write(line.upper() + b"\\n")
    except MemoryError as error:
        held.append(error)
        writer.write(b"full\\n")
    await writer.drain()
    writer.close()
async def ask(port, line):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line + b"\\n")
    answer = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return answer.strip().decode()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for kind in range(4):
        print(await ask(port, b"fill%d" % kind), *[await ask(port, b"a%d" % i) for i in range(10)])
        held.clear()
asyncio.run(main())
""")
    line = " ".join(["full", *(f"A{i}" for i in range(10))])
    assert (done.returncode, done.stdout.splitlines()) == (0, [line] * 4), done.stderr


def test_a_server_of_threads() -> None:
    """The handler is in a scope: what fills it is refused to that request alone."""
    done = run("""
import http.server, threading, urllib.error, urllib.request
nativemem.install()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200
        try:
            with nativemem.Budget("4 MiB"):
                if self.path.startswith("/fill"): fill(int(self.path[5:]))
        except MemoryError: status = 507
        self.send_response(status)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
thread = threading.Thread(target=server.serve_forever)
thread.start()
def ask(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=100) as answer:
            return answer.status
    except urllib.error.HTTPError as error: return error.code
for kind in range(4): print(ask(f"/fill{kind}"), *[ask("/") for _ in range(5)])
server.shutdown()
thread.join()
""")
    assert (done.returncode, done.stdout) == (0, "507 200 200 200 200 200\n" * 4), done.stderr


def test_an_interrupt() -> None:
    """Ctrl-C: ends a loop that meets the limit again and again, and the interpreter ends with its own code."""
    done = run("""
import os, signal, sys
bound(32)
kept, errors = [], 0
try:
    while True:
        try: fill(0) if errors == 0 else kept.append([[i] for i in range(1000)])
        except MemoryError as error:
            kept.append(error)
            errors += 1
            if errors == 50: os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt: print("interrupted", errors < 100)
sys.exit(9)
""")
    assert (done.returncode, done.stdout, done.stderr) == (9, "interrupted True\n", "")


@needs_a_kernel
def test_a_notebook_kernel() -> None:
    scopes, makers = ("if True:", "with budget:"), ("[len(kept)]", "bytearray(3 << 20)", "bytearray(20_000)")
    cells = []
    for scope, make in itertools.product(scopes, makers):
        cells += [
            f"{scope}\n  kept = []\n  while True: kept.append({make})",
            "1+1",
            "x, y",
            "1/0",
            "len([i for i in range(50)])",
            "del kept; sys.last_value = sys.last_traceback = sys.last_exc = None",
            "gc.collect(); 'deleted'",
        ]
    first, second, *shown = outputs(
        "import gc, sys, warnings, nativemem; warnings.simplefilter('ignore')",
        "x = 42; y = 'a' + 'b'; budget = nativemem.Budget('32 MiB')",
        *cells,
        NATIVEMEM_AUTOINSTALL="1",
        NATIVEMEM_LIMIT="150 MiB",
    )
    expected = ["MemoryError\n", "2\n", "(42, 'ab')\n", "ZeroDivisionError\n", "50\n", "\n", "'deleted'\n"]
    assert (first, second, shown) == ("\n", "\n", expected * 6)


@pytest.mark.parametrize(
    ("constants", "traced"), [(0, ""), (300, ""), (300, "lines"), (300, "instructions"), (300, "both")]
)
def test_functions_that_are_refused(constants: int, traced: str) -> None:
    """CPython 3.12 and 3.13 give the code object of a refused function back twice: they crash soon, and would here.
    constants: as many that stand before it, so that its number takes two units of code. traced: what a tracer is
    told of, which puts opcodes of its own in the place of others."""
    code = """
import sys, threading
lines = ["def fill(slots):", *(f"  i = {n}.5" for n in range(CONSTANTS)), "  for i in numbers:"]
exec(chr(10).join([*lines, "    slots[i] = lambda: None"]))
def traces(frame, event, argument):
    if event == "call":
        frame.f_trace_lines, frame.f_trace_opcodes = TRACED != "instructions", TRACED != "lines"
    return traces
def work():
    if TRACED: sys.settrace(traces)
    for slots in lists:
        try: fill(slots)
        except MemoryError:
            slots.clear()
            refused[0] += 1
refused = [0]
numbers = list(range(60_000))
lists = [[None] * len(numbers) for _ in range(6)]
(code,) = (each for each in fill.__code__.co_consts if hasattr(each, "co_code"))
kept = [code] * 20  # what would be lost is counted
before = sys.getrefcount(code)
bound(4)
thread = threading.Thread(target=work)  # one without a scope asks for functions until they are refused
thread.start()
thread.join()
print(refused[0], before - sys.getrefcount(code))
"""
    done = run(code.replace("CONSTANTS", str(constants)).replace("TRACED", repr(traced)))
    assert (done.returncode, done.stdout) == (0, "6 0\n"), done.stderr


def test_a_thread_starts_with_nothing_left() -> None:
    """Its starter would wait for it for ever. All threads of the program together may have a little beyond every
    limit; here they have it, and keep it."""
    done = run("""
import threading
slots, ran = [None] * 100_000, []
def keep(k):
    i, refused = k, 0
    while refused < 2000:
        try:
            slots[i] = [i, bytes(300)]
            i += 4
        except MemoryError: refused += 1
bound(8)
others = [threading.Thread(target=keep, args=(k,)) for k in range(4)]
for thread in others: thread.start()
for thread in others: thread.join()
for i in range(100):
    started = threading.Thread(target=ran.append, args=(i,))
    started.start()
    started.join()
slots.clear()
print(len(ran))
""")
    assert (done.returncode, done.stdout) == (0, "100\n"), done.stderr


def test_code_that_is_spared_has_some_of_its_own() -> None:
    """16 KiB in each thread, where the limit, the overdraft and what is lent to all are used up, so that it starts,
    or hands a job's answer over. A block takes 240 bytes. All threads are there from the start and to the end, so
    that none leaves room to another."""
    done = run("""
import threading, types
spared = types.ModuleType("code")
exec('''
def take(slots, numbers):
    for i in numbers:
        try: slots[i] = bytes(200)
        except MemoryError: break
def take_in_turn(begin, slots, numbers, done, end):
    begin.acquire()
    try: take(slots, numbers)
    finally: done.release()
    end.acquire()
''', spared.__dict__)
def use_up(begin, slots, numbers, done, end):
    refused = 0
    begin.acquire()
    try:
        for i in numbers:
            try: slots[i] = [bytes(200)]
            except MemoryError: refused += 1
            else: refused = 0
            if refused == 20: break
        spared.take(slots, numbers)
    finally: done.release()
    end.acquire()
def locked():
    lock = threading.Lock()
    lock.acquire()
    return lock
turns = [(locked(), [None] * n, iter(range(n)), locked(), locked()) for n in (100_000, 200, 200, 200)]
threads = [threading.Thread(target=spared.take_in_turn if i else use_up, args=turn) for i, turn in enumerate(turns)]
for thread in threads: thread.start()
spared.take([], [])  # 3.10 keeps its frame for the next call
bound(8)
for begin, _, _, done, _ in turns:
    begin.release()
    done.acquire()
turns[0][1].clear()
for (*_, end), thread in zip(turns, threads):
    end.release()
    thread.join()
print([60 < 200 - slots.count(None) <= (16 << 10) // 240 for _, slots, *_ in turns[1:]])
""")
    assert (done.returncode, done.stdout) == (0, "[True, True, True]\n"), done.stderr


def test_errors_that_are_kept() -> None:
    """ENG-9a: the interpreter has a few MemoryErrors in store; where it could make no more, up to 3.11, it ended
    the process."""
    done = run("""
bound(8)
kept, errors = [], [None] * 50_000
try:
    while True: kept.append(bytearray(2000))
except MemoryError: pass
for i in range(len(errors)):
    try:
        try: [][1]
        except IndexError as error: errors[i] = error
    except MemoryError as error: errors[i] = error
kinds = {type(error) for error in errors}
kept = errors = None
print(sorted(kind.__name__ for kind in kinds))
""")
    assert done.returncode == 0 and "MemoryError" in done.stdout, done.stderr
    assert done.stdout in ("['IndexError', 'MemoryError']\n", "['MemoryError']\n")


@pytest.mark.parametrize("filled", [False, True])
def test_jobs_whose_errors_are_kept(filled: bool) -> None:
    """Each of many jobs meets the limit, and its future keeps the error with its frames: each has its answer."""
    done = run(
        """
import concurrent.futures as futures, sys
nativemem.install()
budget, kept = nativemem.Budget("4 MiB"), []
def job(i): return [bytearray(40_000), {i: [i]}, str(i)]
if sys.argv[1] == "True":
    with budget:
        try:
            while True: kept.append(bytearray(40_000))
        except MemoryError: pass
with futures.ThreadPoolExecutor(4) as executor:
    jobs = [budget.wrap(executor).submit(job, i) for i in range(5000)]
    kinds = {type(each.exception(timeout=250)) for each in jobs}
print(kinds - {type(None)})
""",
        filled,
    )
    assert (done.returncode, done.stdout) == (0, "{<class 'MemoryError'>}\n"), done.stderr


def test_the_library_is_tried_again() -> None:
    """In code that is spared, with all used up, no exception is lost on its way through the frames."""
    done = run("""
import datetime, io, re, sys, tokenize, traceback
nativemem.install()
def imports():
    for name in ("wave", "cmd", "stringprep"): sys.modules.pop(name, None)
    import wave, cmd, stringprep
def times():
    sys.modules.pop("_strptime", None)
    datetime.datetime.strptime("2020-02-03", "%Y-%m-%d")
def tokens():
    re.purge()
    list(tokenize.generate_tokens(io.StringIO("x = [1, 'a', f(2)]\\n" * 50).readline))
def tracebacks():
    def down(n):
        if n: down(n - 1)
        1 / 0
    try: down(20)
    except ZeroDivisionError: traceback.format_exc()
kinds = set()
for body in imports, times, tokens, tracebacks:
    for size in (0, 100, 500):
        budget, kept = nativemem.Budget("64 KiB"), []
        try:
            with budget:
                try:
                    while size: kept.append(bytes(size))
                except MemoryError: pass
                for _ in range(60):
                    try: kept.append(body())
                    except MemoryError: pass
                    except BaseException as error: kinds.add((body.__name__, type(error).__name__))
        except MemoryError: pass
        kept = None
print(sorted(kinds))
""")
    assert (done.returncode, done.stdout) == (0, "[]\n"), (done.stdout, done.stderr)
