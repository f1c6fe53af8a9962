"""Reading a file's stored extents in ascending order, many at a time.

A commit of scattered blocks asks for one small range after another.  Each would cost a scan, and
another one for the extent that begins before it; where the ranges lie close together this reads
ahead and answers from what it has.  Owns no writes: what the transaction is about to write is the
caller's to remember.
"""

from __future__ import annotations

from bisect import bisect_left

from rainfs.meta import keys
from rainfs.meta.engine import Reader
from rainfs.meta.records import EXTENTS
from rainfs.model import PAGE_BYTES, Extent, InodeNumber

NARROW_ROWS = 4
WIDE_ROWS = 128
"""Rows read at a time where the ranges lie far apart, and where they lie close together."""

CLOSE_ROWS = 16
"""Ranges with at most this many extents between them lie close together."""

MAX_WINDOW_ROWS = 1_024


class OldExtents:
    """The extents of one file as its transaction's snapshot has them."""

    def __init__(self, reader: Reader, inode: InodeNumber) -> None:
        self._reader = reader
        self._inode = inode
        self._end = keys.of_inode(b"E", inode)[1]
        self._keys: list[bytes] = []
        self._rows: list[bytes] = []
        self._from = b""
        self._to = b""
        """The window holds every extent with a key in `[_from, _to)`, and the one before it."""
        self._last_start = 0
        self._bytes_per_row = 0

    async def overlapping(self, start: int, stop: int, limit: int, reached: int) -> list[Extent]:
        """Return at most `limit` extents that overlap `[start, stop)`, in order.

        Only those that begin at file offset `reached` or later; calls come in ascending order.
        """
        first = keys.extent_key(self._inode, start)
        last = keys.extent_key(self._inode, stop)
        if not self._from <= first < self._to:
            await self._move_to(first, start, stop)
        self._last_start = start
        index = bisect_left(self._keys, first)
        found: list[Extent] = []
        if index > 0 and keys.second_of(self._keys[index - 1]) >= reached:
            extent = self._extent(index - 1)
            if extent.offset + extent.length > start:
                found.append(extent)
        while len(found) < limit:
            if index == len(self._keys) and self._to < last:
                await self._read_on((stop - start) // PAGE_BYTES + 1)
                continue
            if index == len(self._keys) or self._keys[index] >= last:
                break
            found.append(self._extent(index))
            index += 1
        return found

    def _extent(self, index: int) -> Extent:
        record = EXTENTS.decode(self._rows[index])
        offset = keys.second_of(self._keys[index])
        return Extent(offset, record.length, record.stripe, record.block, record.block_offset)

    async def _move_to(self, first: bytes, start: int, stop: int) -> None:
        between = (start - self._last_start) // (self._bytes_per_row or PAGE_BYTES)
        self._keys, self._rows = [], []
        self._from = self._to = first
        ahead = WIDE_ROWS if between <= CLOSE_ROWS else NARROW_ROWS
        await self._read_on(max(ahead, (stop - start) // PAGE_BYTES + 1))
        if len(self._keys) > 1:
            span = keys.second_of(self._keys[-1]) - keys.second_of(self._keys[0])
            self._bytes_per_row = span // (len(self._keys) - 1)
        if not self._keys or self._keys[0] != first:
            before = await self._reader.scan(
                keys.extent_key(self._inode, 0), first, limit=1, reverse=True
            )
            if before:
                self._keys.insert(0, before[0][0])
                self._rows.insert(0, before[0][1])

    async def _read_on(self, wanted: int) -> None:
        limit = min(max(wanted, NARROW_ROWS), MAX_WINDOW_ROWS)
        rows = await self._reader.scan(self._to, self._end, limit=limit)
        self._keys += [key for key, _ in rows]
        self._rows += [raw for _, raw in rows]
        self._to = rows[-1][0] + b"\0" if len(rows) == limit else self._end
