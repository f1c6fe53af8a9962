"""The values that every layer speaks of: ids, codes, layouts, stripes, blocks, extents, nodes.

Owns the shape of the stored records that more than one layer needs.  Refuses to know how any of
them is stored, sent or computed.  All values are frozen; stored ones are msgspec structs encoded as
arrays, so fields are only ever appended, with a default.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

import msgspec

from rainfs.errors import InputError

KIB = 1 << 10
MIB = 1 << 20

PAGE_BYTES = 4 * KIB
"""Unit of a node's checksums, of shard padding and of direct I/O."""

DEFAULT_BLOCK_BYTES = 128 * KIB
MAX_BLOCK_BYTES = 1 * MIB
MAX_SHARD_BYTES = 4 * MIB
"""No shard is longer; wire and store check against it before they allocate."""

MAX_ABOUT_BYTES = 1 * MIB
"""Longest description of a shard's content that a node stores beside it."""

MAX_SHARDS_PER_STRIPE = 255
"""GF(2^8) allows no longer codeword."""

MAX_FILE_BYTES = 1 << 60
MAX_NAME_BYTES = 255

VolumeId = NewType("VolumeId", bytes)
"""16 random bytes."""

NodeUuid = NewType("NodeUuid", bytes)
"""16 random bytes, in the node's storage file: its identity, whatever its address."""

NodeNumber = NewType("NodeNumber", int)
"""1, 2, ...: a node's short name inside one volume's metadata; never reused."""

StripeId = NewType("StripeId", int)
"""64 bits: session epoch (24) and counter (40).  Never used again."""

InodeNumber = NewType("InodeNumber", int)
ROOT_INODE = InodeNumber(1)

_COUNTER_BITS = 40
MAX_EPOCH = (1 << 24) - 1
MAX_COUNTER = (1 << _COUNTER_BITS) - 1


def stripe_id(epoch: int, counter: int) -> StripeId:
    """Return the id of stripe `counter` of session `epoch`.  Raises: ValueError out of range."""
    if not (0 <= epoch <= MAX_EPOCH and 0 <= counter <= MAX_COUNTER):
        raise ValueError(f"stripe id out of range: epoch {epoch}, counter {counter}")
    return StripeId(epoch << _COUNTER_BITS | counter)


def epoch_of(stripe: StripeId) -> int:
    """Return the session epoch in which the stripe was written."""
    return stripe >> _COUNTER_BITS


class CodeKind(enum.IntEnum):
    """The two kinds of redundancy."""

    REED_SOLOMON = 1
    MIRROR = 2


class Code(msgspec.Struct, frozen=True, array_like=True):
    """Geometry of a stripe: `k` data and `m` parity shards; a mirror of n copies is k=1, m=n-1."""

    kind: CodeKind
    k: int
    m: int

    @property
    def n(self) -> int:
        """Number of shards in the stripe."""
        return self.k + self.m

    def __str__(self) -> str:
        return f"mirror:{self.n}" if self.kind is CodeKind.MIRROR else f"{self.k}+{self.m}"


def reed_solomon(k: int, m: int) -> Code:
    """Return the code `k+m`.  Raises: InputError unless k >= 1, m >= 0, k + m <= 255."""
    if k < 1 or m < 0 or k + m > MAX_SHARDS_PER_STRIPE:
        raise InputError(
            f"code {k}+{m}: need at least 1 data shard, 0 or more parity shards, "
            f"and at most {MAX_SHARDS_PER_STRIPE} together"
        )
    return Code(CodeKind.REED_SOLOMON, k, m)


def mirror(copies: int) -> Code:
    """Return the code of `copies` equal copies.  Raises: InputError unless 1 <= copies <= 255."""
    if not 1 <= copies <= MAX_SHARDS_PER_STRIPE:
        raise InputError(f"mirror of {copies} copies: need 1 to {MAX_SHARDS_PER_STRIPE}")
    return Code(CodeKind.MIRROR, 1, copies - 1)


class Compression(enum.IntEnum):
    """How a block's bytes are stored."""

    NONE = 0
    LZ4 = 1


LayoutId = NewType("LayoutId", int)


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """How files below a directory are coded.  Immutable; found by id."""

    id: LayoutId
    code: Code
    compression: Compression = Compression.LZ4
    block_bytes: int = DEFAULT_BLOCK_BYTES
    shard_bytes: int = 1 * MIB
    """Longest shard of a full stripe; a stripe holds at most k * shard_bytes of file bytes."""
    small_bytes: int = 64 * KIB
    """A flush of at most this much becomes a mirrored stripe of m + 1 copies."""

    @property
    def stripe_bytes(self) -> int:
        """File bytes in a full stripe."""
        return self.code.k * self.shard_bytes


class Block(msgspec.Struct, frozen=True, array_like=True):
    """One run of one file's bytes inside a stripe; lies whole in one data shard."""

    inode: InodeNumber
    file_offset: int
    length: int
    """File bytes that the block decodes to."""
    shard: int
    """Index of the data shard that holds it (0 for a mirror)."""
    shard_offset: int
    """First byte inside the shard."""
    stored: int
    """Bytes it takes inside the shard."""
    compression: Compression
    crc32c: int
    """CRC-32C of the decoded bytes: the end-to-end check at the mount."""


class Stripe(msgspec.Struct, frozen=True, array_like=True):
    """The immutable row of a stripe."""

    code: Code
    """The geometry it was written with, which may be narrower than its layout's."""
    shard_bytes: int
    """Length of every shard, a multiple of PAGE_BYTES."""
    blocks: tuple[Block, ...]
    layout: LayoutId
    sealing: bytes = b""
    """Room for key id and nonce; empty while blocks are not sealed."""


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """Where the shards of a stripe lie: `nodes[i]` holds shard i; 0 says nobody does."""

    nodes: tuple[NodeNumber, ...]


NO_NODE = NodeNumber(0)


class StripeView(msgspec.Struct, frozen=True):
    """A stripe as a reader needs it: what it is and where its shards are."""

    id: StripeId
    stripe: Stripe
    placement: Placement

    @property
    def degraded(self) -> bool:
        """Whether some shard was placed nowhere when the stripe was written."""
        return NO_NODE in self.placement.nodes


class Extent(msgspec.Struct, frozen=True):
    """A run of file bytes `[offset, offset + length)` that a block holds."""

    offset: int
    length: int
    stripe: StripeId
    block: int
    block_offset: int
    """First byte of the run inside the decoded block."""


class NodeState(enum.StrEnum):
    """What the array thinks of a node."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    DRAINING = "draining"


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A member of a volume, as the metadata records it."""

    number: NodeNumber
    uuid: NodeUuid
    name: str
    url: str
    labels: dict[str, str]
    draining: bool = False


class ShardKey(NamedTuple):
    """Name of a shard inside a volume.  Keys order by stripe, then shard."""

    stripe: StripeId
    shard: int
    """Index of the shard in its stripe: 0 to k-1 data, k to n-1 parity."""


class ShardInfo(NamedTuple):
    """What a node says of a shard without reading it."""

    key: ShardKey
    length: int
    """Bytes, a multiple of PAGE_BYTES."""
    durable: bool
    """Whether data and index entry are known to be on stable storage."""
    about: bytes
    """The description that came with the put (empty in listings)."""


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """A node's own report."""

    uuid: NodeUuid
    volume: VolumeId | None
    name: str
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    """What a put may still take: the smaller of capacity left and room on the disk below."""
    shards: int
    labels: Mapping[str, str] = field(default_factory=dict)
    failing: bool = False
    """The disk below has reported I/O errors."""
    version: str = ""


class Attr(msgspec.Struct, frozen=True, array_like=True):
    """Attributes of an inode, as stored.  Times are nanoseconds since the epoch."""

    inode: InodeNumber
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    layout: LayoutId
    has_xattrs: bool = False
    """False says that no xattr key exists, so that getxattr need not look."""
    target: bytes = b""
    """Where a symbolic link points."""
    allocated: int = 0
    """File bytes that extents cover (st_blocks), kept by the extent commits."""
    parent: InodeNumber = InodeNumber(0)
    """For a directory: the directory that holds it (`..`); 0 otherwise."""
