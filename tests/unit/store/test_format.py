"""The bytes of FORMAT.md: pinned, and every flipped bit of them is noticed."""

from __future__ import annotations

import msgspec
import pytest

from rainfs.errors import InputError, ShardCorrupt, StoreDamaged
from rainfs.model import PAGE_BYTES, NodeUuid, ShardKey, StripeId
from rainfs.store import superblock
from rainfs.store.journal import Entry, decode_record, encode_record
from rainfs.store.rows import Row, pack_key, pack_row, unpack_key, unpack_row
from rainfs.store.superblock import Superblock

UUID = NodeUuid(bytes(range(16)))
KEY = ShardKey(StripeId(0x0000020000000003), 5)
ROW = Row(offset=0x810000, length=2 * PAGE_BYTES, crcs=b"\x01\0\0\0\x02\0\0\0", about=b"hello")
BLOCK = Superblock(
    uuid=UUID,
    volume=b"",
    capacity_bytes=1 << 30,
    journal_offset=0x10000,
    journal_bytes=0x800000,
    data_offset=0x810000,
    name="n1",
    labels={"site": "a"},
    generation=1,
)

GOLDEN_KEY = "00000200000000030005"
GOLDEN_ROW = "a8dffbe400008100000000000020000005000000010000000200000068656c6c6f"
GOLDEN_RECORD = (
    "5241494e4a524e4c000102030405060708090a0b0c0d0e0f03000000000000000010000002000000"
    "01000000020000004f00000034639c0c01000002000000000300052100000008000000a8dffbe400"
    "008100000000000020000005000000010000000200000068656c6c6f7061796c6f61642102000000"
    "000000000900010000000000000000"
)
GOLDEN_SUPERBLOCK = (
    "5241494e53544f520100000035000000010000000000000047c2013d99c410000102030405060708"
    "090a0b0c0d0e0fc400ce40000000ce00010000ce00800000ce00810000a26e3181a473697465a161"
    "01"
)


def record() -> bytes:
    entries = [Entry(KEY, ROW, b"payload!"), Entry(ShardKey(StripeId(9), 1), None)]
    return encode_record(UUID, lap=3, position=PAGE_BYTES, number=2, durable=1, entries=entries)


def test_keys_and_rows_have_their_documented_bytes() -> None:
    assert pack_key(KEY).hex() == GOLDEN_KEY
    assert pack_row(pack_key(KEY), ROW).hex() == GOLDEN_ROW
    assert unpack_key(bytes.fromhex(GOLDEN_KEY)) == KEY
    assert unpack_row(pack_key(KEY), bytes.fromhex(GOLDEN_ROW)) == ROW


def test_a_journal_record_has_its_documented_bytes() -> None:
    assert record().hex() == GOLDEN_RECORD
    area = memoryview(bytes(PAGE_BYTES) + bytes.fromhex(GOLDEN_RECORD).ljust(PAGE_BYTES, b"\0"))
    found = decode_record(area, UUID, 3, PAGE_BYTES)
    assert found is not None
    assert (found.number, found.durable) == (2, 1)
    assert [entry.key for entry in found.entries] == [KEY, ShardKey(StripeId(9), 1)]
    assert found.entries[0].row == ROW
    assert found.entries[0].payload == b"payload!"
    assert found.entries[1].row is None


def test_the_superblock_has_its_documented_bytes() -> None:
    page = superblock.encode(BLOCK)
    assert len(page) == PAGE_BYTES
    assert page.rstrip(b"\0").hex() == GOLDEN_SUPERBLOCK
    assert superblock.decode(page + bytes(PAGE_BYTES)) == BLOCK


def test_keys_sort_as_shards_do() -> None:
    keys = [
        ShardKey(StripeId(s), n) for s in (0, 1, 255, 256, 1 << 40, (1 << 64) - 1) for n in (0, 254)
    ]
    assert sorted(keys) == sorted(keys, key=pack_key)


def test_every_flipped_bit_of_a_row_is_noticed() -> None:
    packed = pack_row(pack_key(KEY), ROW)
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ShardCorrupt):
            unpack_row(pack_key(KEY), bytes(flipped))


def test_a_row_under_another_key_is_noticed() -> None:
    packed = pack_row(pack_key(KEY), ROW)
    with pytest.raises(ShardCorrupt):
        unpack_row(pack_key(KEY._replace(shard=4)), packed)
    for length in range(len(packed)):
        with pytest.raises(ShardCorrupt):
            unpack_row(pack_key(KEY), packed[:length])


def test_every_flipped_bit_of_a_record_is_noticed() -> None:
    whole = record()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        area = memoryview(bytes(PAGE_BYTES) + bytes(flipped).ljust(PAGE_BYTES, b"\0"))
        assert decode_record(area, UUID, 3, PAGE_BYTES) is None, bit


def test_a_record_of_another_lap_place_or_store_does_not_count() -> None:
    area = memoryview(bytes(PAGE_BYTES) + record().ljust(PAGE_BYTES, b"\0"))
    assert decode_record(area, UUID, 3, PAGE_BYTES) is not None
    assert decode_record(area, UUID, 2, PAGE_BYTES) is None
    assert decode_record(area, NodeUuid(bytes(16)), 3, PAGE_BYTES) is None
    moved = memoryview(record().ljust(2 * PAGE_BYTES, b"\0"))
    assert decode_record(moved, UUID, 3, 0) is None


def test_every_flipped_bit_of_a_superblock_falls_back_to_the_other_copy() -> None:
    older = superblock.encode(msgspec.structs.replace(BLOCK, generation=2, name="old"))
    newer = superblock.encode(msgspec.structs.replace(BLOCK, generation=3, name="new"))
    used = len(newer.rstrip(b"\0"))
    assert superblock.decode(older + newer).name == "new"
    for bit in range(used * 8):
        flipped = bytearray(newer)
        flipped[bit // 8] ^= 1 << bit % 8
        assert superblock.decode(older + bytes(flipped)).name == "old", bit
    with pytest.raises(StoreDamaged, match="both copies"):
        superblock.decode(superblock.MAGIC.ljust(2 * PAGE_BYTES, b"\0"))


def test_foreign_files_and_later_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"hello", bytes(2 * PAGE_BYTES), b"x" * 3 * PAGE_BYTES):
        with pytest.raises(StoreDamaged, match="not a rainfs storage file"):
            superblock.decode(content)
    monkeypatch.setattr(superblock, "FORMAT_VERSION", 2)
    later = superblock.encode(BLOCK)
    monkeypatch.setattr(superblock, "FORMAT_VERSION", 1)
    with pytest.raises(StoreDamaged, match="format 2"):
        superblock.decode(later + bytes(PAGE_BYTES))


def test_a_superblock_with_impossible_geometry_is_refused() -> None:
    for change in (
        {"uuid": b"short"},
        {"volume": b"x"},
        {"journal_offset": 0},
        {"journal_offset": 0x10001},
        {"data_offset": 0x10000},
    ):
        page = superblock.encode(msgspec.structs.replace(BLOCK, **change))
        with pytest.raises(StoreDamaged, match="do not fit together"):
            superblock.decode(page + bytes(PAGE_BYTES))


def test_labels_that_do_not_fit_are_the_callers_fault() -> None:
    with pytest.raises(InputError):
        superblock.encode(msgspec.structs.replace(BLOCK, labels={"k": "v" * PAGE_BYTES}))
