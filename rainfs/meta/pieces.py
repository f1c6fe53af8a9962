"""The runs of file bytes that a commit brings, in the order in which they are worked off.

Pure.  Owns the rule for blocks of one commit that cover the same bytes: the later one wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from rainfs.model import Extent, InodeNumber, StripeId, StripeView


class Piece(NamedTuple):
    """File bytes `[start, stop)` of an inode, to be found in a block from `block_offset` on."""

    inode: InodeNumber
    start: int
    stop: int
    stripe: StripeId
    block: int
    block_offset: int


def pieces_of(stripes: Iterable[StripeView]) -> list[Piece]:
    """Return the pieces of all blocks: by inode and offset, without overlap."""
    pieces = [
        Piece(block.inode, block.file_offset, block.file_offset + block.length, view.id, index, 0)
        for view in stripes
        for index, block in enumerate(view.stripe.blocks)
        if block.length > 0
    ]
    ordered = sorted(pieces, key=_place)
    if any(
        before.inode == after.inode and before.stop > after.start
        for before, after in pairwise(ordered)
    ):
        ordered = sorted(_latest(pieces), key=_place)
    return ordered


def _place(piece: Piece) -> tuple[int, int]:
    return piece.inode, piece.start


def _latest(pieces: Sequence[Piece]) -> list[Piece]:
    kept: list[Piece] = []
    for new in pieces:
        remaining: list[Piece] = []
        for old in kept:
            if old.inode != new.inode or old.stop <= new.start or new.stop <= old.start:
                remaining.append(old)
                continue
            if old.start < new.start:
                remaining.append(old._replace(stop=new.start))
            if old.stop > new.stop:
                remaining.append(from_offset(old, new.stop))
        kept = [*remaining, new]
    return kept


def from_offset(piece: Piece, start: int) -> Piece:
    """Return the part of a piece that begins at file offset `start`."""
    return piece._replace(start=start, block_offset=piece.block_offset + start - piece.start)


def run_length(pieces: Sequence[Piece], first: int) -> int:
    """Return how many pieces of one inode from index `first` on touch each other."""
    last = first
    while last + 1 < len(pieces) and pieces[last].stop == pieces[last + 1].start:
        last += 1
    return last - first + 1


def left_part(extent: Extent, stop: int) -> Extent | None:
    """Return what of a stored extent lies before `stop`."""
    if extent.offset >= stop:
        return None
    length = min(extent.length, stop - extent.offset)
    return Extent(extent.offset, length, extent.stripe, extent.block, extent.block_offset)


def right_part(extent: Extent, start: int) -> Extent | None:
    """Return what of a stored extent lies at or after `start`."""
    end = extent.offset + extent.length
    if end <= start:
        return None
    skipped = max(start - extent.offset, 0)
    return Extent(
        extent.offset + skipped,
        extent.length - skipped,
        extent.stripe,
        extent.block,
        extent.block_offset + skipped,
    )
