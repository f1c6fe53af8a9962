"""Inodes in memory: attributes, what is dirty, who still refers to them.

With one read-write mount a volume, the inode here is the truth and the metadata lags behind it by
what is dirty.  Owns lookup counts (what the kernel may still name) and handle counts.  Refuses to
know how bytes are stored.

Invariants:
- At most one `Inode` object per number is in the table; one that is dirty, in flight, open or
  pinned is never evicted.
- Every change of stored attributes is followed by `touch` before the next checkpoint, so that a
  load that ran meanwhile is repeated and no stale attributes enter the table.
- An inode without links is released exactly once, when its last lookup and handle are gone.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from rainfs.model import Attr, InodeNumber
from rainfs.vfs.buffer import SegmentMap

if TYPE_CHECKING:
    from rainfs.vfs.batch import Batch

RELATIME_NS = 24 * 3600 * 10**9
"""An access time older than this is renewed though nothing else changed."""


class Inode:
    """One inode's attributes as every request sees them, and its uncommitted bytes."""

    __slots__ = (
        "atime_dirty",
        "atime_ns",
        "barrier",
        "ctime_ns",
        "default_acl",
        "dirty",
        "dirty_since",
        "failure",
        "failure_told",
        "freed",
        "gid",
        "has_xattrs",
        "inode",
        "layers",
        "layout",
        "lock",
        "meta_dirty",
        "mode",
        "mtime_ns",
        "nlink",
        "opens",
        "parent",
        "rdev",
        "size",
        "stale",
        "stale_allocated",
        "stored_allocated",
        "stored_size",
        "target",
        "uid",
    )

    def __init__(self, attr: Attr, block_bytes: int) -> None:
        self.inode = attr.inode
        self.dirty = SegmentMap(block_bytes)
        self.dirty_since = 0.0
        self.layers: list[tuple[Batch, SegmentMap]] = []
        """Bytes on their way to the array, oldest first."""
        self.meta_dirty = False
        """Size or times differ from what is committed or about to be."""
        self.atime_dirty = False
        """The access time here is ahead of the stored one."""
        self.freed = False
        """The metadata has forgotten the inode; the kernel has not yet."""
        self.opens = 0
        self.barrier = False
        """While set, no new flush of this inode starts (truncate waits for the running ones)."""
        self.failure: Exception | None = None
        """Why the last flush of it failed; None once all is committed."""
        self.failure_told = False
        """Whether anybody was told of `failure`."""
        self.lock = trio.Lock()
        self.stale = False
        """Some stored attribute is newer than what is here."""
        self.stale_allocated = False
        """Only `allocated` is: a flush of this inode was committed."""
        self.default_acl: bytes | None = None
        """The default ACL; b"" for none, None for not looked up yet."""
        self._take(attr)
        self.size = self.stored_size = attr.size
        self.atime_ns, self.mtime_ns, self.ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns

    def _take(self, attr: Attr) -> None:
        self.mode, self.uid, self.gid = attr.mode, attr.uid, attr.gid
        self.nlink, self.rdev, self.layout = attr.nlink, attr.rdev, attr.layout
        self.has_xattrs, self.target, self.parent = attr.has_xattrs, attr.target, attr.parent
        self.stored_allocated = attr.allocated

    @property
    def pending(self) -> bool:
        """Whether memory is ahead of the metadata."""
        return self.meta_dirty or bool(self.dirty) or bool(self.layers)

    @property
    def idle(self) -> bool:
        """Whether the object may be dropped and loaded again later."""
        busy = self.opens or self.barrier or self.atime_dirty or not self.nlink
        return not (busy or self.pending or self.failure)

    @property
    def allocated(self) -> int:
        """File bytes that take space, those not committed yet included."""
        extra = self.dirty.nbytes + sum(part.nbytes for _, part in self.layers)
        return self.stored_allocated + extra

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    def refresh(self, attr: Attr) -> None:
        """Take over stored attributes, except where memory is ahead of them."""
        self._take(attr)
        self.stale = self.stale_allocated = False
        if not self.atime_dirty:
            self.atime_ns = attr.atime_ns
        if self.pending:
            self.ctime_ns = max(self.ctime_ns, attr.ctime_ns)
            return
        self.size = self.stored_size = attr.size
        self.mtime_ns, self.ctime_ns = attr.mtime_ns, attr.ctime_ns

    def change_owner_and_mode(self, uid: int | None, gid: int | None, mode: int | None) -> None:
        """Change what is not None, here alone."""
        self.uid = self.uid if uid is None else uid
        self.gid = self.gid if gid is None else gid
        self.mode = self.mode if mode is None else mode

    def accessed(self, now_ns: int) -> bool:
        """Renew the access time by the rules of relatime; True if it changed."""
        at = self.atime_ns
        if at > self.mtime_ns and at > self.ctime_ns and now_ns - at < RELATIME_NS:
            return False
        self.atime_ns = now_ns
        self.atime_dirty = True
        return True


class InodeTable:
    """All inodes that anybody refers to; the attributes of idle ones are bounded in number."""

    def __init__(
        self,
        load: Callable[[InodeNumber], Awaitable[Attr]],
        released: Callable[[InodeNumber, Inode | None], None],
        *,
        block_bytes: int,
        max_idle: int,
    ) -> None:
        """`released` is told of every inode without links that nobody refers to any more."""
        self._load = load
        self._released = released
        self._block_bytes = block_bytes
        self._max_live = max_idle
        self._live: OrderedDict[int, Inode] = OrderedDict()
        self.lookups: dict[int, int] = {}
        self.orphans: set[int] = set()
        self._plain: set[int] = set()
        """Inodes without extended attributes that the kernel knows; the others were not noted."""
        self.changes = 0
        """Counts changes of stored attributes and names; cached copies compare it."""

    def __len__(self) -> int:
        return len(self._live)

    def peek(self, inode: int) -> Inode | None:
        """Return the inode if it is in memory."""
        return self._live.get(inode)

    async def get(self, inode: int, *, exact: bool = True) -> Inode:
        """Return the inode, loaded if need be; `allocated` may lag unless `exact`.

        Raises: NotFound.
        """
        found = self._live.get(inode)
        if found is not None and (
            not (found.stale or (exact and found.stale_allocated)) or found.freed
        ):
            self._live.move_to_end(inode)
            return found
        while True:
            before = self.changes
            attr = await self._load(InodeNumber(inode))
            if before == self.changes:
                return self.adopt(attr)

    def adopt(self, attr: Attr) -> Inode:
        """Return the inode for attributes that are known to be current."""
        found = self._live.get(attr.inode)
        if found is not None:
            found.refresh(attr)
            return found
        found = self._live[attr.inode] = Inode(attr, self._block_bytes)
        if len(self._live) > self._max_live:
            self._evict()
        return found

    def _evict(self) -> None:
        """Drop idle inodes, the least recently used first; look at a bounded number."""
        for _ in range(8):
            number, inode = next(iter(self._live.items()))
            if inode.idle:
                del self._live[number]
                if len(self._live) <= self._max_live:
                    return
            else:
                self._live.move_to_end(number)

    def entry_changed(self, directory: int, now_ns: int, subdirectories: int) -> None:
        """Say that a directory got or lost an entry, and what that did to it."""
        self.changes += 1
        found = self._live.get(directory)
        if found is not None:
            found.mtime_ns = found.ctime_ns = now_ns
            found.nlink += subdirectories

    def flushed(self, inode: Inode) -> None:
        """Say that a flush of `inode` was committed."""
        self.changes += 1
        inode.stale_allocated = True

    def touch(self, *inodes: int) -> None:
        """Say that stored attributes changed: those of `inodes` are read again before use."""
        self.changes += 1
        for number in inodes:
            found = self._live.get(number)
            if found is not None:
                found.stale = True

    def looked_up(self, inode: int) -> None:
        """Count one lookup that the kernel will forget later."""
        self.lookups[inode] = self.lookups.get(inode, 0) + 1

    def listed(self, inode: int, *, has_xattrs: bool) -> None:
        """`looked_up` by a listing, which does not bring the inode into memory."""
        self.lookups[inode] = self.lookups.get(inode, 0) + 1
        if not has_xattrs:
            self._plain.add(inode)

    def is_plain(self, inode: int) -> bool:
        """Whether the inode is known to have no extended attributes, without reading it."""
        found = self._live.get(inode)
        return not found.has_xattrs if found is not None else inode in self._plain

    def got_xattrs(self, inode: Inode) -> None:
        """Say that the inode has extended attributes from now on."""
        inode.has_xattrs = True
        self._plain.discard(inode.inode)

    def is_known(self, inode: int) -> bool:
        """Whether the kernel may still ask for the inode by its number."""
        return inode in self.lookups

    def forget(self, inode: int, count: int) -> None:
        """Take back `count` lookups."""
        left = self.lookups.get(inode, 0) - count
        if left > 0:
            self.lookups[inode] = left
            return
        self.lookups.pop(inode, None)
        self._plain.discard(inode)
        self._maybe_release(inode)

    def opened(self, inode: Inode) -> None:
        """Count a handle."""
        inode.opens += 1

    def closed(self, inode: Inode) -> None:
        """Take back a handle."""
        inode.opens -= 1
        if not inode.opens:
            self._maybe_release(inode.inode)

    def held(self, inode: int) -> bool:
        """Whether the inode has to outlive its last name."""
        found = self._live.get(inode)
        return found is not None and (found.opens > 0 or found.barrier)

    def unlinked(self, inode: int, *, freed: bool) -> None:
        """Say that the inode's last link is gone; `freed`: and its row as well."""
        self.orphans.add(inode)
        found = self._live.get(inode)
        if freed and found is not None:
            found.freed = True
        elif freed:
            self.orphans.discard(inode)
        self._maybe_release(inode)

    def _maybe_release(self, inode: int) -> None:
        if inode not in self.orphans or inode in self.lookups:
            return
        found = self._live.get(inode)
        if found is not None and found.opens:
            return
        self.orphans.discard(inode)
        self._live.pop(inode, None)
        if found is None or not found.freed:
            self._released(InodeNumber(inode), found)

    def release_all(self) -> None:
        """Forget every lookup: the kernel is gone."""
        self.lookups.clear()
        self._plain.clear()
        for inode in list(self.orphans):
            self._maybe_release(inode)
