"""Garbage collection: finds and deletes the shards that no stripe owns.  Safe beside a mount.

Owns the order that makes it safe.  A page of a node's shards is listed first, the sessions are read
second and the stripes third.  A shard is garbage only if its stripe id belongs to an ended session
or lies below the low-water mark of a living one; such an id was settled before the stripes were
read, so a stripe that is absent then is absent for ever.  Before anything is deleted, the metadata
that said so is made durable.

Also sweeps what the metadata keeps for nobody: tombstones, and unlinked files whose session ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from rainfs.array.backend import Backend
from rainfs.care.tombstones import DELETE_KEYS, bury
from rainfs.errors import StorageError
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import SessionRow, list_sessions
from rainfs.meta.stripes import scan_stripes, tombstones
from rainfs.model import NodeNumber, Placement, ShardInfo, ShardKey, StripeId, epoch_of

log = logging.getLogger(__name__)

LIST_PAGE = 2_000
"""Shards listed in one call."""

STRIPE_PAGE = 500
"""Stripe rows read in one snapshot."""

TOMBSTONE_BATCH = 512
"""Tombstones buried together."""

Progress = Callable[[int, int], None]
"""Called with (shards looked at, shards expected)."""


@dataclass(slots=True)
class Collected:
    """What a collection did."""

    shards_seen: int = 0
    shards_deleted: int = 0
    bytes_deleted: int = 0
    stripes_buried: int = 0
    unreachable: dict[NodeNumber, str] = field(default_factory=dict)
    """Nodes that did not answer, and why: what they hold stays for the next time."""


class Settled:
    """Which stripe ids are settled: committed or given up, so that their absence is final."""

    def __init__(self, ended_epoch: int) -> None:
        """All epochs up to `ended_epoch` are known to have ended."""
        self._newest = ended_epoch
        self._low_water: dict[int, StripeId] = {}

    def update(self, sessions: Sequence[SessionRow]) -> None:
        """Take in what the sessions say now.  An epoch that was seen and is gone has ended."""
        self._low_water = {row.epoch: row.low_water for row in sessions if row.alive}
        self._newest = max(self._newest, *(row.epoch for row in sessions), 0)

    def __call__(self, stripe: StripeId) -> bool:
        """Whether the stripe's absence from the metadata is final."""
        epoch = epoch_of(stripe)
        if epoch in self._low_water:
            return stripe < self._low_water[epoch]
        return epoch <= self._newest


def garbage_among(
    shards: Sequence[ShardInfo],
    node: NodeNumber,
    owners: Mapping[StripeId, Placement],
    settled: Callable[[StripeId], bool],
) -> list[ShardInfo]:
    """Return the shards on `node` that no stripe owns, or whose stripe has them elsewhere."""
    garbage = []
    for info in shards:
        owner = owners.get(info.key.stripe)
        if owner is not None:
            nodes = owner.nodes
            owned = info.key.shard < len(nodes) and nodes[info.key.shard] == node
        else:
            owned = False
        if not owned and settled(info.key.stripe):
            garbage.append(info)
    return garbage


class Collector:
    """One run of `rainfs gc`."""

    def __init__(
        self,
        engine: Engine,
        backends: Mapping[NodeNumber, Backend],
        *,
        ended_epoch: int,
        sweep: Collection[NodeNumber] | None = None,
        progress: Progress = lambda seen, expected: None,
    ) -> None:
        """`backends` are all nodes of the volume; only those in `sweep` are swept, if given."""
        self._engine = engine
        self._backends = backends
        self._swept = backends.keys() if sweep is None else sweep
        self._progress = progress
        self._settled = Settled(ended_epoch)
        self._expected = 0
        self._done = Collected()

    async def run(self) -> Collected:
        """Bury all tombstones, then sweep all nodes at once."""
        await self._bury_all()
        async with trio.open_nursery() as nursery:
            for number in self._swept:
                backend = self._backends[number]
                nursery.start_soon(self._sweep_node, number, backend)
        return self._done

    async def _bury_all(self) -> None:
        seen: set[StripeId] = set()
        while True:
            batch = await tombstones(self._engine, TOMBSTONE_BATCH + len(seen))
            due = [stone for stone in batch if stone[0] not in seen][:TOMBSTONE_BATCH]
            if not due:
                return
            gone, told = await bury(self._engine, self._backends.get, due)
            self._done.stripes_buried += len(gone)
            self._done.shards_deleted += told
            seen.update({stripe for stripe, _ in due} - set(gone))

    async def _sweep_node(self, number: NodeNumber, backend: Backend) -> None:
        try:
            health = await backend.health()
            self._expected += health.shards
            after: ShardKey | None = None
            while page := await backend.list(after, LIST_PAGE):
                after = page[-1].key
                await self._sweep_page(number, backend, page)
                self._done.shards_seen += len(page)
                self._progress(self._done.shards_seen, self._expected)
        except StorageError as error:
            self._done.unreachable[number] = str(error)

    async def _sweep_page(
        self, number: NodeNumber, backend: Backend, page: Sequence[ShardInfo]
    ) -> None:
        self._settled.update(await list_sessions(self._engine))
        owners = await self._owners(page[0].key.stripe, page[-1].key.stripe)
        garbage = garbage_among(page, number, owners, self._settled)
        if not garbage:
            return
        await self._engine.durable()
        for first in range(0, len(garbage), DELETE_KEYS):
            batch = garbage[first : first + DELETE_KEYS]
            await backend.delete([info.key for info in batch])
            self._done.shards_deleted += len(batch)
            self._done.bytes_deleted += sum(info.length for info in batch)
            log.debug("deleted %d shards that no stripe owns from node %d", len(batch), number)

    async def _owners(self, first: StripeId, last: StripeId) -> dict[StripeId, Placement]:
        owners: dict[StripeId, Placement] = {}
        after = StripeId(first - 1)
        while rows := await scan_stripes(self._engine, after, STRIPE_PAGE):
            owners.update((row.id, row.placement) for row in rows if row.id <= last)
            after = rows[-1].id
            if after >= last:
                break
        return owners
