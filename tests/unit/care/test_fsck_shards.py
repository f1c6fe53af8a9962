"""Missing, wrong and misplaced shards are found, mended from the others, and lost ones reported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rainfs.care.fsck import Stage, check, repair
from rainfs.errors import NodeFull, NodeUnavailable
from rainfs.meta import keys
from rainfs.meta.checking_findings import Kind
from rainfs.meta.records import STATES
from rainfs.meta.sessions import Session
from rainfs.model import NO_NODE, PAGE_BYTES, NodeNumber, ShardKey, StripeId, stripe_id
from tests.unit.care.fsck_world import FsckWorld, populated

IGNORED = {keys.NEXT_EPOCH}


def placement(world: FsckWorld, name: str) -> tuple[NodeNumber, ...]:
    return STATES.decode(world.rows[keys.state_key(world.stripes[name])]).nodes


def shards_of(world: FsckWorld, name: str) -> Iterator[tuple[int, ShardKey]]:
    """Yield the node's number and the key of each shard."""
    for index, node in enumerate(placement(world, name)):
        yield node, ShardKey(world.stripes[name], index)


def place(world: FsckWorld, name: str, nodes: tuple[int, ...]) -> None:
    key = keys.state_key(world.stripes[name])
    old = STATES.decode(world.rows[key])
    numbers = tuple(NodeNumber(node) for node in nodes)
    world.rows[key] = STATES.encode(type(old)(numbers, old.live_bytes, old.born_bytes))


async def mended(world: FsckWorld, kinds: set[Kind]) -> None:
    """Find exactly that, repair it, and find nothing any more."""
    found = await check(world.engine, world.backends())
    assert set(found.all_findings.counts) == kinds, found.findings
    done = await repair(world.engine, world.backends())
    assert done.after.clean, done.after.findings
    assert done.settled > 0
    again = await check(world.engine, world.backends())
    assert again.clean
    assert again.shards is not None
    assert again.shards.unchecked == 0


def rows_but_sessions(world: FsckWorld) -> dict[bytes, bytes]:
    return {key: raw for key, raw in world.copy().items() if key not in IGNORED}


async def test_a_sound_volume_is_clean_and_every_shard_was_looked_at() -> None:
    world = await populated()
    seen: list[tuple[Stage, int, int | None]] = []
    report = await check(
        world.engine, world.backends(), progress=lambda *values: seen.append(values)
    )
    assert report.clean
    assert report.shards is not None
    placed = sum(
        node != NO_NODE
        for key, raw in world.rows.items()
        if key[:1] == b"P"
        for node in STATES.decode(raw).nodes
    )
    assert report.shards.checked == placed
    assert report.shards.garbage == report.shards.unchecked == report.shards.degraded == 0
    assert not report.hurt
    assert seen[-1] == (Stage.STRIPES, 4, 4)


@pytest.mark.parametrize("index", range(3))
async def test_a_missing_shard_is_put_back_where_it_was(index: int) -> None:
    world = await populated()
    held, rows = world.shards(), rows_but_sessions(world)
    node, key = list(shards_of(world, "first"))[index]
    world.fleet[node - 1].drop(key)
    await mended(world, {Kind.SHARDS})
    assert world.shards() == held
    assert rows_but_sessions(world) == rows


async def test_a_lost_copy_of_a_mirrored_stripe_is_put_back() -> None:
    world = await populated()
    held = world.shards()
    for node, key in list(shards_of(world, "third"))[:1]:
        world.fleet[node - 1].drop(key)
    await mended(world, {Kind.SHARDS})
    assert world.shards() == held


async def test_a_wiped_node_gets_all_its_shards_again() -> None:
    world = await populated()
    held, rows = world.shards(), rows_but_sessions(world)
    node = placement(world, "first")[0]
    owned = {
        (number, key)
        for name in world.stripes
        if keys.state_key(world.stripes[name]) in world.rows
        for number, key in shards_of(world, name)
    }
    world.fleet[node - 1].wipe()
    await mended(world, {Kind.SHARDS})
    assert {at: content for at, content in world.shards().items() if at in owned} == {
        at: content for at, content in held.items() if at in owned
    }
    assert rows_but_sessions(world) == rows


@pytest.mark.parametrize("wrong", ["length", "description"])
async def test_another_shard_under_that_name_is_replaced(wrong: str) -> None:
    world = await populated()
    held = world.shards()
    node, key = next(shards_of(world, "first"))
    there = world.fleet[node - 1].shards[key]
    if wrong == "length":
        there.payload = there.payload + bytes(PAGE_BYTES)
    else:
        there.about = b"something else"
    await mended(world, {Kind.SHARDS})
    assert world.shards() == held


async def test_a_shard_goes_to_another_node_when_its_own_has_no_room() -> None:
    world = await populated()
    node, key = next(shards_of(world, "first"))
    world.fleet[node - 1].drop(key)
    world.fleet[node - 1].full = True
    await mended(world, {Kind.SHARDS})
    moved = placement(world, "first")
    assert moved[0] != node
    assert len(set(moved)) == len(moved)
    assert key in world.fleet[moved[0] - 1].shards


async def test_a_shard_that_finds_no_node_is_left_and_said() -> None:
    world = await populated(nodes=3)
    node, key = next(shards_of(world, "first"))
    world.fleet[node - 1].drop(key)
    world.fleet[node - 1].fail("put", NodeFull("full"), times=99)
    rows = rows_but_sessions(world)
    done = await repair(world.engine, world.backends())
    assert set(done.after.all_findings.counts) == {Kind.SHARDS}
    assert rows_but_sessions(world) == rows


@pytest.mark.parametrize("nodes", [(), (9, 9, 9), (1, 1, 2), (0, 0, 0)])
async def test_shards_that_are_recorded_wrong_are_found_on_their_nodes(
    nodes: tuple[int, ...],
) -> None:
    world = await populated()
    held, rows = world.shards(), rows_but_sessions(world)
    right = placement(world, "first")
    place(world, "first", nodes)
    found = await check(world.engine, world.backends())
    assert not found.clean
    done = await repair(world.engine, world.backends())
    assert done.after.clean, done.after.findings
    assert set(world.shards()) >= set(held)
    if nodes == (0, 0, 0):
        assert placement(world, "first") == right
    if not nodes:
        assert rows_but_sessions(world) == rows


@pytest.mark.parametrize("damage", ["gone", "unreadable"])
async def test_a_stripe_that_does_not_say_where_it_lies_is_asked_for(damage: str) -> None:
    world = await populated()
    held, rows = world.shards(), rows_but_sessions(world)
    key = keys.state_key(world.stripes["first"])
    if damage == "gone":
        del world.rows[key]
    else:
        world.rows[key] = b"\xc1"
    await mended(world, {Kind.PLACEMENT})
    assert rows_but_sessions(world) == rows
    assert world.shards() == held


async def test_what_is_lost_beyond_parity_is_reported_and_never_dropped() -> None:
    world = await populated()
    for node, key in list(shards_of(world, "first"))[:2]:
        world.fleet[node - 1].drop(key)
    rows, held = rows_but_sessions(world), world.shards()
    found = await check(world.engine, world.backends())
    assert set(found.all_findings.counts) == {Kind.STRIPE_LOST}
    assert found.all_findings.lost == 1
    done = await repair(world.engine, world.backends())
    assert set(done.after.all_findings.counts) == {Kind.STRIPE_LOST}
    assert rows_but_sessions(world) == rows
    assert world.shards() == held
    assert set(done.after.hurt) <= {b"/plain", b"/linked", b"/dir/other"}
    assert done.after.hurt


async def test_only_files_with_blocks_in_lost_shards_are_listed() -> None:
    world = await populated()
    for node, key in shards_of(world, "third"):
        world.fleet[node - 1].drop(key)
    found = await check(world.engine, world.backends())
    assert list(found.hurt) == [b"/dir/sub/deep"]


async def test_files_of_a_stripe_without_a_row_are_listed_by_all_their_names() -> None:
    world = await populated()
    del world.rows[keys.stripe_key(world.stripes["first"])]
    found = await check(world.engine)
    assert list(found.hurt) == [b"/dir/other", b"/linked", b"/plain"]


async def test_silent_nodes_leave_their_shards_unchecked_and_nothing_wrong() -> None:
    world = await populated()
    node = placement(world, "first")[1]
    world.fleet[node - 1].dead = True
    report = await check(world.engine, world.backends())
    assert report.clean
    assert report.shards is not None
    assert list(report.shards.unreachable) == [node]
    assert report.shards.unchecked > 0


async def test_too_many_silent_nodes_make_data_unreadable_until_they_return() -> None:
    world = await populated()
    rows = rows_but_sessions(world)
    for node in placement(world, "first")[:2]:
        world.fleet[node - 1].dead = True
    report = await check(world.engine, world.backends())
    assert Kind.UNREADABLE in report.all_findings.counts
    assert Kind.STRIPE_LOST not in report.all_findings.counts
    assert report.hurt
    done = await repair(world.engine, world.backends())
    assert not done.after.clean
    assert rows_but_sessions(world) == rows
    for node in world.fleet.nodes:
        node.dead = False
    assert (await check(world.engine, world.backends())).clean


async def test_a_placement_stays_as_recorded_while_nodes_that_may_tell_are_silent() -> None:
    world = await populated()
    first, second, third = placement(world, "first")
    place(world, "first", (first, 9, third))
    rows = rows_but_sessions(world)
    for node in (first, second):
        world.fleet[node - 1].dead = True
    done = await repair(world.engine, world.backends())
    assert not done.after.clean
    assert rows_but_sessions(world) == rows
    for node in (first, second):
        world.fleet[node - 1].dead = False
    assert (await repair(world.engine, world.backends())).after.clean
    assert placement(world, "first") == (first, second, third)


async def test_a_node_that_fails_midway_counts_as_silent() -> None:
    world = await populated()
    node = placement(world, "first")[1]
    world.fleet[node - 1].fail("list", NodeUnavailable("gone"))
    report = await check(world.engine, world.backends())
    assert report.clean
    assert report.shards is not None
    assert list(report.shards.unreachable) == [node]


async def test_another_node_at_the_address_is_not_believed() -> None:
    world = await populated()
    node = placement(world, "first")[1]
    world.fleet[node - 1].reject_as(uuid=world.fleet[5 - node if node != 5 else 0].uuid)
    world.fleet[node - 1].wipe()
    report = await check(world.engine, world.backends())
    assert report.shards is not None
    assert node in report.shards.unreachable
    assert Kind.SHARDS not in report.all_findings.counts


async def put_stray(world: FsckWorld, stripe: StripeId) -> None:
    await world.backends()[NodeNumber(1)].put(
        ShardKey(stripe, 0), [bytes(PAGE_BYTES)], b"", durable=True
    )


async def test_shards_of_nobody_are_counted_and_no_error() -> None:
    world = await populated()
    await put_stray(world, stripe_id(1, 900))
    report = await check(world.engine, world.backends())
    assert report.clean
    assert report.shards is not None
    assert (report.shards.garbage, report.shards.garbage_bytes) == (1, PAGE_BYTES)


async def test_shards_in_flight_beside_a_mount_are_neither_garbage_nor_errors() -> None:
    world = await populated(end_session=False)
    await put_stray(world, stripe_id(1, 900))
    await put_stray(world, stripe_id(2, 0))
    report = await check(world.engine, world.backends())
    assert report.clean
    assert report.shards is not None
    assert report.shards.garbage == 0


async def test_a_stripe_that_dies_during_the_check_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await populated()
    node = world.fleet[placement(world, "third")[0] - 1]
    backends = world.backends()
    listing = type(backends[NodeNumber(1)]).list

    async def dies_first(self: object, *arguments: object) -> object:
        # Overwritten, given up and deleted between the rows and the listing.
        for key in (keys.stripe_key, keys.state_key):
            world.rows.pop(key(world.stripes["third"]), None)
        node.drop(ShardKey(world.stripes["third"], 0))
        return await listing(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(backends[NodeNumber(1)]), "list", dies_first)
    report = await check(world.engine, backends)
    assert Kind.SHARDS not in report.all_findings.counts


async def test_a_stripe_written_narrower_than_its_code_is_told_and_no_error() -> None:
    world = await populated()
    node, key = list(shards_of(world, "first"))[2]
    world.fleet[node - 1].drop(key)
    nodes = placement(world, "first")
    place(world, "first", (nodes[0], nodes[1], 0))
    report = await check(world.engine, world.backends())
    assert report.clean
    assert report.shards is not None
    assert report.shards.degraded == 1


async def test_a_silently_wrong_source_is_not_spread() -> None:
    world = await populated()
    held = world.shards()
    (first, first_key), (second, second_key), _ = shards_of(world, "second")
    world.fleet[first - 1].drop(first_key)
    world.fleet[second - 1].flip(second_key)
    done = await repair(world.engine, world.backends())
    assert not done.after.clean
    after = world.shards()
    assert (first, first_key) not in after, "rebuilt from bytes that were wrong"
    assert {at for at in held if at not in after} == {(first, first_key)}


async def test_a_repair_of_shards_beside_a_mount_is_impossible() -> None:
    world = await populated()
    session = await Session.begin(world.engine, read_only=False, mountpoint="/mnt")
    node, key = next(shards_of(world, "first"))
    world.fleet[node - 1].drop(key)
    with pytest.raises(Exception, match="unmount"):
        await repair(world.engine, world.backends())
    assert key not in world.fleet[node - 1].shards
    await session.end()
