"""What is fetched beyond what was asked for, and by whom."""

from __future__ import annotations

from random import Random

import trio
from trio.testing import MockClock

from rainfs.model import KIB
from rainfs.vfs.regions import MIN_COST_S
from tests.unit.vfs.rig import STRIPE, Disk, Mount, mounted

LENGTH = 2 * STRIPE


async def written(mount: Mount, seed: int) -> tuple[int, bytes]:
    """Return a handle on a file that is committed, and its bytes."""
    handle = await mount.create(b"file")
    data = Random(seed).randbytes(LENGTH)
    await mount.write(handle, 0, data)
    await mount.vfs.files.fsync(handle)
    regions = mount.vfs.ahead.regions
    regions.small_s, regions.whole_s = MIN_COST_S, 1_000 * MIN_COST_S
    return handle, data


def gets(disk: Disk) -> int:
    return sum(len(node.calls("get")) for node in disk.fleet.nodes)


async def reads_at_random(mount: Mount, handle: int, data: bytes, count: int) -> None:
    random = Random(count)
    for _ in range(count):
        offset = random.randrange(len(data) // 512) * 512
        assert await mount.read(handle, offset, 512) == data[offset : offset + 512]
        await trio.testing.wait_all_tasks_blocked()


async def test_a_region_that_is_read_at_random_is_fetched_whole(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle, data = await written(mount, 1)
        await reads_at_random(mount, handle, data, 400)
        before = gets(disk)
        await reads_at_random(mount, handle, data, 200)
        assert gets(disk) == before


async def test_the_kernel_is_told_where_it_keeps_what_it_reads(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle, data = await written(mount, 2)
        told: list[tuple[int, int, int]] = []

        def populate(inode: int, offset: int, length: int) -> bool:
            told.append((inode, offset, length))
            return True

        mount.vfs.ahead.populate = populate
        await reads_at_random(mount, handle, data, 400)
        inode = await mount.inode(b"file")
        assert inode is not None
        assert told == [(inode.inode, 0, LENGTH)]


async def test_nothing_is_bought_while_the_kernel_refuses(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle, data = await written(mount, 3)
        asked = 0

        def populate(inode: int, offset: int, length: int) -> bool:
            nonlocal asked
            asked += 1
            return False

        mount.vfs.ahead.populate = populate
        before = gets(disk)
        await reads_at_random(mount, handle, data, 300)
        assert gets(disk) == before + 300
        assert asked > 100


async def test_a_reader_past_the_kernels_cache_is_served_from_ours(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        _, data = await written(mount, 4)
        inode = await mount.inode(b"file")
        assert inode is not None
        handle = await mount.vfs.files.open(inode.inode, truncate=False, write=False, direct=True)

        def populate(inode: int, offset: int, length: int) -> bool:
            raise AssertionError("the kernel keeps nothing for this reader")

        mount.vfs.ahead.populate = populate
        await reads_at_random(mount, handle, data, 400)
        before = gets(disk)
        await reads_at_random(mount, handle, data, 100)
        assert gets(disk) == before


async def test_filling_a_cache_is_nobodys_reading(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        _, data = await written(mount, 5)
        inode = await mount.inode(b"file")
        assert inode is not None
        atime_ns = inode.atime_ns
        quiet = await mount.vfs.files.open(inode.inode, truncate=False, write=False, quiet=True)
        before = gets(disk)
        await reads_at_random(mount, quiet, data, 300)
        assert gets(disk) == before + 300, "each read asks for what it wants"
        assert len(mount.vfs.ahead.regions) == 0
        assert inode.atime_ns == atime_ns
        assert await mount.read(quiet, 0, 64 * KIB) == data[: 64 * KIB]
