"""A node's store: shards in, shards out, nothing unverified, nothing acknowledged lost.

Owns the parts of an open store and the reading half.  Refuses to know files, stripes' geometry,
networks and event loops: every call may block, except a `nowait` read.

Invariants: payload moves outside every lock; bytes leave only after their checksums have agreed;
the lock on the storage file is the last thing that is let go of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from rainfs import __version__
from rainfs.checksum import crc32c_pages
from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFailing,
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
    PAGE_BYTES,
    NodeHealth,
    NodeUuid,
    ShardInfo,
    ShardKey,
    VolumeId,
)
from rainfs.store.alone import LonePuts
from rainfs.store.catalog import Found
from rainfs.store.datafile import DIRECT_READ_BYTES, DataFile, verify
from rainfs.store.disk import SYSTEM_DISK, Disk
from rainfs.store.index import Busy
from rainfs.store.journal import DEFAULT_JOURNAL_BYTES, Journal, entry_bytes
from rainfs.store.ledger import Ledger
from rainfs.store.opening import Opened, close_files, open_files, write_superblock
from rainfs.store.pending import Pending
from rainfs.store.recovery import recover
from rainfs.store.rows import Row
from rainfs.store.space import Space
from rainfs.store.superblock import Superblock

log = logging.getLogger(__name__)

INLINE_BYTES = 64 * KIB
"""Shards up to this long ride in the journal and are written to their place in groups."""


class Store:
    """One open store.  Thread-safe."""

    def __init__(self, opened: Opened, disk: Disk) -> None:
        """Use `Store.open` instead.  Raises: OSError, NodeFull, NodeFailing, StoreDamaged."""
        block = opened.block
        journal = Journal(
            disk,
            block.node,
            block.journal_offset,
            block.journal_bytes,
            opened.fd,
            opened.direct,
        )
        self._opened = opened
        self._disk = disk
        self._data = DataFile(disk, opened.fd, opened.direct)
        allocator, self._catalog = recover(opened, disk, self._data, journal)
        journal.begin_lap(opened.lap)
        self._space = Space(disk, opened.directory, self._data, allocator)
        self._ledger = Ledger(
            opened.directory, block.node, journal, self._catalog, self._data, self._space
        )
        self._alone = LonePuts(self._ledger, journal, self._catalog, self._space)
        self._block = block
        self._closed = False
        self._unreadable = False
        """Whether a read has met an I/O error: reported, while changes go on."""

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
            store = cls(opened, disk)
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
        with self._ledger.lock:
            self._check_usable()
            if self.volume is None:
                self._rewrite(msgspec.structs.replace(self._block, volume=bytes(volume)))
            elif self.volume != volume:
                raise ForeignVolume(
                    f"{self._opened.directory}: the store belongs to volume {self.volume.hex()}"
                )

    def _reconfigure(
        self, capacity_bytes: int | None, name: str | None, labels: Mapping[str, str] | None
    ) -> None:
        used, _ = self._space.usage()
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
        self._space.resize(self._block.capacity_bytes)

    def _rewrite(self, block: Superblock) -> None:
        try:
            self._block = write_superblock(self._disk, self._opened.fd, block)
        except OSError as error:
            raise self._ledger.failed(error) from error

    # --- Writing. ---------------------------------------------------------------------------

    def write(self, key: ShardKey, payload: Sequence[Buffer], about: bytes = b"") -> Pending:
        """Write a shard's bytes, whole pages together, to be made visible by `commit`.

        What is never committed gives its space back when it is discarded or dropped.

        Raises: NodeFull, NodeFailing, InputError for impossible lengths.
        """
        length = sum(map(len, payload))
        if length % PAGE_BYTES or not 0 < length <= MAX_SHARD_BYTES:
            raise InputError(f"a shard of {length} bytes: need whole pages, up to 4 MiB")
        crc_bytes = length // PAGE_BYTES * 4
        max_body = self._ledger.max_body_bytes
        if len(about) > MAX_ABOUT_BYTES or entry_bytes(len(about), crc_bytes, 0) > max_body:
            raise InputError(f"a description of {len(about)} bytes is too long")
        inline = length <= INLINE_BYTES and entry_bytes(len(about), crc_bytes, length) <= max_body
        self._check_usable()
        if any(len(part) % PAGE_BYTES for part in payload):
            payload = [b"".join(payload)]
        crcs = b"".join([crc32c_pages(part) for part in payload])

        replaces = False
        try:
            found = self._catalog.get(key)
        except ShardCorrupt:
            found, replaces = None, True
        if found is not None:
            same = found.row.length == length and found.row.crcs == crcs
            if not same or self._intact(found):
                return Pending(key, Row(0, length, crcs, about), None)
            replaces = True

        try:
            row = Row(self._space.allocate(length), length, crcs, about)
            carried = b"".join(payload) if inline else None
            pending = Pending(key, row, carried, replaces=replaces, abandon=self._space.give_up)
            if not inline:
                self._data.write(payload, row.offset)
        except OSError as error:
            raise self._ledger.refused(error) from error
        return pending

    def _intact(self, found: Found) -> bool:
        if found.payload is not None:
            return True
        data = page_buffer(found.row.length)
        try:
            self._data.read(data, found.row.offset, nowait=False)
        except OSError:
            return False
        return verify(found.row, 0, data)

    def put_alone(self, key: ShardKey, payload: Buffer, about: bytes) -> bool:
        """Store one new small shard durably, in one go; False where that takes `write`, `commit`.

        Raises: NodeFull, NodeFailing.
        """
        return not self._closed and self._alone.put(key, payload, about)

    def commit(self, pending: Sequence[Pending], *, durable: bool) -> list[StorageError | None]:
        """Make written shards visible, in one go; with `durable`, on stable storage as well.

        Each has its own result: None when it is stored, else the error (ShardConflict, NodeFull,
        NodeFailing).
        """
        return self._ledger.commit(pending, durable=durable)

    def delete(self, keys: Iterable[ShardKey]) -> None:
        """Delete shards, durably; one that is not there counts as deleted.

        Raises: NodeFailing; NodeFull if not even the journal's reserve has room.
        """
        self._ledger.delete(keys)

    def sync(self) -> None:
        """Make everything committed so far durable.  Raises: NodeFailing."""
        self._ledger.sync()

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
                raise ShardMissing(f"no {key}")
            row = found.row
            if offset < 0 or length < 0 or offset + length > row.length:
                raise InputError(f"{length} bytes at {offset} of a shard of {row.length} bytes")
            if found.payload is not None:
                return _deliver(memoryview(found.payload)[offset : offset + length], into)
            first = offset // PAGE_BYTES
            span = -(-(offset + length) // PAGE_BYTES) * PAGE_BYTES - first * PAGE_BYTES
            borrowed: memoryview | None = None
            if into is not None and span == length:
                data = into[:length]
            elif span < DIRECT_READ_BYTES:
                data = memoryview(bytearray(span))
            elif into is not None:
                borrowed = self._data.borrow(span)
                data = borrowed[:span]
            else:
                data = page_buffer(span)
            try:
                if not self._data.read(data, row.offset + first * PAGE_BYTES, nowait=nowait):
                    return None
                if verify(row, first, data):
                    start = offset - first * PAGE_BYTES
                    found_bytes = data[start : start + length]
                    return found_bytes if span == length else _deliver(found_bytes, into)
            except OSError as error:
                self._unreadable = True
                log.error("%s: reading failed: %s", self._opened.directory, error.strerror)
                raise NodeFailing(f"{self._opened.directory}: {error.strerror}") from error
            finally:
                if borrowed is not None:
                    self._data.give_back(borrowed)
            # A deletion may have given the space to another shard meanwhile: look once more.
        raise ShardCorrupt(f"{key} does not match its checksums")

    def locate(self, first: ShardKey, limit: int) -> list[tuple[ShardKey, Row]]:
        """Return where shards from `first` on lie in the storage file, in key order.

        At most `limit`; those that are not in their place yet are left out.  A deletion may give
        the place to another shard at any moment: only the checksums say whose bytes are there.
        """
        return self._catalog.placed(first, limit)

    def open_readers(self) -> list[int]:
        """Return descriptors of the storage file for reading: buffered, and O_DIRECT where it has
        that; whoever asked closes them.  None where the system refuses.
        """
        readers: list[int] = []
        try:
            readers.append(self._disk.reopen(self._opened.fd))
            if self._opened.direct is not None:
                readers.append(self._disk.reopen(self._opened.direct, direct=True))
        except OSError as error:
            log.info("%s: no descriptors to share: %s", self._opened.directory, error.strerror)
        return readers

    def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        """Return at most `limit` shards above `after`, in key order, without descriptions.

        A shard whose index row is corrupt is listed with length 0.
        """
        return self._catalog.list(after, limit, self._ledger.durable)

    def stat(self, key: ShardKey) -> ShardInfo:
        """Describe a shard.  Raises: ShardMissing, ShardCorrupt if its index row is."""
        found = self._catalog.get(key)
        if found is None:
            raise ShardMissing(f"no {key}")
        durable = not self._ledger.is_unsynced(found)
        return ShardInfo(key, found.row.length, durable, found.row.about)

    def health(self) -> NodeHealth:
        """Report identity, space and condition."""
        used, capacity = self._space.usage()
        failing = self._ledger.failing or self._unreadable
        try:
            room = 0 if self._ledger.failing else self._space.disk_room()
        except OSError:
            room, failing = 0, True
        return NodeHealth(
            uuid=self.uuid,
            volume=self.volume,
            name=self._block.name,
            capacity_bytes=capacity,
            used_bytes=used,
            free_bytes=max(0, min(capacity - used, room)),
            shards=self._catalog.count,
            labels=dict(self._block.labels),
            failing=failing,
            version=__version__,
        )

    def close(self) -> None:
        """Make everything durable and let go of the files; idempotent.  Raises: NodeFailing."""
        with self._ledger.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._ledger.close_lap()
            finally:
                self._ledger.failing = True
                close_files(self._opened, self._disk)

    def _check_usable(self) -> None:
        if self._closed:
            raise NodeFailing(f"{self._opened.directory}: the store is closed")
        self._ledger.check_usable()


def _deliver(data: memoryview, into: memoryview | None) -> memoryview:
    if into is None:
        return data
    into[: len(data)] = data
    return into[: len(data)]
