"""The compiled kernel: every variant equals the scalar one, and the fallback replaces them all."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from rainfs._native import AVAILABLE, ffi, lib
from rainfs.checksum import crc32c_pages
from rainfs.erasure.codec import make_codec
from rainfs.erasure.fallback import PythonProduct
from rainfs.erasure.kernel import KernelArithmetic, KernelProduct, running_variants
from rainfs.erasure.matrix import product
from rainfs.errors import CodecError
from rainfs.model import reed_solomon

if not AVAILABLE:
    pytest.skip("the kernel is not built", allow_module_level=True)

LENGTHS = (0, 1, 7, 31, 32, 63, 64, 65, 127, 128, 129, 191, 255, 256, 1000, 4096, 4097, 20_000)


def seeded() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("variant", running_variants())
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 17])
def test_variant_equals_scalar(variant: int, rows: int) -> None:
    """Random matrices, zeros and ones among them, odd lengths, short columns, odd addresses."""
    rng = seeded()
    for length in LENGTHS:
        cols = rng.choice([1, 2, 3, 4, 10, 33])
        matrix = tuple(
            bytes(rng.choice([0, 1, rng.randrange(256)]) for _ in range(cols)) for _ in range(rows)
        )
        inputs = []
        for _ in range(cols):
            start = rng.randrange(64)
            size = rng.choice([length, length, rng.randint(0, length)])
            inputs.append(memoryview(rng.randbytes(start + size))[start:])
        results = []
        for each in (lib.RAIN_SCALAR, variant):
            starts = [rng.randrange(64) for _ in range(rows)]
            memory = [bytearray(b"\xee" * (start + length + 64)) for start in starts]
            outputs = [memoryview(m)[s : s + length] for m, s in zip(memory, starts, strict=True)]
            KernelProduct(each, matrix).apply(inputs, outputs)
            results.append([bytes(output) for output in outputs])
            for m, s in zip(memory, starts, strict=True):
                assert m[:s] == b"\xee" * s, "written before the output"
                assert m[s + length :] == b"\xee" * 64, "written past the output"
        assert results[0] == results[1]
        if length <= 256:
            plain = [bytearray(length) for _ in range(rows)]
            PythonProduct(matrix).apply(inputs, plain)
            assert results[0] == plain


@pytest.mark.parametrize("variant", running_variants())
def test_full_matrix_of_the_field_is_handled(variant: int) -> None:
    """The largest matrix the header allows, which no stripe needs."""
    rng = seeded()
    matrix = tuple(rng.randbytes(255) for _ in range(255))
    inputs = [rng.randbytes(300) for _ in range(255)]
    results = []
    for each in (lib.RAIN_SCALAR, variant):
        outputs = [bytearray(300) for _ in range(255)]
        KernelProduct(each, matrix).apply(inputs, outputs)
        results.append(outputs)
    assert results[0] == results[1]


def affine(matrix: bytes, x: int) -> int:
    """gf2p8affineqb on one byte, as Intel's manual writes it down."""
    result = 0
    for i in range(8):
        result |= ((matrix[7 - i] & x).bit_count() & 1) << i
    return result


def test_affine_matrices_multiply_in_our_field() -> None:
    """Holds the constants right on machines whose processor lacks the instruction."""
    for coefficient in range(256):
        tables: Any = ffi.new("uint8_t[]", 8)
        lib.rain_gf_prepare(lib.RAIN_AVX512_GFNI, bytes([coefficient]), 1, 1, tables)
        matrix = bytes(tables)
        assert all(affine(matrix, x) == product(coefficient, x) for x in range(256))


def test_nibble_tables_multiply_in_our_field() -> None:
    for coefficient in range(256):
        tables: Any = ffi.new("uint8_t[]", 32)
        lib.rain_gf_prepare(lib.RAIN_AVX2, bytes([coefficient]), 1, 1, tables)
        assert [tables[x] for x in range(16)] == [product(coefficient, x) for x in range(16)]
        assert [tables[16 + x] for x in range(16)] == [
            product(coefficient, x << 4) for x in range(16)
        ]


def test_tables_lie_column_by_column() -> None:
    tables: Any = ffi.new("uint8_t[]", lib.rain_gf_tables_bytes(lib.RAIN_AVX512_GFNI, 2, 3))
    lib.rain_gf_prepare(lib.RAIN_AVX512_GFNI, bytes([1, 2, 3, 4, 5, 6]), 2, 3, tables)
    one = [affine(bytes(tables)[start : start + 8], 1) for start in range(0, 48, 8)]
    assert one == [1, 4, 2, 5, 3, 6]


def test_impossible_arguments_are_refused() -> None:
    null = ffi.NULL
    unknown = lib.RAIN_VARIANTS
    assert lib.rain_variant_name(unknown) == null
    assert lib.rain_variant_name(-1) == null
    assert not lib.rain_variant_runs(unknown)
    assert lib.rain_gf_tables_bytes(unknown, 1, 1) == 0
    assert lib.rain_gf_tables_bytes(lib.RAIN_SCALAR, 0, 1) == 0
    assert lib.rain_gf_tables_bytes(lib.RAIN_SCALAR, 1, 256) == 0
    assert lib.rain_gf_prepare(lib.RAIN_SCALAR, b"", 256, 1, null) == -1
    assert lib.rain_gf_multiply(unknown, null, 1, 1, null, null, null, 0) == -1
    assert lib.rain_gf_multiply(lib.RAIN_SCALAR, null, 0, 1, null, null, null, 0) == -1
    assert lib.rain_xor(lib.RAIN_SCALAR, 256, null, null, null, 0) == -1
    assert lib.rain_copy(1, null, 2, null, 1) == -1
    assert lib.rain_crc32c_pages(null, 0, 0, null) == -1
    too_long = ffi.new("size_t[]", [2])
    assert lib.rain_gf_multiply(lib.RAIN_SCALAR, null, 1, 1, null, too_long, null, 1) == -1


def test_the_best_variant_runs() -> None:
    assert lib.rain_variant_runs(lib.rain_variant_best())
    assert running_variants()[0] == lib.rain_variant_best()
    assert lib.RAIN_SCALAR in running_variants()


def test_a_variant_that_does_not_run_is_refused() -> None:
    absent = [v for v in range(lib.RAIN_VARIANTS) if not lib.rain_variant_runs(v)]
    for variant in [*absent, lib.RAIN_VARIANTS]:
        with pytest.raises(CodecError):
            KernelArithmetic(variant)


def test_a_call_leaves_no_buffer_exported() -> None:
    """A shard's memory can be resized or unmapped as soon as the call is over."""
    codec = make_codec(reed_solomon(2, 2), KernelArithmetic(running_variants()[0]))
    data = [bytearray(100), bytearray(100)]
    parity = [bytearray(100), bytearray(100)]
    codec.encode(data, parity)
    for buffer in (*data, *parity):
        buffer.append(0)


WITHOUT_KERNEL = """
import sys, warnings
sys.modules["rainfs._native._kernel"] = None
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as seen:
    from rainfs.checksum import crc32c, crc32c_pages
    from rainfs.erasure.codec import codec_for, kernel_name
    from rainfs.model import reed_solomon
    parity = [bytearray(5), bytearray(5)]
    for _ in range(3):
        codec_for(reed_solomon(4, 2)).encode([b"rain", b"falls", b"on", b"me"], parity)
print(len(seen), seen[0].category.__name__, kernel_name(), crc32c(b"123456789") == 0xE3069283,
      crc32c_pages(bytes(4100)).hex(), bytes(parity[0] + parity[1]).hex())
"""


def test_without_the_kernel_python_does_the_same_after_one_warning() -> None:
    parity = [bytearray(5), bytearray(5)]
    codec = make_codec(reed_solomon(4, 2), KernelArithmetic(lib.RAIN_SCALAR))
    codec.encode([b"rain", b"falls", b"on", b"me"], parity)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERNEL], capture_output=True, text=True, check=True
    )
    warned, category, name, checked, pages, coded = done.stdout.split()
    assert (warned, category, name, checked) == ("1", "RuntimeWarning", "python", "True")
    assert pages == crc32c_pages(bytes(4100)).hex()
    assert coded == bytes(parity[0] + parity[1]).hex()
