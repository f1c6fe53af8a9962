"""What a shard says of itself, stored beside it on the node.

Owns format 1 of the description: enough to rebuild files from nodes alone.  A data shard names the
blocks that it holds; a parity shard names those of the whole stripe, so that whatever k shards are
left can tell everything that they decode to.  The stripe id orders writes of the same bytes
(session epoch, then counter).  Refuses to know nodes and metadata.

Invariant: the description of a shard depends on nothing but the stripe row and the shard's index,
so that putting a shard again is putting the same content.
"""

from __future__ import annotations

import msgspec

from rainfs.errors import ShardCorrupt
from rainfs.model import Block, Code, CodeKind, LayoutId, Stripe

ABOUT_FORMAT = 1


class About(msgspec.Struct, frozen=True, array_like=True):
    """One shard's description."""

    format: int
    code: Code
    shard_bytes: int
    layout: LayoutId
    sealing: bytes
    blocks: tuple[Block, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(About)


def encode_abouts(stripe: Stripe) -> list[bytes]:
    """Return the descriptions of the stripe's n shards, in order of index."""
    code = stripe.code

    def encoded(blocks: tuple[Block, ...]) -> bytes:
        return _encoder.encode(
            About(ABOUT_FORMAT, code, stripe.shard_bytes, stripe.layout, stripe.sealing, blocks)
        )

    whole = encoded(stripe.blocks)
    if code.kind is CodeKind.MIRROR:
        return [whole] * code.n
    held: list[list[Block]] = [[] for _ in range(code.k)]
    for block in stripe.blocks:
        held[block.shard].append(block)
    return [encoded(tuple(blocks)) for blocks in held] + [whole] * code.m


def decode_about(about: bytes) -> About:
    """Return the description.  Raises: ShardCorrupt for anything else, or of another format."""
    try:
        found = _decoder.decode(about)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ShardCorrupt(f"unreadable description of a shard: {error}") from error
    if found.format != ABOUT_FORMAT:
        raise ShardCorrupt(f"description of a shard in format {found.format}")
    return found
