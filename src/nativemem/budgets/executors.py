"""Executors that take a scope along."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

__all__ = ["ScopedExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ScopedExecutor(Executor):
    """What :meth:`Budget.wrap` returns: runs everything in another executor, within ``with scope:``. Its threads
    have to be this process's.

    >>> import nativemem
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> executor = nativemem.Budget("64 MiB").wrap(ThreadPoolExecutor())
    >>> isinstance(executor, ScopedExecutor); executor.shutdown()
    True
    """

    def __init__(self, scope: Any, executor: Executor) -> None:
        self._scope, self._executor = scope, executor

    @property
    def _max_workers(self) -> int:
        """As the other executor has it: Dask's scheduler of threads asks for it."""
        executor: Any = self._executor
        return executor._max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has the other executor run ``fn`` in the scope; returns its future."""
        return self._executor.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._scope:
            return fn(*args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts the other executor down, with its parameters ``wait`` and ``cancel_futures``."""
        self._executor.shutdown(wait=wait, cancel_futures=cancel_futures)
