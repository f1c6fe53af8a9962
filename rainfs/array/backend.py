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

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import trio

from rainfs.array.linger import Linger
from rainfs.errors import RainError
from rainfs.model import NodeHealth, ShardInfo, ShardKey, VolumeId
from rainfs.shared_memory import SharedMemory

__all__ = [
    "Backend",
    "BackendFactory",
    "BegunGet",
    "BegunPut",
    "Buffer",
    "GetBeginner",
    "MemorySharer",
    "NearReader",
    "NodeHealth",
    "PutBeginner",
    "ShardInfo",
    "ShardKey",
]

Buffer = bytes | bytearray | memoryview


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


class BegunPut(Protocol):
    """A put that awaits its answer."""

    def abandon(self) -> None:
        """Await it no longer: nothing refers to the payload then, or the pool that it came from
        keeps it; its outcome is unknown."""
        ...

    @property
    def fileno(self) -> int:
        """The descriptor that becomes readable with the answer."""
        ...

    def stay(self, most_ms: int) -> bool:
        """Wait for bytes, `most_ms` at most, while the event loop stands still; False if none."""
        ...


@runtime_checkable
class PutBeginner(Protocol):
    """What a backend may offer besides: puts without a task for each."""

    def begin_put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes,
        over: Callable[[RainError | None], None],
    ) -> BegunPut | None:
        """Begin a durable put and return at once; None where that takes waiting: then call `put`.

        `over` is called exactly once, later, with None or an error that `put` may raise, unless
        the put is abandoned.
        """
        ...


@runtime_checkable
class MemorySharer(Protocol):
    """What a backend may offer besides: puts whose payload its node reads where it lies."""

    def share(self, memory: SharedMemory) -> None:
        """Use `memory` for connections that are made from now on."""
        ...


class BegunGet(Protocol):
    """A get that awaits its answer."""

    def linger(self, linger: Linger) -> bool:
        """Wait as long as `linger` says, while the event loop stands still; whether it is over."""
        ...

    async def rest(self) -> memoryview:
        """Return the bytes, waiting for them with everybody else.  Raises: what `get` raises."""
        ...

    def result(self) -> memoryview:
        """Return the bytes of a get that is over.  Raises: what `get` raises."""
        ...

    def abandon(self) -> None:
        """Await it no longer; nothing for one that is over."""
        ...


@runtime_checkable
class GetBeginner(Protocol):
    """What a backend may offer besides: small gets without tasks and turns of the scheduler."""

    def begin_get(self, key: ShardKey, offset: int, length: int) -> BegunGet | None:
        """Begin a get and return at once; None where that takes waiting: then call `get`."""
        ...


@runtime_checkable
class NearReader(Protocol):
    """What a backend may offer besides: shards that lie on this host, read without their node.

    What it returns says nothing of the node, which may be frozen.
    """

    def near_now(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Return verified bytes, if that costs no thread; None: try `near`."""
        ...

    async def near(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Return verified bytes; None: ask the node, with `get`.

        Raises: NodeUnavailable when the disk gives nothing within the deadline.
        """
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `rainfs.backends`, named by URL scheme, is."""

    def __call__(
        self, url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
    ) -> Backend:
        """Return a backend for `url`; connects lazily, and runs its readers in `nursery`.

        `volume` is None only for `health` and `claim`.  Raises: InputError for an unusable URL.
        """
        ...
