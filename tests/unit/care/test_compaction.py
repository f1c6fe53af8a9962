"""What was compacted reads as before, whatever is written, cut or read meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

import pytest
import trio
import trio.testing

from rainfs.array.array import Array, Piece
from rainfs.care import fragments
from rainfs.care.caretaker import CareOptions
from rainfs.care.compaction import Rewritten
from rainfs.care.pace import IDLE_S
from rainfs.errors import ArrayError, ArrayFull, SessionLost
from rainfs.meta.stripes import tombstones
from rainfs.model import KIB, MIB, CodeKind, Layout, StripeId, StripeView
from tests.unit.care.mounts import Cared, cared
from tests.unit.vfs.rig import STRIPE, Disk, assert_sound

SIZE = 256 * KIB
PAGE = 4 * KIB


async def no_wait(nbytes: int) -> None:
    await trio.lowlevel.checkpoint()


def nothing(stage: str, done: int, total: int) -> None:
    """A progress nobody looks at."""


async def overwritten(care: Cared, random: Random, *, writes: int = 200) -> tuple[int, bytearray]:
    """A file that was written in one go and then overwritten at random, page by page."""
    mount = care.mount
    handle = await mount.create(b"file")
    content = bytearray(random.randbytes(SIZE))
    await mount.write(handle, 0, bytes(content))
    await care.sync()
    for number in range(writes):
        at = random.randrange(SIZE // PAGE) * PAGE
        data = random.randbytes(PAGE)
        content[at : at + PAGE] = data
        await mount.write(handle, at, data)
        if number % 16 == 15:
            await care.sync()
    await care.sync()
    return handle, content


async def test_mostly_dead_stripes_give_way_to_full_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(1))
        before = await care.stripes()
        done = await care.caretaker.at_once(nothing)
        assert done.moved_bytes == done.copied_bytes > 0
        after = await care.stripes()
        assert len(after) < len(before)
        assert not [row for row in after.values() if row[1] * 2 < row[2]]
        assert sum(row[1] for row in after.values()) == SIZE
        assert await care.mount.read(handle, 0, SIZE) == content
        held = sum(len(node.shards) for node in disk.fleet.nodes)
        await care.bury()
        assert sum(len(node.shards) for node in disk.fleet.nodes) < held
        assert await care.mount.read(handle, 0, SIZE) == content
    await assert_sound(disk)
    async with cared(disk) as care:
        assert await care.mount.content(b"file") == content


async def test_a_second_run_finds_nothing_to_do(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    async with cared(disk) as care:
        await overwritten(care, Random(2))
        await care.caretaker.at_once(nothing)
    async with cared(disk) as care:
        assert await care.caretaker.at_once(nothing) == Rewritten()


async def test_small_mirrored_stripes_are_folded_into_coded_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        content = {}
        for number in range(40):
            name = b"small-%d" % number
            handle = await care.mount.create(name)
            content[name] = bytes([number]) * (number * 97 + 1)
            await care.mount.write(handle, 0, content[name])
            await care.mount.vfs.files.fsync(handle)
        assert {row[0] for row in (await care.stripes()).values()} == {CodeKind.MIRROR}
        await care.caretaker.at_once(nothing)
        kinds = [row[0] for row in (await care.stripes()).values()]
        assert set(kinds) == {CodeKind.REED_SOLOMON}
        assert len(kinds) <= 3
        await care.bury()
        for name, wanted in content.items():
            assert await care.mount.content(name) == wanted
    await assert_sound(disk)


async def test_nothing_is_folded_while_too_few_nodes_are_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        for number in range(20):
            handle = await care.mount.create(b"%d" % number)
            await care.mount.write(handle, 0, bytes(1000))
            await care.mount.vfs.files.fsync(handle)
        for node in disk.fleet.nodes[:3]:
            node.dead = True
        await trio.sleep(10)
        before = await care.stripes()
        await care.caretaker.at_once(nothing)
        assert await care.stripes() == before
        for node in disk.fleet.nodes:
            node.dead = False


async def test_bytes_overwritten_while_they_are_copied_keep_the_newer_value(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(3))
        random = Random(4)
        for node in disk.fleet.nodes:
            node.delay_s["put"] = 0.05
        done = trio.Event()

        async def compact() -> None:
            await care.caretaker.at_once(nothing)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(compact)
            while not done.is_set():
                at = random.randrange(SIZE // PAGE) * PAGE
                data = random.randbytes(PAGE)
                content[at : at + PAGE] = data
                await care.mount.write(handle, at, data)
                await care.mount.vfs.files.fsync(handle)
        assert await care.mount.read(handle, 0, SIZE) == content
    await assert_sound(disk)


class Interfering:
    """An array that lets something happen between the copy of a stripe and the move to it."""

    def __init__(self, array: Array, happen: Callable[[], Awaitable[None]]) -> None:
        self._array = array
        self._happen = happen

    def __getattr__(self, name: str) -> object:
        return getattr(self._array, name)

    async def write(self, stripe: StripeId, pieces: Sequence[Piece], layout: Layout) -> StripeView:
        view = await self._array.write(stripe, pieces, layout)
        await self._happen()
        return view


async def test_what_is_written_and_cut_between_copy_and_move_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(14))
        random = Random(15)

        async def happen() -> None:
            del content[SIZE - PAGE * random.randrange(1, 4) :]
            await care.mount.truncate(b"file", len(content))
            for _ in range(20):
                at = random.randrange(len(content) // PAGE) * PAGE
                content[at : at + PAGE] = data = random.randbytes(PAGE)
                await care.mount.write(handle, at, data)
            await care.sync()

        care.compactor._array = Interfering(care.mount.array, happen)  # type: ignore[assignment]
        for _ in range(4):
            done = await care.compactor.rewrite(await care.stripes(), no_wait)
            assert 0 < done.moved_bytes < done.copied_bytes
            await care.bury()
            assert await care.mount.read(handle, 0, SIZE) == content
    await assert_sound(disk)
    async with cared(disk) as care:
        assert await care.mount.content(b"file") == content


async def test_readers_never_notice_that_stripes_move_and_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(5))
        random = Random(6)
        for node in disk.fleet.nodes:
            node.delay_s["get"] = 0.01
        done = trio.Event()
        reads = 0

        async def read() -> None:
            nonlocal reads
            while not done.is_set():
                at = random.randrange(SIZE)
                size = random.randrange(1, 64 * KIB)
                assert await care.mount.read(handle, at, size) == content[at : at + size]
                reads += 1

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read)
            for _ in range(12):
                await care.caretaker.at_once(nothing)
                await care.bury()
                for _ in range(30):
                    at = random.randrange(SIZE // PAGE) * PAGE
                    # The same bytes again: the stripe that held them loses them all the same.
                    await care.mount.write(handle, at, bytes(content[at : at + PAGE]))
                await care.sync()
            done.set()
        assert reads > 20


async def test_a_stripe_that_cannot_be_read_stays_and_stops_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        await overwritten(care, Random(7))
        stripes = await care.stripes()
        lost = min(s for s, row in stripes.items() if row[1] * 2 < row[2])
        for node in disk.fleet.nodes:
            for key in [key for key in node.shards if key.stripe == lost]:
                node.drop(key)
        await care.caretaker.at_once(nothing)
        after = await care.stripes()
        assert lost in after
        assert not [s for s, row in after.items() if row[1] * 2 < row[2] and s != lost]
    await assert_sound(disk)


async def test_a_damaged_block_is_not_copied_but_read_from_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(8))
        for node in disk.fleet.nodes[:2]:
            for key in node.shards:
                node.flip(key, 100)
        await care.caretaker.at_once(nothing)
        await care.bury()
        assert await care.mount.read(handle, 0, SIZE) == content


async def test_no_room_and_silent_nodes_leave_everything_as_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(9))
        before = await care.stripes()
        care.clients.room = False
        with pytest.raises(ArrayFull):
            await care.caretaker.at_once(nothing)
        assert await care.stripes() == before
        care.clients.room = True
        for node in disk.fleet.nodes:
            node.full = True
        with pytest.raises(ArrayFull):
            await care.compactor.rewrite(before, no_wait)
        for node in disk.fleet.nodes:
            node.full, node.dead = False, True
        with pytest.raises(ArrayError):
            await care.compactor.rewrite(before, no_wait)
        for node in disk.fleet.nodes:
            node.dead = False
        assert await care.stripes() == before
        assert care.clients.claimed == 0
        await trio.sleep(5)
        assert await care.mount.read(handle, 0, SIZE) == content
    await assert_sound(disk)


async def test_a_stripe_whose_commit_may_still_run_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk) as care:
        unsettled = care.session.next_stripe()
        await overwritten(care, Random(10))
        before = await care.stripes()
        assert await care.compactor.rewrite(before, no_wait) == Rewritten()
        assert await care.stripes() == before
        care.session.settle(unsettled)
        done = await care.compactor.rewrite(before, no_wait)
        assert done.moved_bytes == SIZE


async def test_an_ended_session_compacts_nothing(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    async with cared(disk, close=False) as care:
        await overwritten(care, Random(11))
        await care.session.end()
        before = await care.stripes()
        with pytest.raises(SessionLost):
            await care.compactor.rewrite(before, no_wait)
        assert await care.stripes() == before


async def test_a_file_in_many_pieces_is_put_in_order_once_it_is_quiet(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "PIECES", 10)
    monkeypatch.setattr(fragments, "STRIPES", 2)
    disk = Disk()
    async with cared(disk) as care:
        handle, content = await overwritten(care, Random(12), writes=40)
        inode = (await care.mount.inode(b"file")).inode  # type: ignore[union-attr]
        extents = care.mount.vfs._extents
        pieces = len(await extents.find(inode, 0, SIZE, limit=1000))
        assert pieces > SIZE // (8 * KIB)
        await trio.sleep(60)
        while await care.caretaker.round():
            pass
        assert len(await extents.find(inode, 0, SIZE, limit=1000)) == pieces
        disk.clock.now += int(fragments.QUIET_S * 1e9)
        for _ in range(60):
            await care.caretaker.round()
            await trio.sleep(1)
        assert len(await extents.find(inode, 0, SIZE, limit=1000)) == SIZE // (8 * KIB)
        scan = fragments.Fragments(disk.engine, STRIPE)
        while not await scan.scan_page():
            pass
        assert not scan.due
        assert await care.mount.read(handle, 0, SIZE) == content
        await care.bury()
        assert await care.mount.read(handle, 0, SIZE) == content
    await assert_sound(disk)


async def test_garbage_goes_in_the_background_while_clients_never_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk()
    async with cared(disk, care=CareOptions(bytes_per_s=1 * MIB)) as care:
        handle, content = await overwritten(care, Random(13))
        before = len(await care.stripes())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(care.caretaker.run)
            for _ in range(3_000):
                care.clients.requests += 1
                await trio.sleep(IDLE_S * 0.9)
            care.caretaker.stop()
        after = await care.stripes()
        assert len(after) < before
        assert not [row for row in after.values() if row[1] * 2 < row[2]]
        assert await care.mount.read(handle, 0, SIZE) == content
        assert await tombstones(disk.engine, 100)
