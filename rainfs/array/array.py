"""The array: stripes on nodes, behind one object.

Owns the parts that make it up (members and their health, the writer, the reader and its cache) and
their lifetime.  Refuses to know files and metadata: callers bring stripe ids and rows, and commit
what `write` returns.

Invariants: every call ends within the deadline without progress; no call hangs on a node; nothing
that this object started runs on after `aclose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import trio

from rainfs.array.backend import Backend, BackendFactory, Buffer, MemorySharer
from rainfs.array.backends import registry
from rainfs.array.background import Background
from rainfs.array.cache import BlockCache
from rainfs.array.counts import ReadCounts
from rainfs.array.fetch import Fetcher
from rainfs.array.health import HealthPoll
from rainfs.array.late import LateWatch
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members
from rainfs.array.reader import Reader
from rainfs.array.space import living_code, space_of
from rainfs.array.values import (
    MAX_PIECES_PER_STRIPE,
    NodeStatus,
    Piece,
    Refresh,
    Space,
    Wanted,
)
from rainfs.array.writer import Writer
from rainfs.errors import StorageError
from rainfs.model import (
    MAX_SHARD_BYTES,
    MIB,
    NO_NODE,
    Layout,
    Node,
    NodeNumber,
    Placement,
    ShardKey,
    StripeId,
    StripeView,
    VolumeId,
)
from rainfs.shared_memory import SharedMemory

__all__ = [
    "MAX_PIECES_PER_STRIPE",
    "Array",
    "NodeStatus",
    "Piece",
    "Refresh",
    "Space",
    "Wanted",
]

DEFAULT_DEADLINE_S = 10.0
DEFAULT_CACHE_BYTES = 128 * MIB


class Array:
    """All nodes of one volume."""

    def __init__(
        self,
        volume: VolumeId,
        nursery: trio.Nursery,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        random: Random | None = None,
        open_backend: BackendFactory = registry.open_backend,
    ) -> None:
        """Make an array without nodes; `nursery` must outlive it.  Time is trio's clock."""
        chance = random if random is not None else Random()  # noqa: S311 - no secrets
        self._volume = volume
        self._nursery = nursery
        self._deadline_s = deadline_s
        self._open_backend = open_backend
        self._background = Background(nursery)
        self._members = Members(volume)
        self._watch = LateWatch()
        self._poll = HealthPoll(self._members, self._background, chance)
        self._put_linger = Linger()
        self._memory = SharedMemory()
        self._writer = Writer(
            self._members,
            self._watch,
            self._background,
            chance,
            deadline_s,
            self._put_linger,
            self._memory,
        )
        self._cache = BlockCache(cache_bytes)
        self._linger = Linger()
        self._fetcher = fetcher = Fetcher(
            self._members, self._watch, self._background, self._linger
        )
        self._reader = Reader(fetcher, self._cache, self._background, deadline_s)
        self._started = False

    # --- Lifetime ---------------------------------------------------------------------------

    async def set_nodes(self, nodes: Sequence[Node]) -> None:
        """Make these the members: opens, keeps and closes sessions.  Again whenever they change.

        Raises: InputError for a URL that no backend takes.
        """
        rows = {node.number: node for node in nodes}
        for member in list(self._members):
            row = rows.get(member.node.number)
            if row is None or row.url != member.node.url or row.uuid != member.node.uuid:
                await self._dismiss(member)
            else:
                self._members.update(row)
        for node in nodes:
            if self._members.get(node.number) is None:
                backend = self._open_backend(
                    node.url, self._volume, deadline_s=self._deadline_s, nursery=self._nursery
                )
                if isinstance(backend, MemorySharer):
                    self._memory.begin()
                    backend.share(self._memory)
                member = Member(node, backend, trio.current_time())
                self._members.add(member)
                if self._started:
                    member.kicked.set()
                    self._poll.watch(member)

    async def start(self) -> None:
        """Ask all nodes how they are (for a second or two at most), then keep asking."""
        self._started = True
        self._background.spawn(self._watch.run)
        await self._poll.probe_all()
        for member in self._members:
            self._poll.watch(member)

    def yield_to(self, fd: int) -> None:
        """Let lone small reads wait for nodes on the thread itself until `fd` becomes readable.

        `fd` is what tells that somebody else wants something of this thread.
        """
        self._linger.yield_to(fd)
        self._put_linger.yield_to(fd)

    async def aclose(self) -> None:
        """End all background work and all sessions."""
        await self._background.aclose()
        for member in list(self._members):
            await member.backend.aclose()
        self._memory.close()

    async def _dismiss(self, member: Member) -> None:
        self._members.remove(member.node.number)
        self._poll.unwatch(member)
        await member.backend.aclose()

    # --- Data -------------------------------------------------------------------------------

    async def write(
        self,
        stripe: StripeId,
        pieces: Sequence[Piece],
        layout: Layout,
        *,
        meanwhile: Callable[[StripeView], None] | None = None,
        heeds_rivals: bool = True,
    ) -> StripeView:
        """Store the pieces as one stripe, durably on every node that gets a shard.

        Block i of the result is piece i.  The id must be new: after a failed write, take another.
        Takes at most `stripe_bytes(layout)` bytes and MAX_PIECES_PER_STRIPE pieces.

        Of a small stripe that is waited for on the thread itself, `meanwhile` is told the likely
        result; and unless it `heeds_rivals`, that moment does not end with what `yield_to` named:
        that is expected to wait for this write anyway.

        Raises: ArrayFull, ArrayUnavailable, InputError for impossible pieces.
        """
        return await self._writer.write(stripe, pieces, layout, meanwhile, heeds_rivals)

    async def read(
        self, view: StripeView, wanted: Sequence[Wanted], refresh: Refresh
    ) -> list[Buffer]:
        """Return the bytes of each wanted run, checked; they may share memory with the cache.

        Raises: StripeLost when too many shards are gone (or no row is left: look the file's
        extents up again), ArrayUnavailable at the deadline, InputError beyond a block.
        """
        return await self._reader.read(view, wanted, refresh)

    def prefetch(
        self,
        view: StripeView,
        blocks: Sequence[int],
        refresh: Refresh,
        landed: Callable[[int, float], None] | None = None,
    ) -> None:
        """Fetch whole blocks into the cache in the background; dropped when too much is under way.

        Blocks of a stripe that are asked for in one call share their calls to nodes.  `landed` is
        told how many bytes came from nodes and how long that took.
        """
        self._reader.prefetch(view, blocks, refresh, landed)

    def holds(self, stripe: StripeId, block: int) -> bool:
        """Whether a block is in the cache, or on its way there."""
        return self._reader.holds(stripe, block)

    async def delete(self, stripe: StripeId, placement: Placement) -> bool:
        """Delete a stripe's shards; True when every node that is to hold one has confirmed."""
        return (await self.delete_many([(stripe, placement)]))[0]

    async def delete_many(self, stripes: Sequence[tuple[StripeId, Placement]]) -> list[bool]:
        """Delete many stripes' shards with one call to each node; see `delete`."""
        keys: dict[NodeNumber, list[ShardKey]] = {}
        for stripe, placement in stripes:
            self._cache.forget(stripe)
            for shard, number in enumerate(placement.nodes):
                if number != NO_NODE:
                    keys.setdefault(number, []).append(ShardKey(stripe, shard))
        failed: set[NodeNumber] = set()

        async def delete(number: NodeNumber, shards: list[ShardKey]) -> None:
            member = self._members.get(number)
            if member is None:
                return  # A node that left the volume holds nothing of it any more.
            try:
                await member.backend.delete(shards)
            except StorageError as error:
                self._members.failed(member, error)
                failed.add(number)

        async with trio.open_nursery() as nursery:
            for number, shards in keys.items():
                nursery.start_soon(delete, number, shards)
        return [failed.isdisjoint(placement.nodes) for _, placement in stripes]

    def forget(self, stripe: StripeId) -> None:
        """Drop a stripe from the cache."""
        self._cache.forget(stripe)

    # --- State ------------------------------------------------------------------------------

    def stripe_bytes(self, layout: Layout) -> int:
        """Return the most bytes that one `write` should bring with the nodes there are now.

        Less than the layout's only where a stripe on so few nodes would have too long shards.
        """
        willing = len(self._members.writable(layout.code.m))
        k, _ = living_code(layout.code, willing)
        return min(layout.stripe_bytes, k * MAX_SHARD_BYTES)

    def space(self, layout: Layout) -> Space:
        """Return the space on the nodes that are not down, in bytes of files of that layout."""
        return space_of(self._members.rooms(layout.code.m), layout.code)

    async def look(self) -> None:
        """Make `space` exact, as far as nodes answer (for a second or two at most)."""
        await self._poll.probe_inexact()

    def health(self) -> list[NodeStatus]:
        """Return every node's state and last report."""
        return self._members.statuses()

    @property
    def read_counts(self) -> ReadCounts:
        """What reading has cost so far."""
        return self._fetcher.counts

    def backend(self, number: NodeNumber) -> Backend | None:
        """Return the session to a node, or None for a number that is no member."""
        member = self._members.get(number)
        return None if member is None else member.backend
