"""Object pools for threads."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nativemem.errors import ConfigError, PoolExhausted, StaleHandle
from nativemem.structures import ObjectPool


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Thing:
    """Counts what is done to it."""

    made = 0

    def __init__(self) -> None:
        Thing.made += 1
        self.number = Thing.made
        self.log: list[str] = []


def hooks(log: list[str]) -> dict[str, Any]:
    return {
        f"on_{name}": lambda thing, name=name: log.append(name)
        for name in ("create", "checkout", "checkin", "destroy")
    }


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    while not condition():
        threading.Event().wait(0.001)


def test_the_last_one_in_comes_out_first() -> None:
    """POOLOBJ-1"""
    pool = ObjectPool(Thing, max_size=3)
    first, second = pool.get(), pool.get()
    a, b = first.value, second.value
    assert a is not b
    first.release()
    second.release()
    with pool.get() as again:
        assert again is b
        with pool.get() as other:
            assert other is a
    assert pool.health.created == 2 and pool.health.checkouts == 4


def test_a_lease_ends_once() -> None:
    pool = ObjectPool(Thing)
    lease = pool.get()
    lease.release()
    lease.release()
    lease.discard()
    assert pool.health.idle == 1 and pool.health.in_use == 0
    with pytest.raises(StaleHandle, match="given back"):
        _ = lease.value


def test_the_hooks_in_their_order() -> None:
    """POOLOBJ-1"""
    log: list[str] = []
    pool = ObjectPool(
        Thing,
        reset=lambda thing: log.append("reset"),
        validate=lambda thing: log.append("validate") or True,
        **hooks(log),
    )
    with pool.get():
        pass
    with pool.get():
        pass
    pool.close()
    assert log == [
        *("create", "checkout", "reset", "checkin"),
        *("validate", "checkout", "reset", "checkin", "destroy"),
    ]


@pytest.mark.parametrize("how", ["false", "error"])
def test_what_is_not_valid_is_destroyed(how: str) -> None:
    """POOLOBJ-1"""
    bad: list[Thing] = []
    log: list[str] = []

    def validate(thing: Thing) -> bool:
        if thing in bad and how == "error":
            raise KeyError(thing.number)
        return thing not in bad

    pool = ObjectPool(Thing, validate=validate, max_size=2, **hooks(log))
    leases = [pool.get(), pool.get()]
    bad.append(leases[1].value)
    good = leases[0].value
    for lease in leases:
        lease.release()
    with pool.get() as thing:
        assert thing is good
        health = pool.health
        assert log.count("destroy") == health.destroyed == health.failures == 1
        assert health.idle == 0 and isinstance(health.last_failure, KeyError) == (how == "error")
        with pool.get(timeout=0) as new:  # its slot is free
            assert new is not bad[0]
    bad[:] = [good, new]
    assert pool.try_get() is None  # never makes one
    assert pool.health.idle == 0 and pool.health.created == 3
    assert pool.health.failure_rate == 3 / 7


@pytest.mark.parametrize("callback", ["reset", "on_checkin"])
def test_what_cannot_be_reset_is_destroyed(callback: str) -> None:
    """POOLOBJ-1"""

    def fail(thing: Thing) -> None:
        raise ValueError("stuck")

    destroyed: list[Thing] = []
    pool: ObjectPool[Thing] = ObjectPool(Thing, max_size=1, on_destroy=destroyed.append, **{callback: fail})
    for turn in range(3):
        with pool.get(timeout=0) as thing:
            pass
        assert destroyed[turn] is thing and pool.health.idle == 0
    assert pool.health.failures == 3 and str(pool.health.last_failure) == "stuck"


@pytest.mark.parametrize("callback", ["factory", "on_create", "on_checkout"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_fails_on_the_way_out_comes_out(callback: str, kind: type[BaseException]) -> None:
    """POOLOBJ-1: and its slot is free."""
    fails = True

    def fail(*things: Thing) -> Thing:
        if fails:
            raise kind("not now")
        return Thing()

    callbacks: dict[str, Any] = {"factory": Thing, callback: fail}
    pool = ObjectPool(max_size=1, **callbacks)
    for _ in range(3):
        with pytest.raises(kind, match="not now"):
            pool.get(timeout=0)
    assert pool.health.in_use == pool.health.idle == 0 and pool.health.failures == 3
    assert pool.health.created == pool.health.destroyed
    fails = False
    with pool.get(timeout=0):
        assert pool.health.in_use == 1


def test_an_interrupt_in_a_validation() -> None:
    def interrupt(thing: Thing) -> bool:
        raise KeyboardInterrupt

    pool = ObjectPool(Thing, validate=interrupt, max_size=1)
    with pool.get():
        pass
    with pytest.raises(KeyboardInterrupt):
        pool.get()
    assert pool.health.idle == 0 and pool.health.destroyed == 1
    with pool.get(timeout=0):
        pass


def test_a_destructor_that_fails_is_counted() -> None:
    def fail(thing: Thing) -> None:
        raise OSError("gone already")

    pool = ObjectPool(Thing, on_destroy=fail)
    pool.get().discard()
    assert pool.health.failures == 1 and pool.health.destroyed == 1 and pool.health.in_use == 0


def test_an_error_in_the_block_comes_out_and_the_object_goes_back() -> None:
    pool = ObjectPool(Thing)
    with pytest.raises(LookupError):
        with pool.get():
            raise LookupError
    assert pool.health.idle == 1


def test_objects_grow_old() -> None:
    """POOLOBJ-1"""
    clock = Clock()
    pool = ObjectPool(Thing, ttl=10, clock=clock)
    with pool.get() as first:
        clock.now += 9
    with pool.get() as again:
        assert again is first
        clock.now += 1
    assert pool.health.destroyed == 1 and pool.health.idle == 0  # when it came back
    with pool.get() as other:
        pass
    clock.now += 10
    with pool.get() as new:
        assert new is not other  # before it went out
    assert pool.health.failures == 0


def test_one_that_waits_gets_what_comes_back() -> None:
    """POOLOBJ-1: in the order in which they came."""
    pool = ObjectPool(Thing, max_size=1)
    order: list[int] = []
    lease = pool.get()
    thing = lease.value

    def work(number: int) -> None:
        with pool.get(timeout=60) as mine:
            assert mine is thing
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: pool.health.waiting == number + 1)  # type: ignore[misc]
    assert pool.try_get() is None
    lease.release()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2] and pool.health.created == 1


def test_one_that_waits_gets_a_slot_that_was_freed() -> None:
    pool = ObjectPool(Thing, max_size=1)
    lease = pool.get()
    got: list[int] = []

    def work() -> None:
        with pool.get(timeout=60) as mine:
            got.append(mine.number)

    for end in (lease.discard, None):
        thread = threading.Thread(target=work)
        thread.start()
        until(lambda: pool.health.waiting == 1)
        if end is not None:
            end()
        else:
            del lease  # leaked: the other may make one all the same
            gc.collect()
        thread.join()
        lease = pool.get()
    assert len(got) == 2 and pool.health.leaked == 1 and pool.health.leak_rate > 0


def test_nothing_comes_back_in_time() -> None:
    pool = ObjectPool(Thing, max_size=2)
    with pool.get(), pool.get():
        for timeout in (0, 0.001):
            with pytest.raises(
                PoolExhausted, match="all 2 objects are in use, and none came back within"
            ) as caught:
                pool.get(timeout=timeout)
        assert caught.value.state["limit"] == 2 and pool.health.waiting == 0
        assert pool.health.utilization == 1.0
    assert pool.health.utilization == 0.0


def test_a_shutdown_wakes_those_that_wait() -> None:
    """POOLOBJ-1"""
    log: list[str] = []
    pool = ObjectPool(Thing, max_size=2, **hooks(log))
    lease, other = pool.get(), pool.get()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pool.get()
        except StaleHandle as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: pool.health.waiting == 2)
    pool.close()
    for thread in threads:
        thread.join()
    assert len(errors) == 2 and "ObjectPool: is closed" in str(errors[0]) and pool.closed
    lease.release()
    assert log.count("destroy") == 1
    other.release()
    pool.close()
    assert log.count("destroy") == 2 and pool.health.in_use == 0
    for use in (pool.get, pool.try_get, pool.__enter__):
        with pytest.raises(StaleHandle):
            use()


def test_a_lease_that_is_dropped() -> None:
    """Its slot is free, for one that waits too; in the midst of a call it is settled as soon as that has ended."""
    pool = ObjectPool(Thing, max_size=1)
    lease = pool.get()
    del lease
    gc.collect()
    lease = pool.get(timeout=0)
    assert (pool.health.leaked, pool.health.in_use) == (1, 1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(pool.get(timeout=60).value.number))
    thread.start()
    until(lambda: pool.health.waiting == 1)
    with pool._lock:
        del lease
        gc.collect()
        assert pool._leaked == 1
    thread.join()
    gc.collect()  # its own lease, which it dropped
    assert found and (pool.health.leaked, pool.health.in_use) == (3, 0)
    with pool.get(timeout=0):
        assert pool.try_get() is None


def test_as_a_context_manager() -> None:
    with ObjectPool(Thing) as pool:
        with pool.get():
            assert repr(pool) == "<ObjectPool 1 in use, 0 idle, of 8>"
    assert repr(pool) == "<ObjectPool closed, 0 in use, 0 idle, of 8>"


def test_never_more_than_there_may_be() -> None:
    """POOLOBJ-1: whatever fails, under contention."""
    lock = threading.Lock()
    alive = most = 0

    def made() -> list[int]:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return [0]

    def gone(thing: list[int]) -> None:
        nonlocal alive
        with lock:
            alive -= 1

    pool = ObjectPool(made, validate=lambda thing: thing[0] < 5, max_size=3, on_destroy=gone)

    def work() -> None:
        for turn in range(200):
            lease = pool.get(timeout=60)
            lease.value[0] += 1
            (lease.discard if turn % 7 == 0 else lease.release)()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    health = pool.health
    assert most <= 3 and health.in_use == 0 and health.waiting == 0 and health.idle == alive
    assert health.checkouts == 1200 and health.created - health.destroyed == alive


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        ({"factory": 3}, "pool.factory"),
        ({"factory": Thing, "reset": 3}, "pool.reset"),
        ({"factory": Thing, "on_destroy": "x"}, "pool.on_destroy"),
        ({"factory": Thing, "max_size": 0}, "pool.max_size"),
        ({"factory": Thing, "max_size": "3x"}, "pool.max_size"),
        ({"factory": Thing, "ttl": -1}, "pool.ttl"),
        ({"factory": Thing, "ttl": float("nan")}, "pool.ttl"),
        ({"factory": Thing, "clock": 1}, "pool.clock"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], label: str) -> None:
    with pytest.raises(ConfigError, match=label):
        ObjectPool(**arguments)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), float("inf"), True])
def test_bad_timeouts(timeout: Any) -> None:
    pool = ObjectPool(Thing)
    with pytest.raises(ConfigError, match="pool.get: timeout"):
        pool.get(timeout=timeout)
    assert pool.health.in_use == 0
    with pytest.raises(TypeError, match="cannot copy"):
        copy.copy(pool)


@pytest.mark.parametrize("granted", ["nothing", "object", "slot", "closed", "object, then closed"])
def test_an_interrupt_while_it_waits(monkeypatch: pytest.MonkeyPatch, granted: str) -> None:
    """POOLOBJ-1: what it was granted meanwhile is the next one's."""
    pool = ObjectPool(Thing, max_size=1)
    lease = pool.get()

    class Event:
        def set(self) -> None:
            pass

        def wait(self, timeout: float | None) -> bool:
            if granted == "slot":
                lease.discard()
            elif granted.startswith("object"):
                lease.release()
            if granted.endswith("closed"):
                pool.close()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Event", Event)
    with pytest.raises(KeyboardInterrupt):
        pool.get()
    monkeypatch.undo()
    health = pool.health
    assert health.waiting == 0 and health.in_use == (granted in ("nothing", "closed"))
    assert (health.idle, health.created, health.destroyed) == (
        int(granted == "object"), 1, int(granted in ("slot", "object, then closed"))
    )  # fmt: skip
    if not pool.closed:
        lease.release()
        with pool.get(timeout=0):
            assert pool.health.created == 1 + (granted == "slot")
    else:
        lease.release()
        assert (pool.health.in_use, pool.health.destroyed) == (0, 1)
    assert pool._slots == int(not pool.closed)


def test_a_lease_is_not_counted_as_leaked_by_the_exit() -> None:
    """Finalizers that are left would run there, into pools that are half gone."""
    with ObjectPool(Thing) as pool:
        lease = pool.get()
        assert lease._dropped.alive and not lease._dropped.atexit
        lease.release()
        assert not lease._dropped.alive
