"""The reaper gives space back only after the metadata is durable, and never forgets a node."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from rainfs.array.array import Array
from rainfs.care.reaper import RETRY_S, Reaper
from rainfs.errors import MetadataError
from rainfs.meta.nodes import list_nodes
from rainfs.meta.stripes import tombstones
from tests.unit.care.world import World


class Recorder:
    """Notes the order of durable commits and deletes."""

    def __init__(self, world: World) -> None:
        self._durable = world.engine.durable
        self._world = world
        self.deletes_when_durable: list[int] = []
        self.failing = False

    async def durable(self) -> None:
        if self.failing:
            raise MetadataError("the disk failed")
        self.deletes_when_durable.append(sum(len(n.calls("delete")) for n in self._world.nodes))
        await self._durable()


async def reaper_over(world: World, nursery: trio.Nursery) -> Reaper:
    array = Array(world.volume.id, nursery, open_backend=world.fleet.open_backend)
    await array.set_nodes(await list_nodes(world.engine))
    return Reaper(world.engine, world.session, array)


async def test_nothing_is_deleted_before_the_metadata_is_durable(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    world = await World.make()
    await world.write_file(b"file")
    await world.delete_file(b"file")
    recorder = Recorder(world)
    monkeypatch.setattr(world.engine, "durable", recorder.durable)
    async with trio.open_nursery() as nursery:
        reaper = await reaper_over(world, nursery)
        recorder.failing = True
        with pytest.raises(MetadataError):
            await reaper.round()
        assert len(world.held()) == 1
        recorder.failing = False
        assert await reaper.round() == 1
        nursery.cancel_scope.cancel()
    assert recorder.deletes_when_durable == [0]
    assert world.held() == set()
    assert await tombstones(world.engine, 10) == []


async def test_a_node_that_is_away_is_told_when_it_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = await World.make()
    for name in (b"a", b"b"):
        await world.write_file(name)
    await world.delete_file(b"a")
    world.nodes[2].dead = True
    async with trio.open_nursery() as nursery:
        reaper = await reaper_over(world, nursery)
        nursery.start_soon(reaper.run)
        await trio.sleep(RETRY_S * 3)
        assert len(await tombstones(world.engine, 10)) == 1
        assert len(world.nodes[0].shards) == 1
        world.nodes[2].dead = False
        await world.delete_file(b"b")
        await trio.sleep(RETRY_S * 3)
        assert await tombstones(world.engine, 10) == []
        await reaper.stop()
        nursery.cancel_scope.cancel()
    assert world.held() == set()


async def test_a_stopped_reaper_deletes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    world = await World.make()
    await world.write_file(b"file")
    await world.delete_file(b"file")
    async with trio.open_nursery() as nursery:
        reaper = await reaper_over(world, nursery)
        await reaper.stop()
        assert await reaper.round() == 0
        nursery.cancel_scope.cancel()
    assert len(world.held()) == 1
