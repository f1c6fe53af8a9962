"""Codecs compute reedsolo's code, on every arithmetic, and refuse what cannot be coded."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
import reedsolo
from hypothesis import given, settings
from hypothesis import strategies as st

from rainfs.erasure.arithmetic import Arithmetic
from rainfs.erasure.codec import best_arithmetic, codec_for, kernel_name, make_codec
from rainfs.errors import CodecError
from rainfs.model import Code, CodeKind, mirror, reed_solomon

PROPERTY = settings(max_examples=40, deadline=None, print_blob=True)


def codewords(k: int, m: int, data: Sequence[bytes], length: int) -> list[bytes]:
    """All k + m shards as reedsolo computes them, column by column."""
    padded = [shard.ljust(length, b"\0") for shard in data]
    if m == 0:
        return padded
    codec = reedsolo.RSCodec(m, nsize=k + m)
    columns = [bytes(codec.encode(bytes(shard[b] for shard in padded))) for b in range(length)]
    return [bytes(column[i] for column in columns) for i in range(k + m)]


def unaligned(content: bytes, offset: int) -> memoryview:
    """The same bytes, somewhere inside a larger writable buffer."""
    return memoryview(bytearray(offset) + bytearray(content) + bytearray(7))[
        offset : offset + len(content)
    ]


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int]:
    if draw(st.booleans()):
        return draw(st.integers(1, 10)), draw(st.integers(0, 6))
    k = draw(st.integers(1, 255))
    return k, draw(st.integers(0, min(255 - k, 40)))


@PROPERTY
@given(geometry=geometries(), length=st.integers(0, 20), random=st.randoms(use_true_random=False))
def test_shards_are_reedsolos_codewords(
    arithmetic: Arithmetic, geometry: tuple[int, int], length: int, random: random.Random
) -> None:
    k, m = geometry
    data = [random.randbytes(random.choice([length, random.randint(0, length)])) for _ in range(k)]
    expected = codewords(k, m, data, length)
    codec = make_codec(reed_solomon(k, m), arithmetic)

    parity = [unaligned(b"\xaa" * length, random.randrange(65)) for _ in range(m)]
    codec.encode([unaligned(shard, random.randrange(65)) for shard in data], parity)
    assert [bytes(shard) for shard in parity] == expected[k:]

    lost = random.sample(range(k + m), random.randint(0, m))
    found = {i: unaligned(b"\x55" * length, random.randrange(65)) for i in lost}
    codec.reconstruct({i: expected[i] for i in range(k + m) if i not in lost}, found)
    assert {i: bytes(shard) for i, shard in found.items()} == {i: expected[i] for i in lost}


@PROPERTY
@given(geometry=geometries(), random=st.randoms(use_true_random=False))
def test_reedsolo_decodes_our_columns(
    arithmetic: Arithmetic, geometry: tuple[int, int], random: random.Random
) -> None:
    k, m = geometry
    if m == 0:
        return
    data = [random.randbytes(1) for _ in range(k)]
    parity = [bytearray(1) for _ in range(m)]
    make_codec(reed_solomon(k, m), arithmetic).encode(data, parity)
    column = bytearray(b"".join([*data, *parity]))
    lost = random.sample(range(k + m), random.randint(0, m))
    for index in lost:
        column[index] ^= random.randint(1, 255)
    decoded, _, _ = reedsolo.RSCodec(m, nsize=k + m).decode(column, erase_pos=lost)
    assert bytes(decoded) == b"".join(data)


@PROPERTY
@given(
    geometry=geometries(),
    length=st.integers(0, 3000),
    random=st.randoms(use_true_random=False),
)
def test_every_arithmetic_computes_the_same_bytes(
    arithmetic: Arithmetic, geometry: tuple[int, int], length: int, random: random.Random
) -> None:
    k, m = geometry
    m = min(m, 12)
    data = [random.randbytes(random.choice([length, random.randint(0, length)])) for _ in range(k)]
    results = []
    for each in (arithmetic, best_arithmetic()):
        parity = [bytearray(length) for _ in range(m)]
        make_codec(reed_solomon(k, m), each).encode(data, parity)
        results.append(parity)
    assert results[0] == results[1]


def test_more_than_enough_shards_are_welcome(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(3, 3), arithmetic)
    data = [b"one", b"two", b"six"]
    parity = [bytearray(3) for _ in range(3)]
    codec.encode(data, parity)
    lost = bytearray(3)
    codec.reconstruct({1: b"two", 2: b"six", 3: parity[0], 4: parity[1], 5: parity[2]}, {0: lost})
    assert lost == b"one"


def test_short_shards_count_as_zeros_in_reconstruction(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(2, 2), arithmetic)
    parity = [bytearray(100) for _ in range(2)]
    codec.encode([b"short", b""], parity)
    for lost, expected in ((0, b"short".ljust(100, b"\0")), (1, bytes(100))):
        shard = bytearray(b"\xff" * 100)
        kept = {1 - lost: b"short" if lost == 1 else b"", 3: parity[1]}
        codec.reconstruct(kept, {lost: shard})
        assert shard == expected


@pytest.mark.parametrize("copies", [1, 2, 5, 255])
def test_mirror_shards_are_equal_copies(arithmetic: Arithmetic, copies: int) -> None:
    codec = make_codec(mirror(copies), arithmetic)
    parity = [bytearray(b"\xff" * 10) for _ in range(copies - 1)]
    codec.encode([b"content"], parity)
    assert all(shard == b"content\0\0\0" for shard in parity)
    lost = {i: bytearray(7) for i in range(copies - 1)}
    codec.reconstruct({copies - 1: b"content"}, lost)
    assert all(shard == b"content" for shard in lost.values())


@pytest.mark.parametrize("code", [reed_solomon(4, 2), mirror(3)], ids=str)
def test_too_few_shards_are_refused(arithmetic: Arithmetic, code: Code) -> None:
    codec = make_codec(code, arithmetic)
    with pytest.raises(CodecError):
        codec.reconstruct({i: bytes(8) for i in range(code.k - 1)}, {code.n - 1: bytearray(8)})


@pytest.mark.parametrize(
    "code", [Code(CodeKind.REED_SOLOMON, 0, 2), Code(CodeKind.REED_SOLOMON, 200, 56)], ids=str
)
def test_impossible_codes_are_refused(code: Code) -> None:
    with pytest.raises(CodecError):
        codec_for(code)


def test_a_mirror_of_two_data_shards_is_refused() -> None:
    with pytest.raises(CodecError):
        codec_for(Code(CodeKind.MIRROR, 2, 1))


def test_lengths_that_do_not_fit_are_refused(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(2, 2), arithmetic)
    copies = make_codec(mirror(3), arithmetic)
    with pytest.raises(CodecError):
        codec.encode([bytes(8), bytes(9)], [bytearray(8), bytearray(8)])
    with pytest.raises(CodecError):
        codec.encode([bytes(8), bytes(8)], [bytearray(8), bytearray(9)])
    with pytest.raises(CodecError):
        codec.encode([bytes(8)], [bytearray(8), bytearray(8)])
    with pytest.raises(CodecError):
        codec.encode([bytes(8), bytes(8)], [bytearray(8)])
    with pytest.raises(CodecError):
        copies.encode([bytes(9)], [bytearray(8), bytearray(8)])
    with pytest.raises(CodecError):
        copies.encode([bytes(8)], [bytearray(8)])


def test_read_only_outputs_are_refused(arithmetic: Arithmetic) -> None:
    for code in (reed_solomon(1, 1), reed_solomon(1, 2), mirror(2)):
        codec = make_codec(code, arithmetic)
        with pytest.raises(CodecError):
            codec.encode([bytes(8)], [memoryview(bytes(8))] * code.m)


def test_buffers_with_gaps_are_refused(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(1, 2), arithmetic)
    with pytest.raises(CodecError):
        codec.encode([memoryview(bytes(16))[::2]], [bytearray(8), bytearray(8)])


def test_a_shard_that_is_present_cannot_be_missing(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(2, 1), arithmetic)
    with pytest.raises(CodecError):
        codec.reconstruct({0: bytes(8), 1: bytes(8)}, {1: bytearray(8)})


def test_without_parity_there_is_nothing_to_do(arithmetic: Arithmetic) -> None:
    codec = make_codec(reed_solomon(3, 0), arithmetic)
    codec.encode([bytes(8)] * 3, [])
    codec.reconstruct({0: bytes(8), 1: bytes(8), 2: bytes(8)}, {})
    with pytest.raises(CodecError):
        codec.reconstruct({0: bytes(8), 1: bytes(8)}, {2: bytearray(8)})


def test_one_codec_serves_several_threads() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    codec = codec_for(reed_solomon(4, 2))
    data = [rng.randbytes(64 << 10) for _ in range(4)]
    parity = [bytearray(64 << 10) for _ in range(2)]
    codec.encode(data, parity)
    shards: dict[int, bytes] = dict(enumerate([*data, *map(bytes, parity)]))
    wrong: list[tuple[int, int]] = []

    def work(lost: tuple[int, int]) -> None:
        for _ in range(20):
            found = {i: bytearray(64 << 10) for i in lost}
            codec.reconstruct({i: s for i, s in shards.items() if i not in lost}, found)
            if any(found[i] != shards[i] for i in lost):
                wrong.append(lost)

    threads = [threading.Thread(target=work, args=((a, a + 1),)) for a in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_codecs_are_made_once() -> None:
    assert codec_for(reed_solomon(4, 2)) is codec_for(reed_solomon(4, 2))
    assert kernel_name() in {"avx512-gfni", "avx2", "neon", "scalar", "python"}
