"""The backend `rain://host:port`: a node daemon, reached over the network.

Owns the translation of calls to messages.  Refuses to know sockets.  Small and bulk requests travel
on a connection each, so that a read of one page does not queue behind megabytes.  Shards of a
node on the same host are read from its storage file once it has said where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random, SystemRandom
from urllib.parse import urlsplit

import trio

from rainfs.array.backend import Buffer, NodeHealth, ShardInfo, ShardKey
from rainfs.array.backends.begun_get import LinkGet
from rainfs.array.backends.bounds import check_put, check_range
from rainfs.array.backends.lane import Lane
from rainfs.array.backends.link import Begun
from rainfs.array.backends.reach import Reach
from rainfs.errors import InputError, NodeUnavailable, RainError, RemoteProtocolError
from rainfs.memory import Recycler
from rainfs.model import KIB, VolumeId
from rainfs.shared_memory import SharedMemory
from rainfs.wire import messages as wire

BULK_BYTES = 64 * KIB
"""Puts and gets longer than this travel on the bulk connection."""


_RECYCLER = Recycler()
"""Memory for what is read from storage files of this host: one for all nodes."""


class RainBackend:
    """One node daemon."""

    def __init__(
        self,
        url: str,
        host: str,
        port: int,
        volume: VolumeId | None,
        *,
        deadline_s: float,
        nursery: trio.Nursery,
        random: Random,
    ) -> None:
        self._url = url
        reach = Reach(random)
        self._deadline_s = deadline_s
        self._small = Lane(
            host,
            port,
            volume,
            reach,
            deadline_s=deadline_s,
            nursery=nursery,
            recycler=_RECYCLER,
        )
        self._bulk = Lane(host, port, volume, reach, deadline_s=deadline_s, nursery=nursery)

    def share(self, memory: SharedMemory) -> None:
        """Have long shards in `memory` read there.  See `MemorySharer.share`."""
        self._bulk.share(memory)

    @property
    def url(self) -> str:
        """The URL that opened it."""
        return self._url

    async def put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes = b"",
        *,
        durable: bool,
    ) -> None:
        """Store a shard.  See `Backend.put`."""
        nbytes = check_put(payload, about)
        lane = self._bulk if nbytes > BULK_BYTES else self._small
        await lane.call(wire.Put(key.stripe, key.shard, durable, bytes(about)), payload, nbytes)

    def begin_put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes,
        over: Callable[[RainError | None], None],
    ) -> Begun | None:
        """Begin a durable put.  See `PutBeginner.begin_put`."""
        nbytes = check_put(payload, about)
        lane = self._bulk if nbytes > BULK_BYTES else self._small
        message = wire.Put(key.stripe, key.shard, True, about)
        return lane.begin(message, payload, nbytes, lambda call: over(call.error))

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        """Return verified bytes.  See `Backend.get`."""
        check_range(offset, length)
        found = self.near_now(key, offset, length) or await self.near(key, offset, length)
        if found is not None:
            return found
        lane = self._bulk if length > BULK_BYTES else self._small
        _, data = await lane.call(wire.Get(key.stripe, key.shard, offset, length))
        self._locate(key)
        return data

    def begin_get(self, key: ShardKey, offset: int, length: int) -> LinkGet | None:
        """Begin a small get.  See `GetBeginner.begin_get`."""
        neighbour = self._small.neighbour
        if length > BULK_BYTES or (neighbour is not None and neighbour.knows(key)):
            return None  # What lies here is read here, in a thread where it must be.
        check_range(offset, length)
        get = LinkGet()
        begun = self._small.begin(wire.Get(key.stripe, key.shard, offset, length), (), 0, get)
        if begun is None:
            return None
        get.began(begun)
        self._locate(key)
        return get

    def near_now(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Read from the storage file at once.  See `NearReader.near_now`."""
        neighbour = self._small.neighbour
        return neighbour.get_now(key, offset, length) if neighbour is not None else None

    async def near(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Read from the storage file in a thread.  See `NearReader.near`."""
        neighbour = self._small.neighbour
        if neighbour is None or not neighbour.knows(key):
            return None
        with trio.move_on_after(self._deadline_s):
            return await neighbour.get(key, offset, length)
        raise NodeUnavailable(f"{self._url}: its disk gave nothing within {self._deadline_s:g} s")

    def _locate(self, key: ShardKey) -> None:
        """Ask where a shard and those after it lie, for the next time; once at a time."""
        neighbour = self._small.neighbour
        if neighbour is None or not neighbour.may_ask(key, trio.current_time()):
            return

        def located(begun: Begun) -> None:
            answer = begun.answer
            shards = answer.shards if isinstance(answer, wire.Located) else ()
            neighbour.learn(key, shards, trio.current_time())

        message = wire.Locate(key.stripe, key.shard, wire.MAX_SHARDS_LOCATED)
        if self._small.begin(message, (), 0, located) is not None:
            neighbour.asking = True

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        """Delete shards.  See `Backend.delete`."""
        if self._small.neighbour is not None:
            self._small.neighbour.forget(keys)
        for first in range(0, len(keys), wire.MAX_KEYS_PER_DELETE):
            part = keys[first : first + wire.MAX_KEYS_PER_DELETE]
            await self._small.call(wire.Delete([(key.stripe, key.shard) for key in part]))

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """List shards.  See `Backend.list`."""
        found: list[ShardInfo] = []
        while (left := min(limit - len(found), wire.MAX_SHARDS_PER_LISTING)) > 0:
            start = None if after is None else (after.stripe, after.shard)
            answer, _ = await self._small.call(wire.List(start, left))
            assert isinstance(answer, wire.Listing)
            page = answer.infos()
            if len(page) > left or (after is not None and page and page[0].key <= after):
                raise RemoteProtocolError(f"{self._url}: a listing that was not asked for")
            found += page
            if len(page) < left:
                break
            after = page[-1].key
        return found

    async def stat(self, key: ShardKey) -> ShardInfo:
        """Describe a shard.  See `Backend.stat`."""
        answer, _ = await self._small.call(wire.Stat(key.stripe, key.shard))
        assert isinstance(answer, wire.Described)
        return ShardInfo(key, answer.length, answer.durable, answer.about)

    async def sync(self) -> None:
        """Make everything answered durable.  See `Backend.sync`."""
        await self._small.call(wire.Sync())

    async def health(self) -> NodeHealth:
        """Ask the node how it is; tries at once, whatever the back-off."""
        answer, _ = await self._small.call(wire.Health(), probe=True)
        assert isinstance(answer, wire.Report)
        return answer.health()

    async def claim(self, volume: VolumeId) -> None:
        """Bind the node's store to `volume`.  See `Backend.claim`."""
        await self._small.call(wire.Claim(volume))

    async def aclose(self) -> None:
        """Close; outstanding calls raise NodeUnavailable.  Idempotent."""
        self._small.close()
        self._bulk.close()
        await trio.lowlevel.checkpoint()


def open_backend(
    url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
) -> RainBackend:
    """Return a backend for `rain://host:port`.  Raises: InputError for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url!r}: {error}") from error
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username
    if parts.scheme != "rain" or not host or not port or extra:
        raise InputError(f"{url!r} is not of the form rain://HOST:PORT")
    return RainBackend(
        url, host, port, volume, deadline_s=deadline_s, nursery=nursery, random=SystemRandom()
    )
