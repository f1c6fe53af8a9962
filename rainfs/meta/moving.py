"""Moving live bytes from old stripes into a new one without changing any file.

Owns two steps of compaction: looking up which runs of a stripe's blocks files still need, and the
one transaction that points them at their copies.  Refuses to know how bytes are copied and which
stripes are worth it.

Invariants:
- An extent moves only if it points, at that moment, at the very block and place that was copied.
  Stripes never change and ids are never used twice, so it then holds the same bytes, whatever
  happened in between; whatever else files point at by then stays, and its copy counts as dead.
- No attribute of a file changes: neither size, nor times, nor what it takes.
- Touching extents that come to touch inside one new block become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.old_extents import OldExtents
from rainfs.meta.records import EXTENTS, ExtentRecord
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import Changes, apply_changes, store_new
from rainfs.model import Block, Extent, InodeNumber, StripeId, StripeView

MAX_MOVED_RUNS = 1_300
MAX_MOVED_EXTENTS = 1_300
"""With these two a transaction writes at most 4 keys an extent (itself, its two ends, a part in the
new stripe), one a run and 3 rows an old stripe, of which there are no more than extents: less than
MAX_TRANSACTION_KEYS."""

BLOCKS_PER_SNAPSHOT = 128
ROWS_PER_SCAN = 256


class Run(NamedTuple):
    """File bytes `[start, stop)` that block `block` of `stripe` held when it was looked at."""

    inode: InodeNumber
    start: int
    stop: int
    stripe: StripeId
    block: int
    base: int
    """File offset of the block's first byte."""


async def live_runs(engine: Engine, view: StripeView) -> list[Run]:
    """Return what files need of a stripe, by block and offset; bounded snapshots, one by one."""
    found: list[Run] = []
    numbered = list(enumerate(view.stripe.blocks))
    for first in range(0, len(numbered), BLOCKS_PER_SNAPSHOT):
        blocks = numbered[first : first + BLOCKS_PER_SNAPSHOT]

        async def body(reader: Reader, blocks: Sequence[tuple[int, Block]] = blocks) -> list[Run]:
            runs: list[Run] = []
            for index, block in blocks:
                runs += await _runs_of(reader, view.id, index, block)
            return runs

        found += await engine.read(body)
    return found


async def _runs_of(reader: Reader, stripe: StripeId, index: int, block: Block) -> list[Run]:
    runs: list[Run] = []
    start = keys.extent_key(block.inode, block.file_offset)
    stop = keys.extent_key(block.inode, block.file_offset + block.length)
    while True:
        rows = await reader.scan(start, stop, limit=ROWS_PER_SCAN)
        for key, raw in rows:
            record = EXTENTS.decode(raw)
            offset = keys.second_of(key)
            base = offset - record.block_offset
            if record.stripe == stripe and record.block == index and base == block.file_offset:
                runs.append(Run(block.inode, offset, offset + record.length, stripe, index, base))
        if len(rows) < ROWS_PER_SCAN:
            return runs
        start = rows[-1][0] + b"\0"


async def move(
    engine: Engine, session: Session, view: StripeView, runs: Sequence[Sequence[Run]]
) -> int:
    """Point files at `view`, whose shards are durable: its block i is a copy of `runs[i]`.

    The runs of a block touch each other and cover it.  One transaction; returns how many bytes
    moved.  Stripes that lose their last live bytes get tombstones, the new one as well if nothing
    could be moved.

    Raises: SessionLost, ReadOnly, ValueError beyond MAX_MOVED_RUNS.
    """
    if sum(map(len, runs)) > MAX_MOVED_RUNS:
        raise ValueError(f"more than {MAX_MOVED_RUNS} runs")
    targets = sorted(
        _Target(run, view.id, index, block.file_offset)
        for index, (block, held) in enumerate(zip(view.stripe.blocks, runs, strict=True))
        for run in held
    )

    async def body(transaction: Transaction) -> int:
        await session.check(transaction)
        plan = _Plan()
        for inode, group in groupby(targets, key=lambda target: target.run.inode):
            stored = OldExtents(transaction, inode)
            for region in _regions(list(group)):
                await plan.add(stored, region)
        moved = plan.write(transaction)
        store_new(transaction, view, moved)
        await apply_changes(transaction, plan.changes)
        return moved

    return await engine.run(body)


class _Target(NamedTuple):
    """A run and the block that has its copy."""

    run: Run
    stripe: StripeId
    block: int
    base: int


def _regions(targets: Sequence[_Target]) -> Iterator[list[_Target]]:
    """Yield the targets of one inode in groups that touch."""
    region: list[_Target] = []
    for target in targets:
        if region and region[-1].run.stop != target.run.start:
            yield region
            region = []
        region.append(target)
    if region:
        yield region


class _Plan:
    """What the transaction will write."""

    def __init__(self) -> None:
        self.changes: Changes = {}
        self._room = MAX_MOVED_EXTENTS
        self._deleted: list[bytes] = []
        self._put: list[tuple[InodeNumber, Extent]] = []
        self._moved = 0

    async def add(self, stored: OldExtents, region: Sequence[_Target]) -> None:
        """Plan a region: its extents are read first, then walked beside its targets."""
        if self._room <= 0:
            return
        start, stop = region[0].run.start, region[-1].run.stop
        first = 0
        for extent in await stored.overlapping(start, stop, self._room, 0):
            end = extent.offset + extent.length
            while first < len(region) and region[first].run.stop <= extent.offset:
                first += 1
            parts: list[tuple[int, int, _Target]] = []
            for target in region[first:]:
                if target.run.start >= end:
                    break
                if _holds(target.run, extent):
                    low, high = max(target.run.start, extent.offset), min(target.run.stop, end)
                    parts.append((low, high, target))
            if parts:
                self._move(region[0].run.inode, extent, parts)

    def _move(
        self, inode: InodeNumber, extent: Extent, parts: Sequence[tuple[int, int, _Target]]
    ) -> None:
        self._room -= 1
        self._deleted.append(keys.extent_key(inode, extent.offset))
        at, end = extent.offset, extent.offset + extent.length
        for low, high, target in parts:
            self._keep(inode, extent, at, low)
            self._bring(
                inode, Extent(low, high - low, target.stripe, target.block, low - target.base)
            )
            self.changes[extent.stripe] = self.changes.get(extent.stripe, 0) - (high - low)
            self._moved += high - low
            at = high
        self._keep(inode, extent, at, end)

    def _keep(self, inode: InodeNumber, extent: Extent, start: int, stop: int) -> None:
        """Leave `[start, stop)` of an extent where it is."""
        if start < stop:
            inner = extent.block_offset + start - extent.offset
            kept = Extent(start, stop - start, extent.stripe, extent.block, inner)
            self._put.append((inode, kept))

    def _bring(self, inode: InodeNumber, new: Extent) -> None:
        if self._put:
            owner, last = self._put[-1]
            if owner == inode and _continues(last, new):
                joined = Extent(
                    last.offset,
                    last.length + new.length,
                    last.stripe,
                    last.block,
                    last.block_offset,
                )
                self._put[-1] = (owner, joined)
                return
        self._put.append((inode, new))

    def write(self, transaction: Transaction) -> int:
        """Write the extents; returns how many bytes move."""
        for key in self._deleted:
            transaction.delete(key)
        for inode, extent in self._put:
            record = ExtentRecord(extent.length, extent.stripe, extent.block, extent.block_offset)
            transaction.put(keys.extent_key(inode, extent.offset), EXTENTS.encode(record))
        return self._moved


def _holds(run: Run, extent: Extent) -> bool:
    """Whether the extent still points at what was copied from."""
    return (
        extent.stripe == run.stripe
        and extent.block == run.block
        and extent.offset - extent.block_offset == run.base
    )


def _continues(before: Extent, after: Extent) -> bool:
    return (
        before.stripe == after.stripe
        and before.block == after.block
        and before.offset + before.length == after.offset
        and before.block_offset + before.length == after.block_offset
    )
