"""The record that says where a shard lies and what its bytes must be.

Owns the binary form of keys and rows, shared by the index and the journal (FORMAT.md).  Refuses to
know files.  Invariant: a row's checksum covers the key, so neither a flipped row nor a row under
another key is ever believed.
"""

from __future__ import annotations

import struct

import msgspec

from rainfs.checksum import crc32c
from rainfs.errors import ShardCorrupt
from rainfs.model import PAGE_BYTES, ShardKey, StripeId

_KEY = struct.Struct(">QH")
_ROW = struct.Struct("<IQII")
"""crc, offset, length, about_bytes; then one uint32 per page, then the description."""

CRC_BYTES = 4
KEY_BYTES = _KEY.size
ROW_HEADER_BYTES = _ROW.size


class Row(msgspec.Struct, frozen=True):
    """Where a shard lies and how to verify it."""

    offset: int
    """First byte in the storage file."""
    length: int
    crcs: bytes
    """CRC-32C of each page, little-endian, one after another."""
    about: bytes

    def same_content(self, other: Row) -> bool:
        """Whether both rows describe the same bytes, wherever they lie."""
        return self.length == other.length and self.crcs == other.crcs


def pack_key(key: ShardKey) -> bytes:
    """Return the 10 bytes of a key; they sort as keys do."""
    return _KEY.pack(key.stripe, key.shard)


def unpack_key(packed: bytes) -> ShardKey:
    """Return the key of `pack_key`.  Raises: ShardCorrupt for any other length."""
    if len(packed) != KEY_BYTES:
        raise ShardCorrupt(f"index key of {len(packed)} bytes")
    stripe, shard = _KEY.unpack(packed)
    return ShardKey(StripeId(stripe), shard)


def pack_row(packed_key: bytes, row: Row) -> bytes:
    """Return the row's bytes, checksum first."""
    head = _ROW.pack(0, row.offset, row.length, len(row.about))[CRC_BYTES:]
    body = head + row.crcs + row.about
    return crc32c(packed_key + body).to_bytes(CRC_BYTES, "little") + body


def unpack_row(packed_key: bytes, packed: bytes) -> Row:
    """Return the row stored under a key.  Raises: ShardCorrupt unless it is whole and its own."""
    if len(packed) < ROW_HEADER_BYTES:
        raise ShardCorrupt(f"index row of {len(packed)} bytes")
    crc, offset, length, about_bytes = _ROW.unpack_from(packed)
    if crc32c(memoryview(packed)[CRC_BYTES:], crc32c(packed_key)) != crc:
        raise ShardCorrupt("index row does not match its checksum")
    crcs_stop = ROW_HEADER_BYTES + length // PAGE_BYTES * CRC_BYTES
    if length % PAGE_BYTES or len(packed) != crcs_stop + about_bytes:
        raise ShardCorrupt("index row has an impossible length")
    return Row(offset, length, packed[ROW_HEADER_BYTES:crcs_stop], packed[crcs_stop:])
