"""Page-aligned buffers for payload, reused.

Owns pools in a few sizes.  Refuses to count what is lent: callers bound that.  Invariants: a lease
is given back at most once; one that is dropped instead costs nothing but its reuse.
"""

from __future__ import annotations

from rainfs.memory import BufferPool
from rainfs.model import KIB, MAX_SHARD_BYTES, MIB

_POOL_SIZES: tuple[tuple[int, int], ...] = (
    (4 * KIB, 64),
    (64 * KIB, 64),
    (256 * KIB, 16),
    (1 * MIB, 32),
    (MAX_SHARD_BYTES, 2),
)
"""Bytes of a buffer, and how many idle ones are kept: less than 50 MiB together."""


class Lease:
    """Page-aligned memory of a wanted length, from a pool."""

    __slots__ = ("_buffer", "_pool", "view")

    def __init__(self, pool: BufferPool, nbytes: int) -> None:
        self._pool = pool
        self._buffer: memoryview | None = pool.take()
        self.view = self._buffer[:nbytes]

    def release(self) -> None:
        """Give the memory back; nothing may refer to it any more.  Idempotent."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool.give(buffer)


class Buffers:
    """Pools of page-aligned buffers in a few sizes."""

    def __init__(self) -> None:
        self._pools = [BufferPool(nbytes, idle) for nbytes, idle in _POOL_SIZES]

    def _pool(self, nbytes: int) -> BufferPool:
        return next(pool for pool in self._pools if nbytes <= pool.buffer_bytes)

    def held_bytes(self, nbytes: int) -> int:
        """Return what a lease of `nbytes` (at most MAX_SHARD_BYTES) really holds."""
        return self._pool(nbytes).buffer_bytes

    def lease(self, nbytes: int) -> Lease:
        """Return memory of `nbytes`, at most MAX_SHARD_BYTES; its content is arbitrary."""
        return Lease(self._pool(nbytes), nbytes)
