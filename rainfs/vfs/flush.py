"""From dirty bytes to committed ones: gather, write stripes, commit in order, push back.

Owns the dirty set, the stripes in flight and the dirty limit.  Refuses to know handles, names and
how a stripe is coded.

Invariants:
- Bytes are readable at every moment: in the dirty map, then in a layer of their inode, then
  through committed extents; a layer goes only after its commit.
- Batches of one inode commit in the order they were gathered.  A batch that could not be written
  stays in its place with its bytes and is tried again; those behind it wait.
- The committed size of a file never exceeds what was gathered of it in that order.
- `held` is the cost of all dirty and in-flight bytes; `admit` keeps it below the limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import trio

from rainfs.array.array import Array, Piece
from rainfs.errors import (
    ArrayError,
    InputOutput,
    MetadataError,
    RainError,
    SessionLost,
    StripeSpoiled,
)
from rainfs.meta.engine import Engine
from rainfs.meta.extents import MAX_BLOCKS_PER_STRIPE, Extents
from rainfs.meta.sessions import Session
from rainfs.model import KIB, PAGE_BYTES, Layout, StripeView
from rainfs.vfs.batch import Batch, Part, State, begin, committable, pieces_of, updates_of
from rainfs.vfs.inodes import Inode
from rainfs.vfs.options import VfsOptions

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How often ages are looked at."""

DURABLE_S = 5.0
"""Commits become durable at least this often."""

MAX_SPOILED = 3
"""Stripe ids that one attempt to write may use up."""

MAX_FILES_PER_BATCH = 1024
"""Bounds the keys of one commit."""

MAX_BLOCKS_PER_COMMIT = MAX_BLOCKS_PER_STRIPE
"""Bounds how long one commit may take; a single stripe may always."""


AHEAD_BYTES = 64 * KIB
"""What is flushed because a sync is expected is no longer than this."""


class Flusher:
    """The one way from memory to the array and the metadata."""

    def __init__(
        self,
        array: Array,
        extents: Extents,
        session: Session,
        engine: Engine,
        layout: Layout,
        *,
        options: VfsOptions,
        nursery: trio.Nursery,
        changed: Callable[[Inode], None],
    ) -> None:
        """`changed` is told of every inode whose stored attributes a commit altered."""
        self._array = array
        self._extents = extents
        self._session = session
        self._engine = engine
        self._layout = layout
        self._options = options
        self._nursery = nursery
        self._changed = changed
        self._dirty: dict[Inode, None] = {}
        self._batches: dict[Batch, None] = {}
        self._active = 0
        self.held = 0
        self.most_held = 0
        """The most that `held` was after a write."""
        self.committed_bytes = 0
        self.spent = 0
        """What commits took off `exposed`."""
        self.uncommitted_durable = False
        self._wake = trio.Event()
        self._freed = trio.Event()
        self._window = trio.Semaphore(options.window_stripes)
        self._sync_window = trio.Semaphore(options.window_stripes)
        self._commit_lock = trio.Lock()
        self.broken: Exception | None = None

    # --- What the writers call. ---

    def dirtied(self, inode: Inode, cost_change: int) -> None:
        """Say that `inode` has bytes, a size or times to commit."""
        if inode not in self._dirty:
            inode.dirty_since = trio.current_time()
            self._dirty[inode] = None
        self._active += cost_change
        self.held += cost_change
        if self.held > self.most_held:
            self.most_held = self.held
        if self._active >= self._layout.stripe_bytes:
            self._wake.set()

    def admits(self, nbytes: int) -> bool:
        """Whether `nbytes` more may be held right now."""
        return self.held + nbytes <= self._options.dirty_bytes and self.broken is None

    @property
    def exposed(self) -> int:
        """Cost of all that is not committed, with a page for the end of each file's flush."""
        parts = len(self._dirty) + sum(len(batch.parts) for batch in self._batches)
        return self.held + parts * PAGE_BYTES

    @property
    def any_pending(self) -> bool:
        """Whether anything is dirty or in flight."""
        return bool(self._dirty or self._batches)

    async def admit(self, nbytes: int) -> None:
        """Wait until `nbytes` more may be held.

        Raises: InputOutput once nothing was committed for the deadline.
        """
        if self.broken is not None:
            raise InputOutput(f"this mount can commit nothing any more: {self.broken}")
        while self.held + nbytes > self._options.dirty_bytes:
            self._wake.set()
            with trio.move_on_after(self._options.deadline_s) as scope:
                await self._freed.wait()
            if scope.cancelled_caught:
                raise InputOutput("no dirty bytes could be written out within the deadline")

    async def flush(self, inode: Inode) -> None:
        """Commit everything of `inode` that is dirty now.

        Raises: the reason why it failed; the bytes stay dirty.
        """
        if not inode.pending:
            return
        if inode.barrier:
            await _end_of_cut(inode)
        while inode in self._dirty:
            self._gather((inode,), whole=True)
        await self._attempt_all([batch for batch, _ in inode.layers])

    def flush_ahead(self, inode: Inode) -> None:
        """Begin to commit the little that is dirty of `inode`: a sync of it is likely to be next.

        The nodes then have it while the caller is on its way back with the sync.  Left out while
        other batches are under way, whose turn it would have to wait for.
        """
        quiet = not self._batches and not inode.barrier and self.broken is None
        if quiet and inode.dirty.cost <= AHEAD_BYTES:
            self._nursery.start_soon(self._flush_ahead, inode)

    async def _flush_ahead(self, inode: Inode) -> None:
        if self._batches or inode.barrier or inode not in self._dirty:
            return
        batch = self._gather((inode,), whole=True)
        if not batch.parts:
            return
        batch.sync_expected = True
        # A failure is kept with the batch, for whoever syncs or closes the file.
        begin(batch, self._batches)
        await self._write(batch)

    async def flush_all(self) -> None:
        """Commit everything that is dirty now.  Raises: the first reason why something failed."""
        while cut := [inode for inode in self._dirty if inode.barrier]:
            await _end_of_cut(cut[0])
        while self._dirty:
            self._gather(self._dirty, whole=True)
        await self._attempt_all(list(self._batches))

    async def drain(self) -> None:
        """Commit what can be; failures are left to those who sync, and to the next retry."""
        if self.held and not any(batch.state is State.FAILED for batch in self._batches):
            try:
                await self.flush_all()
            except RainError as error:
                log.info("not all dirty bytes could be committed: %s", error)

    async def _attempt_all(self, batches: list[Batch]) -> None:
        """Try what is not being tried, wait for `batches`.  Raises: the first failure."""
        idle = [batch for batch in self._batches if batch.state is State.FAILED]
        for batch in idle:
            begin(batch, self._batches)
        if len(idle) == 1:
            await self._write(idle[0])
        else:
            for batch in idle:
                self._nursery.start_soon(self._write_in_turn, batch)
        failure: Exception | None = None
        for batch in batches:
            # Whoever else retries a failed one before this task runs again: its outcome counts.
            while batch.state is not State.COMMITTED:
                await batch.settled.wait()
                if batch.error is not None:
                    failure = failure or batch.error
                    break
        if failure is not None:
            raise failure

    async def cut(self, inode: Inode, size: int) -> None:
        """Drop uncommitted bytes from `size` on; afterwards no batch of `inode` holds any.

        The caller has set `inode.barrier`.  Waits for what is being written right now.
        """
        self.drop_dirty(inode, size)
        while True:
            busy = [b for b, _ in inode.layers if b.state is not State.FAILED]
            waited = next((b.settled for b in busy if not b.settled.is_set()), None)
            if waited is None:
                break
            await waited.wait()
        for batch, data in inode.layers:
            if data.stop > size:
                self._give_up_stripe(batch)
                data.truncate(size)
        for batch, _ in inode.layers:
            for part in batch.parts:
                if part.inode is inode:
                    part.size = min(part.size, size)

    def drop_dirty(self, inode: Inode, size: int) -> None:
        """Drop bytes from `size` on that are not yet in flight."""
        before = inode.dirty.cost
        inode.dirty.truncate(size)
        change = inode.dirty.cost - before
        self._active += change
        self._release(-change)

    def discard(self, inode: Inode) -> None:
        """Drop everything uncommitted of an inode that nobody can name any more."""
        self.drop_dirty(inode, 0)
        inode.meta_dirty = False
        self._dirty.pop(inode, None)
        for batch, data in inode.layers:
            if batch.state is State.FAILED:
                data.truncate(0)

    # --- Gathering. ---

    def _gather(self, inodes: Iterable[Inode], *, whole: bool) -> Batch:
        """Take dirty bytes of `inodes`, in order, for at most one stripe."""
        room, blocks = self._layout.stripe_bytes, MAX_BLOCKS_PER_STRIPE
        block_bytes = self._layout.block_bytes
        parts: list[Part] = []
        now = trio.current_time()
        for inode in list(_first(inodes, MAX_FILES_PER_BATCH)):
            if inode.barrier:
                continue
            stop = inode.dirty.fit(room, blocks, block_bytes, whole=whole)
            before = inode.dirty.cost
            taken = inode.dirty.extract(stop)
            if not taken and (inode.dirty or not inode.meta_dirty):
                if not inode.dirty:
                    self._dirty.pop(inode, None)
                continue
            self._active += inode.dirty.cost - before
            self.held += inode.dirty.cost - before + taken.cost
            room -= taken.nbytes
            blocks -= sum(1 for _ in taken.pieces(block_bytes))
            inode.stored_size = max(inode.stored_size, taken.stop)
            del self._dirty[inode]
            if inode.dirty:
                inode.dirty_since = now
                self._dirty[inode] = None
            else:
                inode.stored_size = inode.size
                inode.meta_dirty = False
            parts.append(Part(inode, taken, inode.stored_size))
            if room <= 0 or blocks <= 0:
                break
        batch = Batch(parts)
        for part in parts:
            part.inode.layers.append((batch, part.bytes))
        if parts:
            self._batches[batch] = None
        return batch

    # --- Writing and committing. ---

    async def _write(self, batch: Batch) -> None:
        """One attempt to write and commit a batch that `begin` was called for."""
        pieces = pieces_of(batch, self._layout.block_bytes)
        if pieces:
            try:
                batch.view = await self._write_stripe(pieces, batch)
            except ArrayError as error:
                self._fail(batch, error)
                return
            except Exception as error:
                log.exception("a stripe could not be written")
                self._fail(batch, InputOutput(f"writing a stripe failed: {error!r}"))
                return
        batch.state = State.WRITTEN
        await self._commit()

    async def _write_stripe(self, pieces: Sequence[Piece], batch: Batch) -> StripeView:
        """Write a stripe under a new id, under a few if nodes come and go meanwhile."""
        for attempt in range(1, MAX_SPOILED + 1):
            stripe = self._session.next_stripe()
            try:
                return await self._array.write(
                    stripe,
                    pieces,
                    self._layout,
                    meanwhile=lambda view: self._rehearse(batch, view),
                    heeds_rivals=not batch.sync_expected,
                )
            except StripeSpoiled:
                self._session.settle(stripe)
                if attempt == MAX_SPOILED:
                    raise
            except Exception:
                self._session.settle(stripe)
                raise
        raise AssertionError("unreachable")

    def _rehearse(self, batch: Batch, view: StripeView) -> None:
        """While the nodes store its stripe, prepare the commit of a batch that is alone."""
        if len(self._batches) == 1:
            batch.rehearsed = self._extents.rehearse([view], updates_of([batch]))

    def _fail(self, batch: Batch, error: Exception) -> None:
        """End an attempt without success; whoever closes or syncs the files is told."""
        batch.state = State.FAILED
        batch.error = error
        batch.retry_at = trio.current_time() + self._options.retry_s
        for part in batch.parts:
            part.inode.failure = error
            part.inode.failure_told = False
        batch.settled.set()
        blocked = {part.inode for part in batch.parts}
        for other in self._batches:
            if other.state is State.WRITTEN and any(p.inode in blocked for p in other.parts):
                other.error = error
                other.settled.set()

    def _give_up_stripe(self, batch: Batch) -> None:
        """Forget the stripe of a batch that waits behind a failed one: its bytes change."""
        if batch.view is not None:
            self._session.settle(batch.view.id)
            self._array.forget(batch.view.id)
            batch.view = None
        batch.state = State.FAILED

    async def _commit(self) -> None:
        """Commit every written batch whose turn it is."""
        try:
            # Without contention this spares the turn of the scheduler that acquire() always takes.
            self._commit_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._commit_lock.acquire()
        try:
            while group := committable(self._batches, MAX_BLOCKS_PER_COMMIT):
                views = [batch.view for batch in group if batch.view is not None]
                for batch in group:
                    batch.state = State.COMMITTING
                rehearsed, group[0].rehearsed = group[0].rehearsed, None
                try:
                    await self._extents.commit(views, updates_of(group), rehearsed)
                except SessionLost as error:
                    self.broken = error
                    self._commit_failed(group, error)
                    return
                except MetadataError as error:
                    self._commit_failed(group, error)
                    return
                except Exception as error:
                    log.exception("a commit failed")
                    self._commit_failed(group, InputOutput(f"a commit failed: {error!r}"))
                    return
                self.uncommitted_durable = True
                for batch in group:
                    self._committed(batch)
        finally:
            self._commit_lock.release()

    def _commit_failed(self, group: list[Batch], error: RainError) -> None:
        log.error("a commit failed: %s", error)
        for batch in group:
            self._give_up_stripe(batch)
            self._fail(batch, error)

    def _committed(self, batch: Batch) -> None:
        if batch.view is not None:
            self._session.settle(batch.view.id)
        batch.state = State.COMMITTED
        batch.error = None
        del self._batches[batch]
        for part in batch.parts:
            layers = part.inode.layers
            layers[:] = [layer for layer in layers if layer[0] is not batch]
            part.inode.failure = next((b.error for b, _ in layers if b.error is not None), None)
            self._changed(part.inode)
        self.committed_bytes += batch.nbytes
        self.spent += batch.cost + len(batch.parts) * PAGE_BYTES
        self._release(batch.cost)
        batch.settled.set()

    def _release(self, cost: int) -> None:
        self.held -= cost
        self._freed.set()
        self._freed = trio.Event()

    # --- Background. ---

    async def run(self) -> None:
        """Stream out full stripes as they gather, old bytes by age, failed batches again."""
        while True:
            with trio.move_on_after(TICK_S):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            failed = [batch for batch in self._batches if batch.state is State.FAILED]
            if failed:
                for batch in failed:
                    if batch.retry_at <= now:
                        begin(batch, self._batches)
                        self._nursery.start_soon(self._write, batch)
                continue
            while batch_due := self._due():
                await self._window.acquire()
                batch = self._gather(self._dirty, whole=batch_due > 1)
                if not batch.parts:
                    self._window.release()
                    break
                begin(batch, self._batches)
                self._nursery.start_soon(self._write_in_window, batch)

    async def _write_in_turn(self, batch: Batch) -> None:
        async with self._sync_window:
            await self._write(batch)

    async def _write_in_window(self, batch: Batch) -> None:
        try:
            await self._write(batch)
        finally:
            self._window.release()

    def _due(self) -> int:
        """0: nothing to write; 1: a stripe is full; 2: bytes are old or memory is short."""
        if not self._dirty or any(b.state is State.FAILED for b in self._batches):
            return 0
        oldest = next(iter(self._dirty))
        if trio.current_time() - oldest.dirty_since >= self._options.flush_age_s:
            return 0 if oldest.barrier else 2
        if self._active < self._layout.stripe_bytes:
            return 0
        return 2 if self._active > self._options.dirty_bytes // 2 else 1

    async def run_durable(self) -> None:
        """Make commits durable and publish the low-water mark, again and again."""
        while True:
            await trio.sleep(DURABLE_S)
            try:
                await self._session.publish()
                await self.durable()
            except MetadataError as error:
                log.error("commits could not be made durable: %s", error)

    async def durable(self) -> None:
        """Make every commit so far survive a power cut.  Raises: MetadataError."""
        self.uncommitted_durable = False
        try:
            await self._engine.durable()
        except BaseException:
            self.uncommitted_durable = True
            raise


async def _end_of_cut(inode: Inode) -> None:
    """Wait until nobody shortens the file: what is dirty of it then may be gathered."""
    while inode.barrier:
        async with inode.lock:
            pass


def _first(inodes: Iterable[Inode], limit: int) -> Iterator[Inode]:
    for index, inode in enumerate(inodes):
        if index == limit:
            return
        yield inode
