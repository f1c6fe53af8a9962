"""Compaction gets room only beside what write() has promised, and is told when room is short."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from rainfs.array.array import Piece
from rainfs.errors import NoSpace
from rainfs.model import KIB, MIB, InodeNumber
from rainfs.vfs.options import VfsOptions
from rainfs.vfs.room import REFRESH_S
from tests.unit.vfs.rig import STRIPE, Disk, assert_sound, mounted

OPTIONS = VfsOptions(dirty_bytes=16 * MIB, deadline_s=5.0, reserve_bytes=256 * KIB)


def _pieces() -> list[Piece]:
    """A full stripe of a file that does not exist."""
    size = 8 * KIB
    return [
        Piece(InodeNumber(999), number * size, size, (bytes(size),))
        for number in range(STRIPE // size)
    ]


async def test_a_claim_takes_no_room_that_a_writer_was_promised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk(capacity_bytes=2 * MIB)
    async with mounted(disk, OPTIONS) as mount:
        claims = 0
        while mount.vfs.sharing.claim(STRIPE):
            claims += 1
        assert claims > 10
        handle = await mount.create(b"file")

        async def fill() -> None:
            for number in range(100):
                await mount.write(handle, number * STRIPE, bytes(STRIPE))

        with pytest.raises(NoSpace):
            await fill()
        for _ in range(claims):
            mount.vfs.sharing.release(STRIPE)
    await assert_sound(disk)


async def test_every_byte_that_write_took_is_flushed_beside_claims_that_were_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk(capacity_bytes=2 * MIB)
    async with mounted(disk, OPTIONS) as mount:
        handle = await mount.create(b"file")
        taken = 0

        async def fill() -> None:
            nonlocal taken
            for number in range(1000):
                if mount.vfs.sharing.claim(STRIPE):
                    # The worst that a claim may bring about: a stripe that stays.
                    view = await mount.array.write(
                        mount.vfs._session.next_stripe(),
                        _pieces(),
                        mount.vfs.volume.layout,
                    )
                    assert view is not None
                    mount.vfs.sharing.release(STRIPE)
                await mount.write(handle, number * 8 * KIB, b"x" * 8 * KIB)
                taken += 1

        with pytest.raises(NoSpace):
            await fill()
        assert taken > 10
        await mount.vfs.files.fsync(handle)
        assert await mount.read(handle, 0, taken * 8 * KIB) == b"x" * (taken * 8 * KIB)


async def test_room_is_short_before_it_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk(capacity_bytes=1 * MIB)
    async with mounted(disk, replace(OPTIONS, reserve_bytes=64 * KIB)) as mount:
        assert not mount.vfs.sharing.short()
        handle = await mount.create(b"file")
        for number in range(1_000):
            await mount.write(handle, number * 4 * STRIPE, bytes(4 * STRIPE))
            await mount.vfs.files.fsync(handle)
            await trio.sleep(REFRESH_S)
            if mount.vfs.sharing.short():
                break
        assert mount.vfs.sharing.short()
        await mount.write(handle, 0, bytes(8 * KIB))


async def test_reads_and_writes_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with mounted(Disk()) as mount:
        handle = await mount.create(b"file")
        before = mount.vfs.sharing.served()
        await mount.write(handle, 0, b"x")
        await mount.read(handle)
        assert mount.vfs.sharing.served() == before + 2
