"""Golden bytes: what SCHEMA.md says is what is stored."""

from __future__ import annotations

import pytest

from rainfs.errors import MetadataForeign
from rainfs.meta import keys, records
from rainfs.meta.directory import MAX_SLOT, PROBE_SLOTS, hash_with
from rainfs.model import (
    Attr,
    Block,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    NodeUuid,
    Placement,
    Stripe,
    StripeId,
    VolumeId,
    reed_solomon,
    stripe_id,
)

STRIPE = stripe_id(1, 5)
NODES = (NodeNumber(1), NodeNumber(2), NodeNumber(0))
INODE = InodeNumber(2)

KEYS = [
    (keys.FORMAT, "46"),
    (keys.VOLUME, "56"),
    (keys.NEXT_EPOCH, "4365706f6368"),
    (keys.NEXT_INODE, "43696e6f6465"),
    (keys.NEXT_NODE, "436e6f6465"),
    (keys.layout_key(LayoutId(1)), "4c0000000000000001"),
    (keys.node_key(NodeNumber(3)), "4e0000000000000003"),
    (keys.session_key(7), "410000000000000007"),
    (keys.inode_key(INODE), "490000000000000002"),
    (keys.dirent_key(INODE, 258), "4400000000000000020000000000000102"),
    (keys.xattr_key(INODE, b"user.a"), "580000000000000002757365722e61"),
    (keys.orphan_key(7, INODE), "4f00000000000000070000000000000002"),
    (keys.extent_key(INODE, 8192), "4500000000000000020000000000002000"),
    (keys.stripe_key(STRIPE), "530000010000000005"),
    (keys.state_key(STRIPE), "500000010000000005"),
    (keys.tombstone_key(STRIPE), "540000010000000005"),
    (keys.request_key(7), "4700000000000000070000000000000000"),
    (keys.answer_key(7), "4700000000000000070000000000000001"),
]

VALUES = [
    (
        records.FORMATS.encode(records.Format(records.MAGIC, 1)),
        "92c40f7261696e6673206d6574616461746101",
    ),
    (
        records.VOLUMES.encode(records.VolumeRecord(VolumeId(b"\1\2"), "v", LayoutId(1), 5, b"\3")),
        "95c4020102a1760105c40103",
    ),
    (records.COUNTERS.encode(300), "cd012c"),
    (
        records.LAYOUTS.encode(Layout(LayoutId(1), reed_solomon(4, 2))),
        "96019301040201ce00020000ce00100000ce00010000",
    ),
    (
        records.NODES.encode(Node(NodeNumber(1), NodeUuid(b"u"), "n", "rain://h:1", {"a": "b"})),
        "9601c40175a16eaa7261696e3a2f2f683a3181a161a162c2",
    ),
    (
        records.SESSIONS.encode(records.SessionRecord(StripeId(9), 1, "h", "/m", 2)),
        "950901a168a22f6d02",
    ),
    (
        records.ATTRS.encode(Attr(INODE, 0o100644, 1, 2, 1, 10, 0, 3, 4, 5, LayoutId(1))),
        "9f02cd81a40102010a0003040501c2c4000000",
    ),
    (records.DIRENTS.encode(records.Dirent(b"n\xff", INODE, 0o100000)), "93c4026eff02cd8000"),
    (
        records.EXTENTS.encode(records.ExtentRecord(4096, STRIPE, 3, 16)),
        "94cd1000cf00000100000000050310",
    ),
    (
        records.STRIPES.encode(
            Stripe(
                reed_solomon(2, 1),
                4096,
                (Block(INODE, 8192, 4096, 1, 0, 300, Compression.LZ4, 0xDEADBEEF),),
                LayoutId(1),
            )
        ),
        "9593010201cd1000919802cd2000cd10000100cd012c01cedeadbeef01c400",
    ),
    (records.STATES.encode(records.StripeState(NODES, 7, 8)), "93930102000708"),
    (records.PLACEMENTS.encode(Placement(NODES)), "9193010200"),
    (records.REQUESTS.encode(records.CareRequest(5, NODES)), "920593010200"),
    (
        records.ANSWERS.encode(records.CareAnswer(5, "compacting", 1, 2)),
        "9b05aa636f6d70616374696e670102c2a00000000000",
    ),
]


@pytest.mark.parametrize(("key", "wanted"), KEYS, ids=lambda value: str(value)[:24])
def test_keys_are_these_bytes(key: bytes, wanted: str) -> None:
    assert key.hex() == wanted


@pytest.mark.parametrize(("value", "wanted"), VALUES, ids=lambda value: str(value)[:24])
def test_values_are_these_bytes(value: bytes, wanted: str) -> None:
    assert value.hex() == wanted


def test_slots_are_these_numbers() -> None:
    hash_name = hash_with(bytes(range(16)))
    assert hash_name(b"name") == 1_439_488_937_735_961_425
    assert 3 <= hash_name(b"") <= MAX_SLOT - PROBE_SLOTS


def test_a_record_from_before_a_field_was_added_still_reads() -> None:
    whole = records.ATTRS.encode(Attr(INODE, 0o100644, 1, 2, 1, 10, 0, 3, 4, 5, LayoutId(1)))
    short = bytes((0x9B,)) + whole[1:-5]
    assert records.ATTRS.decode(short) == records.ATTRS.decode(whole)


def test_a_record_with_a_field_of_the_future_still_reads() -> None:
    whole = records.PLACEMENTS.encode(Placement(NODES))
    longer = bytes((0x92,)) + whole[1:] + b"\x05"
    assert records.PLACEMENTS.decode(longer) == Placement(NODES)


@pytest.mark.parametrize("raw", [b"", b"\x91", b"\x94\xc0\xc0\xc0\xc0", b"\xa1x"])
def test_damaged_records_are_reported(raw: bytes) -> None:
    with pytest.raises(MetadataForeign):
        records.EXTENTS.decode(raw)
