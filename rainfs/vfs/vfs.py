"""The file system of one mount, without FUSE: the parts put together, started and ended.

Owns the life of a mount: sweep of orphans, background flushes, release of files without names, and
the last flush.  Requests go to the parts: `names`, `attributes`, `files`, `directories`.

Invariants:
- After `close` everything that was written is durable, or `close` said why not.
- Files without names are freed when the last reference goes, and by the next mount if this one
  dies first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import trio

from rainfs.array.array import Array
from rainfs.errors import ArrayError, MetadataError, NotFound, PosixError
from rainfs.meta.engine import Engine
from rainfs.meta.extents import Extents
from rainfs.meta.namespace import Namespace
from rainfs.meta.sessions import Session
from rainfs.meta.volume import Volume
from rainfs.model import InodeNumber
from rainfs.vfs.ahead import Ahead
from rainfs.vfs.attributes import Attributes
from rainfs.vfs.directories import Directories
from rainfs.vfs.files import Files
from rainfs.vfs.flush import Flusher
from rainfs.vfs.inodes import Inode, InodeTable
from rainfs.vfs.names import Names
from rainfs.vfs.options import VfsOptions
from rainfs.vfs.reader import Reader
from rainfs.vfs.report import MountReport
from rainfs.vfs.room import Room
from rainfs.vfs.rows import StripeRows
from rainfs.vfs.sharing import Sharing

log = logging.getLogger(__name__)

MAX_REAP_QUEUE = 1 << 20
"""Freed files waiting for their extents to go; beyond it they wait for the next mount."""

REAP_PAUSE_S = 1.0
"""Wait after the metadata refused to free a file."""

FLUSHES_AT_CLOSE = 3
"""So often is the last flush tried before the bytes are given up."""

FAKE_FILES = 1 << 40
"""statfs: inode numbers are never used up."""


class Statistics(NamedTuple):
    """What statfs says."""

    block_bytes: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int


class VFS:
    """One mounted volume."""

    def __init__(
        self,
        engine: Engine,
        volume: Volume,
        session: Session,
        array: Array,
        *,
        options: VfsOptions,
        nursery: trio.Nursery,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.options = options
        self.volume = volume
        self._nursery = nursery
        self._session = session
        self._engine = engine
        self._array = array
        self._namespace = Namespace(engine, session)
        self._extents = Extents(engine, session)
        layout = volume.layout
        self.table = InodeTable(
            self._namespace.getattr,
            self._released,
            block_bytes=layout.block_bytes,
            max_idle=options.inodes,
        )
        self.flusher = Flusher(
            array,
            self._extents,
            session,
            engine,
            layout,
            options=options,
            nursery=nursery,
            changed=self.table.flushed,
        )
        rows = StripeRows(self._extents, options.rows_bytes)
        self.ahead = Ahead(array, self._extents, rows, options.readahead_bytes)
        self._room = Room(array, self.flusher, layout, options.reserve_bytes, trio.current_time)
        self.attributes = Attributes(
            self.table, self._namespace, self._extents, self.flusher, options, now_ns
        )
        self.names = Names(self.table, self._namespace, self.attributes, self.flusher, now_ns)
        self.files = Files(
            self.table,
            self.attributes,
            self.flusher,
            Reader(array, self._extents, rows, self.ahead),
            self._room,
            options,
            now_ns,
        )
        self.directories = Directories(self.table, self._namespace, self.attributes)
        self.sharing = Sharing(self.files, self._room, self._extents)
        self._reap_in, self._reap_out = trio.open_memory_channel[InodeNumber](MAX_REAP_QUEUE)
        self._scope = trio.CancelScope()
        self._closed = False

    async def start(self) -> None:
        """Take up the background work; files that an earlier mount left without names go first."""
        if self.options.read_only:
            return
        for inode in await self._extents.orphans():
            self._reap_in.send_nowait(inode)
        self._nursery.start_soon(self._background)

    async def _background(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.flusher.run)
                nursery.start_soon(self.flusher.run_durable)
                nursery.start_soon(self._reap_loop)
                nursery.start_soon(self._access_times_loop)

    def _released(self, number: InodeNumber, inode: Inode | None) -> None:
        if inode is not None:
            self.flusher.discard(inode)
        try:
            self._reap_in.send_nowait(number)
        except trio.WouldBlock:
            log.warning("too many files are being freed; inode %d waits for the next mount", number)

    async def _access_times_loop(self) -> None:
        while True:
            await trio.sleep(self.options.flush_age_s)
            try:
                await self.attributes.store_access_times()
            except MetadataError as error:
                log.error("access times could not be stored: %s", error)

    async def _reap_loop(self) -> None:
        async for number in self._reap_out:
            await self._reap(number)

    async def _reap(self, number: InodeNumber) -> None:
        try:
            await self._extents.reap(number)
            self.flusher.uncommitted_durable = True
        except NotFound:
            pass
        except MetadataError as error:
            log.error("inode %d could not be freed now: %s", number, error)
            await trio.sleep(REAP_PAUSE_S)

    def statistics(self) -> Statistics:
        """Return sizes in blocks, as statfs does."""
        block = 4096
        space = self._room.space()
        free = self._room.free()
        return Statistics(block, space.usable_bytes // block, free // block, FAKE_FILES, FAKE_FILES)

    def report(self) -> MountReport:
        """Return what the mount says of itself."""
        return MountReport(
            dirty_bytes=self.flusher.held,
            dirty_peak_bytes=self.flusher.most_held,
            dirty_limit_bytes=self.options.dirty_bytes,
            nodes={status.node.name: str(status.state) for status in self._array.health()},
            reads=self._array.read_counts,
            regions=self.ahead.regions.bought,
        )

    async def close(self) -> None:
        """Flush everything, free what nobody can name, make it durable.  Idempotent.

        Raises: the reason why bytes were lost, after several tries.
        """
        if self._closed:
            return
        self._closed = True
        self.files.release_all()
        self.table.release_all()
        try:
            if not self.options.read_only:
                await self._last_flush()
        finally:
            self._scope.cancel()

    async def _last_flush(self) -> None:
        for attempt in range(FLUSHES_AT_CLOSE):
            try:
                await self.flusher.flush_all()
                await self.attributes.store_access_times()
                break
            except (ArrayError, MetadataError, PosixError) as error:
                log.error("the last flush failed: %s", error)
                if attempt == FLUSHES_AT_CLOSE - 1:
                    raise
                await trio.sleep(self.options.retry_s)
        while True:
            try:
                number = self._reap_out.receive_nowait()
            except trio.WouldBlock:
                break
            await self._reap(number)
        await self._session.publish()
        await self.flusher.durable()
