"""Whole shards from other whole shards of their stripe, checked end to end.

Owns what a rebuilt shard must satisfy: every block that can be decoded from it matches the checksum
that the mount made.  Refuses to know nodes and does no I/O.  Synchronous: long stripes belong in a
worker thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rainfs.array.compress import decompress
from rainfs.checksum import crc32c
from rainfs.erasure.codec import codec_for
from rainfs.errors import ShardCorrupt
from rainfs.memory import Buffer
from rainfs.model import CodeKind, Compression, Stripe


def holds_its_blocks(stripe: Stripe, shard: int, data: Buffer) -> bool:
    """Whether every block in a shard matches its checksum; parity shards have none to look at."""
    mirrored = stripe.code.kind is CodeKind.MIRROR
    view = memoryview(data)
    for block in stripe.blocks:
        if not mirrored and block.shard != shard:
            continue
        stored: Buffer = view[block.shard_offset : block.shard_offset + block.stored]
        if block.compression is not Compression.NONE:
            try:
                stored = decompress(stored, block.length)
            except ShardCorrupt:
                return False
        if crc32c(stored) != block.crc32c:
            return False
    return True


def rebuild(
    stripe: Stripe, sources: Mapping[int, Buffer], wanted: Collection[int]
) -> dict[int, memoryview] | None:
    """Return the `wanted` shards from k `sources`, which are whole shards by index.

    Each is `stripe.shard_bytes` long.  None if a source is not what was written: then the data
    shards that come out do not match their blocks' checksums.
    """
    code = stripe.code
    missing = {shard for shard in range(code.k) if shard not in sources} | set(wanted)
    made = {
        shard: memoryview(bytearray(stripe.shard_bytes))
        for shard in sorted(missing - sources.keys())
    }
    codec_for(code).reconstruct(sources, made)
    for shard in range(code.k):
        if not holds_its_blocks(stripe, shard, sources.get(shard) or made[shard]):
            return None
    return {shard: made[shard] for shard in wanted}
