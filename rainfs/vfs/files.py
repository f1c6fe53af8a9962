"""Open files: open, create, read, write, flush, fsync, release.

Owns handles, the promise that write() makes about space, and errors that wait to be told.  Refuses
to know how bytes get to the array (`flush`) and back (`reader`).

Invariants:
- write() answers once the bytes are in the dirty map; ENOSPC is decided there.
- A failed background flush is told once through each handle, by fsync or close, also to handles
  opened later as long as nobody was told; fsync always tells the truth.  Once the bytes are
  committed after all, nothing was lost and nobody is told.
"""

from __future__ import annotations

from collections.abc import Callable

from rainfs.errors import BadHandle, FileTooLarge, IsDirectory, NoSpace, ReadOnly
from rainfs.model import MAX_FILE_BYTES, InodeNumber
from rainfs.vfs.ahead import Cursor
from rainfs.vfs.attributes import Attributes
from rainfs.vfs.buffer import Buffer
from rainfs.vfs.flush import Flusher
from rainfs.vfs.inodes import Inode, InodeTable
from rainfs.vfs.options import VfsOptions
from rainfs.vfs.reader import Reader
from rainfs.vfs.rhythm import Rhythm
from rainfs.vfs.room import Room


class Handle:
    """One open file."""

    __slots__ = ("cursor", "inode", "rhythm", "told")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.cursor: Cursor | None = Cursor()
        self.rhythm = Rhythm()
        self.told = inode.failure if inode.failure_told else None
        """The failure that need not be told through this handle any more."""

    def tell(self) -> Exception | None:
        """Return the failure that was not told through this handle yet."""
        inode = self.inode
        if inode.failure is None or inode.failure is self.told:
            return None
        self.told = inode.failure
        inode.failure_told = True
        return inode.failure


class Files:
    """Everything that happens through a file handle."""

    def __init__(
        self,
        table: InodeTable,
        attributes: Attributes,
        flusher: Flusher,
        reader: Reader,
        room: Room,
        options: VfsOptions,
        now_ns: Callable[[], int],
    ) -> None:
        self._table = table
        self._attributes = attributes
        self._flusher = flusher
        self._reader = reader
        self._room = room
        self._options = options
        self._now_ns = now_ns
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1
        self.served = 0
        """Reads and writes so far: whether clients rest is seen from this."""

    def _handle(self, handle: int) -> Handle:
        try:
            return self._handles[handle]
        except KeyError:
            raise BadHandle(f"handle {handle}") from None

    def __len__(self) -> int:
        return len(self._handles)

    async def open(
        self,
        number: int,
        *,
        truncate: bool,
        write: bool,
        direct: bool = False,
        quiet: bool = False,
    ) -> int:
        """Open a file; returns its handle.  `truncate` empties it first.

        `direct`: the reader goes past the kernel's cache.  `quiet`: reads fill a cache, and are
        not noted as anybody's; they move no access time.
        """
        if self._options.read_only and (write or truncate):
            raise ReadOnly("the mount is read-only")
        inode = await self._table.get(number, exact=False)
        if inode.is_dir:
            raise IsDirectory("opened as a file")
        handle = self.hold(inode)
        if quiet:
            self._handles[handle].cursor = None
        elif direct:
            self._handles[handle].cursor = Cursor(direct=True)
        if truncate:
            try:
                await self._attributes.truncate(inode, 0)
            except BaseException:
                self.release(handle)
                raise
        return handle

    def hold(self, inode: Inode) -> int:
        """Return a new handle on an inode that is in the table."""
        handle = self._next_handle
        self._next_handle += 1
        self._table.opened(inode)
        self._handles[handle] = Handle(inode)
        return handle

    async def read(self, handle: int, offset: int, size: int) -> Buffer:
        """Read; the memory is the caller's until its next checkpoint."""
        self.served += 1
        opened = self._handle(handle)
        data = await self._reader.read(opened.inode, offset, size, opened.cursor)
        if opened.cursor is not None:
            self._attributes.accessed(opened.inode)
        return data

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write all of `data`.  Raises: NoSpace, FileTooLarge, InputOutput."""
        self.served += 1
        opened = self._handle(handle)
        inode = opened.inode
        length = len(data)
        stop = offset + length
        if stop > MAX_FILE_BYTES:
            raise FileTooLarge(f"up to byte {stop}")
        flusher = self._flusher
        while not (flusher.admits(length) and self._room.has(length)):
            await flusher.admit(length)
            if not self._room.has(length) and not await self._room.make(length):
                raise NoSpace("the array has no room for these bytes")
        dirty = inode.dirty
        before = dirty.cost
        dirty.write(offset, data)
        if stop > inode.size:
            inode.size = stop
        inode.mtime_ns = inode.ctime_ns = self._now_ns()
        flusher.dirtied(inode, dirty.cost - before)
        if opened.rhythm.wrote():
            flusher.flush_ahead(inode)
        return length

    def reader_of(self, handle: int) -> InodeNumber | None:
        """Return what is read through the handle, None if its reads fill a cache."""
        opened = self._handle(handle)
        return opened.inode.inode if opened.cursor is not None else None

    def flush(self, handle: int) -> None:
        """Tell, once, of a background flush that failed.  Raises: that failure."""
        failure = self._handle(handle).tell()
        if failure is not None:
            raise failure

    async def fsync(self, handle: int) -> None:
        """Make the file's bytes and attributes survive a power cut.  Raises: why they do not."""
        opened = self._handle(handle)
        opened.rhythm.synced()
        try:
            await self._flusher.flush(opened.inode)
        except BaseException:
            opened.tell()
            raise
        await self._flusher.durable()

    def release(self, handle: int) -> None:
        """Close a handle."""
        opened = self._handles.pop(handle, None)
        if opened is None:
            return
        inode = opened.inode
        if inode.opens == 1 and not inode.nlink:
            self._flusher.discard(inode)
        self._table.closed(inode)

    def release_all(self) -> None:
        """Close every handle: the kernel is gone."""
        for handle in list(self._handles):
            self.release(handle)
