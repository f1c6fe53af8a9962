"""Making commits of an SQLite database in WAL mode durable, apart from making them.

Commits run with synchronous=NORMAL: they write the write-ahead log and sync nothing.  A commit is
durable once the log that holds it has been synced; a commit that a checkpoint moved into the
database is durable already, because a checkpoint syncs the log, then the database, and only then
lets the log be written again from its start (whose new header SQLite syncs by itself).  So one
fdatasync of the log file makes every commit before it durable, as synchronous=FULL would, provided
that the descriptor still names the log in use.  That is checked each time.  While any connection is
open nobody removes the log, so a missing or replaced log is damage and is reported as such.

A failed sync is final: the kernel may have dropped the dirty pages, and a later success would lie.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio

from rainfs.errors import MetadataError

INLINE_SYNC_S = 0.004
"""While syncs take no longer than this they are made in line: a thread costs as much."""

MAX_COUNTED_SYNC_S = 2 * INLINE_SYNC_S
"""A sync counts as no longer than this, so that a stall of the disk is soon forgotten."""

BURST_GAP_S = 0.000_1
"""Calls that follow the last sync sooner than this belong to a burst and share the next one."""

_EXTEND_BYTES = 1 << 20

FETCH_BYTES = 128 << 10
"""So much of the log beyond its end is kept in memory.  Frames are longer than a page, so a commit
writes parts of pages, and waits for the disk once for each that memory pressure has taken."""

SMOOTHING = 0.2
"""Weight of the newest sync in the usual time of one."""


class SyncFiles(Protocol):
    """The system calls of this module, replaceable by a recording disk."""

    def open(self, path: Path) -> int:
        """Open an existing file and return a descriptor."""
        ...

    def fdatasync(self, descriptor: int) -> None:
        """Make the file's bytes and length durable."""
        ...

    def size(self, descriptor: int) -> int:
        """Return the file's length in bytes."""
        ...

    def pwrite(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
        """Write all of `buffers`, one after another."""
        ...

    def will_write(self, descriptor: int, offset: int, length: int) -> None:
        """Begin to bring these pages into memory, since parts of them are changed soon.

        A hint: does not wait, and never fails.
        """
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the directory's entries durable."""
        ...

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        ...


class SystemFiles:
    """The real thing."""

    def open(self, path: Path) -> int:
        """Open an existing file and return a descriptor."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def fdatasync(self, descriptor: int) -> None:
        """Make the file's bytes and length durable."""
        os.fdatasync(descriptor)

    def size(self, descriptor: int) -> int:
        """Return the file's length in bytes."""
        return os.fstat(descriptor).st_size

    def pwrite(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
        """Write all of `buffers`, one after another."""
        for buffer in buffers:
            left = memoryview(buffer)
            while left:
                written = os.pwrite(descriptor, left, offset)
                left, offset = left[written:], offset + written

    def will_write(self, descriptor: int, offset: int, length: int) -> None:
        """Begin to bring these pages into memory, since parts of them are changed soon."""
        with contextlib.suppress(OSError):  # Then the kernel reads each when it is written.
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def sync_directory(self, path: Path) -> None:
        """Make the directory's entries durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)


SYSTEM_FILES = SystemFiles()


class WalSync:
    """Group commit: callers that arrive during a sync share the next one."""

    def __init__(self, wal: Path, files: SyncFiles = SYSTEM_FILES, *, fresh: bool = False) -> None:
        """Open the log; of a `fresh` database everything so far is made durable at once.

        Raises: MetadataError.
        """
        self._wal = wal
        self._name = str(wal)
        self._files = files
        self._lock = trio.Lock()
        self._commits = 0
        self._synced = 0
        self._sync_s = INLINE_SYNC_S * 2
        self._quiet_since_s = float("-inf")
        self._failure: str | None = None
        self._fetched_to = 0
        try:
            self._descriptor: int | None = files.open(wal)
            opened = os.fstat(self._descriptor)
            self._identity = (opened.st_dev, opened.st_ino)
            if fresh:
                files.fdatasync(self._descriptor)
            files.sync_directory(wal.parent)
        except OSError as error:
            raise MetadataError(f"cannot open {wal}: {error.strerror}") from error

    def extend(self, log_bytes: int) -> None:
        """Append zeros up to `log_bytes`, so that later syncs find their pages allocated.

        SQLite takes zeros for the end of the log.  The caller holds its write lock, so that nobody
        else is appending.  A full disk leaves the log shorter, which costs speed alone.
        """
        assert self._descriptor is not None
        try:
            at = self._files.size(self._descriptor)
            while at < log_bytes:
                step = min(_EXTEND_BYTES, log_bytes - at)
                self._files.pwrite(self._descriptor, [bytes(step)], at)
                at += step
            self._files.fdatasync(self._descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise MetadataError(f"cannot extend {self._wal}: {error.strerror}") from error

    def log_has(self, log_bytes: int) -> None:
        """Take note of where the log ends: what follows is fetched before it is written."""
        left = self._fetched_to - log_bytes
        if FETCH_BYTES // 2 <= left <= FETCH_BYTES or self._descriptor is None:
            return
        # In a log that has begun anew what was fetched last lies far ahead.
        start = self._fetched_to if 0 <= left < FETCH_BYTES else log_bytes
        self._fetched_to = log_bytes + FETCH_BYTES
        self._files.will_write(self._descriptor, start, self._fetched_to - start)

    def committed(self) -> None:
        """Note one more commit that `durable` owes."""
        self._commits += 1

    def fail(self, reason: str) -> None:
        """Refuse every later `durable`: some sync below has failed."""
        self._failure = self._failure or reason

    async def durable(self) -> None:
        """Return once every commit noted before the call is durable.

        Raises: MetadataError, and from then on always.
        """
        wanted = self._commits
        if self._synced >= wanted and self._failure is None:
            await trio.lowlevel.checkpoint()
            return
        if trio.current_time() - self._quiet_since_s <= BURST_GAP_S or self._lock.locked():
            # This lets whoever else is ready commit, and share the sync.
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()
        try:
            await self._cover(wanted)
        finally:
            self._quiet_since_s = trio.current_time()
            self._lock.release()

    async def _cover(self, wanted: int) -> None:
        if self._failure is not None:
            raise MetadataError(self._failure)
        if self._synced >= wanted:
            return
        covered = self._commits
        if self._sync_s <= INLINE_SYNC_S:
            self._sync()
        else:
            await trio.to_thread.run_sync(self._sync)
        if self._failure is not None:
            raise MetadataError(self._failure)
        self._synced = covered

    def _sync(self) -> None:
        descriptor = self._descriptor
        if descriptor is None:
            self.fail("the metadata engine is closed")
            return
        try:
            if not self._in_place():
                self.fail(f"{self._wal} was removed or replaced while in use")
                return
            begun_s = time.perf_counter()
            self._files.fdatasync(descriptor)
            took_s = min(time.perf_counter() - begun_s, MAX_COUNTED_SYNC_S)
            self._sync_s += (took_s - self._sync_s) * SMOOTHING
        except OSError as error:
            self.fail(f"cannot sync {self._wal}: {error.strerror}")

    def _in_place(self) -> bool:
        """Whether the log's path still names the open file."""
        try:
            named = os.stat(self._name)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == self._identity

    def close(self) -> None:
        """Close the descriptor.  Idempotent."""
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None
