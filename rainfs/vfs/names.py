"""Names: lookup, make, link, unlink, rename, and what becomes of inodes without names.

Owns the effect of namespace transactions on the inodes in memory.  Refuses to know how names are
stored.

Invariants:
- Directories' attributes are read again after every change below them.
- An object is renamed over another only after its own bytes are committed, so that a crash leaves
  the old bytes or the new ones.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from rainfs.errors import NotFound
from rainfs.meta.namespace import Namespace
from rainfs.meta.renaming import Renamed, Unready
from rainfs.meta.renaming import RenameFlag as RenameFlag
from rainfs.model import Attr, InodeNumber
from rainfs.vfs.attributes import Attributes
from rainfs.vfs.flush import Flusher
from rainfs.vfs.inodes import Inode, InodeTable
from rainfs.vfs.options import Caller


class Names:
    """Changes the tree.  Every inode that is returned counts as looked up once."""

    def __init__(
        self,
        table: InodeTable,
        namespace: Namespace,
        attributes: Attributes,
        flusher: Flusher,
        now_ns: Callable[[], int],
    ) -> None:
        self._table = table
        self._namespace = namespace
        self._attributes = attributes
        self._flusher = flusher
        self._now_ns = now_ns

    async def lookup(self, parent: int, name: bytes) -> Inode | None:
        """Return what has that name, or None; any inode, files too, has the name `.` for itself."""
        if name == b".":
            return await self._itself(parent)
        while True:
            before = self._table.changes
            try:
                attr = await self._namespace.find(InodeNumber(parent), name)
            except NotFound:
                return None
            if attr is None:
                return None
            found = self._table.peek(attr.inode)
            if found is not None and not (found.stale or found.stale_allocated):
                break
            found = None
            if before == self._table.changes:
                found = self._table.adopt(attr)
                break
        self._table.looked_up(attr.inode)
        return found

    async def _itself(self, number: int) -> Inode | None:
        """Return an inode by its number alone: how file handles of a file server are opened."""
        try:
            inode = await self._table.get(number)
        except NotFound:
            return None
        if not inode.nlink:
            return None  # It lives for those who have it open; a handle to it is stale.
        self._table.looked_up(number)
        return inode

    async def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Make a file, directory, link or device.  Raises: Exists, NameTooLong, ..."""
        self._attributes.check_writable()
        now = self._now_ns()
        above = await self._table.get(parent, exact=False)
        xattrs: dict[bytes, bytes] = {}
        if not stat.S_ISLNK(mode):
            mode, xattrs = await self._attributes.initial(above, mode, caller.umask)
        attr = await self._namespace.make(
            above.inode,
            name,
            mode=mode,
            uid=caller.uid,
            gid=caller.gid,
            now_ns=now,
            rdev=rdev,
            target=target,
            xattrs=xattrs,
        )
        self._table.entry_changed(parent, now, stat.S_ISDIR(mode))
        inode = self._table.adopt(attr)
        self._table.looked_up(attr.inode)
        return inode

    async def link(self, number: int, new_parent: int, new_name: bytes) -> Inode:
        """Give an inode another name.  Raises: Exists, NotPermitted for a directory, ..."""
        self._attributes.check_writable()
        now = self._now_ns()
        attr = await self._namespace.link(
            InodeNumber(number), InodeNumber(new_parent), new_name, now_ns=now
        )
        self._table.entry_changed(new_parent, now, 0)
        inode = self._table.adopt(attr)
        self._table.looked_up(number)
        return inode

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory.  Raises: NotFound, IsDirectory."""
        self._attributes.check_writable()
        now = self._now_ns()
        attr = await self._namespace.unlink(
            InodeNumber(parent), name, now_ns=now, held=self._table.held
        )
        self._table.entry_changed(parent, now, 0)
        self._lost_a_name(attr)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory.  Raises: NotEmpty, NotDirectory, NotFound."""
        self._attributes.check_writable()
        now = self._now_ns()
        attr = await self._namespace.rmdir(
            InodeNumber(parent), name, now_ns=now, held=self._table.held
        )
        self._table.entry_changed(parent, now, -1)
        self._lost_a_name(attr)

    def _lost_a_name(self, attr: Attr) -> None:
        inode = self._table.peek(attr.inode)
        if inode is not None:
            inode.refresh(attr)
        if attr.nlink == 0:
            if inode is None and self._table.is_known(attr.inode):
                inode = self._table.adopt(attr)
            held = self._table.held(attr.inode)
            if inode is not None and not held:
                self._flusher.discard(inode)
            freed = not (held or attr.allocated or attr.has_xattrs)
            self._table.unlinked(attr.inode, freed=freed)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: RenameFlag
    ) -> None:
        """Rename, replace or exchange.  Raises: what POSIX says of rename."""
        self._attributes.check_writable()
        now = self._now_ns()
        renamed = await self._rename(parent, name, new_parent, new_name, flags, now, self._unready)
        if renamed.unready:
            await self._flusher.flush(await self._table.get(renamed.moved.inode, exact=False))
            renamed = await self._rename(parent, name, new_parent, new_name, flags, now, None)
        if not renamed.done:
            return
        self._moved_between(parent, new_parent, now, renamed)
        moved = self._table.peek(renamed.moved.inode)
        if moved is not None:
            moved.refresh(renamed.moved)
        replaced = renamed.replaced
        if replaced is None or replaced.inode == renamed.moved.inode:
            return
        if flags & RenameFlag.EXCHANGE:
            other = self._table.peek(replaced.inode)
            if other is not None:
                other.refresh(replaced)
        else:
            self._lost_a_name(replaced)

    async def _rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: RenameFlag,
        now: int,
        unready: Unready | None,
    ) -> Renamed:
        return await self._namespace.rename(
            InodeNumber(parent),
            name,
            InodeNumber(new_parent),
            new_name,
            flags=flags,
            now_ns=now,
            held=self._table.held,
            unready=unready,
        )

    def _unready(self, number: InodeNumber) -> bool:
        """Whether bytes or the length of the inode must be committed before it replaces another."""
        inode = self._table.peek(number)
        if inode is None:
            return False
        return bool(inode.dirty or inode.layers) or inode.size != inode.stored_size

    def _moved_between(self, parent: int, new_parent: int, now: int, renamed: Renamed) -> None:
        """Note what a rename did to the directories."""
        if stat.S_ISDIR(renamed.moved.mode) or (
            renamed.replaced is not None and stat.S_ISDIR(renamed.replaced.mode)
        ):
            self._table.touch(parent, new_parent)
            return
        self._table.entry_changed(parent, now, 0)
        if new_parent != parent:
            self._table.entry_changed(new_parent, now, 0)
