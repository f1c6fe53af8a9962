"""Random reads, writes, maps, cuts and holes on a few files, each byte checked against memory.

Owns the files' expected bytes, the open handles and the log of what was done.  Refuses to know what
happens to the file system meanwhile.  In the manner of the well-known file system exercisers.

Invariants:
- One seed determines every operation: a failing run comes back with its seed, up to the timing of
  what happens to the file system.
- Every read is checked; whatever was read or not is checked by `check` in the end.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.model.snapshot import first_difference

MAX_BYTES = 3 << 20
"""Longest file: a few stripes of most layouts."""

FILES = 2
HANDLES = 5
LOGGED = 60
"""Operations that a failure prints."""

FLAGS = (
    os.O_RDWR,
    os.O_RDWR,
    os.O_RDWR | os.O_APPEND,
    os.O_RDWR | os.O_DIRECT,
    os.O_RDWR | os.O_DSYNC,
)
FLAG_WEIGHTS = (6, 6, 2, 2, 1)

LENGTHS = (64, 4096, 70_000, 400_000)
"""Most bytes of an operation, each drawn as often as its weight."""

LENGTH_WEIGHTS = (4, 8, 4, 1)


class Torture:
    """The files, the handles on them, and what the files must hold."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self._random = Random(seed)
        self._want = [bytearray() for _ in range(FILES)]
        self._handles: list[tuple[int, int, int]] = []
        self._log: deque[str] = deque(maxlen=LOGGED)
        self._done = 0
        table: tuple[tuple[int, Callable[[int, int, int], None]], ...] = (
            (30, self._write),
            (35, self._read),
            (6, self._map_write),
            (4, self._map_read),
            (4, self._shorten),
            (4, self._lengthen),
            (1, self._sync),
            (4, self._forget_pages),
            (2, self._reopen),
        )
        self._calls = [call for _, call in table]
        self._weights = [weight for weight, _ in table]
        for number in range(FILES):
            self._path(number).touch()

    def _path(self, file: int) -> Path:
        return self.directory / f"torture-{file}"

    def open(self) -> None:
        """Open the handles; again after a remount."""
        self._handles = [self._opened() for _ in range(HANDLES)]

    def close(self) -> None:
        """Close the handles: a remount follows."""
        for _, descriptor, _ in self._handles:
            os.close(descriptor)
        self._handles = []

    def steps(self, count: int) -> None:
        """Do that many operations.  Raises: AssertionError that says what went before."""
        for _ in range(count):
            call = self._random.choices(self._calls, self._weights)[0]
            file, descriptor, flags = self._random.choice(self._handles)
            try:
                call(file, descriptor, flags)
            except OSError as error:
                raise AssertionError(f"{self._story()}\n{error!r}") from error
            self._done += 1

    def check(self) -> None:
        """Compare whole files.  Raises: AssertionError."""
        for file, want in enumerate(self._want):
            self._same(file, 0, self._path(file).read_bytes(), bytes(want))

    # --- Telling. ---

    def note(self, text: str) -> None:
        """Put what happened to the file system into the log."""
        self._log.append(text)

    def _story(self) -> str:
        return "\n".join([f"seed {self.seed}, after {self._done} operations:", *self._log])

    def _same(self, file: int, offset: int, found: bytes, want: bytes) -> None:
        if found == want:
            return
        at = first_difference(found, want)
        raise AssertionError(
            f"{self._story()}\nfile {file}: read {len(found)} bytes at {offset}, wanted "
            f"{len(want)}; first difference at {offset + at}: "
            f"{found[at : at + 16]!r} instead of {want[at : at + 16]!r}"
        )

    # --- Operations. ---

    def _opened(self) -> tuple[int, int, int]:
        file = self._random.randrange(FILES)
        flags = self._random.choices(FLAGS, FLAG_WEIGHTS)[0]
        return file, os.open(self._path(file), flags), flags

    def _length(self) -> int:
        return self._random.randint(1, self._random.choices(LENGTHS, LENGTH_WEIGHTS)[0])

    def _write(self, file: int, descriptor: int, flags: int) -> None:
        want, length = self._want[file], self._length()
        end = len(want)
        if flags & os.O_APPEND:
            offset = end
        else:
            offset = self._random.randrange(min(MAX_BYTES, end + 100_000))
        length = min(length, MAX_BYTES - offset)
        self._log.append(f"write file {file} at {offset} +{length} of {end} flags {flags:o}")
        data = self._random.randbytes(length)
        assert os.pwrite(descriptor, data, offset) == length, self._story()
        if offset > end:
            want.extend(bytes(offset - end))
        want[offset : offset + length] = data

    def _read(self, file: int, descriptor: int, flags: int) -> None:
        want, length = self._want[file], self._length()
        offset = self._random.randrange(len(want) + 1)
        self._log.append(f"read file {file} at {offset} +{length} of {len(want)} flags {flags:o}")
        found = os.pread(descriptor, length, offset)
        self._same(file, offset, found, bytes(want[offset : offset + length]))

    def _map_write(self, file: int, descriptor: int, flags: int) -> None:
        want = self._want[file]
        if not want:
            return
        offset = self._random.randrange(len(want))
        length = min(self._length(), len(want) - offset)
        synced = self._random.random() < 0.1
        self._log.append(f"map and write file {file} at {offset} +{length} synced {synced}")
        data = self._random.randbytes(length)
        with mmap.mmap(descriptor, len(want)) as memory:
            memory[offset : offset + length] = data
            if synced:
                memory.flush()
        want[offset : offset + length] = data

    def _map_read(self, file: int, descriptor: int, flags: int) -> None:
        want = self._want[file]
        if not want:
            return
        offset = self._random.randrange(len(want))
        length = min(self._length(), len(want) - offset)
        self._log.append(f"map and read file {file} at {offset} +{length}")
        with mmap.mmap(descriptor, len(want), prot=mmap.PROT_READ) as memory:
            found = memory[offset : offset + length]
        self._same(file, offset, found, bytes(want[offset : offset + length]))

    def _shorten(self, file: int, descriptor: int, flags: int) -> None:
        want = self._want[file]
        least = 0 if self._random.random() < 0.1 else len(want) * 3 // 4
        size = self._random.randint(least, len(want))
        self._log.append(f"truncate file {file} from {len(want)} to {size}")
        os.ftruncate(descriptor, size)
        del want[size:]

    def _lengthen(self, file: int, descriptor: int, flags: int) -> None:
        want = self._want[file]
        size = min(MAX_BYTES, len(want) + self._random.randrange(200_000))
        self._log.append(f"truncate file {file} from {len(want)} to {size}")
        os.ftruncate(descriptor, size)
        want.extend(bytes(size - len(want)))

    def _sync(self, file: int, descriptor: int, flags: int) -> None:
        self._log.append(f"fsync file {file}")
        os.fsync(descriptor)

    def _forget_pages(self, file: int, descriptor: int, flags: int) -> None:
        self._log.append(f"forget the clean pages of file {file}")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _reopen(self, file: int, descriptor: int, flags: int) -> None:
        index = next(i for i, (_, fd, _) in enumerate(self._handles) if fd == descriptor)
        os.close(descriptor)
        self._handles[index] = self._opened()
        self._log.append(f"close a handle of file {file}, open one of {self._handles[index][0]}")
