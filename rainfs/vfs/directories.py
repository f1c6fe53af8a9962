"""Handles of open directories.

Owns the table of them.  Refuses to know how entries are found (`directory`).
"""

from __future__ import annotations

from rainfs.errors import BadHandle, NotDirectory
from rainfs.meta.namespace import Entry, Namespace
from rainfs.vfs.attributes import Attributes
from rainfs.vfs.directory import DOTDOT_COOKIE, Listed, OpenDirectory
from rainfs.vfs.inodes import InodeTable


class Directories:
    """Everything that happens through a directory handle."""

    def __init__(self, table: InodeTable, namespace: Namespace, attributes: Attributes) -> None:
        self._table = table
        self._namespace = namespace
        self._attributes = attributes
        self._handles: dict[int, OpenDirectory] = {}
        self._next_handle = 1

    def __len__(self) -> int:
        return len(self._handles)

    async def open(self, number: int) -> int:
        """Open a directory; returns its handle.  Raises: NotDirectory, NotFound."""
        inode = await self._table.get(number, exact=False)
        if not inode.is_dir:
            raise NotDirectory("opened as a directory")
        handle = self._next_handle
        self._next_handle += 1
        self._table.opened(inode)
        self._handles[handle] = OpenDirectory(inode)
        return handle

    def _handle(self, handle: int) -> OpenDirectory:
        try:
            return self._handles[handle]
        except KeyError:
            raise BadHandle(f"directory handle {handle}") from None

    async def page(self, handle: int, start: int) -> list[Listed | Entry]:
        """Return entries after cookie `start`; `accepted` follows before the next checkpoint."""
        opened = self._handle(handle)
        entries = await opened.page(start, self._table, self._namespace)
        self._attributes.accessed(opened.inode)
        return entries

    def accepted(self, handle: int, entries: list[Listed | Entry], count: int) -> None:
        """Count the lookups of the first `count` entries, which went to the reader."""
        listed = self._table.listed
        for _, cookie, attr in entries[:count]:
            if cookie > DOTDOT_COOKIE:
                listed(attr.inode, has_xattrs=attr.has_xattrs)
        self._handle(handle).accepted(count)

    def release(self, handle: int) -> None:
        """Close a directory."""
        opened = self._handles.pop(handle, None)
        if opened is not None:
            self._table.closed(opened.inode)
