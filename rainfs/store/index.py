"""The index: an SQLite database that maps shard keys to rows.

Owns the database's schema and settings, and translates SQLite's errors.  Refuses to know the
journal, free space and shards' bytes.

Invariants: every commit is durable when it returns (WAL, synchronous=FULL).  The database names
the store it belongs to and the journal lap that it has not taken over yet, in one row that commits
together with the shards' rows.  Only one thread at a time is inside; `nowait` never waits for it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from rainfs.checksum import crc32c
from rainfs.errors import NodeFailing, NodeFull, StorageError, StoreDamaged
from rainfs.model import NodeUuid, ShardKey
from rainfs.store.rows import pack_key

APPLICATION_ID = 0x5241494E
SCHEMA_VERSION = 1
INDEX_PAGE_BYTES = 8192
CACHE_KIB = 16 * 1024
CHECKPOINT_PAGES = 512
"""Pages of the write-ahead log after which SQLite folds it into the database."""

_IDENTITY = struct.Struct("<16sQI")
"""store uuid, lap, crc of both."""

_SCHEMA = """
CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE shard (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID;
"""


def _translated(error: apsw.Error) -> StorageError:
    if isinstance(error, apsw.FullError):
        return NodeFull("the disk below the index is full")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError | apsw.FormatError):
        return StoreDamaged(f"the index is damaged: {error}")
    return NodeFailing(f"the index cannot be used: {error}")


class Busy(Exception):
    """Somebody else is inside the index, and the caller asked not to wait."""


class Index:
    """One open index database."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Use `create` or `open` instead."""
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, uuid: NodeUuid, *, vfs: str | None) -> Index:
        """Make a new, empty, durable index.  Raises: NodeFull, NodeFailing."""
        index = cls._connect(path, vfs, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            index._settings()
            with index._connection:
                index._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                index._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                index._connection.execute(_SCHEMA)
                index._put_identity(uuid, 0)
        except apsw.Error as error:
            index.close()
            raise _translated(error) from error
        return index

    @classmethod
    def open(cls, path: Path, *, vfs: str | None) -> Index:
        """Open an existing index.  Raises: StoreDamaged, NodeFailing, NodeFull."""
        index = cls._connect(path, vfs, apsw.SQLITE_OPEN_READWRITE)
        try:
            if index._pragma("application_id") != APPLICATION_ID:
                raise StoreDamaged("the index is not a rainfs index")
            version = index._pragma("user_version")
            if version != SCHEMA_VERSION:
                raise StoreDamaged(
                    f"the index has format {version}; this rainfs knows {SCHEMA_VERSION}"
                )
            index._settings()
        except apsw.Error as error:
            index.close()
            raise _translated(error) from error
        except StoreDamaged:
            index.close()
            raise
        return index

    @classmethod
    def _connect(cls, path: Path, vfs: str | None, flags: int) -> Index:
        try:
            connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
        except apsw.Error as error:
            raise _translated(error) from error
        # Exclusive locking keeps the shared-memory file away: no other process has business here.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return cls(connection)

    def _pragma(self, name: str) -> int:
        for (value,) in self._connection.execute(f"PRAGMA {name}"):
            return int(value)
        return 0

    def _settings(self) -> None:
        for pragma in (
            f"page_size = {INDEX_PAGE_BYTES}",
            "journal_mode = WAL",
            "synchronous = FULL",
            f"cache_size = -{CACHE_KIB}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            "temp_store = MEMORY",
        ):
            self._connection.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        """Close the database; everything committed is already durable."""
        with self._lock:
            self._connection.close()

    def identity(self) -> tuple[NodeUuid, int]:
        """Return the store's uuid and the lap the journal is in.  Raises: StoreDamaged."""
        try:
            rows = list(self._connection.execute("SELECT value FROM identity WHERE one = 1"))
        except apsw.Error as error:
            raise _translated(error) from error
        if len(rows) != 1 or len(rows[0][0]) != _IDENTITY.size:
            raise StoreDamaged("the index does not say which store it belongs to")
        uuid, lap, crc = _IDENTITY.unpack(rows[0][0])
        if crc32c(rows[0][0][:-4]) != crc:
            raise StoreDamaged("the index's identity does not match its checksum")
        return NodeUuid(uuid), lap

    def _put_identity(self, uuid: NodeUuid, lap: int) -> None:
        body = _IDENTITY.pack(uuid, lap, 0)[:-4]
        value = body + crc32c(body).to_bytes(4, "little")
        self._connection.execute("INSERT OR REPLACE INTO identity VALUES (1, ?)", (value,))

    def get(self, packed_key: bytes, *, nowait: bool = False) -> bytes | None:
        """Return a row's bytes, or None.  Raises: Busy if `nowait`, StoreDamaged, NodeFailing."""
        if not self._lock.acquire(blocking=not nowait):
            raise Busy
        try:
            for (row,) in self._connection.execute(
                "SELECT row FROM shard WHERE key = ?", (packed_key,)
            ):
                return bytes(row)
            return None
        except apsw.Error as error:
            raise _translated(error) from error
        finally:
            self._lock.release()

    def page(self, after: ShardKey | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` (key, row) pairs above `after`, in key order."""
        start = pack_key(after) if after is not None else b""
        with self._lock:
            try:
                found = self._connection.execute(
                    "SELECT key, row FROM shard WHERE key > ? ORDER BY key LIMIT ?", (start, limit)
                )
                return [(bytes(key), bytes(row)) for key, row in found]
            except apsw.Error as error:
                raise _translated(error) from error

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (key, row); used while the store is being opened, by one thread."""
        try:
            for key, row in self._connection.execute("SELECT key, row FROM shard ORDER BY key"):
                yield bytes(key), bytes(row)
        except apsw.Error as error:
            raise _translated(error) from error

    def apply(
        self,
        uuid: NodeUuid,
        lap: int,
        puts: Sequence[tuple[bytes, bytes]],
        deletes: Sequence[bytes],
    ) -> None:
        """Take over changes and begin a lap, durably, all or nothing.

        Raises: NodeFull, NodeFailing, StoreDamaged.
        """
        with self._lock:
            try:
                with self._connection:
                    if deletes:
                        self._connection.executemany(
                            "DELETE FROM shard WHERE key = ?", ((key,) for key in deletes)
                        )
                    if puts:
                        self._connection.executemany(
                            "INSERT OR REPLACE INTO shard VALUES (?, ?)", puts
                        )
                    self._put_identity(uuid, lap)
            except apsw.Error as error:
                raise _translated(error) from error
