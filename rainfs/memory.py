"""Page-aligned memory for payload.

Owns how large buffers are obtained and reused: O_DIRECT wants them aligned to pages, and first use
of fresh memory costs more than filling it (a fault for each 4 KiB; huge pages make that ten times
cheaper, reuse makes it nothing), so hot paths take them from a pool.  Refuses to know what is kept
in them.  Invariants: a buffer is writable, one-dimensional, of bytes, and starts on a page
boundary; a pool keeps at most `max_buffers` idle ones and never blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from rainfs.model import KIB, MIB, PAGE_BYTES

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes that somebody may read."""

WritableBuffer = bytearray | memoryview
"""Contiguous bytes that somebody may fill; a memoryview must not be read-only."""


HUGE_PAGE_BYTES = 2 * MIB
"""Mappings from this size on ask for huge pages."""

MIN_CARVED_BYTES = 16 * PAGE_BYTES
"""A pool of at least so long buffers carves them from mappings of one huge page."""

RECYCLED_SIZES = (
    (128 * KIB, 16),
    (256 * KIB, 16),
    (384 * KIB, 8),
    (512 * KIB, 8),
    (768 * KIB, 4),
    (1 * MIB, 12),
    (4 * MIB, 1),
)
"""What a recycler keeps idle at most: 32 MiB together."""

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def page_buffer(nbytes: int) -> memoryview:
    """Return `nbytes` of fresh, zeroed, page-aligned writable memory; freed with its last view.

    Raises: ValueError unless nbytes >= 1.
    """
    if nbytes < 1:
        raise ValueError(f"a buffer of {nbytes} bytes")
    if nbytes < HUGE_PAGE_BYTES:
        # All of it will be used: one call maps every page, without a fault for each.
        return memoryview(mmap.mmap(-1, nbytes, flags=_PRIVATE | mmap.MAP_POPULATE))
    mapping = mmap.mmap(-1, nbytes, flags=_PRIVATE)
    # A kernel without huge pages refuses the advice; ordinary pages serve as well.
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


class BufferPool:
    """Idle page buffers of one size.  Thread-safe; `take` and `give` never block.

    A buffer that was taken may simply be dropped instead of given back.  Whoever gives one back
    promises that nothing refers to it any more: the next taker overwrites it.
    """

    __slots__ = ("_idle", "_max_buffers", "buffer_bytes")

    def __init__(self, buffer_bytes: int, max_buffers: int) -> None:
        if buffer_bytes < 1 or max_buffers < 0:
            raise ValueError(f"a pool of {max_buffers} buffers of {buffer_bytes} bytes")
        self.buffer_bytes = buffer_bytes
        self._max_buffers = max_buffers
        # A bounded deque: its append and pop are atomic, and when two threads give at once
        # to an almost full pool it drops a buffer instead of growing.
        self._idle: deque[memoryview] = deque(maxlen=max_buffers)

    def take(self) -> memoryview:
        """Return a buffer of `buffer_bytes`; its content is whatever was left in it."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._fresh()

    def _fresh(self) -> memoryview:
        """Map a buffer, or several at once where they share a huge page and may all be kept."""
        stride = -(-self.buffer_bytes // PAGE_BYTES) * PAGE_BYTES
        carved = HUGE_PAGE_BYTES // stride
        if stride < MIN_CARVED_BYTES or not 2 <= carved <= self._max_buffers:
            return page_buffer(self.buffer_bytes)
        whole = page_buffer(HUGE_PAGE_BYTES)
        first, *others = (
            whole[start : start + self.buffer_bytes] for start in range(0, carved * stride, stride)
        )
        for other in others:
            self.give(other)
        return first

    def give(self, buffer: memoryview) -> None:
        """Take `buffer` back for reuse, or let it go when the pool is full.

        Raises: ValueError for a buffer of another size or a read-only one.
        """
        if buffer.nbytes != self.buffer_bytes or buffer.readonly:
            raise ValueError(f"a buffer of {buffer.nbytes} bytes is not of this pool")
        if len(self._idle) < self._max_buffers:
            self._idle.append(buffer)

    @property
    def idle(self) -> int:
        """Number of buffers waiting for reuse."""
        return len(self._idle)


class _Loan(ctypes.Array[ctypes.c_ubyte]):
    """What lies over a buffer while it is in use: it dies with the last view, and gives it back."""

    _type_ = ctypes.c_ubyte
    _length_ = 0

    pool: ClassVar[BufferPool]
    buffer: memoryview

    def __del__(self) -> None:
        self.pool.give(self.buffer)


def _loan_class(pool: BufferPool) -> type[_Loan]:
    return type("Loan", (_Loan,), {"_length_": pool.buffer_bytes, "pool": pool})


class Recycler:
    """Page-aligned memory that comes back by itself when nothing refers to it any more.

    For bytes that end up in a cache, or with whoever else: they are not lent, and nobody gives them
    back.  Thread-safe.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]] = RECYCLED_SIZES) -> None:
        """Keep idle memory as `sizes` has it: bytes, ascending, and how many such."""
        self._classes = [_loan_class(BufferPool(nbytes, idle)) for nbytes, idle in sizes]
        """One for each size: the type of an array in C holds its length."""

    def take(self, nbytes: int) -> memoryview:
        """Return memory of `nbytes`, with whatever was left in it; beyond the sizes, fresh one."""
        for loan_class in self._classes:
            if nbytes <= loan_class.pool.buffer_bytes:
                buffer = loan_class.pool.take()
                loan = loan_class.from_buffer(buffer)
                loan.buffer = buffer
                return memoryview(loan).cast("B")[:nbytes]
        return page_buffer(nbytes)


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 32 * MIB
"""The largest that glibc takes."""

_TRIM_THRESHOLD_BYTES = 128 * MIB


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system at once.

    Large objects of the interpreter are otherwise mapped and unmapped each time, at one page fault
    for each 4 KiB.  For the start of a process that moves payload; does nothing without glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
