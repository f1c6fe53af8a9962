"""What is impossible about an inode's attributes, whatever the other rows say.

Pure.  Owns the ranges that attributes may have.
"""

from __future__ import annotations

import stat

from rainfs.meta import keys
from rainfs.meta.namespace import MAX_TARGET_BYTES
from rainfs.model import MAX_FILE_BYTES, Attr, InodeNumber

KINDS = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    }
)
MAX_ID = (1 << 32) - 1
"""Highest user and group."""

MAX_TIME_NS = (1 << 63) - 1
MAX_NLINK = (1 << 32) - 1
MAX_MODE = (1 << 16) - 1


def inode_faults(attr: Attr, inode: InodeNumber) -> list[str]:
    """Return what is impossible in the attributes themselves."""
    kind = stat.S_IFMT(attr.mode) if 0 <= attr.mode <= MAX_MODE else 0
    faults = []
    if attr.inode != inode:
        faults.append(f"it says to be inode {attr.inode}")
    if kind not in KINDS:
        faults.append(f"mode {attr.mode:#o} is of no file type")
    if not (0 <= attr.uid <= MAX_ID and 0 <= attr.gid <= MAX_ID):
        faults.append(f"owner {attr.uid}:{attr.gid}")
    if not 0 <= attr.nlink <= MAX_NLINK:
        faults.append(f"link count {attr.nlink}")
    if not 0 <= attr.size <= MAX_FILE_BYTES:
        faults.append(f"size {attr.size}")
    if not 0 <= attr.rdev <= keys.MAX_NUMBER:
        faults.append(f"device {attr.rdev}")
    times = (attr.atime_ns, attr.mtime_ns, attr.ctime_ns)
    if not all(-MAX_TIME_NS <= time_ns <= MAX_TIME_NS for time_ns in times):
        faults.append("times beyond 64 bits")
    if kind == stat.S_IFLNK:
        if not attr.target or len(attr.target) > MAX_TARGET_BYTES or b"\0" in attr.target:
            faults.append("a symbolic link without a possible target")
        elif attr.size != len(attr.target):
            faults.append(f"a target of {len(attr.target)} bytes and size {attr.size}")
    elif attr.target:
        faults.append("a target, and it is no symbolic link")
    if attr.parent and kind != stat.S_IFDIR:
        faults.append("a parent, and it is no directory")
    return faults


def dead_link(attr: Attr) -> bool:
    """Whether it is a symbolic link that points nowhere at all: nothing of it is left."""
    target = attr.target
    kind = stat.S_IFMT(attr.mode) if 0 <= attr.mode <= MAX_MODE else 0
    bad = not target or len(target) > MAX_TARGET_BYTES or b"\0" in target
    return kind == stat.S_IFLNK and bad
