"""The embedded engine: one SQLite table of keys and values in WAL mode.

Owns the connection, its transactions, and the check that the file is ours.  Refuses to know keys
and values.  Invariants: bodies never suspend, so one connection serves all tasks; writes are
buffered and applied together at commit; no call here waits for a lock inside SQLite, a busy
database is retried with `trio.sleep`; durability is `wal_sync`'s, checkpoints are `checkpointer`'s,
and the commits of the session lock's holder are written when `grouping` says.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
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
    RainError,
    TransactionConflict,
)
from rainfs.meta import session_lock
from rainfs.meta.checkpointer import RESTART_WAIT_MS, WAKE_PAGES, Checkpointer
from rainfs.meta.driving import drive
from rainfs.meta.engine import Reader, Rehearsal, SessionLock, Transaction
from rainfs.meta.group import Group, GroupReader, GroupTransaction
from rainfs.meta.grouping import OTHERS, Grouping, GroupingLock, GroupRehearsal
from rainfs.meta.rows import (
    GET,
    TABLE,
    Execute,
    RowReader,
    RowTransaction,
    check_length,
)
from rainfs.meta.wal_sync import SYSTEM_FILES, SyncFiles, WalSync

T = TypeVar("T")

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
MAX_BUSY_PAUSE_S = 0.005
LOST_SYNCS = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
_DATABASE_MODE = 0o600


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
        self._reader = RowReader(self._execute)
        self._random = random.Random()  # noqa: S311 (jitter, not secrets)
        self._active = False
        self._closed = False
        self._grouping = Grouping(
            self._connection,
            self._cursor,
            written=self._sync.committed,
            translate=self._translated,
            wanted=lambda: self._checkpointer.restarting,
        )
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
        grouping = self._grouping
        grouping.make_room()
        if grouping.group is None or self._active or grouping.broken is not None:
            await self._begin("BEGIN IMMEDIATE")
        self._active = True
        group = grouping.group or grouping.open()
        if group is not None:
            return self._run_in_group(group, body)
        transaction = RowTransaction(self._execute)
        try:
            result = drive(body(transaction))
            changed = transaction.apply(self._cursor)
            self._execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, apsw.Error):
                raise self._translated(error) from error
            raise
        finally:
            self._active = False
        if changed:
            self._sync.committed()
        return result

    def _run_in_group(self, group: Group, body: Callable[[Transaction], Awaitable[T]]) -> T:
        transaction = GroupTransaction(group)
        try:
            result = drive(body(transaction))
            check_length(transaction.pending)
        except apsw.Error as error:
            self._grouping.keep_lock()
            raise self._translated(error) from error
        finally:
            self._active = False
        if transaction.pending:
            group.add(transaction.pending)
        return result

    def rehearse(self, body: Callable[[Transaction], Awaitable[T]]) -> Rehearsal[T] | None:
        """See `Engine.rehearse`; only commits in groups have rehearsals."""
        grouping = self._grouping
        if self._closed or self._active or grouping.broken is not None:
            return None
        if grouping.group is None:
            try:
                self._execute("BEGIN IMMEDIATE")
            except apsw.Error:
                return None
            if grouping.open() is None:
                self._roll_back()
        group = grouping.group
        if group is None or not grouping.has_room:
            return None
        transaction = GroupTransaction(group)
        self._active = True
        try:
            result = drive(body(transaction))
            check_length(transaction.pending)
        except (RainError, apsw.Error):
            grouping.keep_lock()
            return None
        finally:
            self._active = False
        return GroupRehearsal(grouping, group, transaction.pending, result)

    async def read(self, body: Callable[[Reader], Awaitable[T]]) -> T:
        """See `Engine.read`."""
        group = self._grouping.group
        if group is None or self._active or self._grouping.broken is not None:
            await self._begin("BEGIN")
            group = self._grouping.group
        self._active = True
        try:
            if group is not None:
                return drive(body(GroupReader(group)))
            result = drive(body(self._reader))
            self._execute("COMMIT")
        except BaseException as error:
            if group is None:
                self._roll_back()
            if isinstance(error, apsw.Error):
                self._grouping.keep_lock()
                raise translate(error, self._path) from error
            raise
        finally:
            self._active = False
        return result

    def _translated(self, error: apsw.Error) -> MetadataError | NoSpace:
        """Return our exception for a failed transaction."""
        # SQLite's own errors carry the code; those of a replaced VFS may not.
        if getattr(error, "extendedresult", None) in LOST_SYNCS:
            self._sync.fail(f"cannot sync the log of {self._path}")
        return translate(error, self._path)

    async def durable(self) -> None:
        """See `Engine.durable`; commits of other connections and processes are owed as well."""
        if not self._closed:
            self._grouping.write()
            if self._others_committed():
                self._sync.committed()
        await self._sync.durable()

    def _others_committed(self) -> bool:
        """Whether another connection has committed since this was asked last."""
        try:
            version: int = self._execute(OTHERS).fetchone()[0]
        except apsw.BusyError:
            return True
        except apsw.Error as error:
            raise translate(error, self._path) from error
        changed = version != self._others
        self._others = version
        return changed

    def lock_session(self) -> SessionLock | None:
        """See `Engine.lock_session`; whoever gets it will write much.

        So commits are grouped from here on, and the log is made long in advance.
        """
        lock = session_lock.take(self._session_path)
        if lock is None:
            return None
        try:
            self._lengthen_log()
        except BaseException:
            lock.release()
            raise
        self._grouping.start()
        return GroupingLock(lock.release, self._grouping)

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
        try:
            await self.durable()
        finally:
            self._closed = True
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Close at once, on the calling thread; the last connection empties the log.  Idempotent.

        Commits that could not be written yet are lost.  Raises: MetadataError.
        """
        self._closed = True
        try:
            self._grouping.drop()
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
                connection.execute(TABLE)
                connection.pragma("user_version", SCHEMA_VERSION)
                connection.pragma("application_id", APPLICATION_ID)
        if version != SCHEMA_VERSION:
            raise MetadataVersion(
                f"{self._path} has metadata schema {version}; this rainfs knows {SCHEMA_VERSION}"
            )
        if connection.pragma("journal_mode", "wal") != "wal":
            raise MetadataError(f"{self._path}: this file system does not allow a write-ahead log")
        connection.execute(GET, (b"",)).fetchall()  # Opens the log, and finds a missing table.
        return made

    def _after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._checkpointer.log_has(pages)
        self._sync.log_has(pages * LOG_FRAME_BYTES)
        return apsw.SQLITE_OK

    def _check_usable(self) -> None:
        if self._closed:
            raise MetadataError("the metadata engine is closed")
        if self._grouping.broken is not None:
            raise MetadataError(f"{self._path}: {self._grouping.broken}")

    async def _begin(self, statement: str) -> None:
        """Begin a transaction, or join the group."""
        deadline = None
        pause_s = BUSY_PAUSE_S
        while True:
            self._check_usable()
            if self._active:
                raise RuntimeError("a transaction was begun inside another one")
            if self._grouping.group is not None:
                break
            try:
                self._execute(statement)
                break
            except apsw.BusyError as error:
                now = trio.current_time()
                deadline = deadline or now + BUSY_DEADLINE_S
                if now >= deadline:
                    raise translate(error, self._path) from error
                await trio.sleep(pause_s * (0.5 + self._random.random()))
                pause_s = min(pause_s * 2, MAX_BUSY_PAUSE_S)
            except apsw.Error as error:
                raise translate(error, self._path) from error
        self._active = True

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors (a full disk, an I/O error).
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
