"""Makes one stripe whole again: finds its shards, rebuilds those that are gone, records where.

Owns the order that makes it safe: shards are read and checked, then put durably, then read back,
then one commit records the new placement, if nobody changed the row meanwhile.  A shard that is
wrong is replaced only when its right bytes are at hand.  Nodes that do not answer keep what they
may hold: whether they are given up is not decided here.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from random import Random
from typing import TypeVar

import trio
from msgspec.structs import replace

from rainfs.array.about import encode_abouts
from rainfs.array.backend import Backend
from rainfs.array.placement import Candidate, domain_of, substitute
from rainfs.array.rebuilding import holds_its_blocks, rebuild
from rainfs.errors import MetadataForeign, ShardCorrupt, ShardMissing, StorageError
from rainfs.meta import keys
from rainfs.meta.checking_extents import stripe_faults
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.records import STATES, STRIPES, Codec, StripeState
from rainfs.meta.sessions import Session
from rainfs.model import NO_NODE, Node, NodeHealth, NodeNumber, ShardKey, Stripe, StripeId

log = logging.getLogger(__name__)

R = TypeVar("R")

MAX_TRIALS = 64
"""Choices of k shards that are tried while some of them are silently wrong."""


class Outcome(enum.Enum):
    """How mending a stripe ended."""

    WHOLE = "whole"
    """There was nothing to do, as far as nodes answer."""
    MENDED = "mended"
    GONE = "gone"
    """The stripe is not recorded any more, or changed meanwhile."""
    WAITING = "waiting"
    """Too few shards can be read until nodes return."""
    LOST = "lost"
    """More shards are gone than its parity can replace."""
    NO_ROOM = "no-room"
    """Not every shard found a node."""


@dataclass(frozen=True, slots=True)
class Site:
    """A node that answers."""

    node: Node
    backend: Backend
    health: NodeHealth


@dataclass(slots=True)
class _Work:
    """A stripe being mended."""

    id: StripeId
    stripe: Stripe
    raw_state: bytes | None
    state: StripeState | None
    """None if there is no row, or none that can be read."""
    nodes: list[NodeNumber]
    abouts: list[bytes]
    good: dict[int, Site] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)
    """Shards that are nowhere, or not what they should be."""
    silent: set[int] = field(default_factory=set)
    wrong: dict[int, Site] = field(default_factory=dict)
    """Sites that hold something else under a shard's name."""


class Mender:
    """Mends stripes of one volume."""

    def __init__(
        self,
        engine: Engine,
        session: Session,
        sites: Mapping[NodeNumber, Site],
        members: Collection[NodeNumber],
        random: Random,
    ) -> None:
        """`sites` are the nodes that answer, `members` all nodes that the volume has."""
        self._engine = engine
        self._session = session
        self._sites = dict(sites)
        self._members = frozenset(members)
        self._random = random
        self._taken: dict[NodeNumber, int] = {}

    async def mend(self, stripe: StripeId, *, live_bytes: int | None = None) -> Outcome:
        """Make one stripe whole, as far as nodes answer.

        `live_bytes` is written if the row that should say so is gone.  Raises: MetadataError.
        """
        work = await self._load(stripe, live_bytes)
        if work is None:
            return Outcome.GONE
        await self._look(work)
        if work.bad:
            await self._search(work)
        unchanged = work.state is not None and work.state.nodes == tuple(work.nodes)
        if not work.bad and unchanged:
            return Outcome.WHOLE
        outcome = Outcome.MENDED
        if work.bad:
            outcome = await self._restore(work)
        if outcome in (Outcome.WAITING, Outcome.LOST):
            return outcome  # What is recorded may still tell where shards are.
        if not await self._record(work, live_bytes):
            return Outcome.GONE
        return outcome

    # --- What there is ------------------------------------------------------------------------

    async def _load(self, stripe: StripeId, live_bytes: int | None) -> _Work | None:
        async def body(reader: Reader) -> tuple[bytes | None, bytes | None]:
            row = await reader.get(keys.stripe_key(stripe))
            return row, await reader.get(keys.state_key(stripe))

        raw, raw_state = await self._engine.read(body)
        row = _decoded(STRIPES, raw)
        state = _decoded(STATES, raw_state)
        if row is None or (state is None and live_bytes is None):
            return None
        if stripe_faults(row) is not None:
            return None
        n = row.code.n
        nodes = [*(state.nodes if state is not None else ()), *[NO_NODE] * n][:n]
        for shard, node in enumerate(nodes):
            if node not in self._members or node in nodes[:shard]:
                nodes[shard] = NO_NODE
        return _Work(stripe, row, raw_state, state, nodes, encode_abouts(row))

    async def _look(self, work: _Work) -> None:
        """Ask each shard's own node for it."""

        async def ask(shard: int, number: NodeNumber) -> None:
            site = self._sites.get(number)
            if site is None:
                (work.bad if number == NO_NODE else work.silent).add(shard)
                return
            await self._ask(work, shard, site)

        async with trio.open_nursery() as nursery:
            for shard, number in enumerate(work.nodes):
                nursery.start_soon(ask, shard, number)

    async def _ask(self, work: _Work, shard: int, site: Site) -> bool:
        """Whether a site has the right shard; notes what it has."""
        try:
            info = await site.backend.stat(ShardKey(work.id, shard))
        except ShardMissing:
            work.bad.add(shard)
            return False
        except ShardCorrupt:
            work.bad.add(shard)
            work.wrong[shard] = site
            return False
        except StorageError as error:
            log.info("shard %d of stripe %x: %s", shard, work.id, error)
            work.silent.add(shard)
            return False
        if info.length == work.stripe.shard_bytes and info.about == work.abouts[shard]:
            work.good[shard] = site
            work.bad.discard(shard)
            return True
        work.bad.add(shard)
        work.wrong[shard] = site
        return False

    async def _search(self, work: _Work) -> None:
        """Look for shards on nodes where they should not be; they may have been recorded wrong."""
        for shard in sorted(work.bad):
            for number, site in self._sites.items():
                if number in work.nodes:
                    continue
                probe = _Work(work.id, work.stripe, None, None, [], work.abouts)
                if await self._ask(probe, shard, site):
                    work.nodes[shard] = number
                    work.good[shard] = site
                    work.bad.discard(shard)
                    work.wrong.pop(shard, None)
                    break

    # --- Rebuilding -------------------------------------------------------------------------

    async def _restore(self, work: _Work) -> Outcome:
        """Rebuild every bad shard and put it on a node."""
        code = work.stripe.code
        found = await self._read(work)
        if len(found) < code.k:
            return Outcome.WAITING if len(found) + len(work.silent) >= code.k else Outcome.LOST
        made = await trio.to_thread.run_sync(_rebuilt, work.stripe, found, frozenset(work.bad))
        if made is None:
            return Outcome.LOST
        outcome = Outcome.MENDED
        for shard, data in made.items():
            if not await self._place(work, shard, data):
                outcome = Outcome.NO_ROOM
        return outcome

    async def _read(self, work: _Work) -> dict[int, memoryview]:
        """Return every good shard whole; one whose bytes are not right joins the bad ones."""
        found: dict[int, memoryview] = {}

        async def read(shard: int, site: Site) -> None:
            try:
                data = await site.backend.get(ShardKey(work.id, shard), 0, work.stripe.shard_bytes)
            except (ShardMissing, ShardCorrupt):
                work.bad.add(shard)
                work.wrong[shard] = site
            except StorageError:
                work.silent.add(shard)
            else:
                if holds_its_blocks(work.stripe, shard, data):
                    found[shard] = data
                    return
                work.bad.add(shard)
                work.wrong[shard] = site
            del work.good[shard]

        async with trio.open_nursery() as nursery:
            for shard, site in list(work.good.items()):
                nursery.start_soon(read, shard, site)
        return found

    async def _place(self, work: _Work, shard: int, data: memoryview) -> bool:
        """Put a shard where it was, or else on another node with room; returns whether it is."""
        tried: set[NodeNumber] = set()
        number: NodeNumber | None = work.nodes[shard]
        if number == NO_NODE:
            number = self._another(work, shard, tried)
        while number is not None:
            tried.add(number)
            site = self._sites.get(number)
            if site is not None and await self._put(work, shard, data, site):
                work.nodes[shard] = number
                work.bad.discard(shard)
                work.good[shard] = site
                return True
            number = self._another(work, shard, tried)
        return False

    def _another(self, work: _Work, shard: int, tried: set[NodeNumber]) -> NodeNumber | None:
        others = [node for at, node in enumerate(work.nodes) if at != shard and node != NO_NODE]
        pool = []
        for number, site in self._sites.items():
            free = site.health.free_bytes - self._taken.get(number, 0)
            refuses = site.node.draining or site.health.failing
            if not refuses and free >= work.stripe.shard_bytes:
                pool.append(Candidate(number, domain_of(site.node), free))
        domains = [domain_of(self._sites[n].node) for n in others if n in self._sites]
        return substitute(pool, tried | set(others), domains, work.stripe.code.m, self._random)

    async def _put(self, work: _Work, shard: int, data: memoryview, site: Site) -> bool:
        key = ShardKey(work.id, shard)
        try:
            if work.wrong.get(shard) is site:
                await site.backend.delete([key])
            await site.backend.put(key, [data], work.abouts[shard], durable=True)
            stored = await site.backend.get(key, 0, len(data))
        except StorageError as error:
            log.warning("shard %d of stripe %x: %s", shard, work.id, error)
            return False
        number = site.node.number
        self._taken[number] = self._taken.get(number, 0) + len(data)
        return stored == data

    # --- Recording --------------------------------------------------------------------------

    async def _record(self, work: _Work, live_bytes: int | None) -> bool:
        """Commit the placement; False if the row is not what it was."""
        nodes = tuple(work.nodes)

        async def body(transaction: Transaction) -> bool:
            await self._session.check(transaction)
            raw = await transaction.get(keys.state_key(work.id))
            now = _decoded(STATES, raw)
            if work.state is not None:
                if now is None or now.nodes != work.state.nodes:
                    return False
                state = replace(now, nodes=nodes)
            else:
                there = await transaction.get(keys.stripe_key(work.id)) is not None
                if raw != work.raw_state or live_bytes is None or not there:
                    return False
                born_bytes = sum(block.length for block in work.stripe.blocks)
                state = StripeState(nodes, live_bytes, born_bytes)
            transaction.put(keys.state_key(work.id), STATES.encode(state))
            return True

        done = await self._engine.run(body)
        await self._engine.durable()
        return done


def _rebuilt(
    stripe: Stripe, found: Mapping[int, memoryview], wanted: Collection[int]
) -> dict[int, memoryview] | None:
    """Return the wanted shards from the first k shards that give what was written."""
    for chosen in islice(combinations(sorted(found), stripe.code.k), MAX_TRIALS):
        made = rebuild(stripe, {shard: found[shard] for shard in chosen}, wanted)
        if made is not None:
            return made
    return None


def _decoded(codec: Codec[R], raw: bytes | None) -> R | None:
    try:
        return None if raw is None else codec.decode(raw)
    except MetadataForeign:
        return None
