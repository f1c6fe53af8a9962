"""Writes that fail after they were answered: who is told, how often, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from rainfs.errors import ArrayFull, NodeFull, RainError
from rainfs.mount.errno_table import errno_of
from tests.unit.vfs.rig import BLOCK, OPTIONS, STRIPE, Disk, Mount, assert_sound, mounted

DATA = bytes(range(256)) * (STRIPE // 256)
LONG_S = 3 * OPTIONS.flush_age_s + 2 * OPTIONS.deadline_s
"""Long enough for a background flush to fail."""


@asynccontextmanager
async def outage(disk: Disk) -> AsyncIterator[None]:
    """No node answers; afterwards all do, and the mount has seen it."""
    for node in disk.fleet.nodes:
        node.dead = True
    try:
        yield
    finally:
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(LONG_S)


def close(mount: Mount, handle: int) -> RainError | None:
    """Close as the kernel does; return what close() says."""
    try:
        mount.vfs.files.flush(handle)
    except RainError as error:
        return error
    finally:
        mount.vfs.files.release(handle)
    return None


async def test_each_handle_is_told_once_by_close(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        first = await mount.create(b"f")
        second = await mount.open(b"f")
        await mount.write(first, 0, DATA)
        async with outage(disk):
            await trio.sleep(LONG_S)
            with pytest.raises(RainError):
                mount.vfs.files.flush(first)
            mount.vfs.files.flush(first)  # a descriptor that was duplicated is closed
            assert close(mount, first) is None
            later = await mount.open(b"f")
            assert close(mount, second) is not None
            assert close(mount, later) is None
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == DATA
    await assert_sound(disk)


async def test_a_handle_opened_before_anybody_was_told_is_told(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, DATA)
        mount.vfs.files.release(handle)
        async with outage(disk):
            await trio.sleep(LONG_S)
            assert close(mount, await mount.open(b"f")) is not None
            assert close(mount, await mount.open(b"f")) is None


async def test_fsync_tells_the_truth_each_time_and_close_adds_nothing(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, DATA)
        async with outage(disk):
            for _ in range(2):
                with pytest.raises(RainError):
                    await mount.vfs.files.fsync(handle)
            mount.vfs.files.flush(handle)
        await mount.vfs.files.fsync(handle)
        assert close(mount, handle) is None
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == DATA


async def test_nobody_is_told_of_a_failure_that_was_made_good(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, DATA)
        async with outage(disk):
            await trio.sleep(LONG_S)
        assert not mount.vfs.flusher.any_pending
        assert close(mount, handle) is None
        assert await mount.content(b"f") == DATA


async def test_files_that_share_a_stripe_are_all_told_and_others_are_not(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        untouched = await mount.create(b"untouched")
        await mount.write(untouched, 0, b"x")
        await mount.vfs.files.fsync(untouched)
        handles = [await mount.create(b"f%d" % number) for number in range(3)]
        for handle in handles:
            await mount.write(handle, 0, DATA[:BLOCK])
        async with outage(disk):
            await trio.sleep(LONG_S)
            assert close(mount, untouched) is None
            assert all(close(mount, handle) is not None for handle in handles)


async def test_nodes_that_are_full_are_told_as_no_space_and_keep_the_bytes(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, DATA)
        for node in disk.fleet.nodes:
            node.full = True
            node.fail("put", NodeFull("no room"), times=100)
        with pytest.raises(RainError) as raised:
            await mount.vfs.files.fsync(handle)
        assert errno_of(raised.value) == errno_of(ArrayFull("full"))
        assert close(mount, handle) is None
        assert await mount.content(b"f") == DATA
        for node in disk.fleet.nodes:
            node.full = False
            node._failures.clear()
        await trio.sleep(LONG_S)
        handle = await mount.open(b"f")
        await mount.vfs.files.fsync(handle)
        assert close(mount, handle) is None
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == DATA
    await assert_sound(disk)
