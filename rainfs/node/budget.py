"""How much memory requests may hold.

Owns the bounds that keep a node small whatever its clients do.  Refuses to know what requests are.
Invariants: a budget never lends more than its limit; waiters are served in order.
"""

from __future__ import annotations

from collections import deque

import trio


class Budget:
    """So many bytes, lent and given back; those who wait are served in order."""

    __slots__ = ("_idle", "_limit_bytes", "_used_bytes", "_waiting")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._idle: trio.Event | None = None

    @property
    def used_bytes(self) -> int:
        """What is lent."""
        return self._used_bytes

    def take_nowait(self, nbytes: int) -> bool:
        """Lend `nbytes` unless that means waiting."""
        if self._waiting or self._used_bytes + nbytes > self._limit_bytes:
            return False
        self._used_bytes += nbytes
        return True

    async def take(self, nbytes: int) -> None:
        """Lend `nbytes`, at most the limit, when it is this caller's turn."""
        if self.take_nowait(nbytes):
            return
        turn = trio.Event()
        waiter = (nbytes, turn)
        self._waiting.append(waiter)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self.give(nbytes)
            else:
                self._waiting.remove(waiter)
                self._serve()
            raise

    def give(self, nbytes: int) -> None:
        """Give back what was lent."""
        self._used_bytes -= nbytes
        assert self._used_bytes >= 0
        if self._waiting:
            self._serve()
        if self._used_bytes == 0 and self._idle is not None:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return once nothing is lent."""
        while self._used_bytes:
            self._idle = trio.Event()
            await self._idle.wait()

    def _serve(self) -> None:
        while self._waiting and self._used_bytes + self._waiting[0][0] <= self._limit_bytes:
            nbytes, turn = self._waiting.popleft()
            self._used_bytes += nbytes
            turn.set()
