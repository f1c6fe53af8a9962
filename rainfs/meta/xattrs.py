"""Extended attributes inside a transaction.

Owns their limits and the `has_xattrs` mark.  Refuses to know what any of them means: POSIX ACLs are
attributes like others.  Invariant: `has_xattrs` is False only while the inode has none.
"""

from __future__ import annotations

import enum

from msgspec.structs import replace

from rainfs.errors import (
    AttributeTooLarge,
    Exists,
    InvalidArgument,
    NameTooLong,
    NoAttribute,
    NoSpace,
)
from rainfs.meta import keys
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.inodes import load_attr, store_attr
from rainfs.model import KIB, MAX_NAME_BYTES, Attr, InodeNumber

MAX_VALUE_BYTES = 64 * KIB
MAX_LIST_BYTES = 64 * KIB
MAX_XATTRS = 256


class XattrFlag(enum.IntFlag):
    """Flags of setxattr, with its values."""

    EITHER = 0
    CREATE = 1
    REPLACE = 2


def check(name: bytes, value: bytes) -> None:
    """Raises: InvalidArgument, NameTooLong, AttributeTooLarge for what cannot be stored."""
    if not name or b"\0" in name:
        raise InvalidArgument(f"bad attribute name {name!r}")
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"an attribute name of {len(name)} bytes: at most {MAX_NAME_BYTES}")
    if len(value) > MAX_VALUE_BYTES:
        raise AttributeTooLarge(f"a value of {len(value)} bytes: at most {MAX_VALUE_BYTES}")


async def get(reader: Reader, inode: InodeNumber, name: bytes) -> bytes:
    """Return a value.  Raises: NoAttribute, NotFound."""
    value = await reader.get(keys.xattr_key(inode, name))
    if value is None:
        await load_attr(reader, inode)
        raise NoAttribute(f"inode {inode} has no attribute {name!r}")
    return value


async def names(reader: Reader, inode: InodeNumber) -> list[bytes]:
    """Return all names, in byte order.  Raises: NotFound."""
    if not (await load_attr(reader, inode)).has_xattrs:
        return []
    rows = await reader.scan(*keys.of_inode(b"X", inode), limit=MAX_XATTRS)
    return [keys.name_of(key) for key, _ in rows]


async def put(
    transaction: Transaction,
    inode: InodeNumber,
    name: bytes,
    value: bytes,
    flags: XattrFlag,
    now_ns: int | None,
) -> Attr:
    """Set a value.  Raises: Exists, NoAttribute, NotFound, NoSpace."""
    if int(flags) not in (XattrFlag.EITHER, XattrFlag.CREATE, XattrFlag.REPLACE):
        raise InvalidArgument(f"setxattr flags {int(flags):#x}")
    attr = await load_attr(transaction, inode)
    key = keys.xattr_key(inode, name)
    exists = attr.has_xattrs and await transaction.get(key) is not None
    if exists and flags == XattrFlag.CREATE:
        raise Exists(f"inode {inode} has attribute {name!r}")
    if not exists and flags == XattrFlag.REPLACE:
        raise NoAttribute(f"inode {inode} has no attribute {name!r}")
    if not exists and attr.has_xattrs:
        await _check_room(transaction, inode, name)
    transaction.put(key, value)
    if not attr.has_xattrs or now_ns is not None:
        ctime_ns = attr.ctime_ns if now_ns is None else now_ns
        attr = replace(attr, has_xattrs=True, ctime_ns=ctime_ns)
        store_attr(transaction, attr)
    return attr


async def remove(
    transaction: Transaction, inode: InodeNumber, name: bytes, now_ns: int | None
) -> Attr:
    """Remove an attribute.  Raises: NoAttribute, NotFound."""
    attr = await load_attr(transaction, inode)
    key = keys.xattr_key(inode, name)
    if not attr.has_xattrs or await transaction.get(key) is None:
        raise NoAttribute(f"inode {inode} has no attribute {name!r}")
    transaction.delete(key)
    left = bool(await transaction.scan(*keys.of_inode(b"X", inode), limit=1))
    ctime_ns = attr.ctime_ns if now_ns is None else now_ns
    attr = replace(attr, has_xattrs=left, ctime_ns=ctime_ns)
    store_attr(transaction, attr)
    return attr


async def _check_room(reader: Reader, inode: InodeNumber, name: bytes) -> None:
    present = await names(reader, inode)
    listed = sum(len(other) + 1 for other in present) + len(name) + 1
    if len(present) >= MAX_XATTRS or listed > MAX_LIST_BYTES:
        raise NoSpace(f"inode {inode} has too many attributes")
