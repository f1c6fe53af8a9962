"""The store behind threads: group commit, one answer each, and an orderly end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from rainfs.async_store import access
from rainfs.async_store.access import AsyncStore
from rainfs.async_store.buffers import Buffers
from rainfs.errors import NodeFailing, RainError, ShardConflict, ShardMissing, StorageError
from rainfs.memory import Buffer
from rainfs.model import KIB, MAX_SHARD_BYTES, MIB, PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.store.pending import Pending
from rainfs.store.store import Store


def key(stripe: int) -> ShardKey:
    return ShardKey(StripeId(stripe), 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path / "store", capacity_bytes=64 * MIB)
    opened.claim(VolumeId(b"v" * 16))
    yield opened
    opened.close()


@pytest.fixture
async def shared(store: Store) -> AsyncIterator[AsyncStore]:
    made = AsyncStore(store)
    yield made
    await made.aclose()


async def put(shared: AsyncStore, stripe: int, data: bytes) -> RainError | None:
    over = trio.Event()
    outcomes: list[RainError | None] = []

    def done(error: RainError | None) -> None:
        outcomes.append(error)
        over.set()

    shared.begin_put(key(stripe), (data,), len(data), b"", durable=True, done=done)
    await over.wait()
    [outcome] = outcomes
    return outcome


async def test_each_put_of_a_batch_has_its_own_outcome(shared: AsyncStore) -> None:
    assert await put(shared, 5, bytes(PAGE_BYTES)) is None
    outcomes: dict[int, RainError | None] = {}

    async def one(stripe: int, data: bytes) -> None:
        outcomes[stripe] = await put(shared, stripe, data)

    async with trio.open_nursery() as nursery:
        for stripe in range(10):
            nursery.start_soon(one, stripe, b"x" * (PAGE_BYTES if stripe % 2 else MIB))
    assert isinstance(outcomes.pop(5), ShardConflict)
    assert set(outcomes.values()) == {None}
    assert bytes(await shared.get(key(4), MIB - 3, 3)) == b"xxx"


async def test_a_commit_that_fails_fails_its_puts_only(
    store: Store, shared: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store.commit
    failures: list[Exception] = [NodeFailing("disk"), RuntimeError("a bug")]

    def failing(pending: Sequence[Pending], *, durable: bool) -> list[StorageError | None]:
        if failures:
            raise failures.pop(0)
        return commit(pending, durable=durable)

    monkeypatch.setattr(store, "commit", failing)
    assert isinstance(await put(shared, 1, bytes(PAGE_BYTES)), NodeFailing)
    outcome = await put(shared, 2, bytes(MIB))
    assert isinstance(outcome, NodeFailing)
    assert "a bug" not in str(outcome)
    assert await put(shared, 3, bytes(PAGE_BYTES)) is None


async def test_closing_waits_for_what_has_begun_and_refuses_the_rest(
    store: Store, shared: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, begun = threading.Event(), threading.Event()
    write = store.write

    def held(which: ShardKey, payload: Sequence[Buffer], about: bytes = b"") -> Pending:
        begun.set()
        assert free.wait(20)
        return write(which, payload, about)

    monkeypatch.setattr(store, "write", held)
    closed = trio.Event()

    async def close() -> None:
        await shared.aclose()
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, shared, 1, bytes(MIB))
        nursery.start_soon(put, shared, 2, bytes(PAGE_BYTES))
        await trio.to_thread.run_sync(begun.wait)
        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not closed.is_set()
        assert isinstance(await put(shared, 3, bytes(PAGE_BYTES)), NodeFailing)
        with pytest.raises(NodeFailing):
            await shared.get(key(1), 0, MIB)
        free.set()
    assert closed.is_set()
    assert store.stat(key(1)).durable
    assert store.stat(key(2)).durable
    with pytest.raises(ShardMissing):
        store.stat(key(3))


async def test_a_cancelled_get_leaves_the_store_usable(shared: AsyncStore) -> None:
    await put(shared, 1, b"y" * MIB)
    for _ in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(shared.get, key(1), 0, MIB))
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert await shared.get(key(1), 0, MIB) == b"y" * MIB


class SlowReads:
    """A disk whose reads take as long as the test says, by a clock that only they move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.cost_s = 0.000_1
        self.in_line = False

    def perf_counter(self) -> float:
        return self.now_s

    def read(
        self,
        key: ShardKey,
        offset: int,
        length: int,
        *,
        into: memoryview | None = None,
        nowait: bool = False,
    ) -> memoryview | None:
        if nowait:
            return None
        self.now_s += self.cost_s
        self.in_line = threading.current_thread() is threading.main_thread()
        return memoryview(bytes(length))

    async def reads_in_line(self, shared: AsyncStore, count: int) -> bool:
        """Read so often; say whether the last one went without a thread."""
        for _ in range(count):
            await shared.get(key(1), 0, PAGE_BYTES)
        return self.in_line


async def test_slow_disks_get_threads_and_one_stall_changes_nothing(
    store: Store, shared: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowReads()
    monkeypatch.setattr(access, "time", disk)
    monkeypatch.setattr(store, "read", disk.read)
    assert await disk.reads_in_line(shared, 20)
    disk.cost_s = 0.5
    assert await disk.reads_in_line(shared, 1)
    disk.cost_s = 0.000_1
    assert await disk.reads_in_line(shared, 1), "after one stall"
    disk.cost_s = 0.010
    assert not await disk.reads_in_line(shared, 20), "on a slow disk"
    disk.cost_s = 0.000_1
    assert await disk.reads_in_line(shared, 20), "once it is quick again"


async def test_reads_at_one_time_share_threads_unless_the_disk_is_very_quick(
    store: Store, shared: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowReads()
    monkeypatch.setattr(access, "time", disk)
    monkeypatch.setattr(store, "read", disk.read)
    for cost_s, alone, beside in ((0.000_1, True, True), (0.001, True, False)):
        disk.cost_s = cost_s
        assert await disk.reads_in_line(shared, 40) == alone
        over = trio.Event()
        shared.begin_get(key(1), 0, MIB, None, lambda _, over=over: over.set())
        assert (shared.get_nowait(key(1), 0, PAGE_BYTES) is not None) == beside
        await over.wait()


def test_leases_are_aligned_fit_and_come_back_once() -> None:
    buffers = Buffers()
    for nbytes in (1, PAGE_BYTES, PAGE_BYTES + 1, 100 * KIB, MIB, MAX_SHARD_BYTES):
        lease = buffers.lease(nbytes)
        assert lease.view.nbytes == nbytes
        assert buffers.held_bytes(nbytes) >= nbytes
        lease.release()
        lease.release()
        again, other = buffers.lease(nbytes), buffers.lease(nbytes)
        other.view[:] = b"o" * nbytes
        again.view[:] = b"a" * nbytes
        assert bytes(other.view) == b"o" * nbytes
