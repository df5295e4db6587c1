"""The table of tests/test_run_is_python.py: programs and command lines, each to be run with ``python`` and with
``nativemem run``."""

from __future__ import annotations

import dataclasses
import multiprocessing
import py_compile
import re
import signal
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Situation:
    """``words``: after ``python`` or ``nativemem run``; ``text``: of program.py; ``files``: more of them by name;
    ``make``: what else the folder needs; ``send``: a signal, when the program has said that it is ready;
    ``shell``: a command line for sh instead of ``words``, in which ``$P`` is the one or the other; ``summary``:
    whether one is expected on standard error; ``same``: takes out of the output what no two runs have in common."""

    name: str
    text: str = ""
    words: tuple[str, ...] = ("program.py",)
    files: dict[str, str] = field(default_factory=dict)
    make: Callable[[Path], object] | None = None
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict)
    send: int | None = None
    shell: str = ""
    summary: bool = True
    same: Callable[[str], str] | None = None


SITUATIONS: list[Situation] = []


# A signal meets the program at any instruction of its line; without columns a traceback shows the line alone.
NO_COLUMNS = {"PYTHONNODEBUGRANGES": "1"}


def add(name: str, text: str = "", *words: str, **more: object) -> None:
    dedented = textwrap.dedent(text).lstrip("\n")
    if "send" in more:
        more["env"] = NO_COLUMNS
    SITUATIONS.append(Situation(name, dedented, words or ("program.py",), **more))  # type: ignore[arg-type]


SHOW = """
import sys
main = sys.modules["__main__"]
names = {name: repr(value) for name, value in vars(main).items() if name not in ("main", "sys", "SHOW")}
print(__name__, sorted(names.items()))
print(main.__dict__ is globals(), sys.argv, sys.path[0], sys.flags, sys.orig_argv[1:])
"""


def zipped(name: str, **files: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for file, text in files.items():
                archive.writestr(file.replace("__DOT__", ".") + ".py", text)

    return make


def application(folder: Path) -> None:
    zipped("plain.zip", __main__=SHOW)(folder)
    (folder / "app").write_bytes(b"#!/usr/bin/env python3\n" + (folder / "plain.zip").read_bytes())


def compiled(folder: Path) -> None:
    (folder / "source.py").write_text(SHOW)
    py_compile.compile(str(folder / "source.py"), cfile=str(folder / "program.pyc"), dfile="source.py", doraise=True)
    (folder / "source.py").unlink()


PACKAGED = {"pkg/__init__.py": "print('init', __name__)\n", "pkg/__main__.py": SHOW, "pkg/mod.py": SHOW}

# --- what is run ---
add("script", SHOW)
add("script with arguments", SHOW, "program.py", "--budget", "-x", "--", "y z", "")
add("script by its full path", SHOW, shell="$P $PWD/program.py 1")
add("script in another folder", "", "sub/inner.py", files={"sub/inner.py": SHOW + "import beside\n", "sub/beside.py": "print(1)"})
add("script through a link", SHOW, "link.py", make=lambda folder: (folder / "link.py").symlink_to("program.py"))
add("script without an ending", "", "program", files={"program": SHOW})
add("script with a name like an option", "", "--", "-strange.py", "1", files={"-strange.py": SHOW})
add("script with an odd name", "", "ein Stück.py", files={"ein Stück.py": SHOW})
add("a pipe as script", shell="echo 'import sys; print(sys.argv, __name__)' | $P /dev/stdin 1")
add("folder", "", "app", "1", files={"app/__main__.py": SHOW + "import beside", "app/beside.py": "print('beside')"})
add("the folder it is in", "", ".", "1", files={"__main__.py": SHOW})
add("folder without __main__", "", "app", files={"app/other.py": ""})
add("zip file", "", "app.zip", "1", make=zipped("app.zip", __main__=SHOW + "import beside", beside="print('beside')"))
add("zip file that raises", "", "app.zip", make=zipped("app.zip", __main__="def f():\n    1 / 0\nf()\n"))
add("zip application", "", "./app", "1", make=application)
add("zip file without __main__", "", "app.zip", make=zipped("app.zip", other=""))
add("pyc", "", "program.pyc", "1", make=compiled)
add("pyc of another version", "", "program.pyc", make=lambda folder: (folder / "program.pyc").write_bytes(b"\0" * 40))
add("-c", "", "-c", SHOW, "1", "-x")
add("-c attached", "", "-cprint(1); import sys; print(sys.argv)", "2")
add("-c that raises", "", "-c", "def f():\n    raise ValueError(1)\nf()")
add("-c empty", "", "-c", "")
add("-c that is indented", "", "-c", "\n    import sys\n    if 1:\n        print(2)\n  \n    1 / 0\n")
add("-c with a mistake", "", "-c", "print(")
add("- and standard input", "", "-", "1", "2", stdin=SHOW.encode())
add("standard input that raises", "", "-", stdin=b"x = 1\n1 / 0\n")
add("standard input that is empty", "", "-")
add("standard input from a file", SHOW, shell="$P < program.py")
add("standard input through a pipe", SHOW, shell="cat program.py | $P")
add("program that reads its standard input", "import sys\nprint(sys.stdin.read())\ninput()", stdin=b"one\ntwo\n")
add("-m module", SHOW, "-m", "program", "1", "-x")
add("-m attached", SHOW, "-mprogram", "1")
add("-m package", "", "-m", "pkg", "1", files=PACKAGED)
add("-m module of a package", "", "-m", "pkg.mod", "1", files=PACKAGED)
add("-m package without __main__", "", "-m", "pkg", files={"pkg/__init__.py": ""})
add("-m namespace package", "", "-m", "pkg.mod", files={"pkg/mod.py": SHOW})
add("-m of the standard library", "", "-m", "json.tool", "--compact", stdin=b'{"a": [1, 2]}')
add("-m module in a zip file", "", "-m", "inner", make=zipped("lib.zip", inner=SHOW), env={"PYTHONPATH": "lib.zip"})
add("-m runpy", SHOW, "-m", "runpy", "program", "1")
add("-m pdb", "x = 1\nprint(x)\n", "-m", "pdb", "program.py", stdin=b"n\np x\nw\nq\n")
add("-m trace", "def f():\n    return 1\nf()\n", "-m", "trace", "--listfuncs", "program.py")
add("-m cProfile", "print('profiled')", "-m", "cProfile", "-o", "out", "program.py")
add("-m doctest", 'def f():\n    """\n    >>> f()\n    2\n    """\n    return 1\n', "-m", "doctest", "program.py")
add("-m unittest", "", "-m", "unittest", "-q", "t", files={"t.py": "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\n"}, same=lambda text: re.sub(r"\d\.\d+s", "", text))

# --- what cannot be started ---
add("no such script", "", "nothing.py")
add("a script nobody may read", "print(1)", make=lambda folder: (folder / "program.py").chmod(0), shell="$P program.py; echo $?")
add("an empty word", "", "", "1")
add("-m no such module", "", "-m", "nothing")
add("-m no such module of a package", "", "-m", "pkg.nothing", files=PACKAGED)
add("-m no such package", "", "-m", "nothing.mod")
add("-m with a file's name", SHOW, "-m", "program.py")
add("-m of what is no package", SHOW, "-m", "program.inner")
add("-m package whose import fails", "", "-m", "pkg.mod", files={"pkg/__init__.py": "import missing_thing", "pkg/mod.py": ""})
add("-m package whose __main__ fails", "", "-m", "pkg", files={"pkg/__init__.py": "", "pkg/__main__.py": "import missing_thing"})
add("-m package that raises", "", "-m", "pkg.mod", files={"pkg/__init__.py": "1 / 0", "pkg/mod.py": ""})
add("-m relative name", "", "-m", ".pkg", files=PACKAGED)
add("-m binary module", "", "-m", "_ctypes")
add("-m built-in module", "", "-m", "sys")
add("a syntax error", "x = 1\ndef broken(:\n    pass\n")
add("an indentation error", "if 1:\nprint(1)\n")
add("a syntax error in -m", "def broken(:\n", "-m", "program")
add("a syntax error in what is imported", "import other", files={"other.py": "x = = 1\n"})
add("an encoding that is not", "# coding: nonsense\n")
add("bytes that are not utf-8", make=lambda folder: (folder / "program.py").write_bytes(b"x = '\xff'\n"))
add("a null byte", make=lambda folder: (folder / "program.py").write_bytes(b"x = 1\0\n"))
add("latin-1 by its comment", make=lambda folder: (folder / "program.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n"))
add("a byte order mark", make=lambda folder: (folder / "program.py").write_bytes(b"\xef\xbb\xbfprint(1)\n"))
add("no end of line, and carriage returns", make=lambda folder: (folder / "program.py").write_bytes(b"x = 1\r\nprint(x)"))

# --- how it ends ---
for ending in (
    "sys.exit()", "sys.exit(None)", "sys.exit(0)", "sys.exit(7)", "sys.exit(-1)", "sys.exit(256)", "sys.exit(2**80)",
    "sys.exit(True)", "sys.exit('a reason')", "sys.exit(['a', 1])", "sys.exit((1, 2))", "sys.exit(1.5)", "sys.exit(b'x')",
    "sys.exit(sys)", "sys.stderr = None\nsys.exit('a reason')",
    "raise SystemExit", "raise SystemExit(3)", "exit(4)", "quit()", "assert 1 == 2, 'not so'",
    "raise KeyboardInterrupt", "raise MemoryError('of its own')", "raise GeneratorExit", "raise BaseException(1)",
    "class E(SystemExit): pass\nraise E(5)", "class E(KeyboardInterrupt): pass\nraise E(5)",
    "class E(SystemExit):\n    code = property(lambda self: 1 / 0)\nraise E(5)",
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E(5)",
    "raise __import__('asyncio').CancelledError", "raise OSError(2, 'text', 'name')",
    "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('oh') from e",
    "def f(n): return f(n + 1)\nf(0)", "signal.raise_signal(signal.SIGINT)",
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); os.kill(os.getpid(), signal.SIGTERM)",
    *(["raise ExceptionGroup('g', [ValueError(1), OSError(2)])"] if sys.version_info >= (3, 11) else []),
):  # fmt: skip
    add(f"ends by {ending}", f"import os, signal, sys\nprint('out')\n{ending}\n")
for ending in (
    "os._exit(9)", "os.abort()", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), signal.SIGTERM)",
    "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.raise_signal(signal.SIGINT)",
    "signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.raise_signal(signal.SIGPIPE)",
    "import ctypes; ctypes.string_at(0)",
):  # fmt: skip
    add(f"ends by {ending}", f"import os, signal, sys\nprint('out')\n{ending}\n", summary=False)
add("a depth of recursion in -m", "def f(n): return f(n + 1)\nf(0)\n", "-m", "program")
add("Ctrl-C", "import time\nprint('ready', flush=True); time.sleep(60)\n", send=signal.SIGINT)
add("Ctrl-C in -m", "import time\nprint('ready', flush=True); time.sleep(60)\n", "-m", "program", send=signal.SIGINT)
add("Ctrl-C that is handled", "import time\ntry:\n    print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n    print('handled')\n", send=signal.SIGINT)
add("Ctrl-C in asyncio", "import asyncio\nasync def f():\n    try:\n        print('ready', flush=True)\n        await asyncio.sleep(60)\n    finally:\n        print('cleaned')\nasyncio.run(f())\n", send=signal.SIGINT, same=lambda text: re.sub(r'(?m)^  File .*\n(    .*\n)*', '', text))
add("Ctrl-C in an exit function", "import atexit, time\n@atexit.register\ndef f():\n    print('ready', flush=True); time.sleep(60)\n", send=signal.SIGINT)
add("Ctrl-C while threads are waited for", "import threading, time\nthreading.Thread(target=time.sleep, args=(1,)).start()\nprint('ready', flush=True); time.sleep(60)\n", send=signal.SIGINT)
add("Ctrl-C that the shell has switched off", "import signal\nprint(signal.getsignal(signal.SIGINT))\n", shell="trap '' INT; $P program.py")
for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):
    add(name, "import time\nprint('ready', flush=True); time.sleep(60)\n", send=getattr(signal, name), summary=False)
AT_A_TERMINAL = """
import os, pty, sys
keys = sys.argv[1].encode().decode("unicode_escape").encode()
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
said = b""
while True:
    try:
        byte = os.read(terminal, 1)
    except OSError:  # the last that had it open is gone
        break
    said += byte
    if said.endswith(b"ready") and keys:
        os.write(terminal, keys)
        keys = b""
print(said.replace(b"\\r", b"").decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def at_a_terminal(name: str, text: str, keys: str) -> None:
    """``keys`` are typed when the program has said that it is ready."""
    shell = f"{sys.executable} terminal.py '{keys}' $P program.py | sed 's/nativemem: .*//; /^$/d'"
    add(name, text, files={"terminal.py": AT_A_TERMINAL}, shell=shell, env=NO_COLUMNS, summary=False)


at_a_terminal("a terminal", "import sys, os\nprint(sys.stdin.isatty(), sys.stdout.isatty(), os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0) == os.getpid())\n1 / 0\n", "")
at_a_terminal("a line at a terminal", "print(input('ready'))\n", r"typed\n")
at_a_terminal("Ctrl-C at a terminal", "import time\nprint('ready', flush=True); time.sleep(60)\n", r"\x03")
at_a_terminal("Ctrl-C that is handled at a terminal", "import time\ntry:\n    print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n    print('handled')\n", r"\x03")
at_a_terminal("Ctrl-\\ at a terminal", "import time\nprint('ready', flush=True); time.sleep(60)\n", r"\x1c")
at_a_terminal("Ctrl-D at a terminal", "import sys\nprint('ready', flush=True)\nprint(repr(sys.stdin.read()))\n", r"\x04")
at_a_terminal("Ctrl-Z at a terminal", "import os, signal, time\nif os.fork():\n    print(os.WIFSTOPPED(os.waitpid(-1, os.WUNTRACED)[1]))\n    os.killpg(0, signal.SIGKILL)\nos.setpgid(0, 0)\nprint('ready', flush=True)\nos.kill(os.getpid(), signal.SIGTSTP)\n", r"")
add("SIGTERM that is handled", "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(3))\nprint('ready', flush=True); time.sleep(60)\n", send=signal.SIGTERM)

# --- __main__ after its end ---
PICKLES = """
import atexit, pickle, sys, threading, time
main = sys.modules["__main__"]
class Job:
    pass
def later(who):
    threading.main_thread().join()
    now = sys.modules["__main__"]
    print(who, type(pickle.loads(pickle.dumps(Job()))).__module__, now is main, vars(now) is globals(), "__file__" in vars(now))
def at_exit():
    print("exit", type(pickle.loads(pickle.dumps(Job()))) is Job, sys.modules["__main__"] is main)
class Last:
    def __del__(self, print=print, sys=sys):
        print("last", sys.modules.get("__main__") is not None if sys.modules else None)
if __name__ == "__main__":
    threading.Thread(target=later, args=("thread",)).start()
    atexit.register(at_exit)
    last = Last()
"""
add("threads and exit functions that pickle", PICKLES)
add("threads and exit functions that pickle, -m", PICKLES, "-m", "program")
add("threads and exit functions that pickle, folder", "", "app", files={"app/__main__.py": PICKLES})
add("threads and exit functions that pickle, stdin", "", "-", stdin=PICKLES.encode())
PROCESSES = """
import multiprocessing, sys
class Job:
    def __call__(self):
        return sys.modules["__main__"].__name__, __name__, sys.argv[1:]
def work(job):
    return job(), type(job).__module__
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        print(pool.map(work, [Job()]))
    process = context.Process(target=sys.exit, args=(7,))
    process.start()
    process.join()
    print(process.exitcode)
"""
for method in ("fork", "spawn", "forkserver"):
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    add(f"multiprocessing by {method}", PROCESSES, "program.py", method, env=quiet)
add("multiprocessing by spawn, -m", PROCESSES, "-m", "program", "spawn")
add("a process pool", "import concurrent.futures as c\ndef f(x): return x + 1\nif __name__ == '__main__':\n    with c.ProcessPoolExecutor(1) as p: print(list(p.map(f, [1])))\n", env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})
add("multiprocessing by the default way", PROCESSES, "program.py", multiprocessing.get_start_method(), env=quiet)
INTERPRETERS = """
    import sys
    from concurrent import futures, interpreters
    def work(n):
        return n + 1, __name__, sys.modules["__main__"].__name__
    if __name__ == "__main__":
        other = interpreters.create()
        other.exec("import json; print(json.dumps([1, __name__]), flush=True)")
        print(other.call(work, 1))
        try: other.exec("{}['missing']")
        except interpreters.ExecutionFailed as error: print(error)
        other.close()
        with futures.InterpreterPoolExecutor(2) as pool: print(list(pool.map(work, range(3))))
    """
if sys.version_info >= (3, 14):
    add("other interpreters", INTERPRETERS)
if sys.version_info >= (3, 15):
    LAZY = "import json, sys\nlazy import csv\nprint(sys.get_lazy_imports(), type(globals()['csv']).__name__)\nprint(json.dumps([1]), csv.reader)\n"
    add("imports that are put off", LAZY)
    add("imports that are put off, all", LAZY, env={"PYTHON_LAZY_IMPORTS": "all"})
    add("-S: imports that are put off, all", LAZY, "-S", "program.py", env={"PYTHON_LAZY_IMPORTS": "all"})
add("classes of __main__", """
    import dataclasses, inspect, pickle, sys, typing
    @dataclasses.dataclass
    class Point:
        x: "int"
        other: "typing.Optional[Point]" = None
    print(typing.get_type_hints(Point), Point(1), Point.__module__, Point.__qualname__)
    print(pickle.loads(pickle.dumps(Point(2))), inspect.getsource(Point), inspect.getfile(Point), inspect.getmodule(Point))
    import __main__
    print(__main__.Point is Point, inspect.getsourcelines(Point)[1], inspect.stack()[0][1:4])
    """)
add("a named tuple and an enum of __main__", "import collections, enum, pickle\nP = collections.namedtuple('P', 'x')\nE = enum.Enum('E', 'a b')\nprint(pickle.loads(pickle.dumps((P(1), E.a))), P.__module__, E.__module__)\n")
add("doctests of __main__", 'def f():\n    """\n    >>> f()\n    2\n    """\n    return 1\nimport doctest\nprint(doctest.testmod())\n')
add("unittest.main", "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 2)\nunittest.main()\n", same=lambda text: re.sub(r"\d\.\d+s", "", text))
add("importing itself", "import sys\nprint(__name__)\nif __name__ == '__main__':\n    import program\n    print(program is sys.modules['__main__'])\n")
add("putting another __main__ in its place", "import sys, types, atexit\nsys.modules['__main__'] = types.ModuleType('__main__')\natexit.register(lambda: print(sys.modules['__main__']))\n")
add("taking __main__ away", "import sys\ndel sys.modules['__main__']\nprint(1)\n")
add("annotations", "x: int = 1\nprint(__annotations__)\n")
add("a future import", "from __future__ import annotations\nx: undefined = 1\nprint(__annotations__)\n")
add("frames and linecache", "import sys, linecache, traceback\nf = sys._getframe()\nprint(f.f_back, linecache.getline(__file__, 1), f.f_code.co_filename)\ntraceback.print_stack()\n")
add("running another file", "import runpy\nprint(runpy.run_path('other.py', run_name='x')['y'])\n", files={"other.py": "import sys\ny = __name__, __file__, sys.argv[0]\n"})

add("a folder that is gone", "import os\ntry: os.getcwd()\nexcept OSError as e: print(e)\n", shell="there=$PWD; mkdir gone; cd gone; rmdir ../gone; $P $there/program.py")
add("arguments that are not utf-8", "import sys\nprint(ascii(sys.argv))\n", shell="$P program.py $(printf '\\377 \\303\\251')")
add("arguments that are not utf-8, C locale", "import sys\nprint(ascii(sys.argv))\n", shell="export LC_ALL=C; $P program.py $(printf '\\377 \\303\\251')")
add("an environment that is not utf-8", "import os\nprint(ascii(os.environ['X']))\n", shell="export X=$(printf '\\377'); $P program.py")
add("nothing to import from", "import sys\nsys.path = None\nsys.meta_path = None\nsys.modules.clear()\n")
add("nothing left of os", "import os, builtins\nfor name in ('write', 'open', 'close', 'fstat', 'getpid'): delattr(os, name)\ndel builtins.open\n")
add("few descriptors", "print(1)\n", shell="ulimit -n 12; $P program.py")

# --- errors and hooks ---
add("a traceback", "def f():\n    g()\ndef g():\n    return {}['missing']\nf()\n")
add("a traceback in colours", "def f():\n    g()\ndef g():\n    return {}['missing']\nf()\n", env={"FORCE_COLOR": "1", "PYTHON_COLORS": "1"})
add("sys.last_*", """
    import atexit, sys, threading
    def show(who):
        print(who, repr(sys.last_value), sys.last_type, sys.last_traceback.tb_frame.f_code.co_name, hasattr(sys, "last_exc"))
    atexit.register(show, "exit function")
    def later():
        threading.main_thread().join()
        show("thread")
    threading.Thread(target=later).start()
    1 / 0
    """)
add("an excepthook", "import sys\nprint(sys.excepthook is sys.__excepthook__)\nsys.excepthook = lambda *e: print(e[0], e[1], e[2].tb_lineno, e[2].tb_next)\n1 / 0\n")
add("an excepthook that raises", "import sys\ndef hook(*e): raise ValueError('in the hook')\nsys.excepthook = hook\n1 / 0\n")
add("an excepthook that exits", "import sys\ndef hook(*e): sys.exit(9)\nsys.excepthook = hook\n1 / 0\n")
add("no excepthook", "import sys\ndel sys.excepthook\n1 / 0\n")
add("an excepthook that is None", "import sys\nsys.excepthook = None\n1 / 0\n")
add("an excepthook in -m", "import sys\nsys.excepthook = lambda *e: print(e[0], e[1])\n1 / 0\n", "-m", "program")
add("errors in threads", "import threading\ndef f(): 1 / 0\nt = threading.Thread(target=f, name='t'); t.start(); t.join()\nthreading.excepthook = lambda a: print('hook', a.exc_type)\nt = threading.Thread(target=f); t.start(); t.join()\n")
add("SystemExit in a thread", "import sys, threading\nt = threading.Thread(target=sys.exit, args=(5,)); t.start(); t.join()\nprint('on')\n")
add("errors that nothing can take", "import sys\nclass D:\n    def __del__(self): 1 / 0\nd = D(); del d\nsys.unraisablehook = lambda u: print('hook', u.exc_type)\nd = D(); del d\n")
add("errors in exit functions", "import atexit\natexit.register(lambda: 1 / 0)\natexit.register(print, 'another')\n")
add("SystemExit in an exit function", "import atexit, sys\natexit.register(sys.exit, 9)\n")
add("no traceback", "import sys\nsys.tracebacklimit = 0\n1 / 0\n")
add("faulthandler", "import faulthandler\nfaulthandler.dump_traceback()\n")
add("names of threads and children", "import threading, os\nprint(threading.enumerate(), threading.main_thread() is threading.current_thread(), threading.active_count(), len(os.listdir('/proc/self/task')))\n", same=lambda text: re.sub(r"started \d+", "", text))
add("daemon threads at the end", "import threading, time\ndef f():\n    while True: time.sleep(.001)\nfor _ in range(4): threading.Thread(target=f, daemon=True).start()\nprint(1)\n")
add("a thread that goes on", "import threading\nsaid = threading.Event()\ndef f():\n    said.wait(); threading.main_thread().join(); print('thread')\nthreading.Thread(target=f).start()\nprint('main')\nsaid.set()\n")
add("warnings", "import warnings, sys\nwarnings.warn('one')\nwarnings.warn('two', DeprecationWarning)\nprint(sorted(map(str, __warningregistry__)))\ndef f(): warnings.warn('up', UserWarning, stacklevel=2)\nf()\nprint(warnings.filters, sys.warnoptions)\n")
add("deprecations of __main__ alone", "import warnings, other\nwarnings.warn('here', DeprecationWarning)\n", files={"other.py": "import warnings\nwarnings.warn('there', DeprecationWarning)\n"})
add("a file that is not closed", "open(__file__)\n", "-X", "dev", "program.py", summary=True)
add("a coroutine that is not awaited", "async def f(): pass\nf()\n")
add("audit hooks", "import sys\nseen = []\nsys.addaudithook(lambda e, a: seen.append(e) if e in ('open', 'exec', 'compile') else None)\nopen(__file__).close()\nprint(seen)\n")

# --- descriptors ---
add("another file as descriptor 2", "import os\nfile = os.open('log', os.O_CREAT | os.O_WRONLY)\nos.dup2(file, 2)\n", shell="$P program.py; cat log")
add("descriptor 2 closed, and the next file is 2", "import os\nos.close(2)\nprint(os.open('log', os.O_CREAT | os.O_WRONLY))\n", shell="$P program.py; cat log")
add("sys.stderr closed, and the next file is 2", "import os, sys\nsys.stderr.close()\ntry: os.close(2)\nexcept OSError: pass\nprint(open('log', 'w').fileno())\n", shell="$P program.py; cat log")
add("all descriptors closed and opened again", "import os\nos.closerange(2, 4096)\nfor _ in range(1000):\n    os.open('log', os.O_CREAT | os.O_RDWR)\n", shell="$P program.py; cat log", summary=False)
add("which descriptors are open", "import os\nfor _ in range(3): print(os.open('/dev/null', os.O_RDONLY))\n")
add("without a descriptor 2", "import sys\nprint(sys.stderr)\n", shell="$P program.py 2>&-; echo $?", summary=False)
add("without descriptors", "import sys\nopen('out', 'w').write(repr((sys.stdin, sys.stdout, sys.stderr)))\n", shell="$P program.py <&- >&- 2>&-; echo $?; cat out", summary=False)
add("another sys.stderr", "import io, sys\nsys.stderr = io.StringIO()\nprint('lost', file=sys.stderr)\n")
add("standard output closed", "import sys\nprint('lost')\n", shell="$P program.py >&-; echo $?")
add("standard output that nothing reads", "import sys\nfor _ in range(100000): print('x' * 10)\n", shell="{ $P program.py; echo $? >code; } | true; cat code")
add("standard output that is full", "print('x')\n", shell="$P program.py >/dev/full; echo $?")
#: waits until the other end of descriptor 2, a pipe, is closed
UNREAD = "import select\nwaiting = select.poll()\nwaiting.register(2, 0)\nwaiting.poll()\n"
add("standard error that nothing reads", UNREAD, shell="{ $P program.py; echo $? >code; } 2>&1 >/dev/null | true; cat code", summary=False)
add("standard error that nothing reads, with the signal", UNREAD + "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n", shell="{ $P program.py; echo $? >code; } 2>&1 >/dev/null | true; cat code", summary=False)
add("standard error into standard output", "import sys\nprint(1, flush=True)\nprint(2, file=sys.stderr)\n", shell="$P program.py 2>&1 | grep -v ^nativemem", summary=False)
add("a child that outlives it", "import os, time\nprint('parent', flush=True)\nif os.fork() == 0:\n    os.close(1); os.close(2)\n    time.sleep(30)\n    os._exit(0)\n", shell="timeout 20 sh -c 'x=$($P program.py 2>&1 | cat); echo end' ; echo $?", summary=False)
add("fork", "import os, sys\npid = os.fork()\nif pid == 0: sys.exit(5)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n", env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})
add("exec", "import os, sys\nprint('before', flush=True)\nos.execv(sys.executable, [sys.executable, '-c', 'print(1)'])\n", summary=False)
add("children", "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; print(1); sys.exit(3)']))\n")
add("its parent", "import os\nshell = int(os.environ['SHELL_IS'])\nprint(shell in (os.getpid(), os.getppid()), os.getpgrp() == os.getpid())\n", shell="SHELL_IS=$$ $P program.py; true")
add("its number is the one that was started", "import os\nprint(os.getpid())\n", shell="$P program.py >pid & wait $!; test $! = $(cat pid); echo $?")
add("umask, folder, mask of signals", "import os, signal\nprint(os.umask(0), os.path.basename(os.getcwd()) != '', signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGINT))\n", shell="umask 027; $P program.py")

# --- options of python's ---
FLAGS = "import sys\nprint(sys.flags, sys.warnoptions, sorted(sys._xoptions), sys.path[0], sys.dont_write_bytecode)\nassert not __debug__, 'debugging'\n"
for options in (
    "-B", "-b", "-bb", "-d", "-E", "-I", "-O", "-OO", "-q", "-R", "-s", "-S", "-SI", "-u", "-x", "-Sx", "-BOu", "-Wignore",
    "-W error", "-W ignore -W error::DeprecationWarning", "-Xdev", "-X utf8", "-X faulthandler", "-X int_max_str_digits=640",
    "-X nonsense", "-X warn_default_encoding", "-X pycache_prefix=cache", "--check-hash-based-pycs never",
    *(["-P", "-X no_debug_ranges", "-X frozen_modules=off"] if sys.version_info >= (3, 11) else []),
    *(["-X thread_inherit_context=1", "-X context_aware_warnings=1"] if sys.version_info >= (3, 14) else []),
    *(["-X lazy_imports=all", "-X lazy_imports=normal"] if sys.version_info >= (3, 15) else []),
):  # fmt: skip
    add(f"option {options}", FLAGS, *options.split(), "program.py", "1")
for options in ("-B", "-I", "-S", "-SE", "-OO", "-Wignore"):
    add(f"option {options}, -c", "", *options.split(), "-c", FLAGS, "1")
    add(f"option {options}, -m", FLAGS, *options.split(), "-m", "program", "1")
add("options in one word with -c", "", "-BOc", FLAGS, "1")
add("options in one word with -m", FLAGS, "-EOmprogram", "1")
add("-W error with a warning", "import warnings\nwarnings.warn('one')\nprint('not reached')\n", "-W", "error", "program.py")
add("-bb with a comparison", "print(b'' == '')\n", "-bb", "program.py")
add("-V", "", "-V", summary=False)
add("-i", "x = 1\n", "-i", "program.py", stdin=b"print(x)\n1 / 0\nraise SystemExit(3)\n")
add("-i after an error", "x = 1\n1 / 0\n", "-i", "program.py", stdin=b"print(x)\n")
add("-i after SystemExit", "raise SystemExit(4)\n", "-i", "program.py", stdin=b"print(__name__)\n")
add("-i alone", "", "-i", stdin=b"print(__name__)\n")
add("-v", "print(1)\n", "-v", "program.py", same=lambda text: "print" if "# cleanup" in text else text[:1])
add("an unbuffered program that is killed", "import os\nprint('seen', end='')\nos.kill(os.getpid(), 9)\n", "-u", "program.py", summary=False)


def without_frames(text: str) -> str:
    """Without site the program's frames stand on those of a command; and 3.13 shows lines of the command's alone."""
    return re.sub(r'(?m)^  File "(<string>|<frozen runpy>|.*/runpy.py)".*\n(    .*\n)*', "", text)


for situation in SITUATIONS:
    if "S" in situation.words[0] and len(situation.words) > 1:
        situation.same = without_frames

# --- without site: another way to the same end ---
WITHOUT_SITE = (
    *("script", "folder", "folder without __main__", "zip file", "pyc", "- and standard input", "-c", "-c that raises"),
    *("-m module", "-m package", "-c that is indented", "no such script", "a syntax error", "a traceback", "sys.last_*", "Ctrl-C"),
    *("an excepthook that raises", "threads and exit functions that pickle", "ends by sys.exit(7)", "-i after an error"),
    *("ends by raise KeyboardInterrupt", "ends by raise MemoryError('of its own')", "multiprocessing by spawn"),
    "classes of __main__",
)
for each in [situation for situation in SITUATIONS if situation.name in WITHOUT_SITE]:
    again = dataclasses.replace(each, name=f"-S: {each.name}", words=("-S", *each.words), same=without_frames)
    SITUATIONS.append(again)

# --- variables ---
for name, value in {
    "PYTHONWARNINGS": "error", "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONOPTIMIZE": "2",
    "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1", "PYTHONIOENCODING": "latin-1:replace",
    "PYTHONPATH": "lib", "PYTHONDEVMODE": "1", "PYTHONINTMAXSTRDIGITS": "700", "PYTHONCASEOK": "1",
    "PYTHONFAULTHANDLER": "1", "PYTHONSTARTUP": "start.py", "PYTHONINSPECT": "1", "PYTHONHASHSEED": "5",
}.items():  # fmt: skip
    show = FLAGS + "print(hash('x'), sys.stdout.encoding, sys.stdout.errors, sys.path[:3])\n"
    add(f"{name}={value}", show, env={name: value}, files={"start.py": "print('start-up')"})
for locale in ({"LC_ALL": "C"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"LANG": "C.UTF-8"}, {"LC_CTYPE": "C.UTF-8"}, {}):
    show = "import os, sys, locale\nprint(sys.flags.utf8_mode, sys.stdout.encoding, sys.stdout.errors, sys.getfilesystemencoding(), os.environ.get('LC_CTYPE'), locale.setlocale(locale.LC_CTYPE))\n"
    add(f"locale {locale}", show, shell=f"unset LC_ALL LANG LC_CTYPE; {' '.join(f'export {k}={v};' for k, v in locale.items())} $P program.py")
add("the environment", "import os\nprint(sorted(k for k in os.environ if k not in ('NATIVEMEM_AUTOINSTALL', '_')))\n")
