"""Payload in and out of the storage file.

Owns the choice between O_DIRECT and the page cache, and scratch memory for unaligned payload.
Refuses to know keys and journals.  Raises `OSError` only; every read is verified by the caller
with `verify`.

Invariants: direct and buffered handles name one inode, and the kernel keeps them coherent; what
was written is durable only after a sync of the buffered handle.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

from rainfs.checksum import crc32c_pages
from rainfs.memory import Buffer, BufferPool, page_buffer
from rainfs.model import KIB, MIB, PAGE_BYTES
from rainfs.store.disk import Disk
from rainfs.store.rows import CRC_BYTES, Row

log = logging.getLogger(__name__)

DIRECT_READ_BYTES = 128 * KIB
"""Reads at least this long bypass the page cache when their memory is aligned."""
SCRATCH_BYTES = 1 * MIB
MAX_SCRATCH_BUFFERS = 4
MAX_COALESCED_BYTES = 1 * MIB


class DataFile:
    """The storage file's data area."""

    def __init__(self, disk: Disk, fd: int, direct: int | None) -> None:
        """Use `fd`, and `direct` if the file system offers O_DIRECT."""
        self._disk = disk
        self._fd = fd
        self._direct = direct
        self._scratch = BufferPool(SCRATCH_BYTES, MAX_SCRATCH_BUFFERS)
        self._punching = True

    def write(self, payload: Sequence[Buffer], offset: int) -> None:
        """Write the concatenation of `payload` (whole pages) at `offset`.  Raises: OSError."""
        if self._direct is not None:
            try:
                self._disk.pwrite(self._direct, payload, offset)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            if self._write_copied(self._direct, payload, offset):
                return
        self._disk.pwrite(self._fd, payload, offset)

    def _write_copied(self, direct: int, payload: Sequence[Buffer], offset: int) -> bool:
        length = sum(map(len, payload))
        buffer = self.borrow(length)
        at = 0
        for part in payload:
            buffer[at : at + len(part)] = part
            at += len(part)
        try:
            self._disk.pwrite(direct, [buffer[:length]], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        finally:
            self.give_back(buffer)
        return True

    def borrow(self, length: int) -> memoryview:
        """Return page-aligned memory of at least `length` bytes, to be given back."""
        return self._scratch.take() if length <= SCRATCH_BYTES else page_buffer(length)

    def give_back(self, buffer: memoryview) -> None:
        """Take back what `borrow` returned; nothing may refer to it any more."""
        if len(buffer) == SCRATCH_BYTES:
            self._scratch.give(buffer)

    def place(self, shards: Sequence[tuple[Row, bytes]]) -> None:
        """Write small shards, given by ascending offset, joining neighbours.  Raises: OSError."""
        run: list[Buffer] = []
        start = stop = 0
        for row, payload in shards:
            if run and (row.offset != stop or stop - start >= MAX_COALESCED_BYTES):
                self._disk.pwrite(self._fd, run, start)
                run = []
            if not run:
                start = row.offset
            run.append(payload)
            stop = row.offset + row.length
        if run:
            self._disk.pwrite(self._fd, run, start)

    def read(self, into: memoryview, offset: int, *, nowait: bool) -> bool:
        """Fill `into` (whole pages); False if `nowait` and it would block.  Raises: OSError."""
        if nowait:
            return self._disk.pread(self._fd, into, offset, nowait=True)
        if self._direct is not None and len(into) >= DIRECT_READ_BYTES:
            try:
                return self._disk.pread(self._direct, into, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        return self._disk.pread(self._fd, into, offset)

    def punch(self, offset: int, length: int) -> None:
        """Give a range back to the file system where it knows how to.

        Failure costs space on the disk below and nothing else, so it is logged, once.
        """
        if not self._punching:
            return
        try:
            self._disk.punch(self._fd, offset, length)
        except OSError as error:
            self._punching = False
            log.warning("freed space cannot be given back to the file system: %s", error.strerror)


def verify(row: Row, first_page: int, data: memoryview) -> bool:
    """Whether `data` is what the row says of the pages from `first_page` on."""
    start = first_page * CRC_BYTES
    stop = start + len(data) // PAGE_BYTES * CRC_BYTES
    return crc32c_pages(data) == row.crcs[start:stop]
