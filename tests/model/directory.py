"""Operations carried out by system calls in a directory: of the local file system, or of a mount.

Owns the open files of one run.  Answers are values that must be equal on both sides: bytes, counts,
names, the attributes that POSIX determines, or the name of an errno.

What is not compared, because file systems differ in it by right: inode and device numbers, the size
and blocks of directories, blocks, the order of listings.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.model.operations import SLOTS, Operation, content

Answer = Any

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100


def attributes(found: os.stat_result) -> tuple[int, ...]:
    """Return what stat says that POSIX determines, times excepted."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    device = found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0
    return found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size, device


@contextlib.contextmanager
def _acting_as(uid: int) -> Iterator[None]:
    if uid == os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


class Directory:
    """One directory and the files that a run holds open in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slots: list[int | None] = [None] * SLOTS
        self._cwd = self._cwd_before = -1

    def begin(self) -> None:
        """Open the directory; again after a remount."""
        self._cwd_before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        self._cwd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def end(self) -> None:
        """Close everything; idempotent."""
        if self._cwd < 0:
            return
        for slot in range(SLOTS):
            self._close(slot)
        os.fchdir(self._cwd_before)
        os.close(self._cwd_before)
        os.close(self._cwd)
        self._cwd = -1

    def apply(self, operation: Operation) -> Answer:
        """Carry out an operation; return its answer, or the name of its errno."""
        call: Callable[..., Answer] = getattr(self, "_" + operation.name)
        os.fchdir(self._cwd)
        try:
            with _acting_as(operation.uid):
                return call(*operation.arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            os.fchdir(self._cwd_before)

    def _descriptor(self, slot: int) -> int:
        descriptor = self.slots[slot]
        if descriptor is None:
            raise OSError(errno.EBADF, "the slot is empty")
        return descriptor

    # --- Open files. ---

    def _open(self, slot: int, path: str, flags: int, mode: int) -> Answer:
        descriptor = os.open(path, flags | os.O_NONBLOCK, mode)
        self._close(slot)
        self.slots[slot] = descriptor

    def _close(self, slot: int) -> Answer:
        descriptor, self.slots[slot] = self.slots[slot], None
        if descriptor is not None:
            os.close(descriptor)

    def _pwrite(self, slot: int, offset: int, length: int, seed: int) -> Answer:
        return os.pwrite(self._descriptor(slot), content(seed, length), offset)

    def _write(self, slot: int, length: int, seed: int) -> Answer:
        return os.write(self._descriptor(slot), content(seed, length))

    def _pread(self, slot: int, offset: int, length: int) -> Answer:
        return os.pread(self._descriptor(slot), length, offset)

    def _read(self, slot: int, length: int) -> Answer:
        return os.read(self._descriptor(slot), length)

    def _ftruncate(self, slot: int, size: int) -> Answer:
        os.ftruncate(self._descriptor(slot), size)

    def _fsync(self, slot: int) -> Answer:
        os.fsync(self._descriptor(slot))

    def _fstat(self, slot: int) -> Answer:
        return attributes(os.fstat(self._descriptor(slot)))

    def _fchmod(self, slot: int, mode: int) -> Answer:
        os.fchmod(self._descriptor(slot), mode)

    def _fchown(self, slot: int, uid: int, gid: int) -> Answer:
        os.fchown(self._descriptor(slot), uid, gid)

    def _futimens(self, slot: int, atime_ns: int | None, mtime_ns: int | None) -> Answer:
        descriptor = self._descriptor(slot)
        now = os.fstat(descriptor)
        os.utime(descriptor, ns=_times(now, atime_ns, mtime_ns))

    def _mmap_write(self, slot: int, offset: int, length: int, seed: int) -> Answer:
        descriptor = self._descriptor(slot)
        size = os.fstat(descriptor).st_size
        offset, stop = min(offset, size), min(offset + length, size)
        if offset == stop:
            return 0
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[offset:stop] = content(seed, stop - offset)
            memory.flush()
        return stop - offset

    def _mmap_read(self, slot: int) -> Answer:
        descriptor = self._descriptor(slot)
        size = os.fstat(descriptor).st_size
        if not size:
            return b""
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as memory:
            return memory[:]

    def _copy_range(self, source: int, target: int, start: int, offset: int, length: int) -> Answer:
        return os.copy_file_range(
            self._descriptor(source), self._descriptor(target), length, start, offset
        )

    # --- Names. ---

    def _mkdir(self, path: str, mode: int) -> Answer:
        os.mkdir(path, mode)

    def _rmdir(self, path: str) -> Answer:
        os.rmdir(path)

    def _unlink(self, path: str) -> Answer:
        os.unlink(path)

    def _link(self, path: str, new: str) -> Answer:
        os.link(path, new, follow_symlinks=False)

    def _symlink(self, target: str, path: str) -> Answer:
        os.symlink(target, path)

    def _readlink(self, path: str) -> Answer:
        return os.readlink(path)

    def _rename(self, path: str, new: str, flags: int) -> Answer:
        if not flags:
            os.rename(path, new)
        elif _libc.renameat2(_AT_FDCWD, path.encode(), _AT_FDCWD, new.encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def _mknod(self, path: str, mode: int, node: tuple[int, int]) -> Answer:
        kind, device = node
        os.mknod(path, kind | mode, device)

    def _listdir(self, path: str) -> Answer:
        return sorted(os.listdir(path))

    def _fsyncdir(self, path: str) -> Answer:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- Attributes. ---

    def _truncate(self, path: str, size: int) -> Answer:
        # The same size again: POSIX lets the times be, or move; take one that changes something.
        if os.stat(path).st_size == size:
            size += 1
        os.truncate(path, size)

    def _stat(self, path: str, follow: bool) -> Answer:
        return attributes(os.stat(path, follow_symlinks=follow))

    def _chmod(self, path: str, mode: int) -> Answer:
        os.chmod(path, mode)

    def _chown(self, path: str, uid: int, gid: int, follow: bool) -> Answer:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def _utimens(
        self, path: str, atime_ns: int | None, mtime_ns: int | None, follow: bool
    ) -> Answer:
        times = _times(os.stat(path, follow_symlinks=follow), atime_ns, mtime_ns)
        os.utime(path, ns=times, follow_symlinks=follow)

    def _utime_now(self, path: str) -> Answer:
        os.utime(path)

    def _setxattr(
        self, path: str, name: str, length: int, seed: int, flags: int, follow: bool
    ) -> Answer:
        os.setxattr(path, name, content(seed, length), flags, follow_symlinks=follow)

    def _getxattr(self, path: str, name: str, follow: bool) -> Answer:
        return os.getxattr(path, name, follow_symlinks=follow)

    def _listxattr(self, path: str, follow: bool) -> Answer:
        return sorted(os.listxattr(path, follow_symlinks=follow))

    def _removexattr(self, path: str, name: str, follow: bool) -> Answer:
        os.removexattr(path, name, follow_symlinks=follow)

    # --- Caches. ---

    def _drop_caches(self) -> Answer:
        """Have the kernel forget the pages of open files that are clean."""
        for descriptor in self.slots:
            if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _times(now: os.stat_result, atime_ns: int | None, mtime_ns: int | None) -> tuple[int, int]:
    """Return what utimens is to set; what is None stays as it is."""
    return (
        now.st_atime_ns if atime_ns is None else atime_ns,
        now.st_mtime_ns if mtime_ns is None else mtime_ns,
    )
