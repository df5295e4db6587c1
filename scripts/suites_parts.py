"""Which parts of the suites of others are run: by `make suites-fast` of the interpreter's, and in any case of those
of pandas and scikit-learn."""

from __future__ import annotations

FAST_INTERPRETER = (
    *("test__interpreters", "test__xxsubinterpreters"),  # since 3.13, and before
    *("test_array", "test_asyncio.test_streams", "test_bytes", "test_capi"),
    *("test_capi.test_mem", "test_context", "test_coroutines", "test_deque", "test_descr", "test_dict"),
    *("test_exceptions", "test_fork1", "test_functools", "test_gc", "test_generators", "test_interpreters"),
    *("test_interpreters.test_stress", "test_itertools", "test_json", "test_list", "test_long", "test_memoryview"),
    *("test_pickle", "test_set", "test_struct", "test_sys", "test_threading", "test_tracemalloc", "test_unicode"),
    *("test_warnings", "test_weakref"),
)
PANDAS = ("frame", "series", "groupby", "reshape", "indexes", "indexing", "arrays", "copy_view", "window")
SKLEARN = ("tree", "ensemble", "linear_model", "preprocessing", "decomposition", "neighbors")
