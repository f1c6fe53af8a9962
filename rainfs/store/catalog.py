"""Which shards there are: the journal's entries laid over the index.

Owns the lookup order (recent changes, cached rows, index) and the bound on cached rows.  Refuses to
know files and free space; it is told of changes after they were journalled.

Invariants: a key is answered by the newest change, whether or not the index has taken it over; a
cached row is never older than the index.  Thread-safe.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from rainfs.errors import ShardCorrupt
from rainfs.model import MIB, NodeUuid, ShardInfo, ShardKey
from rainfs.store.index import Index
from rainfs.store.journal import Entry
from rainfs.store.rows import Row, pack_key, pack_row, unpack_key, unpack_row

ROW_CACHE_BYTES = 16 * MIB
ROW_OVERHEAD_BYTES = 400
"""What a cached row costs beside its checksums and description, roughly."""


class Found(msgspec.Struct, frozen=True):
    """A shard that is there."""

    row: Row
    payload: bytes | None
    """Its bytes, when they are not in their place yet."""
    record: int | None
    """Journal record of this lap that holds it; None once the index does."""


class _Change(msgspec.Struct, frozen=True):
    row: Row | None
    payload: bytes | None
    packed: bytes
    record: int


class Catalog:
    """The map from shard key to row."""

    def __init__(
        self,
        index: Index,
        count: int,
        top: ShardKey | None,
        cache_bytes: int = ROW_CACHE_BYTES,
    ) -> None:
        """Lay an empty set of changes over `index`: `count` shards, none above `top`."""
        self._index = index
        self._lock = threading.Lock()
        self._changes: dict[ShardKey, _Change] = {}
        self._cache: OrderedDict[ShardKey, Row] = OrderedDict()
        self._cache_bytes = 0
        self._max_cache_bytes = cache_bytes
        self._era = 0
        self._top = top
        """No key above it is in the index: stripes grow, so most puts need not look."""
        self.count = count

    def get(self, key: ShardKey, *, nowait: bool = False) -> Found | None:
        """Return what is known of a key, or None.

        Raises: ShardCorrupt if its row is, Busy if `nowait` and the index is in use.
        """
        with self._lock:
            change = self._changes.get(key)
            if change is not None:
                if change.row is None:
                    return None
                return Found(change.row, change.payload, change.record)
            if self._top is None or key > self._top:
                return None
            row = self._cache.get(key)
            if row is not None:
                self._cache.move_to_end(key)
                return Found(row, None, None)
            era = self._era
        packed = pack_key(key)
        stored = self._index.get(packed, nowait=nowait)
        if stored is None:
            with self._lock:
                # A checkpoint may have moved the change into the index since the first look.
                change = self._changes.get(key)
                if change is None or change.row is None:
                    return None
                return Found(change.row, change.payload, change.record)
        row = unpack_row(packed, stored)
        with self._lock:
            if era == self._era:
                self._remember(key, row)
        return Found(row, None, None)

    def changed(self, entries: Iterable[Entry], record: int) -> None:
        """Take note of journalled entries; the caller has checked each against `get`."""
        with self._lock:
            for entry in entries:
                self._changes[entry.key] = _Change(entry.row, entry.payload, entry.packed, record)
                cached = self._cache.pop(entry.key, None)
                if cached is not None:
                    self._cache_bytes -= _cost(cached)
            self._era += 1

    def forget(self, keys: Iterable[ShardKey]) -> None:
        """Drop changes that turned out never to become durable."""
        with self._lock:
            for key in keys:
                self._changes.pop(key, None)
            self._era += 1

    def undurable(self, durable: int) -> list[tuple[ShardKey, Row | None]]:
        """Return the changes of records number `durable` and above."""
        with self._lock:
            return [(k, c.row) for k, c in self._changes.items() if c.record >= durable]

    def unplaced(self) -> list[tuple[Row, bytes]]:
        """Return the shards whose bytes are only in the journal, by offset."""
        with self._lock:
            found = [
                (change.row, change.payload)
                for change in self._changes.values()
                if change.row is not None and change.payload is not None
            ]
        return sorted(found, key=lambda pair: pair[0].offset)

    def hand_over(self, uuid: NodeUuid, lap: int) -> None:
        """Move all changes into the index, durably, and begin a lap.

        Nobody may change anything meanwhile.  Raises: NodeFull, NodeFailing, StoreDamaged.
        """
        with self._lock:
            changes = dict(self._changes)
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for key, change in sorted(changes.items()):
            packed = pack_key(key)
            if change.row is None:
                deletes.append(packed)
            else:
                puts.append((packed, change.packed or pack_row(packed, change.row)))
        self._index.apply(uuid, lap, puts, deletes)
        with self._lock:
            if changes:
                highest = max(changes)
                self._top = highest if self._top is None else max(self._top, highest)
            self._changes.clear()
            self._era += 1
            for key, change in changes.items():
                if change.row is not None:
                    self._remember(key, change.row)

    def placed(self, first: ShardKey, limit: int) -> list[tuple[ShardKey, Row]]:
        """Return at most `limit` shards from `first` on, in key order, whose bytes are in their
        place; those whose row is corrupt are left out.
        """
        # Changes are looked at first: what a checkpoint moves meanwhile is then seen at least once.
        with self._lock:
            changes = dict(self._changes)
        rows = {
            key: change.row
            for key, change in changes.items()
            if key >= first and change.row is not None and change.payload is None
        }
        packed_first = pack_key(first)
        stored = self._index.get(packed_first)
        found = [(packed_first, stored)] if stored is not None else []
        for packed, stored in found + self._index.page(first, limit):
            key = unpack_key(packed)
            if key not in changes:
                with contextlib.suppress(ShardCorrupt):
                    rows[key] = unpack_row(packed, stored)
        return [(key, rows[key]) for key in heapq.nsmallest(limit, rows)]

    def list(self, after: ShardKey | None, limit: int, durable: int) -> list[ShardInfo]:
        """Return at most `limit` shards above `after` in key order; `durable` as for `undurable`.

        A shard whose row is corrupt is listed with length 0, so that it can be deleted.
        """
        if limit < 1:
            return []
        # Changes are copied first: what a checkpoint moves meanwhile is then seen at least once.
        with self._lock:
            changes = dict(self._changes)
        ordered = sorted(changes)
        at = bisect_right(ordered, after) if after is not None else 0
        # Each deleted key may hide one index row, so look that much further.
        hidden = sum(1 for key in ordered[at:] if changes[key].row is None)
        rows = self._index.page(after, limit + hidden)
        merged: dict[ShardKey, ShardInfo] = {}
        for packed, stored in rows:
            key, length = _readable(packed, stored)
            merged[key] = ShardInfo(key, length, True, b"")
        complete = len(rows) < limit + hidden
        last = None if complete else max(merged)
        for key in ordered[at:]:
            change = changes[key]
            if last is not None and key > last:
                break
            if change.row is None:
                merged.pop(key, None)
            else:
                merged[key] = ShardInfo(key, change.row.length, change.record < durable, b"")
        return [merged[key] for key in sorted(merged)[:limit]]

    def _remember(self, key: ShardKey, row: Row) -> None:
        old = self._cache.pop(key, None)
        if old is not None:
            self._cache_bytes -= _cost(old)
        self._cache[key] = row
        self._cache_bytes += _cost(row)
        while self._cache_bytes > self._max_cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= _cost(dropped)


def _cost(row: Row) -> int:
    return ROW_OVERHEAD_BYTES + len(row.crcs) + len(row.about)


def _readable(packed: bytes, stored: bytes) -> tuple[ShardKey, int]:
    key = unpack_key(packed)
    try:
        return key, unpack_row(packed, stored).length
    except ShardCorrupt:
        return key, 0
