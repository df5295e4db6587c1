"""The cases of each subject, found by looking at it, and what each may end in."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import dis
import functools
import gc
import inspect
import itertools
import operator
import os
import pickle
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import nativemem
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding

from . import values
from .world import KEYWORDS, NO_PARAMETER, NOT_MADE, RECIPES, World, class_of, good, surface, worker

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.abspath(nativemem.__file__))


@dataclass(frozen=True)
class Case:
    """``run`` makes the call."""

    label: str
    run: Callable[[World], Any]
    acts: bool = False  # code of ours runs in its middle, and may change things
    attribute: bool = False  # an AttributeError is a good answer
    batch: bool = False  # one that fails leaves counts of blocks handed out and freed
    settles: bool = True  # it may give something new
    passes: bool = False  # whatever the argument raises goes through
    free: bool = False  # its answer need not be the other backend's


# ---- methods and constructors -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: Any
    required: bool
    make: Callable[[World], Any]


def _parameters(subject: str, cls: type, member: str, function: Any) -> list[Parameter]:
    found = []
    numbers = member == "__init__" and dataclasses.is_dataclass(cls)
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_POSITIONAL or p.name in NO_PARAMETER:
            continue
        if p.kind is p.VAR_KEYWORD:
            for name in KEYWORDS.get(p.name, lambda cls: [])(cls):
                found.append(Parameter(name, p.KEYWORD_ONLY, False, good(cls.__name__, member, name)))
            continue
        required = p.default is p.empty or p.default is ...
        found.append(Parameter(p.name, p.kind, required, good(cls.__name__, member, p.name, counts=numbers)))
    return found


def _call(
    target: Callable[[World], Any], parameters: list[Parameter], given: dict[str, Any]
) -> Callable[[World], Any]:
    """Calls with good arguments where one is required, and the given makers."""
    last = max((i for i, p in enumerate(parameters) if p.name in given), default=-1)

    def run(w: World) -> Any:
        args, keywords = [], {}
        for i, p in enumerate(parameters):
            if p.kind is p.kind.POSITIONAL_ONLY and not p.required and i > last:
                continue
            if p.kind is not p.kind.POSITIONAL_ONLY and not p.required and p.name not in given:
                continue
            value = given.get(p.name, p.make)(w)
            if p.kind is p.kind.POSITIONAL_ONLY:
                args.append(value)
            else:
                keywords[p.name] = value
        function = target(w)
        w.ready()
        return function(*args, **keywords)

    return run


def _bad_values(all_of_them: bool) -> Iterator[tuple[str, Callable[[World], Any], bool]]:
    """Label, maker, whether it acts."""
    for label in values.PLAIN if all_of_them else values.FEW:
        yield label, functools.partial(lambda value, w: value, values.PLAIN[label]), False
    for label in values.WORLDLY if all_of_them else values.FEW_WORLDLY:
        yield label, values.WORLDLY[label], False
    for label, action in values.ACTIONS.items():
        yield f"one that {label}", values.actor(action), True
        if all_of_them:
            yield f"an int that {label}", values.acting_int(action), True
            yield f"an iterator that {label}", values.acting_iterator(action), True


def _few_values() -> Iterator[tuple[str, Callable[[World], Any], bool]]:
    for label in ("None", "-1", "10**400", "raises", "raising int", "no attributes"):
        yield label, functools.partial(lambda value, w: value, values.PLAIN[label]), False
    yield "the subject", values.WORLDLY["the subject"], False
    yield "one that closes", values.actor(values.ACTIONS["closes"]), True


def _call_cases(target: Any, parameters: list[Parameter], thorough: bool, batch: bool = False) -> Iterator[Case]:
    named = [p for p in parameters if p.required or p.kind is not p.kind.POSITIONAL_ONLY]

    def plain(*args: Any, **keywords: Any) -> Callable[[World], Any]:
        return lambda w: target(w)(*args, **keywords)

    yield Case("good", _call(target, parameters, {}), batch=batch)
    yield Case("no arguments", plain(), batch=batch)
    yield Case("too many arguments", plain(*[None] * 30))
    yield Case("an unknown keyword", plain(no_such_parameter=1))
    yield Case("many unknown keywords", plain(**{f"x{i}": i for i in range(40)}))
    yield Case("a keyword that is no name", plain(**{"\ud800": 1}))
    called = any(p.name in CALLED for p in parameters)
    if named:
        for label, value in (("None", None), ("huge", 2**63)):
            make = functools.partial(lambda value, w: value, value)
            run = _call(target, parameters, {p.name: make for p in parameters})
            yield Case(f"everything {label}", run, passes=called)
    for p in parameters:
        for label, make, acts in _bad_values(thorough):
            run = _call(target, parameters, {p.name: make})
            yield Case(
                f"{p.name}={label}",
                run,
                acts=acts,
                batch=batch,
                attribute=label.endswith("never made"),
                passes=p.name in CALLED,
            )


# ---- protocols ----------------------------------------------------------------------------------------------


def _enter_twice(x: Any) -> None:
    with x, x:
        pass


def _exit_twice(x: Any) -> None:
    with x:
        pass
    x.__exit__(None, None, None)


def _exit_with_error(x: Any) -> None:
    with x:
        raise values.Hostile("body")


def _copy_and_end_both(x: Any) -> None:
    for thing in (copy.copy(x), x):
        with thing:
            pass


def _init_again(w: World) -> None:
    cls, x = type(w.subject), w.subject
    _call(lambda _: x.__init__, _parameters(w.name, cls, "__init__", _maker(cls)), {})(w)


def _subclass(x: Any) -> Any:
    return type("Sub", (type(x),), {})


def _slotted_subclass_instance(w: World) -> Any:
    cls = _subclass(w.subject)
    return cls()


def _weak(x: Any) -> Any:
    return weakref.ref(x)()


def _all_names(x: Any) -> list[str]:
    return [name for name in dir(x) if not name.startswith("__")]


def _buffer_writes(x: Any) -> None:
    with memoryview(x) as view:
        view[0:1] = b"\0"


PROTOCOLS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "iter": lambda x: list(itertools.islice(iter(x), 5)),
    "next": next,
    "bool": bool,
    "hash": hash,
    "repr": repr,
    "str": str,
    "format": lambda x: format(x, ""),
    "format d": lambda x: format(x, "d"),
    "dir": lambda x: len(dir(x)) > 0,
    "vars": lambda x: type(vars(x)),
    "is itself": lambda x: x == x,
    "is another": lambda x: x != object(),
    "orders": lambda x: x < x,
    "orders with 1": lambda x: x >= 1,
    "reversed": lambda x: list(reversed(x)),
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "add": lambda x: x + x,
    "mul": lambda x: x * 2,
    "rmul": lambda x: 2 * x,
    "iadd": lambda x: operator.iadd(x, x),
    "mod": lambda x: x % x,
    "matmul": lambda x: x @ x,
    "neg": lambda x: -x,
    "or": lambda x: x | x,
    "bytes": lambda x: type(bytes(x)),
    "bytearray": lambda x: type(bytearray(x)),
    "memoryview": lambda x: memoryview(x).nbytes,
    "memoryview writes": _buffer_writes,
    "joined": lambda x: type(b"".join([x, x])),
    "enter": lambda x: x.__enter__(),
    "enter twice": _enter_twice,
    "exit twice": _exit_twice,
    "exit alone": lambda x: x.__exit__(None, None, None),
    "exit without arguments": lambda x: x.__exit__(),
    "exit with one": lambda x: x.__exit__("x"),
    "exit with an error": _exit_with_error,
    "copy": copy.copy,
    "copy, and both end": _copy_and_end_both,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": functools.partial(lambda n, x: type(pickle.dumps(x, n)), n) for n in range(6)},
    "reduce": lambda x: type(x.__reduce__()),
    "reduce_ex": lambda x: type(x.__reduce_ex__(2)),
    "reduce_ex with a string": lambda x: type(x.__reduce_ex__("x")),
    "getstate": lambda x: type(x.__getstate__()),
    "setstate": lambda x: x.__setstate__({"x": 1}),
    "sizeof": sys.getsizeof,
    "weak reference": _weak,
    "call": lambda x: x(),
    "no such attribute": lambda x: x.no_such_attribute,
    "set a new attribute": lambda x: setattr(x, "no_such_attribute", 1),
    "set a name that is none": lambda x: setattr(x, "\ud800", 1),
    "class is int": lambda x: setattr(x, "__class__", int),
    "class is another": lambda x: setattr(x, "__class__", type("Other", (), {})),
    "class is a subclass": lambda x: setattr(x, "__class__", _subclass(x)),
    "subclass": lambda x: type(_subclass(x)),
    "class without arguments": lambda x: type(x)(),
    "new with too much": lambda x: type(type(x).__new__(type(x), 1, 2, 3, x=4)),
    "object.__new__": lambda x: type(object.__new__(type(x))),
    "new for another": lambda x: type(x).__new__(int),
    "init of nothing": lambda x: type(x).__init__(object()),
    "await": lambda x: x.__await__(),
    "in a set": lambda x: x in {x},
    "matches": lambda x: isinstance(x, type(x)),
}  # fmt: skip

#: those that end the subject before they are refused
ENDS = ("enter twice", "exit twice", "exit with an error", "copy, and both end")

#: with a value on the other side
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "x[v]": lambda x, v: x[v],
    "x[v] = v": lambda x, v: operator.setitem(x, v, v),
    "x[v] = 1.5": lambda x, v: operator.setitem(x, v, 1.5),
    "x[0] = v": lambda x, v: operator.setitem(x, 0, v),
    "del x[v]": lambda x, v: operator.delitem(x, v),
    "v in x": lambda x, v: v in x,
    "x == v": lambda x, v: x == v,
    "x < v": lambda x, v: x < v,
    "x(v)": lambda x, v: x(v),
    "format(x, v)": lambda x, v: format(x, v),
    "x.__exit__(v, v, v)": lambda x, v: x.__exit__(v, v, v),
    "x.__setstate__(v)": lambda x, v: x.__setstate__(v),
    "x.__reduce_ex__(v)": lambda x, v: type(x.__reduce_ex__(v)),
    "x.__class__ = v": lambda x, v: setattr(x, "__class__", v),
}


def _protocol_cases() -> Iterator[Case]:
    for label, function in PROTOCOLS.items():
        run = functools.partial(lambda function, w: function(w.subject), function)
        yield Case(label, run, attribute=True, acts=label in ENDS)
    yield Case("init again", _init_again, attribute=True)


def _operator_cases(label: str, thorough: bool) -> Iterator[Case]:
    function = OPERATORS[label]
    for value, make, acts in _bad_values(True) if thorough else _few_values():
        run = functools.partial(lambda make, w: function(w.subject, w.ready(make(w))), make)
        yield Case(f"{label}, {value}", run, acts=acts, attribute=True, settles=False)


def _attribute_cases(name: str, writable: bool) -> Iterator[Case]:
    yield Case("get", lambda w: getattr(w.subject, name), settles=False)
    yield Case("delete", lambda w: delattr(w.subject, name), attribute=True)
    for label, make, acts in _bad_values(False) if writable else _few_values():
        run = functools.partial(lambda make, w: setattr(w.subject, name, w.ready(make(w))), make)
        yield Case(f"={label}", run, acts=acts, attribute=True)


# ---- states -------------------------------------------------------------------------------------------------


def _end(w: World) -> None:
    """The subject's own end."""
    for name in ("close", "free", "settle"):
        if hasattr(w.subject, name) and not (name == "free" and hasattr(w.subject, "close")):
            with contextlib.suppress(errors.NativeMemError):
                getattr(w.subject, name)()
            return
    if w.mark is not None and w.mark is w.subject:
        w.allocator.release(w.mark)


def _close_allocator(w: World) -> None:
    with contextlib.suppress(errors.NativeMemError):
        w.allocator.close()


def _reset(w: World) -> None:
    rewinds = w.rewindable()
    if rewinds is not None:
        rewinds.reset()
    elif w.block is not None:
        w.block.free()


def _close_everything(w: World) -> None:
    for block in (w.block, w.sentinel):
        if block is not None and block.alive:
            block.free()
    for thing in reversed(w.opened):
        thing.close()


def _export(w: World) -> None:
    if w.block is not None and w.block.alive:
        w.views.append(memoryview(w.block))


def _stand_on(w: World) -> None:
    w.open(w.nm.Traced(w.allocator))


def _never_made(w: World) -> None:
    w.subject = type(w.subject).__new__(type(w.subject))


def _lock_budgets(w: World) -> None:
    for budget in w.budgets:
        budget.lock()


def _no_room(w: World) -> None:
    for budget in w.budgets:
        budget.limit = 1


STATES: dict[str, Callable[[World], None]] = {
    "after its end": _end,
    "allocator closed": _close_allocator,
    "everything closed": _close_everything,
    "after a reset": _reset,
    "exported": _export,
    "stood on": _stand_on,
    "budgets locked": _lock_budgets,
    "budgets without room": _no_room,
}
#: in which nothing is as it should be
RAW = "never initialised"
THREADS = "another thread"


def _state_cases(good_call: Callable[[World], Any], attribute: bool, calls: bool = False) -> Iterator[Case]:
    for label, change in STATES.items():

        def run(w: World, change: Callable[[World], None] = change) -> Any:
            with contextlib.suppress(errors.NativeMemError, BufferError):
                change(w)
            return good_call(w)

        yield Case(label, run, acts=True, attribute=attribute, settles=calls)

    def raw(w: World) -> Any:
        _never_made(w)
        return good_call(w)

    yield Case(RAW, raw, acts=True, attribute=True, free=True, settles=calls)

    def elsewhere(w: World) -> Any:
        return worker.run(lambda: good_call(w))

    yield Case(THREADS, elsewhere, acts=True, attribute=attribute, settles=calls)

    if not calls:
        return

    def interrupted(w: World, action: Callable[[World], None], at: int) -> Any:
        """Acts at an event of the interpreter, as a signal's handler would."""
        left = [at]

        def hook(frame: Any, event: str, arg: Any) -> None:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return
            left[0] -= 1
            if left[0] == 0:
                sys.setprofile(None)
                action(w)

        sys.setprofile(hook)
        try:
            return good_call(w)
        finally:
            sys.setprofile(None)

    def collected(w: World, action: Callable[[World], None]) -> Any:
        """Acts in a finalizer that the collector runs, at the first moment that it may."""
        thresholds = gc.get_threshold()
        values.make_garbage(w, action)
        gc.set_threshold(1, 1 << 30, 1 << 30)
        try:
            return good_call(w)
        finally:
            gc.set_threshold(*thresholds)

    for label in INTERRUPTING:
        run = functools.partial(collected, action=values.ACTIONS[label])
        yield Case(f"garbage {label}", run, acts=True, attribute=attribute, free=True, settles=calls)
    for label in INTERRUPTING:
        for at in INTERRUPTIONS:
            run = functools.partial(interrupted, action=values.ACTIONS[label], at=at)
            yield Case(f"event {at} {label}", run, acts=True, attribute=attribute, free=True, settles=calls)


#: what interrupts, and at which events
INTERRUPTING = ("closes", "frees", "allocates", "resets")
INTERRUPTIONS = (1, 2, 4, 8)


# ---- groups -------------------------------------------------------------------------------------------------


def _members(nm: Binding, cls: Any, instance: Any) -> Iterator[tuple[str, bool]]:
    """Public attributes, and whether each is called."""
    for name in sorted(set(dir(cls)) | set(dir(instance))):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if name.startswith("_") or (owner is not None and not owner.__module__.startswith("nativemem")):
            continue
        static = inspect.getattr_static(instance, name, None)
        static = getattr(static, "__func__", static)
        yield name, callable(static) and not isinstance(static, property)


def _writable(cls: type, member: str) -> bool:
    return getattr(inspect.getattr_static(cls, member, None), "fset", None) is not None


#: what the generator could not do, and what to add
unknown: list[str] = []


def _known(subject: str, cls: Any, member: str, function: Any) -> list[Parameter] | None:
    try:
        return _parameters(subject, cls, member, function)
    except LookupError as error:
        unknown.append(str(error))
        return None


@functools.cache
def groups() -> dict[str, list[Case]]:
    """By "subject: member", what there is to try; the same on both backends."""
    nm = load("pure")
    found: dict[str, list[Case]] = {}
    unknown.clear()
    tried: set[tuple[str, str]] = set()  # what was tried with all values
    for subject in RECIPES:
        w = World(nm, subject)
        cls = class_of(nm, subject)
        plain = "Exception" in [base.__name__ for base in cls.__mro__] or dataclasses.is_dataclass(cls)
        for member, called in _members(nm, cls, w.subject):
            get = functools.partial(lambda member, w: getattr(w.subject, member), member)
            key = f"{subject}: {member}"
            function = getattr(w.subject, member)
            if called and not isinstance(function, type) and _signature(function) is not None:
                parameters = _known(subject, cls, member, function)
                if parameters is None:
                    continue
                origin = (getattr(function, "__qualname__", key), member)
                thorough = origin not in tried
                tried.add(origin)
                found[key] = [
                    *_call_cases(get, parameters, thorough, member == "alloc_many"),
                    *_state_cases(_call(get, parameters, {}), False, True),
                ]
            elif not plain or member in vars(cls):
                found[key] = [*_attribute_cases(member, _writable(cls, member)), *_state_cases(get, False)]
        protocols = list(_protocol_cases())
        found[f"{subject}: protocols"] = [
            *protocols,
            *(
                dataclasses.replace(case, label=f"{p.label}, {case.label}")
                for p in protocols
                if not plain and p.label in IN_STATES
                for case in _state_cases(p.run, True)
            ),
        ]
        if not plain:
            found[f"{subject}: operators"] = [
                case for label in OPERATORS for case in _operator_cases(label, subject in INDEXABLE)
            ]
        if subject in surface(nm) and subject not in NOT_MADE and _signature(cls) is not None:
            target = functools.partial(lambda name, w: class_of(w.nm, name), subject)
            parameters = _known(subject, cls, "__init__", _maker(cls))
            thorough = subject not in RECORDS
            if parameters is not None:
                found[f"{subject}()"] = list(_call_cases(target, parameters, thorough))
    for name, thing in surface(nm).items():
        if inspect.isfunction(thing):
            target = functools.partial(lambda thing, w: thing, thing)
            parameters = _known(name, thing, "", thing)
            if parameters is None:
                continue
            process = thing.__module__ in ("nativemem.engine.process", "nativemem.engine.install")
            key = f"{PROCESS}{name}()" if process else f"{name}()"
            found[key] = list(_call_cases(target, parameters, True))
    for key, cases in found.items():
        assert len({case.label for case in cases}) == len(cases), key
    return found


def _maker(cls: Any) -> Any:
    """What has the constructor's signature: until 3.11.4 that of a class is the one of a __new__ further up."""
    return MethodType(cls.__init__, cls) if isinstance(cls.__init__, FunctionType) else cls


def _signature(function: Any) -> Any:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


IN_STATES = ("len", "iter", "repr", "memoryview writes", "enter twice", "exit alone", "copy", "init again")
#: classes that take anything
RECORDS = ("Stats", "Usage", "Installed", "Refusal", "MemoryPressure", *(n for n in errors.__all__ if n in RECIPES))
INDEXABLE = ("Array", "TypedArena")
#: of functions that change the process, to be tried in one of their own
PROCESS = "process: "


# ---- running ------------------------------------------------------------------------------------------------

#: what a call may raise of its own; beside these, every class of the package
FAMILY = (TypeError, ValueError, OverflowError, MemoryError, BufferError, RuntimeError, IndexError, StopIteration)
#: parameters that are called, or written to; what they raise is their maker's
CALLED = ("fn", "rule", "on_pressure", "file")
#: what memoryviews raise of their own when they are iterated over
ITERATION = (  # and what the C of the data plane raises, which has no frame
    "operation forbidden on released memoryview object",
    "multi-dimensional sub-views are not implemented",
)
#: types of the package that a call may give; what is not here has to be
HARMLESS = {"CPort", "FailingInterpreter", "Level", "Utilities", "_Reserved"}


def _origin(error: BaseException) -> tuple[str, bool]:
    """The file of the innermost frame, and whether it was a ``raise`` that raised."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    operation = code.co_code[trace.tb_lasti]
    return code.co_filename, dis.opname[operation] in ("RAISE_VARARGS", "RERAISE")


def judge(error: BaseException, case: Case) -> str | None:
    """What is wrong with an exception."""
    if isinstance(error, values.Hostile):
        return None
    kind = type(error)
    text = str(error)
    shown = f"{kind.__name__}: {text[:200]!r}"
    file, raised = _origin(error)
    inside = file.startswith(PACKAGE)
    ours = isinstance(error, errors.NativeMemError)
    if not ours and (text in ITERATION or text.endswith("was initialised before")):
        return None
    if not ours and case.passes and not isinstance(error, SystemError):
        return None
    if not ours:
        known = kind in FAMILY or (case.attribute and isinstance(error, AttributeError))
        if kind is pickle.PicklingError and file.endswith(("pickle.py", "copyreg.py", "cases.py")):
            known = True
        if not known:
            return f"raised {shown}, which is no error of ours, from {file}"
        if inside and not raised and kind is not TypeError and not isinstance(error, AttributeError):
            return f"raised {shown} from inside, {file}"
        if inside and not raised and isinstance(error, AttributeError) and not case.attribute:
            return f"raised {shown} from inside, {file}"
    if not text.strip() or "\n" in text or "\r" in text:
        return f"raised {kind.__name__} with a message that is not one line: {text!r}"
    if len(text) > 600:
        return f"raised {kind.__name__} with a message of {len(text)} characters: {text[:100]!r}"
    try:
        text.encode()
    except UnicodeEncodeError:
        if inside or ours:
            return f"raised {kind.__name__} with a message that cannot be printed: {text!r}"
    return None


def _is_public(thing: Any) -> bool:
    module = getattr(type(thing), "__module__", None)
    return isinstance(module, str) and module.split(".")[0] == "nativemem"


def _settle(result: Any, w: World, case: Case) -> str | None:
    """Ends what a call gave, in its own way."""
    things = result if isinstance(result, list) else [result]
    complaint = None
    for thing in reversed(things):
        if _is_public(thing) and not isinstance(thing, ctypes.Array):
            name = type(thing).__name__
            if name not in RECIPES and name not in HARMLESS and type(thing) is not type(w.subject):
                complaint = (
                    f"gave a {name}, of which the suite knows nothing: add a line to RECIPES in bad_input/world.py"
                )
        if not case.settles or not hasattr(type(thing), "__exit__") or w.knows(thing):
            continue
        try:
            with thing:
                pass
        except (*FAMILY, AttributeError, values.Hostile) as error:
            complaint = complaint or judge(error, dataclasses.replace(case, attribute=True))
    return complaint


@dataclass
class Report:
    """What came of a group on one backend."""

    outcomes: dict[str, str]
    complaints: list[str]


class _Run:
    def __init__(self, backend: str, key: str) -> None:
        self.nm = load(backend)
        self.key = key
        self.subject = key.split(":")[0].removesuffix("()")
        if self.subject not in RECIPES:
            self.subject = "System"
        self.w: World | None = None
        self.report = Report({}, [])

    def complain(self, label: str, what: str) -> None:
        self.report.complaints.append(f"{self.nm.name}, {self.key}, {label}: {what}")

    def finish(self, label: str) -> None:
        if self.w is not None:
            for what in self.w.finish():
                self.complain(label, what)
        self.w = None

    def one(self, case: Case) -> None:
        if self.w is None:
            self.w = World(self.nm, self.subject)
        w = self.w
        w.ready()
        complaint = None
        try:
            result = case.run(w)
        except Exception as error:
            outcome = type(error).__name__
            complaint = judge(error, case)
            error.__traceback__ = None
            del error
            failed = True
        else:
            outcome = f"gave {'an' if isinstance(result, int) else 'a'} {type(result).__name__}"
            failed = False
            complaint = _settle(result, w, case)
            del result
        if complaint is not None:
            self.complain(case.label, complaint)
        if not case.free:
            self.report.outcomes[case.label] = outcome
        if failed and not case.acts:
            after = w.state()
            if without(after, case) == without(w.before, case):
                return
            self.complain(case.label, f"raised {outcome}, and changed {w.before} to {after}")
        self.finish(case.label)


def without(state: list[Any], case: Case) -> list[Any]:
    """Without what the case may change although it is refused: a batch that fails in its middle leaves the counts
    of blocks handed out and freed."""
    if not case.batch:
        return state
    rows = []
    for row in state:
        if isinstance(row, tuple) and len(row) == 3:
            generation, stats, blocks = row
            row = generation, stats.current, stats.limit, stats.live, blocks
        rows.append(row)
    return rows


#: Where the backends differ: groups, cases, and why. Both answers are good ones.
DIFFERENCES = (
    (r".*: alloc_array$", r"items=.*block.*", "a block of the pure backend is a bytearray to collections.abc"),
    (r"SharingPolicy\(\)", r"borrowers=.*block.*", "the same"),
    (r".*: alloc$", r"size=\.\.\.", "only C can tell an argument that is ... from none"),
    (r".*: (free|resize)$", r"block=no attributes", "isinstance asks an object for its class"),
    (r".*: protocols$", r"object\.__new__", "types in C refuse it"),
    (r"Block.*: protocols$", r"init (of nothing|again.*)", "a type in C without an __init__ has object's"),
    (r"Block.*: operators", r"(x|del x)(\[|.__reduce_ex__).*", "C looks at the argument before it refuses"),
    (r".*: c_port", r".*", "C takes no memory from the pure backend"),
    (r"Secure heap: .*", r".*budgets (locked|without room)", "a native heap charges whole pages"),
)
#: before Python 3.12 a dead block of the pure backend has no buffer, which is a TypeError
STALE_BUFFERS = (
    (r"Block.*: protocols$", r"memoryview writes.*"),
    (r"Utilities: .*", r"\w+=(freed|own freed|stale) block"),
)


def differences(key: str) -> list[str]:
    """The cases of a group that one backend answers with another class than the other, and should not."""
    native, pure = run("native", key).outcomes, run("pure", key).outcomes
    known = [row[:2] for row in DIFFERENCES]
    if "stale-buffer-raises" not in load("pure").backend.features:
        known += STALE_BUFFERS
    return [
        f"{key}, {label}: native {native[label]}, pure {pure[label]}"
        for label in native
        if native[label] != pure[label]
        and not any(re.fullmatch(group, key) and re.fullmatch(case, label) for group, case in known)
    ]


@functools.cache
def run(backend: str, key: str) -> Report:
    """All cases of a group on one backend."""
    runs = _Run(backend, key)
    for case in groups()[key]:
        runs.one(case)
    runs.finish("the last")
    return runs.report


#: so often a call is made in each round: what each leaves behind is more than what comes and goes
REPEATED = 8


def grown(backend: str, subject: str) -> str | None:
    """Whether refused calls leave memory behind. Of a group, one for each parameter and each error that it gets."""
    refused: dict[tuple[str, str, str], Case] = {}
    for key, cases in groups().items():
        if key.endswith(": operators"):
            continue  # the interpreter's own refusals
        if key.startswith((f"{subject}: ", f"{subject}()")):
            outcomes = run(backend, key).outcomes
            for case in cases:
                outcome = outcomes.get(case.label, "gave")
                if not case.acts and not outcome.startswith("gave"):
                    refused.setdefault((key, case.label.split("=")[0], outcome), case)
    w = World(load(backend), subject)
    w.watched = False

    def round_() -> None:
        for case in refused.values():
            for _ in range(REPEATED):
                with contextlib.suppress(Exception):
                    case.run(w)

    rises = rising(round_)
    w.finish()
    return f"{len(refused)} refused calls left {rises} blocks" if rises else None


def rising(round_: Callable[[], None], rounds: int = 60) -> list[int] | None:
    """By how many blocks of the interpreter each round left more than there were, if each did. What only fills a
    cache (the native backend keeps 256 Block objects for later) rises ever less, and not for so long."""
    round_()
    gc.collect()
    before, rises = sys.getallocatedblocks(), []
    while len(rises) < rounds:
        round_()
        gc.collect()
        after = sys.getallocatedblocks()
        if after - before < REPEATED:
            return None
        rises.append(after - before)
        before = after
    return rises
