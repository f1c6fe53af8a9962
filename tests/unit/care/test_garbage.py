"""`rainfs gc` takes what nobody owns, and nothing that somebody may come to own."""

from __future__ import annotations

from rainfs.care.garbage import Collected, Collector, Settled, garbage_among
from rainfs.meta.sessions import Session, SessionRow
from rainfs.meta.stripes import tombstones
from rainfs.model import NodeNumber, Placement, ShardInfo, ShardKey, StripeId, stripe_id
from tests.unit.care.world import World


def shard(stripe: StripeId, index: int = 0) -> ShardInfo:
    return ShardInfo(ShardKey(stripe, index), 4096, True, b"")


def row(epoch: int, low_water: StripeId) -> SessionRow:
    return SessionRow(epoch, True, low_water, "/mnt", 1)


async def collect(world: World, ended_epoch: int = 0) -> Collected:
    return await Collector(world.engine, world.backends, ended_epoch=ended_epoch).run()


def test_ids_of_a_living_session_are_settled_below_its_low_water_mark_only() -> None:
    settled = Settled(2)
    settled.update([row(4, stripe_id(4, 10))])
    assert settled(stripe_id(2, 999))
    assert settled(stripe_id(3, 999))
    assert settled(stripe_id(4, 9))
    assert not settled(stripe_id(4, 10))
    assert not settled(stripe_id(5, 0))


def test_a_session_that_was_seen_and_is_gone_has_ended() -> None:
    settled = Settled(0)
    settled.update([row(4, stripe_id(4, 0))])
    assert not settled(stripe_id(4, 5))
    settled.update([])
    assert settled(stripe_id(4, 5))
    assert not settled(stripe_id(5, 0))


def test_a_shard_is_garbage_when_unowned_or_misplaced() -> None:
    owned, misplaced, orphan = (stripe_id(1, n) for n in range(3))
    owners = {
        owned: Placement((NodeNumber(1), NodeNumber(2))),
        misplaced: Placement((NodeNumber(2), NodeNumber(1))),
    }
    listed = [shard(owned), shard(owned, 1), shard(owned, 2), shard(misplaced), shard(orphan)]
    garbage = garbage_among(listed, NodeNumber(1), owners, lambda stripe: True)
    assert garbage == [shard(owned, 1), shard(owned, 2), shard(misplaced), shard(orphan)]
    assert garbage_among(listed, NodeNumber(1), owners, lambda stripe: False) == []


async def test_shards_in_flight_are_left_alone_until_they_are_settled() -> None:
    world = await World.make()
    _, kept = await world.write_file(b"kept")
    in_flight = await world.put_shards(world.session.next_stripe())
    await world.session.publish()
    done = await collect(world)
    assert done.shards_deleted == 0
    assert world.held() == {kept.id, in_flight.id}
    world.session.settle(in_flight.id)
    await world.session.publish()
    done = await collect(world)
    assert (done.shards_deleted, done.bytes_deleted) == (3, 3 * 4096)
    assert world.held() == {kept.id}


async def test_what_an_ended_session_left_is_deleted() -> None:
    world = await World.make()
    _, kept = await world.write_file(b"kept")
    await world.put_shards(world.session.next_stripe())
    await world.session.end()
    assert (await collect(world)).shards_deleted == 0
    session = await Session.begin(world.engine, read_only=False, mountpoint="")
    await session.end()
    assert (await collect(world, session.epoch)).shards_deleted == 3
    assert world.held() == {kept.id}


async def test_tombstones_are_buried_and_those_of_unreachable_nodes_stay() -> None:
    world = await World.make()
    await world.write_file(b"file")
    await world.delete_file(b"file")
    world.nodes[1].dead = True
    done = await collect(world)
    assert list(done.unreachable) == [NodeNumber(2)]
    assert len(await tombstones(world.engine, 10)) == 1
    world.nodes[1].dead = False
    done = await collect(world)
    assert done.stripes_buried == 1
    assert world.held() == set()
    assert await tombstones(world.engine, 10) == []


async def test_progress_counts_to_all_shards() -> None:
    world = await World.make()
    for number in range(5):
        await world.write_file(b"%d" % number)
    seen: list[tuple[int, int]] = []
    collector = Collector(
        world.engine,
        world.backends,
        ended_epoch=0,
        progress=lambda done, expected: seen.append((done, expected)),
    )
    await collector.run()
    assert seen[-1] == (15, 15)
