"""Extents that were read lately, so that a reader at random asks the engine once for many reads.

Owns windows: ranges of a file whose extents are known, each read in one scan, and how wide the
next scan of a file should be.  Rows stay as they were read until somebody asks for one: most of a
window is never asked for.  Refuses to read.  Pure, no I/O.

Invariants:
- Windows of one inode are disjoint and in order; each holds every extent that overlaps it.
- Whoever changes a file's extents calls `forget` before the next checkpoint after the commit; what
  was read meanwhile is then not taken in (`generation`).
- At most MAX_WINDOWS windows of at most MAX_WIDTH extents are held; the oldest go first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence

from rainfs.meta import keys
from rainfs.meta.records import EXTENTS
from rainfs.model import Extent, InodeNumber

MIN_WIDTH = 16
MAX_WIDTH = 128
"""Extents that a scan reads for one that is asked for: more once earlier ones were of use."""

MAX_WINDOWS = 512
"""8 GiB of files, written in whole blocks, are known with these; they take 12 MiB at most."""

Row = tuple[bytes, bytes]
"""Key and value of an extent, as the engine has them."""


def extent_of(key: bytes, raw: bytes) -> Extent:
    """Return what a row says."""
    record = EXTENTS.decode(raw)
    return Extent(
        keys.second_of(key), record.length, record.stripe, record.block, record.block_offset
    )


class _Window:
    __slots__ = ("inode", "keys", "of_use", "rows", "stops_at")

    def __init__(self, inode: InodeNumber, stops_at: int, rows: Sequence[Row]) -> None:
        self.inode = inode
        self.stops_at = stops_at
        self.rows = rows
        self.keys = [key for key, _ in rows]
        self.of_use = False


class _File:
    __slots__ = ("begins", "of_use", "width", "windows")

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.windows: list[_Window] = []
        self.width = MIN_WIDTH
        self.of_use = False


class ExtentCache:
    """Windows of any number of files."""

    def __init__(self) -> None:
        self._files: dict[InodeNumber, _File] = {}
        self._order: OrderedDict[_Window, int] = OrderedDict()
        """Windows, oldest first, with where each begins."""
        self.generation = 0
        """Grows whenever something was forgotten."""

    def __len__(self) -> int:
        return len(self._order)

    def find(self, inode: InodeNumber, start: int, stop: int) -> list[Extent] | None:
        """Return all extents that overlap `[start, stop)`, in order; None if that is not known."""
        file = self._files.get(inode)
        if file is None:
            return None
        at = bisect_right(file.begins, start) - 1
        if at < 0:
            return None
        window = file.windows[at]
        if stop > window.stops_at:
            return None
        window.of_use = file.of_use = True
        low = bisect_right(window.keys, keys.extent_key(inode, start)) - 1
        high = bisect_left(window.keys, keys.extent_key(inode, stop), max(low, 0))
        found = [extent_of(*row) for row in window.rows[max(low, 0) : high]]
        if found and found[0].offset + found[0].length <= start:
            del found[0]
        return found

    def width(self, inode: InodeNumber) -> int:
        """Return how many extents to read at once where `find` knew nothing."""
        file = self._files.get(inode)
        return MIN_WIDTH if file is None else file.width

    def learn(
        self, inode: InodeNumber, start: int, stop: int, rows: Sequence[Row], *, asked_to: int
    ) -> None:
        """Take in that `rows`, at most MAX_WIDTH, are all that overlap `[start, stop)`.

        Somebody asked up to `asked_to`: so far at least, they are kept in one window.
        """
        if len(rows) > MAX_WIDTH:
            return
        file = self._files.setdefault(inode, _File())
        at = bisect_right(file.begins, start)
        if at and file.windows[at - 1].stops_at > start:
            if file.begins[at - 1] == start:
                at -= 1
                self._drop(file, at)
            else:
                file.windows[at - 1].stops_at = start
        while at < len(file.begins) and file.begins[at] < asked_to:
            self._drop(file, at)
        if at < len(file.begins) and file.begins[at] < stop:
            stop = file.begins[at]
            rows = rows[: bisect_left(rows, (keys.extent_key(inode, stop), b""))]
        if file.of_use or (at and file.windows[at - 1].stops_at == start):
            file.width = min(file.width * 2, MAX_WIDTH)
            file.of_use = False
        window = _Window(inode, stop, rows)
        file.begins.insert(at, start)
        file.windows.insert(at, window)
        self._order[window] = start
        if len(self._order) > MAX_WINDOWS:
            self._drop_oldest()

    def forget(self, inode: InodeNumber) -> None:
        """Drop what is known of a file."""
        self.generation += 1
        file = self._files.pop(inode, None)
        if file is not None:
            for window in file.windows:
                del self._order[window]

    def _drop_oldest(self) -> None:
        window, begin = next(iter(self._order.items()))
        file = self._files[window.inode]
        if not window.of_use:
            file.width = max(file.width // 2, MIN_WIDTH)
        self._drop(file, bisect_right(file.begins, begin) - 1)
        if not file.windows:
            del self._files[window.inode]

    def _drop(self, file: _File, at: int) -> None:
        del file.begins[at]
        del self._order[file.windows.pop(at)]
