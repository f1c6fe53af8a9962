"""Reads the storage file of a node on this host, without the node.

Owns descriptors of the file, what is known of where shards lie in it, and the threads that wait for
its disk.  Refuses to know connections: whoever has one says when the node is gone.

Invariants:
- Bytes leave only after the page checksums that the node gave for that very shard have agreed.  A
  place may be freed, punched and given to another shard at any moment, and the file may be cut off
  or be damaged; but a shard never changes and its name never comes back, so bytes that agree are
  the right ones.  Whatever does not agree is forgotten, and the node is asked.
- After `close` no read begins; the descriptors are closed when the last one under way is over, so
  that their numbers are not given to other files while a thread reads.
- What is known of places is bounded by ROW_CACHE_BYTES.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import trio

from rainfs.async_store.read_pace import INLINE_READ_BYTES, ReadPace
from rainfs.memory import Recycler
from rainfs.model import MIB, PAGE_BYTES, ShardKey, StripeId
from rainfs.store.datafile import DIRECT_READ_BYTES, DataFile, verify
from rainfs.store.disk import SYSTEM_DISK, Disk
from rainfs.store.rows import Row

log = logging.getLogger(__name__)

ROW_CACHE_BYTES = 8 * MIB
ROW_OVERHEAD_BYTES = 400
"""What a row costs beside its checksums, roughly."""

ASK_AGAIN_S = 0.1
"""After a shard turned out not to be in its place yet, so long nothing is asked: others may be as
new, and the answer costs the node more than the bytes do."""

READER_THREADS = 4
"""Reads of one file that wait for its disk at a time."""


class _Pages(NamedTuple):
    """Pages of a shard: the number of the first, and memory for them."""

    first: int
    data: memoryview


class Neighbour:
    """The storage file of one node, as one connection to that node has brought it."""

    def __init__(
        self, descriptors: Sequence[int], recycler: Recycler, *, disk: Disk = SYSTEM_DISK
    ) -> None:
        """Use the buffered and perhaps the O_DIRECT descriptor, and close them in the end."""
        direct = descriptors[1] if len(descriptors) > 1 else None
        self._descriptors = list(descriptors)
        self._disk = disk
        self._data = DataFile(disk, descriptors[0], direct)
        self._recycler = recycler
        self._pace = ReadPace()
        self._rows: OrderedDict[ShardKey, Row] = OrderedDict()
        self._row_bytes = 0
        self.asking = False
        """Whether the node is being asked where shards lie."""
        self._ask_after_s = float("-inf")
        self._threads = trio.CapacityLimiter(READER_THREADS)
        self._lock = threading.Lock()
        self._reading = 0
        self._closed = False

    # --- Where shards lie. ----------------------------------------------------------------------

    def knows(self, key: ShardKey) -> bool:
        """Whether it is known where the shard lies."""
        return key in self._rows

    def may_ask(self, key: ShardKey, now_s: float) -> bool:
        """Whether the node should be asked where the shard lies; set `asking` when it is."""
        return not (self.asking or self._closed or now_s < self._ask_after_s or self.knows(key))

    def learn(
        self,
        asked: ShardKey,
        shards: Iterable[tuple[StripeId, int, int, int, bytes]],
        now_s: float,
    ) -> None:
        """Take in the answer to a question; see `wire.messages.Located`."""
        self.asking = False
        if self._closed:
            return
        for stripe, shard, offset, length, crcs in shards:
            key = ShardKey(stripe, shard)
            self._forget(key)
            self._rows[key] = row = Row(offset, length, crcs, b"")
            self._row_bytes += _cost(row)
        if not self.knows(asked):
            self._ask_after_s = now_s + ASK_AGAIN_S
        while self._row_bytes > ROW_CACHE_BYTES:
            _, dropped = self._rows.popitem(last=False)
            self._row_bytes -= _cost(dropped)

    def forget(self, keys: Iterable[ShardKey]) -> None:
        """Do not read these any more: ask the node."""
        for key in keys:
            self._forget(key)

    def _forget(self, key: ShardKey) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._row_bytes -= _cost(row)

    def _row(self, key: ShardKey, offset: int, length: int) -> Row | None:
        row = self._rows.get(key)
        # A range that the shard does not have is for the node to refuse.
        if row is None or length < 1 or offset < 0 or offset + length > row.length:
            return None
        self._rows.move_to_end(key)
        return row

    # --- Reading. -------------------------------------------------------------------------------

    def get_now(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Return verified bytes, if that takes no thread; else None."""
        if length > INLINE_READ_BYTES:
            return None
        row = self._row(key, offset, length)
        if row is None or not self._begin():
            return None
        pages = self._pages(offset, length)
        try:
            waits = self._pace.is_quick(alone=self._reading == 1)
            if not self._fill(row, pages, nowait=not waits):
                return None
        except OSError as error:
            self._failed(key, error.strerror)
            return None
        finally:
            self._end()
        return self._verified(key, row, pages, offset, length)

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Return verified bytes, read in a thread; None where the node has to be asked.

        Cancelling leaves the thread behind, with memory that nobody else has.
        """
        row = self._row(key, offset, length)
        if row is None or not self._begin():
            return None
        pages = self._pages(offset, length)
        begun = given_up = False

        def read() -> None:
            nonlocal begun
            with self._lock:
                if given_up:
                    return
                begun = True
            try:
                self._fill(row, pages, nowait=False)
            finally:
                self._end()

        try:
            await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._threads)
        except OSError as error:
            self._failed(key, error.strerror)
            return None
        finally:
            with self._lock:
                given_up = not begun
            if given_up:
                self._end()
        # Not in the thread: each time it lets go of the interpreter it waits to have it back.
        return self._verified(key, row, pages, offset, length)

    def _pages(self, offset: int, length: int) -> _Pages:
        """Return memory for the whole pages around a range."""
        first = offset // PAGE_BYTES
        span = -(-(offset + length) // PAGE_BYTES) * PAGE_BYTES - first * PAGE_BYTES
        long = span >= DIRECT_READ_BYTES
        data = self._recycler.take(span) if long else memoryview(bytearray(span))
        return _Pages(first, data)

    def _fill(self, row: Row, pages: _Pages, *, nowait: bool) -> bool:
        """Read the pages; False if `nowait` and they are not in memory.  Raises: OSError."""
        begun_s = time.perf_counter()
        offset = row.offset + pages.first * PAGE_BYTES
        done = self._data.read(pages.data, offset, nowait=nowait)
        if not nowait and len(pages.data) <= INLINE_READ_BYTES:
            self._pace.took(time.perf_counter() - begun_s)
        return done

    def _verified(
        self, key: ShardKey, row: Row, pages: _Pages, offset: int, length: int
    ) -> memoryview | None:
        """Return the range, or None if the pages are others than the row's."""
        if not verify(row, pages.first, pages.data):
            self._failed(key, "other bytes than its checksums say")
            return None
        start = offset - pages.first * PAGE_BYTES
        return pages.data[start : start + length]

    def _failed(self, key: ShardKey, reason: str | None) -> None:
        log.debug("%s in the storage file: %s", key, reason)
        self._forget(key)

    # --- The end. -------------------------------------------------------------------------------

    def close(self) -> None:
        """Begin no more reads, and close the file once those under way are over.  Idempotent."""
        with self._lock:
            self._closed = True
            self._close_unused()
        self._rows.clear()
        self._row_bytes = 0

    def _begin(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._reading += 1
            return True

    def _end(self) -> None:
        with self._lock:
            self._reading -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._reading:
            while self._descriptors:
                self._disk.close(self._descriptors.pop())


def _cost(row: Row) -> int:
    return ROW_OVERHEAD_BYTES + len(row.crcs)
