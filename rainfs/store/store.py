"""A node's store: shards in, shards out, nothing unverified, nothing acknowledged lost.

Owns the order of things: space, data, journal record, sync, visibility; deletion, sync, reuse.
Refuses to know files, stripes' geometry, networks and event loops: every call may block.

Invariants:
- A shard becomes visible when its journal record is written, and durable when a sync of the
  storage file that began after that has succeeded; one sync covers data and record.
- Space is reused, and punched, only once the deletion that freed it is durable.
- A sync that failed is never repeated and believed: what it was to cover is dropped and the store
  refuses changes from then on.
- Locks: `_commits` (journal, superblock, checkpoint), then `_space` (allocator).  Payload moves
  outside both.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from rainfs import __version__
from rainfs.checksum import crc32c_pages
from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFailing,
    NodeFull,
    NodeUnavailable,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StorageError,
    StoreTooSmall,
)
from rainfs.memory import Buffer, page_buffer
from rainfs.model import (
    KIB,
    MAX_ABOUT_BYTES,
    MAX_SHARD_BYTES,
    MIB,
    PAGE_BYTES,
    NodeHealth,
    NodeUuid,
    ShardInfo,
    ShardKey,
    VolumeId,
)
from rainfs.store import recovery
from rainfs.store.allocator import Allocator
from rainfs.store.catalog import Catalog, Found
from rainfs.store.datafile import DataFile, verify
from rainfs.store.disk import SYSTEM_DISK, Disk
from rainfs.store.index import Busy
from rainfs.store.journal import DEFAULT_JOURNAL_BYTES, Entry, Journal, entry_bytes
from rainfs.store.opening import Opened, open_files, write_superblock
from rainfs.store.rows import Row

log = logging.getLogger(__name__)

INLINE_BYTES = 64 * KIB
"""Shards up to this long ride in the journal and are written to their place in groups."""
MAX_UNFOLDED_BYTES = 256 * MIB
"""Payload that the journal may name before the index takes over: bounds verification at open."""
DISK_RESERVE_BYTES = 32 * MIB
"""Room on the disk below that puts leave alone, for the index and the journal's shards."""
RECHECK_BYTES = 16 * MIB
"""Bytes put between two looks at the free room of the disk below."""


class Pending:
    """A shard that was written but not committed.  Dropping it gives its space back."""

    __slots__ = ("_abandon", "is_new", "key", "payload", "replaces", "row")

    def __init__(
        self,
        key: ShardKey,
        row: Row,
        payload: bytes | None,
        replaces: bool,
        abandon: Callable[[Row], None] | None,
    ) -> None:
        """Hold `row`'s space until commit; `abandon` None holds none."""
        self.key = key
        self.row = row
        self.payload = payload
        self.replaces = replaces
        """Whether the shard of that key that is there is known to be corrupt."""
        self.is_new = True
        """Whether the store had nothing under that key."""
        self._abandon = abandon

    @property
    def holds_space(self) -> bool:
        """Whether the bytes were written; False when the store has them already."""
        return self._abandon is not None

    def settle(self) -> None:
        """The space now belongs to the catalog."""
        self._abandon = None

    def discard(self) -> None:
        """Give the space back; idempotent."""
        if self._abandon is not None:
            self._abandon(self.row)
            self._abandon = None

    def __del__(self) -> None:
        """A pending shard that nobody commits must not leak its space."""
        self.discard()


class _Batch:
    """What a commit has decided so far."""

    def __init__(self) -> None:
        self.accepted: dict[ShardKey, Pending] = {}
        self.replaced: list[Row] = []
        self.unsynced = False
        """Whether a shard that is there already still waits for its sync."""


class Store:
    """One open store.  Thread-safe."""

    def __init__(self, opened: Opened, disk: Disk, allocator: Allocator, catalog: Catalog) -> None:
        """Use `Store.open` instead."""
        self._opened = opened
        self._disk = disk
        self._block = opened.block
        self._allocator = allocator
        self._catalog = catalog
        self._data = DataFile(disk, opened.fd, opened.direct)
        self._journal = journal_of(opened, disk)
        self._commits = threading.Lock()
        self._space = threading.Lock()
        self._abandoned: deque[Row] = deque()
        self._unchecked_bytes = RECHECK_BYTES
        self._unfolded_bytes = 0
        self._unplaced_bytes = 0
        self._failing = False
        self._closed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        capacity_bytes: int | None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        disk: Disk = SYSTEM_DISK,
        journal_bytes: int = DEFAULT_JOURNAL_BYTES,
    ) -> Store:
        """Open the store in `directory`; `capacity_bytes` is required to create it.

        Name, labels and capacity change what is recorded when given; `journal_bytes` counts at
        creation only.

        Raises: InputError, StoreInUse, StoreDamaged, StoreTooSmall, NodeFull, NodeFailing.
        """
        opened = open_files(
            directory,
            capacity_bytes=capacity_bytes,
            name=name,
            labels=labels,
            disk=disk,
            journal_bytes=journal_bytes,
        )
        try:
            allocator, catalog = recovery.recover(opened, disk, journal_of(opened, disk))
            store = cls(opened, disk, allocator, catalog)
            store._journal.begin_lap(opened.lap)
            store._reconfigure(capacity_bytes, name, labels)
        except BaseException as error:
            close_files(opened, disk)
            if isinstance(error, OSError):
                raise NodeFailing(f"{directory}: {error.strerror}") from error
            raise
        return store

    @property
    def uuid(self) -> NodeUuid:
        """The node's identity."""
        return self._block.node

    @property
    def volume(self) -> VolumeId | None:
        """The volume that claimed the store."""
        return self._block.volume_id

    def claim(self, volume: VolumeId) -> None:
        """Bind the store to a volume, durably; idempotent.  Raises: ForeignVolume, NodeFailing."""
        with self._commits:
            if self.volume is None:
                self._rewrite(msgspec.structs.replace(self._block, volume=bytes(volume)))
            elif self.volume != volume:
                raise ForeignVolume(
                    f"{self._opened.directory}: the store belongs to volume {self.volume.hex()}"
                )

    def _reconfigure(
        self, capacity_bytes: int | None, name: str | None, labels: Mapping[str, str] | None
    ) -> None:
        used = self._allocator.used_bytes
        if capacity_bytes is not None and capacity_bytes < used:
            raise StoreTooSmall(
                f"{self._opened.directory}: {used} bytes are in use, more than a capacity of "
                f"{capacity_bytes}"
            )
        old = self._block
        new = msgspec.structs.replace(
            old,
            capacity_bytes=old.capacity_bytes if capacity_bytes is None else capacity_bytes,
            name=old.name if name is None else name,
            labels=old.labels if labels is None else dict(labels),
        )
        if new != old:
            self._rewrite(new)
        self._allocator.capacity_bytes = self._block.capacity_bytes

    def _rewrite(self, block: msgspec.Struct) -> None:
        assert isinstance(block, type(self._block))
        try:
            self._block = write_superblock(self._disk, self._opened.fd, block)
        except OSError as error:
            raise self._failed(error) from error

    # --- Writing. ---------------------------------------------------------------------------

    def write(self, key: ShardKey, payload: Sequence[Buffer], about: bytes = b"") -> Pending:
        """Write a shard's bytes, whole pages together, to be made visible by `commit`.

        Raises: NodeFull, NodeFailing, InputError for impossible lengths.
        """
        length = sum(map(len, payload))
        if length % PAGE_BYTES or not 0 < length <= MAX_SHARD_BYTES:
            raise InputError(f"a shard of {length} bytes: need whole pages, up to 4 MiB")
        if len(about) > MAX_ABOUT_BYTES:
            raise InputError(f"a description of {len(about)} bytes: the limit is {MAX_ABOUT_BYTES}")
        self._check_usable()
        joined: bytes | None = None
        if len(payload) > 1 or length <= INLINE_BYTES:
            crcs = b""
            if all(len(part) % PAGE_BYTES == 0 for part in payload):
                crcs = b"".join(crc32c_pages(part) for part in payload)
            else:
                joined = b"".join(payload)
                crcs = crc32c_pages(joined)
        else:
            crcs = crc32c_pages(payload[0])
        max_body = self._journal.max_body_bytes
        if entry_bytes(len(about), len(crcs), 0) > max_body:
            raise InputError(f"a description of {len(about)} bytes does not fit the journal")
        inline = length <= INLINE_BYTES and entry_bytes(len(about), len(crcs), length) <= max_body

        replaces = False
        try:
            found = self._catalog.get(key)
        except ShardCorrupt:
            found, replaces = None, True
        if found is not None:
            same = found.row.length == length and found.row.crcs == crcs
            if not same or self._intact(found):
                return Pending(key, Row(0, length, crcs, about), None, False, None)
            replaces = True

        row = Row(self._allocate(length), length, crcs, about)
        pending = Pending(key, row, None, replaces, self._abandoned.append)
        if inline:
            pending.payload = joined if joined is not None else b"".join(payload)
        else:
            try:
                self._data.write(payload if joined is None else [joined], row.offset)
            except OSError as error:
                pending.discard()
                raise self._refused(error) from error
        return pending

    def _allocate(self, length: int) -> int:
        with self._space:
            self._reclaim()
            self._unchecked_bytes += length
            if self._unchecked_bytes >= RECHECK_BYTES:
                if self._disk_room() < length:
                    raise NodeFull("the disk below the store is full")
                self._unchecked_bytes = length
            return self._allocator.allocate(length)

    def _reclaim(self) -> None:
        while self._abandoned:
            row = self._abandoned.popleft()
            self._allocator.free(row.offset, row.length)

    def _disk_room(self) -> int:
        try:
            free = self._disk.free_bytes(self._opened.directory)
        except OSError as error:
            raise self._refused(error) from error
        return max(0, free - DISK_RESERVE_BYTES - self._unplaced_bytes)

    def _intact(self, found: Found) -> bool:
        if found.payload is not None:
            return True
        data = page_buffer(found.row.length)
        try:
            self._data.read(data, found.row.offset, nowait=False)
        except OSError:
            return False
        return verify(found.row, 0, data)

    def commit(self, pending: Sequence[Pending], *, durable: bool) -> list[StorageError | None]:
        """Make written shards visible, in one go; with `durable`, on stable storage as well.

        Each has its own result: None when it is stored, else the error.
        """
        with self._commits:
            batch = _Batch()
            results = [self._admit(item, batch) for item in pending]
            errors = self._record(list(batch.accepted.values()))
            if durable or batch.replaced:
                try:
                    if batch.unsynced or len(errors) < len(batch.accepted):
                        self._check_usable()
                        self._sync()
                    self._free([(row.offset, row.length) for row in batch.replaced])
                except StorageError as error:
                    return [result or error for result in results]
            return [
                result or errors.get(item.key)
                for item, result in zip(pending, results, strict=True)
            ]

    def _admit(self, item: Pending, batch: _Batch) -> StorageError | None:
        """Decide whether an item is to be journalled; an error refuses it."""
        try:
            self._check_usable()
        except NodeFailing as error:
            item.discard()
            return error
        earlier = batch.accepted.get(item.key)
        found: Found | None = None
        new = True
        try:
            found = self._catalog.get(item.key)
            new = found is None
        except ShardCorrupt:
            new = False
        except StorageError as error:
            item.discard()
            return error
        known = earlier.row if earlier is not None else found.row if found is not None else None
        if known is not None and not item.row.same_content(known):
            item.discard()
            return ShardConflict(f"{_label(item.key)} is there with other bytes")
        if earlier is None and known is not None and item.replaces:
            batch.replaced.append(known)
        elif known is not None:
            batch.unsynced = batch.unsynced or self._is_unsynced(found)
            item.discard()
            return None
        elif not item.holds_space:
            return NodeUnavailable(f"{_label(item.key)} was deleted during the put")
        item.is_new = new
        batch.accepted[item.key] = item
        return None

    def _is_unsynced(self, found: Found | None) -> bool:
        record = found.record if found is not None else None
        return record is not None and record >= self._journal.durable

    def _record(self, items: list[Pending]) -> dict[ShardKey, StorageError]:
        """Journal the items; return the errors of those that were not."""
        errors: dict[ShardKey, StorageError] = {}
        part: list[Pending] = []
        part_bytes = 0
        for number, item in enumerate(items):
            part.append(item)
            part_bytes += _entry_bytes(item)
            following = _entry_bytes(items[number + 1]) if number + 1 < len(items) else None
            if following is not None and part_bytes + following <= self._journal.max_body_bytes:
                continue
            try:
                self._append_puts(part, part_bytes)
            except StorageError as error:
                for refused in part:
                    refused.discard()
                    errors[refused.key] = error
            part, part_bytes = [], 0
        return errors

    def _append_puts(self, batch: list[Pending], body_bytes: int) -> None:
        self._check_usable()
        self._make_room(body_bytes, deleting=False)
        entries = [Entry(item.key, item.row, item.payload) for item in batch]
        self._append(entries)
        for item in batch:
            item.settle()
            self._unfolded_bytes += item.row.length
            self._unplaced_bytes += len(item.payload or b"")
            self._catalog.count += item.is_new

    def _append(self, entries: Sequence[Entry]) -> None:
        try:
            record = self._journal.append(entries)
        except OSError as error:
            raise self._refused(error) from error
        self._catalog.changed(entries, record)

    def _make_room(self, body_bytes: int, *, deleting: bool) -> None:
        full = not self._journal.fits(body_bytes, deleting=deleting)
        if full or self._unfolded_bytes > MAX_UNFOLDED_BYTES:
            try:
                self._checkpoint()
            except NodeFull:
                if full:
                    raise

    def _sync(self) -> None:
        try:
            self._journal.sync()
        except OSError as error:
            raise self._failed(error) from error

    def _checkpoint(self) -> None:
        """Write journalled shards to their places and let the index take over the lap.

        Raises: NodeFull (nothing lost, the lap goes on), NodeFailing.
        """
        try:
            self._data.place(self._catalog.unplaced())
        except OSError as error:
            raise self._refused(error) from error
        self._sync()
        lap = self._journal.lap + 1
        try:
            self._catalog.hand_over(self.uuid, lap)
        except NodeFailing:
            self._failing = True
            raise
        self._journal.begin_lap(lap)
        self._unfolded_bytes = self._unplaced_bytes = 0

    # --- Deleting. --------------------------------------------------------------------------

    def delete(self, keys: Iterable[ShardKey]) -> None:
        """Delete shards, durably; one that is not there counts as deleted.

        Raises: NodeFailing; NodeFull if not even the journal's reserve has room.
        """
        with self._commits:
            self._check_usable()
            freed: list[tuple[int, int]] = []
            entries: list[Entry] = []
            for key in dict.fromkeys(keys):
                try:
                    found = self._catalog.get(key)
                except ShardCorrupt:
                    found = None
                else:
                    if found is None:
                        continue
                entries.append(Entry(key, None))
                if found is not None:
                    freed.append((found.row.offset, found.row.length))
            if not entries:
                return
            step = max(1, self._journal.max_body_bytes // entry_bytes(0, 0, 0))
            for start in range(0, len(entries), step):
                part = entries[start : start + step]
                self._make_room(len(part) * entry_bytes(0, 0, 0), deleting=True)
                self._append(part)
                self._catalog.count -= len(part)
            self._sync()
            self._free(freed)

    def _free(self, ranges: list[tuple[int, int]]) -> None:
        joined: list[tuple[int, int]] = []
        for offset, length in sorted(ranges):
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((offset, length))
        for offset, length in joined:
            self._data.punch(offset, length)
        with self._space:
            for offset, length in ranges:
                self._allocator.free(offset, length)

    # --- Reading. ---------------------------------------------------------------------------

    def read(
        self,
        key: ShardKey,
        offset: int,
        length: int,
        *,
        into: memoryview | None = None,
        nowait: bool = False,
    ) -> memoryview | None:
        """Return `length` verified bytes from `offset` on; they need not be aligned.

        The bytes lie in `into` if it is given (at least `length` long), or in memory of their own.
        With `nowait`, return None where the bytes are not in memory already.

        Raises: ShardMissing, ShardCorrupt, NodeFailing, InputError beyond the shard's end.
        """
        for _ in range(2):
            try:
                found = self._catalog.get(key, nowait=nowait)
            except Busy:
                return None
            if found is None:
                raise ShardMissing(f"no {_label(key)}")
            row = found.row
            if offset < 0 or length < 0 or offset + length > row.length:
                raise InputError(f"{length} bytes at {offset} of a shard of {row.length} bytes")
            if found.payload is not None:
                return _deliver(memoryview(found.payload)[offset : offset + length], into)
            first = offset // PAGE_BYTES
            stop = -(-(offset + length) // PAGE_BYTES)
            span = (stop - first) * PAGE_BYTES
            exact = span == length and into is not None
            data = into[:length] if exact and into is not None else _memory(span)
            try:
                ready = self._data.read(data, row.offset + first * PAGE_BYTES, nowait=nowait)
            except OSError as error:
                raise self._read_failed(error) from error
            if not ready:
                return None
            if verify(row, first, data):
                if exact:
                    return data
                start = offset - first * PAGE_BYTES
                return _deliver(data[start : start + length], into)
            # A deletion may have given the space to another shard meanwhile: look once more.
        raise ShardCorrupt(f"{_label(key)} does not match its checksums")

    def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """Return at most `limit` shards above `after`, in key order, without descriptions."""
        return self._catalog.list(after, limit, self._journal.durable)

    def stat(self, key: ShardKey) -> ShardInfo:
        """Describe a shard.  Raises: ShardMissing, ShardCorrupt if its index row is."""
        found = self._catalog.get(key)
        if found is None:
            raise ShardMissing(f"no {_label(key)}")
        return ShardInfo(key, found.row.length, not self._is_unsynced(found), found.row.about)

    # --- The whole store. -------------------------------------------------------------------

    def sync(self) -> None:
        """Make everything committed so far durable.  Raises: NodeFailing."""
        with self._commits:
            self._check_usable()
            if self._journal.durable < self._journal.written:
                self._sync()

    def health(self) -> NodeHealth:
        """Report identity, space and condition."""
        with self._space:
            self._reclaim()
            used = self._allocator.used_bytes
            capacity = self._allocator.capacity_bytes
        try:
            room = 0 if self._failing else self._disk_room()
        except StorageError:
            room = 0
        return NodeHealth(
            uuid=self.uuid,
            volume=self.volume,
            name=self._block.name,
            capacity_bytes=capacity,
            used_bytes=used,
            free_bytes=max(0, min(capacity - used, room)),
            shards=self._catalog.count,
            labels=dict(self._block.labels),
            failing=self._failing,
            version=__version__,
        )

    def close(self) -> None:
        """Make everything durable and let go of the files; idempotent.  Raises: NodeFailing."""
        with self._commits:
            if self._closed:
                return
            self._closed = True
            try:
                if not self._failing:
                    self._close_lap()
            finally:
                close_files(self._opened, self._disk)

    def _close_lap(self) -> None:
        if self._journal.written:
            try:
                self._checkpoint()
            except NodeFull:
                # The journal keeps what has no room; the next open takes it over.
                self._sync()

    def _check_usable(self) -> None:
        if self._closed:
            raise NodeFailing(f"{self._opened.directory}: the store is closed")
        if self._failing:
            raise NodeFailing(f"{self._opened.directory}: the disk has reported I/O errors")

    def _refused(self, error: OSError) -> StorageError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self._unchecked_bytes = RECHECK_BYTES
            return NodeFull(f"{self._opened.directory}: {error.strerror}")
        return self._failed(error)

    def _read_failed(self, error: OSError) -> NodeFailing:
        log.error("%s: reading failed: %s", self._opened.directory, error.strerror)
        return NodeFailing(f"{self._opened.directory}: {error.strerror}")

    def _failed(self, error: OSError) -> NodeFailing:
        """Give up changing this store: what was not durable may be lost."""
        if not self._failing:
            self._failing = True
            log.error("%s: the disk fails: %s", self._opened.directory, error.strerror)
            lost = self._catalog.undurable(self._journal.durable)
            puts = [key for key, row in lost if row is not None]
            self._catalog.forget(puts)
            self._catalog.count -= len(puts)
        return NodeFailing(f"{self._opened.directory}: {error.strerror}")


def journal_of(opened: Opened, disk: Disk) -> Journal:
    """Return the journal of an open storage file."""
    block = opened.block
    direct = opened.fd if opened.direct is None else opened.direct
    return Journal(disk, block.node, block.journal_offset, block.journal_bytes, opened.fd, direct)


def close_files(opened: Opened, disk: Disk) -> None:
    """Let go of a store's files, the lock last."""
    opened.index.close()
    if opened.direct is not None:
        disk.close(opened.direct)
    disk.close(opened.fd)


def _label(key: ShardKey) -> str:
    return f"shard {key.stripe:x}.{key.shard}"


def _entry_bytes(item: Pending) -> int:
    return entry_bytes(len(item.row.about), len(item.row.crcs), len(item.payload or b""))


def _memory(span: int) -> memoryview:
    return memoryview(bytearray(span)) if span < MIB // 4 else page_buffer(span)


def _deliver(data: memoryview, into: memoryview | None) -> memoryview:
    if into is None:
        return data
    into[: len(data)] = data
    return into[: len(data)]
