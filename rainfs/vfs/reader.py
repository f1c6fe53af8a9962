"""Reading: dirty bytes over bytes in flight over committed extents over holes.

Owns the cache of stripe rows and the look ahead of sequential readers.  Refuses to know handles'
flags and who may read.

Invariants:
- A read sees each byte as some moment between its start and its end had it.
- Holes and everything the extents do not cover read as zeros.
- The memory that `read` returns is valid until the caller's next checkpoint only, unless it is
  bytes: there is one scratch buffer, filled after the last checkpoint.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import trio

from rainfs.array.array import Array, Wanted
from rainfs.errors import ArrayError, InputOutput
from rainfs.meta.extents import Extents
from rainfs.model import MIB, Extent, StripeId, StripeView
from rainfs.vfs.buffer import Buffer
from rainfs.vfs.company import Company, may_be_company
from rainfs.vfs.inodes import Inode
from rainfs.vfs.options import VfsOptions

log = logging.getLogger(__name__)

MAX_READ_BYTES = 1 * MIB
"""The kernel asks for no more at once."""

EXTENTS_PER_SCAN = 512
MAX_REPLANS = 4
"""A read is planned again when a stripe was replaced under it, this often in a row at most without
having got anything: what it has got stays."""

ROW_COST_BYTES = 512
ROW_BLOCK_COST_BYTES = 160
"""Memory that a cached stripe row takes, and each of its blocks."""

SEQUENTIAL_SLACK_BYTES = 4 * MIB
"""Requests of one sequential reader arrive out of order by at most this much."""

SEQUENTIAL_READS = 2
"""So many reads in a row make a reader sequential."""


class Cursor:
    """Where a handle's reader is and how far ahead of it blocks were asked for."""

    __slots__ = ("ahead", "next", "streak")

    def __init__(self) -> None:
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


class StripeRows:
    """Stripe rows by id, least recently used out first, bounded in bytes."""

    def __init__(self, extents: Extents, max_bytes: int) -> None:
        self._extents = extents
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[StripeId, StripeView] = OrderedDict()

    def peek(self, stripe: StripeId) -> StripeView | None:
        """Return the row if it is in memory."""
        row = self._rows.get(stripe)
        if row is not None:
            self._rows.move_to_end(stripe)
        return row

    async def get(self, stripe: StripeId) -> StripeView | None:
        """Return the row, or None when the stripe is no more."""
        row = self.peek(stripe)
        return row if row is not None else await self.reload(stripe)

    async def reload(self, stripe: StripeId) -> StripeView | None:
        """Read the row again."""
        row = await self._extents.view(stripe)
        old = self._rows.pop(stripe, None)
        if old is not None:
            self._bytes -= _cost(old)
        if row is not None:
            self._rows[stripe] = row
            self._bytes += _cost(row)
            while self._bytes > self._max_bytes and len(self._rows) > 1:
                self._bytes -= _cost(self._rows.popitem(last=False)[1])
        return row


def _cost(view: StripeView) -> int:
    return ROW_COST_BYTES + ROW_BLOCK_COST_BYTES * len(view.stripe.blocks)


class _StripeGone(Exception):
    """A planned stripe is no longer referenced: plan again."""


class Reader:
    """Reads any range of any inode."""

    def __init__(self, array: Array, extents: Extents, options: VfsOptions) -> None:
        self._array = array
        self._extents = extents
        self._options = options
        self._rows = StripeRows(extents, options.rows_bytes)
        self._company = Company()
        self._scratch = memoryview(bytearray(MAX_READ_BYTES))

    async def read(self, inode: Inode, offset: int, size: int, cursor: Cursor | None) -> Buffer:
        """Return up to `size` bytes from `offset` on; fewer only at the end of the file.

        Raises: InputOutput for bytes that cannot be had.
        """
        stop = min(offset + size, inode.size)
        if stop <= offset:
            return b""
        gaps = [(offset, stop)]
        found: list[tuple[int, Buffer]] = []
        replans = 0
        while replans < MAX_REPLANS:
            gaps = inode.dirty.overlay(gaps, found)
            for _, layer in reversed(inode.layers):
                gaps = layer.overlay(gaps, found)
            if not gaps:
                return self._assemble(offset, stop, found)
            before = len(found)
            try:
                data = None if before else await self._read_one(inode, offset, stop)
                if data is not None:
                    found.append((offset, data))
                else:
                    for start, end in gaps:
                        await self._fetch(inode, start, end, found)
            except _StripeGone:
                self._extents.forget(inode.inode)
                replans = 0 if len(found) > before else replans + 1
                gaps = _still_missing(gaps, found)
                continue
            except ArrayError as error:
                raise InputOutput(f"inode {inode.inode} at {offset}: {error}") from error
            if cursor is not None and cursor.saw(offset, stop):
                await self._look_ahead(inode, stop, cursor)
            return self._assemble(offset, stop, found)
        raise InputOutput(f"inode {inode.inode} at {offset}: its stripes kept changing")

    async def _read_one(self, inode: Inode, offset: int, stop: int) -> Buffer | None:
        """Return committed bytes that lie in one block, when it is in memory which that is.

        None: go the long way.
        """
        known = self._extents.known(inode.inode, offset, stop)
        if known is None or len(known) != 1:
            return None
        (extent,) = known
        if extent.offset > offset or extent.offset + extent.length < stop:
            return None
        view = self._rows.peek(extent.stripe)
        if view is None:
            return None
        self._fetch_company(view, extent.block)
        inner = extent.block_offset + offset - extent.offset
        wanted = (Wanted(extent.block, inner, stop - offset),)
        try:
            (data,) = await self._array.read(view, wanted, partial(self._rows.reload, view.id))
        except ArrayError:
            if await self._rows.reload(view.id) is None:
                raise _StripeGone from None
            raise
        return data

    def _assemble(self, start: int, stop: int, found: list[tuple[int, Buffer]]) -> Buffer:
        """Join what was found; the rest is zeros.  No checkpoint from here to the reply."""
        if len(found) == 1 and len(found[0][1]) == stop - start:
            return found[0][1]
        length = stop - start
        scratch = (
            self._scratch[:length] if length <= MAX_READ_BYTES else memoryview(bytearray(length))
        )
        found.sort(key=_position)
        at = start
        for position, data in found:
            if position > at:
                scratch[at - start : position - start] = bytes(position - at)
            at = position + len(data)
            scratch[position - start : at - start] = data
        if at < stop:
            scratch[at - start : length] = bytes(stop - at)
        return scratch

    async def _fetch(
        self, inode: Inode, start: int, stop: int, found: list[tuple[int, Buffer]]
    ) -> None:
        """Append the committed bytes of `[start, stop)` to `found`."""
        by_stripe: dict[StripeId, list[Extent]] = {}
        for extent in await self._scan(inode, start, stop):
            by_stripe.setdefault(extent.stripe, []).append(extent)
        for stripe, extents in by_stripe.items():
            view = await self._rows.get(stripe)
            if view is None:
                raise _StripeGone
            if len(extents) == 1:
                self._fetch_company(view, extents[0].block)
            positions: list[int] = []
            wanted: list[Wanted] = []
            for extent in extents:
                low, high = max(extent.offset, start), min(extent.offset + extent.length, stop)
                inner = extent.block_offset + low - extent.offset
                positions.append(low)
                wanted.append(Wanted(extent.block, inner, high - low))
            try:
                runs = await self._array.read(view, wanted, partial(self._rows.reload, stripe))
            except ArrayError:
                if await self._rows.reload(stripe) is None:
                    raise _StripeGone from None
                raise
            found.extend(zip(positions, runs, strict=True))

    def _fetch_company(self, view: StripeView, block: int) -> None:
        """Have the small files that lie beside this one fetched, if they are likely wanted."""
        if not may_be_company(view.stripe.blocks[block]):
            return
        along = self._company.note(view, block, trio.current_time())
        if along:
            self._array.prefetch(view, along, partial(self._rows.reload, view.id))

    async def _scan(self, inode: Inode, start: int, stop: int) -> Sequence[Extent]:
        extents = await self._extents.find(inode.inode, start, stop, limit=EXTENTS_PER_SCAN)
        if len(extents) < EXTENTS_PER_SCAN:
            return extents
        every = list(extents)
        while len(extents) == EXTENTS_PER_SCAN:
            last = extents[-1]
            extents = await self._extents.find(
                inode.inode, last.offset + last.length, stop, limit=EXTENTS_PER_SCAN
            )
            every += extents
        return every

    async def _look_ahead(self, inode: Inode, stop: int, cursor: Cursor) -> None:
        """Ask the array for the blocks that a sequential reader wants next."""
        window = self._options.readahead_bytes
        start = max(cursor.ahead, stop)
        if start - stop > window // 2 or start >= inode.size:
            return
        cursor.ahead = until = min(stop + window, inode.size)
        by_stripe: dict[StripeId, list[int]] = {}
        for extent in await self._extents.find(inode.inode, start, until, limit=EXTENTS_PER_SCAN):
            by_stripe.setdefault(extent.stripe, []).append(extent.block)
        for stripe, blocks in by_stripe.items():
            view = await self._rows.get(stripe)
            if view is not None:
                self._array.prefetch(view, blocks, partial(self._rows.reload, stripe))


def _still_missing(
    gaps: list[tuple[int, int]], found: list[tuple[int, Buffer]]
) -> list[tuple[int, int]]:
    """Return what of `gaps`, which are in order, nothing in `found` covers."""
    held = sorted((at, at + len(data)) for at, data in found)
    missing: list[tuple[int, int]] = []
    for start, stop in gaps:
        for low, high in held:
            if high <= start or low >= stop:
                continue
            if start < low:
                missing.append((start, low))
            start = high
        if start < stop:
            missing.append((start, stop))
    return missing


def _position(item: tuple[int, Buffer]) -> int:
    return item[0]
