"""Syncs that are expected: when a habit counts, and what is flushed for it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rainfs.model import KIB
from rainfs.vfs import flush
from rainfs.vfs.rhythm import HABIT_SYNCS, MAX_WRITES, Rhythm
from tests.unit.vfs.rig import Disk, Mount, assert_sound, mounted


def interval(rhythm: Rhythm, writes: int) -> list[bool]:
    guesses = [rhythm.wrote() for _ in range(writes)]
    rhythm.synced()
    return guesses


@pytest.mark.parametrize("writes", [1, 2, MAX_WRITES])
def test_a_sync_is_expected_after_as_many_writes_as_ever(writes: int) -> None:
    rhythm = Rhythm()
    for _ in range(HABIT_SYNCS):
        assert not any(interval(rhythm, writes))
    for _ in range(3):
        assert interval(rhythm, writes) == [False] * (writes - 1) + [True]


def test_one_other_interval_ends_the_habit() -> None:
    rhythm = Rhythm()
    for _ in range(HABIT_SYNCS):
        interval(rhythm, 1)
    assert interval(rhythm, 3) == [True, False, False], "one wrong guess"
    for _ in range(HABIT_SYNCS):
        assert not any(interval(rhythm, 1))
    assert interval(rhythm, 1) == [True]


def test_syncs_without_writes_and_long_intervals_are_no_habit() -> None:
    rhythm = Rhythm()
    for _ in range(2 * HABIT_SYNCS):
        rhythm.synced()
    for _ in range(2 * HABIT_SYNCS):
        assert not any(interval(rhythm, MAX_WRITES + 1))


async def habit(mount: Mount, name: bytes) -> int:
    handle = await mount.create(name)
    for number in range(HABIT_SYNCS):
        await mount.write(handle, number, b"x")
        await mount.vfs.files.fsync(handle)
    return handle


async def test_what_a_habit_will_sync_is_flushed_at_once(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await habit(mount, b"f")
        other = await mount.create(b"g")
        await mount.write(other, 0, b"others stay dirty")
        before = mount.vfs.flusher.committed_bytes
        await mount.write(handle, 0, b"new")
        await wait_all_tasks_blocked()
        assert mount.vfs.flusher.committed_bytes == before + 3
        await mount.write(handle, 0, b"no more")
        await wait_all_tasks_blocked()
        assert mount.vfs.flusher.committed_bytes == before + 3, "a second write ends the habit"
        assert await mount.content(b"f") == b"no more"
        await mount.vfs.files.fsync(handle)
    await assert_sound(disk)


async def test_long_writes_wait_for_their_sync(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "AHEAD_BYTES", 16 * KIB)
    async with mounted(Disk()) as mount:
        handle = await habit(mount, b"f")
        before = mount.vfs.flusher.committed_bytes
        await mount.write(handle, 0, bytes(20 * KIB))
        await wait_all_tasks_blocked()
        assert mount.vfs.flusher.committed_bytes == before


async def test_a_flush_ahead_that_fails_is_told_by_the_sync(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount:
        handle = await habit(mount, b"f")
        for node in disk.fleet.nodes:
            node.dead = True
        await mount.write(handle, 0, b"new")
        with pytest.raises(Exception, match="node"):
            await mount.vfs.files.fsync(handle)
        for node in disk.fleet.nodes:
            node.dead = False
        await trio.sleep(60)
        await mount.vfs.files.fsync(handle)
        disk.engine.power_cut()
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new"


async def test_a_sync_waits_for_the_flush_that_was_begun_for_it(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount:
        handle = await habit(mount, b"f")
        for node in disk.fleet.nodes:
            node.delay_s["put"] = 0.5
        await mount.write(handle, 0, b"new")
        await wait_all_tasks_blocked()
        await mount.vfs.files.fsync(handle)
        disk.engine.power_cut()
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new"
