"""A volume in memory over fake nodes, for the tests of care."""

from __future__ import annotations

from collections.abc import Sequence

from rainfs.array.backend import Backend
from rainfs.meta.committing import FileUpdate
from rainfs.meta.extents import Extents
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.namespace import Namespace
from rainfs.meta.sessions import Session
from rainfs.meta.volume import Volume, format_volume
from rainfs.model import (
    PAGE_BYTES,
    ROOT_INODE,
    Block,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    Placement,
    ShardKey,
    Stripe,
    StripeId,
    StripeView,
    reed_solomon,
)
from tests.fakes.backend import FakeFleet

CODE = reed_solomon(2, 1)
REGULAR_FILE = 0o100644


class World:
    """Three nodes, one mount."""

    def __init__(
        self, engine: MemoryEngine, volume: Volume, session: Session, fleet: FakeFleet
    ) -> None:
        self.engine = engine
        self.volume = volume
        self.session = session
        self.fleet = fleet
        self.nodes = fleet.nodes
        self.namespace = Namespace(engine, session)
        self.extents = Extents(engine, session)
        self.backends: dict[NodeNumber, Backend] = {
            NodeNumber(number): node.session(volume=volume.id)
            for number, node in enumerate(fleet.nodes, start=1)
        }

    @classmethod
    async def make(cls) -> World:
        engine = MemoryEngine()
        fleet = FakeFleet(3)
        rows = [
            Node(NodeNumber(i), n.uuid, n.name, n.url, {}) for i, n in enumerate(fleet.nodes, 1)
        ]
        layout = Layout(LayoutId(1), CODE)
        volume = await format_volume(engine, name="v", layout=layout, nodes=rows)
        for node in fleet.nodes:
            node.volume = volume.id
        session = await Session.begin(engine, read_only=False, mountpoint="/mnt")
        return cls(engine, volume, session, fleet)

    async def put_shards(self, stripe: StripeId, numbers: Sequence[int] = (1, 2, 3)) -> StripeView:
        """Put the shards of a stripe on nodes; the metadata does not know it yet."""
        for shard, number in enumerate(numbers):
            await self.backends[NodeNumber(number)].put(
                ShardKey(stripe, shard), [bytes(PAGE_BYTES)], durable=True
            )
        block = Block(InodeNumber(0), 0, PAGE_BYTES, 0, 0, PAGE_BYTES, Compression.NONE, 0)
        return StripeView(
            stripe,
            Stripe(CODE, PAGE_BYTES, (block,), LayoutId(1)),
            Placement(tuple(NodeNumber(number) for number in numbers)),
        )

    async def write_file(self, name: bytes) -> tuple[InodeNumber, StripeView]:
        """Make a file of one block in a stripe of its own, all the way to the metadata."""
        attr = await self.namespace.make(
            ROOT_INODE, name, mode=REGULAR_FILE, uid=0, gid=0, now_ns=1
        )
        view = await self.put_shards(self.session.next_stripe())
        block = Block(attr.inode, 0, PAGE_BYTES, 0, 0, PAGE_BYTES, Compression.NONE, 0)
        stripe = Stripe(CODE, PAGE_BYTES, (block,), LayoutId(1))
        view = StripeView(view.id, stripe, view.placement)
        await self.extents.commit([view], [FileUpdate(attr.inode, PAGE_BYTES, 1, 1)])
        self.session.settle(view.id)
        return attr.inode, view

    async def delete_file(self, name: bytes) -> None:
        attr = await self.namespace.unlink(ROOT_INODE, name, now_ns=2)
        await self.extents.reap(attr.inode)

    def held(self) -> set[StripeId]:
        """Return the stripes of which some node holds a shard."""
        return {key.stripe for node in self.nodes for key in node.shards}
