"""A temporary database that a check sorts and joins in, so that its memory stays bounded.

Owns the tables below, which live in an unnamed file that SQLite makes when they outgrow its cache
of CACHE_KIB and deletes by itself.  For each inode they hold about 60 bytes, for each name about 50
and the name, for each extent about 40, for each stripe about 60.  Refuses to know what is checked.

Ids have 64 bits without a sign, SQLite's integers have one: `signed` and `unsigned` map between
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

CACHE_KIB = 32 * 1024
BATCH_ROWS = 1_000

_TABLES = {
    # An inode's own row; `target` is the length of a symbolic link's target.
    "inode": "ino INTEGER PRIMARY KEY, kind INT, nlink INT, size INT, allocated INT, parent INT,"
    " marked INT, layout INT, bad INT",
    "unreadable": "ino INTEGER PRIMARY KEY",
    "entry": "parent INT, slot INT, child INT, kind INT, name BLOB, misplaced INT,"
    " PRIMARY KEY (parent, slot)",
    "extent": "stripe INT, ino INT, off INT, len INT, block INT, boff INT",
    "used": "ino INTEGER PRIMARY KEY, bytes INT, stop INT",
    "orphan": "ino INT, epoch INT, PRIMARY KEY (ino, epoch)",
    "xattr": "ino INTEGER PRIMARY KEY, n INT",
    "layout": "id INTEGER PRIMARY KEY",
    "node": "number INTEGER PRIMARY KEY",
    # sound: 1 if the row can be used, 0 if not.
    "stripe": "stripe INTEGER PRIMARY KEY, born INT, n INT, sound INT",
    "state": "stripe INTEGER PRIMARY KEY, live INT, born INT, n INT, sound INT",
    "tomb": "stripe INTEGER PRIMARY KEY",
    "hurt": "ino INTEGER PRIMARY KEY",
}
_KEYED_ROWS = frozenset({"entry", "orphan"})


def signed(number: int) -> int:
    """Return an id of 64 bits as SQLite stores it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    """Return the id again."""
    return number & ((1 << 64) - 1)


class Scratch:
    """The temporary database.  Close it."""

    def __init__(self) -> None:
        self._connection = self._open()
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}

    @staticmethod
    def _open() -> apsw.Connection:
        connection = apsw.Connection("")
        connection.pragma("journal_mode", "off")
        connection.pragma("synchronous", "off")
        connection.pragma("cache_size", -CACHE_KIB)
        for name, columns in _TABLES.items():
            keyed = " WITHOUT ROWID" if name in _KEYED_ROWS else ""
            connection.execute(f"CREATE TABLE {name} ({columns}){keyed}")
        connection.execute("BEGIN")
        return connection

    def clear(self) -> None:
        """Forget everything."""
        self._connection.close()
        self._waiting.clear()
        self._connection = self._open()

    def add(self, table: str, *values: Any) -> None:
        """Add a row; one with the same key stays as it is."""
        rows = self._waiting.setdefault(table, [])
        rows.append(values)
        if len(rows) >= BATCH_ROWS:
            self._write(table, rows)

    def execute(self, statement: str, *values: Any) -> None:
        """Run a statement over what was added."""
        self._flush()
        self._connection.execute(statement, values)

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query over what was added; the tables must not change meanwhile."""
        self._flush()
        yield from self._connection.cursor().execute(query, values)

    def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query, None if there is none."""
        return next(self.rows(query, *values), None)

    def close(self) -> None:
        """Delete it."""
        self._connection.close()

    def _flush(self) -> None:
        for table, rows in self._waiting.items():
            if rows:
                self._write(table, rows)

    def _write(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        marks = ",".join("?" * len(rows[0]))
        self._connection.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES ({marks})",  # noqa: S608 (names of ours)
            rows,
        )
        rows.clear()
