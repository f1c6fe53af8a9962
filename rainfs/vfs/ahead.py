"""What to fetch beyond what was asked for: the one place that decides.

Three habits of readers make bytes worth having before they are asked for: reading in order
(`Cursor`), reading small files that were written together (`company`), and reading here and there
in one part of a file (`regions`).

Owns the decision and the orders that follow from it.  Refuses to answer reads.

Invariants:
- Nothing here is waited for by a read, but for a look at the metadata before something is fetched.
- Regions are fetched through the kernel where the mount offers that: it asks for their pages as it
  does for any, under its own locks, so what it keeps is what a read would have brought, whoever
  writes meanwhile; and reads of them come here no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from rainfs.array.array import Array
from rainfs.meta.extents import Extents
from rainfs.model import MIB, Extent, InodeNumber, StripeId, StripeView
from rainfs.vfs.company import Company, may_be_company
from rainfs.vfs.inodes import Inode
from rainfs.vfs.regions import REGION_BYTES, SMALL_READ_BYTES, Regions
from rainfs.vfs.rows import StripeRows

EXTENTS_PER_SCAN = 512

SEQUENTIAL_SLACK_BYTES = 4 * MIB
"""Requests of one sequential reader arrive out of order by at most this much."""

SEQUENTIAL_READS = 2
"""So many reads in a row make a reader sequential."""

Populate = Callable[[InodeNumber, int, int], bool]
"""Has the kernel read, soon, so many bytes of an inode from an offset on; False: it will not."""


class Cursor:
    """Where a handle's reader is and how far ahead of it blocks were asked for."""

    __slots__ = ("ahead", "direct", "next", "streak")

    def __init__(self, *, direct: bool = False) -> None:
        self.direct = direct
        """Whether the reader goes past the kernel's cache."""
        self.next = 0
        self.ahead = 0
        self.streak = 0

    def saw(self, offset: int, stop: int) -> bool:
        """Note a read; True when the reader looks sequential."""
        if -SEQUENTIAL_SLACK_BYTES <= offset - self.next <= SEQUENTIAL_SLACK_BYTES and (
            offset == self.next or self.streak >= SEQUENTIAL_READS
        ):
            self.streak += 1
            self.next = max(self.next, stop)
        else:
            self.streak = 1 if offset == 0 else 0
            self.next = stop
            self.ahead = 0
        return self.streak >= SEQUENTIAL_READS


class Ahead:
    """Watches all reads of a mount."""

    def __init__(
        self, array: Array, extents: Extents, rows: StripeRows, readahead_bytes: int
    ) -> None:
        self._array = array
        self._extents = extents
        self._rows = rows
        self._readahead_bytes = readahead_bytes
        self._company = Company()
        self.regions = Regions()
        self.populate: Populate | None = None

    def company(self, view: StripeView, block: int) -> None:
        """Have the small files that lie beside this one fetched, if they are likely wanted."""
        if not may_be_company(view.stripe.blocks[block]):
            return
        along = self._company.note(view, block, trio.current_time())
        if along:
            self._array.prefetch(view, along, partial(self._rows.reload, view.id))

    async def read_on(self, inode: Inode, offset: int, stop: int, cursor: Cursor) -> None:
        """Ask the array for the blocks that a sequential reader wants next."""
        if not cursor.saw(offset, stop):
            return
        window = self._readahead_bytes
        start = max(cursor.ahead, stop)
        if start - stop > window // 2 or start >= inode.size:
            return
        cursor.ahead = until = min(stop + window, inode.size)
        extents = await self._extents.find(inode.inode, start, until, limit=EXTENTS_PER_SCAN)
        for stripe in {extent.stripe for extent in extents}:
            await self._rows.get(stripe)
        self._prefetch(extents)

    async def paid(
        self, inode: Inode, offset: int, nbytes: int, cost_s: float, cursor: Cursor
    ) -> None:
        """Note that bytes at `offset` came from nodes, and how long that took."""
        regions = self.regions
        if nbytes > SMALL_READ_BYTES:
            return
        regions.saw_small(cost_s)
        start = offset - offset % REGION_BYTES
        stop = min(start + REGION_BYTES, inode.size)
        if stop - start <= SMALL_READ_BYTES:
            return
        number = inode.inode
        now_s = trio.current_time()
        regions.rent(number, offset, now_s)
        if not regions.is_due(number, offset, stop - start, 1, inode.size):
            return
        extents = await self._extents.find(number, start, stop, limit=EXTENTS_PER_SCAN)
        for stripe in {extent.stripe for extent in extents}:
            await self._rows.get(stripe)
        runs = len({(e.stripe, self._shard_of(e.stripe, e.block)) for e in extents})
        if not regions.is_due(number, offset, stop - start, runs, inode.size):
            return
        populate = None if cursor.direct else self.populate
        if populate is not None and not populate(number, start, stop - start):
            return
        regions.buy(number, offset, stop - start, runs, now_s)
        self._prefetch(extents, self._landed)

    def _landed(self, nbytes: int, cost_s: float) -> None:
        if nbytes >= REGION_BYTES // 2:
            self.regions.saw_whole(nbytes, cost_s)

    def _shard_of(self, stripe: StripeId, block: int) -> int:
        view = self._rows.peek(stripe)
        return -1 if view is None else view.stripe.blocks[block].shard

    def _prefetch(
        self, extents: Sequence[Extent], landed: Callable[[int, float], None] | None = None
    ) -> None:
        """Have the blocks of extents fetched whose stripes are known."""
        by_stripe: dict[StripeId, list[int]] = {}
        for extent in extents:
            by_stripe.setdefault(extent.stripe, []).append(extent.block)
        for stripe, blocks in by_stripe.items():
            view = self._rows.peek(stripe)
            if view is not None:
                self._array.prefetch(view, blocks, partial(self._rows.reload, stripe), landed)
