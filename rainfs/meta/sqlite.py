"""The embedded engine: one SQLite table of keys and values in WAL mode.

Owns the connection, its transactions, and the check that the file is ours.  Refuses to know keys
and values.  Invariants: bodies never suspend, so one connection serves all tasks; writes are
buffered and applied in one statement at commit; no call here waits for a lock inside SQLite, a
busy database is retried with `trio.sleep`; durability is `wal_sync`'s, checkpoints are
`checkpointer`'s.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import apsw
import trio

from rainfs.errors import (
    InputError,
    MetadataAbsent,
    MetadataError,
    MetadataForeign,
    MetadataVersion,
    NoSpace,
    TransactionConflict,
)
from rainfs.meta import session_lock
from rainfs.meta.checkpointer import RESTART_WAIT_MS, WAKE_PAGES, Checkpointer
from rainfs.meta.driving import drive
from rainfs.meta.engine import MAX_TRANSACTION_KEYS, Reader, SessionLock, Transaction
from rainfs.meta.overlay import merge_scan
from rainfs.meta.wal_sync import SYSTEM_FILES, SyncFiles, WalSync

T = TypeVar("T")
Execute = Callable[..., Any]
"""`apsw.Cursor.execute`: what a row holds is the C library's affair."""

MIN_SQLITE = (3, 51, 3)
"""Versions before it may corrupt the log when checkpoints run concurrently."""

APPLICATION_ID = 0x5261494E
SCHEMA_VERSION = 1
CACHE_KIB = 32 * 1024
OPEN_WAIT_MS = 5_000
LOG_FRAME_BYTES = 4096 + 24
"""A page in the log, with its header."""

LOG_SLACK_PARTS = 8
"""One part in so many of the log made in advance is for what comes during a checkpoint."""

BUSY_DEADLINE_S = 10.0
BUSY_PAUSE_S = 0.000_5
MAX_BUSY_PAUSE_S = 0.02
LOST_SYNCS = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
_DATABASE_MODE = 0o600

_GET = "SELECT v FROM kv WHERE k=?"
_PUT = "INSERT INTO kv VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v"
_DELETE = "DELETE FROM kv WHERE k=?"
_OTHERS = "PRAGMA data_version"
"""A number that changes when another connection, of any process, has committed."""
# A literal limit: with a bound one SQLite takes twice as long.  Powers of two keep the statement
# cache small.
_MAX_LIMIT_BITS = 20
_SCANS = tuple(
    f"SELECT k,v FROM kv WHERE k>=? AND k<? ORDER BY k LIMIT {1 << bits}"  # noqa: S608 (integers)
    for bits in range(_MAX_LIMIT_BITS)
)
_SCANS_BACK = tuple(
    f"SELECT k,v FROM kv WHERE k>=? AND k<? ORDER BY k DESC LIMIT {1 << bits}"  # noqa: S608
    for bits in range(_MAX_LIMIT_BITS)
)


def _scan(
    execute: Execute, start: bytes, stop: bytes, limit: int, reverse: bool
) -> list[tuple[bytes, bytes]]:
    if limit <= 0:
        return []
    bits = min((limit - 1).bit_length(), _MAX_LIMIT_BITS - 1)
    statement = (_SCANS_BACK if reverse else _SCANS)[bits]
    rows: list[tuple[bytes, bytes]] = execute(statement, (start, stop)).fetchall()
    return rows if len(rows) <= limit else rows[:limit]


class _SqliteReader:
    __slots__ = ("_execute",)

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get(self, key: bytes) -> bytes | None:
        row = self._execute(_GET, (key,)).fetchone()
        return row[0] if row is not None else None

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        return _scan(self._execute, start, stop, limit, reverse)


class _SqliteTransaction(_SqliteReader):
    __slots__ = ("_pending",)

    def __init__(self, execute: Execute) -> None:
        super().__init__(execute)
        self._pending: dict[bytes, bytes | None] = {}

    async def get(self, key: bytes) -> bytes | None:
        pending = self._pending
        if key in pending:
            return pending[key]
        row = self._execute(_GET, (key,)).fetchone()
        return row[0] if row is not None else None

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        if not self._pending:
            return _scan(self._execute, start, stop, limit, reverse)
        changed = {k: v for k, v in self._pending.items() if start <= k < stop}
        rows = _scan(self._execute, start, stop, limit + len(changed), reverse)
        return merge_scan(rows, changed, limit, reverse) if changed else rows

    def put(self, key: bytes, value: bytes) -> None:
        self._pending[key] = value

    def delete(self, key: bytes) -> None:
        self._pending[key] = None

    def apply(self, cursor: apsw.Cursor) -> bool:
        """Write what is pending; returns whether there was anything."""
        pending = self._pending
        if not pending:
            return False
        if len(pending) > MAX_TRANSACTION_KEYS:
            raise MetadataError(f"a transaction wrote {len(pending)} keys: too many")
        puts = [(key, value) for key, value in pending.items() if value is not None]
        if puts:
            cursor.executemany(_PUT, puts)
        if len(puts) != len(pending):
            cursor.executemany(_DELETE, [(key,) for key, value in pending.items() if value is None])
        return True


def check_library() -> None:
    """Raises: MetadataError if the SQLite inside apsw is too old to be trusted."""
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if found < MIN_SQLITE:
        needed = ".".join(map(str, MIN_SQLITE))
        raise MetadataError(
            f"SQLite {apsw.sqlite_lib_version()} is too old: {needed} or later is needed"
        )


def translate(error: apsw.Error, path: Path) -> MetadataError | NoSpace:
    """Return our exception for SQLite's."""
    if isinstance(error, apsw.NotADBError):
        return MetadataForeign(f"{path} is not a rainfs metadata database")
    if isinstance(error, apsw.CorruptError):
        return MetadataForeign(f"metadata database {path} is corrupt: {error}")
    if isinstance(error, apsw.FullError):
        return NoSpace(f"no room for metadata on the disk of {path}")
    if isinstance(error, apsw.BusyError):
        return TransactionConflict(f"metadata database {path} stayed busy")
    return MetadataError(f"metadata database {path}: {error}")


class SqliteEngine:
    """See `rainfs.meta.engine.Engine`."""

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        vfs: str | None = None,
        files: SyncFiles = SYSTEM_FILES,
        wake_pages: int = WAKE_PAGES,
    ) -> None:
        """Open the database, or make one.

        Raises: MetadataAbsent, MetadataForeign, MetadataVersion, MetadataError, InputError.
        """
        check_library()
        self._path = Path(os.path.abspath(path))
        self._vfs = vfs
        self._create = create
        if vfs is None:
            self._find_file()
        try:
            self._connection = self._connect(OPEN_WAIT_MS)
        except apsw.Error as error:
            raise translate(error, self._path) from error
        try:
            fresh = self._check_or_create()
            self._connection.set_busy_timeout(0)
            wal = Path(f"{self._path}-wal")
            self._sync = WalSync(wal, files, fresh=fresh)
        except apsw.Error as error:
            self._connection.close()
            raise translate(error, self._path) from error
        except BaseException:
            self._connection.close()
            raise
        self._log_bytes = wake_pages * LOG_SLACK_PARTS // (LOG_SLACK_PARTS - 1) * LOG_FRAME_BYTES
        self._checkpointer = Checkpointer(
            lambda: self._connect(RESTART_WAIT_MS),
            self._sync.fail,
            wake_pages=wake_pages,
        )
        self._connection.set_wal_hook(self._after_commit)
        self._cursor = self._connection.cursor()
        self._execute: Execute = self._cursor.execute
        self._reader = _SqliteReader(self._execute)
        self._random = random.Random()  # noqa: S311 (jitter, not secrets)
        self._active = False
        self._closed = False
        # What is read first may be a commit that nobody has synced: the first call owes that.
        self._others: int | None = None

    @property
    def url(self) -> str:
        """The URL that opened it."""
        return f"sqlite://{quote(str(self._path))}"

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """See `Engine.run`."""
        await self._begin("BEGIN IMMEDIATE")
        transaction = _SqliteTransaction(self._execute)
        try:
            result = drive(body(transaction))
            changed = transaction.apply(self._cursor)
            self._execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, apsw.Error):
                # SQLite's own errors carry the code; those of a replaced VFS may not.
                if getattr(error, "extendedresult", None) in LOST_SYNCS:
                    self._sync.fail(f"cannot sync the log of {self._path}")
                raise translate(error, self._path) from error
            raise
        finally:
            self._active = False
        if changed:
            self._sync.committed()
        return result

    async def read(self, body: Callable[[Reader], Awaitable[T]]) -> T:
        """See `Engine.read`."""
        await self._begin("BEGIN")
        try:
            result = drive(body(self._reader))
            self._execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, apsw.Error):
                raise translate(error, self._path) from error
            raise
        finally:
            self._active = False
        return result

    async def durable(self) -> None:
        """See `Engine.durable`; commits of other connections and processes are owed as well."""
        if not self._closed and self._others_committed():
            self._sync.committed()
        await self._sync.durable()

    def _others_committed(self) -> bool:
        """Whether another connection has committed since this was asked last."""
        try:
            version = self._execute(_OTHERS).fetchone()[0]
        except apsw.BusyError:
            return True
        except apsw.Error as error:
            raise translate(error, self._path) from error
        changed = bool(version != self._others)
        self._others = version
        return changed

    def lock_session(self) -> SessionLock | None:
        """See `Engine.lock_session`; whoever gets it will write much, and finds a long log."""
        lock = session_lock.take(self._session_path)
        if lock is not None:
            try:
                self._lengthen_log()
            except BaseException:
                lock.release()
                raise
        return lock

    def _lengthen_log(self) -> None:
        self._connection.set_busy_timeout(OPEN_WAIT_MS)
        try:
            self._execute("BEGIN IMMEDIATE")
            self._sync.extend(self._log_bytes)
        except apsw.BusyError:
            return  # Another process writes all the time; the log grows by itself.
        except apsw.Error as error:
            raise translate(error, self._path) from error
        finally:
            self._roll_back()
            self._connection.set_busy_timeout(0)

    def session_locked(self) -> bool:
        """See `Engine.session_locked`."""
        return session_lock.is_locked(self._session_path)

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._sync.durable()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Close at once, on the calling thread; the last connection empties the log.  Idempotent.

        Raises: MetadataError.
        """
        self._closed = True
        try:
            self._checkpointer.close()
            self._connection.close()
        except apsw.Error as error:
            raise translate(error, self._path) from error
        finally:
            self._sync.close()

    @property
    def _session_path(self) -> Path:
        return Path(f"{self._path}.session")

    def _find_file(self) -> None:
        if self._path.is_dir():
            raise InputError(f"{self._path} is a directory, not a metadata database")
        if self._path.exists():
            return
        if not self._create:
            raise MetadataAbsent(f"there is no metadata database at {self._path}")
        if not self._path.parent.is_dir():
            raise InputError(f"{self._path.parent} is not a directory")
        try:
            # SQLite gives the log and the shared memory the database's mode.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _DATABASE_MODE))
        except OSError as error:
            raise MetadataError(f"cannot create {self._path}: {error.strerror}") from error

    def _connect(self, wait_ms: int) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if self._create else 0)
        connection = apsw.Connection(str(self._path), flags=flags, vfs=self._vfs)
        connection.set_busy_timeout(wait_ms)
        connection.pragma("synchronous", "NORMAL")
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("cache_size", -CACHE_KIB)
        return connection

    def _check_or_create(self) -> bool:
        """Returns whether the database was made."""
        connection = self._connection
        application = connection.pragma("application_id")
        version = connection.pragma("user_version")
        made: bool = application != APPLICATION_ID
        if made:
            empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
            if application != 0 or version != 0 or not empty or not self._create:
                raise MetadataForeign(f"{self._path} is not a rainfs metadata database")
            version = SCHEMA_VERSION
            connection.pragma("journal_mode", "wal")
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS kv"
                    "(k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
                )
                connection.pragma("user_version", SCHEMA_VERSION)
                connection.pragma("application_id", APPLICATION_ID)
        if version != SCHEMA_VERSION:
            raise MetadataVersion(
                f"{self._path} has metadata schema {version}; this rainfs knows {SCHEMA_VERSION}"
            )
        if connection.pragma("journal_mode", "wal") != "wal":
            raise MetadataError(f"{self._path}: this file system does not allow a write-ahead log")
        connection.execute(_GET, (b"",)).fetchall()  # Opens the log, and finds a missing table.
        return made

    def _after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._checkpointer.log_has(pages)
        return apsw.SQLITE_OK

    async def _begin(self, statement: str) -> None:
        if self._closed:
            raise MetadataError("the metadata engine is closed")
        deadline = None
        pause_s = BUSY_PAUSE_S
        while True:
            if self._active:
                raise RuntimeError("a transaction was begun inside another one")
            try:
                self._execute(statement)
            except apsw.BusyError as error:
                now = trio.current_time()
                deadline = deadline or now + BUSY_DEADLINE_S
                if now >= deadline:
                    raise translate(error, self._path) from error
                await trio.sleep(pause_s * (0.5 + self._random.random()))
                pause_s = min(pause_s * 2, MAX_BUSY_PAUSE_S)
                if self._closed:
                    raise MetadataError("the metadata engine is closed") from error
            except apsw.Error as error:
                raise translate(error, self._path) from error
            else:
                self._active = True
                return

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors (a full disk, an I/O error).
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
