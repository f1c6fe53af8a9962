"""What a write leaves on nodes when they fail meanwhile."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rainfs.array.about import decode_about
from rainfs.array.array import Array, Piece
from rainfs.array.values import MAX_PIECES_PER_STRIPE
from rainfs.errors import (
    ArrayFull,
    InputError,
    NodeUnavailable,
    ShardConflict,
    StripeSpoiled,
)
from rainfs.model import (
    KIB,
    MAX_SHARD_BYTES,
    MIB,
    InodeNumber,
    ShardKey,
    StripeView,
    mirror,
    reed_solomon,
)
from tests.unit.array.rig import Rig, content, layout_of, open_rig

pytestmark = pytest.mark.usefixtures("ways_to_put")


def held(rig: Rig) -> dict[ShardKey, list[int]]:
    """Which nodes hold which shard."""
    found: dict[ShardKey, list[int]] = {}
    for number, node in enumerate(rig.fleet.nodes, 1):
        for key in node.shards:
            found.setdefault(key, []).append(number)
    return found


def owned(*views: StripeView) -> dict[ShardKey, list[int]]:
    return {
        ShardKey(view.id, shard): [number]
        for view in views
        for shard, number in enumerate(view.placement.nodes)
        if number
    }


async def test_every_shard_is_durable_and_describes_itself(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert held(rig) == owned(view)
        for shard in range(6):
            kept = rig.node(view, shard).shards[ShardKey(view.id, shard)]
            assert kept.durable
            blocks = decode_about(kept.about).blocks
            own = tuple(b for b in view.stripe.blocks if b.shard == shard)
            assert blocks == (own if shard < 4 else view.stripe.blocks)


async def test_small_flushes_are_mirrored_and_survive_as_many_losses(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([1000, 2000])
        view = await rig.write(pieces, layout_of())
        assert view.stripe.code == mirror(3)
        assert view.stripe.shard_bytes == 4 * KIB
        rig.node(view, 0).dead = True
        rig.node(view, 1).wipe()
        assert await rig.read_back(view) == content(pieces)


async def test_a_mirror_layout_mirrors_everything(autojump_clock: MockClock) -> None:
    async with open_rig(4) as rig:
        pieces = rig.pieces([8 * KIB] * 2)
        view = await rig.write(pieces, layout_of(mirror(2)))
        assert view.stripe.code == mirror(2)
        assert await rig.read_back(view) == content(pieces)


async def test_without_parity_one_copy_is_written(autojump_clock: MockClock) -> None:
    async with open_rig(3) as rig:
        pieces = rig.pieces([8 * KIB] * 6)
        view = await rig.write(pieces, layout_of(reed_solomon(3, 0)))
        assert view.stripe.code == reed_solomon(3, 0)
        assert await rig.read_back(view) == content(pieces)


async def test_narrowing_takes_back_what_was_put_before(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.fleet[1].fail("put", NodeUnavailable("gone"))
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        assert view.stripe.code == reed_solomon(3, 2)
        await rig.settle()
        assert held(rig) == owned(view)
        assert await rig.read_back(view) == content(pieces)


async def test_puts_that_took_without_an_answer_are_cleaned_up(autojump_clock: MockClock) -> None:
    async with open_rig(8) as rig:
        rig.fleet[0].lose_answers = rig.fleet[1].lose_answers = True
        views = [await rig.write(rig.pieces([8 * KIB] * 8), layout_of()) for _ in range(3)]
        rig.fleet[0].lose_answers = rig.fleet[1].lose_answers = False
        assert all(not {1, 2} & set(view.placement.nodes) for view in views)
        await rig.settle()
        assert held(rig) == owned(*views)


async def test_a_cancelled_write_leaves_nothing(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.fleet[0].delay_s["put"] = 1.0
        with trio.move_on_after(0.5):
            await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        await rig.settle()
        assert held(rig) == {}


async def test_a_stripe_that_nodes_hold_otherwise_is_given_up(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes:
            node.fail("put", ShardConflict("held with other content"))
        with pytest.raises(StripeSpoiled):
            await rig.write(rig.pieces([8 * KIB] * 8), layout_of())


async def test_slow_disks_everywhere_are_waited_for(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes:
            node.delay_s["put"] = 6.0
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert view.stripe.code == reed_solomon(4, 2)
        assert len(rig.fleet[0].calls("put")) == 1


async def test_suspect_nodes_are_given_time_before_redundancy_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes[:4]:
            node.fail("*", NodeUnavailable("restarting"))
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert not view.degraded
        assert trio.current_time() < 3


async def test_writes_go_on_while_nodes_come_and_go(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        views = []
        for _ in range(40):
            changing = rig.random.sample(rig.fleet.nodes, 2)
            for node in changing:
                node.frozen = rig.random.random() < 0.5
                node.dead = not node.frozen
            pieces = rig.pieces([rig.random.randrange(1, 8 * KIB) for _ in range(8)])
            view = await rig.write(pieces, layout_of())
            assert not view.degraded
            views.append((view, content(pieces)))
            for node in changing:
                node.frozen = node.dead = False
            await trio.sleep(rig.random.random() * 3)
        await rig.settle()
        for view, whole in views:
            assert await rig.read_back(view) == whole


async def test_impossible_pieces_are_refused(autojump_clock: MockClock) -> None:
    layout = layout_of()
    one = Piece(InodeNumber(1), 0, 1, (b"x",))
    for pieces in (
        [],
        [Piece(InodeNumber(1), 0, 0, ())],
        [Piece(InodeNumber(1), 0, 2, (b"x",))],
        [Piece(InodeNumber(1), 0, 8 * KIB + 1, (bytes(8 * KIB + 1),))],
        [Piece(InodeNumber(1), 0, 8 * KIB, (bytes(8 * KIB),))] * 9,
        [one] * (MAX_PIECES_PER_STRIPE + 1),
    ):
        async with open_rig() as rig:
            with pytest.raises(InputError):
                await rig.write(pieces, layout)


async def test_too_few_nodes_for_a_long_stripe_say_how_much_to_bring(
    autojump_clock: MockClock,
) -> None:
    async with open_rig(11) as rig:
        layout = layout_of(reed_solomon(8, 3), shard_bytes=MIB, block_bytes=128 * KIB)
        assert rig.array.stripe_bytes(layout) == 8 * MIB
        for node in rig.fleet.nodes[4:]:
            node.dead = True
        await rig.settle()
        assert rig.array.stripe_bytes(layout) == MAX_SHARD_BYTES


async def test_full_nodes_never_cost_redundancy(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes[:4]:
            node.full = True
        with pytest.raises(ArrayFull):
            await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        rig.fleet[0].full = False
        await rig.settle()
        view = await rig.write(rig.pieces([8 * KIB] * 2), layout_of())
        assert view.stripe.code == mirror(3)
        assert set(view.placement.nodes) == {1, 5, 6}


async def test_deleting_confirms_only_when_every_node_answered(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        first = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        second = await rig.write(rig.pieces([100]), layout_of())
        silent = next(n for n in range(1, 7) if n not in second.placement.nodes)
        rig.fleet[silent - 1].dead = True
        both = [(first.id, first.placement), (second.id, second.placement)]
        assert await rig.array.delete_many(both) == [False, True]
        rig.fleet[silent - 1].dead = False
        assert await rig.array.delete(first.id, first.placement)
        assert held(rig) == {}


def test_the_default_array_takes_backends_from_the_registry() -> None:
    assert Array.__init__.__kwdefaults__["open_backend"].__module__.endswith("backends.registry")
