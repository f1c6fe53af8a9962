"""Pieces into shards, and compression decisions."""

from __future__ import annotations

from random import Random

import pytest

from rainfs.array import compress as compress_module
from rainfs.array.building import build, widest
from rainfs.array.compress import Compressor, compress, decompress
from rainfs.array.values import Piece
from rainfs.checksum import crc32c
from rainfs.erasure.codec import codec_for
from rainfs.errors import ShardCorrupt
from rainfs.memory import BufferPool
from rainfs.model import KIB, Compression, InodeNumber, mirror, reed_solomon
from tests.unit.array.rig import layout_of

SEED = 11


def text(length: int) -> bytes:
    return (b"rain falls on the plain, again and again; " * (length // 40 + 1))[:length]


def piece(data: bytes, *, cuts: tuple[int, ...] = ()) -> Piece:
    ends = [0, *cuts, len(data)]
    parts = tuple(data[a:b] for a, b in zip(ends, ends[1:], strict=False))  # noqa: RUF007
    return Piece(InodeNumber(1), 0, len(data), parts)


def test_shards_hold_the_blocks_zeros_between_them_and_true_parity() -> None:
    random = Random(SEED)
    layout = layout_of(compression=Compression.LZ4)
    whole = [text(8 * KIB), random.randbytes(5000), random.randbytes(8 * KIB), text(7000)]
    pieces = [piece(data, cuts=(100, 2000)) for data in whole]
    pool = BufferPool(layout.shard_bytes, 8)
    for _ in range(2):  # The second time from buffers that are dirty.
        built = build(pieces, layout, 4, pool)
        k = built.stripe.code.k
        left = [bytearray(shard) for shard in built.shards]
        for data, block in zip(whole, built.stripe.blocks, strict=True):
            end = block.shard_offset + block.stored
            stored = bytes(left[block.shard][block.shard_offset : end])
            left[block.shard][block.shard_offset : end] = bytes(block.stored)
            if block.compression is Compression.LZ4:
                stored = decompress(stored, block.length)
            assert stored == data
            assert block.crc32c == crc32c(data)
        assert not any(map(any, left[:k]))
        parity = [bytearray(built.stripe.shard_bytes) for _ in range(2)]
        codec_for(built.stripe.code).encode([bytes(s) for s in built.shards[:k]], parity)
        assert [bytes(p) for p in parity] == [bytes(s) for s in built.shards[k:]]
        for shard in built.shards:
            shard[:] = b"\xff" * len(shard)
        built.release(pool)


def test_equal_pieces_build_equal_bytes() -> None:
    layout = layout_of(compression=Compression.LZ4)
    pool = BufferPool(layout.shard_bytes, 8)
    pieces = [piece(text(3000)), piece(Random(SEED).randbytes(6000))]
    first, second = build(pieces, layout, 4, pool), build(pieces, layout, 4, pool)
    assert first.stripe == second.stripe
    assert first.abouts == second.abouts
    assert [bytes(s) for s in first.shards] == [bytes(s) for s in second.shards]


def test_copies_of_a_mirror_share_one_buffer() -> None:
    layout = layout_of()
    built = build([piece(b"x" * 10)], layout, 1, BufferPool(layout.shard_bytes, 8))
    assert built.stripe.code == mirror(3)
    assert built.shards[0] is built.shards[1] is built.shards[2]
    assert bytes(built.shards[0]) == b"x" * 10 + bytes(4 * KIB - 10)


def test_the_pool_gets_its_buffers_back_and_no_others() -> None:
    layout = layout_of()
    pool = BufferPool(layout.shard_bytes, 8)
    built = build([piece(bytes(8 * KIB))] * 8, layout, 4, pool)
    assert pool.idle == 0
    built.release(pool)
    assert pool.idle == 6
    # Two data shards of twice the pool's size are not from it.
    built = build([piece(bytes(8 * KIB))] * 8, layout, 2, pool)
    assert built.stripe.code == reed_solomon(2, 2)
    built.release(pool)
    assert pool.idle == 6


@pytest.mark.parametrize(
    ("total", "writable", "expected"),
    [(4 * KIB, 6, 1), (64 * KIB, 6, 4), (64 * KIB, 5, 3), (64 * KIB, 3, 1), (64 * KIB, 1, 1)],
)
def test_small_stripes_and_few_nodes_mean_mirrors(total: int, writable: int, expected: int) -> None:
    assert widest(layout_of(), total, writable) == expected
    assert widest(layout_of(mirror(3)), total, writable) == 1


def test_compression_is_kept_when_it_saves_an_eighth() -> None:
    random = Random(SEED).randbytes(100 * KIB)
    assert compress((text(100 * KIB),), 100 * KIB) is not None
    assert compress((random,), len(random)) is None
    nearly = random[: 90 * KIB] + bytes(10 * KIB)
    assert compress((nearly,), len(nearly)) is None


def test_random_bytes_cost_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = compress_module._compressed

    def counted(data: bytes) -> bytes | None:
        tried.append(len(data))
        return real(data)

    monkeypatch.setattr(compress_module, "_compressed", counted)
    random = Random(SEED)
    compressor = Compressor()
    for _ in range(32):
        assert compressor.compress((random.randbytes(128 * KIB),), 128 * KIB) is None
    assert len(tried) < 16
    assert max(tried) == compress_module.SAMPLE_BYTES
    results = [compressor.compress((text(128 * KIB),), 128 * KIB) for _ in range(8)]
    assert sum(data is not None for data in results) >= 4


@pytest.mark.parametrize("stored", [b"", b"\xff" * 50, b"\x00"])
def test_bytes_that_do_not_decompress_are_corrupt(stored: bytes) -> None:
    with pytest.raises(ShardCorrupt):
        decompress(stored, 100)
