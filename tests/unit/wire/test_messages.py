"""Messages: what does not fit their bounds is neither sent nor believed."""

from __future__ import annotations

import msgspec
import pytest

from rainfs.errors import (
    InputError,
    LocalProtocolError,
    NodeFailing,
    NodeFull,
    RainError,
    RemoteProtocolError,
    StorageError,
    StripeLost,
)
from rainfs.model import MAX_ABOUT_BYTES, MAX_SHARD_BYTES, PAGE_BYTES, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.faults import CODES, MAX_FAULT_TEXT_CHARS, fault, fault_code, fault_text
from rainfs.wire.framing import check_preamble, pack_frame, unpack_frame

OUT_OF_BOUNDS: list[wire.Message] = [
    wire.Hello(VolumeId(b"short")),
    wire.Put(StripeId(-1), 0, True),
    wire.Put(StripeId(1 << 64), 0, True),
    wire.Put(StripeId(1), 255, True),
    wire.Put(StripeId(1), 0, True, bytes(MAX_ABOUT_BYTES + 1)),
    wire.PutShared(StripeId(-1), 0, True, b"", 0, PAGE_BYTES),
    wire.PutShared(StripeId(1), 0, True, bytes(MAX_ABOUT_BYTES + 1), 0, PAGE_BYTES),
    wire.PutShared(StripeId(1), 0, True, b"", 1, PAGE_BYTES),
    wire.PutShared(StripeId(1), 0, True, b"", -PAGE_BYTES, PAGE_BYTES),
    wire.PutShared(StripeId(1), 0, True, b"", 0, PAGE_BYTES + 1),
    wire.PutShared(StripeId(1), 0, True, b"", 0, MAX_SHARD_BYTES + PAGE_BYTES),
    wire.Hello(None, "", False, -1),
    wire.Get(StripeId(1), -1, 0, 1),
    wire.Get(StripeId(1), 0, 0, MAX_SHARD_BYTES + 1),
    wire.Get(StripeId(1), 0, -1, 1),
    wire.Delete([(StripeId(1), 0)] * (wire.MAX_KEYS_PER_DELETE + 1)),
    wire.Delete([(StripeId(1), 300)]),
    wire.List(None, wire.MAX_SHARDS_PER_LISTING + 1),
    wire.List((StripeId(1), 999), 1),
    wire.Listing([(StripeId(1), 0, 100, True)]),
    wire.Listing([(StripeId(1), 0, MAX_SHARD_BYTES * 2, True)]),
    wire.Described(4095, True, b""),
]


@pytest.mark.parametrize("message", OUT_OF_BOUNDS, ids=lambda m: str(m)[:40])
def test_fields_out_of_bounds_are_neither_sent_nor_believed(message: wire.Message) -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(message)
    try:
        header = msgspec.msgpack.encode(message)
    except OverflowError:
        return
    with pytest.raises(RemoteProtocolError):
        wire.decode(message.kind, header)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x94\x01",
        bytes.fromhex("9401020304 ff"),
        bytes.fromhex("94a1610203 04"),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 900,
        b"\xdf\xff\xff\xff\xff" * 20,
        b"\xc6\xff\xff\xff\xff",
    ],
    ids=lambda h: h[:6].hex(),
)
@pytest.mark.parametrize("kind", [wire.Kind.GET, wire.Kind.DELETE, wire.Kind.LISTING])
def test_headers_that_make_no_sense_are_refused(kind: wire.Kind, header: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode(kind, header)


def test_fields_of_a_later_form_are_ignored() -> None:
    assert wire.decode(wire.Kind.DONE, b"\x92\x01\xa1x") == wire.Done()


def test_the_longest_messages_fit_their_headers() -> None:
    last = StripeId((1 << 64) - 1)
    wire.encode(wire.Delete([(last, 254)] * wire.MAX_KEYS_PER_DELETE))
    wire.encode(wire.Listing([(last, 254, MAX_SHARD_BYTES, True)] * wire.MAX_SHARDS_PER_LISTING))
    wire.encode(wire.Put(last, 254, True, bytes(MAX_ABOUT_BYTES)))
    wire.encode(wire.Described(MAX_SHARD_BYTES, True, bytes(MAX_ABOUT_BYTES)))
    wire.encode(wire.Failed(12, "\u20ac" * MAX_FAULT_TEXT_CHARS))


@pytest.mark.parametrize("message", list(wire.MESSAGES.values()), ids=lambda m: m.__name__)
def test_a_length_above_its_maximum_is_refused(message: type[wire.Message]) -> None:
    for header_bytes, payload_bytes in [
        (message.max_header_bytes + 1, 0),
        (0, message.max_payload_bytes + 1),
        ((1 << 32) - 1, (1 << 32) - 1),
    ]:
        with pytest.raises(RemoteProtocolError):
            unpack_frame(pack_frame(message.kind, 1, header_bytes, payload_bytes))
    unpack_frame(pack_frame(message.kind, 1, message.max_header_bytes, message.max_payload_bytes))


def test_unknown_kinds_and_flags_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown kind 200"):
        unpack_frame(b"\xc8" + bytes(15))
    for at in (1, 2, 3):
        frame = bytearray(pack_frame(wire.Kind.GET, 1, 0, 0))
        frame[at] = 1
        with pytest.raises(RemoteProtocolError, match="flags"):
            unpack_frame(frame)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"HTTP/1.1 400", b"SSH-2.0", b"\x16\x03"])
def test_another_protocol_is_named_at_its_first_wrong_byte(first: bytes) -> None:
    for length in range(1, len(first) + 1):
        with pytest.raises(RemoteProtocolError, match="another protocol"):
            check_preamble(first[:length])


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_another_version_is_named(version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version {version} .* version 1"):
        check_preamble(b"rainfs" + version.to_bytes(2, "little"))
    check_preamble(b"rainfs")


@pytest.mark.parametrize("error", list(CODES.values()), ids=lambda e: e.__name__)
def test_each_error_is_raised_again_as_what_it_was(error: type[RainError]) -> None:
    code = fault_code(error("why"))
    assert type(fault(code, "why")) is error
    assert str(fault(code, "why")) == "why"


def test_other_errors_travel_as_their_nearest_kin() -> None:
    class NodeOnFire(NodeFailing):
        pass

    assert type(fault(fault_code(NodeOnFire("hot")), "hot")) is NodeFailing
    assert type(fault(fault_code(StripeLost("lost")), "lost")) is StorageError
    assert type(fault(fault_code(InputError("bad")), "bad")) is InputError
    assert type(fault(4000, "from the future")) is StorageError


def test_the_text_of_an_error_is_one_short_line() -> None:
    text = fault_text(NodeFull("a\nb  c" + "x" * 9999))
    assert text.startswith("a b cx")
    assert len(text) == MAX_FAULT_TEXT_CHARS
