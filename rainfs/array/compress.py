"""Whether and how a block's bytes are compressed.

Owns the decision (LZ4, only if it saves at least an eighth) and its cheap refusal: a sample from
the middle of a long block is tried first, so that bytes that do not compress cost next to nothing.
Refuses to know stripes.  Synchronous; runs in worker threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import lz4.block

from rainfs.array.backend import Buffer
from rainfs.errors import ShardCorrupt
from rainfs.model import KIB, PAGE_BYTES

SAVING_DIVISOR = 8
"""Compression is kept when it saves at least this fraction of a block."""

MAX_REFUSALS = 8
RETRY_EVERY = 4

SAMPLE_BYTES = 4 * KIB
SAMPLED_FROM_BYTES = 16 * KIB
"""Shorter blocks are compressed without trying a sample."""


def joined(segments: Sequence[Buffer]) -> Buffer:
    """Return the segments' concatenation, without a copy when there is only one."""
    return segments[0] if len(segments) == 1 else b"".join(segments)


def compress(segments: Sequence[Buffer], length: int) -> bytes | None:
    """Return the compressed concatenation, or None if that does not save enough."""
    if length >= SAMPLED_FROM_BYTES:
        longest = max(segments, key=len)
        start = max(0, len(longest) - SAMPLE_BYTES) // 2
        sample = memoryview(longest)[start : start + SAMPLE_BYTES]
        if _compressed(sample) is None:
            return None
    return _compressed(joined(segments))


class Compressor:
    """Compresses the blocks of one stripe, and learns from those that do not get smaller.

    After MAX_REFUSALS blocks in a row only every RETRY_EVERY-th one is tried, until one succeeds.
    """

    __slots__ = ("_refusals",)

    def __init__(self) -> None:
        self._refusals = 0

    def compress(self, segments: Sequence[Buffer], length: int) -> bytes | None:
        """Return the compressed concatenation, or None: store it as it is."""
        refusals = self._refusals
        if refusals >= MAX_REFUSALS and refusals % RETRY_EVERY:
            self._refusals = refusals + 1
            return None
        data = compress(segments, length)
        self._refusals = 0 if data is not None else refusals + 1
        return data


def compressible(total: int) -> bool:
    """Whether compression can shrink a stripe of `total` bytes: no shard is below a page."""
    return total > PAGE_BYTES


def decompress(stored: Buffer, length: int) -> bytes:
    """Return the `length` bytes that were compressed.  Raises: ShardCorrupt."""
    try:
        data = lz4.block.decompress(stored, uncompressed_size=length)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise ShardCorrupt(f"a block does not decompress: {error}") from error
    if len(data) != length:
        raise ShardCorrupt(f"a block decompresses to {len(data)} bytes instead of {length}")
    return bytes(data)


def _compressed(data: Buffer) -> bytes | None:
    result: bytes = lz4.block.compress(data, store_size=False)
    return result if len(data) - len(result) >= len(data) // SAVING_DIVISOR else None
