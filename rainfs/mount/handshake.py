"""The first exchange with the kernel, and the one promise that libfuse cannot make.

Before every write() the kernel asks a FUSE server for the file's security.capability, which costs
as much as the write, unless the server promised to take set-id bits away itself
(FUSE_HANDLE_KILLPRIV_V2): then the kernel remembers which files have nothing to lose.  libfuse does
not know that flag before version 3.15, so its answer to INIT is amended on the way.

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


def with_promise(answer: bytes) -> bytes:
    """Return an answer to INIT with the flag set; an error as it is."""
    if len(answer) < _OUT_HEADER.size + _INIT_OUT.size or _OUT_HEADER.unpack_from(answer)[1]:
        return answer
    amended = bytearray(answer)
    *before, flags = _INIT_OUT.unpack_from(answer, _OUT_HEADER.size)
    _INIT_OUT.pack_into(amended, _OUT_HEADER.size, *before, flags | HANDLE_KILLPRIV_V2)
    return bytes(amended)


class Handshake:
    """Begin with the descriptor of a fresh mount; `finish` until it says so."""

    def __init__(self, device: int) -> None:
        """Take the kernel's INIT, which a mount has waiting, and hand it on.  Raises: OSError."""
        self._device = device
        request = os.read(device, REQUEST_BYTES)
        self._offered = offers_promise(request)
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
            os.write(self._device, with_promise(answer) if self._offered else answer)
        return True

    def close(self) -> None:
        """Let go of what is not the descriptor itself."""
        self._ours.close()
        os.close(self._kernel)
