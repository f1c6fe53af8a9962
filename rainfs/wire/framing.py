"""Frames: a fixed header that says what follows and how long it is.

Owns the layout of the preamble and of the frame header (see PROTOCOL.md).  Refuses to know what
messages mean.  Invariant: no length leaves this module unless it is below the maximum of its kind.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rainfs.errors import RemoteProtocolError
from rainfs.memory import Buffer
from rainfs.wire.messages import MESSAGES, Kind

MAGIC = b"rainfs"
VERSION = 1
_PREAMBLE = struct.Struct("<6sH")
PREAMBLE_BYTES = _PREAMBLE.size
PREAMBLE = _PREAMBLE.pack(MAGIC, VERSION)

_FRAME = struct.Struct("<BBHIII")
FRAME_BYTES = _FRAME.size
MAX_REQUEST = (1 << 32) - 1


class Frame(NamedTuple):
    """The fixed header."""

    kind: Kind
    request: int
    """Which request it is or answers; 0 for the greeting."""
    header_bytes: int
    payload_bytes: int


def pack_frame(kind: Kind, request: int, header_bytes: int, payload_bytes: int) -> bytes:
    """Return the FRAME_BYTES that announce a message."""
    return _FRAME.pack(kind, 0, 0, request, header_bytes, payload_bytes)


def unpack_frame(data: Buffer, offset: int = 0) -> Frame:
    """Read a frame header.  Raises: RemoteProtocolError unless all of it is within its bounds."""
    kind, flags, reserved, request, header_bytes, payload_bytes = _FRAME.unpack_from(data, offset)
    message = MESSAGES.get(kind)
    if message is None:
        raise RemoteProtocolError(f"a message of unknown kind {kind}")
    if flags or reserved:
        raise RemoteProtocolError(f"a {message.kind.name} with unknown flags")
    if header_bytes > message.max_header_bytes or payload_bytes > message.max_payload_bytes:
        raise RemoteProtocolError(
            f"a {message.kind.name} that is too long: {header_bytes} and {payload_bytes} bytes"
        )
    return Frame(message.kind, request, header_bytes, payload_bytes)


def check_preamble(data: Buffer) -> None:
    """Check as much of the peer's preamble as there is.

    Raises: RemoteProtocolError as soon as the first bytes cannot become ours.
    """
    seen = bytes(data[:PREAMBLE_BYTES])
    if seen[: len(MAGIC)] != MAGIC[: len(seen)]:
        raise RemoteProtocolError("the peer speaks another protocol than rainfs")
    if len(seen) == PREAMBLE_BYTES:
        _, version = _PREAMBLE.unpack(seen)
        if version != VERSION:
            raise RemoteProtocolError(
                f"the peer speaks version {version} of the protocol, this is version {VERSION}"
            )
