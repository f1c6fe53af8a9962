"""Shards rebuilt from any k others are what was written, or nothing."""

from __future__ import annotations

from itertools import combinations

import pytest

from rainfs.array.building import Built, build
from rainfs.array.rebuilding import holds_its_blocks, rebuild
from rainfs.array.values import Piece
from rainfs.care.mending import _rebuilt
from rainfs.memory import BufferPool
from rainfs.model import KIB, Compression, InodeNumber, Layout, LayoutId, mirror, reed_solomon


def built(compression: Compression, *, mirrored: bool = False) -> Built:
    code = mirror(3) if mirrored else reed_solomon(2, 2)
    layout = Layout(LayoutId(1), code, compression, 8 * KIB, shard_bytes=16 * KIB, small_bytes=0)
    count = 2 if mirrored else 4
    pieces = [
        Piece(InodeNumber(2), at * 8 * KIB, 8 * KIB, (bytes([at, 1, 2, at]) * (2 * KIB),))
        for at in range(count)
    ]
    return build(pieces, layout, code.k, BufferPool(16 * KIB, 4))


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("mirrored", [False, True])
def test_any_k_shards_give_all_others(compression: Compression, mirrored: bool) -> None:
    made = built(compression, mirrored=mirrored)
    code = made.stripe.code
    for chosen in combinations(range(code.n), code.k):
        wanted = [shard for shard in range(code.n) if shard not in chosen]
        found = rebuild(made.stripe, {shard: made.shards[shard] for shard in chosen}, wanted)
        assert found is not None
        assert {shard: bytes(data) for shard, data in found.items()} == {
            shard: bytes(made.shards[shard]) for shard in wanted
        }


def test_a_wrong_compressed_copy_is_noticed() -> None:
    made = built(Compression.LZ4, mirrored=True)
    assert holds_its_blocks(made.stripe, 2, made.shards[2])
    broken = bytearray(made.shards[2])
    broken[3] ^= 0xFF
    assert not holds_its_blocks(made.stripe, 2, broken)
    assert rebuild(made.stripe, {2: memoryview(broken)}, [0, 1]) is None


def test_a_wrong_shard_is_noticed_and_gone_round() -> None:
    made = built(Compression.NONE)
    shards = dict(enumerate(made.shards))
    for wrong in range(made.stripe.code.n):
        broken = bytearray(shards[wrong])
        broken[10] ^= 1
        found = {**shards, wrong: memoryview(broken)}
        parity = wrong >= made.stripe.code.k
        assert holds_its_blocks(made.stripe, wrong, found[wrong]) == parity
        lost = (wrong + 1) % made.stripe.code.k
        del found[lost]
        others = [shard for shard in found if shard != wrong]
        assert rebuild(made.stripe, {s: found[s] for s in (wrong, others[-1])}, [lost]) is None
        again = _rebuilt(made.stripe, found, [lost])
        assert again is not None
        assert bytes(again[lost]) == bytes(shards[lost])
