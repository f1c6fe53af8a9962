"""The journal: the part of the storage file that makes a commit durable with one sync.

Owns the binary form of records (FORMAT.md), where the next one goes, and which are known to be on
stable storage.  Refuses to know what becomes of the entries.

Invariants: a record counts only whole: magic, store, lap, position and checksum must agree.  Laps
only grow; a lap begins at position 0 after the index has taken over all earlier ones, so a record
of an older lap is never believed.  The area was written when the store was made, so that appending
changes no file-system metadata.
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from rainfs.checksum import crc32c
from rainfs.errors import ShardCorrupt
from rainfs.memory import page_buffer
from rainfs.model import KIB, MIB, PAGE_BYTES, NodeUuid, ShardKey
from rainfs.store.disk import Disk
from rainfs.store.rows import KEY_BYTES, Row, pack_key, pack_row, unpack_key, unpack_row

MAGIC = b"RAINJRNL"
DEFAULT_JOURNAL_BYTES = 8 * MIB
MIN_JOURNAL_BYTES = 16 * PAGE_BYTES
DELETE_RESERVE_PARTS = 8
"""One part in so many of the journal only deletions may fill, so that a full store can shrink."""
MAX_RECORD_PARTS = 4
"""A record fills at most one part in so many of the journal."""
DIRECT_RECORD_BYTES = 128 * KIB
"""Records up to this long, when they are to be synced, are written past the page cache."""
SECTOR_BYTES = 512
"""Past the page cache a record is written to the end of its last sector only: a small shard and its
row are little more than a page, and would take two."""

_HEADER = struct.Struct("<8s16sQIIIIII")
"""magic, store uuid, lap, position, number, durable, entries, body_bytes, crc."""
_CRC_OFFSET = _HEADER.size - 4
_ENTRY = struct.Struct(f"<B{KEY_BYTES}sII")
"""kind, key, row_bytes, payload_bytes; then row and payload."""
_PADDING = bytes(PAGE_BYTES)


class EntryKind(enum.IntEnum):
    """What an entry does."""

    PUT = 1
    DELETE = 2


class Entry(msgspec.Struct, frozen=True):
    """One change of the index."""

    key: ShardKey
    row: Row | None
    """None deletes the key."""
    payload: bytes | None = None
    """The shard's bytes, when they have not been written to their place yet."""
    packed: bytes = b""
    """The row's bytes, when they have been made already."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was committed together."""

    number: int
    durable: int
    """Records of the lap that were known to be durable when this one was written."""
    entries: tuple[Entry, ...]


def entry_bytes(about_bytes: int, crc_bytes: int, payload_bytes: int) -> int:
    """Return an upper bound for an entry's length in a record."""
    return _ENTRY.size + 32 + about_bytes + crc_bytes + payload_bytes


def encode_record(
    uuid: NodeUuid, lap: int, position: int, number: int, durable: int, entries: Sequence[Entry]
) -> bytes:
    """Return the record's bytes, not padded."""
    parts: list[bytes] = []
    for entry in entries:
        packed = pack_key(entry.key)
        if entry.row is None:
            parts.append(_ENTRY.pack(EntryKind.DELETE, packed, 0, 0))
            continue
        row = entry.packed or pack_row(packed, entry.row)
        payload = entry.payload or b""
        parts += (_ENTRY.pack(EntryKind.PUT, packed, len(row), len(payload)), row, payload)
    body = b"".join(parts)
    fields = (MAGIC, uuid, lap, position, number, durable, len(entries), len(body))
    crc = crc32c(_HEADER.pack(*fields, 0) + body)
    return _HEADER.pack(*fields, crc) + body


def decode_record(area: memoryview, uuid: NodeUuid, lap: int, position: int) -> Record | None:
    """Return the record that begins at `position` of the journal area, or None if none does."""
    if area[position : position + len(MAGIC)] != MAGIC:
        return None
    magic, owner, its_lap, at, number, durable, count, body_bytes, crc = _HEADER.unpack_from(
        area, position
    )
    start = position + _HEADER.size
    stop = start + body_bytes
    if owner != uuid or its_lap != lap or at != position or stop > len(area):
        return None
    fields = (magic, owner, its_lap, at, number, durable, count, body_bytes, 0)
    if crc32c(area[start:stop], crc32c(_HEADER.pack(*fields))) != crc:
        return None
    return Record(number, durable, tuple(_entries(area[start:stop], count)))


def record_bytes(body_bytes: int) -> int:
    """Return the pages that a record with such a body fills, in bytes."""
    return -(-(_HEADER.size + body_bytes) // PAGE_BYTES) * PAGE_BYTES


def _entries(body: memoryview, count: int) -> Iterator[Entry]:
    at = 0
    for _ in range(count):
        kind, packed, row_bytes, payload_bytes = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        key = unpack_key(packed)
        if kind == EntryKind.DELETE:
            yield Entry(key, None)
            continue
        if kind != EntryKind.PUT:
            raise ShardCorrupt(f"journal entry of unknown kind {kind}")
        row = unpack_row(packed, bytes(body[at : at + row_bytes]))
        at += row_bytes
        payload = bytes(body[at : at + payload_bytes]) if payload_bytes else None
        at += payload_bytes
        yield Entry(key, row, payload)


class Journal:
    """The writer's end; the store calls it under its commit lock."""

    def __init__(
        self,
        disk: Disk,
        uuid: NodeUuid,
        offset: int,
        journal_bytes: int,
        fd: int,
        direct: int | None,
    ) -> None:
        """Write through `direct` what is to be synced at once, the rest through `fd`.

        A sync has less to do behind an O_DIRECT write than behind a buffered one, and costs half
        as much where several stores share a disk; but a record without a sync must cost no wait.
        `direct` is None where the file system has no O_DIRECT.
        """
        self._disk = disk
        self._uuid = uuid
        self._offset = offset
        self._bytes = journal_bytes
        self._fd = fd
        self._direct = direct
        self._aligned = page_buffer(min(DIRECT_RECORD_BYTES, journal_bytes))
        self._direct_bytes = SECTOR_BYTES
        """What lengths of writes past the page cache are multiples of: more on disks that ask."""
        self._position = 0
        self.lap = 0
        self.written = 0
        """Records appended in this lap."""
        self.durable = 0
        """Of those, how many are known to be on stable storage."""
        self.max_body_bytes = journal_bytes // MAX_RECORD_PARTS - PAGE_BYTES
        """Longest body of a record, so that header and padding fit as well."""

    def begin_lap(self, lap: int) -> None:
        """Start over; the index already holds everything of earlier laps."""
        self.lap = lap
        self._position = self.written = self.durable = 0

    def fits(self, body_bytes: int, *, deleting: bool) -> bool:
        """Whether a record with such a body still fits into this lap."""
        reserve = 0 if deleting else self._bytes // DELETE_RESERVE_PARTS
        return self._position + record_bytes(body_bytes) <= self._bytes - reserve

    def append(self, entries: Sequence[Entry], *, sync_follows: bool) -> int:
        """Write a record, without a sync; return its number.  Raises: OSError."""
        record = encode_record(
            self._uuid, self.lap, self._position, self.written, self.durable, entries
        )
        padding = -len(record) % PAGE_BYTES
        at = self._offset + self._position
        if not (sync_follows and self._write_direct(record, padding, at)):
            self._disk.pwrite(self._fd, [record, _PADDING[:padding]], at)
        self._position += len(record) + padding
        self.written += 1
        return self.written - 1

    def _write_direct(self, record: bytes, padding: int, at: int) -> bool:
        """Write past the page cache; False where the record or the file system is unfit for it.

        What lies between the last sector and the next record stays as it is; nobody reads it.
        """
        length, aligned = len(record), self._aligned
        if self._direct is None or length + padding > len(aligned):
            return False
        aligned[:length] = record
        aligned[length : length + padding] = _PADDING[:padding]
        while True:
            stop = -(-length // self._direct_bytes) * self._direct_bytes
            try:
                self._disk.pwrite(self._direct, [aligned[:stop]], at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                if self._direct_bytes == PAGE_BYTES:
                    self._direct = None
                    return False
                self._direct_bytes = PAGE_BYTES
            else:
                return True

    def sync(self) -> None:
        """Make every record, and all data written before this call, durable.  Raises: OSError."""
        written = self.written
        self._disk.fdatasync(self._fd)
        self.durable = written

    def replay(self, lap: int) -> list[Record]:
        """Return the whole records of a lap, in the order they were written.

        A record that a crash tore is skipped; later ones still count, for no two that could
        depend on each other are ever unsynced together.
        """
        area = page_buffer(self._bytes)
        self._disk.pread(self._fd, area, self._offset)
        found: list[Record] = []
        position = 0
        while position < self._bytes:
            record = decode_record(area, self._uuid, lap, position)
            if record is None:
                position += PAGE_BYTES
                continue
            found.append(record)
            body_bytes = int.from_bytes(
                area[position + _CRC_OFFSET - 4 : position + _CRC_OFFSET], "little"
            )
            position += record_bytes(body_bytes)
        return found
