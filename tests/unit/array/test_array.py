"""Stripes through nodes that die, freeze, rot and fill up."""

from __future__ import annotations

from itertools import combinations

import pytest
import trio
from trio.testing import MockClock

from rainfs.array.array import Wanted
from rainfs.errors import ArrayFull, ArrayUnavailable, StripeLost
from rainfs.model import KIB, NO_NODE, Compression, mirror, reed_solomon
from tests.fakes.backend import FakeFleet
from tests.unit.array.rig import VOLUME, content, layout_of, moved, open_rig

pytestmark = pytest.mark.usefixtures("ways_to_put")


async def test_what_is_written_is_read_back(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8, segments=3)
        view = await rig.write(pieces, layout_of())
        assert view.stripe.code == reed_solomon(4, 2)
        assert view.stripe.shard_bytes == 16 * KIB
        assert len(set(view.placement.nodes)) == 6
        assert await rig.read_back(view) == content(pieces)


@pytest.mark.parametrize("how", ["dead", "frozen", "wiped", "corrupt"])
async def test_every_pair_of_six_nodes_may_be_lost(how: str, autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 7 + [5000])
        view = await rig.write(pieces, layout_of())
        small = rig.pieces([3000])
        small_view = await rig.write(small, layout_of())
        for pair in combinations(rig.fleet.nodes, 2):
            saved = [dict(node.shards) for node in pair]
            for node in pair:
                if how == "dead":
                    node.dead = True
                elif how == "frozen":
                    node.frozen = True
                elif how == "wiped":
                    node.wipe()
                else:
                    for key in node.shards:
                        node.corrupt(key)
            started = trio.current_time()
            assert await rig.read_back(view) == content(pieces)
            assert await rig.read_back(small_view) == content(small)
            assert trio.current_time() - started < 1
            for node, shards in zip(pair, saved, strict=True):
                node.wipe()
                node.shards.update(shards)
                node.dead = node.frozen = False
            await trio.sleep(2.5)


@pytest.mark.parametrize("alive", [5, 4, 3, 2, 1])
async def test_fewer_nodes_narrow_the_stripe_at_full_redundancy(
    alive: int, autojump_clock: MockClock
) -> None:
    async with open_rig() as rig:
        for node in rig.fleet.nodes[alive:]:
            node.dead = True
        await rig.settle()
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        expected = {5: reed_solomon(3, 2), 4: reed_solomon(2, 2)}.get(alive, mirror(3))
        assert view.stripe.code == expected
        placed = [number for number in view.placement.nodes if number != NO_NODE]
        assert sorted(set(placed)) == sorted(placed)
        assert len(placed) == min(alive, expected.n)
        assert view.degraded == (alive < 3)
        for node in rig.fleet.nodes:
            node.dead = False
        await rig.settle()
        assert await rig.read_back(view) == content(pieces)


async def test_a_write_moves_on_when_nodes_freeze_under_it(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.fleet[0].frozen = rig.fleet[3].frozen = True
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        assert trio.current_time() < 6
        assert view.stripe.code == reed_solomon(2, 2)
        assert set(view.placement.nodes) == {2, 3, 5, 6}
        assert await rig.read_back(view) == content(pieces)


async def test_a_failing_put_goes_to_the_spare_node(autojump_clock: MockClock) -> None:
    async with open_rig(7) as rig:
        for node in rig.fleet.nodes[:1]:
            node.failing = True
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        assert view.stripe.code == reed_solomon(4, 2)
        assert 1 not in view.placement.nodes
        assert await rig.read_back(view) == content(pieces)


async def test_a_put_of_unknown_outcome_does_not_count(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        rig.fleet[2].lose_answers = True
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        assert 3 not in view.placement.nodes
        assert view.stripe.code == reed_solomon(3, 2)
        assert await rig.read_back(view) == content(pieces)


async def test_full_nodes_are_left_out_and_a_full_array_says_so(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        rig.fleet[5].full = True
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert 6 not in view.placement.nodes
        for node in rig.fleet.nodes:
            node.full = True
        with pytest.raises(ArrayFull):
            await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        for node in rig.fleet.nodes:
            node.full = False
        await rig.settle()
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert len(set(view.placement.nodes)) == 6


async def test_puts_that_a_report_showed_already_fill_no_node(
    autojump_clock: MockClock,
) -> None:
    fleet = FakeFleet(6, volume=VOLUME, capacity_bytes=40 * KIB)
    async with open_rig(fleet=fleet) as rig:
        for node in rig.fleet.nodes:
            node.answer_delay_s["put"] = 1.3
        await trio.sleep(0.5)
        for _ in range(2):
            view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
            assert view.stripe.code.m == 2
        with pytest.raises(ArrayFull):
            await rig.write(rig.pieces([8 * KIB] * 8), layout_of())


async def test_without_nodes_calls_end_at_the_deadline_and_recover(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes[:3]:
            node.dead = True
        started = trio.current_time()
        with pytest.raises(ArrayUnavailable):
            await rig.read_back(view)
        assert trio.current_time() - started < 11
        for node in rig.fleet.nodes:
            node.dead = True
        started = trio.current_time()
        with pytest.raises(ArrayUnavailable):
            await rig.write(pieces, layout_of())
        assert trio.current_time() - started < 11
        for node in rig.fleet.nodes:
            node.dead = False
        await rig.settle()
        assert await rig.read_back(view) == content(pieces)
        await rig.write(pieces, layout_of())


async def test_more_losses_than_parity_are_reported_at_once(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        for node in rig.fleet.nodes[:3]:
            node.wipe()
        started = trio.current_time()
        with pytest.raises(StripeLost):
            await rig.read_back(view)
        assert trio.current_time() - started < 1


async def test_a_moved_shard_is_found_by_reading_the_row_again(autojump_clock: MockClock) -> None:
    async with open_rig(7) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        spare = ({1, 2, 3, 4, 5, 6, 7} - set(view.placement.nodes)).pop()
        old = rig.node(view, 0)
        rig.fleet[spare - 1].shards.update(old.shards)
        old.wipe()
        rig.rows[view.id] = moved(view, [spare, *view.placement.nodes[1:]])
        assert await rig.read_back(view) == content(pieces)
        assert rig.refreshes == 1


async def test_a_byte_that_went_wrong_unnoticed_is_caught_end_to_end(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes[1:3]:
            for key in node.shards:
                node.flip(key, 100)
        assert await rig.read_back(view) == content(pieces)


async def test_compressed_blocks_survive_as_well(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=1 << 20) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        text = list(pieces)
        for i in range(0, 8, 2):
            data = (b"%d all work and no play " % i * 500)[: 8 * KIB]
            text[i] = type(pieces[i])(pieces[i].inode, pieces[i].file_offset, len(data), (data,))
        view = await rig.write(text, layout_of(compression=Compression.LZ4))
        kinds = [block.compression for block in view.stripe.blocks]
        assert kinds == [Compression.LZ4, Compression.NONE] * 4
        rig.fleet[0].dead = rig.fleet[1].dead = True
        assert [bytes(b) for b in await rig.read(view, [Wanted(i, 10, 20) for i in range(8)])] == [
            c[10:30] for c in content(text)
        ]
        assert await rig.read_back(view) == content(text)
