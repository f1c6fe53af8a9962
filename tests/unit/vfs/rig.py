"""A whole mount without a kernel: vfs over the memory engine and an array of fake nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio

from rainfs.array.array import Array
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.nodes import list_nodes
from rainfs.meta.sessions import Session
from rainfs.meta.volume import Volume, format_volume, open_volume
from rainfs.model import KIB, MIB, ROOT_INODE, Layout, Node, NodeNumber, VolumeId
from rainfs.vfs.inodes import Inode
from rainfs.vfs.names import RenameFlag
from rainfs.vfs.options import Caller, VfsOptions
from rainfs.vfs.vfs import VFS
from tests.fakes.backend import FakeFleet
from tests.model.recount import recount
from tests.unit.array.rig import layout_of

ROOT = Caller(0, 0, 0o022)
FILE = 0o100666
DIRECTORY = 0o040777

BLOCK = 8 * KIB
STRIPE = 64 * KIB
"""File bytes in a full stripe of the small layout here (4 x 16 KiB)."""

OPTIONS = VfsOptions(dirty_bytes=1 * MIB, deadline_s=5.0, retry_s=1.0, reserve_bytes=0)
ARRAY_DEADLINE_S = 5.0
NODES = 6
CAPACITY_BYTES = 64 * MIB


class Clock:
    """Wall time that moves a little at every look."""

    def __init__(self) -> None:
        self.now = 2_000_000_000_000_000_000

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


class Disk:
    """What outlives a mount: nodes and metadata."""

    def __init__(self, *, capacity_bytes: int = CAPACITY_BYTES, interleave: bool = False) -> None:
        self.fleet = FakeFleet(NODES, capacity_bytes=capacity_bytes)
        self.engine = MemoryEngine(interleave=interleave)
        self.volume: Volume | None = None
        self.clock = Clock()

    async def formatted(self, layout: Layout | None = None) -> Volume:
        if self.volume is None:
            nodes = [
                Node(NodeNumber(i), node.uuid, node.name, node.url, dict(node.labels))
                for i, node in enumerate(self.fleet.nodes, 1)
            ]
            self.volume = await format_volume(
                self.engine, name="test", layout=layout or layout_of(), nodes=nodes
            )
            for node in self.fleet.nodes:
                node.volume = VolumeId(self.volume.id)
        return await open_volume(self.engine)


class Mount:
    """One mount, and the system calls of a single process on it."""

    def __init__(self, vfs: VFS, disk: Disk, array: Array) -> None:
        self.vfs = vfs
        self.disk = disk
        self.array = array

    async def create(self, name: bytes, *, parent: int = ROOT_INODE, mode: int = FILE) -> int:
        inode = await self.vfs.names.make(parent, name, mode, ROOT)
        return self.vfs.files.hold(inode)

    async def mkdir(self, name: bytes, *, parent: int = ROOT_INODE) -> int:
        return (await self.vfs.names.make(parent, name, DIRECTORY, ROOT)).inode

    async def inode(self, name: bytes, *, parent: int = ROOT_INODE) -> Inode | None:
        found = await self.vfs.names.lookup(parent, name)
        if found is not None:
            self.vfs.table.forget(found.inode, 1)
        return found

    async def open(self, name: bytes, *, truncate: bool = False) -> int:
        inode = await self.inode(name)
        assert inode is not None, name
        return await self.vfs.files.open(inode.inode, truncate=truncate, write=True)

    async def write(self, handle: int, offset: int, data: bytes) -> None:
        assert await self.vfs.files.write(handle, offset, data) == len(data)

    async def read(self, handle: int, offset: int = 0, size: int = MIB) -> bytes:
        return bytes(await self.vfs.files.read(handle, offset, size))

    async def content(self, name: bytes) -> bytes | None:
        """Return a file's bytes, or None if there is no such name."""
        if await self.inode(name) is None:
            return None
        handle = await self.open(name)
        try:
            return await self.read(handle)
        finally:
            self.vfs.files.release(handle)

    async def truncate(self, name: bytes, size: int) -> None:
        inode = await self.inode(name)
        assert inode is not None
        await self.vfs.attributes.truncate(inode, size)

    async def rename(self, old: bytes, new: bytes, flags: RenameFlag = RenameFlag.NONE) -> None:
        await self.vfs.names.rename(ROOT_INODE, old, ROOT_INODE, new, flags)

    async def unlink(self, name: bytes) -> None:
        await self.vfs.names.unlink(ROOT_INODE, name)


@asynccontextmanager
async def mounted(
    disk: Disk, options: VfsOptions = OPTIONS, *, layout: Layout | None = None, close: bool = True
) -> AsyncIterator[Mount]:
    """Mount; with `close` false the mount dies at the end like a killed process."""
    volume = await disk.formatted(layout)
    session = await Session.begin(disk.engine, read_only=options.read_only, mountpoint="/test")
    async with trio.open_nursery() as nursery:
        array = Array(
            volume.id,
            nursery,
            deadline_s=ARRAY_DEADLINE_S,
            random=Random(1),
            open_backend=disk.fleet.open_backend,
        )
        await array.set_nodes(await list_nodes(disk.engine))
        await array.start()
        vfs = VFS(
            disk.engine,
            volume,
            session,
            array,
            options=options,
            nursery=nursery,
            now_ns=disk.clock,
        )
        await vfs.start()
        yield Mount(vfs, disk, array)
        if close:
            await vfs.close()
            await session.end()
        else:
            disk.engine.locked = False
        await array.aclose()
        nursery.cancel_scope.cancel()


async def assert_sound(disk: Disk) -> None:
    """The metadata's kept figures are what its rows say."""
    found = await recount(disk.engine)
    assert found.sound, found
