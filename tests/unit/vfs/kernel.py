"""The part of a kernel that a file system relies on, over a vfs: what the model test drives.

Carries out the operations of `tests.model.operations` for root: walks paths, follows links, checks
what a kernel checks before it asks the file system, keeps descriptors and lookups.  Refuses to know
permissions, page caches and mappings.

Invariant: as with the real one, every lookup that the vfs counted is forgotten in the end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rainfs.errors import NoAttribute, RainError
from rainfs.model import ROOT_INODE
from rainfs.mount.errno_table import errno_of
from rainfs.vfs.attributes import Change
from rainfs.vfs.directory import DOTDOT_COOKIE
from rainfs.vfs.inodes import Inode
from rainfs.vfs.names import RenameFlag
from rainfs.vfs.options import Caller
from rainfs.vfs.vfs import VFS
from tests.model.operations import SLOTS, Operation, content
from tests.model.snapshot import Thing, Times

MAX_FOLLOWED = 40
UMASK = 0o022
SYMLINK_MODE = stat.S_IFLNK | 0o777


@dataclass(slots=True)
class Descriptor:
    """An open file or directory."""

    inode: int
    handle: int
    flags: int
    directory: bool
    position: int = 0


def attributes(inode: Inode) -> tuple[int, ...]:
    """Return what stat says, in the form of `tests.model.directory.attributes`."""
    size = 0 if inode.is_dir else inode.size
    return inode.mode, inode.nlink, inode.uid, inode.gid, size, inode.rdev


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Kernel:
    """One mounted vfs and one process on it."""

    def __init__(self, vfs: VFS, caller: Caller | None = None) -> None:
        self.vfs = vfs
        self.slots: list[Descriptor | None] = [None] * SLOTS
        self._caller = caller or Caller(0, 0, UMASK)
        self._known: Counter[int] = Counter()

    async def apply(self, operation: Operation) -> Any:
        """Carry out an operation; return its answer, or the name of its errno."""
        call: Callable[..., Awaitable[Any]] = getattr(self, "_" + operation.name)
        try:
            return await call(*operation.arguments)
        except RainError as error:
            return errno.errorcode[errno_of(error)]
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    async def end(self) -> None:
        """Close everything and forget every lookup."""
        for slot in range(SLOTS):
            await self._close(slot)
        await self._drop_caches()

    # --- Paths. ---

    async def _lookup(self, parent: int, name: str) -> Inode | None:
        above = await self.vfs.attributes.get(parent)
        if not above.is_dir:
            raise _fail(errno.ENOTDIR)
        found = await self.vfs.names.lookup(parent, name.encode())
        if found is not None:
            self._known[found.inode] += 1
        return found

    async def _walk(self, path: str, *, follow: bool = True) -> Inode:
        _, _, found = await self._resolve(path, follow=follow)
        if found is None:
            raise _fail(errno.ENOENT)
        return found

    async def _resolve(self, path: str, *, follow: bool) -> tuple[int, str, Inode | None]:
        """Return the last directory, the last name, and what has it."""
        at = await self.vfs.attributes.get(ROOT_INODE)
        trail = [at]
        names = path.split("/")
        followed = 0
        while True:
            name = names.pop(0)
            found: Inode | None
            if not at.is_dir:
                raise _fail(errno.ENOTDIR)
            if name in (".", ".."):
                found = at if name == "." else trail[-2] if len(trail) > 1 else at
            else:
                found = await self._lookup(at.inode, name)
            if found is not None and stat.S_ISLNK(found.mode) and (names or follow):
                followed += 1
                if followed > MAX_FOLLOWED:
                    raise _fail(errno.ELOOP)
                target = (await self.vfs.attributes.get(found.inode)).target.decode()
                names = target.split("/") + names
                continue
            if not names:
                return at.inode, name, found
            if found is None:
                raise _fail(errno.ENOENT)
            if name == "..":
                trail = trail[:-1] or trail
            elif name != ".":
                trail.append(found)
            at = found

    async def _place(self, path: str) -> tuple[int, str]:
        """Return the directory of the last name, and that name."""
        above, _, name = path.rpartition("/")
        parent = await self._walk(above or ".")
        if not parent.is_dir:
            raise _fail(errno.ENOTDIR)
        return parent.inode, name

    async def _above(self, directory: int) -> set[int]:
        """Return the directory and all above it."""
        found = {directory}
        while directory != ROOT_INODE:
            directory = (await self.vfs.attributes.get(directory)).parent
            found.add(directory)
        return found

    async def _vacant(self, path: str) -> tuple[int, str]:
        """Return where something new is to be made.  Raises: EEXIST."""
        parent, name, found = await self._resolve(path, follow=False)
        if found is not None:
            raise _fail(errno.EEXIST)
        return parent, name

    def _made(self, inode: Inode) -> Inode:
        self._known[inode.inode] += 1
        return inode

    # --- Open files. ---

    def _descriptor(self, slot: int) -> Descriptor:
        found = self.slots[slot]
        if found is None:
            raise _fail(errno.EBADF)
        return found

    def _file(self, slot: int, refused: int, *, write: bool = False) -> Descriptor:
        found = self._descriptor(slot)
        mode = found.flags & os.O_ACCMODE
        if mode == (os.O_RDONLY if write else os.O_WRONLY):
            raise _fail(errno.EBADF)
        if found.directory:
            raise _fail(refused)
        return found

    async def _open(self, slot: int, path: str, flags: int, mode: int) -> None:
        follow = not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
        parent, name, found = await self._resolve(path, follow=follow)
        if found is None:
            if not flags & os.O_CREAT:
                raise _fail(errno.ENOENT)
            made = await self.vfs.names.make(
                parent, name.encode(), stat.S_IFREG | mode & 0o7777, self._caller
            )
            self._made(made)
            await self._install(
                slot, Descriptor(made.inode, self.vfs.files.hold(made), flags, False)
            )
            return
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise _fail(errno.EEXIST)
        if stat.S_ISLNK(found.mode):
            raise _fail(errno.ELOOP)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if found.is_dir:
            if writes or flags & (os.O_CREAT | os.O_TRUNC):
                raise _fail(errno.EISDIR)
            handle = await self.vfs.directories.open(found.inode)
            await self._install(slot, Descriptor(found.inode, handle, flags, True))
            return
        if flags & os.O_DIRECTORY:
            raise _fail(errno.ENOTDIR)
        if not stat.S_ISREG(found.mode):
            raise _fail(errno.ENXIO)
        handle = await self.vfs.files.open(
            found.inode, truncate=bool(flags & os.O_TRUNC), write=writes
        )
        await self._install(slot, Descriptor(found.inode, handle, flags, False))

    async def _install(self, slot: int, descriptor: Descriptor) -> None:
        await self._close(slot)
        self.slots[slot] = descriptor

    async def _close(self, slot: int) -> None:
        found, self.slots[slot] = self.slots[slot], None
        if found is None:
            return
        if found.directory:
            self.vfs.directories.release(found.handle)
        else:
            try:
                self.vfs.files.flush(found.handle)
            finally:
                self.vfs.files.release(found.handle)

    async def _pwrite(self, slot: int, offset: int, length: int, seed: int) -> int:
        found = self._file(slot, errno.EBADF, write=True)
        if found.flags & os.O_APPEND:
            offset = (await self.vfs.attributes.get(found.inode)).size
        return await self.vfs.files.write(found.handle, offset, content(seed, length))

    async def _write(self, slot: int, length: int, seed: int) -> int:
        found = self._file(slot, errno.EBADF, write=True)
        if found.flags & os.O_APPEND:
            found.position = (await self.vfs.attributes.get(found.inode)).size
        written = await self.vfs.files.write(found.handle, found.position, content(seed, length))
        found.position += written
        return written

    async def _pread(self, slot: int, offset: int, length: int) -> bytes:
        found = self._file(slot, errno.EISDIR)
        return bytes(await self.vfs.files.read(found.handle, offset, length))

    async def _read(self, slot: int, length: int) -> bytes:
        found = self._file(slot, errno.EISDIR)
        data = bytes(await self.vfs.files.read(found.handle, found.position, length))
        found.position += len(data)
        return data

    async def _ftruncate(self, slot: int, size: int) -> None:
        found = self._descriptor(slot)
        if found.directory or found.flags & os.O_ACCMODE == os.O_RDONLY:
            raise _fail(errno.EINVAL)
        await self.vfs.attributes.set(found.inode, Change(size=size))

    async def _fsync(self, slot: int) -> None:
        found = self._descriptor(slot)
        if found.directory:
            await self.vfs.flusher.durable()
        else:
            await self.vfs.files.fsync(found.handle)

    async def _fstat(self, slot: int) -> tuple[int, ...]:
        return attributes(await self.vfs.attributes.get(self._descriptor(slot).inode))

    async def _fchmod(self, slot: int, mode: int) -> None:
        await self.vfs.attributes.set(self._descriptor(slot).inode, Change(mode=mode))

    async def _fchown(self, slot: int, uid: int, gid: int) -> None:
        await self._give(self._descriptor(slot).inode, uid, gid)

    async def _futimens(self, slot: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        await self._set_times(self._descriptor(slot).inode, atime_ns, mtime_ns)

    # --- Names. ---

    async def _mkdir(self, path: str, mode: int) -> None:
        parent, name = await self._vacant(path)
        mode = stat.S_IFDIR | mode & 0o1777
        self._made(await self.vfs.names.make(parent, name.encode(), mode, self._caller))

    async def _mknod(self, path: str, mode: int, node: tuple[int, int]) -> None:
        parent, name = await self._vacant(path)
        kind, device = node
        self._made(
            await self.vfs.names.make(parent, name.encode(), kind | mode, self._caller, rdev=device)
        )

    async def _symlink(self, target: str, path: str) -> None:
        parent, name = await self._vacant(path)
        self._made(
            await self.vfs.names.make(
                parent, name.encode(), SYMLINK_MODE, self._caller, target=target.encode()
            )
        )

    async def _link(self, path: str, new: str) -> None:
        source = await self._walk(path, follow=False)
        parent, name = await self._vacant(new)
        self._made(await self.vfs.names.link(source.inode, parent, name.encode()))

    async def _unlink(self, path: str) -> None:
        parent, name, found = await self._resolve(path, follow=False)
        if name in (".", ".."):
            raise _fail(errno.EISDIR)
        if found is None:
            raise _fail(errno.ENOENT)
        await self.vfs.names.unlink(parent, name.encode())

    async def _rmdir(self, path: str) -> None:
        parent, name, found = await self._resolve(path, follow=False)
        if name == ".":
            raise _fail(errno.EINVAL)
        if found is None:
            raise _fail(errno.ENOENT)
        await self.vfs.names.rmdir(parent, name.encode())

    async def _rename(self, path: str, new: str, flags: int) -> None:
        parent, name = await self._place(path)
        new_parent, new_name = await self._place(new)
        if "." in (name, new_name):
            raise _fail(errno.EEXIST if flags == RenameFlag.NOREPLACE else errno.EBUSY)
        source = await self._lookup(parent, name)
        if source is None:
            raise _fail(errno.ENOENT)
        target = await self._lookup(new_parent, new_name)
        if target is None and flags == RenameFlag.EXCHANGE:
            raise _fail(errno.ENOENT)
        if target is not None and flags == RenameFlag.NOREPLACE:
            raise _fail(errno.EEXIST)
        if source.inode in await self._above(new_parent):
            raise _fail(errno.EINVAL)
        if target is not None and target.inode in await self._above(parent):
            raise _fail(errno.EINVAL if flags else errno.ENOTEMPTY)
        await self.vfs.names.rename(
            parent, name.encode(), new_parent, new_name.encode(), RenameFlag(flags)
        )

    async def _readlink(self, path: str) -> str:
        found = await self._walk(path, follow=False)
        if not stat.S_ISLNK(found.mode):
            raise _fail(errno.EINVAL)
        return found.target.decode()

    async def _names_in(self, inode: int) -> dict[str, int]:
        handle = await self.vfs.directories.open(inode)
        found: dict[str, int] = {}
        at = 0
        try:
            while entries := await self.vfs.directories.page(handle, at):
                self.vfs.directories.accepted(handle, entries, len(entries))
                for entry in entries:
                    if entry.cookie > DOTDOT_COOKIE:
                        self._known[entry.attr.inode] += 1
                        found[entry.name.decode()] = entry.attr.inode
                at = entries[-1].cookie
        finally:
            self.vfs.directories.release(handle)
        return found

    async def _listdir(self, path: str) -> list[str]:
        return sorted(await self._names_in((await self._walk(path)).inode))

    async def _fsyncdir(self, path: str) -> None:
        if not (await self._walk(path)).is_dir:
            raise _fail(errno.ENOTDIR)
        await self.vfs.flusher.durable()

    # --- Attributes. ---

    async def _truncate(self, path: str, size: int) -> None:
        found = await self._walk(path)
        if found.is_dir:
            raise _fail(errno.EISDIR)
        if not stat.S_ISREG(found.mode):
            raise _fail(errno.EINVAL)
        size += size == found.size
        await self.vfs.attributes.set(found.inode, Change(size=size))

    async def _stat(self, path: str, follow: bool) -> tuple[int, ...]:
        found = await self._walk(path, follow=follow)
        return attributes(await self.vfs.attributes.get(found.inode))

    async def _chmod(self, path: str, mode: int) -> None:
        await self.vfs.attributes.set((await self._walk(path)).inode, Change(mode=mode))

    async def _chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        await self._give((await self._walk(path, follow=follow)).inode, uid, gid)

    async def _give(self, number: int, uid: int, gid: int) -> None:
        """chown, which takes the set-id bits of what is no directory."""
        inode = await self.vfs.attributes.get(number)
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        await self.vfs.attributes.set(
            number,
            Change(
                mode=None if inode.is_dir or mode == inode.mode else mode,
                uid=None if uid < 0 else uid,
                gid=None if gid < 0 else gid,
            ),
        )

    async def _utimens(
        self, path: str, atime_ns: int | None, mtime_ns: int | None, follow: bool
    ) -> None:
        await self._set_times((await self._walk(path, follow=follow)).inode, atime_ns, mtime_ns)

    async def _set_times(self, inode: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        await self.vfs.attributes.set(inode, Change(atime_ns=atime_ns, mtime_ns=mtime_ns))

    async def _utime_now(self, path: str) -> None:
        now = self.vfs.files._now_ns()
        found = await self._walk(path)
        await self.vfs.attributes.set(found.inode, Change(atime_ns=now, mtime_ns=now))

    async def _setxattr(
        self, path: str, name: str, length: int, seed: int, flags: int, follow: bool
    ) -> None:
        inode = await self._with_xattrs(path, name, follow, errno.EPERM)
        key = name.encode()
        if flags:
            try:
                await self.vfs.attributes.getxattr(inode, key)
            except NoAttribute:
                if flags == os.XATTR_REPLACE:
                    raise
            else:
                if flags == os.XATTR_CREATE:
                    raise _fail(errno.EEXIST)
        await self.vfs.attributes.setxattr(inode, key, content(seed, length))

    async def _getxattr(self, path: str, name: str, follow: bool) -> bytes:
        inode = await self._with_xattrs(path, name, follow, errno.ENODATA)
        return await self.vfs.attributes.getxattr(inode, name.encode())

    async def _removexattr(self, path: str, name: str, follow: bool) -> None:
        inode = await self._with_xattrs(path, name, follow, errno.EPERM)
        await self.vfs.attributes.removexattr(inode, name.encode())

    async def _with_xattrs(self, path: str, name: str, follow: bool, refused: int) -> Inode:
        """Return the inode.  Raises: `refused` for a user's attribute of what may have none."""
        found = await self._walk(path, follow=follow)
        if name.startswith("user.") and not (found.is_dir or stat.S_ISREG(found.mode)):
            raise _fail(refused)
        return await self.vfs.attributes.get(found.inode)

    async def _listxattr(self, path: str, follow: bool) -> list[str]:
        inode = await self.vfs.attributes.get((await self._walk(path, follow=follow)).inode)
        return sorted(name.decode() for name in await self.vfs.attributes.listxattr(inode))

    # --- Caches, and what is there. ---

    async def _drop_caches(self) -> None:
        """Forget the lookups of everything that is not open, as under memory pressure."""
        held = {slot.inode for slot in self.slots if slot is not None}
        for inode in [inode for inode in self._known if inode not in held]:
            self.vfs.table.forget(inode, self._known.pop(inode))

    async def tree(self) -> tuple[list[Thing], dict[str, tuple[int, Times]]]:
        """Return everything, sorted by path, and its times."""
        things: list[Thing] = []
        times: dict[str, tuple[int, Times]] = {}
        first: dict[int, str] = {}
        untouched: dict[int, Times] = {}  # Reading by one name moves the times of all others.

        async def visit(path: str, number: int) -> None:
            inode = await self.vfs.attributes.get(number)
            stamps = Times(inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
            times[path] = inode.mode, untouched.setdefault(number, stamps)
            same = first.setdefault(number, path)
            names = await self._names_in(number) if inode.is_dir else {}
            data = inode.target
            if stat.S_ISREG(inode.mode):
                handle = await self.vfs.files.open(number, truncate=False, write=False)
                data = bytes(await self.vfs.files.read(handle, 0, inode.size))
                self.vfs.files.release(handle)
            elif inode.is_dir:
                data = "\n".join(sorted(names)).encode()
            keys = sorted(await self.vfs.attributes.listxattr(inode))
            xattrs = [(k.decode(), await self.vfs.attributes.getxattr(inode, k)) for k in keys]
            things.append(Thing(path, attributes(inode), same, tuple(xattrs), data))
            for name in sorted(names):
                await visit(f"{path}/{name}" if path else name, names[name])

        await visit("", ROOT_INODE)
        return sorted(things, key=lambda thing: thing.path), times
