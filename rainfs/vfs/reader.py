"""Reading: dirty bytes over bytes in flight over committed extents over holes.

Owns the way of bytes to a reader.  Refuses to know handles' flags and who may read, and what to
fetch beyond what was asked for (`ahead`).

Invariants:
- A read sees each byte as some moment between its start and its end had it.
- Holes and everything the extents do not cover read as zeros.
- The memory that `read` returns is valid until the caller's next checkpoint only, unless it is
  bytes: there is one scratch buffer, filled after the last checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import trio

from rainfs.array.array import Array, Wanted
from rainfs.errors import ArrayError, InputOutput
from rainfs.meta.extents import Extents
from rainfs.model import MIB, Extent, StripeId, StripeView
from rainfs.vfs.ahead import EXTENTS_PER_SCAN, Ahead, Cursor
from rainfs.vfs.buffer import Buffer
from rainfs.vfs.inodes import Inode
from rainfs.vfs.rows import StripeRows

log = logging.getLogger(__name__)

MAX_READ_BYTES = 1 * MIB
"""The kernel asks for no more at once."""

MAX_REPLANS = 4
"""A read is planned again when a stripe was replaced under it, this often in a row at most without
having got anything: what it has got stays."""


class _StripeGone(Exception):
    """A planned stripe is no longer referenced: plan again."""


class Reader:
    """Reads any range of any inode."""

    def __init__(self, array: Array, extents: Extents, rows: StripeRows, ahead: Ahead) -> None:
        self._array = array
        self._extents = extents
        self._rows = rows
        self._ahead = ahead
        self._scratch = memoryview(bytearray(MAX_READ_BYTES))

    async def read(self, inode: Inode, offset: int, size: int, cursor: Cursor | None) -> Buffer:
        """Return up to `size` bytes from `offset` on; fewer only at the end of the file.

        Without a cursor nobody is noted as having read: the bytes are to fill a cache.
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
                data = None if before else await self._read_one(inode, offset, stop, cursor)
                if data is not None:
                    found.append((offset, data))
                else:
                    for start, end in gaps:
                        await self._fetch(inode, start, end, found, cursor)
            except _StripeGone:
                self._extents.forget(inode.inode)
                replans = 0 if len(found) > before else replans + 1
                gaps = _still_missing(gaps, found)
                continue
            except ArrayError as error:
                raise InputOutput(f"inode {inode.inode} at {offset}: {error}") from error
            if cursor is not None:
                await self._ahead.read_on(inode, offset, stop, cursor)
            return self._assemble(offset, stop, found)
        raise InputOutput(f"inode {inode.inode} at {offset}: its stripes kept changing")

    async def _read_one(
        self, inode: Inode, offset: int, stop: int, cursor: Cursor | None
    ) -> Buffer | None:
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
        inner = extent.block_offset + offset - extent.offset
        wanted = (Wanted(extent.block, inner, stop - offset),)
        (data,) = await self._get(inode, offset, view, wanted, cursor)
        return data

    async def _get(
        self,
        inode: Inode,
        offset: int,
        view: StripeView,
        wanted: Sequence[Wanted],
        cursor: Cursor | None,
    ) -> list[Buffer]:
        """Return runs of one stripe, the first of which lies at `offset` of the file."""
        if len(wanted) == 1:
            self._ahead.company(view, wanted[0].block)
        held = all(self._array.holds(view.id, want.block) for want in wanted)
        began_s = trio.current_time()
        try:
            runs = await self._array.read(view, wanted, partial(self._rows.reload, view.id))
        except ArrayError:
            if await self._rows.reload(view.id) is None:
                raise _StripeGone from None
            raise
        if not held and cursor is not None:
            nbytes = sum(want.length for want in wanted)
            await self._ahead.paid(inode, offset, nbytes, trio.current_time() - began_s, cursor)
        return runs

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
        self,
        inode: Inode,
        start: int,
        stop: int,
        found: list[tuple[int, Buffer]],
        cursor: Cursor | None,
    ) -> None:
        """Append the committed bytes of `[start, stop)` to `found`."""
        by_stripe: dict[StripeId, list[Extent]] = {}
        for extent in await self._scan(inode, start, stop):
            by_stripe.setdefault(extent.stripe, []).append(extent)
        for stripe, extents in by_stripe.items():
            view = await self._rows.get(stripe)
            if view is None:
                raise _StripeGone
            positions: list[int] = []
            wanted: list[Wanted] = []
            for extent in extents:
                low, high = max(extent.offset, start), min(extent.offset + extent.length, stop)
                inner = extent.block_offset + low - extent.offset
                positions.append(low)
                wanted.append(Wanted(extent.block, inner, high - low))
            runs = await self._get(inode, positions[0], view, wanted, cursor)
            found.extend(zip(positions, runs, strict=True))

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
