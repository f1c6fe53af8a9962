"""Background rewriting: within its bandwidth, after the clients, never waiting for ever."""

from __future__ import annotations

import trio
import trio.testing

from rainfs.care.pace import DEFERENCE_S, IDLE_S, Pace
from rainfs.model import MIB
from tests.unit.care.mounts import Clients


def never() -> bool:
    return False


async def busy(clients: Clients) -> None:
    while True:
        clients.requests += 1
        await trio.sleep(IDLE_S / 2)


async def test_idle_clients_leave_it_the_bandwidth_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = Pace(Clients(), 4 * MIB)
    begun = trio.current_time()
    for _ in range(21):
        await pace.turn(2 * MIB, never)
    # The last turn is over when it begins, and each one looks for a moment whether clients rest.
    assert 10.0 <= trio.current_time() - begun <= 10.0 + 21 * 2 * IDLE_S


async def test_busy_clients_come_first_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clients = Clients()
    pace = Pace(clients, 1000 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, clients)
        begun = trio.current_time()
        await pace.turn(MIB, never)
        assert DEFERENCE_S <= trio.current_time() - begun <= DEFERENCE_S + 1
        nursery.cancel_scope.cancel()


async def test_it_goes_on_as_soon_as_clients_rest(autojump_clock: trio.testing.MockClock) -> None:
    clients = Clients()
    pace = Pace(clients, 1000 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, clients)
        begun = trio.current_time()

        async def rest() -> None:
            await trio.sleep(3)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as inner:
            inner.start_soon(rest)
            with trio.CancelScope(shield=True):
                await pace.turn(MIB, never)
                assert 3 <= trio.current_time() - begun <= 3 + 3 * IDLE_S


async def test_much_garbage_waits_for_no_client_but_keeps_to_the_bandwidth(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clients = Clients()
    pace = Pace(clients, 1 * MIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, clients)
        begun = trio.current_time()
        for _ in range(5):
            await pace.turn(MIB, lambda: True)
        assert 4 <= trio.current_time() - begun <= 4.1
        nursery.cancel_scope.cancel()


async def test_without_room_nothing_waits(autojump_clock: trio.testing.MockClock) -> None:
    clients = Clients()
    clients.pressed = True
    pace = Pace(clients, 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, clients)
        begun = trio.current_time()
        for _ in range(100):
            await pace.turn(MIB, never)
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()
