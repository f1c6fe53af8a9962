"""Finds ranges of files that lie in too many pieces to be read at speed.

Owns the rule: a range as long as a full stripe is fragmented when it has at least PIECES extents,
shorter than SHORT_BYTES on average, in more than STRIPES stripes.  After it was rewritten it has at
most one extent for each block, so that it is never found again unless it was overwritten PIECES / 2
times at least.  Owns also who may be bothered: not a file that was changed within QUIET_S, and no
range twice within REST_S, which bounds what a range costs whatever is done to it.  Refuses to
rewrite.

The scan is slow and bounded on purpose: pages of the extent table, whole, again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader
from rainfs.meta.moving import Run
from rainfs.meta.records import ATTRS, EXTENTS
from rainfs.model import KIB, InodeNumber, StripeId

PIECES = 64
SHORT_BYTES = 32 * KIB
STRIPES = 4
QUIET_S = 20.0
REST_S = 600.0

PAGE_ROWS = 1_000
"""Extents looked at in one snapshot."""

MAX_DUE = 10_000
"""Fragmented ranges that are remembered; later ones are found by the next scan."""

MAX_PIECES = 8_192
"""Extents of one range that are rewritten at once; the rest stays for the next time."""


class Range(NamedTuple):
    """A range of a file that is fragmented, as far as was seen."""

    inode: InodeNumber
    start: int
    stop: int


class Fragments:
    """A scan of all extents that goes on from page to page."""

    def __init__(self, engine: Engine, range_bytes: int) -> None:
        self._engine = engine
        self._range_bytes = range_bytes
        self.due: OrderedDict[Range, None] = OrderedDict()
        self._rested: OrderedDict[Range, float] = OrderedDict()
        self._stripes: set[StripeId] = set()
        self.restart()

    def restart(self) -> None:
        """Begin the scan anew."""
        self._next = keys.table(b"E")[0]
        self._range = Range(InodeNumber(0), 0, 0)
        self._pieces = self._covered = 0
        self._stripes.clear()

    async def scan_page(self) -> bool:
        """Look at the next page; True when that was the last one of the table."""
        start, stop = self._next, keys.table(b"E")[1]

        async def body(reader: Reader) -> list[tuple[bytes, bytes]]:
            return await reader.scan(start, stop, limit=PAGE_ROWS)

        rows = await self._engine.read(body)
        for key, raw in rows:
            inode, offset = InodeNumber(keys.number_of(key)), keys.second_of(key)
            if inode != self._range.inode or offset >= self._range.stop:
                self._close()
                first = offset - offset % self._range_bytes
                self._range = Range(inode, first, first + self._range_bytes)
            record = EXTENTS.decode(raw)
            self._pieces += 1
            self._covered += record.length
            if len(self._stripes) <= STRIPES:
                self._stripes.add(record.stripe)
        if len(rows) < PAGE_ROWS:
            self._close()
            self.restart()
            return True
        self._next = rows[-1][0] + b"\0"
        return False

    def _close(self) -> None:
        if fragmented(self._pieces, self._covered, len(self._stripes)) and len(self.due) < MAX_DUE:
            self.due[self._range] = None
        self._pieces = self._covered = 0
        self._stripes.clear()

    async def next_due(self, now_s: float, now_ns: int, *, at_once: bool) -> list[Run]:
        """Return what lies in the next range that may be rewritten now; empty if there is none.

        Ranges that must wait are forgotten: the next scan finds them again.
        """
        while self._rested and next(iter(self._rested.values())) <= now_s:
            self._rested.popitem(last=False)
        while self.due:
            found, _ = self.due.popitem(last=False)
            if not at_once and (found in self._rested or not await self._quiet(found, now_ns)):
                continue
            runs = await self._runs(found)
            covered = sum(run.stop - run.start for run in runs)
            if fragmented(len(runs), covered, len({run.stripe for run in runs})):
                self._rested[found] = now_s + REST_S
                self._rested.move_to_end(found)
                if len(self._rested) > MAX_DUE:
                    self._rested.popitem(last=False)
                return runs
        return []

    async def _quiet(self, found: Range, now_ns: int) -> bool:
        async def body(reader: Reader) -> bytes | None:
            return await reader.get(keys.inode_key(found.inode))

        raw = await self._engine.read(body)
        return raw is not None and abs(now_ns - ATTRS.decode(raw).ctime_ns) >= QUIET_S * 1e9

    async def _runs(self, found: Range) -> list[Run]:
        start = keys.extent_key(found.inode, found.start)
        stop = keys.extent_key(found.inode, found.stop)
        runs: list[Run] = []
        while len(runs) < MAX_PIECES:

            async def body(reader: Reader, start: bytes = start) -> list[tuple[bytes, bytes]]:
                return await reader.scan(start, stop, limit=PAGE_ROWS)

            rows = await self._engine.read(body)
            for key, raw in rows:
                offset, record = keys.second_of(key), EXTENTS.decode(raw)
                end, base = offset + record.length, offset - record.block_offset
                runs.append(Run(found.inode, offset, end, record.stripe, record.block, base))
            if len(rows) < PAGE_ROWS:
                break
            start = rows[-1][0] + b"\0"
        return runs


def fragmented(pieces: int, covered: int, stripes: int) -> bool:
    """Whether so many pieces of so many bytes, in so many stripes, are worth rewriting."""
    return pieces >= PIECES and covered < pieces * SHORT_BYTES and stripes > STRIPES
