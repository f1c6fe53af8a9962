"""Who is taken for the process that fills the kernel's cache, and who waits for it."""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from rainfs.mount.adapter import Adapter
from rainfs.mount.filling import Filling
from tests.unit.vfs.rig import Disk, mounted

NAMELESS = types.SimpleNamespace(uid=0, gid=0, umask=0o022, pid=0)
"""A process of another process namespace, as the kernel presents it."""

FILLER = types.SimpleNamespace(uid=0, gid=0, umask=0o022, pid=4711)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_only_the_filler_is_taken_for_it(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount, trio.open_nursery() as nursery:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        adapter.filling = Filling(Path("/nowhere"), nursery)
        _, entry = await adapter.create(1, b"f", 0o644, os.O_RDWR, NAMELESS)
        files = mount.vfs.files
        strange = await adapter.open(entry.st_ino, os.O_RDONLY, NAMELESS)
        assert files.reader_of(strange.fh) == entry.st_ino
        adapter.filling.pid = FILLER.pid
        strange = await adapter.open(entry.st_ino, os.O_RDONLY, NAMELESS)
        assert files.reader_of(strange.fh) == entry.st_ino
        filler = await adapter.open(entry.st_ino, os.O_RDONLY, FILLER)
        assert files.reader_of(filler.fh) is None


async def test_a_close_waits_for_the_filler_only_where_that_file_was_filled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(Disk()) as mount, trio.open_nursery() as nursery:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        adapter.filling = filling = Filling(Path("/nowhere"), nursery)
        filling.pid = FILLER.pid
        rests: list[set[int]] = []

        async def rest() -> None:
            rests.append(filling.held.copy())
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(filling, "rest", rest)
        filled, filled_entry = await adapter.create(1, b"filled", 0o644, os.O_RDWR, NAMELESS)
        other, _ = await adapter.create(1, b"other", 0o644, os.O_RDWR, NAMELESS)
        own = await adapter.open(filled_entry.st_ino, os.O_RDONLY, FILLER)
        filling.held.add(filled_entry.st_ino)
        await adapter.flush(other.fh)
        await adapter.flush(own.fh)
        assert not rests
        await adapter.flush(filled.fh)
        assert rests == [{filled_entry.st_ino}]
