"""The one interface through which the array talks to a node.

Every backend (`rain://host:port`, `file:///dir`, or one from the entry-point group
`rainfs.backends`) implements `Backend` and passes `tests/contract/test_backend.py`.  A backend
stores, returns, deletes and enumerates shards of one volume; it does not know stripes' geometry or
files.  It never returns bytes that it could not verify.

Every call is bounded: it answers or raises `NodeUnavailable` within the deadline that the backend
was opened with.  Cancelling a call is always safe; whether a cancelled put took place is unknown
until the shard is stat'ed.  Retrying a call is always safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rainfs.model import NodeUuid, StripeId, VolumeId

Buffer = bytes | bytearray | memoryview


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


class Backend(Protocol):
    """One node, seen from the array.  `Raises: NodeUnavailable` holds for every call."""

    @property
    def url(self) -> str:
        """The URL that opened it."""
        ...

    async def put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes = b"",
        *,
        durable: bool,
    ) -> None:
        """Store a shard: the concatenation of `payload`, a multiple of PAGE_BYTES long.

        With `durable`, data and index are on stable storage before this returns.  Putting the same
        content again succeeds.  The payload buffers must not change until the call is over.

        Raises: NodeFull, NodeFailing, ShardConflict.
        """
        ...

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        """Return `length` verified bytes from `offset` on; neither needs to be aligned.

        The memory is the caller's own from then on.

        Raises: ShardMissing, ShardCorrupt, NodeFailing, InputError beyond the shard's end.
        """
        ...

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        """Delete shards; one that is not there counts as deleted."""
        ...

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """Return at most `limit` shards in key order, the first one above `after`."""
        ...

    async def stat(self, key: ShardKey) -> ShardInfo:
        """Describe one shard, `about` included.  Raises: ShardMissing."""
        ...

    async def sync(self) -> None:
        """Make every put and delete that has been answered durable.  Raises: NodeFailing."""
        ...

    async def health(self) -> NodeHealth:
        """Ask the node how it is."""
        ...

    async def claim(self, volume: VolumeId) -> None:
        """Bind a store that belongs to no volume to `volume`; idempotent, durable.

        Raises: ForeignVolume if it is bound to another.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; outstanding calls raise NodeUnavailable.  Idempotent."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `rainfs.backends`, named by URL scheme, is."""

    def __call__(self, url: str, volume: VolumeId | None, *, deadline_s: float) -> Backend:
        """Return a backend for `url`; connects lazily.

        `volume` is None only for `health` and `claim`.  Raises: InputError for an unusable URL.
        """
        ...
