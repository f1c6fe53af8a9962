"""The process that has the kernel read parts of files into its page cache.

    python -m rainfs.mount.filler MOUNTPOINT DEVICE    (its standard input is the socket)

Whoever serves a mount must not use it: killed between a request and its answer it would wait for
itself for ever.  So a small process of its own tells the kernel what to read ahead, and goes when
the mount does.  It opens files by their inode number, which costs no lookup, and holds
nothing of the mount open once it rests, so that it is in nobody's way who unmounts.

Owns its loop and the form of orders.  Refuses to read: bytes never come here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import sys

ORDER = struct.Struct("=QQQ")
"""Inode number, offset, length; inode 0 says: hold nothing open."""

DONE = b"\1"
REFUSED = b"\0"
"""Answers: the kernel was told, or the file is gone; it does not open files so at all."""

MAX_OPEN = 16
PAUSE_MS = 5
"""After so long without an order nothing is held open: whoever unmounts finds nobody there."""

_HANDLE_BYTES = 12
_INODE_AND_GENERATION = 0x81
"""The form of a FUSE file handle: its number in two halves and a generation, which is 0 here."""

_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("nbytes", ctypes.c_uint),
        ("form", ctypes.c_int),
        ("words", ctypes.c_uint32 * (_HANDLE_BYTES // 4)),
    )


def open_inode(inode: int) -> int:
    """Open an inode of the file system of the working directory.  Raises: OSError."""
    words = (ctypes.c_uint32 * 3)(inode >> 32, inode & 0xFFFFFFFF, 0)
    handle = _FileHandle(_HANDLE_BYTES, _INODE_AND_GENERATION, words)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    opened: int = _LIBC.open_by_handle_at(_AT_FDCWD, ctypes.byref(handle), flags)
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return opened


def open_on(mountpoint: str, device: int, inode: int) -> int:
    """Open an inode of what is mounted there, if that is the right one.  Raises: OSError."""
    os.chdir(mountpoint)
    try:
        if os.stat(".").st_dev != device:
            raise NotADirectoryError(f"{mountpoint} is another file system now")
        return open_inode(inode)
    finally:
        os.chdir("/")


class Filler:
    """Carries out orders.  Keeps files open for as long as orders come without a pause."""

    def __init__(self, mountpoint: str, device: int) -> None:
        self._mountpoint = mountpoint
        self._device = device
        self._opened: dict[int, int] = {}

    def fill(self, inode: int, offset: int, length: int) -> bytes:
        """Have the kernel read a part of a file; returns what to answer."""
        if not inode:
            self.rest()
            return DONE
        try:
            opened = self._opened.get(inode)
            if opened is None:
                if len(self._opened) >= MAX_OPEN:
                    self.rest()
                opened = self._opened[inode] = open_on(self._mountpoint, self._device, inode)
            os.posix_fadvise(opened, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError as error:
            return REFUSED if error.errno in (errno.EPERM, errno.EOPNOTSUPP) else DONE
        return DONE

    def rest(self) -> None:
        """Hold nothing of the mount open."""
        while self._opened:
            with contextlib.suppress(OSError):
                os.close(self._opened.popitem()[1])


def main(mountpoint: str, device: int) -> None:
    """Carry out orders until the mount hangs up."""
    os.chdir("/")
    filler = Filler(mountpoint, device)
    with socket.socket(fileno=sys.stdin.fileno()) as orders:
        poll = select.poll()
        poll.register(orders, select.POLLIN)
        while True:
            if not poll.poll(PAUSE_MS):
                filler.rest()
            order = orders.recv(ORDER.size)
            if not order:
                return
            answer = filler.fill(*ORDER.unpack(order))
            try:
                orders.send(answer)
            except BrokenPipeError:
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
