"""The values of the metadata: msgspec structs, encoded as MessagePack arrays.

Owns the stored shapes that are not in `rainfs.model`, and their codecs.  Refuses to know keys and
engines.  Fields are only ever appended, with a default; a change that an older reader must not
miss raises FORMAT_VERSION.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from rainfs.errors import MetadataForeign
from rainfs.model import (
    Attr,
    InodeNumber,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    Placement,
    Stripe,
    StripeId,
    VolumeId,
)

FORMAT_VERSION = 1
MAGIC = b"rainfs metadata"


class Format(msgspec.Struct, frozen=True, array_like=True):
    """First thing read: what wrote this, and which version must be understood to read it."""

    magic: bytes
    version: int


class VolumeRecord(msgspec.Struct, frozen=True, array_like=True):
    """The volume as stored."""

    id: VolumeId
    name: str
    layout: LayoutId
    created_ns: int
    name_secret: bytes
    """Key of the hash that turns names into directory slots."""


class Dirent(msgspec.Struct, frozen=True, array_like=True):
    """A directory entry."""

    name: bytes
    inode: InodeNumber
    type: int
    """File type bits of the mode (S_IFMT)."""


class ExtentRecord(msgspec.Struct, frozen=True, array_like=True):
    """An extent; its inode and file offset are in the key."""

    length: int
    stripe: StripeId
    block: int
    block_offset: int


class StripeState(msgspec.Struct, frozen=True, array_like=True):
    """The mutable row of a stripe."""

    nodes: tuple[NodeNumber, ...]
    """`nodes[i]` holds shard i; 0 says nobody does."""
    live_bytes: int
    """Sum of the lengths of all extents that point at the stripe."""
    born_bytes: int
    """File bytes that its blocks hold; live over born is its density."""


class SessionRecord(msgspec.Struct, frozen=True, array_like=True):
    """A mount's lease on the volume; the row goes when the session ends."""

    low_water: StripeId
    """Every stripe of this session below it is committed or given up."""
    pid: int
    host: str
    mountpoint: str
    started_ns: int


class CareRequest(msgspec.Struct, frozen=True, array_like=True):
    """Asks the session's process to compact everything now, and to sweep some nodes."""

    asked_ns: int
    """Tells one request from the next."""
    sweep: tuple[NodeNumber, ...] = ()
    """Nodes that only that process can reach, such as stores that it has open."""


class CareAnswer(msgspec.Struct, frozen=True, array_like=True):
    """How far the session's process is with a request."""

    asked_ns: int
    stage: str
    done: int
    total: int
    """Both in units of the stage; a total of 0 is not known yet."""
    finished: bool = False
    error: str = ""
    stripes_rewritten: int = 0
    bytes_rewritten: int = 0
    shards_seen: int = 0
    shards_deleted: int = 0
    bytes_deleted: int = 0


R = TypeVar("R")
_encode = msgspec.msgpack.Encoder().encode


class Codec(Generic[R]):
    """Bytes to one kind of record and back."""

    __slots__ = ("_decode", "_kind", "encode")

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self.encode: Callable[[R], bytes] = _encode
        """Return the stored bytes."""

    def decode(self, raw: bytes) -> R:
        """Return the record.  Raises: MetadataForeign if the bytes are no such record."""
        try:
            return self._decode(raw)
        except (msgspec.DecodeError, ValueError) as error:
            raise MetadataForeign(
                f"metadata is damaged: no valid {self._kind.__name__} record ({error})"
            ) from error


FORMATS = Codec(Format)
VOLUMES = Codec(VolumeRecord)
LAYOUTS = Codec(Layout)
NODES = Codec(Node)
SESSIONS = Codec(SessionRecord)
REQUESTS = Codec(CareRequest)
ANSWERS = Codec(CareAnswer)
ATTRS = Codec(Attr)
DIRENTS = Codec(Dirent)
EXTENTS = Codec(ExtentRecord)
STRIPES = Codec(Stripe)
STATES = Codec(StripeState)
PLACEMENTS = Codec(Placement)
COUNTERS = Codec(int)
