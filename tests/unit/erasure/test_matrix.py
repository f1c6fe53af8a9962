"""The matrices are those of reedsolo's code."""

from __future__ import annotations

import itertools
import random

import pytest
import reedsolo

from rainfs.erasure.matrix import (
    decode_matrix,
    inverse,
    invert,
    multiply,
    parity_matrix,
    product,
    unit,
)
from rainfs.errors import CodecError

ALL_GEOMETRIES = [(k, m) for k in (1, 2, 3, 4, 8, 17, 100) for m in (0, 1, 2, 3, 4, 16, 100)]


def test_products_are_those_of_the_field() -> None:
    reedsolo.init_tables(0x11D)
    for a in range(256):
        for b in range(256):
            assert product(a, b) == reedsolo.gf_mult_noLUT(a, b, prim=0x11D)


def test_every_element_but_zero_has_an_inverse() -> None:
    assert all(product(a, inverse(a)) == 1 for a in range(1, 256))
    with pytest.raises(ZeroDivisionError):
        inverse(0)


@pytest.mark.parametrize(("k", "m"), ALL_GEOMETRIES)
def test_parity_matrix_holds_the_codewords_of_unit_messages(k: int, m: int) -> None:
    matrix = parity_matrix(k, m)
    assert len(matrix) == m
    if m == 0:
        return
    codec = reedsolo.RSCodec(m, nsize=k + m)
    for i in sorted({0, k // 2, k - 1}):
        codeword = bytes(codec.encode(unit(i, k)))
        assert bytes(row[i] for row in matrix) == codeword[k:]


def test_parity_matrices_are_pinned() -> None:
    """They define the bytes that lie on nodes: they may never change."""
    assert parity_matrix(4, 2) == (bytes([31, 15, 7, 3]), bytes([30, 14, 6, 2]))
    assert [row.hex() for row in parity_matrix(8, 3)] == [
        "61e98b3d8e631b07",
        "7bc47f38b0ba220e",
        "1b2cf5043fd83808",
    ]


def test_single_parity_is_the_exclusive_or() -> None:
    assert parity_matrix(9, 1) == (b"\1" * 9,)


@pytest.mark.parametrize(("k", "m"), [(0, 2), (-1, 2), (4, -1), (200, 56), (256, 0)])
def test_impossible_geometry_is_refused(k: int, m: int) -> None:
    with pytest.raises(CodecError):
        parity_matrix(k, m)


@pytest.mark.parametrize(("k", "m"), [(1, 3), (2, 2), (4, 2), (3, 4)])
def test_any_k_shards_determine_the_rest(k: int, m: int) -> None:
    for present in itertools.combinations(range(k + m), k):
        everything = decode_matrix(k, m, present, range(k + m))
        for place, index in enumerate(present):
            assert everything[index] == unit(place, k)


def test_inverse_matrices_multiply_to_one() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for size in (1, 2, 5, 40, 128):
        # Rows of a systematic generator matrix, chosen at random, are always independent.
        k, m = size, min(size, 255 - size)
        parity = parity_matrix(k, m)
        generator = [unit(i, k) for i in range(k)] + list(parity)
        matrix = tuple(rng.sample(generator, k))
        identity = tuple(unit(i, k) for i in range(k))
        assert multiply(matrix, invert(matrix)) == identity
        assert multiply(invert(matrix), matrix) == identity


def test_singular_matrix_is_refused() -> None:
    with pytest.raises(CodecError):
        invert((b"\1\2", b"\1\2"))


@pytest.mark.parametrize(
    ("present", "missing"),
    [([0, 1, 2], [3]), ([0, 1, 2, 2], [3]), ([0, 1, 2, 6], [3]), ([0, 1, 2, 3], [6])],
)
def test_decoding_from_the_wrong_shards_is_refused(present: list[int], missing: list[int]) -> None:
    with pytest.raises(CodecError):
        decode_matrix(4, 2, present, missing)
