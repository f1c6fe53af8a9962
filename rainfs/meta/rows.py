"""The SQL of the embedded engine: one table of keys and values, read and written by statements.

Owns the statements, and a transaction that buffers its writes until `apply`.  Refuses to know when
transactions begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apsw

from rainfs.errors import MetadataError
from rainfs.meta.engine import MAX_TRANSACTION_KEYS
from rainfs.meta.overlay import merge_scan

Execute = Callable[..., Any]
"""`apsw.Cursor.execute`: what a row holds is the C library's affair."""

TABLE = "CREATE TABLE IF NOT EXISTS kv(k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
GET = "SELECT v FROM kv WHERE k=?"
_PUT = "INSERT INTO kv VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v"
_DELETE = "DELETE FROM kv WHERE k=?"
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


def scan_rows(
    execute: Execute, start: bytes, stop: bytes, limit: int, reverse: bool
) -> list[tuple[bytes, bytes]]:
    """Return at most `limit` rows with `start <= key < stop`, in (reverse) key order."""
    if limit <= 0:
        return []
    bits = min((limit - 1).bit_length(), _MAX_LIMIT_BITS - 1)
    statement = (_SCANS_BACK if reverse else _SCANS)[bits]
    rows: list[tuple[bytes, bytes]] = execute(statement, (start, stop)).fetchall()
    return rows if len(rows) <= limit else rows[:limit]


def write_rows(cursor: apsw.Cursor, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Put values, and delete the keys whose value is None."""
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[tuple[bytes]] = []
    for key, value in rows:
        if value is None:
            deletes.append((key,))
        else:
            puts.append((key, value))
    if puts:
        cursor.executemany(_PUT, puts)
    if deletes:
        cursor.executemany(_DELETE, deletes)


def check_length(pending: dict[bytes, bytes | None]) -> None:
    """Raises: MetadataError if one transaction wrote more than it may."""
    if len(pending) > MAX_TRANSACTION_KEYS:
        raise MetadataError(f"a transaction wrote {len(pending)} keys: too many")


class RowReader:
    """See `rainfs.meta.engine.Reader`."""

    __slots__ = ("_execute",)

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        row = self._execute(GET, (key,)).fetchone()
        return row[0] if row is not None else None

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        return scan_rows(self._execute, start, stop, limit, reverse)


class RowTransaction(RowReader):
    """See `rainfs.meta.engine.Transaction`; writes wait for `apply`."""

    __slots__ = ("_pending",)

    def __init__(self, execute: Execute) -> None:
        super().__init__(execute)
        self._pending: dict[bytes, bytes | None] = {}

    async def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        pending = self._pending
        if key in pending:
            return pending[key]
        row = self._execute(GET, (key,)).fetchone()
        return row[0] if row is not None else None

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        if not self._pending:
            return scan_rows(self._execute, start, stop, limit, reverse)
        changed = {k: v for k, v in self._pending.items() if start <= k < stop}
        rows = scan_rows(self._execute, start, stop, limit + len(changed), reverse)
        return merge_scan(rows, changed, limit, reverse) if changed else rows

    def put(self, key: bytes, value: bytes) -> None:
        """See `Transaction.put`."""
        self._pending[key] = value

    def delete(self, key: bytes) -> None:
        """See `Transaction.delete`."""
        self._pending[key] = None

    def apply(self, cursor: apsw.Cursor) -> bool:
        """Write what is pending; returns whether there was anything."""
        check_length(self._pending)
        write_rows(cursor, self._pending.items())
        return bool(self._pending)
