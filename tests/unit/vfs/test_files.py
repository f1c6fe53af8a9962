"""Files through the vfs: what was written is read, now, after a flush and after a remount."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rainfs.errors import (
    BadHandle,
    FileTooLarge,
    InputOutput,
    IsDirectory,
    NoSpace,
    NotFound,
    ReadOnly,
    ShardConflict,
)
from rainfs.model import KIB, MAX_FILE_BYTES, MIB, ROOT_INODE
from rainfs.vfs.attributes import Change
from rainfs.vfs.options import VfsOptions
from tests.unit.vfs.rig import BLOCK, OPTIONS, STRIPE, Disk, Mount, assert_sound, mounted


def pattern(length: int, seed: int = 1) -> bytes:
    return bytes((i * 7 + seed * 13 + (i >> 8)) % 251 for i in range(length))


async def fill(
    mount: Mount, handle: int, data: bytes, until: type[Exception], *, pause_s: float = 0.01
) -> int:
    """Append `data` until that raises; returns how many bytes were written."""
    written = 0
    try:
        while True:
            await mount.write(handle, written, data)
            written += len(data)
            await trio.sleep(pause_s)
    except until:
        return written


async def test_bytes_are_read_back_from_memory_from_nodes_and_after_a_remount(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    data = pattern(3 * STRIPE + 1234)
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, data)
        assert await mount.read(handle) == data
        await mount.vfs.files.fsync(handle)
        assert not mount.vfs.flusher.any_pending
        assert await mount.read(handle) == data
        assert await mount.read(handle, 1000, 5000) == data[1000:6000]
        assert await mount.read(handle, len(data) - 5, 100) == data[-5:]
        assert await mount.read(handle, len(data), 100) == b""
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == data
    await assert_sound(disk)


async def test_a_read_joins_memory_flight_and_nodes(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * STRIPE)
        await mount.vfs.files.fsync(handle)
        for node in disk.fleet.nodes:
            node.delay_s["put"] = 2.0
        await mount.write(handle, 1000, b"b" * 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.vfs.files.fsync, handle)
            await trio.sleep(0.5)
            await mount.write(handle, 1500, b"c" * 1000)
            want = b"a" * 1000 + b"b" * 500 + b"c" * 1000 + b"a" * (STRIPE - 2500)
            assert await mount.read(handle) == want
        assert await mount.read(handle) == want


async def test_holes_read_as_zeros_and_cost_nothing(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        far = 1 << 50
        await mount.write(handle, far, b"end")
        await mount.vfs.files.fsync(handle)
        assert await mount.read(handle, 0, 10) == bytes(10)
        assert await mount.read(handle, far - 2, 10) == b"\0\0end"
        inode = await mount.inode(b"f")
        assert inode is not None
        assert inode.size == far + 3
        assert inode.allocated == 3


async def test_full_stripes_stream_out_without_being_asked(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        for at in range(0, 8 * STRIPE, BLOCK):
            await mount.write(handle, at, pattern(BLOCK, at))
        await trio.sleep(1.0)
        assert mount.vfs.flusher.held < STRIPE
        assert mount.vfs.flusher.committed_bytes >= 7 * STRIPE


async def test_old_bytes_are_written_by_age(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"x")
        await trio.sleep(OPTIONS.flush_age_s - 1)
        assert mount.vfs.flusher.any_pending
        await trio.sleep(3)
        assert not mount.vfs.flusher.any_pending


async def test_many_small_files_share_a_stripe(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        for number in range(10):
            handle = await mount.create(b"f%d" % number)
            await mount.write(handle, 0, pattern(2000, number))
            mount.vfs.files.release(handle)
        before = sum(len(node.calls("put")) for node in disk.fleet.nodes)
        await mount.vfs.flusher.flush_all()
        assert sum(len(node.calls("put")) for node in disk.fleet.nodes) - before <= 6
        for number in range(10):
            assert await mount.content(b"f%d" % number) == pattern(2000, number)


async def test_truncation_drops_bytes_wherever_they_are(autojump_clock: MockClock) -> None:
    disk = Disk()
    data = pattern(2 * STRIPE)
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, data)
        await mount.vfs.files.fsync(handle)
        await mount.write(handle, 5000, b"N" * 10)
        await mount.truncate(b"f", 5005)
        assert await mount.read(handle) == data[:5000] + b"NNNNN"
        await mount.truncate(b"f", 6000)
        assert await mount.read(handle) == data[:5000] + b"NNNNN" + bytes(995)
        await mount.vfs.files.fsync(handle)
        await mount.truncate(b"f", 3)
        await mount.truncate(b"f", STRIPE)
        assert await mount.read(handle) == data[:3] + bytes(STRIPE - 3)
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == data[:3] + bytes(STRIPE - 3)
    await assert_sound(disk)


async def test_truncation_waits_for_bytes_in_flight(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * STRIPE)
        for node in disk.fleet.nodes:
            node.delay_s["put"] = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.vfs.files.fsync, handle)
            await trio.sleep(0.2)
            await mount.truncate(b"f", 100)
            assert await mount.read(handle) == b"a" * 100
        await mount.truncate(b"f", 200)
        assert await mount.read(handle) == b"a" * 100 + bytes(100)
    await assert_sound(disk)


async def test_truncation_of_bytes_that_cannot_be_written_does_not_wait_for_nodes(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * STRIPE)
        for node in disk.fleet.nodes:
            node.dead = True
        with pytest.raises(Exception, match=r"."):
            await mount.vfs.files.fsync(handle)
        await mount.truncate(b"f", 100)
        assert await mount.read(handle) == b"a" * 100
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(10)
        await mount.vfs.files.fsync(handle)
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"a" * 100
    await assert_sound(disk)


async def test_open_with_truncate_empties(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"abc")
        inode = await mount.inode(b"f")
        assert inode is not None
        await mount.vfs.files.open(inode.inode, truncate=True, write=True)
        assert inode.size == 0


async def test_a_failed_flush_keeps_the_bytes_and_a_later_one_succeeds(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"first")
        for node in disk.fleet.nodes:
            node.dead = True
        with pytest.raises(Exception, match=r"."):
            await mount.vfs.files.fsync(handle)
        await mount.write(handle, 2, b"RST")
        assert await mount.read(handle) == b"fiRST"
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(10)
        await mount.vfs.files.fsync(handle)
        assert not mount.vfs.flusher.any_pending
        assert await mount.read(handle) == b"fiRST"
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"fiRST"


async def test_a_stripe_id_that_all_nodes_refuse_is_replaced_without_an_error(
    autojump_clock: MockClock,
) -> None:
    async with mounted(Disk()) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"kept")
        for node in mount.disk.fleet.nodes:
            node.fail("put", ShardConflict("held with other content"))
        await mount.vfs.files.fsync(handle)
        assert await mount.read(handle) == b"kept"


async def test_close_tells_once_of_a_failed_background_flush(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        for node in disk.fleet.nodes:
            node.dead = True
        await mount.write(handle, 0, b"x")
        await trio.sleep(20)
        with pytest.raises(Exception, match=r"."):
            mount.vfs.files.flush(handle)
        mount.vfs.files.flush(handle)
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(20)
        mount.vfs.files.flush(handle)
        assert not mount.vfs.flusher.any_pending


async def test_writers_wait_at_the_dirty_limit_and_go_on_when_nodes_return(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    patient = VfsOptions(dirty_bytes=1 * MIB, deadline_s=20.0, reserve_bytes=0)
    async with mounted(disk, patient) as mount:
        handle = await mount.create(b"f")
        for node in disk.fleet.nodes:
            node.dead = True
        chunk = pattern(STRIPE)

        async def revive() -> None:
            await trio.sleep(3)
            for node in disk.fleet.nodes:
                node.dead = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(revive)
            for number in range(32):
                await mount.write(handle, number * STRIPE, chunk)
                assert mount.vfs.flusher.held <= OPTIONS.dirty_bytes
        await mount.vfs.files.fsync(handle)
        for number in range(32):
            assert await mount.read(handle, number * STRIPE, STRIPE) == chunk


async def test_a_write_without_progress_fails_at_the_deadline(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        for node in disk.fleet.nodes:
            node.dead = True
        start = trio.current_time()
        written = await fill(mount, handle, bytes(STRIPE), InputOutput)
        assert trio.current_time() - start <= 2 * OPTIONS.deadline_s
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(10)
        await mount.write(handle, written, b"again")
        await mount.vfs.files.fsync(handle)
        assert await mount.read(handle, written, 10) == b"again"


async def test_a_full_array_refuses_at_write_and_never_at_fsync(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(capacity_bytes=1 * MIB)
    options = VfsOptions(dirty_bytes=1 * MIB, deadline_s=5.0, reserve_bytes=256 * KIB)
    async with mounted(disk, options) as mount:
        handle = await mount.create(b"f")
        written = await fill(mount, handle, pattern(BLOCK), NoSpace)
        assert written > 2 * MIB
        await mount.vfs.files.fsync(handle)
        assert await mount.read(handle, written - BLOCK) == pattern(BLOCK)


@pytest.mark.parametrize("pause_s", [0.0, 0.003, 0.02])
@pytest.mark.parametrize("put_s", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("health_s", [0.0, 0.9])
async def test_what_write_took_finds_room_however_late_nodes_report(
    autojump_clock: MockClock, pause_s: float, put_s: float, health_s: float
) -> None:
    disk = Disk(capacity_bytes=1 * MIB)
    options = VfsOptions(dirty_bytes=1 * MIB, deadline_s=5.0, reserve_bytes=256 * KIB)
    async with mounted(disk, options) as mount:
        for node in disk.fleet.nodes:
            node.answer_delay_s["health"] = health_s
            node.answer_delay_s["put"] = put_s
        handle = await mount.create(b"f")
        written = await fill(mount, handle, pattern(BLOCK), NoSpace, pause_s=pause_s)
        await mount.vfs.files.fsync(handle)
        assert written > 3.5 * MIB
        assert mount.vfs.flusher.held == 0


async def test_small_files_synced_one_by_one_find_the_room_they_were_promised(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(capacity_bytes=1 * MIB)
    async with mounted(disk) as mount:
        handles: list[int] = []
        try:
            while True:
                handle = await mount.create(b"%d" % len(handles))
                await mount.write(handle, 0, b"x")
                handles.append(handle)
                if len(handles) % 100 == 0:
                    for synced in handles[-100:]:
                        await mount.vfs.files.fsync(synced)
        except NoSpace:
            pass
        for handle in handles:
            await mount.vfs.files.fsync(handle)
        assert len(handles) > 400


async def test_reads_beyond_repair_are_errors_and_recover(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, pattern(STRIPE))
        await mount.vfs.files.fsync(handle)
        for node in disk.fleet.nodes[:3]:
            node.dead = True
        with trio.fail_after(3 * OPTIONS.deadline_s), pytest.raises(InputOutput):
            await mount.read(handle)
        for node in disk.fleet.nodes[:3]:
            node.dead = False
        await trio.sleep(5)
        assert await mount.read(handle) == pattern(STRIPE)


async def test_files_end_at_two_to_the_sixtieth(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, MAX_FILE_BYTES - 1, b"x")
        with pytest.raises(FileTooLarge):
            await mount.vfs.files.write(handle, MAX_FILE_BYTES, b"x")
        with pytest.raises(FileTooLarge):
            await mount.truncate(b"f", MAX_FILE_BYTES + 1)


async def test_closed_handles_directories_and_removed_inodes_are_refused(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        mount.vfs.files.release(handle)
        with pytest.raises(BadHandle):
            await mount.read(handle)
        with pytest.raises(IsDirectory):
            await mount.vfs.files.open(ROOT_INODE, truncate=False, write=False)
        with pytest.raises(NotFound):
            await mount.vfs.attributes.get(99)


async def test_a_read_only_mount_changes_nothing(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"abc")
    rows = dict(disk.engine.rows)
    async with mounted(disk, VfsOptions(read_only=True)) as mount:
        inode = await mount.inode(b"f")
        assert inode is not None
        handle = await mount.vfs.files.open(inode.inode, truncate=False, write=False)
        assert await mount.read(handle) == b"abc"
        with pytest.raises(ReadOnly):
            await mount.vfs.files.open(inode.inode, truncate=False, write=True)
        for change in (
            mount.create(b"g"),
            mount.unlink(b"f"),
            mount.rename(b"f", b"g"),
            mount.vfs.attributes.set(inode.inode, Change(mode=0o600)),
            mount.vfs.attributes.setxattr(inode, b"user.a", b"b"),
        ):
            with pytest.raises(ReadOnly):
                await change
    assert dict(disk.engine.rows) == rows


async def test_write_times_wait_with_the_bytes_and_explicit_ones_stay(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"abc")
        inode = await mount.inode(b"f")
        assert inode is not None
        assert inode.mtime_ns == inode.ctime_ns > inode.atime_ns
        await mount.vfs.attributes.set(inode.inode, Change(mtime_ns=12_345, atime_ns=678))
        assert (inode.mtime_ns, inode.atime_ns) == (12_345, 678)
    async with mounted(disk) as mount:
        inode = await mount.inode(b"f")
        assert inode is not None
        assert (inode.mtime_ns, inode.atime_ns, inode.size) == (12_345, 678, 3)
