"""POSIX access control lists: their xattr form, and how they and the mode determine each other.

Owns the translation only.  Refuses to decide who may do what: the kernel reads the xattrs and
checks.  Source: withdrawn POSIX 1003.1e draft 17; layout of the xattr from the kernel's
`include/uapi/linux/posix_acl_xattr.h` (version 2, little-endian).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rainfs.errors import InvalidArgument

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
UNDEFINED_ID = 0xFFFFFFFF

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NAMED = (USER, GROUP)
_ORDER = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)


class Entry(NamedTuple):
    """One line of a list."""

    tag: int
    perm: int
    id: int


def parse(value: bytes) -> tuple[Entry, ...]:
    """Decode an xattr; an empty list is allowed.  Raises: InvalidArgument."""
    body = len(value) - _HEADER.size
    if body < 0 or body % _ENTRY.size or _HEADER.unpack_from(value)[0] != _VERSION:
        raise InvalidArgument("not a POSIX access control list")
    entries = tuple(Entry(*e) for e in _ENTRY.iter_unpack(value[_HEADER.size :]))
    if entries:
        _check(entries)
    return entries


def _check(entries: tuple[Entry, ...]) -> None:
    tags = [entry.tag for entry in entries]
    singles = all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
    masks = tags.count(MASK)
    named = any(tag in _NAMED for tag in tags)
    names = [(entry.tag, entry.id) for entry in entries if entry.tag in _NAMED]
    if (
        not singles
        or masks > 1
        or (named and not masks)
        or any(entry.tag not in _ORDER or entry.perm > 7 for entry in entries)
        or len(set(names)) != len(names)
    ):
        raise InvalidArgument("an access control list that contradicts itself")


def build(entries: tuple[Entry, ...]) -> bytes:
    """Encode entries as an xattr value."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def is_minimal(entries: tuple[Entry, ...]) -> bool:
    """Whether the list says no more than mode bits can."""
    return all(entry.tag in (USER_OBJ, GROUP_OBJ, OTHER) for entry in entries)


def mode_of(entries: tuple[Entry, ...], mode: int) -> int:
    """Return `mode` with the permission bits that the list implies."""
    bits = {entry.tag: entry.perm for entry in entries if entry.tag not in _NAMED}
    group = bits.get(MASK, bits[GROUP_OBJ])
    return mode & ~0o777 | bits[USER_OBJ] << 6 | group << 3 | bits[OTHER]


def after_chmod(entries: tuple[Entry, ...], mode: int) -> tuple[Entry, ...]:
    """Return the list after `chmod mode`: owner, mask (or group) and others follow the mode."""
    group_tag = MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return tuple(entry._replace(perm=bits.get(entry.tag, entry.perm)) for entry in entries)


def inherit(
    default: tuple[Entry, ...], mode: int, *, directory: bool
) -> tuple[int, dict[bytes, bytes]]:
    """Return mode and xattrs of an object made with `mode` below a directory with a default list.

    The umask plays no part: the default list takes its place.
    """
    group_tag = MASK if any(entry.tag == MASK for entry in default) else GROUP_OBJ
    limits = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    access = tuple(entry._replace(perm=entry.perm & limits.get(entry.tag, 7)) for entry in default)
    xattrs: dict[bytes, bytes] = {}
    if not is_minimal(access):
        xattrs[ACCESS] = build(access)
    if directory:
        xattrs[DEFAULT] = build(default)
    return mode_of(access, mode), xattrs
