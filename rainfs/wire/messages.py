"""The messages of the protocol, and the largest that each may be.

Owns kinds, their headers (msgspec structs encoded as arrays, so that fields are only ever appended,
with a default), and the bounds of each.  Refuses to know frames and connections.  Invariant:
whatever `decode` returns lies within every bound named here; bytes that do not are a
RemoteProtocolError, never another exception.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from rainfs.errors import LocalProtocolError, RemoteProtocolError
from rainfs.memory import Buffer
from rainfs.model import (
    KIB,
    MAX_ABOUT_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARDS_PER_STRIPE,
    PAGE_BYTES,
    NodeHealth,
    NodeUuid,
    ShardInfo,
    ShardKey,
    StripeId,
    VolumeId,
)

MAX_KEYS_PER_DELETE = 4096
MAX_SHARDS_PER_LISTING = 4096
MAX_SMALL_HEADER_BYTES = 1 * KIB
MAX_REPORT_HEADER_BYTES = 64 * KIB
MAX_FAILED_HEADER_BYTES = 4 * KIB
_KEY_BYTES = 16
"""Longest encoding of a shard key: array of two, 64-bit and 8-bit integers, and some room."""
_INFO_BYTES = 48
MAX_DELETE_HEADER_BYTES = MAX_KEYS_PER_DELETE * _KEY_BYTES + MAX_SMALL_HEADER_BYTES
MAX_LISTING_HEADER_BYTES = MAX_SHARDS_PER_LISTING * _INFO_BYTES + MAX_SMALL_HEADER_BYTES
MAX_SHARDS_LOCATED = 32
_CRC_BYTES = 4
_MAX_CRCS_BYTES = MAX_SHARD_BYTES // PAGE_BYTES * _CRC_BYTES
MAX_LOCATED_HEADER_BYTES = (
    MAX_SHARDS_LOCATED * (_INFO_BYTES + _MAX_CRCS_BYTES) + MAX_SMALL_HEADER_BYTES
)
MAX_ABOUT_HEADER_BYTES = MAX_ABOUT_BYTES + MAX_SMALL_HEADER_BYTES

ID_BYTES = 16
"""Length of a volume id and of a node uuid."""

MAX_UNIX_NAME_BYTES = 100
"""The kernel takes 107 beside the leading zero."""

MAX_STORAGE_DESCRIPTORS = 2

_MAX_OFFSET = (1 << 63) - 1 - MAX_SHARD_BYTES
_MAX_STRIPE = (1 << 64) - 1


class Role(enum.Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    NODE = "node"


class Kind(enum.IntEnum):
    """What a frame is.  Numbers are never given away again."""

    HELLO = 1
    WELCOME = 2
    PUT = 16
    GET = 17
    DELETE = 18
    LIST = 19
    STAT = 20
    SYNC = 21
    HEALTH = 22
    CLAIM = 23
    LOCATE = 24
    PUT_SHARED = 32
    DONE = 64
    DATA = 65
    LISTING = 66
    DESCRIBED = 67
    REPORT = 68
    FAILED = 69
    LOCATED = 70


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Root of all messages."""

    kind: ClassVar[Kind]
    max_header_bytes: ClassVar[int] = MAX_SMALL_HEADER_BYTES
    max_payload_bytes: ClassVar[int] = 0

    def check(self) -> None:
        """Raise ValueError unless every field is in range."""


class Hello(Message, frozen=True, array_like=True):
    """The client's first frame: for which volume it comes (None: for `health` and `claim`).

    Over a Unix socket it may ask for `descriptors` of the storage file, and bring one of
    `memory_bytes` of memory in which it will name the payload of puts.
    """

    kind = Kind.HELLO
    volume: VolumeId | None
    software: str = ""
    descriptors: bool = False
    memory_bytes: int = 0

    def check(self) -> None:
        _check_id(self.volume)
        if self.memory_bytes < 0:
            raise ValueError(f"memory of {self.memory_bytes} bytes")


class Welcome(Message, frozen=True, array_like=True):
    """The node's first frame: who it is and which volume its store belongs to.

    Over TCP also the Unix socket where a client of the same host may come instead (a name in the
    abstract namespace), and both ends of this connection as the node sees them: a client for
    whom they are others is not directly connected, and must not go over.  Over a Unix socket, how
    many descriptors of the storage file come with it (the first is buffered, a second is O_DIRECT)
    and whether it has mapped the memory that the client brought.
    """

    kind = Kind.WELCOME
    uuid: NodeUuid
    volume: VolumeId | None
    software: str = ""
    unix_name: bytes = b""
    node_address: str = ""
    client_address: str = ""
    descriptors: int = 0
    memory: bool = False

    def check(self) -> None:
        _check_id(self.uuid)
        _check_id(self.volume)
        if len(self.unix_name) > MAX_UNIX_NAME_BYTES:
            raise ValueError(f"a socket's name of {len(self.unix_name)} bytes")
        if not 0 <= self.descriptors <= MAX_STORAGE_DESCRIPTORS:
            raise ValueError(f"{self.descriptors} descriptors")


class Put(Message, frozen=True, array_like=True):
    """Store the payload as a shard.  Answer: Done."""

    kind = Kind.PUT
    max_header_bytes = MAX_ABOUT_HEADER_BYTES
    max_payload_bytes = MAX_SHARD_BYTES
    stripe: StripeId
    shard: int
    durable: bool
    about: bytes = b""

    @property
    def key(self) -> ShardKey:
        """The shard's name."""
        return ShardKey(self.stripe, self.shard)

    def check(self) -> None:
        _check_key(self.stripe, self.shard)
        if len(self.about) > MAX_ABOUT_BYTES:
            raise ValueError(f"description of {len(self.about)} bytes")


class PutShared(Message, frozen=True, array_like=True):
    """Store as a shard what lies in the memory that the client has brought.  Answer: Done.

    The client leaves it as it is until the answer.
    """

    kind = Kind.PUT_SHARED
    max_header_bytes = MAX_ABOUT_HEADER_BYTES
    stripe: StripeId
    shard: int
    durable: bool
    about: bytes
    offset: int
    length: int

    @property
    def key(self) -> ShardKey:
        """The shard's name."""
        return ShardKey(self.stripe, self.shard)

    def check(self) -> None:
        _check_key(self.stripe, self.shard)
        _check_length(self.length)
        if len(self.about) > MAX_ABOUT_BYTES:
            raise ValueError(f"description of {len(self.about)} bytes")
        if self.offset < 0 or self.offset % PAGE_BYTES:
            raise ValueError(f"memory from byte {self.offset} on")


class Get(Message, frozen=True, array_like=True):
    """Return a range of a shard.  Answer: Data."""

    kind = Kind.GET
    stripe: StripeId
    shard: int
    offset: int
    length: int

    @property
    def key(self) -> ShardKey:
        """The shard's name."""
        return ShardKey(self.stripe, self.shard)

    def check(self) -> None:
        _check_key(self.stripe, self.shard)
        if not (0 <= self.offset <= MAX_SHARD_BYTES and 0 <= self.length <= MAX_SHARD_BYTES):
            raise ValueError(f"range {self.offset}+{self.length}")


class Delete(Message, frozen=True, array_like=True):
    """Delete shards.  Answer: Done."""

    kind = Kind.DELETE
    max_header_bytes = MAX_DELETE_HEADER_BYTES
    keys: list[tuple[StripeId, int]]

    def check(self) -> None:
        if len(self.keys) > MAX_KEYS_PER_DELETE:
            raise ValueError(f"{len(self.keys)} keys")
        for stripe, shard in self.keys:
            _check_key(stripe, shard)


class List(Message, frozen=True, array_like=True):
    """List shards above a key.  Answer: Listing."""

    kind = Kind.LIST
    after: tuple[StripeId, int] | None
    limit: int

    def check(self) -> None:
        if self.after is not None:
            _check_key(*self.after)
        if not 0 <= self.limit <= MAX_SHARDS_PER_LISTING:
            raise ValueError(f"limit {self.limit}")


class Stat(Message, frozen=True, array_like=True):
    """Describe one shard.  Answer: Described."""

    kind = Kind.STAT
    stripe: StripeId
    shard: int

    @property
    def key(self) -> ShardKey:
        """The shard's name."""
        return ShardKey(self.stripe, self.shard)

    def check(self) -> None:
        _check_key(self.stripe, self.shard)


class Sync(Message, frozen=True, array_like=True):
    """Make everything answered so far durable.  Answer: Done."""

    kind = Kind.SYNC


class Health(Message, frozen=True, array_like=True):
    """Ask the node how it is.  Answer: Report."""

    kind = Kind.HEALTH


class Claim(Message, frozen=True, array_like=True):
    """Bind the node's store to a volume; the connection is for that volume afterwards."""

    kind = Kind.CLAIM
    volume: VolumeId

    def check(self) -> None:
        _check_id(self.volume)


class Locate(Message, frozen=True, array_like=True):
    """Say where in the storage file a shard and those after it lie.  Answer: Located."""

    kind = Kind.LOCATE
    stripe: StripeId
    shard: int
    limit: int

    def check(self) -> None:
        _check_key(self.stripe, self.shard)
        if not 1 <= self.limit <= MAX_SHARDS_LOCATED:
            raise ValueError(f"limit {self.limit}")


class Done(Message, frozen=True, array_like=True):
    """It is done."""

    kind = Kind.DONE


class Data(Message, frozen=True, array_like=True):
    """The bytes asked for are the payload."""

    kind = Kind.DATA
    max_payload_bytes = MAX_SHARD_BYTES


class Listing(Message, frozen=True, array_like=True):
    """Shards in key order: stripe, shard, length, durable."""

    kind = Kind.LISTING
    max_header_bytes = MAX_LISTING_HEADER_BYTES
    shards: list[tuple[StripeId, int, int, bool]]

    def check(self) -> None:
        if len(self.shards) > MAX_SHARDS_PER_LISTING:
            raise ValueError(f"{len(self.shards)} shards")
        for stripe, shard, length, _ in self.shards:
            _check_key(stripe, shard)
            _check_length(length)

    @classmethod
    def of(cls, infos: list[ShardInfo]) -> Listing:
        """Return the listing that says `infos`."""
        return cls([(info.key.stripe, info.key.shard, info.length, info.durable) for info in infos])

    def infos(self) -> list[ShardInfo]:
        """Return what the listing says."""
        return [
            ShardInfo(ShardKey(stripe, shard), length, durable, b"")
            for stripe, shard, length, durable in self.shards
        ]


class Described(Message, frozen=True, array_like=True):
    """One shard."""

    kind = Kind.DESCRIBED
    max_header_bytes = MAX_ABOUT_HEADER_BYTES
    length: int
    durable: bool
    about: bytes

    def check(self) -> None:
        _check_length(self.length)
        if len(self.about) > MAX_ABOUT_BYTES:
            raise ValueError(f"description of {len(self.about)} bytes")


class Report(Message, frozen=True, array_like=True):
    """The node's health."""

    kind = Kind.REPORT
    max_header_bytes = MAX_REPORT_HEADER_BYTES
    uuid: NodeUuid
    volume: VolumeId | None
    name: str
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    shards: int
    labels: dict[str, str]
    failing: bool
    version: str

    def check(self) -> None:
        _check_id(self.uuid)
        _check_id(self.volume)
        if min(self.capacity_bytes, self.used_bytes, self.free_bytes, self.shards) < 0:
            raise ValueError("a negative count")

    @classmethod
    def of(cls, health: NodeHealth) -> Report:
        """Return the report that says `health`."""
        return cls(
            uuid=health.uuid,
            volume=health.volume,
            name=health.name,
            capacity_bytes=health.capacity_bytes,
            used_bytes=health.used_bytes,
            free_bytes=health.free_bytes,
            shards=health.shards,
            labels=dict(health.labels),
            failing=health.failing,
            version=health.version,
        )

    def health(self) -> NodeHealth:
        """Return what the report says."""
        return NodeHealth(
            uuid=self.uuid,
            volume=self.volume,
            name=self.name,
            capacity_bytes=self.capacity_bytes,
            used_bytes=self.used_bytes,
            free_bytes=self.free_bytes,
            shards=self.shards,
            labels=self.labels,
            failing=self.failing,
            version=self.version,
        )


class Failed(Message, frozen=True, array_like=True):
    """It was not done; `code` says which error it is.  Answers any request, and Hello."""

    kind = Kind.FAILED
    max_header_bytes = MAX_FAILED_HEADER_BYTES
    code: int
    text: str


class Located(Message, frozen=True, array_like=True):
    """Shards in key order: stripe, shard, offset in the storage file, length, CRC-32C of each page.

    Those whose bytes are not in their place yet are left out, and some others may be.
    """

    kind = Kind.LOCATED
    max_header_bytes = MAX_LOCATED_HEADER_BYTES
    shards: list[tuple[StripeId, int, int, int, bytes]]

    def check(self) -> None:
        if len(self.shards) > MAX_SHARDS_LOCATED:
            raise ValueError(f"{len(self.shards)} shards")
        for stripe, shard, offset, length, crcs in self.shards:
            _check_key(stripe, shard)
            _check_length(length)
            if not 0 <= offset <= _MAX_OFFSET or offset % PAGE_BYTES:
                raise ValueError(f"a shard at {offset}")
            if len(crcs) != length // PAGE_BYTES * _CRC_BYTES:
                raise ValueError(f"{len(crcs)} bytes of checksums")


_TYPES: tuple[type[Message], ...] = (
    *(Hello, Welcome, Put, PutShared, Get, Delete, List, Stat, Sync, Health, Claim),
    *(Locate, Done, Data, Listing, Described, Report, Failed, Located),
)
MESSAGES: dict[int, type[Message]] = {int(message.kind): message for message in _TYPES}
_DECODERS = {kind: msgspec.msgpack.Decoder(message) for kind, message in MESSAGES.items()}
_encode = msgspec.msgpack.Encoder().encode


def _check_id(value: bytes | None) -> None:
    if value is not None and len(value) != ID_BYTES:
        raise ValueError(f"an id of {len(value)} bytes")


def _check_key(stripe: int, shard: int) -> None:
    if not (0 <= stripe <= _MAX_STRIPE and 0 <= shard < MAX_SHARDS_PER_STRIPE):
        raise ValueError(f"shard key {stripe}/{shard}")


def _check_length(length: int) -> None:
    if not 0 <= length <= MAX_SHARD_BYTES or length % PAGE_BYTES:
        raise ValueError(f"a shard of {length} bytes")


def encode(message: Message) -> bytes:
    """Return a message's header.  Raises: LocalProtocolError when it breaks a bound."""
    try:
        message.check()
        header = _encode(message)
    except (ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"{message.kind.name}: {error}") from error
    if len(header) > message.max_header_bytes:
        raise LocalProtocolError(f"{message.kind.name}: a header of {len(header)} bytes")
    return header


def decode(kind: int, header: Buffer) -> Message:
    """Return the message in `header`.  Raises: RemoteProtocolError for anything but a valid one."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise RemoteProtocolError(f"a message of unknown kind {kind}")
    try:
        message = decoder.decode(header)
        message.check()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"a {Kind(kind).name} that makes no sense: {error}") from error
    return message
