"""Readers that know extents by heart, while somebody else moves the bytes."""

from __future__ import annotations

from random import Random

from trio.testing import MockClock

from rainfs.array.array import Piece
from rainfs.meta.moving import live_runs, move
from rainfs.meta.stripes import scan_stripes
from rainfs.model import StripeView
from tests.unit.vfs.rig import STRIPE, Disk, Mount, mounted


async def move_everything(mount: Mount, data: bytes) -> None:
    """Copy every stripe into a new one, and delete the old one from its nodes."""
    engine, session = mount.disk.engine, mount.vfs._session
    for row in await scan_stripes(engine, None, 100):
        view = StripeView(row.id, row.stripe, row.placement)
        runs = await live_runs(engine, view)
        stripe = session.next_stripe()
        pieces = [
            Piece(run.inode, run.start, run.stop - run.start, (data[run.start : run.stop],))
            for run in runs
        ]
        copy = await mount.array.write(stripe, pieces, mount.vfs.volume.layout)
        moved = await move(engine, session, copy, [[run] for run in runs])
        assert moved == sum(run.stop - run.start for run in runs)
        session.settle(stripe)
        assert await mount.array.delete(view.id, view.placement)


async def test_bytes_that_were_moved_are_found_again(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        handle = await mount.create(b"file")
        data = Random(3).randbytes(3 * STRIPE)
        await mount.write(handle, 0, data)
        await mount.vfs.files.fsync(handle)
        for _ in range(3):
            for offset in (100, STRIPE + 5_000, 2 * STRIPE + 9_000):
                assert await mount.read(handle, offset, 70) == data[offset : offset + 70]
            assert await mount.read(handle, 0, len(data)) == data
            await move_everything(mount, data)


async def test_a_read_of_a_page_asks_a_node_for_that_page_only(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"file")
        data = Random(4).randbytes(2 * STRIPE)
        await mount.write(handle, 0, data)
        await mount.vfs.files.fsync(handle)
        for node in disk.fleet.nodes:
            node.log.clear()
        mount.vfs.ahead.regions.dear = float("inf")  # No region is worth being fetched whole.
        random = Random(5)
        for _ in range(50):
            offset = random.randrange(1, len(data) // 4096 - 1) * 4096
            assert await mount.read(handle, offset, 4096) == data[offset : offset + 4096]
        calls = [call for node in disk.fleet.nodes for call in node.calls("get")]
        assert [call.length for call in calls] == [4096] * 50
