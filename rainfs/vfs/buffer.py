"""Dirty bytes of one file: an ordered map of non-overlapping segments.  Pure, no I/O.

Owns the order "newer bytes win".  Refuses to know files, stripes and time.

Invariants:
- Segments are sorted, non-empty and never overlap.
- A segment refers to the bytes it was given (no copy), except that small neighbours are joined
  in a `bytearray` and that a remnant smaller than half of what it pins is copied out.  So the
  memory held is at most twice `nbytes`.
- A `bytearray` changes in place only while it is in the map it was joined in; `take` and
  `extract` hand over memory that nobody changes any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Buffer = bytes | bytearray | memoryview

SEGMENT_COST_BYTES = 256
"""What a segment costs in memory beside its bytes; counts towards the dirty limit."""

JOIN_BYTES = 32 * 1024
"""Writes up to this length are joined with the neighbour before them."""


class Segment:
    """A run of file bytes `[start, stop)`."""

    __slots__ = ("data", "start", "stop")

    def __init__(self, start: int, stop: int, data: Buffer) -> None:
        self.start = start
        self.stop = stop
        self.data = data

    def part(self, start: int, stop: int) -> Buffer:
        """Return the bytes `[start, stop)`, copied only while they may still change in place."""
        if type(self.data) is bytearray:
            return bytes(memoryview(self.data)[start - self.start : stop - self.start])
        if start == self.start and stop == self.stop:
            return self.data
        return memoryview(self.data)[start - self.start : stop - self.start]

    def remnant(self, start: int, stop: int) -> Segment:
        """Return the part `[start, stop)` as a segment that pins at most twice its length."""
        view = memoryview(self.data)[start - self.start : stop - self.start]
        pinned = view.obj
        assert isinstance(pinned, bytes | bytearray)
        if isinstance(pinned, bytearray) or 2 * (stop - start) < len(pinned):
            return Segment(start, stop, bytes(view))
        return Segment(start, stop, view)


class SegmentMap:
    """Segments of one file, newest bytes only."""

    __slots__ = ("_join_bytes", "_starts", "nbytes", "segments")

    def __init__(self, block_bytes: int) -> None:
        self._starts: list[int] = []
        self._join_bytes = block_bytes
        self.segments: list[Segment] = []
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self.segments)

    @property
    def cost(self) -> int:
        """Bytes to count towards the dirty limit."""
        return self.nbytes + SEGMENT_COST_BYTES * len(self.segments)

    @property
    def stop(self) -> int:
        """End of the last segment; 0 when empty."""
        return self.segments[-1].stop if self.segments else 0

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, over whatever was there."""
        length = len(data)
        if not length:
            return
        stop = offset + length
        low = bisect_right(self._starts, offset) - 1
        if low >= 0:
            before = self.segments[low]
            if before.stop >= offset:
                if length <= JOIN_BYTES and self._absorb(low, before, offset, stop, data):
                    return
                if before.stop == offset:
                    low += 1
            else:
                low += 1
        else:
            low = 0
        high = bisect_left(self._starts, stop, low)
        self._replace(low, high, Segment(offset, stop, data))

    def _absorb(self, index: int, before: Segment, offset: int, stop: int, data: bytes) -> bool:
        """Join `data` to the segment before it, or change that in place; False if unfit."""
        joined = before.data
        if stop <= before.stop:
            if type(joined) is not bytearray:
                return False
            joined[offset - before.start : stop - before.start] = data
            return True
        limit = before.start - before.start % self._join_bytes + self._join_bytes
        if before.stop != offset or stop > limit:
            return False
        following = index + 1
        if following < len(self._starts) and self._starts[following] < stop:
            return False
        if type(joined) is not bytearray:
            if len(joined) > JOIN_BYTES:
                return False
            joined = before.data = bytearray(joined)
        joined += data
        before.stop = stop
        self.nbytes += stop - offset
        return True

    def _replace(self, low: int, high: int, new: Segment) -> None:
        """Put `new` in place of what it overlaps among segments `[low, high)`."""
        put = [new]
        gone = 0
        if low < high:
            first, last = self.segments[low], self.segments[high - 1]
            gone = sum(s.stop - s.start for s in self.segments[low:high])
            if first.start < new.start:
                put.insert(0, first.remnant(first.start, new.start))
            if last.stop > new.stop:
                put.append(last.remnant(new.stop, last.stop))
        self.segments[low:high] = put
        self._starts[low:high] = [s.start for s in put]
        self.nbytes += sum(s.stop - s.start for s in put) - gone

    def overlay(
        self, gaps: list[tuple[int, int]], found: list[tuple[int, Buffer]]
    ) -> list[tuple[int, int]]:
        """Append to `found` what this map holds of `gaps`; return what is still missing."""
        if not self.segments:
            return gaps
        left: list[tuple[int, int]] = []
        for gap_start, gap_stop in gaps:
            at = gap_start
            index = max(bisect_right(self._starts, at) - 1, 0)
            while at < gap_stop and index < len(self.segments):
                segment = self.segments[index]
                index += 1
                if segment.stop <= at:
                    continue
                if segment.start >= gap_stop:
                    break
                if segment.start > at:
                    left.append((at, segment.start))
                    at = segment.start
                stop = min(segment.stop, gap_stop)
                found.append((at, segment.part(at, stop)))
                at = stop
            if at < gap_stop:
                left.append((at, gap_stop))
        return left

    def truncate(self, size: int) -> None:
        """Drop everything from `size` on."""
        index = bisect_left(self._starts, size)
        gone = self.segments[index:]
        del self.segments[index:]
        del self._starts[index:]
        self.nbytes -= sum(s.stop - s.start for s in gone)
        if self.segments and self.segments[-1].stop > size:
            last = self.segments[-1]
            self.nbytes -= last.stop - size
            if type(last.data) is bytearray:
                del last.data[size - last.start :]
                last.stop = size
            else:
                self.segments[-1] = last.remnant(last.start, size)

    def fit(self, room_bytes: int, blocks: int, block_bytes: int, *, whole: bool) -> int:
        """Return the file offset up to which `extract` should take, for one stripe's room.

        At most `room_bytes` bytes in at most `blocks` pieces; a run is cut at its start or at a
        multiple of `block_bytes`.  Unless `whole`, the unaligned tail of a run of at least a block
        stays, because a writer is likely to continue it.
        """
        at, run, limit = -1, -1, -1
        for segment in self.segments:
            if segment.start != at:
                run = at = segment.start
                limit = -1
            while at < segment.stop:
                if at >= limit:
                    if not blocks:
                        return at
                    blocks -= 1
                    limit = at - at % block_bytes + block_bytes
                step = min(segment.stop, limit) - at
                if step > room_bytes:
                    return max(limit - block_bytes, run)
                room_bytes -= step
                at += step
        aligned = at - at % block_bytes
        return at if whole or aligned <= run else aligned

    def extract(self, stop: int) -> SegmentMap:
        """Move everything below file offset `stop` into a new map and return it."""
        taken = SegmentMap(self._join_bytes)
        index = bisect_left(self._starts, stop)
        taken.segments = self.segments[:index]
        taken._starts = self._starts[:index]
        del self.segments[:index]
        del self._starts[:index]
        taken.nbytes = sum(s.stop - s.start for s in taken.segments)
        if taken.segments and taken.segments[-1].stop > stop:
            last = taken.segments[-1]
            self.segments.insert(0, last.remnant(stop, last.stop))
            self._starts.insert(0, stop)
            view = memoryview(last.data)[: stop - last.start]
            taken.segments[-1] = Segment(last.start, stop, view)
            taken.nbytes -= last.stop - stop
        self.nbytes -= taken.nbytes
        return taken

    def pieces(self, block_bytes: int) -> Iterator[tuple[int, int, tuple[Buffer, ...]]]:
        """Yield (offset, length, buffers) cut at multiples of `block_bytes`.

        Only for a map that nobody writes to any more: the buffers are not copied.
        """
        start = stop = -1
        limit = 0
        buffers: list[Buffer] = []
        for segment in self.segments:
            at = segment.start
            while at < segment.stop:
                if at != stop or at >= limit:
                    if buffers:
                        yield start, stop - start, tuple(buffers)
                        buffers = []
                    start = at
                    limit = at - at % block_bytes + block_bytes
                stop = min(segment.stop, limit)
                if at == segment.start and stop == segment.stop:
                    buffers.append(segment.data)
                else:
                    view = memoryview(segment.data)
                    buffers.append(view[at - segment.start : stop - segment.start])
                at = stop
        if buffers:
            yield start, stop - start, tuple(buffers)
