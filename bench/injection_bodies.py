"""A small use of each of some released extensions, for injection.py beside this file."""

from __future__ import annotations

import io
from collections.abc import Callable

DOC = {"a": [1, 2.5, "x" * 40, None, True], "b": {"c": "é" * 20, "d": [10**20 % 10**15, -5]}}


def ujson_():
    import ujson

    return ujson.loads(ujson.dumps(DOC)), ujson.dumps(DOC, indent=2, sort_keys=True)


def orjson_():
    import orjson

    return orjson.loads(orjson.dumps(DOC)), orjson.dumps(DOC, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def msgpack_():
    import msgpack

    u = msgpack.Unpacker()
    u.feed(msgpack.packb(DOC) + msgpack.packb([1, b"x" * 300]))
    return msgpack.unpackb(msgpack.packb(DOC)), list(u), msgpack.packb({1: msgpack.ExtType(5, b"yy"), "t": 2**63})


def lxml_():
    from lxml import etree

    root = etree.fromstring(b"<a x='1'><b>text</b><c n='2'>tail</c>more</a>")
    sub = etree.SubElement(root, "d", attrib={"k": "v"})
    sub.text = "t"
    return etree.tostring(root), root.xpath("//c/@n"), [e.tag for e in root.iter()], root.find("b").text


def regex_():
    import regex

    return (
        regex.sub(r"(\w+) (\w+)", r"\2 \1", "hello world"),
        regex.findall(r"\p{L}+|\d+", "ab 12 cé"),
        regex.fullmatch(r"(?P<x>a+)(b)?", "aaa").groupdict(),
        regex.split(r"[,;]", "a,b;c"),
    )


def yaml_():
    import yaml

    text = yaml.dump(DOC, Dumper=yaml.CSafeDumper)
    return yaml.load(text, Loader=yaml.CSafeLoader), yaml.load(
        "a: &x [1, 2]\nb: *x\nc: {d: !!str 5}\n", Loader=yaml.CSafeLoader
    )


def simplejson_():
    import simplejson

    return simplejson.loads(simplejson.dumps(DOC)), simplejson.dumps(DOC, sort_keys=True, for_json=True)


def multidict_():
    from multidict import CIMultiDict, MultiDict, istr

    d = MultiDict([("a", 1), ("b", 2), ("a", 3)])
    c = CIMultiDict(A=1, b=2)
    c.add("a", 5)
    d.update({"z": 9})
    d.extend(x=1)
    p = d.popall("a")
    c[istr("Q")] = 3
    return p, d.getall("z"), c.getall("A"), list(d.items()), list(c.keys()), d == MultiDict(d), repr(c)


def frozenlist_():
    from frozenlist import FrozenList

    f = FrozenList([1, 2, 3])
    f.append(4)
    f.insert(0, 9)
    f.freeze()
    return list(f), hash(f) == hash(f), f.index(3), repr(f)


def bitarray_():
    from bitarray import bitarray
    from bitarray.util import (
        ba2hex,
        hex2ba,
        huffman_code,
        sc_decode,
        sc_encode,
        vl_decode,
        vl_encode,
        zeros,
    )

    a = bitarray("110010101" * 20)
    b = a[3:70]
    b.extend([1, 0, 1])
    c = a & ~a | a
    s = sc_encode(zeros(200))
    v = vl_encode(a)
    code = huffman_code({"a": 3, "b": 2, "c": 1})
    e = bitarray()
    e.encode(code, "abcab")
    return (
        b.to01(),
        a.tobytes(),
        ba2hex(bitarray("1010" * 8)),
        list(a.search(bitarray("101"))),
        c.count(),
        e.decode(code),
        sc_decode(iter(s)).count(),
        vl_decode(iter(v)).count(),
        hex2ba("ff").tolist(),
        a.unpack(),
    )


def zstandard_():
    import zstandard

    c = zstandard.ZstdCompressor(level=1)
    d = zstandard.ZstdDecompressor()
    z = c.compress(b"data" * 500)
    o = c.compressobj()
    s = o.compress(b"x" * 100) + o.flush()
    with d.stream_reader(io.BytesIO(z)) as r:
        t = r.read()
    return (
        d.decompress(z),
        d.decompressobj().decompress(s),
        t,
        zstandard.get_frame_parameters(z).content_size,
        len(c.multi_compress_to_buffer([b"a" * 50, b"b" * 50])),
        b"".join(d.read_to_iter(io.BytesIO(z))),
    )


def lz4_():
    import lz4.block
    import lz4.frame

    z = lz4.frame.compress(b"data" * 500)
    c = lz4.frame.LZ4FrameCompressor()
    s = c.begin() + c.compress(b"x" * 100) + c.flush()
    d = lz4.frame.LZ4FrameDecompressor()
    return (
        lz4.frame.decompress(z),
        d.decompress(s),
        lz4.block.decompress(lz4.block.compress(b"y" * 300)),
        lz4.frame.get_frame_info(z)["block_size"],
    )


def brotli_():
    import brotli

    c = brotli.Compressor()
    s = c.process(b"x" * 500) + c.finish()
    d = brotli.Decompressor()
    return brotli.decompress(brotli.compress(b"data" * 500)), d.process(s)


def cffi_():
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("struct s { int a; double b; char c[8]; }; int abs(int); size_t strlen(const char *);")
    lib = ffi.dlopen(None)
    p = ffi.new("struct s *", {"a": 1, "b": 2.5, "c": b"xy"})
    q = ffi.new("int[]", [1, 2, 3])
    cb = ffi.callback("int(int)", lambda x: x + 1)
    return (
        lib.abs(-5),
        p.a + p.b,
        ffi.string(p.c),
        list(q),
        ffi.buffer(q)[:],
        lib.strlen(b"hello"),
        cb(4),
        repr(ffi.typeof("struct s")),
        ffi.cast("int", 7) == ffi.cast("int", 7),
    )


def greenlet_():
    import greenlet

    out = []

    def g(x):
        out.append(x)
        y = greenlet.getcurrent().parent.switch(x + 1)
        out.append(y)
        return y * 2

    task = greenlet.greenlet(g)
    a = task.switch(5)
    b = task.switch(10)

    def t():
        raise KeyError("x")

    try:
        greenlet.greenlet(t).switch()
    except KeyError:
        out.append("k")
    return a, b, out


def pillow_():
    from PIL import Image, ImageDraw, ImageFilter

    im = Image.new("RGB", (20, 20), (10, 20, 30))
    ImageDraw.Draw(im).line((0, 0, 19, 19), fill=(255, 0, 0))
    f = io.BytesIO()
    im.save(f, "PNG")
    f.seek(0)
    back = Image.open(f).convert("L").resize((8, 8)).filter(ImageFilter.BLUR)
    return (
        back.tobytes(),
        im.histogram()[:5],
        im.getcolors(),
        im.rotate(90).getpixel((3, 3)),
        im.split()[0].point(lambda v: v // 2).getextrema(),
    )


def numpy_():
    import numpy as np

    a = np.arange(60, dtype=float).reshape(6, 10)
    b = (a @ a.T).sum(axis=0)
    c = np.sort(a[:, 3])[::-1]
    return (
        b.tolist(),
        c.tolist(),
        np.concatenate([a, a]).shape,
        a[a > 20].mean(),
        np.array(["a", "bc"]).tolist(),
        np.linalg.norm(a),
        repr(a[:1, :2]),
        a.astype("i4").dtype.str,
        np.einsum("ij->j", a).tolist(),
    )


def yarl_():
    from yarl import URL

    u = URL("http://user:p@example.com:80/a b/c?x=1&y=é#frag") / "d"
    return (
        str(u),
        u.query_string,
        str(u.with_query(a="1")),
        u.parts,
        str(URL.build(scheme="http", host="h", path="/q q")),
    )


def propcache_():
    from propcache.api import cached_property, under_cached_property

    class A:
        def __init__(self):
            self._cache = {}

        @under_cached_property
        def x(self):
            return [1]

        @cached_property
        def y(self):
            return [2]

    a = A()
    return a.x, a.x, a.y, a.y


def markupsafe_():
    from markupsafe import Markup, escape

    return (
        str(escape("<a href='x'>&\"" * 5)),
        str(Markup("<b>%s</b>") % "<i>"),
        str(escape("é<ü" * 4)),
        str(escape("\U0001f600<")),
    )


def wrapt_():
    import wrapt

    @wrapt.decorator
    def deco(wrapped, instance, args, kwargs):
        return wrapped(*args, **kwargs) + 1

    @deco
    def f(x, y=2):
        return x + y

    class C:
        @deco
        def m(self, x):
            return x

    p = wrapt.ObjectProxy([1, 2, 3])
    q = wrapt.ObjectProxy(5)
    return (
        f(1),
        f(1, y=5),
        C().m(3),
        p[1:],
        q + 1,
        q * 2 > 9,
        repr(list(p)),
        hash(q),
        int(q),
        bool(p),
        q**2,
        divmod(q, 2),
    )


def rapidfuzz_():
    from rapidfuzz import distance, fuzz, process

    return (
        fuzz.ratio("this is a test", "this is a test!"),
        process.extract("new york", ["New York", "Newark", "York"], limit=2),
        distance.Levenshtein.editops("kitten", "sitting").as_list(),
        fuzz.token_set_ratio("a b c", "c b a d"),
    )


def mmh3_():
    import mmh3

    h = mmh3.mmh3_x64_128(b"abc")
    h.update(b"d" * 100)
    return (
        mmh3.hash("foo"),
        mmh3.hash64(b"foo"),
        mmh3.hash128("foo", 42),
        mmh3.hash_bytes("foo"),
        h.digest(),
        h.sintdigest(),
        h.stupledigest(),
        h.copy().uintdigest(),
    )


def rapidjson_():
    import rapidjson

    return (
        rapidjson.loads(rapidjson.dumps(DOC)),
        rapidjson.dumps(DOC, indent=2, sort_keys=True),
        rapidjson.loads('{"d": "2020-01-01", "n": 1.5e3}', datetime_mode=rapidjson.DM_ISO8601),
    )


def ahocorasick_():
    import ahocorasick

    A = ahocorasick.Automaton()
    for i, w in enumerate(["he", "she", "his", "hers"]):
        A.add_word(w, (i, w))
    A.make_automaton()
    return (
        list(A.iter("ushers")),
        A.get("he"),
        list(A.keys()),
        sorted(A.values()),
        "his" in A,
        list(A.items("h")),
        A.longest_prefix("hersx"),
        list(A.iter_long("ushers")),
    )


def levenshtein_():
    import Levenshtein as L

    return (
        L.distance("kitten", "sitting"),
        L.editops("abc", "abd"),
        L.median(["abc", "abd", "acc"]),
        L.ratio("a", "ab"),
        L.setmedian(["ab", "ac"]),
        L.quickmedian(["abc", "abd"]),
        L.apply_edit(L.editops("abc", "abd"), "abc", "abd"),
        L.setratio(["a", "b"], ["b"]),
        L.seqratio(["a"], ["b"]),
    )


def immutables_():
    from immutables import Map

    m = Map({f"k{i}": i for i in range(40)})
    n = m.set("z", 1).delete("k3")
    with n.mutate() as mm:
        for i in range(20):
            mm[f"y{i}"] = i
        r = mm.finish()
    return (
        len(m),
        sorted(r.items())[:3],
        n["z"],
        m == Map(m),
        hash(Map(a=1)) == hash(Map(a=1)),
        r.get("q"),
        sorted(m.update({"b": 2}).keys())[:2],
        repr(Map(a=1)),
    )


def cbor2_():
    import datetime
    import decimal

    import cbor2

    return (
        cbor2.loads(cbor2.dumps(DOC)),
        cbor2.loads(
            cbor2.dumps(
                [
                    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
                    decimal.Decimal("1.5"),
                    {1, 2},
                    2**70,
                    b"x",
                    "y" * 300,
                ]
            )
        ),
        cbor2.dumps(DOC, canonical=True),
    )


def kiwisolver_():
    from kiwisolver import Solver, Variable, strength

    s = Solver()
    x, y = Variable("x"), Variable("y")
    c = x + 2 * y <= 10
    s.addConstraint(c)
    s.addConstraint(x >= 1)
    s.addConstraint((y == x + 1) | "strong")
    s.addEditVariable(x, strength.medium)
    s.suggestValue(x, 2)
    s.updateVariables()
    return (
        x.value(),
        y.value(),
        repr(x + y * 3),
        str(c.op()),
        s.hasConstraint(c),
        [t.coefficient() for t in (2 * x - y).terms()],
    )


def httptools_():
    import httptools

    class P:
        def __init__(self):
            self.o = []

        def on_url(self, u):
            self.o.append(u)

        def on_header(self, n, v):
            self.o.append((n, v))

        def on_body(self, b):
            self.o.append(b)

    p = P()
    r = httptools.HttpRequestParser(p)
    r.feed_data(b"POST /a?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    u = httptools.parse_url(b"http://h:80/p?q#f")
    return p.o, r.get_method(), u.path, u.query, u.port, r.get_http_version()


def cytoolz_():
    import cytoolz as t

    return (
        t.groupby(len, ["a", "bb", "cc"]),
        list(t.partition_all(2, range(5))),
        t.merge_with(sum, {"a": 1}, {"a": 2}),
        t.pipe(3, str, len),
        t.curry(lambda a, b: a + b)(1)(2),
        list(t.sliding_window(2, range(4))),
        t.get_in(["a", 0], {"a": [1]}),
        t.frequencies("abca"),
        t.assoc_in({}, ["a", "b"], 1),
        list(t.unique([1, 1, 2])),
        t.reduceby(len, lambda a, b: a + b, ["a", "bb"], ""),
        list(t.join(0, [(1, 2)], 0, [(1, 3)])),
        t.countby(len, ["a", "b"]),
        t.topk(2, [1, 3, 2]),
        list(t.interleave([[1], [2]])),
    )


def zope_interface_():
    from zope.interface import Attribute, Interface, implementer, providedBy
    from zope.interface.adapter import AdapterRegistry

    class Base(Interface):
        x = Attribute("x")

    class J(Base):
        pass

    @implementer(J)
    class C:
        pass

    r = AdapterRegistry()
    r.register([Base], J, "n", 5)
    c = C()
    return (
        Base.providedBy(c),
        r.lookup([J], J, "n"),
        list(providedBy(c)) == [J],
        r.lookup1(J, J, "n"),
        sorted(dict(r.lookupAll([J], J))),
        Base(c, None) is c,
        J.extends(Base),
    )


def pyrsistent_():
    from pyrsistent import pmap, pvector

    v = pvector(range(50))
    w = v.append(1).set(3, 9).extend([1, 2])
    e = v.evolver()
    e[0] = 5
    e.append(7)
    return (
        w.tolist()[:5],
        e.persistent()[0],
        v[3:6],
        len(v + w),
        v.index(4),
        hash(pvector([1])) == hash(pvector([1])),
        v == pvector(range(50)),
        repr(pvector([1, 2])),
        w.delete(2)[2],
        v.transform([0], 4)[0],
        pmap({"a": 1}).set("b", 2)["b"],
        v.remove(7)[7],
        v.mset(1, 2, 3, 4)[3],
        v.count(3),
    )


def msgspec_():
    import msgspec

    class S(msgspec.Struct):
        a: int
        b: list[str] = []
        c: dict[str, float] | None = None

    d = msgspec.json.decode(b'{"a": 1, "b": ["x", "y"], "c": {"k": 1.5}}', type=S)
    return (
        msgspec.json.encode(d),
        msgspec.msgpack.decode(msgspec.msgpack.encode(DOC)),
        d == S(1, ["x", "y"], {"k": 1.5}),
        repr(d),
        msgspec.to_builtins(d),
        msgspec.convert({"a": 3}, S).a,
        msgspec.json.decode(msgspec.json.encode(DOC)),
        msgspec.yaml and 1,
        msgspec.json.format(b'{"a":1}'),
    )


def msgspec2_():
    import datetime
    import decimal
    import uuid

    import msgspec

    D = msgspec.json.Decoder(list[int | str | None])
    E = msgspec.json.Encoder(order="sorted")
    return (
        D.decode(b'[1, "a", null]'),
        E.encode(DOC),
        msgspec.json.encode([datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), uuid.UUID(int=5)]),
        msgspec.json.decode(b'"2020-01-01T00:00:00Z"', type=datetime.datetime).year,
    )


def pybase64_():
    import pybase64

    return (
        pybase64.b64decode(pybase64.b64encode(b"x" * 100)),
        pybase64.urlsafe_b64encode(b"y"),
        pybase64.encodebytes(b"z" * 100),
        pybase64.b64encode_as_string(b"q"),
        pybase64.b64decode("eA==", validate=True),
        pybase64.b64decode_as_bytearray(b"eA=="),
    )


def ijson_():
    import ijson.backends.yajl2_c as ij

    return (
        list(ij.items(io.BytesIO(b'{"a": [1, 2.5, "x", null, true, {"k": []}]}'), "a.item")),
        list(ij.parse(io.BytesIO(b'{"a": 1}'))),
        list(ij.kvitems(io.BytesIO(b'{"a": {"x": 1}}'), "a")),
    )


#: by name of the distribution
BODIES: dict[str, Callable[[], object]] = {
    "ujson": ujson_,
    "orjson": orjson_,
    "msgpack": msgpack_,
    "lxml": lxml_,
    "regex": regex_,
    "PyYAML": yaml_,
    "simplejson": simplejson_,
    "multidict": multidict_,
    "frozenlist": frozenlist_,
    "bitarray": bitarray_,
    "zstandard": zstandard_,
    "lz4": lz4_,
    "brotli": brotli_,
    "cffi": cffi_,
    "greenlet": greenlet_,
    "pillow": pillow_,
    "numpy": numpy_,
    "yarl": yarl_,
    "propcache": propcache_,
    "markupsafe": markupsafe_,
    "wrapt": wrapt_,
    "rapidfuzz": rapidfuzz_,
    "mmh3": mmh3_,
    "python-rapidjson": rapidjson_,
    "pyahocorasick": ahocorasick_,
    "levenshtein": levenshtein_,
    "immutables": immutables_,
    "cbor2": cbor2_,
    "kiwisolver": kiwisolver_,
    "httptools": httptools_,
    "cytoolz": cytoolz_,
    "zope.interface": zope_interface_,
    "pyrsistent": pyrsistent_,
    "msgspec": msgspec_,
    "pybase64": pybase64_,
    "ijson": ijson_,
}
