"""The one boundary through which a store touches a disk.

Owns: every system call on the storage file and its directory, and the name of the SQLite VFS that
the index goes through.  Refuses to know formats, retries and error classes of rainfs: it raises
`OSError` and nothing else.

Invariants: `pwrite` and `pread` move all bytes or raise; a handle is a plain file descriptor.
Tests put a recording disk in place of `SYSTEM_DISK` and reopen what a power cut would leave.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rainfs.memory import Buffer

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

_STORE_MODE = 0o700
_PARENT_MODE = 0o777
"""As mkdir -p makes them: less the umask."""

MAX_VECTORS_PER_CALL = 1024
"""IOV_MAX of Linux."""


class Disk(Protocol):
    """What a store may do to files.  Every method raises `OSError` when the system refuses."""

    @property
    def vfs(self) -> str | None:
        """Name of the SQLite VFS for databases on this disk; None is SQLite's own."""
        ...

    def open(self, path: Path, *, create: bool = False, direct: bool = False) -> int:
        """Open for reading and writing, mode 0600; `direct` asks for O_DIRECT."""
        ...

    def reopen(self, fd: int, *, direct: bool = False) -> int:
        """Open the file of a handle anew, for reading only; it shares no lock with the handle."""
        ...

    def close(self, fd: int) -> None:
        """Close a handle."""
        ...

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock that dies with the process; False when another has it."""
        ...

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write the concatenation of `buffers` at `offset`, all of it."""
        ...

    def pread(self, fd: int, into: memoryview, offset: int, *, nowait: bool = False) -> bool:
        """Fill `into` from `offset` on; bytes beyond the end read as zeros.

        With `nowait`, return False, `into` being undefined, instead of waiting for the device.
        """
        ...

    def fdatasync(self, fd: int) -> None:
        """Return when every earlier write, truncate and punch of the file is durable."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Set the file's length."""
        ...

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Give a range back to the file system; it reads as zeros, the length stays."""
        ...

    def size(self, fd: int) -> int:
        """Return the file's length in bytes."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Return the bytes an ordinary user may still write on the file system of `path`."""
        ...

    def exists(self, path: Path) -> bool:
        """Return whether the name exists."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a directory, mode 0700, and missing parents, durably; existing is fine."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename within one directory, replacing `new`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is fine."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when every earlier creation, rename and removal in `path` is durable."""
        ...


class SystemDisk:
    """The operating system's files."""

    vfs: str | None = None

    def open(self, path: Path, *, create: bool = False, direct: bool = False) -> int:
        """Open for reading and writing, mode 0600."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(
            path, flags | (os.O_CREAT if create else 0) | (os.O_DIRECT if direct else 0), 0o600
        )

    def reopen(self, fd: int, *, direct: bool = False) -> int:
        """Open /proc/self/fd/FD, which is the very file, whatever its name is by now."""
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        return os.open(f"/proc/self/fd/{fd}", flags)

    def close(self, fd: int) -> None:
        """Close a handle."""
        os.close(fd)

    def lock(self, fd: int) -> bool:
        """Take flock(LOCK_EX) without waiting."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers` at `offset`."""
        if len(buffers) <= MAX_VECTORS_PER_CALL:
            length = sum(map(len, buffers))
            written = os.pwritev(fd, buffers, offset)
            if written == length:
                return
        else:
            written = 0
        rest = memoryview(b"".join(buffers))
        while written < len(rest):
            step = os.pwrite(fd, rest[written:], offset + written)
            if step == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += step

    def pread(self, fd: int, into: memoryview, offset: int, *, nowait: bool = False) -> bool:
        """Fill `into`; False when `nowait` and the bytes are not in memory."""
        if nowait:
            try:
                return os.preadv(fd, [into], offset, os.RWF_NOWAIT) == len(into)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                # Some file systems (tmpfs) cannot say whether they would wait: assume they do.
                if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                    return False
                raise
        done = os.preadv(fd, [into], offset)
        while done < len(into):
            step = os.preadv(fd, [into[done:]], offset + done)
            if step == 0:
                into[done:] = bytes(len(into) - done)
                break
            done += step
        return True

    def fdatasync(self, fd: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, size)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """fallocate(2) with PUNCH_HOLE | KEEP_SIZE."""
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _fallocate(fd, mode, offset, length) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def size(self, fd: int) -> int:
        """fstat(2)."""
        return os.fstat(fd).st_size

    def free_bytes(self, path: Path) -> int:
        """statvfs(3)."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def exists(self, path: Path) -> bool:
        """Whether the name exists, even as a dangling link."""
        return os.path.lexists(path)

    def make_directory(self, path: Path) -> None:
        """mkdir -p, durably, mode 0700; an existing directory gets it only while it is empty."""
        missing = [parent for parent in path.parents if not parent.exists()]
        for parent in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self.mkdir(parent, _PARENT_MODE)
            self.sync_directory(parent.parent)
        try:
            self.mkdir(path, _STORE_MODE)
        except FileExistsError:
            if not path.is_dir():
                raise
            if not any(path.iterdir()):
                path.chmod(_STORE_MODE)
        else:
            self.sync_directory(path.parent)

    def mkdir(self, path: Path, mode: int) -> None:
        """mkdir(2)."""
        path.mkdir(mode)

    def rename(self, old: Path, new: Path) -> None:
        """rename(2)."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """unlink(2); a missing name is fine."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """fsync(2) of the directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int

SYSTEM_DISK = SystemDisk()
"""The disk that everything but tests uses."""
