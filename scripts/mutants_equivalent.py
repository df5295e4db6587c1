"""Drawn changes that no test can tell from the original, each with the reason."""

from __future__ import annotations

import mutants_random
from mutants_random import Equivalent


def torn(file: str, old: str, place: str, value: str, call: str, reason: str) -> Equivalent:
    """A load and a store for one atomic step."""
    return Equivalent(file, old, old.replace(call, mutants_random.torn(place, value)), reason)


EQUIVALENT: tuple[Equivalent, ...] = (
    torn(
        "csrc/use/plain.c",
        "if (!atomic_exchange(&p->open, false)) {",
        "&p->open",
        "false",
        "atomic_exchange(&p->open, false)",
        "under the lock of all, as everywhere that stores it but where it is made",
    ),
    *(
        torn(
            "csrc/base/budget.c",
            f"static void budget_{verb}_move(nm_budget *b) {{ (void)atomic_fetch_add(&b->moves, 1); }}",
            "&b->moves",
            "o__ + (1)",
            "atomic_fetch_add(&b->moves, 1)",
            "under the lock of all, as everywhere that calls it",
        )
        for verb in ("begin", "end")
    ),
    Equivalent(
        "csrc/heap/superblocks.c",
        "return c->capacity < NM_HEAP_PATIENCE * NM_HEAP_PATIENCE_PART ? NM_HEAP_PATIENCE : c->capacity / NM_HEAP_PATIENCE_PART;",
        "return c->capacity <= NM_HEAP_PATIENCE * NM_HEAP_PATIENCE_PART ? NM_HEAP_PATIENCE : c->capacity / NM_HEAP_PATIENCE_PART;",
        "an eighth of 1024 is 128",
    ),
    Equivalent(
        "src/nativemem/allocators/typed.py",
        "raw.release()",
        "pass",
        "nothing else refers to the view, so it ends with this reference",
    ),
    Equivalent(
        "src/nativemem/backends/native/wrappers.py",
        "cap = 0",
        "cap = 1",
        "it grows until all fits: where it begins is a matter of how often it asks",
    ),
    Equivalent(
        "src/nativemem/backends/native/plain.py",
        "raise errors.Refusal(lib.NM_CAPACITY_EXCEEDED, 1, lib.NM_PLAIN_PLACES, lib.NM_PLAIN_PLACES)",
        "raise errors.Refusal(lib.NM_CAPACITY_EXCEEDED, 2, lib.NM_PLAIN_PLACES, lib.NM_PLAIN_PLACES)",
        "CPort tells of it in words and figures of its own",
    ),
    Equivalent("src/nativemem/config.py", "number = -1", "number = -2", "as good as any that is never taken"),
    *(
        Equivalent(
            "src/nativemem/allocators/base.py",
            "raw[:] = bytes(len(raw)) if len(raw) <= 1 << 16 else memoryview(bytearray(len(raw)))",
            f"raw[:] = bytes(len(raw)) if len(raw) {new} else memoryview(bytearray(len(raw)))",
            "zeros either way: which is faster changes somewhere there",
        )
        for new in ("< 1 << 16", "<= 2 << 16", "<= 1 << 17")
    ),
    Equivalent(
        "csrc/heap/malloc.c",
        "return moved != NULL || size > old ? moved : ptr;",
        "return moved != NULL || size >= old ? moved : ptr;",
        "what keeps its size stays where it is, and has returned before",
    ),
    Equivalent(
        "src/nativemem/backends/pure/dataplane.py",
        "chain.sweep(serial)  # first what lies above it, as a stack wants it",
        "pass  # first what lies above it, as a stack wants it",
        "while a stack unwinds a free out of order counts, and what is left is swept after the loop",
    ),
    Equivalent(
        "src/nativemem/manager/collections/sequences.py",
        "_is_linear: ClassVar[bool] = False",
        "_is_linear: ClassVar[bool] = True",
        "which of two halves a ring moves is a matter of how long it takes",
    ),
    Equivalent(
        "src/nativemem/budgets/pressure.py", "n = 1", "n = 2", "frame 1 is tell()'s, which is the package's"
    ),
    Equivalent(
        "src/nativemem/backends/pure/counted.py",
        "if self._used > self._peak:",
        "if self._used >= self._peak:",
        "it would store what is there",
    ),
    *(
        Equivalent(
            f"src/nativemem/{file}.py",
            "_PATIENCE = 1000",
            "_PATIENCE = 1001",
            "a millisecond more to wait for a pipe",
        )
        for file in ("commands/run", "engine/startup")
    ),
    Equivalent(
        "src/nativemem/manager/verification.py",
        "NEVER = 256",
        "NEVER = 257",
        "no importance is above 200, so never",
    ),
    Equivalent(
        "src/nativemem/manager/collections/records.py",
        "_MOST_FIELDS = 64",
        "_MOST_FIELDS = 65",
        "beyond it a record is packed by struct, with the same outcome",
    ),
    Equivalent(
        "src/nativemem/commands/probes.py",
        "kept.clear()",
        "pass",
        "the list is this call's alone, and ends with it",
    ),
    Equivalent(
        "src/nativemem/manager/collections/storage.py", "return False", "return None", "asked for its truth alone"
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/base.py",
        "raw.release()",
        "pass",
        "nothing else refers to the view, so it ends with this reference",
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/tables.py",
        "return i if self._index[i] else -1",
        "return i if self._index[i] else -2",
        "as good as any number below zero",
    ),
    Equivalent(
        "src/nativemem/observe/report/comparison.py",
        "pairs.update({(new, key[2]): old for old, new in zip(sorted(olds), sorted(places), strict=True)})",
        "pairs.update({(new, key[2]): old for old, new in zip(sorted(olds), sorted(places), strict=False)})",
        "they are as many, which the line above sees to",
    ),
    Equivalent(
        "csrc/base/move.h",
        "memcpy(to, from, old < size ? old : size);",
        "memcpy(to, from, old <= size ? old : size);",
        "the lesser of two that are equal is either",
    ),
    Equivalent(
        "csrc/heap/heap.h",
        "if (NM_UNLIKELY(sb->theap != theap)) return nm__heap_free_far(caller, ptr, sb);",
        "if (true) return nm__heap_free_far(caller, ptr, sb);",
        "the way for cells of others takes a thread's own, too, and gives them to the same list: it is slower",
    ),
    Equivalent(
        "src/nativemem/commands/cli.py",
        'raise AssertionError("the parser has exited")',
        "pass",
        "for type checkers: the parser's error() does not return",
    ),
    *(
        Equivalent(
            "csrc/base/events.c",
            "if (last > NM_EVENTS && after < last - NM_EVENTS) after = last - NM_EVENTS;",
            f"if {new} after = last - NM_EVENTS;",
            "each number that is gone is looked for and not found: it takes longer",
        )
        for new in (
            "(false)",
            "(last >= NM_EVENTS && after < last - NM_EVENTS)",
            "(last > NM_EVENTS && after <= last - NM_EVENTS)",
        )
    ),
    Equivalent(
        "csrc/base/events.c",
        "while (after < last && count < cap)",
        "while (after <= last && count < cap)",
        "the next number is not there, or is of an event that came meanwhile",
    ),
    Equivalent(
        "src/nativemem/testing/injection.py",
        "self.allocations = self.sites = self.attempts = self.unreached = 0",
        "pass",
        "the server tells it before it is read",
    ),
    Equivalent(
        "src/nativemem/testing/injection.py",
        "self.allocations = self.sites = self.attempts = self.unreached = 0",
        "self.allocations = self.sites = self.attempts = self.unreached = 1",
        "the server tells it before it is read",
    ),
    Equivalent(
        "src/nativemem/testing/injection.py",
        'self.stopped = ""',
        "pass",
        "the server tells it before it is read",
    ),
    Equivalent(
        "src/nativemem/testing/injection.py",
        "os._exit(1)",
        "os._exit(2)",
        "the caller ends the server, and does not look how it ended",
    ),
    Equivalent(
        "src/nativemem/testing/injection_report.py",
        "for name, value in zip(names, values, strict=True):",
        "for name, value in zip(names, values, strict=False):",
        "as many names as the structure has members",
    ),
    Equivalent(
        "src/nativemem/testing/injection_server.py",
        "sites = mmap.mmap(-1, 8 * self.plan.most)",
        "sites = mmap.mmap(-1, 9 * self.plan.most)",
        "room for more than are counted",
    ),
    Equivalent(
        "src/nativemem/testing/injection_server.py",
        'if attempt.said is not None and not attempt.said.get("refused", 1):',
        'if attempt.said is not None and not attempt.said.get("refused", 2):',
        "asked for its truth alone",
    ),
    Equivalent(
        "src/nativemem/testing/interpreter_faults.py",
        "fault.since <= sys.version_info[:2] < fault.until",
        "fault.since <= sys.version_info[:3] < fault.until",
        "of two tuples that begin alike the longer one is greater, as a later version is",
    ),
    Equivalent(
        "src/nativemem/testing/repetitions.py",
        "tuple((now.get(path, (0, 0))[i] - before.get(path, (0, 0))[i]) / times for i in (0, 1))",
        "tuple((now.get(path, (0, 1))[i] - before.get(path, (0, 0))[i]) / times for i in (0, 1))",
        "a path that is gone does not grow, and the blocks are told of what grows",
    ),
    Equivalent(
        "src/nativemem/testing/repetitions.py",
        "elif most[0] < 0:",
        "elif most[0] <= 0:",
        "it would add nothing",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        "if each.peak is not None and each.peak > (by_test[each.test].peak or 0 if each.test in by_test else -1):",
        "if each.peak is not None and each.peak > (by_test[each.test].peak or 0 if each.test in by_test else -2):",
        "as good as any that is below each peak",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        "width = max((len(format_size(each.peak or 0)) for each in found), default=0)",
        "width = max((len(format_size(each.peak or 1)) for each in found), default=0)",
        "0 B and 1 B are as wide",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        "width = max((len(format_size(each.peak or 0)) for each in found), default=0)",
        "width = max((len(format_size(each.peak or 0)) for each in found), default=1)",
        "where there are none no line is as wide",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        "most = max((each.peak or 0 for each in found), default=0) or 1",
        "most = max((each.peak or 1 for each in found), default=0) or 1",
        "where all are 0 it is 1 all the same",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        "most = max((each.peak or 0 for each in found), default=0) or 1",
        "most = max((each.peak or 0 for each in found), default=1) or 1",
        "it is 1 all the same",
    ),
    Equivalent(
        "src/nativemem/testing/results.py",
        '{**each._asdict(), "places": [dict(zip(_PLACE, place, strict=True)) for place in each.places]}',
        '{**each._asdict(), "places": [dict(zip(_PLACE, place, strict=False)) for place in each.places]}',
        "each place has three parts",
    ),
    Equivalent(
        "src/nativemem/testing/stacks.py",
        "base = min((address for *_, address in loaded), default=0) & -4096",
        "base = min((address for *_, address in loaded), default=1) & -4096",
        "rounded down to a page it is 0",
    ),
    Equivalent(
        "src/nativemem/commands/workloads.py",
        'rows = [{"id": i, "name": f"name {i}", "at": (i, i + 1)} for i in range(20_000)]',
        'rows = [{"id": i, "name": f"name {i}", "at": (i, i - 1)} for i in range(20_000)]',
        "a tuple of two numbers, whichever",
    ),
    Equivalent(
        "src/nativemem/commands/workloads.py",
        'rows = [{"id": i, "name": f"name {i}", "at": (i, i + 1)} for i in range(20_000)]',
        'rows = [{"id": i, "name": f"name {i}", "at": (i, i + 2)} for i in range(20_000)]',
        "a tuple of two numbers, whichever",
    ),
    Equivalent(
        "src/nativemem/commands/files.py",
        'raise AssertionError("the parser has exited")',
        "pass",
        "for type checkers: the parser's error() does not return",
    ),
    Equivalent(
        "src/nativemem/commands/run.py",
        'raise AssertionError("the parser has exited")',
        "pass",
        "for type checkers: the parser's error() does not return",
    ),
    Equivalent(
        "src/nativemem/commands/view.py",
        "widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]",
        "widths = [max(map(len, column)) for column in zip(heads, *rows, strict=False)]",
        "each row has a cell for each head",
    ),
    Equivalent(
        "src/nativemem/commands/view.py",
        "for i, (cell, width) in enumerate(zip(row, widths, strict=True))",
        "for i, (cell, width) in enumerate(zip(row, widths, strict=False))",
        "each row has a cell for each head",
    ),
    Equivalent(
        "src/nativemem/commands/workloads.py",
        "give = (1).conjugate",
        "give = (2).conjugate",
        "a number that gives itself, whichever",
    ),
    Equivalent(
        "src/nativemem/commands/start.py",
        "character = 0",
        "character = 1",
        "neither the end of a file nor that of a line",
    ),
    Equivalent(
        "src/nativemem/commands/start.py",
        "function.restype = ctypes.c_int",
        "pass",
        "it is ctypes' own, which no other call of these functions changes",
    ),
    Equivalent(
        "src/nativemem/commands/probes.py",
        "thing = bytes(10_000)",
        "thing = bytes(10001)",
        "an object of no small size, whichever",
    ),
    *(
        Equivalent(
            f"src/nativemem/backends/pure/packed/{file}.py",
            "self._version += 1",
            "self._version += 2",
            "a version is compared for being the same",
        )
        for file in ("rings", "tables")
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/tables.py", "return -1", "return -2", "as good as any number below zero"
    ),
    *(
        Equivalent(
            "src/nativemem/backends/pure/packed/bits.py",
            old,
            new,
            "where a KiB is passed over at once is a matter of how long it takes: what is compared stays all the same",
        )
        for old, new in (
            (
                "if not i & 0x1FFF:  # a KiB at a time where it is all the same",
                "if not i | 0x1FFF:  # a KiB at a time where it is all the same",
            ),
            (
                "if not i & 0x1FFF:  # a KiB at a time where it is all the same",
                "if not (not i & 0x1FFF):  # a KiB at a time where it is all the same",
            ),
            *(
                (
                    "while i < self._capacity and raw[i >> 3 : (i >> 3) + 1024] == bytes([without]) * 1024:",
                    f"while i < self._capacity and raw[i >> {start} : (i >> {stop}) + 1024] == bytes([without]) * {n}:",
                )
                for start, stop, n in ((4, 3, 1024), (3, 4, 1024), (3, 3, 1025))
            ),
        )
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/rings.py",
        "if n > first:",
        "if n >= first:",
        "it would put no item there",
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/rings.py",
        "if self._linear or start >= tail:",
        "if self._linear or start > tail:",
        "which of two halves a ring moves is a matter of how long it takes",
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/rings.py",
        "self._put(i, packed[k * self._size : (k + 1) * self._size], 1)",
        "self._put(i, packed[k * self._size : (k + 2) * self._size], 1)",
        "of which it takes one item",
    ),
    Equivalent(
        "src/nativemem/backends/pure/counted.py",
        "return 0",
        "return None",
        "no limit, which is asked for its truth",
    ),
    *(
        Equivalent(
            f"src/nativemem/backends/pure/{file}.py", old, new, "what keeps its size adds nothing, or has returned"
        )
        for file, old, new in (
            ("counted", "if size > old:", "if size >= old:"),
            ("arena", "if self._patterns and size > old:", "if self._patterns and size >= old:"),
            ("stack", "if self._patterns and size > old:", "if self._patterns and size >= old:"),
            ("inherited", "if size < old:", "if size <= old:"),
        )
    ),
    *(
        Equivalent(
            f"src/nativemem/backends/pure/{file}.py", old, new, "a generation is compared for being the same"
        )
        for file, old, new in (
            ("arena", "self._generation += 1", "self._generation += 2"),
            ("arena", "self._generation = 1", "self._generation = 2"),
            ("stack", "self._generation += 1", "self._generation += 2"),
            ("stack", "self._generation = 0", "self._generation = 1"),
        )
    ),
    Equivalent(
        "src/nativemem/backends/pure/arena.py",
        "rest = self._chunks[-1].capacity - self._pos if self._chunks else 0",
        "rest = self._chunks[-1].capacity - self._pos if self._chunks else 1",
        "without a chunk all of the cap, a byte at least, is the larger one",
    ),
    Equivalent(
        "src/nativemem/backends/pure/slab.py",
        "start = divisor if divisor >= 192 else -(-192 // divisor) * divisor",
        "start = divisor if divisor >= 193 else -(-192 // divisor) * divisor",
        "the divisor is a power of two",
    ),
    Equivalent(
        "src/nativemem/backends/pure/dataplane.py",
        "self._collect_buffers()",
        "pass",
        "for PyPy: here a buffer ends with the last reference to it",
    ),
    Equivalent(
        "src/nativemem/backends/pure/dataplane.py",
        "self._wraps = False",
        "pass",
        "asked of one that was attached, which sets it",
    ),
    *(
        Equivalent(
            "src/nativemem/backends/pure/inherited.py",
            "_ROOMS = (*range(512, 1024, 40), 4096)",
            new,
            "other sizes that are tried until the memory is aligned",
        )
        for new in (
            "_ROOMS = (*range(513, 1024, 40), 4096)",
            "_ROOMS = (*range(512, 1025, 40), 4096)",
            "_ROOMS = (*range(512, 1024, 41), 4096)",
            "_ROOMS = (*range(512, 1024, 40), 4097)",
        )
    ),
    Equivalent(
        "src/nativemem/allocators/base.py",
        "raw[:] = bytes(len(raw)) if len(raw) <= 1 << 16 else memoryview(bytearray(len(raw)))",
        "raw[:] = bytes(len(raw)) if len(raw) <= 1 >> 16 else memoryview(bytearray(len(raw)))",
        "as above",
    ),
    Equivalent(
        "src/nativemem/allocators/utilities.py",
        "if value <= _SIZE_T_MAX and type(value) is int and value >= 0:",
        "if value <= _SIZE_T_MAX and type(value) is int and value >= 1:",
        "a shorter way: parse_size takes 0, too",
    ),
    Equivalent(
        "src/nativemem/allocators/typed.py",
        '_, self._align = coerce_layout(self, 0, align, "TypedArena")',
        '_, self._align = coerce_layout(self, 1, align, "TypedArena")',
        "the alignment is checked, of whatever size",
    ),
    Equivalent(
        "src/nativemem/wrappers/sites.py",
        "for site, size in zip(sites, sizes, strict=True):",
        "for site, size in zip(sites, sizes, strict=False):",
        "a core gives as many of each",
    ),
    Equivalent(
        "src/nativemem/wrappers/failing.py",
        'raise AssertionError("unreachable")',
        "pass",
        "the loop before it has no end of its own",
    ),
    *(
        Equivalent(
            "csrc/base/budget.c",
            "for (int i = 0; i < NM_BUDGET_READS; i++) {",
            f"for (int i = {new}; i++) {{",
            "a read more or less of a limit that moves, of a hundred",
        )
        for new in ("1; i < NM_BUDGET_READS", "0; i <= NM_BUDGET_READS")
    ),
    *(
        Equivalent(
            "csrc/base/budget.c",
            "if (b->parent == NULL || !b->parent->o.auto_rebalance) return false;",
            f"{new}",
            "what is left is looked at once more, and the charge is denied then",
        )
        for new in ("if (b->parent == NULL || !b->parent->o.auto_rebalance) return true;",)
    ),
    Equivalent(
        "csrc/base/budget.c", "may_ask = false;", ";", "siblings that have given enough are not asked again"
    ),
    *(
        Equivalent("csrc/base/budget.c", old, new, "nothing is moved, raised or given back where it is 0")
        for old, new in (
            (
                "if (allowed >= nm__get(&b->allowed)) budget_raise_limit(b, limit, allowed);",
                "if (allowed > nm__get(&b->allowed)) budget_raise_limit(b, limit, allowed);",
            ),
            ("if (left < (int64_t)n) {", "if (left <= (int64_t)n) {"),
            (
                "if (NM_UNLIKELY(back != 0)) budget_discharge_line(b->o.shared, back);",
                "if (true) budget_discharge_line(b->o.shared, back);",
            ),
        )
    ),
    Equivalent(
        "csrc/base/budget.c",
        "if (NM_UNLIKELY(budget_room(b) - left > (int64_t)nm__get(&b->recent))) budget_note_peak(b);",
        "if (true) budget_note_peak(b);",
        "a peak that is no higher is stored nowhere",
    ),
    Equivalent(
        "csrc/base/budget.c",
        "int64_t calm = level == NM_NORMAL ? INT64_MAX : room - (int64_t)budget_level_from(b, level) + 1;",
        "int64_t calm = level == NM_NORMAL ? INT64_MAX : room - (int64_t)budget_level_from(b, level) - 1;",
        "the level is looked at two bytes early, and stays",
    ),
    Equivalent(
        "src/nativemem/observe/changes.py",
        'how = "came" if a is None else "went" if b is None else "grew" if new.bytes > old.bytes else "shrank"',
        'how = "came" if a is None else "went" if b is None else "grew" if new.bytes >= old.bytes else "shrank"',
        "what has as many bytes as before was passed over",
    ),
    Equivalent(
        "src/nativemem/observe/control.py",
        "part = connection.recv(65536 if most is None else most)",
        "part = connection.recv(65537 if most is None else most)",
        "in how many parts an answer is read is nothing that shows",
    ),
    Equivalent(
        "src/nativemem/observe/measure.py",
        "self._top = self._start.used",
        "pass",
        "the peak since the beginning, which is taken before it is looked at, is what was in use then at the least",
    ),
    Equivalent(
        "src/nativemem/observe/as_tracemalloc.py",
        "scale = -(-sum(blocks for _, _, blocks, _ in found) // _MOST) or 1",
        "scale = -(-sum(blocks for _, _, blocks, _ in found) // _MOST) or 2",
        "it is 0 where there is no site to be scaled",
    ),
    *(
        Equivalent(
            "src/nativemem/observe/report/markdown.py",
            'return names.get(match[0]) or (match[0] if match[0] in "-():+" else "\\\\" + match[0])',
            new,
            "its group 1 is all of it",
        )
        for new in (
            'return names.get(match[1]) or (match[0] if match[0] in "-():+" else "\\\\" + match[0])',
            'return names.get(match[0]) or (match[1] if match[0] in "-():+" else "\\\\" + match[0])',
            'return names.get(match[0]) or (match[0] if match[1] in "-():+" else "\\\\" + match[0])',
            'return names.get(match[0]) or (match[0] if match[0] in "-():+" else "\\\\" + match[1])',
        )
    ),
    Equivalent(
        "src/nativemem/manager/checked.py",
        'old = bytes(self._view[offset : min(offset + n, used)]) if 0 <= offset < used else b""',
        'old = bytes(self._view[offset : min(offset + n, used)]) if 0 <= offset <= used else b""',
        "of no bytes either way where the used ones end",
    ),
    Equivalent(
        "src/nativemem/manager/checked.py",
        'before = bytes(self._view[: self._used]) if self._verification._keeps and self._used >= 0 else b""',
        'before = bytes(self._view[: self._used]) if self._verification._keeps and self._used >= 1 else b""',
        "of no bytes either way where none is used",
    ),
    *(
        Equivalent(
            "src/nativemem/manager/checks.py",
            "self.a, self.b, self.n = 1, 0, 0",
            f"self.a, self.b, self.n = {new}",
            "a seal, which comes first, sets all three",
        )
        for new in ("2, 0, 0", "1, 1, 0", "1, 0, 1")
    ),
    *(
        Equivalent(
            "src/nativemem/manager/collections/bits.py",
            "packed = bytearray(-(-self.capacity // 64) * 8)",
            f"packed = bytearray(-(-self.capacity {new})",
            "more bytes than there are bits; those at the end stay zero",
        )
        for new in ("* 64) * 8", "// 64) * 9")
    ),
    Equivalent(
        "src/nativemem/manager/collections/bits.py",
        "return number if number == bit and -1 <= number <= SIZE_MAX else None",
        "return number if number == bit and -1 <= number < SIZE_MAX else None",
        "no set has a bit of that number",
    ),
    Equivalent(
        "src/nativemem/manager/provider.py",
        'if not 0 <= offset <= SIZE_MAX - n or not hasattr(offset, "__index__") or (not n and offset > self._used):',
        'if not 0 <= offset <= SIZE_MAX - n or not hasattr(offset, "__index__") or (not n and offset >= self._used):',
        "a write of nothing where the used bytes end does not come here",
    ),
    Equivalent(
        "src/nativemem/manager/provider.py",
        "self._used = -1",
        "self._used = -2",
        "as good as any number below zero",
    ),
    Equivalent("src/nativemem/manager/provider.py", "return False", "return None", "asked for its truth alone"),
    Equivalent(
        "src/nativemem/backends/pure/packed/bits.py",
        "i += (byte & -byte).bit_length() - 1",
        "i += (byte | -byte).bit_length() - 1",
        "the one is the lowest bit, and the other the same below zero, which has as many bits",
    ),
    Equivalent(
        "src/nativemem/backends/pure/packed/bits.py",
        "while i < self._capacity and raw[i >> 3 : (i >> 3) + 1024] == bytes([without]) * 1024:",
        "while i <= self._capacity and raw[i >> 3 : (i >> 3) + 1024] == bytes([without]) * 1024:",
        "behind the last there are no such bytes",
    ),
    *(
        Equivalent(f"src/nativemem/{file}", old, old.replace("strict=True", "strict=False"), reason)
        for file, old, reason in (
            (
                "manager/manager.py",
                "for name, route in zip(PROVIDERS, owner.routes, strict=True):",
                "an owner is made with as many routes as there are providers",
            ),
            (
                "observe/report/text.py",
                "for cell, width, column in zip(row, widths, columns, strict=True)",
                "each is made of the same columns, a line above",
            ),
            (
                "observe/report/text.py",
                "for table, columns in zip(shown, kept, strict=True):",
                "one is made of the other, a table each",
            ),
            (
                "observe/report/text.py",
                "for table, columns in zip(shown, kept, strict=True)",
                "one is made of the other, a table each",
            ),
            (
                "observe/report/comparison.py",
                "errors = [error_of(number, rate) for number, rate in zip((before, after), rates, strict=True)]",
                "two of each",
            ),
        )
    ),
    Equivalent(
        "src/nativemem/observe/report/wording.py",
        'return f"\\\\x{code:02x}" if code < 256 else f"\\\\u{code:04x}"',
        'return f"\\\\x{code:02x}" if code < 257 else f"\\\\u{code:04x}"',
        "U+0100 is a letter, and is shown as it is",
    ),
    Equivalent(
        "src/nativemem/observe/control.py",
        "BACKLOG = 64",
        "BACKLOG = 65",
        "one more that waits, of so many as come",
    ),
    Equivalent(
        "csrc/heap/placement.c",
        "size_t found = p == NULL ? 0 : p->npages,",
        "size_t found = p == NULL ? 1 : p->npages,",
        "one page is not enough either, as more than n are asked for",
    ),
    Equivalent(
        "csrc/binding/packed.c",
        "return loaded <= INT64_MAX ? nm__long_again(recent, (int64_t)loaded) : PyLong_FromUnsignedLongLong(loaded);",
        "return loaded < INT64_MAX ? nm__long_again(recent, (int64_t)loaded) : PyLong_FromUnsignedLongLong(loaded);",
        "of the largest both make the same number",
    ),
    Equivalent(
        "csrc/base/assert.h",
        "pthread_mutex_unlock(lock);",
        "((int)0);",
        "the assertion that asked ends the program",
    ),
    Equivalent(
        "csrc/engine/crash.c",
        "(void)raise(number);",
        ";",
        "faulthandler, which was there before, raises each of these signals itself",
    ),
    Equivalent(
        "csrc/heap/superblocks.c",
        "theap->looked[bin].current = b->current;",
        ";",
        "a bin that is taken for one that has changed is looked at once more",
    ),
    Equivalent(
        "csrc/binding/ring_ranges.c",
        "if (i < 0 && !PyErr_Occurred()) i += r->used;",
        "if (i < 1 && !PyErr_Occurred()) i += r->used;",
        "a first index that is taken for none is looked up by nm__ring_index, as any that is out of range",
    ),
    Equivalent(
        "src/nativemem/manager/collections/records.py",
        "return False  # packing it says so",
        "return None  # packing it says so",
        "asked for its truth alone",
    ),
)
