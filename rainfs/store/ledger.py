"""Every change of a store, in one order: commits, deletions, checkpoints.

Owns the journal, the order of record, sync, visibility and reuse, and the verdict that a disk
fails.  Refuses to know how payload reached the storage file.

Invariants:
- A shard is visible once its record is written, and durable once a sync of the storage file that
  began after that has succeeded; that one sync covers its data as well.
- Space is released only once the deletion that freed it is durable.
- A sync that failed is never repeated and believed: what it was to cover is dropped, and the store
  refuses every change from then on.
- Changes happen under `lock`, one at a time; lookups do not take it.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from rainfs.errors import (
    NodeFailing,
    NodeFull,
    NodeUnavailable,
    ShardConflict,
    ShardCorrupt,
    StorageError,
)
from rainfs.model import MIB, NodeUuid, ShardKey
from rainfs.store.catalog import Catalog, Found
from rainfs.store.datafile import DataFile
from rainfs.store.journal import Entry, Journal, entry_bytes
from rainfs.store.pending import Pending
from rainfs.store.rows import Row
from rainfs.store.space import Space

log = logging.getLogger(__name__)

MAX_UNFOLDED_BYTES = 256 * MIB
"""Payload that a lap of the journal may name: bounds what is verified after a crash."""


class _Batch:
    """What a commit has decided so far."""

    def __init__(self) -> None:
        self.accepted: dict[ShardKey, Pending] = {}
        self.replaced: list[Row] = []
        """Corrupt shards whose place can be released after the sync."""
        self.unsynced = False
        """Whether a shard that is there already still waits for its sync."""


class Ledger:
    """The writing half of a store.  Thread-safe."""

    def __init__(
        self,
        directory: Path,
        uuid: NodeUuid,
        journal: Journal,
        catalog: Catalog,
        data: DataFile,
        space: Space,
    ) -> None:
        """Continue where `journal` stands; it begins a lap that the index knows of."""
        self.lock = threading.Lock()
        self.failing = False
        self._directory = directory
        self._uuid = uuid
        self._journal = journal
        self._catalog = catalog
        self._data = data
        self._space = space
        self._unfolded_bytes = 0

    @property
    def max_body_bytes(self) -> int:
        """Longest entry that a record can hold."""
        return self._journal.max_body_bytes

    @property
    def durable(self) -> int:
        """Records of this lap that are known to be durable."""
        return self._journal.durable

    def is_unsynced(self, found: Found | None) -> bool:
        """Whether a shard still waits for the sync that makes it durable."""
        record = found.record if found is not None else None
        return record is not None and record >= self._journal.durable

    def check_usable(self) -> None:
        """Raises: NodeFailing once the disk has failed."""
        if self.failing:
            raise NodeFailing(f"{self._directory}: the disk has reported I/O errors")

    def refused(self, error: OSError) -> StorageError:
        """Translate a refused write; anything but a lack of room condemns the disk."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self._space.disk_was_full()
            return NodeFull(f"{self._directory}: {error.strerror}")
        return self.failed(error)

    def failed(self, error: OSError) -> NodeFailing:
        """Give up changing this store: what was not durable may be lost."""
        if not self.failing:
            self.failing = True
            log.error("%s: the disk fails: %s", self._directory, error.strerror)
            lost = self._catalog.undurable(self._journal.durable)
            puts = [key for key, row in lost if row is not None]
            self._catalog.forget(puts)
            self._catalog.count -= len(puts)
        return NodeFailing(f"{self._directory}: {error.strerror}")

    def commit(self, pending: Sequence[Pending], *, durable: bool) -> list[StorageError | None]:
        """Make written shards visible; with `durable`, on stable storage as well."""
        with self.lock:
            batch = _Batch()
            results = [self._admit(item, batch) for item in pending]
            sync_follows = durable or bool(batch.replaced)
            errors = self._record(list(batch.accepted.values()), sync_follows=sync_follows)
            if sync_follows:
                try:
                    if batch.unsynced or len(errors) < len(batch.accepted):
                        self.check_usable()
                        self.sync_now()
                    self._space.release(batch.replaced)
                except StorageError as error:
                    return [result or error for result in results]
            return [
                result or errors.get(item.key)
                for item, result in zip(pending, results, strict=True)
            ]

    def delete(self, keys: Iterable[ShardKey]) -> None:
        """Delete shards, durably.  Raises: NodeFailing, NodeFull, StoreDamaged."""
        with self.lock:
            self.check_usable()
            freed: list[Row] = []
            entries: list[Entry] = []
            for key in dict.fromkeys(keys):
                try:
                    found = self._catalog.get(key)
                except ShardCorrupt:
                    # Where it lay is unknown; the next opening finds that space free.
                    entries.append(Entry(key, None))
                    continue
                if found is not None:
                    entries.append(Entry(key, None))
                    freed.append(found.row)
            if not entries:
                return
            step = max(1, self._journal.max_body_bytes // entry_bytes(0, 0, 0))
            for start in range(0, len(entries), step):
                part = entries[start : start + step]
                self._make_room(len(part) * entry_bytes(0, 0, 0), deleting=True)
                self._append(part, sync_follows=True)
                self._catalog.count -= len(part)
            self.sync_now()
        # Nobody else can name these ranges any more, so the file system may take its time.
        self._space.release(freed)

    def sync(self) -> None:
        """Make everything committed so far durable.  Raises: NodeFailing."""
        with self.lock:
            self.check_usable()
            if self._journal.durable < self._journal.written:
                self.sync_now()

    def close_lap(self) -> None:
        """Leave nothing for the next opening to replay, if possible.  The caller holds `lock`."""
        if self._journal.written and not self.failing:
            try:
                self._checkpoint()
            except NodeFull:
                # The journal keeps what has no room; the next opening takes it over.
                self.sync_now()

    def _admit(self, item: Pending, batch: _Batch) -> StorageError | None:
        """Decide whether an item is to be journalled; an error refuses it."""
        found: Found | None = None
        new = True
        try:
            self.check_usable()
            found = self._catalog.get(item.key)
            new = found is None
        except ShardCorrupt:
            new = False
        except StorageError as error:
            item.discard()
            return error
        earlier = batch.accepted.get(item.key)
        known = earlier.row if earlier is not None else found.row if found is not None else None
        if known is not None and not item.row.same_content(known):
            item.discard()
            return ShardConflict(f"{item.key} is there with other bytes")
        if earlier is None and known is not None and item.replaces:
            batch.replaced.append(known)
        elif known is not None:
            batch.unsynced = batch.unsynced or self.is_unsynced(found)
            item.discard()
            return None
        elif not item.holds_space:
            return NodeUnavailable(f"{item.key} was deleted during the put")
        item.is_new = new
        batch.accepted[item.key] = item
        return None

    def _record(self, items: list[Pending], *, sync_follows: bool) -> dict[ShardKey, StorageError]:
        """Journal the items; return the errors of those that were not."""
        errors: dict[ShardKey, StorageError] = {}
        part: list[Pending] = []
        part_bytes = 0
        for number, item in enumerate(items):
            part.append(item)
            part_bytes += item.entry_bytes
            following = items[number + 1].entry_bytes if number + 1 < len(items) else None
            if following is not None and part_bytes + following <= self.max_body_bytes:
                continue
            try:
                self._append_puts(part, part_bytes, sync_follows=sync_follows)
            except StorageError as error:
                for refused in part:
                    refused.discard()
                    errors[refused.key] = error
            part, part_bytes = [], 0
        return errors

    def _append_puts(self, part: list[Pending], body_bytes: int, *, sync_follows: bool) -> None:
        self.check_usable()
        self._make_room(body_bytes, deleting=False)
        self._append([item.entry for item in part], sync_follows=sync_follows)
        for item in part:
            item.settle()
            self._unfolded_bytes += item.row.length
            self._space.unplaced_bytes += len(item.payload or b"")
            self._catalog.count += item.is_new

    @property
    def owes_lap(self) -> bool:
        """Whether the index is to take over the lap before the next put."""
        return self._unfolded_bytes > MAX_UNFOLDED_BYTES

    def append_alone(self, entry: Entry) -> None:
        """Journal one new small shard, which `sync_now` follows.  The caller holds `lock`."""
        self._append((entry,), sync_follows=True)
        nbytes = len(entry.payload or b"")
        self._unfolded_bytes += nbytes
        self._space.unplaced_bytes += nbytes
        self._catalog.count += 1

    def _append(self, entries: Sequence[Entry], *, sync_follows: bool) -> None:
        try:
            record = self._journal.append(entries, sync_follows=sync_follows)
        except OSError as error:
            raise self.refused(error) from error
        self._catalog.changed(entries, record)

    def _make_room(self, body_bytes: int, *, deleting: bool) -> None:
        full = not self._journal.fits(body_bytes, deleting=deleting)
        if full or self.owes_lap:
            try:
                self._checkpoint()
            except NodeFull:
                if full:
                    raise

    def sync_now(self) -> None:
        """Make everything journalled durable.  The caller holds `lock`.  Raises: NodeFailing."""
        try:
            self._journal.sync()
        except OSError as error:
            raise self.failed(error) from error

    def _checkpoint(self) -> None:
        """Write journalled shards to their places and let the index take over the lap.

        Raises: NodeFull (nothing lost, the lap goes on), NodeFailing.
        """
        try:
            self._data.place(self._catalog.unplaced())
        except OSError as error:
            raise self.refused(error) from error
        self.sync_now()
        lap = self._journal.lap + 1
        try:
            self._catalog.hand_over(self._uuid, lap)
        except NodeFailing:
            self.failing = True
            raise
        self._journal.begin_lap(lap)
        self._unfolded_bytes = self._space.unplaced_bytes = 0
