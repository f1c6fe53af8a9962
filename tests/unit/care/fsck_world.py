"""A populated volume over fake nodes, with real shards, for the tests of fsck.

The tree: `/plain` (20 KiB in two stripes, overwritten in part), `/linked` = `/dir/other` (a block),
`/dir/sub/deep` (a file in a directory in a directory), `/link` -> `plain`, `/empty`; `/plain` and
`/dir` have extended attributes; a file is removed and listed to be freed, a stripe is given up.
The session has ended.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

import trio

from rainfs.array.array import Array
from rainfs.array.backend import Backend
from rainfs.array.values import Piece
from rainfs.meta import keys
from rainfs.meta.committing import FileUpdate
from rainfs.meta.extents import Extents
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.namespace import Namespace
from rainfs.meta.nodes import list_nodes
from rainfs.meta.sessions import Session
from rainfs.meta.volume import Volume, format_volume
from rainfs.model import (
    KIB,
    ROOT_INODE,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    StripeId,
    reed_solomon,
)
from tests.fakes.backend import FakeFleet

NODES = 5
LAYOUT = Layout(
    LayoutId(1), reed_solomon(2, 1), Compression.NONE, 8 * KIB, shard_bytes=16 * KIB, small_bytes=0
)
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
SYMLINK = stat.S_IFLNK | 0o777

Rows = dict[bytes, bytes]


class FsckWorld:
    """The volume; `rows` is the map itself."""

    def __init__(self, engine: MemoryEngine, volume: Volume, fleet: FakeFleet) -> None:
        self.engine = engine
        self.volume = volume
        self.fleet = fleet
        self.inodes: dict[str, InodeNumber] = {"/": ROOT_INODE}
        self.stripes: dict[str, StripeId] = {}

    @property
    def rows(self) -> Rows:
        rows: Rows = self.engine.rows
        return rows

    def copy(self) -> Rows:
        """Return the map as it is now."""
        return dict(self.engine.rows)

    def backends(self) -> dict[NodeNumber, Backend]:
        """Return a session to every node."""
        return {
            NodeNumber(number): node.session(volume=self.volume.id)
            for number, node in enumerate(self.fleet.nodes, start=1)
        }

    def shards(self) -> dict[tuple[int, object], tuple[bytes, bytes]]:
        """Return everything that the nodes hold."""
        return {
            (number, key): (bytes(held.payload), held.about)
            for number, node in enumerate(self.fleet.nodes, start=1)
            for key, held in node.shards.items()
        }

    def inode_row(self, path: str) -> bytes:
        return keys.inode_key(self.inodes[path])

    async def names(self, directory: InodeNumber = ROOT_INODE) -> dict[bytes, InodeNumber]:
        """List a directory as a mount would."""
        session = await Session.begin(self.engine, read_only=True, mountpoint="")
        names = Namespace(self.engine, session)
        return {e.name: e.attr.inode for e in await names.readdir(directory, 0, 1000)}


class _Builder:
    def __init__(self, world: FsckWorld, session: Session, array: Array) -> None:
        self.world = world
        self.session = session
        self.array = array
        self.space = Namespace(world.engine, session)
        self.extents = Extents(world.engine, session)

    async def make(self, path: str, mode: int = FILE, target: bytes = b"") -> InodeNumber:
        head, _, name = path.rpartition("/")
        attr = await self.space.make(
            self.world.inodes[head or "/"],
            name.encode(),
            mode=mode,
            uid=7,
            gid=8,
            now_ns=5,
            target=target,
        )
        self.world.inodes[path] = attr.inode
        return attr.inode

    async def write(self, name: str, *blocks: tuple[str, int, bytes]) -> None:
        stripe = self.session.next_stripe()
        pieces = [
            Piece(self.world.inodes[path], offset, len(data), (data,))
            for path, offset, data in blocks
        ]
        view = await self.array.write(stripe, pieces, LAYOUT)
        files = [FileUpdate(p.inode, p.file_offset + p.length, 6, 6) for p in pieces]
        # One update a file, with the furthest end.
        last = {file.inode: file for file in sorted(files, key=lambda f: (f.inode, f.size or 0))}
        await self.extents.commit([view], list(last.values()))
        self.session.settle(stripe)
        self.world.stripes[name] = stripe


def pattern(seed: int, length: int) -> bytes:
    """Bytes that differ from place to place."""
    return bytes((seed + index * 7 + (index >> 8)) & 0xFF for index in range(length))


async def populated(*, nodes: int = NODES, end_session: bool = True) -> FsckWorld:
    """Make the volume."""
    engine, fleet = MemoryEngine(), FakeFleet(nodes)
    rows: Sequence[Node] = [
        Node(NodeNumber(i), n.uuid, n.name, n.url, {"host": f"h{i}"})
        for i, n in enumerate(fleet.nodes, 1)
    ]
    volume = await format_volume(engine, name="v", layout=LAYOUT, nodes=rows)
    for node in fleet.nodes:
        node.volume = volume.id
    world = FsckWorld(engine, volume, fleet)
    session = await Session.begin(engine, read_only=False, mountpoint="/mnt")
    async with trio.open_nursery() as nursery:
        array = Array(volume.id, nursery, open_backend=fleet.open_backend)
        await array.set_nodes(await list_nodes(engine))
        await array.start()
        build = _Builder(world, session, array)
        for path in ("/plain", "/linked", "/empty", "/gone", "/removed"):
            await build.make(path)
        for path in ("/dir", "/dir/sub", "/other-dir"):
            await build.make(path, DIRECTORY)
        await build.make("/dir/sub/deep")
        await build.make("/link", SYMLINK, b"plain")
        await build.space.link(world.inodes["/linked"], world.inodes["/dir"], b"other", now_ns=7)
        await build.write(
            "first",
            ("/plain", 0, pattern(1, 8 * KIB)),
            ("/plain", 8 * KIB, pattern(2, 8 * KIB)),
            ("/linked", 0, pattern(3, 5_000)),
        )
        await build.write(
            "second", ("/plain", 4 * KIB, pattern(4, 6 * KIB)), ("/plain", 16 * KIB, bytes(4 * KIB))
        )
        await build.write("third", ("/dir/sub/deep", 0, pattern(5, 100)))
        await build.write("dead", ("/gone", 0, pattern(6, 4_096)))
        await build.write("removed", ("/removed", 0, pattern(7, 4_096)))
        await build.space.setxattr(world.inodes["/plain"], b"user.a", b"1")
        await build.space.setxattr(world.inodes["/dir"], b"user.b", b"2")
        await build.space.unlink(ROOT_INODE, b"gone", now_ns=8)
        await build.extents.reap(world.inodes["/gone"])
        await build.space.unlink(ROOT_INODE, b"removed", now_ns=8)
        await array.aclose()
        nursery.cancel_scope.cancel()
    if end_session:
        await session.end()
    return world
