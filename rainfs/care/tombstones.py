"""The last step of a stripe's life: tombstone -> durable commit -> delete on nodes -> drop it.

Owns the order of those steps, for the mount's reaper and for `rainfs gc` alike; both may run at
once, since every step is idempotent.  The durable commit comes first, because a power cut may
otherwise roll the metadata back onto a stripe whose shards are gone.  A tombstone stays until
every node that is to hold a shard has confirmed the delete, so that the space of a node that is
away comes back when it does.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

import trio

from rainfs.array.backend import Backend
from rainfs.errors import StorageError
from rainfs.meta.engine import Engine
from rainfs.meta.stripes import drop_tombstones
from rainfs.model import NO_NODE, NodeNumber, Placement, ShardKey, StripeId

log = logging.getLogger(__name__)

DELETE_KEYS = 256
"""Shards named in one delete call, so that a node answers well within a deadline."""

Tombstone = tuple[StripeId, Placement]
BackendOf = Callable[[NodeNumber], Backend | None]


async def bury(
    engine: Engine, backend_of: BackendOf, due: Sequence[Tombstone]
) -> tuple[list[StripeId], int]:
    """Delete the shards of `due` and drop the tombstones that are done with.

    `backend_of` returns None for a node that is no longer a member of the volume.  Returns the
    stripes that are gone from all nodes, and how many shards the nodes were told to delete.
    """
    await engine.durable()
    wanted: dict[NodeNumber, list[ShardKey]] = defaultdict(list)
    for stripe, placement in due:
        for shard, node in enumerate(placement.nodes):
            if node != NO_NODE:
                wanted[node].append(ShardKey(stripe, shard))
    unconfirmed: set[StripeId] = set()
    told = 0

    async def delete_on(number: NodeNumber, keys: list[ShardKey]) -> None:
        nonlocal told
        backend = backend_of(number)
        if backend is None:
            return
        for first in range(0, len(keys), DELETE_KEYS):
            try:
                await backend.delete(keys[first : first + DELETE_KEYS])
            except StorageError as error:
                log.debug("deletes on node %d wait: %s", number, error)
                unconfirmed.update(key.stripe for key in keys[first:])
                return
            told += len(keys[first : first + DELETE_KEYS])

    async with trio.open_nursery() as nursery:
        for number, keys in wanted.items():
            nursery.start_soon(delete_on, number, keys)
    gone = [stripe for stripe, _ in due if stripe not in unconfirmed]
    if gone:
        await drop_tombstones(engine, gone)
    return gone, told
