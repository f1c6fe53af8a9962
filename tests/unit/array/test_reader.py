"""What a read asks of nodes, and what it shares with others."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rainfs.array import reader as reader_module
from rainfs.array.array import Wanted
from rainfs.errors import ArrayUnavailable, InputError, ShardCorrupt, StripeLost
from rainfs.model import KIB, MIB, Compression
from tests.unit.array.rig import Rig, content, layout_of, open_rig

pytestmark = pytest.mark.usefixtures("ways_to_put")


def gets(rig: Rig) -> list[tuple[int, int]]:
    return [(call.offset, call.length) for node in rig.fleet.nodes for call in node.calls("get")]


async def test_a_part_of_a_raw_block_gets_only_its_bytes(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        (data,) = await rig.read(view, [Wanted(3, 4096, 100)])
        assert bytes(data) == content(pieces)[3][4096:4196]
        assert gets(rig) == [(8 * KIB + 4096, 100)]


async def test_neighbours_on_a_shard_come_in_one_get(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([2 * KIB] * 32)
        view = await rig.write(pieces, layout_of())
        wanted = [Wanted(i, 0, 2 * KIB) for i in (9, 8, 11)] + [Wanted(10, 5, 7)]
        got = await rig.read(view, wanted)
        whole = content(pieces)
        assert [bytes(data) for data in got] == [whole[9], whole[8], whole[11], whole[10][5:12]]
        assert gets(rig) == [(0, 8 * KIB)]


async def test_readers_of_one_block_share_one_fetch(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=0) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes:
            node.delay_s["get"] = 0.01
        results: list[bytes] = []

        async def read(length: int) -> None:
            (data,) = await rig.read(view, [Wanted(0, 0, length)])
            results.append(bytes(data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 8 * KIB)
            await wait_all_tasks_blocked()
            for length in (1, 100, 8 * KIB):
                nursery.start_soon(read, length)
        whole = content(pieces)[0]
        assert sorted(results, key=len) == [whole[:1], whole[:100], whole, whole]
        assert len(gets(rig)) == 1


async def test_a_reader_survives_that_the_one_it_waits_for_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes:
            node.delay_s["get"] = 0.01
        results: list[bytes] = []
        first = trio.CancelScope()

        async def leader() -> None:
            with first:
                await rig.read_back(view)

        async def follower() -> None:
            results.extend(await rig.read_back(view))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leader)
            await wait_all_tasks_blocked()
            nursery.start_soon(follower)
            await wait_all_tasks_blocked()
            first.cancel()
        assert results == content(pieces)


async def test_whole_blocks_are_cached_and_forgotten(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        await rig.read_back(view)
        before = len(gets(rig))
        assert await rig.read_back(view) == content(pieces)
        assert len(gets(rig)) == before
        rig.array.forget(view.id)
        await rig.read_back(view)
        assert len(gets(rig)) == 2 * before


async def test_prefetched_blocks_are_waited_for_not_fetched_again(
    autojump_clock: MockClock,
) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes:
            node.delay_s["get"] = 0.01
        rig.array.prefetch(view, range(8), rig.refresh(view))
        rig.array.prefetch(view, range(8), rig.refresh(view))
        (part,) = await rig.read(view, [Wanted(2, 10, 20)])
        assert bytes(part) == content(pieces)[2][10:30]
        assert await rig.read_back(view) == content(pieces)
        assert sorted(gets(rig)) == [(0, 16 * KIB)] * 4


async def test_prefetches_beyond_the_bound_are_dropped(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MAX_PREFETCH_BYTES", 20 * KIB)
    async with open_rig(cache_bytes=MIB) as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        rig.array.prefetch(view, range(8), rig.refresh(view))
        await trio.sleep(1)
        assert gets(rig) == [(0, 16 * KIB)]
        rig.array.prefetch(view, range(8), rig.refresh(view))
        await trio.sleep(1)
        assert len(gets(rig)) == 2


async def test_a_failed_prefetch_leaves_the_reader_to_itself(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())

        async def broken() -> None:
            raise InputError("no row today")

        rig.node(view, 0).fail("get", ShardCorrupt("once"))
        rig.array.prefetch(view, [0], broken)  # type: ignore[arg-type]
        (data,) = await rig.read(view, [Wanted(0, 0, 8 * KIB)])
        assert bytes(data) == content(pieces)[0]


async def test_a_slow_node_is_raced_and_the_first_answer_wins(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        rig.node(view, 0).delay_s["get"] = 5.0
        started = trio.current_time()
        (data,) = await rig.read(view, [Wanted(0, 0, 100)])
        assert bytes(data) == content(pieces)[0][:100]
        assert trio.current_time() - started < 0.2


async def test_a_late_answer_still_wins_over_a_later_race(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes:
            node.delay_s["get"] = 2.0
        rig.node(view, 0).delay_s["get"] = 0.1
        started = trio.current_time()
        await rig.read(view, [Wanted(0, 0, 100)])
        assert trio.current_time() - started < 0.15


async def test_a_stripe_with_dead_nodes_is_read_with_k_gets(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        rig.node(view, 0).dead = rig.node(view, 2).dead = True
        await rig.settle()
        for node in rig.fleet.nodes:
            node.log.clear()
        assert await rig.read_back(view) == content(pieces)
        assert len(gets(rig)) == 4


async def test_a_short_range_of_a_dead_node_costs_k_short_gets(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        rig.node(view, 0).dead = rig.node(view, 2).dead = True
        await rig.settle()
        for node in rig.fleet.nodes:
            node.log.clear()
        (data,) = await rig.read(view, [Wanted(0, 4096, 100)])
        assert bytes(data) == content(pieces)[0][4096:4196]
        assert gets(rig) == [(4096, 100)] * 4
        counts = rig.array.read_counts
        assert (counts.gets, counts.get_bytes, counts.gathered, counts.raced) == (4, 400, 1, 0)


@pytest.mark.parametrize("fault", ["dies", "freezes", "loses", "spoils", "dawdles"])
async def test_a_reconstruction_survives_what_befalls_one_of_its_nodes(
    autojump_clock: MockClock, fault: str
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        rig.node(view, 0).dead = True
        await rig.settle()
        other = rig.node(view, 1)
        key = next(iter(other.shards))
        match fault:
            case "dies":
                other.dead = True
            case "freezes":
                other.frozen = True
            case "loses":
                other.drop(key)
            case "spoils":
                other.corrupt(key)
            case _:
                other.delay_s["get"] = 3.0
        started = trio.current_time()
        (data,) = await rig.read(view, [Wanted(0, 0, 100)])
        assert bytes(data) == content(pieces)[0][:100]
        assert trio.current_time() - started < 0.5
        await wait_all_tasks_blocked()
        assert not any(node.in_flight for node in rig.fleet.nodes)


async def test_a_cancelled_reconstruction_leaves_no_get_behind(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        rig.node(view, 0).dead = True
        await rig.settle()
        for node in rig.fleet.nodes:
            node.delay_s["get"] = 5.0
        with trio.move_on_after(0.01) as scope:
            await rig.read(view, [Wanted(0, 0, 100)])
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert not any(node.in_flight for node in rig.fleet.nodes)


async def test_a_silently_wrong_mirror_copy_is_replaced_by_another(
    autojump_clock: MockClock,
) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([3000])
        view = await rig.write(pieces, layout_of())
        for shard in range(2):
            node = rig.node(view, shard)
            for key in node.shards:
                node.flip(key)
        assert await rig.read_back(view) == content(pieces)


async def test_wrong_everywhere_is_an_error_not_wrong_bytes(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        for node in rig.fleet.nodes[:5]:
            for key in node.shards:
                node.flip(key)
        with pytest.raises(StripeLost):
            await rig.read_back(view)


async def test_a_stripe_whose_row_is_gone_is_reported(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        assert await rig.array.delete(view.id, view.placement)
        del rig.rows[view.id]
        with pytest.raises(StripeLost):
            await rig.read_back(view)


async def test_bytes_beyond_a_block_are_refused(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        for want in (Wanted(8, 0, 1), Wanted(0, 8 * KIB, 1), Wanted(-1, 0, 1), Wanted(0, -1, 1)):
            with pytest.raises(InputError):
                await rig.read(view, [want])
            with pytest.raises(InputError):
                await rig.read(view, [want, want])


async def test_a_read_waits_for_a_node_to_return(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        pieces = rig.pieces([8 * KIB] * 8)
        view = await rig.write(pieces, layout_of())
        for node in rig.fleet.nodes[:2]:
            node.frozen = True
        for node in rig.fleet.nodes[2:4]:
            node.dead = True

        async def revive() -> None:
            await trio.sleep(3)
            for node in rig.fleet.nodes[2:4]:
                node.dead = False

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(revive)
            assert await rig.read_back(view) == content(pieces)
        assert trio.current_time() - started < 6


async def test_a_frozen_array_answers_within_the_deadline(autojump_clock: MockClock) -> None:
    async with open_rig() as rig:
        view = await rig.write(rig.pieces([8 * KIB] * 8), layout_of())
        for node in rig.fleet.nodes:
            node.frozen = True
        for want in (Wanted(0, 0, 10), Wanted(0, 0, 8 * KIB)):
            started = trio.current_time()
            with pytest.raises(ArrayUnavailable):
                await rig.read(view, [want])
            assert trio.current_time() - started < 10.5


async def test_compressed_blocks_are_cached_decoded(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        pieces = [
            type(p)(p.inode, p.file_offset, p.length, (bytes([i]) * p.length,))
            for i, p in enumerate(rig.pieces([8 * KIB] * 8))
        ]
        view = await rig.write(pieces, layout_of(compression=Compression.LZ4))
        assert {b.compression for b in view.stripe.blocks} == {Compression.LZ4}
        (part,) = await rig.read(view, [Wanted(5, 100, 50)])
        (again,) = await rig.read(view, [Wanted(5, 200, 50)])
        assert bytes(part) == bytes(again) == bytes([5]) * 50
        assert len(gets(rig)) == 1
