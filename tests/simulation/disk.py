"""A disk that records every change of every file, and can say what a power cut leaves behind.

    disk = RecordingDisk(tmp_path / "live")          # a `rainfs.store.disk.Disk`
    store = Store.open(disk.root / "node", capacity_bytes=MIB, disk=disk)
    apsw.Connection(str(disk.root / "x.db"), vfs=disk.vfs)        # any SQLite database as well
    ...
    disk.mark(("stored", key))                       # what was promised, in order with the I/O
    disk.close()

    for point in disk.log.points():                  # before the first operation ... after the last
        for survival in (NOTHING, EVERYTHING, RANDOM, TORN):
            state = disk.log.crash(point, survival, Random(seed))
            state.write_to(tmp_path / "after")       # reopen with SYSTEM_DISK or a RecordingDisk
            promised = disk.log.marks(point)

The live files are real ones below `root`, so that several connections, shared memory and threads
work as ever.  What is there when the recorder starts counts as durable.  Not recorded: files that
are opened neither through this disk nor through its VFS, and SQLite's `-shm` (it never survives).

The model of a power cut: an fdatasync, or SQLite's xSync, makes everything written to that file
before it durable.  Of what was not synced any part may survive: nothing, everything, any subset of
the operations, any subset of their 512-byte sectors.  Names (creation, rename, removal) survive in
the order they were changed, up to any point; `sync_directory` makes them durable, as does the first
xSync of a new SQLite journal or WAL, which is what SQLite's own VFS does.  An fdatasync of a file
does not make its name durable.  Operations recorded while a sync runs are ordered by one lock.
"""

from __future__ import annotations

import enum
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import apsw

from rainfs.memory import Buffer
from rainfs.store.disk import SystemDisk

SECTOR_BYTES = 512
_vfs_numbers = itertools.count(1)


class Kind(enum.Enum):
    """What was done."""

    WRITE = "write"
    TRUNCATE = "truncate"
    PUNCH = "punch"
    SYNC = "sync"
    CREATE = "create"
    RENAME = "rename"
    UNLINK = "unlink"
    SYNC_DIRECTORY = "sync directory"
    READ = "read"
    """Only for faults; reads are not recorded."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One recorded step."""

    kind: Kind
    name: str
    """Path below the root when it happened."""
    file: int = 0
    """Number of the file, which stays when it is renamed."""
    offset: int = 0
    """Of a write or punch; the new length of a truncate."""
    data: bytes = b""
    length: int = 0
    target: str = ""
    """New name of a rename."""


class Survival(enum.Enum):
    """Which unsynced operations a power cut spares."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    PREFIX = "prefix"
    RANDOM = "random"
    TORN = "torn"


NOTHING, EVERYTHING = Survival.NOTHING, Survival.EVERYTHING
PREFIX, RANDOM, TORN = Survival.PREFIX, Survival.RANDOM, Survival.TORN


@dataclass(frozen=True, slots=True)
class CrashState:
    """The files that are there after the power has come back, by path below the root."""

    files: dict[str, bytes]
    directories: tuple[str, ...] = ()

    def write_to(self, directory: Path) -> None:
        """Write the files below `directory`, which must not hold others of these names."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.directories:
            (directory / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class _Files:
    """The durable state after a prefix of the log, and what is not durable yet."""

    def __init__(self, names: dict[str, int], contents: dict[int, bytes]) -> None:
        self.position = 0
        self.names = dict(names)
        self.contents = {number: bytearray(content) for number, content in contents.items()}
        self.pending: dict[int, list[Operation]] = {}
        self.pending_names: list[Operation] = []

    def advance(self, operations: Sequence[Operation], point: int) -> None:
        for operation in operations[self.position : point]:
            self._take(operation)
        self.position = point

    def _take(self, operation: Operation) -> None:
        if operation.kind is Kind.SYNC:
            content = self.contents.setdefault(operation.file, bytearray())
            for earlier in self.pending.pop(operation.file, []):
                _apply(content, earlier)
        elif operation.kind is Kind.SYNC_DIRECTORY:
            rest: list[Operation] = []
            for earlier in self.pending_names:
                if str(Path(earlier.name).parent) == operation.name:
                    _rename(self.names, earlier)
                else:
                    rest.append(earlier)
            self.pending_names = rest
        elif operation.kind in (Kind.CREATE, Kind.RENAME, Kind.UNLINK):
            self.pending_names.append(operation)
        else:
            self.pending.setdefault(operation.file, []).append(operation)

    def crash(self, survival: Survival, random: Random) -> CrashState:
        names = dict(self.names)
        kept_names = len(self.pending_names)
        if survival is NOTHING:
            kept_names = 0
        elif survival is not EVERYTHING:
            kept_names = random.randint(0, kept_names)
        for operation in self.pending_names[:kept_names]:
            _rename(names, operation)
        files: dict[str, bytes] = {}
        for name, number in sorted(names.items()):
            content = bytearray(self.contents.get(number, b""))
            pending = self.pending.get(number, [])
            if survival is PREFIX:
                pending = pending[: random.randint(0, len(pending))]
            for operation in pending if survival is not NOTHING else ():
                if survival is RANDOM and random.random() < 0.5:
                    continue
                _apply(content, operation, random if survival is TORN else None)
            files[name] = bytes(content)
        return CrashState(files)


def _apply(content: bytearray, operation: Operation, torn: Random | None = None) -> None:
    start = operation.offset
    if operation.kind is Kind.TRUNCATE:
        if torn is None or torn.random() < 0.5:
            del content[start:]
            content.extend(bytes(start - len(content)))
        return
    stop = start + (operation.length if operation.kind is Kind.PUNCH else len(operation.data))
    data = operation.data
    if operation.kind is Kind.PUNCH:
        stop = min(stop, len(content))
        data = bytes(max(0, stop - start))
    if torn is None:
        if len(content) < start:
            content.extend(bytes(start - len(content)))
        content[start:stop] = data
        return
    at = start
    while at < stop:
        end = min(stop, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if torn.random() < 0.5:
            if len(content) < at:
                content.extend(bytes(at - len(content)))
            content[at:end] = data[at - start : end - start]
        at = end


def _rename(names: dict[str, int], operation: Operation) -> None:
    if operation.kind is Kind.CREATE:
        names[operation.name] = operation.file
    elif operation.kind is Kind.RENAME:
        names[operation.target] = names.pop(operation.name, operation.file)
    else:
        names.pop(operation.name, None)


class Log:
    """What was recorded; grows while the disk is in use."""

    def __init__(self, names: dict[str, int], contents: dict[int, bytes]) -> None:
        self.operations: list[Operation] = []
        self._marks: list[tuple[int, object]] = []
        self._names = names
        self._contents = contents
        self._files = _Files(names, contents)

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)

    def mark(self, what: object) -> None:
        self._marks.append((len(self.operations), what))

    def marks(self, point: int) -> list[object]:
        """Return what was marked when at most `point` operations had been recorded."""
        return [what for at, what in self._marks if at <= point]

    def points(self) -> range:
        """Every crash point: the number of operations that were issued before the power went."""
        return range(len(self.operations) + 1)

    def crash(self, point: int, survival: Survival, random: Random) -> CrashState:
        """Return what is left at `point`; cheap when points are asked for in ascending order."""
        if point < self._files.position:
            self._files = _Files(self._names, self._contents)
        self._files.advance(self.operations, point)
        return self._files.crash(survival, random)


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


NO_SPACE_KINDS = frozenset({Kind.WRITE, Kind.CREATE})


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
            if path.is_file() and not path.name.endswith("-shm"):
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
                self._names[name] = next(self._numbers)
                self.log.add(Operation(Kind.CREATE, name, self._names[name]))

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

    def unlink(self, path: Path) -> None:
        with self._lock:
            self.check(Kind.UNLINK, self.name(path))
            super().unlink(path)
            self.removed(self.name(path))

    def sync_directory(self, path: Path) -> None:
        with self._lock:
            self.check(Kind.SYNC_DIRECTORY, self.name(path))
            self.directory_synced(path)


def _sqlite_error(error: OSError) -> apsw.Error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return apsw.FullError(error.strerror)
    return apsw.IOError(error.strerror)


class RecordingVFS(apsw.VFS):
    """SQLite's own VFS, recorded."""

    def __init__(self, name: str, disk: RecordingDisk) -> None:
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

    def __init__(self, disk: RecordingDisk, name: Any, flags: list[int]) -> None:
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


def sample(points: range, count: int, random: Random) -> Iterator[int]:
    """Yield at most `count` of the points, ascending, the first and the last among them."""
    if len(points) <= count:
        yield from points
        return
    chosen = {points[0], points[-1], *random.sample(points, count - 2)}
    yield from sorted(chosen)


__all__ = [
    "EVERYTHING",
    "NOTHING",
    "NO_SPACE_KINDS",
    "PREFIX",
    "RANDOM",
    "TORN",
    "CrashState",
    "Fault",
    "Kind",
    "Log",
    "Operation",
    "RecordingDisk",
    "Survival",
    "sample",
]
