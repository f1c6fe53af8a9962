"""The names of inodes, found backwards through what a check has in its scratch.

Owns the way from an inode up to the root.  Invariant: ends whatever the tree looks like.
"""

from __future__ import annotations

from collections.abc import Iterator

from rainfs.meta.checking_scratch import Scratch, signed
from rainfs.model import ROOT_INODE, InodeNumber

MAX_DEPTH = 4_096
MAX_NAMES = 64
"""Names given of one file."""


def hurt_paths(scratch: Scratch, limit: int) -> Iterator[bytes]:
    """Yield the absolute paths of the inodes in the table `hurt`, of at most `limit` inodes."""
    for (ino,) in list(scratch.rows("SELECT ino FROM hurt ORDER BY ino LIMIT ?", limit)):
        query = "SELECT parent, name FROM entry WHERE child=? LIMIT ?"
        for parent, name in list(scratch.rows(query, ino, MAX_NAMES)):
            above = _path(scratch, int(parent))
            if above is not None:
                yield above + b"/" + name


def note_hurt(scratch: Scratch, inode: InodeNumber) -> None:
    """Put an inode into the table `hurt`."""
    scratch.add("hurt", signed(inode))


def _path(scratch: Scratch, ino: int) -> bytes | None:
    """Return the path of a directory, empty for the root, None for what hangs on nothing."""
    names: list[bytes] = []
    for _ in range(MAX_DEPTH):
        if ino == ROOT_INODE:
            return b"".join(b"/" + name for name in reversed(names))
        row = scratch.one("SELECT parent, name FROM entry WHERE child=?", ino)
        if row is None:
            return None
        ino = int(row[0])
        names.append(row[1])
    return None
