"""An array over fake nodes, and what tests of it say again and again."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import trio

from rainfs.array.array import Array, Piece, Wanted
from rainfs.array.backend import Buffer
from rainfs.model import (
    KIB,
    Code,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    Placement,
    StripeId,
    StripeView,
    VolumeId,
    reed_solomon,
    stripe_id,
)
from tests.fakes.backend import FakeFleet

VOLUME = VolumeId(b"array-test-volum")
DEADLINE_S = 10.0


def layout_of(
    code: Code | None = None,
    *,
    compression: Compression = Compression.NONE,
    block_bytes: int = 8 * KIB,
    shard_bytes: int = 16 * KIB,
    small_bytes: int = 4 * KIB,
) -> Layout:
    """Small sizes, so that stripes are built on the event loop and clocks may be mocked."""
    return Layout(
        LayoutId(1),
        code or reed_solomon(4, 2),
        compression,
        block_bytes,
        shard_bytes,
        small_bytes,
    )


def node_rows(fleet: FakeFleet) -> list[Node]:
    return [
        Node(NodeNumber(i), node.uuid, node.name, node.url, dict(node.labels))
        for i, node in enumerate(fleet.nodes, 1)
    ]


class Rig:
    """An array, its nodes, and the stripes that were written."""

    def __init__(self, array: Array, fleet: FakeFleet, random: Random) -> None:
        self.array = array
        self.fleet = fleet
        self.random = random
        self.counter = 0
        self.rows: dict[StripeId, StripeView] = {}
        self.refreshes = 0

    def node(self, view: StripeView, shard: int):  # type: ignore[no-untyped-def]
        return self.fleet[view.placement.nodes[shard] - 1]

    def pieces(self, lengths: Sequence[int], *, segments: int = 1) -> list[Piece]:
        made = []
        for i, length in enumerate(lengths):
            data = self.random.randbytes(length)
            cuts = sorted(self.random.randrange(length + 1) for _ in range(segments - 1))
            ends = [0, *cuts, length]
            parts = tuple(data[a:b] for a, b in itertools.pairwise(ends))
            made.append(Piece(InodeNumber(100 + i), i * 64 * KIB, length, parts))
        return made

    def next_id(self) -> StripeId:
        self.counter += 1
        return stripe_id(1, self.counter)

    async def write(self, pieces: Sequence[Piece], layout: Layout) -> StripeView:
        view = await self.array.write(self.next_id(), pieces, layout)
        self.rows[view.id] = view
        return view

    def refresh(self, view: StripeView):  # type: ignore[no-untyped-def]
        async def again() -> StripeView | None:
            self.refreshes += 1
            await trio.lowlevel.checkpoint()
            return self.rows.get(view.id)

        return again

    async def read(self, view: StripeView, wanted: Sequence[Wanted]) -> list[Buffer]:
        return await self.array.read(view, wanted, self.refresh(view))

    async def read_back(self, view: StripeView) -> list[bytes]:
        """Every block whole."""
        wanted = [Wanted(i, 0, b.length) for i, b in enumerate(view.stripe.blocks)]
        return [bytes(data) for data in await self.read(view, wanted)]

    async def settle(self) -> None:
        """Let the health polls notice what changed."""
        await trio.sleep(8)


def content(pieces: Sequence[Piece]) -> list[bytes]:
    return [b"".join(piece.segments) for piece in pieces]


def moved(view: StripeView, nodes: Sequence[int]) -> StripeView:
    return StripeView(view.id, view.stripe, Placement(tuple(NodeNumber(n) for n in nodes)))


@asynccontextmanager
async def open_rig(
    count: int = 6,
    *,
    seed: int = 1,
    cache_bytes: int = 0,
    fleet: FakeFleet | None = None,
) -> AsyncIterator[Rig]:
    print("seed", seed)
    fleet = fleet or FakeFleet(count, volume=VOLUME)
    random = Random(seed)
    async with trio.open_nursery() as nursery:
        array = Array(
            VOLUME,
            nursery,
            deadline_s=DEADLINE_S,
            cache_bytes=cache_bytes,
            random=random,
            open_backend=fleet.open_backend,
        )
        await array.set_nodes(node_rows(fleet))
        await array.start()
        yield Rig(array, fleet, random)
        await array.aclose()
        assert not nursery.child_tasks, "the array left tasks behind"
