"""SQLite's own VFS, with every write and sync recorded.

Owns the translation of SQLite's calls; `Recorder` decides what becomes of them.  Not recorded:
nameless temporary files and `-shm`, which never survives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import apsw

from tests.simulation.power import Kind


class Recorder(Protocol):
    """Where the VFS reports, by names below the recorder's root."""

    def name(self, path: Path | str) -> str: ...

    def check(self, kind: Kind, name: str) -> None:
        """Raise `OSError` if the call is to fail."""

    def record(
        self, kind: Kind, name: str, act: Callable[[], None], *, data: bytes = b"", at: int = 0
    ) -> None: ...

    def created(self, name: str) -> None: ...

    def removed(self, name: str) -> None: ...

    def directory_synced(self, path: Path | str) -> None: ...


def _sqlite_error(error: OSError) -> apsw.Error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return apsw.FullError(error.strerror)
    return apsw.IOError(error.strerror)


class RecordingVFS(apsw.VFS):
    """SQLite's own VFS, recorded."""

    def __init__(self, name: str, disk: Recorder) -> None:
        super().__init__(name, "unix")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name.
        return RecordingVFSFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        try:
            self._disk.check(Kind.UNLINK, self._disk.name(filename))
        except OSError as error:
            raise _sqlite_error(error) from error
        super().xDelete(filename, syncdir)
        self._disk.removed(self._disk.name(filename))
        if syncdir:
            self._disk.directory_synced(Path(filename).parent)


class RecordingVFSFile(apsw.VFSFile):
    """One open SQLite file, recorded unless it is a nameless temporary one."""

    def __init__(self, disk: Recorder, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._path = path
        self._name = disk.name(path) if path else ""
        existed = bool(path) and os.path.lexists(path)
        journal = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        journal |= apsw.SQLITE_OPEN_SUPER_JOURNAL
        self._names_first_sync = not existed and bool(flags[0] & journal)
        if path and not existed:
            try:
                disk.check(Kind.CREATE, self._name)
            except OSError as error:
                raise _sqlite_error(error) from error
        super().__init__("unix", name, flags)
        if path and os.path.lexists(path):
            disk.created(self._name)

    def _record(self, kind: Kind, act: Callable[[], None], data: bytes = b"", at: int = 0) -> None:
        if not self._name:
            act()
            return
        try:
            self._disk.record(kind, self._name, act, data=data, at=at)
        except OSError as error:
            raise _sqlite_error(error) from error

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super_write = super().xWrite
        self._record(Kind.WRITE, lambda: super_write(data, offset), bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super_truncate = super().xTruncate
        self._record(Kind.TRUNCATE, lambda: super_truncate(newsize), at=newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        # The recorder decides what is durable; waiting for the real disk would only cost time.
        self._record(Kind.SYNC, lambda: None)
        if self._names_first_sync:
            self._names_first_sync = False
            self._disk.directory_synced(Path(self._path).parent)
