"""A mount does for gc what only it can, and says how far it is."""

from __future__ import annotations

from random import Random

import trio
import trio.testing

from rainfs.care.errands import Errands
from rainfs.meta import requests
from rainfs.meta.records import CareAnswer, CareRequest
from rainfs.meta.stripes import tombstones
from rainfs.model import NodeNumber, ShardKey, stripe_id
from tests.unit.care.mounts import Cared, cared
from tests.unit.care.test_compaction import SIZE, overwritten
from tests.unit.vfs.rig import Disk, assert_sound


async def asked(care: Cared, request: CareRequest) -> CareAnswer:
    """Ask, serve, and return the last answer."""
    errands = Errands(care.disk.engine, care.session, care.mount.array, care.caretaker)
    assert await requests.ask(care.disk.engine, care.session.epoch, request)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(errands.run)
        while True:
            said = await requests.answered(care.disk.engine, care.session.epoch, request)
            if said is not None and said.finished:
                nursery.cancel_scope.cancel()
                return said
            await trio.sleep(0.1)


async def test_a_request_compacts_and_sweeps(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(1))
        stray = ShardKey(stripe_id(0, 7), 0)
        for number in (1, 2):
            backend = care.mount.array.backend(NodeNumber(number))
            assert backend is not None
            await backend.put(stray, [bytes(4096)], durable=True)
        said = await asked(care, CareRequest(1, sweep=(NodeNumber(1),)))
        assert said.error == ""
        assert said.stripes_rewritten > 0
        assert said.shards_deleted >= 1
        assert stray not in disk.fleet.nodes[0].shards
        assert stray in disk.fleet.nodes[1].shards, "only what was asked for is swept"
        # Tombstones are buried on all nodes, not only on those that are swept.
        assert await tombstones(disk.engine, 10) == []
        live = await care.stripes()
        held = {key.stripe for node in disk.fleet.nodes for key in node.shards} - {stray.stripe}
        assert held == set(live)
        assert await care.mount.read(handle, 0, SIZE) == content
        again = await asked(care, CareRequest(2))
        assert again.stripes_rewritten == 0
    await assert_sound(disk)


async def test_a_request_that_fails_is_answered_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        await overwritten(care, Random(2))
        care.clients.room = False
        said = await asked(care, CareRequest(1))
        assert said.finished
        assert "no room" in said.error


async def test_a_request_that_the_end_of_the_mount_cuts_short_is_not_called_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        await overwritten(care, Random(3))
        for node in disk.fleet.nodes:
            node.delay_s["put"] = 1.0

        async def end() -> None:
            await trio.sleep(0.9)
            care.caretaker.stop()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            said = await asked(care, CareRequest(1))
        assert "the session ends" in said.error
    await assert_sound(disk)
