"""The backend `file:///dir[?capacity=BYTES]`: a storage file on a local disk, without a daemon.

Owns a store in this process, opened at the first call.  `capacity` is needed the first time only.
Invariant: payload of a put is copied before the disk sees it, so that a call which has passed its
deadline, while the disk hangs, leaves nothing that refers to the caller's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random, SystemRandom
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from rainfs.array.backend import Buffer, NodeHealth, ShardInfo, ShardKey
from rainfs.array.backends.bounds import check_put, check_range
from rainfs.array.backends.reach import Reach
from rainfs.async_store.access import AsyncStore
from rainfs.async_store.buffers import Buffers
from rainfs.errors import ForeignVolume, InputError, NodeUnavailable, RainError
from rainfs.model import VolumeId
from rainfs.store.disk import SYSTEM_DISK, Disk
from rainfs.store.store import Store


class FileBackend:
    """One local storage directory."""

    def __init__(
        self,
        url: str,
        directory: Path,
        capacity_bytes: int | None,
        volume: VolumeId | None,
        *,
        deadline_s: float,
        random: Random,
        disk: Disk = SYSTEM_DISK,
    ) -> None:
        self._url = url
        self._disk = disk
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        self._volume = volume
        self._deadline_s = deadline_s
        self._reach = Reach(random)
        self._failure: RainError = NodeUnavailable(f"{url}: closed")
        self._opening = trio.Lock()
        self._store: Store | None = None
        self._shared: AsyncStore | None = None
        self._buffers = Buffers()
        self._calls: set[trio.CancelScope] = set()
        self._closed = False

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
        async with self._call() as store:
            lease = self._buffers.lease(nbytes)
            filled = 0
            for buffer in payload:
                view = memoryview(buffer).cast("B")
                lease.view[filled : filled + len(view)] = view
                filled += len(view)
            over = trio.Event()
            outcome: list[RainError | None] = []

            def done(error: RainError | None) -> None:
                lease.release()
                outcome.append(error)
                over.set()

            store.begin_put(key, (lease.view,), nbytes, bytes(about), durable=durable, done=done)
            await over.wait()
            if outcome[0] is not None:
                raise outcome[0]

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        """Return verified bytes.  See `Backend.get`."""
        check_range(offset, length)
        async with self._call() as store:
            return await store.get(key, offset, length)

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        """Delete shards.  See `Backend.delete`."""
        async with self._call() as store:
            await store.delete(keys)

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """List shards.  See `Backend.list`."""
        async with self._call() as store:
            return await store.list(after, limit)

    async def stat(self, key: ShardKey) -> ShardInfo:
        """Describe a shard.  See `Backend.stat`."""
        async with self._call() as store:
            return await store.stat(key)

    async def sync(self) -> None:
        """Make everything answered durable.  See `Backend.sync`."""
        async with self._call() as store:
            await store.sync()

    async def health(self) -> NodeHealth:
        """Ask the store how it is; tries to open it at once, whatever the back-off."""
        async with self._call(any_volume=True, probe=True) as store:
            return await store.health()

    async def claim(self, volume: VolumeId) -> None:
        """Bind the store to `volume`.  See `Backend.claim`."""
        async with self._call(any_volume=True) as store:
            await store.claim(volume)
            self._volume = volume

    async def aclose(self) -> None:
        """Close the store; outstanding calls raise NodeUnavailable.  Idempotent."""
        self._closed = True
        for scope in tuple(self._calls):
            scope.cancel()
        with trio.CancelScope(shield=True):
            async with self._opening:
                store, self._store = self._store, None
                shared, self._shared = self._shared, None
                if shared is not None:
                    await shared.aclose()
                if store is not None:
                    await trio.to_thread.run_sync(store.close)

    @asynccontextmanager
    async def _call(
        self, *, any_volume: bool = False, probe: bool = False
    ) -> AsyncIterator[AsyncStore]:
        """Bound a call by the deadline and by `aclose`, and give it the opened store."""
        with trio.move_on_after(self._deadline_s) as scope:
            self._calls.add(scope)
            try:
                store = self._shared or await self._open(probe)
                if not any_volume and (self._volume is None or store.volume != self._volume):
                    raise ForeignVolume(f"{self._url}: belongs to another volume, or to none yet")
                yield store
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught:
            reason = "closed" if self._closed else f"no answer within {self._deadline_s:g} s"
            raise NodeUnavailable(f"{self._url}: {reason}")

    async def _open(self, probe: bool) -> AsyncStore:
        async with self._opening:
            if self._shared is not None:
                return self._shared
            if self._closed:
                raise NodeUnavailable(f"{self._url}: closed")
            if not probe and not self._reach.may_try(trio.current_time()):
                raise type(self._failure)(str(self._failure))
            try:
                # Not abandoned when cancelled: a store that nobody knows would stay locked.
                self._store = await trio.to_thread.run_sync(
                    lambda: Store.open(
                        self._directory, capacity_bytes=self._capacity_bytes, disk=self._disk
                    )
                )
            except RainError as error:
                self._reach.failed(trio.current_time(), str(error))
                self._failure = error
                raise
            self._reach.succeeded()
            self._shared = AsyncStore(self._store)
            return self._shared


def open_backend(
    url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
) -> FileBackend:
    """Return a backend for `file:///dir`.  Raises: InputError for anything else."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url!r}: {error}") from error
    query = parse_qs(parts.query, keep_blank_values=True)
    capacity = query.pop("capacity", [])
    if (
        parts.scheme != "file"
        or parts.netloc not in ("", "localhost")
        or not parts.path.startswith("/")
        or query
        or parts.fragment
        or len(capacity) > 1
    ):
        raise InputError(f"{url!r} is not of the form file:///DIRECTORY[?capacity=BYTES]")
    capacity_bytes: int | None = None
    with contextlib.suppress(ValueError):
        capacity_bytes = int(capacity[0]) if capacity else None
    if capacity and (capacity_bytes is None or capacity_bytes <= 0):
        raise InputError(f"{url!r}: capacity={capacity[0]!r} is not a number of bytes")
    return FileBackend(
        url,
        Path(unquote(parts.path)),
        capacity_bytes,
        volume,
        deadline_s=deadline_s,
        random=SystemRandom(),
    )
