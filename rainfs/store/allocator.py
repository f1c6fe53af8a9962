"""Which bytes of the storage file are free.

Owns the free-space map, in memory only: it is rebuilt from the index whenever a store is opened.
Refuses to know files, shards and durability; the store frees a range only once the deletion that
released it is durable.

Invariants: ranges are page aligned; free ranges never touch each other nor the end of the address
space (they are merged); the bytes handed out never exceed the capacity.  The file is sparse, so the
address space may be longer than the capacity: fragmentation never makes a store full.
"""

from __future__ import annotations

from sortedcontainers import SortedDict, SortedList

from rainfs.errors import NodeFull
from rainfs.model import PAGE_BYTES

MAX_ADDRESS_BYTES = 1 << 43
"""End of the address space: half of the longest file that ext4 allows (16 TiB)."""


class Allocator:
    """Best-fit allocator over `[start, MAX_ADDRESS_BYTES)`; not thread-safe."""

    def __init__(self, start: int, capacity_bytes: int) -> None:
        """Begin with everything from `start` on free."""
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._start = start
        self._end = start
        self._length_at = SortedDict()
        self._by_length = SortedList()

    @property
    def end(self) -> int:
        """First byte behind the last range handed out."""
        return self._end

    def holes(self) -> list[tuple[int, int]]:
        """Return the free (offset, length) ranges below `end`, in order."""
        return list(self._length_at.items())

    def allocate(self, length: int) -> int:
        """Return the offset of a free range of `length` bytes.  Raises: NodeFull."""
        if self.used_bytes + length > self.capacity_bytes:
            raise NodeFull(
                f"the store is full: {self.used_bytes} of {self.capacity_bytes} bytes are in use"
            )
        place = self._by_length.bisect_left((length, 0))
        if place < len(self._by_length):
            found, offset = self._by_length[place]
            self._remove_hole(offset, found)
            if found > length:
                self._add_hole(offset + length, found - length)
        else:
            offset = self._end
            if offset + length > MAX_ADDRESS_BYTES:
                raise NodeFull("the store's address space is exhausted")
            self._end += length
        self.used_bytes += length
        return int(offset)

    def free(self, offset: int, length: int) -> None:
        """Take back a range that `allocate` gave."""
        self.used_bytes -= length
        at = self._length_at.bisect_left(offset)
        if at < len(self._length_at):
            after, after_length = self._length_at.peekitem(at)
            if after == offset + length:
                self._remove_hole(after, after_length)
                length += after_length
        if at > 0:
            before, before_length = self._length_at.peekitem(at - 1)
            if before + before_length == offset:
                self._remove_hole(before, before_length)
                offset, length = before, before_length + length
        if offset + length == self._end:
            self._end = offset
        else:
            self._add_hole(offset, length)

    def load(self, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Mark the (offset, length) ranges of an index as used; return those that overlap.

        An overlapping range is not marked: the bytes it shares are already somebody's.
        """
        overlapping: list[tuple[int, int]] = []
        for offset, length in sorted(ranges):
            stop = offset + length
            misplaced = offset % PAGE_BYTES or length % PAGE_BYTES or stop > MAX_ADDRESS_BYTES
            if offset < self._end or misplaced:
                overlapping.append((offset, length))
                continue
            if offset > self._end:
                self._add_hole(self._end, offset - self._end)
            self._end = stop
            self.used_bytes += length
        return overlapping

    def _add_hole(self, offset: int, length: int) -> None:
        self._length_at[offset] = length
        self._by_length.add((length, offset))

    def _remove_hole(self, offset: int, length: int) -> None:
        del self._length_at[offset]
        self._by_length.remove((length, offset))
