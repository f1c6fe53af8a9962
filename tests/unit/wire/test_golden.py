"""The bytes of protocol version 1, as PROTOCOL.md has them.  They never change."""

from __future__ import annotations

import pytest

from rainfs.model import NodeUuid, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.faults import CODES
from rainfs.wire.framing import PREAMBLE, pack_frame

VOLUME = VolumeId(bytes(range(16)))
UUID = NodeUuid(bytes(range(16, 32)))
ID_16 = "c410" + bytes(range(16)).hex()
ID_32 = "c410" + bytes(range(16, 32)).hex()

GOLDEN: list[tuple[wire.Message, int, str]] = [
    (wire.Hello(VOLUME, "0.1"), 1, "94" + ID_16 + "a3302e31" + "c200"),
    (wire.Hello(None, "", True, 4096), 1, "94c0a0c3cd1000"),
    (
        wire.Welcome(UUID, VOLUME, "0.1"),
        2,
        "98" + ID_32 + ID_16 + "a3302e31" + "c400a0a000c2",
    ),
    (
        wire.Welcome(UUID, None, "", b"name", "a:1", "b:2", 2, True),
        2,
        "98" + ID_32 + "c0a0" + "c4046e616d65" + "a3613a31" + "a3623a32" + "02c3",
    ),
    (wire.Put(StripeId(1 << 40), 3, True, b"ab"), 16, "94cf0000010000000000" + "03c3c4026162"),
    (
        wire.PutShared(StripeId(7), 3, True, b"ab", 8192, 4096),
        32,
        "960703c3c4026162cd2000cd1000",
    ),
    (wire.Get(StripeId(7), 2, 4096, 3), 17, "940702cd100003"),
    (wire.Delete([(StripeId(1), 0), (StripeId(2), 5)]), 18, "9192920100920205"),
    (wire.List(None, 100), 19, "92c064"),
    (wire.List((StripeId(1), 2), 100), 19, "9292010264"),
    (wire.Stat(StripeId((1 << 64) - 1), 254), 20, "92cfffffffffffffffffccfe"),
    (wire.Sync(), 21, "90"),
    (wire.Health(), 22, "90"),
    (wire.Claim(VOLUME), 23, "91" + ID_16),
    (wire.Done(), 64, "90"),
    (wire.Data(), 65, "90"),
    (wire.Listing([(StripeId(1), 2, 4096, True)]), 66, "9191940102cd1000c3"),
    (wire.Described(4096, False, b""), 67, "93cd1000c2c400"),
    (
        wire.Report(UUID, None, "n", 100, 20, 80, 2, {"host": "a"}, False, "1"),
        68,
        "9a" + ID_32 + "c0a16e6414500281a4686f7374a161c2a131",
    ),
    (wire.Failed(2, "full"), 69, "9202a466756c6c"),
    (wire.Locate(StripeId(7), 2, 32), 24, "93070220"),
    (
        wire.Located([(StripeId(7), 2, 1 << 20, 4096, b"crc.")]),
        70,
        "9191" + "95" + "0702" + "ce00100000" + "cd1000" + "c4046372632e",
    ),
]


def test_the_preamble_is_as_written() -> None:
    assert PREAMBLE.hex() == "7261696e66730100"


def test_the_frame_is_as_written() -> None:
    assert pack_frame(wire.Kind.GET, 5, 7, 0).hex() == "11000000050000000700000000000000"
    assert pack_frame(wire.Kind.DATA, 5, 1, 3).hex() == "41000000050000000100000003000000"


@pytest.mark.parametrize(("message", "number", "header"), GOLDEN, ids=lambda value: str(value)[:30])
def test_each_message_is_as_written(message: wire.Message, number: int, header: str) -> None:
    assert message.kind == number
    assert wire.encode(message).hex() == header
    assert wire.decode(number, bytes.fromhex(header)) == message


def test_greetings_of_older_software_are_understood() -> None:
    for header, message in (
        ("92" + ID_16 + "a3302e31", wire.Hello(VOLUME, "0.1")),
        ("93" + ID_32 + ID_16 + "a3302e31", wire.Welcome(UUID, VOLUME, "0.1")),
    ):
        assert wire.decode(message.kind, bytes.fromhex(header)) == message


def test_every_kind_is_pinned() -> None:
    assert {message.kind for message, _, _ in GOLDEN} == set(wire.Kind)


def test_the_codes_of_errors_are_as_written() -> None:
    assert [CODES[code].__name__ for code in range(13)] == [
        *("StorageError", "NodeUnavailable", "NodeFull", "NodeFailing", "ShardMissing"),
        *("ShardCorrupt", "ShardConflict", "ForeignVolume", "StoreInUse", "StoreDamaged"),
        *("StoreTooSmall", "RemoteProtocolError", "InputError"),
    ]
    assert len(CODES) == 13
