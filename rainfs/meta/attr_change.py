"""What setattr may change of an inode, and what no inode can have.

Pure.  Refuses to know who may change what, and how attributes are stored.
"""

from __future__ import annotations

import stat

import msgspec
from msgspec.structs import replace

from rainfs.errors import FileTooLarge, InvalidArgument, IsDirectory
from rainfs.model import MAX_FILE_BYTES, Attr

PERMISSION_BITS = 0o7777


class AttrChange(msgspec.Struct, frozen=True):
    """What `setattr` changes; None leaves a field."""

    mode: int | None = None
    """Permission bits; the type stays."""
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    size: int | None = None
    """Growth only; `Extents.truncate` shrinks."""

    def of(self, attr: Attr) -> Attr:
        """Return `attr` with the change, itself if nothing changes.

        Raises: InvalidArgument, IsDirectory, FileTooLarge.
        """
        fields: dict[str, int] = {}
        if self.mode is not None:
            fields["mode"] = stat.S_IFMT(attr.mode) | self.mode & PERMISSION_BITS
        for name in ("uid", "gid", "atime_ns", "mtime_ns", "ctime_ns"):
            value: int | None = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.size is not None:
            check_size(attr, self.size)
            if self.size < attr.size:
                raise InvalidArgument("setattr does not shorten a file")
            fields["size"] = self.size
        return replace(attr, **fields) if fields else attr


def check_size(attr: Attr, size: int) -> None:
    """Raises: IsDirectory, InvalidArgument, FileTooLarge if the inode cannot have that size."""
    if stat.S_ISDIR(attr.mode):
        raise IsDirectory(f"inode {attr.inode} is a directory")
    if not stat.S_ISREG(attr.mode) or size < 0:
        raise InvalidArgument(f"inode {attr.inode} cannot have size {size}")
    if size > MAX_FILE_BYTES:
        raise FileTooLarge(f"{size} bytes: at most {MAX_FILE_BYTES}")
