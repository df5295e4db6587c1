"""expat: the port is the suite that ``XML_ParserCreate_MM`` is given. A document that is refused ends with
XML_ERROR_NO_MEMORY; after a reset the parser takes others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from common import Binding, Denied, Library, Wrong, check, load

BINDING = Binding(
    name="expat",
    package="libexpat1-dev",
    header="expat.h",
    library="expat",
    cdef="""
        #define XML_STATUS_OK ...
        #define XML_ERROR_NO_MEMORY ...
        typedef struct { ...; } XML_Memory_Handling_Suite;
        typedef struct XML_ParserStruct *XML_Parser;
        XML_Parser XML_ParserCreate_MM(const char *, const XML_Memory_Handling_Suite *, const char *);
        void XML_ParserFree(XML_Parser);
        unsigned char XML_ParserReset(XML_Parser, const char *encoding);
        void XML_SetUserData(XML_Parser, void *);
        void XML_SetStartElementHandler(XML_Parser, void (*)(void *, const char *, const char **));
        void XML_SetCharacterDataHandler(XML_Parser, void (*)(void *, const char *, int));
        int XML_Parse(XML_Parser, const char *text, int size, int final);
        int XML_GetErrorCode(XML_Parser);
        const char *XML_ErrorString(int);
        extern "Python" void expat_element(void *, const char *, const char **);
        extern "Python" void expat_text(void *, const char *, int);
    """,
)

BATCH = 500
#: a parser keeps each name of an element that it has met, and of these there is one in so many records
SAME_NAME = 10
TEXT = b"measured at noon, in the shade, by two who agreed &amp; signed; " * 2


def document(records: int) -> Iterator[bytes]:
    yield b"<?xml version='1.0' encoding='UTF-8'?>\n<records>"
    for start in range(0, records, BATCH):
        batch = [(i, i // SAME_NAME) for i in range(start, min(start + BATCH, records))]
        yield b"".join(b"<place-%d id='%d'>%b</place-%d>\n" % (name, i, TEXT, name) for i, name in batch)
    yield b"</records>"


class Expat(Library):
    name = "expat"
    binding = BINDING
    limit = 1 << 20
    little, fits, too_much = 20, 25_000, 250_000
    no_memory = "XML_ERROR_NO_MEMORY"

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self.elements = self.ids = self.characters = 0
        for function in (expat_element, expat_text):
            self.ffi.def_extern()(function)
        self.handle = self.ffi.new_handle(self)
        suite = self.ffi.cast("XML_Memory_Handling_Suite *", port.expat)
        self.parser = self.lib.XML_ParserCreate_MM(self.ffi.NULL, suite, self.ffi.NULL)
        if self.parser == self.ffi.NULL:
            raise Denied(self.no_memory)

    def work(self, amount: int) -> str:
        read = self.parse(document(amount))
        text = amount * (len(TEXT.replace(b"&amp;", b"&")) + 1)  # and the line's end
        right = (self.elements, self.ids, self.characters) == (amount + 1, amount * (amount - 1) // 2, text)
        check(right, "expat: not what is in the document")
        return f"{read / (1 << 20):.1f} MiB, parsed"

    def answer(self) -> None:
        self.parse([b"<records><place id='4", b"2'>here</place></records>"])
        check((self.elements, self.ids, self.characters) == (2, 42, 4), "expat: not what is in a small document")

    def parse(self, parts: Iterable[bytes]) -> int:
        """How many bytes that were."""
        self.elements = self.ids = self.characters = read = 0
        check(self.lib.XML_ParserReset(self.parser, self.ffi.NULL) != 0, "expat: the parser cannot be reset")
        self.lib.XML_SetUserData(self.parser, self.handle)
        self.lib.XML_SetStartElementHandler(self.parser, self.lib.expat_element)
        self.lib.XML_SetCharacterDataHandler(self.parser, self.lib.expat_text)
        for part in parts:
            self.judge(self.lib.XML_Parse(self.parser, part, len(part), 0))
            read += len(part)
        self.judge(self.lib.XML_Parse(self.parser, b"", 0, 1))
        return read

    def judge(self, status: int) -> None:
        if status == self.lib.XML_STATUS_OK:
            return
        code = self.lib.XML_GetErrorCode(self.parser)
        if code == self.lib.XML_ERROR_NO_MEMORY:
            raise Denied(self.no_memory)
        raise Wrong(f"expat: {self.ffi.string(self.lib.XML_ErrorString(code)).decode()}")

    def close(self) -> None:
        self.lib.XML_ParserFree(self.parser)


def expat_element(handle: Any, name: Any, attributes: Any) -> None:
    ffi = load(BINDING).ffi
    expat = ffi.from_handle(handle)
    expat.elements += 1
    if attributes[0] != ffi.NULL:
        expat.ids += int(ffi.string(attributes[1]))


def expat_text(handle: Any, text: Any, size: int) -> None:
    load(BINDING).ffi.from_handle(handle).characters += size
