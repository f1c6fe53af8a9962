"""What fsync and sync say while others shorten the file or try to write it as well."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rainfs.errors import ArrayError, ArrayFull
from rainfs.vfs.batch import Batch, begin
from tests.unit.vfs.rig import Disk, Mount, mounted


async def flush_all(mount: Mount) -> None:
    await mount.vfs.flusher.flush_all()
    await mount.vfs.flusher.durable()


@pytest.mark.parametrize("whole_volume", [False, True])
async def test_a_sync_amid_a_truncation_covers_what_was_written_before(
    autojump_clock: MockClock, whole_volume: bool
) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"in flight")
        for node in disk.fleet.nodes:
            node.frozen = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.vfs.files.fsync, handle)
            await wait_all_tasks_blocked()
            await mount.write(handle, 0, b"new bytes")
            nursery.start_soon(mount.truncate, b"f", 8)
            await wait_all_tasks_blocked()
            if whole_volume:
                nursery.start_soon(flush_all, mount)
            else:
                nursery.start_soon(mount.vfs.files.fsync, handle)
            await wait_all_tasks_blocked()
            for node in disk.fleet.nodes:
                node.frozen = False
        disk.engine.power_cut()
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new byte"


async def test_a_sync_tells_the_truth_though_the_next_try_has_begun(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount, trio.open_nursery() as nursery:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"x")
        for node in disk.fleet.nodes:
            node.dead = True
        flusher = mount.vfs.flusher
        fail = flusher._fail
        tries: list[Batch] = []

        def fail_and_try_again(batch: Batch, error: Exception) -> None:
            fail(batch, error)
            if not tries:
                tries.append(batch)
                begin(batch, flusher._batches)
                nursery.start_soon(flusher._write, batch)

        monkeypatch.setattr(flusher, "_fail", fail_and_try_again)

        async def sync() -> None:
            with pytest.raises(ArrayError):
                await mount.vfs.files.fsync(handle)

        for _ in range(2):
            nursery.start_soon(sync)
    assert tries


async def test_a_sync_of_older_bytes_hides_no_failure_of_newer_ones(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount, trio.open_nursery() as nursery:
        handle = await mount.create(b"f")
        other = await mount.open(b"f")
        await mount.write(handle, 0, b"older")
        for node in disk.fleet.nodes:
            node.frozen = True
        nursery.start_soon(mount.vfs.files.fsync, handle)
        await wait_all_tasks_blocked()

        async def full(*_: object) -> None:
            raise ArrayFull("no room")

        monkeypatch.setattr(mount.vfs.flusher, "_write_stripe", full)
        await mount.write(handle, 0, b"newer")

        async def sync() -> None:
            with pytest.raises(ArrayFull):
                await mount.vfs.files.fsync(handle)

        nursery.start_soon(sync)
        await wait_all_tasks_blocked()
        for node in disk.fleet.nodes:
            node.frozen = False
        await wait_all_tasks_blocked()
        with pytest.raises(ArrayFull):
            mount.vfs.files.flush(other)
        mount.vfs.files.flush(other)
        nursery.cancel_scope.cancel()
