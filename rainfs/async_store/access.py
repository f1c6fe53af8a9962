"""A store behind threads: what the node daemon and the file:// backend share.

Owns the threads that wait for the disk, and group commit: whatever puts are ready when the last
commit is over share the next one, and with it its synchronisations.  Refuses to know connections
and volumes.  Invariants: the store is called from worker threads only, except for `nowait` reads,
which do not block, for a lone small put or read on a disk that has lately been faster than the
way to a thread and back, and, where asked for, for long puts on a disk that is not slow; every put
and every get that needs a thread is answered exactly once, on the trio thread; its memory is
referred to until the answer and not after it, also when whoever asked has long gone; what
`begin_put` has written without a thread is answered by `settle`, which its caller calls before it
waits for anything.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import trio

from rainfs.async_store.read_pace import INLINE_READ_BYTES, ReadPace
from rainfs.errors import NodeFailing, RainError
from rainfs.memory import Buffer
from rainfs.model import KIB, NodeHealth, NodeUuid, ShardInfo, ShardKey, VolumeId
from rainfs.store.pending import Pending
from rainfs.store.rows import Row
from rainfs.store.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

SMALL_PUT_BYTES = 64 * KIB
"""Puts up to this long are written by the committing thread itself: that saves a hop."""

INLINE_COMMIT_S = 0.004
"""A lone small put is committed without a thread while commits take no longer than this."""

MAX_COUNTED_COMMIT_S = 2 * INLINE_COMMIT_S
"""A commit counts as no longer than this, so that a stall of the disk is soon forgotten."""

INLINE_PUT_S = 0.020
"""Long puts are written without a thread while one takes no longer than this: their way through
three threads costs more processor time than all that is done for them, and on a disk that many
nodes share, or a busy machine, more than it gains."""

MAX_COUNTED_PUT_S = 2 * INLINE_PUT_S
MAX_INLINE_PUTS = 4
"""Long puts written without a thread that share a commit."""

BURST_GAP_S = 0.000_1
"""Puts that follow the last answer sooner than this belong to a burst and share a commit."""

SMOOTHING = 0.2
"""Weight of the newest commit in the usual time of one."""

MAX_COMMIT_PUTS = 256
MAX_WRITER_THREADS = 4
MAX_READER_THREADS = 4
MAX_OTHER_THREADS = 4
"""Deletes, listings and the like that wait for the disk at one time."""

Done = Callable[[RainError | None], None]
Got = Callable[["memoryview | RainError"], None]


class _Put:
    """A put under way; `done` hears of its end."""

    __slots__ = (
        "about",
        "begun_s",
        "done",
        "durable",
        "error",
        "key",
        "payload",
        "pending",
        "rivals",
    )

    def __init__(
        self, key: ShardKey, payload: Sequence[Buffer], about: bytes, durable: bool, done: Done
    ) -> None:
        self.key = key
        self.payload = payload
        self.about = about
        self.durable = durable
        self.done = done
        self.pending: Pending | None = None
        self.error: RainError | None = None
        self.begun_s = 0.0
        self.rivals = 0
        """Long puts that threads had under way when this one joined them, itself included."""


class AsyncStore:
    """Trio's way to a `Store`; make it and use it within one trio run, then `aclose` it.

    The store itself stays open: whoever opened it closes it.
    """

    def __init__(self, store: Store, *, long_puts_inline: bool = False) -> None:
        """`long_puts_inline` suits a process that does nothing but serve this store: on a disk that
        is not slow, `begin_put` itself writes a long put, and `settle` answers it.
        """
        self._store = store
        self._long_puts_inline = long_puts_inline
        self._token = trio.lowlevel.current_trio_token()
        self._others = trio.CapacityLimiter(MAX_OTHER_THREADS)
        self._ready: queue.SimpleQueue[_Put | None] = queue.SimpleQueue()
        self._writers = ThreadPoolExecutor(MAX_WRITER_THREADS, thread_name_prefix="rainfs-write")
        self._readers = ThreadPoolExecutor(MAX_READER_THREADS, thread_name_prefix="rainfs-read")
        self._committer = threading.Thread(
            target=self._commit_forever, name="rainfs-commit", daemon=True
        )
        self._committer.start()
        self._written: list[_Put] = []
        """Long puts that were written without a thread and wait for `settle`."""
        self._threaded_puts = 0
        """Long puts that threads have under way."""
        self._put_s = INLINE_PUT_S * 2
        self._commit_s = INLINE_COMMIT_S * 2
        self._quiet_since_s = 0.0
        self._read_pace = ReadPace()
        self._unanswered = 0
        self._all_answered = trio.Event()
        self._closed = False

    @property
    def uuid(self) -> NodeUuid:
        """The store's identity."""
        return self._store.uuid

    @property
    def volume(self) -> VolumeId | None:
        """The volume that the store belongs to."""
        return self._store.volume

    # --- Puts. ----------------------------------------------------------------------------------

    def begin_put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        payload_bytes: int,
        about: bytes,
        *,
        durable: bool,
        done: Done,
    ) -> None:
        """Store a shard; `done` is called on the trio thread when it is over, always.

        `payload` must not change until then.  With `long_puts_inline`, call `settle`
        before waiting for anything.
        """
        put = _Put(key, payload, about, durable, done)
        self._unanswered += 1
        if self._closed:
            put.error = NodeFailing("the store is closed")
            self._answer([put])
        elif payload_bytes <= SMALL_PUT_BYTES:
            if self._unanswered == 1 and self._is_quick():
                self._write(put)
                self._commit([put])
                self._answer([put])
            else:
                self._ready.put(put)
        elif self._long_puts_inline and not self._threaded_puts and self._put_s <= INLINE_PUT_S:
            put.begun_s = time.perf_counter()
            self._write(put)
            self._written.append(put)
            if len(self._written) >= MAX_INLINE_PUTS:
                self.settle()
        else:
            self._threaded_puts += 1
            put.rivals = self._threaded_puts
            self._writers.submit(self._write_and_queue, put)

    @property
    def unsettled(self) -> bool:
        """Whether something waits for `settle`."""
        return bool(self._written)

    def settle(self) -> None:
        """Commit and answer what was written without a thread; at once if that is nothing."""
        if self._written:
            batch, self._written = self._written, []
            self._commit(batch)
            self._count_put((time.perf_counter() - batch[0].begun_s) / len(batch))
            self._answer(batch)

    def put_now(self, key: ShardKey, payload: Buffer, about: bytes) -> bool:
        """Store one new small shard durably at once; False, with nothing done, where that may not
        be: while others wait for the disk, on a slow disk, or out of the ordinary.

        Raises: NodeFull, NodeFailing.
        """
        if self._unanswered or self._closed or not self._is_quick():
            return False
        begun_s = time.perf_counter()
        try:
            return self._store.put_alone(key, payload, about)
        except RainError:
            raise
        except Exception as error:
            log.exception("put of %s", key)
            raise NodeFailing("internal error while committing") from error
        finally:
            self._count_commit(time.perf_counter() - begun_s)
            self._quiet_since_s = trio.current_time()

    def _is_quick(self) -> bool:
        """Whether a commit costs less than a thread would, and no burst of puts is to share it."""
        idle_s = trio.current_time() - self._quiet_since_s
        return self._commit_s <= INLINE_COMMIT_S and idle_s > BURST_GAP_S

    def _write_and_queue(self, put: _Put) -> None:
        put.begun_s = time.perf_counter()
        self._write(put)
        self._ready.put(put)

    def _write(self, put: _Put) -> None:
        try:
            put.pending = self._store.write(put.key, put.payload, put.about)
        except RainError as error:
            put.error = error
        except Exception:
            log.exception("put of %s", put.key)
            put.error = NodeFailing("internal error while writing")

    def _commit_forever(self) -> None:
        """Group commit: all that is ready goes together; more gathers meanwhile."""
        while (first := self._ready.get()) is not None:
            batch = [first]
            last = False
            with contextlib.suppress(queue.Empty):
                while len(batch) < MAX_COMMIT_PUTS and not last:
                    put = self._ready.get_nowait()
                    if put is None:
                        last = True
                    else:
                        batch.append(put)
            for put in batch:
                if put.pending is None and put.error is None:
                    self._write(put)
            self._commit(batch)
            for put in batch:
                if put.rivals:
                    self._count_put((time.perf_counter() - put.begun_s) / put.rivals)
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._answer, batch)
            if last:
                return

    def _commit(self, batch: Sequence[_Put]) -> None:
        written = [put for put in batch if put.pending is not None]
        if not written:
            return
        begun_s = time.perf_counter()
        try:
            outcomes = self._store.commit(
                [put.pending for put in written if put.pending is not None],
                durable=any(put.durable for put in written),
            )
        except RainError as error:
            for put in written:
                put.error = error
        except Exception:
            log.exception("commit of %d shards", len(written))
            for put in written:
                put.error = NodeFailing("internal error while committing")
        else:
            for put, outcome in zip(written, outcomes, strict=True):
                put.error = outcome
        self._count_commit(time.perf_counter() - begun_s)

    def _count_commit(self, took_s: float) -> None:
        self._commit_s += (min(took_s, MAX_COUNTED_COMMIT_S) - self._commit_s) * SMOOTHING

    def _count_put(self, took_s: float) -> None:
        """Take note of how long a long put took, or seemed to take beside its rivals."""
        self._put_s += (min(took_s, MAX_COUNTED_PUT_S) - self._put_s) * SMOOTHING

    def _answer(self, batch: Sequence[_Put]) -> None:
        for put in batch:
            put.payload = ()
            self._threaded_puts -= put.rivals > 0
            put.done(put.error)
        self._quiet_since_s = trio.current_time()
        self._answered(len(batch))

    def _answered(self, count: int) -> None:
        self._unanswered -= count
        if self._closed and not self._unanswered:
            self._all_answered.set()

    # --- Everything else. -----------------------------------------------------------------------

    def get_nowait(self, key: ShardKey, offset: int, length: int) -> memoryview | None:
        """Return verified bytes, or None when that takes a thread.

        Raises: ShardMissing, ShardCorrupt, NodeFailing, InputError.
        """
        if length > INLINE_READ_BYTES:
            return None
        if not self._read_pace.is_quick(alone=not self._unanswered):
            return self._store.read(key, offset, length, nowait=True)
        return self._timed_read(key, offset, length, None)

    def _timed_read(
        self, key: ShardKey, offset: int, length: int, into: memoryview | None
    ) -> memoryview:
        begun_s = time.perf_counter()
        found = self._store.read(key, offset, length, into=into)
        assert found is not None
        if length <= INLINE_READ_BYTES:
            self._read_pace.took(time.perf_counter() - begun_s)
        return found

    def begin_get(
        self, key: ShardKey, offset: int, length: int, into: memoryview | None, got: Got
    ) -> None:
        """Read in a thread; `got` is called on the trio thread with the outcome, always.

        `into`, when given, receives the bytes and must not be touched until then.
        """
        self._unanswered += 1
        if self._closed:
            self._answer_get(got, NodeFailing("the store is closed"))
        else:
            self._readers.submit(self._read, key, offset, length, into, got)

    def _read(
        self, key: ShardKey, offset: int, length: int, into: memoryview | None, got: Got
    ) -> None:
        outcome: memoryview | RainError
        try:
            outcome = self._timed_read(key, offset, length, into)
        except RainError as error:
            outcome = error
        except Exception:
            log.exception("read of %s", key)
            outcome = NodeFailing("internal error while reading")
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._answer_get, got, outcome)

    def _answer_get(self, got: Got, outcome: memoryview | RainError) -> None:
        got(outcome)
        self._answered(1)

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        """Return verified bytes.

        Raises: ShardMissing, ShardCorrupt, NodeFailing, InputError.
        """
        found = self.get_nowait(key, offset, length)
        if found is not None:
            return found
        over = trio.Event()
        outcomes: list[memoryview | RainError] = []

        def got(outcome: memoryview | RainError) -> None:
            outcomes.append(outcome)
            over.set()

        self.begin_get(key, offset, length, None, got)
        await over.wait()
        [outcome] = outcomes
        if isinstance(outcome, RainError):
            raise outcome
        return outcome

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        """Delete shards."""
        await self._run(lambda: self._store.delete(keys))

    async def locate(self, first: ShardKey, limit: int) -> list[tuple[ShardKey, Row]]:
        """Say where shards lie."""
        return await self._run(lambda: self._store.locate(first, limit))

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """List shards."""
        if limit < 1:
            return []
        return await self._run(lambda: self._store.list(after, limit))

    async def stat(self, key: ShardKey) -> ShardInfo:
        """Describe a shard."""
        return await self._run(lambda: self._store.stat(key))

    async def sync(self) -> None:
        """Make everything durable."""
        await self._run(self._store.sync)

    async def health(self) -> NodeHealth:
        """Report."""
        return await self._run(self._store.health)

    async def claim(self, volume: VolumeId) -> None:
        """Bind the store to a volume."""
        await self._run(lambda: self._store.claim(volume))

    async def _run(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._others)

    async def aclose(self) -> None:
        """Let everything that has begun be answered, then stop the threads.  Idempotent."""
        if self._closed:
            return
        self.settle()
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._unanswered:
                await self._all_answered.wait()
            await trio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        self._writers.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        self._ready.put(None)
        self._committer.join()
