"""Memory that other processes of this host may read: shards are built in it and never sent.

Owns the memory file, its seals, the slots it is cut into, and when a slot may be filled again.
Refuses to know who reads it and how it gets there.

Invariants:
- The file can neither shrink nor grow, so that nobody who has mapped it is struck by a signal.
- A slot is filled again only once its holder has given it back and every reader that was told of
  it has said that it is done with it.  One whose reader was lost is never filled again: that reader
  may be late, and must not find bytes of another shard under the name it was given.
- When half of the slots are lost so, a new area takes the place of the old one.
- Where there is no such memory, or none is left, pools hand out memory of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import mmap
import os
import threading

from rainfs.errors import InputError
from rainfs.memory import Buffer, BufferPool
from rainfs.model import MIB, PAGE_BYTES

log = logging.getLogger(__name__)

AREA_BYTES = 64 * MIB
"""What one client shares.  Pages that were never filled take no memory."""

MAX_AREA_BYTES = 64 * MIB
"""What a reader maps of one client."""

_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class SharedArea(mmap.mmap):
    """One memory file, mapped for writing, and its slots."""

    fd: int
    """The file, to be sent to readers; -1 once the area has been replaced or closed."""
    slot_bytes: int
    """Length of a slot; 0 until `divide`."""
    _base: int
    _free: list[int]
    _held: dict[int, int]
    _given: set[int]
    _lost: set[int]

    @classmethod
    def make(cls, nbytes: int = AREA_BYTES) -> SharedArea:
        """Return an area of `nbytes`, whole pages.  Raises: OSError where there is no such."""
        fd = os.memfd_create("rainfs-shards", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE | fcntl.F_SEAL_SEAL)
            area = cls(fd, nbytes)
        except BaseException:
            os.close(fd)
            raise
        # Few systems give such memory huge pages; ordinary ones serve as well.
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
        area.fd = fd
        area.slot_bytes = 0
        area._base = _address(memoryview(area))
        area._free, area._held, area._given, area._lost = [], {}, set(), set()
        return area

    def divide(self, slot_bytes: int) -> None:
        """Cut the area into slots, once."""
        assert not self.slot_bytes
        self.slot_bytes = slot_bytes
        stride = -(-slot_bytes // PAGE_BYTES) * PAGE_BYTES
        # The last one is taken first, so that the beginning is what is used again and again.
        self._free = list(range(0, len(self) - stride + 1, stride))[::-1]

    @property
    def is_spent(self) -> bool:
        """Whether so many slots are lost that a new area should take its place."""
        return len(self._lost) * self.slot_bytes * 2 >= len(self)

    def take(self) -> memoryview | None:
        """Return a free slot, or None; its content is arbitrary.  Callable from any thread."""
        try:
            slot = self._free.pop()
        except IndexError:
            return None
        return memoryview(self)[slot : slot + self.slot_bytes]

    def give(self, buffer: memoryview) -> None:
        """Take a slot back that `take` returned; it stays as it is while readers hold it."""
        slot = _address(buffer) - self._base
        if slot in self._held:
            self._given.add(slot)
        elif slot not in self._lost:
            self._free.append(slot)

    def hold(self, buffer: Buffer) -> int | None:
        """Keep a slot as it is for a reader; return where it begins, or None if it is no slot."""
        if not isinstance(buffer, memoryview) or buffer.obj is not self:
            return None
        slot = _address(buffer) - self._base
        if slot % (-(-self.slot_bytes // PAGE_BYTES) * PAGE_BYTES):
            return None
        self._held[slot] = self._held.get(slot, 0) + 1
        return slot

    def let_go(self, slot: int, *, read: bool) -> None:
        """A reader is done with a slot, or was lost before it said so."""
        left = self._held[slot] - 1
        if not read:
            self._lost.add(slot)
        if left:
            self._held[slot] = left
            return
        del self._held[slot]
        if slot in self._given:
            self._given.discard(slot)
            if slot not in self._lost:
                self._free.append(slot)

    def retire(self) -> None:
        """Close the file; the memory goes with its last view.  Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SharedMemory:
    """What one client shares with its readers: an area at a time, or none."""

    def __init__(self) -> None:
        self.area: SharedArea | None = None
        """What new readers are to map."""
        self._lock = threading.Lock()
        self._closed = False

    def begin(self) -> None:
        """Have an area from now on; idempotent."""
        if self.area is None and not self._closed:
            try:
                self.area = SharedArea.make()
            except OSError as error:
                log.info("no memory to share with nodes of this host: %s", error.strerror)

    def take(self, nbytes: int) -> memoryview | None:
        """Return a slot of just `nbytes`, or None.  Callable from any thread."""
        area = self.area
        if area is None:
            return None
        if area.slot_bytes != nbytes or area.is_spent:
            area = self._suitable(nbytes)
        return None if area is None else area.take()

    def _suitable(self, nbytes: int) -> SharedArea | None:
        with self._lock:
            area = self.area
            if area is None:
                return None
            if area.slot_bytes and area.is_spent:
                area.retire()
                self.area = None
                self.begin()
                area = self.area
                if area is None:
                    return None
            if not area.slot_bytes:
                area.divide(nbytes)
            return area if area.slot_bytes == nbytes else None

    def close(self) -> None:
        """Share nothing more.  Idempotent."""
        self._closed = True
        area, self.area = self.area, None
        if area is not None:
            area.retire()


class SharedPool(BufferPool):
    """A pool that hands out slots of shared memory while there are any."""

    __slots__ = ("_memory",)

    def __init__(self, memory: SharedMemory, buffer_bytes: int, max_buffers: int) -> None:
        super().__init__(buffer_bytes, max_buffers)
        self._memory = memory

    def take(self) -> memoryview:
        """Return a buffer of `buffer_bytes`; its content is whatever was left in it."""
        return self._memory.take(self.buffer_bytes) or super().take()

    def give(self, buffer: memoryview) -> None:
        """Take `buffer` back for reuse: a slot of shared memory once its readers are done."""
        if isinstance(buffer.obj, SharedArea):
            buffer.obj.give(buffer)
        else:
            super().give(buffer)


def map_shared(fd: int, nbytes: int) -> memoryview:
    """Map a client's area for reading; `fd` stays the caller's.

    Raises: InputError unless it is a memory file of just `nbytes` that stays so long, OSError.
    """
    if not 0 < nbytes <= MAX_AREA_BYTES:
        raise InputError(f"shared memory of {nbytes} bytes")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise InputError(f"shared memory without seals: {error.strerror}") from error
    if seals & _FIXED_SIZE != _FIXED_SIZE:
        raise InputError("shared memory that may shrink or grow")
    if os.fstat(fd).st_size != nbytes:
        raise InputError(f"shared memory of other than {nbytes} bytes")
    return memoryview(mmap.mmap(fd, nbytes, prot=mmap.PROT_READ))


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
