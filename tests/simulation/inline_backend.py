"""A node without threads and without a network: the store is called in line.

It makes the check of a crash state cheap.  In a recorded run its answers come some turns of the
scheduler after the deed, now one and now many, so that whatever else goes on meets the time
between a shard's write and its stripe's commit.  A node can be `away`, and one whose directory is
gone stays so: every call is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import trio

from rainfs.array.backend import Buffer
from rainfs.errors import NodeUnavailable
from rainfs.model import NodeHealth, ShardInfo, ShardKey, VolumeId
from rainfs.store.disk import Disk
from rainfs.store.store import Store

DAWDLE_TURNS = (0, 0, 0, 1, 3, 20)
"""How late an answer may be, in turns of the scheduler."""


class InlineBackend:
    """See `rainfs.array.backend.Backend`."""

    def __init__(self, url: str, directory: Path, disk: Disk, random: Random | None) -> None:
        """Answer late if there is `random`."""
        self.url = url
        self._random = random
        self.away = False
        self._directory = directory
        self._disk = disk
        self._store: Store | None = None

    async def _opened(self) -> Store:
        await trio.lowlevel.checkpoint()
        if self.away or not self._directory.is_dir():
            raise NodeUnavailable(f"{self.url}: away")
        if self._store is None:
            self._store = Store.open(self._directory, capacity_bytes=None, disk=self._disk)
        return self._store

    async def _dawdle(self) -> None:
        if self._random is not None:
            for _ in range(self._random.choice(DAWDLE_TURNS)):
                await trio.lowlevel.checkpoint()

    async def put(
        self, key: ShardKey, payload: Sequence[Buffer], about: bytes = b"", *, durable: bool
    ) -> None:
        store = await self._opened()
        alone = durable and len(payload) == 1 and store.put_alone(key, payload[0], about)
        if not alone:
            [refused] = store.commit([store.write(key, payload, about)], durable=durable)
            if refused is not None:
                raise refused
        await self._dawdle()

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        found = (await self._opened()).read(key, offset, length)
        assert found is not None
        return found

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        (await self._opened()).delete(keys)
        await self._dawdle()

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        found = (await self._opened()).list(after, limit)
        await self._dawdle()
        return found

    async def stat(self, key: ShardKey) -> ShardInfo:
        return (await self._opened()).stat(key)

    async def sync(self) -> None:
        (await self._opened()).sync()

    async def health(self) -> NodeHealth:
        return (await self._opened()).health()

    async def claim(self, volume: VolumeId) -> None:
        (await self._opened()).claim(volume)

    async def aclose(self) -> None:
        self.away = True
        store, self._store = self._store, None
        if store is not None:
            store.close()
