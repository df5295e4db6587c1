"""What the C core does and says where no other test comes to: hooks are gone, owners are looked at again."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nativemem
from test_scopes import output

pytestmark = pytest.mark.skipif(nativemem.backend != "native", reason="these are the core's")

KEY = "nativemem._dataplane hooks"
SHORT = "nativemem: refused, and what could say why is not there"


@pytest.fixture
def hooks() -> Iterator[dict[str, Any]]:
    """The interpreter's own dictionary, in which the core's hooks are; afterwards they are there again."""
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = api.PyInterpreterState_GetDict.restype = ctypes.c_void_p
    there = api.PyInterpreterState_GetDict(ctypes.c_void_p(api.PyInterpreterState_Get()))
    own: dict[str, Any] = ctypes.cast(there, ctypes.py_object).value
    kept = own[KEY]
    yield own
    own[KEY] = kept


def refused(call: Callable[[], object], kind: type[BaseException]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


class TestHooks:
    def test_without_them_each_refusal_has_a_class_and_words(self, hooks: dict[str, Any]) -> None:
        with nativemem.Arena("64 KiB") as arena, nativemem.Heap() as heap:
            block = heap.alloc(100)
            heap.free(block)
            held = heap.alloc(100)
            view = memoryview(held)
            kept = hooks.pop(KEY)
            try:
                said = [
                    refused(lambda: arena.alloc(1 << 60), MemoryError),
                    refused(lambda: arena.alloc(8, 3), ValueError),
                    refused(lambda: heap.free(block), ValueError),
                    refused(lambda: heap.free(held), BufferError),
                ]
            finally:
                hooks[KEY] = kept
            view.release()
            heap.free(held)
        assert said == [SHORT] * 4

    def test_one_that_returns_is_an_error_of_its_own(self, hooks: dict[str, Any]) -> None:
        with nativemem.Heap() as heap:
            block = heap.alloc(100)
            heap.free(block)
            kept = hooks[KEY]
            hooks[KEY] = tuple(lambda *_: None for _ in kept)
            try:
                said = refused(lambda: heap.free(block), SystemError)
            finally:
                hooks[KEY] = kept
        assert said == "an error hook of nativemem returned"

    def test_a_refusal_to_another_thread_has_no_figures(self, hooks: dict[str, Any]) -> None:
        told: list[tuple[Any, ...]] = []
        kept = hooks[KEY]

        def raise_status(*args: Any) -> None:
            told.append(args)
            kept[1](*args)

        hooks[KEY] = (kept[0], raise_status, *kept[2:])
        with nativemem.Arena("64 KiB") as arena:
            errors: list[BaseException] = []

            def take() -> None:
                try:
                    arena.alloc(0)
                except nativemem.NativeMemError as error:
                    errors.append(error)

            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
        assert [type(error).__name__ for error in errors] == ["WrongThread"]
        assert [args[2:] for args in told] == [(0, 0, 0)]


def test_owners_that_are_left_are_looked_at_until_they_are_done() -> None:
    """More of them than one look takes, each looked at several times while it has blocks, then gone for good."""
    lines = output(
        """
        kept, parent = [], Budget("1 GiB")
        def leave(name):
            with Budget("8 MiB", parent=parent, name=name):
                return [bytearray(5_000) for _ in range(40)]
        def look():
            for _ in range(5):
                with Budget("1 MiB"): pass
        for turn in range(3):
            kept.extend(leave(f"{turn} {i}") for i in range(12))
            gc.collect()
            look()
        print(parent.used > 36 * 200_000)
        del kept[::2]
        look()
        print(18 * 200_000 < parent.used < 36 * 200_000)
        kept.clear()
        look(); look()
        gc.collect()
        look()
        with a: kept = some()
        print(charged(a), parent.used)
        """
    )
    assert lines == ["True", "True", "True 0"]


def test_the_account_of_the_engine_has_what_each_part_served() -> None:
    """Raw blocks, small and large, those of an owner and of one that has gone: a hundred of each."""
    lines = output(
        """
        import ctypes
        from nativemem.backends.native.loader import dataplane
        nativemem.uninstall(); nativemem.install(raw=True)
        raw = ctypes.pythonapi
        raw.PyMem_RawMalloc.restype = ctypes.c_void_p
        raw.PyMem_RawFree.argtypes = [ctypes.c_void_p]
        def served(least):
            return sum(count for size, count in dataplane.engine_account()[0] if least <= size < 2 * least)
        def more(call, least):
            before = served(least)
            call()
            return served(least) - before >= 100
        def take_raw():
            for block in [raw.PyMem_RawMalloc(40_000) for _ in range(100)]: raw.PyMem_RawFree(block)
        def take_owned():
            with a: return [bytes(20_000) for _ in range(100)]
        def leave():
            with Budget("64 MiB"): return [bytes(20_000) for _ in range(100)]
        def take_spans():
            for block in [raw.PyMem_RawMalloc(3 << 20) for _ in range(100)]: raw.PyMem_RawFree(block)
        print(more(take_raw, 40_000), more(take_owned, 20_000), more(take_spans, 4 << 20))
        before = served(20_000)
        leave(); gc.collect()
        with Budget("1 MiB"): pass
        print(served(20_000) - before >= 100)
        """
    )
    assert lines == ["True True True", "True"]


def test_a_refusal_leaves_the_collector_as_it_was() -> None:
    """Before one there is an error to raise, made with the collector off."""
    lines = output(
        """
        def refused():
            with a:
                try: return bytes(1 << 30)
                except MemoryError: return gc.isenabled()
        print(refused())
        gc.disable()
        print(refused(), refused())
        gc.enable()
        print(refused(), gc.isenabled())
        """
    )
    assert lines == ["True", "False False", "True True"]


def test_a_switch_of_no_truth_changes_nothing() -> None:
    lines = output(
        """
        from nativemem.backends.native.loader import dataplane
        class Neither:
            def __bool__(self): raise LookupError("neither")
        before = dataplane.engine_state()
        for switch in (dataplane.engine_objects, dataplane.engine_raw, dataplane.engine_arrays):
            try: switch(Neither())
            except LookupError as error: print(error)
        print(dataplane.engine_state() == before)
        """
    )
    assert lines == ["neither"] * 3 + ["True"]
