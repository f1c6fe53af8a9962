"""What a power cut leaves of files whose every change was recorded.

Owns the model, and nothing that touches a disk.  An fdatasync, or SQLite's xSync, makes everything
written to that file before it durable.  Of what was not synced any part may survive: nothing,
everything, a prefix, any subset of the operations, any subset of their 512-byte sectors.  Names
(creation, rename, removal, new directories) survive in the order they were changed in a directory,
up to any point of it, or in any subset; `sync_directory` makes them durable, as does the first
xSync of a new SQLite journal or WAL, which is what SQLite's own VFS does.  An fdatasync of a file
does not make its name durable, nor that of its directory.

A *device* is what loses power as a whole: the files below one entry of the root, or those in the
root itself (device "").
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random

SECTOR_BYTES = 512
DIRECTORY = -1
"""Stands for a directory where a file's number would be."""

LIKELIHOODS = (0.04, 0.3, 0.5, 0.7, 0.96)
"""Chances that a piece of what was not synced survives; one is drawn for each file of a state."""


class Kind(enum.Enum):
    """What was done."""

    WRITE = "write"
    TRUNCATE = "truncate"
    PUNCH = "punch"
    SYNC = "sync"
    CREATE = "create"
    MAKE_DIRECTORY = "make directory"
    RENAME = "rename"
    UNLINK = "unlink"
    SYNC_DIRECTORY = "sync directory"
    READ = "read"
    """Only for faults; reads are not recorded."""


NAME_KINDS = frozenset({Kind.CREATE, Kind.MAKE_DIRECTORY, Kind.RENAME, Kind.UNLINK})


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
    MIXED = "mixed"
    """Each device draws one of the others: machines lose power each in its own way."""


NOTHING, EVERYTHING = Survival.NOTHING, Survival.EVERYTHING
PREFIX, RANDOM, TORN = Survival.PREFIX, Survival.RANDOM, Survival.TORN
MIXED = Survival.MIXED
PURE = (NOTHING, EVERYTHING, PREFIX, RANDOM, TORN)


@dataclass(frozen=True, slots=True)
class CrashState:
    """What is there after the power has come back, by path below the root."""

    files: dict[str, bytes]
    directories: tuple[str, ...] = ()

    def write_to(self, directory: Path) -> None:
        """Write the files below `directory`, which must not hold others of these names."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.directories:
            (directory / name).mkdir(exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)

    def with_devices(self, devices: Collection[str], other: CrashState) -> CrashState:
        """Return the state with these devices as they are in `other`."""
        theirs = {name: d for name, d in other.files.items() if device_of(name) in devices}
        mine = self.without(devices)
        roots = {name for name in other.directories if name.split("/")[0] in devices}
        return CrashState(mine.files | theirs, tuple(sorted({*mine.directories, *roots})))

    def without(self, devices: Collection[str]) -> CrashState:
        """Return the state after the disks of some devices burnt as well."""
        return CrashState(
            {name: data for name, data in self.files.items() if device_of(name) not in devices},
            tuple(name for name in self.directories if name.split("/")[0] not in devices),
        )


def device_of(name: str) -> str:
    """Return the device that a file is on."""
    return name.split("/")[0] if "/" in name else ""


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
                if _parent(earlier.name) == operation.name:
                    _rename(self.names, earlier)
                else:
                    rest.append(earlier)
            self.pending_names = rest
        elif operation.kind in NAME_KINDS:
            self.pending_names.append(operation)
        else:
            self.pending.setdefault(operation.file, []).append(operation)

    def crash(self, survival_of: Callable[[str], Survival], random: Random) -> CrashState:
        names = dict(self.names)
        for operation in _surviving_names(self.pending_names, survival_of, random):
            _rename(names, operation)
        there = {".", *_directories(names)}
        files: dict[str, bytes] = {}
        for name, number in sorted(names.items()):
            if number == DIRECTORY or _parent(name) not in there:
                continue
            content = bytearray(self.contents.get(number, b""))
            pending = self.pending.get(number, [])
            if pending:
                _apply_some(content, pending, survival_of(device_of(name)), random)
            files[name] = bytes(content)
        return CrashState(files, tuple(sorted(there - {"."})))


def _surviving_names(
    pending: list[Operation], survival_of: Callable[[str], Survival], random: Random
) -> Iterator[Operation]:
    left: dict[str, int] = {}
    for operation in pending:
        left[_parent(operation.name)] = left.get(_parent(operation.name), 0) + 1
    for directory, count in left.items():
        left[directory] = random.randint(0, count)
    for operation in pending:
        survival = survival_of(_device_of_entry(operation))
        directory = _parent(operation.name)
        left[directory] -= 1
        if (
            survival is EVERYTHING
            or (survival is TORN and random.random() < 0.5)
            or (survival in (PREFIX, RANDOM) and left[directory] >= 0)
        ):
            yield operation


def _device_of_entry(operation: Operation) -> str:
    if operation.kind is Kind.MAKE_DIRECTORY:
        return operation.name.split("/")[0]
    return device_of(operation.name)


def _directories(names: dict[str, int]) -> Iterator[str]:
    """Yield the directories whose every ancestor is there."""
    found = {"."}
    for name in sorted(name for name, number in names.items() if number == DIRECTORY):
        if _parent(name) in found:
            found.add(name)
            yield name


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _apply_some(
    content: bytearray, pending: Sequence[Operation], survival: Survival, random: Random
) -> None:
    if survival is NOTHING:
        return
    if survival is PREFIX:
        pending = pending[: random.randint(0, len(pending))]
    chance = random.choice(LIKELIHOODS)
    for operation in pending:
        if survival is RANDOM and random.random() >= chance:
            continue
        if survival is TORN:
            _apply_torn(content, operation, chance, random)
        else:
            _apply(content, operation)


def _apply(content: bytearray, operation: Operation) -> None:
    start = operation.offset
    if operation.kind is Kind.TRUNCATE:
        del content[start:]
        content.extend(bytes(start - len(content)))
        return
    start, stop, data = _extent(content, operation)
    if len(content) < start:
        content.extend(bytes(start - len(content)))
    content[start:stop] = data


def _apply_torn(content: bytearray, operation: Operation, chance: float, random: Random) -> None:
    if operation.kind is Kind.TRUNCATE:
        if random.random() < chance:
            _apply(content, operation)
        return
    start, stop, data = _extent(content, operation)
    at = start
    while at < stop:
        end = min(stop, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if random.random() < chance:
            if len(content) < at:
                content.extend(bytes(at - len(content)))
            content[at:end] = data[at - start : end - start]
        at = end


def _extent(content: bytearray, operation: Operation) -> tuple[int, int, bytes]:
    start = operation.offset
    if operation.kind is Kind.PUNCH:
        stop = max(start, min(start + operation.length, len(content)))
        return start, stop, bytes(stop - start)
    return start, start + len(operation.data), operation.data


def _rename(names: dict[str, int], operation: Operation) -> None:
    if operation.kind in (Kind.CREATE, Kind.MAKE_DIRECTORY):
        names[operation.name] = operation.file
    elif operation.kind is Kind.RENAME:
        names[operation.target] = names.pop(operation.name, operation.file)
    else:
        names.pop(operation.name, None)


class Log:
    """What was recorded; grows while the disk is in use."""

    def __init__(self, names: dict[str, int], contents: dict[int, bytes]) -> None:
        """`names` and `contents` are there and durable at the start."""
        self.operations: list[Operation] = []
        self._marks: list[tuple[int, object]] = []
        self._names = names
        self._contents = contents
        self._files = _Files(names, contents)

    def add(self, operation: Operation) -> None:
        """Record a step."""
        self.operations.append(operation)

    def mark(self, what: object) -> None:
        """Note an event between two steps."""
        self._marks.append((len(self.operations), what))

    def marks(self, point: int) -> list[object]:
        """Return what was marked when at most `point` operations had been recorded."""
        return [what for at, what in self._marks if at <= point]

    def points(self) -> range:
        """Every crash point: the number of operations that were issued before the power went."""
        return range(len(self.operations) + 1)

    def crash(
        self,
        point: int,
        survival: Survival,
        random: Random,
        *,
        devices: Collection[str] | None = None,
        elsewhere: Survival = EVERYTHING,
    ) -> CrashState:
        """Return what is left at `point`; cheap when points are asked for in ascending order.

        With `devices` only those meet `survival`; on all others `elsewhere` survives.
        """
        if point < self._files.position:
            self._files = _Files(self._names, self._contents)
        self._files.advance(self.operations, point)
        drawn: dict[str, Survival] = {}

        def survival_of(device: str) -> Survival:
            if device not in drawn:
                hit = devices is None or device in devices
                chosen = survival if hit else elsewhere
                drawn[device] = random.choice(PURE) if chosen is MIXED else chosen
            return drawn[device]

        return self._files.crash(survival_of, random)


def sample(points: range, count: int, random: Random) -> Iterator[int]:
    """Yield at most `count` of the points, ascending, the first and the last among them."""
    if len(points) <= count:
        yield from points
        return
    chosen = {points[0], points[-1], *random.sample(points[1:-1], count - 2)}
    yield from sorted(chosen)
