"""A pyfuse3 file system that does nothing: the ceiling for anything written on pyfuse3.

    python -m bench.null_fs [--writeback] [--noxattr] MOUNTPOINT     (until it is unmounted)

Names, modes and sizes live in dictionaries; written bytes are dropped and reads answer zeros.
Kernel options are those of a rainfs mount: default_permissions, long lifetimes, large reads ahead,
and an answer to the getxattr that precedes each write. What it costs is what pyfuse3 costs.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyfuse3
import trio

LIFETIME_S = 60
READ_AHEAD_KIB = 4096
READ_BYTES_MAX = 1 << 20
BLOCK_BYTES = 4096
STAT_BLOCK_BYTES = 512
FREE_BLOCKS = 1 << 28
ZEROS = bytes(READ_BYTES_MAX)


@dataclass(slots=True)
class Node:
    """One inode: its attributes and, for a directory, its names."""

    attr: pyfuse3.EntryAttributes
    parent: int
    names: dict[bytes, int] = field(default_factory=dict)
    target: bytes = b""
    listing: list[tuple[bytes, int]] = field(default_factory=list)


class NullOperations(pyfuse3.Operations):
    """Answer every request of the benchmark's cases from memory."""

    supports_dot_lookup = False

    def __init__(self, *, writeback: bool, xattrs: bool) -> None:
        super().__init__()
        self.enable_writeback_cache = writeback
        self._xattrs = xattrs
        self._nodes: dict[int, Node] = {}
        self._next = int(pyfuse3.ROOT_INODE)
        self._make(0, b"", stat.S_IFDIR | 0o755, 0, 0)

    def _make(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Node:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino, self._next = self._next, self._next + 1
        attr.st_mode, attr.st_uid, attr.st_gid = mode, uid, gid
        attr.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        attr.st_atime_ns = attr.st_mtime_ns = attr.st_ctime_ns = time.time_ns()
        attr.st_blksize = BLOCK_BYTES
        attr.entry_timeout = attr.attr_timeout = LIFETIME_S
        node = Node(attr, parent)
        self._nodes[attr.st_ino] = node
        if parent:
            self._nodes[parent].names[name] = attr.st_ino
        return node

    def _child(self, parent: int, name: bytes) -> Node:
        try:
            return self._nodes[self._nodes[parent].names[name]]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        if name not in self._nodes[parent_inode].names:
            absent = pyfuse3.EntryAttributes()
            absent.st_ino = 0
            absent.entry_timeout = LIFETIME_S
            return absent
        return self._child(parent_inode, name).attr

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._nodes[inode].attr

    async def setattr(
        self, inode: int, attr: pyfuse3.EntryAttributes, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        mine = self._nodes[inode].attr
        if fields.update_size:
            self._resize(mine, attr.st_size)
        if fields.update_mode:
            mine.st_mode = attr.st_mode
        if fields.update_uid:
            mine.st_uid = attr.st_uid
        if fields.update_gid:
            mine.st_gid = attr.st_gid
        if fields.update_mtime:
            mine.st_mtime_ns = attr.st_mtime_ns
        if fields.update_atime:
            mine.st_atime_ns = attr.st_atime_ns
        return mine

    @staticmethod
    def _resize(attr: pyfuse3.EntryAttributes, size: int) -> None:
        attr.st_size = size
        attr.st_blocks = -(-size // STAT_BLOCK_BYTES)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        attr = self._make(parent_inode, name, mode, ctx.uid, ctx.gid).attr
        return pyfuse3.FileInfo(fh=attr.st_ino, keep_cache=True), attr

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._make(parent_inode, name, stat.S_IFDIR | mode, ctx.uid, ctx.gid).attr

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return self._make(parent_inode, name, mode, ctx.uid, ctx.gid).attr

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        node = self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx.uid, ctx.gid)
        node.target = target
        node.attr.st_size = len(target)
        return node.attr

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return self._nodes[inode].target

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._child(parent_inode, name)
        del self._nodes[parent_inode].names[name]

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        if self._child(parent_inode, name).names:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self._nodes[parent_inode].names[name]

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        moved = self._child(parent_inode_old, name_old)
        moved.parent = parent_inode_new
        del self._nodes[parent_inode_old].names[name_old]
        self._nodes[parent_inode_new].names[name_new] = moved.attr.st_ino

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Keep everything: a run is short."""

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            self._resize(self._nodes[inode].attr, 0)
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        length = max(0, min(size, self._nodes[fh].attr.st_size - off))
        return ZEROS if length == READ_BYTES_MAX else ZEROS[:length]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        attr = self._nodes[fh].attr
        if off + len(buf) > attr.st_size:
            self._resize(attr, off + len(buf))
        return len(buf)

    async def flush(self, fh: int) -> None:
        """Nothing is kept, so nothing is late."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing is kept, so nothing is late."""

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Nothing is kept, so nothing is late."""

    async def release(self, fh: int) -> None:
        """A handle is its inode."""

    async def opendir(self, inode: int, ctx: Any) -> int:
        node = self._nodes[inode]
        node.listing = list(node.names.items())
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        for cookie, (name, inode) in enumerate(self._nodes[fh].listing[start_id:], start_id + 1):
            if inode in self._nodes and not pyfuse3.readdir_reply(
                token, name, self._nodes[inode].attr, cookie
            ):
                return

    async def releasedir(self, fh: int) -> None:
        """A handle is its inode."""

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = data.f_bfree = data.f_bavail = FREE_BLOCKS
        data.f_files = data.f_ffree = data.f_favail = FREE_BLOCKS
        data.f_namemax = 255
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR if self._xattrs else errno.ENOSYS)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        raise pyfuse3.FUSEError(errno.ENOTSUP)

    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return ()


def _read_ahead(mountpoint: Path) -> None:
    """Raise the mount's read-ahead, as a rainfs mount does; needs an answering mount and root."""
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if os.access(knob, os.W_OK):
        knob.write_text(str(READ_AHEAD_KIB))


async def _serve(mountpoint: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, _read_ahead, mountpoint)
        await pyfuse3.main()


@click.command()
@click.argument("mountpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--writeback", is_flag=True, help="Let the kernel hold written pages back.")
@click.option("--noxattr", is_flag=True, help="Have the kernel stop asking for attributes.")
def main(mountpoint: Path, writeback: bool, noxattr: bool) -> None:
    """Serve the null file system on MOUNTPOINT until it is unmounted."""
    options = set(pyfuse3.default_options)
    options |= {"fsname=null", "default_permissions"}
    operations = NullOperations(writeback=writeback, xattrs=not noxattr)
    pyfuse3.init(operations, str(mountpoint), options)
    try:
        trio.run(_serve, mountpoint)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
