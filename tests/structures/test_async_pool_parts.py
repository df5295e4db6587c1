"""POOLOBJ-2: what becomes of a slot and its object at each place where a pool of coroutines can be left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nativemem.errors import ConfigError, PoolExhausted, StaleHandle
from nativemem.structures import AsyncObjectPool

pytestmark = pytest.mark.usefixtures("old_objects_apart")


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """What it gives; nothing may go wrong beside it."""
    wrong: list[Any] = []

    async def both() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
        made = await main()
        gc.collect()
        await asyncio.sleep(0)
        return made

    found = asyncio.run(both())
    assert wrong == []
    return found


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def counts(pool: AsyncObjectPool[Any]) -> tuple[int, ...]:
    h = pool.health
    return h.idle, h.in_use, h.waiting, h.created, h.destroyed, h.checkouts, h.failures


@pytest.mark.parametrize("granted", ["nothing", "object", "slot", "closed", "object, then closed"])
def test_cancelled_while_it_waits(granted: str) -> None:
    """What it was granted meanwhile is the next one's, or destroyed; no slot is lost."""

    async def main() -> None:
        gone: list[Any] = []
        pool = AsyncObjectPool(list, max_size=1, on_destroy=gone.append)
        lease = await pool.get()
        waits = asyncio.ensure_future(_lease(pool))
        await turns()
        assert pool.health.waiting == 1
        if granted == "slot":
            await lease.discard()
        elif granted.startswith("object"):
            await lease.release()
        if granted.endswith("closed"):
            await pool.close()
        waits.cancel()  # in the same turn of the loop
        with pytest.raises(asyncio.CancelledError):
            await waits
        out = granted in ("nothing", "closed")
        gone_by_now = granted in ("slot", "object, then closed")
        assert counts(pool) == (int(granted == "object"), int(out), 0, 1, int(gone_by_now), 1, 0)
        assert len(gone) == gone_by_now
        await lease.release()
        if pool.closed:
            assert (pool.health.in_use, pool.health.destroyed, pool._slots) == (0, 1, 0)
            return
        async with pool.get(timeout=0):
            assert pool.health.created == 1 + (granted == "slot") and pool._slots == 1

    run(main)


async def _lease(pool: AsyncObjectPool[Any]) -> Any:
    return await pool.get()


@pytest.mark.parametrize("how", ["false", "error", "old"])
@pytest.mark.parametrize("by", ["get", "try_get"])
def test_what_is_of_no_use_is_not_given_out(how: str, by: str) -> None:
    """The next idle one is, or its slot is free for a new one."""

    async def main() -> None:
        clock, bad, gone = Clock(), list[Any](), list[Any]()
        stuck = ValueError("stuck")

        def validate(thing: Any) -> bool:
            if how == "error" and any(thing is each for each in bad):
                raise stuck
            return not any(thing is each for each in bad)

        pool = AsyncObjectPool(
            lambda: [len(gone)], validate=validate, max_size=2, ttl=10, clock=clock, on_destroy=gone.append
        )
        first = await pool.get()
        clock.now += 5 * (how == "old")
        second = await pool.get()
        good, worse = second.value, first.value
        await second.release()
        await first.release()  # which comes out first
        if how == "old":
            clock.now += 5
        else:
            bad.append(worse)
        again = await (pool.get(timeout=0) if by == "get" else pool.try_get())
        assert again.value is good and gone == [worse] and gone[0] is worse
        assert counts(pool) == (0, 1, 0, 2, 1, 3, int(how != "old"))
        assert pool.health.last_failure is (stuck if how == "error" else None)
        new = await pool.get(timeout=0)  # in the slot of the other
        assert new.value is not worse and pool.health.created == 3
        with pytest.raises(PoolExhausted):
            await pool.get(timeout=0)
        bad += [good, new.value]
        clock.now += 10 * (how == "old")
        await again.release()
        await new.release()
        assert await pool.try_get() is None
        assert counts(pool)[:5] == (0, 0, 0, 3, 3) and pool._slots == 0

    run(main)


@pytest.mark.parametrize("by", ["get", "try_get"])
def test_cancelled_while_what_is_of_no_use_is_destroyed(by: str) -> None:
    async def main() -> None:
        bad = [False]

        def destroy(thing: Any) -> None:
            raise asyncio.CancelledError

        pool = AsyncObjectPool(list, validate=lambda _: not bad[0], max_size=1, on_destroy=destroy)
        async with pool.get():
            pass
        bad[0] = True
        with pytest.raises(asyncio.CancelledError):
            await (pool.get() if by == "get" else pool.try_get())
        assert counts(pool) == (0, 0, 0, 1, 1, 1, 1) and pool._slots == 0
        bad[0] = False
        async with pool.get(timeout=0):
            assert pool.health.created == 2

    run(main)


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
def test_a_discarded_object(kind: type[BaseException]) -> None:
    """Its slot is free whatever its destruction does; a second time it is nothing."""

    async def main() -> None:
        def destroy(thing: Any) -> None:
            raise kind("stuck")

        pool = AsyncObjectPool(list, max_size=1, on_destroy=destroy)
        lease = await pool.get()
        if kind is ValueError:
            await lease.discard()
        else:
            with pytest.raises(kind):
                await lease.discard()
        assert counts(pool) == (0, 0, 0, 1, 1, 1, int(kind is ValueError)) and pool._slots == 0
        await lease.discard()
        await lease.release()
        assert pool.health.destroyed == 1 and pool._slots == 0
        with pytest.raises(StaleHandle, match="the object was given back"):
            _ = lease.value

    run(main)


@pytest.mark.parametrize("fails", ["reset", "on_checkin", "old", "closed", None])
def test_what_comes_back(fails: str | None) -> None:
    """It is reset, and told of, in this order; it is kept, or destroyed where any of that fails."""

    async def main() -> None:
        log, clock = list[str](), Clock()

        def called(name: str) -> Callable[[Any], Awaitable[None]]:
            async def call(thing: Any) -> None:
                await asyncio.sleep(0)
                log.append(name)
                if name == fails:
                    raise ValueError(name)

            return call

        hooks: dict[str, Any] = {
            name: called(name) for name in ("reset", "on_create", "on_checkout", "on_checkin", "on_destroy")
        }
        pool = AsyncObjectPool(list, max_size=1, ttl=10, clock=clock, **hooks)
        async with pool.get():
            clock.now += 9.999 + 0.001 * (fails == "old")
            if fails == "closed":
                await pool.close()
        kept = fails is None
        failed = fails in ("reset", "on_checkin")
        assert log == [
            *("on_create", "on_checkout", "reset"),
            *(("on_checkin",) if fails != "reset" else ()),
            *(() if kept else ("on_destroy",)),
        ]
        assert counts(pool) == (int(kept), 0, 0, 1, int(not kept), 1, int(failed))
        assert pool._slots == int(kept) and str(pool.health.last_failure) == (fails if failed else "None")

    run(main)


@pytest.mark.parametrize("fails", ["factory", "on_create", "on_checkout"])
def test_what_does_not_come_out(fails: str) -> None:
    """The error does; what was made is destroyed."""

    async def main() -> None:
        gone: list[Any] = []
        error = ValueError("not now")

        async def fail(*things: Any) -> Any:
            raise error

        callbacks: dict[str, Any] = {"factory": list, fails: fail}
        pool = AsyncObjectPool(max_size=1, on_destroy=gone.append, **callbacks)
        for turn in range(1, 3):
            with pytest.raises(ValueError, match="not now"):
                await pool.get(timeout=0)
            made = 0 if fails == "factory" else turn
            assert counts(pool) == (0, 0, 0, made, made, 0, turn) and len(gone) == made
            assert pool.health.last_failure is error and pool._slots == 0

    run(main)


def test_as_a_context_manager() -> None:
    async def main() -> None:
        gone: list[Any] = []
        pool = AsyncObjectPool(list, on_destroy=gone.append)
        async with pool as same:
            assert same is pool and pool.health.max_size == 8
            getting = pool.get()
            async with getting as thing:
                assert pool.health.in_use == 1 and repr(pool) == "<AsyncObjectPool 1 in use, 0 idle, of 8>"
            assert pool.health.idle == 1 and gone == []
        assert pool.closed and gone == [thing] and repr(pool) == "<AsyncObjectPool closed, 0 in use, 0 idle, of 8>"
        await pool.close()
        assert len(gone) == 1
        with pytest.raises(StaleHandle, match="AsyncObjectPool: is closed"):
            await pool.__aenter__()
        with pytest.raises(StaleHandle):
            async with pool.get():
                pass
        await AsyncObjectPool(list).get().__aexit__(None, None, None)  # it was not entered

    run(main)


@pytest.mark.parametrize("timeout", [None, 0, 0.0, 1])
def test_timeouts_that_are_some(timeout: float | None) -> None:
    async def main() -> None:
        async with AsyncObjectPool(list).get(timeout):
            pass
        async with AsyncObjectPool(list).get(timeout=timeout):
            pass

    run(main)
    for bad in (-0.001, float("inf"), float("nan"), True, "1"):
        with pytest.raises(ConfigError, match="^pool.get: timeout: takes seconds from 0 on, or None, not "):
            AsyncObjectPool(list).get(bad)  # type: ignore[arg-type]
