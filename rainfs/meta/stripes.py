"""Rows of stripes: what they are, where their shards lie, how much of them is still referenced.

Owns live bytes and tombstones.  Invariants: live bytes are the sum of the lengths of the extents
that point at the stripe, changed in the transaction that changes those; at 0 the rows give way to a
tombstone in the same transaction; a tombstone goes only after the nodes were told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.records import PLACEMENTS, STATES, STRIPES, StripeState
from rainfs.meta.tables import scan_table
from rainfs.model import NO_NODE, NodeNumber, Placement, Stripe, StripeId, StripeView

Changes = dict[StripeId, int]
"""By how much live bytes change, stripe by stripe."""

MAX_DROPPED_TOMBSTONES = 5_000
"""Tombstones that one transaction removes."""


class StripeRow(NamedTuple):
    """A stripe as enumerated."""

    id: StripeId
    stripe: Stripe
    placement: Placement
    live_bytes: int
    born_bytes: int


class StripeCounts(NamedTuple):
    """What `status` tells of the stripes."""

    total: int
    degraded: int
    """Stripes with a shard that was placed nowhere."""
    live_bytes: int
    born_bytes: int
    tombstones: int


async def load_view(reader: Reader, stripe: StripeId) -> StripeView | None:
    """Return the stripe for a reader, None if it is gone."""
    raw = await reader.get(keys.stripe_key(stripe))
    state = await reader.get(keys.state_key(stripe))
    if raw is None or state is None:
        return None
    nodes = STATES.decode(state).nodes
    return StripeView(stripe, STRIPES.decode(raw), Placement(nodes))


def store_new(transaction: Transaction, view: StripeView, live_bytes: int) -> None:
    """Write the rows of a new stripe; with nothing live, its tombstone at once."""
    if live_bytes == 0:
        bury(transaction, view.id, view.placement.nodes)
        return
    born_bytes = sum(block.length for block in view.stripe.blocks)
    transaction.put(keys.stripe_key(view.id), STRIPES.encode(view.stripe))
    state = StripeState(view.placement.nodes, live_bytes, born_bytes)
    transaction.put(keys.state_key(view.id), STATES.encode(state))


def bury(transaction: Transaction, stripe: StripeId, nodes: tuple[NodeNumber, ...]) -> None:
    """Replace the rows of a stripe by its tombstone."""
    transaction.delete(keys.stripe_key(stripe))
    transaction.delete(keys.state_key(stripe))
    transaction.put(keys.tombstone_key(stripe), PLACEMENTS.encode(Placement(nodes)))


async def apply_changes(transaction: Transaction, changes: Changes) -> None:
    """Add to live bytes; what comes to 0 gets a tombstone.

    Raises: MetadataForeign if a stripe is not there or would go below 0.
    """
    for stripe, change in changes.items():
        if change == 0:
            continue
        raw = await transaction.get(keys.state_key(stripe))
        if raw is None:
            raise MetadataForeign(f"metadata is damaged: no stripe {stripe:#x}")
        state = STATES.decode(raw)
        live_bytes = state.live_bytes + change
        if live_bytes < 0:
            raise MetadataForeign(
                f"metadata is damaged: stripe {stripe:#x} has {state.live_bytes} live bytes, "
                f"and {-change} more were freed"
            )
        if live_bytes == 0:
            bury(transaction, stripe, state.nodes)
        else:
            row = replace(state, live_bytes=live_bytes)
            transaction.put(keys.state_key(stripe), STATES.encode(row))


async def tombstones(
    engine: Engine, limit: int, *, after: StripeId | None = None
) -> list[tuple[StripeId, Placement]]:
    """Return the oldest tombstones, those above `after` if given."""

    async def body(reader: Reader) -> list[tuple[bytes, bytes]]:
        start, stop = keys.table(b"T") if after is None else keys.table_after(b"T", after)
        return await reader.scan(start, stop, limit=limit)

    rows = await engine.read(body)
    return [(StripeId(keys.number_of(key)), PLACEMENTS.decode(raw)) for key, raw in rows]


async def drop_tombstones(engine: Engine, stripes: Iterable[StripeId]) -> None:
    """Forget tombstones whose shards are deleted everywhere."""
    todo = list(stripes)
    while todo:
        some, todo = todo[:MAX_DROPPED_TOMBSTONES], todo[MAX_DROPPED_TOMBSTONES:]

        async def body(transaction: Transaction, some: list[StripeId] = some) -> None:
            for stripe in some:
                transaction.delete(keys.tombstone_key(stripe))

        await engine.run(body)


async def scan_stripes(engine: Engine, after: StripeId | None, limit: int) -> list[StripeRow]:
    """Return at most `limit` stripes by id, the first one above `after`."""

    async def body(reader: Reader) -> list[StripeRow]:
        start, stop = keys.table(b"S") if after is None else keys.table_after(b"S", after)
        rows: list[StripeRow] = []
        for key, raw in await reader.scan(start, stop, limit=limit):
            stripe = StripeId(keys.number_of(key))
            state_raw = await reader.get(keys.state_key(stripe))
            if state_raw is None:
                raise MetadataForeign(f"metadata is damaged: stripe {stripe:#x} has no state")
            state = STATES.decode(state_raw)
            placement = Placement(state.nodes)
            row = StripeRow(
                stripe, STRIPES.decode(raw), placement, state.live_bytes, state.born_bytes
            )
            rows.append(row)
        return rows

    return await engine.read(body)


async def scan_states(
    engine: Engine, after: StripeId | None, below: StripeId, limit: int
) -> list[tuple[StripeId, StripeState]]:
    """Return the small rows of at most `limit` stripes by id: above `after`, under `below`."""

    async def body(reader: Reader) -> list[tuple[bytes, bytes]]:
        start, _ = keys.table(b"P") if after is None else keys.table_after(b"P", after)
        return await reader.scan(start, keys.state_key(below), limit=limit)

    rows = await engine.read(body)
    return [(StripeId(keys.number_of(key)), STATES.decode(raw)) for key, raw in rows]


async def count_stripes(engine: Engine) -> StripeCounts:
    """Return totals; reads the small rows only."""
    total = degraded = live_bytes = born_bytes = 0
    async for _, raw in scan_table(engine, b"P"):
        state = STATES.decode(raw)
        total += 1
        degraded += NO_NODE in state.nodes
        live_bytes += state.live_bytes
        born_bytes += state.born_bytes
    buried = 0
    async for _ in scan_table(engine, b"T"):
        buried += 1
    return StripeCounts(total, degraded, live_bytes, born_bytes, buried)
