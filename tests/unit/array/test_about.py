"""What shards say of themselves."""

from __future__ import annotations

import pytest

from rainfs.array.about import decode_about, encode_abouts
from rainfs.errors import ShardCorrupt
from rainfs.model import (
    Block,
    Code,
    Compression,
    InodeNumber,
    LayoutId,
    Stripe,
    mirror,
    reed_solomon,
)


def stripe(code: Code, shards: list[int]) -> Stripe:
    blocks = tuple(
        Block(InodeNumber(7), i * 10, 10, shard, i * 10, 10, Compression.NONE, 0xDEADBEEF)
        for i, shard in enumerate(shards)
    )
    return Stripe(code, 4096, blocks, LayoutId(3))


def test_any_k_shards_name_all_blocks() -> None:
    row = stripe(reed_solomon(2, 1), [0, 0, 1])
    abouts = [decode_about(about) for about in encode_abouts(row)]
    for lost in range(3):
        left = {b for i, about in enumerate(abouts) if i != lost for b in about.blocks}
        assert left == set(row.blocks)
    assert abouts[0].blocks == row.blocks[:2]


def test_copies_of_a_mirror_name_all_blocks() -> None:
    row = stripe(mirror(3), [0, 0])
    assert [decode_about(about).blocks for about in encode_abouts(row)] == [row.blocks] * 3


def test_the_bytes_of_format_1_stay() -> None:
    (about,) = encode_abouts(stripe(mirror(1), [0]))
    assert about.hex() == "960193020100cd100003c400919807000a00000a00cedeadbeef"


@pytest.mark.parametrize("about", [b"", b"junk", b"\x96\x02\x93\x02\x01\x00\x01\x03\xc4\x00\x90"])
def test_anything_else_is_refused(about: bytes) -> None:
    with pytest.raises(ShardCorrupt):
        decode_about(about)
