"""The pyfuse3 adapter: requests of the kernel in, answers and errno numbers out.

Owns the translation, the lifetimes that the kernel may cache names and attributes for, and the
bound on requests that wait.  Refuses to decide anything about files.

Invariants:
- No exception but FUSEError leaves a handler: what we do not know is logged and becomes EIO.
- Requests that may wait are fewer than pyfuse3's workers, so that stat and statfs always get
  through.
- A lookup is counted for every entry that a successful answer names, and only for those.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from rainfs.errors import Exists, PosixError, RainError
from rainfs.model import KIB, Attr
from rainfs.mount.callers import (
    caller_of,
    is_in_group,
    takes_set_id,
    without_set_id,
)
from rainfs.mount.errno_table import errno_of
from rainfs.mount.filling import Filling
from rainfs.vfs import acl
from rainfs.vfs.attributes import Change
from rainfs.vfs.inodes import Inode
from rainfs.vfs.names import RenameFlag
from rainfs.vfs.report import encode
from rainfs.vfs.vfs import VFS

log = logging.getLogger(__name__)

OWNED_LIFETIME_S = 3600.0
"""How long the kernel may keep names and attributes while this mount is the only writer."""

SHARED_LIFETIME_S = 1.0
"""The same for a read-only mount, whose volume others may change."""

MAX_WORKERS = 256
MAX_WAITING = 224
"""Requests that may wait for nodes or for room in the buffer at once; one more fails."""

STAT_BLOCK_BYTES = 512
IO_BLOCK_BYTES = 64 * KIB
"""st_blksize: stdio and Python allocate a buffer of this size for each open file."""

REPORT_XATTR = b"rainfs.mount"
"""An attribute of the root that no list names: what the mount says of itself, as JSON."""

DIRECTORY_BYTES = 4096
NAME_MAX_BYTES = 255

_EMPTIED = Change(size=0)

_ASKED_OFTEN = {
    b"security.capability": errno.ENODATA,
    acl.ACCESS: errno.ENODATA,
    acl.DEFAULT: errno.ENODATA,
    b"security.selinux": errno.EOPNOTSUPP,
}
"""Attributes that the kernel asks for before every write, or ls for every file, and what is said of
an inode that has none.  The label is asked for where the kernel has no SELinux; after this answer
ls asks no more, but after "no such attribute" it goes on with each file."""

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[Concatenate["Adapter", P], Coroutine[Any, Any, R]]


def _answer(error: Exception, name: str, args: tuple[Any, ...]) -> pyfuse3.FUSEError:
    """Return the FUSEError for what a handler raised; faults are logged."""
    if isinstance(error, RainError):
        number = errno_of(error)
        if number == errno.EIO or not isinstance(error, PosixError):
            log.error("%s%s: %s: %s", name, _brief(args), type(error).__name__, error)
        return pyfuse3.FUSEError(number)
    log.error("%s%s failed", name, _brief(args), exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)


def _brief(args: tuple[Any, ...]) -> str:
    shown = [
        f"<{len(arg)} bytes>" if isinstance(arg, bytes) and len(arg) > 64 else repr(arg)
        for arg in args
        if isinstance(arg, int | bytes)
    ]
    return f"({', '.join(shown)})"


def guarded(handler: Handler[P, R]) -> Handler[P, R]:
    """Let nothing but FUSEError out of a handler, and say when it first waits for something."""
    name = handler.__name__

    @types.coroutine
    def wrapper(self: Adapter, /, *args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
        running = handler(self, *args, **kwargs)
        try:
            trap = running.send(None)
            self.waits()
            while True:
                trap = running.send((yield trap))
        except StopIteration as done:
            answer: R = done.value
            return answer
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise _answer(error, name, args) from None
        finally:
            running.close()

    return functools.update_wrapper(wrapper, handler)


def waiting(handler: Handler[P, R]) -> Handler[P, R]:
    """`guarded`, and counted among the requests that may wait."""

    async def wrapper(self: Adapter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.waiting >= MAX_WAITING:
            raise pyfuse3.FUSEError(errno.EIO)
        self.waiting += 1
        try:
            return await handler(self, *args, **kwargs)
        finally:
            self.waiting -= 1

    return guarded(functools.update_wrapper(wrapper, handler))


def _nobody_reads() -> None:
    """Without a mount nobody waits for the next request."""


class Adapter(pyfuse3.Operations):
    """The operations that pyfuse3 calls."""

    supports_dot_lookup = True
    enable_acl = True

    def __init__(
        self,
        vfs: VFS,
        *,
        writeback: bool,
        noxattr: bool,
        waits: Callable[[], None] = _nobody_reads,
    ) -> None:
        """`waits` is told each time that a request begins to wait for something."""
        super().__init__()
        self.waits = waits
        self.filling: Filling | None = None
        self.enable_writeback_cache = writeback
        self.waiting = 0
        self._noxattr = noxattr
        self._table = vfs.table
        self._names = vfs.names
        self._files = vfs.files
        self._attributes = vfs.attributes
        self._directories = vfs.directories
        self._vfs = vfs
        self._lifetime_s = SHARED_LIFETIME_S if vfs.options.read_only else OWNED_LIFETIME_S

    def _entry(self, inode: Inode | Attr) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.entry_timeout = entry.attr_timeout = self._lifetime_s
        entry.st_blksize = IO_BLOCK_BYTES
        self._fill(entry, inode)
        return entry

    @staticmethod
    def _fill(entry: pyfuse3.EntryAttributes, inode: Inode | Attr) -> None:
        """Set what differs between inodes."""
        entry.st_ino = inode.inode
        mode = inode.mode
        entry.st_mode = mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        is_directory = mode & 0o170000 == 0o040000
        entry.st_size = DIRECTORY_BYTES if is_directory else inode.size
        entry.st_blocks = -(-inode.allocated // STAT_BLOCK_BYTES)
        entry.st_atime_ns = inode.atime_ns
        entry.st_mtime_ns = inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns

    # --- Names. ---

    @guarded
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        found = await self._names.lookup(parent_inode, name)
        if found is not None:
            return self._entry(found)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = self._lifetime_s
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            for inode, count in inode_list:
                self._table.forget(inode, count)
        except Exception:
            log.exception("forget failed")

    @guarded
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self._names.make(parent_inode, name, mode, caller_of(ctx), rdev=rdev)
        )

    @guarded
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.make(parent_inode, name, mode, caller_of(ctx)))

    @guarded
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self._names.make(parent_inode, name, 0o120777, caller_of(ctx), target=target)
        )

    @guarded
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.link(inode, new_parent_inode, new_name))

    @guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.unlink(parent_inode, name)

    @guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._names.rmdir(parent_inode, name)

    @waiting
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        await self._names.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, RenameFlag(flags)
        )

    @guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._attributes.readlink(inode)

    # --- Attributes. ---

    @guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(await self._attributes.get(inode))

    @waiting
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        change = Change(
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        change = await self._taking_set_id(inode, change, ctx)
        return self._entry(await self._attributes.set(inode, change))

    async def _taking_set_id(
        self, inode: int, change: Change, ctx: pyfuse3.RequestContext
    ) -> Change:
        """Add to the change what it does to set-id bits."""
        if not takes_set_id(change, ctx):
            return change
        found = await self._attributes.get(inode)
        mode = without_set_id(found.mode, ctx, found.gid)
        return change if mode == found.mode else change._replace(mode=mode & 0o7777)

    @guarded
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        return True  # The kernel checks, by default_permissions.

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        # Asked before every write of a file: answered from memory, without the wrappers.
        if self._noxattr:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        if name in _ASKED_OFTEN and self._table.is_plain(inode):
            raise pyfuse3.FUSEError(_ASKED_OFTEN[name])
        if name == REPORT_XATTR and inode == pyfuse3.ROOT_INODE:
            return encode(self._vfs.report())
        return await self._getxattr(inode, name)

    @guarded
    async def _getxattr(self, inode: int, name: bytes) -> bytes:
        return await self._attributes.getxattr(await self._attributes.get(inode), name)

    @guarded
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        self._refuse_xattrs()
        found = await self._attributes.get(inode)
        in_group = name != acl.ACCESS or is_in_group(ctx, found.gid)
        await self._attributes.setxattr(found, name, value, in_group=in_group)

    @guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        self._refuse_xattrs()
        found = await self._attributes.get(inode)
        return await self._attributes.listxattr(found, privileged=ctx.uid == 0)

    @guarded
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._refuse_xattrs()
        await self._attributes.removexattr(await self._attributes.get(inode), name)

    def _refuse_xattrs(self) -> None:
        if self._noxattr:
            raise pyfuse3.FUSEError(errno.ENOSYS)

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        said = self._vfs.statistics()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = said.block_bytes
        data.f_blocks = said.blocks
        data.f_bfree = data.f_bavail = said.blocks_free
        data.f_files = said.files
        data.f_ffree = data.f_favail = said.files_free
        data.f_namemax = NAME_MAX_BYTES
        return data

    # --- Files. ---

    @waiting
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        truncates = bool(flags & os.O_TRUNC)
        quiet = self.filling is not None and ctx.pid == self.filling.pid
        handle = await self._files.open(
            inode,
            truncate=truncates,
            write=writes,
            direct=bool(flags & os.O_DIRECT),
            quiet=quiet,
        )
        if truncates:
            try:
                taken = await self._taking_set_id(inode, _EMPTIED, ctx)
                if taken.mode is not None:
                    await self._attributes.set(inode, Change(mode=taken.mode))
            except BaseException:
                self._files.release(handle)
                raise
        return pyfuse3.FileInfo(fh=handle, keep_cache=True)

    @waiting
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        try:
            inode = await self._names.make(parent_inode, name, mode | 0o100000, caller_of(ctx))
        except Exists:
            found = None if flags & os.O_EXCL else await self._names.lookup(parent_inode, name)
            if found is None:
                raise
            inode = found
            try:
                info = await self.open(inode.inode, flags, ctx)
            except BaseException:
                self._table.forget(inode.inode, 1)
                raise
            return info, self._entry(inode)
        handle = self._files.hold(inode)
        return pyfuse3.FileInfo(fh=handle, keep_cache=True), self._entry(inode)

    @waiting
    async def read(self, fh: int, off: int, size: int) -> Any:
        return await self._files.read(fh, off, size)

    @waiting
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._files.write(fh, off, buf)

    @guarded
    async def flush(self, fh: int) -> None:
        if self.filling is not None and self._files.reader_of(fh) in self.filling.held:
            await self.filling.rest()
        self._files.flush(fh)

    @waiting
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._files.fsync(fh)

    @guarded
    async def release(self, fh: int) -> None:
        self._files.release(fh)

    # --- Directories. ---

    @guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return await self._directories.open(inode)

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        peek, fill, reply = self._table.peek, self._fill, pyfuse3.readdir_reply
        sent = pyfuse3.EntryAttributes()  # One for all: a reply is a copy.
        sent.entry_timeout = sent.attr_timeout = self._lifetime_s
        sent.st_blksize = IO_BLOCK_BYTES
        while True:
            entries = await self._directories.page(fh, start_id)
            count = 0
            for name, cookie, attr in entries:
                fill(sent, peek(attr.inode) or attr)
                if not reply(token, name, sent, cookie):
                    break
                count += 1
            self._directories.accepted(fh, entries, count)
            if not entries or count < len(entries):
                return
            start_id = entries[-1].cookie

    @waiting
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._vfs.flusher.durable()

    @guarded
    async def releasedir(self, fh: int) -> None:
        self._directories.release(fh)
