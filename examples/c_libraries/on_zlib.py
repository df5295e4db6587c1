"""zlib: the port is in the fields of each ``z_stream``. A stream that is refused says Z_MEM_ERROR; others go on.

Each link is a compressing and a decompressing stream, as the two ends of a connection have them."""

from __future__ import annotations

from typing import Any

from common import Binding, Denied, Library, Wrong, check

BINDING = Binding(
    name="zlib",
    package="zlib1g-dev",
    header="zlib.h",
    library="z",
    cdef="""
        #define Z_OK ...
        #define Z_MEM_ERROR ...
        #define Z_BUF_ERROR ...
        #define Z_SYNC_FLUSH ...
        #define Z_DEFAULT_COMPRESSION ...
        typedef struct z_stream {
            unsigned char *next_in;
            unsigned int avail_in;
            unsigned char *next_out;
            unsigned int avail_out;
            void *(*zalloc)(void *, unsigned int, unsigned int);
            void (*zfree)(void *, void *);
            void *opaque;
            ...;
        } z_stream;
        int deflateInit(z_stream *, int level);
        int deflate(z_stream *, int flush);
        int deflateEnd(z_stream *);
        int inflateInit(z_stream *);
        int inflate(z_stream *, int flush);
        int inflateEnd(z_stream *);
    """,
)

ROOM = 16384


def message(number: int) -> bytes:
    return b"".join(b"%d: the %d. line of message %d\n" % (i * 7919 % 1000, i, number) for i in range(3_000))


class Link:
    """Raises :class:`Denied`, and leaves nothing, where one of its streams cannot be."""

    def __init__(self, zlib: Zlib) -> None:
        self.zlib, self.ffi, lib = zlib, zlib.ffi, zlib.lib
        self.packing, self.unpacking = (
            self.ffi.new("z_stream *", dict(zip(("zalloc", "zfree", "opaque"), zlib.port.zlib, strict=True)))
            for _ in range(2)
        )
        zlib.judge(lib.deflateInit(self.packing, lib.Z_DEFAULT_COMPRESSION))
        try:
            zlib.judge(lib.inflateInit(self.unpacking))
        except Denied:
            lib.deflateEnd(self.packing)
            raise

    def send(self, data: bytes) -> None:
        lib = self.zlib.lib
        packed = self.through(self.packing, lib.deflate, data)
        check(len(packed) < len(data), "zlib: nothing was compressed")
        came = self.through(self.unpacking, lib.inflate, packed)
        check(came == data, "zlib: what came back is not what was sent")

    def through(self, stream: Any, step: Any, data: bytes) -> bytes:
        held, room = self.ffi.from_buffer(data), self.ffi.new("unsigned char[]", ROOM)
        stream.next_in, stream.avail_in = self.ffi.cast("unsigned char *", held), len(data)
        out = []
        while True:
            stream.next_out, stream.avail_out = room, ROOM
            self.zlib.judge(step(stream, self.zlib.lib.Z_SYNC_FLUSH))
            out.append(bytes(self.ffi.buffer(room, ROOM - stream.avail_out)))
            if stream.avail_out:
                return b"".join(out)

    def close(self) -> None:
        self.zlib.lib.deflateEnd(self.packing)
        self.zlib.lib.inflateEnd(self.unpacking)


class Zlib(Library):
    name = "zlib"
    binding = BINDING
    limit = 2 << 20
    little, fits, too_much = 2, 4, 16
    no_memory = "Z_MEM_ERROR"

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self.links: list[Link] = []
        self.sent = 0
        try:
            self.work(1)
        except Denied:
            self.close()
            raise

    def work(self, amount: int) -> str:
        """So many links in all. Where there cannot be as many, there are those that were."""
        had = len(self.links)
        try:
            while len(self.links) < amount:
                self.links.append(Link(self))
                self.links[-1].send(message(len(self.links)))
        except Denied:
            while len(self.links) > had:
                self.links.pop().close()
            raise
        self.answer()
        return f"{amount} links, both ways"

    def answer(self) -> None:
        for link in self.links:
            self.sent += 1
            link.send(message(self.sent))

    def judge(self, code: int) -> None:
        if code == self.lib.Z_MEM_ERROR:
            raise Denied(self.no_memory)
        if code not in (self.lib.Z_OK, self.lib.Z_BUF_ERROR):  # that one: the last call had left nothing to do
            raise Wrong(f"zlib: {code}")

    def close(self) -> None:
        while self.links:
            self.links.pop().close()
