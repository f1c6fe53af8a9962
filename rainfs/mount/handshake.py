"""The first exchange with the kernel, and what libfuse cannot say in it.

Before every write() the kernel asks a FUSE server for the file's security.capability, which costs
as much as the write, unless the server promised to take set-id bits away itself
(FUSE_HANDLE_KILLPRIV_V2): then the kernel remembers which files have nothing to lose.  libfuse does
not know that flag before version 3.15, so its answer to INIT is amended on the way.

libfuse always asks the kernel to look for changes that others made (FUSE_AUTO_INVAL_DATA): before
each read of a file that was written it then asks for the attributes, and it drops all of the file's
pages when the time of change is another one, as it is after any write.  Where the mount is the only
writer there are no others, so that is taken out of the answer.

Owns that exchange: until libfuse has answered, the descriptor that it was given names one end of a
socket, and /dev/fuse from then on.  Refuses to know how the promise is kept (`callers`).
Invariants: what is not understood passes unchanged; a kernel that did not offer the flag is not
told of it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

REQUEST_BYTES = 1 << 16
"""The kernel demands room for 8 KiB at least; the first request is about 100 bytes."""

INIT = 26
HANDLE_KILLPRIV_V2 = 1 << 28
AUTO_INVAL_DATA = 1 << 12
_IN_HEADER = struct.Struct("=IIQQIIIHH")
"""length, opcode, unique, node, uid, gid, pid, length of extensions, padding."""
_INIT_IN = struct.Struct("=IIII")
"""major, minor, longest read-ahead, flags."""
_OUT_HEADER = struct.Struct("=IiQ")
"""length, error, unique."""
_INIT_OUT = struct.Struct("=IIII")
"""major, minor, longest read-ahead, flags; more follows."""


def offers_promise(request: bytes) -> bool:
    """Whether this is an INIT that offers FUSE_HANDLE_KILLPRIV_V2."""
    if len(request) < _IN_HEADER.size + _INIT_IN.size:
        return False
    opcode = _IN_HEADER.unpack_from(request)[1]
    flags: int = _INIT_IN.unpack_from(request, _IN_HEADER.size)[3]
    return bool(opcode == INIT and flags & HANDLE_KILLPRIV_V2)


def amended(answer: bytes, *, more: int, less: int) -> bytes:
    """Return an answer to INIT with flags set and others cleared; an error as it is."""
    if len(answer) < _OUT_HEADER.size + _INIT_OUT.size or _OUT_HEADER.unpack_from(answer)[1]:
        return answer
    changed = bytearray(answer)
    *before, flags = _INIT_OUT.unpack_from(answer, _OUT_HEADER.size)
    _INIT_OUT.pack_into(changed, _OUT_HEADER.size, *before, (flags | more) & ~less)
    return bytes(changed)


class Handshake:
    """Begin with the descriptor of a fresh mount; `finish` until it says so."""

    def __init__(self, device: int, *, alone: bool) -> None:
        """Take the kernel's INIT, which a mount has waiting, and hand it on.

        `alone`: nobody else changes files of this volume.  Raises: OSError.
        """
        self._device = device
        request = os.read(device, REQUEST_BYTES)
        self._more = HANDLE_KILLPRIV_V2 if offers_promise(request) else 0
        self._less = AUTO_INVAL_DATA if alone else 0
        self._kernel = os.dup(device)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), device, inheritable=False)
        self._ours.send(request)
        self._ours.setblocking(False)

    def finish(self) -> bool:
        """Hand libfuse's answer on once it is there: the descriptor is the kernel's again."""
        try:
            answer = self._ours.recv(REQUEST_BYTES)
        except BlockingIOError:
            return False
        os.set_blocking(self._kernel, os.get_blocking(self._device))
        os.dup2(self._kernel, self._device, inheritable=False)
        self.close()
        # A mount that is gone by now is noticed at the next read.
        with contextlib.suppress(OSError):
            os.write(self._device, amended(answer, more=self._more, less=self._less))
        return True

    def close(self) -> None:
        """Let go of what is not the descriptor itself."""
        self._ours.close()
        os.close(self._kernel)
