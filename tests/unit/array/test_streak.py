"""Small stripes one after another: the same nodes for a while, never against what changed."""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

from rainfs.array.members import Member, Members
from rainfs.array.streak import STREAK_STRIPES, Streak
from rainfs.model import PAGE_BYTES, Node, NodeNumber, NodeUuid, VolumeId
from tests.fakes.backend import FakeBackend, FakeNode
from tests.unit.array.rig import layout_of, open_rig

VOLUME = VolumeId(b"array-test-volum")
CHOSEN = [NodeNumber(1), NodeNumber(2), NodeNumber(3)]


def members_of(count: int) -> Members:
    members = Members(VOLUME)
    for number in range(1, count + 1):
        fake = FakeNode(number, volume=VOLUME)
        node = Node(NodeNumber(number), NodeUuid(bytes([number]) * 16), fake.name, fake.url, {})
        member = Member(node, FakeBackend(fake, VOLUME, deadline_s=1), trio.current_time())
        member.free_bytes = 10 * PAGE_BYTES
        members.add(member)
    return members


async def test_a_streak_names_its_nodes_so_often_and_then_they_are_drawn() -> None:
    streak = Streak(members_of(3))
    assert streak.again(3, 2, PAGE_BYTES) is None
    streak.begin(CHOSEN, 2)
    for _ in range(STREAK_STRIPES - 1):
        assert streak.again(3, 2, PAGE_BYTES) == CHOSEN
    assert streak.again(3, 2, PAGE_BYTES) is None


async def test_a_streak_ends_with_what_it_rests_on() -> None:
    members = members_of(4)
    streak = Streak(members)
    streak.begin(CHOSEN, 2)
    assert streak.again(2, 2, PAGE_BYTES) is None, "fewer shards"
    assert streak.again(3, 1, PAGE_BYTES) is None, "fewer losses to survive"
    assert streak.again(3, 2, 11 * PAGE_BYTES) is None, "no room for so much"
    assert streak.again(3, 2, PAGE_BYTES) == CHOSEN
    members.remove(NodeNumber(4))
    assert streak.again(3, 2, PAGE_BYTES) is None, "some member changed"


async def test_lone_small_stripes_share_nodes_and_all_nodes_get_their_part(
    autojump_clock: MockClock,
) -> None:
    taken: Counter[NodeNumber] = Counter()
    changes = stripes = 0
    async with open_rig() as rig:
        last: tuple[NodeNumber, ...] = ()
        for _ in range(40 * STREAK_STRIPES):
            view = await rig.write(rig.pieces([1_000]), layout_of())
            taken.update(view.placement.nodes)
            stripes += 1
            changes += view.placement.nodes != last
            last = view.placement.nodes
    assert changes < stripes / 8
    assert min(taken.values()) > stripes * 3 / 6 / 3, taken


async def test_a_streak_avoids_a_node_that_died(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        first = await rig.write(rig.pieces([1_000]), layout_of())
        rig.node(first, 0).dead = True
        for _ in range(4):
            view = await rig.write(rig.pieces([1_000]), layout_of())
            assert first.placement.nodes[0] not in view.placement.nodes
            assert not view.degraded


async def test_stripes_written_at_once_are_drawn_each_for_itself(
    autojump_clock: MockClock,
) -> None:
    placements: set[tuple[NodeNumber, ...]] = set()
    async with open_rig() as rig, trio.open_nursery() as nursery:

        async def write() -> None:
            view = await rig.write(rig.pieces([1_000]), layout_of())
            placements.add(tuple(sorted(view.placement.nodes)))

        for node in rig.fleet.nodes:
            node.delay_s["put"] = 0.1
        for _ in range(16):
            nursery.start_soon(write)
    assert len(placements) > 1
