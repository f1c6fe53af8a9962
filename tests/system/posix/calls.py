"""System calls that the standard library lacks, or that return what a table can compare.

Every call raises OSError with the errno, and is a plain function, so that an actor can run it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import stat
import struct
from pathlib import Path
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_FIEMAP = 0xC020660B
GETDENTS_BYTES = 1 << 15

SYS_GETDENTS64, SYS_RENAMEAT2, SYS_FACCESSAT2, SYS_FCHMODAT2 = 217, 316, 439, 452

PathLike = str | bytes | Path


def _checked(done: int) -> int:
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def opened(path: PathLike, flags: int, mode: int = 0o666) -> None:
    """Open and close."""
    os.close(os.open(path, flags, mode))


def opened_for_reading(path: PathLike) -> None:
    opened(path, os.O_RDONLY | os.O_NONBLOCK)


def opened_for_writing(path: PathLike) -> None:
    opened(path, os.O_WRONLY | os.O_NONBLOCK)


def opened_for_both(path: PathLike) -> None:
    opened(path, os.O_RDWR | os.O_NONBLOCK)


def opened_truncating(path: PathLike) -> None:
    opened(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)


def opened_appending(path: PathLike) -> None:
    opened(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)


def opened_directory(path: PathLike) -> None:
    opened(path, os.O_RDONLY | os.O_DIRECTORY)


def created(path: PathLike) -> None:
    opened(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK)


def created_exclusively(path: PathLike) -> None:
    opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def made_socket(path: PathLike) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o644)


def made_device(path: PathLike) -> None:
    os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3))


def made_file_node(path: PathLike) -> None:
    os.mknod(path, stat.S_IFREG | 0o644)


def bound(path: PathLike) -> None:
    """Make a socket's name; the path is at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fsdecode(path))


def symlinked_at(path: PathLike) -> None:
    os.symlink("target", path)


def wrote(path: PathLike, content: bytes = b"written") -> None:
    """Write at the start of an existing file."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def read_bytes(path: PathLike) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def executed(path: PathLike) -> int:
    """Run a program without arguments; returns its wait status."""
    return os.waitpid(os.posix_spawn(path, ["program"], {}), 0)[1]


def truncated_to_three(path: PathLike) -> None:
    os.truncate(path, 3)


def chmod_600(path: PathLike) -> None:
    os.chmod(path, 0o600)


def chowned(path: PathLike) -> None:
    os.chown(path, os.geteuid(), os.getegid())


def lchowned(path: PathLike) -> None:
    os.lchown(path, os.geteuid(), os.getegid())


def touched(path: PathLike) -> None:
    utimensat(path, (0, UTIME_NOW), (0, UTIME_NOW))


def timed(path: PathLike) -> None:
    utimensat(path, (1, 2), (3, 4))


def timed_nofollow(path: PathLike) -> None:
    utimensat(path, (1, 2), (3, 4), AT_SYMLINK_NOFOLLOW)


def got_xattr(path: PathLike) -> None:
    os.getxattr(path, "user.test")


def set_xattr(path: PathLike) -> None:
    os.setxattr(path, "user.test", b"value")


def removed_xattr(path: PathLike) -> None:
    os.removexattr(path, "user.test")


def readable(path: PathLike) -> None:
    faccessat2(path, os.R_OK)


def writable(path: PathLike) -> None:
    faccessat2(path, os.W_OK)


def executable(path: PathLike) -> None:
    faccessat2(path, os.X_OK)


def exists(path: PathLike) -> None:
    faccessat2(path, os.F_OK)


def entered(path: PathLike) -> None:
    """Look up `.` in a directory, which takes the right to search it."""
    os.stat(os.path.join(os.fsencode(path), b"."))


def renameat2(old: PathLike, new: PathLike, flags: int) -> None:
    _checked(
        LIBC.syscall(SYS_RENAMEAT2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)
    )


def faccessat2(path: PathLike, mode: int, flags: int = 0) -> None:
    """Check by the real ids, or the effective ones with AT_EACCESS."""
    _checked(LIBC.syscall(SYS_FACCESSAT2, AT_FDCWD, os.fsencode(path), mode, flags))


def fchmodat2(path: PathLike, mode: int, flags: int) -> None:
    _checked(LIBC.syscall(SYS_FCHMODAT2, AT_FDCWD, os.fsencode(path), mode, flags))


def linkat(old: PathLike, new: PathLike, flags: int) -> None:
    _checked(LIBC.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


def utimensat(
    path: PathLike, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0
) -> None:
    """Set times given as (seconds, nanoseconds), where UTIME_NOW and UTIME_OMIT may stand."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _checked(LIBC.utimensat(AT_FDCWD, os.fsencode(path), times, flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    _checked(LIBC.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


class Dirent(NamedTuple):
    """What getdents64 says of an entry."""

    inode: int
    cookie: int
    """Where a listing goes on after it: lseek takes it."""
    type: int
    name: bytes


def getdents(descriptor: int, size: int = GETDENTS_BYTES) -> list[Dirent]:
    """Return the next entries; an empty list at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(LIBC.syscall(SYS_GETDENTS64, descriptor, buffer, size))
    found: list[Dirent] = []
    at = 0
    while at < length:
        inode, cookie, record, kind = struct.unpack_from("<QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + record].split(b"\0", 1)[0]
        found.append(Dirent(inode, cookie, kind, name))
        at += record
    return found


class _Handle(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("handle", ctypes.c_ubyte * 128),
    )


def name_to_handle(path: PathLike) -> _Handle:
    """Return what a file server would remember of a file."""
    handle = _Handle(bytes=128)
    mount = ctypes.c_int()
    _checked(
        LIBC.name_to_handle_at(
            AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0
        )
    )
    return handle


def open_by_handle(mount: int, handle: _Handle, flags: int) -> int:
    return _checked(LIBC.open_by_handle_at(mount, ctypes.byref(handle), flags))


def ofd_lock(descriptor: int, kind: int, start: int, length: int, *, wait: bool = False) -> None:
    """Take or give back a lock that belongs to the open file."""
    wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(descriptor, F_OFD_SETLKW if wait else F_OFD_SETLK, wanted)


def posix_lock_holder(descriptor: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
    """Return (kind, start, pid) of the lock that stands in the way; kind F_UNLCK for none."""
    wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    found = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))
    return found[0], found[2], found[4]


def aligned(size: int, content: bytes = b"") -> mmap.mmap:
    """Return page-aligned memory, as O_DIRECT wants it."""
    memory = mmap.mmap(-1, size)
    memory[: len(content)] = content
    return memory


def forget_pages(path: PathLike) -> None:
    """Have the kernel drop the pages that it caches of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def ioctl(descriptor: int, request: int) -> None:
    fcntl.ioctl(descriptor, request, bytes(64))
