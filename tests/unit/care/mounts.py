"""A mount over fake nodes with a caretaker beside it, for the tests of compaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rainfs.care.caretaker import CareOptions, Caretaker
from rainfs.care.compaction import Compactor
from rainfs.care.pace import Nobody
from rainfs.care.reaper import Reaper
from rainfs.meta.extents import Extents
from rainfs.meta.stripes import scan_stripes
from rainfs.model import MIB, CodeKind, InodeNumber, StripeId
from rainfs.vfs.options import VfsOptions
from tests.unit.vfs.rig import OPTIONS, Disk, Mount, mounted


class Clients(Nobody):
    """Clients that a test moves."""

    def __init__(self, extents: Extents | None = None) -> None:
        self.extents = extents
        self.requests = 0
        self.pressed = False
        self.room = True
        self.claimed = 0

    def served(self) -> int:
        return self.requests

    def short(self) -> bool:
        return self.pressed

    def claim(self, nbytes: int) -> bool:
        self.claimed += nbytes if self.room else 0
        return self.room

    def release(self, nbytes: int) -> None:
        self.claimed -= nbytes

    def moved(self, inode: InodeNumber) -> None:
        if self.extents is not None:
            self.extents.forget(inode)


class Cared:
    """A mount, its session, and who looks after it."""

    def __init__(self, mount: Mount, disk: Disk, options: CareOptions) -> None:
        self.mount = mount
        self.disk = disk
        self.session = mount.vfs._session
        self.clients = Clients(mount.vfs._extents)
        assert disk.volume is not None
        self.compactor = Compactor(disk.engine, self.session, mount.array, self.clients)
        self.caretaker = Caretaker(
            disk.engine,
            self.session,
            mount.array,
            disk.volume.layout,
            self.clients,
            options,
            disk.clock,
        )
        self.reaper = Reaper(disk.engine, self.session, mount.array)

    async def stripes(self) -> dict[StripeId, tuple[CodeKind, int, int]]:
        rows = await scan_stripes(self.disk.engine, None, 100_000)
        return {row.id: (row.stripe.code.kind, row.live_bytes, row.born_bytes) for row in rows}

    async def bury(self) -> None:
        """Have the nodes delete what is dead."""
        while await self.reaper.round():
            pass

    async def sync(self) -> None:
        await self.mount.vfs.flusher.flush_all()


CARE = CareOptions(bytes_per_s=1 * MIB)


@asynccontextmanager
async def cared(
    disk: Disk,
    options: VfsOptions = OPTIONS,
    care: CareOptions = CARE,
    *,
    close: bool = True,
) -> AsyncIterator[Cared]:
    async with mounted(disk, options, close=close) as mount:
        yield Cared(mount, disk, care)
