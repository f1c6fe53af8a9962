"""What every backend must do: one suite for rain:// (as it comes, from the storage file of a node
on this host, with payload in shared memory, over TCP alone), file:// and the fake that other tests
use.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
import trio
import trio.lowlevel

from rainfs.array.backend import Backend, Buffer
from rainfs.array.backends import going_over
from rainfs.array.backends.rain import RainBackend
from rainfs.array.backends.registry import open_backend
from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFull,
    NodeUnavailable,
    ShardConflict,
    ShardMissing,
)
from rainfs.model import (
    MAX_ABOUT_BYTES,
    MAX_SHARD_BYTES,
    MIB,
    PAGE_BYTES,
    ShardKey,
    StripeId,
    VolumeId,
)
from rainfs.node.daemon import serve
from rainfs.shared_memory import SharedMemory, SharedPool
from rainfs.store import store as store_module
from rainfs.store.store import Store
from rainfs.wire import messages
from tests.fakes.backend import FakeNode

VOLUME = VolumeId(b"the volume here.")
OTHER = VolumeId(b"another volume..")
CAPACITY_BYTES = 12 * MIB
DEADLINE_S = 10.0


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


def noise(nbytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(nbytes)


class Harness:
    """A node that is not claimed yet, and the way to open sessions to it, one at a time."""

    def __init__(self, opener: Callable[[VolumeId | None], Backend]) -> None:
        self._opener = opener
        self._current: Backend | None = None

    async def open(self, volume: VolumeId | None) -> Backend:
        await self.aclose()
        self._current = self._opener(volume)
        return self._current

    async def aclose(self) -> None:
        if self._current is not None:
            await self._current.aclose()


class NearBackend(RainBackend):
    """rain:// whose node is on this host: what can be read from its storage file is, each time."""

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        asked = await super().get(key, offset, length)
        if length == 0:
            return asked
        await self.health()
        neighbour = self._small.neighbour
        assert neighbour is not None
        with trio.fail_after(DEADLINE_S):
            while not neighbour.knows(key):
                neighbour._ask_after_s = float("-inf")
                await super().get(key, offset, length)
                await trio.lowlevel.checkpoint()
        read = self.near_now(key, offset, length)
        assert read is None or read == asked
        read = await self.near(key, offset, length)
        assert read == asked
        return read


OfRain = TypeVar("OfRain", bound=RainBackend)


def of_kind(kind: type[OfRain], url: str, volume: VolumeId | None, nursery: trio.Nursery) -> OfRain:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return kind(
        url,
        parts.hostname,
        parts.port,
        volume,
        deadline_s=DEADLINE_S,
        nursery=nursery,
        random=random.Random(1),
    )


class Sharing(RainBackend):
    """Has the payload of every put lie in shared memory."""

    def keep(self, memory: SharedMemory) -> Sharing:
        self._slots = SharedPool(memory, MAX_SHARD_BYTES, 1)
        self.share(memory)
        return self

    async def put(
        self, key: ShardKey, payload: Sequence[Buffer], about: bytes = b"", *, durable: bool
    ) -> None:
        data = b"".join(payload)
        if len(data) > MAX_SHARD_BYTES:
            await super().put(key, payload, about, durable=durable)
            return
        slot = self._slots.take()
        slot[: len(data)] = data
        try:
            await super().put(key, (slot[: len(data)],), about, durable=durable)
        finally:
            self._slots.give(slot)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory()
    made.begin()
    yield made
    made.close()


@pytest.fixture(params=["rain", "near", "shared", "tcp", "file", "fake"])
async def harness(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    memory: SharedMemory,
) -> AsyncIterator[Harness]:
    directory = tmp_path / "store"
    if request.param == "near":
        # All shards go to their place at once, where they can be read without the node.
        monkeypatch.setattr(store_module, "INLINE_BYTES", 0)
    if request.param == "tcp":
        monkeypatch.setattr(going_over, "is_loopback", lambda address: False)
    store: Store | None = None
    if request.param == "fake":
        node = FakeNode(capacity_bytes=CAPACITY_BYTES)
        made = Harness(lambda volume: node.session(volume=volume, deadline_s=DEADLINE_S))
    else:
        if request.param == "file":
            url = f"file://{directory}?capacity={CAPACITY_BYTES}"
        else:
            store = Store.open(directory, capacity_bytes=CAPACITY_BYTES)
            host, port = await nursery.start(partial(serve, store, "127.0.0.1", 0))
            url = f"rain://{host}:{port}"

        def opener(volume: VolumeId | None) -> Backend:
            if request.param == "near":
                return of_kind(NearBackend, url, volume, nursery)
            if request.param == "shared":
                return of_kind(Sharing, url, volume, nursery).keep(memory)
            return open_backend(url, volume, deadline_s=DEADLINE_S, nursery=nursery)

        made = Harness(opener)
    yield made
    await made.aclose()
    nursery.cancel_scope.cancel()
    if store is not None:
        store.close()


@pytest.fixture
async def backend(harness: Harness) -> Backend:
    claiming = await harness.open(None)
    await claiming.claim(VOLUME)
    return await harness.open(VOLUME)


async def test_get_returns_what_put_stored(backend: Backend) -> None:
    data = noise(3 * PAGE_BYTES)
    await backend.put(key(1), [data], durable=True)
    assert await backend.get(key(1), 0, len(data)) == data


async def test_get_returns_any_range(backend: Backend) -> None:
    data = noise(5 * PAGE_BYTES)
    await backend.put(key(1), [data], durable=True)
    for offset, length in [(0, 1), (4095, 2), (1, 20479), (20479, 1), (8192, 4096), (100, 0)]:
        assert await backend.get(key(1), offset, length) == data[offset : offset + length]


async def test_payload_is_the_concatenation_of_its_buffers(backend: Backend) -> None:
    data = noise(2 * PAGE_BYTES)
    parts: list[Buffer] = [data[:1], bytearray(data[1:5000]), memoryview(data)[5000:], b""]
    await backend.put(key(1), parts, durable=True)
    assert await backend.get(key(1), 0, len(data)) == data


async def test_many_buffers_make_one_shard(backend: Backend) -> None:
    data = noise(64 * PAGE_BYTES)
    await backend.put(key(1), [data[i : i + 512] for i in range(0, len(data), 512)], durable=False)
    assert await backend.get(key(1), 0, len(data)) == data


async def test_the_longest_shard_and_description_pass(backend: Backend) -> None:
    data, about = noise(MAX_SHARD_BYTES), noise(MAX_ABOUT_BYTES, 2)
    await backend.put(key(1), [data], about, durable=True)
    assert await backend.get(key(1), 0, len(data)) == data
    assert (await backend.stat(key(1))).about == about


@pytest.mark.parametrize("nbytes", [0, 1, PAGE_BYTES - 1, MAX_SHARD_BYTES + PAGE_BYTES])
async def test_a_shard_of_impossible_length_is_refused(backend: Backend, nbytes: int) -> None:
    with pytest.raises(InputError):
        await backend.put(key(1), [bytes(nbytes)], durable=True)
    with pytest.raises(ShardMissing):
        await backend.stat(key(1))


async def test_too_long_a_description_is_refused(backend: Backend) -> None:
    with pytest.raises(InputError):
        await backend.put(key(1), [bytes(PAGE_BYTES)], bytes(MAX_ABOUT_BYTES + 1), durable=True)


async def test_same_content_may_be_put_again(backend: Backend) -> None:
    for nbytes in (PAGE_BYTES, MIB):
        data = noise(nbytes)
        for durable in (False, True, False):
            await backend.put(key(nbytes), [data], b"about", durable=durable)
        assert (await backend.stat(key(nbytes))).durable
        assert await backend.get(key(nbytes), 0, nbytes) == data
    assert (await backend.health()).shards == 2


async def test_other_content_is_a_conflict_and_changes_nothing(backend: Backend) -> None:
    for nbytes in (PAGE_BYTES, MIB):
        data = noise(nbytes)
        await backend.put(key(nbytes), [data], durable=True)
        with pytest.raises(ShardConflict):
            await backend.put(key(nbytes), [noise(nbytes, 2)], durable=True)
        with pytest.raises(ShardConflict):
            await backend.put(key(nbytes), [data + bytes(PAGE_BYTES)], durable=True)
        assert await backend.get(key(nbytes), 0, nbytes) == data


async def test_a_shard_that_is_not_there_is_missing(backend: Backend) -> None:
    await backend.put(key(1, 1), [bytes(PAGE_BYTES)], durable=True)
    for absent in (key(1, 0), key(1, 2), key(2, 1)):
        with pytest.raises(ShardMissing):
            await backend.get(absent, 0, 1)
        with pytest.raises(ShardMissing):
            await backend.stat(absent)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 4097), (4096, 1), (5000, 0), (-1, 1), (0, -1), (0, MAX_SHARD_BYTES + 1), (1 << 40, 1)],
)
async def test_a_range_beyond_the_end_is_refused(
    backend: Backend, offset: int, length: int
) -> None:
    await backend.put(key(1), [bytes(PAGE_BYTES)], durable=True)
    with pytest.raises(InputError):
        await backend.get(key(1), offset, length)


async def test_deleted_shards_are_gone(backend: Backend) -> None:
    for shard in range(3):
        await backend.put(key(1, shard), [bytes(PAGE_BYTES)], durable=True)
    await backend.delete([key(1, 0), key(1, 2), key(9, 9)])
    with pytest.raises(ShardMissing):
        await backend.get(key(1, 0), 0, 1)
    assert [info.key for info in await backend.list(None, 10)] == [key(1, 1)]
    await backend.delete([key(1, 0)])
    await backend.delete([])


async def test_more_keys_than_a_message_holds_are_deleted(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_KEYS_PER_DELETE", 4)
    keys = [key(stripe) for stripe in range(1, 11)]
    for each in keys:
        await backend.put(each, [bytes(PAGE_BYTES)], durable=False)
    await backend.delete(keys)
    assert await backend.list(None, 100) == []


async def test_list_pages_in_key_order(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_SHARDS_PER_LISTING", 3)
    keys = [key(stripe, shard) for stripe in (2, 1, (1 << 64) - 1, 1 << 40) for shard in (0, 5, 1)]
    for each in keys:
        await backend.put(each, [bytes(PAGE_BYTES * (1 + each.shard))], b"x", durable=True)
    infos = await backend.list(None, 100)
    assert [info.key for info in infos] == sorted(keys)
    assert [info.length for info in infos] == [PAGE_BYTES * (1 + k.shard) for k in sorted(keys)]
    assert {info.about for info in infos} == {b""}
    for limit in (0, 1, 3, 5, 12):
        found: list[ShardKey] = []
        for _ in range(13):
            page = await backend.list(found[-1] if found else None, limit)
            assert len(page) <= limit
            found += [info.key for info in page]
        assert found == (sorted(keys) if limit else [])


async def test_stat_describes_a_shard(backend: Backend) -> None:
    await backend.put(key(3, 254), [bytes(2 * PAGE_BYTES)], b"what it holds", durable=True)
    info = await backend.stat(key(3, 254))
    assert info == (key(3, 254), 2 * PAGE_BYTES, True, b"what it holds")


async def test_sync_makes_puts_durable(backend: Backend) -> None:
    for stripe in (1, 2):
        await backend.put(key(stripe), [bytes(PAGE_BYTES)], durable=False)
    await backend.sync()
    assert (await backend.stat(key(1))).durable
    assert (await backend.stat(key(2))).durable


async def test_health_counts(backend: Backend) -> None:
    before = await backend.health()
    await backend.put(key(1), [bytes(MIB)], durable=True)
    after = await backend.health()
    assert after.uuid == before.uuid
    assert after.volume == VOLUME
    assert (before.shards, after.shards) == (0, 1)
    assert after.capacity_bytes == CAPACITY_BYTES
    assert after.used_bytes >= before.used_bytes + MIB
    assert after.free_bytes <= before.free_bytes - MIB
    assert not after.failing


async def test_a_full_node_says_so_and_keeps_what_it_has(backend: Backend) -> None:
    held = 0
    full = False
    while not full and held <= CAPACITY_BYTES // MIB:
        try:
            await backend.put(key(held), [noise(MIB, held)], durable=False)
            held += 1
        except NodeFull:
            full = True
    assert full
    assert held >= CAPACITY_BYTES // MIB - 4
    for stripe in range(held):
        assert await backend.get(key(stripe), 4096, 99) == noise(MIB, stripe)[4096:4195]
    await backend.delete([key(0), key(1)])
    await backend.sync()
    await backend.put(key(1000), [bytes(MIB)], durable=True)


async def test_an_unclaimed_node_takes_no_shards(harness: Harness) -> None:
    backend = await harness.open(VOLUME)
    with pytest.raises(ForeignVolume):
        await backend.put(key(1), [bytes(PAGE_BYTES)], durable=True)
    with pytest.raises(ForeignVolume):
        await backend.list(None, 1)
    assert (await backend.health()).volume is None


async def test_a_claim_lasts_and_excludes_others(harness: Harness) -> None:
    backend = await harness.open(None)
    await backend.claim(VOLUME)
    await backend.claim(VOLUME)
    with pytest.raises(ForeignVolume):
        await backend.claim(OTHER)
    assert (await backend.health()).volume == VOLUME
    stranger = await harness.open(OTHER)
    with pytest.raises(ForeignVolume):
        await stranger.put(key(1), [bytes(PAGE_BYTES)], durable=True)
    with pytest.raises(ForeignVolume):
        await stranger.list(None, 1)
    assert (await stranger.health()).volume == VOLUME


async def test_after_its_claim_a_session_is_of_that_volume(harness: Harness) -> None:
    backend = await harness.open(VOLUME)
    await backend.health()
    await backend.claim(VOLUME)
    await backend.put(key(1), [bytes(PAGE_BYTES)], durable=True)
    assert (await backend.stat(key(1))).length == PAGE_BYTES


async def test_concurrent_calls_get_their_own_answers(backend: Backend) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    sizes = [rng.choice([1, 2, 5, 16, 17, 40]) * PAGE_BYTES for _ in range(60)]

    async def put_and_get(stripe: int) -> None:
        data = noise(sizes[stripe], stripe)
        await backend.put(key(stripe), [data], noise(stripe, 7), durable=stripe % 3 == 0)
        for _ in range(5):
            offset = rng.randrange(len(data))
            length = rng.randrange(len(data) - offset + 1)
            assert await backend.get(key(stripe), offset, length) == data[offset : offset + length]
        assert (await backend.stat(key(stripe))).about == noise(stripe, 7)
        with pytest.raises(ShardMissing):
            await backend.get(key(stripe, 1), 0, 1)

    async with trio.open_nursery() as nursery:
        for stripe in range(len(sizes)):
            nursery.start_soon(put_and_get, stripe)


async def test_concurrent_puts_of_one_shard_agree(backend: Backend) -> None:
    data = noise(MIB)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(partial(backend.put, key(1), [data], durable=True))
    assert await backend.get(key(1), 0, MIB) == data
    assert (await backend.health()).shards == 1


async def test_returned_memory_belongs_to_the_caller(backend: Backend) -> None:
    for nbytes in (PAGE_BYTES, MIB):
        data = noise(nbytes)
        await backend.put(key(nbytes), [data], durable=True)
        first = await backend.get(key(nbytes), 0, nbytes)
        second = await backend.get(key(nbytes), 0, nbytes)
        for _ in range(3):
            await backend.get(key(nbytes), 0, nbytes // 2)
        assert first == data
        assert second == data


async def test_payload_may_change_after_the_put(backend: Backend) -> None:
    for nbytes in (PAGE_BYTES, MIB):
        payload = bytearray(noise(nbytes))
        await backend.put(key(nbytes), [payload], durable=False)
        payload[:] = bytes(nbytes)
        assert await backend.get(key(nbytes), 0, nbytes) == noise(nbytes)


async def test_payload_may_change_after_a_cancelled_put(backend: Backend) -> None:
    """The caller reuses its buffer at once; what is stored, if anything, is what was meant."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for stripe in range(20):
        data = noise(MIB // 4, stripe)
        payload = bytearray(data)
        with trio.move_on_after(rng.random() * 0.002):
            await backend.put(key(stripe), [payload], durable=False)
        payload[:] = bytes(len(payload))
    for stripe in range(20):
        data = noise(MIB // 4, stripe)
        await backend.put(key(stripe), [data], durable=False)
        assert await backend.get(key(stripe), 0, len(data)) == data


async def test_cancelled_gets_disturb_nobody(backend: Backend) -> None:
    data = noise(MIB)
    await backend.put(key(1), [data], durable=True)
    for wait_s in (0, 0, 0.0001, 0.0003, 0.001):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(backend.get, key(1), 0, MIB)
            await trio.sleep(wait_s)
            nursery.cancel_scope.cancel()
        assert await backend.get(key(1), 5, 10) == data[5:15]


async def test_a_closed_backend_is_unavailable(backend: Backend) -> None:
    await backend.health()
    await backend.aclose()
    await backend.aclose()
    with pytest.raises(NodeUnavailable):
        await backend.health()
    with pytest.raises(NodeUnavailable):
        await backend.get(key(1), 0, 1)


async def test_what_was_put_is_there_for_the_next_session(
    harness: Harness, backend: Backend
) -> None:
    data = noise(MIB)
    await backend.put(key(1), [data], b"about", durable=True)
    again = await harness.open(VOLUME)
    assert await again.get(key(1), 0, MIB) == data
    assert (await again.stat(key(1))).about == b"about"
