"""CRC-32C is the standard one, whatever computes it and however the bytes are cut."""

from __future__ import annotations

import random

import google_crc32c
import pytest

from rainfs import checksum
from rainfs._native import AVAILABLE, lib
from rainfs.checksum import crc32c, crc32c_pages
from rainfs.memory import page_buffer
from rainfs.model import PAGE_BYTES

LENGTHS = (
    *range(20),
    *(127, 128, 129, 383, 384, 385, 767, 768, 1024, 3071, 3072, 3073, 3456, 4096),
    *(4097, 6143, 6144, 8192, 12_288, 12_289, 16_384, 65_536, 100_003),
)


def seeded() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_known_values(content: bytes, expected: int) -> None:
    """The examples of RFC 3720, appendix B.4."""
    assert crc32c(content) == expected
    assert checksum._crc32c_library(content) == expected


def test_any_length_and_address() -> None:
    rng = seeded()
    content = rng.randbytes(max(LENGTHS) + 64)
    for length in LENGTHS:
        start = rng.randrange(64)
        part = memoryview(content)[start : start + length]
        assert crc32c(part) == google_crc32c.value(bytes(part)), length


def test_parts_continue_each_other() -> None:
    rng = seeded()
    content = rng.randbytes(20_000)
    for _ in range(50):
        cut = rng.randrange(len(content))
        assert crc32c(content[cut:], crc32c(content[:cut])) == crc32c(content)


@pytest.mark.parametrize("page_bytes", [1, 5, 8, 24, 512, 4096, 10_000, 1 << 62])
def test_pages_are_checked_alone(page_bytes: int) -> None:
    rng = seeded()
    for length in (0, 1, 23, 24, 25, 72, 4095, 4096, 4097, 12_288, 20_480, 30_001):
        if length // page_bytes > 10_000:
            continue
        content = rng.randbytes(length)
        expected = b"".join(
            google_crc32c.value(content[start : start + page_bytes]).to_bytes(4, "little")
            for start in range(0, length, page_bytes)
        )
        assert crc32c_pages(content, page_bytes) == expected
        assert checksum._crc32c_pages_library(content, page_bytes) == expected


def test_the_default_page_is_the_stores() -> None:
    content = seeded().randbytes(3 * PAGE_BYTES + 100)
    assert crc32c_pages(content) == crc32c_pages(content, PAGE_BYTES)
    assert len(crc32c_pages(content)) == 4 * checksum.CRC_BYTES


def test_every_kind_of_buffer_is_taken() -> None:
    buffer = page_buffer(PAGE_BYTES)
    buffer[:9] = b"123456789"
    assert crc32c(buffer[:9]) == crc32c(bytearray(b"123456789")) == crc32c(b"123456789")
    assert crc32c_pages(buffer) == crc32c_pages(bytes(buffer)) == crc32c_pages(bytearray(buffer))


def test_impossible_pages_are_refused() -> None:
    for function in (crc32c_pages, checksum._crc32c_pages_library):
        with pytest.raises(ValueError, match="pages of 0 bytes"):
            function(b"content", 0)


@pytest.mark.skipif(not AVAILABLE, reason="the kernel is not built")
def test_the_kernels_table_equals_its_instruction() -> None:
    rng = seeded()
    for length in LENGTHS:
        content = rng.randbytes(length)
        value = rng.randrange(1 << 32)
        assert lib.rain_crc32c_software(value, content, length) == crc32c(content, value)
