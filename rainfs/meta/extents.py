"""Which blocks hold a file's bytes.

Owns the extents, and with them `Attr.allocated`, sizes that flushes bring, and the live bytes of
stripes.  Refuses to know what is in a stripe or where.  Invariants: the extents of a file do not
overlap and none reaches beyond its size; `allocated` is the sum of their lengths; every step of
work that is too large for one transaction leaves a correct file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from msgspec.structs import replace

from rainfs.meta import keys
from rainfs.meta.attr_change import check_size
from rainfs.meta.committing import (
    PIECES_PER_STEP,
    Commit,
    FileUpdate,
    RehearsedCommit,
)
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.extent_cache import ExtentCache, Row, extent_of
from rainfs.meta.inodes import load_attr, store_attr
from rainfs.meta.pieces import left_part
from rainfs.meta.records import ATTRS, EXTENTS, ExtentRecord
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import Changes, apply_changes, load_view
from rainfs.model import MAX_FILE_BYTES, Attr, Extent, InodeNumber, StripeId, StripeView

__all__ = ["MAX_BLOCKS_PER_STRIPE", "Extents", "FileUpdate", "RehearsedCommit"]

MAX_BLOCKS_PER_STRIPE = 1_024
"""Longest block table, so that a stripe's commit is one transaction in all but odd cases."""
assert MAX_BLOCKS_PER_STRIPE <= PIECES_PER_STEP

FREED_PER_STEP = 1_500
"""Extents that one transaction frees; each may cost itself, one end and its stripe's three rows."""

MAX_ORPHANS = 10_000

R = TypeVar("R")


class Extents:
    """The extents of a volume's files.  Raises besides what is named: SessionLost, ReadOnly."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine = engine
        self._session = session
        self._known = ExtentCache()

    def known(self, inode: InodeNumber, start: int, stop: int) -> Sequence[Extent] | None:
        """Return what `find` would, without its limit, where that is in memory; else None.

        The read-write session alone may keep extents: nobody else changes what its files hold.
        Another process may move bytes to other stripes (a reader that finds a stripe gone calls
        `forget`).
        """
        return self._known.find(inode, start, stop)

    def forget(self, inode: InodeNumber) -> None:
        """Read the extents of a file from the engine again, not from memory."""
        self._known.forget(inode)

    async def find(
        self, inode: InodeNumber, start: int, stop: int, *, limit: int
    ) -> Sequence[Extent]:
        """Return at most `limit` extents that overlap `[start, stop)`, in order, not clipped."""
        known = self._known.find(inode, start, stop)
        if known is not None:
            return known[:limit]
        width = 0 if self._session.read_only else self._known.width(inode)
        generation = self._known.generation

        async def body(reader: Reader) -> tuple[list[Row], int]:
            if width:
                rows = await _overlapping(reader, inode, start, MAX_FILE_BYTES, width)
                known_to = MAX_FILE_BYTES if len(rows) < width else _end_of(rows[-1])
                if known_to >= stop:
                    return rows, known_to
            rows = await _overlapping(reader, inode, start, stop, limit)
            return rows, stop if len(rows) < limit else _end_of(rows[-1])

        rows, known_to = await self._engine.read(body)
        if width and generation == self._known.generation:
            begin = min(start, keys.second_of(rows[0][0])) if rows else start
            self._known.learn(inode, begin, known_to, rows, asked_to=stop)
        wanted = bisect_left(rows, (keys.extent_key(inode, stop), b""))
        return [extent_of(*row) for row in rows[: min(wanted, limit)]]

    async def view(self, stripe: StripeId) -> StripeView | None:
        """Return what a stripe is and where its shards are, None if it is gone."""

        async def body(reader: Reader) -> StripeView | None:
            return await load_view(reader, stripe)

        return await self._engine.read(body)

    def rehearse(
        self, stripes: Sequence[StripeView], files: Sequence[FileUpdate]
    ) -> RehearsedCommit | None:
        """Prepare a commit that is likely to come, if that takes no waiting; commits nothing."""
        work = Commit(self._session, stripes, files)
        rehearsal = self._engine.rehearse(work.step)
        return None if rehearsal is None else RehearsedCommit(work, rehearsal, stripes, files)

    async def commit(
        self,
        stripes: Sequence[StripeView],
        files: Sequence[FileUpdate] = (),
        rehearsed: RehearsedCommit | None = None,
    ) -> None:
        """Point files at the blocks of new stripes, whose shards are durable.

        One transaction unless more than PIECES_PER_STEP blocks come in, or more than
        OLD_EXTENTS_PER_STEP extents go out; then the steps go by inode and offset, and sizes grow
        with them.  Blocks of inodes that are gone, and bytes beyond a file's size, count as dead;
        so do earlier blocks where a later one of this call covers the same bytes.  What is
        replaced loses live bytes.  With what was `rehearsed` of the same commit, its work is spared
        where nothing came between.

        Raises: TransactionConflict if the file was rewritten between two steps (write it again),
        MetadataForeign if the rows do not fit together.
        """
        inodes = {block.inode for view in stripes for block in view.stripe.blocks}
        if rehearsed is not None and not (rehearsed.is_of(stripes, files) and rehearsed.commit()):
            rehearsed = None
        work = rehearsed.work if rehearsed is not None else Commit(self._session, stripes, files)
        while True:
            try:
                if rehearsed is not None:
                    done = rehearsed.done
                else:
                    done = await self._engine.run(work.step)
            finally:
                for inode in inodes:
                    self._known.forget(inode)
            rehearsed = None
            if done:
                return
            work.advance()
            await trio.lowlevel.checkpoint()

    async def truncate(self, inode: InodeNumber, size: int, *, now_ns: int) -> Attr:
        """Set a file's size; mtime and ctime become `now_ns`.

        A long cut goes from the end in steps, each of which leaves a shorter, correct file.

        Raises: NotFound, IsDirectory, InvalidArgument, FileTooLarge.
        """

        async def step(transaction: Transaction) -> tuple[Attr, bool]:
            await self._session.check(transaction)
            attr = await load_attr(transaction, inode)
            check_size(attr, size)
            if size < attr.size:
                attr = await _free_tail(transaction, attr, size)
            else:
                attr = replace(attr, size=size)
            attr = replace(attr, mtime_ns=now_ns, ctime_ns=now_ns)
            store_attr(transaction, attr)
            return attr, attr.size == size

        return await self._repeat(inode, step)

    async def reap(self, inode: InodeNumber) -> None:
        """Free an orphan that nobody holds any more, and all it owns; in bounded steps.

        An inode that is gone, or has a name, is left as it is.
        """

        async def step(transaction: Transaction) -> tuple[None, bool]:
            await self._session.check(transaction)
            raw = await transaction.get(keys.inode_key(inode))
            if raw is None:
                await self._forget_orphan(transaction, inode)
                return None, True
            attr = ATTRS.decode(raw)
            if attr.nlink > 0:
                return None, True
            if attr.allocated > 0:
                attr = await _free_tail(transaction, attr, 0)
                if attr.allocated > 0:
                    store_attr(transaction, attr)
                    return None, False
            if attr.has_xattrs:
                rows = await transaction.scan(*keys.of_inode(b"X", inode), limit=FREED_PER_STEP)
                for key, _ in rows:
                    transaction.delete(key)
            transaction.delete(keys.inode_key(inode))
            await self._forget_orphan(transaction, inode)
            return None, True

        await self._repeat(inode, step)

    async def orphans(self) -> list[InodeNumber]:
        """Return at most MAX_ORPHANS inodes that ended sessions left without a name."""

        async def body(reader: Reader) -> list[InodeNumber]:
            rows = await reader.scan(*keys.table(b"O"), limit=MAX_ORPHANS)
            return [
                InodeNumber(keys.second_of(key))
                for key, _ in rows
                if keys.number_of(key) != self._session.epoch
            ]

        return await self._engine.read(body)

    async def _forget_orphan(self, transaction: Transaction, inode: InodeNumber) -> None:
        own = keys.orphan_key(self._session.epoch, inode)
        if await transaction.get(own) is not None:
            transaction.delete(own)
            return
        start, stop = keys.table(b"O")
        while first := await transaction.scan(start, stop, limit=1):
            epoch = keys.number_of(first[0][0])
            transaction.delete(keys.orphan_key(epoch, inode))
            start, _ = keys.table_after(b"O", epoch)

    async def _repeat(
        self, inode: InodeNumber, step: Callable[[Transaction], Awaitable[tuple[R, bool]]]
    ) -> R:
        while True:
            try:
                result, done = await self._engine.run(step)
            finally:
                self._known.forget(inode)
            if done:
                return result
            await trio.lowlevel.checkpoint()


async def _free_tail(transaction: Transaction, attr: Attr, size: int) -> Attr:
    """Free extents from the file's end down to `size`, at most FREED_PER_STEP of them.

    Returns the attributes with the size that was reached; the caller stores them.
    """
    inode = attr.inode
    rows: list[tuple[bytes, bytes]] = []
    if attr.allocated:
        rows = await transaction.scan(
            *keys.of_inode(b"E", inode), limit=FREED_PER_STEP + 1, reverse=True
        )
    changes: Changes = {}
    allocated, reached = attr.allocated, attr.size
    for key, raw in rows[:FREED_PER_STEP]:
        extent = extent_of(key, raw)
        if extent.offset + extent.length <= size:
            break
        kept = left_part(extent, size)
        freed = extent.length - (kept.length if kept is not None else 0)
        if kept is None:
            transaction.delete(key)
        else:
            record = ExtentRecord(kept.length, kept.stripe, kept.block, kept.block_offset)
            transaction.put(key, EXTENTS.encode(record))
        changes[extent.stripe] = changes.get(extent.stripe, 0) - freed
        allocated -= freed
        reached = max(extent.offset, size)
    else:
        if len(rows) > FREED_PER_STEP:
            await apply_changes(transaction, changes)
            return replace(attr, size=reached, allocated=allocated)
    await apply_changes(transaction, changes)
    return replace(attr, size=size, allocated=allocated)


async def _overlapping(
    reader: Reader, inode: InodeNumber, start: int, stop: int, limit: int
) -> list[Row]:
    rows = await reader.scan(
        keys.extent_key(inode, start), keys.extent_key(inode, stop), limit=limit
    )
    if start > 0 and not (rows and keys.second_of(rows[0][0]) == start):
        before = await reader.scan(
            keys.extent_key(inode, 0), keys.extent_key(inode, start), limit=1, reverse=True
        )
        if before and _end_of(before[0]) > start:
            rows.insert(0, before[0])
    return rows[:limit]


def _end_of(row: Row) -> int:
    return keys.second_of(row[0]) + EXTENTS.decode(row[1]).length
