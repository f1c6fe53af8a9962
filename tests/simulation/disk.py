"""A disk that records every change of every file, and can say what a power cut leaves behind.

    disk = RecordingDisk(tmp_path / "live")          # a `rainfs.store.disk.Disk`
    store = Store.open(disk.root / "node", capacity_bytes=MIB, disk=disk)
    apsw.Connection(str(disk.root / "x.db"), vfs=disk.vfs)        # any SQLite database as well
    ...
    disk.mark(("stored", key))                       # what was promised, in order with the I/O
    disk.close_vfs()

    for point in disk.log.points():                  # before the first operation ... after the last
        for survival in (NOTHING, EVERYTHING, RANDOM, TORN):
            state = disk.log.crash(point, survival, Random(seed))
            state.write_to(tmp_path / "after")       # reopen with SYSTEM_DISK or a RecordingDisk
            promised = disk.log.marks(point)

The live files are real ones below `root`, so that several connections, shared memory and threads
work as ever.  What is there when the recorder starts counts as durable.  Not recorded: files that
are opened neither through this disk nor through its VFS, and SQLite's `-shm` (it never survives).
A sync is recorded and not carried out: the model of `power` decides what is durable.  Operations
recorded while a sync runs are ordered by one lock.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rainfs.memory import Buffer
from rainfs.store.disk import SystemDisk
from tests.simulation.power import (
    DIRECTORY,
    SECTOR_BYTES,
    Kind,
    Log,
    Operation,
)
from tests.simulation.sqlite_vfs import RecordingVFS

_vfs_numbers = itertools.count(1)


@dataclass(slots=True)
class Fault:
    """Makes operations fail: the first `skip` of those that match pass, then `times` fail."""

    kinds: frozenset[Kind]
    code: int
    skip: int = 0
    times: int = 1 << 60
    suffix: str = ""
    """Only files whose name ends so."""

    def strikes(self, kind: Kind, name: str) -> bool:
        if kind not in self.kinds or not name.endswith(self.suffix):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass(slots=True)
class _Handle:
    file: int
    name: str
    direct: bool


class RecordingDisk(SystemDisk):
    """A `Disk`, and an SQLite VFS, over the real files below `root`.  Thread-safe.

    `faults` may be changed at any time; `room_bytes` replaces what the file system has free.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self.faults: list[Fault] = []
        self.room_bytes: int | None = None
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, _Handle] = {}
        self._names: dict[str, int] = {}
        contents: dict[int, bytes] = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_dir():
                self._names[self.name(path)] = DIRECTORY
            elif path.is_file() and not path.name.endswith("-shm"):
                number = next(self._numbers)
                self._names[self.name(path)] = number
                contents[number] = path.read_bytes()
        self.log = Log(dict(self._names), contents)
        self.vfs: str | None = f"rainfs-recording-{next(_vfs_numbers)}"
        self._registered: RecordingVFS | None = RecordingVFS(self.vfs, self)

    def close_vfs(self) -> None:
        """Unregister the SQLite VFS; all its connections must be closed."""
        if self._registered is not None:
            self._registered.unregister()
            self._registered = None

    def mark(self, what: object) -> None:
        """Note an event of the program, in order with the operations."""
        with self._lock:
            self.log.mark(what)

    def fail(
        self,
        *kinds: Kind,
        code: int = errno.EIO,
        skip: int = 0,
        times: int = 1 << 60,
        suffix: str = "",
    ) -> Fault:
        """Add a fault and return it; remove it from `faults` to end it."""
        fault = Fault(frozenset(kinds), code, skip, times, suffix)
        self.faults.append(fault)
        return fault

    def name(self, path: Path | str) -> str:
        """Return the name that the log uses for a path."""
        return os.path.relpath(os.path.abspath(path), self.root)

    def check(self, kind: Kind, name: str) -> None:
        """Raise `OSError` if a fault strikes."""
        with self._lock:
            for fault in self.faults:
                if fault.strikes(kind, name):
                    raise OSError(fault.code, os.strerror(fault.code))

    def record(
        self, kind: Kind, name: str, act: Callable[[], None], *, data: bytes = b"", at: int = 0
    ) -> None:
        """Do something to a named file and record it (for the VFS)."""
        with self._lock:
            self.check(kind, name)
            act()
            self.log.add(Operation(kind, name, self._number(name), at, data))

    def created(self, name: str) -> None:
        """Note that a file now exists, unless it did before."""
        with self._lock:
            if name not in self._names:
                self._adopt_directory(os.path.dirname(name))
                self._names[name] = next(self._numbers)
                self.log.add(Operation(Kind.CREATE, name, self._names[name]))

    def _adopt_directory(self, name: str) -> None:
        """Take a directory that somebody made behind our back as durable."""
        if name in ("", ".") or name in self._names:
            return
        parent = os.path.dirname(name)
        self._adopt_directory(parent)
        self._names[name] = DIRECTORY
        self.log.add(Operation(Kind.MAKE_DIRECTORY, name, DIRECTORY))
        self.log.add(Operation(Kind.SYNC_DIRECTORY, parent or "."))

    def removed(self, name: str) -> None:
        """Note that a file is gone."""
        with self._lock:
            if name in self._names:
                self.log.add(Operation(Kind.UNLINK, name, self._names.pop(name)))

    def directory_synced(self, path: Path | str) -> None:
        """Note that names in a directory are durable."""
        with self._lock:
            self.log.add(Operation(Kind.SYNC_DIRECTORY, self.name(path)))

    def _number(self, name: str) -> int:
        return self._names.get(name, 0)

    # --- rainfs.store.disk.Disk ---------------------------------------------------------------

    def open(self, path: Path, *, create: bool = False, direct: bool = False) -> int:
        name = self.name(path)
        with self._lock:
            if create and not os.path.lexists(path):
                self.check(Kind.CREATE, name)
            # Direct handles are ordinary ones that insist on alignment.
            fd = super().open(path, create=create)
            self.created(name)
            self._handles[fd] = _Handle(self._number(name), name, direct)
        return fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._handles.pop(fd, None)
            super().close(fd)

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        with self._lock:
            handle = self._handles[fd]
            aligned = all(len(buffer) % SECTOR_BYTES == 0 for buffer in buffers)
            if handle.direct and not (aligned and offset % SECTOR_BYTES == 0):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self.check(Kind.WRITE, handle.name)
            super().pwrite(fd, [data], offset)
            self.log.add(Operation(Kind.WRITE, handle.name, handle.file, offset, data))

    def pread(self, fd: int, into: memoryview, offset: int, *, nowait: bool = False) -> bool:
        self.check(Kind.READ, self._handles[fd].name)
        return super().pread(fd, into, offset, nowait=nowait)

    def fdatasync(self, fd: int) -> None:
        with self._lock:
            handle = self._handles[fd]
            self.check(Kind.SYNC, handle.name)
            self.log.add(Operation(Kind.SYNC, handle.name, handle.file))

    def truncate(self, fd: int, size: int) -> None:
        with self._lock:
            handle = self._handles[fd]
            self.check(Kind.TRUNCATE, handle.name)
            super().truncate(fd, size)
            self.log.add(Operation(Kind.TRUNCATE, handle.name, handle.file, size))

    def punch(self, fd: int, offset: int, length: int) -> None:
        with self._lock:
            handle = self._handles[fd]
            self.check(Kind.PUNCH, handle.name)
            super().punch(fd, offset, length)
            self.log.add(Operation(Kind.PUNCH, handle.name, handle.file, offset, length=length))

    def free_bytes(self, path: Path) -> int:
        return super().free_bytes(path) if self.room_bytes is None else self.room_bytes

    def rename(self, old: Path, new: Path) -> None:
        with self._lock:
            old_name, new_name = self.name(old), self.name(new)
            self.check(Kind.RENAME, old_name)
            super().rename(old, new)
            number = self._names.pop(old_name)
            self._names[new_name] = number
            for handle in self._handles.values():
                if handle.file == number:
                    handle.name = new_name
            self.log.add(Operation(Kind.RENAME, old_name, number, target=new_name))

    def mkdir(self, path: Path, mode: int) -> None:
        with self._lock:
            name = self.name(path)
            self.check(Kind.MAKE_DIRECTORY, name)
            super().mkdir(path, mode)
            self._names[name] = DIRECTORY
            self.log.add(Operation(Kind.MAKE_DIRECTORY, name, DIRECTORY))

    def unlink(self, path: Path) -> None:
        with self._lock:
            self.check(Kind.UNLINK, self.name(path))
            super().unlink(path)
            self.removed(self.name(path))

    def will_write(self, descriptor: int, offset: int, length: int) -> None:
        """A hint to the kernel that leaves no trace on a disk."""

    def sync_directory(self, path: Path) -> None:
        with self._lock:
            self.check(Kind.SYNC_DIRECTORY, self.name(path))
            self.directory_synced(path)
