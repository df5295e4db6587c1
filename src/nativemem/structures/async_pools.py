"""AsyncObjectPool: expensive objects, made once and used again, by coroutines."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Generic

from .slots import CLOSED, SLOT, Entry, Lent, Slots, T, Waiter, seconds

__all__ = ["AsyncLease", "AsyncObjectPool"]


async def _settled(result: Any) -> Any:
    """What it is, or what it gives when it is awaited."""
    return await result if inspect.isawaitable(result) else result


class AsyncLease(Lent[T]):
    """What :meth:`AsyncObjectPool.get` gives: an object, until :meth:`release`; in the thread of its event loop."""

    async def release(self) -> None:
        """Gives the object back: it is reset, and serves again. Once that is done it does nothing."""
        entry = self._end()
        if entry is not None:
            await self._pool._check_in(entry)

    async def discard(self) -> None:
        """Gives the slot back, and has the object destroyed."""
        entry = self._end()
        if entry is not None:
            self._pool._count(out=-1)
            try:
                await self._pool._destroy(entry)
            finally:
                self._pool._free_slot()


class _Getting(Generic[T]):
    """``async with`` it, or ``await`` it for a lease."""

    def __init__(self, pool: AsyncObjectPool[T], timeout: float | None) -> None:
        self._pool, self._timeout = pool, timeout
        self._lease: AsyncLease[T] | None = None

    def __await__(self) -> Any:
        return self._pool._get(self._timeout).__await__()

    async def __aenter__(self) -> T:
        self._lease = await self._pool._get(self._timeout)
        return self._lease.value

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._lease is not None:
            await self._lease.release()


class AsyncObjectPool(Slots[T]):
    """An :class:`ObjectPool` for coroutines of one event loop, in its thread. Each callback may be a coroutine
    function. Parameters as of :class:`ObjectPool`.

    ``async with pool.get(timeout=1) as thing:``; a lease to keep is ``await pool.get()``. A task that is cancelled
    while it waits takes nothing with it, and one that is cancelled while it gives an object back loses no slot.

    >>> import asyncio
    >>> async def use():
    ...     pool = AsyncObjectPool(list, reset=list.clear, max_size=1)
    ...     async with pool.get() as rows:
    ...         rows.append(1)
    ...     return pool.health.idle
    >>> asyncio.run(use())
    1
    """

    def get(self, timeout: float | None = None) -> _Getting[T]:
        """As :meth:`ObjectPool.get`."""
        return _Getting(self, seconds(timeout, "pool.get: timeout"))

    async def _get(self, timeout: float | None) -> AsyncLease[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        grant = self._request(lambda: loop.call_soon_threadsafe(_wake, future))
        if isinstance(grant, Waiter):
            grant = await self._wait(grant, future, timeout)
        while True:
            if grant is CLOSED:
                self._raise_closed()
            if grant is SLOT:
                return await self._lend(await self._make())
            if await self._is_fit(grant):
                return await self._lend(grant)
            grant = self._next()

    async def _wait(self, waiter: Waiter, future: asyncio.Future[None], timeout: float | None) -> Any:
        try:
            await asyncio.wait([future], timeout=timeout)
        except BaseException:  # cancelled: what it was granted meanwhile is the next one's
            await self._hand_back(self._stop_waiting(waiter))
            raise
        grant = self._stop_waiting(waiter)
        if grant is None:
            self._raise_exhausted(timeout)
        return grant

    async def _hand_back(self, grant: Any) -> None:
        if isinstance(grant, Entry):
            if not self._put(grant):
                await self._give_up(grant)
        elif grant is SLOT:
            self._free_slot()

    async def try_get(self) -> AsyncLease[T] | None:
        """As :meth:`ObjectPool.try_get`."""
        while True:
            grant = self._request(lambda: None, create=False)
            if grant is None:
                return None
            if grant is CLOSED:
                self._raise_closed()
            if await self._is_fit(grant):
                return await self._lend(grant)
            self._free_slot()

    async def _make(self) -> Entry:
        entry = None
        try:
            entry = Entry(await _settled(self._factory()), self._clock())
            self._count(created=1)
            await self._tell("on_create", entry)
        except BaseException as error:
            self._failed(error)
            if entry is not None:
                await self._give_up(entry)
            else:
                self._free_slot()
            raise
        return entry

    async def _give_up(self, entry: Entry) -> None:
        try:
            await self._destroy(entry)
        finally:
            self._free_slot()

    async def _is_fit(self, entry: Entry) -> bool:
        validate = self._callbacks["validate"]
        try:
            fit = not self._is_old(entry)
            if fit and validate is not None and not await _settled(validate(entry.value)):
                fit = False
                self._failed(None)
        except Exception as error:
            self._failed(error)
            fit = False
        except BaseException:
            await self._give_up(entry)
            raise
        if not fit:
            try:
                await self._destroy(entry)
            except BaseException:
                self._free_slot()
                raise
        return fit

    async def _lend(self, entry: Entry) -> AsyncLease[T]:
        try:
            await self._tell("on_checkout", entry)
        except BaseException as error:
            self._failed(error)
            await self._give_up(entry)
            raise
        self._count(out=1, checkouts=1)
        return AsyncLease(self, entry)

    async def _tell(self, hook: str, entry: Entry) -> None:
        callback = self._callbacks[hook]
        if callback is not None:
            await _settled(callback(entry.value))

    async def _check_in(self, entry: Entry) -> None:
        self._count(out=-1)
        kept = False
        try:
            await self._tell("reset", entry)
            await self._tell("on_checkin", entry)
            kept = not self._is_old(entry) and self._put(entry)
        except Exception as error:
            self._failed(error)
        finally:
            if not kept:
                await self._give_up(entry)

    async def _destroy(self, entry: Entry) -> None:
        self._count(destroyed=1)
        try:
            await self._tell("on_destroy", entry)
        except Exception as error:
            self._failed(error)

    async def close(self) -> None:
        """As :meth:`ObjectPool.close`."""
        for entry in self._shut():
            await self._destroy(entry)

    async def __aenter__(self) -> AsyncObjectPool[T]:
        if self._is_closed:
            self._raise_closed()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
