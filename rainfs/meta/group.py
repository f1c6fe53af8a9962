"""Commits that are written to the database together.

A commit of its own costs ten times what its rows cost, and operations on one directory rewrite the
same rows again and again.  So the process that holds the session lock, which is the one that
writes all day, gathers its commits in memory and writes them as one: see `grouping`.  Owns the
gathered rows and how reads see them.  Refuses to know when they are written.

Invariant: rows here win over the rows of the database, and a transaction's own over both.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from rainfs.meta.overlay import merge_scan
from rainfs.meta.rows import GET, Execute, scan_rows

MAX_CACHED_ROWS = 1_024
"""Rows of the database that a group remembers."""

MAX_CACHED_SCANS = 256
SHORT_SCAN_ROWS = 16
"""Ranges of at most so many rows are remembered: a name is looked up before it is made."""


class Group:
    """What has been committed and not written yet, in key order; None is a deleted key."""

    __slots__ = ("_cached", "_execute", "_keys", "_scans", "rows", "version")

    def __init__(self, execute: Execute) -> None:
        """The caller has begun the database's transaction, so nobody else changes its rows."""
        self._execute = execute
        self._keys: list[bytes] = []
        self._cached: dict[bytes, bytes | None] = {}
        self._scans: dict[tuple[bytes, bytes, int, bool], list[tuple[bytes, bytes]]] = {}
        self.rows: dict[bytes, bytes | None] = {}
        self.version = 0
        """How often rows were taken over."""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, changes: dict[bytes, bytes | None]) -> None:
        """Take over the writes of one transaction."""
        rows = self.rows
        for key in changes:
            if key not in rows:
                insort(self._keys, key)
        rows.update(changes)
        self.version += 1

    def in_order(self) -> list[tuple[bytes, bytes | None]]:
        """Return all rows by key, the order in which a tree takes them best."""
        rows = self.rows
        return [(key, rows[key]) for key in self._keys]

    def get(self, key: bytes) -> bytes | None:
        """Return a value, here or in the database."""
        rows = self.rows
        if key in rows:
            return rows[key]
        cached = self._cached
        if key in cached:
            return cached[key]
        row = self._execute(GET, (key,)).fetchone()
        value: bytes | None = row[0] if row is not None else None
        if len(cached) < MAX_CACHED_ROWS:
            cached[key] = value
        return value

    def changed(self, start: bytes, stop: bytes) -> dict[bytes, bytes | None]:
        """Return the rows here with `start <= key < stop`."""
        keys = self._keys
        low = bisect_left(keys, start)
        if low == len(keys) or keys[low] >= stop:
            return {}
        rows = self.rows
        return {key: rows[key] for key in keys[low : bisect_left(keys, stop, low)]}

    def scan(
        self,
        start: bytes,
        stop: bytes,
        limit: int,
        reverse: bool,
        changed: dict[bytes, bytes | None],
    ) -> list[tuple[bytes, bytes]]:
        """Return rows of the database with `changed` applied."""
        if limit <= 0:
            return []
        wanted = limit + len(changed)
        if wanted > SHORT_SCAN_ROWS:
            rows = scan_rows(self._execute, start, stop, wanted, reverse)
        else:
            place = (start, stop, wanted, reverse)
            cached = self._scans.get(place)
            if cached is None:
                cached = scan_rows(self._execute, start, stop, wanted, reverse)
                if len(self._scans) < MAX_CACHED_SCANS:
                    self._scans[place] = cached
            rows = cached.copy()
        return merge_scan(rows, changed, limit, reverse) if changed else rows


class GroupReader:
    """See `rainfs.meta.engine.Reader`."""

    __slots__ = ("_group",)

    def __init__(self, group: Group) -> None:
        self._group = group

    async def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        return self._group.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        group = self._group
        return group.scan(start, stop, limit, reverse, group.changed(start, stop))


class GroupTransaction:
    """See `rainfs.meta.engine.Transaction`; `pending` is for `Group.add` once the body is done."""

    __slots__ = ("_group", "pending")

    def __init__(self, group: Group) -> None:
        self._group = group
        self.pending: dict[bytes, bytes | None] = {}

    async def get(self, key: bytes) -> bytes | None:
        """See `Reader.get`."""
        pending = self.pending
        return pending[key] if key in pending else self._group.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        group = self._group
        changed = group.changed(start, stop)
        for key, value in self.pending.items():
            if start <= key < stop:
                changed[key] = value
        return group.scan(start, stop, limit, reverse, changed)

    def put(self, key: bytes, value: bytes) -> None:
        """See `Transaction.put`."""
        self.pending[key] = value

    def delete(self, key: bytes) -> None:
        """See `Transaction.delete`."""
        self.pending[key] = None
