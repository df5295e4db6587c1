"""Object pools for coroutines."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nativemem.errors import ConfigError, PoolExhausted, StaleHandle
from nativemem.structures import AsyncObjectPool


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def both() -> Any:
        return await main()

    return asyncio.run(both())


async def turn() -> None:
    """All others have had theirs."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_callbacks_of_both_kinds() -> None:
    """POOLOBJ-2"""
    log: list[str] = []

    async def factory() -> list[int]:
        await asyncio.sleep(0)
        return []

    async def later(thing: list[int]) -> bool:
        log.append("later")
        return True

    async def main() -> None:
        pool: AsyncObjectPool[list[int]] = AsyncObjectPool(
            factory,
            reset=list.clear,
            validate=later,
            max_size=1,
            on_destroy=later,
            on_checkout=lambda _: log.append("out"),
        )
        async with pool.get() as first:
            first.append(1)
        lease = await pool.get()
        assert lease.value is first == [] and pool.health.in_use == 1
        await lease.release()
        await lease.release()
        with pytest.raises(StaleHandle):
            _ = lease.value
        await pool.close()
        assert log == ["out", "later", "out", "later"]
        with pytest.raises(StaleHandle):
            await pool.get()
        with pytest.raises(StaleHandle):
            await pool.try_get()

    run(main)


def test_waiting_in_order_and_being_cancelled() -> None:
    """POOLOBJ-2: a task that is cancelled takes nothing with it."""

    async def main() -> None:
        pool = AsyncObjectPool(list, max_size=1)
        order = []

        async def work(number: int) -> None:
            async with pool.get():
                order.append(number)
                await asyncio.sleep(0)

        lease = await pool.get()
        tasks = [asyncio.ensure_future(work(number)) for number in range(4)]
        await turn()
        assert pool.health.waiting == 4 and await pool.try_get() is None
        tasks[1].cancel()
        await turn()
        assert pool.health.waiting == 3
        await lease.release()
        tasks[0].cancel()  # it was granted the object by now
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [2, 3] and pool.health.in_use == 0 and pool.health.idle == 1
        assert tasks[0].cancelled() and tasks[1].cancelled()

    run(main)


def test_a_timeout_and_a_shutdown() -> None:
    """POOLOBJ-2"""

    async def main() -> None:
        pool = AsyncObjectPool(list, max_size=1)
        async with await pool_guard(pool) as closed:
            lease = await closed.get()
            for timeout in (0, 0.001):
                with pytest.raises(PoolExhausted, match="AsyncObjectPool: all 1 objects"):
                    await closed.get(timeout=timeout)
            waits = asyncio.ensure_future(_take(closed))
            await turn()
        with pytest.raises(StaleHandle):
            await waits
        await lease.release()
        assert pool.health.destroyed == 1 and pool.health.in_use == 0

    async def pool_guard(pool: Any) -> Any:
        return pool

    async def _take(pool: Any) -> None:
        await pool.get()

    run(main)


@pytest.mark.parametrize("callback", ["factory", "on_create", "on_checkout", "validate", "reset", "on_destroy"])
@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
def test_no_slot_is_lost(callback: str, kind: type[BaseException]) -> None:
    """POOLOBJ-2: whatever fails, or is cancelled in the midst of it."""

    async def main() -> None:
        fails = False

        async def fail(*things: Any) -> Any:
            await asyncio.sleep(0)
            if fails:
                raise kind("not now")
            return [1]

        callbacks: dict[str, Any] = {"factory": lambda: [1], callback: fail}
        pool = AsyncObjectPool(max_size=1, **callbacks)
        async with pool.get():
            pass
        fails = True
        if callback in ("factory", "on_create", "on_destroy"):
            gone = await pool.get()
            try:
                await gone.discard()
            except asyncio.CancelledError:
                assert callback == "on_destroy"
        came_out = False
        try:
            async with pool.get(timeout=0):
                pass
        except kind:
            came_out = True
        if kind is ValueError:  # what is done with the object by the way is counted
            assert came_out is (callback in ("factory", "on_create", "on_checkout"))
        assert pool.health.in_use == 0
        fails = False
        async with pool.get(timeout=0):
            assert pool.health.in_use == 1

    run(main)


def test_a_lease_that_was_dropped() -> None:
    """POOLOBJ-3"""

    async def main() -> None:
        pool = AsyncObjectPool(list, max_size=1)
        lease = await pool.get()
        waits = asyncio.ensure_future(_hold(pool))
        await turn()
        del lease
        gc.collect()
        assert await asyncio.wait_for(waits, 60) == []
        assert pool.health.leaked == 1 and pool.health.leak_rate == 0.5 and pool.health.utilization == 0.0

    async def _hold(pool: AsyncObjectPool[list[int]]) -> list[int]:
        async with pool.get() as thing:
            return thing

    run(main)


def test_what_is_old_or_not_valid() -> None:
    async def main() -> None:
        now, bad = [0.0], []
        pool = AsyncObjectPool(list, validate=lambda thing: not bad, ttl=5, clock=lambda: now[0], max_size=1)
        async with pool.get():
            now[0] = 5
        assert pool.health.destroyed == 1
        async with pool.get():
            pass
        bad.append(1)
        assert await pool.try_get() is None
        assert pool.health.failures == 1 and pool.health.destroyed == 2

    run(main)


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="pool.factory"):
        AsyncObjectPool(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout"):
        AsyncObjectPool(list).get(timeout=-1)
