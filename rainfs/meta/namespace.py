"""Names, inodes and attributes by the rules of POSIX, one transaction an operation.

Owns link counts, times of parents and children, set-group-id inheritance, orphans, directory
listings.  Refuses to know permissions (the kernel checks them), open files (`held` is asked) and
bytes.  Invariants: a directory's link count is 2 plus its subdirectories, and 0 once removed; every
directory knows its parent; an inode with link count 0 is an orphan of the session that took its
last name, or gone.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from rainfs.errors import (
    InvalidArgument,
    IsDirectory,
    MetadataForeign,
    NameTooLong,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from rainfs.meta import keys, renaming, xattrs
from rainfs.meta.attr_change import AttrChange
from rainfs.meta.directory import Directory, HashName, check_new_name, hash_with
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.inodes import (
    Held,
    load_attr,
    load_directory,
    load_open_directory,
    store_attr,
    store_unlinked,
)
from rainfs.meta.records import ATTRS, Dirent
from rainfs.meta.renaming import Renamed, RenameFlag, Unready
from rainfs.meta.sessions import Session
from rainfs.meta.xattrs import XattrFlag
from rainfs.model import Attr, InodeNumber

MAX_LINKS = (1 << 31) - 1
MAX_TARGET_BYTES = 4_095
DENSE_RATIO = 4
"""A page's inodes are read with one scan if they lie at most this much thinner than packed."""


class Entry(NamedTuple):
    """A line of a listing."""

    name: bytes
    cookie: int
    """Where a listing goes on after this entry; above 2."""
    attr: Attr


class Namespace:
    """The tree of a volume.  Raises besides what is named: SessionLost, ReadOnly, MetadataError."""

    def __init__(
        self,
        engine: Engine,
        session: Session,
        *,
        hash_name: HashName | None = None,
        max_links: int = MAX_LINKS,
    ) -> None:
        self._engine = engine
        self._session = session
        self._directory = Directory(hash_name or hash_with(session.name_secret))
        self._max_links = max_links

    async def getattr(self, inode: InodeNumber) -> Attr:
        """Return attributes.  Raises: NotFound."""

        async def body(reader: Reader) -> Attr:
            return await load_attr(reader, inode)

        return await self._engine.read(body)

    async def lookup(self, parent: InodeNumber, name: bytes) -> Attr:
        """Return what a name stands for; `.` and `..` work.

        Raises: NotFound, NotDirectory, NameTooLong, InvalidArgument.
        """
        found = await self.find(parent, name)
        if found is None:
            raise NotFound(f"no {name!r} in directory {parent}")
        return found

    async def find(self, parent: InodeNumber, name: bytes) -> Attr | None:
        """`lookup`, but None if there is no such name.

        Raises: NotFound for the directory, NotDirectory, NameTooLong, InvalidArgument.
        """

        async def body(reader: Reader) -> Attr | None:
            entry = (await self._directory.probe(reader, parent, name)).entry
            if entry is not None:
                return await load_attr(reader, entry.inode)
            directory = await load_directory(reader, parent)
            if name == b".":
                return directory
            if name == b"..":
                return await load_attr(reader, directory.parent)
            return None

        return await self._engine.read(body)

    async def make(
        self,
        parent: InodeNumber,
        name: bytes,
        *,
        mode: int,
        uid: int,
        gid: int,
        now_ns: int,
        rdev: int = 0,
        target: bytes = b"",
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> Attr:
        """Make an inode of the type in `mode` and give it a name: create, mkdir, mknod, symlink.

        In a set-group-id directory the group is the directory's, and a new directory gets the bit.

        Raises: Exists, NotFound (also for a removed directory), NotDirectory, NameTooLong,
        InvalidArgument, TooManyLinks, NoSpace.
        """
        check_new_name(name)
        kind = stat.S_IFMT(mode)
        is_directory = kind == stat.S_IFDIR
        if kind == stat.S_IFLNK:
            check_target(target)
        initial = xattrs or {}
        for key, value in initial.items():
            check_xattr(key, value)
        inode = await self._session.next_inode()

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            directory = await load_open_directory(transaction, parent)
            await self._directory.insert(transaction, parent, Dirent(name, inode, kind))
            if is_directory and directory.nlink >= self._max_links:
                raise TooManyLinks(f"directory {parent} has too many subdirectories")
            inherits = bool(directory.mode & stat.S_ISGID)
            attr = Attr(
                inode=inode,
                mode=mode | stat.S_ISGID if inherits and is_directory else mode,
                uid=uid,
                gid=directory.gid if inherits else gid,
                nlink=2 if is_directory else 1,
                size=len(target),
                rdev=rdev,
                atime_ns=now_ns,
                mtime_ns=now_ns,
                ctime_ns=now_ns,
                layout=directory.layout,
                has_xattrs=bool(initial),
                target=target,
                parent=parent if is_directory else InodeNumber(0),
            )
            store_attr(transaction, attr)
            for key, value in initial.items():
                transaction.put(keys.xattr_key(inode, key), value)
            nlink = directory.nlink + is_directory
            store_attr(
                transaction, replace(directory, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns)
            )
            return attr

        return await self._engine.run(body)

    async def link(
        self, inode: InodeNumber, new_parent: InodeNumber, new_name: bytes, *, now_ns: int
    ) -> Attr:
        """Give an inode one more name.

        Raises: NotPermitted for a directory, NotFound (also for an orphan), Exists, NotDirectory,
        NameTooLong, InvalidArgument, TooManyLinks, NoSpace.
        """
        check_new_name(new_name)

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            directory = await load_open_directory(transaction, new_parent)
            attr = await load_attr(transaction, inode)
            if stat.S_ISDIR(attr.mode):
                raise NotPermitted("a directory has one name only")
            if attr.nlink == 0:
                raise NotFound(f"inode {inode} was removed")
            entry = Dirent(new_name, inode, stat.S_IFMT(attr.mode))
            await self._directory.insert(transaction, new_parent, entry)
            if attr.nlink >= self._max_links:
                raise TooManyLinks(f"inode {inode} has too many names")
            attr = replace(attr, nlink=attr.nlink + 1, ctime_ns=now_ns)
            store_attr(transaction, attr)
            store_attr(transaction, replace(directory, mtime_ns=now_ns, ctime_ns=now_ns))
            return attr

        return await self._engine.run(body)

    async def unlink(
        self, parent: InodeNumber, name: bytes, *, now_ns: int, held: Held | None = None
    ) -> Attr:
        """Take a name from a file; returns the inode afterwards.

        At link count 0 it is an orphan until `Extents.reap`.  With `held`, an inode that nobody
        holds and that owns little is freed at once: `reap` is then needed only if the answer has
        `allocated` or `has_xattrs`.

        Raises: NotFound, NotDirectory, IsDirectory, NameTooLong, InvalidArgument.
        """
        if name in (b".", b".."):
            raise IsDirectory(f"{name!r} is a directory")

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            directory = await load_directory(transaction, parent)
            slot, entry = await self._directory.find(transaction, parent, name)
            if entry.type == stat.S_IFDIR:
                raise IsDirectory(f"{name!r} is a directory")
            attr = await load_attr(transaction, entry.inode)
            self._directory.remove(transaction, parent, slot)
            store_attr(transaction, replace(directory, mtime_ns=now_ns, ctime_ns=now_ns))
            attr = replace(attr, nlink=attr.nlink - 1, ctime_ns=now_ns)
            return await store_unlinked(transaction, self._session, attr, held)

        return await self._engine.run(body)

    async def rmdir(
        self, parent: InodeNumber, name: bytes, *, now_ns: int, held: Held | None = None
    ) -> Attr:
        """Remove an empty directory; returns the inode afterwards (see `unlink`).

        Raises: NotFound, NotDirectory, NotEmpty, NameTooLong, InvalidArgument.
        """
        if name == b".":
            raise InvalidArgument("'.' cannot be removed")
        if name == b"..":
            raise NotEmpty("'..' cannot be removed")

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            directory = await load_directory(transaction, parent)
            slot, entry = await self._directory.find(transaction, parent, name)
            if entry.type != stat.S_IFDIR:
                raise NotDirectory(f"{name!r} is not a directory")
            if not await self._directory.is_empty(transaction, entry.inode):
                raise NotEmpty(f"{name!r} is not empty")
            attr = await load_attr(transaction, entry.inode)
            self._directory.remove(transaction, parent, slot)
            nlink = directory.nlink - 1
            store_attr(
                transaction, replace(directory, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns)
            )
            attr = replace(attr, nlink=0, ctime_ns=now_ns)
            return await store_unlinked(transaction, self._session, attr, held)

        return await self._engine.run(body)

    async def rename(
        self,
        parent: InodeNumber,
        name: bytes,
        new_parent: InodeNumber,
        new_name: bytes,
        *,
        flags: RenameFlag = RenameFlag.NONE,
        now_ns: int,
        held: Held | None = None,
        unready: Unready | None = None,
    ) -> Renamed:
        """Move a name; what it replaces loses one (see `unlink`), what it exchanges moves back.

        Nothing is done if the new name exists and `unready` holds for what is to take it.

        Raises: NotFound, NotDirectory, IsDirectory, NotEmpty, Exists (NOREPLACE), InvalidArgument
        (into its own subtree, `.` or `..`, bad flags), NameTooLong, TooManyLinks, NoSpace.
        """
        move = renaming.Move(parent, name, new_parent, new_name, flags, now_ns)
        renaming.check(move)

        async def body(transaction: Transaction) -> Renamed:
            await self._session.check(transaction)
            return await renaming.apply(
                transaction, self._directory, self._session, move, self._max_links, held, unready
            )

        return await self._engine.run(body)

    async def readdir(self, inode: InodeNumber, after: int, limit: int) -> list[Entry]:
        """Return at most `limit` entries whose cookies are above `after`, in cookie order.

        Without `.` and `..`.  An entry keeps its cookie while others come and go.

        Raises: NotFound, NotDirectory.
        """

        async def body(reader: Reader) -> list[Entry]:
            await load_directory(reader, inode)
            found = await self._directory.page(reader, inode, after, limit)
            attrs = await _load_attrs(reader, [entry.inode for _, entry in found])
            return [
                Entry(entry.name, slot, attr)
                for (slot, entry), attr in zip(found, attrs, strict=True)
            ]

        return await self._engine.read(body)

    async def setattr(self, inode: InodeNumber, change: AttrChange) -> Attr:
        """Change attributes; works on orphans.

        Raises: NotFound, InvalidArgument (size of what is no file, or below what it is),
        IsDirectory, FileTooLarge.
        """

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            attr = await load_attr(transaction, inode)
            changed = change.of(attr)
            if changed is not attr:
                store_attr(transaction, changed)
            return changed

        return await self._engine.run(body)

    async def getxattr(self, inode: InodeNumber, name: bytes) -> bytes:
        """Return an extended attribute.  Raises: NoAttribute, NotFound."""

        async def body(reader: Reader) -> bytes:
            return await xattrs.get(reader, inode, name)

        return await self._engine.read(body)

    async def setxattr(
        self,
        inode: InodeNumber,
        name: bytes,
        value: bytes,
        flags: XattrFlag = XattrFlag.EITHER,
        *,
        now_ns: int | None = None,
    ) -> Attr:
        """Set an extended attribute; `now_ns` becomes the ctime.

        Raises: Exists (CREATE), NoAttribute (REPLACE), NotFound, NameTooLong, AttributeTooLarge,
        InvalidArgument, NoSpace.
        """
        check_xattr(name, value)

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            return await xattrs.put(transaction, inode, name, value, flags, now_ns)

        return await self._engine.run(body)

    async def listxattr(self, inode: InodeNumber) -> Sequence[bytes]:
        """Return the names of all extended attributes.  Raises: NotFound."""

        async def body(reader: Reader) -> list[bytes]:
            return await xattrs.names(reader, inode)

        return await self._engine.read(body)

    async def removexattr(
        self, inode: InodeNumber, name: bytes, *, now_ns: int | None = None
    ) -> Attr:
        """Remove an extended attribute.  Raises: NoAttribute, NotFound."""

        async def body(transaction: Transaction) -> Attr:
            await self._session.check(transaction)
            return await xattrs.remove(transaction, inode, name, now_ns)

        return await self._engine.run(body)


check_xattr = xattrs.check


def check_target(target: bytes) -> None:
    """Raises: NotFound, NameTooLong, InvalidArgument for what no symbolic link can hold."""
    if not target:
        raise NotFound("the target of a symbolic link must not be empty")
    if len(target) > MAX_TARGET_BYTES:
        raise NameTooLong(f"a target of {len(target)} bytes: at most {MAX_TARGET_BYTES}")
    if b"\0" in target:
        raise InvalidArgument("a target holds a NUL byte")


async def _load_attrs(reader: Reader, inodes: list[InodeNumber]) -> list[Attr]:
    """Return attributes in the order of `inodes`, with one scan where they lie close together."""
    if not inodes:
        return []
    low, high = min(inodes), max(inodes)
    raws: list[bytes | None]
    if high - low < DENSE_RATIO * len(inodes):
        rows = await reader.scan(
            keys.inode_key(low), keys.inode_key(InodeNumber(high + 1)), limit=high - low + 1
        )
        by_key = dict(rows)
        raws = [by_key.get(keys.inode_key(inode)) for inode in inodes]
    else:
        raws = [await reader.get(keys.inode_key(inode)) for inode in inodes]
    attrs: list[Attr] = []
    for inode, raw in zip(inodes, raws, strict=True):
        if raw is None:
            raise MetadataForeign(f"metadata is damaged: an entry names inode {inode}, not there")
        attrs.append(ATTRS.decode(raw))
    return attrs
