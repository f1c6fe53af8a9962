"""A formatted volume on an engine in memory, with its session, for the unit tests."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rainfs.meta.engine import Engine
from rainfs.meta.extents import Extents, FileUpdate
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.namespace import Namespace
from rainfs.meta.sessions import Session
from rainfs.meta.volume import Volume, format_volume
from rainfs.model import (
    ROOT_INODE,
    Attr,
    Block,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    NodeNumber,
    Placement,
    Stripe,
    StripeId,
    StripeView,
    reed_solomon,
)

LAYOUT = Layout(LayoutId(0), reed_solomon(4, 2))
PLACEMENT = Placement(tuple(NodeNumber(number) for number in range(1, 7)))
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
SYMLINK = stat.S_IFLNK | 0o777


def view_of(stripe: StripeId, blocks: Iterable[tuple[int, int, int]]) -> StripeView:
    """A stripe of blocks (inode, file offset, length)."""
    rows = tuple(
        Block(InodeNumber(inode), offset, length, 0, 0, length, Compression.NONE, 0)
        for inode, offset, length in blocks
    )
    return StripeView(stripe, Stripe(reed_solomon(4, 2), 4096, rows, LayoutId(1)), PLACEMENT)


@dataclass
class Rig:
    engine: Engine
    volume: Volume
    session: Session
    names: Namespace
    extents: Extents
    now_ns: int = 1_000
    made: int = field(default=0)

    def tick(self) -> int:
        self.now_ns += 1
        return self.now_ns

    async def make(
        self,
        name: bytes,
        mode: int = FILE,
        parent: InodeNumber = ROOT_INODE,
        *,
        uid: int = 0,
        gid: int = 0,
        target: bytes = b"",
    ) -> Attr:
        return await self.names.make(
            parent, name, mode=mode, uid=uid, gid=gid, now_ns=self.tick(), target=target
        )

    async def mkdir(self, name: bytes, parent: InodeNumber = ROOT_INODE) -> Attr:
        return await self.make(name, DIRECTORY, parent)

    async def nlink(self, inode: InodeNumber) -> int:
        return (await self.names.getattr(inode)).nlink

    async def write(self, *blocks: tuple[int, int, int], size: int | None = None) -> StripeId:
        """Commit one stripe of blocks (inode, file offset, length); grows the files to fit."""
        stripe = self.session.next_stripe()
        ends: dict[int, int] = {}
        for inode, offset, length in blocks:
            ends[inode] = max(ends.get(inode, 0), offset + length)
        now_ns = self.tick()
        files = [
            FileUpdate(InodeNumber(inode), end if size is None else size, now_ns, now_ns)
            for inode, end in ends.items()
        ]
        await self.extents.commit([view_of(stripe, blocks)], files)
        self.session.settle(stripe)
        return stripe


@asynccontextmanager
async def open_rig(engine: Engine | None = None, **namespace: object) -> AsyncIterator[Rig]:
    engine = engine or MemoryEngine()
    volume = await format_volume(engine, name="test", layout=LAYOUT, nodes=[], now_ns=1)
    session = await Session.begin(engine, read_only=False, mountpoint="/test")
    names = Namespace(engine, session, **namespace)  # type: ignore[arg-type]
    yield Rig(engine, volume, session, names, Extents(engine, session))
    await session.end()
    await engine.aclose()
