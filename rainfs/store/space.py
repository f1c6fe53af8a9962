"""Room for shards: what the capacity and the disk below leave.

Owns the allocator and its lock, the look at the disk below, and the way back of freed ranges.
Refuses to know keys and durability: `release` is called when nothing durable names the ranges.

Invariants: a range is punched before it can be handed out again; ranges of puts that were given up
come back without a lock, so a garbage collector may return them at any moment.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rainfs.errors import NodeFull
from rainfs.model import MIB
from rainfs.store.allocator import Allocator
from rainfs.store.datafile import DataFile
from rainfs.store.disk import Disk
from rainfs.store.rows import Row

DISK_RESERVE_BYTES = 32 * MIB
"""Room on the disk below that puts leave alone, for the index and the journal's shards."""
RECHECK_BYTES = 16 * MIB
"""Bytes put between two looks at the free room of the disk below."""


class Space:
    """The free room of one store.  Thread-safe."""

    def __init__(self, disk: Disk, directory: Path, data: DataFile, allocator: Allocator) -> None:
        """Hand out `allocator`'s ranges of `data`."""
        self._disk = disk
        self._directory = directory
        self._data = data
        self._allocator = allocator
        self._lock = threading.Lock()
        self._abandoned: deque[Row] = deque()
        self._unchecked_bytes = RECHECK_BYTES
        self.unplaced_bytes = 0
        """Payload that still has to be written to its place; the disk below must keep room."""

    @property
    def give_up(self) -> Callable[[Row], None]:
        """Takes the range of a put that was given up; callable from anywhere."""
        return self._abandoned.append

    def allocate(self, length: int) -> int:
        """Return the offset of a free range.  Raises: NodeFull, OSError."""
        with self._lock:
            self._reclaim()
            self._unchecked_bytes += length
            if self._unchecked_bytes >= RECHECK_BYTES:
                if self.disk_room() < length:
                    raise NodeFull(f"{self._directory}: the disk below the store is full")
                self._unchecked_bytes = length
            return self._allocator.allocate(length)

    def release(self, rows: Sequence[Row]) -> None:
        """Punch ranges and make them free."""
        joined: list[tuple[int, int]] = []
        for row in sorted(rows, key=lambda row: row.offset):
            if joined and sum(joined[-1]) == row.offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + row.length)
            else:
                joined.append((row.offset, row.length))
        for offset, length in joined:
            self._data.punch(offset, length)
        with self._lock:
            for row in rows:
                self._allocator.free(row.offset, row.length)

    def disk_room(self) -> int:
        """Return the bytes that shards may still take of the disk below.  Raises: OSError."""
        free = self._disk.free_bytes(self._directory)
        return max(0, free - DISK_RESERVE_BYTES - self.unplaced_bytes)

    def disk_was_full(self) -> None:
        """Look at the disk below before the next allocation."""
        self._unchecked_bytes = RECHECK_BYTES

    def resize(self, capacity_bytes: int) -> None:
        """Set the capacity."""
        with self._lock:
            self._allocator.capacity_bytes = capacity_bytes

    def usage(self) -> tuple[int, int]:
        """Return (used, capacity) in bytes."""
        with self._lock:
            self._reclaim()
            return self._allocator.used_bytes, self._allocator.capacity_bytes

    def _reclaim(self) -> None:
        while self._abandoned:
            row = self._abandoned.popleft()
            self._allocator.free(row.offset, row.length)
