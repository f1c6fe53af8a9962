"""The session lock of the embedded engine: an open-file-description lock on `<db>.session`.

The kernel drops it when the last descriptor goes, however the process ends, so holding it is being
alive; no clock and no process number is asked.  A look (`is_locked`) never takes the lock, so it
cannot make a mount that starts at that moment fail.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from rainfs.errors import MetadataError

_FLOCK = struct.Struct("hhqqi4x")
_LOCK_FILE_MODE = 0o600


def _request(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


class FileSessionLock:
    """A held lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give it up.  Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _LOCK_FILE_MODE)
    except OSError as error:
        raise MetadataError(f"cannot open session lock {path}: {error.strerror}") from error


def take(path: Path) -> FileSessionLock | None:
    """Take the lock of `path`; None while another description holds it."""
    descriptor = _open(path)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise MetadataError(f"cannot lock {path}: {error.strerror}") from error
    return FileSessionLock(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of `path`."""
    if not path.exists():
        return False
    descriptor = _open(path)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK))
    except OSError as error:
        raise MetadataError(f"cannot ask for the lock of {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
