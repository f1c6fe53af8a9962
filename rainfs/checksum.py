"""CRC-32C (Castagnoli) of buffers and of their pages.

Owns the checksum that nodes keep for every page of a shard and mounts for every block.  Refuses to
know who stores it.  Invariant: the value is the standard one (iSCSI, ext4; that of b"123456789"
is 0xE3069283), whichever implementation computed it: the compiled kernel, which uses the
processor's own instruction and lets other threads run, or google-crc32c where it is missing.

Source: RFC 3720, appendix B.4.
"""

from __future__ import annotations

import struct

import google_crc32c

from rainfs._native import AVAILABLE, ffi, lib
from rainfs.memory import Buffer
from rainfs.model import PAGE_BYTES

CRC_BYTES = 4
"""Length of one packed checksum."""


def _crc32c_kernel(data: Buffer, value: int = 0) -> int:
    """Return the CRC-32C of `data`, continuing from `value`, the checksum of what came before."""
    source = ffi.from_buffer("uint8_t[]", data)
    return lib.rain_crc32c(value, source, len(source))


def _crc32c_pages_kernel(data: Buffer, page_bytes: int = PAGE_BYTES) -> bytes:
    """Return the CRC-32C of every page of `data`, each as a little-endian uint32, in order.

    The last page may be short.  Raises: ValueError unless page_bytes >= 1.
    """
    if page_bytes < 1:
        raise ValueError(f"pages of {page_bytes} bytes")
    source = ffi.from_buffer("uint8_t[]", data)
    crcs = bytearray(-(-len(source) // page_bytes) * CRC_BYTES)
    lib.rain_crc32c_pages(source, len(source), page_bytes, ffi.from_buffer("uint8_t[]", crcs))
    return bytes(crcs)


def _crc32c_library(data: Buffer, value: int = 0) -> int:
    """Do the same without the kernel."""
    return int(google_crc32c.extend(value, bytes(data)))


def _crc32c_pages_library(data: Buffer, page_bytes: int = PAGE_BYTES) -> bytes:
    """Do the same without the kernel."""
    if page_bytes < 1:
        raise ValueError(f"pages of {page_bytes} bytes")
    view = memoryview(data).cast("B")
    crcs = [
        google_crc32c.value(bytes(view[start : start + page_bytes]))
        for start in range(0, len(view), page_bytes)
    ]
    return struct.pack(f"<{len(crcs)}I", *crcs)


crc32c = _crc32c_kernel if AVAILABLE else _crc32c_library
crc32c_pages = _crc32c_pages_kernel if AVAILABLE else _crc32c_pages_library
