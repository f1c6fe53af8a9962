"""Holding stripes against the extents that point into them, and extents against each other.

Owns what makes a stripe's geometry possible, the rule for extents that overlap (the bytes of the
newer stripe stay), and for extents that point at the wrong place of their stripe (the block that
names those file bytes, if there is one, otherwise none: wrong bytes are worse than a hole).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.checking_findings import MAX_KEPT, Edit, Finding, Findings, Kind
from rainfs.meta.checking_scratch import Scratch, signed, unsigned
from rainfs.meta.engine import Reader
from rainfs.meta.pieces import left_part, right_part
from rainfs.meta.records import EXTENTS, STRIPES, ExtentRecord
from rainfs.model import (
    MAX_BLOCK_BYTES,
    MAX_FILE_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARDS_PER_STRIPE,
    PAGE_BYTES,
    Block,
    Code,
    CodeKind,
    Compression,
    Extent,
    InodeNumber,
    Stripe,
    StripeId,
)

Row = tuple[bytes, bytes, Extent]


def record_of(extent: Extent) -> bytes:
    """Return the stored form of an extent."""
    return EXTENTS.encode(
        ExtentRecord(extent.length, extent.stripe, extent.block, extent.block_offset)
    )


def overlap(inode: InodeNumber, before: Row, after: Row) -> Finding:
    """Return the finding for two extents of a file that overlap; the newer stripe's bytes stay."""
    what = f"inode {inode}: the extents at {before[2].offset} and {after[2].offset} overlap"
    older, newer = (after, before) if before[2].stripe >= after[2].stripe else (before, after)
    kept = newer[2]
    left = left_part(older[2], kept.offset)
    right = right_part(older[2], kept.offset + kept.length)
    edits = [Edit(older[0], older[1], None if left is None else record_of(left))]
    if right is not None:
        edits.append(Edit(keys.extent_key(inode, right.offset), None, record_of(right)))
    return Finding(Kind.EXTENT, what, inode, edits=tuple(edits))


def stripe_faults(stripe: Stripe) -> str | None:
    """Return what is impossible about a stripe's geometry, None if nothing is."""
    fault = _code_fault(stripe.code)
    if fault is not None:
        return fault
    if not PAGE_BYTES <= stripe.shard_bytes <= MAX_SHARD_BYTES or stripe.shard_bytes % PAGE_BYTES:
        return f"shards of {stripe.shard_bytes} bytes"
    for index, block in enumerate(stripe.blocks):
        if not _fits(block, stripe):
            return f"block {index} does not fit"
    ordered = sorted(stripe.blocks, key=lambda block: (block.shard, block.shard_offset))
    for first, second in pairwise(ordered):
        if first.shard == second.shard and first.shard_offset + first.stored > second.shard_offset:
            return "two blocks overlap"
    return None


def _code_fault(code: Code) -> str | None:
    possible = code.k >= 1 and code.m >= 0 and code.n <= MAX_SHARDS_PER_STRIPE
    if not possible or (code.kind is CodeKind.MIRROR and code.k != 1):
        return f"the code {code.k}+{code.m} ({code.kind.name.lower()})"
    return None


def _fits(block: Block, stripe: Stripe) -> bool:
    return (
        0 < block.length <= MAX_BLOCK_BYTES
        and 0 <= block.inode <= keys.MAX_NUMBER
        and 0 <= block.file_offset <= MAX_FILE_BYTES
        and 0 <= block.shard < stripe.code.k
        and block.shard_offset >= 0
        and block.stored >= 1
        and block.shard_offset + block.stored <= stripe.shard_bytes
        and (block.compression is not Compression.NONE or block.stored == block.length)
    )


class StripeCheck:
    """Takes every stripe row after all extents are in the scratch."""

    def __init__(self, scratch: Scratch, findings: Findings) -> None:
        self._scratch = scratch
        self._findings = findings
        self._indexed = False
        self._wrong: list[tuple[InodeNumber, StripeId, Extent, Extent | None]] = []

    def take(self, stripe: StripeId, raw: bytes) -> bool:
        """Look at one row and the extents that point there; returns whether it can be used."""
        if not self._indexed:
            self._scratch.execute("CREATE INDEX IF NOT EXISTS of_stripe ON extent (stripe)")
            self._indexed = True
        try:
            row = STRIPES.decode(raw)
            sound = stripe_faults(row) is None
        except MetadataForeign:
            sound = False
        if not sound:
            self._scratch.add("stripe", signed(stripe), -1, 0, 0)
            return False
        born = sum(block.length for block in row.blocks)
        self._scratch.add("stripe", signed(stripe), born, row.code.n, 1)
        pointing = self._scratch.rows(
            "SELECT ino, off, len, block, boff FROM extent WHERE stripe=?", signed(stripe)
        )
        for inode, offset, length, index, block_offset in pointing:
            extent = Extent(offset, length, stripe, index, block_offset)
            owner = InodeNumber(unsigned(inode))
            if not _names(row.blocks, owner, extent) and len(self._wrong) < MAX_KEPT:
                self._wrong.append((owner, stripe, extent, _refitted(row.blocks, owner, extent)))
        return True

    async def settle(self, reader: Reader) -> None:
        """Report the extents that point at the wrong place."""
        for inode, stripe, extent, better in self._wrong:
            key = keys.extent_key(inode, extent.offset)
            raw = await reader.get(key)
            if raw is None:
                continue
            what = (
                f"inode {inode}: the extent at {extent.offset} points at block {extent.block} of "
                f"stripe {stripe:#x}, which does not hold it"
            )
            new = None if better is None else record_of(better)
            self._findings.add(
                Finding(Kind.EXTENT, what, inode, stripe, edits=(Edit(key, raw, new),))
            )


def _names(blocks: Sequence[Block], inode: InodeNumber, extent: Extent) -> bool:
    """Whether the block that an extent names holds just those bytes of that file."""
    if extent.block >= len(blocks):
        return False
    block = blocks[extent.block]
    return (
        block.inode == inode
        and block.file_offset + extent.block_offset == extent.offset
        and extent.block_offset + extent.length <= block.length
    )


def _refitted(blocks: Sequence[Block], inode: InodeNumber, extent: Extent) -> Extent | None:
    """Return the extent as its stripe's block table has it, cut to what there is."""
    for index in reversed(range(len(blocks))):
        block = blocks[index]
        skipped = extent.offset - block.file_offset
        if block.inode == inode and 0 <= skipped < block.length:
            length = min(extent.length, block.length - skipped)
            return replace(extent, block=index, block_offset=skipped, length=length)
    return None
