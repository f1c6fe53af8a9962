"""GF(2^8) and the matrices of the systematic Reed-Solomon code that `reedsolo` defines.

Owns field arithmetic on single coefficients and the k x m parity and decode matrices.  Refuses to
know payload and the compiled kernel.  Invariants: polynomial 0x11d, generator 2, first root 2^0; a
codeword is the data symbols in shard order followed by the parity symbols, so column b of a stripe
is exactly `reedsolo.RSCodec(m, nsize=k + m)` applied to byte b of every data shard.  Any k of the
k + m rows of the generator matrix are independent, because n <= 255.

Source: Reed and Solomon 1960; Plank, "A Tutorial on Reed-Solomon Coding" (1997, corrected 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rainfs.errors import CodecError
from rainfs.model import MAX_SHARDS_PER_STRIPE

FIELD_POLYNOMIAL = 0x11D
FIELD_ORDER = 255
"""Number of nonzero field elements: powers of the generator repeat after as many."""

Matrix = tuple[bytes, ...]
"""Rows of coefficients, all of one length."""


def _powers() -> tuple[bytes, bytes]:
    exponents = bytearray(2 * FIELD_ORDER)
    logarithms = bytearray(256)
    value = 1
    for power in range(FIELD_ORDER):
        exponents[power] = exponents[power + FIELD_ORDER] = value
        logarithms[value] = power
        value <<= 1
        if value > 255:
            value ^= FIELD_POLYNOMIAL
    return bytes(exponents), bytes(logarithms)


EXPONENTS, LOGARITHMS = _powers()


def product(a: int, b: int) -> int:
    """Return a * b in the field."""
    return EXPONENTS[LOGARITHMS[a] + LOGARITHMS[b]] if a and b else 0


def inverse(a: int) -> int:
    """Return 1 / a in the field.  Raises: ZeroDivisionError for 0."""
    if a == 0:
        raise ZeroDivisionError("0 has no inverse in GF(2^8)")
    return EXPONENTS[FIELD_ORDER - LOGARITHMS[a]]


@lru_cache(maxsize=256)
def product_table(coefficient: int) -> bytes:
    """Return the 256 products of `coefficient`, as `bytes.translate` wants them."""
    return bytes(product(coefficient, x) for x in range(256))


def _add(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def _generator(m: int) -> list[int]:
    """Coefficients, highest first, of the product of (x - 2^i) for i < m."""
    polynomial = [1]
    for power in range(m):
        root = EXPONENTS[power]
        longer = [*polynomial, 0]
        for i, coefficient in enumerate(polynomial):
            longer[i + 1] ^= product(coefficient, root)
        polynomial = longer
    return polynomial


@lru_cache(maxsize=64)
def parity_matrix(k: int, m: int) -> Matrix:
    """Return the m x k matrix whose product with the data shards is the parity shards.

    Column i is the remainder of x^(m + k - 1 - i) by the generator polynomial: what the encoder
    appends to a message whose only symbol is a 1 in place i.

    Raises: CodecError unless k >= 1, m >= 0, k + m <= 255.
    """
    if k < 1 or m < 0 or k + m > MAX_SHARDS_PER_STRIPE:
        raise CodecError(f"no Reed-Solomon code over GF(2^8) has {k} data and {m} parity shards")
    if m == 0:
        return ()
    tail = bytes(_generator(m)[1:])
    columns = [tail]  # x^m mod g, for the last data shard; each further one is x times that.
    for _ in range(k - 1):
        last = columns[-1]
        columns.append(_add(last[1:] + b"\0", tail.translate(product_table(last[0]))))
    columns.reverse()
    return tuple(bytes(column[j] for column in columns) for j in range(m))


def unit(place: int, length: int) -> bytes:
    """Return the row that is 1 in `place` and 0 elsewhere."""
    return bytes(place) + b"\1" + bytes(length - place - 1)


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """Return the matrix product a * b; b must have a row for every column of a."""
    width = len(b[0])
    rows = []
    for row in a:
        total = bytes(width)
        for coefficient, other in zip(row, b, strict=True):
            if coefficient:
                total = _add(total, other.translate(product_table(coefficient)))
        rows.append(total)
    return tuple(rows)


def invert(matrix: Matrix) -> Matrix:
    """Return the inverse of a square matrix, by Gauss-Jordan elimination.

    Raises: CodecError for a singular matrix.
    """
    size = len(matrix)
    rows = [row + unit(i, size) for i, row in enumerate(matrix)]
    for pivot in range(size):
        found = next((r for r in range(pivot, size) if rows[r][pivot]), None)
        if found is None:
            raise CodecError("the matrix is singular")
        rows[pivot], rows[found] = rows[found], rows[pivot]
        if rows[pivot][pivot] != 1:
            rows[pivot] = rows[pivot].translate(product_table(inverse(rows[pivot][pivot])))
        for other in range(size):
            factor = rows[other][pivot]
            if factor and other != pivot:
                rows[other] = _add(rows[other], rows[pivot].translate(product_table(factor)))
    return tuple(row[size:] for row in rows)


def decode_matrix(k: int, m: int, present: Sequence[int], missing: Sequence[int]) -> Matrix:
    """Return the matrix whose product with the `present` shards is the `missing` ones.

    `present` are k different shard indexes, in the order in which the shards will be given.

    Raises: CodecError for indexes out of range, repeated, or not k of them.
    """
    chosen = set(present)
    if len(present) != k or len(chosen) != k:
        raise CodecError(f"{k}+{m} is decoded from {k} different shards, not from {len(chosen)}")
    if not all(0 <= index < k + m for index in (*present, *missing)):
        raise CodecError(f"a shard index outside of {k}+{m}")
    parity = parity_matrix(k, m)
    generator = [unit(i, k) if i < k else parity[i - k] for i in range(k + m)]
    from_present = invert(tuple(generator[index] for index in present))
    return multiply(tuple(generator[index] for index in missing), from_present)
