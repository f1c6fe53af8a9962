"""Shards read from a neighbour's storage file: the right bytes, or the node is asked."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rainfs.array.backends import neighbour as neighbour_module
from rainfs.array.backends.neighbour import Neighbour
from rainfs.array.backends.rain import RainBackend, open_backend
from rainfs.errors import InputError, NodeUnavailable, ShardCorrupt, ShardMissing
from rainfs.memory import Recycler
from rainfs.model import KIB, MIB, PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.node.daemon import serve
from rainfs.node.session import Session
from rainfs.store.disk import SystemDisk
from rainfs.store.store import Store
from rainfs.wire import messages as wire

VOLUME = VolumeId(b"the volume here.")
DEADLINE_S = 10.0
LONG_BYTES = 256 * KIB
SHORT_BYTES = 68 * KIB
"""The shortest that do not travel in the journal, or nearly."""


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


def storage_descriptors(directory: Path) -> int:
    """How often this process has the storage file open, or what has been it."""
    wanted = str((directory / ".rainfs-store").resolve())
    return sum(
        os.path.realpath(path).removesuffix(" (deleted)") == wanted
        for path in Path("/proc/self/fd").iterdir()
    )


class Node:
    """A node in this process, which counts what it is asked."""

    def __init__(self, directory: Path, nursery: trio.Nursery, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self.store = Store.open(directory, capacity_bytes=64 * MIB)
        self.store.claim(VOLUME)
        self._nursery = nursery
        self._stopping = trio.Event()
        self._over = trio.Event()

    async def start(self) -> None:
        async def run(*, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            await serve(
                self.store, "127.0.0.1", self.port, stopping=self._stopping, task_status=task_status
            )
            self._over.set()

        _, self.port = await self._nursery.start(run)

    async def stop(self) -> None:
        self._stopping.set()
        await self._over.wait()
        self.store.close()

    def open(self, deadline_s: float = DEADLINE_S) -> RainBackend:
        url = f"rain://127.0.0.1:{self.port}"
        return open_backend(url, VOLUME, deadline_s=deadline_s, nursery=self._nursery)

    def damage(self, offset: int, data: bytes) -> None:
        """Overwrite the storage file behind everybody's back."""
        with (self.directory / ".rainfs-store").open("r+b", buffering=0) as file:
            file.seek(offset)
            file.write(data)
            os.fsync(file.fileno())

    def place(self, shard: ShardKey) -> int:
        [(found, row)] = self.store.locate(shard, 1)
        assert found == shard
        return row.offset


@pytest.fixture
async def node(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Node]:
    running = Node(tmp_path / "store", nursery)
    await running.start()
    yield running
    nursery.cancel_scope.cancel()
    running.store.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ShardKey]:
    """What nodes were asked to read."""
    keys: list[ShardKey] = []
    get = Session._get

    def counted(self: Session, request: int, message: wire.Get, *rest: object) -> None:
        keys.append(message.key)
        get(self, request, message, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_get", counted)
    return keys


async def located(backend: RainBackend, *keys: ShardKey) -> Neighbour:
    """Ask for shards until it is known where they lie."""
    for each in keys:
        with trio.fail_after(DEADLINE_S):
            await backend.get(each, 0, 1)
            while not (neighbour := the_neighbour(backend)).knows(each):
                neighbour._ask_after_s = float("-inf")
                await backend.get(each, 0, 1)
    return neighbour


def the_neighbour(backend: RainBackend) -> Neighbour:
    assert backend._small.neighbour is not None
    return backend._small.neighbour


@pytest.mark.parametrize("nbytes", [SHORT_BYTES, LONG_BYTES, 4 * MIB])
async def test_any_range_is_read_without_the_node(
    node: Node, asked: list[ShardKey], nbytes: int
) -> None:
    data = os.urandom(nbytes)
    backend = node.open()
    await backend.put(key(1), [data], durable=True)
    await located(backend, key(1))
    asked.clear()
    for offset, length in (
        *((0, nbytes), (0, 1), (4095, 2), (nbytes - 1, 1), (4096, 4096)),
        *((1, nbytes - 1), (0, nbytes - 1), (5000, 60_000)),
    ):
        assert await backend.get(key(1), offset, length) == data[offset : offset + length]
    assert asked == []


async def test_one_answer_tells_of_the_shards_behind(node: Node, asked: list[ShardKey]) -> None:
    backend = node.open()
    keys = [key(stripe) for stripe in range(1, 41)]
    for each in keys:
        await backend.put(each, [os.urandom(SHORT_BYTES)], durable=False)
    neighbour = await located(backend, key(1))
    assert [each for each in keys if neighbour.knows(each)] == keys[: wire.MAX_SHARDS_LOCATED]
    assert set(asked) == {key(1)}


async def test_what_a_reader_holds_is_never_written_to_again(node: Node) -> None:
    backend = node.open()
    content = {key(stripe): os.urandom(LONG_BYTES) for stripe in range(1, 30)}
    for each, data in content.items():
        await backend.put(each, [data], durable=False)
    await located(backend, *content)
    held = {each: (await backend.get(each, 0, LONG_BYTES))[4096:8192] for each in content}
    for each, data in content.items():
        assert await backend.get(each, 0, LONG_BYTES) == data
    assert all(held[each] == data[4096:8192] for each, data in content.items())


@pytest.mark.parametrize("length", [PAGE_BYTES, LONG_BYTES])
async def test_damaged_bytes_are_not_returned(
    node: Node, asked: list[ShardKey], length: int
) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    neighbour = await located(backend, key(1))
    asked.clear()
    node.damage(node.place(key(1)) + 100, b"rot")
    with pytest.raises(ShardCorrupt):
        await backend.get(key(1), 0, length)
    assert asked == [key(1)]
    assert not neighbour.knows(key(1))


async def test_a_place_that_holds_another_shard_is_not_taken_for_the_old_one(node: Node) -> None:
    backend, other = node.open(), node.open()
    old, new = os.urandom(LONG_BYTES), os.urandom(LONG_BYTES)
    await backend.put(key(1), [old], durable=True)
    neighbour = await located(backend, key(1))
    place = node.place(key(1))
    await other.delete([key(1)])
    stripe = 2
    await other.put(key(stripe), [new], durable=True)
    while node.place(key(stripe)) != place:
        stripe += 1
        assert stripe < 200, "the place is never given again"
        await other.put(key(stripe), [new], durable=True)
    assert neighbour.knows(key(1))
    with pytest.raises(ShardMissing):
        await backend.get(key(1), 0, LONG_BYTES)
    assert await backend.get(key(stripe), 0, LONG_BYTES) == new


async def test_deleted_shards_are_gone_at_once_for_who_deletes_them(node: Node) -> None:
    backend = node.open()
    for stripe in (1, 2):
        await backend.put(key(stripe), [os.urandom(LONG_BYTES)], durable=True)
    neighbour = await located(backend, key(1), key(2))
    await backend.delete([key(1)])
    assert not neighbour.knows(key(1))
    assert neighbour.knows(key(2))
    with pytest.raises(ShardMissing):
        await backend.get(key(1), 0, 1)


async def test_a_shard_that_was_mended_elsewhere_is_found_again(node: Node) -> None:
    backend, other = node.open(), node.open()
    data = os.urandom(LONG_BYTES)
    await backend.put(key(1), [data], durable=True)
    await located(backend, key(1))
    node.damage(node.place(key(1)), b"rot")
    await other.put(key(1), [data], durable=True)
    assert await backend.get(key(1), 0, LONG_BYTES) == data


async def test_a_file_that_was_cut_off_gives_nothing(node: Node, asked: list[ShardKey]) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    await located(backend, key(1))
    asked.clear()
    os.truncate(node.directory / ".rainfs-store", node.place(key(1)) + PAGE_BYTES)
    for length in (LONG_BYTES, 3 * PAGE_BYTES):
        with pytest.raises(ShardCorrupt):
            await backend.get(key(1), 0, length)
    assert len(asked) == 2


async def test_a_file_that_has_lost_its_name_is_read_as_the_node_reads_it(node: Node) -> None:
    backend = node.open()
    data = os.urandom(LONG_BYTES)
    await backend.put(key(1), [data], durable=True)
    await located(backend, key(1))
    (node.directory / ".rainfs-store").rename(node.directory / "elsewhere")
    again = node.open()
    for each in (backend, again):
        await located(each, key(1))
        assert await each.get(key(1), 0, LONG_BYTES) == data


async def test_shards_in_the_journal_are_the_nodes_to_read(
    node: Node, asked: list[ShardKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    located_for: list[int] = []
    outcome = Session._outcome

    async def counted(self: Session, message: wire.Message) -> wire.Message:
        if isinstance(message, wire.Locate):
            located_for.append(message.stripe)
        return await outcome(self, message)

    monkeypatch.setattr(Session, "_outcome", counted)
    monkeypatch.setattr(neighbour_module, "ASK_AGAIN_S", DEADLINE_S)
    backend = node.open()
    for stripe in range(1, 20):
        await backend.put(key(stripe), [bytes([stripe]) * PAGE_BYTES], durable=True)
    await backend.put(key(20), [bytes(LONG_BYTES)], durable=True)
    for stripe in range(1, 20):
        assert await backend.get(key(stripe), 7, 1) == bytes([stripe])
        await wait_all_tasks_blocked(0.01)
    assert len(asked) == 19
    assert located_for == [1], "an answer without the shard stops the questions for a while"
    assert the_neighbour(backend).knows(key(20))


async def test_a_range_beyond_the_end_is_refused_by_the_node(node: Node) -> None:
    backend = node.open()
    await backend.put(key(1), [bytes(LONG_BYTES)], durable=True)
    await located(backend, key(1))
    with pytest.raises(InputError):
        await backend.get(key(1), LONG_BYTES - 1, 2)


async def test_a_node_that_is_gone_is_not_read(node: Node, nursery: trio.Nursery) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    neighbour = await located(backend, key(1))
    await node.stop()
    await wait_all_tasks_blocked(0.01)
    assert neighbour.get_now(key(1), 0, PAGE_BYTES) is None
    assert await neighbour.get(key(1), 0, LONG_BYTES) is None
    for length in (PAGE_BYTES, LONG_BYTES):
        with pytest.raises(NodeUnavailable):
            await backend.get(key(1), 0, length)
    assert storage_descriptors(node.directory) == 0


async def test_a_node_that_came_back_empty_is_believed(
    node: Node, nursery: trio.Nursery, tmp_path: Path
) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    await located(backend, key(1))
    await node.stop()
    wiped = Node(tmp_path / "wiped", nursery, node.port)
    await wiped.start()
    with trio.fail_after(DEADLINE_S):
        while True:
            try:
                await backend.health()
                break
            except NodeUnavailable:
                await trio.sleep(0.01)
    with pytest.raises(ShardMissing):
        await backend.get(key(1), 0, LONG_BYTES)
    data = os.urandom(LONG_BYTES)
    await backend.put(key(2), [data], durable=True)
    await located(backend, key(2))
    assert await backend.get(key(2), 0, LONG_BYTES) == data
    await wiped.stop()


class StuckDisk(SystemDisk):
    """Reads wait until they are let go."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.go = threading.Event()

    def pread(self, fd: int, into: memoryview, offset: int, *, nowait: bool = False) -> bool:
        if nowait:
            return False
        self.waiting.set()
        assert self.go.wait(DEADLINE_S)
        return super().pread(fd, into, offset)


def stuck_neighbour(node: Node) -> tuple[Neighbour, StuckDisk]:
    disk = StuckDisk()
    neighbour = Neighbour(node.store.open_readers(), Recycler(), disk=disk)
    [(_, row)] = node.store.locate(key(1), 1)
    neighbour.learn(key(1), [(StripeId(1), 0, row.offset, row.length, row.crcs)], 0.0)
    return neighbour, disk


async def test_a_read_under_way_keeps_its_descriptor_until_it_is_over(node: Node) -> None:
    data = os.urandom(LONG_BYTES)
    backend = node.open()
    await backend.put(key(1), [data], durable=True)
    before = storage_descriptors(node.directory)
    neighbour, disk = stuck_neighbour(node)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert await neighbour.get(key(1), 0, LONG_BYTES) == data

        nursery.start_soon(read)
        await trio.to_thread.run_sync(disk.waiting.wait)
        neighbour.close()
        assert storage_descriptors(node.directory) > before
        assert await neighbour.get(key(1), 0, LONG_BYTES) is None
        disk.go.set()
    assert storage_descriptors(node.directory) == before


async def test_a_cancelled_read_lets_go_of_its_descriptor_later(node: Node) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    before = storage_descriptors(node.directory)
    neighbour, disk = stuck_neighbour(node)
    readers = neighbour_module.READER_THREADS + 2
    async with trio.open_nursery() as nursery:
        for _ in range(readers):
            nursery.start_soon(neighbour.get, key(1), 0, LONG_BYTES)
        await trio.to_thread.run_sync(disk.waiting.wait)
        nursery.cancel_scope.cancel()
    neighbour.close()
    disk.go.set()
    with trio.fail_after(DEADLINE_S):
        while storage_descriptors(node.directory) > before:  # noqa: ASYNC110 (a thread's doing)
            await trio.sleep(0.01)


async def test_a_disk_that_hangs_ends_in_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = node.open(deadline_s=0.2)
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    neighbour = await located(backend, key(1))
    stuck, disk = stuck_neighbour(node)
    monkeypatch.setattr(neighbour, "_data", stuck._data)
    with pytest.raises(NodeUnavailable):
        await backend.get(key(1), 0, LONG_BYTES)
    disk.go.set()
    stuck.close()


async def test_a_slow_disk_is_waited_for_in_threads(node: Node) -> None:
    backend = node.open()
    await backend.put(key(1), [os.urandom(LONG_BYTES)], durable=True)
    neighbour, disk = stuck_neighbour(node)
    assert neighbour.get_now(key(1), 0, PAGE_BYTES) is None, "before anything is known of the disk"
    assert not disk.waiting.is_set()
    disk.go.set()
    for _ in range(50):
        assert await neighbour.get(key(1), 0, PAGE_BYTES) is not None
    assert neighbour.get_now(key(1), 0, PAGE_BYTES) is not None, "once it is known to be quick"
    neighbour.close()


def test_what_is_known_of_places_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour_module, "ROW_CACHE_BYTES", 10_000)
    storage = tmp_path / "storage"
    storage.write_bytes(b"")
    neighbour = Neighbour([os.open(storage, os.O_RDONLY)], Recycler())
    for stripe in range(1000):
        neighbour.learn(key(stripe), [(StripeId(stripe), 0, 0, PAGE_BYTES, b"1234")], 0.0)
        assert neighbour.knows(key(stripe))
    known = sum(neighbour.knows(key(stripe)) for stripe in range(1000))
    assert 0 < known <= 10_000 // neighbour_module.ROW_OVERHEAD_BYTES
    neighbour.forget([key(stripe) for stripe in range(1000)])
    assert neighbour._row_bytes == 0
    neighbour.close()
