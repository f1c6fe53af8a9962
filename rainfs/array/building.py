"""Turns pieces of files into the shards of a stripe: compress, pack, copy, checksum, encode.

Owns the one copy that a written byte makes between the caller's buffers and the nodes: into
page-aligned shard buffers from a pool, from which parity is computed and which the backends send.
Refuses to know nodes and does no I/O.  Synchronous: long builds run in worker threads.

Invariants: equal pieces and geometry build equal bytes; bytes of a shard that no block covers are
zero; the buffers belong to the built stripe until `release`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from rainfs.array.about import encode_abouts
from rainfs.array.compress import Compressor, compressible
from rainfs.array.packing import Item, Packing, pack, pages_up
from rainfs.array.values import MAX_PIECES_PER_STRIPE, Piece
from rainfs.checksum import crc32c, crc32c_pages
from rainfs.erasure.codec import codec_for
from rainfs.errors import InputError
from rainfs.memory import BufferPool, page_buffer
from rainfs.model import (
    MAX_BLOCK_BYTES,
    MIB,
    PAGE_BYTES,
    Block,
    Code,
    CodeKind,
    Compression,
    Layout,
    Stripe,
    mirror,
    reed_solomon,
)

_RAW = Compression.NONE
_LZ4 = Compression.LZ4
_ZEROS = memoryview(bytes(MIB))


@dataclass(frozen=True, slots=True)
class Built:
    """A stripe ready to be sent."""

    stripe: Stripe
    shards: tuple[memoryview, ...]
    """n buffers of `shard_bytes`; copies of a mirror are one and the same buffer."""
    abouts: tuple[bytes, ...]
    pooled: tuple[memoryview, ...]

    def release(self, pool: BufferPool) -> None:
        """Give the buffers back; nobody may use `shards` any more."""
        for buffer in self.pooled:
            pool.give(buffer)


def check_pieces(pieces: Sequence[Piece], layout: Layout) -> int:
    """Return the bytes of the pieces.  Raises: InputError for what no stripe may hold."""
    if not 1 <= len(pieces) <= MAX_PIECES_PER_STRIPE:
        raise InputError(f"a stripe of {len(pieces)} pieces")
    longest = min(layout.block_bytes, MAX_BLOCK_BYTES)
    total = 0
    for piece in pieces:
        if not 1 <= piece.length <= longest:
            raise InputError(f"a piece of {piece.length} bytes where blocks have {longest}")
        if sum(map(len, piece.segments)) != piece.length:
            raise InputError("the segments of a piece do not add up to its length")
        total += piece.length
    if total > layout.stripe_bytes:
        raise InputError(f"{total} bytes for a stripe of {layout.stripe_bytes}")
    return total


def widest(layout: Layout, total: int, writable: int) -> int:
    """Return the most data shards for a stripe of `total` file bytes on `writable` nodes.

    1 stands for a mirror: of small stripes, and where too few nodes are left for more.
    """
    code = layout.code
    if code.kind is CodeKind.MIRROR or total <= layout.small_bytes:
        return 1
    return max(1, min(code.k, writable - code.m))


def code_of(k: int, m: int) -> Code:
    """Return the code of k data shards that survives m losses; k = 1 is a mirror."""
    return mirror(m + 1) if k == 1 else reed_solomon(k, m)


def build(pieces: Sequence[Piece], layout: Layout, k_most: int, pool: BufferPool) -> Built:
    """Build the stripe of `pieces`, with at most `k_most` data shards and the layout's m.

    Raises: InputError if that many bytes do not fit so few shards.
    """
    stored: list[bytes | None] = [None] * len(pieces)
    total = sum(piece.length for piece in pieces)
    if layout.compression is Compression.LZ4 and compressible(total):
        compressor = Compressor()
        stored = [compressor.compress(piece.segments, piece.length) for piece in pieces]
    items = [
        Item(piece.length, piece.length >= PAGE_BYTES) if data is None else Item(len(data), False)
        for piece, data in zip(pieces, stored, strict=True)
    ]
    packing = pack(items, k_most, layout.code.m, layout.shard_bytes)
    code = code_of(packing.k, layout.code.m)
    wanted = 1 if code.kind is CodeKind.MIRROR else code.n
    pooled: list[memoryview] = []
    buffers: list[memoryview] = []
    for _ in range(wanted):
        if packing.shard_bytes <= pool.buffer_bytes:
            buffer = pool.take()
            pooled.append(buffer)
            buffers.append(buffer[: packing.shard_bytes])
        else:
            buffers.append(page_buffer(packing.shard_bytes))
    blocks = _copy(pieces, stored, packing, buffers)
    if code.kind is CodeKind.MIRROR:
        buffers *= code.n
    elif code.m:
        codec_for(code).encode(buffers[: code.k], buffers[code.k :])
    stripe = Stripe(code, packing.shard_bytes, tuple(blocks), layout.id)
    return Built(stripe, tuple(buffers), tuple(encode_abouts(stripe)), tuple(pooled))


def _copy(
    pieces: Sequence[Piece],
    stored: Sequence[bytes | None],
    packing: Packing,
    buffers: Sequence[memoryview],
) -> list[Block]:
    """Copy every block to its place, zero what lies between, and return the block table."""
    ends = [0] * packing.k
    for piece, data, (shard, offset) in zip(pieces, stored, packing.positions, strict=True):
        buffer = buffers[shard]
        if ends[shard] < offset:
            _zero(buffer, ends[shard], offset)
        at = offset
        for source in piece.segments if data is None else (data,):
            end = at + len(source)
            buffer[at:end] = source
            at = end
        ends[shard] = at
    for shard, end in enumerate(ends):
        _zero(buffers[shard], end, packing.shard_bytes)
    checksums = _checksums(pieces, stored, packing, buffers)
    return [
        Block(piece.inode, piece.file_offset, piece.length, shard, offset, piece.length, _RAW, crc)
        if data is None
        else Block(
            piece.inode, piece.file_offset, piece.length, shard, offset, len(data), _LZ4, crc
        )
        for piece, data, (shard, offset), crc in zip(
            pieces, stored, packing.positions, checksums, strict=True
        )
    ]


def _checksums(
    pieces: Sequence[Piece],
    stored: Sequence[bytes | None],
    packing: Packing,
    buffers: Sequence[memoryview],
) -> list[int]:
    """Return the checksum of every piece.

    Each call of the kernel gives the interpreter lock away, which costs more than the checksum
    when the event loop is busy: neighbours of one length, copied without compression, take one.
    """
    positions = packing.positions
    checksums: list[int] = []
    first = 0
    while first < len(pieces):
        length = pieces[first].length
        if stored[first] is not None:
            checksums.append(reduce(lambda crc, part: crc32c(part, crc), pieces[first].segments, 0))
            first += 1
            continue
        shard, start = positions[first]
        stop = start + length
        last = first + 1
        while (
            last < len(pieces)
            and positions[last] == (shard, stop)
            and pieces[last].length == length
            and stored[last] is None
        ):
            stop += length
            last += 1
        packed = crc32c_pages(buffers[shard][start:stop], length)
        checksums += struct.unpack(f"<{last - first}I", packed)
        first = last
    return checksums


def _zero(buffer: memoryview, start: int, stop: int) -> None:
    while start < stop:
        step = min(stop - start, len(_ZEROS))
        buffer[start : start + step] = _ZEROS[:step]
        start += step


def pool_buffer_bytes(layout: Layout) -> int:
    """Return the buffer size that serves full stripes of the layout."""
    return pages_up(layout.shard_bytes)
