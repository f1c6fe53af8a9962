"""The keys of the metadata: one leading letter for the table, then big-endian fields.

Owns the grammar of keys (SCHEMA.md is its page).  Refuses to know the values.  Byte order of keys
is the order of scans: by number within a table, by (inode, offset) for extents, by (directory,
slot) for directory entries.
"""

from __future__ import annotations

import struct
from typing import Final

from rainfs.model import InodeNumber, LayoutId, NodeNumber, StripeId

FORMAT: Final = b"F"
VOLUME: Final = b"V"
NEXT_EPOCH: Final = b"Cepoch"
NEXT_INODE: Final = b"Cinode"
NEXT_NODE: Final = b"Cnode"

_NUMBER = struct.Struct(">cQ")
_PAIR = struct.Struct(">cQQ")

MAX_NUMBER: Final = (1 << 64) - 1


def layout_key(layout: LayoutId) -> bytes:
    """Key of an immutable layout row."""
    return _NUMBER.pack(b"L", layout)


def node_key(node: NodeNumber) -> bytes:
    """Key of a node's row."""
    return _NUMBER.pack(b"N", node)


def session_key(epoch: int) -> bytes:
    """Key of a session's row."""
    return _NUMBER.pack(b"A", epoch)


def inode_key(inode: InodeNumber) -> bytes:
    """Key of an inode's attributes."""
    return _NUMBER.pack(b"I", inode)


def dirent_key(parent: InodeNumber, slot: int) -> bytes:
    """Key of the directory entry in `slot`; the slot is also its readdir cookie."""
    return _PAIR.pack(b"D", parent, slot)


def xattr_key(inode: InodeNumber, name: bytes) -> bytes:
    """Key of one extended attribute."""
    return _NUMBER.pack(b"X", inode) + name


def extent_key(inode: InodeNumber, offset: int) -> bytes:
    """Key of the extent that begins at `offset`."""
    return _PAIR.pack(b"E", inode, offset)


def stripe_key(stripe: StripeId) -> bytes:
    """Key of a stripe's immutable row."""
    return _NUMBER.pack(b"S", stripe)


def state_key(stripe: StripeId) -> bytes:
    """Key of a stripe's mutable row: placement and live bytes."""
    return _NUMBER.pack(b"P", stripe)


def tombstone_key(stripe: StripeId) -> bytes:
    """Key of the placement of a stripe that nothing references any more."""
    return _NUMBER.pack(b"T", stripe)


def orphan_key(epoch: int, inode: InodeNumber) -> bytes:
    """Key that says: `inode` has no name and was held open in session `epoch`."""
    return _PAIR.pack(b"O", epoch, inode)


def request_key(epoch: int) -> bytes:
    """Key of what somebody asks the process that holds session `epoch` to do."""
    return _PAIR.pack(b"G", epoch, 0)


def answer_key(epoch: int) -> bytes:
    """Key of how far session `epoch` is with what it was asked for."""
    return _PAIR.pack(b"G", epoch, 1)


def table(letter: bytes) -> tuple[bytes, bytes]:
    """Range of every key of one table."""
    return letter, bytes((letter[0] + 1,))


def table_after(letter: bytes, number: int) -> tuple[bytes, bytes]:
    """Range of a table's keys whose first number is above `number`."""
    if number >= MAX_NUMBER:
        return table(letter)[1], table(letter)[1]
    return _NUMBER.pack(letter, number + 1), table(letter)[1]


def of_inode(letter: bytes, inode: InodeNumber) -> tuple[bytes, bytes]:
    """Range of one inode's keys in a table keyed by inode first."""
    return _NUMBER.pack(letter, inode), _NUMBER.pack(letter, inode + 1)


def number_of(key: bytes) -> int:
    """First number of a key."""
    return int.from_bytes(key[1:9], "big")


def second_of(key: bytes) -> int:
    """Second number of a key: offset, slot, or the inode of an orphan."""
    return int.from_bytes(key[9:17], "big")


def name_of(key: bytes) -> bytes:
    """Attribute name at the end of an xattr key."""
    return key[9:]
