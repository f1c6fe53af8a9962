"""Listing directories, a page at a time, with cookies that survive changes.

Owns open directories.  Refuses to count lookups: whoever replies knows which entries the reader
accepted, and says so through `accepted`.

Invariants:
- A page fetched before any change of names or attributes is not used after it.
- Cookies 1 and 2 are `.` and `..`; all others come from the namespace and only grow.
"""

from __future__ import annotations

from typing import NamedTuple

from rainfs.meta.namespace import Entry, Namespace
from rainfs.model import Attr
from rainfs.vfs.inodes import Inode, InodeTable

DOT_COOKIE = 1
DOTDOT_COOKIE = 2

MIN_PAGE = 32
MAX_PAGE = 1024
"""Entries fetched at once."""


class Listed(NamedTuple):
    """`.` or `..` in a listing; all others are as the namespace has them."""

    name: bytes
    cookie: int
    """Where the listing goes on after this entry."""
    attr: Attr | Inode


class OpenDirectory:
    """One open directory."""

    __slots__ = ("_at", "_changes", "_ended", "_limit", "_page", "inode")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self._page: list[Listed | Entry] = []
        self._ended = False
        self._at = -1
        self._changes = -1
        self._limit = 4 * MIN_PAGE

    async def page(
        self, start: int, table: InodeTable, namespace: Namespace
    ) -> list[Listed | Entry]:
        """Return the entries after cookie `start`; an empty list at the end."""
        known = start == self._at and self._changes == table.changes
        if known and (self._page or self._ended):
            return self._page
        page: list[Listed | Entry] = []
        if start < DOT_COOKIE:
            page.append(Listed(b".", DOT_COOKIE, self.inode))
        if start < DOTDOT_COOKIE:
            above = await table.get(self.inode.parent or self.inode.inode)
            page.append(Listed(b"..", DOTDOT_COOKIE, above))
        while True:
            changes = table.changes
            entries = await namespace.readdir(
                self.inode.inode, max(start, DOTDOT_COOKIE), self._limit
            )
            if changes == table.changes:
                break
        for _, _, attr in entries:
            live = table.peek(attr.inode)
            if live is not None and (live.stale or live.stale_allocated):
                live.refresh(attr)
        page += entries
        self._page, self._at, self._changes = page, start, changes
        self._ended = len(entries) < self._limit
        return page

    def accepted(self, count: int) -> None:
        """Say that the first `count` entries of the last page went to the reader."""
        if not count:
            return
        self._limit = min(max(2 * count, MIN_PAGE), MAX_PAGE)
        self._at = self._page[count - 1].cookie
        self._page = self._page[count:]
