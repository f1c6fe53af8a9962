"""Inode rows inside a transaction: loading, storing, and what happens when the last name goes.

Invariant: an inode without a name is either on the orphan list or gone with all it owned, decided
in the transaction that took the name.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from msgspec.structs import replace

from rainfs.errors import NotDirectory, NotFound
from rainfs.meta import keys
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.records import ATTRS, EXTENTS
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import Changes, apply_changes
from rainfs.model import Attr, InodeNumber

Held = Callable[[InodeNumber], bool]
"""Whether somebody still has the inode open."""

SMALL_EXTENTS = 64
"""A file of at most this many extents is freed in the transaction that takes its last name."""

SMALL_XATTRS = 16


async def load_attr(reader: Reader, inode: InodeNumber) -> Attr:
    """Return the attributes.  Raises: NotFound."""
    raw = await reader.get(keys.inode_key(inode))
    if raw is None:
        raise NotFound(f"no inode {inode}")
    return ATTRS.decode(raw)


async def load_directory(reader: Reader, inode: InodeNumber) -> Attr:
    """Return a directory's attributes.  Raises: NotFound, NotDirectory."""
    attr = await load_attr(reader, inode)
    if not stat.S_ISDIR(attr.mode):
        raise NotDirectory(f"inode {inode} is not a directory")
    return attr


async def load_open_directory(reader: Reader, inode: InodeNumber) -> Attr:
    """Return a directory that takes new entries.  Raises: NotFound (also if it was removed)."""
    attr = await load_directory(reader, inode)
    if attr.nlink == 0:
        raise NotFound(f"directory {inode} was removed")
    return attr


def store_attr(transaction: Transaction, attr: Attr) -> None:
    """Write the attributes."""
    transaction.put(keys.inode_key(attr.inode), ATTRS.encode(attr))


async def store_unlinked(
    transaction: Transaction, session: Session, attr: Attr, held: Held | None
) -> Attr:
    """Write an inode that has just lost a name; free it or put it on the orphan list at nlink 0.

    Returns the attributes afterwards: with `allocated` 0 and no xattrs if it was freed.
    """
    if attr.nlink > 0:
        store_attr(transaction, attr)
        return attr
    if held is not None and not held(attr.inode) and await _free_small(transaction, attr):
        return replace(attr, allocated=0, has_xattrs=False)
    store_attr(transaction, attr)
    transaction.put(keys.orphan_key(session.epoch, attr.inode), b"")
    return attr


async def _free_small(transaction: Transaction, attr: Attr) -> bool:
    """Remove the inode and all that it owns if that is little; returns whether it was."""
    changes: Changes = {}
    extents: list[tuple[bytes, bytes]] = []
    if attr.allocated:
        extents = await transaction.scan(*keys.of_inode(b"E", attr.inode), limit=SMALL_EXTENTS + 1)
    xattrs: list[tuple[bytes, bytes]] = []
    if attr.has_xattrs:
        xattrs = await transaction.scan(*keys.of_inode(b"X", attr.inode), limit=SMALL_XATTRS + 1)
    if len(extents) > SMALL_EXTENTS or len(xattrs) > SMALL_XATTRS:
        return False
    for key, raw in extents:
        extent = EXTENTS.decode(raw)
        changes[extent.stripe] = changes.get(extent.stripe, 0) - extent.length
        transaction.delete(key)
    for key, _ in xattrs:
        transaction.delete(key)
    transaction.delete(keys.inode_key(attr.inode))
    await apply_changes(transaction, changes)
    return True
