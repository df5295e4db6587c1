"""Functions whose body runs within ``with scope:``, whatever kind of function it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["F", "scoped"]

F = TypeVar("F", bound=Callable[..., Any])


def scoped(scope: Any, function: F) -> F:
    """``function``, and each step of it where it is a generator or a coroutine, within ``with scope:``."""
    wrapper: Any
    if inspect.iscoroutinefunction(function):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope:
                return await function(*args, **kwargs)

    elif inspect.isasyncgenfunction(function):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope:
                generator = function(*args, **kwargs)
                try:
                    step = generator.asend(None)
                    while True:
                        try:
                            value = await step
                        except StopAsyncIteration:
                            return
                        try:
                            sent = yield value
                        except GeneratorExit:
                            raise
                        except BaseException as error:
                            step = generator.athrow(error)
                        else:
                            step = generator.asend(sent)
                finally:
                    await generator.aclose()

    elif inspect.isgeneratorfunction(function):

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope:
                return (yield from function(*args, **kwargs))

    else:

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with scope:
                return function(*args, **kwargs)

    return functools.wraps(function)(wrapper)  # type: ignore[return-value]
