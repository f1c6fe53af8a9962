"""Attributes: stat, chmod, chown, utimens, truncate, extended attributes, ACLs.

Owns the coupling of mode and ACL, and truncation against bytes in flight.  Refuses to check
permissions: the kernel does.

Invariants:
- Every change is committed before it is answered, except times of an inode with uncommitted
  bytes (they go with the bytes) and access times (they go with the next flush).
- While an inode is truncated no new flush of it starts, and none in flight brings bytes back.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from typing import NamedTuple

from rainfs.errors import (
    FileTooLarge,
    InvalidArgument,
    IsDirectory,
    NoAttribute,
    NotFound,
    ReadOnly,
)
from rainfs.meta.attr_change import AttrChange
from rainfs.meta.extents import Extents
from rainfs.meta.namespace import Namespace
from rainfs.model import MAX_FILE_BYTES
from rainfs.vfs import acl, xattr_names
from rainfs.vfs.flush import Flusher
from rainfs.vfs.inodes import Inode, InodeTable
from rainfs.vfs.options import VfsOptions

MIN_TIME_NS, MAX_TIME_NS = -(1 << 63), (1 << 63) - 1
"""Years 1677 to 2262: what the metadata holds of a time."""


class Change(NamedTuple):
    """What setattr may change; None leaves it."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None

    def within_range(self) -> Change:
        """Return the change with times that can be stored: the nearest, as the kernel does it."""
        atime, mtime = self.atime_ns, self.mtime_ns
        if (atime is None or MIN_TIME_NS <= atime <= MAX_TIME_NS) and (
            mtime is None or MIN_TIME_NS <= mtime <= MAX_TIME_NS
        ):
            return self
        return self._replace(
            atime_ns=None if atime is None else min(max(atime, MIN_TIME_NS), MAX_TIME_NS),
            mtime_ns=None if mtime is None else min(max(mtime, MIN_TIME_NS), MAX_TIME_NS),
        )

    @property
    def only_times(self) -> bool:
        """Whether nothing but times changes."""
        return self.mode is None and self.uid is None and self.gid is None and self.size is None


class Attributes:
    """Reads and changes what an inode says of itself."""

    def __init__(
        self,
        table: InodeTable,
        namespace: Namespace,
        extents: Extents,
        flusher: Flusher,
        options: VfsOptions,
        now_ns: Callable[[], int],
    ) -> None:
        self._table = table
        self._namespace = namespace
        self._extents = extents
        self._flusher = flusher
        self._options = options
        self._now_ns = now_ns
        self._accessed: dict[Inode, None] = {}

    def check_writable(self) -> None:
        """Raises: ReadOnly on a read-only mount."""
        if self._options.read_only:
            raise ReadOnly("the mount is read-only")

    async def get(self, number: int) -> Inode:
        """Return the inode.  Raises: NotFound."""
        return await self._table.get(number)

    async def readlink(self, number: int) -> bytes:
        """Return the target of a symbolic link.  Raises: NotFound."""
        inode = await self._table.get(number)
        self.accessed(inode)
        return inode.target

    async def set(self, number: int, change: Change) -> Inode:
        """Apply `change`; size first.  Raises: NotFound and what truncate raises."""
        self.check_writable()
        change = change.within_range()
        inode = await self._table.get(number)
        if change.size is not None:
            await self.truncate(inode, change.size)
            change = change._replace(size=None)
            if change == Change():
                return inode
        now = self._now_ns() if change.ctime_ns is None else change.ctime_ns
        if change.mode is not None:
            mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
            change = change._replace(mode=mode)
        if inode.freed:
            # A kernel that keeps times itself stores them once more behind the last unlink.
            inode.change_owner_and_mode(change.uid, change.gid, change.mode)
            self._set_times(inode, change, now, dirty=False)
            return inode
        if change.only_times and inode.pending:
            self._set_times(inode, change, now)
            return inode
        if change.mode is not None and inode.has_xattrs:
            await self._chmod_acl(inode, change.mode, now)
        self._table.touch(number)
        attr = await self._namespace.setattr(
            inode.inode,
            AttrChange(
                mode=change.mode,
                uid=change.uid,
                gid=change.gid,
                atime_ns=change.atime_ns,
                mtime_ns=change.mtime_ns,
                ctime_ns=now,
            ),
        )
        self._table.touch(number)
        inode = self._table.adopt(attr)
        self._set_times(inode, change, now, dirty=False)
        return inode

    def _set_times(self, inode: Inode, change: Change, now: int, *, dirty: bool = True) -> None:
        if change.atime_ns is not None:
            inode.atime_ns = change.atime_ns
            inode.atime_dirty = dirty
            if dirty:
                self._accessed[inode] = None
        if change.mtime_ns is not None:
            inode.mtime_ns = change.mtime_ns
        inode.ctime_ns = now
        if dirty:
            self._mark(inode)

    def _mark(self, inode: Inode) -> None:
        """Have size and times committed with the next flush."""
        inode.meta_dirty = True
        self._flusher.dirtied(inode, 0)

    def accessed(self, inode: Inode) -> None:
        """Renew the access time, lazily."""
        if self._options.noatime or self._options.read_only:
            return
        renewed = inode.accessed(self._now_ns())
        if not renewed and not inode.atime_dirty:
            return
        if inode.nlink and inode not in self._accessed:
            self._accessed[inode] = None

    async def store_access_times(self) -> None:
        """Commit the access times that were renewed lazily.  Raises: MetadataError."""
        while self._accessed:
            inode, _ = self._accessed.popitem()
            if not inode.atime_dirty or inode.freed:
                continue
            with contextlib.suppress(NotFound):
                await self._namespace.setattr(inode.inode, AttrChange(atime_ns=inode.atime_ns))
            inode.atime_dirty = False
            self._table.touch()

    async def truncate(self, inode: Inode, size: int) -> None:
        """Make the file `size` bytes long; what appears beyond the old end reads as zeros.

        Raises: FileTooLarge, InvalidArgument, IsDirectory, ArrayError or MetadataError.
        """
        if inode.is_dir:
            raise IsDirectory("a directory has no size to set")
        if not stat.S_ISREG(inode.mode):
            raise InvalidArgument("only a regular file has a size to set")
        if size > MAX_FILE_BYTES:
            raise FileTooLarge(f"{size} bytes")
        async with inode.lock:
            if size < inode.size:
                await self._shrink(inode, size)
            else:
                inode.size = size
            inode.mtime_ns = inode.ctime_ns = self._now_ns()
            self._mark(inode)

    async def _shrink(self, inode: Inode, size: int) -> None:
        before = inode.size
        inode.barrier = True
        inode.size = size
        try:
            await self._flusher.cut(inode, size)
            if inode.stored_size > size:
                attr = await self._extents.truncate(inode.inode, size, now_ns=self._now_ns())
                self._table.touch(inode.inode)
                inode.stored_allocated = attr.allocated
                inode.stored_size = size
        except BaseException:
            inode.size = max(inode.size, min(before, inode.stored_size))
            raise
        finally:
            inode.barrier = False

    # --- Extended attributes. ---

    async def getxattr(self, inode: Inode, name: bytes) -> bytes:
        """Return a value.  Raises: NoAttribute, and what `check_name` raises."""
        xattr_names.check_name(name)
        if not inode.has_xattrs:
            raise NoAttribute(name.decode(errors="backslashreplace"))
        return await self._namespace.getxattr(inode.inode, name)

    async def listxattr(self, inode: Inode, *, privileged: bool = True) -> list[bytes]:
        """Return the names that the caller may see."""
        if not inode.has_xattrs:
            return []
        listed = await self._namespace.listxattr(inode.inode)
        return xattr_names.visible(listed, privileged=privileged)

    async def setxattr(
        self, inode: Inode, name: bytes, value: bytes, *, in_group: bool = True
    ) -> None:
        """Set a value; an access ACL sets the mode as well.

        The set-group-id bit goes if who sets the ACL is not `in_group`.

        Raises: AttributeTooLarge, and what `check_name` and `acl.parse` raise.
        """
        self.check_writable()
        xattr_names.check_name(name)
        now = self._now_ns()
        if name in (acl.ACCESS, acl.DEFAULT):
            entries = acl.parse(value)
            if name == acl.DEFAULT and not inode.is_dir and entries:
                raise InvalidArgument("only a directory has a default access control list")
            if name == acl.ACCESS and entries:
                mode = acl.mode_of(entries, inode.mode)
                if not in_group:
                    mode &= ~stat.S_ISGID
                if mode != inode.mode:
                    self._table.touch(inode.inode)
                    await self._namespace.setattr(inode.inode, AttrChange(mode=mode, ctime_ns=now))
                    self._table.touch(inode.inode)
            if not entries or (name == acl.ACCESS and acl.is_minimal(entries)):
                with contextlib.suppress(NoAttribute):
                    await self.removexattr(inode, name)
                return
        await self._namespace.setxattr(inode.inode, name, value, now_ns=now)
        self._table.got_xattrs(inode)
        inode.default_acl = None
        self._table.touch(inode.inode)

    async def removexattr(self, inode: Inode, name: bytes) -> None:
        """Remove a value.  Raises: NoAttribute."""
        self.check_writable()
        xattr_names.check_name(name)
        if not inode.has_xattrs:
            raise NoAttribute(name.decode(errors="backslashreplace"))
        await self._namespace.removexattr(inode.inode, name, now_ns=self._now_ns())
        inode.default_acl = None
        self._table.touch(inode.inode)

    async def _chmod_acl(self, inode: Inode, mode: int, now: int) -> None:
        try:
            value = await self._namespace.getxattr(inode.inode, acl.ACCESS)
        except NoAttribute:
            return
        changed = acl.build(acl.after_chmod(acl.parse(value), mode))
        await self._namespace.setxattr(inode.inode, acl.ACCESS, changed, now_ns=now)

    async def initial(self, parent: Inode, mode: int, umask: int) -> tuple[int, dict[bytes, bytes]]:
        """Return mode and xattrs of what is made with `mode` in `parent`."""
        if parent.has_xattrs:
            if parent.default_acl is None:
                try:
                    parent.default_acl = await self._namespace.getxattr(parent.inode, acl.DEFAULT)
                except NoAttribute:
                    parent.default_acl = b""
            if parent.default_acl:
                entries = acl.parse(parent.default_acl)
                return acl.inherit(entries, mode, directory=stat.S_ISDIR(mode))
        return mode & ~(umask & 0o777), {}
