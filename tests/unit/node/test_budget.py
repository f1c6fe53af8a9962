"""Budgets: never more than the limit, in order, and nothing is lost by cancelling."""

from __future__ import annotations

import random

import trio
from trio.testing import wait_all_tasks_blocked

from rainfs.node.budget import Budget


async def test_it_lends_up_to_its_limit() -> None:
    budget = Budget(100)
    assert budget.take_nowait(60)
    assert not budget.take_nowait(41)
    assert budget.take_nowait(40)
    budget.give(60)
    assert budget.used_bytes == 40


async def test_waiters_are_served_in_order_and_a_small_one_does_not_overtake() -> None:
    budget = Budget(100)
    assert budget.take_nowait(80)
    served: list[int] = []

    async def want(nbytes: int) -> None:
        await budget.take(nbytes)
        served.append(nbytes)

    async with trio.open_nursery() as nursery:
        for nbytes in (90, 10, 5):
            nursery.start_soon(want, nbytes)
            await wait_all_tasks_blocked()
        assert not budget.take_nowait(1)
        assert served == []
        budget.give(80)
        await wait_all_tasks_blocked()
        # Woken together, they run in any order.
        assert set(served) == {90, 10}
        budget.give(10)
    assert served[2] == 5


async def test_a_waiter_that_leaves_lets_the_next_one_in() -> None:
    budget = Budget(100)
    assert budget.take_nowait(50)
    leaving = trio.CancelScope()

    async def leave() -> None:
        with leaving:
            await budget.take(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await wait_all_tasks_blocked()
        nursery.start_soon(budget.take, 50)
        await wait_all_tasks_blocked()
        assert budget.used_bytes == 50
        leaving.cancel()
    assert budget.used_bytes == 100


async def test_wait_idle_returns_when_all_is_back() -> None:
    budget = Budget(10)
    await budget.wait_idle()
    assert budget.take_nowait(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.wait_idle)
        await wait_all_tasks_blocked()
        budget.give(10)


async def test_random_takes_and_cancels_keep_the_books() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    budget = Budget(100)
    held = 0

    async def worker() -> None:
        nonlocal held
        for _ in range(50):
            nbytes = rng.randint(1, 100)
            with trio.move_on_after(rng.choice([0, 0.0001, 1])):
                await budget.take(nbytes)
                held += nbytes
                assert held <= 100
                try:
                    await trio.lowlevel.checkpoint()
                finally:
                    held -= nbytes
                    budget.give(nbytes)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(worker)
    assert budget.used_bytes == 0
    assert budget.take_nowait(100)
