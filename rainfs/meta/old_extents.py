"""Reading a file's stored extents in ascending order, many at a time.

A commit of scattered blocks asks for one small range after another.  Each would cost a scan, and
another one for the extent that begins before it; this reads ahead a window and answers from it.
Owns no writes: what the transaction is about to write is the caller's to remember.
"""

from __future__ import annotations

from bisect import bisect_left

from rainfs.meta import keys
from rainfs.meta.engine import Reader
from rainfs.meta.records import EXTENTS
from rainfs.model import PAGE_BYTES, Extent, InodeNumber

MIN_WINDOW_ROWS = 32
MAX_WINDOW_ROWS = 1_024


class OldExtents:
    """The extents of one file as its transaction's snapshot has them."""

    def __init__(self, reader: Reader, inode: InodeNumber) -> None:
        self._reader = reader
        self._inode = inode
        self._stop = keys.of_inode(b"E", inode)[1]
        self._offsets: list[int] = []
        self._rows: list[bytes] = []
        self._from = 0
        self._to = 0
        """The window holds every extent that begins in `[_from, _to)`, and the one before it."""

    async def overlapping(self, start: int, stop: int, limit: int, reached: int) -> list[Extent]:
        """Return at most `limit` extents that overlap `[start, stop)`, in order.

        Only those that begin at file offset `reached` or later; calls come in ascending order.
        """
        if not self._from <= start < self._to:
            await self._move_to(start, stop)
        index = bisect_left(self._offsets, start)
        found: list[Extent] = []
        if index > 0 and self._offsets[index - 1] >= reached:
            extent = self._extent(index - 1)
            if extent.offset + extent.length > start:
                found.append(extent)
        while len(found) < limit:
            if index == len(self._offsets) and self._to < stop:
                await self._read_on(stop)
                continue
            if index == len(self._offsets) or self._offsets[index] >= stop:
                break
            found.append(self._extent(index))
            index += 1
        return found

    def _extent(self, index: int) -> Extent:
        record = EXTENTS.decode(self._rows[index])
        return Extent(
            self._offsets[index], record.length, record.stripe, record.block, record.block_offset
        )

    async def _move_to(self, start: int, stop: int) -> None:
        self._offsets, self._rows = [], []
        self._from = self._to = start
        await self._read_on(stop)
        if not self._offsets or self._offsets[0] != start:
            before = await self._reader.scan(
                keys.extent_key(self._inode, 0),
                keys.extent_key(self._inode, start),
                limit=1,
                reverse=True,
            )
            for key, raw in before:
                self._offsets.insert(0, keys.second_of(key))
                self._rows.insert(0, raw)

    async def _read_on(self, stop: int) -> None:
        wanted = (stop - self._to) // PAGE_BYTES + 1
        limit = min(max(wanted, MIN_WINDOW_ROWS), MAX_WINDOW_ROWS)
        rows = await self._reader.scan(
            keys.extent_key(self._inode, self._to), self._stop, limit=limit
        )
        self._offsets += [keys.second_of(key) for key, _ in rows]
        self._rows += [raw for _, raw in rows]
        self._to = self._offsets[-1] + 1 if len(rows) == limit else _END


_END = 1 << 64
