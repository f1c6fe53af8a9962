"""Long puts without a thread: grouped until `settle`, and left to threads on a slow disk."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio

from rainfs.async_store import access
from rainfs.async_store.access import MAX_INLINE_PUTS, AsyncStore
from rainfs.errors import NodeFailing, RainError
from rainfs.memory import Buffer
from rainfs.model import MIB, ShardKey, StripeId, VolumeId
from rainfs.store.pending import Pending
from rainfs.store.store import Store

PATIENCE_S = 20.0
WARMING_PUTS = 20
"""So many puts bring the usual time of one from its first guess to what they really take."""


def key(stripe: int) -> ShardKey:
    return ShardKey(StripeId(stripe), 0)


class SlowWrites:
    """A store whose long writes take as long as the test says, by a clock that only they move."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.cost_s = 0.001
        self.in_line = False
        self.commits: list[int] = []
        self._write, self._commit = store.write, store.commit
        monkeypatch.setattr(access, "time", self)
        monkeypatch.setattr(store, "write", self.write)
        monkeypatch.setattr(store, "commit", self.commit)

    def perf_counter(self) -> float:
        return self.now_s

    def write(self, which: ShardKey, payload: Sequence[Buffer], about: bytes = b"") -> Pending:
        self.now_s += self.cost_s
        self.in_line = threading.current_thread() is threading.main_thread()
        return self._write(which, payload, about)

    def commit(self, pending: Sequence[Pending], *, durable: bool) -> object:
        self.commits.append(len(pending))
        return self._commit(pending, durable=durable)


class Puts:
    """Puts of a MiB under ever new keys, and their outcomes."""

    def __init__(self, shared: AsyncStore) -> None:
        self.shared = shared
        self.outcomes: dict[int, RainError | None] = {}
        self._last = 0
        self._answered = trio.Event()

    def begin(self) -> int:
        self._last = stripe = self._last + 1

        def done(error: RainError | None) -> None:
            self.outcomes[stripe] = error
            self._answered.set()

        self.shared.begin_put(key(stripe), (bytes(MIB),), MIB, b"", durable=True, done=done)
        return stripe

    async def put(self, count: int) -> None:
        """Put one after the other, each answered without an error before the next."""
        for _ in range(count):
            self._answered = trio.Event()
            stripe = self.begin()
            self.shared.settle()
            with trio.fail_after(PATIENCE_S):
                await self._answered.wait()
            assert self.outcomes.pop(stripe) is None


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path / "store", capacity_bytes=512 * MIB)
    opened.claim(VolumeId(b"v" * 16))
    yield opened
    opened.close()


@pytest.fixture
def disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> SlowWrites:
    return SlowWrites(store, monkeypatch)


@pytest.fixture
async def puts(store: Store, disk: SlowWrites) -> AsyncIterator[Puts]:
    shared = AsyncStore(store, long_puts_inline=True)
    yield Puts(shared)
    await shared.aclose()


async def test_what_is_written_before_a_settle_shares_a_commit(
    store: Store, disk: SlowWrites, puts: Puts
) -> None:
    await puts.put(WARMING_PUTS)
    disk.commits.clear()
    stripes = [puts.begin() for _ in range(3)]
    assert disk.in_line
    assert not puts.outcomes, "nothing is answered before it is durable"
    puts.shared.settle()
    assert puts.outcomes == dict.fromkeys(stripes)
    assert disk.commits == [3]
    assert all(store.stat(key(stripe)).durable for stripe in stripes)
    puts.shared.settle()
    assert disk.commits == [3]


async def test_a_long_row_of_puts_is_committed_in_parts(disk: SlowWrites, puts: Puts) -> None:
    await puts.put(WARMING_PUTS)
    disk.commits.clear()
    for _ in range(MAX_INLINE_PUTS + 1):
        puts.begin()
    assert disk.commits == [MAX_INLINE_PUTS]
    assert len(puts.outcomes) == MAX_INLINE_PUTS


async def test_closing_answers_what_nobody_settled(puts: Puts) -> None:
    await puts.put(WARMING_PUTS)
    stripe = puts.begin()
    with trio.fail_after(PATIENCE_S):
        await puts.shared.aclose()
    assert puts.outcomes == {stripe: None}
    refused = puts.begin()
    assert isinstance(puts.outcomes[refused], NodeFailing)


async def test_a_commit_that_fails_fails_all_that_share_it(
    store: Store, puts: Puts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await puts.put(WARMING_PUTS)

    def failing(pending: Sequence[Pending], *, durable: bool) -> object:
        raise NodeFailing("disk")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", failing)
        stripes = [puts.begin(), puts.begin()]
        puts.shared.settle()
    assert sorted(puts.outcomes) == stripes
    assert all(isinstance(error, NodeFailing) for error in puts.outcomes.values())
    await puts.put(1)


async def test_slow_disks_get_threads_until_they_are_quick_again(
    disk: SlowWrites, puts: Puts
) -> None:
    await puts.put(WARMING_PUTS)
    assert disk.in_line
    disk.cost_s = 0.5
    await puts.put(1)
    disk.cost_s = 0.001
    await puts.put(1)
    assert disk.in_line, "after one stall"
    disk.cost_s = 0.1
    await puts.put(WARMING_PUTS)
    assert not disk.in_line, "on a slow disk"
    disk.cost_s = 0.001
    await puts.put(WARMING_PUTS)
    assert disk.in_line, "once it is quick again"


async def test_threads_write_unless_asked_otherwise(store: Store, disk: SlowWrites) -> None:
    shared = AsyncStore(store)
    await Puts(shared).put(WARMING_PUTS)
    assert not disk.in_line
    await shared.aclose()
