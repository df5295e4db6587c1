"""Small pieces of ordinary Python that hunt_limits.py runs where memory ends.

Each takes a generator of random numbers and how much to make, keeps nothing for itself, and returns what is equal
each time. None turns an exception into something else, so that a MemoryError anywhere in it comes out.
"""

from __future__ import annotations

import array
import asyncio
import base64
import bisect
import calendar
import codecs
import collections
import configparser
import contextlib
import contextvars
import copy
import csv
import dataclasses
import datetime
import decimal
import difflib
import enum
import fractions
import functools
import gc
import hashlib
import heapq
import html
import importlib
import inspect
import io
import ipaddress
import itertools
import json
import logging
import marshal
import math
import operator
import pickle
import pprint
import queue
import random
import re
import shlex
import statistics
import string
import struct
import sys
import textwrap
import threading
import time
import tokenize
import traceback
import types
import typing
import unicodedata
import urllib.parse
import weakref
import xml.etree.ElementTree
import zlib
from collections.abc import Callable, Iterator
from typing import Any

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

Body = Callable[[random.Random, int], Any]
BODIES: dict[str, Body] = {}


def body(function: Body) -> Body:
    BODIES[function.__name__] = function
    return function


# ---- what objects are made of -------------------------------------------------------------------------


@body
def lists(r: random.Random, n: int) -> Any:
    rows = [[i, str(i), (i, i + 1000)] for i in range(n)]
    rows.extend([r.random()] for _ in range(n))
    rows.insert(n // 2, [None] * n)
    del rows[:: r.randrange(2, 5)]
    return rows + rows[::-1]


@body
def dicts(r: random.Random, n: int) -> Any:
    table = {f"key{r.randrange(1 << 40)}": [i] for i in range(n)}
    for key in list(table)[::3]:
        del table[key]
    table.update({i: i for i in range(1000, 1000 + n)})
    return {**table, "last": {v: k for k, v in enumerate("abcdefgh" * 3)}} | {1.5: n}


@body
def sets(r: random.Random, n: int) -> Any:
    one, two = {r.randrange(10**6) for _ in range(n)}, {r.randrange(10**6) for _ in range(n)}
    return one & two, one | two, one ^ two, frozenset(one) - two, sorted(one, reverse=True)


@body
def strings(r: random.Random, n: int) -> Any:
    text = "".join(chr(r.choice((97, 228, 8364, 128512))) for _ in range(n))
    words = (text + " ") * 3
    grown = ""
    for i in range(n):
        grown += str(i)
    return words.split(), words.upper(), text.encode(), text.replace("a", "bcd"), text.center(n + 40), grown


@body
def byte_strings(r: random.Random, n: int) -> Any:
    data = bytes(r.randrange(256) for _ in range(n))
    grown = bytearray()
    for i in range(n):
        grown += data[: i % 50]
    return data * 3, grown, data.hex(), bytes(grown).split(b"\x00"), data.translate(bytes(range(255, -1, -1)))


@body
def integers(r: random.Random, n: int) -> Any:
    big = 3**n + r.randrange(1000)
    return (
        big * big,
        big // 7,
        str(big)[:50],
        int(str(2**n)),
        math.factorial(n % 60),
        [1 << i for i in range(n)],
        -big >> 3,
    )


@body
def floats(r: random.Random, n: int) -> Any:
    return (
        [r.gauss(0, 1) for _ in range(n)],
        math.fsum(float(i) / 3 for i in range(n)),
        [complex(i, -i) ** 2 for i in range(n)],
    )


class Plain:
    def __init__(self, value: int) -> None:
        self.value, self.name, self.more = value, f"n{value}", [value]

    def method(self) -> int:
        return self.value + 300


class Slotted:
    __slots__ = ("__weakref__", "left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right


@body
def instances(r: random.Random, n: int) -> Any:
    made = [Plain(i) for i in range(n)]
    for one in made[::4]:
        setattr(one, f"extra{one.value}", one.value)
        one.__dict__["x"] = 1
    return [(one.method(), one.__dict__) for one in made], [m() for m in [one.method for one in made]][-1:]


@body
def slots(r: random.Random, n: int) -> Any:
    tree = None
    for i in range(n):
        tree = Slotted(tree, i + 1000)
    total = 0
    while tree is not None:
        total, tree = total + tree.right, tree.left
    return total


@body
def new_classes(r: random.Random, n: int) -> Any:
    out = []
    for i in range(n % 12 + 1):

        class Base:
            x = i

            def method(self, other: int) -> int:
                return self.x + other

            @property
            def twice(self) -> int:
                return self.x * 2

        class Derived(Base):
            def method(self, other: int) -> int:
                return super().method(other) + 1

        kind = type(f"Made{i}", (Derived,), {"__slots__": ("a",), "y": i})
        out.append((kind().method(500), kind().twice, kind.__mro__[1].__name__))
    return out


@body
def closures(r: random.Random, n: int) -> Any:
    def counter(start: int) -> Callable[[int], int]:
        total = start

        def add(more: int) -> int:
            nonlocal total
            total += more
            return total

        return add

    adders = [counter(i * 1000) for i in range(n)]
    return [add(7) + add(1) for add in adders], [(lambda x=i: x * n)() for i in range(n)]


@body
def generators(r: random.Random, n: int) -> Any:
    def tree(depth: int) -> Iterator[int]:
        if depth:
            yield from tree(depth - 1)
        try:
            yield depth + 1000
        finally:
            _ = [depth] * 5

    def echo() -> Any:
        got = yield
        while got is not None:
            got = yield got * 2

    e = echo()
    next(e)
    return sum(tree(min(n, 100))), [e.send(i + 300) for i in range(n)], list(zip(tree(5), tree(3)))


@body
def deep_recursion(r: random.Random, n: int) -> Any:
    def down(depth: int, path: tuple[int, ...]) -> int:
        return len(path) if depth == 0 else down(depth - 1, (depth, *path[:3])) + depth

    return down(min(n, 300) * 2, ())


@body
def comprehensions(r: random.Random, n: int) -> Any:
    return (
        {k: [v for v in range(k) if v % 2] for k in range(min(n, 60))},
        [*map(str, range(n))],
        tuple(x for x in range(n) if x & 1),
    )


@body
def arguments(r: random.Random, n: int) -> Any:
    def takes(*args: Any, key: int = 3, **more: Any) -> Any:
        return args, key, more

    return [takes(i, *range(5), key=i + 999, **{f"k{i}": i}) for i in range(n)], takes(
        *[0] * n, **{f"x{i}": i for i in range(n)}
    )


@body
def exceptions(r: random.Random, n: int) -> Any:
    caught = []
    for i in range(n):
        try:
            try:
                {}[i + 1000]
            except KeyError as error:
                raise ValueError(f"no {i}") from error
            finally:
                caught.append([i])
        except ValueError as error:
            caught.append((str(error), error.__cause__.args))  # type: ignore[arg-type, union-attr]
    return caught


@body
def matching(r: random.Random, n: int) -> Any:
    scope: dict[str, Any] = {}
    exec(
        "def of(x):\n  match x:\n    case [a, *rest]: return a, rest\n    case {'k': v, **more}: return v, more\n"
        "    case str(s): return s * 2\n    case _: return None\n",
        scope,
    )
    return [scope["of"](x) for i in range(n) for x in ([i, 1, 2], {"k": i, "z": i}, str(i), i)]


# ---- the standard library ------------------------------------------------------------------------------


@body
def sorting(r: random.Random, n: int) -> Any:
    values = [(r.randrange(100), str(i)) for i in range(n)]
    values.sort(key=lambda v: (v[0] % 7, v[1]))
    return values, sorted(values, key=operator.itemgetter(1)), min(values, default=None), heapq.nsmallest(5, values)


@body
def expressions(r: random.Random, n: int) -> Any:
    pattern = re.compile(rf"(?P<word>[a-z]+)-(\d{{1,{n % 90 + 2}}})")
    text = " ".join(f"{r.choice(('ab', 'cd'))}-{i}" for i in range(n))
    return pattern.findall(text), pattern.sub(lambda m: m[1] + "!" + m["word"], text), re.split(r"[-\s]", text)


@body
def jsons(r: random.Random, n: int) -> Any:
    data = {"rows": [{"id": i, "name": f"n{i}\n\u00e4", "x": r.random(), "none": None} for i in range(n)]}
    text = json.dumps(data, sort_keys=True)
    return json.loads(text), json.dumps(data, indent=1), json.loads(text, parse_float=str)


@body
def pickles(r: random.Random, n: int) -> Any:
    data = [{"a": (i, str(i), float(i), bytes(i % 50), {i}, datetime.date(2000, 1, 1 + i % 28))} for i in range(n)]
    shared = [data, data, fractions.Fraction(n, 7)]
    back = [pickle.loads(pickle.dumps(shared, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
    return back, pickle._loads(pickle._dumps(data[:20])), marshal.loads(marshal.dumps([list(d) for d in data]))  # type: ignore[attr-defined]


@body
def copies(r: random.Random, n: int) -> Any:
    data: Any = {"rows": [[i, [str(i)]] for i in range(n)], "plain": Plain(n)}
    data["rows"].append(data["rows"][0] if n else 0)
    other = copy.deepcopy(data)
    return other["rows"], copy.copy(other["plain"]).__dict__, copy.copy(other["rows"])


@body
def iteration(r: random.Random, n: int) -> Any:
    return (
        list(itertools.islice(itertools.permutations(range(6)), n)),
        [(k, list(g)) for k, g in itertools.groupby(range(n), lambda x: x // 3)],
        list(itertools.accumulate(range(n), operator.mul))[:20],
        list(itertools.chain.from_iterable(itertools.tee(range(n), 3))),
        list(itertools.zip_longest(range(n), "abc")),
        list(itertools.product("ab", repeat=min(n, 6))),
    )


@body
def functional(r: random.Random, n: int) -> Any:
    @functools.lru_cache(maxsize=n)
    def fibonacci(i: int) -> int:
        return i if i < 2 else fibonacci(i - 1) + fibonacci(i - 2)

    @functools.singledispatch
    def kind(x: Any) -> str:
        return "any"

    kind.register(int, lambda x: f"int{x}")
    kind.register(list, lambda x: "list")
    add = functools.partial(operator.add, n)
    key = functools.cmp_to_key(lambda a, b: (a % 10 > b % 10) - (a % 10 < b % 10))
    return (
        fibonacci(min(n, 80)),
        [kind(x) for x in (n, [], "s")],
        add(5000),
        sorted(range(n), key=key),
        functools.reduce(operator.xor, range(n), 0),
    )


@body
def containers(r: random.Random, n: int) -> Any:
    counts = collections.Counter(r.randrange(20) for _ in range(n))
    ordered = collections.OrderedDict((str(i), i) for i in range(n))
    if n:
        ordered.move_to_end("0")
        ordered.popitem(last=False)
    tail = collections.deque(range(n), maxlen=max(n // 2, 1))
    tail.extendleft(range(n))
    groups: Any = collections.defaultdict(list)
    for i in range(n):
        groups[i % 7].append(i)
    Point = collections.namedtuple("Point", "x y")
    return (
        counts.most_common(3),
        list(ordered),
        list(tail),
        dict(groups),
        Point(n, 2)._replace(y=3)._asdict(),
        dict(collections.ChainMap(groups, {"a": 1})),
    )


@body
def times(r: random.Random, n: int) -> Any:
    start = datetime.datetime(2020, 2, 28, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    days = [start + datetime.timedelta(days=i, microseconds=r.randrange(10**6)) for i in range(n)]
    return (
        [d.isoformat() for d in days],
        [d.strftime("%Y %B") for d in days[:5]],
        [datetime.datetime.strptime(str(2000 + i % 50), "%Y") for i in range(n % 9)],
        [d - start for d in days],
    )


@body
def decimals(r: random.Random, n: int) -> Any:
    with decimal.localcontext() as context:
        context.prec = 28 + n
        x = decimal.Decimal(2).sqrt() * n + decimal.Decimal("1e-5")
        return (
            str(x),
            [decimal.Decimal(i) / 7 for i in range(n % 50)],
            format(x, ",.3f"),
            decimal.Decimal(n).ln() if n else 0,
            int(x),
        )


@body
def rationals(r: random.Random, n: int) -> Any:
    return sum((fractions.Fraction(1, i + 1) for i in range(min(n, 60))), fractions.Fraction()), statistics.pstdev(
        [r.random() for _ in range(n + 2)]
    )


@body
def tables(r: random.Random, n: int) -> Any:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "name"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({"id": i, "name": f'a "quoted", {i}\n'} for i in range(n))
    out.seek(0)
    return list(csv.DictReader(out)), out.getvalue(), list(csv.reader(["a,b;c"] * n, delimiter=";"))


@body
def streams(r: random.Random, n: int) -> Any:
    raw = io.BytesIO()
    text = io.TextIOWrapper(io.BufferedRandom(raw, buffer_size=64), encoding="utf-8", newline="\n")  # type: ignore[arg-type]
    for i in range(n):
        text.write(f"line {i} \u20ac\n")
    text.flush()
    text.seek(0)
    lines = text.readlines()
    text.detach().detach()
    with io.BytesIO(bytes(n)) as other, memoryview(bytearray(n)) as view:
        return lines, raw.getvalue()[-20:], other.readinto(view), [*io.StringIO("a\nb\n" * n)]


@body
def structures(r: random.Random, n: int) -> Any:
    form = struct.Struct("<IHd8s")
    packed = b"".join(form.pack(i, i % 100, i / 2, b"abc") for i in range(n))
    numbers = array.array("d", (i / 3 for i in range(n)))
    numbers.extend(array.array("d", [1.0] * n))
    return (
        list(form.iter_unpack(packed)),
        numbers,
        memoryview(packed)[::2].tobytes(),
        struct.unpack(f"{n}B", bytes(n)),
        codecs.decode(packed.hex(), "hex"),
    )


@body
def compression(r: random.Random, n: int) -> Any:
    data = bytes(r.randrange(4) for _ in range(n * 20))
    packer = zlib.compressobj(level=n % 10, memLevel=1)
    packed = packer.compress(data) + packer.flush()
    return (
        zlib.decompress(packed),
        zlib.crc32(data),
        base64.b85encode(data[:300]),
        base64.b64decode(base64.b64encode(data)),
    )


@body
def hashes(r: random.Random, n: int) -> Any:
    return [
        hashlib.new(name, bytes(n)).hexdigest() for name in ("sha256", "md5", "blake2b", "sha3_256")
    ], hashlib.sha1(bytes(n * 10)).digest()


@body
def randomness(r: random.Random, n: int) -> Any:
    mine = random.Random(n)
    values = list(range(n))
    mine.shuffle(values)
    return (
        values,
        mine.sample(range(10**9), n),
        mine.choices("abc", k=n),
        mine.getrandbits(n + 1),
        mine.randbytes(n),
    )


@body
def formatting(r: random.Random, n: int) -> Any:
    return (
        [f"{i:>10,d} {i / 7:8.3f} {i!r:^9}" for i in range(n)],
        "%05d %-8s %x" % (n, "ab", n),
        "{0[a]} {1.real:{2}}".format({"a": n}, n, "8.2f"),
        string.Template("$a ${b}" * n).substitute(a=n, b="\u20ac"),
    )


@body
def tracebacks(r: random.Random, n: int) -> Any:
    def fails(depth: int) -> None:
        if depth:
            fails(depth - 1)
        raise KeyError(depth)

    try:
        fails(n % 20)
    except KeyError:
        # it says "<exception str() failed>" by itself, and leaves out lines that it cannot read
        return traceback.format_exc().startswith("Traceback")
    return False


@body
def tracebacks_in_c(r: random.Random, n: int) -> Any:
    return [len(inspect.stack(0)) > 0, sys._getframe().f_lineno > 0, isinstance(sys._getframe().f_locals, dict)]


class Raising(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: Any) -> None:
        raise


@body
def logs(r: random.Random, n: int) -> Any:
    out = io.StringIO()
    logger = logging.Logger("hunted")
    handler = Raising(out)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    try:
        for i in range(n):
            logger.warning("number %d of %s", i, "many")
    finally:
        logger.removeHandler(handler)
    return out.getvalue()


#: a module that one thread takes out of sys.modules while another imports it says nothing of limits
importing = threading.Lock()


@body
def imports(r: random.Random, n: int) -> Any:
    found = []
    with importing:
        for name in r.sample(("colorsys", "cmd", "sched", "netrc", "tabnanny", "wave"), 2):
            sys.modules.pop(name, None)
            module = importlib.import_module(name)
            found.append((module.__name__, len(dir(module)) > 3))
            sys.modules.pop(name, None)
    return found


@body
def compiling(r: random.Random, n: int) -> Any:
    lines = [f"v{i} = {i + 1000} if {i} else [x for x in range({i})]" for i in range(n)]
    source = "\n".join(
        ["def f(a, b=2, *c):", "  try:", "    return a + b", "  except Exception as e:", "    raise", *lines]
    )
    scope: dict[str, Any] = {}
    exec(compile(source, "<made>", "exec"), scope)
    return scope["f"](n), eval("+".join(["1"] * (n + 1))), [v for k, v in scope.items() if k[0] == "v"]


@body
def syntax_trees(r: random.Random, n: int) -> Any:
    import ast

    tree = ast.parse("\n".join(f"x{i} = a[{i}] + f(b, *c, k={i})" for i in range(n % 100)))
    return (
        ast.dump(tree)[:200],
        ast.unparse(tree),
        sum(1 for _ in ast.walk(tree)),
        ast.literal_eval(str([n, {"a": (n,)}])),
    )


@body
def dataclass_making(r: random.Random, n: int) -> Any:
    @dataclasses.dataclass(order=True)
    class Point:
        x: int
        y: float = 2.0
        tags: list[str] = dataclasses.field(default_factory=list)

    made = [Point(i, tags=[str(i)]) for i in range(n)]
    return (
        [dataclasses.asdict(p) for p in made],
        repr(made[:2])[-30:],
        dataclasses.replace(Point(1), x=n) > Point(0),
    )


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2
    C = 64


@body
def enums(r: random.Random, n: int) -> Any:
    made = enum.Enum("Made", [f"M{i}" for i in range(n % 20 + 1)])  # type: ignore[misc]
    return (
        [m.name for m in made],
        [Color(1 + i % 2).name for i in range(n)],
        [int(Bits(i % 128 & 67)) for i in range(n)],
        repr(Bits.A | Bits.C),
    )


@body
def contexts(r: random.Random, n: int) -> Any:
    log: list[Any] = []

    @contextlib.contextmanager
    def entered(i: int) -> Iterator[int]:
        log.append(("in", i))
        try:
            yield i
        finally:
            log.append(("out", i))

    with contextlib.ExitStack() as stack:
        for i in range(n % 50):
            stack.enter_context(entered(i))
        stack.callback(log.append, "called")
        with contextlib.suppress(KeyError):
            raise KeyError(n)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=1)
    context = contextvars.copy_context()
    context.run(variable.set, n + 1000)
    return log, context[variable], variable.get()


@body
def weak(r: random.Random, n: int) -> Any:
    gone: list[int] = []
    made = [Slotted(i, None) for i in range(n)]
    references = [weakref.ref(one, lambda _: gone.append(1)) for one in made]
    table = weakref.WeakValueDictionary(enumerate(made))
    keys = weakref.WeakKeyDictionary((one, one.left) for one in made)
    watched = weakref.finalize(made[0], gone.append, 2) if made else None
    before = len(table), sorted(keys.values()), [ref() is one for ref, one in zip(references, made)]
    del made
    return before, watched is None or watched.alive in (True, False)


@body
def cycles(r: random.Random, n: int) -> Any:
    for i in range(n):
        one: list[Any] = [i]
        one.append(one)
        two = Plain(i)
        two.me = two  # type: ignore[attr-defined]
    return gc.collect() >= 0, len(gc.get_objects()) > 0, gc.is_tracked(two) if n else True


class Finalized:
    def __init__(self, made: list[Any]) -> None:
        self.made = made

    def __del__(self) -> None:
        if hasattr(self, "made"):  # room for it may have been refused
            self.made.append([len(self.made) + 1000])


@body
def finalizers(r: random.Random, n: int) -> Any:
    made: list[Any] = []
    for _ in range(n):
        Finalized(made)
    return len(made) <= n  # what they raise does not come out


@body
def texts(r: random.Random, n: int) -> Any:
    text = "some words of text " * n
    return (
        textwrap.wrap(text, 30),
        list(difflib.unified_diff(["a"] * (n % 30), ["b", *["a"] * (n % 20)])),
        shlex.split("a 'b c' d" * (n % 20)),
        html.unescape(html.escape("<a & b>" * n)),
        urllib.parse.parse_qs("&".join(f"k{i}=v%20{i}" for i in range(n))),
        pprint.pformat({"a": list(range(n % 60))}),
        unicodedata.normalize("NFD", "\u00e4\u00f6" * n),
    )


@body
def settings(r: random.Random, n: int) -> Any:
    parser = configparser.ConfigParser()
    parser.read_string("".join(f"[s{i}]\nkey = {i}\nother = %(key)s\n" for i in range(n % 40)))
    network = ipaddress.ip_network("10.0.0.0/24")
    return (
        [parser[s]["other"] for s in parser.sections()],
        [str(a) for a in itertools.islice(network.hosts(), n % 50)],
        calendar.month(2024, n % 12 + 1),
    )


@body
def documents(r: random.Random, n: int) -> Any:
    root = xml.etree.ElementTree.fromstring("<r>" + "".join(f"<a k='{i}'>text {i}</a>" for i in range(n)) + "</r>")
    return [e.get("k") for e in root.iter("a")], xml.etree.ElementTree.tostring(root)[-40:]


@body
def signatures(r: random.Random, n: int) -> Any:
    def annotated(a: int, b: str = "x", *c: float, d: list[int] | None = None) -> None: ...

    return (
        str(inspect.signature(annotated))[:10],
        sorted(typing.get_type_hints(annotated, globals(), {"typing": typing})),
        [typing.Union[int, list[str]].__args__ for _ in range(n % 30)],
    )


@body
def tokens(r: random.Random, n: int) -> Any:
    return [t.string for t in tokenize.generate_tokens(io.StringIO("a = b + 12 # c\n" * n).readline)]


@body
def queues(r: random.Random, n: int) -> Any:
    waiting: Any = queue.PriorityQueue()
    for i in range(n):
        waiting.put((r.randrange(50), i))
    with threading.Lock():
        return [waiting.get() for _ in range(n)], threading.Event().is_set(), bisect.bisect(list(range(n)), n / 2)


@body
def coroutines(r: random.Random, n: int) -> Any:
    @types.coroutine
    def sleep() -> Iterator[None]:
        yield

    async def step(i: int) -> int:
        await sleep()
        return i + 1000

    async def many() -> list[int]:
        return [await step(i) for i in range(n % 100)] + [i async for i in numbers()]

    async def numbers() -> Any:
        for i in range(n % 50):
            yield i

    coroutine = many()
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value


@body
def descriptors(r: random.Random, n: int) -> Any:
    class Typed:
        def __set_name__(self, owner: type, name: str) -> None:
            self.name = "_" + name

        def __get__(self, instance: Any, owner: type) -> Any:
            return instance.__dict__[self.name] * 2

        def __set__(self, instance: Any, value: Any) -> None:
            instance.__dict__[self.name] = value

    holder = type("Holder", (), {"__getattr__": lambda self, name: name + "?", "__len__": lambda self: n})
    Typed.__set_name__(typed := Typed(), holder, "value")
    holder.value = typed  # type: ignore[attr-defined]
    out = []
    for i in range(n):
        one = holder()
        one.value = i + 1000
        out.append((one.value, one.absent, len(one), bool(one) or i))
    return out


@body
def unpacking(r: random.Random, n: int) -> Any:
    out = []
    for i in range(n):
        a, (b, *c), d = i, range(5), {**{"x": i}}
        out.append([a, b, *c, *d])
    return (
        out,
        [*range(n), *"abc"],
        max(*range(n + 2)),
        divmod(10**20 + n, 7),
        f"{n}".join("ab"),
        slice(n).indices(n),
    )


@body
def clocks(r: random.Random, n: int) -> Any:
    return (
        [time.monotonic() > 0 for _ in range(n)],
        time.strftime("%Y", time.gmtime(n * 10**6)),
        [time.localtime(0).tm_zone is not None],
    )


# ---- NumPy -------------------------------------------------------------------------------------------------


def numpy_bodies() -> None:
    np: Any = numpy

    @body
    def np_arithmetic(r: random.Random, n: int) -> Any:
        a = np.arange(n * 50, dtype=float)
        b = (a * 2 + a[::-1]) / 3
        return (
            b.tolist(),
            float((b @ b).sum()),
            np.where(a > 5, a, -a).astype("i4").tolist(),
            (a > 3).nonzero()[0].tolist(),
        )

    @body
    def np_shapes(r: random.Random, n: int) -> Any:
        a = np.zeros((n + 1, 8), "i8")
        a[:, 3] = np.arange(n + 1)
        both = np.concatenate([a, a.T.copy().T, np.ones((2, 8), "i8")])
        both.resize((n + 1, 4), refcheck=False)
        return (
            both.tolist(),
            np.stack([a, a]).sum(axis=0).tolist(),
            np.pad(a, 2).shape,
            np.repeat(a, 3).tolist(),
            np.tile(a, (2, 2)).shape,
        )

    @body
    def np_sorting(r: random.Random, n: int) -> Any:
        a = np.array([r.randrange(1000) for _ in range(n)], "i4")
        return (
            np.sort(a).tolist(),
            np.argsort(a, kind="stable").tolist(),
            np.unique(a).tolist(),
            np.searchsorted(np.sort(a), 500).tolist(),
            np.cumsum(a).tolist(),
        )

    @body
    def np_objects(r: random.Random, n: int) -> Any:
        a = np.empty(n, object)
        a[:] = [str(i) for i in range(n)]
        s = np.array([f"text {i}" for i in range(n)])
        t = np.zeros(n, [("a", "i4"), ("b", "f8", 2)])
        t["a"] = range(n)
        return (
            a.tolist(),
            s.tolist(),
            t["a"].tolist(),
            t["b"].tolist(),
            s.astype("U20").tolist(),
            np.array([[1, 2], [3, n]]).tolist(),
            str(np.arange(n % 20)),
        )

    @body
    def np_linear(r: random.Random, n: int) -> Any:
        k = n % 12 + 2
        a = np.eye(k) * 3 + 1
        return (
            np.round(np.linalg.solve(a, np.ones(k)), 6).tolist(),
            round(float(np.linalg.det(a)), 3),
            np.einsum("ij,jk->ik", a, a).tolist(),
            np.round(np.abs(np.fft.fft(np.ones(n + 1))), 6).tolist(),
        )

    @body
    def np_files(r: random.Random, n: int) -> Any:
        out = io.BytesIO()
        a = np.random.default_rng(n).integers(0, 99, (n, 3))
        np.save(out, a)
        out.seek(0)
        return (
            np.load(out).tolist(),
            np.frombuffer(a.tobytes(), a.dtype).tolist(),
            pickle.loads(pickle.dumps(a)).tolist(),
            a.tolist(),
            copy.deepcopy(a).sum().item(),
        )


if numpy is not None:
    numpy_bodies()


async def in_tasks(call: Callable[[], Any], count: int) -> list[Any]:
    """Results, or the MemoryError of each that met one."""

    async def one() -> Any:
        await asyncio.sleep(0)
        got = call()
        await asyncio.sleep(0)
        return got

    return await asyncio.gather(*[one() for _ in range(count)], return_exceptions=True)
